"""Only one guard: the semaphore, the second lock behind it, the standby that waits for both, and the hung primary.

Whoever holds the semaphore and then the lock on the state folder is primary. The standby is a fork of the primary,
blocked in semop on the same semaphore: when the primary is gone, for whatever reason, it goes on in its own process.
"""

from __future__ import annotations

import contextlib
import os
import select
import signal
import time
from types import FrameType

from guard.kin import Kin, identify, signal_kin
from guard.log import Log
from guard.semaphore import GUARD_SIZE, Gone, SemaphoreSet, Unusable, key_and_tag
from guard.signals import ignore_as_standby
from guard.state import GUARD_RECORD, STANDBY_RECORD, State
from guard.title import title

LOCK_LIMIT_S = 1.0  # a half-born child of a dead guard is gone long before
PING_LIMIT_S = 30.0
ASK_AGAIN_S = 1.0
PRIMARY = "guard: primary"


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
        while not ((self.holds() or self._take()) and self._lock_in_time()):
            self._find_hung()
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
        standby = record.alive if record else None
        if standby and standby.pid != os.getpid():
            end(standby)
        with contextlib.suppress(Gone):
            self.semaphore.answer()

    def record(self) -> None:
        """Writes down who is primary and standby, unless it is written already."""
        self._record(GUARD_RECORD, identify(os.getpid()))
        if self.standby:
            self._record(STANDBY_RECORD, self.standby)

    def fork_standby(self) -> bool:
        """Forks the standby. True in the standby itself, later, once it has become primary; False in the parent."""
        with contextlib.suppress(Gone):
            if self.semaphore.waiters():
                self.log.say("a standby of an earlier guard, unknown to this one, waits already")
                return False
        parent = identify(os.getpid())
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

    def holds(self) -> bool:
        """Whether the semaphore is this process's own: not when its set was removed, or somebody used SETVAL on it."""
        try:
            return self.semaphore.holder() == os.getpid()
        except (Gone, Unusable):
            return False

    def heal(self, *, by_force: bool) -> bool:
        """Takes the semaphore again, in a new set where the old one was removed; False while another holds it.

        Whoever does that while this primary has the lock is no guard that can stay: `by_force` makes the set anew.
        Raises Unusable.
        """
        if self.standby:
            end(self.standby)  # it may hold the semaphore now, or wait in a set that is gone; another will be forked
            self.standby = None
        with contextlib.suppress(Gone):
            self.semaphore.open(untagged=self._by_hand)
            if by_force and not self._by_hand and self.semaphore.holder() != os.getpid():
                self.semaphore.remove()
        return self._take()

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
        """Somebody holds the semaphore, or (its set is new) only the lock: returns when both may be free.

        Ends a primary that gives no sign of life. Raises AlreadyRunning.
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
            if pid == os.getpid() and not self._primary():
                raise AlreadyRunning(0)
            if self._sign_of_life():
                raise AlreadyRunning(self.semaphore.holder() or pid)
            if self.semaphore.holder() != pid or identify(pid) != holder:
                return
            primary = self._primary()
            if primary:
                self.log.say(f"guard[{primary.pid}] gave no sign of life for {PING_LIMIT_S:g} s: killed, another takes over")
                end(primary)
            elif self.state.lock(wait=False):
                self._repair(pid)
            else:
                raise AlreadyRunning(pid)

    def _repair(self, pid: int) -> None:
        """The semaphore is set, but not by a guard: somebody used SETVAL, which also cleared its undo."""
        if self.semaphore.holder() == pid != os.getpid():
            self.log.say(f"guard's semaphore {self.semaphore.key:#010x} was set by process {pid}, which is no guard: made anew")
            self.semaphore.remove()
            self.semaphore.open(untagged=self._by_hand)

    def _sign_of_life(self) -> bool:
        """Asks for one until the limit; the primary is told each second, since its record may come late."""
        self.semaphore.ping()
        deadline = time.monotonic() + PING_LIMIT_S
        while (left_s := deadline - time.monotonic()) > 0:
            primary = self._primary()
            if primary:
                signal_kin(primary, signal.SIGHUP)
            if self.semaphore.answered(min(left_s, ASK_AGAIN_S)):
                return True
        return False

    def _primary(self) -> Kin | None:
        """The recorded primary."""
        return primary_of(self.state, self.semaphore)

    def _stand_by(self, parent: Kin | None) -> None:
        """In the standby: waits until the primary is gone."""
        ignore_as_standby()
        title(f"guard: standby {os.path.abspath(os.path.dirname(self.state.path))}")
        inherited, self.state = self.state, self.state.reopened()
        os.close(inherited.fd)
        self._record(STANDBY_RECORD, identify(os.getpid()))
        self.standby = None
        if parent is None or (os.getppid() != parent.pid and not self._take()):
            os._exit(0)  # the primary is dead and another, which could not know of us, stands in its place
        while not self.holds():
            try:
                self.semaphore.wait()
            except Gone:
                self._lock_after(parent)
                self.semaphore.open(untagged=self._by_hand)
        self._lock_after(parent)

    def _lock_after(self, primary: Kin) -> None:
        """Waits for the lock. A primary that has it still lost its semaphore, and is told: it ends this standby."""
        if not self.state.lock(wait=False):
            signal_kin(primary, signal.SIGHUP)
            self.state.lock(wait=True)

    def _record(self, name: str, kin: Kin | None) -> None:
        record = self.state.read_record(name)
        if record and record.kin == kin:
            return
        try:
            fd = self.state.open_record(name)
        except OSError as error:
            self.log.say(f"can't write {self.state.path}/{name}: {error.strerror}; guard goes on without it")
            return
        with contextlib.suppress(OSError):
            if kin:
                os.pwrite(fd, self.state.identity(kin), 0)
        os.close(fd)


def primary_of(state: State, semaphore: SemaphoreSet) -> Kin | None:
    """The primary by its own record: never a stranger, whoever the semaphore says holds it. Raises Gone.

    Where the record can't be read or written, the holder is believed if it has the title of a primary.
    """
    record = state.read_record(GUARD_RECORD)
    primary = record.alive if record else None
    if primary:
        return primary
    pid = semaphore.holder()
    try:
        with open(f"/proc/{pid}/cmdline", "rb") as file:
            return identify(pid) if pid and file.read(64).startswith(PRIMARY.encode()) else None
    except OSError:
        return None


def end(kin: Kin) -> None:
    """SIGKILLs exactly this process and waits until it is gone."""
    try:
        fd = os.pidfd_open(kin.pid)
    except OSError:
        return
    try:
        signal_kin(kin, signal.SIGKILL)
        if identify(kin.pid) == kin:
            poll = select.poll()  # select() knows no descriptor over 1023
            poll.register(fd, select.POLLIN)
            poll.poll()
    finally:
        os.close(fd)
