"""A TCP proxy on 127.0.0.1 that makes a server seem far away: `python -m tests.bench.mail_delay PORT TARGET ROUND_TRIP_MS`.

All bytes arrive half a round trip late in either direction, in order and without a limit on how many are under way. A
connection to the target is made one round trip late, as a handshake over that distance would take.
"""

from __future__ import annotations

import asyncio
import sys
from collections import deque
from typing import cast


class Late(asyncio.Protocol):
    """One side of a connection; what comes in goes to `other`, later."""

    def __init__(self, delay_s: float) -> None:
        self.delay_s = delay_s
        self.other: Late | None = None
        self.transport: asyncio.Transport | None = None
        self._under_way: deque[tuple[float, bytes | None]] = deque()  # None: the end

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast("asyncio.Transport", transport)

    def data_received(self, data: bytes) -> None:
        self._later(data)

    def connection_lost(self, exc: Exception | None) -> None:
        self._later(None)

    def _later(self, data: bytes | None) -> None:
        loop = asyncio.get_running_loop()
        due = loop.time() + self.delay_s
        self._under_way.append((due, data))
        if len(self._under_way) == 1:
            loop.call_at(due, self.flush)

    def flush(self) -> None:
        """Hands on what is due; called again for the rest."""
        loop = asyncio.get_running_loop()
        if self.other is None or self.other.transport is None:  # the target is not connected yet: it will call
            return
        while self._under_way and self._under_way[0][0] <= loop.time():
            data = self._under_way.popleft()[1]
            if data is None:
                self.other.transport.close()
            else:
                self.other.transport.write(data)
        if self._under_way:
            loop.call_at(self._under_way[0][0], self.flush)


class Near(Late):
    """The client's side, which makes the far one."""

    def __init__(self, delay_s: float, target: int) -> None:
        super().__init__(delay_s)
        self._target = target
        self._connecting: asyncio.Task[None] | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        self._connecting = asyncio.get_running_loop().create_task(self._connect())

    async def _connect(self) -> None:
        await asyncio.sleep(2 * self.delay_s)
        far = Late(self.delay_s)
        far.other = self
        try:
            await asyncio.get_running_loop().create_connection(lambda: far, "127.0.0.1", self._target)
        except OSError:
            assert self.transport is not None
            self.transport.abort()
            return
        self.other = far
        self.flush()


async def serve(port: int, target: int, delay_s: float) -> None:
    """For ever."""
    loop = asyncio.get_running_loop()
    server = await loop.create_server(lambda: Near(delay_s, target), "127.0.0.1", port, backlog=512)
    await server.serve_forever()


if __name__ == "__main__":
    asyncio.run(serve(int(sys.argv[1]), int(sys.argv[2]), float(sys.argv[3]) / 2000))
