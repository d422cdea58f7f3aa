"""Folder names: modified UTF-7 (RFC 3501 5.1.3), what people read, and the one path component that stands for a folder.

PURE. A name is the server's bytes and is trusted with nothing. A delimiter is the one ASCII byte of LIST; None, or
anything else, means a flat name. Everything here is for ever: a folder on disk keeps its name over all versions of Python,
so no rule asks the Unicode tables of the interpreter.
"""

from __future__ import annotations

from binascii import Error as Base64Error
from binascii import a2b_base64, b2a_base64
from itertools import groupby

LONGEST_BYTES = 180  # of a component; file systems take 255
HASH_BYTES = 16
EMPTY = "%-"  # a part without letters; no escape looks like it
UNDECODED = "%="  # before a name that is no modified UTF-7
RESERVED = frozenset(("cur", "new", "tmp"))
# Signs that show nothing or turn the text around: controls, format signs, blanks other than the space, fillers,
# variation selectors, tags. First and last of each range.
HIDDEN = (
    (0x00, 0x1F), (0x7F, 0xA0), (0xAD, 0xAD), (0x34F, 0x34F), (0x600, 0x605), (0x61C, 0x61C), (0x6DD, 0x6DD), (0x70F, 0x70F),
    (0x890, 0x891), (0x8E2, 0x8E2), (0x115F, 0x1160), (0x1680, 0x1680), (0x17B4, 0x17B5), (0x180B, 0x180F), (0x2000, 0x200F),
    (0x2028, 0x202F), (0x205F, 0x206F), (0x2800, 0x2800), (0x3000, 0x3000), (0x3164, 0x3164), (0xD800, 0xDFFF),
    (0xFE00, 0xFE0F), (0xFEFF, 0xFEFF), (0xFFA0, 0xFFA0), (0xFFF0, 0xFFFB), (0xFFFE, 0xFFFF), (0x110BD, 0x110BD),
    (0x110CD, 0x110CD), (0x13430, 0x1343F), (0x16FE4, 0x16FE4), (0x1BCA0, 0x1BCA3), (0x1D173, 0x1D17A), (0xE0000, 0xE0FFF),
)  # fmt: skip


def decode(raw: bytes) -> str | None:
    """The text of a name in modified UTF-7, or None when it is not exactly what `encode` makes of any text."""
    if not raw.isascii():
        return None
    if b"&" not in raw:
        text = raw.decode("ascii")
        return text if _is_printable(text) else None
    head, *shifted = raw.split(b"&")
    words = [head.decode("ascii")]
    for piece in shifted:
        coded, end, plain = piece.partition(b"-")
        if not end:
            return None
        try:
            words.append(_from_base64(coded) if coded else "&")
        except ValueError:  # also UnicodeDecodeError and Base64Error
            return None
        words.append(plain.decode("ascii"))
    text = "".join(words)
    # so that no two names decode to the same text: superfluous shifts, printable ASCII in base64, padding bits
    return text if encode(text) == raw else None


def encode(text: str) -> bytes:
    """The name in modified UTF-7. Raises UnicodeEncodeError for half of a surrogate pair."""
    name = bytearray()
    for plain, signs in groupby(text, lambda sign: " " <= sign <= "~"):
        run = "".join(signs)
        if plain:
            name += run.replace("&", "&-").encode("ascii")
        else:
            coded = b2a_base64(run.encode("utf-16-be"), newline=False).rstrip(b"=")
            name += b"&" + coded.replace(b"/", b",") + b"-"
    return bytes(name)


def shown(raw: bytes) -> str:
    """The name for people and logs, on one line; what would be invisible is escaped. It does not tell names apart."""
    text = decode(raw)
    if text is None:
        text = raw.decode("utf-8", "backslashreplace")
    return "".join(_visible(sign) if _is_hidden(sign) else sign for sign in text)


def is_inbox(raw: bytes) -> bool:
    """Whether this is INBOX, which has no case (RFC 3501 5.1); all other names have one."""
    return raw.upper() == b"INBOX"


def canonical(raw: bytes, delimiter: bytes | None) -> bytes:
    """The name by which a folder is known: INBOX, alone or as the first part, in capitals; else as it came."""
    mark = _mark(delimiter)
    if is_inbox(raw[:5]) and (len(raw) == 5 or (mark and raw[5:6] == mark)):
        return b"INBOX" + raw[5:]
    return raw


