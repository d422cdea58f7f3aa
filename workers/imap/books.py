"""The state database: what is known of accounts, folders and messages. All of it goes through one writer thread.

It is never the only one who knows: rows are made anew from the names of files and from the servers.
"""

from __future__ import annotations

import os
import time
from itertools import count

from workers.imap import sets
from workers.imap.letters import file_name
from workers.imap.plan import Seen
from workers.store.database import CORRUPT, UNFIT, StoreError
from workers.store.group import GroupWriter
from workers.store.sqlite import Schema, SqliteDatabase

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence
    from typing import Any

    from workers.imap.sets import Ranges
    from workers.store.database import Result, Transaction, Values
    from workers.store.group import Waiting

SCHEMA_VERSION = 1
SCHEMA = Schema(
    "imap",
    os.path.join(os.path.dirname(os.path.abspath(__file__)), "sql"),
    key="imap.state",
    who="this user may not use the state database of imap-sync",
)
DAMAGED = (CORRUPT, UNFIT)  # what of the errors proves that the database itself is bad
FILES = ("-wal", "-shm", "")


class Folder:
    """A row of imap_folder; `high` and `low` are set by the config, `clean` is False until files and rows were compared."""

    __slots__ = (
        "clean",
        "delimiter",
        "epoch",
        "epochs",
        "full_at",
        "held",
        "id",
        "listed",
        "mailbox_id",
        "messages",
        "modseq",
        "mtime_ns",
        "name",
        "path",
        "synced_at",
        "uidnext",
    )

    def __init__(self, row: tuple[Any, ...]) -> None:
        self.id: int = row[0]
        self.name: bytes = row[1]
        self.delimiter: bytes | None = row[2]
        self.path: str = row[3]
        self.epoch: int = row[4]
        self.uidnext: int = row[5]
        self.modseq: int = row[6]
        self.messages: int = row[7]
        self.held: int = row[8]
        self.mailbox_id: bytes | None = row[9]
        self.synced_at: float = row[10]
        self.full_at: float = row[11]
        self.mtime_ns: int = row[12]
        self.epochs: int = row[13]
        self.listed = self.name  # as the server has listed it last: INBOX comes in any case
        self.clean = False
        if row[14] != self.held:  # one that died here has added some, or somebody was at the rows
            self.held, self.mtime_ns = row[14], 0

    def seen(self) -> Seen:
        """What the plan is made of."""
        return Seen(self.epoch, self.uidnext, self.modseq, self.messages, self.held, clean=self.clean)


class Row:
    """A message of a folder's epoch: what imap_message holds."""

    __slots__ = ("date", "digest", "flags", "identity", "size_bytes", "uid")

    def __init__(
        self, uid: int, size_bytes: int, date: int, flags: str, digest: bytes | None, identity: bytes | None = None
    ) -> None:
        self.uid = uid
        self.size_bytes = size_bytes
        self.date = date
        self.flags = flags
        self.digest = digest
        self.identity = identity


def open_state(path: str) -> SqliteDatabase:
    """A connection for the one who has locked the root: a database that is damaged is set aside, and a new one made.

    Raises StoreError, also for one that can't be opened now and may be whole.
    """
    try:
        return open_beside(path)
    except StoreError as error:
        if error.kind not in DAMAGED:
            raise
    set_aside(path)
    return open_beside(path)


def open_beside(path: str) -> SqliteDatabase:
    """A connection for commands, beside whoever has the root: it is made when it is missing, and never set aside.

    Raises StoreError; its kind is one of DAMAGED when only setting it aside helps.
    """
    database = SqliteDatabase(path, SCHEMA, SCHEMA_VERSION)
    try:
        for name in ("account", "folder", "message", "poison", "outgoing"):
            database.run(f"books.check_{name}")
    except BaseException:
        database.close()
        raise
    return database


