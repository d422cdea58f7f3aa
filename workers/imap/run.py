"""The `run` command: keeps all accounts in step for ever, and tells how it goes."""

from __future__ import annotations

import faulthandler
import os
import signal
import sys
import threading
import time

from workers.imap.archive import Locked, Root, prune_removed
from workers.imap.books import DAMAGED, Books, open_state, set_aside
from workers.imap.engine import Engine
from workers.imap.jobs import Env
from workers.imap.keys import Keys
from workers.imap.limits import Limits
from workers.imap.log import Log
from workers.imap.reports import Reports
from workers.imap.visit import number_of, os_refused, state_refused
from workers.mail.errors import OK, TRY_AGAIN, Refused
from workers.mail.load import find_again, load_again, stamp
from workers.mail.notify import Notifier
from workers.mail.words import counted, plain
from workers.store.bell import Bell
from workers.store.database import StoreError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from types import FrameType

    from workers.mail.config import Config
    from workers.mail.imap_config import Imap

TICK_S = 1.0
IDLE_TICK_S = 5.0  # without accounts only the config can bring news
PRUNE_S = 3600.0
LOCK_S = 5.0  # for one that is about to end, or only looks whether somebody runs
HEALED_S = 60.0  # a new database that is bad so soon is none's fault but the disk's
SET_ASIDE = "SEMGUARD_IMAP_SET_ASIDE"  # when it was, for the process that begins anew
ENDING = (signal.SIGTERM, signal.SIGINT)


def run(config: Config) -> int:
    """Works until asked to stop; the exit status. Raises Refused."""
    try:
        worker = Worker(config)
        worker.run()
    except StoreError as error:
        raise state_refused(config.imap, error) from None
    except Locked as error:
        raise Refused(TRY_AGAIN, f"{error}; one worker at a time keeps the copies") from None
    except OSError as error:
        raise os_refused(error, config.imap.root) from None
    signal.pthread_sigmask(signal.SIG_BLOCK, ENDING)  # one that comes now waits for the next worker's handler
    if worker.begins_anew and not worker.is_asked_to_end:  # the same process goes on, so that guard sees no death
        os.execv(sys.executable, [sys.executable, *sys.orig_argv[1:]])
    return OK


