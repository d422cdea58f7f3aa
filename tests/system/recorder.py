"""A relay that takes everything and writes a line for each mail before it says yes: what is accepted is recorded.

Run as `python recorder.py FILE [PORT]`: it writes its port to standard output, then `TAG HASH RECIPIENT…` for each mail
into FILE, where TAG is the Subject and HASH the SHA-256 of the message as it was before dot-stuffing.
"""

from __future__ import annotations

import asyncio
import hashlib
import os
import sys

LIMIT_BYTES = 64 * 1024 * 1024


class Recorder(asyncio.Protocol):
    """One connection, with PIPELINING."""

    def __init__(self, fd: int) -> None:
        self._fd = fd
        self._rest = b""
        self._body: list[bytes] | None = None
        self._recipients: list[str] = []

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Of asyncio.Protocol."""
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        transport.write(b"220 recorder ESMTP\r\n")

    def data_received(self, data: bytes) -> None:
        """Of asyncio.Protocol."""
        self._rest += data
        answers = b""
        while True:
            if self._body is not None:
                answers += self._take_body()
                if self._body is not None:
                    break
            line, end, rest = self._rest.partition(b"\r\n")
            if not end:
                break
            self._rest = rest
            answers += self._command(line)
        self._transport.write(answers)
        if answers.startswith(b"221"):
            self._transport.close()

    def _take_body(self) -> bytes:
        end = self._rest.find(b"\r\n.\r\n")
        if end < 0:
            return b""
        text, self._rest = self._rest[: end + 2], self._rest[end + 5 :]
        self._body = None
        self._record(text.replace(b"\r\n..", b"\r\n."))
        return b"250 2.0.0 taken\r\n"

    def _record(self, text: bytes) -> None:
        fields = text.partition(b"\r\n\r\n")[0].split(b"\r\n")
        tag = next((field[9:] for field in fields if field.startswith(b"Subject: ")), b"-").decode()
        digest = hashlib.sha256(text.partition(b"\r\n\r\n")[2]).hexdigest()
        os.write(self._fd, f"{tag} {digest} {' '.join(self._recipients)}\n".encode())

    def _command(self, line: bytes) -> bytes:
        verb = line[:4].upper()
        if verb == b"EHLO":
            return b"250-recorder\r\n250-PIPELINING\r\n250-8BITMIME\r\n250 SIZE 100000000\r\n"
        if verb == b"MAIL":
            self._recipients = []
        elif verb == b"RCPT":
            self._recipients.append(line.partition(b"<")[2].rpartition(b">")[0].decode())
        elif verb == b"DATA":
            self._body = []
            return b"354 go on\r\n"
        elif verb == b"QUIT":
            return b"221 bye\r\n"
        return b"250 ok\r\n"


async def main() -> None:
    """Serves until it is killed."""
    fd = os.open(sys.argv[1], os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    port = int(sys.argv[2]) if len(sys.argv) > 2 else 0
    server = await asyncio.get_running_loop().create_server(lambda: Recorder(fd), "127.0.0.1", port)
    print(server.sockets[0].getsockname()[1], flush=True)
    await server.serve_forever()


if __name__ == "__main__":
    asyncio.run(main())
