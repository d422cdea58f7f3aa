"""PURE: what LIST, STATUS and FETCH responses tell (RFC 3501 7.2, 7.4)."""

from __future__ import annotations

from workers.imap import sets
from workers.imap.wire import Literal, number, pairs

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from workers.imap.wire import Response

STATUS_ITEMS = (b"UIDVALIDITY", b"UIDNEXT", b"MESSAGES")


class Listed:
    """A folder as the server lists it: `said` is its name there. `state` is None when the server gave none."""

    __slots__ = ("attributes", "delimiter", "mailbox_id", "name", "said", "state")

    def __init__(self, name: bytes, delimiter: bytes | None, attributes: frozenset[bytes]) -> None:
        self.name = self.said = name
        self.delimiter = delimiter
        self.attributes = attributes
        self.state: State | None = None
        self.mailbox_id: bytes | None = None


class State:
    """UIDVALIDITY, UIDNEXT, number of messages and HIGHESTMODSEQ of a folder; 0 where the server does not tell."""

    __slots__ = ("epoch", "messages", "modseq", "uidnext")

    def __init__(self, epoch: int = 0, uidnext: int = 0, messages: int = 0, modseq: int = 0) -> None:
        self.epoch = epoch
        self.uidnext = uidnext
        self.messages = messages
        self.modseq = modseq

    def key(self) -> tuple[int, int, int, int]:
        """All four."""
        return self.epoch, self.uidnext, self.messages, self.modseq


class Facts:
    """What FETCH tells of one message; None or 0 where it did not. `flags` are as sent, without \\Recent."""

    __slots__ = ("body", "date", "flags", "header", "identity", "modseq", "size_bytes", "uid")

    def __init__(self, uid: int) -> None:
        self.uid = uid
        self.flags: tuple[bytes, ...] | None = None
        self.size_bytes = -1
        self.date: bytes | None = None
        self.modseq = 0
        self.identity: bytes | None = None
        self.body: Literal | bytes | None = None
        self.header: Literal | bytes | None = None


def listed(response: Response) -> Listed | None:
    """The folder of a LIST response; None when it can't be understood. One without a name tells of the delimiter only.

    Behind the name may stand pairs in parentheses (RFC 5258 6); what else stands there is of a name that was not quoted.
    """
    if not 3 <= len(response.values) <= 4:
        return None
    attributes, delimiter, name, *more = response.values
    if more and (not isinstance(more[0], list) or len(more[0]) % 2):
        return None
    if not isinstance(attributes, list) or isinstance(delimiter, list) or not isinstance(name, bytes):
        return None
    words = frozenset(each.upper() for each in attributes if isinstance(each, bytes))
    return Listed(name, delimiter if isinstance(delimiter, bytes) and len(delimiter) == 1 else None, words)


def status(response: Response) -> tuple[bytes | None, State | None, bytes | None]:
    """Name, state and MAILBOXID of a STATUS response; None where they can't be understood."""
    if len(response.values) < 2 or not isinstance(response.values[0], bytes) or not isinstance(response.values[1], list):
        return None, None, None
    found = pairs(response.values[1])
    state = State(*(number(found.get(name)) or 0 for name in (*STATUS_ITEMS, b"HIGHESTMODSEQ")))
    state.epoch = state.epoch if state.epoch <= sets.MOST_UID else 0
    state.uidnext = uidnext(state.uidnext)
    inner = found.get(b"MAILBOXID")
    return response.values[0], state, inner[0] if isinstance(inner, list) and inner and isinstance(inner[0], bytes) else None


def facts(response: Response) -> Facts | None:
    """What a FETCH response tells; None when it names no UID."""
    if not response.values or not isinstance(response.values[0], list):
        return None
    found = pairs(response.values[0])
    uid = number(found.get(b"UID"))
    if not uid or uid > sets.MOST_UID:
        return None
    each = Facts(uid)
    each.flags = _flags(found)
    size = number(found.get(b"RFC822.SIZE"))
    each.size_bytes = -1 if size is None else size
    date = found.get(b"INTERNALDATE")
    each.date = date if isinstance(date, bytes) else None
    modseq = found.get(b"MODSEQ")
    each.modseq = (number(modseq[0]) or 0) if isinstance(modseq, list) and modseq else 0
    identity = found.get(b"X-GM-MSGID") or found.get(b"EMAILID")
    if isinstance(identity, list):
        identity = identity[0] if identity else None
    each.identity = identity if isinstance(identity, bytes) else None
    body = found.get(b"BODY[]")
    each.body = body if isinstance(body, (Literal, bytes)) else None
    header = found.get(b"BODY[HEADER]")
    each.header = header if isinstance(header, (Literal, bytes)) else None
    return each


def flags_of(response: Response) -> tuple[bytes, ...] | None:
    """The flags that a FETCH response tells, also one that names no UID; None when it tells none."""
    values = response.values
    return _flags(pairs(values[0])) if values and isinstance(values[0], list) else None


def _flags(found: dict[bytes, Any]) -> tuple[bytes, ...] | None:
    flags = found.get(b"FLAGS")
    if not isinstance(flags, list):
        return None
    return tuple(flag for flag in flags if isinstance(flag, bytes) and flag.lower() != b"\\recent")


def uidnext(value: int | None) -> int:
    """UIDNEXT as a server tells it; 0, unknown, for one that no UID can be."""
    return value if value is not None and value <= sets.MOST_UID + 1 else 0


def after(values: list[Any], word: bytes) -> bytes:
    """The value behind `word`; b"" when that is not there."""
    for index, each in enumerate(values[:-1]):
        if isinstance(each, bytes) and each.upper() == word and isinstance(values[index + 1], bytes):
            found: bytes = values[index + 1]
            return found
    return b""
