"""The writer: works of many tasks, one thread, one commit for all that came during the last one."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import pytest

from tests.contract.engines import Engine
from tests.contract.mails import NOW, tagged, whole_mails
from workers.spool.accept import Submission, accept
from workers.store.database import DENIED, StoreError
from workers.store.writer import Writer

if TYPE_CHECKING:
    from workers.store.database import Database, Transaction


class Stage:
    """A writer on the engine's store. Its first work can be kept waiting, so that others come during it."""

    def __init__(self, engine: Engine) -> None:
        self.commits: list[str] = []
        self.threads: set[int] = set()
        self.let_go = threading.Event()
        self._engine = engine
        self.writer = Writer(self._connect)

    def _connect(self) -> Database:
        database = self._engine.connect()
        self.commits = self._engine.count_commits(database)
        return database

    def wait(self, _: Transaction) -> str:
        """A work that lasts until `let_go`."""
        self.threads.add(threading.get_ident())
        assert self.let_go.wait(60)
        return "waited"

    def accept(self, mail: Submission) -> asyncio.Future[list[int]]:
        """Hands a mail in."""

        def work(transaction: Transaction) -> list[int]:
            self.threads.add(threading.get_ident())
            return accept(transaction, [mail], NOW)

        return self.writer.do(work)


def play(engine: Engine, scene: Callable[[Stage], Any]) -> Any:
    """Runs a scene in an event loop, with a writer that is closed at its end."""

    async def run() -> Any:
        stage = Stage(engine)
        try:
            return await asyncio.wait_for(scene(stage), 60)
        finally:
            stage.let_go.set()
            stage.writer.close()

    return asyncio.run(run())


def test_many_works_are_one_transaction_and_each_gets_its_own_result(engine: Engine) -> None:
    async def scene(stage: Stage) -> list[list[int]]:
        first = stage.writer.do(stage.wait)
        works = [stage.accept(tagged(f"a-{number}")) for number in range(100)]
        stage.let_go.set()
        assert await first == "waited"
        ids = await asyncio.gather(*works)
        assert len(stage.commits) <= 2, "the first one alone, then all that came during it"
        assert stage.commits, "commits are counted"
        assert len(stage.threads) == 1
        assert threading.get_ident() not in stage.threads
        return ids

    ids = play(engine, scene)
    assert whole_mails(engine) == {id_: f"a-{number}" for number, [id_] in enumerate(ids)}


def test_one_that_fails_spoils_no_other_one(engine: Engine) -> None:
    async def scene(stage: Stage) -> list[Any]:
        first = stage.writer.do(stage.wait)
        bad = tagged("bad-0")
        bad.recipients[1] = None  # type: ignore[call-overload]
        works: list[asyncio.Future[Any]] = [stage.accept(tagged(f"a-{number}")) for number in range(5)]
        works += [stage.accept(bad), stage.writer.do(lambda _: 1 // 0)]
        works += [stage.accept(tagged(f"a-{number}")) for number in range(5, 10)]
        stage.let_go.set()
        await first
        return await asyncio.gather(*works, return_exceptions=True)

    outcomes = play(engine, scene)
    assert isinstance(outcomes[5], StoreError)
    assert isinstance(outcomes[6], ZeroDivisionError)
    good = outcomes[:5] + outcomes[7:]
    assert whole_mails(engine) == {id_: f"a-{number}" for number, [id_] in enumerate(good)}


def test_close_finishes_what_was_handed_in(engine: Engine) -> None:
    async def scene(stage: Stage) -> list[list[int]]:
        first = stage.writer.do(stage.wait)
        works = [stage.accept(tagged(f"a-{number}")) for number in range(20)]
        stage.let_go.set()
        stage.writer.close()
        assert len(whole_mails(engine)) == 20, "before close() returns"
        await first
        return await asyncio.gather(*works)

    ids = play(engine, scene)
    assert [id_ for [id_] in ids] == sorted(whole_mails(engine))


def test_a_result_is_told_after_the_commit(engine: Engine) -> None:
    async def scene(stage: Stage) -> None:
        for number in range(10):
            [id_] = await stage.accept(tagged(f"a-{number}"))
            assert whole_mails(engine)[id_] == f"a-{number}"
        assert len(stage.commits) == 10

    play(engine, scene)


def test_a_work_whose_waiter_has_gone_harms_nobody(engine: Engine) -> None:
    async def scene(stage: Stage) -> list[int]:
        stage.writer.do(stage.wait)
        gone = stage.accept(tagged("a-0"))
        stays = stage.accept(tagged("a-1"))
        gone.cancel()
        stage.let_go.set()
        return await stays

    [id_] = play(engine, scene)
    assert whole_mails(engine)[id_] == "a-1"


def test_a_store_that_can_not_be_opened_fails_the_works_and_is_tried_again(engine: Engine) -> None:
    async def run() -> list[int]:
        closed = [True]

        def connect() -> Database:
            if closed and closed.pop():
                raise StoreError(DENIED, "closed")
            return engine.connect()

        writer = Writer(connect)
        try:
            with pytest.raises(StoreError, match="closed"):
                await writer.do(lambda _: None)
            return await writer.do(lambda transaction: accept(transaction, [tagged("a-0")], NOW))
        finally:
            writer.close()

    [id_] = asyncio.run(run())
    assert whole_mails(engine) == {id_: "a-0"}
