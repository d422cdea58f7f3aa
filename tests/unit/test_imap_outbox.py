"""The outbox without a server's process: what is read out of a letter, and a crash at each single step of a pass."""

from __future__ import annotations

import sqlite3
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from workers.imap import letter_out, moving, names, post, spooling
from workers.imap.answers import Facts, State
from workers.imap.books import Books
from workers.imap.letter_out import FINISH, FOLLOW, INTENT, LEAVE, MOVING, OVER, QUEUED, TAKE, Place, Unsendable, read, step
from workers.imap.outbox import OutboxPass
from workers.imap.post import Outbox, Post
from workers.imap.trouble import Declined, Trouble
from workers.imap.wire import Response
from workers.mail.config import Config
from workers.mail.imap_config import Account

ROOT = Path(__file__).resolve().parents[2]
BOX, SENT = b"To send", b"Sent"
LETTER = b"From: a@example.org\r\nTo: b@example.org\r\nBcc: c@example.org\r\nMessage-ID: <1@example.org>\r\n\r\nx\r\n"


def envelope(*lines: str) -> tuple[str, list[str]]:
    """Sender and recipients of a letter with these header fields."""
    raw = "".join(f"{line}\r\n" for line in lines).encode() + b"\r\nbody\r\n"
    found = read(raw, {"root": ["ops@example.org"]}, "example.org")
    return found.sender, found.envelope


def test_the_envelope_is_of_sender_or_from_and_of_to_cc_and_bcc() -> None:
    plain = ("From: Al <a@x.org>", "To: b@x.org, B <b@x.org>", "Cc: c@x.org", "BCC: team: d@x.org;")
    assert envelope(*plain) == ("a@x.org", ["b@x.org", "c@x.org", "d@x.org"])
    assert envelope("From: a@x.org, e@x.org", "Sender: e@x.org", "To: root") == ("e@x.org", ["ops@example.org"])
    assert envelope("From: a@x.org", "To: b@x.org", "Resent-To: z@x.org", "Resent-From: y@x.org") == ("a@x.org", ["b@x.org"])


@pytest.mark.parametrize(
    ("lines", "why"),
    [
        (("From: a@x.org",), "no recipient"),
        (("From: a@x.org", "To: undisclosed-recipients:;"), "no recipient"),
        (("From: a@x.org", "Resent-To: b@x.org"), "no recipient"),
        (("To: b@x.org",), "no sender"),
        (("From: a@x.org", "To: b@x.org, c d@x.org"), "quotes are needed"),
        (("From: a@x.org", "To: <b@x.org"), "left open"),
        (("From: a b@x.org", "To: b@x.org"), "quotes are needed"),
        (("From: a@x.org", "To: -o@x.org"), "dash"),
    ],
)
def test_a_letter_that_cannot_be_sent_says_why(lines: tuple[str, ...], why: str) -> None:
    with pytest.raises(Unsendable, match=why):
        envelope(*lines)


def test_a_letter_is_known_by_its_message_id_and_all_its_content() -> None:
    assert letter_out.digest(LETTER) == letter_out.digest(bytes(LETTER))
    others = [LETTER.replace(b"<1@", b"<2@"), LETTER + b"y", LETTER.replace(b"c@", b"d@"), LETTER.replace(b"\r\n", b"\n")]
    assert len({letter_out.digest(each) for each in (LETTER, *others)}) == 5


PLACE = {state: Place(9, 5, b"d", "", state) for state in (INTENT, QUEUED, MOVING, OVER)}


@pytest.mark.parametrize(
    ("flags", "place", "expected"),
    [
        ((), None, TAKE),
        ((b"\\seen", b"Work"), None, TAKE),
        ((b"\\DRAFT",), None, LEAVE),
        ((b"\\Deleted",), None, LEAVE),
        ((), PLACE[INTENT], TAKE),
        ((b"\\Draft",), PLACE[INTENT], LEAVE),
        ((), PLACE[QUEUED], FOLLOW),
        ((b"\\Draft",), PLACE[QUEUED], FOLLOW),
        ((b"\\Deleted",), PLACE[QUEUED], LEAVE),
        ((b"\\Deleted",), PLACE[MOVING], FINISH),
        ((), PLACE[OVER], FOLLOW),
        ((), Place(9, 5, None, "too big", ""), LEAVE),
        ((), Place(9, 5, b"d", "unsure", INTENT), LEAVE),
        ((), Place(8, 5, b"d", "", QUEUED), TAKE),  # another message: the server has used the UIDVALIDITY again
        ((), Place(9, 4, b"d", "", QUEUED), TAKE),
    ],
)
def test_what_is_done_with_a_message(flags: tuple[bytes, ...], place: Place | None, expected: str) -> None:
    assert step(flags, 9, 5, place) == expected


