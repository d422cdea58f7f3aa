"""PURE: what is done to a message on acceptance, and nothing else is: all other bytes leave as they came.

A message is bytes; inside the spool its lines end in CRLF. The email package is not used: it would rewrite what it
does not understand, and its import costs more than the rest of a sendmail call.
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping

REMOVED = frozenset((b"bcc", b"resent-bcc", b"return-path", b"content-length"))
DAYS = ("Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun")
MONTHS = ("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec")


def normalise(raw: bytes) -> bytes:
    """`raw` with CRLF at each line's end, a bare CR turned into a space, and no mbox `From ` line on top.

    A bare CR would be a line's end for some servers and none for others: mail smuggling (RFC 5321 2.3.8).
    """
    if raw.startswith(b"From "):
        raw = raw.partition(b"\n")[2]
    text = raw.replace(b"\r\n", b"\n").replace(b"\r", b" ").replace(b"\n", b"\r\n")
    return text if text.endswith(b"\r\n") or not text else text + b"\r\n"


def split(text: bytes) -> tuple[list[bytes], bytes]:
    """The header fields, each with its folded lines and CRLF, and the body, of a normalised message (RFC 5322 2.2).

    Header ends at an empty line, or at the first line that is none of a field: that line belongs to the body.
    """
    fields: list[bytes] = []
    start = begin = 0  # of the line, and of the field that it belongs to
    while start < len(text):
        end = text.find(b"\r\n", start) + 2
        if not (begin < start and text[start : start + 1] in (b" ", b"\t")):
            if begin < start:
                fields.append(text[begin:start])
                begin = start
            line = text[start:end]
            if line == b"\r\n":
                return fields, text[end:]
            if not field_name(line):
                return fields, text[start:]
        start = end
    if begin < start:
        fields.append(text[begin:start])
    return fields, text[start:]


def field_name(line: bytes) -> bytes:
    """The lower-case name of a header field, or nothing when the line is no field (also `Name :`, RFC 5322 4.5)."""
    name, colon, _ = line.partition(b":")
    name = name.rstrip(b" \t")
    if not colon or not name or not all(32 < sign < 127 for sign in name):
        return b""
    return name.lower()


def field_value(field: bytes) -> str:
    """What stands behind the colon, unfolded (RFC 5322 2.2.3); bytes over 127 as surrogates, never an error."""
    return field.partition(b":")[2].replace(b"\r\n", b"").strip().decode("utf-8", "surrogateescape")


def recipient_fields(fields: list[bytes]) -> list[str]:
    """The values of To, Cc and Bcc, or, for a message sent on, of their Resent- forms (RFC 5322 3.6.6)."""
    for names in ((b"resent-to", b"resent-cc", b"resent-bcc"), (b"to", b"cc", b"bcc")):
        found = [field_value(field) for field in fields if field_name(field) in names]
        if found:
            return found
    return []


def finish(fields: list[bytes], body: bytes, missing: Mapping[str, str]) -> bytes:
    """The message as it is stored: without REMOVED fields, with those of `missing` that it lacks, at the end."""
    kept = [field for field in fields if field_name(field) not in REMOVED]
    names = {field_name(field) for field in kept}
    added = [f"{name}: {value}\r\n".encode() for name, value in missing.items() if name.lower().encode() not in names]
    return b"".join([*kept, *added, b"\r\n", body])


def message_id(fields: list[bytes], otherwise: str) -> str:
    """The message's own Message-ID, else `otherwise`."""
    found = next((field_value(field) for field in fields if field_name(field) == b"message-id"), otherwise)
    return found.encode("utf-8", "surrogateescape").decode("utf-8", "replace")


def from_value(address: str, name: str) -> str:
    """The value of a From field (RFC 5322 3.4), the name quoted or, when not ASCII, encoded (RFC 2047 2)."""
    name = "".join(sign for sign in name if ord(sign) >= 32 and ord(sign) != 127)
    if not name:
        return address
    if name.isascii():
        escaped = name.replace("\\", "\\\\").replace('"', '\\"')
        return f'"{escaped}" <{address}>'
    from binascii import b2a_base64

    words = [name[start : start + 10] for start in range(0, len(name), 10)]  # an encoded word has 75 signs at most
    encoded = [b2a_base64(word.encode("utf-8", "replace"), newline=False).decode() for word in words]
    return "\r\n ".join(f"=?utf-8?B?{word}?=" for word in encoded) + f" <{address}>"


def date_value(fields: tuple[int, ...], offset_s: int) -> str:
    """A Date field's value (RFC 5322 3.3) from the first seven of time.localtime() and its offset east of UTC."""
    year, month, day, hour, minute, second, weekday = fields[:7]
    sign, offset = ("-", -offset_s) if offset_s < 0 else ("+", offset_s)
    zone = f"{sign}{offset // 3600:02d}{offset % 3600 // 60:02d}"
    return f"{DAYS[weekday]}, {day:02d} {MONTHS[month - 1]} {year:04d} {hour:02d}:{minute:02d}:{second:02d} {zone}"


def end_at_dot(raw: bytes | bytearray, start: int = 0) -> int:
    """Where a line with a single dot begins at or behind `start`, which ends input without -i; -1 when none does."""
    if start == 0 and (raw.startswith((b".\n", b".\r\n"))):
        return 0
    found = [at + 1 for at in (raw.find(b"\n.\n", start), raw.find(b"\n.\r\n", start)) if at >= 0]
    return min(found, default=-1)


def stuffed(text: bytes) -> bytes:
    """The message with the dot at a line's start doubled (RFC 5321 4.5.2)."""
    text = text.replace(b"\r\n.", b"\r\n..")
    return b"." + text if text.startswith(b".") else text
