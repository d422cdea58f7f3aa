"""The sender's only loop: wait, claim what is due of one mail, attempt it, write the results.

A claim is committed before the attempt, and a note before the final dot; so whoever finds a dead sender's claim knows
whether the relay may have the mail already.
"""

from __future__ import annotations

import fcntl
import os
import random
import sqlite3
import time
from typing import TYPE_CHECKING

from workers.mail.errors import OK, TRY_AGAIN, Refused
from workers.spool.delivery import Verdict, outcome
from workers.spool.log import line, plain, seconds
from workers.spool.outlet import Trouble
from workers.spool.pause import Pause
from workers.spool.stop import Stop, Stopping
from workers.spool.store import Settled

if TYPE_CHECKING:
    from workers.spool.bell import Bell
    from workers.spool.outlet import Outlet, Report
    from workers.spool.store import Mail, Store

STORE_PAUSE_S = 5.0


class Sender:
    """The one sender of a spool; the caller holds its lock."""

    def __init__(self, store: Store, outlet: Outlet, bell: Bell, stop: Stop) -> None:
        self._store = store
        self._outlet = outlet
        self._bell = bell
        self._stop = stop
        self._pause = Pause()
        self._boot_id = boot_id()

    def run(self, *, drain: bool = False) -> int:
        """Sends until asked to stop, or, with `drain`, until nothing is due. The exit status: 0, or 75 when draining
        was ended by trouble of the relay.
        """
        self._recover()
        while not self._stop.requested:
            try:
                if drain and self._pause.left_s(time.monotonic()) > 0:
                    return TRY_AGAIN
                if self._wait_or_find(drain=drain):
                    self._attempt()
                elif drain:
                    return OK
            except Stopping:
                break
            except sqlite3.Error as error:
                line(f"the spool can't be used: {error}; next try in {seconds(STORE_PAUSE_S)}")
                if drain:
                    return TRY_AGAIN
                self._stop.wait(STORE_PAUSE_S)
        return OK

    def _recover(self) -> None:
        unknown, unsent = self._store.recover(self._boot_id, time.time())
        if unknown:
            line(f"{unknown} recipients of a sender that died behind the final dot: state unknown, they are sent again")
        if unsent:
            line(f"{unsent} recipients of a sender that died before the final dot are sent again")

    def _wait_or_find(self, *, drain: bool) -> bool:
        """True when there is something to attempt now; else it has slept until there may be."""
        self._bell.hush()
        pause_s = self._pause.left_s(time.monotonic())
        now = time.time()
        if pause_s == 0 and self._store.has_due(now):
            return True
        self._outlet.close()
        if drain:
            return False
        if pause_s > 0:  # a ring changes nothing now
            self._stop.wait(pause_s)
            return False
        due_at = self._store.next_due_at()
        limit_s = self._bell.slow_poll_s
        self._stop.wait(limit_s if due_at is None else min(limit_s, due_at - now), self._bell.fd)
        return False

    def _attempt(self) -> None:
        try:
            self._stop.interruptible(self._outlet.open)
        except Trouble as trouble:
            self._note_trouble(str(trouble))
            return
        mail = self._store.claim(self._boot_id, time.time())
        if mail is None:
            return
        started = time.monotonic()
        report = self._outlet.deliver(mail, self._store.note_past_dot)
        self._settle(mail, report, time.monotonic() - started)
        if report.trouble is not None:
            self._note_trouble(f"{self._outlet.name}: {report.trouble}")
        elif self._pause.answered():
            line(f"{self._outlet.name} answers again")

    def _settle(self, mail: Mail, report: Report, span_s: float) -> None:
        """Writes the results, for as long as it takes: what was sent must not be forgotten for a full disk."""
        now = time.time()
        settled = []
        for recipient, verdict, words in report.results:
            row = outcome(verdict, recipient.failures, now, mail.expires_at, random.random())
            settled.append(Settled(recipient, *row, words))
        while True:
            try:
                self._store.settle(mail.id, settled, now)
                break
            except sqlite3.Error as error:
                line(f"mail {mail.id}: its results can't be written: {error}; next try in {seconds(STORE_PAUSE_S)}")
                if self._stop.requested:
                    raise
                self._stop.wait(STORE_PAUSE_S)
        for result, (_, verdict, _) in zip(settled, report.results, strict=True):
            line(event(mail.id, result, verdict, span_s, now))

    def _note_trouble(self, words: str) -> None:
        pause_s = self._pause.trouble(time.monotonic())
        self._outlet.close()
        line(f"{words}; next try in {seconds(pause_s)}")
        for mail_id, address in self._store.expire(words, time.time()):
            line(f"mail {mail_id} to {plain(address)} expired: {words}")


def event(mail_id: int, result: Settled, verdict: Verdict, span_s: float, now: float) -> str:
    """The log line of one result."""
    head = f"mail {mail_id} to {plain(result.recipient.address)}"
    if result.state == "sent":
        return f"{head} sent in {seconds(span_s)}: {result.answer}"
    if result.state in ("failed", "expired"):
        return f"{head} {result.state}: {result.answer}"
    if verdict is Verdict.RELAY:
        return f"{head} deferred until that is over: {result.answer}"
    return f"{head} {result.state}: {result.answer}; next try in {seconds(max(0.0, result.due_at - now))}"


def lock(database: str) -> int:
    """Takes the sender's lock of a spool; it lasts until the descriptor or the process ends. Raises Refused(75)."""
    path = f"{database}.lock"
    fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(fd)
        raise Refused(TRY_AGAIN, f"{database}: another sender is at work on this spool; there is one at a time") from None
    return fd


def boot_id() -> str:
    """The kernel's name for this run of the host (random(4))."""
    with open("/proc/sys/kernel/random/boot_id", encoding="ascii") as file:
        return file.read().strip()
