"""Responses of good, odd, broken and hostile servers, in pieces of every size; and sets of UIDs."""

from __future__ import annotations

import time
import tracemalloc
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from workers.imap import sets
from workers.imap.wire import HELD_BYTES, MOST_DEPTH, Literal, Reader, Response, WireError, literal_size, number, pairs, quoted

GREETING = b"* OK [CAPABILITY IMAP4rev1 SASL-IR LOGIN-REFERRALS ID ENABLE IDLE LITERAL+ AUTH=PLAIN] Dovecot (Debian) ready.\r\n"
DOVECOT = (
    GREETING + b"* FLAGS (\\Answered \\Flagged \\Deleted \\Seen \\Draft $Forwarded)\r\n"
    b"* OK [PERMANENTFLAGS ()] Read-only mailbox.\r\n"
    b"* 5000 EXISTS\r\n* 0 RECENT\r\n"
    b"* OK [UIDVALIDITY 1700000000] UIDs valid\r\n* OK [UIDNEXT 5001] Predicted next UID\r\n"
    b"* OK [HIGHESTMODSEQ 18446744073709551615] Highest\r\n"
    b"* VANISHED (EARLIER) 41,43:116,118\r\n"
    b"s2 OK [READ-ONLY] Examine completed (0.001 + 0.000 secs).\r\n"
    b'* LIST (\\HasNoChildren \\Sent) "/" Sent\r\n* LIST (\\HasChildren) "/" "a \\"b\\" \\\\c"\r\n* LIST () NIL "{5}"\r\n'
    b'* LIST () "/" {7}\r\nfo"o{5}\r\n'
    b'* STATUS "INBOX" (MESSAGES 3 UIDNEXT 9 UIDVALIDITY 1 HIGHESTMODSEQ 7)\r\n'
    b'* ESEARCH (TAG "s3") UID ALL 1:3,5 COUNT 4\r\n'
    b'* 1 FETCH (UID 7 FLAGS (\\Seen kw) INTERNALDATE "17-Jul-1996 02:44:25 -0700" RFC822.SIZE 12 MODSEQ (65) '
    b"BODY[] {12}\r\nab\0c\r\n\r\n(){3})\r\n"
    b"* 2 FETCH (UID 8 BODY[] NIL)\r\n"
    b"s4 OK [EXPUNGEISSUED] Some messages were already expunged.\r\n"
)
GMAIL = (
    b'* 1 FETCH (X-GM-MSGID 1278455344230334865 X-GM-LABELS (\\Inbox "a b" {3}\r\n&A) ) UID 4 BODY[] {0}\r\n)\r\n'
    b'* 2 FETCH (UID 5 BODY[] "" FLAGS ())\r\n'
    b"s5 NO [OVERQUOTA] Account exceeded command or bandwidth limits. (Failure)\r\n"
    b"* BYE Session expired, please login again. {3}\r\n"
)
EXCHANGE = (
    b"* OK The Microsoft Exchange IMAP4 service is ready. [RABCADIANABSAEMA]\r\n"
    b"* 3 FETCH (RFC822.SIZE 99 UID 12 BODY[]<0> {5+}\r\nhello FLAGS (\\Seen))\r\n"
    b"* 4 FETCH (BINARY[1.2] ~{4}\r\n\0\r\n\xff UID 13)\r\n"
    b"s6 BAD Request is throttled. Suggested Backoff Time: 299961 milliseconds\r\n"
    b"+\r\n+ \r\n+ idling {9}\r\n"
)
BROKEN = (
    b'* LIST (\\NoSelect) "\\\\" "unclosed {3}\r\n'
    b"* 5 FETCH (UID 1\r\n* 6 FETCH UID 1))\r\n"
    b"\r\n*\r\n* \r\nhello\r\n\0\0\r\n* NO\r\ns7\r\ns8 WHAT {3\r\n"
    b"* OK [UNCLOSED text\n* ok [alert] Lower Case And Bare LF\n"
    b"* SEARCH 1 2 3 \r\n* SEARCH\r\n* search 5\r\n"
    b"* 99999999999 EXISTS\r\n"
)
ALL = DOVECOT + GMAIL + EXCHANGE + BROKEN


