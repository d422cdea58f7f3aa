"""What a session takes from the words of a server: whose they are, what is news, and sets of any length."""

from __future__ import annotations

import socket
import threading
import time
import tracemalloc
from collections.abc import Callable, Iterable, Iterator
from contextlib import closing
from typing import Any, cast

import pytest

from workers.imap import hearing, sets
from workers.imap import session as module
from workers.imap.answers import listed, status
from workers.imap.connection import Connection
from workers.imap.limits import Limits
from workers.imap.proof import Place, prove
from workers.imap.report import Report
from workers.imap.session import Session
from workers.imap.stream import Stream
from workers.imap.trouble import Declined, Lost
from workers.imap.wire import LINE_BYTES, Reader, Response, WireError

LONG_S = 10.0
MODERN = ("QRESYNC", "CONDSTORE", "ENABLE", "ESEARCH", "IDLE")
OPENED = b"* %d EXISTS\r\n* OK [UIDVALIDITY %d] x\r\n* OK [UIDNEXT 900] x\r\n* OK [HIGHESTMODSEQ 5] x\r\n"

Talk = tuple[Session, socket.socket]


@pytest.fixture
def make() -> Iterator[Callable[..., Talk]]:
    """Makes a session with these capabilities, and the server's end."""
    opened: list[Any] = []

    def made(*capabilities: str) -> Talk:
        ours, theirs = socket.socketpair()
        theirs.settimeout(LONG_S)
        for each in (ours, theirs):
            each.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4 << 20)
        session, limits = Session(), Limits()
        limits.stall_s = LONG_S
        session.connection = Connection(Stream(ours), limits, session.hear)
        session.connection.capabilities = frozenset(each.encode() for each in capabilities)
        opened.extend((session.connection, theirs))
        return session, theirs

    yield made
    for each in opened:
        each.close()


def opened(talk: Talk, name: bytes, *words: bytes, known: tuple[int, int] | None = None, end: bytes = b"OK done") -> Any:
    """Opens a folder to which the server says these words."""
    session, server = talk
    server.sendall(b"".join(words) + b"s%d %s\r\n" % (session.connection._count + 1, end))
    return session.examine(name, known)


def said(server: socket.socket) -> list[bytes]:
    return server.recv(1 << 16).splitlines()


def answers(server: socket.socket, *replies: bytes) -> list[bytes]:
    """Answers as many commands, TAG being their tags; what they were will stand in the list."""
    heard: list[bytes] = []

    def speak() -> None:
        for reply in replies:
            heard.append(server.recv(1 << 16).rstrip())
            server.sendall(reply.replace(b"TAG", heard[-1].split()[0]))

    threading.Thread(target=speak, daemon=True).start()
    return heard


def rests(talk: Talk) -> None:
    """Comes to rest, and back again, as between two jobs."""
    session, server = talk
    session.watching = "idle"
    session.start_rest()
    assert said(server)[-1].endswith(b" IDLE")


CHANGE = b"* 2 FETCH (UID 2 MODSEQ (4) FLAGS (\\Seen))\r\n"
CLOSED = b"* OK [CLOSED] Previous mailbox closed.\r\n"


def test_what_is_told_before_the_old_folder_is_closed_is_of_the_old_one(make: Callable[..., Talk]) -> None:
    talk = make(*MODERN)
    session = talk[0]
    opened(talk, b"A", OPENED % (3, 7))
    of_b = b"* VANISHED (EARLIER) 5\r\n* 3 FETCH (UID 3 FLAGS (kw) MODSEQ (9))\r\n"
    words = (b"* VANISHED (EARLIER) 9\r\n", CHANGE, b"* OK [HIGHESTMODSEQ 99] x\r\n", CLOSED, OPENED % (4, 8), of_b)
    state, changed, gone = opened(talk, b"B", *words, known=(8, 1))
    assert state.key() == (8, 900, 4, 5)
    assert [(each.uid, each.flags) for each in changed] == [(3, (b"kw",))]
    assert gone == [(5, 5)]
    assert session.heard_of == {b"A": None}
    assert not session.news


@pytest.mark.parametrize("news", [b"* 4 EXISTS\r\n", b"* 1 EXPUNGE\r\n", b"* VANISHED 3\r\n", CHANGE])
def test_each_kind_of_news_of_the_old_folder_is_kept(make: Callable[..., Talk], news: bytes) -> None:
    for known in (None, (8, 1)):
        talk = make(*MODERN)
        opened(talk, b"A", OPENED % (3, 7))
        state, changed, _ = opened(talk, b"B", news, CLOSED, OPENED % (4, 8), known=known)
        assert (state.key(), changed) == ((8, 900, 4, 5), [])
        assert talk[0].heard_of == {b"A": None}


