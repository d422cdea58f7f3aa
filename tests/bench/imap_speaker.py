"""A bare IMAP client for what others do to a mailbox meanwhile: fill it, change it. Raises AssertionError on any refusal."""

from __future__ import annotations

import socket
from collections.abc import Iterable
from types import TracebackType
from typing import Self

from tests.bench.imap_dovecot import PASSWORD

LIMIT_S = 300.0
GROUP_MESSAGES = 500
GROUP_BYTES = 8 << 20
CHUNK_BYTES = 1 << 18
LONGEST_LINE = 1024  # of a tagged answer, with room to spare
DATE = '"12-Jan-2026 10:00:00 +0000"'


class Speaker:
    """One connection, logged in."""

    def __init__(self, port: int, user: str) -> None:
        self._socket = socket.create_connection(("127.0.0.1", port), LIMIT_S)
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._number = 0
        self.ask(f"LOGIN {user} {PASSWORD}")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, _kind: type[BaseException] | None, _error: BaseException | None, _trace: TracebackType | None) -> None:
        self._socket.close()

    def ask(self, *commands: str) -> None:
        """Sends all of them in one go and reads the answers; what they say is dropped."""
        tags = [self._tag() for _ in commands]
        self._socket.sendall("".join(f"{tag} {command}\r\n" for tag, command in zip(tags, commands, strict=True)).encode())
        self._answered(tags)

    def append(self, folder: str, messages: Iterable[bytes]) -> None:
        """Adds these messages, some hundred with each command (RFC 3502, RFC 7888); each third one is unread."""
        group: list[bytes] = []
        size = 0
        for number, message in enumerate(messages):
            flags = r"(\Seen)" if number % 3 else "()"
            group.append(f" {flags} {DATE} {{{len(message)}+}}\r\n".encode() + message)
            size += len(message)
            if len(group) >= GROUP_MESSAGES or size >= GROUP_BYTES:
                self._append(folder, group)
                group, size = [], 0
        if group:
            self._append(folder, group)

    def _append(self, folder: str, group: list[bytes]) -> None:
        tag = self._tag()
        self._socket.sendall(b"".join([f"{tag} APPEND {folder}".encode(), *group, b"\r\n"]))
        self._answered([tag])

    def _tag(self) -> str:
        self._number += 1
        return f"bench-{self._number}-tag"

    def _answered(self, tags: list[str]) -> None:
        tail = b"\r\n"
        for tag in tags:
            start = f"\r\n{tag} ".encode()
            while (place := tail.find(start)) < 0 or (end := tail.find(b"\r\n", place + 2)) < 0:
                data = self._socket.recv(CHUNK_BYTES)
                if not data:
                    raise AssertionError(f"the server ended the connection: {tail[-300:]!r}")
                tail = (tail if place >= 0 else tail[-LONGEST_LINE:]) + data
            if not tail.startswith(b"OK ", place + len(start)):
                raise AssertionError(f"refused: {tail[place:end]!r}")
            tail = tail[end:]
