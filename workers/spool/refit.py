"""PURE: a message made to fit a relay: no line over 998 octets, and no 8-bit content where 8BITMIME is missing.

Only what a relay can't take is touched: a leaf part that offends is re-encoded, all other bytes leave as they came.
Own walk over the MIME parts, on bytes: the email package writes anew what it has parsed, also what did not offend.

8-bit in a header stays as it is. A header has to be ASCII with 8BITMIME as without it (RFC 5322 2.2), so a relay
without it takes such a header no worse than others do; the charset would be a guess, and encoded words are not allowed
in addresses, quotes and parameters (RFC 2047 5), where most of it stands.
"""

from __future__ import annotations

import re
from binascii import a2b_qp, b2a_base64, b2a_qp

from workers.spool.message import field_name, split

LINE_BYTES = 998  # without CRLF: RFC 5322 2.1.1
ENCODED_BYTES = 76  # a line of base64: RFC 2045 6.8
MAX_BOUNDARY_BYTES = 900  # RFC 2046 5.1.1 allows 70; a delimiter has to fit into a line
MAX_DEPTH = 100
TEXT = b"text/plain"
MESSAGES = (b"message/rfc822", b"message/global")
ENCODED = (b"base64", b"quoted-printable")
PARAMETER = re.compile(rb';\s*([^\s=;"]+)\s*=\s*("(?:[^"\\]|\\.)*"|[^\s;]*)')  # RFC 2045 5.1, and unquoted specials
NOT_BASE64 = bytes(set(range(256)) - set(b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/="))
SEVEN_BIT = bytes(range(128)) + b"?" * 128


class CannotRefit(Exception):
    """The relay can't take this message, and it may not be changed; the text says why and what to do."""


def needs(message: bytes) -> tuple[bool, bool]:
    """Whether a line has over 998 octets (without its CRLF), and whether there are octets over 127."""
    high = not message.isascii()
    start = 0
    while len(message) - start > LINE_BYTES:  # leaps from line end to line end, as far as one line may reach
        end = message.rfind(b"\r\n", start, start + LINE_BYTES + 2)
        if end < 0:
            return True, high
        start = end + 2
    return False, high


def refit(message: bytes, *, eight_bit: bool) -> bytes:
    """The message as a relay takes it that offers 8BITMIME (`eight_bit`) or not; the same object when it fits already.

    `message` is normalised: CRLF at each line's end, no bare CR or LF. A text leaf becomes quoted-printable, any other
    base64 (RFC 2045 6); broken MIME counts as text. Under multipart/signed, where encoding would break the signature
    (RFC 1847 2.1), long lines are only folded. Raises CannotRefit for 8-bit there.
    """
    if not _offends(message, eight_bit):
        return message
    walk = _Walk(message, eight_bit)
    walk.entity(0, len(message), TEXT, 0, is_message=True, inside=False)
    return b"".join(walk.out)


def _offends(text: bytes, eight_bit: bool) -> bool:
    long, high = needs(text)
    return long or (high and not eight_bit)


class _Walk:
    """One pass over a message, by offsets, since copies held at each depth would cost a multiple of its size."""

    def __init__(self, text: bytes, eight_bit: bool) -> None:
        self.text = text
        self.eight_bit = eight_bit
        self.out: list[bytes] = []

    def entity(self, start: int, end: int, default: bytes, depth: int, *, is_message: bool, inside: bool) -> None:
        """A message or a part; `default` is its type when it has no Content-Type (RFC 2046 5.1.5).

        `inside` a multipart the last CRLF belongs to the delimiter behind it (RFC 2046 5.1.1).
        """
        if not _offends(self.text[start:end], self.eight_bit):
            self.out.append(self.text[start:end])
            return
        fields, gap, at = _head(self.text, start, end)
        if not _offends(self.text[at:end], self.eight_bit):
            self.out += [*map(_folded_field, fields), gap, self.text[at:end]]
            return
        head = list(fields)
        kind, boundary = _content_type(fields, default)
        old = encoding = _encoding(fields)
        place = len(self.out)
        if not self._composite(at, end, kind, boundary, encoding, depth, inside=inside):
            body = self.text[at:end]
            if kind == TEXT and not _values(fields, b"content-type") and not body.isascii() and _is_utf8(body):
                _put(head, b"Content-Type", b"text/plain; charset=utf-8")
            encoding, body = _leaf(body, kind, encoding, inside=inside)
            self.out.append(body)
        elif encoding in (b"8bit", b"binary"):
            encoding = b"8bit" if self.eight_bit else b"7bit"
        if encoding != old:
            _put(head, b"Content-Transfer-Encoding", encoding)
        if is_message and not _values(fields, b"mime-version"):
            _put(head, b"MIME-Version", b"1.0")
        self.out.insert(place, b"".join([*map(_folded_field, head), gap if head == fields else b"\r\n"]))

    def _composite(self, at: int, end: int, kind: bytes, boundary: bytes, encoding: bytes, depth: int, *, inside: bool) -> bool:
        """The body of a multipart or of an enclosed message; False when it has to count as a leaf."""
        if kind == b"multipart/signed":
            if not self.eight_bit and not self.text[at:end].isascii():
                raise CannotRefit(
                    "the relay offers no 8BITMIME, and inside multipart/signed the message has 8-bit content, which can't "
                    "be encoded without breaking the signature; encode it before signing, or send it by another relay"
                )
            self.out.append(_folded(self.text[at:end]))
            return True
        if depth >= MAX_DEPTH:
            return False
        if kind in MESSAGES and encoding not in ENCODED:  # may not be encoded itself: RFC 2046 5.2.1
            self.entity(at, end, TEXT, depth + 1, is_message=True, inside=inside)
            return True
        marks = _delimiters(self.text, at, end, boundary) if kind.startswith(b"multipart/") and boundary else []
        if not marks:
            return False
        default = MESSAGES[0] if kind == b"multipart/digest" else TEXT
        self.out.append(_outside(self.text[at : marks[0][0]], self.eight_bit))
        for (start, stop, closes), until in zip(marks, [mark[0] for mark in marks[1:]] + [end], strict=True):
            mark = self.text[start:stop]
            self.out.append(mark if len(mark) <= LINE_BYTES + 2 else mark.rstrip(b" \t\r\n") + b"\r\n")
            if closes:
                self.out.append(_outside(self.text[stop:until], self.eight_bit))
            else:
                self.entity(stop, until, default, depth + 1, is_message=False, inside=True)
        return True


def _head(text: bytes, start: int, end: int) -> tuple[list[bytes], bytes, int]:
    """The header fields of a part, the empty line behind them if there is one, and where its body begins."""
    empty = text.find(b"\r\n\r\n", start, end)
    head = text[start : empty + 4 if empty >= 0 else end]
    fields, rest = split(head)
    at = start + len(head) - len(rest)
    return fields, text[start + sum(map(len, fields)) : at], at


def _outside(text: bytes, eight_bit: bool) -> bytes:
    """What stands before the first and behind the last part: shown to nobody, so its 8-bit need not survive."""
    return _folded(text if eight_bit else text.translate(SEVEN_BIT))


def _delimiters(text: bytes, at: int, end: int, boundary: bytes) -> list[tuple[int, int, bool]]:
    """Where each delimiter line begins and ends, and whether it is the closing one, which is the last (RFC 2046 5.1.1)."""
    mark = b"--" + boundary
    found: list[tuple[int, int, bool]] = []
    start = text.find(mark, at, end)
    while start >= 0:
        line_end = text.find(b"\r\n", start, end)
        stop = end if line_end < 0 else line_end + 2
        rest = text[start + len(mark) : stop].rstrip(b" \t\r\n")
        if rest in (b"", b"--") and text.startswith(b"\r\n", start - 2):  # a header stands before any of them
            found.append((start, stop, bool(rest)))
            if rest:
                break
        start = text.find(mark, stop, end)
    return found


def _leaf(body: bytes, kind: bytes, encoding: bytes, *, inside: bool) -> tuple[bytes, bytes]:
    """The transfer encoding of a leaf and its body in it; what is encoded already keeps its encoding."""
    if encoding == b"base64":  # a decoder skips all that is not of the alphabet (RFC 2045 6.8)
        return encoding, _wrapped(body.translate(None, NOT_BASE64))
    quoted_before = encoding == b"quoted-printable"
    soft = quoted_before and body.endswith(b"=\r\n")  # its last line break is none of the content's
    content = a2b_qp(body) if quoted_before else body
    if quoted_before or kind.startswith((b"text/", b"multipart/", b"message/")):
        quoted = b"\r\n".join([b2a_qp(line, istext=False).replace(b"\n", b"\r\n") for line in content.split(b"\r\n")])
        quoted += b"=\r\n" if soft else b""
        if b"=\r\n--" not in quoted:  # the rest of a cut line might look like a delimiter
            return b"quoted-printable", quoted
    if inside and not soft:
        content = content.removesuffix(b"\r\n")
    return b"base64", _wrapped(b2a_base64(content, newline=False))


def _wrapped(text: bytes) -> bytes:
    return b"".join([text[at : at + ENCODED_BYTES] + b"\r\n" for at in range(0, len(text), ENCODED_BYTES)])


def _folded(text: bytes) -> bytes:
    """Long lines cut by CRLF SPACE, as Postfix does (postconf(5), smtp_line_length_limit)."""
    lines = text.split(b"\r\n")
    for number, line in enumerate(lines):
        if len(line) > LINE_BYTES:
            rest = range(LINE_BYTES, len(line), LINE_BYTES - 1)
            lines[number] = b"\r\n ".join([line[:LINE_BYTES], *(line[at : at + LINE_BYTES - 1] for at in rest)])
    return b"\r\n".join(lines)


def _folded_field(field: bytes) -> bytes:
    return b"\r\n".join([line if len(line) <= LINE_BYTES else _folded_at_space(line) for line in field.split(b"\r\n")])


def _folded_at_space(line: bytes) -> bytes:
    """A header line folded before white space, which unfolding undoes (RFC 5322 2.2.3); without any, as Postfix does."""
    line = line.rstrip(b" \t") or line[:1]  # never empty: that would end the header
    pieces: list[bytes] = []
    start, added = 0, b""
    while len(line) - start > LINE_BYTES - len(added):
        window = line[start : start + LINE_BYTES - len(added) + 1]
        words = len(window) - len(window.lstrip(b" \t"))
        end = max(window.rfind(b" ", words), window.rfind(b"\t", words))
        cut = end if end >= 0 else len(window) - 1
        pieces.append(added + window[:cut])
        start, added = start + cut, b"" if end >= 0 else b" "
    return b"\r\n".join([*pieces, added + line[start:]])


def _values(fields: list[bytes], name: bytes) -> list[bytes]:
    return [field.partition(b":")[2].replace(b"\r\n", b"").strip() for field in fields if field_name(field) == name]


def _content_type(fields: list[bytes], default: bytes) -> tuple[bytes, bytes]:
    """Type and boundary of a part, in force as readers take it: the first field; what is no type is text (RFC 2045 5.2)."""
    values = _values(fields, b"content-type")
    if not values:
        return default, b""
    kind = b"".join(values[0].partition(b";")[0].split()[:1]).lower()
    boundary = next((value for name, value in PARAMETER.findall(values[0]) if name.lower() == b"boundary"), b"")
    if boundary.startswith(b'"') and len(boundary) > 1:
        boundary = re.sub(rb"\\(.)", rb"\1", boundary[1:-1])
    boundary = boundary.rstrip()
    usable = boundary.isascii() and len(boundary) <= MAX_BOUNDARY_BYTES
    return kind if kind.count(b"/") == 1 else TEXT, boundary if usable else b""


def _encoding(fields: list[bytes]) -> bytes:
    """The content transfer encoding in lower case, or nothing."""
    return b"".join(b"".join(_values(fields, b"content-transfer-encoding")[:1]).partition(b";")[0].split()[:1]).lower()


def _put(fields: list[bytes], name: bytes, value: bytes) -> None:
    """Gives the field `name` this value, where it stands first, else at the end; there is only one of it then."""
    same = [field_name(field) == name.lower() for field in fields]
    place = same.index(True) if True in same else len(fields)
    rest = [field for field, gone in zip(fields[place:], same[place:], strict=True) if not gone]
    fields[place:] = [name + b": " + value + b"\r\n", *rest]


def _is_utf8(body: bytes) -> bool:
    try:
        body.decode("utf-8")
    except UnicodeDecodeError:
        return False
    return True
