"""Only one guard: the semaphore, the second lock behind it, the standby that waits for both, and the hung primary.

Whoever holds the semaphore and then the lock on the state folder is primary. The standby is a fork of the primary,
blocked in semop on the same semaphore: when the primary is gone, for whatever reason, it goes on in its own process.
"""

from __future__ import annotations

import contextlib
import os
import select
import signal
from types import FrameType

from guard.kin import Kin, identify, signal_kin
from guard.log import Log
from guard.semaphore import GUARD_SIZE, Gone, SemaphoreSet, Unusable, key_and_tag
from guard.signals import ignore_as_standby
from guard.state import GUARD_RECORD, STANDBY_RECORD, State

LOCK_LIMIT_S = 1.0  # a half-born child of a dead guard is gone long before
PING_LIMIT_S = 30.0
FOUND_SET_GONE = 3  # exit status of a standby: the semaphore set was removed under it


class AlreadyRunning(Exception):
    """Another guard is primary."""

    def __init__(self, pid: int) -> None:
        super().__init__(f"guard is already running{f', pid {pid}' if pid else ' (in another PID namespace)'}")


class Instance:
    """This process's part in the exclusion."""

    def __init__(self, state: State, key: int | None, log: Log, *, with_standby: bool = True) -> None:
        own, tag = key_and_tag(state.place(), state.name(), "")
        self.state, self.log, self._by_hand = state, log, key is not None
        self.semaphore = SemaphoreSet(own if key is None else key, tag, GUARD_SIZE)
        self.with_standby = with_standby
        self.standby: Kin | None = None

    def enter(self) -> None:
        """Becomes primary. Raises AlreadyRunning, Unusable."""
        self.semaphore.open(untagged=self._by_hand)
        while not self._take():
            self._find_hung()
        if not self._lock_in_time():
            raise AlreadyRunning(0)
        if not self.semaphore.undo_works():
            self.semaphore.remove()
            raise Unusable(
                "SEM_UNDO does nothing on this system (some container runtimes leave it out), so nothing could be kept "
                "from running twice; run guard outside of this container, or under another runtime"
            )

    def begin(self) -> None:
        """The first acts of a primary: its record, an end to a standby that is not its own, an answer to all pings."""
        self.record()
        record = self.state.read_record(STANDBY_RECORD)
        if record and record.alive and record.alive.pid != os.getpid():
            end(record.alive)
        with contextlib.suppress(Gone):
            self.semaphore.answer()

    def record(self) -> None:
        """Writes down who is primary."""
        self._record(GUARD_RECORD)

    def fork_standby(self) -> bool:
        """Forks the standby. True in the standby itself, later, once it has become primary; False in the parent."""
        with contextlib.suppress(Gone):
            if self.semaphore.waiters():
                self.log.say("a standby of an earlier guard, unknown to this one, waits already")
                return False
        parent = os.getpid()
        try:
            pid = os.fork()
        except OSError as error:
            self.log.say(f"can't fork a standby: {error.strerror}")
            return False
        if pid:
            self.standby = identify(pid)
            return False
        self._stand_by(parent)
        return True

    def heal(self) -> bool:
        """After the set was removed: makes and takes it anew; False while somebody else, who can't stay, holds it."""
        try:
            self.semaphore.open(untagged=self._by_hand)
            return self._take()
        except (Unusable, Gone):
            return False

    def leave(self, *, remove: bool) -> None:
        """The end of a primary: the standby first, so that it takes nothing over; then, if wished, the set."""
        if self.standby:
            end(self.standby)
        if remove and not self._by_hand:
            self.semaphore.remove()

    def _take(self) -> bool:
        while True:
            try:
                return self.semaphore.take()
            except Gone:
                self.semaphore.open(untagged=self._by_hand)

    def _lock_in_time(self) -> bool:
        def expired(_number: int, _frame: FrameType | None) -> None:
            raise TimeoutError

        before = signal.signal(signal.SIGALRM, expired)
        try:
            signal.setitimer(signal.ITIMER_REAL, LOCK_LIMIT_S)
            return self.state.lock(wait=True)
        except TimeoutError:
            return False
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)
            signal.signal(signal.SIGALRM, before)

    def _find_hung(self) -> None:
        """Somebody holds the semaphore: returns when it may be free, ends a holder that gives no sign of life.

        Raises AlreadyRunning.
        """
        with contextlib.suppress(Gone):
            pid = self.semaphore.holder()
            if pid is None:
                return
            if pid == 0 or self.semaphore.size != GUARD_SIZE:
                raise AlreadyRunning(pid)
            holder = identify(pid)
            if holder is None:
                self._repair(pid)
                return
            self.semaphore.ping()  # before the record is read: a primary writes it before it answers
            if self._is_primary(holder):
                signal_kin(holder, signal.SIGHUP)
            if self.semaphore.answered(PING_LIMIT_S):
                raise AlreadyRunning(self.semaphore.holder() or pid)
            if self.semaphore.holder() != pid or identify(pid) != holder:
                return
            if self._is_primary(holder):
                self.log.say(f"guard[{pid}] gave no sign of life for {PING_LIMIT_S:g} s: killed, another takes over")
                end(holder)
            elif self.state.lock(wait=False):
                self._repair(pid)
            else:
                raise AlreadyRunning(pid)

    def _repair(self, pid: int) -> None:
        """The semaphore is set, but not by a guard: somebody used SETVAL, which also cleared its undo."""
        if self.semaphore.holder() == pid:
            self.log.say(f"guard's semaphore {self.semaphore.key:#010x} was set by process {pid}, which is no guard: made anew")
            self.semaphore.remove()
            self.semaphore.open(untagged=self._by_hand)

    def _is_primary(self, holder: Kin) -> bool:
        record = self.state.read_record(GUARD_RECORD)
        return record is not None and record.kin == holder

    def _stand_by(self, parent: int) -> None:
        """In the standby: waits until the primary is gone."""
        ignore_as_standby()
        title(f"guard: standby {os.path.abspath(os.path.dirname(self.state.path))}")
        inherited, self.state = self.state, self.state.reopened()
        os.close(inherited.fd)
        self._record(STANDBY_RECORD)
        self.standby = None
        if os.getppid() != parent and not self._take():
            os._exit(0)  # the primary is dead and another, which could not know of us, stands in its place
        while not self._held():
            try:
                self.semaphore.wait()
            except Gone:
                if os.getppid() == parent:
                    os._exit(FOUND_SET_GONE)
                self.semaphore.open(untagged=self._by_hand)
        self.state.lock(wait=True)

    def _held(self) -> bool:
        try:
            return self.semaphore.holder() == os.getpid()
        except Gone:
            return False

    def _record(self, name: str) -> None:
        kin = identify(os.getpid())
        try:
            fd = self.state.open_record(name)
        except OSError as error:
            self.log.say(f"can't write {self.state.path}/{name}: {error.strerror}; guard goes on without it")
            return
        with contextlib.suppress(OSError):
            if kin:
                os.pwrite(fd, self.state.identity(kin), 0)
        os.close(fd)


def title(text: str) -> None:
    """What `ps` shows. The import costs 10 ms (it brings logging), so a guard that finds another running does without."""
    from setproctitle import setproctitle

    setproctitle(text)


def end(kin: Kin) -> None:
    """SIGKILLs exactly this process and waits until it is gone."""
    try:
        fd = os.pidfd_open(kin.pid)
    except OSError:
        return
    try:
        signal_kin(kin, signal.SIGKILL)
        if identify(kin.pid) == kin:
            select.select([fd], [], [])
    finally:
        os.close(fd)