def folder_path(raw: bytes, delimiter: bytes | None, *, hashed: bool = False) -> str:
    """The one path component for a folder: its parts joined by ".".

    For one delimiter, two folders never get the same one; a `hashed` one ends in a hash of the name, so that none gets it
    whose name is another one, whatever the delimiters. At most 180 bytes of UTF-8, none of them "/", NUL or a control; it
    does not begin with a dot and is not one of Maildir's own names.
    """
    raw, mark = canonical(raw, delimiter), _mark(delimiter)
    text = decode(raw)
    if text is None:
        parts = raw.split(mark) if mark else [raw]
        pieces = [UNDECODED, *_joined([[_escaped_byte(byte) for byte in part] for part in parts])]
    else:
        names = text.split(mark.decode("ascii")) if mark else [text]
        pieces = _joined([[_escaped(sign) for sign in name] for name in names])
    if pieces[-1] == " ":
        pieces[-1] = "%20"
    if pieces[0] in (" ", "-") or "".join(pieces) in RESERVED:
        pieces[0] = f"%{ord(pieces[0]):02X}"
    path = "".join(pieces)
    return _cut(pieces, raw) if hashed or len(path.encode()) > LONGEST_BYTES else path


def loosely(path: str) -> str:
    """Equal for paths that some file systems take for one. It only tells where to ask them: it may change with Python."""
    return _composed(path).casefold()


def matches(patterns: list[str], raw: bytes, delimiter: bytes | None) -> bool:
    """Whether a list of the config takes this folder: the last entry that fits its name decides, without one it is not taken.

    "*" in an entry stands for anything, "/" for the server's delimiter, "!" before it excludes. INBOX has no case.
    """
    raw, mark = canonical(raw, delimiter), _mark(delimiter)
    text = decode(raw)
    if text is None:
        text = raw.decode("utf-8", "backslashreplace")
    name = _composed(text.replace(mark.decode("ascii"), "/") if mark else text)
    for pattern in reversed(patterns):
        wanted = _composed(pattern.removeprefix("!"))
        if _fits(wanted, name) or _fits(_folded(wanted), name):
            return not pattern.startswith("!")
    return False


def is_named(text: str, raw: bytes, delimiter: bytes | None) -> bool:
    """Whether this is the folder that people call `text`, "/" for the server's delimiter; "*" and "!" are mere signs."""
    raw, mark = canonical(raw, delimiter), _mark(delimiter)
    found = decode(raw)
    if found is None:
        return False
    name = _composed(found.replace(mark.decode("ascii"), "/") if mark else found)
    wanted = _composed(text)
    return name in (wanted, _folded(wanted))


def raw_name(text: str, delimiter: bytes | None) -> bytes:
    """The server's name for a folder that people call `text`."""
    return encode(text.replace("/", _mark(delimiter).decode("ascii") or "/"))


def _mark(delimiter: bytes | None) -> bytes:
    return delimiter if delimiter is not None and len(delimiter) == 1 and delimiter.isascii() else b""


def _is_printable(text: str) -> bool:
    return all(" " <= sign <= "~" for sign in text)


def _is_hidden(sign: str) -> bool:
    return not " " <= sign <= "~" and any(first <= ord(sign) <= last for first, last in HIDDEN)


def _visible(sign: str) -> str:
    code = ord(sign)
    return f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"


def _from_base64(coded: bytes) -> str:
    try:
        return a2b_base64(coded.replace(b",", b"/") + b"=" * (-len(coded) % 4)).decode("utf-16-be")
    except Base64Error as error:
        raise ValueError(str(error)) from None


def _escaped(sign: str) -> str:
    if sign in "%./~" or _is_hidden(sign):
        return "".join(f"%{byte:02X}" for byte in sign.encode())
    return sign


def _escaped_byte(byte: int) -> str:
    return chr(byte) if 0x20 <= byte <= 0x7E and byte not in b"%./~&" else f"%{byte:02X}"


def _joined(parts: list[list[str]]) -> list[str]:
    """The pieces of all parts, which are not cut in two, with a dot between the parts."""
    pieces: list[str] = []
    for part in parts:
        pieces += [".", *(part or [EMPTY])]
    return pieces[1:]


def _cut(pieces: list[str], raw: bytes) -> str:
    """As many pieces as there is room for before "~", which no other component holds, and a hash of the name."""
    from hashlib import blake2b

    room, kept = LONGEST_BYTES - 1 - 2 * HASH_BYTES, ""
    for piece in pieces:
        room -= len(piece.encode())
        if room < 0:
            break
        kept += piece
    return f"{kept}~{blake2b(raw, digest_size=HASH_BYTES).hexdigest()}"


def _composed(text: str) -> str:
    """An accent is one sign with its letter or a sign of its own, as the editor of the config or the server likes."""
    if text.isascii():
        return text
    from unicodedata import normalize

    return normalize("NFC", text)


def _folded(pattern: str) -> str:
    return "INBOX" + pattern[5:] if pattern[:5].upper() == "INBOX" and pattern[5:6] in ("", "/", "*") else pattern


def _fits(pattern: str, name: str) -> bool:
    first, *rest = pattern.split("*")
    if not rest:
        return pattern == name
    last = rest.pop()
    if len(name) < len(first) + len(last) or not name.startswith(first) or not name.endswith(last):
        return False
    at, end = len(first), len(name) - len(last)
    for piece in rest:
        at = name.find(piece, at, end)
        if at < 0:
            return False
        at += len(piece)
    return True
