"""Bytes to and from a server: TCP, TLS over it, DEFLATE over that (RFC 4978). Blocking with a limit, or not at all."""

from __future__ import annotations

import errno
import os
import socket

from workers.imap.trouble import NETWORK, TLS, Lost, Trouble

TYPE_CHECKING = False
if TYPE_CHECKING:
    import ssl  # loaded at the first TLS connection: its import is a quarter of what a pass without news takes
    import zlib

READ_BYTES = 1 << 18
KEEP_IDLE_S, KEEP_EVERY_S, KEEP_COUNT = 10, 5, 3  # a way that forgets is noticed within half a minute
UNANSWERED_MS = 25000  # tcp(7), TCP_USER_TIMEOUT
NO_TLS = ("WRONG_VERSION_NUMBER", "HTTP_REQUEST", "UNKNOWN_PROTOCOL")  # of OpenSSL, for what is no TLS record


class Stream:
    """One connection. `received_bytes` and `sent_bytes` are what went over the wire, as far as TLS lets that be seen."""

    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock
        self._tls: ssl.SSLSocket | None = None  # the same, when it is one
        self._inflate: zlib._Decompress | None = None
        self._deflate: zlib._Compress | None = None
        self._tail = b""  # compressed bytes not yet unpacked
        self.received_bytes = 0
        self.sent_bytes = 0

    @property
    def is_tls(self) -> bool:
        """Whether what is sent can't be read on the way."""
        return self._tls is not None

    @property
    def has_more(self) -> bool:
        """Whether bytes wait in memory, of which a selector knows nothing."""
        return bool(self._tail) or (self._tls is not None and self._tls.pending() > 0)

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
        self._deflate = zlib.compressobj(zlib.Z_DEFAULT_COMPRESSION, zlib.DEFLATED, -15)

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
            got = self._sock.recv_into(buffer)
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
        import zlib

        while True:
            if not self._tail:
                got = self._receive_into(buffer, limit_s)
                if not got:
                    return 0
                self._tail = bytes(memoryview(buffer)[:got])
            try:
                plain = self._inflate.decompress(self._tail, len(buffer))
            except zlib.error as error:
                raise Lost(f"what it sent can't be unpacked: {error}") from None
            self._tail = self._inflate.unconsumed_tail
            if plain:
                buffer[: len(plain)] = plain
                return len(plain)


def connect(host: str, port: int, limit_s: float) -> Stream:
    """Connects, trying each address of the host. Raises Trouble."""
    try:
        sock = socket.create_connection((host, port), timeout=limit_s)
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


def reason(error: OSError) -> str:
    """What happened, in words."""
    if isinstance(error, TimeoutError):
        return "no answer in time"
    if error.errno and not type(error).__name__.startswith("SSL"):
        return os.strerror(error.errno)
    return error.strerror or str(error) or type(error).__name__
