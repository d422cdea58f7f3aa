"""The sender: one event loop that brings what is due to its lanes, and one writer that commits what came of it.

A claim is committed before the attempt, and a note before the final dot; so whoever finds a dead sender's claims knows
which mails the relay may have already. Results are committed as they come: all that came during the last sync
together, and the next claims with them.
"""

from __future__ import annotations

import asyncio
import os
import random
import time
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING

from workers.mail.errors import OK, TRY_AGAIN
from workers.spool import claims, outbox, recovery
from workers.spool.attempt import Attempt
from workers.spool.claims import NEVER, Result
from workers.spool.content import NotFit, Work, made
from workers.spool.delivery import Verdict, outcome
from workers.spool.dots import Dots, path_of
from workers.spool.log import event, line, plain, seconds
from workers.store.database import StoreError
from workers.store.leases import LeaseLost

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Iterable, Mapping
    from typing import Any

    from workers.mail.config import Config
    from workers.spool.claims import Mail
    from workers.spool.lane import Lane
    from workers.spool.notices import Notices
    from workers.store.database import Transaction
    from workers.store.leases import Lease, Owner
    from workers.store.sqlite import SqliteDatabase
    from workers.store.writer import Writer

STORE_PAUSE_S = 5.0
LAST_PAUSE_S = 0.5  # the same while it ends
RELOAD = -1  # in place of an exit status: begin anew
GRACE_S = 7.0  # under the 10 s after which guard kills


