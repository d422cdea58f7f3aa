"""The sender's loop with a way out that answers from a table, drained in this process."""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from workers.spool.bell import Bell
from workers.spool.delivery import Verdict
from workers.spool.outlet import Report, Trouble
from workers.spool.sender import Sender
from workers.spool.stop import Stop
from workers.spool.store import Mail, Recipient, Store


class NoStop(Stop):
    """Never asked to stop; a wait is over at once and is counted."""

    def __init__(self) -> None:
        self.requested = False
        self.waits = 0

    def interruptible(self, work: Callable[[], None]) -> None:
        work()

    def wait(self, limit_s: float, fd: int | None = None) -> None:
        self.waits += 1


class Table:
    """Gives each address the listed verdict, else SENT; `closed` is trouble at the door."""

    name = "table"

    def __init__(self, verdicts: dict[str, Verdict] | None = None, *, closed: bool = False, trouble: str | None = None) -> None:
        self.verdicts = verdicts or {}
        self.closed = closed
        self.trouble = trouble
        self.attempts: list[str] = []

    def open(self) -> None:
        if self.closed:
            raise Trouble("table: closed")

    def deliver(self, mail: Mail, note_past_dot: Callable[[list[Recipient]], None]) -> Report:
        report = Report()
        report.trouble = self.trouble
        note_past_dot(mail.recipients)
        for recipient in mail.recipients:
            self.attempts.append(recipient.address)
            report.results.append((recipient, self.verdicts.get(recipient.address, Verdict.SENT), "words"))
        return report

    def close(self) -> None:
        pass

    def cut(self) -> None:
        pass


class Broken(Store):
    """A store whose results can't be written the first two times."""

    refusals = 2

    def settle(self, *args: object) -> None:
        if self.refusals:
            self.refusals -= 1
            raise sqlite3.OperationalError("database or disk is full")
        super().settle(*args)  # type: ignore[arg-type]


@pytest.fixture
def database(tmp_path: Path) -> str:
    return str(tmp_path / "spool.db")


@pytest.fixture
def store(database: str) -> Iterator[Store]:
    made = Store(database)
    yield made
    made.close()


def drained(store: Store, database: str, table: Table) -> int:
    bell = Bell(database)
    try:
        return Sender(store, table, bell, NoStop()).run(drain=True)
    finally:
        bell.close()


def queue(store: Store, *addresses: str, age_s: float = 0.0, max_age_s: float = 1000.0) -> None:
    for address in addresses:
        store.accept("s@x", address.split(), "<id>", b"\r\n", time.time() - age_s, max_age_s)


def states(store: Store) -> dict[str, str]:
    return {row["address"]: row["state"] for row in store.recipients(sent_too=True)}


def test_a_bad_mail_does_not_hold_up_the_queue(store: Store, database: str) -> None:
    queue(store, "bad@x", "later@x", "good@x")
    table = Table({"bad@x": Verdict.FAILED, "later@x": Verdict.DEFERRED})
    assert drained(store, database, table) == 0
    assert states(store) == {"bad@x": "failed", "later@x": "deferred", "good@x": "sent"}
    assert table.attempts == ["bad@x", "later@x", "good@x"]


def test_a_relay_that_is_down_is_charged_to_nobody(store: Store, database: str) -> None:
    queue(store, "a@x", "b@x")
    assert drained(store, database, Table(closed=True)) == 75
    assert states(store) == {"a@x": "queued", "b@x": "queued"}
    assert {row["attempts"] for row in store.recipients(sent_too=True)} == {0}
    assert drained(store, database, Table()) == 0
    assert set(states(store).values()) == {"sent"}


def test_trouble_in_a_transaction_ends_the_hammering(store: Store, database: str) -> None:
    queue(store, "a@x", "b@x")
    table = Table({"a@x": Verdict.RELAY}, trouble="530 login first")
    assert drained(store, database, table) == 75
    assert table.attempts == ["a@x"]
    assert states(store) == {"a@x": "deferred", "b@x": "queued"}
    assert drained(store, database, Table()) == 0, "due as soon as the relay answers"
    assert set(states(store).values()) == {"sent"}


def test_mail_past_its_age_expires_only_when_it_could_not_be_sent(store: Store, database: str) -> None:
    queue(store, "old@x", age_s=2000.0)
    queue(store, "new@x")
    assert drained(store, database, Table(closed=True)) == 75
    assert states(store) == {"old@x": "expired", "new@x": "queued"}
    queue(store, "old but lucky@x".replace(" ", "-"), age_s=2000.0)
    assert drained(store, database, Table()) == 0
    assert states(store)["old-but-lucky@x"] == "sent"


def test_what_a_dead_sender_left_is_sent(store: Store, database: str, capfd: pytest.CaptureFixture[str]) -> None:
    queue(store, "a@x")
    assert store.claim("another boot", time.time()) is not None
    assert drained(store, database, Table()) == 0
    (row,) = store.recipients(sent_too=True)
    assert (row["state"], row["unknowns"], row["attempts"]) == ("sent", 1, 2)
    assert "1 recipients of a sender that died behind the final dot" in capfd.readouterr().out


def test_results_are_written_when_the_disk_has_room_again(database: str, capfd: pytest.CaptureFixture[str]) -> None:
    store = Broken(database)
    queue(store, "a@x")
    table = Table()
    assert drained(store, database, table) == 0
    assert states(store) == {"a@x": "sent"}
    assert table.attempts == ["a@x"], "it was not sent again"
    assert capfd.readouterr().out.count("can't be written: database or disk is full") == 2
    store.close()
