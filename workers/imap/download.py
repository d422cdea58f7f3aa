"""Brings messages from the server into a folder on disk, in batches, and finds the one that a server can't give.

While one batch is put on disk by a thread of its own, the next one is read.
"""

from __future__ import annotations

import os
import threading

from workers.imap import sets
from workers.imap.archive import Incoming, name_of
from workers.imap.books import Row
from workers.imap.excuses import enough_for_now, is_throttling
from workers.imap.letters import flag_text, unix
from workers.imap.trouble import Declined, Lost
from workers.imap.wire import Literal

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from workers.imap.answers import Facts
    from workers.imap.archive import Box
    from workers.imap.books import Books, Folder
    from workers.imap.session import Session
    from workers.imap.sets import Ranges
    from workers.imap.wire import Write

ASKED = 500  # messages in one command
BATCH = 200  # messages put on disk together
BATCH_BYTES = 8 << 20
ITEMS = b"(UID FLAGS INTERNALDATE%s BODY.PEEK[])"
MOST_LOSSES = 2  # with one message in hand: then that message is to blame


class Caution:
    """What is kept of a folder's failed fetches over connections: how many messages a command asks for, and who is blamed."""

    def __init__(self) -> None:
        self.size = ASKED
        self.blamed: dict[int, int] = {}

    def failed(self, asked: Ranges, *, silent: bool) -> int | None:
        """A command for the UIDs `asked` failed; the UID that is poison, when that is known now. A silence costs minutes."""
        if sets.count(asked) > 1 or self.size > 1:
            self.size = 1 if self.size <= 8 or silent else self.size // 8
            return None
        uid = asked[0][0]
        self.blamed[uid] = self.blamed.get(uid, 0) + 1
        return uid if self.blamed[uid] >= MOST_LOSSES else None

    def went_well(self) -> None:
        """A command ended in OK: ask for more again."""
        self.size = min(ASKED, self.size * 2)


