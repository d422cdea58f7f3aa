"""The SQLite engine: WAL, synchronous=FULL, BEGIN IMMEDIATE; what a transaction returned for is on disk.

A connection is never used by a second thread nor carried over fork. Network file systems are refused: WAL needs
memory that all its users share (https://www.sqlite.org/wal.html).
"""

from __future__ import annotations

import os
import sqlite3

from workers.store.database import BUSY, CONSTRAINT, CORRUPT, DENIED, FULL, NEWER, OTHER, UNFIT, StoreError
from workers.store.durable import make_folder, sync_upwards
from workers.store.statements import parse

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from typing import Any

    from workers.store.database import Result, Transaction, Values

BUSY_S = 30.0
NETWORK = frozenset(("nfs", "nfs4", "cifs", "smb3", "smbfs", "ceph", "glusterfs", "fuse.glusterfs", "fuse.sshfs", "afs", "9p"))
SHMSIZE = 4874  # SQLITE_IOERR_SHMSIZE: no room for the file that connections share
KINDS = {
    1: UNFIT, 5: BUSY, 6: BUSY, 15: BUSY, 13: FULL, 11: CORRUPT, 26: CORRUPT, 18: CONSTRAINT, 19: CONSTRAINT,
    3: DENIED, 8: DENIED, 14: DENIED, 23: DENIED,
}  # fmt: skip


class Schema:
    """What a worker keeps in a database: its prefix (`mail`) and the folder of its .sql files.

    The folder holds `NNNN.sql`, the numbered migrations, and files of named statements. `before` gives the version of
    a database that has no PREFIX_meta table yet: 0 for an empty one. For errors: `key` of mail.toml names the
    database, and `who` says that this user may not use it, and who may.
    """

    __slots__ = ("before", "folder", "key", "prefix", "who")

    def __init__(
        self, prefix: str, folder: str, *, key: str, who: str, before: Callable[[sqlite3.Connection], int] = lambda _: 0
    ) -> None:
        self.prefix = prefix
        self.folder = folder
        self.key = key
        self.who = who
        self.before = before

    def versions(self) -> list[int]:
        """The numbers of the migrations, in order."""
        return sorted(int(name[:4]) for name in os.listdir(self.folder) if name[:4].isdigit() and name.endswith(".sql"))


class SqliteDatabase:
    """One connection. It makes the file, its folders and its tables when they are missing, and migrates older ones."""

    def __init__(self, path: str, schema: Schema, version: int, *, group: int | None = None, busy_s: float = BUSY_S) -> None:
        """Opens `path`; `version` is the schema this code knows, `group` the id of those who may use it besides.

        Raises StoreError.
        """
        self.path = path
        self._schema = schema
        self.group = group
        self._statements: dict[str, str] = {}
        self._on_commit: list[Callable[[], None]] = []
        try:
            if group is not None or not os.path.exists(path):
                self._make_file()
            kind = file_system(path)
            if kind in NETWORK:
                raise StoreError(DENIED, f"{path}: lies on {kind}, where SQLite is not safe; put {schema.key} on a local disk")
            self._db = sqlite3.connect(path, timeout=busy_s, isolation_level=None, cached_statements=64)
            try:
                self._db.execute("PRAGMA synchronous=FULL")
                self._check_version(version)
            except BaseException:
                self._db.close()
                raise
        except OSError as error:
            raise StoreError(DENIED if isinstance(error, PermissionError) else OTHER, _os_text(error, path, schema.who)) from None
        except sqlite3.Error as error:
            raise store_error(path, error, schema.who) from None

    def transact(self, work: Callable[[Transaction], Result]) -> Result:
        """Runs `work(self)` in one transaction; committed and synced when it returns. Raises StoreError."""
        self._on_commit.clear()
        try:
            self._db.execute("BEGIN IMMEDIATE")
            try:
                result = work(self)
                self._db.execute("COMMIT")
            except BaseException:
                if self._db.in_transaction:
                    self._db.execute("ROLLBACK")
                raise
        except sqlite3.Error as error:
            raise store_error(self.path, error, self._schema.who) from None
        for each in self._on_commit:
            each()
        return result

    def on_commit(self, work: Callable[[], None]) -> None:
        """Runs `work` when the transaction is committed, and never when it is not; inside `transact` only."""
        self._on_commit.append(work)

    def run(self, name: str, values: Values = ()) -> list[tuple[Any, ...]]:
        """The rows of the statement `FILE.NAME`. Raises StoreError outside `transact`, which turns it into one."""
        if self._db.in_transaction:
            return self._db.execute(self._statement(name), values).fetchall()
        try:
            return self._db.execute(self._statement(name), values).fetchall()
        except sqlite3.Error as error:
            raise store_error(self.path, error, self._schema.who) from None

    def many(self, name: str, rows: Iterable[Values]) -> None:
        """Runs the statement once for each row of values; inside `transact` only."""
        self._db.executemany(self._statement(name), rows)

    def changes(self) -> int:
        """A number that differs from the last one when another connection has committed. Raises StoreError."""
        try:
            number: int = self._db.execute("PRAGMA data_version").fetchone()[0]
        except sqlite3.Error as error:
            raise store_error(self.path, error, self._schema.who) from None
        return number

    def close(self) -> None:
        """Closes the connection; the last one of all also empties the WAL."""
        self._db.close()

    def _statement(self, name: str) -> str:
        found = self._statements.get(name)
        if found is None:
            file, _, _ = name.partition(".")
            for key, text in parse(_text(self._schema, file)).items():
                self._statements[f"{file}.{key}"] = text
            found = self._statements[name]
        return found

    def _check_version(self, version: int) -> None:
        found = self._version()
        if found < version:
            self._migrate(version)
            found = self._version()  # newer code may have been faster
        if found > version:
            raise StoreError(NEWER, f"{self.path}: has schema {found}, this version knows {version}; install the newer one")

    def _version(self) -> int:
        try:
            row = self._db.execute(f"SELECT value FROM {self._schema.prefix}_meta WHERE name = 'schema'").fetchone()  # noqa: S608
        except sqlite3.OperationalError as error:
            if "no such table" not in str(error):
                raise
            return self._schema.before(self._db)
        if row is None or not str(row[0]).isdigit():
            raise StoreError(UNFIT, f"{self.path}: {self._schema.prefix}_meta does not tell the number of its schema")
        return int(row[0])

    def _migrate(self, version: int) -> None:
        """Brings the tables to `version`, once: several processes may come here at the same time."""
        import fcntl

        folder = os.path.dirname(self.path)
        fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX)  # a switch to WAL does not wait for another one's lock, it fails
            sync_upwards(folder)  # before the schema is there to be trusted by others
            self._db.execute("PRAGMA journal_mode=WAL")
            self._db.execute("BEGIN IMMEDIATE")
            found = self._version()
            for number in self._schema.versions():
                if found < number <= version:
                    for statement in _split(_text(self._schema, f"{number:04d}")):
                        self._db.execute(statement)
            if found < version:
                name = f"{self._schema.prefix}_meta"
                self._db.execute(f"INSERT OR REPLACE INTO {name} (name, value) VALUES ('schema', ?)", (version,))  # noqa: S608
            self._db.execute("COMMIT")
        finally:
            if self._db.in_transaction:
                self._db.execute("ROLLBACK")
            os.close(fd)

    def _make_file(self) -> None:
        """Makes the empty file (0600, with a group 0660; SQLite gives its WAL the same) and its folders."""
        folder = os.path.dirname(self.path)
        if self.group is None:
            make_folder(folder)
            os.close(os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600))
            return
        if os.path.exists(self.path) and not _is_ours_to_share(self.path, self.group):
            return
        make_folder(folder)
        share_folder(folder, self.group)
        os.close(os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o660))
        for path in (f"{self.path}-wal", f"{self.path}-shm", self.path):  # the last one tells that all is done
            if os.path.exists(path):
                os.chown(path, -1, self.group)
                os.chmod(path, 0o660)