@pytest.mark.parametrize(
    ("text", "raw", "delimiter", "expected"),
    [
        ("To send", b"To send", b"/", True),
        ("Mail/To send", b"Mail.To send", b".", True),
        ("Entwürfe", b"Entw&APw-rfe", b"/", True),
        ("inbox/Out", b"INBOX.Out", b".", True),
        ("*", b"To send", b"/", False),  # a sign, and no pattern: else all mail would go out
        ("!To send", b"To send", b"/", False),
        ("to send", b"To send", b"/", False),
    ],
)
def test_the_outbox_is_named_exactly(text: str, raw: bytes, delimiter: bytes, expected: bool) -> None:
    assert names.is_named(text, raw, delimiter) is expected


def test_a_name_for_the_server_has_its_delimiter() -> None:
    assert names.raw_name("Mail/Entwürfe", b".") == b"Mail.Entw&APw-rfe"
    assert names.raw_name("Mail/Out", None) == b"Mail/Out"


class Crash(BaseException):
    """The process ends here."""


class Fuse:
    """Ends the process at the step `left` from now; -1: never."""

    def __init__(self) -> None:
        self.left = -1

    def burn(self) -> None:
        """One step."""
        if self.left == 0:
            self.left = -1
            raise Crash
        self.left -= self.left > 0


class Server:
    """Folders by name: UIDVALIDITY, next UID, and by UID the flags and the content of messages. What it can is in `offers`."""

    def __init__(self, *offers: str) -> None:
        self.offers = offers
        self.folders: dict[bytes, tuple[int, dict[int, tuple[set[bytes], bytes]]]] = {BOX: (7, {})}
        self.next_uid = 1

    def save(self, folder: bytes, content: bytes, *flags: bytes) -> None:
        """Puts a message into a folder."""
        self.folders[folder][1][self.next_uid] = (set(flags), content)
        self.next_uid += 1

    def shown(self, folder: bytes) -> list[bytes]:
        """The messages that are not marked as deleted."""
        return [content for flags, content in self.folders.get(folder, (0, {}))[1].values() if b"\\Deleted" not in flags]


class Line:
    """A session with `server` as far as a pass of the outbox uses one, and its connection. Each command may be the last."""

    def __init__(self, server: Server, fuse: Fuse) -> None:
        self.server = server
        self.connection = self
        self.selected: bytes | None = None
        self.now = State()
        self.news = False
        self._fuse = fuse
        self._open = b""

    def can(self, name: str) -> bool:
        return name in self.server.offers

    def examine(self, name: bytes, _: object) -> tuple[State, list[Facts], list[tuple[int, int]]]:
        self._fuse.burn()
        if name not in self.server.folders:
            raise Declined(b"NO", b"NONEXISTENT", "no such folder")
        epoch, messages = self.server.folders[name]
        self.selected = self._open = name
        return State(epoch, self.server.next_uid, len(messages), 0), [], []

    def facts(self, words: bytes) -> list[Facts]:
        self._fuse.burn()
        found = []
        low = int(words.split()[2].partition(b":")[0])
        for uid, (flags, content) in self.server.folders[self._open][1].items():
            each = Facts(uid)
            each.flags, each.size_bytes, each.date = tuple(flags), len(content), b"01-Jun-2026 10:00:00 +0000"
            found += [each] if uid >= low else []
        return found

    def messages(self, parts: Any, _: object, take: Callable[[Facts], None], __: object) -> None:
        self._fuse.burn()
        for _, ((uid, _),) in parts:
            if uid in self.server.folders[self._open][1]:
                facts = Facts(uid)
                facts.body = self.server.folders[self._open][1][uid][1]
                take(facts)

    def command(self, *words: bytes, take: Callable[[Response], None] | None = None) -> Response:
        self._fuse.burn()
        line = b"".join(words)
        verb = line.split(b" ")[0] if not line.startswith(b"UID ") else line.split(b" ")[1]
        getattr(self, f"_{verb.decode().lower()}")(line, take)
        self._fuse.burn()  # it was done, and the answer is lost
        return Response(b"s1", b"OK")

    def _select(self, line: bytes, _: object) -> None:
        self._open = line.split(b'"')[1]
        self.now.epoch = self.server.folders[self._open][0]

    def _status(self, line: bytes, take: Callable[[Response], None]) -> None:
        name = line.split(b'"')[1]
        if name not in self.server.folders:
            raise Declined(b"NO", b"NONEXISTENT", "no such folder")
        response = Response(b"*", b"STATUS")
        numbers = [b"UIDVALIDITY", b"%d" % self.server.folders[name][0], b"UIDNEXT", b"%d" % self.server.next_uid]
        response.values = [name, numbers]
        take(response)

    def _create(self, line: bytes, _: object) -> None:
        self.server.folders[line.split(b'"')[1]] = (8, {})

    def _subscribe(self, _: bytes, __: object) -> None:
        pass

    def _copy(self, line: bytes, _: object) -> None:
        for _, content in self._chosen(line):
            self.server.save(line.split(b'"')[1], content)

    def _move(self, line: bytes, _: object) -> None:
        self._copy(line, None)
        for uid, _ in self._chosen(line):
            del self.server.folders[self._open][1][uid]

    def _store(self, line: bytes, _: object) -> None:
        for uid, _ in self._chosen(line):
            self.server.folders[self._open][1][uid][0].add(b"\\Deleted")

    def _expunge(self, line: bytes, _: object) -> None:
        for uid, _ in self._chosen(line):
            assert b"\\Deleted" in self.server.folders[self._open][1].pop(uid)[0]

    def _chosen(self, line: bytes) -> list[tuple[int, bytes]]:
        low, _, high = line.split(b" ")[2].partition(b":")
        here = self.server.folders[self._open][1]
        return [(uid, here[uid][1]) for uid in range(int(low), int(high or low) + 1) if uid in here]


