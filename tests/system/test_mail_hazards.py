"""The disk is full, the database locked, taken away, broken, read-only: that is said, and it goes on by itself."""

from __future__ import annotations

import os
import sqlite3
import subprocess
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import closing, suppress
from pathlib import Path

import psutil
import pytest

from tests.system.mail_commands import change, good, run
from tests.system.mail_held import Disk, Held
from tests.system.mail_keeper import Keeper
from tests.system.mail_servers import Spool, wait_until

IO, TRY_AGAIN, NOT_ALLOWED = 74, 75, 77
NewDisk = Callable[..., Disk]


@pytest.fixture
def relay(spool: Spool) -> Iterator[Held]:
    """Holds up the first final dot."""
    made = Held(".", refuses="<bad@")
    spool.through(made.port)
    yield made
    made.close()


@pytest.fixture
def new_disk(spool: Spool) -> Iterator[NewDisk]:
    """Mounts disks over folders in the spool's own."""
    made: list[Disk] = []

    def make(where: str = "state", size: str = "2m") -> Disk:
        made.append(Disk(spool.folder / where, size))
        return made[-1]

    yield make
    spool.close()
    for each in made:
        each.close()


def settle_down(database: Path) -> None:
    """Brings all into the one file, which nobody uses."""
    with closing(sqlite3.connect(database)) as opened:
        assert opened.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()[0] == 0
    for end in ("-wal", "-shm"):
        Path(f"{database}{end}").unlink(missing_ok=True)


class Abandoned:
    """Two senders at rest, from under which the database is taken: one gets another file in its place, one gets none."""

    def __init__(self, folder: Path) -> None:
        self.keeper = Keeper()
        self.spools: list[Spool] = []
        for how in ("replaced", "deleted", "other"):
            (folder / how).mkdir()
            self.spools.append(Spool(folder / how))
            self.spools[-1].through(self.keeper.port)
        *self.spools, other = self.spools
        other.queue(["of the new file"], "new@x")
        settle_down(other.database)
        self.senders = [self._start(spool) for spool in self.spools]
        for spool in self.spools:
            for end in ("", "-wal", "-shm"):
                Path(f"{spool.database}{end}").unlink()
        os.rename(other.database, self.spools[0].database)

    def _start(self, spool: Spool) -> subprocess.Popen[bytes]:
        spool.queue(["of the old file"], "old@x")
        sender = spool.start()
        wait_until(lambda: spool.states() == ["sent"], "the first is sent")
        return sender


@pytest.fixture(scope="module")
def abandoned(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Abandoned]:
    """Shared, since a sender looks for that each 15 s only: what lies between the tests that use it costs no time."""
    made = Abandoned(tmp_path_factory.mktemp("abandoned"))
    yield made
    for spool in made.spools:
        spool.close()
    made.keeper.close()


def test_a_new_file_in_the_place_of_the_database_takes_mail_at_once(abandoned: Abandoned) -> None:
    for spool in abandoned.spools:
        good(spool, "sendmail", "later@x")
        assert spool.states()[-1] == "queued"


def is_said(status: int, complaint: str) -> bool:
    """Whether a command has asked to be tried again, with what to do."""
    return status in (IO, TRY_AGAIN) and "free some space" in complaint


def has_notes(spool: Spool) -> bool:
    """Whether a sender has come so far that it sends."""
    return any(path.stat().st_size >= 1 << 18 for path in spool.database.parent.glob("*-dots-*"))


COMMANDS = {
    "sendmail": (["sendmail", "a@x"], b"Subject: x\n\nbody\n"),
    "a big mail": (["sendmail", "a@x"], b"Subject: x\n\n" + b"line\n" * 200_000),
    "add": (["add"], b'{"to": "a@x", "text": "b"}\n' * 3),
    "bs": (["sendmail", "-bs"], b"EHLO x\nMAIL FROM:<s@x>\nRCPT TO:<a@x>\nDATA\nbody\n.\nQUIT\n"),
    "hold": (["hold", "--all"], b""),
    "delete": (["delete", "--all"], b""),
    "prune": (["prune"], b""),
}


