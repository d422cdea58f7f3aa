"""A TCP proxy on 127.0.0.1 that notes what passes: `python -m tests.bench.imap_tap PORT TARGET` prints a line for each piece.

`<ns> <side> <bytes> <0 or 1>`: nanoseconds of CLOCK_MONOTONIC when the piece came, `c` from the client or `s` from the
server, its size, and whether the server tells of a change in it (EXISTS, EXPUNGE, VANISHED, FETCH, STATUS), which of a
client that is at rest is a push notice. The line is written before the piece is handed on.
"""

from __future__ import annotations

import asyncio
import os
import sys
import time
from typing import cast

NEWS = (b" EXISTS", b" EXPUNGE", b"* VANISHED", b" FETCH (", b"* STATUS ")


class Side(asyncio.Protocol):
    """One side of a connection; what comes in goes to `other`."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.other: Side | None = None
        self.transport: asyncio.Transport | None = None
        self._early: list[bytes] = []

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast("asyncio.Transport", transport)

    def data_received(self, data: bytes) -> None:
        now_ns = time.monotonic_ns()
        news = self.name == "s" and any(word in data for word in NEWS)
        os.write(1, f"{now_ns} {self.name} {len(data)} {news:d}\n".encode())
        if self.other is None or self.other.transport is None:  # the target is not connected yet
            self._early.append(data)
        else:
            self.other.transport.write(data)

    def connection_lost(self, exc: Exception | None) -> None:
        if self.other is not None and self.other.transport is not None:
            self.other.transport.close()

    def pause_writing(self) -> None:
        """Who is too slow is not waited for in memory: the other side stops reading."""
        if self.other is not None and self.other.transport is not None:
            self.other.transport.pause_reading()

    def resume_writing(self) -> None:
        if self.other is not None and self.other.transport is not None:
            self.other.transport.resume_reading()

    def join(self, other: Side) -> None:
        """From now on pieces go to `other`, first those that came early."""
        self.other, other.other = other, self
        assert other.transport is not None
        other.transport.writelines(self._early)
        self._early.clear()


class Near(Side):
    """The client's side, which makes the far one."""

    def __init__(self, target: int) -> None:
        super().__init__("c")
        self._target = target
        self._connecting: asyncio.Task[None] | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        self._connecting = asyncio.get_running_loop().create_task(self._connect())

    async def _connect(self) -> None:
        far = Side("s")
        await asyncio.get_running_loop().create_connection(lambda: far, "127.0.0.1", self._target)
        self.join(far)


async def serve(port: int, target: int) -> None:
    """For ever."""
    server = await asyncio.get_running_loop().create_server(lambda: Near(target), "127.0.0.1", port, backlog=512)
    await server.serve_forever()


if __name__ == "__main__":
    asyncio.run(serve(int(sys.argv[1]), int(sys.argv[2])))
