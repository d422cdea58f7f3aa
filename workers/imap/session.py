"""A logged-in connection as the worker uses it: what the server can, its folders, their state, their messages.

Only reads: EXAMINE and BODY.PEEK. Answers are matched by what they say and not by when they come: a server may send
news of any message inside the answer to something else (RFC 3501 5.2, 5.5).
"""

from __future__ import annotations

import time
from bisect import bisect_right
from contextlib import suppress

from workers.imap import sets
from workers.imap.answers import STATUS_ITEMS, Facts, Listed, State, after, facts, listed, status
from workers.imap.connection import Arg, Connection
from workers.imap.hearing import MOST_TOLD, Hearing
from workers.imap.trouble import SERVER, Declined, Lost, Trouble
from workers.imap.wire import Response, number, quoted

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from workers.imap.connection import Take
    from workers.imap.sets import Ranges
    from workers.imap.wire import Write

IN_FLIGHT = 3
MEASURED_BYTES = 1 << 19
SLOW_BYTES_S = 3e6  # below it the way takes longer than packing does
STATUS_AT_ONCE = 50
FLAGS_AT_ONCE = 50_000  # messages whose changed flags are asked for in one command, so that memory and answer have an end
TOLD_BYTES = 1 << 30  # of the answer to that opening: nothing of it is kept beyond MOST_TOLD
MOST_RANGES = 1_000_000  # of UIDs that one answer names