def test_the_first_mail_of_all_on_a_full_disk_is_refused_and_the_next_is_taken(spool: Spool, new_disk: NewDisk) -> None:
    disk = new_disk()
    disk.fill()
    status, _, complaint = run(spool, "sendmail", "a@x")
    assert is_said(status, complaint)
    assert spool.drain() in (IO, TRY_AGAIN)
    disk.free()
    good(spool, "sendmail", "b@x")
    assert [row["address"] for row in spool.rows()] == ["b@x"]
    assert spool.drain() == 0


@pytest.mark.parametrize("at_work", [False, True], ids=["nobody at work", "a sender at work"])
@pytest.mark.parametrize("name", COMMANDS)
def test_a_command_on_a_full_disk_changes_nothing_and_says_so(spool: Spool, new_disk: NewDisk, name: str, at_work: bool) -> None:
    disk = new_disk()
    spool.configure('keep_sent = "1s"\n')
    good(spool, "sendmail", "old@x")
    assert spool.drain() == 0
    change(spool, "UPDATE mail_message SET created_at = 0", "UPDATE mail_recipient SET updated_at = 0")
    good(spool, "add", given=b'{"to": "first@x", "text": "b", "send_at": "5d"}')
    before = spool.rows()
    sender = spool.start() if at_work else None
    wait_until(lambda: not at_work or has_notes(spool), "the sender is at work")
    disk.fill()
    words, given = COMMANDS[name]
    status, written, complaint = run(spool, *words, given=given)
    if name == "bs":
        assert "\r\n451 4.3.0 " in written
        status, complaint = TRY_AGAIN, written
    assert '"id"' not in written
    assert sender is None or sender.poll() is None
    disk.free()
    assert spool.rows() == before
    assert is_said(status, complaint), complaint
    good(spool, *words, given=given)
    assert spool.rows() != before


def test_a_sender_whose_disk_fills_up_goes_on_by_itself_and_sends_nothing_twice(
    spool: Spool, new_disk: NewDisk, relay: Held
) -> None:
    disk = new_disk()
    spool.queue([f"tag{number}" for number in range(60)])
    spool.queue(["bad"], "bad@x")
    sender = spool.start()
    wait_until(lambda: relay.reached, "a mail is at its dot")
    disk.fill()
    relay.over = True
    wait_until(lambda: "the disk is full; free some space" in spool.logged(), "it is said")
    assert run(spool, "sendmail", "a@x")[0] == TRY_AGAIN
    disk.free()
    wait_until(lambda: spool.states() == [*["sent"] * 60, "failed", "sent"], "all are sent, and so is the bounce")
    assert spool.stop(sender) == 0
    assert len(relay.bodies) == 61
    assert ["Final-Recipient: rfc822; bad@x" in body for body in relay.bodies].count(True) == 1
    assert {row["unknowns"] for row in spool.rows()} == {0}


def test_a_sender_without_room_for_its_notes_ends_and_the_next_finds_all_in_order(spool: Spool, new_disk: NewDisk) -> None:
    disk = new_disk()
    spool.queue(["x"])
    disk.fill(left_bytes=160 * 1024)
    assert spool.drain() in (IO, TRY_AGAIN)
    assert "No space left on device" in spool.logged()
    assert not list(spool.database.parent.glob("*-dots-*"))
    disk.free()
    assert spool.drain() == 0
    assert spool.states() == ["sent"]
    with closing(sqlite3.connect(spool.database)) as database:
        assert database.execute("SELECT count(*) FROM mail_owner").fetchone() == (0,)


def test_a_big_mail_that_has_no_room_to_be_encoded_waits(spool: Spool, new_disk: NewDisk) -> None:
    disk = new_disk(size="12m")
    bare = Keeper(())
    try:
        spool.through(bare.port)
        good(spool, "sendmail", "a@x", given=b"Subject: x\n\n" + b"caf\xe9\n" * 250_000)
        disk.fill(left_bytes=1 << 20)
        sender = spool.start()
        wait_until(lambda: "can't be prepared: No space left on device" in spool.logged(), "it is said")
        wait_until(lambda: spool.states() == ["deferred"], "it is written down")
        disk.free()
        good(spool, "retry", "--all")
        wait_until(lambda: spool.states() == ["sent"], "it is sent")
        assert spool.stop(sender) == 0
        assert len(bare.taken) == 1
    finally:
        bare.close()


