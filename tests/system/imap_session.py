"""One connection of the hostile IMAP server."""

from __future__ import annotations

import base64
import re
import socket
import struct
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from typing import TYPE_CHECKING

from tests.system.imap_store import Box, Command, Mail, Word, compact, parse, texts

if TYPE_CHECKING:
    from tests.system.imap_fault_server import FaultServer, Reply

CHUNK_BYTES = 1 << 16


class Over(Exception):
    """The conversation has come to its end."""


class Session:
    """Answers the commands of one client. `name` is the folder that is open, `idling` whether it waits in IDLE."""

    def __init__(self, server: FaultServer, sock: socket.socket, number: int) -> None:
        self.server = server
        self.name = b""
        self.idling = False
        self._sock = sock
        self._number = number
        self._buffer = bytearray()
        self._lock = threading.Lock()
        self._qresync = False
        self._authentic = False
        self._secure = False

    def serve(self) -> None:
        """Answers until one side ends it. Raises OSError, Over."""
        if self.server.tls_first:
            self._handshake()
        greeting = Command(time.monotonic(), self._number, "*", "CONNECT", [], "")
        if not self._fault("CONNECT", greeting):
            self.send(f"* OK [CAPABILITY {self._capabilities()}] ready\r\n".encode())
        while True:
            command = parse(time.monotonic(), self._number, self._line())
            self.server.commands.append(command)
            if self.server.before is not None:
                self.server.before(command)
            if not self._fault(command.verb, command):
                if self.server.chatter and self._authentic:
                    self.send(self.server.chatter)
                self._answer(command)
                self._fault("DONE", command)

    def send(self, data: bytes) -> None:
        """Sends at once. Raises OSError."""
        with self._lock:
            self._sock.sendall(data)

    def reset(self) -> None:
        """Resets the connection, from another thread."""
        with suppress(OSError):
            self._sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            socket.socket.shutdown(self._sock, socket.SHUT_RDWR)

    def close(self) -> None:
        """Lets go of the socket."""
        self._sock.close()

    def _answer(self, command: Command) -> None:
        handlers: dict[str, Callable[[Command], str | None]] = {
            "CAPABILITY": self._capability,
            "LOGIN": self._login,
            "AUTHENTICATE": self._authenticate,
            "STARTTLS": self._starttls,
            "LOGOUT": self._logout,
            "ENABLE": self._enable,
            "ID": self._id,
            "NOOP": self._noop,
            "CHECK": self._noop,
            "NAMESPACE": self._namespace,
            "LIST": self._list,
            "STATUS": self._status,
            "SELECT": self._examine,
            "EXAMINE": self._examine,
            "UNSELECT": self._unselect,
            "CLOSE": self._unselect,
            "UID FETCH": self._fetch,
            "UID SEARCH": self._search,
            "IDLE": self._idle,
        }
        handler = handlers.get(command.verb)
        free = ("CAPABILITY", "LOGIN", "AUTHENTICATE", "STARTTLS", "LOGOUT", "ID", "NOOP")
        if handler is None:
            last: str | None = "BAD unknown command"
        elif not self._authentic and command.verb not in free:
            last = "BAD log in first"
        else:
            last = handler(command)
        if last is not None:
            self.send(f"{command.tag} {last}\r\n".encode())

    def _capabilities(self) -> str:
        words = [*self.server.capabilities]
        if self.server.tls is not None and not self._secure:
            words.append("STARTTLS")
        if not self._authentic and not any(word.startswith("AUTH=") for word in words):
            words.append("AUTH=PLAIN")
        return " ".join(words)

    def _capability(self, _command: Command) -> str:
        self.send(f"* CAPABILITY {self._capabilities()}\r\n".encode())
        return "OK done"

    def _login(self, command: Command) -> str:
        user, password = texts(command.words)
        return self._welcome("LOGIN", f"\0{user}\0{password}".encode("latin-1"))

    def _authenticate(self, command: Command) -> str:
        words = texts(command.words)
        mechanism = words[0].upper()
        if mechanism == "LOGIN":
            user, password = self._ask(b"VXNlcm5hbWU6"), self._ask(b"UGFzc3dvcmQ6")
            return self._welcome(mechanism, b"\0" + user + b"\0" + password)
        first = b"" if words[1:] == ["="] else base64.b64decode(words[1]) if words[1:] else self._ask(b"")
        answer = self._welcome(mechanism, first)
        if not self._authentic and mechanism != "PLAIN":  # RFC 7628 3.2.3: the error, and an empty answer to it
            self._ask(base64.b64encode(b'{"status":"401","schemes":"bearer"}'))
        return answer

    def _ask(self, challenge: bytes) -> bytes:
        self.send(b"+ " + challenge + b"\r\n")
        return base64.b64decode(self._line())

    def _welcome(self, mechanism: str, credentials: bytes) -> str:
        self._authentic = self.server.welcome(mechanism, credentials)
        if not self._authentic:
            return "NO [AUTHENTICATIONFAILED] wrong"
        return f"OK [CAPABILITY {self._capabilities()}] welcome"

    def _starttls(self, command: Command) -> None:
        assert self.server.tls is not None
        self.send(f"{command.tag} OK go on\r\n".encode() + self.server.injected)
        self._handshake()

    def _handshake(self) -> None:
        self._fault("TLS", Command(time.monotonic(), self._number, "*", "TLS", [], ""))
        self._buffer.clear()
        self._sock = self.server.secure(self._sock)
        self._secure = True

    def _logout(self, command: Command) -> None:
        self.send(f"* BYE see you\r\n{command.tag} OK done\r\n".encode())
        raise Over

    def _enable(self, command: Command) -> str:
        words = [word.upper() for word in texts(command.words) if word.upper() in self.server.capabilities]
        self._qresync |= "QRESYNC" in words
        self.send(f"* ENABLED {' '.join(words)}\r\n".encode())
        return "OK done"

    def _id(self, _command: Command) -> str:
        self.send(b'* ID ("name" "fault.test")\r\n')
        return "OK done"

    def _noop(self, _command: Command) -> str:
        return "OK done"

    def _namespace(self, _command: Command) -> str:
        self.send(f'* NAMESPACE (("" "{self.server.separator}")) NIL NIL\r\n'.encode())
        return "OK done"

    def _list(self, command: Command) -> str:
        words = [word.upper() for word in texts(command.words)]
        items = [word for word in words if word in STATUS_ITEMS]
        for name, box in list(self.server.boxes.items()):
            head = f'* LIST ({box.attributes}) "{self.server.separator}" '.encode()
            self.send(head + literal(name) + b"\r\n")
            if "RETURN" in words and items and "\\Noselect" not in box.attributes:
                self.send(b"* STATUS " + literal(name) + f" ({box.status(items)})\r\n".encode())
        return "OK done"

    def _status(self, command: Command) -> str:
        name, box = self._box(command.words[0])
        if box is None:
            return "NO [NONEXISTENT] no such folder"
        items = [word.upper() for word in texts(command.words[1:])]
        self.send(b"* STATUS " + literal(name) + f" ({box.status(items)})\r\n".encode())
        return "OK done"

    def _box(self, word: Word) -> tuple[bytes, Box | None]:
        assert isinstance(word, bytes)
        name = b"INBOX" if word.upper() == b"INBOX" else word
        box = self.server.boxes.get(name)
        return name, None if box is None or "\\Noselect" in box.attributes else box

    def _examine(self, command: Command) -> str:
        self.name, box = self._box(command.words[0])
        if box is None:
            self.name = b""
            return "NO [NONEXISTENT] no such folder"
        lines = [
            f"* {len(box.mails)} EXISTS",
            "* 0 RECENT",
            "* FLAGS (\\Answered \\Flagged \\Deleted \\Seen \\Draft)",
            "* OK [PERMANENTFLAGS ()] read-only",
            f"* OK [UIDVALIDITY {box.epoch}] valid",
            f"* OK [UIDNEXT {box.next_uid}] next",
        ]
        if "CONDSTORE" in self.server.capabilities:
            lines.append(f"* OK [HIGHESTMODSEQ {box.modseq}] highest")
        rest = texts(command.words[1:])
        if self._qresync and "QRESYNC" in rest:
            epoch, since = int(rest[rest.index("QRESYNC") + 1]), int(rest[rest.index("QRESYNC") + 2])
            if epoch == box.epoch:
                lines += self._changes(box, since)
        self.send("".join(f"{line}\r\n" for line in lines).encode())
        return "OK [READ-ONLY] done"

    def _changes(self, box: Box, since: int) -> list[str]:
        """VANISHED and FETCH responses of RFC 7162 3.2.5."""
        gone = compact(uid for modseq, uid in box.gone if modseq > since)
        lines = [f"* VANISHED (EARLIER) {gone}"] if gone else []
        for number, mail in enumerate(box.mails.values(), 1):
            if mail.modseq > since:
                lines.append(f"* {number} FETCH (UID {mail.uid} FLAGS ({' '.join(mail.flags)}) MODSEQ ({mail.modseq}))")
        return lines

    def _unselect(self, _command: Command) -> str:
        self.name = b""
        return "OK done"

    def _search(self, command: Command) -> str:
        words = [word.upper() for word in texts(command.words)]
        box = self._selected()
        found = list(box.mails.values())
        if "UID" in words:
            chosen = {mail.uid for _, mail in box.chosen(words[words.index("UID") + 1])}
            found = [mail for mail in found if mail.uid in chosen]
        if words and words[0][0].isdigit():  # a set of message numbers
            chosen = {mail.uid for _, mail in box.chosen(words[0], by_uid=False)}
            found = [mail for mail in found if mail.uid in chosen]
        if "MODSEQ" in words:
            found = [mail for mail in found if mail.modseq >= int(words[words.index("MODSEQ") + 1])]
        for flag in ("SEEN", "FLAGGED", "ANSWERED", "DELETED", "DRAFT"):
            name = f"\\{flag.capitalize()}"
            if flag in words or f"UN{flag}" in words:
                found = [mail for mail in found if (name in mail.flags) is (flag in words)]
        uids = [mail.uid for mail in found]
        if "RETURN" in words:
            listed = f" ALL {compact(uids)}" if uids and "COUNT" not in words else ""
            self.send(f'* ESEARCH (TAG "{command.tag}") UID{listed}\r\n'.encode())
        else:
            self.send(f"* SEARCH {' '.join(map(str, uids))}".rstrip().encode() + b"\r\n")
        return "OK done"

    def _selected(self) -> Box:
        box = self.server.boxes.get(self.name)
        return Box() if box is None else box

    def _fetch(self, command: Command) -> str:
        if not self.name:
            return "BAD no folder is open"
        box = self._selected()
        items = [word.upper() for word in texts(command.words[1:2])]
        modifiers = [word.upper() for word in texts(command.words[2:])]
        rows = box.chosen(texts(command.words[:1])[0])
        if "CHANGEDSINCE" in modifiers:
            since = int(modifiers[modifiers.index("CHANGEDSINCE") + 1])
            rows = [(number, mail) for number, mail in rows if mail.modseq > since]
            gone = compact(uid for modseq, uid in box.gone if modseq > since)
            if "VANISHED" in modifiers and gone:
                self.send(f"* VANISHED (EARLIER) {gone}\r\n".encode())
            items += [] if "MODSEQ" in items else ["MODSEQ"]
        for number, mail in rows:
            self._fetch_one(command, items, number, mail)
        return "OK done"

    def _fetch_one(self, command: Command, items: list[str], number: int, mail: Mail) -> None:
        values = {
            "FLAGS": f"({' '.join(sorted(mail.flags))})",
            "INTERNALDATE": mail.internaldate(),
            "RFC822.SIZE": str(mail.size),
            "MODSEQ": f"({mail.modseq})",
            "EMAILID": f"({mail.identity})",
            "X-GM-MSGID": mail.identity,
        }
        head = [f"UID {mail.uid}"] + [f"{item} {values[item]}" for item in items if item in values]
        self.send(f"* {number} FETCH ({' '.join(head)}".encode())
        for item in items:
            if item.startswith("BODY"):
                section, _, partial = item.replace("BODY.PEEK[", "BODY[").partition("]")
                origin = f"<{partial[1:].partition('.')[0]}>" if partial else ""
                self.send(f" {section}]{origin} ".encode())
                at_body = command._replace(words=[str(mail.uid).encode(), self.name])
                if section != "BODY[" or not self._fault("BODY", at_body):
                    self.send(literal(part(mail.content, section, partial)))
        self.send(b")\r\n")

    def _idle(self, command: Command) -> str:
        self.idling = True
        self.send(b"+ idling\r\n")
        try:
            self._line()
        finally:
            self.idling = False
        return "OK done"

    def _fault(self, step: str, command: Command) -> bool:
        """Does what a fault says; whether that was all."""
        reply = self.server.reply(step, command)
        if reply is None:
            return False
        self._perform(reply, command)
        return reply.then != "on"

    def _perform(self, reply: Reply, command: Command) -> None:
        parts = [reply.data] if isinstance(reply.data, bytes) else reply.data()
        tag = command.tag.encode()
        for data in parts:
            said = re.sub(rb"(?m)^TAG |%TAG%", lambda found: found[0].replace(b"TAG", tag).replace(b"%", b""), data)
            if not reply.pause_s:
                self.send(said)
                continue
            for place in range(len(said)):
                if self.server.closing.wait(reply.pause_s):
                    raise Over
                self.send(said[place : place + 1])
        if reply.then == "cut":
            self.reset()
            raise Over
        while reply.then == "flood":
            assert isinstance(reply.data, bytes)
            self.send(reply.data)
        if reply.then in ("bye", "hang"):
            if reply.then == "bye":
                with suppress(OSError):
                    socket.socket.shutdown(self._sock, socket.SHUT_WR)
            while self._sock.recv(CHUNK_BYTES):
                pass
            raise Over

    def _line(self) -> bytes:
        """A command with its literals, without the last CR LF."""
        start = 0
        while True:
            while (end := self._buffer.find(b"\r\n", start)) < 0:
                self._more()
            size = announced(self._buffer[start:end])
            if size is None:
                line = bytes(self._buffer[:end])
                del self._buffer[: end + 2]
                return line
            if not self._buffer[:end].endswith(b"+}"):
                self.send(b"+ go on\r\n")
            start = end + 2 + size
            while len(self._buffer) < start:
                self._more()

    def _more(self) -> None:
        data = self._sock.recv(CHUNK_BYTES)
        if not data:
            raise Over
        self._buffer += data


