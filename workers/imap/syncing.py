"""Puts files on disk, many at once: one syncfs(2) for all threads that wait, or fsync(2) of each where that serves better."""

from __future__ import annotations

import errno
import os
import threading
import time
from collections.abc import Callable

SLOW_S = 2.0  # a syncfs that lasts longer waits for other people's data too
RATHER_S = 300.0  # so long each file is synced by itself then
FSYNC_THREADS = 8
HONEST = (5, 8)  # before it, syncfs hides write errors


class _Run:
    """One syncfs for all that wait for it. They hold it, so that whoever wakes late still finds what became of it."""

    __slots__ = ("error", "is_over")

    def __init__(self) -> None:
        self.is_over = False
        self.error: OSError | None = None


class Syncer:
    """Of one file system. `fd` is a folder on it that was opened before the first write, so that no error is missed."""

    def __init__(self, fd: int) -> None:
        self._fd = fd
        self._device = os.fstat(fd).st_dev
        self._lock = threading.Condition()
        self._next = _Run()
        self._running = False
        self._each_until = 0.0 if _kernel() >= HONEST else float("inf")
        self._syncfs = _load() if _kernel() >= HONEST else None

    def sync(self, paths: list[str]) -> None:
        """Returns when the files at `paths`, written before the call, are on disk. Raises OSError."""
        if self._syncfs is None or time.monotonic() < self._each_until or self._are_elsewhere(paths):
            sync_each(paths)
            return
        with self._lock:
            mine = self._next  # one that is running may have passed our files already
            while not mine.is_over:
                if self._running:
                    self._lock.wait()
                else:
                    self._run()
        if mine.error is not None:
            raise OSError(mine.error.errno, mine.error.strerror)

    def _are_elsewhere(self, paths: list[str]) -> bool:
        """Whether some lie on another file system, which syncfs passes by: a person has mounted or linked one there."""
        folders = {os.path.dirname(path) for path in paths}
        return any(os.stat(folder or os.curdir).st_dev != self._device for folder in folders)

    def _run(self) -> None:
        """One syncfs for all that came before it; called with the lock held."""
        run, self._next, self._running = self._next, _Run(), True
        self._lock.release()
        started = time.monotonic()
        run.error = OSError(errno.EINTR, os.strerror(errno.EINTR))  # if it is cut off, nobody may take it for done
        try:
            self._call()
            run.error = None
        except OSError as error:
            run.error = error
        finally:
            self._lock.acquire()
            self._running, run.is_over = False, True
            if time.monotonic() - started > SLOW_S:
                self._each_until = time.monotonic() + RATHER_S
            self._lock.notify_all()

    def _call(self) -> None:
        if self._syncfs is not None and self._syncfs(self._fd) != 0:
            import ctypes

            number = ctypes.get_errno()
            raise OSError(number, os.strerror(number))


def sync_each(paths: list[str]) -> None:
    """fsync of each file, some at a time: the disk does them together. Raises OSError."""
    errors: list[OSError] = []

    def work(part: list[str]) -> None:
        for path in part:
            try:
                fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
                try:
                    os.fsync(fd)
                finally:
                    os.close(fd)
            except OSError as error:
                errors.append(error)
                return

    parts = [part for start in range(FSYNC_THREADS) if (part := paths[start::FSYNC_THREADS])]
    threads = [threading.Thread(target=work, args=(part,), daemon=True) for part in parts[1:]]
    for each in threads:
        each.start()
    if parts:
        work(parts[0])
    for each in threads:
        each.join()
    if errors:
        raise errors[0]


def _kernel() -> tuple[int, int]:
    major, minor = os.uname().release.split(".")[:2]
    return int(major), int("".join(sign for sign in minor if sign.isdigit()) or 0)


def _load() -> Callable[[int], int]:
    import ctypes

    function = ctypes.CDLL(None, use_errno=True).syncfs
    function.argtypes = [ctypes.c_int]
    function.restype = ctypes.c_int
    found: Callable[[int], int] = function
    return found
