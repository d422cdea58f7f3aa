"""PURE: what is to be done with a message of an outbox folder, and what of it goes into the spool."""

from __future__ import annotations

from hashlib import blake2b

from workers.mail.addresses import AddressError, check_address, expand_recipients, split_addresses
from workers.spool import message

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

DIGEST_BYTES = 16
RECIPIENTS = frozenset((b"to", b"cc", b"bcc"))

LEAVE, TAKE, FOLLOW, FINISH = "leave", "take", "follow", "finish"

# What is known of a letter, by its digest: about to be queued, queued, about to be moved, and moved or gone from the outbox.
INTENT, QUEUED, MOVING, OVER = "intent", "queued", "moving", "over"


class Unsendable(Exception):
    """A message that can't be queued as it is; the text is for people."""


class Place:
    """What is known of the message with a UID: `digest` of its content, or `why` it is not sent. `state` as above, or "".

    `seq` is the spool's last mail before this one.
    """

    __slots__ = ("date", "digest", "seq", "size_bytes", "state", "why")

    def __init__(self, size_bytes: int, date: int, digest: bytes | None, why: str, state: str, seq: int = 0) -> None:
        self.size_bytes = size_bytes
        self.date = date
        self.digest = digest
        self.why = why
        self.state = state
        self.seq = seq


class Letter:
    """A message that can be queued: its envelope, and the fields and the body of its normalised text."""

    __slots__ = ("body", "envelope", "fields", "sender")

    def __init__(self, sender: str, envelope: list[str], fields: list[bytes], body: bytes) -> None:
        self.sender = sender
        self.envelope = envelope
        self.fields = fields
        self.body = body


def step(flags: Iterable[bytes], size_bytes: int, date: int, place: Place | None) -> str:
    """LEAVE it, TAKE its content to see what it is, FOLLOW what became of it, or FINISH a move that was cut off.

    A place counts for a message of the same size and date only: a server may use a UIDVALIDITY again.
    """
    words = {each.lower() for each in flags}
    known = place if place is not None and (place.size_bytes, place.date) == (size_bytes, date) else None
    if b"\\deleted" in words:
        return FINISH if known is not None and known.state == MOVING else LEAVE
    if known is None:
        return LEAVE if b"\\draft" in words else TAKE
    if known.state == INTENT and not known.why:
        return LEAVE if b"\\draft" in words else TAKE
    return FOLLOW if known.state and not known.why else LEAVE


def digest(raw: bytes) -> bytes:
    """By what a letter is known for ever: its Message-ID with its content, all fields included."""
    found = blake2b(digest_size=DIGEST_BYTES)
    fields, _ = message.split(message.normalise(raw))
    found.update(message.message_id(fields, "").encode("utf-8", "replace") + b"\0")
    found.update(raw)
    return found.digest()


def identifier(account: str, letter: bytes) -> str:
    """Under which the spool knows it, too."""
    return f"imap:{account}:{letter.hex()}"


def read(raw: bytes, aliases: Mapping[str, list[str]], domain: str) -> Letter:
    """The envelope from Sender or From, and To, Cc and Bcc (RFC 5322 3.6.2, 3.6.3); Resent- fields mean nothing here.

    Raises Unsendable.
    """
    fields, body = message.split(message.normalise(raw))
    try:
        named = [part for field in fields if message.field_name(field) in RECIPIENTS for part in _addresses(field)]
        envelope = expand_recipients(named, aliases, domain)
        sender = _sender(fields, domain)
    except AddressError as error:
        raise Unsendable(str(error)) from None
    if not envelope:
        raise Unsendable("no recipient in To, Cc or Bcc")
    return Letter(sender, envelope, fields, body)


def _sender(fields: list[bytes], domain: str) -> str:
    """Sender names one; without it From has to. Raises AddressError, Unsendable."""
    for name in (b"sender", b"from"):
        found = [part for field in fields if message.field_name(field) == name for part in _addresses(field)]
        if found:
            return check_address(found[0] if "@" in found[0] else f"{found[0]}@{domain}")
    raise Unsendable("no sender in From")


def _addresses(field: bytes) -> list[str]:
    return split_addresses(message.field_value(field))
