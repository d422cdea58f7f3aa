"""The outbox of an account: what lies in it is queued in the spool, once, and moved to the sent folder when it is sent.

What is done is written down before: an intent before a letter goes into the spool, which knows it by the same identifier,
and the state of the sent folder before a move. So a crash anywhere, a lost answer, a new UIDVALIDITY or a spool that has
pruned the letter lead to no second one. Two messages with the same Message-ID and content are one letter.
"""

from __future__ import annotations

import time
from contextlib import suppress

from workers.imap import letter_out
from workers.imap.letter_out import FINISH, FOLLOW, MOVING, OVER, QUEUED, TAKE, Place, Unsendable
from workers.imap.letters import unix
from workers.imap.moving import Moving, content
from workers.imap.spooling import Spooling
from workers.imap.trouble import SERVER, Declined, Lost, Trouble

TYPE_CHECKING = False
if TYPE_CHECKING:
    from workers.imap.answers import Facts, State
    from workers.imap.books import Books, Folder
    from workers.imap.session import Session
    from workers.mail.config import Config
    from workers.store.database import Transaction

ROUNDS = 8  # of looking and moving in one pass; what comes later is news again


class Posted:
    """What a pass did, for the log, and what is still to come: `open` are identifiers of letters that are not sent yet.

    `unsent` are UIDs of letters that lie there and can't be sent, each with the reason.
    """

    __slots__ = ("known", "made_sent", "moved", "open", "queued", "refused", "unsent")

    def __init__(self) -> None:
        self.queued: list[tuple[int, int, int]] = []  # UID, number in the spool, recipients
        self.known: list[int] = []  # UIDs of messages that were sent before
        self.refused: list[tuple[int, str]] = []
        self.moved = 0
        self.open: frozenset[str] = frozenset()
        self.unsent: list[tuple[int, str]] = []
        self.made_sent = False


