"""Tells senders what became of their mail: a bounce when a recipient failed or expired, a warning when one is late.

The report is queued in the transaction that writes the result, so that none is lost or told twice.
"""

from __future__ import annotations

import json
import os
from typing import TYPE_CHECKING

from workers.mail.addresses import AddressError, check_address
from workers.spool.accept import Submission, accept
from workers.spool.bounce import Failure, Original, bounce, delay_warning, may_bounce, status_of

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from workers.mail.config import Config
    from workers.spool.claims import Result
    from workers.store.database import Transaction

HEADER_BYTES = 65536
HOUR_S = 3600.0


class Late:
    """A recipient that is told about without an attempt of ours: expired or late while its relay is down."""

    __slots__ = ("address", "answer", "attempts", "lane", "mail_id", "state")

    def __init__(self, mail_id: int, lane: str, address: str, attempts: int, state: str, answer: str) -> None:
        self.mail_id = mail_id
        self.lane = lane
        self.address = address
        self.attempts = attempts
        self.state = state
        self.answer = answer


class Notices:
    """Queues reports by the rules of a config. Used by the writer's thread only."""

    def __init__(self, config: Config) -> None:
        self.warn_after_s = config.warn_after_s
        self._config = config
        self._remotes = {name: relay.host for name, relay in config.relays().items()}

    def write(self, transaction: Transaction, results: Iterable[Result], now: float) -> int:
        """Reports what was just written about recipients, those given up and those late for the first time; how many
        reports that made."""
        warn_after_s = self.warn_after_s
        lost: dict[int, list[Result | Late]] = {}
        late: dict[int, list[Result | Late]] = {}
        for result in results:
            if result.state in ("failed", "expired"):
                lost.setdefault(result.mail_id, []).append(result)
            elif result.state == "deferred" and warn_after_s is not None and now - result.created_at > warn_after_s:
                late.setdefault(result.mail_id, []).append(result)
        told = self.report(transaction, lost, now, warning=False) if lost else 0
        return told + (self.report(transaction, late, now, warning=True) if late else 0)

    def report(self, transaction: Transaction, about: Mapping[int, Sequence[Result | Late]], now: float, *, warning: bool) -> int:
        """Queues one report for each mail, where its sender may have one; how many."""
        number = 0
        rows = transaction.run("sender.reported", {"ids": json.dumps(list(about)), "most": HEADER_BYTES})
        for mail_id, sender, message_id, created_at, expires_at, size_bytes, warned, start in rows:
            if warning and warned:
                continue
            if warning:
                transaction.run("sender.set_warned", (mail_id,))
            header = start.partition(b"\r\n\r\n")[0] + b"\r\n"
            told = 0 if sender == "" else transaction.run("sender.reports_since", (now - HOUR_S, sender))[0][0]
            if may_bounce(sender, header, told) is not None:
                continue
            original = Original(sender, message_id, created_at, size_bytes, header, str(mail_id))
            failures = [self._failure(each, now, expires_at if warning else None) for each in about[mail_id]]
            number += self._queue(transaction, original, failures, now, warning=warning)
        return number

    def _failure(self, about: Result | Late, now: float, retry_until: float | None) -> Failure:
        late = retry_until is not None
        status = status_of(about.answer, "4.0.0" if late else ("4.4.7" if about.state == "expired" else "5.0.0"))
        action = "delayed" if late else "failed"
        remote = self._remotes.get(about.lane)
        return Failure(about.address, action, status, about.answer, remote, about.attempts, now, retry_until)

    def _queue(self, transaction: Transaction, original: Original, failures: list[Failure], now: float, *, warning: bool) -> bool:
        host = self._config.domain
        unique = f"{original.mail_id}.{int(now * 1000):x}.{os.urandom(4).hex()}"
        build = delay_warning if warning else bounce
        text = build(original, failures, host=host, now=now, unique=unique)
        try:
            recipient = check_address(original.sender)
        except AddressError:
            return False  # of a mail from before the check; nobody can be told
        lane = self._config.lane("", recipient)
        report = Submission("", [recipient], [lane], f"<{unique}@{host}>", text, now + self._config.max_age_s)
        report.bounce_of = int(original.mail_id)
        accept(transaction, [report], now)
        return True
