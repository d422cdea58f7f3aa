"""`list` and `count`: the queue for people and for programs."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any, TypeVar

from workers.mail.errors import NOT_ALLOWED, Refused
from workers.mail.words import plain, seconds, when
from workers.spool.accept import open_spool
from workers.spool.refusal import store_refused
from workers.store.database import StoreError

if TYPE_CHECKING:
    from collections.abc import Callable

    from workers.mail.config import Config
    from workers.store.sqlite import SqliteDatabase

Value = TypeVar("Value")

COLUMNS = (
    "mail_id",
    "sender",
    "address",
    "state",
    "attempts",
    "unknowns",
    "due_at",
    "answer",
    "message_id",
    "size_bytes",
    "created_at",
    "id",
    "lane",
    "priority",
    "expires_at",
)
HEADINGS = ("mail", "age", "state", "tries", "next try", "to", "last answer")


def rows(config: Config, *, sent_too: bool) -> list[dict[str, Any]]:
    """A row for each recipient, oldest first, with COLUMNS as keys; none when there is no spool yet. Raises Refused."""
    name = "admin.all_recipients" if sent_too else "admin.recipients"
    found: list[tuple[Any, ...]] = read(config, [], lambda spool: spool.run(name))
    return [dict(zip(COLUMNS, row, strict=True)) for row in found]


def unsent(config: Config) -> int:
    """How many recipients are still to be sent to; 0 when there is no spool yet. Raises Refused."""
    return read(config, 0, lambda spool: int(spool.run("admin.count_unsent")[0][0]))


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
    return (
        str(row["mail_id"]),
        seconds(max(0.0, now - row["created_at"])),
        row["state"],
        str(row["attempts"]),
        when(row["due_at"] - now) if waits else "-",
        plain(row["address"]),
        plain(row["answer"]),
    )


def read(config: Config, otherwise: Value, ask: Callable[[SqliteDatabase], Value]) -> Value:
    """What `ask` finds in the spool; `otherwise` when there is none yet. Raises Refused."""
    try:
        if not _exists(config.database):
            return otherwise
        spool = open_spool(config)
        try:
            return ask(spool)
        finally:
            spool.close()
    except StoreError as error:
        raise store_refused(error) from None


def _exists(path: str) -> bool:
    try:
        os.stat(path)
    except FileNotFoundError:
        return False
    except OSError as error:
        raise Refused(
            NOT_ALLOWED,
            f"{error.filename}: {error.strerror}; this user may not use the spool; spool.group in mail.toml says who else may",
        ) from None
    return True
