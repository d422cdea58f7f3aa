"""The `verify` command: proves that the copies are complete. It only reads, takes no lock, and works beside a worker.

Mail comes and goes meanwhile, so what differs is looked at again, behind a pass of the worker when one runs; a difference
counts when it is still there.
"""

from __future__ import annotations

import os
import sys
import time

from workers.imap import names
from workers.imap.account import wanted as chosen_folders
from workers.imap.limits import Limits
from workers.imap.proof import Place, prove
from workers.imap.report import Report
from workers.imap.trouble import SERVER, Declined, Lost, Trouble
from workers.imap.visit import is_running, log_in, named, no_accounts, os_refused, state
from workers.mail.errors import OK, TRY_AGAIN
from workers.mail.words import counted, plain
from workers.store.bell import ring

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from workers.imap.answers import Listed
    from workers.imap.session import Session
    from workers.mail.config import Config
    from workers.mail.imap_config import Account, Imap
    from workers.store.sqlite import SqliteDatabase

NOT_COMPLETE = 1
LOOKS = 4  # at what differs
PASS_S = 60.0  # that a worker has for its pass, before what differs counts
ASK_S = 0.05  # between two looks whether it is done
ALIVE_LOOKS = 20  # between two looks whether it still runs
FOLDERS = b""  # the key of the list of folders among the reports: no folder has this name


def verify(config: Config, wanted: list[str], *, content: bool) -> int:
    """Prints a line for each folder; 0 when all is complete, 1 when not, 75 when some can't be reached. Raises Refused."""
    imap = config.imap
    accounts = [named(imap, name) for name in dict.fromkeys(wanted)] or [each for each in imap.accounts if each.enabled]
    if not accounts:
        _say(no_accounts(config))
        return OK
    differences, unreached = 0, []
    with state(imap) as books:
        for account in accounts:
            try:
                differences += _Check(imap, account, books, content=content).run()
            except (Trouble, Declined) as error:
                unreached.append(account.name)
                _say(f"{account.name}: can't be compared: {plain(str(error))}")
            except OSError as error:
                raise os_refused(error, imap.root) from None
    parts = [f"{differences} differences" if differences != 1 else "1 difference"] if differences else []
    parts += [f"not compared: {', '.join(unreached)}"] if unreached else []
    _say("; ".join(parts) or "complete")
    return NOT_COMPLETE if differences else TRY_AGAIN if unreached else OK


