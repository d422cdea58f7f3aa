"""One way out and all that goes there: its connections, what is claimed for it, and when it may be asked.

A lane is a relay of mail.toml or the Maildir. Lanes know nothing of each other: a dead one holds up no other.
"""

from __future__ import annotations

import asyncio
import os
import time
from collections import deque
from typing import TYPE_CHECKING

from workers.spool.attempt import Attempt
from workers.spool.delivery import Effect, Verdict
from workers.spool.gate import FORGIVEN_S, Gate, Growth, Rate
from workers.spool.link import Link

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine
    from typing import Any

    from workers.spool.claims import Mail
    from workers.spool.desk import Desk, Terms
    from workers.spool.outlet import Carrier, Trouble

IDLE_S = 2.0  # a connection waits so long for the next mail
AHEAD = 8  # mails claimed for each connection: enough to be busy during a commit, few enough for a power cut


class Lane:
    """Runs in the sender's event loop. `connect` opens a way out for a guard, or raises Trouble."""

    def __init__(self, name: str, title: str, terms: Terms, connect: Callable[[Link], Coroutine[Any, Any, Carrier]], desk: Desk):
        self.name = name
        self.title = title
        self.terms = terms
        self.due = False  # the store has more for this lane
        self.gate = Gate()
        self.growth = Growth(terms.connections)
        self.links: set[Link] = set()
        self._shown: tuple[float, int] | None = None  # when the relay took no more recipients than these
        self._rate = Rate(terms.rate)
        self._connect = connect
        self._desk = desk
        self._mails: deque[Mail] = deque()  # claimed and not begun
        self._waiters: deque[asyncio.Future[None]] = deque()
        self._loop = asyncio.get_running_loop()
        self._timer: asyncio.TimerHandle | None = None
        self._progress = 0
        self._stopping = False
        self._password_file = terms.password_file
        self._password_at: int | None = None

    def wanted(self) -> int:
        """How many mails shall be claimed now."""
        ready = sum(link.carrier is not None for link in self.links)
        if not self.due or self._stopping or not ready or self.gate.left_s(self._loop.time()) > 0:
            return 0
        target = ready * AHEAD if self._rate.left_s(self._loop.time()) == 0 and self.terms.rate is None else ready
        return target - len(self._mails) if len(self._mails) <= target // 2 else 0

    @property
    def recipients(self) -> int:
        """How many recipients of a mail may share a transaction: the setting, or what the relay has shown lately."""
        if self._shown is not None and self._loop.time() - self._shown[0] < FORGIVEN_S:
            return min(self.terms.recipients, self._shown[1])
        return self.terms.recipients

    def in_hand(self) -> bool:
        """Whether something claimed has no result yet."""
        return bool(self._mails) or any(link.busy for link in self.links)

    def feed(self, mails: list[Mail]) -> None:
        """Takes what was claimed for this lane."""
        self._mails.extend(mails)
        self._release_if_shut()
        for _ in range(min(len(self._mails), len(self._waiters))):
            self._wake()
        self.pump()

    def pump(self) -> None:
        """Opens connections as far as there is need and leave."""
        now = self._loop.time()
        if self._stopping or not (self.due or self._mails):
            return
        left_s = self.gate.left_s(now)
        if left_s > 0:
            self._again_in(left_s)
            return
        active, room = self._active(), self.growth.limit(now) - len(self.links)
        if not active:
            if room > 0 or not self.links:
                self._open()
        elif all(link.carrier for link in active) and not self.gate.is_shut() and self._mails and not self._waiters:
            for _ in range(min(room, len(self._mails))):
                self._open()

    def tick(self, now: float) -> None:
        """Each second: ends steps that last too long, and sees when all connections do nothing but wait."""
        for link in self.links:
            if link.carrier is not None:
                link.carrier.expire(now)
        if self._mails and not self._waiters and not self._progress:
            self.growth.slow()
            self.pump()
        self._progress = 0

    def take(self, link: Link, *, patient: bool) -> Attempt | None:
        """The next mail for a connection that may carry one more at once; only a `patient` one gets a mail that is to
        be prepared first."""
        now = self._loop.time()
        over = link.mails >= self.terms.mails or len(self._active()) > self.growth.limit(now)
        if not self._mails or self._stopping or over or self._rate.left_s(now) > 0 or self.gate.left_s(now) > 0:
            return None
        if not patient and self._desk.work(self._mails[0], link.extensions) is not None:
            return None
        self._rate.take(now)
        attempt = Attempt(self._mails.popleft())
        link.mails += 1
        if self.due and len(self._mails) * 2 <= AHEAD:
            self._desk.hungry()
        return attempt

    async def next(self, link: Link) -> Attempt | None:
        """Waits for the next mail; None when the connection shall end."""
        while not self._stopping and link.mails < self.terms.mails:
            attempt = self.take(link, patient=True)
            if attempt is not None:
                return attempt
            left_s = self._rate.left_s(self._loop.time()) if self._mails else 0.0
            if self._mails and left_s == 0:
                return None  # there are too many connections, or this one is old
            if self.due:
                self._desk.hungry()
            if not await self._fed(left_s or IDLE_S) and left_s == 0:
                break
        return None

    def back(self, mail: Mail) -> None:
        """A mail that was taken, and of which no relay has the body."""
        self._mails.appendleft(mail)
        self._release_if_shut()
        if self._mails and self._waiters:
            self._wake()

    def finish(self, attempt: Attempt) -> None:
        """An attempt has come to its end."""
        self._progress += 1
        now = self._loop.time()
        if attempt.most_recipients:
            self._shown = now, max(1, attempt.most_recipients)
        if attempt.effect is Effect.REFUSED:
            pause_s = self.gate.refused(attempt.trouble, now, self.terms.pause_s)
            self._shut(attempt.trouble, pause_s)
        elif attempt.effect is Effect.CROWDED and len(self.links) > 1:
            self.growth.crowded(now, len(self.links))
        elif attempt.effect is not Effect.NONE:
            pause = self.gate.cut(attempt.trouble, now)
            if pause is not None:
                self._shut(attempt.trouble, pause)
        elif any(verdict not in (Verdict.RELAY, Verdict.AGAIN) for _, verdict, _, _ in attempt.results):
            if self.gate.answered():
                self._desk.said(self, "answers again")
            waiting = self.due or bool(self._mails)
            ready = sum(link.carrier is not None for link in self.links)
            self.growth.carried(now, time.process_time(), ready, waiting=waiting)
        self._desk.report(self, attempt)

    def left(self, link: Link, trouble: Trouble | None) -> None:
        """A connection has ended, or was not to be had."""
        self.links.discard(link)
        if trouble is not None:
            now = self._loop.time()
            if self.links:  # others are at work, so it is this one that was too many
                self.growth.crowded(now, len(self.links) + 1)
            elif trouble.refused:
                self._shut(str(trouble), self.gate.refused(str(trouble), now, self.terms.pause_s))
            else:
                self._shut(str(trouble), self.gate.down(str(trouble), now, trouble.pause_s))
        if not self.links:
            self.growth.idle()
        self.pump()
        self._desk.hungry()

    def credentials_changed(self) -> bool:
        """Whether the file with the password was changed since the breaker opened; once."""
        if not self.gate.is_shut() or self._password_file is None:
            return False
        found = _written_at(self._password_file)
        changed = found != self._password_at
        self._password_at = found
        return changed

    def reopen(self) -> None:
        """Forgets its trouble and tries at once."""
        self.gate.open()
        self.pump()

    def stop(self) -> None:
        """Begins nothing more; what is in hand comes to its end."""
        self._stopping = True
        self.release("the sender was asked to end")
        while self._waiters:
            self._wake()
        for link in list(self.links):
            if link.carrier is None:
                link.task.cancel()

    def cut(self, why: str) -> None:
        """Breaks off what is in hand."""
        for link in list(self.links):
            if link.carrier is not None:
                link.carrier.cut(why)

    def release(self, why: str) -> None:
        """Gives back what is claimed and not begun."""
        while self._mails:
            attempt = Attempt(self._mails.popleft())
            attempt.settle(attempt.waiting, Verdict.AGAIN, why)
            self._desk.report(self, attempt)

    def _release_if_shut(self) -> None:
        if self._stopping:
            self.release("the sender was asked to end")
        elif self.gate.left_s(self._loop.time()) > 0:
            self.release(self.gate.problem)

    def _active(self) -> list[Link]:
        return [link for link in self.links if not link.leaving]

    def _shut(self, problem: str, pause_s: float) -> None:
        if self._password_file is not None:
            self._password_at = _written_at(self._password_file)
        self._desk.said(self, problem)
        self.release(problem)
        self._again_in(pause_s)

    def _again_in(self, pause_s: float) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer = self._loop.call_later(pause_s, self.pump)

    def _open(self) -> None:
        link = Link(self, self._desk)
        self.links.add(link)
        link.task = self._desk.start(link.run(self._connect))

    async def _fed(self, limit_s: float) -> bool:
        """Whether there is something to take before the time is over."""
        waiter = self._loop.create_future()
        self._waiters.append(waiter)
        timer = self._loop.call_later(limit_s, _end_wait, waiter)
        try:
            await waiter
        finally:
            timer.cancel()
            if waiter in self._waiters:
                self._waiters.remove(waiter)
        return bool(self._mails)

    def _wake(self) -> None:
        _end_wait(self._waiters.popleft())


def _written_at(path: str) -> int | None:
    try:
        return os.stat(path).st_mtime_ns
    except OSError:
        return None


def _end_wait(waiter: asyncio.Future[None]) -> None:
    if not waiter.done():
        waiter.set_result(None)
