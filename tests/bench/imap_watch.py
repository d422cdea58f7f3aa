"""When which message file came or went, seen by inotify(7) in a thread of its own."""

from __future__ import annotations

import ctypes
import os
import select
import struct
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

from tests.bench.births import Late

CREATED, MOVED_FROM, MOVED_TO, DELETED = 0x100, 0x40, 0x80, 0x200
HEADER = struct.Struct("iIII")
BUFFER_BYTES = 1 << 20
OVERFLOW = 0x4000


@dataclass(frozen=True, slots=True)
class Event:
    """One name came or went, at a moment of the monotonic clock."""

    ns: int
    came: bool
    name: str


class Watch:
    """All that happens to the names in one folder from now on. Leave it by `with`."""

    def __init__(self, folder: Path) -> None:
        self._libc = ctypes.CDLL(None, use_errno=True)
        self._fd: int = self._libc.inotify_init1(os.O_CLOEXEC | os.O_NONBLOCK)
        mask = CREATED | MOVED_FROM | MOVED_TO | DELETED
        if self._fd < 0 or self._libc.inotify_add_watch(self._fd, os.fsencode(folder), mask) < 0:
            raise OSError(ctypes.get_errno(), f"{folder} can't be watched")
        self._events: list[Event] = []
        self._news = threading.Condition()
        self._stop_read, self._stop_write = os.pipe()
        self._thread = threading.Thread(target=self._follow, daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, _kind: type[BaseException] | None, _error: BaseException | None, _trace: TracebackType | None) -> None:
        os.close(self._stop_write)
        self._thread.join()
        os.close(self._stop_read)
        os.close(self._fd)

    def forget(self) -> None:
        """Drops what was seen so far."""
        with self._news:
            self._events.clear()

    def wait(self, enough: Callable[[list[Event]], bool], what: str, limit_s: float) -> list[Event]:
        """All events since `forget`, as soon as they are enough. Raises Late."""
        with self._news:
            if not self._news.wait_for(lambda: enough(self._events), limit_s):
                raise Late(f"not within {limit_s:g} s: {what}; seen: {[event.name for event in self._events[-5:]]}")
            return list(self._events)

    def _follow(self) -> None:
        while True:
            ready = select.select([self._fd, self._stop_read], [], [])[0]
            if self._stop_read in ready:
                return
            data = os.read(self._fd, BUFFER_BYTES)
            now_ns = time.monotonic_ns()
            with self._news:
                self._events += _events(data, now_ns)
                self._news.notify_all()


def _events(data: bytes, now_ns: int) -> list[Event]:
    found, place = [], 0
    while place < len(data):
        _, mask, _, length = HEADER.unpack_from(data, place)
        place += HEADER.size
        if mask & OVERFLOW:
            raise AssertionError("too many file events at once")
        name = os.fsdecode(data[place : place + length].rstrip(b"\0"))
        found.append(Event(now_ns, bool(mask & (CREATED | MOVED_TO)), name))
        place += length
    return found
