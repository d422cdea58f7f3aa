"""Mails whose rows can be told to be whole by their Message-ID alone, and short ways to queue and to look at them."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

from workers.spool.accept import PART_BYTES, Submission, accept
from workers.spool.claims import Mail, Recipient, Result, claim, settle
from workers.store.leases import Lease

if TYPE_CHECKING:
    from tests.contract.engines import Engine
    from workers.store.database import Database

SIZES_BYTES = (0, 70_000, PART_BYTES, 2 * PART_BYTES + 100_000)
NOW = 1000.0
LANE = "relay"


def text_of(tag: str) -> bytes:
    """The message of a tag `NAME-N`: N decides whether it is small, big, or in parts."""
    head = f"Subject: {tag}\r\n\r\n".encode()
    size_bytes = SIZES_BYTES[int(tag.rpartition("-")[2]) % len(SIZES_BYTES)]
    return head + (f"{tag} says so\r\n".encode() * (size_bytes // 10))[: max(0, size_bytes - len(head))]


def addresses_of(tag: str) -> list[str]:
    """The recipients of a tag."""
    return [f"{tag}.{number}@example.org" for number in range(3)]


def tagged(tag: str) -> Submission:
    """The mail of a tag."""
    to = addresses_of(tag)
    return Submission("s@example.org", to, [LANE] * len(to), tag, text_of(tag), NOW + 1e6)


def mail(*to: str, sender: str = "s@example.org", lane: str = LANE, text: bytes = b"Subject: x\r\n\r\nbody\r\n") -> Submission:
    """A small mail, of priority 5 and due at once; its Message-ID is its first recipient."""
    return Submission(sender, list(to), [lane] * len(to), f"<{to[0]}>", text, NOW + 1e6)


def queue(database: Database, *mails: Submission, now: float = NOW) -> list[int]:
    """Accepts the mails in one transaction; their ids."""
    return database.transact(lambda transaction: accept(transaction, mails, now))


def new_lease(database: Database) -> Lease:
    """A lease that is written down."""
    lease = Lease()
    database.transact(lease.register)
    return lease


def take(
    database: Database, lease: Lease, most: int = 1000, *, per_mail: int = 100, lane: str = LANE, now: float | None = None
) -> list[Mail]:
    """Claims what is due now."""
    at = time.time() + 1 if now is None else now
    return database.transact(lambda transaction: claim(transaction, lease, lane, most, per_mail, at))


def write(database: Database, mails: list[Mail], state: str, due_at: float = 0.0) -> set[int]:
    """Settles all recipients of the mails; the ids that could be written."""
    results = [Result(each, one, LANE, state, 1, 0, due_at, "words") for one in mails for each in one.recipients]
    return database.transact(lambda transaction: settle(transaction, results, NOW))


def recipients(mails: list[Mail]) -> list[Recipient]:
    """Those of all the mails, in their order."""
    return [recipient for each in mails for recipient in each.recipients]


def addresses(mails: list[Mail]) -> list[str]:
    """The addresses of all the mails, in their order."""
    return [recipient.address for recipient in recipients(mails)]


def states(engine: Engine) -> dict[str, tuple[str, int]]:
    """State and number of unknown attempts by address."""
    rows = engine.look("SELECT address, state, unknowns FROM mail_recipient")
    return {address: (state, unknowns) for address, state, unknowns in rows}


def whole_mails(engine: Engine) -> dict[int, str]:
    """The tags of all mails by id, after a look at each: nothing in the store is half or belongs to nothing."""
    tags: dict[int, str] = {}
    sizes_bytes: dict[str, int] = {}
    for id_, tag, size_bytes in engine.look("SELECT id, message_id, size_bytes FROM mail_message"):
        tags[id_] = tag
        sizes_bytes[tag] = size_bytes
    bodies: dict[int, list[Any]] = {}
    for id_, part, body in engine.look("SELECT mail_id, part, body FROM mail_body ORDER BY mail_id, part"):
        bodies.setdefault(id_, []).append(body)
        assert len(bodies[id_]) == part + 1, "a part is missing"
    to: dict[int, list[str]] = {}
    for id_, address in engine.look("SELECT mail_id, address FROM mail_recipient ORDER BY id"):
        to.setdefault(id_, []).append(address)
    assert len(sizes_bytes) == len(tags), "a mail is there twice"
    assert set(bodies) == set(to) == set(tags)
    for id_, tag in tags.items():
        assert b"".join(bodies[id_]) == text_of(tag)
        assert sizes_bytes[tag] == len(text_of(tag))
        assert to[id_] == addresses_of(tag)
    return tags