class Sink:
    """Streams literals that FETCH brings, all others are held."""

    def __init__(self, *, held: bool = False) -> None:
        self.held = held
        self.asked: list[tuple[bytes, int]] = []
        self.took: list[bytearray] = []

    def open(self, head: bytes, size_bytes: int) -> Any:
        self.asked.append((head, size_bytes))
        if self.held or b"FETCH" not in head.upper():
            return None
        taken = bytearray()
        self.took.append(taken)
        return taken.extend


def told(value: Any) -> Any:
    if isinstance(value, list):
        return [told(each) for each in value]
    return ("literal", value.size_bytes) if isinstance(value, Literal) else value


def facts(response: Response) -> tuple[Any, ...]:
    return response.tag, response.kind, response.number, told(response.values), told(response.code), response.text


def read(*pieces: bytes, held: bool = False) -> tuple[list[tuple[Any, ...]], list[bytes]]:
    sink = Sink(held=held)
    reader = Reader(sink.open)
    found = [facts(response) for piece in pieces for response in reader.feed(piece)]
    return found, [bytes(each) for each in sink.took]


def one(data: bytes, *, held: bool = True) -> Response:
    (response,) = Reader(Sink(held=held).open).feed(data)
    return response


def test_the_words_of_dovecot() -> None:
    found, took = read(DOVECOT)
    assert [each[1] for each in found] == (
        b"OK FLAGS OK EXISTS RECENT OK OK OK VANISHED OK LIST LIST LIST LIST STATUS ESEARCH FETCH FETCH OK".split()
    )
    assert found[0][4][:3] == [b"CAPABILITY", b"IMAP4rev1", b"SASL-IR"]
    assert found[0][5] == b"Dovecot (Debian) ready."
    assert found[1][3] == [[b"\\Answered", b"\\Flagged", b"\\Deleted", b"\\Seen", b"\\Draft", b"$Forwarded"]]
    assert found[2][4] == [b"PERMANENTFLAGS", []]
    assert found[3][2] == 5000
    assert found[7][4] == [b"HIGHESTMODSEQ", b"18446744073709551615"]
    assert found[8][3] == [[b"EARLIER"], b"41,43:116,118"]
    assert found[9][0] == b"s2"
    assert [each[3] for each in found[10:14]] == [
        [[b"\\HasNoChildren", b"\\Sent"], b"/", b"Sent"],
        [[b"\\HasChildren"], b"/", b'a "b" \\c'],
        [[], None, b"{5}"],
        [[], b"/", b'fo"o{5}'],
    ]
    assert found[15][3] == [[b"TAG", b"s3"], b"UID", b"ALL", b"1:3,5", b"COUNT", b"4"]
    message = pairs(found[16][3][0])
    assert message[b"BODY[]"] == ("literal", 12)
    assert message[b"FLAGS"] == [b"\\Seen", b"kw"]
    assert (message[b"UID"], message[b"MODSEQ"], message[b"INTERNALDATE"]) == (b"7", [b"65"], b"17-Jul-1996 02:44:25 -0700")
    assert took == [b"ab\0c\r\n\r\n(){3}"[:12]]
    assert pairs(found[17][3][0]) == {b"UID": b"8", b"BODY[]": None}
    assert (found[18][4], found[18][5]) == ([b"EXPUNGEISSUED"], b"Some messages were already expunged.")


def test_the_words_of_gmail() -> None:
    found, took = read(GMAIL, held=True)
    first = pairs(found[0][3][0])
    assert first[b"X-GM-LABELS"] == [b"\\Inbox", b"a b", b"&A)"]
    assert first[b"BODY[]"] == b""
    assert pairs(found[1][3][0]) == {b"UID": b"5", b"BODY[]": b"", b"FLAGS": []}
    assert found[2][:2] == (b"s5", b"NO")
    assert found[3][5].endswith(b"again. {3}")
    assert took == []


