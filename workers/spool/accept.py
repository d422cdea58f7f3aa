"""Puts mails into the store: rows for the message, its body in parts, and its recipients. Part of a transaction.

Each sendmail call passes here: nothing heavy is imported.
"""

from __future__ import annotations

import os

from workers.store.database import DENIED, StoreError
from workers.store.durable import make_folder
from workers.store.sqlite import Schema, SqliteDatabase

TYPE_CHECKING = False
if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Sequence

    from workers.mail.config import Config
    from workers.store.database import Transaction

SCHEMA_VERSION = 2
PART_BYTES = 256 * 1024
LINE_BYTES = 998  # RFC 5321 4.5.3.1.6, without the CRLF
NORMAL_PRIORITY = 5


class Submission:
    """One mail to be queued. `text` is the message with CRLF ends; times are Unix seconds.

    `lanes` holds, for each of `recipients`, the name of the relay that it goes to.
    """

    __slots__ = (
        "bounce_of",
        "expires_at",
        "identifier",
        "lanes",
        "message_id",
        "priority",
        "recipients",
        "send_at",
        "sender",
        "text",
    )

    def __init__(
        self, sender: str, recipients: list[str], lanes: list[str], message_id: str, text: bytes, expires_at: float
    ) -> None:
        self.sender = sender
        self.recipients = recipients
        self.lanes = lanes
        self.message_id = message_id
        self.text = text
        self.expires_at = expires_at
        self.priority = NORMAL_PRIORITY
        self.send_at = 0.0
        self.identifier: str | None = None
        self.bounce_of: int | None = None


def open_spool(config: Config) -> SqliteDatabase:
    """A connection to the spool, made and migrated if need be. Raises StoreError."""
    group = None if config.group is None else _group_id(config.group)
    if group is not None and config.database.startswith(config.state + os.sep):
        try:
            _open_way(config.state, group)
        except OSError as error:
            raise StoreError(DENIED, f"{error.filename}: {error.strerror}") from None
    return SqliteDatabase(config.database, SCHEMA, SCHEMA_VERSION, group=group)


def accept(transaction: Transaction, mails: Sequence[Submission], now: float) -> list[int]:
    """Writes the mails and returns their ids; for an `identifier` that was queued before, the id of that mail."""
    last: int = transaction.run("enqueue.last_mail_id")[0][0]
    ids: list[int] = []
    messages, bodies, recipients = [], [], []
    fresh: dict[str, int] = {}
    for mail in mails:
        if mail.identifier is not None:
            known = fresh.get(mail.identifier) or _queued_before(transaction, mail.identifier)
            if known:
                ids.append(known)
                continue
            fresh[mail.identifier] = last + 1
        last += 1
        ids.append(last)
        messages.append(_message_row(last, mail, now))
        bodies += [(last, part, body) for part, body in enumerate(parts(mail.text))]
        for address, lane in zip(mail.recipients, mail.lanes, strict=True):
            recipients.append((last, address, lane, mail.priority, mail.send_at, now))
    transaction.many("enqueue.add_message", messages)
    transaction.many("enqueue.add_body", bodies)
    transaction.many("enqueue.add_recipient", recipients)
    return ids


def parts(text: bytes) -> list[bytes]:
    """The body as it is stored: one part up to PART_BYTES, else parts of that size."""
    if len(text) <= PART_BYTES:
        return [text]
    return [text[start : start + PART_BYTES] for start in range(0, len(text), PART_BYTES)]


def has_long_lines(text: bytes) -> bool:
    """Whether a line has more than 998 octets. Looks at each 998th octet's surroundings only."""
    start = 0
    while start + LINE_BYTES < len(text):
        end = text.rfind(b"\n", start, start + LINE_BYTES + 2)  # the line's own CRLF may stand behind the 998
        if end < 0:
            return True
        start = end + 1
    return False


def _message_row(mail_id: int, mail: Submission, now: float) -> tuple[object, ...]:
    eight_bit = not mail.text.isascii()
    shape = (len(mail.text), eight_bit, has_long_lines(mail.text))
    return (mail_id, mail.sender, mail.message_id, *shape, now, mail.expires_at, mail.identifier, mail.bounce_of)


def _queued_before(transaction: Transaction, identifier: str) -> int | None:
    rows = transaction.run("enqueue.with_identifier", (identifier,))
    return int(rows[0][0]) if rows else None


def _open_way(state: str, group: int) -> None:
    """Lets the group through our own state folder, down to what is shared."""
    make_folder(state)
    facts = os.stat(state)
    if facts.st_uid == os.geteuid() and facts.st_mode & 0o077 == 0:
        os.chown(state, -1, group)
        os.chmod(state, 0o710)  # noqa: S103 - the group may pass, and see nothing


def _group_id(name: str) -> int:
    import grp

    try:
        return grp.getgrnam(name).gr_gid
    except KeyError:
        raise StoreError(DENIED, f"spool.group: there is no group {name}") from None


def _before(database: sqlite3.Connection) -> int:
    """The version of a spool that has no mail_meta: the first one wrote it into the file's head."""
    tables = database.execute("SELECT 1 FROM sqlite_master WHERE name = 'mail_body'").fetchone()
    version: int = database.execute("PRAGMA user_version").fetchone()[0]
    return version if tables else 0


SCHEMA = Schema(
    "mail",
    os.path.join(os.path.dirname(os.path.abspath(__file__)), "sql"),
    key="spool.database",
    who="this user may not use the spool (spool.group in mail.toml says who else may)",
    before=_before,
)
