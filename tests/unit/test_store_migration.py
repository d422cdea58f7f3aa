"""Migration: a spool of the first version becomes this version's, whole, once, whoever comes and whoever is killed."""

from __future__ import annotations

import fcntl
import os
import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from tests.contract.children import Child
from tests.contract.engines import SqliteEngine
from tests.system.mail_servers import wait_until
from tests.unit.store_world import add, make_old_spool, open_at
from workers.spool.accept import SCHEMA, SCHEMA_VERSION
from workers.spool.claims import Mail, Result, body_parts, claim, settle
from workers.store import sqlite
from workers.store.database import NEWER, StoreError
from workers.store.leases import Lease

STATES = ["queued", "unknown", "unknown", "sent", "deferred", "failed", "expired", "unknown", "deferred", "queued"]

# Opens the spool, but is killed at the statement of this number, counted over all migrations.
KILLED = """
import os, signal, sys
from workers.spool.accept import SCHEMA, SCHEMA_VERSION
from workers.store import sqlite
split, left = sqlite._split, [int(sys.argv[2])]
def deadly(script):
    for statement in split(script):
        if not left[0]:
            os.kill(os.getpid(), signal.SIGKILL)
        left[0] -= 1
        yield statement
sqlite._split = deadly
sqlite.SqliteDatabase(sys.argv[1], SCHEMA, SCHEMA_VERSION)
"""

# Opens the spool with the schema of this version; says the kind of the error.
OPENED = """
import sys
from workers.spool.accept import SCHEMA, SCHEMA_VERSION
from workers.store import sqlite
from workers.store.database import StoreError
try:
    sqlite.SqliteDatabase(sys.argv[1], SCHEMA, SCHEMA_VERSION)
except StoreError as error:
    print(error.kind, error)
"""


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "mail" / "spool.db"


def rows(path: Path, statement: str) -> list[tuple[Any, ...]]:
    database = sqlite3.connect(path)
    try:
        return database.execute(statement).fetchall()
    finally:
        database.close()


def check(path: Path) -> None:
    """All rows of the old spool are there, as they were but for what the new version knows better."""
    state = "SELECT mail_id, address, state, attempts, failures, unknowns, due_at, answer, updated_at, lane, priority, claim"
    found = rows(path, f"{state} FROM mail_recipient WHERE mail_id <= 10 ORDER BY id")
    second = found.pop(2)
    assert second[:3] == (2, "second@x", "sent")
    for number, (row, its_state) in enumerate(zip(found, STATES, strict=True), 1):
        unknowns = 1 if its_state == "unknown" else 0
        due_at = 0.0 if its_state == "queued" else 500.0 - number
        assert row[:6] == (number, f"r{number}@x", its_state, number, 1, unknowns)
        assert row[6:] == (due_at, f"answer {number}", 200.0 + number, "", 5, 0)
    bodies = dict(rows(path, "SELECT mail_id, body FROM mail_body WHERE part = 0"))
    message = "SELECT id, sender, message_id, created_at, expires_at, size_bytes, identifier, bounce_of, warned FROM mail_message"
    for number, row in enumerate(rows(path, f"{message} WHERE id <= 10 ORDER BY id"), 1):
        body = b"Subject: %d\r\n\r\n" % number + (b"\xe4" * 600_000 if number == 8 else b"body")
        assert row == (number, f"s{number}@x", f"<{number}>", 100.0 + number, 1e9 + number, len(body), None, None, 0)
        assert bodies.get(number) == (None if number == 4 else body)
    assert rows(path, "SELECT count(*) FROM mail_message WHERE id <= 10") == [(10,)]
    assert rows(path, "SELECT value FROM mail_meta WHERE name = 'schema'") == [(SCHEMA_VERSION,)]
    assert rows(path, "SELECT name FROM sqlite_master WHERE type = 'table' AND name GLOB '*_1'") == []
    assert rows(path, "PRAGMA integrity_check") == [("ok",)]
    assert rows(path, "PRAGMA foreign_key_check") == []


@contextmanager
def folder_locked(path: Path) -> Iterator[None]:
    """Who wants to migrate waits meanwhile."""
    fd = os.open(path.parent, os.O_RDONLY)
    fcntl.flock(fd, fcntl.LOCK_EX)
    try:
        yield
    finally:
        os.close(fd)


def waits(pid: int) -> bool:
    """Whether a process waits for a flock(2)."""
    with open("/proc/locks", encoding="ascii") as file:
        return any("-> FLOCK" in line and f" {pid} " in line for line in file)


def test_nothing_is_lost_and_what_was_being_sent_is_unknown_and_counted(path: Path) -> None:
    make_old_spool(path)
    open_at(path).close()
    check(path)
    assert rows(path, "SELECT count(*), sum(unknowns) FROM mail_recipient WHERE state = 'unknown'") == [(3, 3)]