def test_a_folder_that_is_closed_without_news_is_not_asked_for(make: Callable[..., Talk]) -> None:
    talk = make(*MODERN)
    opened(talk, b"A", OPENED % (3, 7))
    opened(talk, b"B", b"* 3 EXISTS\r\n", CLOSED, OPENED % (4, 8), known=(8, 1))
    assert not talk[0].has_news()


def test_a_server_that_never_says_closed_is_heard_too(make: Callable[..., Talk]) -> None:
    talk = make(*MODERN)
    opened(talk, b"A", OPENED % (3, 7))
    _, changed, gone = opened(talk, b"B", OPENED % (4, 8), b"* VANISHED (EARLIER) 5\r\n", CHANGE, known=(8, 1))
    assert [each.uid for each in changed] == [2]
    assert gone == [(5, 5)]
    assert not talk[0].has_news()


def test_changes_that_were_not_asked_for_are_none_of_the_new_folder(make: Callable[..., Talk]) -> None:
    talk = make("CONDSTORE", "ENABLE")
    opened(talk, b"A", OPENED % (3, 7))
    assert opened(talk, b"B", CHANGE, b"* VANISHED (EARLIER) 1\r\n", OPENED % (4, 8), known=(8, 1))[1:] == ([], [])
    assert talk[0].heard_of == {b"A": None}


def test_a_folder_that_can_not_be_opened_leaves_none_open_and_keeps_news(make: Callable[..., Talk]) -> None:
    talk = make(*MODERN)
    opened(talk, b"A", OPENED % (3, 7))
    with pytest.raises(Declined):
        opened(talk, b"B", CHANGE, CLOSED, end=b"NO no such folder")
    assert (talk[0].selected, talk[0].heard_of) == (None, {b"A": None})


FLAGGED = b"* 2 FETCH (UID 2 FLAGS (\\Seen))\r\n"
COMMANDS: dict[str, Callable[[Session], object]] = {
    "NOOP": lambda session: session.synchronise(),
    "SEARCH": lambda session: session.uids(3),
    "others' flags": lambda session: session.facts(b"UID FETCH 1,3:9 (UID FLAGS)"),
    "shapes": lambda session: session.facts(b"UID FETCH 1:9 (UID FLAGS RFC822.SIZE INTERNALDATE)"),
    "content": lambda session: session.messages(
        [(b"(UID FLAGS BODY.PEEK[])", [(1, 9)])], lambda *_: None, lambda _: None, lambda _: None
    ),
}


@pytest.mark.parametrize("what", COMMANDS)
@pytest.mark.parametrize("words", [FLAGGED, b"* 2 FETCH (FLAGS (\\Seen))\r\n"], ids=["UID", "number"])
def test_flags_that_nothing_asked_for_are_news_at_rest_once(make: Callable[..., Talk], what: str, words: bytes) -> None:
    talk = make("IDLE")
    session, server = talk
    opened(talk, b"A", OPENED % (3, 7))
    server.sendall(words + b"* 1 FETCH (UID 1 FLAGS () RFC822.SIZE 1 INTERNALDATE NIL BODY[] {1}\r\nx)\r\ns2 OK done\r\n")
    if what in ("NOOP", "SEARCH"):
        server.recv(1 << 16)
        session.messages([(b"(UID BODY.PEEK[])", [(2, 2)])], lambda *_: None, lambda _: None, lambda _: None)
    else:
        COMMANDS[what](session)
    assert session.flagged
    assert not session.news  # the numbers of messages still prove what they proved
    rests(talk)
    assert session.news
    session.at_rest, session._idle = False, None
    for count in (4, 5):
        server.sendall(words + b"s%d OK done\r\n" % count)
        COMMANDS[what](session)
        assert not session.was_flagged()
    other = words.replace(b"Seen", b"Flagged")
    server.sendall(other + b"s6 OK done\r\n")
    COMMANDS[what](session)
    assert session.was_flagged()


def test_flags_that_were_asked_for_are_no_news(make: Callable[..., Talk]) -> None:
    talk = make("CONDSTORE")
    session, server = talk
    opened(talk, b"A", OPENED % (3, 7))
    said(server)
    answers(server, *[FLAGGED + b"TAG OK x\r\n"] * 3)
    assert [each.uid for each in session.facts(b"UID FETCH 1:2 (UID FLAGS)")] == [2]
    assert [each.uid for each in session.facts(b"UID FETCH 1:* (UID FLAGS)")] == [2]
    assert [each.uid for each in session.changed_since(3, 5)] == [2]
    assert not session.has_news()


