"""One connection of a lane, and its life: connects, carries mails as long as there are some, and closes."""

from __future__ import annotations

from typing import TYPE_CHECKING

from workers.spool.delivery import Verdict
from workers.spool.outlet import Trouble
from workers.store.database import StoreError

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Callable, Coroutine, Iterable, Mapping
    from typing import Any, Protocol

    from workers.spool.attempt import Attempt
    from workers.spool.claims import Mail
    from workers.spool.desk import Desk, Named
    from workers.spool.outlet import Carrier

    class Source(Named, Protocol):
        """What a connection needs of its lane."""

        def take(self, link: Link, *, patient: bool) -> Attempt | None:
            """The next mail for a connection that may carry one more at once."""

        async def next(self, link: Link) -> Attempt | None:
            """Waits for the next mail; None when the connection shall end."""

        def back(self, mail: Mail) -> None:
            """A mail that was taken, and of which no relay has the body."""

        def finish(self, attempt: Attempt) -> None:
            """An attempt has come to its end."""

        def left(self, link: Link, trouble: Trouble | None) -> None:
            """A connection has ended, or was not to be had."""


class Link:
    """One connection of a lane, and its life."""

    def __init__(self, lane: Source, desk: Desk) -> None:
        self.carrier: Carrier | None = None
        self.mails = 0  # that it was given
        self.busy = False
        self.leaving = False
        self.extensions: Mapping[str, str] = {}
        self.task: asyncio.Task[None]
        self._lane = lane
        self._desk = desk

    def past_dot(self, attempt: Attempt) -> bool:
        """Of Guard."""
        return self._desk.past_dot(attempt)

    def taken(self, attempt: Attempt, answer: str) -> None:
        """Of Guard."""
        self._desk.taken(attempt, answer)

    def parts(self, attempt: Attempt) -> Iterable[bytes]:
        """Of Guard."""
        return self._desk.parts(attempt)

    def next(self) -> Attempt | None:
        """Of Guard."""
        return self._lane.take(self, patient=False)

    async def run(self, connect: Callable[[Link], Coroutine[Any, Any, Carrier]]) -> None:
        """Connects, carries mails as long as there are some, and closes."""
        trouble = None
        try:
            self.carrier = await connect(self)
            self.extensions = self.carrier.extensions
            self._desk.hungry()
            await self._carry(self.carrier)
            await self.carrier.close()
        except Trouble as error:
            trouble = error
        finally:
            self._lane.left(self, trouble)

    async def _carry(self, carrier: Carrier) -> None:
        following: Attempt | None = None
        while carrier.lost is None:
            attempt = following or await self._lane.next(self)
            if attempt is None:
                self.leaving = True
                return
            if following is None and carrier.is_stale():
                self._lane.back(attempt.mail)
                return
            work = None if attempt is following else self._desk.work(attempt.mail, self.extensions)
            following = None
            self.busy = True
            try:
                if work is not None and not await self._desk.prepare(attempt, work):
                    self._desk.report(self._lane, attempt)
                    continue
                attempt, following = await carrier.deliver(attempt)
            except (StoreError, OSError) as error:
                attempt.settle(attempt.waiting, Verdict.RELAY, f"the message can't be read: {error}")
            finally:
                self.busy = False
            self._lane.finish(attempt)
        if following is not None:
            self._lane.back(following.mail)
