"""A relay, a store and a second hand that are made up, for tests of a lane: seconds pass at once."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Coroutine, Iterable, Mapping
from typing import TYPE_CHECKING, Any
from unittest.mock import patch

from tests.unit.spool_fakes import a_mail, run
from workers.spool.attempt import Attempt
from workers.spool.claims import Mail
from workers.spool.delivery import Effect, Verdict
from workers.spool.desk import Named, Terms
from workers.spool.lane import Lane
from workers.spool.link import Link
from workers.spool.outlet import Trouble
from workers.store.database import StoreError

if TYPE_CHECKING:
    from workers.spool.content import Work

SENT, CUT, AGAIN, UNKNOWN, CROWDED, REFUSED, STORE = "sent", "cut", "again", "unknown", "crowded", "refused", "store"
ENDS = {
    SENT: (Verdict.SENT, Effect.NONE),
    CUT: (Verdict.DEFERRED, Effect.CUT),
    AGAIN: (Verdict.AGAIN, Effect.NONE),
    UNKNOWN: (Verdict.UNKNOWN, Effect.CUT),
    CROWDED: (Verdict.DEFERRED, Effect.CROWDED),
    REFUSED: (Verdict.RELAY, Effect.REFUSED),
}
NOT_DONE = (Verdict.AGAIN, Verdict.RELAY, Verdict.UNKNOWN)


class Relay:
    """How the other side behaves: seconds, and for each mail in turn what becomes of it."""

    def __init__(self, latency_s: float = 0.1, connect_s: float = 0.5, fates: Iterable[str] = ()) -> None:
        self.latency_s = latency_s
        self.connect_s = connect_s
        self.fates = list(fates)
        self.troubles: list[Trouble | None] = []  # for each connection in turn
        self.most: int | None = None  # connections at a time
        self.stale: list[bool] = []
        self.connects: list[float] = []
        self.open = 0
        self.peak = 0


class Way:
    """A carrier that keeps a mail for a while."""

    extensions: Mapping[str, str] = {}

    def __init__(self, world: World, relay: Relay, link: Link) -> None:
        self.carried = 0
        self.lost: str | None = None
        self.closed = False
        self._world = world
        self._relay = relay
        self._link = link

    def is_stale(self) -> bool:
        if self._relay.stale and self._relay.stale.pop(0):
            self.lost = "idle for too long"
        return self.lost is not None

    async def deliver(self, attempt: Attempt) -> tuple[Attempt, Attempt | None]:
        fate = self._relay.fates.pop(0) if self._relay.fates else SENT
        self._world.begun(attempt)
        if fate == STORE:
            self.lost = "the message can't be read"
            raise StoreError("busy", "in use")
        following = self._link.next() if fate in (SENT, UNKNOWN) else None
        await asyncio.sleep(self._relay.latency_s)
        self.carried += 1
        if self.lost is not None and fate == SENT:
            fate = UNKNOWN
        verdict, attempt.effect = ENDS[fate]
        attempt.trouble = "" if attempt.effect is Effect.NONE else fate
        attempt.settle(attempt.waiting, verdict, fate)
        if fate in (CUT, AGAIN, UNKNOWN, CROWDED):
            self.lost = fate
        return attempt, following

    def expire(self, now: float) -> None:
        pass

    def cut(self, why: str) -> None:
        self.lost = why

    async def close(self) -> None:
        await asyncio.sleep(self._relay.latency_s)
        self.lost = self.lost or "closed"


class World:
    """The sender's side: a store with a commit that takes its time, and a second hand."""

    def __init__(self, *, commit_s: float = 0.003) -> None:
        self.store: dict[str, deque[int]] = {}
        self.lanes: list[Lane] = []
        self.claims: dict[int, Lane] = {}
        self.results: list[tuple[str, int, Verdict]] = []
        self.starts: list[float] = []
        self.lines: list[str] = []
        self.errors: list[BaseException] = []
        self._commit_s = commit_s
        self._claim = 0
        self._work = asyncio.Event()
        self._tasks: set[asyncio.Task[None]] = set()
        for work in (self._commits(), self._ticks()):
            self.start(work)

    def lane(self, relay: Relay, waiting: int, *, name: str = "relay", **terms: Any) -> Lane:
        given = {"connections": 20, "mails": 1000, "recipients": 100, "rate": None, "pause_s": 1800.0} | terms

        async def connect(link: Link) -> Way:
            relay.connects.append(asyncio.get_running_loop().time())
            await asyncio.sleep(relay.connect_s)
            trouble = relay.troubles.pop(0) if relay.troubles else None
            if trouble is None and relay.most is not None and relay.open >= relay.most:
                trouble = Trouble("421 too many connections")
            if trouble is not None:
                raise trouble
            relay.open += 1
            relay.peak = max(relay.peak, relay.open)
            link.task.add_done_callback(lambda _: setattr(relay, "open", relay.open - 1))
            return Way(self, relay, link)

        lane = Lane(name, name, Terms(**given), connect, self)
        self.lanes.append(lane)
        self.store[name] = deque(range(1, waiting + 1))
        lane.due = bool(waiting)
        lane.pump()
        return lane

    def begun(self, attempt: Attempt) -> None:
        assert attempt.mail.claim in self.claims, "a mail that is not claimed is under way"
        self.starts.append(asyncio.get_running_loop().time())

    def done(self, verdict: Verdict = Verdict.SENT, name: str = "relay") -> list[int]:
        return [number for lane, number, found in self.results if lane == name and found is verdict]

    # Of the desk.

    def past_dot(self, attempt: Attempt) -> bool:
        return True

    def taken(self, attempt: Attempt, answer: str) -> None:
        pass

    def parts(self, attempt: Attempt) -> Iterable[bytes]:
        return [b"x\r\n"]

    def work(self, mail: Mail, extensions: Mapping[str, str]) -> Work | None:
        return None

    async def prepare(self, attempt: Attempt, work: Work) -> bool:
        raise AssertionError("nothing is to be prepared")

    def report(self, lane: Named, attempt: Attempt) -> None:
        assert self.claims.pop(attempt.mail.claim) is lane, "reported once, by its own lane"
        assert [result[0].id for result in attempt.results] == [each.id for each in attempt.mail.recipients]
        verdict = attempt.results[0][1]
        self.results.append((lane.name, attempt.mail.id, verdict))
        if verdict in NOT_DONE:
            self.store[lane.name].append(attempt.mail.id)
            lane.due = True
        self.hungry()

    def hungry(self) -> None:
        self._work.set()

    def said(self, lane: Named, text: str) -> None:
        self.lines.append(f"{lane.name}: {text}")

    def start(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._over)
        return task

    def _over(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            self.errors.append(error)

    async def _commits(self) -> None:
        while True:
            await self._work.wait()
            self._work.clear()
            wants = [(lane, lane.wanted()) for lane in self.lanes]
            claimed = [(lane, most, self._claim_some(lane, most)) for lane, most in wants if most > 0]
            if claimed:
                await asyncio.sleep(self._commit_s)
            for lane, most, mails in claimed:
                if len(mails) < most:
                    lane.due = bool(self.store[lane.name])
                lane.feed(mails)

    def _claim_some(self, lane: Lane, most: int) -> list[Mail]:
        found: list[Mail] = []
        while self.store[lane.name] and len(found) < most:
            mail = a_mail(self.store[lane.name].popleft())
            self._claim += 1
            mail.claim = self._claim
            self.claims[mail.claim] = lane
            found.append(mail)
        return found

    async def _ticks(self) -> None:
        while True:
            await asyncio.sleep(1.0)
            for lane in self.lanes:
                lane.tick(asyncio.get_running_loop().time())

    async def until(self, condition: Callable[[], bool], limit_s: float = 4000.0, step_s: float = 0.01) -> float:
        """Waits in small steps of made-up time; the seconds since the beginning."""
        loop = asyncio.get_running_loop()
        while not condition():
            assert not self.errors, self.errors
            assert loop.time() < limit_s, f"not within {limit_s} s: {self.results[-5:]} {self.lines[-3:]} {self.store}"
            await asyncio.sleep(step_s)
        return loop.time()


def in_a_world(work: Callable[[World], Coroutine[Any, Any, None]]) -> None:
    async def whole() -> None:
        world = World()
        try:
            await work(world)
        finally:
            for lane in world.lanes:
                lane.stop()
        assert not world.errors, world.errors

    with patch("time.process_time", return_value=0.0):  # no work of ours takes time here
        run(whole())


async def emptied(world: World, lane: Lane, mails: int, limit_s: float = 4000.0) -> float:
    return await world.until(lambda: len(set(world.done(name=lane.name))) == mails, limit_s)
