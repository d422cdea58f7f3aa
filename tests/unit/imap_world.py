"""An IMAP server in memory: folders, messages, MODSEQs, and what others do to them."""

from __future__ import annotations

from workers.imap.answers import State
from workers.imap.letters import MONTHS

QRESYNC, CONDSTORE, PLAIN = "qresync", "condstore", "plain"
CAPABILITIES = {QRESYNC: {"QRESYNC", "CONDSTORE", "ENABLE"}, CONDSTORE: {"CONDSTORE", "ENABLE"}, PLAIN: set()}
FLAGS: tuple[tuple[bytes, ...], ...] = (
    (),
    (b"\\Seen",),
    (b"\\Flagged", b"\\SEEN"),
    (b"$Forwarded",),
    (b"\\Answered", b"kw", b"\\Draft"),
    (b"KW", b"\\Deleted"),
)
NAMES = (b"INBOX", b"a", b"b/c", b"..", b"cur")
START = 10**18  # MODSEQ: each step back divides it, so that it never catches up with what was seen


def internal_date(second: int) -> bytes:
    """INTERNALDATE of a second in 2001."""
    months = {number: name for name, number in MONTHS.items()}
    return b"%2d-%s-2001 00:00:%02d +0000" % (1 + second // 60 % 28, months[1 + second // 1680 % 12].title(), second % 60)


class Message:
    """One message of one folder."""

    def __init__(self, content: bytes, date: bytes, flags: tuple[bytes, ...], identity: bytes) -> None:
        self.content = content
        self.date = date
        self.flags = flags
        self.identity = identity
        self.modseq = 0

    def copy(self) -> Message:
        """The same content, elsewhere."""
        return Message(self.content, self.date, self.flags, self.identity)


class Mailbox:
    """One folder of the server."""

    def __init__(self, epoch: int, identity: bytes) -> None:
        self.epoch = epoch
        self.identity = identity
        self.uidnext = 1
        self.modseq = START
        self.messages: dict[int, Message] = {}
        self.gone: list[tuple[int, int]] = []  # modseq, uid
        self.expunged: dict[int, Message] = {}
        self.dates: dict[int, set[bytes]] = {}  # of all messages that ever had a UID: one restored gives some twice
        self.later = 10000

    def add(self, message: Message) -> None:
        """A new message. A UID that is given again is given later."""
        if message.date in self.dates.setdefault(self.uidnext, set()):
            self.later += 1
            message.date = internal_date(self.later)
        self.dates[self.uidnext].add(message.date)
        self.modseq += 1
        message.modseq = self.modseq
        self.messages[self.uidnext] = message
        self.uidnext += 1

    def expunge(self, uid: int) -> Message:
        """A message goes."""
        self.modseq += 1
        self.gone.append((self.modseq, uid))
        self.expunged[uid] = self.messages[uid].copy()
        return self.messages.pop(uid)

    def flag(self, uid: int, flags: tuple[bytes, ...]) -> None:
        """A message gets other flags."""
        self.modseq += 1
        self.messages[uid].flags = flags
        self.messages[uid].modseq = self.modseq

    def renumber(self, epoch: int, messages: list[Message], gap: int) -> None:
        """UIDVALIDITY changes."""
        self.epoch, self.uidnext, self.messages, self.gone, self.modseq = epoch, 1 + gap, {}, [], START
        self.expunged, self.dates = {}, {}
        for each in messages:
            self.add(each)

    def go_back(self) -> None:
        """The server's memory of changes begins anew, lower."""
        self.modseq //= 10
        self.gone.clear()
        for each in self.messages.values():
            each.modseq = self.modseq

    def restore(self, lost: int, again: int, flags: tuple[bytes, ...]) -> None:
        """The folder as it was before its last `lost` UIDs: an expunged message is there again, and one has other flags."""
        self.uidnext = max(1, self.uidnext - lost)
        self.messages = {uid: each for uid, each in self.messages.items() if uid < self.uidnext}
        self.expunged = {uid: each for uid, each in self.expunged.items() if uid < self.uidnext}
        if self.expunged:
            uid = sorted(self.expunged)[again % len(self.expunged)]
            self.messages[uid] = self.expunged.pop(uid)
        if self.messages:
            self.messages[sorted(self.messages)[again % len(self.messages)]].flags = flags
        self.go_back()

    def state(self, tier: str) -> State:
        """As STATUS and EXAMINE tell it."""
        return State(self.epoch, self.uidnext, len(self.messages), 0 if tier == PLAIN else self.modseq)


class Server:
    """The server. `offers` are capabilities; `sent_bytes` counts the content that left it."""

    def __init__(self, tier: str, *, identities: bool) -> None:
        self.tier = tier
        self.identities = identities
        self.offers = CAPABILITIES[tier] | ({"OBJECTID"} if identities else set())
        self.epochs = 100
        self.made = 0
        self.boxes: dict[bytes, Mailbox] = {}
        self.create(b"INBOX")
        self.sent_bytes = 0
        self.sent_uids: list[int] = []

    def create(self, name: bytes) -> Mailbox:
        """A new folder."""
        self.epochs += 1
        self.boxes[name] = Mailbox(self.epochs, b"F%d" % self.epochs)
        return self.boxes[name]

    def message(self, kind: int, like: Message | None = None) -> Message:
        """A message: 1 of the shape of others, 2 a copy of `like`, 3 without a body, 4 empty, else of its own shape."""
        self.made += 1
        number, identity = self.made, b"M%d" % self.made
        flags = FLAGS[number % len(FLAGS)]
        if kind == 2 and like is not None:
            return Message(like.content, like.date, flags, like.identity if number % 2 else identity)
        if kind == 1:
            return Message(b"Subject: %08d\r\n\r\nsame shape" % number, internal_date(0), flags, identity)
        if kind == 3:
            return Message(b"Subject: %d\r\n" % number, internal_date(number), flags, identity)
        if kind == 4:
            return Message(b"", internal_date(0), flags, b"M0")
        return Message(b"Subject: %d\r\n\r\n" % number + b"x" * number, internal_date(number), flags, identity)

    def apply(self, event: tuple[str, int, int, int]) -> None:
        """A change by others. `event`: what, and numbers that choose folder, message and more."""
        what, first, second, third = event
        name = sorted(self.boxes)[first % len(self.boxes)]
        getattr(self, f"_{what}")(name, self.boxes[name], second, third)

    def _append(self, _: bytes, box: Mailbox, which: int, kind: int) -> None:
        like = list(box.messages.values())[which % len(box.messages)] if box.messages else None
        box.add(self.message(kind, like))

    def _many(self, name: bytes, box: Mailbox, number: int, kind: int) -> None:
        for each in range(2 + number % 7):
            self._append(name, box, each, kind)

    def _flag(self, _: bytes, box: Mailbox, which: int, flags: int) -> None:
        if box.messages:
            box.flag(sorted(box.messages)[which % len(box.messages)], FLAGS[flags % len(FLAGS)])

    def _read(self, _: bytes, box: Mailbox, first: int, number: int) -> None:
        """Of the newest messages some are looked at, one after the other."""
        for uid in sorted(box.messages, reverse=True)[first : first + number]:
            box.flag(uid, tuple({*box.messages[uid].flags, b"\\Seen", b"$Read"}))

    def _expunge(self, _: bytes, box: Mailbox, which: int, __: int) -> None:
        if box.messages:
            box.expunge(sorted(box.messages)[which % len(box.messages)])

    def _move(self, _: bytes, box: Mailbox, which: int, target: int) -> None:
        if box.messages:
            to = self.boxes[sorted(self.boxes)[target % len(self.boxes)]]
            to.add(box.expunge(sorted(box.messages)[which % len(box.messages)]))

    def _copy(self, _: bytes, box: Mailbox, which: int, target: int) -> None:
        if box.messages:
            to = self.boxes[sorted(self.boxes)[target % len(self.boxes)]]
            to.add(box.messages[sorted(box.messages)[which % len(box.messages)]].copy())

    def _make(self, _: bytes, __: Mailbox, which: int, number: int) -> None:
        free = [name for name in NAMES if name not in self.boxes]
        if free:
            box = self.create(free[which % len(free)])
            for _each in range(number):
                box.add(self.message(0))

    def _rename(self, name: bytes, box: Mailbox, which: int, renumbered: int) -> None:
        free = [name for name in NAMES if name not in self.boxes]
        if name != b"INBOX" and free:
            self.boxes[free[which % len(free)]] = self.boxes.pop(name)
            if renumbered % 3 == 0:
                self._anew(name, box, which, renumbered)

    def _drop(self, name: bytes, _: Mailbox, __: int, ___: int) -> None:
        if name != b"INBOX":
            del self.boxes[name]

    def _anew(self, _: bytes, box: Mailbox, gap: int, __: int) -> None:
        """UIDVALIDITY changes, the messages stay."""
        self.epochs += 1
        box.renumber(self.epochs, [each.copy() for _, each in sorted(box.messages.items())], gap % 3)

    def _other(self, _: bytes, box: Mailbox, number: int, kind: int) -> None:
        """UIDVALIDITY changes, the messages are others."""
        self.epochs += 1
        box.renumber(self.epochs, [self.message(kind) for _ in range(number)], 0)

    def _back(self, _: bytes, box: Mailbox, __: int, ___: int) -> None:
        box.go_back()

    def _reborn(self, _: bytes, box: Mailbox, number: int, __: int) -> None:
        """The account is made anew: UIDVALIDITY changes, and other messages get the identities of those that were there."""
        self.epochs += 1
        identities = [each.identity for _, each in sorted(box.messages.items())]
        messages = [self.message(0) for _ in range(number)]
        for each, identity in zip(messages, identities, strict=False):
            each.identity = identity
        box.renumber(self.epochs, messages, 0)

    def _swap(self, name: bytes, box: Mailbox, which: int, _: int) -> None:
        """Two folders change names; their UIDVALIDITYs come from these."""
        other = sorted(self.boxes)[which % len(self.boxes)]
        self.boxes[name], self.boxes[other] = self.boxes[other], box
        box.epoch, self.boxes[name].epoch = self.boxes[name].epoch, box.epoch

    def _remake(self, name: bytes, box: Mailbox, number: int, kind: int) -> None:
        """Deleted and made again, with the same UIDVALIDITY."""
        epoch, self.boxes[name] = box.epoch, self.create(name)
        self.boxes[name].epoch = epoch
        for _each in range(number):
            self.boxes[name].add(self.message(kind))

    def _restore(self, _: bytes, box: Mailbox, lost: int, again: int) -> None:
        box.restore(lost, again, FLAGS[again % len(FLAGS)])

    def _refill(self, _: bytes, box: Mailbox, number: int, same: int) -> None:
        """Emptied, and filled again."""
        old = [box.expunge(uid) for uid in sorted(box.messages)]
        for each in old if same % 2 else [self.message(0) for _ in range(number)]:
            box.add(each)
