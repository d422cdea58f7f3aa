"""The sender's side of the store: what it claims, and what it writes about a claim. Each function is part of a
transaction and names the claim's number, so that a sender that lost its lease changes nothing.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

    from workers.store.database import Transaction
    from workers.store.leases import Lease, Owner

RELANED = 1000
NEVER = 9e15  # due_at of a row that waits for a person
SMALL_BYTES = 64 * 1024  # a body up to this comes with the claim, a bigger one is read in parts while it is sent
Row = tuple[int, int, str, int, int, float, str]
STATES_IN_TURN = {"queued": 0, "deferred": 1, "unknown": 1}  # fresh mail overtakes the rest of its priority


class Recipient:
    """One claimed recipient. `failures` counts attempts that failed before this one, `attempts` this one too."""

    __slots__ = ("address", "attempts", "failures", "id")

    def __init__(self, id_: int, address: str, attempts: int, failures: int) -> None:
        self.id = id_
        self.address = address
        self.attempts = attempts
        self.failures = failures


class Mail:
    """A mail with those of its recipients that were claimed together, under one number. Times are Unix seconds.

    `body` is the whole message, CRLF, not dot-stuffed, when it is small; else None.
    """

    __slots__ = (
        "body",
        "claim",
        "created_at",
        "eight_bit",
        "expires_at",
        "id",
        "long_lines",
        "recipients",
        "sender",
        "size_bytes",
    )

    def __init__(self, claim: int, row: Sequence[object], recipients: list[Recipient]) -> None:
        self.claim = claim
        self.recipients = recipients
        self.id: int
        self.sender: str
        self.size_bytes: int
        self.eight_bit: bool
        self.long_lines: bool
        self.created_at: float
        self.expires_at: float
        self.body: bytes | None
        (
            self.id,
            self.sender,
            self.size_bytes,
            self.eight_bit,
            self.long_lines,
            self.created_at,
            self.expires_at,
            self.body,
        ) = row  # type: ignore[assignment]


class Result:
    """What is written about one recipient of a claim. `due_at` is in Unix seconds; `unknown` is 1 for an attempt cut
    off behind the final dot."""

    __slots__ = (
        "address",
        "answer",
        "attempts",
        "claim",
        "created_at",
        "due_at",
        "failures",
        "id",
        "lane",
        "mail_id",
        "state",
        "unknown",
    )

    def __init__(
        self, recipient: Recipient, mail: Mail, lane: str, state: str, failures: int, unknown: int, due_at: float, answer: str
    ) -> None:
        self.id = recipient.id
        self.address = recipient.address
        self.attempts = recipient.attempts
        self.lane = lane
        self.mail_id = mail.id
        self.claim = mail.claim
        self.created_at = mail.created_at
        self.state = state
        self.failures = failures
        self.unknown = unknown
        self.due_at = due_at
        self.answer = answer


def ranks(transaction: Transaction, lane: str) -> list[tuple[int, str]]:
    """The (priority, state) that waiting rows of a lane have, in the order of their turn."""
    found: list[tuple[int, str]] = []
    priority, state = -1, ""
    while rows := transaction.run("sender.next_rank", {"lane": lane, "priority": priority, "state": state}):
        priority, state = rows[0]
        found.append((priority, state))
    return sorted(found, key=lambda rank: (rank[0], STATES_IN_TURN[rank[1]]))


def claim(transaction: Transaction, lease: Lease, lane: str, most: int, per_mail: int, now: float) -> list[Mail]:
    """Claims about `most` mails that are due in a lane, best rank first, each with up to `per_mail` recipients; fewer
    than `most` recipients in all when nothing else is due."""
    mails: list[Mail] = []
    for priority, state in ranks(transaction, lane):
        number = lease.number(transaction)
        key = {"lane": lane, "priority": priority, "state": state, "now": now, "claim": number}
        rows = transaction.run("sender.claim", {**key, "mails": most, "recipients": most * per_mail})
        if rows:
            mails += _mails(transaction, number, sorted(rows), per_mail)
            most -= len(rows)
        if most <= 0:
            break
    return mails


def next_due_at(transaction: Transaction, lane: str) -> float | None:
    """When the next row of a lane is due; None when none waits, or only for a person."""
    keys = ({"lane": lane, "priority": priority, "state": state} for priority, state in ranks(transaction, lane))
    found = [row[0] for key in keys for row in transaction.run("sender.next_due_at", key)]
    return min((due_at for due_at in found if due_at < NEVER), default=None)


def settle(transaction: Transaction, results: Iterable[Result], now: float) -> set[int]:
    """Writes results; the ids of the recipients for which the claim still held."""
    rows = [(each.id, each.claim, each.state, each.failures, each.unknown, each.due_at, each.answer) for each in results]
    return write(transaction, rows, now)


def write(transaction: Transaction, rows: list[Row], now: float) -> set[int]:
    """Writes (recipient, claim, state, failures, unknown, due_at, answer) of each; as `settle`."""
    if not rows:
        return set()
    written = transaction.run("sender.settle", {"results": json.dumps(rows), "now": now})
    return {row[0] for row in written}


def claimed(transaction: Transaction, owner: Owner) -> list[tuple[int, int, int, int]]:
    """(recipient, mail, claim, failures) of all that an owner holds."""
    return [(row[0], row[1], row[2], row[3]) for row in transaction.run("sender.claimed", owner.claims())]


def body_parts(database: Transaction, mail: Mail) -> Iterator[bytes]:
    """The message in parts. Raises StoreError."""
    if mail.body is not None:
        yield mail.body
        return
    part = 0
    while rows := database.run("sender.body_part", (mail.id, part)):
        yield rows[0][0]
        part += 1


def _mails(transaction: Transaction, number: int, rows: list[tuple[int, int, str, int, int]], per_mail: int) -> list[Mail]:
    groups: dict[int, list[Recipient]] = {}
    for id_, mail_id, address, attempts, failures in rows:
        groups.setdefault(mail_id, []).append(Recipient(id_, address, attempts, failures))
    values = {"ids": json.dumps(list(groups)), "most_bytes": SMALL_BYTES}
    messages = {row[0]: row for row in transaction.run("sender.messages", values)}
    return [
        Mail(number, messages[mail_id], group[start : start + per_mail])
        for mail_id, group in groups.items()
        for start in range(0, len(group), per_mail)
    ]


def relane(transaction: Transaction, *, name: str, after: int, lane_of: Callable[[str, str], str]) -> int:
    """Finds the lane of waiting rows anew, a thousand behind row `after`; returns the last one, or 0 at the end."""
    rows = transaction.run("sender.relane_rows", {"lane": name, "after": after, "most": RELANED})
    changed = [(lane_of(sender, address), id_) for id_, sender, address in rows]
    transaction.many("sender.relane", [row for row in changed if row[0] != name])
    return rows[-1][0] if rows else 0


def follow(transaction: Transaction, mail_ids: Iterable[int]) -> None:
    """Writes into the rows of mail_outbox what became of their mails."""
    ids = sorted(set(mail_ids))
    if ids:
        transaction.run("sender.outbox_follow", {"ids": json.dumps(ids)})
