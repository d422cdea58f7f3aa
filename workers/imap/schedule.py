"""When what is due, by the time that is given. The intervals of [imap] are a safety net below push, else all there is."""

from __future__ import annotations

import time
from binascii import crc32

TYPE_CHECKING = False
if TYPE_CHECKING:
    from workers.imap.books import Folder
    from workers.mail.imap_config import Imap

SEND, PUSHED, HIGH, NORMAL, LOW, REST = range(6)  # priorities, the lowest number first; REST: what was put off for others
SPREAD_S = 7200  # over which the daily passes of all accounts are spread
FIRST_S, MOST_S = 5.0, 900.0
PROBE_S = 20.0  # a host that is down is asked so often, by one account for all


def recent_s(imap: Imap, *, present: bool) -> float:
    """The pause between two looks at an account."""
    return imap.recent_present_s if present else imap.recent_absent_s


def full_s(imap: Imap, *, present: bool) -> float:
    """The pause between two full passes of a folder of high priority."""
    return imap.full_present_s if present else imap.full_absent_s


def daily(now: float, low_at: int, name: str) -> float:
    """When the daily pass of the account `name` was due last, in Unix seconds; `low_at` in minutes of this host's day."""
    local = time.localtime(now)
    offset_s = low_at * 60 + crc32(name.encode()) % SPREAD_S
    day = local.tm_mday  # by the calendar: the day on which the clock changes has not 24 hours
    while (due := time.mktime((local.tm_year, local.tm_mon, day, 0, 0, offset_s, 0, 0, -1))) > now:
        day -= 1  # twice when the spread passes midnight
    return due


def is_full_due(folder: Folder, imap: Imap, now: float, name: str, *, high: bool, present: bool) -> bool:
    """Whether everything of a folder is to be compared now: high ones by the interval, all others once a day."""
    if not folder.full_at or folder.full_at > now:  # the clock was put back
        return True
    if high:
        return now - folder.full_at >= full_s(imap, present=present)
    return folder.full_at < daily(now, imap.low_at, name)


def backoff_s(failures: int, jitter: float) -> float:
    """The pause behind so many failures in a row; `jitter` from 0 to 1."""
    if failures <= 1:
        return 1.0 + jitter
    return float(min(MOST_S, FIRST_S * 2 ** min(failures - 2, 12)) * (0.75 + jitter / 2))