def test_a_server_that_never_stops_to_tell_of_flags_is_asked_so_often_only(
    make: Callable[..., Talk], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hearing, "MOST_AGAIN", 3)
    talk = make()
    session, server = talk
    opened(talk, b"A", OPENED % (3, 7))
    heard = []
    for count in range(2, 8):
        server.sendall(b"* 1 FETCH (FLAGS (k%d))\r\ns%d OK x\r\n" % (count, count))
        session.synchronise()
        heard.append(session.was_flagged())
    assert heard == [True] * 3 + [False] * 3


def test_news_that_come_while_the_rest_is_ended_are_not_lost_with_the_folder(make: Callable[..., Talk]) -> None:
    for news in (b"* 4 EXISTS\r\n", FLAGGED):
        for name, kept in ((b"B", {b"A": None}), (b"A", {})):
            talk = make("IDLE")
            session, server = talk
            opened(talk, b"A", OPENED % (3, 7))
            rests(talk)
            server.sendall(b"+ idling\r\n" + news + b"s2 OK x\r\n")
            session.end_rest()
            opened(talk, name, OPENED % (3, 8))
            assert session.heard_of == kept


def test_flags_that_were_told_in_a_pass_are_not_lost_with_the_folder(make: Callable[..., Talk]) -> None:
    talk = make()
    opened(talk, b"A", OPENED % (3, 7))
    talk[1].sendall(FLAGGED + b"s2 OK x\r\n")
    talk[0].synchronise()
    opened(talk, b"B", OPENED % (3, 8))
    assert (talk[0].heard_of, talk[0].flagged) == ({b"A": None}, False)


@pytest.mark.parametrize("epoch", [2**32, 2**62])
def test_a_uidvalidity_that_can_be_none_is_refused(make: Callable[..., Talk], epoch: int) -> None:
    talk = make()
    with pytest.raises(Declined, match=f"UIDVALIDITY {epoch}, which can be none"):
        opened(talk, b"A", OPENED % (3, epoch))
    assert talk[0].selected is None
    assert opened(talk, b"A", OPENED % (3, 2**32 - 1))[0].epoch == 2**32 - 1


def response(words: bytes) -> Response:
    (found,) = Reader(lambda *_: None).feed(words + b"\r\n")
    return found


def test_numbers_that_can_be_none_are_unknown(make: Callable[..., Talk]) -> None:
    state = status(response(b"* STATUS a (UIDVALIDITY 4294967296 UIDNEXT 4294967297 MESSAGES 1)"))[1]
    assert state is not None
    assert state.key() == (0, 0, 1, 0)
    state = opened(make(), b"A", b"* OK [UIDVALIDITY 1] x\r\n* OK [UIDNEXT 4294967297] x\r\n")[0]
    assert state.key() == (1, 0, 0, 0)


def long_set(count: int) -> bytes:
    return b",".join(b"%d" % uid for uid in range(4_000_000_000, 4_000_000_000 + 2 * count, 2))


@pytest.mark.parametrize("piece", [1 << 14, 1 << 18, 1 << 25])
@pytest.mark.parametrize(
    "head", [b'* ESEARCH (TAG "s2") UID ALL ', b"* VANISHED (EARLIER) ", b"* vanished ", b'* ESEARCH (TAG "s2") UID COUNT 9 ALL ']
)
def test_a_set_of_any_length_is_read_in_pieces(head: bytes, piece: int) -> None:
    count = 300_000
    data = head + long_set(count) + b"\r\n* 1 EXISTS\r\n"
    assert len(data) > 3 * LINE_BYTES
    reader = Reader(lambda *_: None)
    found = [each for at in range(0, len(data), piece) for each in reader.feed(data[at : at + piece])]
    assert found.pop().kind == b"EXISTS"
    assert len(found) > 3
    assert reader.is_between
    assert sets.merged(each for part in found for each in sets.parse(part.values[-1])) == sets.parse(long_set(count))
    assert {bytes(str([*part.values[:-1]]), "ascii") for part in found} == {bytes(str([*found[0].values[:-1]]), "ascii")}
    assert {part.kind for part in found} == {head.split()[1].upper()}
    assert len(data) - 5000 < reader.text_bytes < len(data) + 5000


def test_a_search_without_sets_of_any_length_is_read_in_pieces(make: Callable[..., Talk]) -> None:
    uids = range(4_000_000_000, 4_000_600_000, 2)
    data = b"* SEARCH " + b" ".join(b"%d" % uid for uid in uids) + b" (MODSEQ 7)\r\n"
    session, server = make()
    thread = threading.Thread(target=server.sendall, args=(data + b"s1 OK x\r\n",))
    thread.start()
    found = session.uids(300_000)
    thread.join()
    assert found == [(uid, uid) for uid in uids]
    assert said(server) == [b"s1 UID SEARCH ALL"]  # one command: between two of them messages may go, and others move up


