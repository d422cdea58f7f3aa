"""A relay that keeps every mail byte for byte, and notes whatever no client may put on the wire (RFC 5321 2.3.8, 4.5.2)."""

from __future__ import annotations

import socket
import threading
from collections.abc import Sequence
from typing import BinaryIO, NamedTuple

LINE_BYTES = 1000  # with CRLF and without the dot added for transparency, RFC 5321 4.5.3.1.6
TAKES_ALL = ("PIPELINING", "8BITMIME", "SMTPUTF8", "SIZE 100000000")


class Taken(NamedTuple):
    """One transaction: the envelope, the parameters of MAIL, and the message without dot-stuffing."""

    sender: str
    options: str
    recipients: tuple[str, ...]
    text: bytes


class Keeper:
    """Serves 127.0.0.1 in threads until `close`. It accepts everything; `extensions` is what EHLO offers.

    `taken` holds the mails in the order of their final dots, `wrongs` each line that is none.
    """

    def __init__(self, extensions: Sequence[str] = TAKES_ALL) -> None:
        self.taken: list[Taken] = []
        self.wrongs: list[bytes] = []
        self._extensions = extensions
        self._server = socket.create_server(("127.0.0.1", 0), backlog=128)
        self.port: int = self._server.getsockname()[1]
        self._open: set[socket.socket] = set()
        self._threads = [threading.Thread(target=self._serve, daemon=True)]
        self._threads[0].start()

    def close(self) -> None:
        """Ends all connections and threads."""
        self._server.shutdown(socket.SHUT_RDWR)
        self._threads[0].join()
        self._server.close()
        for sock in list(self._open):
            try:
                sock.shutdown(socket.SHUT_RDWR)
            except OSError:  # the other side was quicker
                continue
        for thread in self._threads:
            thread.join()

    def copies(self) -> list[tuple[str, Taken]]:
        """(recipient, mail) of all that came."""
        return [(recipient, mail) for mail in self.taken for recipient in mail.recipients]

    def _serve(self) -> None:
        while True:
            try:
                sock, _ = self._server.accept()
            except OSError:
                return
            self._open.add(sock)
            self._threads.append(threading.Thread(target=self._talk, args=(sock,), daemon=True))
            self._threads[-1].start()

    def _talk(self, sock: socket.socket) -> None:
        with sock, sock.makefile("rb") as file:
            try:
                sock.sendall(b"220 keeper ESMTP\r\n")
                self._answer(sock, file)
            except OSError:
                pass
        self._open.discard(sock)

    def _answer(self, sock: socket.socket, file: BinaryIO) -> None:
        sender, options = "", ""
        recipients: list[str] = []
        for raw in file:
            line = self._line(raw).decode()
            verb = line[:4].upper()
            path, _, rest = line.partition("<")[2].rpartition(">")
            if verb == "MAIL":
                sender, options, recipients = path, rest.strip(), []
            elif verb == "RCPT":
                recipients.append(path)
            elif verb == "DATA":
                sock.sendall(b"354 go on\r\n")
                text = self._text(file)
                if text is None:
                    return
                self.taken.append(Taken(sender, options, tuple(recipients), text))
            sock.sendall({"EHLO": self._hello(), "QUIT": b"221 bye\r\n"}.get(verb, b"250 2.0.0 Ok\r\n"))

    def _hello(self) -> bytes:
        words = ["keeper", *self._extensions]
        return "".join(f"250{' ' if word is words[-1] else '-'}{word}\r\n" for word in words).encode()

    def _text(self, file: BinaryIO) -> bytes | None:
        """The message up to the dot alone on its line; None when the connection ends before."""
        lines: list[bytes] = []
        for raw in file:
            if raw == b".\r\n":
                return b"".join(lines)
            lines.append(self._line(raw.removeprefix(b".")))
        return None

    def _line(self, raw: bytes) -> bytes:
        if not raw.endswith(b"\r\n") or b"\r" in raw[:-2] or len(raw) > LINE_BYTES:
            self.wrongs.append(raw[:100])
        return raw