class Worker:
    """The process of `run`. Raises StoreError, Locked, OSError."""

    def __init__(self, config: Config) -> None:
        self._config = config
        self._imap = config.imap
        self._root = Root(self._imap.root)
        self._root.lock(LOCK_S)
        self._database = open_state(self._imap.state)  # of this thread: what commands ask for is read here
        self._books = Books(self._imap.state)
        self.log = Log(self._imap.log)
        self._bell = Bell(self._imap.state)
        self._notifier = Notifier()
        env = Env(self._root, self._books, Keys(), Limits(), push=True, config=config)
        self.engine = Engine(self._imap, env, self.log)
        self._reports = Reports(self.engine, self._notifier)
        self.is_asked_to_end = False  # by a signal, which may come at any moment
        self.begins_anew = False  # once it has ended
        self._is_damaged = False
        self._changes = -1
        self._stamp = self._seen = config.stamp
        self._file = os.stat(self._imap.state).st_ino
        self._pruned_at = 0.0
        self._pruner: threading.Thread | None = None  # it reads whole folders, for which no account has to wait

    @property
    def _is_over(self) -> bool:
        return self.is_asked_to_end or self.begins_anew

    def run(self) -> None:
        """Until a signal ends it, or it has to begin anew. Raises StoreError, OSError."""
        for number in ENDING:
            signal.signal(number, self._ask_to_end)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, ENDING)
        signal.set_wakeup_fd(self.engine.hub.wake_fd, warn_on_full_buffer=False)
        faulthandler.register(signal.SIGQUIT, all_threads=True, chain=False)
        if self._bell.fd is not None:
            self.engine.hub.listen(self._bell.fd)
        started = time.monotonic()
        try:
            self._begin()
            self._loop()
        except StoreError as error:
            if error.kind not in DAMAGED or time.monotonic() - float(os.environ.get(SET_ASIDE, "-inf")) < HEALED_S:
                raise
            self.log.complain(f"{error}; it is set aside and made anew from what lies on disk")
            os.environ[SET_ASIDE] = str(time.monotonic())
            self.begins_anew = self._is_damaged = True
        finally:
            if not self.begins_anew:
                self._notifier.say("STOPPING=1")
            self._close()
            self.log.say(f"ended after {time.monotonic() - started:.0f} s")

    def _begin(self) -> None:
        self._take_on(self._imap)
        count = len(self.engine.members)
        what = counted(count, "account") if count else "no accounts: waits for [[imap.accounts]] in mail.toml"
        self.log.say(f"started: {what}, copies in {self._imap.root}, config {self._config.path or 'none'}")
        self._notifier.say("READY=1")

    def _loop(self) -> None:
        next_tick = 0.0
        while not self._is_over:
            now = time.monotonic()
            if now >= next_tick:
                self._tick()
                if self._is_over:
                    break
                is_idle = not self.engine.members and self._seen == self._stamp
                next_tick = now + (IDLE_TICK_S if is_idle else TICK_S)
            self.engine.step(next_tick - now)
            if self._bell.fd is not None and self._bell.hush():
                self._look_at_wishes()
            self._reports.answer()

    def _tick(self) -> None:
        self.engine.tick()
        self._look_at_config()
        self._look_at_wishes()
        self._reports.tick()
        old = self._bell.fd
        if self._bell.check() and old is not None:
            self.engine.hub.ignore(old)
            if self._bell.fd is not None:
                self.engine.hub.listen(self._bell.fd)
        now = time.monotonic()
        if self._imap.accounts and (not self._pruned_at or now - self._pruned_at > PRUNE_S):
            self._pruned_at = now
            if self._pruner is None or not self._pruner.is_alive():
                accounts = [account.name for account in self._imap.accounts]
                self._pruner = threading.Thread(target=self._prune, args=(accounts, self._imap.keep_deleted_s), daemon=True)
                self._pruner.start()

    def _look_at_wishes(self) -> None:
        """What commands have written into the state database."""
        try:
            same = os.stat(self._imap.state).st_ino == self._file
        except OSError:
            same = False
        if not same:
            self.log.complain(f"{self._imap.state}: was replaced or taken away; begins anew with what lies on disk")
            self.begins_anew = True
            return
        changes = self._database.changes()
        if changes == self._changes and not self._reports.owes_answers:
            return
        self._reports.owes_answers = False
        self._changes = changes
        for key, name, present_until, debug_until, asked, done in self._database.run("books.accounts"):
            member = self.engine.members.get(name)
            if member is not None:
                self._reports.wishes(member, present_until, debug_until, asked)
            elif asked > done and self._seen != self._stamp:
                self._changes = -1  # it may be in the config that is about to be read
            elif asked > done:
                self._reports.unknown(key, asked)

    def _look_at_config(self) -> None:
        """Takes a changed mail.toml when it is whole and valid."""
        found = stamp(find_again(self._config))
        settled, self._seen = found == self._seen, found  # one that is still being written changes again
        if found == self._stamp or not settled:
            return
        self._stamp = found
        try:
            config = load_again(self._config)
        except Refused as error:
            self.log.complain(f"{error}; the config before stays in force")
            return
        if not _is_alike(config.imap, self._imap):
            self.log.say("the config has changed: begins anew with it")
            self.begins_anew = True
            return
        self._config = self.engine.env.config = config
        added, gone = self._take_on(config.imap)
        parts = [f"{what} {plain(', '.join(names))}" for what, names in (("takes on", added), ("lets go", gone)) if names]
        self.log.say(f"config {config.path or 'none'}: {'; '.join(parts) or 'no account has changed'}")

    def _take_on(self, imap: Imap) -> tuple[list[str], list[str]]:
        """Takes new and changed accounts on, and lets those go that are gone; the names of both."""
        before = {account.name: account for account in self._imap.accounts}
        self._imap, self._changes = imap, -1  # a command may wait for an account that is served no more
        wanted = {account.name: account for account in imap.accounts if account.enabled}
        gone = []
        for name in list(self.engine.members):
            if name not in wanted or not _is_alike(wanted[name], before[name]):
                self.engine.drop(name)
                gone += [name] if name not in wanted else []
        added = self.engine.add([account for name, account in wanted.items() if name not in self.engine.members])
        for member in self.engine.members.values():  # also of those that go on: a new `id` may have been another one's number
            member.id = number_of(member.account, member.key, imap)
        for member in added:
            for text in self._reports.greet(member):
                self.log.say(text, member.id)
        return [member.account.name for member in added], gone

    def _prune(self, accounts: list[str], keep_s: float) -> None:
        """What was removed long ago goes for good; in a thread of its own."""
        for name in accounts:
            try:
                number = prune_removed(os.path.join(self._root.path, name), keep_s)
            except OSError as error:
                self.log.complain(f"{error.filename}: {error.strerror}")
                continue
            if number:
                self.log.say(f"account {plain(name)}: {counted(number, 'removed message')} pruned")

    def _ask_to_end(self, _: int, __: FrameType | None) -> None:
        self.is_asked_to_end = True

    def _close(self) -> None:
        signal.set_wakeup_fd(-1)
        self._reports.last()
        self.engine.close()
        self._notifier.close()
        self._bell.close()
        self._books.close()
        self._database.close()
        if self._is_damaged:
            set_aside(self._imap.state)
        self._root.close()


def _is_alike(one: object, other: object) -> bool:
    """Whether two values of the config say the same, accounts apart."""
    slots = [slot for slot in type(one).__slots__ if slot != "accounts"]  # type: ignore[attr-defined]
    return all(getattr(one, slot) == getattr(other, slot) for slot in slots)
