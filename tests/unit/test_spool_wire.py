"""The wire: replies in any cut of bytes, what is no reply, and time."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.unit.spool_fakes import run
from workers.spool.wire import MOST_REPLY_BYTES, Wire


class Line(asyncio.Transport):
    """Keeps what is written, and tells of the end as a socket's transport does: in the next turn of the loop."""

    def __init__(self) -> None:
        super().__init__()
        self.aborted = False
        self.written = b""
        self.wire = Wire(self)

    def write(self, data: bytes | bytearray | memoryview) -> None:
        self.written += data

    def abort(self) -> None:
        self.aborted = True
        asyncio.get_running_loop().call_soon(self.wire.connection_lost, None)

    def is_closing(self) -> bool:
        return self.aborted


def on_a_line(work: Callable[[Line, Wire], Coroutine[Any, Any, None]]) -> None:
    async def whole() -> None:
        line = Line()
        await work(line, line.wire)

    run(whole())


def heard(*pieces: bytes, count: int = 1) -> tuple[list[tuple[int, str]], str | None]:
    """What `count` replies are when the pieces come one after another, and why the wire is lost."""
    found: list[tuple[int, str]] = []
    lost: list[str | None] = []

    async def work(line: Line, wire: Wire) -> None:
        waiting = asyncio.get_running_loop().create_task(wire.replies(count, 10.0))
        for piece in pieces:
            await asyncio.sleep(0.001)
            if wire.lost is None:
                wire.data_received(piece)
        await asyncio.sleep(0.001)
        wire.expire(1000.0)
        found.extend(await waiting)
        lost.append(wire.lost)

    on_a_line(work)
    return found, lost[0]


TEXTS = st.text(st.characters(codec="utf-8", exclude_characters="\r\n", exclude_categories=["C", "Z"]), max_size=20)
REPLIES = st.lists(st.tuples(st.integers(200, 559), st.lists(TEXTS, min_size=1, max_size=4)), min_size=1, max_size=5)


@settings(max_examples=150, deadline=None)
@given(REPLIES, st.sampled_from([b"\r\n", b"\n"]), st.data())
def test_replies_are_the_same_in_any_cut_of_bytes(replies: list[tuple[int, list[str]]], end: bytes, data: st.DataObject) -> None:
    text = b""
    for code, lines in replies:
        for line in lines[:-1]:
            text += f"{code}-{line}".encode() + end
        text += f"{code} {lines[-1]}".encode() + end
    cuts = sorted(data.draw(st.lists(st.integers(0, len(text)), max_size=12)))
    pieces = [text[start:stop] for start, stop in zip([0, *cuts], [*cuts, len(text)], strict=True)]
    found, lost = heard(*pieces, count=len(replies))
    assert found == [(code, " ".join(lines)) for code, lines in replies]
    assert lost is None


@pytest.mark.parametrize(
    ("text", "reply"),
    [
        (b"250 2.0.0 Ok\r\n", (250, "2.0.0 Ok")),
        (b"250\r\n", (250, "")),
        (b"250\n", (250, "")),
        (b"250-a\r\n250-b\r\n250 c\r\n", (250, "a b c")),
        (b"250-a\r\n250\r\n", (250, "a ")),
        (b"550 \xff\xe4\r\n", (550, "\ufffd\ufffd")),
        (b"550 no such user \xc3\xa4\r\n", (550, "no such user ä")),
    ],
)
def test_a_reply_has_a_code_and_words(text: bytes, reply: tuple[int, str]) -> None:
    assert heard(text) == ([reply], None)


@pytest.mark.parametrize(
    "text", [b"\r\n", b"hello\r\n", b"25 ok\r\n", b"2500 ok\r\n", b"250:ok\r\n", b"\xb2\xb5\xb0 ok\r\n", b"HTTP/1.1 400 x\r\n"]
)
def test_what_is_no_reply_ends_the_connection_and_is_quoted(text: bytes) -> None:
    found, lost = heard(text)
    assert found == []
    assert lost is not None
    assert "not an SMTP reply" in lost
    assert lost.isprintable()


def test_what_was_answered_before_the_nonsense_counts() -> None:
    found, lost = heard(b"250 ok\r\n550 no\r\nnonsense\r\n250 ok\r\n", count=4)
    assert found == [(250, "ok"), (550, "no")]
    assert lost is not None


@pytest.mark.parametrize("piece", [b"x" * 1000, b"250-x\r\n" * 200], ids=["a line", "a reply"])
def test_neither_a_line_nor_a_reply_is_endless(piece: bytes) -> None:
    taken = 0

    async def work(line: Line, wire: Wire) -> None:
        nonlocal taken
        while wire.lost is None:
            wire.data_received(piece if taken else b"250-" + piece if b"\n" not in piece else piece)
            taken += len(piece)
            assert taken < 3 * MOST_REPLY_BYTES
        assert wire.lost == f"a reply of more than {MOST_REPLY_BYTES} bytes"

    on_a_line(work)
    assert taken >= MOST_REPLY_BYTES - len(piece)


def test_many_replies_are_no_long_reply() -> None:
    found, lost = heard(b"250 " + b"x" * 500 + b"\r\n", *[b"250 y\r\n" * 1000] * 20, count=20001)
    assert (len(found), lost) == (20001, None)


