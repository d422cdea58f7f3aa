"""`status` and `folders`: how the accounts stand, for people and for programs."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

from workers.imap import names
from workers.imap.trouble import undotted
from workers.imap.visit import is_running, no_accounts, no_worker, number_of, state
from workers.mail.words import counted, plain, seconds

if TYPE_CHECKING:
    from collections.abc import Iterable

    from workers.mail.config import Config
    from workers.mail.imap_config import Account, Imap
    from workers.store.sqlite import SqliteDatabase

HEADINGS = ("account", "state", "mode", "folders", "messages", "last sync", "problem")
FOLDER_HEADINGS = ("folder", "messages", "last sync", "poison", "place")
COLUMNS = (
    "key",
    "name",
    "mode",
    "state",
    "kind",
    "problem",
    "until",
    "synced_at",
    "demoted",
    "present_until",
    "debug_until",
    "folders",
    "messages",
)


def status(config: Config) -> dict[str, Any]:
    """All accounts of the config; the shape is told by `status --help`. Raises Refused."""
    running = is_running(config.imap)
    with state(config.imap) as books:
        rows = account_rows(books)
        poison = _poison(books)
        accounts = [_account(config.imap, each, rows.get(each.name), poison, running=running) for each in config.imap.accounts]
    return {"version": 1, "running": running, "accounts": accounts}


def status_text(found: dict[str, Any], config: Config, now: float) -> str:
    """What `status` prints for people."""
    lines = [] if found["running"] else [f"{no_worker(config.imap)}\n"]
    if not found["accounts"]:
        return "".join([*lines, f"{no_accounts(config)}\n"])
    return "".join([*lines, _table(HEADINGS, (_cells(each, now) for each in found["accounts"]))])


def folders(imap: Imap, account: Account) -> dict[str, Any]:
    """The folders of an account that are known; the shape is told by `folders --help`. Raises Refused."""
    with state(imap) as books:
        row = account_rows(books).get(account.name)
        found = [] if books is None or row is None else books.run("books.folders", (row["key"],))
        poison = _poison(books)
    places = [_folder(imap, account, each, poison.get((row["key"], each[1]), [])) for each in found if row is not None]
    number = number_of(account, row["key"], imap) if row is not None else account.id
    return {"version": 1, "account": account.name, "id": number, "folders": places}


def folders_text(found: dict[str, Any], now: float) -> str:
    """What `folders` prints for people."""
    if not found["folders"]:
        return f"{found['account']}: no folders are known yet; imap-sync why {found['account']} tells what it waits for\n"
    cells = (
        (each["name"], str(each["messages"]), _age(each["synced_at"], now), str(len(each["poison"]) or "-"), each["path"])
        for each in found["folders"]
    )
    return _table(FOLDER_HEADINGS, cells)


def account_rows(books: SqliteDatabase | None) -> dict[str, dict[str, Any]]:
    """What the state database knows of accounts, with COLUMNS as keys, by name."""
    rows = [] if books is None else books.run("books.all_accounts")
    return {row[1]: dict(zip(COLUMNS, row, strict=True)) for row in rows}


def poison_of(books: SqliteDatabase | None, account: int) -> list[dict[str, Any]]:
    """The messages of an account that the server can't give. Raises StoreError."""
    return [each for (key, _), rows in _poison(books).items() if key == account for each in rows]


def as_json(found: dict[str, Any]) -> str:
    """One JSON object and a line end."""
    import json

    return json.dumps(found) + "\n"


def _poison(books: SqliteDatabase | None) -> dict[tuple[int, bytes], list[dict[str, Any]]]:
    """Poison messages by account and folder."""
    found: dict[tuple[int, bytes], list[dict[str, Any]]] = {}
    for account, name, uid, why, tries, since, next_try in [] if books is None else books.run("books.all_poison"):
        row = {"folder": names.shown(name), "uid": uid, "why": why, "tries": tries, "since": since, "next_try": next_try}
        found.setdefault((account, name), []).append(row)
    return found


def _account(
    imap: Imap,
    account: Account,
    row: dict[str, Any] | None,
    poison: dict[tuple[int, bytes], list[dict[str, Any]]],
    *,
    running: bool,
) -> dict[str, Any]:
    known = row or {"key": None, "problem": "", "until": 0, "synced_at": 0, "demoted": "", "folders": 0, "messages": 0}
    at_work = running and account.enabled and row is not None
    stands = known.get("state", "waiting")
    if not running and stands == "syncing":  # it was cut off
        stands = "waiting"
    return {
        "name": account.name,
        "id": number_of(account, known["key"], imap) if row is not None else account.id,
        "enabled": account.enabled,
        "mode": known["mode"] if at_work else "none",
        "state": stands if account.enabled else "disabled",
        "folders": known["folders"],
        "messages": known["messages"],
        "synced_at": known["synced_at"] or None,
        "problem": known["problem"] if account.enabled else "",
        "until": (known["until"] or None) if account.enabled and running else None,  # else nobody tries then
        "demoted": known["demoted"].split(),
        "poison": [each for (key, _), rows in poison.items() if key == known["key"] for each in rows],
    }


def _cells(each: dict[str, Any], now: float) -> tuple[str, ...]:
    problem = [undotted(plain(each["problem"]))] if each["problem"] else []
    if each["until"] is not None and each["until"] > now:
        problem.append(f"next try {when(each['until'] - now)}")
    if each["poison"]:
        problem.append(f"{counted(len(each['poison']), 'message')} that the server can't give")
    if each["demoted"]:
        problem.append(f"without {', '.join(each['demoted'])}")
    return (
        each["name"],
        each["state"],
        each["mode"],
        str(each["folders"]),
        str(each["messages"]),
        _age(each["synced_at"], now),
        "; ".join(problem) or "-",
    )


def _folder(imap: Imap, account: Account, row: tuple[Any, ...], poison: list[dict[str, Any]]) -> dict[str, Any]:
    return {
        "id": row[0],
        "name": names.shown(row[1]),
        "path": os.path.join(imap.root, account.name, row[3]),
        "messages": row[8],
        "on_server": row[7],
        "synced_at": row[10] or None,
        "poison": [{key: value for key, value in each.items() if key != "folder"} for each in poison],
    }


def span(span_s: float) -> str:
    """A span for people, in whole seconds."""
    return seconds(span_s) if span_s >= 10 else f"{max(0.0, span_s):.0f} s"


def when(span_s: float) -> str:
    """How far off something is: `in 10 min`, `now`."""
    return f"in {span(span_s)}" if span_s >= 0.5 else "now"  # less would be told as 0 s


def _age(at: float | None, now: float) -> str:
    return "never" if not at else f"{span(now - at)} ago"


def _table(headings: tuple[str, ...], rows: Iterable[tuple[str, ...]]) -> str:
    table = [headings, *rows]
    widths = [max(len(line[column]) for line in table) for column in range(len(headings))]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)) for line in table]
    return "".join(f"{line.rstrip()}\n" for line in lines)
