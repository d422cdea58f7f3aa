"""The worker's log: lines such as `[2014-01-12 22:28:05][#13817.t12] received 31468 new messages in 432s [53,824]`.

On standard output, each by one write; with a log folder also in a file a day, what went wrong in one of its own.
"""

from __future__ import annotations

import os
import threading
import time
from contextlib import suppress

from workers.mail.words import plain

DEBUG_SIGNS = 2000
OUTPUT_ONLY = "log lines go to standard output only"


class Log:
    """Writes lines. `folder` is None for standard output alone. A log that can't be written stops no mail."""

    def __init__(self, folder: str | None) -> None:
        self._folder = folder
        self._lock = threading.Lock()
        self._files: dict[str, tuple[str, int]] = {}  # by kind: the day and the descriptor
        self._told: tuple[str, set[str]] = ("", set())  # the day, and why the files could not be written on it

    def say(self, text: str, *ids: int, thread: int | None = None) -> None:
        """What happened, with the ids of account and folder; in the calling thread, or in `thread`."""
        self._write("info", text, ids, thread)

    def complain(self, text: str, *ids: int, thread: int | None = None) -> None:
        """What went wrong."""
        self._write("error", text, ids, thread)

    def trace(self, text: str, *ids: int) -> None:
        """What was said on a connection."""
        self._write("debug", text, ids)

    def move(self, folder: str | None) -> None:
        """Goes on in another folder."""
        with self._lock:
            self._folder = folder
            for _, fd in self._files.values():
                os.close(fd)
            self._files.clear()

    def _write(self, kind: str, text: str, ids: tuple[int, ...], thread: int | None = None) -> None:
        now = time.localtime()
        words = plain(text) if kind != "debug" else text[:DEBUG_SIGNS]
        tail = f" [{','.join(map(str, ids))}]" if ids else ""
        head = time.strftime("%Y-%m-%d %H:%M:%S", now)
        head = f"[{head}][#{os.getpid()}.t{thread_number() if thread is None else thread}]"
        line = f"{head} {words}{tail}\n".encode("utf-8", "replace")
        _print(line)
        if self._folder is not None:
            day = time.strftime("%Y%m%d", now)
            for each in ("info",) if kind != "error" else ("info", "error"):
                with self._lock:
                    try:
                        os.write(self._file(each, day), line)
                    except OSError as error:
                        self._tell(head, day, f"{error.filename or self._folder}: {error.strerror}")

    def _tell(self, head: str, day: str, why: str) -> None:
        """Says on standard output that the files can't be written, each reason once a day: it is met at each line."""
        if self._told[0] != day:
            self._told = (day, set())
        if why not in self._told[1]:
            self._told[1].add(why)
            _print(f"{head} log {plain(why)}; {OUTPUT_ONLY}\n".encode("utf-8", "replace"))

    def _file(self, kind: str, day: str) -> int:
        opened = self._files.get(kind)
        if opened is not None and opened[0] == day:
            return opened[1]
        if opened is not None:
            os.close(opened[1])
            del self._files[kind]
        folder = self._folder or ""
        os.makedirs(folder, mode=0o700, exist_ok=True)
        path = os.path.join(folder, f"{day}-{kind}.log")
        fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
        self._files[kind] = (day, fd)
        return fd


def unwritable(folder: str) -> str:
    """Why this user can't write log files into `folder`, "" when it can; what is tried leaves nothing behind."""
    made: list[str] = []
    missing, above = [], folder
    while above and not os.path.lexists(above):
        missing.append(above)
        above = os.path.dirname(above)
    try:
        for each in reversed(missing):
            os.mkdir(each, 0o700)
            made.append(each)
        path = os.path.join(folder, f".check-{os.getpid()}")
        os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600))
        os.unlink(path)
        for kind in ("info", "error"):  # today's may be another user's
            path = os.path.join(folder, f"{time.strftime('%Y%m%d')}-{kind}.log")
            if os.path.lexists(path):
                os.close(os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CLOEXEC))
    except OSError as error:
        return f"{error.filename or folder}: {error.strerror}"
    finally:
        for each in reversed(made):
            with suppress(OSError):  # a worker has begun to use it
                os.rmdir(each)
    return ""


def _print(line: bytes) -> None:
    with suppress(OSError):
        os.write(1, line)


_numbers = threading.local()


def name_thread(number: int) -> None:
    """Gives the calling thread its number in the log; the main one has 0."""
    _numbers.value = number


def thread_number() -> int:
    """The calling thread's."""
    return int(getattr(_numbers, "value", 0))