class OutboxPass:
    """One pass over one session, `folder` being the outbox. Raises Trouble, Declined, StoreError of the books."""

    def __init__(
        self, session: Session, books: Books, config: Config, account: tuple[str, int], folder: Folder, sent: bytes
    ) -> None:
        """`account` is its name and key, `sent` the server's name of the folder for what is sent."""
        self._session = session
        self._books = books
        self._config = config
        self._name, self._key = account
        self._folder = folder
        self._spooling = Spooling(config)
        self._moving = Moving(session, books, self._key, folder, sent)
        self.posted = Posted()

    def run(self) -> None:
        """Queues what is new, and moves what is over, until there is no more of that."""
        self._folder.clean = False
        try:
            for _ in range(ROUNDS):
                if not self._round():
                    return
        except (Declined, Trouble) as error:
            if self._session.selected is None and not isinstance(error, Lost):
                with suppress(Declined):  # so that nothing is open that could be changed
                    self._session.examine(self._folder.name, None)
            raise
        finally:
            self._spooling.close()
            self.posted.made_sent = self._moving.made

    def _round(self) -> bool:
        """Looks at the folder once; whether something was moved, so that it looks different now."""
        session, folder = self._session, self._folder
        state = session.examine(folder.name, None)[0]
        if not state.epoch:
            raise Trouble(SERVER, "the server gives no UIDVALIDITY, so its UIDs mean nothing")
        here = self._messages(state)
        places = self._places(state.epoch)
        for each in here.values():
            if _step(each, places.get(each.uid)) == TAKE:
                place = self._take(each, state.epoch)
                if place is not None:
                    places[each.uid] = place
        self.posted.unsent = [(uid, places[uid].why) for uid, each in sorted(here.items()) if _is_refused(each, places.get(uid))]
        moved = self._follow(here, places, state.epoch)
        if not moved:
            self._forget(here, places, state.epoch)
            folder.epoch, folder.uidnext, folder.messages, folder.modseq = state.key()
            folder.clean = True
        return moved

    def _messages(self, state: State) -> dict[int, Facts]:
        """What lies there, by UID, as far as the server told all that is needed."""
        found: dict[int, Facts] = {}
        if state.messages:
            for each in self._session.facts(b"UID FETCH 1:* (UID FLAGS RFC822.SIZE INTERNALDATE)"):
                known = found.setdefault(each.uid, each)
                if each.flags is not None:  # one that was changed meanwhile is told twice
                    known.flags = each.flags
                if each.size_bytes >= 0:
                    known.size_bytes, known.date = each.size_bytes, each.date
        return {uid: each for uid, each in found.items() if each.flags is not None and each.size_bytes >= 0}

    def _places(self, epoch: int) -> dict[int, Place]:
        rows = self._books.run("outbox", (self._key, self._folder.name, epoch))
        return {row[0]: Place(*row[1:]) for row in rows}

    # new ones

    def _take(self, facts: Facts, epoch: int) -> Place | None:
        """A message that is not known: a letter to be queued, one that is known, or one that can't be sent."""
        if facts.size_bytes > self._config.max_size_bytes:
            return self._refuse(facts, epoch, None, self._spooling.too_big())
        raw = content(self._session, facts.uid, self._config.max_size_bytes)
        if raw is None:
            return None  # gone meanwhile
        if len(raw) > self._config.max_size_bytes:  # more than the server had said
            return self._refuse(facts, epoch, None, self._spooling.too_big())
        key = letter_out.digest(raw)
        rows = self._books.run("outgoing", (self._key, key))
        state, seq = (rows[0][0], rows[0][1]) if rows else ("", 0)
        if state not in ("", letter_out.INTENT):
            self._books.run("add_outbox", self._values(facts, epoch, key, ""))
            if state == OVER:
                self.posted.known.append(facts.uid)
            return self._place(facts, key, "", state, seq)
        identifier = letter_out.identifier(self._name, key)
        if state and self._spooling.may_be_lost(identifier, seq):
            return self._refuse(facts, epoch, key, UNSURE)
        try:
            letter = letter_out.read(raw, self._config.aliases, self._config.domain)
            mail = self._spooling.submission(letter, identifier)
        except Unsendable as error:
            return self._refuse(facts, epoch, None, str(error))
        self._intend(facts, epoch, key, None if state else self._spooling.last_before(identifier))
        mail_id = self._spooling.queue(mail)
        self._books.run("outgoing_state", (QUEUED, self._key, key))
        self.posted.queued.append((facts.uid, mail_id, len(mail.recipients)))
        return self._place(facts, key, "", QUEUED)

    def _intend(self, facts: Facts, epoch: int, key: bytes, seq: int | None) -> None:
        """Writes down that it is about to be queued, and which was the spool's last mail before; None when that stands there."""

        def work(transaction: Transaction) -> None:
            if seq is not None:
                transaction.run("books.add_outgoing", (self._key, key, seq, time.time()))
            transaction.run("books.add_outbox", self._values(facts, epoch, key, ""))

        self._books.do(work)

    def _refuse(self, facts: Facts, epoch: int, key: bytes | None, why: str) -> Place:
        self._books.run("add_outbox", self._values(facts, epoch, key, why))
        self.posted.refused.append((facts.uid, why))
        return self._place(facts, key, why, "")

    def _values(self, facts: Facts, epoch: int, key: bytes | None, why: str) -> tuple[object, ...]:
        return (self._key, self._folder.name, epoch, facts.uid, facts.size_bytes, unix(facts.date), key, why)

    def _place(self, facts: Facts, key: bytes | None, why: str, state: str, seq: int = 0) -> Place:
        return Place(facts.size_bytes, unix(facts.date), key, why, state, seq)

    # what became of the others

    def _follow(self, here: dict[int, Facts], places: dict[int, Place], epoch: int) -> bool:
        """Moves what is sent; whether something was moved."""
        over: list[tuple[Facts, bytes]] = []
        halfway: list[tuple[Facts, bytes]] = []
        waiting, lost = set(), []
        for each in here.values():
            place = places.get(each.uid)
            what = _step(each, place)
            if place is None or place.digest is None or what not in (FOLLOW, FINISH):
                continue
            identifier = letter_out.identifier(self._name, place.digest)
            if place.state == MOVING:
                halfway.append((each, place.digest))
            elif identifier in waiting or self._spooling.is_open(identifier):
                waiting.add(identifier)
            elif place.state == QUEUED and self._spooling.last_mail_id() <= place.seq:
                lost.append(each.uid)
            else:
                over.append((each, place.digest))
        self.posted.open = frozenset(waiting)
        moved = self._moving.run(over, halfway, epoch)
        self.posted.moved += moved
        if lost and not (over or halfway):
            raise Trouble(SERVER, f"message {lost[0]} was queued in another spool than this one: it stays where it is")
        return bool(over or halfway)

    def _forget(self, here: dict[int, Facts], places: dict[int, Place], epoch: int) -> None:
        """What lies there no more is nobody's business: its letter stays known, its place does not."""
        left = {places[uid].digest for uid, facts in here.items() if uid in places and _step(facts, places[uid]) == FOLLOW}
        gone = [(self._key, self._folder.name, epoch, uid) for uid in places if uid not in here]
        closed = [key for (key,) in self._books.run("outgoing_open", (self._key,)) if key not in left]

        def work(transaction: Transaction) -> None:
            transaction.many("books.drop_outbox", gone)
            transaction.run("books.drop_outbox_but", (self._key, self._folder.name, epoch))
            transaction.many("books.outgoing_state", [(OVER, self._key, key) for key in closed])

        self._books.do(work)


UNSURE = (
    "it may have been sent already: imap-sync ended while it was queued, and mails of that time are gone from the spool; "
    "if it was not, save it again with a change"
)


def _is_refused(facts: Facts, place: Place | None) -> bool:
    """Whether it was looked at and can't be sent; one that is marked as deleted is nobody's business any more."""
    if place is None or not place.why or (place.size_bytes, place.date) != (facts.size_bytes, unix(facts.date)):
        return False
    return all(each.lower() != b"\\deleted" for each in facts.flags or ())


def _step(facts: Facts, place: Place | None) -> str:
    return letter_out.step(facts.flags or (), facts.size_bytes, unix(facts.date), place)