class Sender:
    """Sends what is due until it is asked to end. Lives inside one event loop; `database` is for reading."""

    def __init__(self, config: Config, database: SqliteDatabase, writer: Writer, lease: Lease, notices: Notices) -> None:
        self.config = config
        self.lanes: dict[str, Lane] = {}
        self.sent = 0
        self.last_problem = ""
        self._database = database
        self._writer = writer
        self._lease = lease
        self._notices = notices
        self._signs = any(identity.dkim is not None for identity in config.identities.values())
        self._dots: Dots | None = None
        self._results: list[Result] = []
        self._notes: list[tuple[Dots, int]] = []
        self._lines: list[str] = []
        self._committing = False
        self._work = asyncio.Event()
        self._ending = asyncio.Event()
        self._drain = False
        self._last = False
        self._crash: BaseException | None = None
        self._status = OK
        self._relaning: set[str] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._due_timer: asyncio.TimerHandle | None = None

    async def run(self, *, drain: bool = False) -> int:
        """Sends until asked to stop, or, with `drain`, until nothing is due; the exit status: 0, or 75 when draining
        was ended by trouble of a relay. Raises StoreError when the store can't be used from the start.
        """
        self._drain = drain
        await self.recover()
        await self._register()
        commits = self.start(self._commits())
        self.scan()
        self._drained()
        await self._ending.wait()
        await self._wind_up()
        self._last = True
        self._work.set()
        await asyncio.gather(commits, return_exceptions=True)
        if self._crash is not None:
            raise self._crash
        await self._leave()
        return TRY_AGAIN if drain and any(lane.gate.is_shut() for lane in self.lanes.values()) else self._status

    def end(self) -> None:
        """Asks it to end: what is in hand is finished, within GRACE_S."""
        self._ending.set()

    def reload(self) -> None:
        """Ends as `end`, so that the process begins anew with what is in mail.toml now."""
        if not self.ending:
            self._status = RELOAD
            self.end()

    def give_up(self, text: str) -> None:
        """Ends with 75: the store can't be used any more, and whoever starts this again gets another one."""
        self._problem(text)
        self._status = TRY_AGAIN
        self.end()

    @property
    def ending(self) -> bool:
        """Whether it was asked to end."""
        return self._ending.is_set()

    @property
    def watcher(self) -> Owner:
        """This process as an owner of claims."""
        return self._lease.owner

    # What lanes ask for (lane.Desk).

    def past_dot(self, attempt: Attempt) -> bool:
        """Notes that the final dot is about to go out; False when the claim does not surely hold any more."""
        if self._dots is None or not self._lease.lasts():
            return False
        try:
            slot = self._dots.past(attempt.mail.claim, [recipient.id for recipient in attempt.waiting])
        except OSError as error:
            self._problem(f"{self._dots.path}: {error.strerror}")
            return False
        attempt.note = self._dots, slot
        return True

    def taken(self, attempt: Attempt, answer: str) -> None:
        """Notes that the relay has taken the mail."""
        if attempt.note is not None:
            dots, slot = attempt.note
            dots.answered(slot, attempt.mail.claim, [recipient.id for recipient in attempt.waiting], answer)

    def parts(self, attempt: Attempt) -> Iterable[bytes]:
        """The message in parts. Raises StoreError."""
        return claims.body_parts(self._database, attempt.mail)

    def work(self, mail: Mail, extensions: Mapping[str, str]) -> Work | None:
        """What is to be done to a mail before a relay with these extensions gets it; None: nothing."""
        if not (self._signs or mail.long_lines or mail.eight_bit):
            return None
        work = Work(mail, self.config.identity(mail.sender), eight_bit="8bitmime" in extensions)
        return work if work.needed() else None

    async def prepare(self, attempt: Attempt, work: Work) -> bool:
        """Does it; False when it could not be done, and the attempt has its results."""
        folder = os.path.dirname(self.config.database)
        try:
            attempt.content = await made(work, attempt.mail.size_bytes, self.parts(attempt), folder)
        except NotFit as error:
            verdict = Verdict.FAILED if error.final else Verdict.DEFERRED
            attempt.settle(attempt.waiting, verdict, f"{'554 5.6.3 ' if error.final else ''}{plain(str(error))}")
        except OSError as error:
            attempt.settle(attempt.waiting, Verdict.DEFERRED, f"the message can't be prepared: {error.strerror}")
        return attempt.content is not None

    def report(self, lane: Lane, attempt: Attempt) -> None:
        """Takes the results of an attempt; they are committed with the next transaction."""
        now = time.time()
        mail = attempt.mail
        for recipient, verdict, text, asked_s in attempt.results:
            state, failures, due_at = outcome(verdict, recipient.failures, now, mail.expires_at, random.random(), asked_s)
            unknown = int(verdict is Verdict.UNKNOWN)
            if unknown and self.config.unknown == "hold":
                state, due_at = "unknown", NEVER
            self._results.append(Result(recipient, mail, lane.name, state, failures, unknown, due_at, text))
            self._lines.append(event(mail.id, recipient.address, state, verdict.value, text, due_at - now))
            self.sent += state == "sent"
            if state == "queued" or (state in ("deferred", "unknown") and due_at <= now):
                lane.due = True
            elif state in ("deferred", "unknown"):
                self._look_at(due_at)
        if attempt.note is not None:
            self._notes.append(attempt.note)
        if attempt.content is not None:
            attempt.content.close()
        self.hungry()

    def hungry(self) -> None:
        """There is something to commit, or to claim."""
        self._work.set()

    def said(self, lane: Lane, text: str) -> None:
        """A line about a lane; what stops it is written down for those who ask why."""
        left_s = lane.gate.left_s(asyncio.get_running_loop().time())
        if lane.gate.is_shut():
            self._problem(f"{lane.title}: {text}; next try in {seconds(left_s)}")
            row: tuple[Any, ...] = (lane.name, text, time.time() + left_s, time.time())
            self.start(self._note("sender.note_lane", row))
        else:
            line(f"{lane.title}: {text}")
            self.start(self._note("sender.forget_lane", (lane.name,)))

    def start(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        """Runs it beside the rest; what it does not catch ends the process."""
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._over)
        return task

    # What is due.

    def scan(self) -> None:
        """Looks what is due in each lane, and when the next will be."""
        now = time.time()
        try:
            waiting = [row[0] for row in self._database.run("sender.lanes")]
            times = {name: claims.next_due_at(self._database, name) for name in waiting}
        except StoreError as error:
            self._problem(str(error))
            self._look_at(now + STORE_PAUSE_S)
            return
        for name, due_at in times.items():
            lane = self.lanes.get(name)
            if lane is None:
                if name not in self._relaning:
                    self._relaning.add(name)
                    self.start(self._relane(name))
            elif due_at is not None and due_at <= now:
                lane.due = True
                lane.pump()
            elif due_at is not None:
                self._look_at(due_at)
        self.hungry()

    def _look_at(self, due_at: float) -> None:
        """Scans again at this time, or before."""
        loop = asyncio.get_running_loop()
        when = loop.time() + min(max(0.0, due_at - time.time()), 3600.0)
        if self._due_timer is not None and not self._due_timer.cancelled():
            if self._due_timer.when() <= when and self._due_timer.when() > loop.time():
                return
            self._due_timer.cancel()
        self._due_timer = loop.call_at(when, self.scan)

    async def _relane(self, name: str) -> None:
        """Finds the way anew for rows of a lane that mail.toml no longer has."""
        after = 0
        lane_of = self.config.lane
        try:
            while not self.ending:
                after = await self._writer.do(partial(claims.relane, name=name, after=after, lane_of=lane_of))
                if not after:
                    break
        except StoreError as error:
            self._problem(str(error))
            await self._pause(STORE_PAUSE_S)
        self._relaning.discard(name)
        if not self.ending:
            self.scan()

    async def recover(self) -> None:
        """Takes over what dead senders had claimed. Raises StoreError."""
        hold = self.config.unknown == "hold"
        found = await self._writer.do(partial(recovery.recover, path=self.config.database, watcher=self._lease.owner, hold=hold))
        for words in found.lines():
            line(words)
        recovery.forget_notes(self.config.database, found.owners)

    async def recover_again(self) -> None:
        """As `recover`, while at work."""
        try:
            await self.recover()
        except StoreError as error:
            self._problem(str(error))
        self.scan()

    # What is committed.

    async def _commits(self) -> None:
        """Commits whenever there is something to; ends behind the last results, or when those can't be written."""
        while True:
            await self._work.wait()
            self._work.clear()
            self._committing = True
            good = await self._commit()
            self._committing = False
            if self._last and (not good or not self._results):
                return
            if not good:
                await self._pause(STORE_PAUSE_S)
                self._work.set()
            elif self._drain:
                self._drained()

    async def _commit(self) -> bool:
        """One transaction: the results that are there, and claims for the lanes that want some."""
        wants = [] if self.ending else [(name, lane.wanted(), lane.recipients) for name, lane in self.lanes.items()]
        wants = [want for want in wants if want[1] > 0]
        results, notes, lines = self._results, self._notes, self._lines
        if not results and not wants:
            return True
        self._results, self._notes, self._lines = [], [], []
        now = time.time()
        try:
            if wants and self._dots is None:
                await self._register()
            told, fed = await self._writer.do(partial(self._transaction, results=results, wants=wants, now=now))
        except (StoreError, LeaseLost) as error:
            self._results, self._notes, self._lines = results + self._results, notes + self._notes, lines + self._lines
            if isinstance(error, LeaseLost):
                self._lost_lease()
                return True
            self._problem(f"the spool can't be used: {error}; next try in {seconds(STORE_PAUSE_S)}")
            return False
        for dots, slot in notes:
            dots.free(slot)
        if lines:
            line("\n".join(lines))
        for (name, most, _), mails in zip(wants, fed, strict=True):
            self._feed(self.lanes[name], mails, most)
        if told or any(result.state != "sent" and result.due_at <= now for result in results):
            self.scan()
        return True

    def _transaction(
        self, transaction: Transaction, results: list[Result], wants: list[tuple[str, int, int]], now: float
    ) -> tuple[int, list[list[Mail]]]:
        """The number of reports queued, and what was claimed. Runs in the writer's thread: it touches nothing of the
        sender but the lease."""
        written = claims.settle(transaction, results, now)
        told = self._notices.write(transaction, [result for result in results if result.id in written], now)
        outbox.follow(transaction, (result.mail_id for result in results))
        return told, [claims.claim(transaction, self._lease, name, most, per_mail, now) for name, most, per_mail in wants]

    def _feed(self, lane: Lane, mails: list[Mail], most: int) -> None:
        if sum(len(mail.recipients) for mail in mails) < most:
            lane.due = False
            asyncio.get_running_loop().call_soon(self.scan)
        now = time.time()
        late = [mail for mail in mails if mail.expires_at <= now]
        for mail in late:
            attempt = Attempt(mail)
            attempt.settle(attempt.waiting, Verdict.EXPIRED, "its time was over before it could be sent")
            self.report(lane, attempt)
        lane.feed([mail for mail in mails if mail.expires_at > now] if late else mails)

    async def _register(self) -> None:
        owner_id = await self._writer.do(self._lease.register)
        try:
            self._dots = Dots(path_of(self.config.database, owner_id))
        except OSError as error:
            raise StoreError("other", f"{error.filename}: {error.strerror}") from None

    def _lost_lease(self) -> None:
        """Another worker has taken over what this one had claimed; it begins anew, as a new owner."""
        self._problem("this sender stood still for so long that another one has taken over its mail")
        for lane in self.lanes.values():
            lane.release("the lease was lost")
            lane.cut("the lease was lost")
        if self._dots is not None:
            self._dots.forget()
            self._dots = None
        self.hungry()

    async def renew(self) -> None:
        """Renews the lease while something is claimed and nothing else renews it."""
        busy = self._results or any(lane.in_hand() for lane in self.lanes.values())
        if self._dots is None or not busy or not self._lease.due():
            return
        try:
            await self._writer.do(self._lease.renew)
        except LeaseLost:
            self._lost_lease()
        except StoreError as error:
            self._problem(f"the lease can't be renewed: {error}")

    async def _write(self, work: Callable[[Transaction], object]) -> bool:
        try:
            return bool(await self._writer.do(work))
        except StoreError as error:
            self._problem(str(error))
        return False

    async def _note(self, statement: str, row: tuple[Any, ...]) -> None:
        await self._write(lambda transaction: transaction.run(statement, row))

    # How it ends.

    def _drained(self) -> None:
        """With `drain`: ends when nothing is left that could be sent now."""
        if not self._drain or self._committing or self._results or self._relaning or self._work.is_set():
            return
        for lane in self.lanes.values():
            if lane.in_hand() or (lane.due and not lane.gate.is_shut()):
                return
        self.end()

    async def _wind_up(self) -> None:
        for lane in self.lanes.values():
            lane.stop()
        for limit_s in (GRACE_S, 1.0):
            links = {link.task for lane in self.lanes.values() for link in lane.links}
            if links and self._crash is None:
                await asyncio.wait(links, timeout=limit_s)
            for lane in self.lanes.values():
                lane.cut("the sender was asked to end")

    async def _leave(self) -> None:
        """The clean end; what could not be written is found as a dead sender's."""
        if self._dots is not None and not self._results:
            if await self._write(partial(recovery.leave, owner=self._lease.owner)):
                self._dots.close()
        elif self._results:
            self._status = TRY_AGAIN

    async def _pause(self, limit_s: float) -> None:
        if self.ending:
            await asyncio.sleep(LAST_PAUSE_S)
            return
        with suppress(TimeoutError):
            await asyncio.wait_for(self._ending.wait(), limit_s)

    def _over(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None and self._crash is None:
            self._crash = error
            self.end()

    def _problem(self, text: str) -> None:
        self.last_problem = text
        line(text)
