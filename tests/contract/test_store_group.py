"""The writer of plain threads: each waits for its own work, and all that wait share one commit."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import pytest

from tests.contract.engines import Engine
from tests.contract.mails import NOW, tagged, whole_mails
from workers.spool.accept import accept
from workers.store.database import DENIED, FULL, StoreError
from workers.store.group import GroupWriter

if TYPE_CHECKING:
    from workers.store.database import Database, Transaction
    from workers.store.group import Waiting

THREADS = 8
LIMIT_S = 60.0


class Stage:
    """A writer on the engine's store. Its first work can be kept waiting, so that others come during it."""

    def __init__(self, engine: Engine) -> None:
        self.commits: list[str] = []
        self.begun = threading.Event()
        self.let_go = threading.Event()
        self._engine = engine
        self.writer = GroupWriter(self._connect)

    def _connect(self) -> Database:
        database = self._engine.connect()
        self.commits = self._engine.count_commits(database)
        return database

    def hold(self) -> Waiting[int]:
        """Keeps the writer at a work until `let_go`, alone in its transaction; its result is the writer's thread."""

        def work(_: Transaction) -> int:
            self.begun.set()
            assert self.let_go.wait(LIMIT_S)
            return threading.get_ident()

        held = self.writer.do(work)
        assert self.begun.wait(LIMIT_S)
        return held

    def accept(self, tag: str) -> Waiting[list[int]]:
        """Hands a mail in."""
        return self.writer.do(lambda transaction: accept(transaction, [tagged(tag)], NOW))


@pytest.fixture
def stage(engine: Engine) -> Iterator[Stage]:
    """A stage whose writer is closed at the end of the test."""
    made = Stage(engine)
    yield made
    made.let_go.set()
    made.writer.close()


def bad(_: Transaction) -> None:
    """A work that fails by itself."""
    raise ZeroDivisionError


def in_threads(count: int, act: Callable[[int], list[int]]) -> list[list[int]]:
    """What `act` gives for each number, each in a thread of its own, all at the same time."""
    together = threading.Barrier(count)

    def begin(number: int) -> list[int]:
        together.wait(LIMIT_S)
        return act(number)

    with ThreadPoolExecutor(count) as pool:
        return list(pool.map(begin, range(count), timeout=LIMIT_S))


def test_what_came_during_a_commit_is_one_transaction_done_by_one_thread(engine: Engine, stage: Stage) -> None:
    held = stage.hold()
    waiting = [stage.accept(f"a-{number}") for number in range(100)]
    threads = [stage.writer.do(lambda _: threading.get_ident()) for _ in range(3)]
    stage.let_go.set()
    ids = [each.result() for each in waiting]
    assert len(stage.commits) == 2, "the held one alone, then all that came during it"
    assert {each.result() for each in threads} == {held.result()}
    assert held.result() != threading.get_ident()
    assert whole_mails(engine) == {id_: f"a-{number}" for number, [id_] in enumerate(ids)}


def test_each_of_many_threads_gets_its_own_result_after_the_commit(engine: Engine, stage: Stage) -> None:
    def act(number: int) -> list[int]:
        ids = []
        for turn in range(5):
            [id_] = stage.accept(f"a-{number * 10 + turn}").result()
            assert engine.look(f"SELECT message_id FROM mail_message WHERE id = {id_}") == [(f"a-{number * 10 + turn}",)]
            ids.append(id_)
        return ids

    found = in_threads(THREADS, act)
    expected = {id_: f"a-{number * 10 + turn}" for number, ids in enumerate(found) for turn, id_ in enumerate(ids)}
    assert whole_mails(engine) == expected
    assert len(expected) == THREADS * 5


def test_one_that_fails_spoils_no_other_one(engine: Engine, stage: Stage) -> None:
    stage.hold()
    before = [stage.accept(f"a-{number}") for number in range(3)]
    failing = stage.writer.do(bad)
    unstorable = stage.writer.do(lambda transaction: transaction.run("enqueue.add_recipient", (None,) * 6))
    after = [stage.accept(f"a-{number}") for number in range(3, 6)]
    stage.let_go.set()
    ids = [each.result() for each in before + after]
    assert whole_mails(engine) == {id_: f"a-{number}" for number, [id_] in enumerate(ids)}
    with pytest.raises(ZeroDivisionError):
        failing.result()
    with pytest.raises(StoreError):
        unstorable.result()


def test_a_full_disk_fails_all_that_wait_and_is_not_tried_for_each(engine: Engine, stage: Stage) -> None:
    runs = []

    def full(_: Transaction) -> None:
        runs.append(1)
        raise StoreError(FULL, "full")

    stage.hold()
    waiting = [stage.accept("a-0"), stage.writer.do(full), stage.accept("a-1")]
    stage.let_go.set()
    for each in waiting:
        with pytest.raises(StoreError, match="full"):
            each.result()
    assert runs == [1]
    assert whole_mails(engine) == {}
    [id_] = stage.accept("a-2").result()
    assert whole_mails(engine) == {id_: "a-2"}


def test_close_finishes_what_was_handed_in_and_takes_no_more(engine: Engine, stage: Stage) -> None:
    stage.hold()
    waiting = [stage.accept(f"a-{number}") for number in range(20)]
    stage.let_go.set()
    stage.writer.close()
    assert len(whole_mails(engine)) == 20, "before close() returns"
    assert sorted(id_ for each in waiting for id_ in each.result()) == sorted(whole_mails(engine))
    with pytest.raises(StoreError, match="closed"):
        stage.accept("a-20")


def test_a_store_that_can_not_be_opened_fails_the_works_and_is_tried_again(engine: Engine) -> None:
    closed = [True]

    def connect() -> Database:
        if closed and closed.pop():
            raise StoreError(DENIED, "not now")
        return engine.connect()

    writer = GroupWriter(connect)
    try:
        with pytest.raises(StoreError, match="not now"):
            writer.do(lambda _: None).result()
        [id_] = writer.do(lambda transaction: accept(transaction, [tagged("a-0")], NOW)).result()
    finally:
        writer.close()
    assert whole_mails(engine) == {id_: "a-0"}
