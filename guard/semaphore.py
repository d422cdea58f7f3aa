"""System V semaphore sets with SEM_UNDO: who holds what, told by the kernel and by nobody's file.

Value 0 = free, 1 = held. A new set starts at 0 on Linux, so making one has no race (semget(2), NOTES).
Undo is not inherited over fork and kept over exec (semop(2)): a forked child takes its semaphore, then execs.
Observers use semctl only: even a semop that only waits for zero would overwrite the holder's pid.
"""

from __future__ import annotations

import binascii
import ctypes
import errno
import os
import struct

from guard.libc import call

HELD, TAG, PING, PROBE = 0, 1, 2, 3  # the semaphores of a set; scripts have the first two, guard all four
SCRIPT_SIZE, GUARD_SIZE = 2, 4

_IPC_CREAT, _IPC_EXCL, _IPC_NOWAIT, _SEM_UNDO = 0o1000, 0o2000, 0o4000, 0x1000
_IPC_RMID, _IPC_SET, _IPC_STAT = 0, 1, 2
_GETPID, _GETVAL, _GETZCNT, _SETVAL = 11, 12, 15, 16
_PERM = struct.Struct("iIIIIH")  # head of struct ipc_perm: key, uid, gid, cuid, cgid, mode
_MODE = 0o600
_UNMARKED_MODE = 0o711  # the same rights as 0600 (x means nothing here); no other program makes a set like this


class Unusable(Exception):
    """No semaphore can be had; the text says why and what to do."""


class Foreign(Unusable):
    """The set on our key belongs to somebody else."""


class Gone(Exception):
    """The set was removed (ipcrm, or systemd-logind's RemoveIPC)."""


def key_and_tag(place: tuple[int, int], state_name: str, name: str) -> tuple[int, int]:
    """The key (never 0, 32 bits) and the tag (1..32767) of a script, or of guard itself with the name "".

    `place`: device and inode of the folder that holds the state folder, so that a renamed folder keeps its keys.
    """
    text = f"{place[0]}:{place[1]}:{state_name}:{name}".encode()
    return binascii.crc32(text) or 1, binascii.crc_hqx(text, 0) & 0x7FFF or 1


class _Op(ctypes.Structure):
    _fields_ = (("num", ctypes.c_ushort), ("op", ctypes.c_short), ("flg", ctypes.c_short))


class _Timespec(ctypes.Structure):
    _fields_ = (("sec", ctypes.c_long), ("nsec", ctypes.c_long))


def _ops(*ops: tuple[int, int, int]) -> ctypes.Array[_Op]:
    return (_Op * len(ops))(*(_Op(*op) for op in ops))


_TAKE = _ops((HELD, 0, _IPC_NOWAIT), (HELD, 1, _SEM_UNDO))
_TAKE_WAITING = _ops((HELD, 0, 0), (HELD, 1, _SEM_UNDO))
GONE = (errno.EIDRM, errno.EINVAL)


def take(set_id: int) -> None:
    """Takes a set's semaphore for the calling process until it ends, on its way to exec. Raises OSError."""
    call("semop", set_id, _TAKE, 2)


