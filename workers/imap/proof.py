"""Compares one folder of a server with the files on disk and with the rows of the state database, message by message.

The three come as streams in the order of their UIDs, some thousand at a time, so memory stays flat.
"""

from __future__ import annotations

import hashlib
import os

from workers.imap import sets
from workers.imap.archive import DIGEST_BYTES
from workers.imap.books import Row
from workers.imap.letters import file_name, flag_text, letters, unix
from workers.imap.report import Report
from workers.imap.shelf import Shelf, bits, hash_of
from workers.imap.trouble import Declined
from workers.imap.wire import Literal

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Any

    from workers.imap.answers import Facts, State
    from workers.imap.session import Session
    from workers.imap.sets import Ranges
    from workers.imap.shelf import File
    from workers.imap.wire import Write
    from workers.store.sqlite import SqliteDatabase

WINDOW = 5000
CONTENTS = 100  # messages that are asked for again in one command
CHUNK_BYTES = 1 << 18
RECOUNTS = 6
LOOKS = 3  # at which UIDs there are, while mail comes and goes
MOST_DOUBTFUL = 100_000  # beyond, no worker's renames are behind it
UNTOLD = "\0"  # in the place of flags that the server did not tell


class Told:
    """What the server tells of a message: its flags as text, its MODSEQ and its date, 0 where it tells none."""

    __slots__ = ("date", "flags", "modseq")

    def __init__(self, flags: str = UNTOLD, modseq: int = 0, date: int = 0) -> None:
        self.flags = flags
        self.modseq = modseq
        self.date = date


class Place:
    """A folder: its name on the server, its path on disk, and its row's id, 0 without one."""

    __slots__ = ("id", "name", "path")

    def __init__(self, name: bytes, path: str, number: int) -> None:
        self.name = name
        self.path = path
        self.id = number


def prove(session: Session, books: SqliteDatabase | None, place: Place, *, content: bool, running: bool) -> Report:
    """One look at one folder. Raises Trouble, StoreError, OSError."""
    report = Report()
    try:
        state = session.examine(place.name, None)[0]
        if not state.epoch:
            report.names["closed"] = {"the server gives no UIDVALIDITY, so its UIDs mean nothing"}
            return report
        _Look(session, books, place, report, state.epoch, content=content).run(state, running=running)
    except Declined as declined:
        report.names["closed"] = {str(declined)}
    return report


