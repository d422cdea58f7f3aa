"""The birth of a process: fork, session, semaphore, record, exec. Everything between fork and exec stands here.

The child holds a copy of the second lock until exec, and dies with its parent until then: so a new primary, once it has
the lock, knows that no half-born child is left. Failures come back through a pipe, never as an exit status.
"""

from __future__ import annotations

import contextlib
import errno
import os
import resource
import signal
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from typing import NoReturn

from guard.command import CannotRun, Command
from guard.kin import myself
from guard.libc import PR_SET_PDEATHSIG, default_signal, prctl, unblock_all_signals
from guard.semaphore import Gone, SemaphoreSet, Unusable
from guard.signals import CAUGHT
from guard.state import State

STEPS = ("fork", "setsid", "semop", "record", "exec")
_FAILURE = struct.Struct("iii")


def raise_limit() -> tuple[int, int]:
    """Takes as many descriptors for guard as allowed (one pidfd an adopted script); returns the limit before."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with contextlib.suppress(ValueError, OSError):
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    return soft, hard


@dataclass(frozen=True, slots=True)
class Failure:
    """A child that did not reach its exec: at which step, with which errno."""

    pid: int
    step: str
    errno: int

    @property
    def held(self) -> bool:
        """Its semaphore was held by another process."""
        return self.step == "semop" and self.errno == errno.EAGAIN

    @property
    def lost(self) -> bool:
        """Its semaphore set was removed in that moment."""
        return self.step == "semop" and self.errno == errno.EIDRM

    def __str__(self) -> str:
        return f"can't {self.step}: {os.strerror(self.errno)}"


@dataclass(slots=True)
class Births:
    """What all births share: the pipe for failures, what the children get for their descriptors, the limits."""

    state: State
    nofile: tuple[int, int]
    null: int
    output: int | None  # instead of guard's own output, where that is a pipe
    reader: int
    writer: int
    reset: list[int]  # caught: or Python would swallow them before exec; ignored (Python's SIGPIPE): exec keeps that

    @classmethod
    def prepare(cls, state: State, nofile: tuple[int, int], output: int | None) -> Births:
        """`nofile`: the limit of descriptors that children get."""
        reader, writer = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        ignored = [number for number in signal.valid_signals() if signal.getsignal(number) is signal.SIG_IGN]
        reset = [int(number) for number in (*CAUGHT, *ignored)]
        return cls(state, nofile, os.open("/dev/null", os.O_RDWR | os.O_CLOEXEC), output, reader, writer, reset)

    def close(self) -> None:
        """Gives back what a standby inherited."""
        for fd in (self.null, self.reader, self.writer):
            os.close(fd)

    @contextlib.contextmanager
    def quiet(self) -> Iterator[None]:
        """Around forks: what guard catches must not reach a child that still has guard's handlers."""
        mask = signal.pthread_sigmask(signal.SIG_BLOCK, CAUGHT)
        try:
            yield
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, mask)

    def spawn(self, command: Command, semaphore: SemaphoreSet, record: int) -> int:
        """Forks, inside of `quiet`; the child never returns. `record`: descriptor, or -1 when it can't be written.

        Raises CannotRun.
        """
        parent = os.getpid()
        try:
            pid = os.fork()
        except OSError as error:
            raise CannotRun(f"can't fork: {error.strerror}; too many processes or too little memory") from None
        if pid == 0:
            self._born(parent, command, semaphore, record)
        return pid

    def failures(self) -> list[Failure]:
        """What came through the pipe since the last call."""
        data = b""
        with contextlib.suppress(BlockingIOError):
            while chunk := os.read(self.reader, 4096 // _FAILURE.size * _FAILURE.size):
                data += chunk
        return [Failure(pid, STEPS[step], number) for pid, step, number in _FAILURE.iter_unpack(data)]

    def _born(self, parent: int, command: Command, semaphore: SemaphoreSet, record: int) -> NoReturn:
        step, number = "fork", errno.EIO
        try:
            signal.set_wakeup_fd(-1)  # first: a signal for this child must not be told to guard
            prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
            if os.getppid() != parent:
                os._exit(127)
            at(step)
            for caught in self.reset:
                default_signal(caught)
            step = "setsid"
            os.setsid()
            at(step)
            step = "semop"
            if not semaphore.take():
                raise OSError(errno.EAGAIN, "held")
            at(step)
            step = "record"
            self._write_record(record)
            at(step)
            step = "exec"
            self._exec(command)
        except Gone:
            number = errno.EIDRM
        except Unusable:
            number = errno.EACCES
        except OSError as error:
            number = error.errno or number
        finally:
            os.write(self.writer, _FAILURE.pack(os.getpid(), STEPS.index(step), number))
            os._exit(127)

    def _write_record(self, record: int) -> None:
        try:
            if record >= 0:
                os.pwrite(record, self.state.identity(myself()), 0)
        except OSError:
            return  # the semaphore says the same; `status` names the missing record

    def _exec(self, command: Command) -> NoReturn:
        os.dup2(self.null, 0)
        for fd in (1, 2):
            if self.output is not None or not _is_open(fd):
                os.dup2(self.null if self.output is None else self.output, fd)
        if command.cwd is not None:
            os.chdir(command.cwd)
        resource.setrlimit(resource.RLIMIT_NOFILE, self.nofile)
        at("exec")
        prctl(PR_SET_PDEATHSIG, 0)
        unblock_all_signals()
        try:
            os.execve(command.path, command.argv, command.env)
        except OSError as error:
            if error.errno != errno.ENOEXEC or not command.fallback:
                raise
        os.execve(command.fallback[0], command.fallback, command.env)


def at(step: str) -> None:
    """A child has done this step of its birth. Tests put a fault in here; nothing else does."""


def _is_open(fd: int) -> bool:
    try:
        os.fstat(fd)
    except OSError:
        return False
    return True
