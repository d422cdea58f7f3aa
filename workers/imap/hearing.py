"""What a server says without being asked: of the folder that is open, of others, of itself.

It may say so at any time, inside the answer to something else (RFC 3501 5.2, 5.5).
"""

from __future__ import annotations

import time

from workers.imap import sets
from workers.imap.answers import Facts, State, facts, flags_of, status, uidnext
from workers.imap.wire import Response, number

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from workers.imap.sets import Ranges

MOST_TOLD = 20_000  # changed messages that are kept from the opening of a folder; where there are more, they are asked for
MOST_GONE = 50_000  # ranges of messages that are gone, that are kept from it
AGAIN_S = 600.0  # for so long the same flags of the same message are no news when they are told between other things
MOST_AGAIN = 1000


class Hearing:
    """All responses of a connection pass through `hear`; what they tell of news is kept for whoever asks."""

    def __init__(self) -> None:
        self.selected: bytes | None = None
        self.now = State()  # of the selected folder, as far as told
        self.news = False  # something of the selected folder has changed
        self.flagged = False  # flags were told during a command that had not asked for them; at rest they are news
        self.heard_of: dict[bytes, State | None] = {}  # other folders that NOTIFY told of
        self.folders_changed = False
        self._listing = False  # what LIST and STATUS tell was asked for
        self.watching = ""  # "notify" or "idle" while the server pushes
        self.at_rest = False  # no command of ours is on the way, but for one that lets the server speak
        self._examined: list[Facts] = []
        self._vanished: Ranges = []
        self._changes = 0  # messages that the opening named as changed
        self._opening = False
        self._asked_since = False  # the opening asked for what has changed
        self._before = State()  # of the folder that was open before
        self._closed = True  # what the opening tells is of the new folder for sure
        self._reads = False  # whoever takes FETCH responses judges them
        self._told: set[int] = set()  # flags that were told unasked since `_told_at`
        self._told_at = 0.0

    def hear(self, response: Response) -> None:
        """Each response passes here: what it tells of the selected folder, of others, of the server."""
        kind = response.kind
        if kind == b"FETCH":
            if self._opening:
                self._hear_changed(response)
            elif self.at_rest:  # else it may well be what was asked for
                self.news = True
            elif not self._reads:
                self._hear_flags(response, facts(response))
        elif kind == b"EXISTS":
            self.news = self.news or response.number != self.now.messages
            self.now.messages = response.number
        elif kind == b"EXPUNGE":
            self._shrink(1)
        elif kind == b"VANISHED" and response.values and isinstance(response.values[-1], bytes):
            self._vanish(response.values)
        elif kind == b"STATUS" and self.watching == "notify" and not self._listing:
            name, state, _ = status(response)
            if name is not None:
                self.heard_of[name] = state
        elif kind == b"LIST" and self.watching == "notify" and not self._listing:
            self.folders_changed = True
        elif kind == b"OK" and response.code:
            self._read_code(response.code)

    def _hear_changed(self, response: Response) -> None:
        """Inside the opening of a folder: what has changed of it, when that was asked for, else of the one before."""
        each = facts(response)
        if each is None or not self._asked_since:
            if self._is_new(*_flags(response, each)):
                self._tell_of_old()
            return
        self._changes += 1
        if len(self._examined) < MOST_TOLD:
            self._examined.append(each)

    def _hear_flags(self, response: Response, each: Facts | None) -> None:
        """A FETCH response that answers nothing that was asked: another's change, which the pass in hand may not meet."""
        self.flagged = self._is_new(*_flags(response, each)) or self.flagged

    def _is_new(self, number: int, flags: tuple[bytes, ...] | None) -> bool:
        """Whether these flags were not told a moment ago: a server that repeats itself is not asked again and again."""
        now = time.monotonic()
        if flags is None:
            return False
        if now - self._told_at > AGAIN_S:
            self._told, self._told_at = set(), now
        mark = hash((self.selected, number, frozenset(flags)))
        if mark in self._told or len(self._told) >= MOST_AGAIN:
            return False
        self._told.add(mark)
        return True

    def _tell_of_old(self) -> None:
        """Something of the folder that is open, or was before, has changed, and the pass in hand is another one's."""
        if self.selected is not None:
            self.heard_of[self.selected] = None

    def _shrink(self, number: int) -> None:
        """So many messages are gone just now."""
        self.now.messages -= number
        self.news = True
        if self._opening and not self._closed:
            self._tell_of_old()

    def _close_old(self) -> None:
        """All that was told since the opening began is of the folder before (RFC 7162 3.2.11)."""
        if self._closed or not self._opening:
            return
        changed = [each for each in self._examined if self._is_new(each.uid, each.flags)]
        if changed or self.now.messages not in (0, self._before.messages):
            self._tell_of_old()
            self.folders_changed = self.folders_changed or self.selected is None  # which one it was, a look finds
        self.now, self.news, self._closed = State(), False, True
        self._examined, self._vanished, self._changes = [], [], 0

    def _vanish(self, values: list[Any]) -> None:
        """Messages are gone: before the folder was opened (EARLIER), or now (RFC 7162 3.2.10).

        Where a set is none, or there are too many, the numbers of messages show what is not taken from it.
        """
        if len(self._vanished) > MOST_GONE:
            return
        try:
            gone = sets.parse(values[-1])
        except ValueError:
            gone = []
        if not isinstance(values[0], list):
            self._shrink(sets.count(gone))
        elif self._opening:
            self._vanished += gone

    def _read_code(self, code: list[Any]) -> None:
        value = number(code[1]) if len(code) > 1 else None
        if code[0] == b"UIDVALIDITY":
            self.now.epoch = value or 0
        elif code[0] == b"UIDNEXT":
            self.now.uidnext = uidnext(value)
        elif code[0] == b"HIGHESTMODSEQ":
            self.now.modseq = value or 0
        elif code[0] == b"CLOSED":
            self._close_old()
        elif code[0] == b"NOTIFICATIONOVERFLOW":
            self.watching = ""
            self.folders_changed = True

    def has_news(self) -> bool:
        """Whether the server told of a change since the last look."""
        return self.news or self.flagged or bool(self.heard_of) or self.folders_changed

    def was_flagged(self) -> bool:
        """Whether flags were told that nothing had asked for, since this was last asked."""
        found, self.flagged = self.flagged, False
        return found


def _flags(response: Response, each: Facts | None) -> tuple[int, tuple[bytes, ...] | None]:
    """The flags that a FETCH response tells, and of which message: its UID, or below 0 its number."""
    return (each.uid, each.flags) if each is not None else (-response.number, flags_of(response))
