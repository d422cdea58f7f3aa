"""Commands and their answers over one stream: tags, pipelining, literals both ways, and a limit on every wait."""

from __future__ import annotations

import time

from workers.imap.limits import LEAST_RATE, Limits
from workers.imap.spoken import told
from workers.imap.stream import READ_BYTES, Stream
from workers.imap.trouble import Declined, Lost
from workers.imap.wire import Reader, WireError
from workers.mail.words import plain

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from workers.imap.wire import Response, Write

    Take = Callable[[Response], None]

READS_AT_ONCE = 64
TEXT_BYTES = 64 << 20  # of all that is no message in the answer to one command
NON_SYNC_BYTES = 4096  # RFC 7888 5: LITERAL- takes no more at once


class Arg:
    """A word of a command that has to go as a literal."""

    __slots__ = ("octets",)

    def __init__(self, octets: bytes) -> None:
        self.octets = octets


class Connection:
    """One IMAP connection. It is used by one thread at a time: a worker's, blocking, or the hub's, not blocking.

    `doing` names the command in hand for those who watch. `heard` gets every response that is no command's end.
    """

    def __init__(self, stream: Stream, limits: Limits, heard: Take, debug: Callable[[str], None] | None = None) -> None:
        self.stream = stream
        self.capabilities: frozenset[bytes] = frozenset()
        self.doing = "greeting"
        self.moved_at = time.monotonic()  # when something was last sent or received
        self.deadline: float | None = None  # monotonic: of all that is said before the login is over
        self.hide: Callable[[str], str] = str
        self._limits = limits
        self._heard = heard
        self.debug = debug
        self._take: Take | None = None
        self._open: Callable[[bytes, int], Write | None] | None = None
        self._reader = Reader(self._open_literal)
        self._count = 0
        self._ended: dict[bytes, Response] = {}
        self._told: dict[bytes, Take] = {}  # who hears the end of a command that nobody waits for
        self._names: dict[bytes, str] = {}  # of commands on the way, by tag
        self._bye = ""
        self._buffer: bytearray | None = None

    def lend(self, buffer: bytearray | None) -> None:
        """What to read into; given by whoever uses the connection, so that an idle one holds none."""
        self._buffer = buffer

    def send(self, *words: bytes | Arg, secret: bool = False) -> bytes:
        """Sends a command and returns its tag; its end is waited for by `wait`. Raises Lost."""
        self._count += 1
        tag = b"s%d" % self._count
        name = words[0] if isinstance(words[0], bytes) else b""
        self.doing = name.split(b" (")[0][:60].decode("ascii", "replace") if not secret else "login"
        self.moved_at = time.monotonic()
        self._names[tag] = self.doing
        self._say(
            f"> {tag.decode()} {self.doing if secret else b''.join(_shown(each) for each in words).decode('ascii', 'replace')}"
        )
        line = bytearray(tag + b" ")
        for word in words:
            if isinstance(word, bytes):
                line += word
                continue
            plus = b"LITERAL+" in self.capabilities or (
                len(word.octets) <= NON_SYNC_BYTES and not self.capabilities.isdisjoint((b"LITERAL-", b"IMAP4REV2"))
            )
            line += b"{%d%s}\r\n" % (len(word.octets), b"+" if plus else b"")
            if not plus:
                self.write(bytes(line))
                line.clear()
                self.wait_for_go_on(tag)
                if self.is_over(tag):
                    return tag
            line += word.octets
        self.write(bytes(line + b"\r\n"))
        return tag

    def send_ahead(self, words: bytes, taker: Take) -> None:
        """Sends a command for whose end nobody waits; `taker` gets it when it comes. Raises Lost."""
        self._told[self.send(words)] = taker

    def write(self, data: bytes) -> None:
        """Sends bytes as they are. Raises Lost."""
        self.stream.write(data, self._limits.stall_s)

    def command(self, *words: bytes | Arg, take: Take | None = None, secret: bool = False) -> Response:
        """Sends a command and waits for its end; `take` gets what comes before. Raises Declined, Lost."""
        return self.wait(self.send(*words, secret=secret), take)

    def wait(
        self,
        tag: bytes,
        take: Take | None = None,
        open_literal: Callable[[bytes, int], Write | None] | None = None,
        most_bytes: int = TEXT_BYTES,
    ) -> Response:
        """The OK that ends the command `tag`. `open_literal(head, size_bytes)` may stream literals. Raises Declined, Lost."""
        self._take, self._open = take, open_literal
        try:
            self._read_until(lambda: tag in self._ended, most_bytes)
        finally:
            self._take = self._open = None
        response = self._ended.pop(tag)
        name = self._names.pop(tag, "")
        if response.kind == b"OK":
            return response
        code = response.code[0] if response.code and isinstance(response.code[0], bytes) else b""
        bracket = f"[{code.decode('ascii', 'replace')}] " if code else ""
        said = f"{response.kind.decode('ascii', 'replace')} {bracket}{self.shown(response.text)}"
        raise Declined(response.kind, code, f"{name}: {said}")

    def wait_for_go_on(self, tag: bytes) -> Response:
        """The server's `+` for the command `tag`, or that command's end. Raises Lost."""
        asked: list[Response] = []

        def take(response: Response) -> None:
            if response.kind == b"+":
                asked.append(response)

        self._take = take
        try:
            self._read_until(lambda: bool(asked) or tag in self._ended)
        finally:
            self._take = None
        return asked[0] if asked else self._ended[tag]

    def greeting(self) -> Response:
        """The first words of the server. Raises Lost."""
        found: list[Response] = []
        self._take = found.append
        try:
            self._read_until(lambda: bool(found))
        finally:
            self._take = None
        return found[0]

    def read_now(self) -> None:
        """Takes what has come, without waiting; for the hub, which a flood must not hold. Raises Lost."""
        for _ in range(READS_AT_ONCE):
            try:
                if not self._read(0.0):
                    raise Lost(self._bye or "closed by the server")
            except BlockingIOError:
                return
        raise Lost("it does not stop to speak, though nothing was asked")

    def is_over(self, tag: bytes) -> bool:
        """Whether the command `tag` has come to its end."""
        return tag in self._ended

    def shown(self, text: bytes | str) -> str:
        """A server's words for people, without a secret that it may have sent back."""
        return self.hide(plain(text))

    def close(self) -> None:
        """Ends it without a word."""
        self.stream.close()

    def is_quiet(self) -> bool:
        """Whether nothing more than what was asked for has come, as before TLS it must be (RFC 3501 6.2.1)."""
        return self._reader.is_between and not self._ended and not self.stream.has_more

    def _read_until(self, done: Callable[[], bool], most_bytes: int = TEXT_BYTES) -> None:
        started = time.monotonic()
        first, first_text = self.stream.received_bytes, self._reader.text_bytes
        while not done():
            now = time.monotonic()
            allowed = self._limits.command_s + (self.stream.received_bytes - first) / LEAST_RATE
            left = started + allowed - now
            if self.deadline is not None:
                left = min(left, self.deadline - now)
            if left <= 0:
                raise Lost(f"{self.doing}: no end of the answer within {allowed:.0f} s", silent=True)
            if self._reader.text_bytes - first_text > most_bytes:
                raise Lost(f"{self.doing}: more than {most_bytes} bytes in answer")
            limit = min(self._limits.stall_s, left)
            try:
                got = self._read(limit)
            except (TimeoutError, BlockingIOError):
                raise Lost(f"{self.doing}: nothing came for {limit:.0f} s", silent=True) from None
            if not got:
                raise Lost(f"{self.doing}: closed by the server" + (f" ({self._bye})" if self._bye else ""))

    def _read(self, limit_s: float) -> int:
        buffer = self._buffer
        if buffer is None:
            buffer = self._buffer = bytearray(READ_BYTES)
        got = self.stream.read_into(buffer, limit_s)
        self.moved_at = time.monotonic()
        if got:
            try:
                responses = self._reader.feed(buffer, got)
            except WireError as error:
                raise Lost(f"{self.doing}: the server sent {error}") from None
            for response in responses:
                self._sort(response)
        return got

    def _sort(self, response: Response) -> None:
        if self.debug is not None:
            self._say(f"< {told(response)}")
        if response.tag not in (b"*", b"+"):
            taker = self._told.pop(response.tag, None)
            if taker is not None:
                self._names.pop(response.tag, None)
                taker(response)
            elif response.tag in self._names:
                self._ended[response.tag] = response
            elif not self._count and self._take is not None:  # we have said nothing: these are no words of IMAP
                self._take(response)
            return
        if response.kind == b"BYE":
            self._bye = self.shown(response.text)
        if self._take is not None:
            self._take(response)
        self._heard(response)

    def _open_literal(self, head: bytes, size_bytes: int) -> Write | None:
        return self._open(head, size_bytes) if self._open is not None else None

    def _say(self, text: str) -> None:
        if self.debug is not None:
            self.debug(self.hide(plain(text)))


def _shown(word: bytes | Arg) -> bytes:
    return word if isinstance(word, bytes) else b"{%d}" % len(word.octets)
