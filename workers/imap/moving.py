"""From the outbox to the sent folder: all that imap-sync ever changes on a server is done here.

MOVE (RFC 6851) where it is offered; else COPY and \\Deleted, and UID EXPUNGE (RFC 4315) of exactly these messages where that
is offered; a plain EXPUNGE would take what others have marked. The state of the sent folder is noted before: after a cut
anywhere it is known which messages there may be the copy.
"""

from __future__ import annotations

from workers.imap import sets
from workers.imap.answers import State, status
from workers.imap.letter_out import OVER, digest
from workers.imap.session import mailbox
from workers.imap.trouble import SERVER, Declined, Trouble
from workers.imap.wire import Literal

TYPE_CHECKING = False
if TYPE_CHECKING:
    from workers.imap.answers import Facts
    from workers.imap.books import Books, Folder
    from workers.imap.connection import Arg
    from workers.imap.session import Session
    from workers.imap.sets import Ranges
    from workers.imap.wire import Response, Write
    from workers.store.database import Transaction

AT_ONCE = 100  # messages in one command


class Moving:
    """Out of `folder` into the folder `sent`. Raises Trouble, Declined, StoreError."""

    def __init__(self, session: Session, books: Books, account: int, folder: Folder, sent: bytes) -> None:
        self._session = session
        self._books = books
        self._account = account
        self._folder = folder
        self._sent = sent
        self.made = False  # the sent folder was made

    def run(self, over: list[tuple[Facts, bytes]], halfway: list[tuple[Facts, bytes]], epoch: int) -> int:
        """Moves messages with their digests; `halfway` are those whose move was cut off. Gives how many were moved."""
        arrived = [each for each in halfway if self._has_arrived(*each)]
        again = [each for each in halfway if each not in arrived]
        taken_back = [each for each in again if _is_deleted(each[0])]  # by somebody else
        going = [*over, *(each for each in again if each not in taken_back)]
        self._close(taken_back)
        if not going and not arrived:
            return 0
        state = self._open_sent() if going else State()
        try:
            self._select(epoch)
            for start in range(0, len(arrived), AT_ONCE):
                part = arrived[start : start + AT_ONCE]
                self._take_away(_set(part))
                self._close(part)
            for start in range(0, len(going), AT_ONCE):
                part = going[start : start + AT_ONCE]
                self._note(part, state)
                self._move(_set(part))
                self._close(part)
        finally:
            self._session.selected = None  # whoever comes next opens his folder to read
        return len(arrived) + len(going)

    def _has_arrived(self, facts: Facts, key: bytes) -> bool:
        """Whether the copy lies in the sent folder: behind what was there before the move, with the same content."""
        epoch, uidnext = self._books.run("outgoing", (self._account, key))[0][2:4]
        try:
            state = self._session.examine(self._sent, None)[0]
        except Declined:
            return False  # there is no such folder
        low = uidnext if state.epoch == epoch and uidnext else 1
        if not state.messages:
            return False
        for each in self._session.facts(b"UID FETCH %d:* (UID RFC822.SIZE)" % low):
            if each.uid >= low and each.size_bytes == facts.size_bytes:
                raw = content(self._session, each.uid, each.size_bytes)
                if raw is not None and digest(raw) == key:
                    return True
        return False

    def _open_sent(self) -> State:
        """The state of the sent folder, which is made when it is missing."""
        name = _argument(self._sent)
        try:
            return self._status(name)
        except Declined as first:
            try:
                self._session.connection.command(b"CREATE ", name)
                self._session.connection.command(b"SUBSCRIBE ", name)  # or mail programs don't show it
            except Declined as declined:
                raise Trouble(SERVER, f"the folder for sent mail can't be used: {first}; {declined}") from None
            self.made = True
            return self._status(name)

    def _status(self, name: bytes | Arg) -> State:
        found: list[State] = []

        def take(response: Response) -> None:
            if response.kind == b"STATUS" and (state := status(response)[1]) is not None:
                found.append(state)

        self._session.connection.command(b"STATUS ", name, b" (UIDVALIDITY UIDNEXT)", take=take)
        return found[-1] if found else State()

    def _select(self, epoch: int) -> None:
        """Opens the outbox to change it."""
        session = self._session
        session.selected, session.now, session.news = None, State(), False
        done = session.connection.command(b"SELECT ", _argument(self._folder.name))
        if done.code[:1] == [b"READ-ONLY"]:
            raise Trouble(SERVER, "the server lets us only read it: what is sent can't be moved away")
        if session.now.epoch != epoch:
            raise Trouble(SERVER, "its UIDVALIDITY has changed a moment ago")

    def _note(self, part: list[tuple[Facts, bytes]], state: State) -> None:
        values = [(state.epoch, state.uidnext, self._account, key) for _, key in part]
        self._books.do(lambda transaction: transaction.many("books.outgoing_moves", values))

    def _move(self, ranges: Ranges) -> None:
        sent = _argument(self._sent)
        if self._session.can("MOVE") or self._session.can("IMAP4REV2"):
            self._each(b"UID MOVE ", ranges, b" ", sent)
            return
        self._each(b"UID COPY ", ranges, b" ", sent)
        self._take_away(ranges)

    def _take_away(self, ranges: Ranges) -> None:
        self._each(b"UID STORE ", ranges, b" +FLAGS.SILENT (\\Deleted)")
        if self._session.can("UIDPLUS") or self._session.can("IMAP4REV2"):
            self._each(b"UID EXPUNGE ", ranges)

    def _each(self, command: bytes, ranges: Ranges, *more: bytes | Arg) -> None:
        self._session.connection.command(command + sets.text(ranges), *more)

    def _close(self, part: list[tuple[Facts, bytes]]) -> None:
        values = [(OVER, self._account, key) for _, key in part]

        def work(transaction: Transaction) -> None:
            transaction.many("books.outgoing_state", values)

        if values:
            self._books.do(work)


class Content:
    """Takes a message, and no more than one byte over what is allowed."""

    def __init__(self, most_bytes: int) -> None:
        self.octets = bytearray()
        self._most = most_bytes + 1

    def write(self, part: memoryview) -> None:
        """Takes some of it."""
        self.octets += part[: max(0, self._most - len(self.octets))]


def content(session: Session, uid: int, most_bytes: int) -> bytes | None:
    """All of a message of the open folder, None when there is none. One that is longer is cut off behind a byte more.

    Raises Trouble, Declined.
    """
    open_ones: dict[Write, Content] = {}
    found: list[bytes] = []

    def open_literal(head: bytes, _: int) -> Write | None:
        if not head.rstrip().upper().endswith(b"BODY[]"):
            return None
        taker = Content(most_bytes)
        write: Write = taker.write
        open_ones[write] = taker
        return write

    def take(facts: Facts) -> None:
        if facts.uid == uid and facts.body is not None:
            found.append(bytes(open_ones[facts.body.write].octets) if isinstance(facts.body, Literal) else facts.body)

    session.messages([(b"(UID BODY.PEEK[])", [(uid, uid)])], open_literal, take, lambda _: None)
    return found[-1] if found else None


def _argument(name: bytes) -> bytes | Arg:
    found = mailbox(name)
    if found is None:
        raise Trouble(SERVER, "a folder name with NUL can't be asked for")
    return found


def _is_deleted(facts: Facts) -> bool:
    return any(each.lower() == b"\\deleted" for each in facts.flags or ())


def _set(part: list[tuple[Facts, bytes]]) -> Ranges:
    return sets.of(sorted(facts.uid for facts, _ in part))