@pytest.mark.parametrize(
    "words", [b"* OK ", b'* LIST () "/" ', b"* 1 FETCH (", b"* ESEARCH ", b"* VANISHED (EARLIER) 1:", b"* X 1,"]
)
def test_other_lines_have_their_limit(words: bytes) -> None:
    reader = Reader(lambda *_: None)
    reader.feed(words)

    def go_on() -> None:
        for _ in range(2 * LINE_BYTES >> 14):
            reader.feed(b"1" * (1 << 14))

    with pytest.raises(WireError, match="longer than"):
        go_on()


def test_a_server_that_names_far_more_than_it_counts_costs_no_memory(make: Callable[..., Talk]) -> None:
    session, server = make("ESEARCH")
    thread = threading.Thread(
        target=server.sendall, args=(b'* ESEARCH (TAG "s1") UID ALL %s\r\ns1 OK x\r\n' % long_set(1_500_000),)
    )
    thread.start()
    tracemalloc.start()
    try:
        found = session.uids(5)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    thread.join()
    assert sets.count(found) > 2 * 5 + 1000
    assert peak < 20 << 20


@pytest.mark.parametrize("named", [b"x", b"0", b"1,,2", b"4294967296", b"1:5000000000"])
def test_a_set_that_is_none_is_trouble_of_the_folder_and_no_loss_of_the_connection(
    make: Callable[..., Talk], named: bytes
) -> None:
    session, server = make("ESEARCH")
    answers(server, b'* ESEARCH (TAG "s1") UID ALL %s\r\nTAG OK x\r\n' % named, b"* VANISHED %s\r\nTAG OK x\r\n" % named)
    with pytest.raises(Declined, match="none of UIDs"):
        session.uids(5)
    session.synchronise()
    assert session.news


def changes(session: Session, messages: int, uids: Iterable[int]) -> bytes:
    head = OPENED % (messages, 8)
    return head + b"".join(b"* %d FETCH (UID %d FLAGS (\\Seen) MODSEQ (9))\r\n" % (uid, uid) for uid in uids)


def test_more_changes_than_can_be_kept_are_asked_for_in_parts_the_last_first(
    make: Callable[..., Talk], monkeypatch: pytest.MonkeyPatch
) -> None:
    for where, name, value in ((hearing, "MOST_TOLD", 3), (module, "MOST_TOLD", 3), (module, "FLAGS_AT_ONCE", 4)):
        monkeypatch.setattr(where, name, value)
    talk = make(*MODERN)
    session, server = talk
    assert [each.uid for each in opened(talk, b"A", changes(session, 10, range(1, 4)), known=(8, 3))[1]] == [1, 2, 3]
    said(server)
    state, changed, gone = opened(talk, b"A", changes(session, 10, range(1, 10)), b"* VANISHED (EARLIER) 99\r\n", known=(8, 3))
    assert (state.messages, gone) == (10, [(99, 99)])
    assert session._examined == []
    said(server)
    replies = (
        b"* 9 FETCH (UID 9 FLAGS (a) MODSEQ (9))\r\nTAG OK x\r\n* 2 EXPUNGE\r\n",
        b"* 4 FETCH (UID 5 FLAGS (b))\r\nTAG OK x\r\n",
        b"* 1 FETCH (UID 1 FLAGS ())\r\nTAG OK x\r\n",
    )
    heard = answers(server, *replies, *replies)
    for _ in range(2):  # each time that they are gone through
        assert [(each.uid, each.flags) for each in changed] == [(9, (b"a",)), (5, (b"b",)), (1, ())]
    assert [line.partition(b" ")[2] for line in heard] == [
        b"FETCH 7:10 (UID FLAGS) (CHANGEDSINCE 3)",
        b"FETCH 3:6 (UID FLAGS) (CHANGEDSINCE 3)",
        b"FETCH 1:2 (UID FLAGS) (CHANGEDSINCE 3)",
        b"FETCH 6:9 (UID FLAGS) (CHANGEDSINCE 3)",
        b"FETCH 2:5 (UID FLAGS) (CHANGEDSINCE 3)",
        b"FETCH 1:1 (UID FLAGS) (CHANGEDSINCE 3)",
    ]