class _Check:
    """One account. Raises Trouble, Declined, StoreError, OSError."""

    def __init__(self, imap: Imap, account: Account, books: SqliteDatabase | None, *, content: bool) -> None:
        self._imap = imap
        self._account = account
        self._books = books
        self._content = content
        self._folder = os.path.join(imap.root, account.name)
        self._session: Session
        self._lost = False

    def run(self) -> int:
        """How many differences stand."""
        self._session = log_in(self._account, self._demoted())
        try:
            differ = self._look(None)
            for _ in range(LOOKS - 1):
                if not differ:
                    break
                self._let_worker_pass(differ)
                again = self._look(differ)
                stands = {name: report.both(differ[name]) for name, report in again.items()}
                differ = again
                if all(stands[name].count() == report.count() for name, report in again.items()):
                    break
            else:
                differ = stands
            for name, report in differ.items():
                self._tell(name, report)
            return sum(report.differences() for report in differ.values())
        finally:
            self._session.close(politely=True)

    def _demoted(self) -> frozenset[str]:
        """The extensions with which the server contradicts itself."""
        rows = [] if self._books is None else self._books.run("books.account", (self._account.name,))
        return frozenset(rows[0][1].split()) if rows else frozenset()

    def _look(self, only: dict[bytes, Report] | None) -> dict[bytes, Report]:
        """What differs now, by folder, in those of `only` or in all; a folder without differences is told at once."""
        everything = self._session.folders(int(Limits().folders))
        if not everything:
            raise Trouble(SERVER, "the server lists no folder at all, though INBOX is always there")
        listed = chosen_folders(everything, self._account)
        rows = self._rows()
        report = self._compare_lists(listed, rows)
        if self._session.unread_folders:
            unread = counted(self._session.unread_folders, "folder")
            report.names["closed"] = {f"{unread} of the server's list that can't be read"}
        found = {FOLDERS: report} if report.count() and (only is None or FOLDERS in only) else {}
        for name, each in sorted(listed.items()):
            if only is not None and name not in only:
                continue
            number, path = rows.get(name) or (0, names.folder_path(name, each.delimiter))
            report = self._prove(Place(each.said, os.path.join(self._folder, path), number))
            if report.count():
                found[name] = report
            else:
                self._tell(name, report)
        return found

    def _rows(self) -> dict[bytes, tuple[int, str]]:
        """The folders that the state database knows, by name: id, path."""
        return {row[1]: (row[0], row[3]) for row in self._folder_rows()}

    def _folder_rows(self) -> list[tuple[Any, ...]]:
        account = [] if self._books is None else self._books.run("books.account", (self._account.name,))
        return self._books.run("books.folders", (account[0][0],)) if account and self._books is not None else []

    def _compare_lists(self, listed: dict[bytes, Listed], rows: dict[bytes, tuple[int, str]]) -> Report:
        """Folders that are missing here, and folders too many, in the database or on disk."""
        report = Report()
        try:
            here = {entry.name for entry in os.scandir(self._folder) if entry.is_dir() and not entry.name.startswith(".")}
        except FileNotFoundError:
            here = set()
        paths = set()
        for name, each in listed.items():
            path = rows[name][1] if name in rows else names.folder_path(name, each.delimiter)
            paths.add(path)
            is_outbox = self._account.outbox is not None and names.is_named(self._account.outbox, name, each.delimiter)
            if (name not in rows or path not in here) and not is_outbox:  # what lies in that one is compared all the same
                report.names.setdefault("not copied", set()).add(names.shown(name))
        if others := (here | {path for _, path in rows.values()}) - paths:
            report.names["vanished"] = others
        return report

    def _prove(self, place: Place) -> Report:
        """One folder; a connection that is lost is made anew, once."""
        running = is_running(self._imap)
        try:
            return prove(self._session, self._books, place, content=self._content, running=running)
        except Lost:
            self._session.close(politely=False)
            if self._lost:
                raise
            self._lost = True
            self._session = log_in(self._account, self._demoted())
            return prove(self._session, self._books, place, content=self._content, running=running)

    def _let_worker_pass(self, differ: dict[bytes, Report]) -> None:
        """Has a worker that runs bring the account in step, and waits for it, though not for ever."""
        books = self._books
        if books is None or not self._account.enabled or not is_running(self._imap):
            return
        began = time.time()
        asked = books.run("books.ask", (self._account.name,))
        ring(self._imap.state)
        until = time.monotonic() + PASS_S
        looks = 0
        while asked and time.monotonic() < until:
            looks += 1
            if books.run("books.progress", (self._account.name,))[0][0] >= asked[0][0]:
                return
            if looks % ALIVE_LOOKS == 0 and (not is_running(self._imap) or self._were_passed(differ, began)):
                return
            time.sleep(ASK_S)

    def _were_passed(self, differ: dict[bytes, Report], began: float) -> bool:
        """Whether each folder that differs was in step since: where mail never ceases, an account as a whole never is."""
        synced = {row[1]: row[10] for row in self._folder_rows()}
        return all(synced.get(name, 0.0) > began for name in differ)

    def _tell(self, name: bytes, report: Report) -> None:
        if name != FOLDERS:
            _say(f"{self._account.name} {names.shown(name)}: {report.told()}")
        elif report.count():
            _say(f"{self._account.name}: {report.told().partition('; ')[2]}")


def _say(text: str) -> None:
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()
