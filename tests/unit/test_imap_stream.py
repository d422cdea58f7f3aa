"""A stream that packs (RFC 4978), from both ends of a pair of sockets; and how long the addresses of a host may take."""

from __future__ import annotations

import random
import socket
import subprocess
import sys
import time
import tracemalloc
import zlib
from collections.abc import Callable, Iterable, Iterator
from contextlib import closing
from typing import Any, cast

import pytest

from workers.imap import stream
from workers.imap.connection import Connection
from workers.imap.download import Caution, Download
from workers.imap.limits import Limits
from workers.imap.session import Session
from workers.imap.stream import READ_BYTES, Stream, connect, share_s
from workers.imap.trouble import Declined, Lost, Trouble

EMPTY_BLOCK = b"\0\0\0\xff\xff"  # RFC 1951 3.2.4: what Z_SYNC_FLUSH writes, without a byte of content
LONG_S = 5.0
COMPRESSED_OK = b"s1 OK DEFLATE active\r\n"


class Server:
    """The other end: speaks plainly until told, packs as a server does, and knows what it was told."""

    def __init__(self, sock: socket.socket) -> None:
        self.sock = sock
        self._deflate = zlib.compressobj(9, zlib.DEFLATED, -15)
        self._inflate = zlib.decompressobj(-15)

    def packed(self, data: bytes) -> bytes:
        return self._deflate.compress(data) + self._deflate.flush(zlib.Z_SYNC_FLUSH)

    def ends(self, data: bytes) -> bytes:
        return self._deflate.compress(data) + self._deflate.flush(zlib.Z_FINISH)

    def says(self, *pieces: bytes) -> None:
        self.sock.sendall(b"".join(pieces))

    def heard(self) -> bytes:
        return self._inflate.decompress(self.sock.recv(READ_BYTES))


@pytest.fixture
def ends() -> Iterator[tuple[Stream, Server]]:
    """Our end, not packing yet, and the server's."""
    ours, theirs = socket.socketpair()
    theirs.settimeout(LONG_S)
    for each in (ours, theirs):
        each.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4 << 20)
    with closing(Stream(ours)) as made, theirs:
        yield made, Server(theirs)


def session_on(made: Stream) -> Session:
    session = Session()
    limits = Limits()
    limits.stall_s = LONG_S
    session.connection = Connection(made, limits, session.hear)
    session.connection.capabilities = frozenset((b"COMPRESS=DEFLATE", b"IDLE"))
    return session


def all_now(made: Stream, buffer: bytearray) -> bytes:
    """What comes without waiting, read as long as there is a reason to, as the hub does behind its selector."""
    got = bytearray()
    while True:
        try:
            size = made.read_into(buffer, 0.0)
        except BlockingIOError:
            return bytes(got)
        got += buffer[:size]
        if not size or not made.has_more:
            return bytes(got)


def test_both_ends_pack_and_many_small_writes_arrive_at_once_and_in_order() -> None:
    left, right = socket.socketpair()
    with closing(Stream(left)) as near, closing(Stream(right)) as far:
        for each in (near, far):
            each.start_deflate()
        buffer = bytearray(READ_BYTES)
        for number in range(500):
            for speaker, listener in ((near, far), (far, near)):
                said = b"s%d UID FETCH %d (UID FLAGS)\r\n" % (number, number)
                speaker.write(said, LONG_S)
                got = listener.read_into(buffer, LONG_S)
                assert bytes(buffer[:got]) == said  # each write is flushed: the server answers no half command
        assert (near.sent_bytes, far.sent_bytes) == (far.received_bytes, near.received_bytes)
        assert near.sent_bytes < 500 * 25


def test_large_content_of_every_kind_passes(ends: tuple[Stream, Server]) -> None:
    made, server = ends
    made.start_deflate()
    chance = random.Random(1)
    buffer, got, expected = bytearray(5000), bytearray(), bytearray()
    for _ in range(60):
        piece = chance.choice([chance.randbytes(9000), b"z" * 70_000, b"From: a@example.org\r\n" * 400])
        expected += piece
        server.says(server.packed(piece))
        while len(got) < len(expected):
            size = made.read_into(buffer, LONG_S)
            assert size
            got += buffer[:size]
    assert got == expected


def test_what_comes_in_the_same_read_behind_the_ok_is_unpacked(ends: tuple[Stream, Server]) -> None:
    made, server = ends
    session = session_on(made)
    server.says(b"* 3 EXISTS\r\n", COMPRESSED_OK, server.packed(b"* 4 EXISTS\r\n* 1 EXPUNGE\r\n"))
    session.compress()
    assert server.sock.recv(100) == b"s1 COMPRESS DEFLATE\r\n"
    assert session.now.messages == 3
    session.connection.read_now()
    assert session.now.messages == 3 + 1 - 1
    server.says(server.packed(b"s2 OK done\r\n"))
    session.synchronise()
    assert server.heard() == b"s2 NOOP\r\n"


