"""What the SQLite engine says when something is wrong, and that it goes on when that is over."""

from __future__ import annotations

import os
import shutil
import sqlite3
import subprocess
import threading
from contextlib import suppress
from pathlib import Path

import pytest

from tests.unit.store_world import add, mounted, open_at, refused
from workers.spool.accept import SCHEMA, SCHEMA_VERSION
from workers.store.database import BUSY, CONSTRAINT, CORRUPT, DENIED, FULL, NEWER, OTHER, UNFIT, StoreError
from workers.store.sqlite import SqliteDatabase, store_error

PAGE_BYTES = 4096


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Where a spool may be made, with its folders."""
    return tmp_path / "state" / "mail" / "spool.db"


def messages(path: Path) -> list[int]:
    """The ids of the mails, after a look at whether all is whole."""
    database = sqlite3.connect(path)
    try:
        assert database.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
        ids = [id_ for (id_,) in database.execute("SELECT id FROM mail_message ORDER BY id")]
        for table in ("mail_body", "mail_recipient"):
            assert [id_ for (id_,) in database.execute(f"SELECT mail_id FROM {table} ORDER BY mail_id")] == ids
        return ids
    finally:
        database.close()


def test_a_newer_schema_is_refused_with_both_numbers_and_left_alone(path: Path) -> None:
    open_at(path).close()
    other = sqlite3.connect(path, isolation_level=None)
    other.execute("UPDATE mail_meta SET value = 71 WHERE name = 'schema'")
    error = refused(path)
    assert error.kind == NEWER
    assert f"schema 71, this version knows {SCHEMA_VERSION}" in str(error)
    assert other.execute("SELECT value FROM mail_meta WHERE name = 'schema'").fetchone() == (71,)
    other.close()


def test_who_waits_too_long_for_another_writer_is_told_so_and_can_try_again(path: Path) -> None:
    holder, database = open_at(path), open_at(path, busy_s=0.05)
    holder._db.execute("BEGIN IMMEDIATE")
    with pytest.raises(StoreError, match="in use by others") as raised:
        add(database, "a@x")
    assert raised.value.kind == BUSY
    assert database.run("sender.lanes") == [], "reading waits for nobody"
    open_at(path, busy_s=0.05).close()
    holder._db.execute("COMMIT")
    assert add(database, "a@x") == 1
    holder.close()
    database.close()


def test_who_may_wait_gets_its_turn(path: Path) -> None:
    locked, waiting = threading.Event(), threading.Event()

    def work(_: object) -> bool:
        locked.set()
        return waiting.wait(30)

    def hold() -> None:
        holder = open_at(path)
        holder.transact(work)
        holder.close()

    database = open_at(path)
    database._db.set_trace_callback(lambda statement: waiting.set())  # called when BEGIN IMMEDIATE begins to wait
    thread = threading.Thread(target=hold)
    thread.start()
    assert locked.wait(30)
    assert add(database, "a@x") == 1
    thread.join()
    database.close()


def test_a_connection_is_refused_to_a_second_thread(path: Path) -> None:
    database = open_at(path)
    errors: list[BaseException] = []

    def use() -> None:
        try:
            add(database, "a@x")
        except StoreError as error:
            errors.append(error)

    thread = threading.Thread(target=use)
    thread.start()
    thread.join()
    assert len(errors) == 1
    assert messages(path) == []
    database.close()


def test_a_read_only_disk_is_denied_and_nothing_else_is_said(tmp_path: Path) -> None:
    with mounted(tmp_path / "disk", 1 << 20) as disk:
        database = open_at(disk / "spool.db")
        add(database, "a@x")
        database.close()
        subprocess.run(["mount", "-o", "remount,ro", str(disk)], check=True)
        with pytest.raises(StoreError) as raised:
            add(open_at(disk / "spool.db"), "b@x")
        assert raised.value.kind == DENIED
        assert "read-only" in str(raised.value)
        assert refused(disk / "other" / "spool.db").kind in (DENIED, OTHER)


def fill(disk: Path, *, leave_bytes: int = 0) -> Path:
    """Leaves so much space on the disk; the file that takes the rest."""
    ballast = disk / "ballast"
    fd = os.open(ballast, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    with suppress(OSError):
        while os.write(fd, bytes(PAGE_BYTES)):
            continue
    os.ftruncate(fd, os.fstat(fd).st_size - leave_bytes)
    os.close(fd)
    return ballast


def add_until_full(database: SqliteDatabase) -> list[int]:
    """Accepts mails of 30 kB until there is no space; the ids of those that were accepted."""
    accepted: list[int] = []
    with pytest.raises(StoreError, match="disk is full") as raised:
        accepted.extend(add(database, "a@x", text=bytes(30_000)) for _ in range(100))
    assert raised.value.kind == FULL
    return accepted


def test_a_full_disk_takes_no_half_mail_and_all_goes_on_when_there_is_space(tmp_path: Path) -> None:
    with mounted(tmp_path / "disk", 1 << 20) as disk:
        database = open_at(disk / "spool.db")
        ballast = fill(disk, leave_bytes=60 * PAGE_BYTES)
        accepted = add_until_full(database)
        assert accepted
        for _ in range(3):
            with pytest.raises(StoreError, match="disk is full"):
                add(database, "a@x", text=bytes(30_000))
        assert messages(disk / "spool.db") == accepted
        ballast.unlink()
        accepted.append(add(database, "a@x", text=bytes(30_000)))
        assert messages(disk / "spool.db") == accepted
        database.close()


def test_opening_on_a_full_disk_says_so_and_works_when_there_is_space(tmp_path: Path) -> None:
    with mounted(tmp_path / "disk", 1 << 20) as disk:
        kinds = {}
        for left in range(13):  # so that it is met at each step of making a file, its WAL and its shared memory
            path = disk / f"mail-{left}" / "spool.db"
            ballast = fill(disk, leave_bytes=left * PAGE_BYTES)
            kinds[left] = refused(path).kind
            ballast.unlink()
            database = open_at(path)
            assert add(database, "a@x") == 1
            database.close()
            shutil.rmtree(path.parent)
        assert kinds == dict.fromkeys(range(13), FULL)


def test_a_file_that_is_no_database_is_corrupt_and_left_alone(path: Path) -> None:
    path.parent.mkdir(parents=True)
    path.write_bytes(b"this is not a database, whatever its name says\n" * 100)
    before = path.read_bytes()
    error = refused(path)
    assert error.kind == CORRUPT
    assert "backup" in str(error)
    assert path.read_bytes() == before


def test_a_damaged_page_is_corrupt(path: Path) -> None:
    database = open_at(path)
    for number in range(20):
        add(database, f"{number}@x", text=bytes(9000))
    [root] = database._db.execute("SELECT rootpage FROM sqlite_master WHERE name = 'mail_recipient'").fetchone()
    database.close()
    with path.open("r+b") as file:
        file.seek((root - 1) * PAGE_BYTES)
        file.write(b"\xff" * PAGE_BYTES)
    database = open_at(path)
    with pytest.raises(StoreError, match="recover") as raised:
        database.run("admin.all_recipients")
    assert raised.value.kind == CORRUPT
    with pytest.raises(StoreError) as raised:
        add(database, "a@x")
    assert raised.value.kind == CORRUPT
    database.close()


@pytest.mark.parametrize(
    ("code", "kind"),
    [
        (5, BUSY),
        (6, BUSY),
        (261, BUSY),  # SQLITE_BUSY_RECOVERY
        (517, BUSY),  # SQLITE_BUSY_SNAPSHOT
        (13, FULL),
        (11, CORRUPT),
        (267, CORRUPT),  # SQLITE_CORRUPT_VTAB
        (26, CORRUPT),
        (3, DENIED),
        (8, DENIED),
        (1032, DENIED),  # SQLITE_READONLY_DBMOVED
        (14, DENIED),
        (23, DENIED),
        (1, UNFIT),
        (10, OTHER),
        (778, OTHER),  # SQLITE_IOERR_WRITE
        (18, CONSTRAINT),  # SQLITE_TOOBIG
        (19, CONSTRAINT),
        (2067, CONSTRAINT),  # SQLITE_CONSTRAINT_UNIQUE
    ],
)
def test_an_error_of_sqlite_is_told_by_its_kind_with_the_path(code: int, kind: str) -> None:
    error = sqlite3.OperationalError("words")
    error.sqlite_errorcode = code
    told = store_error("/somewhere/spool.db", error, SCHEMA.who)
    assert told.kind == kind
    assert str(told).startswith("/somewhere/spool.db: ")


def test_an_error_without_a_code_is_told_as_well() -> None:
    assert store_error("/spool.db", sqlite3.ProgrammingError("words"), SCHEMA.who).kind == OTHER