def test_the_words_of_exchange() -> None:
    found, took = read(EXCHANGE)
    assert found[0][4] == []
    assert found[0][5].endswith(b"[RABCADIANABSAEMA]")
    assert pairs(found[1][3][0]) == {b"RFC822.SIZE": b"99", b"UID": b"12", b"BODY[]<0>": ("literal", 5), b"FLAGS": [b"\\Seen"]}
    assert pairs(found[2][3][0]) == {b"BINARY[1.2]": ("literal", 4), b"UID": b"13"}
    assert took == [b"hello", b"\0\r\n\xff"]
    assert b"299961 milliseconds" in found[3][5]
    assert [each[5] for each in found[4:]] == [b"", b"", b"idling {9}"]


def test_broken_words_are_left_to_the_caller_and_the_next_ones_are_read() -> None:
    found, _ = read(BROKEN)
    assert [each[1] for each in found] == [
        b"", b"", b"", b"", b"", b"", b"", b"", b"NO", b"", b"", b"OK", b"OK", b"SEARCH", b"SEARCH", b"SEARCH", b"99999999999",
    ]  # fmt: skip
    assert found[11][4] == []
    assert found[12][4] == [b"ALERT"]
    assert [each[3] for each in found[13:16]] == [[b"1", b"2", b"3"], [], [b"5"]]


def test_every_split_in_two_reads_the_same() -> None:
    whole = read(ALL)
    for at in range(len(ALL) + 1):
        assert read(ALL[:at], ALL[at:]) == whole, at


@pytest.mark.parametrize("size", [1, 2, 3, 5, 7, 11, 64])
@pytest.mark.parametrize("held", [True, False])
def test_pieces_of_every_size_read_the_same(size: int, held: bool) -> None:
    assert read(*(ALL[at : at + size] for at in range(0, len(ALL), size)), held=held) == read(ALL, held=held)


def test_the_buffer_may_be_used_again_and_only_its_first_bytes_count() -> None:
    sink = Sink()
    reader = Reader(sink.open)
    buffer = bytearray(32)
    found: list[tuple[Any, ...]] = []
    for at in range(0, len(ALL), 20):
        piece = ALL[at : at + 20]
        buffer[:] = piece + b"\n" * (32 - len(piece))
        found += [facts(response) for response in reader.feed(buffer, len(piece))]
        buffer.extend(b"x")  # no view of it may be left
        del buffer[32:]
    assert found == read(ALL)[0]
    assert [bytes(each) for each in sink.took] == read(ALL)[1]


def test_between_responses_nothing_is_in_hand() -> None:
    reader = Reader(Sink().open)
    data = b"* 1 FETCH (BODY[] {3}\r\nabc X {0}\r\n)\r\n"
    for at in range(len(data)):
        assert reader.is_between is (at == 0), at
        reader.feed(data[at : at + 1])
    assert reader.is_between


def test_who_opens_a_literal_knows_what_stands_before_it() -> None:
    sink = Sink()
    Reader(sink.open).feed(b"* 9 FETCH (UID 4 BODY[] {2}\r\nab BINARY[2] ~{1}\r\nc BODY[3]{0}\r\n)\r\n")
    assert [size for _, size in sink.asked] == [2, 1, 0]
    assert sink.asked[0][0] == b"* 9 FETCH (UID 4 BODY[] "
    assert all(head.startswith(b"* 9 FETCH (UID 4 BODY[] ") for head, _ in sink.asked)
    assert sink.asked[1][0].endswith(b" BINARY[2] ")
    assert sink.asked[2][0].endswith(b" BODY[3]")


def test_a_streamed_literal_gives_back_what_took_it() -> None:
    taken = bytearray()
    write = taken.extend
    (response,) = Reader(lambda head, size: write).feed(b"* 1 FETCH (BODY[] {3}\r\nabc)\r\n")
    literal = pairs(response.values[0])[b"BODY[]"]
    assert isinstance(literal, Literal)
    assert (literal.write, literal.size_bytes, bytes(taken)) == (write, 3, b"abc")