def test_a_maildir_on_a_full_disk_gets_each_mail_once_there_is_room(spool: Spool, new_disk: NewDisk) -> None:
    disk = new_disk("state/mail/delivered", "256k")
    spool.queue([f"tag{number}" for number in range(5)])
    disk.fill()
    sender = spool.start()
    wait_until(lambda: "No space left on device; next try in" in spool.logged(), "it is said")
    disk.free()
    wait_until(lambda: set(spool.states()) == {"sent"}, "all are delivered")
    assert spool.stop(sender) == 0
    assert len(spool.delivered()) == 5
    assert not list((disk.path / "tmp").iterdir())


def test_a_read_only_folder_is_said_and_is_no_matter_for_later(spool: Spool, new_disk: NewDisk) -> None:
    disk = new_disk()
    good(spool, "sendmail", "a@x")
    disk.mount_again("ro")
    for words in (["sendmail", "a@x"], ["add"], ["hold", "--all"], ["run", "--drain"]):
        status, _, complaint = run(spool, *words, given=b'{"to": "a@x", "text": "b"}')
        assert status == NOT_ALLOWED, words
        assert "its folder is read-only" in complaint
    disk.mount_again("rw")
    good(spool, "sendmail", "a@x")
    assert spool.states() == ["queued"] * 2


def uses(process: subprocess.Popen[bytes], database: Path) -> bool:
    """Whether a living process has the database open."""
    with suppress(psutil.Error):
        return any(file.path == str(database) for file in psutil.Process(process.pid).open_files())
    return False


def test_whoever_finds_the_database_locked_waits_and_goes_on(spool: Spool, relay: Held) -> None:
    spool.queue(["x"] * 5)
    sender = spool.start()
    wait_until(lambda: relay.reached, "a mail is at its dot")
    with closing(sqlite3.connect(spool.database, isolation_level=None)) as database:
        database.execute("BEGIN EXCLUSIVE")
        running = []
        for words in (["sendmail", "a@x"], ["add"], ["hold", "--to", "nobody@x"], ["prune"]):
            command = spool.command(*words)
            running.append(subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, env=spool.environment))
        for process in running:
            assert process.stdin is not None
            with process.stdin as given:
                given.write(b'{"to": "a@x", "text": "b"}\n')
        wait_until(lambda: uses(running[0], spool.database) and uses(running[1], spool.database), "they are at the database")
        relay.over = True
        wait_until(lambda: bool(relay.bodies), "the relay has taken one")
        assert all(process.poll() is None for process in running[:3])
        assert "sent" not in spool.states()
        database.execute("ROLLBACK")
    assert [process.wait(120) for process in running] == [0] * 4
    wait_until(lambda: spool.states() == ["sent"] * 7, "all are sent")
    assert spool.stop(sender) == 0
    assert len(relay.bodies) == 7


@pytest.mark.parametrize(("start", "word"), [(4096, "malformed"), (0, "not a database")])
def test_a_broken_database_is_left_as_it_is_and_each_command_says_what_to_do(spool: Spool, start: int, word: str) -> None:
    spool.queue(["x"] * 50)
    settle_down(spool.database)
    broken = spool.database.read_bytes()[:start].ljust(spool.database.stat().st_size, b"\xa5")
    spool.database.write_bytes(broken)
    for words in (["sendmail", "a@x"], ["add"], ["list"], ["stats"], ["hold", "--all"], ["prune"], ["run", "--drain"]):
        status, _, complaint = run(spool, *words, given=b'{"to": "a@x", "text": "b"}')
        assert status == IO, words
        assert word in complaint
        assert "put back a backup" in complaint
    assert spool.database.read_bytes() == broken


def test_a_sender_without_its_database_ends_and_the_next_sends_what_is_in_the_new_one(abandoned: Abandoned) -> None:
    for spool, sender in zip(abandoned.spools, abandoned.senders, strict=True):
        assert sender.wait(120) == TRY_AGAIN
        assert "was replaced or taken away; begins anew" in spool.logged()
        good(spool, "sendmail", "last@x")
        assert spool.drain() == 0
        assert set(spool.states()) == {"sent"}
    came = Counter(recipient for recipient, _ in abandoned.keeper.copies())
    assert came.pop("later@x", 2) == 2
    assert came == {"old@x": 2, "new@x": 1, "last@x": 2}
