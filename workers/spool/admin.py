"""What people do to the queue by hand: retry, hold, release, cancel, delete, flush, prune."""

from __future__ import annotations

import json
import time
from functools import partial
from typing import TYPE_CHECKING

from workers.mail.errors import USAGE, Refused
from workers.spool import claims
from workers.spool.listing import read
from workers.store.bell import ring

if TYPE_CHECKING:
    from collections.abc import Callable

    from workers.mail.config import Config
    from workers.spool.commandline import Words
    from workers.store.database import Transaction
    from workers.store.sqlite import SqliteDatabase

WAITING = ("queued", "deferred", "unknown")
CHANGES = {  # command: the states that it takes, and the one that it makes
    "retry": (("deferred", "unknown", "failed", "expired"), "queued"),
    "hold": (WAITING, "held"),
    "release": (("held", "unknown"), "queued"),
    "cancel": ((*WAITING, "held"), "cancelled"),
}
FINAL = ("sent", "failed", "expired", "cancelled")
BATCH = 500  # mails that are pruned in one transaction, so that nobody waits long for the store


class Chosen:
    """Which recipients a command is about: mails by id, addresses, states; None is all."""

    def __init__(self, words: Words, states: tuple[str, ...]) -> None:
        """Raises Refused(64) when nothing is chosen, or a state makes no sense here."""
        given = words.values.get("--state")
        for state in given or ():
            if state not in states:
                raise Refused(USAGE, f"--state {state}: this command takes {', '.join(states)}")
        if not (words.operands or given or "--to" in words.values or "--all" in words.flags):
            raise Refused(USAGE, "nothing chosen; name mails by id, or use --state STATE, --to ADDRESS or --all")
        self.states = json.dumps(given or states)
        self.ids = json.dumps([mail_id(word) for word in words.operands]) if words.operands else None
        self.to = json.dumps(words.values["--to"]) if "--to" in words.values else None

    def key(self) -> dict[str, str | None]:
        """The values for the statements."""
        return {"states": self.states, "ids": self.ids, "to": self.to}


def mail_id(word: str) -> int:
    """The number of a mail, as `list` shows it. Raises Refused(64)."""
    if not (word.isascii() and word.isdigit() and len(word) < 19):
        raise Refused(USAGE, f"{word}: is no mail's number; smtp-spool list shows them")
    return int(word)


def change(config: Config, command: str, words: Words) -> int:
    """Does retry, hold, release or cancel; the number of recipients that it reached."""
    states, state = CHANGES[command]
    chosen = Chosen(words, states)
    now = time.time()

    def work(transaction: Transaction) -> int:
        rows = transaction.run("admin.change", {**chosen.key(), "state": state, "now": now, "at_once": command == "retry"})
        claims.follow(transaction, (row[0] for row in rows))
        if state == "queued" and rows:
            ids = json.dumps(sorted({row[0] for row in rows}))
            transaction.run("admin.give_time", {"ids": ids, "now": now, "expires_at": now + config.max_age_s})
        return len(rows)

    return _done(config, work)


def delete(config: Config, words: Words) -> int:
    """Takes mails away with all their recipients, but none that is being sent now; the number of mails."""
    chosen = Chosen(words, (*WAITING, "held", *FINAL))

    def work(transaction: Transaction) -> int:
        ids = {row[0] for row in transaction.run("admin.chosen", chosen.key())}
        busy = {row[0] for row in transaction.run("admin.chosen", {**chosen.key(), "states": '["sending"]', "to": None})}
        return take_away(transaction, sorted(ids - busy))

    return _done(config, work)


def take_away(transaction: Transaction, ids: list[int]) -> int:
    """Deletes mails and writes into the books what became of their recipients; the number of mails."""
    key = {"ids": json.dumps(ids)}
    for statement in ("count_gone", "count_gone_unknowns", "delete_recipients", "delete_bodies", "delete_outbox"):
        transaction.run(f"admin.{statement}", key)
    return len(transaction.run("admin.delete_messages", key))


def prune_some(transaction: Transaction, before: float, after: int) -> list[int]:
    """Takes away some mails with ids above `after` that were over before that time; their ids, in order."""
    ids = [row[0] for row in transaction.run("admin.over", {"before": before, "after": after, "most": BATCH})]
    if ids:
        take_away(transaction, ids)
    return ids


def prune(config: Config) -> int:
    """Takes away all mails that are over for longer than `keep_sent`; how many."""
    before = time.time() - config.keep_sent_s

    def work(spool: SqliteDatabase) -> int:
        number = after = 0
        while ids := spool.transact(partial(prune_some, before=before, after=after)):
            number += len(ids)
            after = ids[-1]
        return number

    return read(config, 0, work)


def flush(config: Config) -> int:
    """Makes everything that waits due at once and closes all pauses of relays; the number of recipients."""

    def work(transaction: Transaction) -> int:
        transaction.run("admin.flush")
        transaction.run("sender.add_meta", {"name": "flush", "by": 1})
        return int(transaction.run("admin.count_unsent")[0][0])

    return _done(config, work)


def _done(config: Config, work: Callable[[Transaction], int]) -> int:
    number = read(config, 0, lambda spool: spool.transact(work))
    ring(config.database)
    return number