def set_aside(path: str) -> None:
    """Takes a damaged database out of the way, beside those of before: all of it can be made anew. For who has the root."""
    stamp = time.strftime("%Y%m%d-%H%M%S")
    places = (f"{path}.damaged-{stamp}{f'-{number}' if number else ''}" for number in count())
    target = next(place for place in places if not any(os.path.lexists(place + suffix) for suffix in FILES))
    for suffix in FILES:
        if os.path.exists(path + suffix):
            os.rename(path + suffix, target + suffix)


class Books:
    """What the worker's threads ask of the database and write into it. Each call returns when it is committed and synced."""

    def __init__(self, path: str) -> None:
        self.path = path
        self._writer = GroupWriter(lambda: open_state(path))

    def do(self, work: Callable[[Transaction], Result]) -> Result:
        """Runs `work` in a transaction. Raises StoreError."""
        return self._writer.do(work).result()

    def run(self, name: str, values: Values = ()) -> list[tuple[Any, ...]]:
        """One statement of books.sql. Raises StoreError."""
        return self.do(lambda transaction: transaction.run(f"books.{name}", values))

    def post(self, work: Callable[[Transaction], object]) -> Waiting[object]:
        """Runs `work` some time, without waiting for it."""
        return self._writer.do(work)

    def close(self) -> None:
        """After what was handed in before."""
        self._writer.close()

    def accounts(self, names: Iterable[str]) -> dict[str, tuple[tuple[Any, ...], list[Folder]]]:
        """The rows of accounts (key, demoted, present_until, debug_until, asked, done), made if need be, and their folders.

        Raises StoreError.
        """

        def work(transaction: Transaction) -> dict[str, tuple[tuple[Any, ...], list[Folder]]]:
            found = {}
            for name in names:
                rows = transaction.run("books.account", (name,))
                if not rows:
                    transaction.run("books.add_account", (name,))
                    rows = transaction.run("books.account", (name,))
                found[name] = (rows[0], [Folder(row) for row in transaction.run("books.folders_counted", (rows[0][0],))])
            return found

        return self.do(work)

    def folders(self, account: int) -> list[Folder]:
        """The folders of an account. Raises StoreError."""
        return [Folder(row) for row in self.run("folders", (account,))]

    def uids(self, folder: Folder, low: int = 1) -> Ranges:
        """The UIDs from `low` up that are here, of the folder's epoch. Raises StoreError."""
        return sets.of(row[0] for row in self.run("uids", (folder.id, folder.epoch, low)))

    def rows(self, folder: Folder, low: int, high: int) -> list[Row]:
        """The messages from UID `low` to `high`. Raises StoreError."""
        return [Row(*row) for row in self.run("messages", (folder.id, folder.epoch, low, high))]

    def add(self, folder: Folder, rows: list[Row], gone: Sequence[tuple[int, int]] = ()) -> None:
        """Writes messages down that are here now, and takes rows (epoch, uid) away that they were before. Raises StoreError."""
        values = [
            (folder.id, folder.epoch, row.uid, row.size_bytes, row.date, row.flags, row.digest, row.identity) for row in rows
        ]

        def work(transaction: Transaction) -> None:
            transaction.many("books.add_message", values)
            transaction.many("books.drop_message", [(folder.id, epoch, uid) for epoch, uid in gone])
            transaction.many("books.drop_poison", [(folder.id, folder.epoch, row.uid) for row in rows])

        self.do(work)
        folder.held += len(rows)

    def drop(self, folder: Folder, keys: list[tuple[int, int]]) -> None:
        """Forgets messages (epoch, uid) that are here no more. Raises StoreError."""
        self.do(lambda transaction: transaction.many("books.drop_message", [(folder.id, *key) for key in keys]))
        folder.held -= sum(epoch == folder.epoch for epoch, _ in keys)

    def set_flags(self, folder: Folder, changes: list[tuple[int, str]]) -> None:
        """Writes changed flags (uid, flags). Raises StoreError."""
        self.do(
            lambda transaction: transaction.many(
                "books.set_flags", [(flags, folder.id, folder.epoch, uid) for uid, flags in changes]
            )
        )

    def settle(self, folder: Folder, *, exactly: bool) -> None:
        """The folder is in step: its watermarks move together. `exactly`: the rows are counted again. Raises StoreError."""
        values = {
            slot: getattr(folder, slot)
            for slot in Folder.__slots__
            if slot not in ("name", "delimiter", "path", "clean", "listed")
        }

        def work(transaction: Transaction) -> list[tuple[Any, ...]]:
            transaction.run("books.settle" if exactly else "books.settle_quick", values)
            return transaction.run("books.held", (folder.id,)) if exactly else []

        counted = self.do(work)
        if counted:
            folder.held = counted[0][0]

    def begin_epoch(self, folder: Folder, epoch: int) -> None:
        """The folder has a new UIDVALIDITY: nothing of it is here yet; rows of the old one stay until they are matched."""
        folder.epochs += 1 if folder.epoch else 0
        folder.epoch, folder.uidnext, folder.modseq, folder.messages = epoch, 0, 0, 0
        self.run("unsettle", (epoch, folder.epochs, folder.id))
        folder.held = sets.count(self.uids(folder))

    def poison(self, folder: Folder) -> dict[int, tuple[int, float]]:
        """The poison messages by UID: how often they were asked for, and when they are again. Raises StoreError."""
        return {row[0]: (row[1], row[2]) for row in self.run("poison", (folder.id, folder.epoch))}

    def drop_poison(self, folder: Folder, uids: list[int]) -> None:
        """Forgets poison messages that are gone. Raises StoreError."""
        self.do(lambda transaction: transaction.many("books.drop_poison", [(folder.id, folder.epoch, uid) for uid in uids]))

    def same_content(self, account: int, rows: list[Row]) -> list[str | None]:
        """For each row where below the account's folder the same content lies already, if it does. Raises StoreError."""

        def work(transaction: Transaction) -> list[str | None]:
            found: list[str | None] = []
            for row in rows:
                twin = transaction.run("books.same_content", (row.date, row.size_bytes, row.digest, account))
                if not twin or not row.size_bytes:
                    found.append(None)
                    continue
                path, epoch, uid, size_bytes, date, flags = twin[0]
                found.append(os.path.join(path, "cur", file_name(epoch, uid, size_bytes, date, flags)))
            return found

        return self.do(work)

    def old(self, folder: Folder) -> dict[tuple[int, int], Row]:
        """The rows of earlier epochs, by (epoch, uid). Raises StoreError."""
        rows = self.run("old_messages", (folder.id, folder.epoch))
        return {(row[0], row[1]): Row(*row[1:]) for row in rows}

    def each(self, folder: Folder) -> Iterator[tuple[int, Row]]:
        """All rows of the folder with their epochs, some at a time. Raises StoreError."""
        epoch, uid = -1, -1
        while rows := self.run("messages_after", (folder.id, epoch, uid)):
            for row in rows:
                yield row[0], Row(*row[1:])
            epoch, uid = rows[-1][0], rows[-1][1]

    def adopt(self, folder: Folder, rows: list[tuple[int, Row]]) -> None:
        """Writes down messages (epoch, row) that were found as files. Raises StoreError."""
        values = [
            (folder.id, epoch, row.uid, row.size_bytes, row.date, row.flags, row.digest, row.identity) for epoch, row in rows
        ]
        self.do(lambda transaction: transaction.many("books.add_message", values))
        folder.held += sum(epoch == folder.epoch for epoch, _ in rows)

    def same_identity(self, account: int, wanted: list[tuple[int, bytes | None]]) -> list[tuple[str, Row] | None]:
        """For each (date, identity) where below the account's folder that message lies, and its row. Raises StoreError."""

        def work(transaction: Transaction) -> list[tuple[str, Row] | None]:
            found: list[tuple[str, Row] | None] = []
            for date, identity in wanted:
                rows = transaction.run("books.same_identity", (identity, date, account))
                if not rows:
                    found.append(None)
                    continue
                path, epoch, uid, size_bytes, when, flags, digest = rows[0]
                name = file_name(epoch, uid, size_bytes, when, flags)
                found.append((os.path.join(path, "cur", name), Row(uid, size_bytes, when, flags, digest, identity)))
            return found

        return self.do(work)
