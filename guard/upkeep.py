"""guard keeps itself: its standby, its semaphore set, its state folder. What was taken away is made anew and said."""

from __future__ import annotations

import contextlib
import time
from signal import SIGKILL, SIGTERM

from guard.forkserver import ForkServer
from guard.instance import Instance, end
from guard.kin import Table, signal_kin
from guard.log import Log
from guard.semaphore import Unusable

STANDBY_PAUSE_S = 0.1
PATIENCE_S = 3.0  # with another holder of guard's semaphore; a guard that starts gives it up after a second

REMOVED = (
    "semaphore set was removed (ipcrm, or systemd-logind's RemoveIPC at the end of this user's last session): "
    "made anew, nothing runs twice. To keep logind away: loginctl enable-linger, or RemoveIPC=no in logind.conf, or a system user"
)


class TookOver(Exception):
    """This process was a standby and is primary now."""


class Deposed(Exception):
    """Another guard is primary: this one leaves, the scripts go on."""


class Upkeep:
    """Of one primary. Each method says whether it must be called again soon."""

    def __init__(self, instance: Instance, server: ForkServer, log: Log) -> None:
        self._instance, self._server, self._log = instance, server, log
        self._folder_trouble = False
        self._forked_at = -STANDBY_PAUSE_S
        self._lost_at: float | None = None
        self._loss = self._said = ""
        self._orphans_told = False

    def standby(self) -> bool:
        """Forks a standby when there is none; True when it is too early for another.

        Raises TookOver in the standby itself, once it is primary.
        """
        if self._instance.standby is not None or not self._instance.with_standby:
            return False
        if time.monotonic() - self._forked_at < STANDBY_PAUSE_S:
            return True
        self._forked_at = time.monotonic()
        if self._instance.fork_standby():
            raise TookOver
        return False

    def server(self) -> None:
        """Starts the fork server ahead of the first birth; where it can't be, each birth tries again and says why not."""
        with contextlib.suppress(OSError):
            self._server.start()

    def ended(self, pid: int) -> bool:
        """Whether the process that ended was one of guard's own."""
        if self._server.ended(pid):
            self._log.say("the fork server ended; the next birth makes another")
            return True
        if self._instance.standby is None or self._instance.standby.pid != pid:
            return False
        self._instance.standby = None
        self._log.say("the standby ended; another takes its place")
        return True

    def semaphore(self) -> bool:
        """Takes guard's semaphore again after its set was removed, or set by a stranger; True while that must wait."""
        if self._instance.holds():
            return False
        now = time.monotonic()
        if self._lost_at is None:
            self._lost_at = now
            set_by = "guard's semaphore was set by another process (SETVAL), which is no guard: taken again"
            self._loss = f"guard's {REMOVED}" if self._instance.semaphore.removed() else set_by
        try:
            healed = self._instance.heal(by_force=now - self._lost_at > PATIENCE_S)
        except Unusable as error:
            self._say_once(f"guard's semaphore set is gone and can't be made anew: {error}; guard goes on and tries again")
            return True
        if healed:
            self._log.say(self._loss)
            self._lost_at, self._said = None, ""
        return not healed

    def _say_once(self, text: str) -> None:
        if text != self._said:
            self._log.say(text)
        self._said = text

    def folder(self) -> bool:
        """Makes the state folder anew when it was removed or moved away; True when it was. Raises Deposed."""
        state = self._instance.state
        if not state.lost():
            return False
        try:
            locked = state.renew()
        except OSError as error:
            if not self._folder_trouble:
                self._log.say(f"{state.path} is gone and can't be made anew: {error.strerror}; guard goes on without it")
            self._folder_trouble = True
            return False
        if not locked:
            raise Deposed
        self._folder_trouble = False
        if self._instance.standby:
            end(self._instance.standby)  # it waits for the lock on the old folder
        self._server.stop()  # it has the old folder open
        self._log.say(f"{state.path} was removed or moved: made anew")
        return True

    def orphans(self) -> bool:
        """At guard's end: ends what scripts left that nobody can attribute to one, guard's own children now.

        TERM at the first call, KILL at the next; False when there are none.
        """
        known = {self._instance.standby.pid} if self._instance.standby else set()
        found = {kin for kin in Table().orphans(known) if not self._server.forked(kin.pid)}
        for kin in found:
            signal_kin(kin, SIGKILL if self._orphans_told else SIGTERM)
        self._orphans_told = bool(found)
        return bool(found)
