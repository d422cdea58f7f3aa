"""The one thread of a process that writes to the store, and the way of plain threads to it; event loops have writer.py.

Group commit without a timer: whatever came in during the last sync goes into one transaction. A work that fails
spoils no other one: each is then done alone. So a work may run twice, and only its last run counts.
"""

from __future__ import annotations

import queue
import threading

from workers.store.database import BUSY, FULL, OTHER, StoreError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any, Protocol, TypeVar

    from workers.store.database import Database, Result, Transaction

    Work = Callable[[Transaction], Any]
    Told_co = TypeVar("Told_co", covariant=True)
    Outcome = tuple[Any, Any, BaseException | None]  # who waits for it, the result, the error

    class Waiting(Protocol[Told_co]):
        """What GroupWriter.do gives."""

        def result(self) -> Told_co:
            """Waits until the work is committed and synced; what it returned. Raises StoreError, or what it raised."""

        def has_failed(self) -> bool | None:
            """Whether nothing of the work is written; None as long as that is open."""


class Group:
    """Owns a connection, which only its thread touches."""

    def __init__(self, connect: Callable[[], Database], tell: Callable[[list[Outcome]], object]) -> None:
        """Starts the thread. Inside it `connect` opens the store, at the first work, and `tell` gets what became of works."""
        self._connect = connect
        self._tell = tell
        self._works: queue.SimpleQueue[tuple[Work, Any] | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._run, name="store writer", daemon=True)
        self._thread.start()

    def put(self, work: Work, waiter: object) -> None:
        """Hands a work in; `waiter` is what `tell` gets with its outcome. Not after `close`: nobody would do it."""
        self._works.put((work, waiter))

    def close(self) -> None:
        """Ends the thread after what was handed in before."""
        self._works.put(None)
        self._thread.join()

    def _run(self) -> None:
        database: Database | None = None
        while (batch := self._batch()) is not None:
            outcomes: list[Outcome] = []
            try:
                database = database or self._connect()
            except Exception as error:
                outcomes = [(waiter, None, error) for _, waiter in batch]
            else:
                _do(database, batch, outcomes)
            self._tell(outcomes)
        if database is not None:
            database.close()

    def _batch(self) -> list[tuple[Work, Any]] | None:
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


class GroupWriter:
    """A group for plain threads: any number of them hand works in and wait for what became of theirs."""

    def __init__(self, connect: Callable[[], Database]) -> None:
        """Starts the thread; `connect` opens the store inside it, at the first work."""
        self._group = Group(connect, _settle)
        self._lock = threading.Lock()
        self._closed = False

    def do(self, work: Callable[[Transaction], Result]) -> Waiting[Result]:
        """Runs `work` in a transaction, in the writer's thread; `.result()` waits for it. Raises StoreError when closed."""
        waiter = _Waiter()
        with self._lock:  # a work behind the end would never be done, and its thread wait for ever
            if self._closed:
                raise StoreError(OTHER, "the store is closed: this process is ending")
            self._group.put(work, waiter)
        return waiter

    def close(self) -> None:
        """Ends the thread after what was handed in before."""
        with self._lock:
            self._closed = True
        self._group.close()


class _Waiter:
    """One work's outcome. A bare lock, held until it is there, is all the event that it needs."""

    __slots__ = ("_error", "_held", "_result")

    def __init__(self) -> None:
        self._held = threading.Lock()
        self._held.acquire()
        self._result: Any = None
        self._error: BaseException | None = None

    def settle(self, result: object, error: BaseException | None) -> None:
        """Lets the threads go that wait for it."""
        self._result, self._error = result, error
        self._held.release()

    def has_failed(self) -> bool | None:
        """See Waiting."""
        return None if self._held.locked() else self._error is not None

    def result(self) -> Any:
        """See Waiting."""
        with self._held:
            if self._error is not None:
                raise self._error
            return self._result


def _settle(outcomes: list[Outcome]) -> None:
    for waiter, result, error in outcomes:
        waiter.settle(result, error)


def _do(database: Database, batch: list[tuple[Work, Any]], outcomes: list[Outcome]) -> None:
    try:
        results = database.transact(lambda transaction: [work(transaction) for work, _ in batch])
        outcomes += [(waiter, result, None) for (_, waiter), result in zip(batch, results, strict=True)]
    except Exception as error:
        if len(batch) == 1 or (isinstance(error, StoreError) and error.kind in (BUSY, FULL)):
            outcomes += [(waiter, None, error) for _, waiter in batch]  # no work of these is to blame
            return
        for each in batch:
            _do(database, [each], outcomes)
