"""One SMTP connection after login: bytes out, replies in (RFC 5321 4.2). It knows no mail.

A loop for all connections ends those whose step lasts too long: a timer for each reply would cost as much as the reply.
"""

from __future__ import annotations

import asyncio
from collections import deque
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable

MOST_REPLY_BYTES = 65536  # a reply line has 512 octets at most, RFC 5321 4.5.3.1.5; some are longer, none is endless
MOST_REPLIES = 1000  # beyond those that are waited for
NO_LIMIT = float("inf")


class Wire(asyncio.Protocol):
    """Taken over from the connect phase by `transport.set_protocol(wire)`."""

    def __init__(self, transport: asyncio.Transport) -> None:
        self.transport = transport
        self.lost: str | None = None  # why the connection is of no more use
        self.deadline = NO_LIMIT  # of the event loop's clock
        self._loop = asyncio.get_running_loop()
        self._limit_s = NO_LIMIT
        self._rest = b""
        self._words: list[bytes] = []  # lines of a reply that goes on
        self._size_bytes = 0
        self._replies: deque[tuple[int, str]] = deque()
        self._wanted = 0
        self._waiter: asyncio.Future[None] | None = None
        self._full = False

    def write(self, data: bytes) -> None:
        """Sends bytes as they are; nothing when the connection is lost."""
        if self.lost is None:
            self.transport.write(data)

    async def replies(self, count: int, limit_s: float) -> list[tuple[int, str]]:
        """The next `count` replies as (code, text); fewer when the connection is lost. `limit_s` is for each."""
        self._limit_s = limit_s
        self._wanted = count
        if len(self._replies) < count and self.lost is None:
            await self._wait()
        self._wanted = 0
        return [self._replies.popleft() for _ in range(min(count, len(self._replies)))]

    async def drain(self, limit_s: float) -> None:
        """Waits until the relay has taken enough of what was written; others have their turn in any case."""
        while self._full and self.lost is None:
            self._limit_s = limit_s
            await self._wait()
        await asyncio.sleep(0)  # lets the others on, and lets the loop tell that this connection is lost

    def is_stale(self) -> bool:
        """Whether it can carry no other mail: lost, or the relay has said something unasked."""
        return self.lost is not None or self.transport.is_closing() or bool(self._replies or self._rest or self._words)

    def fail(self, why: str) -> None:
        """Ends the connection at once."""
        if self.lost is None:
            self.lost = why
            self.transport.abort()
            self._wake()

    def expire(self, now: float) -> None:
        """Ends the connection when its step is over time."""
        if now > self.deadline:
            self.fail(f"no answer within {self._limit_s:.0f} s")

    def data_received(self, data: bytes) -> None:
        """Of asyncio.Protocol."""
        lines = (self._rest + data).split(b"\n")
        self._rest = lines.pop()
        self._size_bytes += len(data)
        if not self._take(lines):
            self.fail(f"not an SMTP reply: {bytes(self._words[-1][:80]).decode('ascii', 'replace')!r}")
        elif len(self._replies) > self._wanted + MOST_REPLIES:
            self.fail(f"more than {MOST_REPLIES} replies that nobody has asked for")
        elif self._size_bytes > MOST_REPLY_BYTES:
            self.fail(f"a reply of more than {MOST_REPLY_BYTES} bytes")
        elif self._wanted and len(self._replies) >= self._wanted:
            self._wake()

    def pause_writing(self) -> None:
        """Of asyncio.Protocol."""
        self._full = True

    def resume_writing(self) -> None:
        """Of asyncio.Protocol."""
        self._full = False
        if not self._wanted:
            self._wake()

    def eof_received(self) -> bool:
        """Of asyncio.Protocol."""
        return False

    def connection_lost(self, exc: Exception | None) -> None:
        """Of asyncio.Protocol."""
        if self.lost is None:
            self.lost = "the connection was closed" if exc is None else str(exc) or type(exc).__name__
        self._wake()

    def _take(self, lines: Iterable[bytes]) -> bool:
        for line in lines:
            self._words.append(line)
            code = line[:3]
            if not code.isdigit() or line[3:4] not in (b"-", b" ", b"\r", b""):
                return False
            if line[3:4] == b"-":
                continue
            text = b" ".join(word[4:].strip() for word in self._words)
            self._replies.append((int(code), text.decode("utf-8", "replace")))
            self._words.clear()
            self._size_bytes = 0
            self.deadline = self._loop.time() + self._limit_s
        return True

    async def _wait(self) -> None:
        self._waiter = self._loop.create_future()
        self.deadline = self._loop.time() + self._limit_s
        try:
            await self._waiter
        finally:
            self._waiter = None
            self.deadline = NO_LIMIT

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)
