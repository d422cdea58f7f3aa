"""imap-sync heals by itself: another UIDVALIDITY, broken books, lost files, full and read-only disks, each way to log in."""

from __future__ import annotations

import itertools
import os
import random
import shutil
import signal
import socket
import sqlite3
import subprocess
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import pytest

from tests.system.imap_fixtures import syncer
from tests.system.imap_servers import Dovecot
from tests.system.imap_syncer import Syncer
from tests.system.imap_user import MailUser
from tests.system.mail_held import Disk
from tests.system.mail_servers import DEADLINE_S, wait_until
from workers.imap.archive import Root
from workers.imap.books import open_state

__all__ = ["syncer"]

NUMBERS = itertools.count(1)
MESSAGES = 60


@pytest.fixture(scope="module")
def dovecot() -> Iterator[Dovecot]:
    made = Dovecot()
    yield made
    made.close()


@pytest.fixture
def user(dovecot: Dovecot, syncer: Syncer) -> MailUser:
    """A user of the test's own with mail in two folders, and an account."""
    made = dovecot.user(f"user{next(NUMBERS)}")
    made.create("Other")
    fill(made, "INBOX", MESSAGES)
    fill(made, "Other", 5)
    made.flag("INBOX", "1:9", "\\Seen kw")
    syncer.account(made, dovecot.port)
    return made


def fill(user: MailUser, folder: str, count: int, size_bytes: int = 2000) -> None:
    for number in range(count):
        head = f"Subject: {folder} {number}\r\nMessage-ID: <{folder}.{number}.{user.next_uid(folder)}@x>\r\n\r\n"
        user.append(folder, head.encode() + b"x" * size_bytes + b"\r\n", date=1_300_000_000 + number)


def inodes(syncer: Syncer, user: MailUser, folder: str = "INBOX") -> dict[int, int]:
    """Which file each message is: one that was downloaded again is another."""
    return {uid: file.path.stat().st_ino for uid, file in syncer.files(user.name, folder).items()}


def test_another_uidvalidity_with_the_same_messages_downloads_nothing(syncer: Syncer, user: MailUser, dovecot: Dovecot) -> None:
    syncer.sync()
    before = inodes(syncer, user)
    dovecot.change_uidvalidity(user.name, "INBOX", 2_000_000_000)
    syncer.sync()
    assert inodes(syncer, user) == before
    syncer.assert_mirrors(user)
    assert syncer.removed(user.name) == []
    syncer.verify()


def test_another_uidvalidity_with_other_uids_downloads_nothing(syncer: Syncer, user: MailUser, dovecot: Dovecot) -> None:
    user.expunge("INBOX", "5,7")
    syncer.sync()
    before = sorted(inodes(syncer, user).values())
    user.create("x")
    user.move("INBOX", "1:*", "x")
    user.move("x", "20:30", "INBOX")
    user.move("x", "1:*", "INBOX")
    dovecot.change_uidvalidity(user.name, "INBOX", 2_000_000_001)
    user.delete("x")
    syncer.sync()
    assert sorted(inodes(syncer, user).values()) == before
    syncer.assert_mirrors(user)
    syncer.verify()


def test_another_uidvalidity_with_other_messages_brings_these_and_keeps_the_old_aside(
    syncer: Syncer, user: MailUser, dovecot: Dovecot
) -> None:
    syncer.sync()
    old = sorted(message.content for message in user.contents("Other").values())
    user.expunge("Other", "1:*")
    fill(user, "Other", 7, 100)
    dovecot.change_uidvalidity(user.name, "Other", 2_000_000_002)
    syncer.sync()
    syncer.assert_mirrors(user)
    assert sorted(file.path.read_bytes() for file in syncer.removed(user.name)) == old
    syncer.verify()


def test_equal_messages_are_not_mixed_up_when_the_uidvalidity_changes(syncer: Syncer, user: MailUser, dovecot: Dovecot) -> None:
    user.create("twins")
    user.fill("twins", [b"Subject: twin\r\n\r\nsame size %d\r\n" % (number % 3) for number in range(9)], date=1_300_000_000)
    user.flag("twins", "1:2", "\\Seen")
    syncer.sync()
    dovecot.change_uidvalidity(user.name, "twins", 2_000_000_003)
    user.expunge("twins", "1")
    syncer.sync()
    syncer.assert_mirrors(user)
    syncer.verify()


@pytest.mark.parametrize("number", [3, 12], ids=["fewer", "more than were lost"])
def test_a_server_restored_from_a_backup_gives_uids_to_other_messages(
    syncer: Syncer, user: MailUser, dovecot: Dovecot, number: int
) -> None:
    home, backup = dovecot.folder / "homes" / user.name, dovecot.folder / f"{user.name}.backup"
    dovecot.stop()
    copy_whole(home, backup)
    dovecot.start()
    fill(user, "Other", 6, 300)
    syncer.sync()
    lost = sorted(message.content for uid, message in user.contents("Other").items() if uid > 5)
    dovecot.stop()
    shutil.rmtree(home)
    copy_whole(backup, home)
    dovecot.start()
    for each in range(number):
        user.append("Other", b"Subject: later %d\r\n\r\nx\r\n" % each, date=1_400_000_000 + each)
    if number > len(lost):  # then neither UIDNEXT nor MODSEQ tell of it, and the day's full pass finds it
        with closing(sqlite3.connect(syncer.database)) as database, database:
            database.execute("UPDATE imap_folder SET full_at = 0")
    syncer.sync()
    syncer.assert_mirrors(user)
    assert sorted(file.path.read_bytes() for file in syncer.removed(user.name)) == lost
    syncer.verify()


