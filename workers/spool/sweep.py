"""Each minute: mail whose time is over although its relay is down, warnings for mail that is late, times that a wrong
clock wrote. Each hour: old mail is taken away.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from workers.spool import claims
from workers.spool.admin import prune_some
from workers.spool.claims import NEVER
from workers.spool.delivery import LAST_RETRY_S
from workers.spool.log import event
from workers.spool.notices import Late

if TYPE_CHECKING:
    from workers.spool.notices import Notices
    from workers.store.database import Transaction
    from workers.store.writer import Writer

MOST = 500  # of each kind at a time


def sweep(transaction: Transaction, *, notices: Notices, shut: dict[str, str], hold: bool, now: float) -> list[str]:
    """Goes through the lanes; `shut` gives the problem of those in trouble. Returns lines for the log."""
    lines: list[str] = []
    for (lane,) in transaction.run("sender.lanes"):
        if not hold:
            transaction.run("sender.free_unknown", {"lane": lane, "now": now, "never": NEVER})
        for priority, state in claims.ranks(transaction, lane):
            key = {"lane": lane, "priority": priority, "state": state, "now": now, "most": MOST}
            limit = {"limit": now + LAST_RETRY_S + 60, "never": NEVER}
            transaction.run("sender.due_now", {**key, **limit})
            if lane in shut:
                lines += _expired(transaction, notices, key, shut[lane], now)
                _warned(transaction, notices, key, shut[lane], now)
    return lines


async def prune(writer: Writer, before: float) -> int:
    """Takes away mails that were over before that time, some in each transaction; how many. Raises StoreError."""
    number = after = 0
    while ids := await writer.do(partial(prune_some, before=before, after=after)):
        number += len(ids)
        after = ids[-1]
    return number


def _expired(transaction: Transaction, notices: Notices, key: dict[str, object], problem: str, now: float) -> list[str]:
    rows = transaction.run("sender.expire", {**key, "answer": problem})
    lost: dict[int, list[Late]] = {}
    for _, mail_id, address, attempts, answer in rows:
        lost.setdefault(mail_id, []).append(Late(mail_id, str(key["lane"]), address, attempts, "expired", answer))
    if lost:
        claims.follow(transaction, lost)
        notices.report(transaction, lost, now, warning=False)
    return [event(mail_id, address, "expired", "expired", answer, 0.0) for _, mail_id, address, _, answer in rows]


def _warned(transaction: Transaction, notices: Notices, key: dict[str, object], problem: str, now: float) -> None:
    if notices.warn_after_s is None:
        return
    late: dict[int, list[Late]] = {}
    for mail_id, address, attempts in transaction.run("sender.late", {**key, "before": now - notices.warn_after_s}):
        late.setdefault(mail_id, []).append(Late(mail_id, str(key["lane"]), address, attempts, "deferred", problem))
    if late:
        notices.report(transaction, late, now, warning=True)