def share_folder(folder: str, group: int) -> None:
    """Opens a folder of ours to a group: what is made in it belongs to that group too (mode 2770). Raises OSError."""
    facts = os.stat(folder)
    if facts.st_gid != group or facts.st_mode & 0o7777 != 0o2770:
        os.chown(folder, -1, group)
        os.chmod(folder, 0o2770)  # noqa: S103 - that is what `group` asks for


def _is_ours_to_share(path: str, group: int) -> bool:
    """Whether a file of ours is not yet the group's: one that was made before `group` was set, or by one that died here."""
    facts = os.stat(path)
    return facts.st_uid == os.geteuid() and (facts.st_gid != group or facts.st_mode & 0o777 != 0o660)


def file_system(path: str) -> str:
    """The type of the file system that holds `path`, as /proc/self/mountinfo names it; `` when it can't be told."""
    device = os.stat(path).st_dev
    number = f"{os.major(device)}:{os.minor(device)}"
    with open("/proc/self/mountinfo", encoding="utf-8", errors="surrogateescape") as file:
        for line in file:
            if line.split(" ", 3)[2] == number:
                return line.partition(" - ")[2].split(" ", 1)[0]
    return ""


def store_error(path: str, error: sqlite3.Error, who: str) -> StoreError:
    """What an error of SQLite means (https://www.sqlite.org/rescode.html), in words for people; `who` as in Schema."""
    code = getattr(error, "sqlite_errorcode", 0)
    kind = FULL if code == SHMSIZE else KINDS.get(code & 0xFF, OTHER)
    if kind == BUSY:
        return StoreError(kind, f"{path}: in use by others for too long ({error}); try again")
    if kind == FULL:
        return StoreError(kind, f"{path}: the disk is full; free some space and try again")
    if kind == DENIED:
        return StoreError(kind, f"{path}: {error}; {who}, or its folder is read-only")
    if kind == CORRUPT:
        return StoreError(
            kind, f"{path}: {error}; take a copy, then put back a backup or save what can be read: sqlite3 .recover"
        )
    return StoreError(kind, f"{path}: {error}")


def _split(script: str) -> list[str]:
    """The statements of a migration; one transaction holds them all, which executescript() would end."""
    found = []
    rest = ""
    for line in script.splitlines(keepends=True):
        rest += line
        if sqlite3.complete_statement(rest):
            found.append(rest)
            rest = ""
    return found


def _text(schema: Schema, file: str) -> str:
    own = os.path.join(schema.folder, f"{file}.sql")
    path = own if os.path.exists(own) else os.path.join(os.path.dirname(__file__), "sql", f"{file}.sql")
    with open(path, encoding="utf-8") as opened:
        return opened.read().replace("PREFIX_", f"{schema.prefix}_")


def _os_text(error: OSError, path: str, who: str) -> str:
    return f"{error.filename or path}: {error.strerror}; {who}, or its folder is read-only"
