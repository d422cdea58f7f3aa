"""The mail of the hostile IMAP server, in memory, and the syntax of what clients ask it (RFC 3501, 4731, 7162)."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from typing import NamedTuple

MONTHS = ("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec")
Word = bytes | list["Word"]


class Mail:
    """One message. `size` is what the server claims, `value` what it sends in place of `{size}` and the content."""

    def __init__(self, uid: int, content: bytes, flags: Iterable[str], date: int, modseq: int) -> None:
        self.uid = uid
        self.content = content
        self.flags = set(flags)
        self.date = date
        self.modseq = modseq
        self.size = len(content)
        self.identity = ""

    def internaldate(self) -> str:
        """As on the wire, in UTC."""
        t = time.gmtime(self.date)
        return f'"{t.tm_mday:2d}-{MONTHS[t.tm_mon - 1]}-{t.tm_year} {t.tm_hour:02d}:{t.tm_min:02d}:{t.tm_sec:02d} +0000"'


class Box:
    """A folder of the server. All numbers may be changed by a test as it likes."""

    def __init__(self, epoch: int = 1) -> None:
        self.epoch = epoch
        self.next_uid = 1
        self.modseq = 1
        self.mails: dict[int, Mail] = {}
        self.gone: list[tuple[int, int]] = []  # (MODSEQ of its expunge, UID)
        self.attributes = ""

    def append(self, content: bytes, flags: Iterable[str] = (), date: int = 1_000_000_000) -> Mail:
        """A new message."""
        self.modseq += 1
        mail = Mail(self.next_uid, content, flags, date, self.modseq)
        self.mails[mail.uid] = mail
        self.next_uid += 1
        return mail

    def flag(self, uid: int, flags: Iterable[str]) -> None:
        """Replaces the flags of a message."""
        self.modseq += 1
        self.mails[uid].flags = set(flags)
        self.mails[uid].modseq = self.modseq

    def expunge(self, uid: int) -> None:
        """Removes a message."""
        self.modseq += 1
        del self.mails[uid]
        self.gone.append((self.modseq, uid))

    def status(self, items: Iterable[str]) -> str:
        """STATUS items with their values (RFC 3501 6.3.10, RFC 7162 3.1.7)."""
        unseen = sum("\\Seen" not in mail.flags for mail in self.mails.values())
        values = {
            "MESSAGES": len(self.mails),
            "RECENT": 0,
            "UIDNEXT": self.next_uid,
            "UIDVALIDITY": self.epoch,
            "UNSEEN": unseen,
            "HIGHESTMODSEQ": self.modseq,
            "SIZE": sum(mail.size for mail in self.mails.values()),
        }
        return " ".join(f"{item} {values[item]}" for item in items if item in values)

    def chosen(self, sequence: str, *, by_uid: bool = True) -> list[tuple[int, Mail]]:
        """(sequence number, message) of a set; `*` is the last, and `n:*` never empty (RFC 3501 9)."""
        rows = list(enumerate(self.mails.values(), 1))
        last = (rows[-1][1].uid if by_uid else rows[-1][0]) if rows else 0
        spans = []
        for part in sequence.split(","):
            ends = [last if word == "*" else int(word) for word in part.split(":")]
            spans.append((min(ends), max(ends)))
        return [
            (number, mail) for number, mail in rows if any(low <= (mail.uid if by_uid else number) <= high for low, high in spans)
        ]


class Command(NamedTuple):
    """What a client said: `verb` in capitals, `UID FETCH` as one; `words` behind it, lists for parentheses."""

    at: float  # time.monotonic
    talk: int
    tag: str
    verb: str
    words: list[Word]
    text: str


def parse(at: float, talk: int, raw: bytes) -> Command:
    """The command of a line; literals lie in it as `{n}` CR LF and n bytes."""
    words = list(_words(raw, [0]))
    tag = _text(words[0]) if words else "*"
    verb = _text(words[1]).upper() if len(words) > 1 else ""
    rest = words[2:]
    if verb == "UID" and rest:
        verb, rest = f"UID {_text(rest[0]).upper()}", rest[1:]
    return Command(at, talk, tag, verb, rest, raw.decode("latin-1"))


def compact(uids: Iterable[int]) -> str:
    """A set of UIDs with ranges."""
    spans: list[list[int]] = []
    for uid in sorted(uids):
        if spans and spans[-1][1] == uid - 1:
            spans[-1][1] = uid
        else:
            spans.append([uid, uid])
    return ",".join(str(low) if low == high else f"{low}:{high}" for low, high in spans)


def texts(words: Iterable[Word]) -> list[str]:
    """The plain words among these, those of lists too."""
    found: list[str] = []
    for word in words:
        found += texts(word) if isinstance(word, list) else [word.decode("latin-1")]
    return found


def _text(word: Word) -> str:
    return word.decode("latin-1") if isinstance(word, bytes) else ""


def _words(raw: bytes, place: list[int]) -> Iterator[Word]:
    """The words from `place` on up to the end or a closing parenthesis; `place` moves along."""
    while place[0] < len(raw):
        start = place[0]
        first = raw[start : start + 1]
        if first == b" ":
            place[0] += 1
        elif first == b")":
            place[0] += 1
            return
        elif first == b"(":
            place[0] += 1
            yield list(_words(raw, place))
        elif first == b'"':
            yield _quoted(raw, place)
        elif first == b"{":
            end = raw.index(b"}", start)
            size = int(raw[start + 1 : end].rstrip(b"+"))
            place[0] = end + 3 + size
            yield raw[end + 3 : end + 3 + size]
        else:
            yield _atom(raw, place)


def _quoted(raw: bytes, place: list[int]) -> bytes:
    place[0] += 1
    found = bytearray()
    while raw[place[0]] != 0x22:
        place[0] += raw[place[0]] == 0x5C
        found.append(raw[place[0]])
        place[0] += 1
    place[0] += 1
    return bytes(found)


def _atom(raw: bytes, place: list[int]) -> bytes:
    """Up to a space or parenthesis; what stands in brackets belongs to it: BODY[HEADER.FIELDS (DATE)]."""
    start = place[0]
    depth = 0
    while place[0] < len(raw):
        byte = raw[place[0]]
        depth += (byte == 0x5B) - (byte == 0x5D)
        if depth <= 0 and byte in b" ()":
            break
        place[0] += 1
    return raw[start : place[0]]
