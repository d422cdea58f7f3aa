"""The sender with a real store and a way out that is made up: what is written about each recipient."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path

import pytest

from workers.mail.config import Config
from workers.mail.errors import OK, TRY_AGAIN
from workers.spool import claims, recovery
from workers.spool.accept import Submission, accept, open_spool
from workers.spool.attempt import Attempt
from workers.spool.claims import NEVER
from workers.spool.delivery import Effect, Verdict
from workers.spool.desk import Terms
from workers.spool.dots import Dots, path_of, read
from workers.spool.lane import Lane
from workers.spool.link import Link
from workers.spool.notices import Notices
from workers.spool.outlet import Trouble
from workers.spool.sender import Sender
from workers.store.leases import Lease
from workers.store.sqlite import SqliteDatabase
from workers.store.writer import Writer

LIMIT_S = 30.0
ENDS: dict[Verdict, str] = {Verdict.SENT: "250 ok", Verdict.DEFERRED: "451 later", Verdict.FAILED: "550 no"}
Hook = Callable[[Sender, Attempt], None]


class Table:
    """A way out that has a list of verdicts for each address, then SENT; `closed` is trouble at the door."""

    def __init__(self, verdicts: dict[str, list[Verdict]] | None = None, *, closed: bool = False) -> None:
        self.verdicts = verdicts or {}
        self.closed = closed
        self.begun: list[list[str]] = []
        self.hook: Hook | None = None
        self.sender: Sender | None = None

    async def connect(self, link: Link) -> Carrier:
        if self.closed:
            raise Trouble("the door is closed")
        return Carrier(self, link)


class Carrier:
    """One connection to the table."""

    extensions: Mapping[str, str] = {"8bitmime": ""}

    def __init__(self, table: Table, link: Link) -> None:
        self.carried = 0
        self.lost: str | None = None
        self._table = table
        self._link = link

    def is_stale(self) -> bool:
        return False

    async def deliver(self, attempt: Attempt) -> tuple[Attempt, Attempt | None]:
        table = self._table
        table.begun.append([recipient.address for recipient in attempt.mail.recipients])
        if not self._link.past_dot(attempt):
            attempt.settle(attempt.waiting, Verdict.RELAY, "the lease was over")
            return attempt, None
        if table.hook is not None and table.sender is not None:
            table.hook(table.sender, attempt)
        for recipient in list(attempt.waiting):
            left = table.verdicts.get(recipient.address)
            verdict = left.pop(0) if left else Verdict.SENT
            if verdict is Verdict.RELAY:
                attempt.effect, attempt.trouble = Effect.REFUSED, "530 login first"
            attempt.settle([recipient], verdict, ENDS.get(verdict, verdict.value))
        self.carried += 1
        return attempt, None

    def expire(self, now: float) -> None:
        pass

    def cut(self, why: str) -> None:
        self.lost = why

    async def close(self) -> None:
        pass


class Box:
    """A spool in a folder of its own."""

    def __init__(self, folder: Path) -> None:
        self.config = Config(None, str(folder))
        self.database: SqliteDatabase = open_spool(self.config)

    def queue(self, *addresses: str, age_s: float = 0.0, max_age_s: float = 1000.0, lane: str = "maildir") -> None:
        """One mail to all of them."""
        at = time.time() - age_s
        mail = Submission("", list(addresses), [lane] * len(addresses), "<id@x>", b"Subject: x\r\n\r\nx\r\n", at + max_age_s)
        self.database.transact(lambda transaction: accept(transaction, [mail], at))

    def drain(self, table: Table) -> int:
        """Runs a sender until nothing is due; its exit status."""
        return asyncio.run(self._drain(table))

    async def _drain(self, table: Table) -> int:
        writer = Writer(partial(open_spool, self.config))
        reader = open_spool(self.config)
        try:
            sender = Sender(self.config, reader, writer, Lease(), Notices(self.config))
            table.sender = sender
            terms = Terms(1, 1000, 100, None, 60.0)
            sender.lanes = {"maildir": Lane("maildir", "the table", terms, table.connect, sender)}
            async with asyncio.timeout(LIMIT_S):
                return await sender.run(drain=True)
        finally:
            writer.close()
            reader.close()

    def rows(self) -> dict[str, tuple[str, int, int, float, str]]:
        """(state, failures, unknowns, seconds until due, answer) of each recipient."""
        rows = self.database._db.execute(
            "SELECT address, state, failures, unknowns, due_at, answer FROM mail_recipient"
        ).fetchall()
        return {row[0]: (row[1], row[2], row[3], row[4] - time.time(), row[5]) for row in rows}

    def states(self) -> dict[str, str]:
        return {address: row[0] for address, row in self.rows().items()}

    def owners(self) -> int:
        return int(self.database._db.execute("SELECT count(*) FROM mail_owner").fetchone()[0])


@pytest.fixture
def box(tmp_path: Path) -> Iterator[Box]:
    made = Box(tmp_path)
    yield made
    made.database.close()


def notes_left(box: Box) -> list[str]:
    folder = os.path.dirname(box.config.database)
    return [name for name in os.listdir(folder) if "-dots-" in name]


def test_a_bad_recipient_does_not_hold_up_the_others(box: Box) -> None:
    box.queue("bad@x", "later@x", "good@x")
    box.queue("next@x")
    table = Table({"bad@x": [Verdict.FAILED], "later@x": [Verdict.DEFERRED]})
    assert box.drain(table) == OK
    rows = box.rows()
    assert box.states() == {"bad@x": "failed", "later@x": "deferred", "good@x": "sent", "next@x": "sent"}
    assert rows["later@x"][1] == 1
    assert 3.0 <= rows["later@x"][3] <= 5.0
    assert rows["bad@x"][4] == "550 no"


def test_a_clean_end_leaves_no_owner_and_no_notes(box: Box) -> None:
    for number in range(100):
        box.queue(f"{number}@x")
    assert box.drain(Table()) == OK
    assert set(box.states().values()) == {"sent"}
    assert (box.owners(), notes_left(box)) == (0, [])


def test_what_goes_again_at_once_does_so_before_the_drain_ends(box: Box) -> None:
    for number in range(30):
        box.queue(f"a{number}@x", f"b{number}@x")
    table = Table({f"b{number}@x": [Verdict.AGAIN] * 3 for number in range(30)})
    assert box.drain(table) == OK
    assert set(box.states().values()) == {"sent"}
    assert {row[1] for row in box.rows().values()} == {0}, "no fault of anyone"


def test_one_that_may_have_arrived_is_sent_again_and_counted(box: Box) -> None:
    box.queue("a@x")
    assert box.drain(Table({"a@x": [Verdict.UNKNOWN]})) == OK
    assert box.rows()["a@x"][:3] == ("sent", 1, 1)


def test_one_that_may_have_arrived_is_held_when_that_is_wished(box: Box) -> None:
    box.config.unknown = "hold"
    box.queue("a@x", "b@x")
    table = Table({"a@x": [Verdict.UNKNOWN]})
    assert box.drain(table) == OK
    rows = box.rows()
    assert (rows["a@x"][0], rows["a@x"][2], rows["b@x"][0]) == ("unknown", 1, "sent")
    assert rows["a@x"][3] > NEVER / 2
    assert box.drain(table) == OK
    assert table.begun == [["a@x", "b@x"]], "nobody sends it again by himself"


def test_a_relay_that_is_down_is_charged_to_nobody_and_claims_nothing(box: Box) -> None:
    box.queue("a@x")
    box.queue("b@x")
    assert box.drain(Table(closed=True)) == TRY_AGAIN
    assert box.states() == {"a@x": "queued", "b@x": "queued"}
    assert {row[0] for row in box.database._db.execute("SELECT attempts FROM mail_recipient")} == {0}
    assert box.drain(Table()) == OK
    assert set(box.states().values()) == {"sent"}


def test_mail_past_its_age_is_not_begun(box: Box) -> None:
    box.queue("old@x", age_s=2000.0)
    box.queue("new@x")
    table = Table()
    assert box.drain(table) == OK
    assert box.states() == {"old@x": "expired", "new@x": "sent"}
    assert table.begun == [["new@x"]]


def test_the_note_stands_while_a_mail_is_past_the_dot_and_says_its_answer(box: Box) -> None:
    seen: list[tuple[int, str]] = []

    def look(sender: Sender, attempt: Attempt) -> None:
        path = path_of(box.config.database, sender.watcher.id)
        before = read(path) or []
        sender.taken(attempt, "250 ok")
        after = read(path) or []
        seen.append((len(before), next(note.answer for note in after if note.claim == attempt.mail.claim)))
        assert next(note for note in before if note.claim == attempt.mail.claim).recipients == {
            recipient.id for recipient in attempt.mail.recipients
        }

    box.queue("a@x", "b@x")
    table = Table()
    table.hook = look
    assert box.drain(table) == OK
    assert seen == [(1, "250 ok")]


class Dead(BaseException):
    """The sender is gone in this moment."""


@pytest.mark.parametrize(
    ("answered", "becomes", "begun"),
    [(True, ("sent", 0, 0, "250 ok"), 0), (False, ("sent", 1, 1, "250 ok"), 1)],
)
def test_what_a_dead_sender_left_is_known_by_its_notes(
    box: Box, answered: bool, becomes: tuple[str, int, int, str], begun: int
) -> None:
    def work() -> None:
        lease = Lease()
        lease.owner.started -= 1  # a process that is gone
        owner_id = box.database.transact(lease.register)
        lease.owner.expires_at += 60.0
        (mail,) = box.database.transact(lambda transaction: claims.claim(transaction, lease, "maildir", 1, 100, time.time()))
        box.database.transact(lambda transaction: claims.claim(transaction, lease, "maildir", 1, 100, time.time()))
        dots = Dots(path_of(box.config.database, owner_id))
        ids = [recipient.id for recipient in mail.recipients]
        slot = dots.past(mail.claim, ids)
        if answered:
            dots.answered(slot, mail.claim, ids, "250 ok")

    box.queue("a@x")
    box.queue("unsent@x")
    work()
    table = Table()
    assert box.drain(table) == OK
    row = box.rows()["a@x"]
    assert (*row[:3], row[4]) == becomes
    assert len(table.begun) == begun + 1
    assert box.rows()["unsent@x"][:3] == ("sent", 0, 0)
    assert (box.owners(), notes_left(box)) == (0, [])


def test_a_living_sender_is_not_taken_over(box: Box) -> None:
    box.queue("a@x")
    lease = Lease()
    box.database.transact(lease.register)
    box.database.transact(lambda transaction: claims.claim(transaction, lease, "maildir", 1, 100, time.time()))
    watcher = Lease()
    found = box.database.transact(partial(recovery.recover, path=box.config.database, watcher=watcher.owner, hold=False))
    assert found.owners == []
    assert box.states() == {"a@x": "sending"}


def test_an_end_in_the_middle_gives_back_what_was_not_begun(box: Box) -> None:
    for number in range(40):
        box.queue(f"{number}@x")

    def stop(sender: Sender, attempt: Attempt) -> None:
        if len(table.begun) == 5:
            sender.end()

    table = Table()
    table.hook = stop
    assert box.drain(table) == OK
    states = list(box.states().values())
    assert set(states) == {"sent", "queued"}
    assert states.count("sent") == len(table.begun) < 40
    assert (box.owners(), notes_left(box)) == (0, [])


def test_no_dot_goes_out_under_a_lease_that_is_over(box: Box) -> None:
    def lose(sender: Sender, attempt: Attempt) -> None:
        if len(table.begun) == 1:
            sender.watcher.expires_at = 0.0

    box.queue("a@x")
    box.queue("b@x")
    table = Table()
    table.hook = lose
    assert box.drain(table) == OK
    assert set(box.states().values()) == {"sent"}
    assert len(table.begun) > 2, "one was begun under the old lease, and again under a new one"


def test_a_mail_with_many_recipients_is_one_transaction(box: Box) -> None:
    box.queue(*(f"{number}@x" for number in range(100)))
    table = Table()
    assert box.drain(table) == OK
    assert len(table.begun) == 1


def test_mail_of_a_lane_that_is_gone_finds_its_way_anew(box: Box) -> None:
    box.queue("a@x", lane="route:old.example")
    assert box.drain(Table()) == OK
    assert box.states() == {"a@x": "sent"}