def test_an_empty_literal_is_opened_and_is_no_nil() -> None:
    sink = Sink()
    (response,) = Reader(sink.open).feed(b"* 1 FETCH (BODY[] {0}\r\n UID 4)\r\n")
    assert told(pairs(response.values[0])) == {b"BODY[]": pairs(response.values[0])[b"BODY[]"], b"UID": b"4"}
    assert isinstance(pairs(response.values[0])[b"BODY[]"], Literal)
    assert sink.took == [bytearray()]
    assert pairs(one(b"* 1 FETCH (BODY[] {0}\r\n UID 4)\r\n").values[0]) == {b"BODY[]": b"", b"UID": b"4"}


@pytest.mark.parametrize(
    ("said", "value"),
    [
        (b"NIL", None),
        (b"nil", None),
        (b'"NIL"', b"NIL"),
        (b"{3}\r\nNIL", b"NIL"),
        (b"NILS", b"NILS"),
        (b'""', b""),
        (b"BODY[HEADER.FIELDS (DATE FROM)]", b"BODY[HEADER.FIELDS (DATE FROM)]"),
        (b'BODY[HEADER.FIELDS ("DATE")]<0>', b'BODY[HEADER.FIELDS ("DATE")]<0>'),
        (b"BODY[]", b"BODY[]"),
        (b"a[b", b"a[b"),
        (b'"a{3}"', b"a{3}"),
        (b'"\\"\\\\"', b'"\\'),
        (b'"\0\xff"', b"\0\xff"),
        (b"a\0b", b"a\0b"),
        (b"\\*", b"\\*"),
    ],
)
def test_values(said: bytes, value: bytes | None) -> None:
    assert one(b"* X " + said + b"\r\n").values[0] == value


@pytest.mark.parametrize(
    ("line", "size"),
    [
        (b"{5}", 5),
        (b"x {0}", 0),
        (b"x {007}", 7),
        (b"x {5+}", 5),
        (b'"a" {5}', 5),
        (b'"a\\"" {5}', 5),
        (b'"a\\\\" {5}', 5),
        (b'"a {5}', None),
        (b'"a\\" {5}', None),
        (b"x {}", None),
        (b"x {+}", None),
        (b"x {-1}", None),
        (b"x {1e3}", None),
        (b"x {5 }", None),
        (b"x 5}", None),
        (b"}", None),
        (b"x {\xb2}", None),
    ],
)
def test_sizes_of_literals(line: bytes, size: int | None) -> None:
    assert literal_size(line) == size


def test_a_literal_of_no_believable_size_is_refused() -> None:
    with pytest.raises(WireError):
        literal_size(b"x {" + b"9" * 5000 + b"}")


def test_text_for_people_is_no_literal() -> None:
    for line in (b"* OK see {3}", b"* bye {3}", b"s1 NO {3}", b"s1 ok [X] {3}", b"+ {3}", b"* PREAUTH {3}"):
        (first, second) = Reader(Sink(held=True).open).feed(line + b"\r\n* 1 EXISTS\r\n")
        assert first.text.endswith(b"{3}")
        assert second.kind == b"EXISTS"


def test_a_literal_that_nobody_streams_is_held_up_to_a_limit() -> None:
    name = b"x" * HELD_BYTES
    assert one(b"* LIST () NIL {%d}\r\n%s\r\n" % (len(name), name)).values[2] == name
    with pytest.raises(WireError, match="literal"):
        one(b"* LIST () NIL {%d}\r\n" % (HELD_BYTES + 1))


@pytest.mark.parametrize(
    "piece",
    [b"x" * 50, b"(" * 50, b"x {0}\r\n", b"x {20}\r\n" + b"y" * 20, b'"' * 50],
)
def test_a_response_without_end_is_refused(piece: bytes) -> None:
    reader = Reader(Sink(held=True).open, line_bytes=1000)
    reader.feed(b"* X ")

    def go_on() -> None:
        for _ in range(5000):
            reader.feed(piece)

    with pytest.raises(WireError):
        go_on()


