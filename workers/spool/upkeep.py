"""What the sender does by the clock and by the bell: looks for new mail, ends what lasts too long, renews its lease,
notices dead senders, and keeps the store tidy.
"""

from __future__ import annotations

import asyncio
import os
from typing import TYPE_CHECKING

from workers.spool.log import line
from workers.store.database import StoreError
from workers.store.leases import boot_time, is_dead, owners

if TYPE_CHECKING:
    from workers.spool.sender import Sender
    from workers.store.bell import Bell
    from workers.store.sqlite import SqliteDatabase
    from workers.store.writer import Writer

TICK_S = 1.0
OWNERS_TICKS = 15


class Upkeep:
    """Beside a sender, in its event loop."""

    def __init__(self, sender: Sender, database: SqliteDatabase, writer: Writer, bell: Bell) -> None:
        self._sender = sender
        self._database = database
        self._writer = writer
        self._bell = bell
        self._changes = -1
        self._ticks = 0
        self._file = os.stat(database.path).st_ino

    def start(self) -> None:
        """Listens to the bell and begins to tick."""
        if self._bell.problem:
            line(f"no message queue here ({self._bell.problem}): new mail is seen within {TICK_S:.0f} s")
        self._listen()
        asyncio.get_running_loop().call_later(TICK_S, self._tick)

    def _listen(self) -> None:
        if self._bell.fd is not None:
            asyncio.get_running_loop().add_reader(self._bell.fd, self._rung)

    def _rung(self) -> None:
        self._bell.hush()
        self._sender.scan()

    def _tick(self) -> None:
        if self._sender.ending:
            return
        loop = asyncio.get_running_loop()
        loop.call_later(TICK_S, self._tick)
        self._ticks += 1
        for lane in self._sender.lanes.values():
            lane.tick(loop.time())
        self._sender.start(self._sender.renew())
        try:
            changes = self._database.changes()
            if changes != self._changes:
                self._changes = changes
                self._sender.scan()
            if self._ticks % OWNERS_TICKS == 0:
                self._look_at_owners()
        except StoreError as error:
            line(str(error))
        old = self._bell.fd
        if self._bell.check() and old is not None:
            loop.remove_reader(old)
            self._listen()

    def _look_at_owners(self) -> None:
        now = boot_time()
        watcher = self._sender.watcher
        if any(owner.id != watcher.id and is_dead(owner, watcher, now) for owner in owners(self._database)):
            self._sender.start(self._sender.recover())
