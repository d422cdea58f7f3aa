"""The SQLite engine: how it makes its file, whom it lets in, and where it may lie."""

from __future__ import annotations

import os
import sqlite3
import stat
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.unit.store_world import add, as_root, mounted, open_at, refused, user
from workers.spool.accept import SCHEMA, SCHEMA_VERSION
from workers.store import sqlite
from workers.store.database import DENIED, StoreError
from workers.store.sqlite import NETWORK, Schema, SqliteDatabase, file_system

OWNER, MEMBER, STRANGER, GROUP = 4711, 4712, 4713, 4800


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Where a spool may be made, with its folders."""
    return tmp_path / "state" / "mail" / "spool.db"


@pytest.fixture
def shared() -> Iterator[Path]:
    """As `path`, but in a folder that other users can reach; it belongs to OWNER."""
    with tempfile.TemporaryDirectory(prefix="semguard-") as folder:
        os.chmod(folder, 0o755)
        os.chown(folder, OWNER, OWNER)
        yield Path(folder) / "mail" / "spool.db"


def mode(path: Path | str) -> int:
    return stat.S_IMODE(os.stat(path).st_mode)


# how it is made


def test_it_makes_folders_and_file_for_its_owner_only_and_durable(path: Path) -> None:
    database = open_at(path)
    add(database, "a@x")
    assert {mode(folder) for folder in (path.parent, path.parent.parent)} == {0o700}
    assert {name: mode(path.parent / name) for name in os.listdir(path.parent)} == dict.fromkeys(
        ("spool.db", "spool.db-wal", "spool.db-shm"), 0o600
    )
    assert database._db.execute("PRAGMA synchronous").fetchone() == (2,)
    assert database._db.execute("PRAGMA journal_mode").fetchone() == ("wal",)
    assert database._db.execute("SELECT value FROM mail_meta WHERE name = 'schema'").fetchone() == (SCHEMA_VERSION,)
    database.close()
    assert os.listdir(path.parent) == ["spool.db"]


def test_new_folders_are_on_disk_before_there_is_a_table_to_trust(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    synced: list[str] = []
    real = os.fsync

    def record(fd: int) -> None:
        real(fd)
        synced.append(os.readlink(f"/proc/self/fd/{fd}"))
        assert path.read_bytes() == b""

    monkeypatch.setattr(os, "fsync", record)
    open_at(path).close()
    assert synced == [str(folder) for folder in path.parents], "each name stands in the folder above it"


def test_synchronous_is_full_on_each_connection(path: Path) -> None:
    open_at(path).close()
    database = open_at(path)
    assert database._db.execute("PRAGMA synchronous").fetchone() == (2,)
    database.close()


def test_an_empty_file_that_a_killed_one_left_is_made_whole(path: Path) -> None:
    path.parent.mkdir(parents=True)
    path.touch()
    database = open_at(path)
    assert add(database, "a@x") == 1
    database.close()


def test_it_joins_the_database_of_an_application(path: Path) -> None:
    path.parent.mkdir(parents=True)
    other = sqlite3.connect(path)
    other.executescript("CREATE TABLE customer (name TEXT); INSERT INTO customer VALUES ('Ann'); PRAGMA user_version=41;")
    database = open_at(path)
    add(database, "a@x")
    database.close()
    assert other.execute("SELECT name FROM customer").fetchall() == [("Ann",)]
    assert other.execute("PRAGMA user_version").fetchone() == (41,), "that number is the application's own"
    tables = {
        name for (name,) in other.execute("SELECT name FROM sqlite_master WHERE type = 'table' AND name NOT GLOB 'sqlite_*'")
    }
    assert all(name.startswith("mail_") for name in tables - {"customer"})
    other.close()


def test_another_connections_commit_is_seen_by_a_number_and_nothing_else_is(path: Path) -> None:
    database, other = open_at(path), open_at(path)
    first = database.changes()
    add(database, "a@x")
    assert database.changes() == first, "its own"
    add(other, "a@x")
    assert (second := database.changes()) != first
    other.run("owner.all")
    assert database.changes() == second
    database.close()
    other.close()


# whom it lets in


@as_root
def test_a_shared_spool_is_used_by_the_group_and_by_nobody_else(shared: Path) -> None:
    with user(OWNER, [GROUP]):
        first = open_at(shared, group=GROUP)
        add(first, "owner@x")
        assert mode(shared.parent) == 0o2770
        for name in ("spool.db", "spool.db-wal", "spool.db-shm"):
            assert mode(shared.parent / name) == 0o660
            assert os.stat(shared.parent / name).st_gid == GROUP
    with user(MEMBER, [GROUP]):
        second = open_at(shared, group=GROUP)
        add(second, "member@x")
    with user(STRANGER):
        assert refused(shared, group=GROUP).kind == DENIED
    with user(OWNER, [GROUP]):
        first.close()
        second.close()


@as_root
def test_what_a_member_makes_anew_is_the_groups_as_well(shared: Path) -> None:
    with user(OWNER, [GROUP]):
        open_at(shared, group=GROUP).close()
        assert os.listdir(shared.parent) == ["spool.db"], "the last one takes the WAL away"
    before = os.umask(0o077)
    try:
        with user(MEMBER, [GROUP]):
            member = open_at(shared, group=GROUP)
            add(member, "member@x")
            for name in ("spool.db-wal", "spool.db-shm"):
                facts = os.stat(shared.parent / name)
                assert (facts.st_uid, facts.st_gid, mode(shared.parent / name)) == (MEMBER, GROUP, 0o660)
    finally:
        os.umask(before)
    with user(OWNER, [GROUP]):
        owner = open_at(shared, group=GROUP)
        add(owner, "owner@x")
        owner.close()
    member.close()


@as_root
def test_a_spool_of_another_user_is_denied(shared: Path) -> None:
    with user(OWNER):
        open_at(shared).close()
    with user(STRANGER):
        assert refused(shared).kind == DENIED
        assert refused(shared.parent.parent / "mine" / "spool.db").kind == DENIED, "nor may it make one there"


# where it may lie


@pytest.mark.parametrize("kind", sorted(NETWORK))
def test_a_network_file_system_is_refused_by_name(kind: str, path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sqlite, "file_system", lambda _: kind)
    error = refused(path)
    assert error.kind == DENIED
    assert f"lies on {kind}" in str(error)
    assert "put spool.database on a local disk" in str(error)
    assert path.read_bytes() == b"", "nothing was written"


def test_errors_speak_of_the_key_and_the_users_that_the_schema_names(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    other = Schema("mail", SCHEMA.folder, key="other.state", who="this user may not look at it")
    path.mkdir(parents=True)
    with pytest.raises(StoreError, match="; this user may not look at it, or its folder is read-only"):
        SqliteDatabase(str(path), other, SCHEMA_VERSION)
    path.rmdir()
    monkeypatch.setattr(sqlite, "file_system", lambda _: "nfs4")
    with pytest.raises(StoreError, match=r"put other\.state on a local disk"):
        SqliteDatabase(str(path), other, SCHEMA_VERSION)


def test_a_spool_that_was_made_elsewhere_is_refused_on_a_network_file_system(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As when a server exports the folder of its own spool, or a spool was moved to such a disk."""
    open_at(path).close()
    monkeypatch.setattr(sqlite, "file_system", lambda _: "nfs4")
    assert refused(path).kind == DENIED


def test_the_file_system_is_told_by_the_mounts(tmp_path: Path) -> None:
    with mounted(tmp_path / "a - disk", 1 << 16) as disk:
        assert file_system(str(disk)) == "tmpfs"
    assert file_system("/proc/self/stat") == "proc"


def test_the_file_system_of_a_mount_table_with_a_network_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    device = os.stat(tmp_path).st_dev
    number = f"{os.major(device)}:{os.minor(device)}"
    table = tmp_path / "mountinfo"
    lines = [
        "21 1 0:99999 / / rw,relatime shared:1 - ext4 /dev/root rw",
        f"35 21 {number} / /mnt/a\\040-\\040b rw,relatime shared:7 master:1 - nfs4 server:/export rw,vers=4.2",
    ]
    table.write_text("\n".join(lines) + "\n")
    real_open = open

    def fake(name: str, **options: Any) -> Any:
        return real_open(table if name == "/proc/self/mountinfo" else name, **options)

    monkeypatch.setattr("builtins.open", fake)
    assert file_system(str(tmp_path)) == "nfs4"
    table.write_text(lines[0] + "\n")
    assert file_system(str(tmp_path)) == ""