def test_the_limit_is_one_of_each_response() -> None:
    reader = Reader(Sink().open, line_bytes=100)
    line = b"* 1 FETCH (BODY[] {500}\r\n" + b"x" * 500 + b")\r\n"
    assert len([each for _ in range(50) for each in reader.feed(line)]) == 50
    with pytest.raises(WireError, match="longer than 100"):
        reader.feed(b"* " + b"x" * 101 + b"\r\n")


def test_empty_literals_without_end_are_refused() -> None:
    with pytest.raises(WireError, match="too many literals"):
        Reader(Sink(held=True).open).feed(b"* X {0}\r\n" + b"{0}\r\n" * 5000)


def test_deep_parentheses_are_not_understood() -> None:
    good = b"(" * MOST_DEPTH + b")" * MOST_DEPTH
    assert one(b"* X " + good + b"\r\n").kind == b"X"
    for deep in (b"(" * 500 + b")" * 500, b"(" * 200_000, b")"):
        assert one(b"* X " + deep + b"\r\n").kind == b""


def test_a_large_message_passes_without_being_held() -> None:
    count = 0

    def take(part: memoryview) -> None:
        nonlocal count
        count += len(part)

    reader = Reader(lambda head, size: take)
    buffer = bytearray(b"x" * (1 << 18))
    tracemalloc.start()
    try:
        reader.feed(b"* 1 FETCH (BODY[] {67108864}\r\n")
        for _ in range(256):
            reader.feed(buffer)
        (response,) = reader.feed(b")\r\n")
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert count == 67108864
    assert response.kind == b"FETCH"
    assert peak < 1 << 18


@pytest.mark.parametrize(
    "body",
    [b'"' + b"a" * 1_000_000 + b'"', b"a" * 1_000_000, b'"' + b"a" * 1_000_000, b'"' + b"\\a" * 500_000 + b'"', b"[]" * 500_000],
    ids=["quoted", "atom", "unclosed", "escapes", "brackets"],
)
def test_one_long_word_takes_little_memory(body: bytes) -> None:
    reader = Reader(Sink(held=True).open)
    data = b"* X " + body + b"\r\n"
    tracemalloc.start()
    try:
        assert len(reader.feed(data)) == 1
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 40 << 20