def copy_whole(source: Path, target: Path) -> None:
    """With owners and times."""
    subprocess.run(["cp", "-a", str(source), str(target)], check=True)


def empty(path: Path) -> None:
    path.write_bytes(b"")


def cut(path: Path) -> None:
    os.truncate(path, path.stat().st_size // 2)


def garbage(path: Path) -> None:
    path.write_bytes(random.Random(1).randbytes(path.stat().st_size))


def overwritten(path: Path) -> None:
    with path.open("r+b") as file:
        file.seek(path.stat().st_size // 3)
        file.write(b"\xff" * (path.stat().st_size // 3))


def other_schema(path: Path) -> None:
    with closing(sqlite3.connect(path)) as database, database:
        database.execute("DROP TABLE imap_message")
        database.execute("CREATE TABLE imap_message (id INTEGER)")
        database.execute("PRAGMA user_version = 0")


def no_rows(path: Path) -> None:
    with closing(sqlite3.connect(path)) as database, database:
        database.execute("DELETE FROM imap_message")


HARMS = [Path.unlink, empty, cut, garbage, overwritten, other_schema, no_rows]


@pytest.mark.parametrize("harm", HARMS, ids=lambda harm: harm.__name__)
def test_lost_or_broken_books_are_made_anew_from_the_names(syncer: Syncer, user: MailUser, harm: Callable[[Path], None]) -> None:
    syncer.sync()
    before = inodes(syncer, user)
    for beside in syncer.folder.glob("imap.db-*"):
        beside.unlink()
    harm(syncer.database)
    user.append("INBOX", b"Subject: meanwhile\r\n\r\nx\r\n")
    user.flag("INBOX", "3", "\\Flagged later")
    syncer.sync()
    after = inodes(syncer, user)
    assert {uid: after[uid] for uid in before} == before
    syncer.assert_mirrors(user)
    syncer.verify()


def test_a_file_that_a_person_removed_comes_back(syncer: Syncer, user: MailUser) -> None:
    syncer.sync()
    for uid in (2, 40):
        syncer.files(user.name, "INBOX")[uid].path.unlink()
    assert syncer.run("verify").returncode == 1
    for _ in range(2):  # at the latest by the pass after the one that `verify` asked for
        syncer.sync()
    syncer.assert_mirrors(user)
    syncer.verify()


def test_verify_sees_a_changed_file(syncer: Syncer, user: MailUser) -> None:
    syncer.sync()
    path = syncer.files(user.name, "INBOX")[2].path
    path.chmod(0o600)
    path.write_bytes(path.read_bytes().replace(b"x", b"y", 1))
    assert syncer.run("verify", "--content").returncode == 1


def test_a_removed_folder_of_the_archive_comes_back(syncer: Syncer, user: MailUser) -> None:
    syncer.sync()
    path = syncer.paths(user.name)["Other"]
    path.rename(syncer.folder / "taken")
    for _ in range(2):
        syncer.sync()
    syncer.assert_mirrors(user)
    syncer.verify()


@pytest.mark.parametrize("on_disk", [True, False], ids=["renamed on disk", "not yet"])
def test_a_worker_that_died_while_it_renamed_a_folder_is_no_matter(syncer: Syncer, user: MailUser, *, on_disk: bool) -> None:
    syncer.sync()
    before = inodes(syncer, user, "Other")
    path = syncer.paths(user.name)["Other"]
    user.rename("Other", "Another")
    if on_disk:
        path.rename(path.with_name("Another"))
    else:
        for each in ("cur", "new", "tmp"):
            (path.with_name("Another") / each).mkdir(parents=True)
    syncer.sync()
    syncer.assert_mirrors(user)
    if not on_disk:
        assert inodes(syncer, user, "Another") == before
    syncer.verify()


@pytest.mark.parametrize("whole", [True, False], ids=["archive and books", "archive"])
def test_a_full_disk_is_said_and_the_pass_goes_on_when_there_is_room(
    tmp_path: Path, user: MailUser, dovecot: Dovecot, *, whole: bool
) -> None:
    fill(user, "INBOX", 40, 100_000)
    disk = Disk(tmp_path / "disk" if whole else tmp_path / "archive", "40M")
    here = Syncer(disk.path if whole else tmp_path)
    try:
        here.account(user, dovecot.port)
        disk.fill(1_500_000)
        done = here.run("sync")
        assert done.returncode in (1, 75), done.stdout
        assert "Traceback" not in done.stderr
        assert "space" in done.stdout + done.stderr or "disk" in done.stdout + done.stderr
        assert here.left_over() == []
        disk.free()
        here.sync()
        here.assert_mirrors(user)
        here.verify()
    finally:
        here.close()
        disk.close()


def test_a_read_only_archive_is_said_and_healed(syncer: Syncer, user: MailUser) -> None:
    disk = Disk(syncer.root, "20M")
    try:
        syncer.sync()
        disk.mount_again("ro")
        user.append("INBOX", b"Subject: new\r\n\r\nx\r\n")
        done = syncer.run("sync")
        assert done.returncode in (1, 75)
        assert "read-only" in (done.stdout + done.stderr).lower()
        assert "Traceback" not in done.stderr
        disk.mount_again("rw")
        syncer.sync()
        syncer.assert_mirrors(user)
    finally:
        disk.close()


@pytest.mark.parametrize("tls", ["none", "tls", "starttls", "opportunistic"])
def test_each_way_to_connect(syncer: Syncer, user: MailUser, dovecot: Dovecot, tls: str) -> None:
    port = dovecot.tls_port if tls == "tls" else dovecot.port
    syncer.account(user, port, "" if tls == "none" else f'ca_file = "{dovecot.ca}"', tls=tls)
    syncer.sync()
    syncer.assert_mirrors(user)
    syncer.verify()


@pytest.mark.parametrize("mechanisms", ["plain", "login", "scram-sha-256", "scram-sha-256 plain"])
def test_each_way_to_log_in(syncer: Syncer, mechanisms: str) -> None:
    made = Dovecot(settings=f"auth_mechanisms = {mechanisms}")
    try:
        user = made.user("alice", 'p"ä\\ss word')
        syncer.account(user, made.port)
        syncer.sync()
        assert syncer.paths("alice")["INBOX"].is_dir()
    finally:
        made.close()


@pytest.mark.parametrize("location", ["mdbox:~/mail", "maildir:~/mail"])
@pytest.mark.parametrize("separator", ["/", "."])
def test_other_stores_and_separators(syncer: Syncer, location: str, separator: str) -> None:
    made = Dovecot(mail_location=location, separator=separator)
    try:
        user = made.user("alice")
        user.create(separator.join(["a", "b", "c"]))
        fill(user, separator.join(["a", "b", "c"]), 3)
        fill(user, "INBOX", 3)
        syncer.account(user, made.port)
        syncer.sync()
        syncer.assert_mirrors(user)
        user.rename(separator.join(["a", "b"]), "z")
        syncer.sync()
        syncer.assert_mirrors(user)
        syncer.verify()
    finally:
        made.close()


def test_the_cap_of_the_server_is_no_wrong_password(syncer: Syncer) -> None:
    made = Dovecot(userip_connections=1)
    try:
        user = made.user("alice")
        fill(user, "INBOX", 3)  # holds the one connection
        syncer.account(user, made.port)
        syncer.sync(status=75)
        user.close()
        syncer.sync()
        syncer.assert_mirrors(made.user("alice"), ["INBOX"])
    finally:
        made.close()


def test_a_server_that_comes_back_is_used_at_once(syncer: Syncer, user: MailUser, dovecot: Dovecot) -> None:
    dovecot.stop()
    syncer.sync(status=75)
    dovecot.start()
    syncer.sync()
    syncer.assert_mirrors(user)


def test_one_worker_has_the_archive_and_sync_asks_it(syncer: Syncer, user: MailUser) -> None:
    process = syncer.start()
    for number in range(3):
        user.append("INBOX", b"Subject: %d\r\n\r\nx\r\n" % number)
        syncer.sync()
        syncer.assert_mirrors(user)
    second = syncer.start()
    assert second.wait(20) not in (0, -signal.SIGKILL)
    assert syncer.stop(process) == 0


def test_sync_waits_for_a_worker_that_has_not_yet_taken_on_its_accounts(syncer: Syncer, user: MailUser) -> None:
    fill(user, "INBOX", 3)
    open_state(str(syncer.database)).close()
    with closing(Root(str(syncer.root))) as root:
        root.lock()  # as a worker does first
        process = syncer.start("sync")
        wait_until(lambda: process.poll() is not None or asked(syncer) == [(1, 0)], "it has asked")
        assert process.poll() is None
    assert process.wait(DEADLINE_S) == 0
    syncer.assert_mirrors(user)


def test_what_was_asked_before_the_worker_began_is_answered_after_a_pass(syncer: Syncer) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        syncer.environment["SEMGUARD_IMAP_LIMITS"] = "stall=1 command=1 connect=1"
        syncer.account("alice", silent.getsockname()[1])
        with closing(open_state(str(syncer.database))) as database:
            database.run("books.add_account", ("alice",))
            database.run("books.ask", ("alice",))
        process = syncer.start()
        wait_until(lambda: asked(syncer) == [(1, 1)], "it has answered")
        assert syncer.rows("SELECT kind FROM imap_account") == [("network",)]
    assert syncer.stop(process) == 0


def asked(syncer: Syncer) -> list[tuple[object, ...]]:
    """The passes asked for and done, of each account."""
    return syncer.rows("SELECT asked, done FROM imap_account")
