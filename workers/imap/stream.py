"""Bytes to and from a server: TCP, TLS over it, DEFLATE over that (RFC 4978). Blocking with a limit, or not at all."""

from __future__ import annotations

import errno
import os
import socket
import time

from workers.imap.trouble import NETWORK, TLS, Lost, Trouble

TYPE_CHECKING = False
if TYPE_CHECKING:
    import ssl  # loaded at the first TLS connection: its import is a quarter of what a pass without news takes
    import zlib
    from typing import Any

READ_BYTES = 1 << 18
KEEP_IDLE_S, KEEP_EVERY_S, KEEP_COUNT = 10, 5, 3  # a way that forgets is noticed within half a minute
UNANSWERED_MS = 25000  # tcp(7), TCP_USER_TIMEOUT
LEAST_TRY_S = 2.0  # for one of many addresses: the kernel asks again after a second
PACK_WINDOW, PACK_MEMORY = -10, 4  # zlib's wbits (raw) and memLevel: commands are short, and a thousand connections may rest
NO_TLS = ("WRONG_VERSION_NUMBER", "HTTP_REQUEST", "UNKNOWN_PROTOCOL")  # of OpenSSL, for what is no TLS record


class Stream:
    """One connection. `received_bytes` and `sent_bytes` are what went over the wire, as far as TLS lets that be seen."""

    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock
        self._tls: ssl.SSLSocket | None = None  # the same, when it is one
        self._inflate: zlib._Decompress | None = None
        self._deflate: zlib._Compress | None = None
        self._tail = b""  # compressed bytes not yet unpacked
        self._filled = False  # the last unpacking filled its buffer: zlib may hold more, though it has taken all bytes
        self.reads_ahead = True  # False: one byte at a time, so that nothing behind a line is taken with it
        self.received_bytes = 0
        self.sent_bytes = 0

    @property
    def is_tls(self) -> bool:
        """Whether what is sent can't be read on the way."""
        return self._tls is not None

    @property
    def has_more(self) -> bool:
        """Whether bytes wait in memory, of which a selector knows nothing."""
        return bool(self._tail) or self._filled or (self._tls is not None and self._tls.pending() > 0)

    def fileno(self) -> int:
        """The descriptor, for a selector."""
        return self._sock.fileno()

    def peer(self) -> str:
        """The server's address; "" when the connection is gone."""
        try:
            return str(self._sock.getpeername()[0])
        except OSError:
            return ""

    def certificate(self) -> bytes:
        """The server's certificate (DER); b"" without TLS."""
        found = self._tls.getpeercert(binary_form=True) if self._tls is not None else None
        return found or b""

    def start_tls(self, context: ssl.SSLContext, host: str, limit_s: float) -> None:
        """Goes on in TLS. Raises Trouble."""
        import ssl

        self._sock.settimeout(limit_s)
        try:
            self._sock = self._tls = context.wrap_socket(self._sock, server_hostname=host)
        except ssl.SSLCertVerificationError as error:
            raise Trouble(TLS, f"certificate refused: {error.verify_message}") from None
        except ssl.SSLError as error:
            if error.reason in NO_TLS:
                what = f"what answers there speaks no TLS ({error.reason}); see port and tls in mail.toml"
                raise Trouble(NETWORK, f"TLS failed: {what}") from None
            raise Trouble(NETWORK, f"TLS failed: {error.reason or error}") from None
        except OSError as error:
            raise Lost(f"TLS failed: {reason(error)}") from None
        except ValueError as error:
            raise Trouble(TLS, f"TLS failed: {error}") from None

    def start_deflate(self) -> None:
        """Packs and unpacks from now on."""
        import zlib

        self._inflate = zlib.decompressobj(-15)
        self._deflate = zlib.compressobj(zlib.Z_DEFAULT_COMPRESSION, zlib.DEFLATED, PACK_WINDOW, PACK_MEMORY)

    def read_into(self, buffer: bytearray, limit_s: float) -> int:
        """Waits at most `limit_s` (0: not at all) for bytes; how many came, 0 at the end of the stream.

        Raises Lost, and TimeoutError or BlockingIOError when nothing came.
        """
        if self._inflate is not None:
            return self._unpack_into(buffer, limit_s)
        return self._receive_into(buffer, limit_s)

    def write(self, data: bytes, limit_s: float) -> None:
        """Sends all of it. Raises Lost."""
        if self._deflate is not None:
            import zlib

            data = self._deflate.compress(data) + self._deflate.flush(zlib.Z_SYNC_FLUSH)
        try:
            self._sock.settimeout(limit_s)
            self._sock.sendall(data)
        except OSError as error:
            raise Lost(reason(error)) from None
        self.sent_bytes += len(data)

    def close(self) -> None:
        """Ends the connection."""
        self._sock.close()

    def shut(self) -> None:
        """Wakes whoever reads or writes in another thread: for them the stream ends."""
        try:
            socket.socket.shutdown(self._sock, socket.SHUT_RDWR)
        except OSError:
            return

    def _receive_into(self, buffer: bytearray, limit_s: float) -> int:
        try:
            self._sock.settimeout(limit_s)
            got = self._sock.recv_into(buffer, len(buffer) if self.reads_ahead else 1)
        except (TimeoutError, BlockingIOError) as error:
            if error.errno == errno.ETIMEDOUT:
                raise Lost("the way to the server is gone") from None  # keepalives were not answered
            raise
        except OSError as error:
            kind = type(error).__name__ if self._tls is not None else ""
            if kind in ("SSLWantReadError", "SSLWantWriteError"):
                raise BlockingIOError from None
            if kind in ("SSLEOFError", "SSLZeroReturnError"):
                return 0
            raise Lost(reason(error)) from None
        self.received_bytes += got
        return got

    def _unpack_into(self, buffer: bytearray, limit_s: float) -> int:
        assert self._inflate is not None  # noqa: S101 - read_into looked
        until, left = time.monotonic() + limit_s, limit_s
        while not self._inflate.eof:  # behind that nothing can be unpacked, and zlib would keep it all
            if self._tail or self._filled:
                plain = self._unpacked(len(buffer))
                if plain:
                    buffer[: len(plain)] = plain
                    return len(plain)
                left = until - time.monotonic()
                if left <= 0 and not self.has_more:  # who sends empty blocks without end holds nobody
                    raise BlockingIOError
            got = self._receive_into(buffer, max(0.0, left))
            if not got:
                return 0
            self._tail = bytes(memoryview(buffer)[:got])
        return 0

    def _unpacked(self, most_bytes: int) -> bytes:
        assert self._inflate is not None  # noqa: S101 - read_into looked
        import zlib

        try:
            plain = self._inflate.decompress(self._tail, most_bytes)
        except zlib.error as error:
            raise Lost(f"what it sent can't be unpacked: {error}") from None
        self._tail, self._filled = self._inflate.unconsumed_tail, len(plain) == most_bytes
        return plain