class Download:
    """Fetches a set of messages of the selected folder. Raises Lost, Trouble, StoreError and OSError.

    `fetched` counts the messages that are on disk, `missing` are UIDs for which the server had no message, `poison` those
    that it could not give, with its words. `enough` says after each command whether others wait.
    """

    def __init__(
        self, session: Session, box: Box, books: Books, folder: Folder, account: int, caution: Caution, most_bytes: float
    ) -> None:
        self._session = session
        self._box = box
        self._books = books
        self._folder = folder
        self._account = account
        self._caution = caution
        self._most_bytes = most_bytes
        self._open: dict[Write, Incoming] = {}  # by what takes their bytes: several may come before the first is looked at
        self._batch: list[tuple[Incoming, Row]] = []
        self._batch_bytes = 0
        self._taken: set[int] = set()  # of the commands in hand
        self._wanted: set[int] = set()
        self._asked: list[Ranges] = []
        self._too_big = False
        self._error: BaseException | None = None
        self._thread: threading.Thread | None = None
        self.blames = False
        self.fetched = 0
        self.bytes = 0
        self.missing: list[int] = []
        self.poison: list[tuple[int, str]] = []
        self.left: Ranges = []

    def run(self, wanted: Ranges, enough: Callable[[], bool]) -> bool:
        """Fetches `wanted`; False when it stopped because of `enough`, and then `left` is what remains."""
        self.left = wanted
        try:
            while self.left:
                try:
                    self._fetch(enough)
                except Declined as declined:
                    if is_throttling(declined.code, str(declined)):
                        raise enough_for_now(declined) from None
                    self._blame_or_miss(str(declined))
                except Lost as lost:
                    self._blame(str(lost), silent=lost.silent)
                    raise
                if self.left and enough():
                    break
        finally:
            self._drop_open()
            try:
                self._flush()
                self._join()
            finally:
                self._drop_batch()
        return not self.left

    def keep_empty(self, found: list[Facts]) -> None:
        """Writes messages down that are empty, as their size says. Raises OSError, StoreError."""
        for facts in found:
            incoming = self._box.incoming()
            date = unix(facts.date)
            self._batch.append((incoming, Row(facts.uid, 0, date, flag_text(facts.flags), incoming.finish(date), facts.identity)))
        try:
            self._flush()
            self._join()
        finally:
            self._drop_batch()

    def _fetch(self, enough: Callable[[], bool]) -> None:
        self._asked, self._wanted, self._taken = [], set(), set()  # before all that can be lost: nobody is blamed for that
        if self._session.wants_compression():
            self._session.compress()
        items = ITEMS % self._identity()
        asked = self.left

        def parts() -> Iterator[tuple[bytes, Ranges]]:
            nonlocal asked
            while asked and not enough() and not self._session.wants_compression():
                part, asked = sets.take(asked, self._caution.size)
                self._wanted.update(sets.numbers(part))
                self._asked.append(part)
                yield items, part
                if self._caution.size < ASKED:
                    return  # one at a time until it is known which one

        self._session.messages(parts(), self._open_literal, self._take, self._done)

    def _identity(self) -> bytes:
        if self._session.can("X-GM-EXT-1"):
            return b" X-GM-MSGID"
        return b" EMAILID" if self._session.can("OBJECTID") else b""

    def _done(self, part: Ranges) -> None:
        self._asked.remove(part)
        self.left = sets.minus(self.left, part)
        for uid in sets.numbers(part):
            self._wanted.discard(uid)
            if uid in self._taken:
                self._taken.discard(uid)
            else:
                self.missing.append(uid)
        self._caution.went_well()

    def _blame_or_miss(self, why: str) -> None:
        """After a NO: a message that is there no more is none that the server can't give. Raises Declined, Lost."""
        uid = self._blame(why)
        if uid is not None:
            poison = self.poison.pop()
            if self._is_there(uid):
                self.poison.append(poison)
            else:
                self.missing.append(uid)

    def _is_there(self, uid: int) -> bool:
        """Whether the server still names a message that it refuses. Raises Declined when it is the folder that it refuses."""
        return any(each.uid == uid for each in self._session.facts(b"UID FETCH %d (UID FLAGS)" % uid))

    def _blame(self, why: str, *, silent: bool = False) -> int | None:
        """The command in hand failed: what came before counts; a single message that fails again is poison: its UID."""
        self.blames = True
        self._drop_open()
        self.left = sets.minus(self.left, sets.of(sorted(self._taken)))
        if self._too_big:
            return None
        asked = sets.minus(self._asked[0], sets.of(sorted(self._taken))) if self._asked else []
        if not asked:
            return None
        uid = self._caution.failed(asked, silent=silent)
        if uid is not None:
            self.poison.append((uid, why))
            self.left = sets.minus(self.left, [(uid, uid)])
            self._caution.size = 8
        return uid

    def _open_literal(self, head: bytes, size_bytes: int) -> Write | None:
        if not head.rstrip().upper().endswith(b"BODY[]"):
            return None
        if size_bytes > self._most_bytes:
            raise self._refuse(head, f"a message of {size_bytes} bytes: that is more than {self._most_bytes:.0f}")
        incoming = self._box.incoming()
        write: Write = incoming.write
        self._open[write] = incoming
        return write

    def _refuse(self, head: bytes, why: str) -> Lost:
        """Its bytes would have to be read past: that connection is given up; the message is known where it was named."""
        _, found, rest = head.upper().rpartition(b"(UID ")
        uid = rest.split(b" ")[0] if found else b""
        if uid.isdigit() and int(uid) in self._wanted:
            self._too_big = True
            self.poison.append((int(uid), why))
            self.left = sets.minus(self.left, [(int(uid), int(uid))])
        return Lost(why)

    def _take(self, facts: Facts) -> None:
        body = facts.body
        incoming = self._open.pop(body.write, None) if isinstance(body, Literal) else None
        if body is None or facts.uid not in self._wanted or facts.uid in self._taken:
            if incoming is not None:
                incoming.drop()
            return
        if not (body.size_bytes if isinstance(body, Literal) else body):
            if incoming is not None:
                incoming.drop()
            return  # hardly a message: whether it is one, its size tells
        if incoming is None:  # it came in quotes
            incoming = self._box.incoming()
            incoming.write(body if isinstance(body, bytes) else b"")
        date = unix(facts.date)
        digest = incoming.finish(date)
        self._taken.add(facts.uid)
        row = Row(facts.uid, incoming.size_bytes, date, flag_text(facts.flags), digest, facts.identity)
        self._batch.append((incoming, row))
        self._batch_bytes += incoming.size_bytes
        if len(self._batch) >= BATCH or self._batch_bytes >= BATCH_BYTES:
            self._flush()

    def _flush(self) -> None:
        """Hands the batch to the thread that puts it on disk, when that is done with the one before."""
        self._join()
        if not self._batch:
            return
        batch, self._batch, self._batch_bytes = self._batch, [], 0
        if self._open or self.left:
            self._thread = threading.Thread(target=self._commit_aside, args=(batch,), daemon=True)
            self._thread.start()
        else:
            self._commit(batch)

    def _join(self) -> None:
        if self._thread is not None:
            self._thread.join()
            self._thread = None
        error, self._error = self._error, None
        if error is not None:
            raise error

    def _commit_aside(self, batch: list[tuple[Incoming, Row]]) -> None:
        try:
            self._commit(batch)
        except BaseException as error:
            self._error = error

    def _commit(self, batch: list[tuple[Incoming, Row]]) -> None:
        """On disk, then in the database. What fails before its rename leaves nothing."""
        epoch = self._folder.epoch
        twins = self._books.same_content(self._account, [row for _, row in batch])
        try:
            files = []
            for (incoming, row), twin in zip(batch, twins, strict=True):
                name = name_of(epoch, (row.uid, row.size_bytes, row.date, row.flags))
                if twin is not None and self._box.link(os.path.join(self._box.account, twin), name):
                    incoming.drop()
                else:
                    files.append((incoming.path, name))
            self._box.publish(files)
        except OSError:
            for incoming, _ in batch:
                incoming.drop()
            raise
        self._books.add(self._folder, [row for _, row in batch])
        self.fetched += len(batch)
        self.bytes += sum(row.size_bytes for _, row in batch)

    def _drop_open(self) -> None:
        for incoming in self._open.values():
            incoming.drop()
        self._open.clear()

    def _drop_batch(self) -> None:
        for incoming, _ in self._batch:
            incoming.drop()
        self._batch.clear()
