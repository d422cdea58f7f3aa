"""PURE: what a server said, for the log: as IMAP writes it (RFC 3501 4), in short, and without what messages hold."""

from __future__ import annotations

from workers.imap.wire import quoted

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from workers.imap.wire import Response

MOST_SHOWN = 40  # values in a row
ATOM = frozenset(range(0x21, 0x7F)) - frozenset(b'()"{')  # signs that can't be taken for anything else


def told(response: Response) -> str:
    """A response in short, without what messages hold."""
    if response.kind == b"+":
        return "+"
    counts = response.number or response.kind in (b"EXISTS", b"RECENT")
    words = [response.tag, *([b"%d" % response.number] if counts else []), response.kind or b"(not understood)"]
    if response.kind not in (b"", b"FETCH"):
        words += [b"[" + _written(response.code) + b"]"] if response.code else []
        words.append(response.text or _written(response.values))
    return b" ".join(each for each in words if each).decode("utf-8", "replace")


def _written(values: list[Any]) -> bytes:
    """Values as IMAP writes them (RFC 3501 4), the first MOST_SHOWN of them."""
    more = [b"\xe2\x80\xa6"] if len(values) > MOST_SHOWN else []
    return b" ".join([*(_word(each) for each in values[:MOST_SHOWN]), *more])


def _word(value: Any) -> bytes:
    if value is None:
        return b"NIL"
    if isinstance(value, list):
        return b"(" + _written(value) + b")"
    if not isinstance(value, bytes):
        return b"{%d}" % value.size_bytes
    if value and ATOM.issuperset(value):
        return value
    plain = quoted(value)
    return b"{%d}" % len(value) if plain is None else plain
