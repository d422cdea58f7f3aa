"""Brings one folder in step: asks what the plan asks for, and performs the steps that come out of the comparison.

Watermarks move at the end and together, and only over what is here, gone, or known as poison: a pass that is cut off
anywhere leaves rows and files that the next one takes up.
"""

from __future__ import annotations

import time

from workers.imap import heal, plan, sets
from workers.imap.archive import name_of
from workers.imap.books import Row
from workers.imap.download import Download
from workers.imap.letters import flag_text, flags_of, parse
from workers.imap.trouble import SERVER, Trouble

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from workers.imap.answers import Facts, State
    from workers.imap.archive import Box
    from workers.imap.books import Books, Folder
    from workers.imap.download import Caution
    from workers.imap.session import Session
    from workers.imap.sets import Ranges

WINDOW = 5000
PART = 20000  # messages that are looked for here and fetched, before the next ones
LOOKS = 3
NO_CONTENT = "the server lists it and gives no content"


class Outcome:
    """What a pass of a folder did, for the log and for `sync`."""

    __slots__ = ("blames", "bytes", "contradiction", "expunged", "fetched", "flagged", "healed", "more", "poison", "started")

    def __init__(self) -> None:
        self.started = time.monotonic()
        self.fetched = 0
        self.bytes = 0
        self.flagged = 0
        self.expunged = 0
        self.healed = 0
        self.poison: list[tuple[int, str]] = []
        self.more = False  # stopped for others; the rest waits
        self.blames = False  # a fetch failed: the next one asks for less
        self.contradiction = ""  # an extension by which the server told something wrong