def test_the_new_code_claims_and_sends_the_old_mails_in_their_order(path: Path) -> None:
    make_old_spool(path)
    database = open_at(path)
    lease = Lease()
    database.transact(lease.register)
    mails: list[Mail] = database.transact(partial(claim, lease=lease, lane="", most=100, per_mail=10, now=time.time()))
    assert [each.id for each in mails[:2]] == [1, 10], "the queued ones"
    assert sorted(each.id for each in mails[2:]) == [2, 3, 5, 8, 9], "the deferred and the unknown ones"
    [big] = [each for each in mails if each.id == 8]
    assert b"".join(body_parts(database, big)) == b"Subject: 8\r\n\r\n" + b"\xe4" * 600_000
    assert big.eight_bit
    results = [Result(to, each, "relay", "sent", 1, 0, 0.0, "250") for each in mails for to in each.recipients]
    assert len(database.transact(lambda transaction: settle(transaction, results, 1.0))) == 7
    assert add(database, "new@x") == 11
    database.close()


def test_a_deferred_one_keeps_its_time(path: Path) -> None:
    make_old_spool(path)
    database = open_at(path)
    lease = Lease()
    database.transact(lease.register)
    early: list[Mail] = database.transact(partial(claim, lease=lease, lane="", most=100, per_mail=10, now=491.5))
    assert sorted(each.id for each in early) == [1, 9, 10], "5 is due at 495, unknown ones later than 491.5 too"
    database.close()


def test_an_old_spool_without_a_mail_is_migrated(path: Path) -> None:
    path.parent.mkdir()
    with open(os.path.join(SCHEMA.folder, "0001.sql"), encoding="utf-8") as file:
        schema = file.read()
    old = sqlite3.connect(path)
    old.executescript(f"PRAGMA journal_mode=WAL; BEGIN IMMEDIATE; {schema}; PRAGMA user_version=1; COMMIT;")
    old.close()
    database = open_at(path)
    assert add(database, "a@x") == 1
    database.close()


def test_a_migrated_spool_is_not_migrated_again(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make_old_spool(path)
    open_at(path).close()

    def never(*_: object) -> None:
        raise AssertionError("migrates")

    monkeypatch.setattr(sqlite.SqliteDatabase, "_migrate", never)
    open_at(path).close()


@pytest.mark.parametrize("old", [True, False], ids=["an old spool", "no spool"])
def test_several_processes_that_migrate_at_the_same_time_do_it_once(path: Path, old: bool) -> None:
    if old:
        make_old_spool(path)
    path.parent.mkdir(exist_ok=True)
    with folder_locked(path):
        children = [Child(SqliteEngine(str(path.parent.parent)), "accept_some", f"new-{number}", 3) for number in range(4)]
        try:
            wait_until(lambda: all(waits(child.pid) for child in children), "all want to migrate")
        except BaseException:
            for child in children:
                child.close()
            raise
    try:
        assert [child.hear() for child in children] == ["ready"] * 4
        for child in children:
            child.say()
        ids = sorted(id_ for child in children for id_, _ in child.hear_all())
    finally:
        for child in children:
            child.close()
    first = 11 if old else 1
    assert ids == list(range(first, first + 12))
    if old:
        check(path)


@pytest.mark.parametrize("old", [True, False], ids=["an old spool", "no spool"])
def test_a_migration_killed_anywhere_is_as_if_it_had_not_begun(path: Path, old: bool) -> None:
    if old:
        make_old_spool(path)
    count = sum(len(sqlite._split(sqlite._text(SCHEMA, f"{number:04d}"))) for number in ([2] if old else [1, 2]))
    before = rows(path, "SELECT * FROM mail_recipient") if old else []
    for number in (0, 1, count // 3, count // 2, count - 2, count - 1):
        assert subprocess.run([sys.executable, "-c", KILLED, str(path), str(number)]).returncode == -9
        if old:
            assert rows(path, "SELECT * FROM mail_recipient") == before
            assert rows(path, "PRAGMA user_version") == [(1,)]
        assert rows(path, "SELECT name FROM sqlite_master WHERE name = 'mail_meta'") == []
    database = open_at(path)
    assert add(database, "a@x") == (11 if old else 1)
    database.close()
    if old:
        check(path)


def test_who_waited_for_a_migration_to_a_newer_schema_than_its_own_is_refused(path: Path) -> None:
    """An old program and a new one come at the same time: the old one must not work on tables that it doesn't know."""
    make_old_spool(path)
    with folder_locked(path):
        process = subprocess.Popen([sys.executable, "-c", OPENED, str(path)], stdout=subprocess.PIPE, text=True)
        wait_until(lambda: waits(process.pid), "it wants to migrate")
        migrated = sqlite3.connect(path, isolation_level=None)
        migrated.execute("CREATE TABLE mail_meta (name TEXT PRIMARY KEY, value)")
        migrated.execute("INSERT INTO mail_meta VALUES ('schema', 9)")
        migrated.close()
    said, _ = process.communicate()
    assert said.startswith(NEWER)
    assert "schema 9" in said


def test_a_database_whose_statements_fail_half_way_is_left_as_it_was(path: Path) -> None:
    make_old_spool(path)
    before = rows(path, "SELECT * FROM mail_recipient")
    other = sqlite3.connect(path, isolation_level=None)
    other.execute("CREATE TABLE mail_outbox (id)")  # an application's own, by the name that comes late in the migration
    with pytest.raises(StoreError, match="mail_outbox"):
        open_at(path)
    assert other.execute("SELECT name FROM sqlite_master WHERE name = 'mail_message_1'").fetchall() == []
    other.execute("DROP TABLE mail_outbox")
    other.close()
    assert rows(path, "SELECT * FROM mail_recipient") == before
    open_at(path).close()
    check(path)