class World:
    """The books, the spool and the server, which live on when the process ends."""

    def __init__(self, folder: Path, server: Server, fuse: Fuse) -> None:
        self.server = server
        self.fuse = fuse
        self.config = Config(None, str(folder))
        self.books = Books(str(folder / "imap.db"))
        do = self.books.do

        def burning(work: Any) -> Any:
            fuse.burn()
            result = do(work)
            fuse.burn()
            return result

        self.books.do = burning  # type: ignore[method-assign]

    def run(self, crash_at: int = -1) -> bool:
        """A pass in a process of its own; whether that came to its end."""
        self.fuse.left = crash_at
        line: Any = Line(self.server, self.fuse)
        try:
            OutboxPass(line, self.books, self.config, ("alice", 1), Outbox(BOX, b"/"), SENT).run()
        except Crash:
            return False
        finally:
            self.fuse.left = -1
        return True

    def sql(self, *statements: str) -> list[Any]:
        """What the last of these says about the spool."""
        with closing(sqlite3.connect(self.config.database)) as database:
            rows = [database.execute(each).fetchall() for each in statements]
            database.commit()
        return rows[-1]

    def ever_queued(self) -> int:
        """How many mails the spool ever had."""
        return int(self.sql("SELECT coalesce(max(seq), 0) FROM sqlite_sequence WHERE name = 'mail_message'")[0][0])


@pytest.fixture
def new_world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., World]]:
    """Makes worlds whose spool's commits burn the fuse, too."""
    made: list[World] = []
    fuse = Fuse()
    queue = spooling.Spooling.queue

    def burning(self: spooling.Spooling, mail: Any) -> int:
        fuse.burn()
        number = queue(self, mail)
        fuse.burn()
        return number

    monkeypatch.setattr(spooling.Spooling, "queue", burning)

    def make(*offers: str) -> World:
        folder = tmp_path / str(len(made))
        folder.mkdir()
        made.append(World(folder, Server(*offers), fuse))
        return made[-1]

    yield make
    for each in made:
        each.books.close()


SENT_ALL = "UPDATE mail_recipient SET state = 'sent'"
PRUNED = ("DELETE FROM mail_recipient", "DELETE FROM mail_body", "DELETE FROM mail_message")


@pytest.mark.parametrize("offers", [("MOVE", "UIDPLUS"), ("UIDPLUS",), ()], ids=["MOVE", "UIDPLUS", "neither"])
def test_a_crash_at_any_step_sends_and_moves_once(new_world: Callable[..., World], offers: tuple[str, ...]) -> None:
    steps = 0
    for crash_at in range(1000):
        world = new_world(*offers)
        world.server.save(BOX, LETTER)
        ended = world.run(crash_at)
        world.run()
        assert world.server.shown(BOX) == [LETTER]
        world.sql(SENT_ALL)
        ended &= world.run(crash_at)
        world.run()
        assert (world.server.shown(BOX), world.server.shown(SENT)) == ([], [LETTER]), crash_at
        assert world.ever_queued() == 1, crash_at
        lying = world.server.folders[BOX][1]
        assert len(lying) == (not offers)  # without an extension it is marked only
        steps += 1
        if ended:
            break
    assert steps > 15


