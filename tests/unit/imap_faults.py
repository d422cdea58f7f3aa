"""How a process ends or fails at any step: its disk, its database and its threads, as the convergence tests need them."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

from workers.imap import download, folder, heal
from workers.imap.books import Books
from workers.imap.trouble import Lost
from workers.store.database import FULL, StoreError

KILL, LOST = "kill", "lost"  # the process ends there; or that one thing fails and the process goes on
SLICE = "slice"  # the pass ends after so many commands, for others
STEPS = ("rename", "link", "unlink", "utime", "open")


class Killed(BaseException):
    """SIGKILL."""


class Fate:
    """Ends or disturbs a process at the step number `at`; 0 never."""

    def __init__(self) -> None:
        self.at = 0
        self.kind = KILL
        self.count = 0
        self.dead = False

    def set(self, at: int, kind: str) -> None:
        """From now on counted."""
        self.at, self.kind, self.count = at, kind, 0

    def step(self, what: str) -> None:
        """Called before each effect. A dead process has none any more."""
        if self.dead:
            raise Killed
        self.count += 1
        if self.count != self.at:
            return
        if self.kind == KILL:
            self.dead = True
            raise Killed
        if what.startswith("session"):
            raise Lost("the connection is gone")
        if what == "books":
            raise StoreError(FULL, "no space")
        raise OSError(errno.ENOSPC, "No space left on device")


class FragileBooks(Books):
    """Dies before or after a commit."""

    def __init__(self, path: str, fate: Fate) -> None:
        super().__init__(path)
        self._fate = fate

    def do(self, work: Callable[[Any], Any]) -> Any:
        self._fate.step("books")
        found = super().do(work)
        if self._fate.kind == KILL:
            self._fate.step("books")
        return found


class Disk:
    """Stands for `os` in the archive: each change of the disk is a step; knows what was written and not synced."""

    def __init__(self, fate: Fate) -> None:
        self._fate = fate
        self.unsynced: set[str] = set()
        self.torn: list[str] = []
        self._paths: dict[int, str] = {}

    def __getattr__(self, name: str) -> Any:
        found = getattr(os, name)
        if name not in STEPS:
            return found

        def step(*arguments: Any, **options: Any) -> Any:
            self._fate.step(name)
            return found(*arguments, **options)

        return step

    def open(self, path: str, *arguments: Any) -> int:
        self._fate.step("open")
        fd = os.open(path, *arguments)
        self._paths[fd] = path
        self.unsynced.add(path)
        return fd

    def write(self, fd: int, data: bytes | memoryview) -> int:
        """At its end a process may have written half of it; and a write may always be short."""
        half = max(1, len(data) // 2)
        try:
            self._fate.step("write")
        except Killed:
            if self._fate.count == self._fate.at:
                os.write(fd, memoryview(data)[:half])
            raise
        return os.write(fd, memoryview(data)[:half])

    def rename(self, source: str, target: str) -> None:
        self._fate.step("rename")
        os.rename(source, target)
        if source in self.unsynced:
            self.torn.append(target)

    def sync(self, paths: list[str]) -> None:
        self._fate.step("sync")
        self.unsynced.difference_update(paths)

    def sync_folder(self, path: str) -> None:
        self._fate.step("sync_folder")
        assert os.path.isdir(path)


class InlineThread:
    """A thread that runs at its start, or only when it is waited for: both may happen, and here they happen again."""

    lazy = False

    def __init__(self, *, target: Callable[..., None], args: tuple[Any, ...], daemon: bool) -> None:
        self._work: Callable[[], None] | None = lambda: target(*args)
        if daemon and not self.lazy:
            self.join()

    def start(self) -> None:
        """See join."""

    def join(self) -> None:
        """Runs it, if it has not run yet."""
        work, self._work = self._work, None
        if work is not None:
            work()


def patch(monkeypatch: Any) -> None:
    """Small batches, so that few messages meet every border; and threads that do the same each time."""
    monkeypatch.setattr(download, "threading", SimpleNamespace(Thread=InlineThread))
    monkeypatch.setattr(download, "BATCH", 3)
    monkeypatch.setattr(heal, "WINDOW", 4)
    monkeypatch.setattr(heal, "HEADERS", 2)
    monkeypatch.setattr(folder, "WINDOW", 4)
    monkeypatch.setattr(folder, "PART", 3)