def test_a_lost_connection_gives_what_was_there() -> None:
    async def work(line: Line, wire: Wire) -> None:
        loop = asyncio.get_running_loop()
        loop.call_later(1.0, wire.data_received, b"250 one\r\n250 two\r\n25")
        loop.call_later(2.0, wire.connection_lost, ConnectionResetError("reset by peer"))
        assert await wire.replies(4, 10.0) == [(250, "one"), (250, "two")]
        assert wire.lost == "reset by peer"
        assert await wire.replies(1, 10.0) == []
        wire.write(b"QUIT\r\n")
        assert line.written == b""

    on_a_line(work)


def test_an_end_without_an_error_has_words_too() -> None:
    async def work(line: Line, wire: Wire) -> None:
        asyncio.get_running_loop().call_later(1.0, wire.connection_lost, None)
        assert await wire.replies(1, 10.0) == []
        assert wire.lost == "the connection was closed"

    on_a_line(work)


def test_replies_that_are_there_need_no_waiting_even_behind_the_end() -> None:
    async def work(line: Line, wire: Wire) -> None:
        wire.data_received(b"250 a\r\n354 b\r\n")
        wire.connection_lost(None)
        assert await wire.replies(1, 10.0) == [(250, "a")]
        assert await wire.replies(3, 10.0) == [(354, "b")]

    on_a_line(work)


@pytest.mark.parametrize("unasked", [b"421 bye\r\n", b"421-by", b"4"])
def test_words_that_nobody_asked_for_make_it_stale(unasked: bytes) -> None:
    async def work(line: Line, wire: Wire) -> None:
        assert not wire.is_stale()
        wire.data_received(b"250 ok\r\n")
        await wire.replies(1, 10.0)
        assert not wire.is_stale()
        wire.data_received(unasked)
        assert wire.is_stale()

    on_a_line(work)


def test_half_of_a_longer_reply_makes_it_stale_too() -> None:
    async def work(line: Line, wire: Wire) -> None:
        wire.data_received(b"421-the service\r\n")
        assert wire.is_stale()

    on_a_line(work)


# Time.


async def ticking(wire: Wire) -> None:
    while wire.lost is None:
        await asyncio.sleep(1.0)
        wire.expire(asyncio.get_running_loop().time())


def test_each_reply_has_its_own_time() -> None:
    async def work(line: Line, wire: Wire) -> None:
        loop = asyncio.get_running_loop()
        ticks = loop.create_task(ticking(wire))
        for at in (8.0, 16.0, 24.0):
            loop.call_later(at, wire.data_received, b"250 ok\r\n")
        assert len(await wire.replies(4, 10.0)) == 3
        assert 34.0 <= loop.time() <= 36.0
        assert wire.lost == "no answer within 10 s"
        await ticks

    on_a_line(work)


def test_half_a_reply_gives_no_more_time() -> None:
    async def work(line: Line, wire: Wire) -> None:
        loop = asyncio.get_running_loop()
        ticks = loop.create_task(ticking(wire))
        for at in range(1, 20):
            loop.call_later(at, wire.data_received, b"250-drip\r\n")
        assert await wire.replies(1, 10.0) == []
        assert loop.time() <= 12.0
        await ticks

    on_a_line(work)


def test_no_time_runs_while_nothing_is_waited_for() -> None:
    async def work(line: Line, wire: Wire) -> None:
        wire.expire(1e9)
        wire.data_received(b"250 ok\r\n")
        await wire.replies(1, 10.0)
        wire.expire(1e9)
        assert wire.lost is None

    on_a_line(work)


def test_draining_waits_until_there_is_room_and_no_longer_than_allowed() -> None:
    async def work(line: Line, wire: Wire) -> None:
        loop = asyncio.get_running_loop()
        ticks = loop.create_task(ticking(wire))
        await wire.drain(10.0)
        wire.pause_writing()
        loop.call_later(5.0, wire.resume_writing)
        await wire.drain(10.0)
        assert 5.0 <= loop.time() < 5.1
        assert wire.lost is None
        wire.pause_writing()
        await wire.drain(10.0)
        assert 15.0 <= loop.time() <= 17.0
        assert wire.lost == "no answer within 10 s"
        await ticks

    on_a_line(work)


def test_a_reply_while_draining_is_kept_and_room_while_waiting_for_replies_is_no_reply() -> None:
    async def work(line: Line, wire: Wire) -> None:
        loop = asyncio.get_running_loop()
        wire.pause_writing()
        loop.call_later(1.0, wire.data_received, b"552 too big\r\n")
        loop.call_later(2.0, wire.resume_writing)
        await wire.drain(10.0)
        assert loop.time() >= 2.0
        wire.pause_writing()
        loop.call_later(1.0, wire.resume_writing)
        loop.call_later(2.0, wire.data_received, b"421 bye\r\n")
        assert await wire.replies(2, 10.0) == [(552, "too big"), (421, "bye")]

    on_a_line(work)


def test_the_first_reason_for_an_end_is_kept() -> None:
    async def work(line: Line, wire: Wire) -> None:
        wire.fail("cut")
        wire.fail("later")
        wire.connection_lost(OSError("last"))
        assert wire.lost == "cut"
        assert wire.is_stale()

    on_a_line(work)
