"""The floor of enqueuing: `python -m tests.bench.mail_bare FROM INTO BATCH` copies all rows of one spool into an empty one.

One executemany a table and batch, each batch one synced commit, on SQLite as the spool itself uses it. Prints the seconds
that this took, without Python's start and without reading the rows.
"""

from __future__ import annotations

import sqlite3
import sys
import time


def rows_of(path: str) -> dict[str, list[tuple[object, ...]]]:
    """All rows of all tables."""
    with sqlite3.connect(path) as db:
        query = "SELECT name FROM sqlite_master WHERE type = 'table' AND name NOT LIKE 'sqlite_%' ORDER BY rowid"
        names = [name for (name,) in db.execute(query)]
        return {name: db.execute(f'SELECT * FROM "{name}"').fetchall() for name in names}


def copy(rows: dict[str, list[tuple[object, ...]]], path: str, batch: int) -> float:
    """Inserts them, a batch of mails with all that belongs to it at a time; the seconds. Raises sqlite3.Error."""
    db = sqlite3.connect(path, isolation_level=None)
    db.execute("PRAGMA synchronous=FULL")
    for name in rows:
        db.execute(f'DELETE FROM "{name}"')  # the one or other row that a new spool has
    most = max(map(len, rows.values()))
    inserts = {name: f'INSERT INTO "{name}" VALUES ({",".join("?" * len(values[0]))})' for name, values in rows.items() if values}
    started = time.monotonic()
    for start in range(0, most, batch):
        db.execute("BEGIN IMMEDIATE")
        for name, insert in inserts.items():
            db.executemany(insert, rows[name][start : start + batch])
        db.execute("COMMIT")
    span_s = time.monotonic() - started
    db.close()
    return span_s


if __name__ == "__main__":
    print(copy(rows_of(sys.argv[1]), sys.argv[2], int(sys.argv[3])))
