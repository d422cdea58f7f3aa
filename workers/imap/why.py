"""The `why` command: in sentences, what an account waits for and until when, and what to do about it."""

from __future__ import annotations

import time

from workers.imap.letters import stamp
from workers.imap.names import shown
from workers.imap.schedule import recent_s
from workers.imap.status import account_rows, poison_of, span
from workers.imap.trouble import AUTH, DISK, NETWORK, NO_LOGIN, OUTBOX, SECRET, SERVER, TLS, undotted
from workers.imap.visit import NO_WORKER, is_running, state
from workers.mail.words import plain, seconds

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from workers.mail.config import Config
    from workers.mail.imap_config import Account, Imap

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
        unsent = books.run("books.unsendable", (row["key"],)) if row is not None and books is not None else []
    lines = [] if running else [f"Nothing is tried now: {NO_WORKER}."]
    if row is None:
        lines.append(f"{account.name} was not looked at yet.")
        return "".join(f"{line}\n" for line in lines)
    lines += _state(account, row, running=running)
    if row["problem"] and not (row["kind"] == OUTBOX and unsent):  # these are told one by one
        lines.append(_what_to_do(imap, account, row, where, running=running))
    elif running and row["mode"] in MODES:
        present = row["present_until"] > time.time()
        lines.append(MODES[row["mode"]].format(seconds(recent_s(imap, present=present))))
    for each in poison:
        lines.append(_poison(each, running=running))
    for folder, uid, reason in unsent:
        lines.append(
            f"Message {uid} of {shown(folder)} is not sent: {undotted(plain(reason))}. Save it again when that is put right."
        )
    for name in row["demoted"].split():
        lines.append(f"The server has contradicted itself with {name}, so that is not used: it works, only slower.")
    return "".join(f"{line}\n" for line in lines)


def _state(account: Account, row: dict[str, Any], *, running: bool) -> list[str]:
    now = time.time()
    synced = f"last in step at {stamp(row['synced_at'])}" if row["synced_at"] else "never in step yet"
    said = undotted(plain(row["problem"]))
    if row["until"] > now and said:
        rest = [f"It rests until {stamp(row['until'])}, that is {span(row['until'] - now)}."] if running else []
        return [f"{account.name} can't be brought in step ({synced}): {said}.", *rest]
    if said:
        return [f"{account.name}: {said} ({synced})."]
    if row["state"] == "syncing" and running:
        return [f"{account.name} is being brought in step ({synced})."]
    if row["state"] == "in step":
        return [f"{account.name} waits for nothing: {synced}."]
    return [f"{account.name} waits for its next look ({synced})."]


def _what_to_do(imap: Imap, account: Account, row: dict[str, Any], where: str, *, running: bool) -> str:
    """What a person can do about the problem of an account's row. Of a secret it names the key alone: a command may hold one."""
    kind = row["kind"]
    again = f"then: imap-sync sync {account.name}"
    by_itself = "It is tried again by itself" if running else "The next sync or run tries it again"
    secret = next(
        key for key in ("password_file", "password_command", "token_command") if getattr(account, key) or key == "token_command"
    )
    if kind == AUTH and row["problem"].startswith(NO_LOGIN):
        if account.token_command is not None:
            return f"It takes no tokens: put password_file or password_command in the place of token_command at {where}; {again}."
        return f"See tls, or put token_command in the place of {secret} at {where}, if it wants a token; {again}."
    if kind == AUTH:
        source = f"{secret} = {account.password_file}" if account.password_file else secret
        return f"Put user ({account.user}) or the secret right ({source}) at {where}; {again}."
    if kind == SECRET:
        return f"No password or token could be had: see {secret} at {where}; {again}."
    if kind == TLS:
        keys = "tls, host, ca_file, fingerprint" + (", cert_file, key_file" if account.cert_file else "")
        return f"The connection would not be safe: see {keys} at {where}; {again}."
    if kind == OUTBOX:
        return f"Make that folder on the server, or put outbox right at {where}; {again}."
    if kind == DISK:
        goes_on = "it goes on by itself" if running else again
        return f"Make space for {imap.root} (df -h, df -i), and let it be written to; {goes_on}."
    if kind == NETWORK:
        keys = f'host ({account.host}), port ({account.port}) and tls ("{account.tls}")'
        return f"{by_itself}; if that lasts, see {keys} at {where}."
    if kind == SERVER:
        return f"{by_itself}, at each look; the words above are the server's, so its administrator knows more."
    return f"{by_itself}."


def _poison(each: dict[str, Any], *, running: bool) -> str:
    tries = f"{each['tries']} tries" if each["tries"] > 1 else "1 try"
    left_s = each["next_try"] - time.time()
    if left_s > 0:
        following = f"next one in {span(left_s)}" if running else f"next one with the first sync after {stamp(each['next_try'])}"
    else:
        following = "next one at the next look at that folder" if running else "next one with the next sync or run"
    text = f"Message {each['uid']} of {each['folder']} could not be had in {tries}, {following}: {plain(each['why'])}"
    return f"{undotted(text)}. Everything else is copied."
