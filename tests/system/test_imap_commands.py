"""The commands of imap-sync beside `run` and `sync`, against a Dovecot: what `verify` finds, what the others tell."""

from __future__ import annotations

import itertools
import json
import os
import signal
import sqlite3
import threading
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import pytest

from tests.system.imap_fixtures import syncer
from tests.system.imap_servers import Dovecot
from tests.system.imap_syncer import Syncer
from tests.system.imap_user import MailUser
from tests.system.mail_servers import free_port, take_bell_away, wait_until

__all__ = ["syncer"]

NUMBERS = itertools.count(1)
VERIFY_S = 300.0  # beside a worker on a busy machine: it waits three times at most, a minute each
MESSAGES = 20
NEWER = 60


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
    made.fill("INBOX", [mail(f"m{number}") for number in range(MESSAGES)], date=1_300_000_000)
    made.fill("Other", [mail("other")], ["\\Seen", "kw"])
    syncer.account(made, dovecot.port)
    return made


def mail(subject: str) -> bytes:
    return f"Subject: {subject}\r\nMessage-ID: <{subject}@x>\r\n\r\nhello\r\n".encode()


def verify(syncer: Syncer, status: int, *words: str) -> list[str]:
    """The lines of `verify`, which has to end with this status."""
    done = syncer.run("verify", *words, deadline_s=VERIFY_S)
    assert done.returncode == status, (done.returncode, done.stdout, done.stderr)
    assert done.stderr == ""
    return done.stdout.splitlines()


def message(syncer: Syncer, user: MailUser, uid: int) -> Path:
    return syncer.files(user.name, "INBOX")[uid].path


def snapshot(folder: Path) -> dict[str, tuple[int, int]]:
    """Every file below a folder, with inode and time."""
    return {str(path): (path.stat().st_ino, path.stat().st_mtime_ns) for path in sorted(folder.rglob("*"))}


def test_verify_proves_a_whole_copy_and_changes_nothing(syncer: Syncer, user: MailUser) -> None:
    syncer.sync()
    before = snapshot(syncer.root)
    inbox, other = f"{user.name} INBOX: {MESSAGES} messages, all here", f"{user.name} Other: 1 message, all here"
    assert verify(syncer, 0) == [inbox, other, "complete"]
    assert verify(syncer, 0, user.name, "--content") == [inbox, other, "complete"]
    assert snapshot(syncer.root) == before


def remove(file: Path) -> None:
    file.unlink()


def change_a_byte(file: Path) -> None:
    content = bytearray(file.read_bytes())
    content[-3] ^= 1
    file.write_bytes(content)


def truncate(file: Path) -> None:
    os.truncate(file, 10)


def add_a_file(file: Path) -> None:
    (file.parent / "strange").touch()


def leave_one_over(file: Path) -> None:
    (file.parent.parent / "tmp" / "imap-sync.1.1.1").touch()


def flag(file: Path) -> None:
    file.rename(f"{file}FS")


def add_a_message(file: Path) -> None:
    name = file.name.replace("U5.imap", "U4000000000.imap")
    (file.parent / name).write_bytes(file.read_bytes())


def copy_from_another_epoch(file: Path) -> None:
    head, _, tail = file.name.partition(".V")
    (file.parent / f"{head}.V7U{tail.partition('U')[2]}").write_bytes(file.read_bytes())


def add_a_twin(file: Path) -> None:
    (file.parent / f"1{file.name}").write_bytes(file.read_bytes())


def put_into_new(file: Path) -> None:
    (file.parent.parent / "new" / "strange").touch()


def link_elsewhere(file: Path) -> None:
    target = file.parent.parent.parent / "elsewhere"
    file.rename(target)
    file.symlink_to(target)


def add_a_folder(file: Path) -> None:
    (file.parent.parent.parent / "Additional" / "cur").mkdir(parents=True)