class _Look:
    def __init__(
        self, session: Session, books: SqliteDatabase | None, place: Place, report: Report, epoch: int, *, content: bool
    ) -> None:
        self._session = session
        self._books = books
        self._place = place
        self._report = report
        self._epoch = epoch
        self._content = content
        self._poison: dict[int, str] = {}
        self._unproved: dict[int, str] = {}  # paths of messages without a digest, by UID

    def run(self, state: State, *, running: bool) -> None:
        report = self._report
        there = self._uids(state.messages)
        if there is None:
            return
        report.messages = sets.count(there)
        if self._books is not None and self._place.id:
            rows = self._books.run("books.poison", (self._place.id, self._epoch))
            self._poison = {uid: why for uid, _, _, why in rows}
            if self._books.run("books.has_old", (self._place.id, self._epoch)):
                report.names["old rows"] = {"rows of another UIDVALIDITY in the state database"}
        shelf = Shelf(self._place.path, self._epoch, running=running)
        for uid, (told, file, row) in aligned(self._told(there), shelf.each(), self._rows()):
            self._compare(shelf, uid, told, file, row)
        self._ask_for_content()
        report.add("size", shelf.wrong_size)
        report.add("epoch", shelf.others)
        report.add("twice", shelf.twice)
        self._count_again(shelf)
        report.names |= {"foreign": shelf.foreign, "left over": shelf.left_over}

    def _uids(self, messages: int) -> Ranges | None:
        """The UIDs that the server has; None when they are others than it counts, so that nothing can be proved."""
        session = self._session
        for _ in range(LOOKS):
            found = session.uids(messages)
            named, counted = sets.count(found), min(messages, session.now.messages)
            if counted <= named <= 2 * counted + 1000:
                return found
            session.synchronise()  # mail that comes and goes meanwhile is told of behind the answer
        self._report.names["closed"] = {f"it counts {counted} messages and names {named}, so nothing is proved"}
        return None

    def _told(self, there: Ranges) -> Iterator[tuple[int, Told]]:
        """What the server tells of each message."""
        can_tell = self._session.can("CONDSTORE") or self._session.can("QRESYNC")
        items = b" (UID FLAGS INTERNALDATE MODSEQ)" if can_tell else b" (UID FLAGS INTERNALDATE)"
        while there:
            part, there = sets.take(there, WINDOW)
            told: dict[int, Told] = {}
            for facts in self._session.facts(b"UID FETCH " + sets.text(part) + items):
                each = told.setdefault(facts.uid, Told())
                if facts.flags is not None:  # one that changes meanwhile is told twice
                    each.flags, each.modseq = flag_text(facts.flags), facts.modseq
                each.date = unix(facts.date) or each.date
            for uid in sets.numbers(part):
                yield uid, told.get(uid) or Told()

    def _rows(self) -> Iterator[tuple[int, Row]]:
        """The rows of this UIDVALIDITY."""
        last = 0
        while self._books is not None and self._place.id:
            rows = self._books.run("books.messages_after", (self._place.id, self._epoch, last))
            for row in rows:
                if row[0] != self._epoch:
                    return
                yield row[1], Row(*row[1:])
            if not rows:
                return
            last = rows[-1][1]

    def _compare(self, shelf: Shelf, uid: int, told: Told | None, file: File | None, row: Row | None) -> None:
        """What there is of one message: on the server, on disk, in the database."""
        report = self._report
        if told is None:
            report.note("extra" if file is not None else "row only", uid)
            return
        flags, modseq = told.flags, told.modseq
        if file is None:
            report.note("poison" if uid in self._poison else "missing", uid)
            if uid in self._poison:
                report.why[uid] = self._poison[uid]
            return
        if flags == UNTOLD:
            report.note("untold", uid)
        elif bits(letters(flags)) != file.bits:
            report.note("letters", uid, flags, modseq, file.bits)
        if row is None:
            report.note("no row", uid)
            return
        if flags != UNTOLD and row.flags != flags:
            report.note("flags", uid, flags, modseq, row.flags)
        base = file_name(self._epoch, uid, row.size_bytes, row.date, "").removesuffix(":2,")
        if hash_of(base) != file.hash:
            report.note("row", uid)
        elif row.date and told.date not in (0, row.date):  # another message has this UID now, as after a restored backup
            report.note("other", uid, told.date)
        elif self._content:
            self._look_inside(uid, shelf.path(base, file), row.digest)

    def _count_again(self, shelf: Shelf) -> None:
        """Which messages really have no file, or two: a worker may have given files other names while they were read."""
        for kind, least, most in (("missing", 0, 0), ("twice", 2, sets.MOST_UID)):
            cleared = True
            for _ in range(RECOUNTS):
                uids = self._report.uids.get(kind, [])
                if not uids or not cleared or sets.count(uids) > MOST_DOUBTFUL:
                    break
                counts = shelf.count(set(sets.numbers(uids)))
                kept = sets.of(uid for uid in sets.numbers(uids) if least <= counts[uid] <= most)
                cleared = kept != uids
                self._report.uids[kind] = kept

    def _look_inside(self, uid: int, path: str, digest: bytes | None) -> None:
        if digest is not None:
            if _digest(path) != digest:
                self._report.note("content", uid)
            return
        self._unproved[uid] = path
        if len(self._unproved) >= CONTENTS:
            self._ask_for_content()

    def _ask_for_content(self) -> None:
        """Messages whose row knows no digest, since they were found by their names, are compared with the server's."""
        wanted, self._unproved = self._unproved, {}
        hashes: dict[Write, hashlib.blake2b] = {}
        there: dict[int, bytes] = {}

        def open_literal(head: bytes, _: int) -> Write | None:
            if not head.rstrip().upper().endswith(b"BODY[]"):
                return None
            digest = hashlib.blake2b(digest_size=DIGEST_BYTES)
            write: Write = digest.update
            hashes[write] = digest
            return write

        def take(facts: Facts) -> None:
            if isinstance(facts.body, Literal):
                there[facts.uid] = hashes.pop(facts.body.write).digest()
            elif facts.body is not None:
                there[facts.uid] = hashlib.blake2b(facts.body, digest_size=DIGEST_BYTES).digest()

        parts = []
        rest = sets.of(wanted)
        while rest:
            part, rest = sets.take(rest, CONTENTS)
            parts.append((b"(UID BODY.PEEK[])", part))
        self._session.messages(parts, open_literal, take, lambda _: None)
        for uid, path in wanted.items():
            if uid not in there:
                self._report.note("untold", uid)
            elif _digest(path) != there[uid]:
                self._report.note("content", uid)


def aligned(*streams: Iterator[tuple[int, Any]]) -> Iterator[tuple[int, list[Any]]]:
    """PURE. Streams in the order of their numbers, side by side: each number once, with None where a stream has it not."""
    heads = [next(stream, None) for stream in streams]
    while numbers := [head[0] for head in heads if head is not None]:
        number = min(numbers)
        found: list[Any] = []
        for place, head in enumerate(heads):
            if head is None or head[0] != number:
                found.append(None)
                continue
            found.append(head[1])
            heads[place] = next(streams[place], None)
        yield number, found


def _digest(path: str) -> bytes | None:
    """Of a file's content; None when it is not there (under this name) any more, or can't be read."""
    found = hashlib.blake2b(digest_size=DIGEST_BYTES)
    try:
        with open(os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC), "rb", buffering=0) as file:
            while chunk := file.read(CHUNK_BYTES):
                found.update(chunk)
    except OSError:
        return None
    return found.digest()