def test_an_opening_that_tells_of_a_million_changes_is_read_to_its_end(make: Callable[..., Talk]) -> None:
    talk = make(*MODERN)
    session, server = talk
    line = b"* 1234567 FETCH (UID 1234567 FLAGS (%s) MODSEQ (1234567))\r\n" % (b"k" * 90_000)
    data = (OPENED % (1_000_000, 8), *([line * 10] * 80), b"s1 OK x\r\n")
    assert sum(map(len, data)) > 64 << 20

    def speak() -> None:
        for each in data:
            server.sendall(each)

    thread = threading.Thread(target=speak)
    thread.start()
    assert session.examine(b"A", (8, 3))[0].messages == 1_000_000
    thread.join()


def test_folders_whose_lines_can_not_be_read_are_counted(make: Callable[..., Talk]) -> None:
    session, server = make()
    answers(
        server,
        b'* LIST () "/" a[b\r\n* LIST () "/" a]b\r\n* LIST () "/" a\r\n* LIST () "/" "c" ("CHILDINFO" ("SUBSCRIBED"))\r\n'
        b'* LIST () "/" d e\r\n* LIST () "/" f(g)\r\n* LIST () "/" h "i" j\r\n* LIST () "/" "open\r\n* LIST () "/"\r\n'
        b'* LIST () "/" ""\r\n* LSUB () "/" x y\r\n* X ((\r\nTAG OK x\r\n',
        b'* LIST () "/" a\r\nTAG OK x\r\n',
    )
    assert [each.name for each in session.folders(100)] == [b"a[b", b"a]b", b"a", b"c"]
    assert session.unread_folders == 5
    assert [each.name for each in session.folders(100)] == [b"a"]
    assert session.unread_folders == 0


def test_brackets_in_keywords_are_signs_like_others() -> None:
    found = response(b"* 1 FETCH (FLAGS (a[b c]d [ ] x) BODY[HEADER.FIELDS (TO CC)] NIL BINARY.SIZE[1 2] 3 BODY[]<0> x)")
    assert found.values == [
        [b"FLAGS", [b"a[b", b"c]d", b"[", b"]", b"x"], b"BODY[HEADER.FIELDS (TO CC)]", None, b"BINARY.SIZE[1 2]", b"3",
         b"BODY[]<0>", b"x"]
    ]  # fmt: skip
    assert listed(response(b'* LIST () "/" body[b')).name == b"body[b"  # type: ignore[union-attr]


@pytest.mark.parametrize("piece", [b"BODY[", b"BODY[ ", b"body[(", b"BODY[a] ", b"BINARY.", b"BODY[]"], ids=repr)
def test_hostile_sections_take_no_time(piece: bytes) -> None:
    data = b"* X " + piece * (900_000 // len(piece)) + b"\r\n"
    started = time.process_time()
    assert len(Reader(lambda *_: None).feed(data)) == 1
    assert time.process_time() - started < 3.0


class Server(Session):
    """A folder of a server for a proof: what it counts, and what it names at each look; its flags and dates."""

    def __init__(self, counts: int, names: list[sets.Ranges], date: bytes | None = None) -> None:
        super().__init__()
        self.counts, self.names, self.date = counts, names, date
        self.noops = 0

    def can(self, name: str) -> bool:
        return False

    def examine(self, name: bytes, known: tuple[int, int] | None) -> Any:
        self.now.epoch, self.now.messages = 7, self.counts
        return self.now, [], []

    def uids(self, messages: int, ranges: bytes = b"") -> sets.Ranges:
        return self.names.pop(0) if len(self.names) > 1 else self.names[0]

    def synchronise(self) -> None:
        self.noops += 1
        self.now.messages = self.counts


def proof_of(session: Session, tmp_path: Any) -> Report:
    return prove(session, None, Place(b"A", str(tmp_path), 0), content=False, running=False)


@pytest.mark.parametrize("names", [[], [(1, 2)], [(1, 5000)]])
def test_what_the_server_counts_and_does_not_name_is_not_proved(tmp_path: Any, names: sets.Ranges) -> None:
    report = proof_of(Server(3, [names]), tmp_path)
    assert report.count() == 1
    assert f"it counts 3 messages and names {sets.count(names)}, so nothing is proved" in report.told()
    assert "all here" not in report.told()


def test_mail_that_comes_while_it_is_proved_is_no_contradiction(tmp_path: Any) -> None:
    session = Server(0, [[], []])
    assert proof_of(session, tmp_path).told() == "0 messages, all here"
    assert session.noops == 0


def test_a_lost_connection_stays_one(make: Callable[..., Talk]) -> None:
    session, server = make("ESEARCH")
    with closing(server):
        pass
    with pytest.raises(Lost):
        session.uids(5)
    assert cast("Any", session).has_news() is False
