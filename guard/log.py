"""guard's own log: one line an event, each in one write.

A write that can't be done never stops guard: where the output is a pipe without a reader, or full, or a disk without
space, lines go to `guard.log` in the state folder, or nowhere.
"""

from __future__ import annotations

import os
import select
import stat
import sys
import time

from guard.words import printable

TYPE_CHECKING = False  # typing's would cost its import, and collections.abc costs 2 ms
if TYPE_CHECKING:
    from collections.abc import Callable

LINE_LIMIT_BYTES = 4000  # below PIPE_BUF: whole lines under any number of writers, in pipes too
_COLOURS = (("mistake", "31"), ("died", "33"), ("can't", "31"), ("killed", "31"), ("started", "32"), ("adopted", "36"))


class Log:
    """Writes lines to standard output; `fallback` opens the file that takes them when that fails."""

    def __init__(self, fallback: Callable[[], int]) -> None:
        self._fallback = fallback
        self._regular = stat.S_ISREG(_mode(1))
        self._coloured = os.isatty(1) and "NO_COLOR" not in os.environ
        self._second, self._stamp = -1, ""

    def say(self, text: str, pid: int | None = None) -> None:
        """One event; `text` may begin with the script it is about."""
        now = int(time.time())
        if now != self._second:
            self._second, self._stamp = now, time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(now))
        line = f"{self._stamp} guard[{pid or os.getpid()}] {printable(text)}"[:LINE_LIMIT_BYTES]
        data = (self._painted(line) + "\n").encode(errors="replace")
        if not self._write(1, data):
            self._write_fallback(data)

    def _painted(self, line: str) -> str:
        if self._coloured:
            for word, colour in _COLOURS:
                if word in line:
                    return f"\x1b[{colour}m{line}\x1b[0m"
        return line

    def _write(self, fd: int, data: bytes) -> bool:
        """False when the line could not be written whole without waiting for a reader."""
        try:
            if not self._regular:
                poll = select.poll()
                poll.register(fd, select.POLLOUT)
                if not any(events & select.POLLOUT for _, events in poll.poll(0)):
                    return False
            return os.write(fd, data) == len(data)
        except OSError:
            return False

    def _write_fallback(self, data: bytes) -> None:
        try:
            fd = self._fallback()
        except OSError:
            return  # neither place can be written: the world, not the log, has to be mended
        try:
            os.write(fd, data)
        except OSError:
            return
        finally:
            os.close(fd)


def is_pipe(fd: int) -> bool:
    """Whether scripts must not write there: a reader that dies would end them all."""
    return stat.S_ISFIFO(_mode(fd)) or stat.S_ISSOCK(_mode(fd))


def complain(text: str) -> None:
    """An error of a command: one line on standard error."""
    sys.stderr.write(f"guard: {printable(text)}\n")


def _mode(fd: int) -> int:
    try:
        return os.fstat(fd).st_mode
    except OSError:
        return 0
