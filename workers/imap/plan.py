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
    messages, "all", or "none". `new_epoch`: the UIDVALIDITY has changed, what is here belongs to another folder's life.
    """

    __slots__ = ("flags", "listing", "new_epoch")

    def __init__(self, listing: str, flags: str, *, new_epoch: bool = False) -> None:
        self.listing = listing
        self.flags = flags
        self.new_epoch = new_epoch


def asks_since(seen: Seen, tier: str, *, full: bool) -> tuple[int, int] | None:
    """What the opening of a folder tells the server that we know (epoch, modseq); None when all is to be compared."""
    if tier != QRESYNC or full or not seen.clean or not seen.epoch or not seen.modseq or not seen.uidnext:
        return None
    return seen.epoch, seen.modseq


def make(seen: Seen, state: tuple[int, int, int, int], tier: str, *, full: bool) -> Plan:
    """The plan for a folder that was `seen` and is now in `state` (epoch, uidnext, messages, modseq), as EXAMINE told."""
    epoch, uidnext, messages, modseq = state
    if epoch != seen.epoch or not seen.uidnext:
        return Plan("all", "none" if not seen.epoch else "all", new_epoch=epoch != seen.epoch)
    if tier == PLAIN or not modseq or not seen.modseq or modseq < seen.modseq:
        # a MODSEQ that goes back is another server's memory: all flags are read once (RFC 7162 3.1.2)
        flags = "all" if full or not seen.clean or tier != PLAIN else "window"
        return Plan("all" if full or not seen.clean or messages < seen.held else _new(seen, uidnext), flags)
    if full or not seen.clean:
        return Plan("all", "since")
    if tier == QRESYNC:
        return Plan(_new(seen, uidnext), "told")
    return Plan("all" if messages < seen.held else _new(seen, uidnext), "since" if modseq > seen.modseq else "none")


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
