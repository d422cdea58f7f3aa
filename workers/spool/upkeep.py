"""What the sender does by the clock and by the bell: looks for new mail, ends what lasts too long, renews its lease,
notices dead senders and a changed config, and keeps the store tidy.
"""

from __future__ import annotations

import asyncio
import os
import time
from functools import partial
from typing import TYPE_CHECKING

from workers.mail.config import says_the_same
from workers.mail.errors import Refused
from workers.mail.load import find_again, load_again, stamp
from workers.mail.words import plain
from workers.spool import outbox, sweep
from workers.spool.log import line
from workers.store.database import StoreError
from workers.store.leases import boot_time, is_dead, owners

if TYPE_CHECKING:
    from workers.mail.config import Config
    from workers.mail.notify import Notifier
    from workers.spool.notices import Notices
    from workers.spool.sender import Sender
    from workers.store.bell import Bell
    from workers.store.sqlite import SqliteDatabase
    from workers.store.writer import Writer

TICK_S = 1.0
STATUS_TICKS = 2
OWNERS_TICKS = 15
SWEEP_TICKS = 60
PRUNE_TICKS = 3600
NOT_USED = ("_imap", "asked_for", "path", "stamp")  # of the config


class Upkeep:
    """Beside a sender, in its event loop."""

    def __init__(
        self, sender: Sender, database: SqliteDatabase, writer: Writer, bell: Bell, notices: Notices, notifier: Notifier
    ) -> None:
        self._sender = sender
        self._database = database
        self._writer = writer
        self._bell = bell
        self._notices = notices
        self._notifier = notifier
        self._changes = -1
        self._flushes: object = None
        self._ticks = 0
        self._file = os.stat(database.path).st_ino
        self._config = self._seen = sender.config.stamp
        self._is_refused = False  # what stands in mail.toml now
        self._sent = 0

    def start(self) -> None:
        """Listens to the bell and begins to tick."""
        if self._bell.problem:
            line(f"no message queue here ({self._bell.problem}): new mail is seen within {TICK_S:.0f} s")
        self._listen()
        self._look()
        self._sender.start(self._sweep())
        self._notifier.say("READY=1")
        asyncio.get_running_loop().call_later(TICK_S, self._tick)
        if self._notifier.watchdog_s:
            self._beat()

    def _listen(self) -> None:
        if self._bell.fd is not None:
            asyncio.get_running_loop().add_reader(self._bell.fd, self._rung)

    def _rung(self) -> None:
        self._bell.hush()
        self._look()

    def _beat(self) -> None:
        self._notifier.say("WATCHDOG=1")
        asyncio.get_running_loop().call_later(self._notifier.watchdog_s or 1.0, self._beat)

    def _tick(self) -> None:
        loop = asyncio.get_running_loop()
        loop.call_later(TICK_S, self._tick)
        self._ticks += 1
        for lane in self._sender.lanes.values():
            lane.tick(loop.time())
        if self._sender.ending:
            return
        self._sender.start(self._sender.renew())
        self._look_at_config()
        if self._notifier.wanted and self._ticks % STATUS_TICKS == 0:
            self._tell()
        try:
            changes = self._database.changes()
            if changes != self._changes:
                self._changes = changes
                self._look()
            if self._ticks % OWNERS_TICKS == 0:
                self._look_at_owners()
        except StoreError as error:
            line(str(error))
        if self._ticks % SWEEP_TICKS == 0:
            self._sender.start(self._sweep())
        if self._ticks % PRUNE_TICKS == 0:
            self._sender.start(self._prune())
        old = self._bell.fd
        if self._bell.check() and old is not None:
            loop.remove_reader(old)
            self._listen()

    def _look(self) -> None:
        """Something may be new: mail, a row in mail_outbox, a wish that everything be tried at once."""
        try:
            flushes = self._database.run("sender.meta", ("flush",))
            waits = self._database.run("sender.outbox_waits")
        except StoreError as error:
            line(str(error))
            return
        if flushes != self._flushes and self._flushes is not None:
            for lane in self._sender.lanes.values():
                lane.reopen()
        self._flushes = flushes
        if waits and not self._sender.taking:
            self._sender.taking = True
            self._sender.start(self._take_outbox())
        self._sender.scan()

    async def _take_outbox(self) -> None:
        try:
            await outbox.take(self._sender.config, self._database, self._writer)
        except StoreError as error:
            line(str(error))
        finally:
            self._sender.taking = False
        self._sender.scan()
        self._sender.rested()

    def _look_at_owners(self) -> None:
        now = boot_time()
        watcher = self._sender.watcher
        if any(owner.id != watcher.id and is_dead(owner, watcher, now) for owner in owners(self._database)):
            self._sender.start(self._sender.recover_again())
        try:
            same = os.stat(self._database.path).st_ino == self._file
        except OSError:
            same = False
        if not same:
            self._sender.give_up(f"{self._database.path}: was replaced or taken away; begins anew")

    def _look_at_config(self) -> None:
        """Takes a changed mail.toml when it is whole and valid: the sender ends in order and begins anew with it."""
        config = self._sender.config
        found = stamp(find_again(config))
        settled, self._seen = found == self._seen, found  # one that is still being written changes again
        if found != self._config and settled:
            self._config = found
            try:
                new = load_again(config)
            except Refused as error:
                line(f"{error}; the config before stays in force")
                self._is_refused = True
            else:
                self._take(new)
        for lane in self._sender.lanes.values():
            if lane.credentials_changed():
                line(f"{lane.title}: its credentials have changed")
                lane.reopen()

    def _take(self, new: Config) -> None:
        """Begins anew when a sender finds something else in the new config; that of imap-sync is of no concern here."""
        config = self._sender.config
        if says_the_same(new, config, without=NOT_USED):
            config.path, config.stamp = new.path, new.stamp
            if self._is_refused:
                line(f"config {new.path or 'none'}: good again, and as before")
        else:
            line("the config has changed: begins anew with it")
            self._sender.reload()
        self._is_refused = False

    async def _sweep(self) -> None:
        sender = self._sender
        shut = {name: lane.gate.problem for name, lane in sender.lanes.items() if lane.gate.is_shut()}
        work = partial(sweep.sweep, notices=self._notices, shut=shut, hold=sender.config.unknown == "hold", now=time.time())
        try:
            lines = await self._writer.do(work)
        except StoreError as error:
            line(str(error))
            return
        if lines:
            line("\n".join(lines))
            sender.scan()

    async def _prune(self) -> None:
        try:
            number = await sweep.prune(self._writer, time.time() - self._sender.config.keep_sent_s)
        except StoreError as error:
            line(str(error))
        else:
            if number:
                line(f"{number} old mails pruned")

    def _tell(self) -> None:
        sender = self._sender
        try:
            waiting = self._database.run("admin.count_unsent")[0][0]
        except StoreError:
            return
        rate = (sender.sent - self._sent) / (STATUS_TICKS * TICK_S)
        self._sent = sender.sent
        last = f"; last error: {plain(sender.last_problem)}" if sender.last_problem else ""
        self._notifier.status(f"{waiting} to be sent to, {rate:.1f} a second{last}")
