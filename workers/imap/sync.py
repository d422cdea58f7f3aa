"""The `sync` command: one pass of accounts, here or by the worker that runs already."""

from __future__ import annotations

import os
import sys
import time

from workers.imap.archive import Locked, Root
from workers.imap.books import DAMAGED, Books, open_beside, set_aside
from workers.imap.engine import Engine
from workers.imap.jobs import Env
from workers.imap.keys import Keys
from workers.imap.limits import Limits
from workers.imap.log import Log
from workers.imap.reports import Reports
from workers.imap.trouble import DISK, NETWORK, undotted
from workers.imap.visit import config_path, is_running, no_accounts, number_of, os_refused, state_refused
from workers.mail.errors import OK, TRY_AGAIN, USAGE, Refused
from workers.mail.words import counted, plain
from workers.store.bell import ring
from workers.store.database import StoreError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from workers.imap.member import Member
    from workers.mail.config import Config
    from workers.mail.imap_config import Account, Imap
    from workers.store.sqlite import SqliteDatabase

LOOK_S = 0.05  # between two looks whether the worker is done
LOCK_LOOKS = 20  # between two tries whether it is gone
TOLD_LOOKS = 100  # then it is said for what it waits
PERSON = 1  # something needs a person


def sync(config: Config, wanted: list[str]) -> int:
    """Brings `wanted` accounts, or all, in step; 0, 75 when some can't be reached, 1 when a person is needed. Raises Refused."""
    imap = config.imap
    accounts = chosen(imap, wanted)
    if not accounts:
        disabled = f"nothing to do: all accounts have enabled = false in {config_path(config)}"
        print(disabled if imap.accounts else no_accounts(config))
        return OK
    is_new = False  # the state database, made by this command
    try:
        while True:
            root = Root(imap.root)
            try:
                root.lock()
            except Locked:
                root.close()
                status = _ask(imap, accounts)
                if status is not None:
                    return status
                continue  # it has ended meanwhile
            try:
                return _pass(config, accounts, root)
            except StoreError as error:
                if error.kind not in DAMAGED or is_new:  # a new one that is no better won't be so the next time
                    raise
                set_aside(imap.state)  # all of it is made anew from what lies on disk
                is_new = True
            finally:
                root.close()
    except StoreError as error:
        raise state_refused(imap, error) from None
    except OSError as error:
        raise os_refused(error, imap.root) from None


def chosen(imap: Imap, wanted: list[str]) -> list[Account]:
    """The accounts of these names; all enabled ones for none. Raises Refused."""
    if not wanted:
        return [account for account in imap.accounts if account.enabled]
    by_name = {account.name: account for account in imap.accounts}
    for name in wanted:
        if name not in by_name:
            known = ", ".join(by_name) or "none: add [[imap.accounts]] to mail.toml"
            raise Refused(USAGE, f"no account {name}; known are {known}")
        if not by_name[name].enabled:
            raise Refused(USAGE, f"account {name} has enabled = false in mail.toml; take that away first")
    return [by_name[name] for name in wanted]


def _pass(config: Config, accounts: list[Account], root: Root) -> int:
    imap = config.imap
    books = Books(imap.state)
    log = Log(imap.log)
    engine = Engine(imap, Env(root, books, Keys(), Limits(), push=False, config=config), log)
    reports = Reports(engine, None)
    try:
        for each in engine.add(accounts):
            each.id = number_of(each.account, each.key, imap)
            engine.ask(each, each.asked + 1)
        while not all(_is_over(member) or (member.kind and engine.is_down(member)) for member in engine.members.values()):
            engine.step(1.0)
        members = list(engine.members.values())
        reports.last()
        return max((_status(member, books) for member in members), key=_weight, default=OK)
    finally:
        engine.close()
        books.close()


def _is_over(member: Member) -> bool:
    if member.running or member.looking:
        return False
    return member.until > time.monotonic() or (member.looked == member.asked and not member.owed)


def _status(member: Member, books: Books) -> int:
    """The exit status for an account; what the log of the pass has not told is told here."""
    poison = books.run("poison_count", (member.key,))[0][0]
    _complain(member.account.name, "" if member.failures else member.problem, poison)  # without failures it is another's
    return _judged(member.kind, poison or len(member.folder_problems))


def _judged(kind: str, problems: int) -> int:
    if kind in (NETWORK, DISK):
        return TRY_AGAIN
    return PERSON if kind or problems else OK


def _complain(name: str, problem: str, poison: int) -> None:
    """A line on standard error for an account that is not in step, if there is something to say."""
    parts = [undotted(plain(problem))] if problem else []
    if poison:
        parts.append(f"{counted(poison, 'message')} could not be fetched")
    if parts:
        print(f"{name}: {'; '.join(parts)}; imap-sync why {name}", file=sys.stderr)


def _weight(status: int) -> int:
    return (OK, TRY_AGAIN, PERSON).index(status)


def _is_there(path: str, inode: int) -> bool:
    """Whether the state database is still the one that the worker reads."""
    try:
        return os.stat(path).st_ino == inode
    except OSError:
        return False


def _ask(imap: Imap, accounts: list[Account]) -> int | None:
    """Has the running worker make the pass, and waits for it; None when that worker is gone."""
    database = open_beside(imap.state)
    opened = os.stat(imap.state).st_ino
    try:

        def work(transaction: SqliteDatabase) -> dict[str, int]:
            for each in accounts:  # a worker that has just begun may not have made their rows
                transaction.run("books.add_account", (each.name,))
            return {each.name: transaction.run("books.ask", (each.name,))[0][0] for each in accounts}

        waiting = database.transact(work)  # type: ignore[arg-type]
        ring(imap.state)
        statuses = [OK]
        looks = 0
        while waiting:
            for name, asked in list(waiting.items()):
                done, kind, problem, key = database.run("books.progress", (name,))[0]
                if done >= asked:
                    del waiting[name]
                    poison = database.run("books.poison_count", (key,))[0][0]
                    _complain(name, problem, poison)  # the log is the worker's, and elsewhere
                    statuses.append(_judged(kind, poison or len(problem)))
            looks += 1
            if waiting and looks % LOCK_LOOKS == 0 and not (is_running(imap) and _is_there(imap.state, opened)):
                return None
            if waiting and looks == TOLD_LOOKS:
                print(f"waits for the worker that runs: {', '.join(waiting)} (see imap-sync status)", file=sys.stderr)
            if waiting:
                time.sleep(LOOK_S)
        return max(statuses, key=_weight)
    finally:
        database.close()
