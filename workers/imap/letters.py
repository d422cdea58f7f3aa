"""PURE: the names of message files, and dates and flags as IMAP and Maildir write them."""

from __future__ import annotations

import time

MARK = ".imap-sync"
LETTERS = {"\\draft": "D", "\\flagged": "F", "\\answered": "R", "\\seen": "S", "\\deleted": "T"}
FLAGS = {"D": "\\Draft", "F": "\\Flagged", "R": "\\Answered", "S": "\\Seen", "T": "\\Deleted"}
MOST_NUMBER = 2**32 - 1  # of a UIDVALIDITY, and of a UID (RFC 3501 9)
MOST_DATE = 32  # bytes: none that means something is longer
MONTHS = {
    b"jan": 1,
    b"feb": 2,
    b"mar": 3,
    b"apr": 4,
    b"may": 5,
    b"jun": 6,
    b"jul": 7,
    b"aug": 8,
    b"sep": 9,
    b"oct": 10,
    b"nov": 11,
    b"dec": 12,
}


class Name:
    """What a file's name tells. `date` is INTERNALDATE in Unix seconds, `letters` are the flags of maildir(5)."""

    __slots__ = ("date", "epoch", "letters", "size_bytes", "uid")

    def __init__(self, epoch: int, uid: int, size_bytes: int, date: int, letters: str) -> None:
        self.epoch = epoch
        self.uid = uid
        self.size_bytes = size_bytes
        self.date = date
        self.letters = letters


def file_name(epoch: int, uid: int, size_bytes: int, date: int, flags: str) -> str:
    """`<date>.V<epoch>U<uid>.imap-sync,S=<size>:2,<letters>`; a program that opens the Maildir may add letters only."""
    return f"{date}.V{epoch}U{uid}{MARK},S={size_bytes}:2,{letters(flags)}"


def parse(name: str) -> Name | None:
    """What a name that `file_name` made tells; None for any other."""
    base, colon, info = name.partition(":2,")
    head, mark, size = base.partition(f"{MARK},S=")
    date, dot, ids = head.partition(".V")
    epoch, u, uid = ids.partition("U")
    numbers = (epoch, uid, size, date.removeprefix("-"))
    if not (colon and mark and dot and u) or not all(each.isascii() and each.isdigit() and len(each) < 16 for each in numbers):
        return None
    found = Name(int(epoch), int(uid), int(size), int(date), info)
    if found.epoch > MOST_NUMBER or found.uid > MOST_NUMBER:
        return None
    return found if file_name(found.epoch, found.uid, found.size_bytes, found.date, "") == f"{base}:2," else None


def flag_text(flags: tuple[bytes, ...] | None) -> str:
    """Flags as they are stored: each once, sorted, spaces between. System flags are written in one way (RFC 3501 2.3.2)."""
    found = set()
    for each in flags or ():
        word = each.decode("utf-8", "surrogateescape")
        letter = LETTERS.get(word.lower())
        found.add(FLAGS[letter] if letter else word)
    return " ".join(sorted(found)).encode("utf-8", "backslashreplace").decode()


def letters(flags: str) -> str:
    """The letters of maildir(5) for stored flags."""
    return "".join(sorted(LETTERS[word] for each in flags.split(" ") if (word := each.lower()) in LETTERS))


def flags_of(found: str) -> str:
    """Stored flags for letters; other letters mean nothing here."""
    return " ".join(sorted(FLAGS[each] for each in set(found) if each in FLAGS))


def unix(date: bytes | None) -> int:
    """INTERNALDATE (`17-Jul-1996 02:44:25 -0700`, RFC 3501 9) in Unix seconds; 0 for none that can be read."""
    try:
        day, clock, zone = (date or b"")[:MOST_DATE].split()
        number, month, year = day.split(b"-")
        hours, minutes, seconds = map(int, clock.split(b":"))
        offset_s = int(zone[1:3]) * 3600 + int(zone[3:5]) * 60
        days = _days(int(year), MONTHS[month.lower()], int(number))
    except (ValueError, KeyError, OverflowError):
        return 0
    return days * 86400 + hours * 3600 + minutes * 60 + seconds + (offset_s if zone[:1] == b"-" else -offset_s)


def _days(year: int, month: int, day: int) -> int:
    """Days since 1970. Raises ValueError."""
    import datetime  # a part of sqlite3, so it is here already

    return datetime.date(year, month, day).toordinal() - 719163


def stamp(seconds: float) -> str:
    """`2014-01-12 22:28:05`, this host's time."""
    return time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(seconds))
