"""`list` and `count`: the queue for people and for programs."""

from __future__ import annotations

import os
import sqlite3
from typing import TYPE_CHECKING, Any, TypeVar

from workers.mail.errors import NOT_ALLOWED, TRY_AGAIN, Refused
from workers.spool.log import plain, seconds
from workers.spool.store import Store, store_refused

if TYPE_CHECKING:
    from collections.abc import Callable

Value = TypeVar("Value")

HEADINGS = ("mail", "age", "state", "tries", "next try", "to", "last answer")


def rows(database: str, *, sent_too: bool) -> list[dict[str, Any]]:
    """A row for each recipient, as Store.recipients gives them; none when there is no spool yet. Raises Refused."""
    return _read(database, [], lambda store: store.recipients(sent_too=sent_too))


def unsent(database: str) -> int:
    """How many recipients are still to be sent to; 0 when there is no spool yet. Raises Refused."""
    return _read(database, 0, Store.count_unsent)


def as_json(found: list[dict[str, Any]]) -> str:
    """The rows as one JSON object and a line end; its shape is told by `list --help`."""
    import json

    return json.dumps({"version": 1, "recipients": found}) + "\n"


def as_table(found: list[dict[str, Any]], now: float) -> str:
    """The rows as lines with columns under each other; a short text when there are none."""
    if not found:
        return "Nothing is queued.\n"
    table = [HEADINGS, *(_cells(row, now) for row in found)]
    widths = [max(len(line[column]) for line in table) for column in range(len(HEADINGS))]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)) for line in table]
    return "".join(f"{line.rstrip()}\n" for line in lines)


def _cells(row: dict[str, Any], now: float) -> tuple[str, ...]:
    waits = row["state"] in ("queued", "deferred", "unknown")
    due_s = max(0.0, row["due_at"] - now)
    return (
        str(row["mail_id"]),
        seconds(max(0.0, now - row["created_at"])),
        row["state"],
        str(row["attempts"]),
        ("now" if due_s == 0 else f"in {seconds(due_s)}") if waits else "-",
        plain(row["address"]),
        plain(row["answer"]),
    )


def _read(database: str, otherwise: Value, read: Callable[[Store], Value]) -> Value:
    try:
        os.stat(database)
        store = Store(database)
        try:
            return read(store)
        finally:
            store.close()
    except FileNotFoundError:
        return otherwise
    except PermissionError as error:
        raise Refused(NOT_ALLOWED, f"{error.filename}: {error.strerror}; this user may not use the spool") from None
    except OSError as error:
        raise Refused(TRY_AGAIN, f"{error.filename or database}: {error.strerror}") from None
    except sqlite3.Error as error:
        raise store_refused(database, error) from None
