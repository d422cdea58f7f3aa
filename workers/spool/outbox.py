"""The SQL way in: rows that an application has put into mail_outbox, in a transaction of its own, become mails.

A row is made into a mail outside of any transaction, since a template takes its time; then it is taken, if it still
is as it was, together with the mail being queued: once, whoever is killed.
"""

from __future__ import annotations

import time
from functools import partial
from typing import TYPE_CHECKING, Any

from workers.spool import claims, entry
from workers.spool.accept import accept
from workers.spool.log import line

if TYPE_CHECKING:
    from workers.mail.config import Config
    from workers.spool.accept import Submission
    from workers.store.database import Database, Transaction
    from workers.store.writer import Writer

BATCH = 50
NAMES = ("template", "from", "to", "data", "subject", "text", "html", "priority", "send_at", "expires", "identifier")


async def take(config: Config, database: Database, writer: Writer) -> int:
    """Queues what waits in mail_outbox; how many rows it went through. Raises StoreError."""
    number = 0
    while rows := database.run("sender.outbox_rows", {"most": BATCH}):
        now = time.time()
        made: list[tuple[int, Submission]] = []
        bad: list[tuple[int, str]] = []
        for row in rows:
            try:
                made.append((row[0], entry.mail(config, fields(row[1:]), now)))
            except entry.EntryError as error:
                bad.append((row[0], str(error)))
                line(f"mail_outbox row {row[0]}: {error}")
        await writer.do(partial(_write, made=made, bad=bad, now=now))
        number += len(rows)
    return number


def fields(row: tuple[Any, ...]) -> dict[str, Any]:
    """A row's columns as the fields of an entry; empty ones are left out. Raises EntryError."""
    found = {name: value for name, value in zip(NAMES, row, strict=True) if value is not None}
    for name, value in found.items():
        if isinstance(value, bytes):
            try:
                found[name] = value.decode()
            except UnicodeDecodeError:
                raise entry.EntryError(f"{name}: is not UTF-8") from None
    if "data" in found:
        found["data"] = entry.read(found["data"])
    return found


def _write(transaction: Transaction, made: list[tuple[int, Submission]], bad: list[tuple[int, str]], now: float) -> None:
    for row_id, mail in made:
        # the row is taken first: one that the application has changed or deleted meanwhile makes no mail
        if transaction.run("sender.outbox_taken", (row_id,)):
            (mail_id,) = accept(transaction, [mail], now)
            transaction.run("sender.outbox_mail", {"id": row_id, "mail_id": mail_id})
            claims.follow(transaction, [mail_id])  # its identifier may be that of a mail which is sent already
    for row_id, error in bad:
        transaction.run("sender.outbox_bad", {"id": row_id, "error": error})
