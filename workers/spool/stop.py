"""The wish to end: SIGTERM or SIGINT. What is in hand is finished, within a limit; what only waits is left at once."""

from __future__ import annotations

import os
import select
import signal
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import FrameType

GRACE_S = 7.0  # under the 10 s after which guard kills


class Stopping(Exception):
    """Raised by the signal itself inside `interruptible` work, which has nothing in hand that could be lost."""


class Stop:
    """Owns the two signals of this process. `cut` breaks off what is in hand when the grace is over."""

    def __init__(self, cut: Callable[[], None]) -> None:
        self.requested = False
        self._cut = cut
        self._interruptible = False
        self._read_fd, self._write_fd = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        signal.set_wakeup_fd(self._write_fd, warn_on_full_buffer=False)
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._on_request)
        signal.signal(signal.SIGALRM, self._on_end_of_grace)

    def interruptible(self, work: Callable[[], None]) -> None:
        """Does `work`; raises Stopping out of it when the signal comes or has come."""
        try:
            self._interruptible = True
            if self.requested:
                raise Stopping
            work()
        finally:
            self._interruptible = False

    def wait(self, limit_s: float, fd: int | None = None) -> None:
        """Sleeps until the signal comes, `fd` is readable, or the time is over."""
        poll = select.poll()
        poll.register(self._read_fd, select.POLLIN)  # no signal is missed between a look at `requested` and the sleep
        if fd is not None:
            poll.register(fd, select.POLLIN)
        poll.poll(max(0, limit_s) * 1000)

    def _on_end_of_grace(self, _number: int, _frame: FrameType | None) -> None:
        if self._interruptible:
            raise Stopping
        self._cut()

    def _on_request(self, _number: int, _frame: FrameType | None) -> None:
        if not self.requested:
            self.requested = True
            signal.setitimer(signal.ITIMER_REAL, GRACE_S)
        if self._interruptible:
            raise Stopping