DAMAGES: list[tuple[Callable[[Path], None], str, str]] = [
    (remove, "", "INBOX: 20 messages; 1 missing (UID 5)"),
    (truncate, "", "INBOX: 20 messages; 1 of another size than in the name (UID 5)"),
    (change_a_byte, "--content", "INBOX: 20 messages; 1 with other content (UID 5)"),
    (add_a_file, "", "INBOX: 20 messages; files that nobody knows: cur/strange"),
    (put_into_new, "", "INBOX: 20 messages; files that nobody knows: new/strange"),
    (leave_one_over, "", "INBOX: 20 messages; files left over in tmp: tmp/imap-sync.1.1.1"),
    (flag, "", "INBOX: 20 messages; 1 with other flags in the name (UID 5)"),
    (add_a_message, "", "INBOX: 20 messages; 1 here and not on the server (UID 4000000000)"),
    (copy_from_another_epoch, "", "INBOX: 20 messages; 1 of another UIDVALIDITY (UID 5)"),
]


@pytest.mark.parametrize(("damage", "option", "said"), DAMAGES, ids=lambda each: getattr(each, "__name__", ""))
def test_verify_finds_each_damage(syncer: Syncer, user: MailUser, damage: Callable[[Path], None], option: str, said: str) -> None:
    syncer.sync()
    damage(message(syncer, user, 5))
    lines = verify(syncer, 1, *([option] if option else []))
    assert sorted(lines) == sorted([f"{user.name} {said}", f"{user.name} Other: 1 message, all here", "1 difference"])


def test_verify_finds_a_message_that_is_here_twice(syncer: Syncer, user: MailUser) -> None:
    syncer.sync()
    add_a_twin(message(syncer, user, 5))
    assert "1 here twice (UID 5)" in "".join(verify(syncer, 1))


def test_verify_finds_a_link_in_the_place_of_a_file(syncer: Syncer, user: MailUser) -> None:
    syncer.sync()
    link_elsewhere(message(syncer, user, 5))
    assert "1 missing (UID 5); files that nobody knows: cur/1300000000" in "".join(verify(syncer, 1))


def test_verify_finds_a_folder_too_many_on_either_side(syncer: Syncer, user: MailUser) -> None:
    syncer.sync()
    add_a_folder(message(syncer, user, 5))
    user.create("Fresh")
    lines = verify(syncer, 1)
    assert lines[-1] == "2 differences"
    what = "folders that are not copied: Fresh; folders that the server has no more, or that mail.toml leaves out: Additional"
    assert f"{user.name}: {what}" in lines


def test_verify_finds_what_sync_has_not_yet_brought(syncer: Syncer, user: MailUser) -> None:
    syncer.sync()
    user.append("INBOX", mail("new"))
    user.expunge("INBOX", "1:7")
    user.flag("INBOX", "9", "\\Seen later")
    user.flag("INBOX", "10", "later")
    lines = verify(syncer, 1)
    flags = "1 with other flags in the name (UID 9); 2 with other flags in the state database (UID 9, 10)"
    gone = "7 here and not on the server (UID 1, 2, 3, 4, 5, …)"
    assert f"{user.name} INBOX: 14 messages; 1 missing (UID 21); {gone}; {flags}" in lines
    assert lines[-1] == "10 differences"  # message 9 is one
    syncer.sync()
    verify(syncer, 0, "--content")


def test_verify_finds_what_the_books_do_not_know(syncer: Syncer, user: MailUser) -> None:
    syncer.sync()
    with closing(sqlite3.connect(syncer.database)) as database, database:
        database.execute("DELETE FROM imap_message WHERE uid = 3")
        database.execute("UPDATE imap_message SET date = 5 WHERE uid = 4")
        database.execute("UPDATE imap_message SET flags = 'x' WHERE uid = 5")
    parts = ["1 with other flags in the state database (UID 5)", "1 with another size or date in the state database (UID 4)"]
    line = f"{user.name} INBOX: 20 messages; {'; '.join(parts)}; 1 not in the state database (UID 3)"
    assert line in verify(syncer, 1)
    for each in syncer.folder.glob("imap.db*"):
        each.unlink()
    assert f"{MESSAGES} not in the state database (UID 1, 2, 3, 4, 5, …)" in "".join(verify(syncer, 1))
    assert not syncer.database.exists()


