"""The store's writer for an event loop, which a slow disk so never stops: see group.py, which does the work."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from workers.store.group import Group

if TYPE_CHECKING:
    from collections.abc import Callable

    from workers.store.database import Database, Result, Transaction
    from workers.store.group import Outcome


class Writer:
    """Owns a connection, which only its thread touches. Made inside the event loop that it answers to."""

    def __init__(self, connect: Callable[[], Database]) -> None:
        """Starts the thread; `connect` opens the store inside it, at the first work."""
        self._loop = loop = asyncio.get_running_loop()
        self._group = Group(connect, lambda outcomes: loop.call_soon_threadsafe(_tell, outcomes))

    def do(self, work: Callable[[Transaction], Result]) -> asyncio.Future[Result]:
        """Runs `work` in a transaction; done when that is committed and synced, or failed with a StoreError."""
        future: asyncio.Future[Result] = self._loop.create_future()
        self._group.put(work, future)
        return future

    def close(self) -> None:
        """Ends the thread after what was handed in before."""
        self._group.close()


def _tell(outcomes: list[Outcome]) -> None:
    for future, result, error in outcomes:
        if future.cancelled():
            continue
        if error is None:
            future.set_result(result)
        else:
            future.set_exception(error)
