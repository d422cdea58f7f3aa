"""The state database when it is opened: only one that is surely bad is set aside, and only by the one who has the root."""

from __future__ import annotations

import os
import resource
import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest

from workers.imap.books import DAMAGED, open_beside, open_state, set_aside
from workers.store import sqlite
from workers.store.database import CORRUPT, UNFIT, StoreError
from workers.store.sqlite import SqliteDatabase

NOMEM, IOERR = 7, 10


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Of a database that knows an account."""
    found = tmp_path / "imap.db"
    with closing(open_state(str(found))) as database:
        database.transact(lambda transaction: transaction.run("books.add_account", ("alice",)))
    return found


def is_whole(path: Path) -> bool:
    """Whether it is the database of the fixture, and none was set aside."""
    with closing(sqlite3.connect(path)) as database:
        known = database.execute("SELECT name FROM imap_account").fetchall() == [("alice",)]
    return known and not list(path.parent.glob("*.damaged-*"))


def garbage(path: Path) -> None:
    path.write_bytes(b"no database at all, and that for long" * 100)


def other_tables(path: Path) -> None:
    with closing(sqlite3.connect(path)) as database, database:
        database.execute("DROP TABLE imap_poison")


def no_schema(path: Path) -> None:
    with closing(sqlite3.connect(path)) as database, database:
        database.execute("DROP TABLE imap_meta")


def no_number(path: Path) -> None:
    with closing(sqlite3.connect(path)) as database, database:
        database.execute("UPDATE imap_meta SET value = 'soon' WHERE name = 'schema'")


def no_row(path: Path) -> None:
    with closing(sqlite3.connect(path)) as database, database:
        database.execute("DELETE FROM imap_meta")


HARMS = [(garbage, CORRUPT), (other_tables, UNFIT), (no_schema, UNFIT), (no_number, UNFIT), (no_row, UNFIT)]


@pytest.mark.parametrize("harm", [harm for harm, _ in HARMS])
def test_a_damaged_database_is_set_aside(path: Path, harm: Callable[[Path], None]) -> None:
    harm(path)
    with closing(open_state(str(path))) as database:
        assert database.run("books.accounts") == []
    (copy,) = path.parent.glob("*.damaged-*")
    assert copy.stat().st_size


@pytest.mark.parametrize(("harm", "kind"), HARMS)
def test_beside_others_a_damaged_database_is_told_and_left_alone(path: Path, harm: Callable[[Path], None], kind: str) -> None:
    harm(path)
    before = path.read_bytes()
    with pytest.raises(StoreError) as raised:
        open_beside(str(path))
    assert raised.value.kind == kind
    assert kind in DAMAGED
    assert path.read_bytes() == before
    assert not list(path.parent.glob("*.damaged-*"))


def test_no_file_left_to_open_is_no_damage(path: Path) -> None:
    open_files = resource.getrlimit(resource.RLIMIT_NOFILE)
    for more in range(6):
        highest = os.dup(0)  # the lowest number that is free
        os.close(highest)
        resource.setrlimit(resource.RLIMIT_NOFILE, (highest + more, open_files[1]))
        try:
            open_state(str(path)).close()
        except (StoreError, OSError):
            continue
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, open_files)
            assert is_whole(path)
    open_state(str(path)).close()


@pytest.mark.parametrize("code", [NOMEM, IOERR, 3338])  # SQLITE_IOERR_ACCESS
@pytest.mark.parametrize("step", [0, 1, 2, 3, 4, 5])
def test_what_fails_while_it_is_opened_is_no_damage(path: Path, monkeypatch: pytest.MonkeyPatch, step: int, code: int) -> None:
    """Step 0 is the version, then come the statements that look at the tables."""
    steps: list[str] = []
    version, run = SqliteDatabase._version, SqliteDatabase.run

    def fails(what: str) -> None:
        steps.append(what)
        if len(steps) == step + 1:
            error = sqlite3.OperationalError("disk I/O error")
            error.sqlite_errorcode = code
            raise error

    def failing_version(database: SqliteDatabase) -> int:
        fails("version")
        return version(database)

    def failing_run(database: SqliteDatabase, name: str, values: tuple[object, ...] = ()) -> list[tuple[object, ...]]:
        try:
            fails(name)
        except sqlite3.Error as error:
            raise sqlite.store_error(database.path, error, "") from None
        return run(database, name, values)

    monkeypatch.setattr(SqliteDatabase, "_version", failing_version)
    monkeypatch.setattr(SqliteDatabase, "run", failing_run)
    with pytest.raises(StoreError):
        open_state(str(path))
    assert len(steps) == step + 1
    monkeypatch.undo()
    assert is_whole(path)


def test_two_damaged_ones_of_one_second_are_both_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("workers.imap.books.time.strftime", lambda _: "20260101-000000")
    path = tmp_path / "imap.db"
    for number in range(3):
        path.write_text(str(number))
        if number == 1:  # what is left of one that was cut off
            (tmp_path / "imap.db-wal").write_text("wal")
        set_aside(str(path))
    kept = {each.name.removeprefix("imap.db.damaged-20260101-000000"): each.read_text() for each in tmp_path.iterdir()}
    assert kept == {"": "0", "-1": "1", "-1-wal": "wal", "-2": "2"}
