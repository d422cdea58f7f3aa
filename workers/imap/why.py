"""The `why` command: in sentences, what an account waits for and until when, and what to do about it."""

from __future__ import annotations

import time

from workers.imap.letters import stamp
from workers.imap.names import shown
from workers.imap.schedule import recent_s
from workers.imap.status import account_rows, poison_of
from workers.imap.trouble import AUTH, DISK, NETWORK, SECRET, SERVER, TLS
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
    if row["problem"]:
        lines.append(_what_to_do(imap, account, row["kind"], where))
    elif running and row["mode"] in MODES:
        present = row["present_until"] > time.time()
        lines.append(MODES[row["mode"]].format(seconds(recent_s(imap, present=present))))
    for each in poison:
        lines.append(_poison(each))
    for folder, uid, reason in unsent:
        lines.append(f"Message {uid} of {shown(folder)} is not sent: {plain(reason)}. Save it again when that is put right.")
    for name in row["demoted"].split():
        lines.append(f"The server has contradicted itself with {name}, so that is not used: it works, only slower.")
    return "".join(f"{line}\n" for line in lines)


def _state(account: Account, row: dict[str, Any], *, running: bool) -> list[str]:
    now = time.time()
    synced = f"last in step at {stamp(row['synced_at'])}" if row["synced_at"] else "never in step yet"
    said = plain(row["problem"]).rstrip(".")
    if row["until"] > now and said:
        rest = [f"It rests until {stamp(row['until'])}, that is {seconds(row['until'] - now)}."] if running else []
        return [f"{account.name} can't be brought in step ({synced}): {said}.", *rest]
    if said:
        return [f"{account.name}: {said} ({synced})."]
    if row["state"] == "syncing" and running:
        return [f"{account.name} is being brought in step ({synced})."]
    if row["state"] == "in step":
        return [f"{account.name} waits for nothing: {synced}."]
    return [f"{account.name} waits for its next look ({synced})."]


def _what_to_do(imap: Imap, account: Account, kind: str, where: str) -> str:
    """What a person can do about a problem of this kind."""
    again = f"then: imap-sync sync {account.name}"
    secret = next(
        key for key in ("password_file", "password_command", "token_command") if getattr(account, key) or key == "token_command"
    )
    if kind == AUTH:
        source = f"{secret} = {getattr(account, secret)}"
        return f"Put user ({account.user}) or the secret right ({source}) at {where}; {again}."
    if kind == SECRET:
        return f"No password or token could be had: see {secret} at {where}; {again}."
    if kind == TLS:
        keys = "tls, host, ca_file, fingerprint" + (", cert_file, key_file" if account.cert_file else "")
        return f"The connection would not be safe: see {keys} at {where}; {again}."
    if kind == DISK:
        return f"Make space for {imap.root} (df -h, df -i), and let it be written to; it goes on by itself."
    if kind == NETWORK:
        return f"It is tried again by itself; if that lasts, see host ({account.host}) and port ({account.port}) at {where}."
    if kind == SERVER:
        return "It is tried again at each look; the words above are the server's, so its administrator knows more."
    return "It is tried again by itself."


def _poison(each: dict[str, Any]) -> str:
    tries = f"{each['tries']} tries" if each["tries"] > 1 else "1 try"
    left_s = each["next_try"] - time.time()
    following = f"next one in {seconds(left_s)}" if left_s > 0 else "next one at the next look at that folder"
    text = f"Message {each['uid']} of {each['folder']} could not be had in {tries}, {following}: {plain(each['why'])}"
    return f"{text.rstrip('.')}. Everything else is copied."
