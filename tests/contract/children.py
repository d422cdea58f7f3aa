"""Processes of their own that work on a store, each with its own connection, until they end or are killed.

Run as `python -m tests.contract.children ENGINE FOLDER WORK WORD…`. They say what they did in lines of JSON.
"""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
from functools import partial
from typing import TYPE_CHECKING, Any

from tests.contract.engines import ENGINES, Engine
from tests.contract.mails import mail, new_lease, queue, recipients, tagged, take, write
from workers.spool.dots import Dots, path_of
from workers.spool.recovery import recover
from workers.store.database import StoreError
from workers.store.leases import LeaseLost, myself

if TYPE_CHECKING:
    from workers.store.database import Database
    from workers.store.leases import Lease

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
DEADLINE_S = 120  # a child that hangs is ended by its own alarm, and so seen as ended
PAST, ANSWERED, NEITHER = "past@example.org", "answered@example.org", "neither@example.org"  # senders


class Child:
    """One such process, seen by its parent."""

    def __init__(self, engine: Engine, work: str, *words: object) -> None:
        command = [sys.executable, "-m", "tests.contract.children", engine.name, engine.folder, work, *map(str, words)]
        self._process = subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        self.pid = self._process.pid

    def hear(self) -> Any:
        """What it says next; None when it has ended."""
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        return json.loads(line) if line.endswith(b"\n") else None

    def hear_all(self) -> list[Any]:
        """All that it says until it ends."""
        return list(iter(self.hear, None))

    def say(self, word: str = "go") -> None:
        """Says a word to it."""
        assert self._process.stdin is not None
        self._process.stdin.write(f"{word}\n".encode())
        self._process.stdin.flush()

    def ask(self, word: str) -> Any:
        """Says a word and hears the answer."""
        self.say(word)
        return self.hear()

    def stop(self) -> None:
        """Stops it as a debugger does; returns when it stands."""
        os.kill(self.pid, signal.SIGSTOP)
        os.waitid(os.P_PID, self.pid, os.WSTOPPED)

    def go_on(self) -> None:
        """The end of `stop`."""
        os.kill(self.pid, signal.SIGCONT)

    def kill(self) -> None:
        """KILLs it; returns when it is dead, a zombie."""
        os.kill(self.pid, signal.SIGKILL)
        os.waitid(os.P_PID, self.pid, os.WEXITED | os.WNOWAIT)

    def close(self) -> None:
        """Ends and reaps it."""
        self._process.kill()
        self._process.communicate()


def tell(what: object) -> None:
    """One line, by one write, out before the next step."""
    os.write(1, json.dumps(what).encode() + b"\n")


def wait() -> None:
    """Says that it is ready and waits until it is told to go."""
    tell("ready")
    sys.stdin.readline()


def accept_for_ever(engine: Engine, name: str) -> None:
    """Accepts one mail after the other and tells the id and tag of each."""
    database = engine.connect()
    number = 0
    while True:
        tag = f"{name}-{number}"
        tell([queue(database, tagged(tag))[0], tag])
        number += 1


def accept_some(engine: Engine, name: str, count: str) -> None:
    """As accept_for_ever, so many."""
    database = engine.connect()
    wait()
    for number in range(int(count)):
        tag = f"{name}-{number}"
        tell([queue(database, tagged(tag))[0], tag])


def accept_identifiers(engine: Engine, seed: str, count: str) -> None:
    """Accepts a mail for each identifier, in an order of its own, and tells the ids."""
    database = engine.connect()
    numbers = list(range(int(count)))
    random.Random(seed).shuffle(numbers)
    wait()
    for number in numbers:
        one = mail(f"{number}@example.org")
        one.identifier = f"once {number}"
        tell([number, queue(database, one)[0]])


def accept_without_sync(engine: Engine, name: str) -> None:
    """Accepts one mail, then one more when no sync succeeds: tells its id or the kind of the error."""
    database = engine.connect()
    tell([queue(database, tagged(f"{name}-0"))[0], f"{name}-0"])
    engine.fail_syncs()
    try:
        tell([queue(database, tagged(f"{name}-1"))[0], f"{name}-1"])
    except StoreError as error:
        tell(error.kind)


def claim_all(engine: Engine, most: str, per_mail: str) -> None:
    """Claims until nothing is left and tells the recipients of each claim with how often each was claimed."""
    database = engine.connect()
    lease = new_lease(database)
    wait()
    while mails := take(database, lease, int(most), per_mail=int(per_mail)):
        tell([[recipient.id, recipient.attempts] for recipient in recipients(mails)])


def send_for_ever(engine: Engine) -> None:
    """A sender without a relay: claims, notes, settles, and tells the recipients whose `sent` is committed."""
    database = engine.connect()
    lease, notes = owner(engine, database)
    while mails := take(database, lease, 3):
        for each in mails:
            ids = [recipient.id for recipient in each.recipients]
            slot = notes.past(each.claim, ids)
            notes.answered(slot, each.claim, ids, "250 Ok")
            tell(sorted(write(database, [each], "sent")))
            notes.free(slot)


def claim_and_wait(engine: Engine) -> None:
    """Claims all that is due, notes what the mails' senders say, tells the owner's id, and then obeys: `settle`
    answers the ids that it could write; `renew` and `claim` say whether the lease was lost.
    """
    database = engine.connect()
    lease, notes = owner(engine, database)
    mails = take(database, lease)
    for each in mails:
        ids = [recipient.id for recipient in each.recipients]
        if each.sender in (PAST, ANSWERED):
            slot = notes.past(each.claim, ids)
            if each.sender == ANSWERED:
                notes.answered(slot, each.claim, ids, "250 Ok")
    tell([lease.owner.id, len(recipients(mails))])
    for word in sys.stdin:
        try:
            if word == "settle\n":
                tell(sorted(write(database, mails, "sent")))
            elif word == "renew\n":
                database.transact(lease.renew)
                tell("renewed")
            else:
                tell(len(take(database, lease)))
        except LeaseLost:
            tell("lost")


def recover_once(engine: Engine) -> None:
    """Recovers and tells what was found."""
    database = engine.connect()
    wait()
    found = database.transact(partial(recover, path=engine.notes, watcher=myself(), hold=False))
    tell([found.owners, found.unknown, found.sent, found.unsent])


def owner(engine: Engine, database: Database) -> tuple[Lease, Dots]:
    """A lease and the notes that go with it, as a sender has them."""
    lease = new_lease(database)
    return lease, Dots(path_of(engine.notes, lease.owner.id))


WORKS = {
    work.__name__: work
    for work in (
        accept_for_ever,
        accept_some,
        accept_identifiers,
        accept_without_sync,
        claim_all,
        send_for_ever,
        claim_and_wait,
        recover_once,
    )
}

if __name__ == "__main__":
    signal.alarm(DEADLINE_S)
    WORKS[sys.argv[3]](ENGINES[sys.argv[1]](sys.argv[2]), *sys.argv[4:])
