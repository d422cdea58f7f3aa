"""An IMAP server on loopback that misbehaves as told. Without faults it is a small correct IMAP4rev1 server (RFC 3501).

CONDSTORE and QRESYNC (RFC 7162), ESEARCH (4731), LIST-STATUS (5819), IDLE (2177), OBJECTID (8474) and Gmail's
X-GM-EXT-1 it does as far as a client that copies mail asks for them, when they are among its capabilities.
"""

from __future__ import annotations

import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from typing import NamedTuple

from tests.system.imap_session import Over, Session
from tests.system.imap_store import Box, Command
from tests.system.imap_user import PASSWORD

FOR_EVER = 1_000_000
BASIC = ("IMAP4rev1", "SASL-IR", "LITERAL+", "UIDPLUS", "UNSELECT", "ENABLE", "ID", "IDLE", "CHILDREN")
MODERN = (*BASIC, "CONDSTORE", "QRESYNC", "ESEARCH", "LIST-EXTENDED", "LIST-STATUS", "OBJECTID")


class Reply(NamedTuple):
    """What is sent, `pause_s` before each byte of it, and what follows: "" (goes on), "bye" (closes in order), "cut"
    (resets the connection), "hang" (reads and never says a word again), "flood" (sends `data` again until the client goes),
    "on" (the proper answer).

    `TAG ` at the start of a line, and %TAG%, stand for the command's tag. At BODY, `data` stands for the literal with its size.
    """

    data: bytes | Callable[[], Iterable[bytes]] = b""
    then: str = ""
    pause_s: float = 0.0


CUT = Reply(then="cut")
BYE = Reply(b"* BYE going down\r\n", "bye")
SILENCE = Reply(then="hang")


def no(text: str) -> Reply:
    """A tagged NO."""
    return Reply(f"TAG NO {text}\r\n".encode())


def always(_command: Command) -> bool:
    """The condition of a fault that knows none."""
    return True


class Fault(NamedTuple):
    """What the server does at a step in place of the proper answer: `times` times, where `when(command)` holds.

    Steps are CONNECT, TLS (the handshake), the verbs of commands (`UID FETCH`), BODY (before the value of BODY[]; the
    command's `words` are then UID and folder) and DONE (behind the proper answer to any command).
    """

    step: str
    reply: Reply
    times: int = FOR_EVER
    when: Callable[[Command], bool] = always


class FaultServer:
    """Serves 127.0.0.1 until `close`, a thread for each connection.

    `boxes` by name (bytes as on the wire) are the folders. `before(command)` is called at each command and may change
    anything. `chatter` is sent before each answer. `tls` is for STARTTLS (offered with it), or from the start with
    `tls_first`. `commands` is all that clients said.
    """

    def __init__(
        self,
        faults: Sequence[Fault] = (),
        *,
        port: int = 0,
        capabilities: Sequence[str] = MODERN,
        passwords: Mapping[str, str] | None = None,
        tls: ssl.SSLContext | None = None,
        tls_first: bool = False,
        before: Callable[[Command], None] | None = None,
        chatter: bytes = b"",
    ) -> None:
        self.faults = list(faults)
        self.capabilities = list(capabilities)
        self.passwords = {"alice": PASSWORD} if passwords is None else dict(passwords)
        self.tls = tls
        self.tls_first = tls_first
        self.before = before
        self.chatter = chatter
        self.injected = b""  # behind the OK to STARTTLS, in clear
        self.separator = "/"
        self.boxes: dict[bytes, Box] = {b"INBOX": Box()}
        self.commands: list[Command] = []
        self.connected: list[float] = []  # when, by time.monotonic
        self.open = 0
        self.most_open = 0
        self.lock = threading.RLock()
        self.closing = threading.Event()
        self._met: dict[int, int] = {}
        self._sessions: dict[Session, threading.Thread] = {}
        self._listener = socket.create_server(("127.0.0.1", port), backlog=512)
        self.port: int = self._listener.getsockname()[1]
        self._thread = threading.Thread(target=self._serve)
        self._thread.start()

    @property
    def inbox(self) -> Box:
        """The folder that is always there."""
        return self.boxes[b"INBOX"]

    def said(self, verb: str) -> list[Command]:
        """All commands of this verb so far."""
        return [command for command in self.commands if command.verb == verb]

    def announce(self, name: bytes = b"INBOX") -> None:
        """Tells all who wait in IDLE on this folder how many messages there are."""
        line = f"* {len(self.boxes[name].mails)} EXISTS\r\n".encode()
        for session in list(self._sessions):
            if session.idling and session.name == name:
                with suppress(OSError):
                    session.send(line)

    def cut(self) -> None:
        """Resets all connections."""
        for session in list(self._sessions):
            session.reset()

    def close(self) -> None:
        """Ends all connections and threads."""
        self.closing.set()
        with suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._thread.join()
        self._listener.close()
        self.cut()
        for thread in list(self._sessions.values()):
            thread.join()

    def reply(self, step: str, command: Command) -> Reply | None:
        """The fault that is due at this step, counted; None for the proper answer."""
        with self.lock:
            for place, fault in enumerate(self.faults):
                if fault.step == step and self._met.get(place, 0) < fault.times and fault.when(command):
                    self._met[place] = self._met.get(place, 0) + 1
                    return fault.reply
        return None

    def secure(self, sock: socket.socket) -> socket.socket:
        """The handshake."""
        assert self.tls is not None
        return self.tls.wrap_socket(sock, server_side=True)

    def welcome(self, mechanism: str, credentials: bytes) -> bool:
        """Whether these are good: of PLAIN or LOGIN `\\0user\\0password`, else a SASL string with the token."""
        if mechanism in ("PLAIN", "LOGIN"):
            _, user, password = credentials.decode().split("\0")
            return self.passwords.get(user) == password
        return any(f"Bearer {token}\x01".encode() in credentials for token in self.passwords.values())

    def _serve(self) -> None:
        number = 0
        while not self.closing.is_set():
            try:
                sock, _ = self._listener.accept()
            except OSError:
                return
            session = Session(self, sock, number)
            thread = threading.Thread(target=self._talk, args=(session,))
            with self.lock:
                number += 1
                self.connected.append(time.monotonic())
                self.open += 1
                self.most_open = max(self.most_open, self.open)
                self._sessions[session] = thread
            thread.start()

    def _talk(self, session: Session) -> None:
        try:
            with suppress(OSError, Over, ValueError):
                session.serve()
        finally:
            session.close()
            with self.lock:
                self.open -= 1
                del self._sessions[session]
