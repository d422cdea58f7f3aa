"""The books of a sender: results that wait for a commit, the claims made with it, the lease, the past-dot notes.

A claim is committed before the attempt, and a note before the final dot; so whoever finds a dead sender's claims knows
which mails the relay may have already. Results are committed as they come: all that came during the last sync
together, and the next claims with them.
"""

from __future__ import annotations

import asyncio
import time
from functools import partial
from typing import TYPE_CHECKING

from workers.mail.words import seconds
from workers.spool import claims, recovery
from workers.spool.dots import Dots, path_of
from workers.spool.log import line
from workers.store.database import StoreError
from workers.store.leases import LeaseLost

if TYPE_CHECKING:
    from typing import Protocol

    from workers.spool.attempt import Attempt
    from workers.spool.claims import Mail, Result
    from workers.spool.notices import Notices
    from workers.store.database import Transaction
    from workers.store.leases import Lease
    from workers.store.writer import Writer

    class Host(Protocol):
        """What the committer needs of the sender."""

        @property
        def ending(self) -> bool:
            """Whether it was asked to end: nothing more is claimed."""

        def wants(self) -> list[tuple[str, int, int]]:
            """(lane, mails, recipients of each at most) of all lanes that want some."""

        def feed(self, lane: str, mails: list[Mail], most: int) -> None:
            """Hands over what was claimed for a lane, of `most` that were wanted."""

        def drop(self, why: str) -> None:
            """Breaks off everything in hand: it is no longer ours."""

        def in_hand(self) -> bool:
            """Whether something claimed has no result yet."""

        def scan(self) -> None:
            """Looks what is due."""

        def rested(self) -> None:
            """Called when everything is committed for now."""

        def problem(self, text: str) -> None:
            """Says what is wrong."""

        async def pause(self, limit_s: float) -> None:
            """Waits so long, or until it is asked to end."""


STORE_PAUSE_S = 5.0


class Committer:
    """Runs in the sender's event loop; the transactions run in the writer's thread."""

    def __init__(self, database: str, writer: Writer, lease: Lease, notices: Notices, host: Host) -> None:
        """`database` is the path of the spool."""
        self.committing = False
        self._database = database
        self._writer = writer
        self._lease = lease
        self._notices = notices
        self._host = host
        self._dots: Dots | None = None
        self._results: list[Result] = []
        self._notes: list[tuple[Dots, int]] = []
        self._lines: list[str] = []
        self._work = asyncio.Event()
        self._last = False

    def add(self, result: Result, words: str) -> None:
        """Takes a result, with its line for the log."""
        self._results.append(result)
        self._lines.append(words)

    def close_note(self, note: tuple[Dots, int]) -> None:
        """The note of an attempt is needed until its results are committed."""
        self._notes.append(note)

    def hungry(self) -> None:
        """There is something to commit, or to claim."""
        self._work.set()

    def busy(self) -> bool:
        """Whether something is being committed, or waits for it."""
        return self.committing or bool(self._results) or self._work.is_set()

    def past_dot(self, attempt: Attempt) -> bool:
        """Notes that the final dot is about to go out; False when the claim does not surely hold any more."""
        if self._dots is None or not self._lease.lasts():
            return False
        try:
            slot = self._dots.past(attempt.mail.claim, [recipient.id for recipient in attempt.waiting])
        except OSError as error:
            self._host.problem(f"{self._dots.path}: {error.strerror}")
            return False
        attempt.note = self._dots, slot
        return True

    def taken(self, attempt: Attempt, answer: str) -> None:
        """Notes that the relay has taken the mail."""
        if attempt.note is not None:
            dots, slot = attempt.note
            dots.answered(slot, attempt.mail.claim, [recipient.id for recipient in attempt.waiting], answer)

    async def register(self) -> None:
        """Makes this process known as an owner of claims. Raises StoreError."""
        owner_id = await self._writer.do(self._lease.register)
        try:
            self._dots = Dots(path_of(self._database, owner_id))
        except OSError as error:
            raise StoreError("other", f"{error.filename}: {error.strerror}") from None

    async def run(self) -> None:
        """Commits whenever there is something to; after `end` until the last results, or when those can't be written."""
        while True:
            await self._work.wait()
            self._work.clear()
            self.committing = True
            good = await self._commit()
            self.committing = False
            if self._last and (not good or not self._results):
                return
            if not good:
                await self._host.pause(STORE_PAUSE_S)
                self._work.set()
            else:
                self._host.rested()

    def end(self) -> None:
        """Nothing comes any more."""
        self._last = True
        self._work.set()

    async def leave(self) -> bool:
        """The clean end; False when not all could be written: that is found as a dead sender's then."""
        if self._results:
            return False
        try:
            if self._dots is not None and await self._writer.do(partial(recovery.leave, owner=self._lease.owner)):
                self._dots.close()
        except StoreError as error:
            self._host.problem(str(error))
        return True

    async def renew(self) -> None:
        """Renews the lease while something is claimed and nothing else renews it."""
        if self._dots is None or not self._lease.due() or not (self._results or self._host.in_hand()):
            return
        try:
            await self._writer.do(self._lease.renew)
        except LeaseLost:
            self._lost()
        except StoreError as error:
            self._host.problem(f"the lease can't be renewed: {error}")

    async def _commit(self) -> bool:
        """One transaction: the results that are there, and claims for the lanes that want some."""
        wants = [] if self._host.ending else self._host.wants()
        results, notes, lines = self._results, self._notes, self._lines
        if not results and not wants:
            return True
        self._results, self._notes, self._lines = [], [], []
        now = time.time()
        try:
            if wants and self._dots is None:
                await self.register()
            written, told, fed = await self._writer.do(partial(self._transaction, results=results, wants=wants, now=now))
        except (StoreError, LeaseLost) as error:
            self._results, self._notes, self._lines = results + self._results, notes + self._notes, lines + self._lines
            if isinstance(error, LeaseLost):
                self._lost()
                return True
            self._host.problem(f"the spool can't be used: {error}; next try in {seconds(STORE_PAUSE_S)}")
            return False
        for dots, slot in notes:
            dots.free(slot)
        said = [words for result, words in zip(results, lines, strict=True) if result.id in written]
        if len(said) < len(lines):
            said.append(f"{len(lines) - len(said)} results came too late: another sender has taken over these recipients")
        if said:
            line("\n".join(said))
        for (name, most, _), mails in zip(wants, fed, strict=True):
            self._host.feed(name, mails, most)
        if told or any(result.state != "sent" and result.due_at <= now for result in results):
            self._host.scan()
        return True

    def _transaction(
        self, transaction: Transaction, results: list[Result], wants: list[tuple[str, int, int]], now: float
    ) -> tuple[set[int], int, list[list[Mail]]]:
        """Whose results were written, the number of reports queued, and what was claimed. Runs in the writer's thread:
        it touches nothing of the sender but the lease."""
        written = claims.settle(transaction, results, now)
        told = self._notices.write(transaction, [result for result in results if result.id in written], now)
        claims.follow(transaction, (result.mail_id for result in results))
        return (
            written,
            told,
            [claims.claim(transaction, self._lease, name, most, per_mail, now) for name, most, per_mail in wants],
        )

    def _lost(self) -> None:
        """Another worker has taken over what this one had claimed; it begins anew, as a new owner."""
        self._host.problem("this sender stood still for so long that another one has taken over its mail")
        self._host.drop("the lease was lost")
        if self._dots is not None:
            self._dots.forget()
            self._dots = None
        self.hungry()
