"""A relay that takes everything and tells when: `python -m tests.bench.mail_recorder PORT` prints a line for each mail.

Two numbers: when its MAIL command came and when its final dot came, in nanoseconds of CLOCK_MONOTONIC, which is the same
in all processes of a host.
"""

from __future__ import annotations

import asyncio
import sys
import time
from typing import cast

REPLIES = {
    b"EHLO": b"250-recorder\r\n250-PIPELINING\r\n250-8BITMIME\r\n250 SIZE 52428800\r\n",
    b"DATA": b"354 go on\r\n",
    b"QUIT": b"221 bye\r\n",
}


class Session(asyncio.Protocol):
    """One connection."""

    def __init__(self) -> None:
        self._transport: asyncio.Transport | None = None
        self._waiting = b""
        self._in_body = False
        self._mail_ns = 0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)
        self._transport.write(b"220 recorder ESMTP\r\n")

    def data_received(self, data: bytes) -> None:
        now_ns = time.monotonic_ns()
        self._waiting += data
        replies = []
        while (reply := self._next(now_ns)) is not None:
            replies.append(reply)
        assert self._transport is not None
        self._transport.write(b"".join(replies))
        if replies and replies[-1].startswith(b"221"):
            self._transport.close()

    def _next(self, now_ns: int) -> bytes | None:
        """The reply to the next whole command or body; None when there is none yet."""
        if self._in_body:
            _, found, rest = self._waiting.partition(b"\r\n.\r\n")
            if not found:
                return None
            self._waiting, self._in_body = rest, False
            sys.stdout.write(f"{self._mail_ns} {now_ns}\n")
            sys.stdout.flush()
            return b"250 2.0.0 Ok\r\n"
        line, found, rest = self._waiting.partition(b"\r\n")
        if not found:
            return None
        verb = line[:4].upper()
        self._in_body = verb == b"DATA"
        self._waiting = b"\r\n" + rest if self._in_body else rest  # so that the dot of an empty body is found too
        if verb == b"MAIL":
            self._mail_ns = now_ns
        return REPLIES.get(verb, b"250 2.0.0 Ok\r\n")


async def serve(port: int) -> None:
    """For ever."""
    server = await asyncio.get_running_loop().create_server(Session, "127.0.0.1", port)
    await server.serve_forever()


if __name__ == "__main__":
    asyncio.run(serve(int(sys.argv[1])))