def test_content_without_a_digest_is_compared_with_the_server(syncer: Syncer, user: MailUser) -> None:
    syncer.sync()
    with closing(sqlite3.connect(syncer.database)) as database, database:
        database.execute("UPDATE imap_message SET digest = NULL")
    verify(syncer, 0, "--content")
    change_a_byte(message(syncer, user, 5))
    assert f"{user.name} INBOX: 20 messages; 1 with other content (UID 5)" in verify(syncer, 1, "--content")


def test_more_than_one_window_is_compared(syncer: Syncer, user: MailUser) -> None:
    user.create("Large")
    user.fill("Large", [b"Subject: x\r\n\r\n%d\r\n" % number for number in range(10_050)])
    user.expunge("Large", "4090:4110,5003")
    user.flag("Large", "1:9000", "\\Flagged")
    syncer.sync()
    assert f"{user.name} Large: 10028 messages, all here" in verify(syncer, 0)
    files = syncer.files(user.name, "Large")
    for uid in (4089, 4111, 5001, 10_000, 10_050):
        files[uid].path.unlink()
    lines = verify(syncer, 1)
    assert f"{user.name} Large: 10028 messages; 5 missing (UID 4089, 4111, 5001, 10000, 10050)" in lines


def test_verify_beside_a_worker_while_mail_arrives(syncer: Syncer, user: MailUser) -> None:
    process = syncer.start()
    wait_until(lambda: "INBOX" in syncer_paths(syncer, user), "the worker has begun", 30)
    enough = threading.Event()
    writer = MailUser(user.name, user._port, user.password)

    def write() -> None:
        for number in range(10_000):
            if enough.is_set():
                return
            writer.append("INBOX", mail(f"later {number}"))
            writer.flag("INBOX", "1:*", "\\Seen" if number % 2 else "\\Flagged", "FLAGS")

    thread = threading.Thread(target=write)
    thread.start()
    try:
        for _ in range(3):
            assert verify(syncer, 0)[-1] == "complete"
    finally:
        enough.set()
        thread.join()
        writer.close()
    assert verify(syncer, 0, "--content")[-1] == "complete"
    assert user.status("INBOX", "MESSAGES")["MESSAGES"] > MESSAGES
    assert syncer.stop(process) == 0


def syncer_paths(syncer: Syncer, user: MailUser) -> dict[str, Path]:
    return syncer.paths(user.name) if syncer.database.exists() and table(syncer) else {}


def table(syncer: Syncer) -> bool:
    return bool(syncer.rows("SELECT 1 FROM sqlite_master WHERE name = 'imap_folder'"))


def test_verify_tells_what_can_not_be_reached(syncer: Syncer, user: MailUser) -> None:
    syncer.sync()
    syncer.account("nobody", free_port())
    lines = verify(syncer, 75)
    assert lines[-1] == "not compared: nobody"
    assert any(line.startswith("nobody: can't be compared: ") for line in lines)
    assert verify(syncer, 0, user.name)[-1] == "complete"
    message(syncer, user, 5).unlink()
    assert verify(syncer, 1)[-1] == "1 difference; not compared: nobody"


def test_status_and_folders_tell_how_it_stands(syncer: Syncer, user: MailUser) -> None:
    syncer.sync()
    found = json.loads(syncer.run("status", "--json").stdout)
    (account,) = found["accounts"]
    assert not found["running"]
    assert (account["name"], account["state"], account["folders"], account["messages"]) == (user.name, "in step", 2, MESSAGES + 1)
    assert account["synced_at"] > 1_000_000_000
    folders = json.loads(syncer.run("folders", user.name, "--json").stdout)["folders"]
    assert [(each["name"], each["messages"]) for each in folders] == [("INBOX", MESSAGES), ("Other", 1)]
    assert all(Path(each["path"], "cur").is_dir() for each in folders)
    process = syncer.start()
    wait_until(lambda: mode(syncer) == "notify", "the server pushes", 30)
    assert json.loads(syncer.run("status", "--json").stdout)["running"]
    assert "no worker" not in syncer.run("status").stdout
    assert "(NOTIFY)" in syncer.run("why", user.name).stdout
    assert syncer.stop(process) == 0
    text = syncer.run("status").stdout.splitlines()
    assert text[0].startswith("no worker runs")
    assert text[2].split()[:2] == [user.name, "in"]


