"""The one thread of a process that writes to the store, so that a slow disk never stops an event loop.

Group commit without a timer: whatever came in during the last sync goes into one transaction. A work that fails
spoils no other one: each is then done alone. So a work may run twice, and only its last run counts.
"""

from __future__ import annotations

import asyncio
import queue
import threading
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeVar

from workers.store.database import BUSY, FULL, StoreError

if TYPE_CHECKING:
    from workers.store.database import Database, Transaction

Result = TypeVar("Result")
Work = Callable[["Transaction"], Any]


class Writer:
    """Owns a connection, which only its thread touches. Made inside the event loop that it answers to."""

    def __init__(self, connect: Callable[[], Database]) -> None:
        """Starts the thread; `connect` opens the store inside it, at the first work."""
        self._connect = connect
        self._loop = asyncio.get_running_loop()
        self._works: queue.SimpleQueue[tuple[Work, asyncio.Future[Any]] | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._run, name="store writer", daemon=True)
        self._thread.start()

    def do(self, work: Callable[[Transaction], Result]) -> asyncio.Future[Result]:
        """Runs `work` in a transaction; done when that is committed and synced, or failed with a StoreError."""
        future: asyncio.Future[Result] = self._loop.create_future()
        self._works.put((work, future))
        return future

    def close(self) -> None:
        """Ends the thread after what was handed in before."""
        self._works.put(None)
        self._thread.join()

    def _run(self) -> None:
        database: Database | None = None
        while (batch := self._batch()) is not None:
            outcomes: list[tuple[asyncio.Future[Any], Any, BaseException | None]] = []
            try:
                database = database or self._connect()
            except Exception as error:
                outcomes = [(future, None, error) for _, future in batch]
            else:
                _do(database, batch, outcomes)
            self._loop.call_soon_threadsafe(_tell, outcomes)
        if database is not None:
            database.close()

    def _batch(self) -> list[tuple[Work, asyncio.Future[Any]]] | None:
        """Waits for a work and takes all that wait with it; None at the end."""
        first = self._works.get()
        if first is None:
            return None
        batch = [first]
        while not self._works.empty():
            more = self._works.get()
            if more is None:
                self._works.put(None)  # the end comes after this batch
                break
            batch.append(more)
        return batch


def _do(
    database: Database, batch: list[tuple[Work, asyncio.Future[Any]]], outcomes: list[tuple[Any, Any, BaseException | None]]
) -> None:
    try:
        results = database.transact(lambda transaction: [work(transaction) for work, _ in batch])
        outcomes += [(future, result, None) for (_, future), result in zip(batch, results, strict=True)]
    except Exception as error:
        if len(batch) == 1 or (isinstance(error, StoreError) and error.kind in (BUSY, FULL)):
            outcomes += [(future, None, error) for _, future in batch]  # no work of these is to blame
            return
        for each in batch:
            _do(database, [each], outcomes)


def _tell(outcomes: list[tuple[asyncio.Future[Any], Any, BaseException | None]]) -> None:
    for future, result, error in outcomes:
        if future.cancelled():
            continue
        if error is None:
            future.set_result(result)
        else:
            future.set_exception(error)
