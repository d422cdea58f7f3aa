"""The worker is killed at random in its first pass: nothing is lost, doubled or torn, and each start goes on from there."""

from __future__ import annotations

import hashlib
import os
import random
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.system.imap_fixtures import new_dovecot, syncer
from tests.system.imap_servers import Dovecot
from tests.system.imap_syncer import Syncer, messages
from tests.system.imap_user import MailUser
from tests.system.mail_servers import wait_until

__all__ = ["new_dovecot", "syncer"]

MESSAGES = 5000
KILLS = 100
CHANGE_KILLS = 40
SEED = os.environ.get("SEMGUARD_SEED")


def fill(user: MailUser, chance: random.Random) -> None:
    """Sizes as in real folders: most small, a few large."""
    sizes = [min(int(chance.lognormvariate(8.2, 1.3)), 500_000) for _ in range(MESSAGES)]
    contents = [f"Subject: {number}\r\n\r\n".encode() + b"%06d\r\n" % number * (size // 8) for number, size in enumerate(sizes)]
    user.fill("INBOX", contents, ["\\Seen"])


class Watch:
    """What a pass has brought so far, each file read once. Fails the test at a lost, doubled or torn one."""

    def __init__(self, cur: Path, digests: dict[int, bytes]) -> None:
        self.whole: dict[str, int] = {}  # by file name, the UID
        self._cur = cur
        self._digests = digests

    def look(self) -> int:
        """How many messages there are, all of them checked."""
        files = messages(self._cur)
        names = {file.path.name for file in files}
        assert set(self.whole) <= names, f"lost: {set(self.whole) - names}"
        assert len({file.uid for file in files}) == len(files), "doubled"
        for file in files:
            if file.path.name not in self.whole:
                assert hashlib.sha256(file.path.read_bytes()).digest() == self._digests[file.uid], f"torn: {file.path}"
                self.whole[file.path.name] = file.uid
        return len(files)


def count(cur: Path) -> int:
    """How many files there are now."""
    return len(os.listdir(cur)) if cur.exists() else 0


def kill(process: subprocess.Popen[bytes]) -> bool:
    """Kills a worker; False when it had ended before."""
    process.send_signal(signal.SIGKILL)
    status = process.wait()
    assert status in (0, -signal.SIGKILL), "the pass failed"
    return status != 0


def one_pass(syncer: Syncer, user: MailUser, digests: dict[int, bytes], chance: random.Random) -> int:
    """A first pass from nothing to its end, killed again and again; how often."""
    cur = syncer.root / user.name / "INBOX" / "cur"
    watch = Watch(cur, digests)
    kills = 0
    while True:
        before = watch.look()
        process = syncer.start("sync")
        if chance.random() < 0.7:  # else at any moment, also before it has begun

            def gone_on(process: subprocess.Popen[bytes] = process, before: int = before) -> bool:
                return count(cur) > before or process.poll() is not None

            wait_until(gone_on, "the pass goes on")
        time.sleep(chance.uniform(0, 0.3))  # a random moment, not a wait for something
        if not kill(process):
            assert watch.look() == len(digests)
            return kills
        kills += 1


def test_a_killed_pass_loses_nothing_and_doubles_nothing(
    syncer: Syncer, new_dovecot: Callable[..., Dovecot], tmp_path: Path
) -> None:
    dovecot = new_dovecot()
    user = dovecot.user("alice")
    chance = random.Random(SEED)
    fill(user, chance)
    digests = {uid: hashlib.sha256(message.content).digest() for uid, message in user.contents("INBOX").items()}
    kills = passes = 0
    while kills < KILLS:
        fresh = tmp_path / f"pass{passes}"
        fresh.mkdir()
        each = Syncer(fresh)
        each.account(user, dovecot.port)
        try:
            kills += one_pass(each, user, digests, chance)
            passes += 1
            each.sync()
            each.assert_mirrors(user)
            each.verify()
        finally:
            each.close()
    print(f"{kills} kills in {passes} passes over {MESSAGES} messages: lost 0, doubled 0, torn 0")


def test_kills_while_the_server_changes_leave_nothing_wrong(syncer: Syncer, new_dovecot: Callable[..., Dovecot]) -> None:
    dovecot = new_dovecot()
    user = dovecot.user("alice")
    syncer.account(user, dovecot.port)
    chance = random.Random(SEED)
    user.fill("INBOX", [f"Subject: {number}\r\n\r\n".encode() + b"x" * 3000 for number in range(500)])
    kills = starts = 0
    while kills < CHANGE_KILLS:
        starts += 1
        assert starts < 20 * CHANGE_KILLS, "passes end before they can be killed"
        change(user, chance, starts)
        process = syncer.start("sync")
        time.sleep(chance.uniform(0, 0.4))  # a random moment, not a wait for something
        kills += kill(process)
        if starts % 10 == 0:
            syncer.sync()
            syncer.assert_mirrors(user)
    syncer.sync()
    syncer.assert_mirrors(user)
    syncer.verify()


def change(user: MailUser, chance: random.Random, number: int) -> None:
    """A few things of those that people do."""
    uids = sorted(user.contents("INBOX"))
    some = ",".join(map(str, sorted(chance.sample(uids, min(10, len(uids))))))
    user.fill("INBOX", [f"Subject: new {number} {each}\r\n\r\n".encode() + b"y" * 500 for each in range(chance.randrange(30))])
    kind = chance.randrange(5)
    folder = f"f{chance.randrange(4)}"
    there = folder in user.folders()
    if kind == 0 and some:
        user.expunge("INBOX", some)
    elif kind == 1 and some:
        user.flag("INBOX", some, chance.choice(["\\Seen", "\\Flagged kw", "Work"]), chance.choice(["+FLAGS", "-FLAGS"]))
    elif kind == 2 and some:
        if not there:
            user.create(folder)
        user.move("INBOX", some, folder)
    elif kind == 3 and there:
        user.rename(folder, f"g{number}")
    elif kind == 4 and there:
        user.delete(folder)


@pytest.mark.parametrize("found", ["torn", "doubled", "lost"])
def test_the_watch_sees_what_it_is_for(tmp_path: Path, found: str) -> None:
    first = tmp_path / "1.V1U1.imap-sync,S=1:2,"
    first.write_bytes(b"a")
    watch = Watch(tmp_path, {1: hashlib.sha256(b"a").digest(), 2: hashlib.sha256(b"b").digest()})
    assert watch.look() == 1
    if found == "torn":
        (tmp_path / "1.V1U2.imap-sync,S=1:2,").write_bytes(b"")
    elif found == "doubled":
        (tmp_path / "1.V1U1.imap-sync,S=1:2,S").write_bytes(b"a")
    else:
        first.unlink()
    with pytest.raises(AssertionError, match=found):
        watch.look()