@pytest.mark.parametrize("piece", [b"a[ ", b"[", b'"" ', b"() ", b"a[b] ", b"\\", b"[ ] "], ids=repr)
def test_hostile_words_take_no_time(piece: bytes) -> None:
    data = b"* X " + piece * (200_000 // len(piece)) + b"\r\n"
    started = time.process_time()
    assert len(Reader(Sink(held=True).open).feed(data)) == 1
    assert time.process_time() - started < 3.0


words = st.sampled_from(
    [b"* ", b"+ ", b"s1 ", b"OK ", b"FETCH ", b"1 ", b"(", b")", b'"', b"\\", b"[", b"]", b"{0}\r\n", b"{3}\r\n", b"{3}",
     b"~{1}\r\n", b"{99999999999999999999}\r\n", b"{70000}\r\n", b"NIL", b" ", b"\r\n", b"\n", b"\r", b"\0", b"\xff", b"a",
     b"BODY[]"]
)  # fmt: skip
streams = st.one_of(st.binary(max_size=80), st.lists(words, max_size=40).map(b"".join))


@given(streams, st.integers(1, 9), st.booleans())
@example(b"* 1 FETCH (BODY[] {3}\r\n", 1, True)
def test_no_bytes_raise_anything_else_and_splits_change_nothing(data: bytes, size: int, held: bool) -> None:
    def outcome(pieces: list[bytes]) -> tuple[list[tuple[Any, ...]], list[bytes], bool]:
        sink = Sink(held=held)
        reader = Reader(sink.open, line_bytes=200)
        found = []
        try:
            for piece in pieces:
                for response in reader.feed(piece):
                    found.append(facts(response))
                    assert response.kind == response.kind.upper()
        except WireError:
            return [], [], True
        return found, [bytes(each) for each in sink.took], False

    whole = outcome([data])
    assert outcome([data[at : at + size] for at in range(0, len(data), size)]) == whole


@given(st.lists(st.binary(max_size=300), max_size=8), st.integers(1, 50))
def test_literals_come_through_byte_for_byte(bodies: list[bytes], size: int) -> None:
    data = b"".join(b"* %d FETCH (UID %d BODY[] {%d}\r\n%s)\r\n" % (n, n, len(body), body) for n, body in enumerate(bodies, 1))
    found, took = read(*(data[at : at + size] for at in range(0, len(data), size)))
    assert took == bodies
    assert [each[2] for each in found] == list(range(1, len(bodies) + 1))
    held, _ = read(data, held=True)
    assert [pairs(each[3][0])[b"BODY[]"] for each in held] == bodies


@given(st.binary(max_size=30))
def test_a_quoted_word_is_read_back(word: bytes) -> None:
    said = quoted(word)
    if said is None:
        assert any(not 0x20 <= byte <= 0x7E for byte in word)
        return
    assert one(b"* X " + said + b"\r\n").values == [word]
    assert b"\r" not in said
    assert b"\n" not in said


@pytest.mark.parametrize(
    ("value", "meant"),
    [
        (b"0", 0),
        (b"18446744073709551615", None),
        (b"9223372036854775807", (1 << 63) - 1),
        (b"", None),
        (b"-1", None),
        (None, None),
        ([], None),
        (b"9" * 21, None),
    ],
)
def test_numbers(value: Any, meant: int | None) -> None:
    assert number(value) == meant


def test_pairs_take_what_is_named() -> None:
    assert pairs([b"uid", b"1", b"FLAGS", []]) == {b"UID": b"1", b"FLAGS": []}
    assert pairs([b"a", b"1", b"A", b"2", b"odd"]) == {b"A": b"2"}
    assert pairs([None, b"1", [], b"2"]) == {}


SMALL = st.frozensets(st.integers(1, 60))


@given(SMALL, SMALL)
def test_sets_are_sets(left: frozenset[int], right: frozenset[int]) -> None:
    a, b = sets.of(sorted(left)), sets.of(sorted(right))
    assert list(sets.numbers(a)) == sorted(left)
    assert list(sets.numbers(sets.minus(a, b))) == sorted(left - right)
    assert list(sets.numbers(sets.both(a, b))) == sorted(left & right)
    assert list(sets.numbers(sets.merged([*a, *b]))) == sorted(left | right)
    assert sets.count(a) == len(left)
    assert sets.parse(sets.text(a)) == a
    for found in (a, sets.minus(a, b), sets.both(a, b), sets.merged([*a, *b])):
        assert all(low <= high for low, high in found)
        assert all(one[1] + 1 < two[0] for one, two in pairwise(found))


@given(SMALL, st.integers(1, 70), st.integers(1, 60))
def test_a_set_is_taken_in_turns_and_nothing_is_lost(numbers: frozenset[int], most: int, most_bytes: int) -> None:
    rest = sets.of(sorted(numbers))
    seen: list[int] = []
    while rest:
        taken, rest = sets.take(rest, most, most_bytes)
        assert 0 < sets.count(taken) <= most
        assert len(sets.text(taken)) <= most_bytes or len(taken) == 1
        seen += sets.numbers(taken)
    assert seen == sorted(numbers)


@pytest.mark.parametrize(
    "text",
    [b"0", b"*", b"1:*", b"1,,2", b",", b"1:", b":1", b"1:2:3", b"-1", b"4294967296", b"9" * 5000, b"1 2", b"a", b"1,", b"\xb2"],
)
def test_what_is_no_set_of_uids_is_refused(text: bytes) -> None:
    with pytest.raises(ValueError, match="set of"):
        sets.parse(text)


def test_sets_in_any_order_and_of_any_size_are_read_without_being_counted_out() -> None:
    assert sets.parse(b"") == []
    assert sets.parse(b"9,5:3,4,1") == [(1, 1), (3, 5), (9, 9)]
    assert sets.parse(b"1:4294967295,7") == [(1, 4294967295)]
    assert sets.count(sets.parse(b"1:4294967295")) == 4294967295
    assert list(sets.numbers(sets.of([1, 1, 2, 2]))) == [1, 2]
