"""A mail user who acts on an IMAP server, by imaplib: what the tests change there, and what is there to be copied."""

from __future__ import annotations

import imaplib
import time
from collections.abc import Iterable, Sequence
from typing import NamedTuple

PASSWORD = "correct horse"
FILL = 500  # messages of one APPEND (RFC 3502)
LETTERS = {"\\Draft": "D", "\\Flagged": "F", "\\Answered": "R", "\\Seen": "S", "\\Deleted": "T"}


class Message(NamedTuple):
    """One message as the server has it. `flags` are without \\Recent, keywords too; `date` is INTERNALDATE in Unix seconds."""

    flags: frozenset[str]
    date: int
    content: bytes

    def letters(self) -> str:
        """What stands for the flags in a Maildir name."""
        return "".join(sorted(LETTERS[flag] for flag in self.flags if flag in LETTERS))


class MailUser:
    """Acts on the server at `port` of 127.0.0.1. Folder names are as on the wire (modified UTF-7), without quotes.

    Each method has happened on the server when it returns; what the server refuses fails the test.
    """

    def __init__(self, name: str, port: int, password: str = PASSWORD) -> None:
        self.name = name
        self.password = password
        self._port = port
        self._imap: imaplib.IMAP4 | None = None

    @property
    def imap(self) -> imaplib.IMAP4:
        """A connection that is logged in, for what has no method here."""
        if self._imap is None:
            self._imap = imaplib.IMAP4("127.0.0.1", self._port)
            self._imap.login(self.name, self.password)  # quotes it itself
        return self._imap

    def close(self) -> None:
        """Ends the connection; the next act opens another."""
        if self._imap is not None:
            self._imap.shutdown()
            self._imap = None

    def append(self, folder: str, content: bytes, flags: Iterable[str] = (), date: int | None = None) -> int:
        """Saves a message there and returns its UID."""
        before = self.next_uid(folder)
        self.fill(folder, [content], flags, date)
        return before

    def fill(self, folder: str, contents: Sequence[bytes], flags: Iterable[str] = (), date: int | None = None) -> None:
        """Saves many messages, FILL in one command."""
        words = " ".join(flags)
        stamp = imaplib.Time2Internaldate(time.time() if date is None else date)
        for start in range(0, len(contents), FILL):
            parts = [b"F1 APPEND " + quoted(folder).encode()]
            for content in contents[start : start + FILL]:
                parts += [f" ({words}) {stamp} {{{len(content)}+}}\r\n".encode(), content]
            self.imap.send(b"".join([*parts, b"\r\n"]))
            line = b""
            while not line.startswith(b"F1 "):
                line = self.imap.readline()
                assert line, "the server closed the connection"
            assert line.startswith(b"F1 OK"), line

    def flag(self, folder: str, uids: str, flags: str, how: str = "+FLAGS") -> None:
        """Adds flags (or takes them: -FLAGS, or replaces them: FLAGS) to messages, `uids` as on the wire."""
        self._select(folder)
        _good(self.imap.uid("STORE", uids, how, f"({flags})"))

    def expunge(self, folder: str, uids: str) -> None:
        """Removes messages for good."""
        self.flag(folder, uids, "\\Deleted")
        _good(self.imap.uid("EXPUNGE", uids))

    def move(self, folder: str, uids: str, target: str) -> None:
        """Moves messages to another folder."""
        self._select(folder)
        _good(self.imap.uid("MOVE", uids, quoted(target)))

    def copy(self, folder: str, uids: str, target: str) -> None:
        """Copies messages to another folder."""
        self._select(folder)
        _good(self.imap.uid("COPY", uids, quoted(target)))

    def create(self, folder: str) -> None:
        """Makes a folder."""
        _good(self.imap.create(quoted(folder)))

    def rename(self, folder: str, name: str) -> None:
        """Gives a folder another name."""
        self._unselect()
        _good(self.imap.rename(quoted(folder), quoted(name)))

    def delete(self, folder: str) -> None:
        """Removes a folder with all that is in it."""
        self._unselect()
        _good(self.imap.delete(quoted(folder)))

    def folders(self) -> list[str]:
        """All folders that hold messages, sorted."""
        return sorted(folder for folder in map(_listed, _good(self.imap.list())) if folder is not None)

    def status(self, folder: str, *items: str) -> dict[str, int]:
        """STATUS items of a folder."""
        text = _good(self.imap.status(quoted(folder), f"({' '.join(items)})"))[-1]
        assert isinstance(text, bytes)
        words = text.decode().rpartition("(")[2].rstrip(")").split()
        return {name: int(value) for name, value in zip(words[::2], words[1::2], strict=True)}

    def next_uid(self, folder: str) -> int:
        """The UID that comes next there."""
        return self.status(folder, "UIDNEXT")["UIDNEXT"]

    def epoch(self, folder: str) -> int:
        """The UIDVALIDITY of a folder."""
        return self.status(folder, "UIDVALIDITY")["UIDVALIDITY"]

    def contents(self, folder: str) -> dict[int, Message]:
        """All that is in a folder, by UID."""
        self._select(folder, readonly=True)
        rows = _good(self.imap.uid("FETCH", "1:*", "(UID FLAGS INTERNALDATE BODY.PEEK[])"))
        found = {}
        for row in rows:
            if isinstance(row, tuple):
                head, content = row
                flags = frozenset(flag.decode() for flag in imaplib.ParseFlags(head)) - {"\\Recent"}
                moment = imaplib.Internaldate2tuple(head)
                assert moment is not None
                found[int(head.partition(b"UID ")[2].split()[0])] = Message(flags, int(time.mktime(moment)), content)
        return found

    def _select(self, folder: str, *, readonly: bool = False) -> None:
        _good(self.imap.select(quoted(folder), readonly))

    def _unselect(self) -> None:
        if self.imap.state == "SELECTED":
            _good(self.imap.unselect())


def quoted(folder: str) -> str:
    """A quoted string (RFC 3501 4.3)."""
    escaped = folder.replace("\\", "\\\\").replace('"', '\\"')
    return f'"{escaped}"'


def _good(answer: tuple[str, Sequence[object]]) -> list[object]:
    status, rows = answer
    assert status == "OK", answer
    return [row for row in rows if row is not None]


def _listed(row: object) -> str | None:
    """The folder of a LIST response; None for one that holds no messages."""
    if isinstance(row, tuple):  # a name as a literal
        attributes, name = row[0], row[1]
    else:
        assert isinstance(row, bytes)
        attributes, _, rest = row.partition(b") ")
        name = rest.partition(b" ")[2]
        if name.startswith(b'"'):
            name = name[1:-1].replace(b'\\"', b'"').replace(b"\\\\", b"\\")
    return None if b"\\Noselect" in attributes or b"\\NonExistent" in attributes or not name else name.decode("latin-1")
