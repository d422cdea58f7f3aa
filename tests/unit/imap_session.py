"""A connection to the server in memory, with races between its commands."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from tests.unit.imap_world import QRESYNC, Mailbox, Server
from workers.imap import sets
from workers.imap.answers import Facts, Listed, State
from workers.imap.session import Session
from workers.imap.trouble import Declined
from workers.imap.wire import Literal

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from workers.imap.sets import Ranges
    from workers.imap.wire import Write


class FakeSession(Session):
    """A connection. `step` is called before each thing it does; `races` are events by the number of that call.

    `loud`: the server tells of them at once; `quoted`: content comes in quotes, `nil`: a message that is gone is answered
    with NIL, and all flags are told in between.
    """

    def __init__(self, server: Server, step: Callable[[str], None], *, style: int = 0) -> None:
        super().__init__()
        self.server = server
        self.races: dict[int, tuple[str, int, int, int]] = {}
        self._step = step
        self._count = 0
        self._loud, self._quoted, self._nil = bool(style & 1), bool(style & 2), bool(style & 4)

    def can(self, name: str) -> bool:
        return name in self.server.offers

    def _point(self, what: str) -> None:
        self._step(f"session.{what}")
        self._count += 1
        race = self.races.pop(self._count, None)
        if race is not None:
            before = self._box().state(QRESYNC).key() if self.selected in self.server.boxes else None
            self.server.apply(race)
            after = self._box().state(QRESYNC).key() if self.selected in self.server.boxes else None
            self.news = self.news or (self._loud and before != after)

    def _box(self) -> Mailbox:
        box = self.server.boxes.get(self.selected or b"")
        if box is None:
            raise Declined(b"NO", b"NONEXISTENT", "no such folder")
        return box

    def folders(self, most: int) -> list[Listed]:
        self._point("folders")
        found = [Listed(name, b"/", frozenset()) for name in self.server.boxes]
        return [*found, Listed(b"[x]", b"/", frozenset((b"\\NOSELECT",)))]

    def states(self, folders: Iterable[Listed]) -> None:
        self._point("states")
        for each in folders:
            box = self.server.boxes.get(each.name)
            if box is not None:
                each.state = box.state(self.server.tier)
                each.mailbox_id = box.identity if self.server.identities else None

    def examine(self, name: bytes, known: tuple[int, int] | None) -> tuple[State, list[Facts], Ranges]:
        self._point("examine")
        self.selected, self.news = None, False
        if name not in self.server.boxes:
            raise Declined(b"NO", b"NONEXISTENT", "no such folder")
        self.selected = name
        box = self._box()
        changed: list[Facts] = []
        gone: list[int] = []
        if known is not None and self.server.tier == QRESYNC and known[0] == box.epoch:
            changed = [self._facts(uid, b"FLAGS") for uid, each in sorted(box.messages.items()) if each.modseq > known[1]]
            gone = sorted(uid for modseq, uid in box.gone if modseq > known[1])
        return box.state(self.server.tier), changed, sets.of(gone)

    def changed_since(self, modseq: int, below: int) -> list[Facts]:
        self._point("changed_since")
        found = sorted(self._box().messages.items())
        return [self._facts(uid, b"FLAGS") for uid, each in found if uid < max(2, below) and each.modseq > modseq]

    def uids(self, messages: int, ranges: bytes = b"") -> Ranges:
        self._point("uids")
        return sets.of(self._chosen(ranges)) if ranges else sets.of(sorted(self._box().messages))

    def _chosen(self, ranges: bytes) -> list[int]:
        """`5:*` always has the last one in it (RFC 3501 9, seq-range)."""
        there = sorted(self._box().messages)
        if ranges.endswith(b":*"):
            return [uid for uid in there if uid >= int(ranges[:-2]) or uid == there[-1]]
        wanted = sets.parse(ranges)
        return [uid for uid in there if any(low <= uid <= high for low, high in wanted)]

    def synchronise(self) -> None:
        self._point("synchronise")

    def facts(self, words: bytes) -> list[Facts]:
        self._point("facts")
        _, _, ranges, items = words.split(b" ", 3)
        return [self._facts(uid, items) for uid in self._chosen(ranges)]

    def _facts(self, uid: int, items: bytes) -> Facts:
        message = self._box().messages[uid]
        found = Facts(uid)
        found.flags = message.flags if b"FLAGS" in items else None
        found.size_bytes = len(message.content) if b"SIZE" in items else -1
        found.date = message.date if b"DATE" in items else None
        found.identity = message.identity if b"EMAILID" in items else None
        return found

    def messages(
        self,
        parts: Iterable[tuple[bytes, Ranges]],
        open_literal: Callable[[bytes, int], Write | None],
        take: Callable[[Facts], None],
        done: Callable[[Ranges], None],
    ) -> None:
        source = iter(parts)
        waiting = [part for part in (next(source, None), next(source, None)) if part is not None]
        while waiting:
            items, ranges = waiting.pop(0)
            self._point("fetch")
            for uid in self._chosen(sets.text(ranges)):
                self._point("message")
                self._send(uid, items, open_literal, take)
            done(ranges)
            part = next(source, None)
            if part is not None:
                waiting.append(part)

    def _send(
        self, uid: int, items: bytes, open_literal: Callable[[bytes, int], Write | None], take: Callable[[Facts], None]
    ) -> None:
        message = self._box().messages.get(uid)
        if message is None:
            if self._nil:
                take(Facts(uid))
            return
        whole = b"BODY.PEEK[]" in items
        body = message.content if whole else message.content[: message.content.find(b"\r\n\r\n") + 4 or None]
        if b"\r\n\r\n" not in message.content:
            body = message.content
        if self._nil:  # news of another one
            take(self._facts(max(self._box().messages), b"FLAGS"))
        found = self._facts(uid, items)
        told: Any = body
        if not self._quoted:
            write = open_literal(b"* 1 FETCH (UID %d %s " % (uid, b"BODY[]" if whole else b"BODY[HEADER]"), len(body))
            if write is not None:
                for start in range(0, len(body), 20):
                    self._point("bytes")
                    write(memoryview(body)[start : start + 20])
                told = Literal(len(body), write)
        if whole:
            found.body = told
            self.server.sent_bytes += len(body)
            self.server.sent_uids.append(uid)
        else:
            found.header = told
        take(found)
