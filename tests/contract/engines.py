"""The engines under the contract. A second one joins by a class that keeps `Engine` and a line in ENGINES."""

from __future__ import annotations

import ctypes
import os
import sqlite3
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import pytest

from workers.spool.accept import SCHEMA, SCHEMA_VERSION
from workers.store.sqlite import BUSY_S, SqliteDatabase

if TYPE_CHECKING:
    from workers.store.database import Database

SYNCS = {"x86_64": (74, 75), "aarch64": (82, 83)}  # fsync(2) and fdatasync(2)
PR_SET_NO_NEW_PRIVS, PR_SET_SECCOMP, SECCOMP_MODE_FILTER = 38, 22, 2
RET_ERRNO_EIO, RET_ALLOW = 0x00050005, 0x7FFF0000
LOAD_NUMBER, JUMP_IF_EQUAL, RETURN = 0x20, 0x15, 0x06  # BPF, linux/filter.h


class Engine(Protocol):
    """A fresh store for one test, or the same one in another process when made with the same folder."""

    name: str
    folder: str
    notes: str  # what paths of past-dot notes begin with
    faults: frozenset[str]  # what it can simulate; "sync" is fail_syncs()

    def connect(self) -> Database:
        """Opens a connection of its own, in the thread and process that call."""

    def look(self, statement: str) -> list[tuple[Any, ...]]:
        """Runs plain SQL, committed, as a person would: to see what is there, or to make it so."""

    def count_commits(self, database: Database) -> list[str]:
        """A list that grows by one with each transaction that the connection commits; in its own thread."""

    def fail_syncs(self) -> None:
        """From now on nothing that this process writes can be synced."""

    def close(self) -> None:
        """Takes away what does not lie in the folder."""


class SqliteEngine:
    """A database file in the folder."""

    name = "sqlite"

    def __init__(self, folder: str) -> None:
        self.folder = folder
        self.notes = os.path.join(folder, "mail", "spool.db")
        self.faults = frozenset(("sync",) if os.uname().machine in SYNCS else ())

    def connect(self, busy_s: float = BUSY_S) -> SqliteDatabase:
        """As the spool does."""
        return SqliteDatabase(self.notes, SCHEMA, SCHEMA_VERSION, busy_s=busy_s)

    def look(self, statement: str) -> list[tuple[Any, ...]]:
        """By a connection of its own."""
        database = sqlite3.connect(self.notes, timeout=BUSY_S, isolation_level=None)
        try:
            return database.execute(statement).fetchall()
        finally:
            database.close()

    def count_commits(self, database: Database) -> list[str]:
        """As SQLite tells what it runs."""
        assert isinstance(database, SqliteDatabase)
        commits: list[str] = []
        database._db.set_trace_callback(lambda statement: commits.append(statement) if statement == "COMMIT" else None)
        return commits

    def fail_syncs(self) -> None:
        """fsync(2) and fdatasync(2) answer EIO, by a seccomp filter of this process."""
        refuse(SYNCS[os.uname().machine])

    def close(self) -> None:
        """All lies in the folder."""


def refuse(numbers: tuple[int, ...]) -> None:
    """Lets these system calls of this process fail with EIO, for ever (seccomp(2)). Raises OSError."""
    steps = [(LOAD_NUMBER, 0, 0, 0)]
    steps += [(JUMP_IF_EQUAL, len(numbers) - place, 0, number) for place, number in enumerate(numbers)]
    steps += [(RETURN, 0, 0, RET_ALLOW), (RETURN, 0, 0, RET_ERRNO_EIO)]
    program = ctypes.create_string_buffer(b"".join(struct.pack("=HBBI", *step) for step in steps))
    head = ctypes.create_string_buffer(struct.pack("@HP", len(steps), ctypes.addressof(program)))
    libc = ctypes.CDLL(None, use_errno=True)
    libc.prctl.argtypes = (ctypes.c_int, *[ctypes.c_ulong] * 4)
    filtered = (PR_SET_SECCOMP, SECCOMP_MODE_FILTER, ctypes.addressof(head), 0, 0)
    if libc.prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) or libc.prctl(*filtered):
        raise OSError(ctypes.get_errno(), "prctl")


ENGINES: dict[str, type[SqliteEngine]] = {"sqlite": SqliteEngine}


@pytest.fixture(params=ENGINES)
def engine(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Engine]:
    """A fresh store."""
    made: Engine = ENGINES[request.param](str(tmp_path))
    yield made
    made.close()
