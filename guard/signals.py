"""Signals as news for the loop: handlers do nothing, the C level writes the number into a pipe (signal(7)).

Must be set up before guard's semaphore is taken: whoever finds it held sends HUP, which would end an unprepared process.
"""

from __future__ import annotations

import contextlib
import os
import signal
from types import FrameType

CAUGHT = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR2, signal.SIGCHLD)


class Signals:
    """`fd` is readable when a signal came."""

    def __init__(self) -> None:
        self.fd, self._writer = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        self._terminal = _terminal_answers()
        for number in CAUGHT:
            signal.signal(number, _noted)
        signal.signal(signal.SIGIO, signal.SIG_IGN)  # a writer broke the read lease on List.txt: we let go of it at once
        signal.set_wakeup_fd(self._writer, warn_on_full_buffer=False)

    def read(self) -> set[int]:
        """What came since the last call. HUP because the terminal is gone comes as TERM."""
        numbers: set[int] = set()
        with contextlib.suppress(BlockingIOError):
            while data := os.read(self.fd, 512):
                numbers.update(data)
        if signal.SIGHUP in numbers and self._terminal and not _terminal_answers():
            numbers = numbers - {signal.SIGHUP} | {signal.SIGTERM}
        return numbers


def ignore_as_standby() -> None:
    """The standby outlives what ends or wakes the primary; TERM ends it, and the primary makes another."""
    signal.set_wakeup_fd(-1)
    for number in (signal.SIGINT, signal.SIGHUP, signal.SIGUSR2):
        signal.signal(number, signal.SIG_IGN)
    for number in (signal.SIGTERM, signal.SIGCHLD):
        signal.signal(number, signal.SIG_DFL)


def _noted(_number: int, _frame: FrameType | None) -> None:
    """The wake-up pipe has it already."""


def _terminal_answers() -> bool:
    try:
        os.close(os.open("/dev/tty", os.O_RDWR | os.O_NOCTTY | os.O_CLOEXEC))
    except OSError:
        return False
    return True
