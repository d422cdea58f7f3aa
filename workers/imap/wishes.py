"""`present` and `log-level`: what people want of the running worker, written into the state database."""

from __future__ import annotations

import time

from workers.imap.books import open_beside
from workers.imap.letters import stamp
from workers.imap.visit import is_running, named, no_accounts, no_worker, state_refused
from workers.mail.errors import USAGE, Refused
from workers.mail.values import duration_s
from workers.store.bell import ring
from workers.store.database import StoreError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from workers.mail.config import Config
    from workers.mail.imap_config import Account, Imap
    from workers.store.database import Transaction

SPAN = "15m"
LEVELS = ("debug", "info")


def present(imap: Imap, account: Account, span: str | None) -> str:
    """The user of an account is here for that long; what to print. Raises Refused."""
    until = time.time() + _span_s(span)
    _write(imap, [account], lambda transaction: transaction.run("books.present", (until, account.name)))
    words = f"{account.name}: its user is here until {stamp(until)}"
    return f"{words}{_worker(imap)}\n" if account.enabled else f"{words}, but it is disabled\n"


def log_level(config: Config, words: list[str], span: str | None) -> str:
    """What is said on the connections of some accounts, or of all, goes into the log for that long, or no more; what to print.

    Raises Refused.
    """
    imap = config.imap
    if not words or words[0] not in LEVELS:
        raise Refused(USAGE, f"log-level needs debug or info first{f', not {words[0]}' if words else ''}")
    if span is not None and words[0] == "info":
        raise Refused(USAGE, "--for goes with debug; info holds until the next debug")
    accounts = [named(imap, name) for name in words[1:]] or imap.accounts
    if not accounts:
        raise Refused(USAGE, no_accounts(config))
    until = time.time() + _span_s(span) if words[0] == "debug" else 0.0

    def work(transaction: Transaction) -> None:
        if len(words) == 1:
            transaction.run("books.debug_all", (until,))
        for account in accounts if len(words) > 1 else ():
            transaction.run("books.debug", (until, account.name))

    _write(imap, accounts, work)
    what = f"debug until {stamp(until)}" if until else "info"
    lines = [f"{', '.join(account.name for account in accounts)}: {what}{_worker(imap)}\n"]
    held = [account.name for account in accounts if not until and (account.log_level or imap.log_level) == "debug"]
    if held:
        lines.append(f'{", ".join(held)}: still debug, for log_level = "debug" in {config.path}\n')
    return "".join(lines)


def _write(imap: Imap, accounts: list[Account], work: Callable[[Transaction], object]) -> None:
    """Into the rows of these accounts, which are made where they are missing; the worker is told at once."""

    def whole(transaction: Transaction) -> None:
        for account in accounts:
            transaction.run("books.add_account", (account.name,))
        work(transaction)

    try:
        database = open_beside(imap.state)
        try:
            database.transact(whole)
        finally:
            database.close()
    except StoreError as error:
        raise state_refused(imap, error) from None
    ring(imap.state)


def _span_s(span: str | None) -> float:
    try:
        return duration_s(span or SPAN)
    except ValueError as error:
        raise Refused(USAGE, f"--for {span}: needs to be {error}") from None


def _worker(imap: Imap) -> str:
    return "" if is_running(imap) else f"; {no_worker(imap)}"