class Session(Hearing):
    """One connection after its login; `selected` is the folder in hand. Raises Trouble and Declined all over."""

    def __init__(self, without: frozenset[str] = frozenset()) -> None:
        """`without` are capabilities that are not to be used, since the server contradicted itself with them."""
        super().__init__()
        self.connection: Connection
        self._without = without
        self.unread_folders = 0  # lines of the last list of folders that could not be understood
        self._slow = self._packed = False
        self.looked = False  # it has listed the folders and their states
        self.is_watched = False  # what is needed for the server to tell of news was done
        self.rested_at = 0.0  # monotonic: when it last said something at rest
        self._idle: bytes | None = None  # the tag of an IDLE
        self._renewal: bytes | None = None  # the tag of a command that keeps a connection at rest alive
        self._is_late = False  # news came when the rest was being ended

    def can(self, name: str) -> bool:
        """Whether the server offers an extension, and may be trusted with it."""
        return name.encode() in self.connection.capabilities and name not in self._without

    def prepare(self) -> None:
        """What is said once behind the login: who we are, what we know. What follows does not wait for the answers."""
        if self.can("ID"):
            self.connection.send_ahead(b'ID ("name" "imap-sync" "vendor" "semguard")', lambda _: None)
        for name in ("QRESYNC", "CONDSTORE"):
            if self.can(name) and self.can("ENABLE"):
                self.connection.send_ahead(b"ENABLE " + name.encode(), self._enabled)
                return

    def _enabled(self, response: Response) -> None:
        """A server that offers QRESYNC and does not let it be enabled would refuse it in EXAMINE too."""
        if response.kind != b"OK":
            self._without |= {"QRESYNC"}

    def wants_compression(self) -> bool:
        """Whether the way has shown itself to be so slow that packing pays: a fast one it makes slower by far."""
        return self._slow and self.can("COMPRESS=DEFLATE")

    def _measure(self, got_bytes: int, span_s: float) -> None:
        """Takes the speed of one command with messages down."""
        if got_bytes >= MEASURED_BYTES and not self._packed:
            self._slow = got_bytes / max(span_s, 1e-6) < SLOW_BYTES_S

    def compress(self) -> None:
        """Packs all that follows (RFC 4978)."""
        self._slow, self._packed = False, True
        stream = self.connection.stream
        stream.reads_ahead = False  # what follows its OK is packed already, and may come with it
        try:
            self.connection.command(b"COMPRESS DEFLATE")
        except Declined:
            return
        finally:
            stream.reads_ahead = True
        stream.start_deflate()

    def folders(self, most: int) -> list[Listed]:
        """All folders, with their states where one round trip gives them (RFC 5819)."""
        found: dict[bytes, Listed] = {}
        self.unread_folders = 0

        def take(response: Response) -> None:
            if response.kind == b"LIST":
                each = listed(response)
                if each is None:
                    self.unread_folders += 1
                elif each.name:
                    if len(found) >= most:
                        raise Lost(f"it lists more than {most} folders")
                    found.setdefault(each.name, each)
            elif not response.kind and response.text == b"LIST":
                self.unread_folders += 1
            elif response.kind == b"STATUS":
                name, state, mailbox_id = status(response)
                if name in found:
                    found[name].state, found[name].mailbox_id = state, mailbox_id

        words = b'LIST "" "*"'
        if self.can("LIST-STATUS"):
            words += b" RETURN (STATUS (" + self._status_items() + b"))"
        self._listing = True
        try:
            self.connection.command(words, take=take)
        finally:
            self._listing = False
        return list(found.values())

    def states(self, folders: Iterable[Listed]) -> None:
        """Asks for the states that `folders` did not bring, many at once."""
        waiting = [each for each in folders if each.state is None and not each.attributes & {b"\\NOSELECT", b"\\NONEXISTENT"}]
        for start in range(0, len(waiting), STATUS_AT_ONCE):
            part = waiting[start : start + STATUS_AT_ONCE]
            by_name = {each.said: each for each in part}

            def take(response: Response, by_name: dict[bytes, Listed] = by_name) -> None:
                if response.kind == b"STATUS":
                    name, state, mailbox_id = status(response)
                    if name in by_name:
                        by_name[name].state, by_name[name].mailbox_id = state, mailbox_id

            self._listing = True
            try:
                self._status_of(part, take)
            finally:
                self._listing = False

    def _status_of(self, folders: list[Listed], take: Take) -> None:
        tags = []
        for each in folders:
            argument = mailbox(each.said)
            if argument is not None:
                tags.append(self.connection.send(b"STATUS ", argument, b" (" + self._status_items() + b")"))
        for tag in tags:
            with suppress(Declined):  # gone meanwhile, or not ours to read
                self.connection.wait(tag, take)

    def examine(self, name: bytes, known: tuple[int, int] | None) -> tuple[State, Iterable[Facts], Ranges]:
        """Opens a folder to read. `known` (epoch, modseq) asks for what has changed since (QRESYNC, RFC 7162 3.2.5).

        Gives its state, changed messages, which may be asked for anew whenever they are gone through, and the UIDs that are
        gone.
        """
        argument = mailbox(name)
        if argument is None:
            raise Declined(b"BAD", b"CANNOT", "a name with NUL can't be asked for")
        if (self.was_flagged() or self._is_late) and self.selected not in (None, name):
            self._tell_of_old()
        self._is_late = False
        self._before, self.now, self.news = self.now, State(), False
        self._examined, self._vanished, self._changes = [], [], 0
        self._opening, self._closed, self._asked_since = True, False, known is not None and self.can("QRESYNC")
        words: list[bytes | Arg] = [b"EXAMINE ", argument]
        if known is not None and self._asked_since:
            words.append(b" (QRESYNC (%d %d))" % known)
        elif self.can("CONDSTORE"):
            words.append(b" (CONDSTORE)")
        try:
            self.connection.wait(self.connection.send(*words), most_bytes=TOLD_BYTES)
        finally:
            self._opening, self.selected = False, None
        if self.now.epoch > sets.MOST_UID:  # RFC 3501 9, nz-number; names of files are read back by it
            raise Declined(b"NO", b"", f"EXAMINE: the server gives the UIDVALIDITY {self.now.epoch}, which can be none")
        self.selected, self.news = name, False
        state, changed, gone = State(*self.now.key()), self._examined, sets.merged(self._vanished)
        self._examined, self._vanished = [], []
        if known is None or not self._asked_since:
            return state, [], []
        return state, changed if self._changes <= MOST_TOLD else _Again(self, known[1]), gone

    def changed_since(self, modseq: int, below: int) -> Iterable[Facts]:
        """Flags of messages with UIDs below `below` that changed since (CONDSTORE, RFC 7162 3.1.4)."""
        items = b" (UID FLAGS) (CHANGEDSINCE %d)" % modseq
        if self.now.messages <= FLAGS_AT_ONCE:
            return self.facts(b"UID FETCH 1:%d" % max(1, below - 1) + items)
        return self._changed_of_many(items, below)

    def _changed_of_many(self, items: bytes, below: int) -> Iterator[Facts]:
        """Part after part, the last messages first: one that goes meanwhile moves others up, into parts still to come."""
        high = self.now.messages
        while (high := min(high, self.now.messages)) > 0:
            low = max(1, high - FLAGS_AT_ONCE + 1)
            yield from (each for each in self.facts(b"FETCH %d:%d" % (low, high) + items) if each.uid < below)
            high = low - 1

    def uids(self, messages: int, ranges: bytes = b"") -> Ranges:
        """Which UIDs there are: of `ranges`, or all, in one answer, since between two of them numbers may move.

        As a set where the server can (RFC 4731). What goes far beyond `messages` is not kept.
        """
        found: list[Ranges] = []
        kept, most, is_odd = 0, min(2 * messages + 1000, MOST_RANGES), False

        def take(response: Response) -> None:
            nonlocal kept, is_odd
            if response.kind not in (b"ESEARCH", b"SEARCH") or kept > most:
                return
            try:
                found.append(_named(response))
                kept += len(found[-1])
            except ValueError:
                is_odd = True

        words = b"UID SEARCH RETURN (ALL) " if self.can("ESEARCH") else b"UID SEARCH "
        self.connection.command(words + (b"UID " + ranges if ranges else b"ALL"), take=take)
        if is_odd:
            raise Declined(b"NO", b"", "UID SEARCH: the server answers with a set that is none of UIDs")
        return sets.merged(each for part in found for each in part)

    def synchronise(self) -> None:
        """Has the server tell what is gone: inside a FETCH it may not (RFC 3501 7.4.1)."""
        self.connection.command(b"NOOP")

    def facts(self, words: bytes) -> list[Facts]:
        """What a FETCH without bodies tells, by UID; of a message told twice, both."""
        found: list[Facts] = []
        asked = _asked(words)
        sizes = b"RFC822.SIZE" in words

        def take(response: Response) -> None:
            if response.kind == b"FETCH":
                each = facts(response)
                if each is not None:
                    found.append(each)
                if each is None or (sizes and each.size_bytes < 0) or not _is_in(asked, each.uid):
                    self._hear_flags(response, each)

        self._reads = True
        try:
            self.connection.command(words, take=take)
        finally:
            self._reads = False
        return found

    def messages(
        self,
        parts: Iterable[tuple[bytes, Ranges]],
        open_literal: Callable[[bytes, int], Write | None],
        take: Callable[[Facts], None],
        done: Callable[[Ranges], None],
    ) -> None:
        """Fetches message after message, some commands ahead of the answers. `done` gets the set of each that ended in OK.

        `parts` gives the words behind `UID FETCH <set> ` with each set. Raises Declined for the first that was refused.
        """

        def handle(response: Response) -> None:
            if response.kind == b"FETCH":
                each = facts(response)
                if each is not None:
                    take(each)
                if each is None or (each.body is None and each.header is None):
                    self._hear_flags(response, each)

        waiting: list[tuple[bytes, Ranges]] = []
        refusal: Declined | None = None
        source = iter(parts)
        more = True
        while more or waiting:
            while more and len(waiting) < IN_FLIGHT and (part := next(source, None)) is not None:
                items, ranges = part
                waiting.append((self.connection.send(b"UID FETCH " + sets.text(ranges) + b" " + items), ranges))
            if not waiting:
                break
            more = len(waiting) == IN_FLIGHT and refusal is None
            tag, ranges = waiting.pop(0)
            try:
                started, before = time.monotonic(), self.connection.stream.received_bytes
                self._reads = True
                try:
                    self.connection.wait(tag, handle, open_literal)
                finally:
                    self._reads = False
                self._measure(self.connection.stream.received_bytes - before, time.monotonic() - started)
                done(ranges)
            except Declined as declined:  # what was asked behind it still comes
                refusal, more = refusal or declined, False
        if refusal is not None:
            raise refusal

    def notify(self) -> None:
        """Asks for news of all folders from now on (NOTIFY, RFC 5465), where the server can."""
        if self.watching or not self.can("NOTIFY"):
            return
        events = b"(MessageNew MessageExpunge FlagChange)"
        self.watching = "notify"  # what is told during the command counts already
        try:
            self.connection.command(b"NOTIFY SET (selected %s) (personal (%s MailboxName))" % (events, events[1:-1]))
        except Declined:
            self.watching = ""
            self._without |= {"NOTIFY"}

    def watch(self) -> str:
        """By what the server tells of news: "notify", "idle" (RFC 2177), which tells of the open folder, or ""."""
        self.notify()
        if not self.watching and self.can("IDLE"):
            self.watching = "idle"
        return self.watching

    def start_rest(self) -> None:
        """Hands the turn to the server; what it says is read by whoever waits."""
        self.at_rest, self.rested_at = True, time.monotonic()
        self.news = self.was_flagged() or self.news
        if self.watching and self._idle is None and self.can("IDLE"):
            self._idle = self.connection.send(b"IDLE")

    def end_rest(self) -> None:
        """Takes the turn back."""
        self.at_rest = False
        if self._idle is not None:
            self._end_idle()
        if self._renewal is not None:
            tag, self._renewal = self._renewal, None
            with suppress(Declined):  # what follows shows whether the connection is of use
                self.connection.wait(tag)
        self._is_late = self.news

    def renew(self) -> None:
        """Says something, so that neither the server nor a NAT on the way forgets the connection; does not wait."""
        self.rested_at = time.monotonic()
        if self._idle is not None:
            self._end_idle()
        elif self._renewal is None:
            self._renewal = self.connection.send(b"NOOP")

    def keep_resting(self) -> None:
        """What follows from what was heard at rest: a renewal that is answered is over. Raises Lost, Declined."""
        if self._idle is not None and self.connection.is_over(self._idle):
            raise Lost("the server has ended IDLE by itself")
        if self._renewal is not None and self.connection.is_over(self._renewal):
            tag, self._renewal = self._renewal, None
            self.connection.wait(tag)
            self.start_rest()

    def is_deaf(self, limit_s: float) -> bool:
        """Whether a renewal has not been answered for so long."""
        return self._renewal is not None and time.monotonic() - self.rested_at > limit_s

    def _end_idle(self) -> None:
        self._renewal, self._idle = self._idle, None
        if self._renewal is not None and not self.connection.is_over(self._renewal):
            self.connection.write(b"DONE\r\n")

    def close(self, *, politely: bool) -> None:
        """Ends the connection, with LOGOUT when there is time."""
        if politely:
            with suppress(Trouble):
                self.connection.send(b"LOGOUT")
        self.connection.close()

    def _status_items(self) -> bytes:
        items = [*STATUS_ITEMS]
        if self.can("CONDSTORE") or self.can("QRESYNC"):
            items.append(b"HIGHESTMODSEQ")
        if self.can("OBJECTID"):
            items.append(b"MAILBOXID")
        return b" ".join(items)


