"""The spool's database: SQLite, WAL, synchronous=FULL. What `accept` returned for is on disk.

One process claims (it holds the sender's lock); any number may accept. SQL stands in queries.sql by name.
"""

from __future__ import annotations

import os
import sqlite3

from workers.mail.errors import CONFIG, IO, NOT_ALLOWED, TRY_AGAIN, Refused
from workers.spool.durable import make_folder, sync_upwards

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable
    from typing import Any

SCHEMA_VERSION = 1
BUSY_S = 30.0
MOST_RECIPIENTS = 100  # in one transaction; each relay must take as many, RFC 5321 4.5.3.1.8
DUE_STATES = ("queued", "unknown", "deferred")  # in the order of their turn: fresh mail overtakes deferred


class Recipient:
    """One claimed recipient. `failures` counts attempts that failed before this one."""

    __slots__ = ("address", "attempts", "failures", "id")

    def __init__(self, id_: int, address: str, attempts: int, failures: int) -> None:
        self.id = id_
        self.address = address
        self.attempts = attempts
        self.failures = failures


class Mail:
    """A mail with those of its recipients that were claimed together. Times are Unix seconds."""

    __slots__ = ("body", "created_at", "expires_at", "id", "recipients", "sender")

    def __init__(self, id_: int, row: tuple[str, float, float, bytes], recipients: list[Recipient]) -> None:
        self.id = id_
        self.sender, self.created_at, self.expires_at, self.body = row
        self.recipients = recipients


class Settled:
    """What is written about one recipient after an attempt; `unknown` is 1 for a possible duplicate."""

    __slots__ = ("answer", "due_at", "failures", "recipient", "state")

    def __init__(self, recipient: Recipient, state: str, failures: int, due_at: float, answer: str) -> None:
        self.recipient = recipient
        self.state = state
        self.failures = failures
        self.due_at = due_at
        self.answer = answer