def connect(host: str, port: int, limit_s: float) -> Stream:
    """Connects, trying each address of the host: all of them within `limit_s` from when they are known. Raises Trouble."""
    try:
        sock = _connected(socket.getaddrinfo(host, port, type=socket.SOCK_STREAM), limit_s)
    except socket.gaierror as error:
        raise Trouble(NETWORK, f"{host} is not known: {error.strerror}") from None
    except UnicodeError:
        raise Trouble(NETWORK, f"{host} is no name of a host") from None
    except OSError as error:
        raise Trouble(NETWORK, f"can't connect: {reason(error)}") from None
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, KEEP_IDLE_S)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, KEEP_EVERY_S)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPCNT, KEEP_COUNT)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, UNANSWERED_MS)
    return Stream(sock)


def share_s(left_s: float, addresses: int) -> float:
    """How long one of so many addresses may take when so much is left for all."""
    return min(left_s, max(LEAST_TRY_S, left_s / addresses))


def _connected(places: list[tuple[Any, ...]], limit_s: float) -> socket.socket:
    """A socket to the first address that answers. Raises OSError, what the last one said."""
    until = time.monotonic() + limit_s
    failure = OSError("it has no address")
    for index, (family, kind, protocol, _, address) in enumerate(places):
        left_s = until - time.monotonic()
        if left_s <= 0:
            break
        try:
            sock = socket.socket(family, kind, protocol)
        except OSError as error:  # a family that this machine does not have
            failure = error
            continue
        try:
            sock.settimeout(share_s(left_s, len(places) - index))
            sock.connect(address)
        except OSError as error:
            sock.close()
            failure = error
        else:
            return sock
    raise failure


def reason(error: OSError) -> str:
    """What happened, in words."""
    if isinstance(error, TimeoutError):
        return "no answer in time"
    if error.errno and not type(error).__name__.startswith("SSL"):
        return os.strerror(error.errno)
    return error.strerror or str(error) or type(error).__name__