class _Again:
    """What has changed in the open folder since a MODSEQ, when that is too much to be kept: asked for each time."""

    def __init__(self, session: Session, modseq: int) -> None:
        self._session = session
        self._modseq = modseq

    def __iter__(self) -> Iterator[Facts]:
        return iter(self._session.changed_since(self._modseq, sets.MOST_UID + 1))


def _named(response: Response) -> Ranges:
    """The UIDs of an answer to a search. Raises ValueError."""
    if response.kind == b"ESEARCH":
        return sets.parse(after(response.values, b"ALL"))
    uids = [uid for each in response.values if (uid := number(each)) is not None and 0 < uid <= sets.MOST_UID]
    return sets.of(sorted(uids))


def _asked(words: bytes) -> Ranges | None:
    """The UIDs that a UID FETCH asks for; None for all."""
    try:
        return sets.parse(words.split(b" ", 3)[2]) if words.startswith(b"UID ") else None
    except ValueError:  # with a *
        return None


def _is_in(ranges: Ranges | None, uid: int) -> bool:
    if ranges is None:
        return True
    at = bisect_right(ranges, (uid, sets.MOST_UID))
    return at > 0 and ranges[at - 1][1] >= uid


def mailbox(name: bytes) -> bytes | Arg | None:
    """A folder's name as a command takes it; None for one that no command can name."""
    if b"\0" in name:
        return None
    plain = quoted(name)
    return Arg(name) if plain is None else plain


def declined(error: Declined) -> Trouble:
    """A refused command as trouble of the account."""
    return Trouble(SERVER, str(error))