STATUS_ITEMS = ("MESSAGES", "RECENT", "UIDNEXT", "UIDVALIDITY", "UNSEEN", "HIGHESTMODSEQ", "SIZE")


def announced(line: bytes | bytearray) -> int | None:
    """The size of the literal that a line ends with; None without one."""
    if not line.endswith(b"}"):
        return None
    digits = line[line.rfind(b"{") + 1 : -1].rstrip(b"+")
    return int(digits) if digits.isdigit() else None


def literal(data: bytes) -> bytes:
    """A literal (RFC 3501 4.3)."""
    return f"{{{len(data)}}}\r\n".encode() + data


def part(content: bytes, section: str, partial: str) -> bytes:
    """The content of a section, BODY[ or BODY[HEADER…, and of it what `<offset.size>` says."""
    if section.startswith("BODY[HEADER"):
        head, _, _ = content.partition(b"\r\n\r\n")
        if section.startswith("BODY[HEADER.FIELDS ("):
            wanted = section.partition("(")[2].partition(")")[0].split()
            lines = head.replace(b"\r\n ", b"\0 ").replace(b"\r\n\t", b"\0\t").split(b"\r\n")  # folded ones together
            chosen = [line for line in lines if line.partition(b":")[0].decode("latin-1").upper() in wanted]
            head = b"\r\n".join(chosen).replace(b"\0", b"\r\n")
        content = head + b"\r\n\r\n"
    if partial:
        offset, size = map(int, partial.strip("<>").split("."))
        content = content[offset : offset + size]
    return content
