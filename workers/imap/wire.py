"""PURE: reads what an IMAP server sends (RFC 3501 7 and 9), and writes the words of commands. Knows no socket.

A response is text with literals between. Literals may be streamed: whoever feeds the reader is asked, at the start of
each, for something that takes its bytes; so a message of any size passes through without being held. Whatever a server
sends is limited; what can't be understood as a response comes out as one of kind b"" and is for the caller to judge.
"""

from __future__ import annotations

import re

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    Write = Callable[[memoryview], None]

LINE_BYTES = 1 << 20  # of all text in one response
PIECE_BYTES = 1 << 16  # of a set of numbers: one that is longer is told in pieces
HELD_BYTES = 1 << 16  # of a literal that is not streamed
MOST_DEPTH = 32
MOST_LITERALS = 1000  # in one response: each may be empty, so that bytes alone are no limit

STATUS = frozenset((b"OK", b"NO", b"BAD", b"BYE", b"PREAUTH"))
# Possessive, so that a long word costs neither memory nor time: what the server sends is matched once. Brackets hold a word
# together in the names of sections only: in those of folders and keywords they are signs like others.
TOKEN = re.compile(
    rb'[ \t]*+(?:([()])|"((?:[^"\\]++|\\.)*+)"|((?i:BODY|BINARY)[.A-Za-z]*+\[[^\[\]]*+\][^ \t()"]*+|[^ \t()"]++))',
    re.DOTALL,
)
SET = re.compile(rb"\* (?i:(SEARCH)|VANISHED(?: \(EARLIER\))?|ESEARCH[^,]{0,100}) (?=\d)")  # and what is told before it
UNPLAIN = re.compile(rb"[^ !#-\[\]-~]")  # what can't stand in a quoted string as it is


class WireError(Exception):
    """The server sent more than may be, or something after which its stream can't be followed."""


class Literal:
    """A literal that was streamed: `write` took its `size_bytes` bytes."""

    __slots__ = ("size_bytes", "write")

    def __init__(self, size_bytes: int, write: Write) -> None:
        self.size_bytes = size_bytes
        self.write = write


class Response:
    """One response. `tag` is b"*", b"+", or a command's tag; `kind` is upper case, b"" when it can't be understood.

    Of a status (OK, NO, BAD, BYE, PREAUTH) `code` holds what stands in brackets and `text` the rest; of any other one
    `values` holds what follows: bytes, None for NIL, Literal, or lists of these. `number` stands before the kind.
    """

    __slots__ = ("code", "kind", "number", "tag", "text", "values")

    def __init__(self, tag: bytes, kind: bytes) -> None:
        self.tag = tag
        self.kind = kind
        self.number = 0
        self.values: list[Any] = []
        self.code: list[Any] = []
        self.text = b""


class Reader:
    """Turns bytes into responses. `open_literal(head, size_bytes)` gives a taker for a literal, or None to hold it.

    `head` is the text of the response so far, without its own `{size}`; a Literal says at the end how much it took.
    """

    def __init__(self, open_literal: Callable[[bytes, int], Write | None], *, line_bytes: int = LINE_BYTES) -> None:
        self._open = open_literal
        self._most = line_bytes
        self._line = bytearray()  # of a line that is not whole yet
        self._parts: list[bytes | Literal | memoryview] = []  # of a response that is not whole yet
        self._length = 0
        self.text_bytes = 0  # of all lines and held literals so far
        self._left = 0  # of the literal in hand
        self._write: Write | None = None
        self._held = bytearray()

    @property
    def is_between(self) -> bool:
        """Whether nothing of a response is in hand."""
        return not self._parts and not self._line

    def feed(self, data: bytes | bytearray, size: int | None = None) -> list[Response]:
        """The responses that end within `data[:size]`. Raises WireError."""
        end = len(data) if size is None else size
        found: list[Response] = []
        at = 0
        while at < end:
            if self._left:
                at += self._take(memoryview(data)[at : min(end, at + self._left)])
                continue
            stop = data.find(b"\n", at, end)
            if stop < 0:
                self._line += data[at:end]
                if len(self._line) > PIECE_BYTES and SET.match(self._line):
                    self._line = bytearray(self._tell_pieces(bytes(self._line), found))
                self._check(len(self._line))
                break
            line = bytes(data[at:stop]) if not self._line else bytes(self._line + data[at:stop])
            self._line.clear()
            at = stop + 1
            if len(line) > PIECE_BYTES:
                line = self._tell_pieces(line, found)
            response = self._end_of_line(line.removesuffix(b"\r"))
            if response is not None:
                found.append(response)
        return found

    def _tell_pieces(self, line: bytes, found: list[Response]) -> bytes:
        """Of a long set of numbers, tells what is whole, as responses of their own; the response of the rest."""
        match = SET.match(line) if not self._parts else None
        while match is not None and len(line) > PIECE_BYTES:
            end = line.rfind(b" " if match[1] else b",", match.end(), PIECE_BYTES)
            if end < 0:
                break
            found.append(understood([line[:end]]))
            self.text_bytes += end
            line = match[0] + line[end + 1 :]
        return line

    def _take(self, part: memoryview) -> int:
        taken = len(part)
        if self._write is not None:
            self._write(part)
        else:
            self._held += part
        self._left -= taken
        if not self._left:
            self._close_literal()
        return taken

    def _close_literal(self) -> None:
        if self._write is None:
            self._parts.append(memoryview(bytes(self._held)))
            self._held.clear()
        self._write = None

    def _end_of_line(self, line: bytes) -> Response | None:
        self._length += len(line)
        self.text_bytes += len(line) + 2
        self._check(0)
        size = literal_size(line) if line[-1:] == b"}" and not self._is_status(line) else None
        if size is None:
            parts, self._parts, self._length = [*self._parts, line], [], 0
            return understood(parts)
        if len(self._parts) > 2 * MOST_LITERALS:
            raise WireError("too many literals in one response")
        head = line[: line.rfind(b"{")].removesuffix(b"~")  # ~ is a literal8, RFC 3516 4.4
        self._parts.append(head)
        first = self._parts[0]
        self._write = self._open((first if isinstance(first, bytes) else b"") + (b" " + head if head is not first else b""), size)
        if self._write is not None:
            self._parts.append(Literal(size, self._write))
        elif size > HELD_BYTES:
            raise WireError(f"a literal of {size} bytes where none is due")
        if self._write is None:
            self._length += size
            self.text_bytes += size
        self._left = size
        if not size:
            self._close_literal()
        return None

    def _is_status(self, line: bytes) -> bool:
        """Text for people may end like a literal."""
        if self._parts:
            return False
        words = line.split(b" ", 2)
        return words[0] == b"+" or (len(words) > 1 and words[1].upper() in STATUS)

    def _check(self, more: int) -> None:
        if self._length + more > self._most:
            raise WireError(f"a response longer than {self._most} bytes")