@pytest.mark.parametrize("offers", [("MOVE", "UIDPLUS"), ()], ids=["MOVE", "neither"])
def test_a_crash_and_a_new_uidvalidity_send_and_move_once(new_world: Callable[..., World], offers: tuple[str, ...]) -> None:
    for crash_at in range(1000):
        world = new_world(*offers)
        world.server.save(BOX, LETTER)
        world.run()
        world.sql(SENT_ALL)
        ended = world.run(crash_at)
        world.server.folders[BOX] = (70, world.server.folders[BOX][1])
        world.run()
        assert (world.server.shown(BOX), world.server.shown(SENT)) == ([], [LETTER]), crash_at
        assert world.ever_queued() == 1
        if ended:
            break
    assert crash_at > 10


def test_a_crash_and_a_spool_that_has_pruned_the_mail_do_not_send_it_again(new_world: Callable[..., World]) -> None:
    unsure = 0
    for crash_at in range(1000):
        world = new_world("MOVE")
        world.server.save(BOX, LETTER)
        ended = world.run(crash_at)
        was_queued = Path(world.config.database).exists() and world.ever_queued() == 1
        if was_queued:
            world.sql(*PRUNED)
        world.run()
        assert world.ever_queued() == 1, crash_at
        if was_queued:  # known as queued, or nobody knows: then it stays, and says so
            rows = world.books.run("unsendable", (1,))
            unsure += len(rows)
            assert world.server.shown(SENT) == ([] if rows else [LETTER])
        if ended:
            break
    assert unsure == 2  # behind the spool's commit, and before the books'


def test_a_letter_of_a_spool_that_is_gone_is_not_taken_for_sent(new_world: Callable[..., World]) -> None:
    world = new_world("MOVE")
    world.server.save(BOX, LETTER)
    world.run()
    for path in Path(world.config.database).parent.glob("spool.db*"):
        path.unlink()
    with pytest.raises(Trouble, match="another spool"):
        world.run()
    assert (world.server.shown(BOX), world.server.shown(SENT)) == ([LETTER], [])
    assert world.ever_queued() == 0


def test_two_equal_messages_are_one_letter_and_both_go(new_world: Callable[..., World]) -> None:
    world = new_world("MOVE")
    world.server.save(BOX, LETTER)
    world.server.save(BOX, LETTER)
    world.server.save(BOX, LETTER + b"PS\r\n")
    world.run()
    world.sql(SENT_ALL)
    world.run()
    assert world.ever_queued() == 2
    assert (world.server.shown(BOX), len(world.server.shown(SENT))) == ([], 3)


def test_a_letter_that_somebody_took_away_is_followed_no_more(new_world: Callable[..., World]) -> None:
    world = new_world("MOVE")
    world.server.save(BOX, LETTER)
    world.run()
    world.server.folders[BOX][1].clear()
    world.run()
    assert world.books.run("outgoing_open", (1,)) == []
    assert world.books.run("outbox", (1, BOX, 7)) == []
    assert world.sql("SELECT DISTINCT state FROM mail_recipient") == [("queued",)]


def test_the_mail_has_no_bcc_the_priority_of_a_person_and_an_identifier(new_world: Callable[..., World]) -> None:
    world = new_world("MOVE")
    world.server.save(BOX, LETTER)
    world.run()
    ((body, sender, identifier),) = world.sql("SELECT body, sender, identifier FROM mail_message JOIN mail_body ON mail_id = id")
    assert b"Bcc" not in body
    assert b"To: b@example.org" in body
    assert (sender, identifier) == ("a@example.org", f"imap:alice:{letter_out.digest(LETTER).hex()}")
    assert world.sql("SELECT address, priority FROM mail_recipient") == [("b@example.org", 0), ("c@example.org", 0)]


@pytest.mark.parametrize(
    ("module", "absent"),
    [("outbox", {"aiosmtplib", "asyncio", "email", "logging"}), ("run", {"workers.spool.accept", "workers.imap.letter_out"})],
)
def test_the_spool_comes_with_an_outbox_and_its_sender_never(module: str, absent: set[str]) -> None:
    code = f"import sys, workers.imap.{module}; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert absent.isdisjoint(done.stdout.split())


def test_content_is_held_up_to_a_byte_more_than_is_allowed() -> None:
    taker = moving.Content(10)
    for _ in range(1000):
        taker.write(memoryview(b"1234567"))
    assert taker.octets == b"12345671234"


def test_after_a_failure_it_is_tried_again_and_ever_later_within_a_minute() -> None:
    account = Account(name="alice", host="localhost")
    account.outbox, account.sent = "To send", "Sent"
    made = Post(account)
    pauses = []
    for _ in range(8):
        made.went_wrong(100.0, 0.5)
        pauses.append(made.retry_at - 100.0)
    assert pauses == sorted(pauses)
    assert pauses[-1] == post.MOST_RETRY_S
    made.went_well(frozenset(("x",)))
    assert (made.retry_at, made.is_unchecked) == (0.0, True)