class Store:
    """One connection to the spool. Every method may raise sqlite3.Error; a write is whole or not at all."""

    def __init__(self, path: str) -> None:
        """Opens the spool at `path` and makes it if need be. Raises OSError, sqlite3.Error, Refused."""
        if not os.path.exists(path):
            _make_file(path)
        self._statements = _statements()
        self._db = sqlite3.connect(path, timeout=BUSY_S, isolation_level=None, cached_statements=32)
        self._db.execute("PRAGMA synchronous=FULL")
        version = self._version()
        if version == 0:
            self._create(os.path.dirname(path))
        elif version != SCHEMA_VERSION:
            raise Refused(
                CONFIG, f"{path}: has schema {version}, this version of smtp-spool knows {SCHEMA_VERSION}; install the newer"
            )

    def close(self) -> None:
        """Closes the connection."""
        self._db.close()

    def accept(self, sender: str, recipients: Iterable[str], message_id: str, body: bytes, now: float, max_age_s: float) -> int:
        """Stores a mail and returns its id; committed and synced when it returns."""
        with self._db:
            self._db.execute("BEGIN IMMEDIATE")
            row = (sender, message_id, len(body), now, now + max_age_s)
            mail_id = self._run("add_message", row).lastrowid
            assert mail_id is not None  # noqa: S101 - an INSERT has a row id; this tells mypy
            self._run("add_body", (mail_id, body))
            for address in recipients:
                self._run("add_recipient", (mail_id, address, now, now))
        return mail_id

    def claim(self, boot_id: str, now: float) -> Mail | None:
        """Claims what is due of one mail, as `sending`; None when nothing is due."""
        with self._db:
            self._db.execute("BEGIN IMMEDIATE")
            mail_id = self._next_due(now)
            if mail_id is None:
                return None
            key = {"mail_id": mail_id, "boot_id": boot_id, "now": now, "most": MOST_RECIPIENTS}
            recipients = [Recipient(*row) for row in self._run("claim", key).fetchall()]
            return Mail(mail_id, self._run("message", (mail_id,)).fetchone(), recipients)

    def has_due(self, now: float) -> bool:
        """Whether something could be claimed now."""
        return self._next_due(now) is not None

    def note_past_dot(self, recipients: Iterable[Recipient]) -> None:
        """Notes that the final dot is about to go out. Survives the death of this process, not that of the host."""
        self._db.execute("PRAGMA synchronous=NORMAL")  # not synced: after a reboot every claim counts as past the dot
        try:
            with self._db:
                self._db.execute("BEGIN IMMEDIATE")
                self._db.executemany(self._statements["note_past_dot"], [(recipient.id,) for recipient in recipients])
        finally:
            self._db.execute("PRAGMA synchronous=FULL")

    def settle(self, mail_id: int, settled: Iterable[Settled], now: float) -> None:
        """Writes the results of an attempt."""
        with self._db:
            self._db.execute("BEGIN IMMEDIATE")
            for result in settled:
                unknown = int(result.state == "unknown")
                row = (result.state, result.failures, unknown, result.due_at, result.answer, now, result.recipient.id)
                self._run("settle", row)
            self._run("drop_sent_body", {"mail_id": mail_id})

    def recover(self, boot_id: str, now: float) -> tuple[int, int]:
        """Gives back what a dead sender had claimed: (unknown, unsent). Only under the sender's lock."""
        with self._db:
            self._db.execute("BEGIN IMMEDIATE")
            unknown = self._run("recover_unknown", {"boot_id": boot_id, "now": now}).rowcount
            return unknown, self._run("recover_unsent", {"now": now}).rowcount

    def expire(self, answer: str, now: float) -> list[tuple[int, str]]:
        """Ends what is past its age and not sent; (mail id, address) of each."""
        with self._db:
            self._db.execute("BEGIN IMMEDIATE")
            return self._run("expire", {"answer": answer, "now": now}).fetchall()

    def next_due_at(self) -> float | None:
        """When the next recipient is due, in Unix seconds; None when nothing waits."""
        due_at: float | None = self._run("next_due_at").fetchone()[0]
        return due_at

    def count_unsent(self) -> int:
        """How many recipients are still to be sent to."""
        number: int = self._run("count_unsent").fetchone()[0]
        return number

    def recipients(self, *, sent_too: bool) -> list[dict[str, Any]]:
        """A row for each recipient, oldest first, with the columns of the query as keys."""
        cursor = self._run("recipients", {"all": int(sent_too)})
        names = [column[0] for column in cursor.description]
        return [dict(zip(names, row, strict=True)) for row in cursor]

    def _next_due(self, now: float) -> int | None:
        for state in DUE_STATES:
            row = self._run("next_due", {"state": state, "now": now}).fetchone()
            if row is not None:
                mail_id: int = row[0]
                return mail_id
        return None

    def _run(self, name: str, values: tuple[Any, ...] | dict[str, Any] = ()) -> sqlite3.Cursor:
        return self._db.execute(self._statements[name], values)

    def _version(self) -> int:
        version: int = self._db.execute("PRAGMA user_version").fetchone()[0]
        return version

    def _create(self, folder: str) -> None:
        """Makes the tables, once: several processes may come here at the same time."""
        import fcntl

        fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX)  # a switch to WAL does not wait for another one's lock, it fails
            if self._version() == 0:
                sync_upwards(folder)  # before the schema is there to be trusted by others
                self._db.execute("PRAGMA journal_mode=WAL")
                script = _text("schema.sql")
                self._db.executescript(f"BEGIN IMMEDIATE; {script}; PRAGMA user_version={SCHEMA_VERSION}; COMMIT;")
        finally:
            os.close(fd)


def store_refused(database: str, error: Exception) -> Refused:
    """What an error of SQLite means for the caller (https://www.sqlite.org/rescode.html)."""
    code = getattr(error, "sqlite_errorcode", 0) & 0xFF
    if code in (5, 6):  # BUSY, LOCKED
        return Refused(TRY_AGAIN, f"{database}: in use by others for too long ({error}); try again")
    if code == 13:  # FULL
        return Refused(TRY_AGAIN, f"{database}: the disk is full; free some space and try again")
    if code in (8, 14, 23, 3):  # READONLY, CANTOPEN, AUTH, PERM
        return Refused(NOT_ALLOWED, f"{database}: {error}; this user may not use the spool, or its folder is read-only")
    return Refused(IO, f"{database}: {error}")


def _make_file(path: str) -> None:
    """Makes the empty database file (mode 0600; SQLite gives its WAL the same) and its folders."""
    make_folder(os.path.dirname(path))
    os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600))


def _statements() -> dict[str, str]:
    found = {}
    for part in _text("queries.sql").split("-- name: ")[1:]:
        name, _, statement = part.partition("\n")
        found[name] = statement
    return found


def _text(name: str) -> str:
    with open(os.path.join(os.path.dirname(__file__), name), encoding="utf-8") as file:
        return file.read()