def test_a_refusal_leaves_the_connection_as_it_was(ends: tuple[Stream, Server]) -> None:
    made, server = ends
    session = session_on(made)
    server.says(b"s1 NO [COMPRESSIONACTIVE] no\r\n* 9 EXISTS\r\ns2 OK done\r\n")
    session.compress()
    session.synchronise()
    assert server.sock.recv(100) == b"s1 COMPRESS DEFLATE\r\ns2 NOOP\r\n"
    assert session.now.messages == 9
    assert made.reads_ahead


def test_a_connection_that_was_just_packed_goes_to_rest_is_renewed_and_ends(ends: tuple[Stream, Server]) -> None:
    made, server = ends
    session = session_on(made)
    session.watching = "idle"
    server.says(COMPRESSED_OK)
    session.compress()
    server.sock.recv(100)
    session.start_rest()
    assert server.heard() == b"s2 IDLE\r\n"
    server.says(server.packed(b"+ idling\r\n* 5 EXISTS\r\n"))
    session.connection.read_now()
    assert session.has_news()
    session.renew()
    assert server.heard() == b"DONE\r\n"
    server.says(server.packed(b"s2 OK done\r\n"))
    session.connection.read_now()
    session.keep_resting()
    assert server.heard() == b"s3 IDLE\r\n"
    session.close(politely=True)
    assert server.heard() == b"s4 LOGOUT\r\n"


def test_a_read_without_a_plain_byte_is_no_end_and_no_wait(ends: tuple[Stream, Server]) -> None:
    made, server = ends
    made.start_deflate()
    buffer = bytearray(READ_BYTES)
    content = random.Random(1).randbytes(300)
    packed = server.packed(content)
    with pytest.raises(BlockingIOError):
        made.read_into(buffer, 0.0)
    server.says(packed[:3])
    with pytest.raises(BlockingIOError):
        made.read_into(buffer, 0.0)
    with pytest.raises(TimeoutError):
        made.read_into(buffer, 0.02)
    assert not made.has_more
    server.says(packed[3:])
    assert all_now(made, buffer) == content
    server.says(EMPTY_BLOCK)
    with pytest.raises(BlockingIOError):
        made.read_into(buffer, 0.0)


@pytest.mark.parametrize("packed", [False, True])
def test_the_end_of_the_connection_is_an_end(ends: tuple[Stream, Server], packed: bool) -> None:
    made, server = ends
    if packed:
        made.start_deflate()
        server.says(server.packed(b"half of it")[:5])
    server.sock.shutdown(socket.SHUT_WR)
    buffer = bytearray(100)
    while made.read_into(buffer, LONG_S):
        pass


@pytest.mark.parametrize("flush", [zlib.Z_SYNC_FLUSH, zlib.Z_PARTIAL_FLUSH, zlib.Z_FINISH])
def test_nothing_stays_behind_of_which_a_selector_knows_nothing(flush: int) -> None:
    """zlib may have taken all bytes and still hold content: a match of 258 bytes that the buffer has no room for."""
    content = b"* OK " + b"From me to you " * 2000 + b"\r\n"
    packer = zlib.compressobj(9, zlib.DEFLATED, -15)
    packed = packer.compress(content) + packer.flush(flush)
    for size in range(len(packed), 2000):
        ours, theirs = socket.socketpair()
        with closing(Stream(ours)) as made, theirs:
            made.start_deflate()
            theirs.sendall(packed)
            assert all_now(made, bytearray(size)) == content, size


def test_a_bomb_is_unpacked_piece_by_piece(ends: tuple[Stream, Server]) -> None:
    made, server = ends
    made.start_deflate()
    packed = server.packed(b"\0" * (128 << 20))
    assert len(packed) < READ_BYTES
    server.says(packed)
    buffer = bytearray(READ_BYTES)
    tracemalloc.start()
    try:
        left = 128 << 20
        while left:
            left -= made.read_into(buffer, LONG_S)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 4 * READ_BYTES


def test_empty_blocks_without_end_hold_nobody(ends: tuple[Stream, Server]) -> None:
    made, server = ends
    made.start_deflate()
    flood = EMPTY_BLOCK * 20_000
    server.says(flood)
    with pytest.raises(BlockingIOError):
        made.read_into(bytearray(1000), 0.0)  # the hub comes back for the rest
    assert made.received_bytes <= 1000
    with pytest.raises((BlockingIOError, TimeoutError)):
        made.read_into(bytearray(1), 0.005)  # nor does the limit of a wait begin anew with each of them
    assert made.received_bytes < len(flood)