class SemaphoreSet:
    """One set. `open()` first; the id is kept, so that a removed set is noticed and never silently replaced."""

    __slots__ = ("_full_size", "id", "key", "size", "tag")

    def __init__(self, key: int, tag: int, size: int = SCRIPT_SIZE) -> None:
        self.key, self.tag, self.size = key, tag, size
        self._full_size, self.id = size, -1

    def open(self, *, untagged: bool = False) -> None:
        """Finds or makes the set; `untagged` also takes a set of one semaphore as it is (`guard --key`).

        Raises Foreign, Unusable.
        """
        while True:
            try:
                return self._open(untagged)
            except Gone:  # removed by somebody between two of our calls
                continue

    def _open(self, untagged: bool) -> None:
        made, self.size = False, self._full_size
        while not self.exists():
            try:
                self.id = self._get(self.size, _IPC_CREAT | _IPC_EXCL | _UNMARKED_MODE)
            except OSError as error:
                if error.errno != errno.EEXIST:
                    raise _explained(error, self.key) from None
            else:
                made = True
                break
        if not self.exists(self.size):
            if not self.exists():
                raise Gone
            if untagged and not self.exists(2):
                self.size = 1
                return
            raise Foreign(f"semaphore set {self.key:#010x} has fewer semaphores than ours: it belongs to another program")
        if self.exists(self.size + 1):
            raise Foreign(f"semaphore set {self.key:#010x} has more semaphores than ours: it belongs to another program")
        if not made and self._value(TAG) == 0 and not self._unmarked() and self._value(TAG) == 0:
            raise Foreign(f"semaphore set {self.key:#010x} carries no mark of ours: it belongs to another program")
        self._mark()

    def exists(self, size: int = 0) -> bool:
        """Whether a set of at least `size` semaphores stands on the key now; remembers its id."""
        try:
            self.id = self._get(size, 0)
        except OSError as error:
            if error.errno in (errno.ENOENT, errno.EINVAL):
                return False
            raise _explained(error, self.key) from None
        return True

    def known(self, *, untagged: bool = False) -> bool:
        """Whether a set of ours (`untagged`: or one that `open` would take) stands on the key now; makes none."""
        try:
            if untagged and self.exists() and not self.exists(2):
                return True
            return self.exists(self.size) and not self.exists(self.size + 1) and self._ctl(TAG, _GETVAL) == self.tag
        except (Foreign, OSError):
            return False

    def take(self) -> bool:
        """Takes the semaphore for the calling process until it ends; False when it is held. Raises Gone."""
        return self._take(_TAKE)

    def wait(self) -> bool:
        """Blocks until the semaphore is free and takes it in the same step; False when a signal came. Raises Gone."""
        return self._take(_TAKE_WAITING)

    def _take(self, ops: ctypes.Array[_Op]) -> bool:
        try:
            call("semop", self.id, ops, 2)
        except OSError as error:
            if error.errno in (errno.EAGAIN, errno.EINTR):
                return False
            if error.errno in GONE:
                raise Gone from None
            raise _explained(error, self.key) from None
        return True

    def holder(self) -> int | None:
        """Pid of the holder, 0 when it can't be seen from this PID namespace, None when free. Raises Gone."""
        while True:
            before, pid, after = self._value(HELD), self._value(HELD, _GETPID), self._value(HELD)
            if before == after:
                return pid if after else None

    def waiters(self) -> int:
        """How many processes block in `wait` (GETZCNT). Raises Gone."""
        return self._value(HELD, _GETZCNT)

    def ping(self) -> None:
        """Asks the holder for a sign of life; `answered` waits for it. Raises Gone."""
        try:
            call("semop", self.id, _ops((PING, 1, _IPC_NOWAIT)), 1)
        except OSError as error:
            if error.errno in GONE:
                raise Gone from None
            if error.errno != errno.ERANGE:  # so many have asked already that the counter is full: wait with them
                raise

    def answered(self, limit_s: float) -> bool:
        """Waits until all pings are answered; False when that took longer. Raises Gone."""
        limit = _Timespec(int(limit_s), int(limit_s % 1 * 1e9))
        try:
            call("semtimedop", self.id, _ops((PING, 0, 0)), 1, ctypes.byref(limit))
        except OSError as error:
            if error.errno in GONE:
                raise Gone from None
            return False
        return True

    def answer(self) -> None:
        """Answers all pings at once. Raises Gone. (SETVAL, which HELD must never see: it would clear its undo.)"""
        if self.size == GUARD_SIZE:
            self._value(PING, _SETVAL)

    def removed(self) -> bool:
        """Whether the set that we knew is gone."""
        try:
            return self.id >= 0 and self._value(HELD) < 0
        except Gone:
            return True

    def undo_works(self) -> bool:
        """Whether SEM_UNDO does what it promises here (some container runtimes accept and ignore it)."""
        if self.size != GUARD_SIZE:
            return True
        self._value(PROBE, _SETVAL)
        pid = os.fork()
        if pid == 0:
            try:
                call("semop", self.id, _ops((PROBE, 1, _SEM_UNDO)), 1)
            finally:
                os._exit(0)
        os.waitpid(pid, 0)
        return self._value(PROBE) == 0

    def remove(self) -> None:
        """Removes the set if it is still the one we know."""
        try:
            call("semctl", self.id, 0, _IPC_RMID, 0)
        except OSError as error:
            if error.errno not in GONE and error.errno != errno.EPERM:
                raise

    def _get(self, size: int, flags: int) -> int:
        return call("semget", ctypes.c_int(self.key), size, flags)

    def _ctl(self, number: int, command: int, argument: object = 0) -> int:
        return call("semctl", self.id, number, command, argument)

    def _value(self, number: int, command: int = _GETVAL) -> int:
        try:
            return self._ctl(number, command)
        except OSError as error:
            if error.errno in GONE:
                raise Gone from None
            raise _explained(error, self.key) from None

    def _mark(self) -> None:
        """Puts the tag on a new set, checks it on an old one, and keeps logind's hands off it."""
        try:
            call("semop", self.id, _ops((TAG, 0, _IPC_NOWAIT), (TAG, self.tag, 0)), 2)
        except OSError as error:
            if error.errno in GONE:
                raise Gone from None
            if error.errno != errno.EAGAIN:
                raise _explained(error, self.key) from None
        else:
            self._disown()
        if self._value(TAG) != self.tag:
            raise Foreign(f"semaphore set {self.key:#010x} carries another program's mark")

    def _unmarked(self) -> bool:
        """Whether the set looks as our open() leaves it when killed between making and marking."""
        buffer = ctypes.create_string_buffer(256)
        try:
            self._ctl(0, _IPC_STAT, buffer)
        except OSError as error:
            if error.errno in GONE:
                raise Gone from None
            raise _explained(error, self.key) from None
        return bool(_PERM.unpack_from(buffer)[5] & 0o777 == _UNMARKED_MODE)

    def _disown(self) -> None:
        """Gives the set's owner uid to root while we stay its creator: logind's RemoveIPC looks at the owner only."""
        buffer = ctypes.create_string_buffer(256)
        try:
            self._ctl(0, _IPC_STAT, buffer)
            key, _, gid, cuid, cgid, mode = _PERM.unpack_from(buffer)
            _PERM.pack_into(buffer, 0, key, 0, gid, cuid, cgid, mode & ~0o777 | _MODE)
            self._ctl(0, _IPC_SET, buffer)
        except OSError:
            return  # a kernel that forbids it leaves us where every other program is


def _explained(error: OSError, key: int) -> Unusable:
    if error.errno == errno.ENOSPC:
        return Unusable(
            "no System V semaphores are left (this is not about disk space): look with `ipcs -s`, "
            "remove what nobody uses with `ipcrm -s ID`, or raise kernel.sem with sysctl"
        )
    if error.errno in (errno.EACCES, errno.EPERM):
        return Foreign(f"semaphore set {key:#010x} belongs to another user")
    if error.errno == errno.ENOSYS:
        return Unusable("this kernel has no System V semaphores (CONFIG_SYSVIPC)")
    return Unusable(f"semaphore set {key:#010x}: {error.strerror}")