def mode(syncer: Syncer) -> str:
    return str(json.loads(syncer.run("status", "--json").stdout)["accounts"][0]["mode"])


def test_a_wrong_password_is_told_with_what_to_do(syncer: Syncer, user: MailUser, dovecot: Dovecot) -> None:
    syncer.account(user, dovecot.port, password="wrong secret")
    syncer.sync(status=1)
    said = syncer.run("why", user.name).stdout
    assert f"{user.name}.pw" in said
    assert str(syncer.config) in said
    assert f"imap-sync sync {user.name}" in said
    done = syncer.run("check")
    assert (done.returncode, "wrong secret" in done.stdout + done.stderr + said) == (1, False)
    assert "AUTHENTICATIONFAILED" in done.stdout


def test_check_logs_in_to_each_account(syncer: Syncer, user: MailUser, dovecot: Dovecot) -> None:
    syncer.account("secure", dovecot.tls_port, f'user = "{user.name}"\nca_file = "{dovecot.ca}"', tls="tls")
    done = syncer.run("check")
    lines = {line.partition(": ")[0]: line for line in done.stdout.splitlines()}
    assert done.returncode == 0, done.stdout
    assert "WITHOUT TLS" in lines[user.name]
    assert "with TLS" in lines["secure"]
    assert all("QRESYNC" in lines[name] and "NOTIFY" in lines[name] for name in (user.name, "secure"))
    assert "2 of 2 folders" in lines[user.name]
    assert not syncer.root.exists()
    syncer.account("nobody", free_port())
    assert syncer.run("check").returncode == 75


def test_wishes_reach_the_running_worker(syncer: Syncer, user: MailUser) -> None:
    process = syncer.start()
    wait_until(lambda: mode(syncer) == "notify", "the server pushes", 30)
    assert syncer.run("log-level", "debug", user.name).returncode == 0
    wait_until(lambda: debug(syncer) == [True], "the worker may log more", 30)
    assert syncer.run("sync").returncode == 0
    wait_until(lambda: "> s" in syncer.logged(), "the log tells of commands", 30)
    assert user.password not in syncer.logged()
    assert syncer.run("log-level", "info").returncode == 0
    assert debug(syncer) == [False]
    assert syncer.run("present", user.name, "--for", "1h").returncode == 0
    assert syncer.rows("SELECT present_until > 0 FROM imap_account") == [(1,)]
    assert syncer.stop(process) == 0


def debug(syncer: Syncer) -> list[bool]:
    return [bool(row[0]) for row in syncer.rows("SELECT debug_until FROM imap_account")]


def test_a_command_beside_a_worker_tells_of_a_damaged_database_and_takes_nothing_away(syncer: Syncer, user: MailUser) -> None:
    process = syncer.start()
    wait_until(lambda: mode(syncer) == "notify", "the server pushes", 30)
    process.send_signal(signal.SIGSTOP)  # so that it is the command that meets it
    for beside in syncer.folder.glob("imap.db-*"):
        beside.unlink()
    syncer.database.write_bytes(b"no database at all, and that for long" * 1000)
    inode = syncer.database.stat().st_ino
    for words in (["present", user.name], ["log-level", "debug"], ["status"], ["why", user.name], ["verify"], ["sync"]):
        done = syncer.run(*words)
        assert done.returncode == 74, (words, done.stdout, done.stderr)
        assert "is damaged; restart the worker, which sets it aside" in done.stderr, words
        assert "Traceback" not in done.stderr
    assert syncer.database.stat().st_ino == inode
    assert list(syncer.folder.glob("*.damaged-*")) == []
    process.kill()
    process.wait()
    take_bell_away(syncer.database)
    syncer.sync()
    syncer.assert_mirrors(user)
    assert syncer.database.stat().st_ino != inode
    assert [path.stat().st_ino for path in syncer.folder.glob("*.damaged-*")] == [inode]
    syncer.verify()