def test_behind_the_end_of_what_is_packed_nothing_is_taken(ends: tuple[Stream, Server]) -> None:
    made, server = ends
    made.start_deflate()
    server.says(server.ends(b"* BYE\r\n"), b"x" * 100_000)
    buffer = bytearray(1000)
    assert made.read_into(buffer, LONG_S) == 7
    assert made.read_into(buffer, LONG_S) == made.read_into(buffer, 0.0) == 0
    assert made.received_bytes <= 1000


def test_what_is_not_packed_ends_the_connection(ends: tuple[Stream, Server]) -> None:
    made, server = ends
    made.start_deflate()
    server.says(b"* 5 EXISTS\r\n")
    with pytest.raises(Lost, match="can't be unpacked"):
        made.read_into(bytearray(1000), LONG_S)


def test_zlib_is_loaded_by_the_first_connection_that_packs() -> None:
    program = "import sys, workers.imap.download, workers.imap.session; sys.exit('zlib' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", program]).returncode == 0


class Refusing(Session):
    """Refuses the message that is asked for, and is lost when it is asked to pack."""

    def __init__(self) -> None:
        super().__init__()
        self.slow = False

    def can(self, name: str) -> bool:
        return False

    def wants_compression(self) -> bool:
        return self.slow

    def compress(self) -> None:
        raise Lost("COMPRESS DEFLATE: closed by the server")

    def facts(self, words: bytes) -> list[Any]:
        return []

    def messages(self, parts: Iterable[Any], *rest: Callable[..., Any]) -> None:
        next(iter(parts))
        self.slow = True
        raise Declined(b"NO", b"", "not this one")


def test_a_connection_lost_while_packing_starts_blames_no_message() -> None:
    caution = Caution()
    caution.size = 1
    nothing = cast("Any", None)
    download = Download(Refusing(), nothing, nothing, nothing, 1, caution, 1e9)
    with pytest.raises(Lost, match="COMPRESS"):
        download.run([(7, 9)], lambda: False)
    assert download.poison == []
    assert caution.blamed == {7: 1}
    assert download.left == [(7, 9)]


def test_the_time_is_dealt_out() -> None:
    assert share_s(30.0, 1) == 30.0
    assert share_s(30.0, 2) == 15.0
    assert share_s(30.0, 100) == stream.LEAST_TRY_S
    assert share_s(1.0, 100) == 1.0
    for count in range(1, 40):  # with all of them dead
        left = 30.0
        for index in range(count):
            left -= share_s(left, count - index)
        assert abs(left) < 1e-9


@pytest.fixture
def dead() -> Iterator[int]:
    """A port of loopback where nobody ever answers: its queue is full, so the kernel drops what comes."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen(0)
        waiting = []
        for _ in range(4):
            waiting.append(socket.socket())
            waiting[-1].setblocking(False)
            waiting[-1].connect_ex(listener.getsockname())
        yield listener.getsockname()[1]
        for each in waiting:
            each.close()


def resolves(monkeypatch: pytest.MonkeyPatch, *ports: int) -> None:
    """Any host has these addresses."""
    found = [(socket.AF_INET, socket.SOCK_STREAM, 6, "", ("127.0.0.1", port)) for port in ports]
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: found)


def test_a_host_whose_addresses_are_all_dead_costs_one_limit(monkeypatch: pytest.MonkeyPatch, dead: int) -> None:
    resolves(monkeypatch, *[dead] * 16)
    monkeypatch.setattr(stream, "LEAST_TRY_S", 0.05)
    started = time.monotonic()
    with pytest.raises(Trouble, match=r"^can't connect: no answer in time$"):
        connect("mail.example.org", 993, 0.5)
    assert 0.4 < time.monotonic() - started < 2.0


def test_a_good_address_behind_dead_ones_is_found(monkeypatch: pytest.MonkeyPatch, dead: int) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        resolves(monkeypatch, dead, dead, server.getsockname()[1])
        monkeypatch.setattr(stream, "LEAST_TRY_S", 0.05)
        with closing(connect("mail.example.org", 993, 0.6)) as made:
            assert made.peer() == "127.0.0.1"


def test_what_the_last_address_says_is_told(monkeypatch: pytest.MonkeyPatch, dead: int) -> None:
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        resolves(monkeypatch, dead, closed.getsockname()[1])
        monkeypatch.setattr(stream, "LEAST_TRY_S", 0.05)
        with pytest.raises(Trouble, match=r"^can't connect: Connection refused$"):
            connect("mail.example.org", 993, 0.2)
    resolves(monkeypatch)
    with pytest.raises(Trouble, match=r"^can't connect: it has no address$"):
        connect("mail.example.org", 993, 0.2)
