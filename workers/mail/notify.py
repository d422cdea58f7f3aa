"""Tells a supervisor how it goes: datagrams in the sd_notify protocol on $NOTIFY_SOCKET (sd_notify(3)).

Nothing at all happens where nobody asked for it.
"""

from __future__ import annotations

import os
import socket
from contextlib import suppress


class Notifier:
    """READY, STATUS, WATCHDOG and STOPPING for this process. Never raises: no work waits for a deaf supervisor."""

    def __init__(self) -> None:
        self._address = os.environ.get("NOTIFY_SOCKET", "")
        self._socket: socket.socket | None = None
        self._status = ""
        if self._address[:1] in ("/", "@"):
            self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK)
        pid = os.environ.get("WATCHDOG_PID", "")
        span = os.environ.get("WATCHDOG_USEC", "")
        mine = not pid or pid == str(os.getpid())
        self.watchdog_s = int(span) / 2e6 if mine and span.isdigit() and self._socket is not None else None

    @property
    def wanted(self) -> bool:
        """Whether anybody listens."""
        return self._socket is not None

    def say(self, *words: str) -> None:
        """Sends assignments such as `READY=1`."""
        if self._socket is not None:
            address = "\0" + self._address[1:] if self._address[0] == "@" else self._address
            with suppress(OSError):
                self._socket.sendto("\n".join(words).encode("utf-8", "replace"), address)

    def status(self, text: str) -> None:
        """Says what it is doing, when that has changed."""
        if text != self._status:
            self._status = text
            self.say(f"STATUS={text}")

    def close(self) -> None:
        """Closes the socket."""
        if self._socket is not None:
            self._socket.close()
            self._socket = None
