"""The `why` command: in sentences, what an account waits for and until when, and what to do about it."""

from __future__ import annotations

import time

from workers.imap.letters import stamp
from workers.imap.names import is_named, shown
from workers.imap.schedule import recent_s
from workers.imap.status import account_rows, poison_of, when
from workers.imap.trouble import OUTBOX, undotted
from workers.imap.visit import is_running, no_worker, state, what_to_do
from workers.mail.words import plain, seconds

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from workers.mail.config import Config
    from workers.mail.imap_config import Account
    from workers.store.sqlite import SqliteDatabase

MODES = {
    "notify": "The server tells of news in all folders (NOTIFY).",
    "idle": "The server tells of news in one folder (IDLE); the others are looked at each {}.",
    "poll": "The server tells of no news; it is looked at each {}.",
}


def why(config: Config, account: Account) -> str:
    """The sentences, a line each. Raises Refused."""
    imap = config.imap
    where = f'[[imap.accounts]] name = "{account.name}" in {config.path}'
    if not account.enabled:
        return f"{account.name} is disabled: enabled = false at {where}.\n"
    running = is_running(imap)
    with state(imap) as books:
        row = account_rows(books).get(account.name)
        poison = poison_of(books, row["key"]) if row is not None else []
        unsent = _unsent(books, account, row)
    lines = [] if running else [f"Nothing is tried now: {no_worker(imap)}."]
    if row is None:
        lines.append(f"{account.name} was not looked at yet.")
        return "".join(f"{line}\n" for line in lines)
    lines += _state(account, row, running=running)
    if row["problem"] and not (row["kind"] == OUTBOX and unsent):  # these are told one by one
        trouble, again = (row["kind"], row["problem"]), f"then: imap-sync sync {account.name}"
        lines.append(f"{what_to_do(imap, account, trouble, where, running=running, again=again)}.")
    elif running and row["mode"] in MODES:
        present = row["present_until"] > time.time()
        lines.append(MODES[row["mode"]].format(seconds(recent_s(imap, present=present))))
    lines += _wishes(config, account, row)
    for each in poison:
        lines.append(_poison(each, running=running))
    for folder, uid, reason in unsent:
        lines.append(
            f"Message {uid} of {shown(folder)} is not sent: {undotted(plain(reason))}. Save it again when that is put right."
        )
    for name in row["demoted"].split():
        lines.append(f"The server has contradicted itself with {name}, so that is not used: it works, only slower.")
    return "".join(f"{line}\n" for line in lines)


def _unsent(books: SqliteDatabase | None, account: Account, row: dict[str, Any] | None) -> list[tuple[bytes, int, str]]:
    """The letters that can't be sent: folder, UID, why. What is known of an outbox that is none any more counts no more."""
    if row is None or books is None:
        return []
    found = books.run("books.unsendable", (row["key"],))
    delimiters = {None, b"/", b"."} | {each for (each,) in books.run("books.delimiters", (row["key"],))}
    unsent = [
        (folder, uid, reason)
        for folder, uid, reason in found
        if account.outbox is not None and any(is_named(account.outbox, folder, each) for each in delimiters)
    ]
    if row["kind"] == OUTBOX and not unsent and (found or account.outbox is None):
        row["kind"] = row["problem"] = ""  # it was that one's
    return unsent


def _wishes(config: Config, account: Account, row: dict[str, Any]) -> list[str]:
    """What `present` and `log-level` have set, and what mail.toml has of the latter."""
    now, lines = time.time(), []
    if row["present_until"] > now:
        lines.append(f"Its user is here until {stamp(row['present_until'])}, so the short intervals hold.")
    if (account.log_level or config.imap.log_level) == "debug":
        lines.append(f'What is said on its connections is logged: log_level = "debug" in {config.path}.')
    elif row["debug_until"] > now:
        until = stamp(row["debug_until"])
        lines.append(f"What is said on its connections is logged until {until}; imap-sync log-level info {account.name} ends it.")
    return lines


def _state(account: Account, row: dict[str, Any], *, running: bool) -> list[str]:
    now = time.time()
    synced = f"last in step at {stamp(row['synced_at'])}" if row["synced_at"] else "never in step yet"
    said = undotted(plain(row["problem"]))
    if row["until"] > now and said:
        rest = (
            [f"It rests until {stamp(row['until'])}, that is {when(row['until'] - now).removeprefix('in ')}."] if running else []
        )
        return [f"{account.name} can't be brought in step ({synced}): {said}.", *rest]
    if said:
        return [f"{account.name}: {said} ({synced})."]
    if row["state"] == "syncing" and running:
        return [f"{account.name} is being brought in step ({synced})."]
    if row["state"] == "in step":
        return [f"{account.name} waits for nothing: {synced}."]
    return [f"{account.name} waits for its next look ({synced})."]


def _poison(each: dict[str, Any], *, running: bool) -> str:
    tries = f"{each['tries']} tries" if each["tries"] > 1 else "1 try"
    left_s = each["next_try"] - time.time()
    if left_s > 0:
        following = f"next one {when(left_s)}" if running else f"next one with the first sync after {stamp(each['next_try'])}"
    else:
        following = "next one at the next look at that folder" if running else "next one with the next sync or run"
    text = f"Message {each['uid']} of {each['folder']} could not be had in {tries}, {following}: {plain(each['why'])}"
    return f"{undotted(text)}. Everything else is copied."