class FolderPass:
    """One pass of one folder over one session. Raises Trouble, Declined, StoreError, OSError."""

    def __init__(self, session: Session, box: Box, books: Books, folder: Folder, account: int, caution: Caution) -> None:
        self._session = session
        self._box = box
        self._books = books
        self._folder = folder
        self._account = account
        self._caution = caution
        self.outcome = Outcome()

    def run(self, *, full: bool, enough: Callable[[], bool], most_bytes: float) -> Outcome:
        """Brings the folder in step; `full`: all UIDs and files are compared.

        The first full pass of a day compares all flags, dates and identities too: what else is told of them are changes, so
        one that was missed, by us or the server, would stay for ever.
        """
        folder, session = self._folder, self._session
        daily = full and plan.is_daily(folder.full_at, time.time(), folder.id)
        try:
            self._look_at_files(full=full)
            tier = tier_of(session)
            state, changed, gone = session.examine(folder.listed, plan.asks_since(folder.seen(), tier, full=full))
            session.selected = folder.name
            if not state.epoch:
                raise Trouble(SERVER, f"{folder.path}: the server gives no UIDVALIDITY, so its UIDs mean nothing")
            steps = plan.make(folder.seen(), state.key(), tier, full=full, daily=daily)
            if steps.new_epoch:
                self._begin_epoch(state.epoch, full=full)
                if folder.held:  # found by their names, and how old their flags are nobody knows
                    steps.flags = "all"
                changed, gone = [], []
            if any(next_try <= time.time() for _, next_try in self._books.poison(folder).values()):
                steps.listing = "all"
            self._expunge(gone)
            if steps.marks and steps.flags == "all":
                self._drop_gone(state)
            self._apply_flags(changed if steps.flags == "told" else self._ask_flags(steps))
            told = sets.of(sorted(each.uid for each in changed)) if steps.flags == "told" else None
            if self._fetch(steps.listing, state, enough, most_bytes, told) and self._is_proved(
                steps, state, enough, most_bytes, tier
            ):
                self._settle(state, steps, full=full)
        except BaseException:
            folder.clean = False
            raise
        return self.outcome

    def _look_at_files(self, *, full: bool) -> None:
        """Compares names and rows, where something else than us may have been at the files."""
        folder, box = self._folder, self._box
        if not folder.clean:
            box.make()
            box.clear_tmp()
        if full or box.mtime_ns() != folder.mtime_ns:
            reconcile(box, self._books, folder)
        folder.clean = folder.uidnext > 0

    def _begin_epoch(self, epoch: int, *, full: bool) -> None:
        folder = self._folder
        if folder.epoch and folder.epochs >= plan.MOST_EPOCHS and not full:
            text = f"{folder.path}: its UIDVALIDITY has changed {folder.epochs} times in a row; what is here stays as it is"
            raise Trouble(SERVER, text)
        self._books.begin_epoch(folder, epoch)

    def _ask_flags(self, steps: plan.Plan) -> Iterable[Facts]:
        """Flags from where the plan says, in parts."""
        folder, session = self._folder, self._session
        if steps.flags == "since":  # a pass that was cut has brought messages beyond the watermark, with flags of then
            yield from session.changed_since(folder.modseq, max(folder.uidnext, self._highest() + 1))
        elif steps.flags in ("window", "all"):
            ours = self._books.uids(folder)
            if steps.flags == "window":
                ours = ours and sets.of(list(sets.numbers(ours))[-plan.FLAG_WINDOW :])
            items = b" (UID FLAGS INTERNALDATE%s)" % heal.identity_item(session) if steps.marks else b" (UID FLAGS)"
            while ours:
                part, ours = sets.take(ours, WINDOW)
                yield from session.facts(b"UID FETCH " + sets.text(part) + items)

    def _apply_flags(self, changed: Iterable[Facts]) -> None:
        """Renames files whose letters change, and writes all flags down; messages that are not here are not meant."""
        batch: dict[int, Facts] = {}
        for facts in changed:
            if facts.flags is not None:
                batch[facts.uid] = facts
            if len(batch) >= WINDOW:
                self._write_flags(batch)
                batch = {}
        if batch:
            self._write_flags(batch)

    def _write_flags(self, wanted: dict[int, Facts]) -> None:
        folder = self._folder
        changes: list[tuple[int, str]] = []
        doubtful: list[tuple[Row, Facts]] = []
        for low, high in _spans(sorted(wanted)):
            for row in self._books.rows(folder, low, high):
                facts = wanted.get(row.uid)
                if facts is not None and heal.has_other_marks(row, facts):
                    doubtful.append((row, facts))
                    continue
                flags = row.flags if facts is None else flag_text(facts.flags)
                old = name_of(folder.epoch, (row.uid, row.size_bytes, row.date, row.flags))
                new = name_of(folder.epoch, (row.uid, row.size_bytes, row.date, flags))
                self._box.rename(old, new)  # also to the same: one that died between name and row has left another one
                if flags != row.flags:
                    changes.append((row.uid, flags))
        if changes:
            self._books.set_flags(folder, changes)
            self.outcome.flagged += len(changes)
        if doubtful:
            self._look_at_marks(doubtful)

    def _look_at_marks(self, doubtful: list[tuple[Row, Facts]]) -> None:
        """UIDs whose dates or identities are not ours: they are other messages, unless only the marks have changed."""
        folder = self._folder
        same = heal.mark_anew(self._session, self._box, self._books, folder, doubtful)
        self.outcome.flagged += len(same)
        self._replace(sets.of(row.uid for row, _ in doubtful if row.uid not in same))

    def _drop_gone(self, state: State) -> None:
        """Before marks are asked for: what has none, since it is gone, must not pass for what gets its UID a moment later."""
        ours = self._books.uids(self._folder)
        if ours:
            self._replace(sets.minus(ours, self._believed(state, 1)))

    def _replace(self, others: Ranges) -> None:
        """UIDs below the watermarks that may be missing from now on: the pass may be cut before their messages are fetched."""
        if others:
            distrust(self._books, self._folder)
            self._expunge(others)

    def _expunge(self, gone: Ranges) -> None:
        """What the server has no more goes to `.removed`: first the files, then the rows."""
        folder = self._folder
        if gone:
            known = sets.of(sorted(self._books.poison(folder)))
            if lost := list(sets.numbers(sets.both(known, gone))):
                self._books.drop_poison(folder, lost)
        for low, high in gone:
            rows = self._books.rows(folder, low, high)
            for start in range(0, len(rows), WINDOW):
                part = rows[start : start + WINDOW]
                self._box.remove(name_of(folder.epoch, (row.uid, row.size_bytes, row.date, row.flags)) for row in part)
                self._books.drop(folder, [(folder.epoch, row.uid) for row in part])
                self.outcome.expunged += len(part)

    def _fetch(
        self, listing: str, state: State, enough: Callable[[], bool], most_bytes: float, told: Ranges | None = None
    ) -> bool:
        """Compares UIDs, and fetches what is missing; False when it stopped for others. `told`: all that have changed."""
        folder = self._folder
        low = folder.uidnext if listing == "new" else 1
        if listing == "none":
            return True
        if listing == "new" and told is not None:  # a new message has a new MODSEQ, so it is among them
            server = sets.minus(told, [(1, low - 1)] if low > 1 else [])
        else:
            server = self._believed(state, low)
        missing, gone = plan.compare(server, self._books.uids(folder, low), self._waiting_poison(server if low == 1 else None))
        self._expunge(gone)
        while missing:
            part, missing = sets.take(missing, PART, sets.MOST_UID)
            part, healed = heal.from_here(self._session, self._box, self._books, folder, self._account, part)
            self.outcome.healed += healed
            if part and not self._download(part, enough, most_bytes):
                return False
            if missing and enough():
                self.outcome.more = True
                return False
        return True

    def _believed(self, state: State, low: int) -> Ranges:
        """The UIDs from `low` up that the server has. Raises Trouble when that are others than it counts."""
        session = self._session
        for _ in range(LOOKS):
            found = session.uids(state.messages, b"%d:*" % low if low > 1 else b"")
            found = sets.minus(found, [(1, low - 1)] if low > 1 else [])
            named, counted = sets.count(found), min(state.messages, session.now.messages)
            if named <= 2 * counted + 1000 and (low > 1 or named >= counted):
                return found
            session.synchronise()  # mail that comes and goes meanwhile is told of behind the answer
        self.outcome.contradiction = "ESEARCH" if session.can("ESEARCH") else ""
        raise Trouble(SERVER, f"it counts {counted} messages and names {named}; nothing is believed gone")

    def _download(self, missing: Ranges, enough: Callable[[], bool], most_bytes: float) -> bool:
        download = Download(self._session, self._box, self._books, self._folder, self._account, self._caution, most_bytes)
        try:
            whole = download.run(missing, enough)
            self._look_at_missing(download)
        finally:
            self.outcome.fetched += download.fetched
            self.outcome.bytes += download.bytes
            self.outcome.poison += download.poison
            self.outcome.blames |= download.blames
            self._note_poison(download.poison)
        self.outcome.more = not whole
        return whole

    def _look_at_missing(self, download: Download) -> None:
        """Messages without content: they are gone meanwhile, or empty, or the server can't give them."""
        rest = sets.of(sorted(download.missing))
        if rest:
            self._session.synchronise()
        while rest:
            part, rest = sets.take(rest, WINDOW)
            there = self._session.facts(b"UID FETCH " + sets.text(part) + b" (UID FLAGS RFC822.SIZE INTERNALDATE)")
            download.keep_empty([each for each in there if each.size_bytes == 0])
            download.poison += [(each.uid, NO_CONTENT) for each in there if each.size_bytes != 0]

    def _waiting_poison(self, server: Ranges | None) -> Ranges:
        """Messages that the server could not give and is not asked for yet; those that it has no more are forgotten."""
        poison = self._books.poison(self._folder)
        if server is not None and poison:
            gone = sets.minus(sets.of(sorted(poison)), server)
            if gone:
                self._books.drop_poison(self._folder, list(sets.numbers(gone)))
        now = time.time()
        return sets.of(sorted(uid for uid, (_, next_try) in poison.items() if next_try > now))

    def _note_poison(self, found: list[tuple[int, str]]) -> None:
        folder, now = self._folder, time.time()
        known = self._books.poison(folder) if found else {}
        for uid, why in found:
            self._caution.blamed.pop(uid, None)
            tries = known[uid][0] if uid in known else 0
            values = (folder.id, folder.epoch, uid, why, now, now + plan.next_poison_s(tries))
            self._books.run("add_poison", values)

    def _is_proved(self, steps: plan.Plan, state: State, enough: Callable[[], bool], most_bytes: float, tier: str) -> bool:
        """Whether both sides have as many messages; where not, all UIDs are compared. False when that stopped for others."""
        folder, session = self._folder, self._session
        poison = len(self._books.poison(folder))
        if steps.listing == "all" or plan.is_complete(state.messages, folder.held, poison, session.news):
            return True
        steps.listing = "all"
        if not self._fetch("all", state, enough, most_bytes):
            return False
        poison = len(self._books.poison(folder))
        if (
            tier == plan.QRESYNC
            and steps.flags == "told"
            and not session.news
            and plan.is_complete(state.messages, folder.held, poison, False)
        ):
            self.outcome.contradiction = "QRESYNC"
        return True

    def _settle(self, state: State, steps: plan.Plan, *, full: bool) -> None:
        folder, now = self._folder, time.time()
        folder.epochs = folder.epochs if steps.new_epoch else 0
        old = heal.drop_old(self._box, self._books, folder)
        self.outcome.expunged += old
        folder.uidnext = max(state.uidnext, self._highest() + 1)
        folder.modseq, folder.messages, folder.synced_at = state.modseq, state.messages, now
        folder.full_at = now if full or steps.new_epoch else folder.full_at
        folder.mtime_ns = self._box.mtime_ns()
        self._books.settle(folder, exactly=steps.listing == "all" or bool(old))
        folder.clean = True

    def _highest(self) -> int:
        rows = self._books.run("highest", (self._folder.id, self._folder.epoch))
        return int(rows[0][0] or 0)


