"""The primary's side of its fork server: makes it, hands it plans, takes the pids of what it forked."""

from __future__ import annotations

import contextlib
import errno
import marshal
import os
import resource
import select
import signal
from collections.abc import Iterable
from itertools import islice

from guard.birth import ANSWER, FAILURE, LENGTH, READ_BYTES, STEPS, Failure, Plan, Server
from guard.state import State

BATCH = 10  # plans handed over together
LIMIT_S = 10.0  # a server that answers no plan for so long is replaced


def raise_limit() -> tuple[int, int]:
    """Takes as many descriptors for guard as allowed (one pidfd an adopted script); returns the limit before."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with contextlib.suppress(ValueError, OSError):
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    return soft, hard


class ForkServer:
    """One at a time, a child of the primary; `pid` is None while there is none. `fd` is readable when a birth failed."""

    def __init__(self, state: State, nofile: tuple[int, int], output: int | None) -> None:
        """`nofile`: the limit of descriptors that scripts get. `output`: theirs, where guard's own is a pipe."""
        self._state, self._nofile, self._output = state, nofile, output
        self.fd, self._failures = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        self.pid: int | None = None
        self._folder = _folder()
        self._plans = self._answers = -1

    def start(self) -> None:
        """Forks a server, unless there is one that works where guard works. Raises OSError."""
        if self.pid is not None and self._folder == _folder():
            return
        self.stop()
        self._folder = _folder()
        plans, self._plans = os.pipe2(os.O_CLOEXEC)
        try:
            self._answers, answers = os.pipe2(os.O_CLOEXEC)
            try:
                self.pid = self._fork(plans, answers)
            except OSError:
                os.close(self._answers)
                raise
            finally:
                os.close(answers)
        except OSError:
            os.close(self._plans)
            raise
        finally:
            os.close(plans)

    def spawn(self, plans: Iterable[Plan]) -> list[int]:
        """Starts a process for each plan, in order; returns their pids, or an errno below 0 where none was forked.

        The next plans are drawn while the last ones are forked. Where the server is lost on the way it says EPIPE, since
        nobody can tell: what runs even so holds its semaphore, and is found by it at the next try.
        """
        source, pids, ordered = iter(plans), list[int](), 0
        while some := list(islice(source, BATCH)):
            trouble = self._order(some)
            self._take(pids, ordered)
            ordered += len(some)
            if trouble:
                pids += [-trouble] * len(some)
        self._take(pids, ordered)
        return pids

    def failures(self) -> list[Failure]:
        """Births that did not reach their exec, since the last call."""
        data = b""
        with contextlib.suppress(BlockingIOError):
            while chunk := os.read(self.fd, 4096 // FAILURE.size * FAILURE.size):
                data += chunk
        return [Failure(pid, STEPS[step], number) for pid, step, number in FAILURE.iter_unpack(data)]

    def ended(self, pid: int) -> bool:
        """Whether the process that ended, and was reaped, was the server."""
        if pid != self.pid:
            return False
        self._close()
        return True

    def forked(self, pid: int) -> bool:
        """Whether a process is the server or its spare: they have a group of their own, which no script can join."""
        try:
            return self.pid is not None and self.pid in (pid, os.getpgid(pid))
        except ProcessLookupError:
            return False

    def stop(self) -> None:
        """Ends the server; the next birth makes another."""
        if self.pid is not None:
            os.kill(self.pid, signal.SIGKILL)
            with contextlib.suppress(ChildProcessError):
                os.waitpid(self.pid, 0)
            self._close()

    def forget(self) -> None:
        """Gives back what a standby inherited of its primary's server."""
        if self.pid is not None:
            self._close()
        os.close(self.fd)
        os.close(self._failures)

    def _fork(self, plans: int, answers: int) -> int:
        parent, place = os.getpid(), os.path.abspath(os.path.dirname(self._state.path))
        # what guard catches must not reach a server that still has guard's handlers
        mask = signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
        try:
            pid = os.fork()
            if pid == 0:
                Server(self._state, place, parent, plans, answers, self._failures).run(self._nofile, self._output)
            return pid
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, mask)

    def _order(self, plans: list[Plan]) -> int:
        """Hands plans over; returns an errno where that failed, else 0."""
        texts = [marshal.dumps(plan) for plan in plans]
        try:
            self.start()
            if self.pid is not None:
                os.kill(self.pid, signal.SIGCONT)  # one that somebody stopped would stop guard
            os.write(self._plans, b"".join(LENGTH.pack(len(text)) + text for text in texts))
        except OSError as error:
            return error.errno or errno.EIO
        return 0

    def _take(self, pids: list[int], count: int) -> None:
        """Waits until there are so many answers."""
        while len(pids) < count:
            chunk = b""
            if self.pid is not None:
                poll = select.poll()  # select() knows no descriptor over 1023
                poll.register(self._answers, select.POLLIN)
                if not poll.poll(LIMIT_S * 1000):
                    os.kill(self.pid, signal.SIGKILL)
                chunk = os.read(self._answers, READ_BYTES)
            pids += [pid for (pid,) in ANSWER.iter_unpack(chunk)] or [-errno.EPIPE] * (count - len(pids))

    def _close(self) -> None:
        os.close(self._plans)
        os.close(self._answers)
        self.pid = None


def _folder() -> tuple[int, int]:
    """guard's working directory, where scripts start."""
    here = os.stat(".")
    return here.st_dev, here.st_ino
