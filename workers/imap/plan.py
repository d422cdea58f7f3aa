"""PURE: compares what the server has, what we have, and what was last seen, and says what is to be done. Knows no world."""

from __future__ import annotations

from workers.imap import sets

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable
    from typing import TypeVar

    from workers.imap.sets import Ranges

    Key = TypeVar("Key")
    Other = TypeVar("Other")
    Value = TypeVar("Value")

QRESYNC = "qresync"  # the server tells what has changed and what is gone
CONDSTORE = "condstore"  # it tells what has changed
PLAIN = "plain"  # it tells nothing: flags are read again
FLAG_WINDOW = 500
MOST_EPOCHS = 5
DAY_S = 86400


class Seen:
    """A folder as it was last in step: UIDVALIDITY, UIDNEXT, HIGHESTMODSEQ, messages on the server, messages here.

    `clean` is False when files or rows may have changed without the other. 0 is unknown.
    """

    __slots__ = ("clean", "epoch", "held", "messages", "modseq", "uidnext")

    def __init__(self, epoch: int, uidnext: int, modseq: int, messages: int, held: int, *, clean: bool) -> None:
        self.epoch = epoch
        self.uidnext = uidnext
        self.modseq = modseq
        self.messages = messages
        self.held = held
        self.clean = clean

    def is_same(self, state: tuple[int, int, int, int], tier: str) -> bool:
        """Whether a STATUS (epoch, uidnext, messages, modseq) proves that nothing has changed: flags need a MODSEQ."""
        epoch, uidnext, messages, modseq = state
        if not self.clean or not self.epoch or (epoch, uidnext, messages) != (self.epoch, self.uidnext, self.messages):
            return False
        return messages == 0 or (tier != PLAIN and modseq != 0 and modseq == self.modseq)


class Plan:
    """What a pass of a folder does. `listing`: "all" UIDs are compared, only "new" ones, or "none" asked for.

    `flags`: where changes of flags come from: "told" at the opening, "since" the last MODSEQ, a "window" of the newest
    messages, "all", or "none". `marks`: with all flags the INTERNALDATEs and identities are read, that tell whether each UID
    still is the message it was. `new_epoch`: the UIDVALIDITY has changed, what is here belongs to another folder's life.
    """

    __slots__ = ("flags", "listing", "marks", "new_epoch")

    def __init__(self, listing: str, flags: str, *, marks: bool = False, new_epoch: bool = False) -> None:
        self.listing = listing
        self.flags = flags
        self.marks = marks
        self.new_epoch = new_epoch


def asks_since(seen: Seen, tier: str, *, full: bool) -> tuple[int, int] | None:
    """What the opening of a folder tells the server that we know (epoch, modseq); None when all is to be compared."""
    if tier != QRESYNC or full or not seen.clean or not seen.epoch or not seen.modseq or not seen.uidnext:
        return None
    return seen.epoch, seen.modseq


def is_daily(full_at: float, now: float, key: int) -> bool:
    """Whether the full pass of a folder, the last one being at `full_at`, is the day's, that also reads all flags and marks.

    They cost some 70 to 100 bytes a message. Full passes that come more often are for sets and files; of them it is the first of
    a day, which begins at another time for each `key`.
    """
    shift = key * 53401 % DAY_S
    return not 0 <= now - full_at < DAY_S / 2 or (full_at + shift) // DAY_S != (now + shift) // DAY_S


def make(seen: Seen, state: tuple[int, int, int, int], tier: str, *, full: bool, daily: bool = False) -> Plan:
    """The plan for a folder that was `seen` and is now in `state` (epoch, uidnext, messages, modseq), as EXAMINE told.

    `full`: UIDs and files are compared; `daily`: flags and marks as well, whatever the server tells by itself.
    """
    epoch, uidnext, messages, modseq = state
    if epoch != seen.epoch or not seen.uidnext:
        return Plan("all", "none" if not seen.epoch else "all", marks=True, new_epoch=epoch != seen.epoch)
    if daily or _is_other_memory(seen, uidnext, modseq, tier):
        return Plan("all", "all", marks=True)
    if tier == PLAIN or not modseq:
        flags = "all" if full or not seen.clean or tier != PLAIN else "window"
        return Plan("all" if full or not seen.clean or messages < seen.held else _new(seen, uidnext), flags)
    if full or not seen.clean:
        return Plan("all", "since")
    if tier == QRESYNC:
        return Plan(_new(seen, uidnext), "told")
    return Plan("all" if messages < seen.held else _new(seen, uidnext), "since" if modseq > seen.modseq else "none")


def _is_other_memory(seen: Seen, uidnext: int, modseq: int, tier: str) -> bool:
    """Whether what was seen tells nothing of what is: a server restored from a backup gives its UIDs and MODSEQs again.

    Then flags and messages may be others (RFC 7162 3.1.2). An unknown MODSEQ may have gone back, too.
    """
    if 0 < uidnext < seen.uidnext:
        return True
    return tier != PLAIN and (modseq < seen.modseq or (modseq > 0 and not seen.modseq))


def _new(seen: Seen, uidnext: int) -> str:
    return "new" if not uidnext or uidnext > seen.uidnext else "none"


def compare(server: Ranges, ours: Ranges, poison: Ranges) -> tuple[Ranges, Ranges]:
    """What is missing here and not known as poison; and what is here and gone there."""
    return sets.minus(sets.minus(server, ours), poison), sets.minus(ours, server)


def is_complete(messages: int, held: int, poison: int, told_since: bool) -> bool:
    """Whether the numbers prove that nothing is missing: without news in between both sides have as many."""
    return told_since or messages == held + poison


def pair(there: Iterable[tuple[Key, Value]], here: Iterable[tuple[Other, Value]]) -> list[tuple[Key, Other]]:
    """Which messages there are surely which here: those whose mark is no other one's on either side."""
    marks = _unique((mark, place) for place, mark in here)
    return [(each, marks[mark]) for mark, each in _unique((mark, each) for each, mark in there).items() if mark in marks]


def _unique(pairs: Iterable[tuple[Key, Value]]) -> dict[Key, Value]:
    """The keys that came once, with their values."""
    found: dict[Key, Value] = {}
    twice: set[Key] = set()
    for key, value in pairs:
        if key in found:
            twice.add(key)
        found[key] = value
    for key in twice:
        del found[key]
    return found


def next_poison_s(tries: int) -> float:
    """When a message that the server could not give is asked for again: an hour, doubling to a day."""
    return float(min(86400, 3600 * 2 ** min(tries, 10)))