def tier_of(session: Session) -> str:
    """What the server can tell by itself."""
    if session.can("QRESYNC"):
        return plan.QRESYNC
    return plan.CONDSTORE if session.can("CONDSTORE") else plan.PLAIN


def distrust(books: Books, folder: Folder) -> None:
    """Before rows below the watermarks change: one that dies then must not leave watermarks that say all is known."""
    folder.uidnext = folder.modseq = 0
    books.run("distrust", (folder.id,))


def reconcile(box: Box, books: Books, folder: Folder) -> None:
    """Files without rows get rows, rows without files go, letters are set right."""
    names = box.names()
    without: list[tuple[int, Row]] = []
    for epoch, row in books.each(folder):
        expected = name_of(epoch, _shape(row))
        if expected in names:
            names.discard(expected)
        else:
            without.append((epoch, row))
    others = {(each.epoch, each.uid): (name, each) for name in names if (each := parse(name)) is not None}
    lost = []
    for epoch, row in without:
        found = others.pop((epoch, row.uid), None)
        if found is None:
            lost.append((epoch, row.uid))
        else:  # another program has changed its letters
            box.rename(found[0], name_of(epoch, _shape(row)))
    adopted = []
    for (epoch, uid), (name, each) in others.items():
        row = Row(uid, each.size_bytes, each.date, flags_of(each.letters), None)
        box.rename(name, name_of(epoch, _shape(row)))
        adopted.append((epoch, row))
    if lost or adopted:
        distrust(books, folder)
    if lost:
        books.drop(folder, lost)
    if adopted:
        books.adopt(folder, adopted)


def _shape(row: Row) -> tuple[int, int, int, str]:
    return row.uid, row.size_bytes, row.date, row.flags


def _spans(uids: list[int]) -> list[tuple[int, int]]:
    """Ranges to read rows by: near ones together, so that a few of many are not read one by one nor all."""
    found: list[tuple[int, int]] = []
    for uid in uids:
        if found and uid - found[-1][1] <= 100:
            found[-1] = (found[-1][0], uid)
        else:
            found.append((uid, uid))
    return found
