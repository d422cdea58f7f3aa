"""The sender: one event loop that knows what is due, brings it to its lanes, and books what came of it."""

from __future__ import annotations

import asyncio
import os
import random
import time
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING

from workers.mail.errors import OK, TRY_AGAIN
from workers.mail.words import plain, when
from workers.spool import claims, recovery
from workers.spool.attempt import Attempt
from workers.spool.claims import NEVER, Result
from workers.spool.committer import STORE_PAUSE_S, Committer
from workers.spool.content import NotFit, Work, made
from workers.spool.delivery import Verdict, outcome
from workers.spool.log import event, line
from workers.store.database import StoreError

if TYPE_CHECKING:
    from collections.abc import Coroutine, Iterable, Mapping
    from typing import Any

    from workers.mail.config import Config
    from workers.spool.claims import Mail
    from workers.spool.desk import Named
    from workers.spool.lane import Lane
    from workers.spool.notices import Notices
    from workers.store.leases import Lease, Owner
    from workers.store.sqlite import SqliteDatabase
    from workers.store.writer import Writer

LOOK_S = 60.0  # a clock that is set, or a host that slept, makes what is due wait so long at most
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
        self.taking = False  # rows of mail_outbox are being made into mails
        self._database = database
        self._writer = writer
        self._lease = lease
        self._books = Committer(config.database, writer, lease, notices, self)
        self._signs = any(identity.dkim is not None for identity in config.identities.values())
        self._ending = asyncio.Event()
        self._drain = False
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
        await self._note("sender.forget_lanes", ())  # what an earlier sender had trouble with
        await self._books.register()
        commits = self.start(self._books.run())
        self.scan()
        self.rested()
        await self._ending.wait()
        await self._wind_up()
        self._books.end()
        await asyncio.gather(commits, return_exceptions=True)
        if self._crash is not None:
            raise self._crash
        if not await self._books.leave():
            self._status = TRY_AGAIN
        return TRY_AGAIN if drain and any(lane.gate.is_shut() for lane in self.lanes.values()) else self._status

    def end(self) -> None:
        """Asks it to end: what is in hand is finished, within GRACE_S."""
        self._ending.set()

    def asked_to_end(self) -> None:
        """Asked from outside: it ends, also when it was about to begin anew."""
        self._status = OK if self._status == RELOAD else self._status
        self.end()

    def reload(self) -> None:
        """Ends as `end`, so that the process begins anew with what is in mail.toml now."""
        if not self.ending:
            self._status = RELOAD
            self.end()

    def give_up(self, text: str) -> None:
        """Ends with 75: the store can't be used any more, and whoever starts this again gets another one."""
        self.problem(text)
        self._status = TRY_AGAIN
        self.end()

    @property
    def ending(self) -> bool:
        """Whether it was asked to end."""
        return self._ending.is_set()

    async def renew(self) -> None:
        """Renews the lease, if need be."""
        await self._books.renew()

    @property
    def watcher(self) -> Owner:
        """This process as an owner of claims."""
        return self._lease.owner

    # What lanes ask for (desk.Desk).

    def past_dot(self, attempt: Attempt) -> bool:
        """Notes that the final dot is about to go out; False when the claim does not surely hold any more."""
        return self._books.past_dot(attempt)

    def taken(self, attempt: Attempt, answer: str) -> None:
        """Notes that the relay has taken the mail."""
        self._books.taken(attempt, answer)

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

    def report(self, lane: Named, attempt: Attempt) -> None:
        """Takes the results of an attempt; they are committed with the next transaction."""
        now = time.time()
        mail = attempt.mail
        for recipient, verdict, text, asked_s in attempt.results:
            state, failures, due_at = outcome(verdict, recipient.failures, now, mail.expires_at, random.random(), asked_s)
            unknown = int(verdict is Verdict.UNKNOWN)
            if unknown and self.config.unknown == "hold":
                state, due_at = "unknown", NEVER
            words = event(mail.id, recipient.address, state, verdict.value, text, due_at - now)
            self._books.add(Result(recipient, mail, lane.name, state, failures, unknown, due_at, text), words)
            self.sent += state == "sent"
            if state == "queued" or (state in ("deferred", "unknown") and due_at <= now):
                lane.due = True
            elif state in ("deferred", "unknown"):
                self._look_at(due_at)
        if attempt.note is not None:
            self._books.close_note(attempt.note)
        if attempt.content is not None:
            attempt.content.close()
        self.hungry()

    def hungry(self) -> None:
        """There is something to commit, or to claim."""
        self._books.hungry()

    def said(self, lane: Named, text: str) -> None:
        """A line about a lane; what stops it is written down for those who ask why."""
        left_s = lane.gate.left_s(asyncio.get_running_loop().time())
        if lane.gate.is_shut():
            self.problem(f"{lane.title}: {text}; next try {when(left_s)}")
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
            self.problem(str(error))
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
        when = loop.time() + min(max(0.0, due_at - time.time()), LOOK_S)
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
            self.problem(str(error))
            await self.pause(STORE_PAUSE_S)
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
            self.problem(str(error))
        self.scan()

    # What the books ask for (committer.Host).

    def wants(self) -> list[tuple[str, int, int]]:
        """(lane, mails, recipients of each at most) of all lanes that want some."""
        found = [(name, lane.wanted(), lane.recipients) for name, lane in self.lanes.items()]
        return [want for want in found if want[1] > 0]

    def in_hand(self) -> bool:
        """Whether something claimed has no result yet."""
        return any(lane.in_hand() for lane in self.lanes.values())

    def drop(self, why: str) -> None:
        """Breaks off everything in hand: it is no longer ours."""
        for lane in self.lanes.values():
            lane.release(why)
            lane.cut(why)

    def feed(self, lane: str, mails: list[Mail], most: int) -> None:
        """Hands over what was claimed for a lane, of `most` that were wanted."""
        found = self.lanes[lane]
        if sum(len(mail.recipients) for mail in mails) < most:
            found.due = False
            asyncio.get_running_loop().call_soon(self.scan)
        now = time.time()
        late = [mail for mail in mails if mail.expires_at <= now]
        for mail in late:
            attempt = Attempt(mail)
            attempt.settle(attempt.waiting, Verdict.EXPIRED, "its time was over before it could be sent")
            self.report(found, attempt)
        found.feed([mail for mail in mails if mail.expires_at > now] if late else mails)

    async def _note(self, statement: str, row: tuple[Any, ...]) -> None:
        try:
            await self._writer.do(lambda transaction: transaction.run(statement, row))
        except StoreError as error:
            self.problem(str(error))

    def rested(self) -> None:
        """With `drain`: ends when nothing is left that could be sent now."""
        if not self._drain or self._books.busy() or self._relaning or self.taking:
            return
        if not any(lane.in_hand() or (lane.due and not lane.gate.is_shut()) for lane in self.lanes.values()):
            self.end()

    # How it ends.

    async def _wind_up(self) -> None:
        for lane in self.lanes.values():
            lane.stop()
        for limit_s in (GRACE_S, 1.0):
            links = {link.task for lane in self.lanes.values() for link in lane.links}
            if links and self._crash is None:
                await asyncio.wait(links, timeout=limit_s)
            for lane in self.lanes.values():
                lane.cut("the sender was asked to end")

    async def pause(self, limit_s: float) -> None:
        """Waits so long, or until it is asked to end."""
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

    def problem(self, text: str) -> None:
        """Says what is wrong, here and to a supervisor."""
        self.last_problem = text
        line(text)