def literal_size(line: bytes) -> int | None:
    """The size that `…{n}` at the end of a line tells; None when that stands in quotes or is none. Raises WireError."""
    start = line.rfind(b"{")
    digits = line[start + 1 : -1].removesuffix(b"+")
    if start < 0 or not digits.isdigit():
        return None
    quoted = False
    at = 0
    while at < start:
        sign = line[at : at + 1]
        if quoted and sign == b"\\":
            at += 1
        elif sign == b'"':
            quoted = not quoted
        at += 1
    if quoted:
        return None
    if len(digits) > 18:
        raise WireError("a literal of no believable size")
    return int(digits)


def understood(parts: list[bytes | Literal | memoryview]) -> Response:
    """The response that these pieces of text and literals make; held literals are memoryviews."""
    first = parts[0]
    line = first if isinstance(first, bytes) else b""
    tag, _, rest = line.partition(b" ")
    if tag == b"+":
        response = Response(tag, b"+")
        response.text = rest
        return response
    word, _, after = rest.partition(b" ")
    number = 0
    if tag == b"*" and word.isdigit() and len(word) <= 10:
        number = int(word)
        word, _, after = after.partition(b" ")
    kind = word.upper()
    response = Response(tag, kind)
    response.number = number
    if kind in STATUS:
        _read_status(response, after)
        return response
    if tag != b"*":
        response.kind = b""
        return response
    try:
        response.values = _values([after, *parts[1:]])
    except ValueError:
        response.kind, response.text = b"", kind
    return response


def _read_status(response: Response, rest: bytes) -> None:
    if rest[:1] == b"[":
        end = rest.find(b"]")
        if end > 0:
            try:
                response.code = _values([rest[1:end]])
            except ValueError:
                response.code = []
            if response.code and isinstance(response.code[0], bytes):
                response.code[0] = response.code[0].upper()
            rest = rest[end + 1 :]
    response.text = rest.strip()


def _values(parts: list[bytes | Literal | memoryview]) -> list[Any]:
    """What the pieces say, parentheses as lists. Raises ValueError."""
    top: list[Any] = []
    stack = [top]
    for part in parts:
        if isinstance(part, memoryview):
            stack[-1].append(bytes(part))
        elif isinstance(part, Literal):
            stack[-1].append(part)
        else:
            _read_text(part, stack)
    if len(stack) != 1:
        raise ValueError("an open parenthesis")
    return top


def _read_text(text: bytes, stack: list[list[Any]]) -> None:
    here = stack[-1]
    at, end = 0, len(text)
    while at < end:
        match = TOKEN.match(text, at)
        if match is None:
            if text[at:].strip(b" \t"):
                raise ValueError("no token")
            return
        at = match.end()
        which = match.lastindex
        if which == 3:
            word = match[3]
            here.append(None if len(word) == 3 and word.upper() == b"NIL" else word)
        elif which == 2:
            quoted = match[2]
            here.append(_unescaped(quoted) if b"\\" in quoted else quoted)
        elif match[1] == b"(":
            if len(stack) > MOST_DEPTH:
                raise ValueError("too deep")
            inner: list[Any] = []
            here.append(inner)
            stack.append(inner)
            here = inner
        else:
            if len(stack) == 1:
                raise ValueError("a closing parenthesis too many")
            stack.pop()
            here = stack[-1]


def _unescaped(quoted: bytes) -> bytes:
    """Without the backslashes of quoted pairs; a `\\\\` is one."""
    return b"\\".join([each.replace(b"\\", b"") for each in quoted.split(b"\\\\")])


def pairs(values: list[Any]) -> dict[bytes, Any]:
    """`NAME value NAME value …`, as FETCH and STATUS have it, by name in upper case. The last one of a name counts."""
    found: dict[bytes, Any] = {}
    for index in range(0, len(values) - 1, 2):
        name = values[index]
        if isinstance(name, bytes):
            found[name.upper()] = values[index + 1]
    return found


def number(value: Any) -> int | None:
    """A number that a server sent, of at most 63 bits (RFC 7162 7); None for anything else."""
    return int(value) if isinstance(value, bytes) and value.isdigit() and len(value) <= 19 and int(value) < 1 << 63 else None


def quoted(word: bytes) -> bytes | None:
    """`word` as a quoted string; None when it can be sent as a literal only (RFC 3501 4.3)."""
    if UNPLAIN.search(word.replace(b"\\", b"").replace(b'"', b"")):
        return None
    return b'"' + word.replace(b"\\", b"\\\\").replace(b'"', b'\\"') + b'"'
