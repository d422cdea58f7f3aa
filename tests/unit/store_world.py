"""What the tests of the store need of the world: other users, disks of their own, and spools of the first version."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from workers.spool.accept import SCHEMA, SCHEMA_VERSION, Submission, accept
from workers.store.database import StoreError
from workers.store.sqlite import BUSY_S, SqliteDatabase

as_root = pytest.mark.skipif(os.geteuid() != 0, reason="needs root to become several users")

# As the first version made it: one transaction, user_version in the file's head. It ends as SIGKILL ends a sender, so
# the rows stand in the WAL. Of the mails, 2 has two recipients, 4 is sent and has lost its body, 8 is big.
OLD_SPOOL = """
import os, signal, sqlite3, sys
db = sqlite3.connect(sys.argv[1], isolation_level=None)
db.execute("PRAGMA synchronous=FULL")
db.execute("PRAGMA journal_mode=WAL")
db.executescript(f"BEGIN IMMEDIATE; {open(sys.argv[2]).read()}; PRAGMA user_version=1; COMMIT;")
db.execute("BEGIN IMMEDIATE")
states = ["queued", "sending", "sending", "sent", "deferred", "failed", "expired", "unknown", "deferred", "queued"]
for number, state in enumerate(states, 1):
    body = b"Subject: %d\\r\\n\\r\\n" % number + (b"\\xe4" * 600_000 if number == 8 else b"body")
    message = (number, f"s{number}@x", f"<{number}>", len(body), 100.0 + number, 1e9 + number)
    db.execute("INSERT INTO mail_message VALUES (?, ?, ?, ?, ?, ?)", message)
    if state != "sent":
        db.execute("INSERT INTO mail_body VALUES (?, ?)", (number, body))
    recipients = [(f"r{number}@x", state)] + ([("second@x", "sent")] if number == 2 else [])
    for address, its_state in recipients:
        row = (number, address, its_state, number, 1, int(state == "unknown"), 500.0 - number, number == 2, "boot",
               f"answer {number}", 200.0 + number)
        db.execute("INSERT INTO mail_recipient (mail_id, address, state, attempts, failures, unknowns, due_at, past_dot, "
                   "boot_id, answer, updated_at) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)", row)
db.execute("COMMIT")
os.kill(os.getpid(), signal.SIGKILL)
"""


def open_at(path: Path | str, *, group: int | None = None, busy_s: float = BUSY_S) -> SqliteDatabase:
    """A connection to the spool at a path."""
    return SqliteDatabase(str(path), SCHEMA, SCHEMA_VERSION, group=group, busy_s=busy_s)


def refused(path: Path, **options: Any) -> StoreError:
    """The error with which opening ends."""
    with pytest.raises(StoreError) as raised:
        open_at(path, **options)
    assert str(path) in str(raised.value) or str(path.parent) in str(raised.value)
    return raised.value


def add(database: SqliteDatabase, *addresses: str, text: bytes = b"Subject: x\r\n\r\nbody\r\n") -> int:
    """Accepts one mail; its id."""
    mail = Submission("s@x", list(addresses), ["relay"] * len(addresses), "<id>", text, 1e10)
    return database.transact(lambda transaction: accept(transaction, [mail], 100.0))[0]


def make_old_spool(path: Path) -> None:
    """A spool of schema 1 with rows of every state, left by a killed process."""
    path.parent.mkdir(parents=True, exist_ok=True)
    command = [sys.executable, "-c", OLD_SPOOL, str(path), os.path.join(SCHEMA.folder, "0001.sql")]
    assert subprocess.run(command).returncode == -9
    assert os.path.getsize(f"{path}-wal") > 600_000


@contextmanager
def user(uid: int, groups: Sequence[int] = ()) -> Iterator[None]:
    """Root becomes this user, of a group of the same number, for files and queues."""
    before = os.getgroups()
    os.setgroups(list(groups))
    os.setegid(uid)
    os.seteuid(uid)
    try:
        yield
    finally:
        os.seteuid(0)
        os.setegid(0)
        os.setgroups(before)


@contextmanager
def mounted(folder: Path, size_bytes: int) -> Iterator[Path]:
    """A disk of this size at the folder, a tmpfs. Skips the test where nothing can be mounted."""
    if os.geteuid() != 0 or "SEMGUARD_TESTS_INSIDE" not in os.environ:
        pytest.skip("needs root and a mount namespace of the tests' own, to mount a small disk")
    folder.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size_bytes}", "tmpfs", str(folder)], check=True)
    try:
        yield folder
    finally:
        subprocess.run(["umount", str(folder)], check=True)
