"""The birth of a process: fork, session, semaphore, record, exec. Everything between fork and exec stands here.

The fork server does it: a fork of the primary that does nothing else, so that a birth copies its few pages and leaves the
primary's alone. What it forks are the primary's own children (clone(2), CLONE_PARENT). One is forked ahead, the spare:
it has the costs of a fork behind it when its plan comes.

Server, spare and children hold a copy of the second lock until exec, and die with the primary: so a new primary, once it
has the lock, knows that no half-born child is left. Failures come back through a pipe, never as an exit status.
"""

from __future__ import annotations

import contextlib
import errno
import gc
import marshal
import os
import resource
import select
import signal
import struct
from dataclasses import dataclass
from typing import NoReturn

from guard.kin import SERVER_TITLE, SPARE_TITLE, myself
from guard.libc import PR_SET_PDEATHSIG, fork_sibling, prctl
from guard.semaphore import GONE, take
from guard.signals import CAUGHT
from guard.state import State
from guard.title import title

STEPS = ("fork", "setsid", "semop", "record", "exec")
LENGTH = struct.Struct("I")  # in front of each plan
ANSWER = struct.Struct("i")  # a child's pid, or an errno below 0
FAILURE = struct.Struct("iii")
READ_BYTES = 65536

# Of one birth: the semaphore set's id; the record's name in the state folder; what exec gets: path, argv, env; cwd (None:
# where guard is); and the argv that runs a file without `#!`. Plain values, so that marshal can write them.
Plan = tuple[int, str, str, list[str], dict[str, str], str | None, list[str]]


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
        return self.step == "semop" and self.errno in GONE

    def __str__(self) -> str:
        return f"can't {self.step}: {os.strerror(self.errno)}"


@dataclass(slots=True)
class Server:
    """The fork server, in its own process.

    `place`: guard's folder, for people. `parent`: the primary. `plans`, `answers`, `failures`: its ends of the pipes.
    `spare`: pid of the child forked ahead, and the pipe on which it waits for its plan. `told`: that of the last one which
    got its plan, broken when it is past its exec.
    """

    state: State
    place: str
    parent: int
    plans: int
    answers: int
    failures: int
    spare: tuple[int, int] | None = None
    told: int | None = None

    def run(self, nofile: tuple[int, int], output: int | None) -> NoReturn:
        """Its life. `nofile` and `output` (in place of guard's own, where that is a pipe) are what the children get."""
        try:
            _die_with(self.parent)
            signal.set_wakeup_fd(-1)
            title(f"{SERVER_TITLE} {self.place}")
            _prepare(nofile, output, {self.plans, self.answers, self.failures, self.state.fd})
            self._serve()
        except BaseException:
            import traceback

            traceback.print_exc()
        finally:
            os._exit(70)

    def _serve(self) -> NoReturn:
        waiting = b""
        while True:
            while len(waiting) < LENGTH.size or len(waiting) < LENGTH.size + LENGTH.unpack_from(waiting)[0]:
                if self.spare is None and self._idle():
                    self._fork_spare()
                waiting += _read(self.plans)
            end = LENGTH.size + LENGTH.unpack_from(waiting)[0]
            text, waiting = waiting[LENGTH.size : end], waiting[end:]
            os.write(self.answers, ANSWER.pack(self._tell_spare(text) or self._fork(text)))

    def _fork(self, text: bytes) -> int:
        """Returns the child's pid, or an errno below 0."""
        try:
            pid = fork_sibling()
        except OSError as error:
            return -(error.errno or errno.EIO)
        if pid == 0:
            _die_with(self.parent)
            self._born(text)
        return pid

    def _idle(self) -> bool:
        """Waits until the last spare is past its exec, which goes first; False when more plans come before."""
        if self.told is not None:
            poll = select.poll()
            poll.register(self.plans, select.POLLIN)
            poll.register(self.told, 0)
            if self.plans in dict(poll.poll()):
                return False
            os.close(self.told)
            self.told = None
        return True

    def _fork_spare(self) -> None:
        reader, writer = os.pipe2(os.O_CLOEXEC)
        try:
            pid = fork_sibling()
        except OSError:
            os.close(writer)  # the next birth tries again, and says it
        else:
            if pid == 0:
                os.close(writer)  # so that the spare ends with this server
                self._wait(reader)
            self.spare = pid, writer
        os.close(reader)

    def _wait(self, reader: int) -> NoReturn:
        """In the spare: goes once through what a birth does, so that the memory it writes is copied ahead; then waits."""
        _die_with(self.parent)
        title(f"{SPARE_TITLE} {self.place}")
        with contextlib.suppress(OSError):
            take(marshal.loads(marshal.dumps(-1)))  # noqa: S302 - our own
        _write_record(self.state, "")
        self.state.identity(myself())
        self._born(_read(reader))

    def _tell_spare(self, text: bytes) -> int:
        """Hands a plan to the spare; returns its pid, or 0 when there is none that could take it."""
        if self.spare is None or len(text) > select.PIPE_BUF:  # a longer one may come in parts
            return 0
        (pid, writer), self.spare = self.spare, None
        poll = select.poll()
        poll.register(writer, select.POLLOUT)
        if poll.poll()[0][1] & select.POLLERR:  # it is dead
            os.close(writer)
            return 0
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGCONT)  # whoever stopped it did not mean this script
        os.write(writer, text)  # its death in this moment is this server's (SIGPIPE), and the primary makes another
        if self.told is not None:
            os.close(self.told)
        self.told = writer
        return pid

    def _born(self, text: bytes) -> NoReturn:
        """In the child: its way to exec."""
        step, number = "fork", errno.EIO
        try:
            semaphore_id, record, path, argv, env, cwd, fallback = marshal.loads(text)  # noqa: S302 - our own
            at(step)
            step = "setsid"
            os.setsid()
            at(step)
            step = "semop"
            take(semaphore_id)
            at(step)
            step = "record"
            _write_record(self.state, record)
            at(step)
            step = "exec"
            if cwd is not None:
                os.chdir(cwd)
            at(step)
            prctl(PR_SET_PDEATHSIG, 0)
            _exec(path, argv, env, fallback)
        except OSError as error:
            number = error.errno or number
        finally:
            os.write(self.failures, FAILURE.pack(os.getpid(), STEPS.index(step), number))
            os._exit(127)


def _prepare(nofile: tuple[int, int], output: int | None, needed: set[int]) -> None:
    """What all children get, done once: signals, limits, descriptors 0 to 2, and no others but the `needed`."""
    os.setpgid(0, 0)  # an interrupt from the terminal is for the primary
    gc.disable()  # nothing here makes cycles, and a collection would copy all that is shared with the primary
    ignored = (number for number in signal.valid_signals() if signal.getsignal(number) is signal.SIG_IGN)
    for number in (*CAUGHT, *ignored):  # Python's SIGPIPE among them; what is ignored would stay so over exec
        signal.signal(number, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_SETMASK, ())
    os.dup2(os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC), 0)
    for fd in (1, 2):
        if output is not None or not _is_open(fd):
            os.dup2(0 if output is None else output, fd)
    resource.setrlimit(resource.RLIMIT_NOFILE, nofile)
    for name in os.listdir("/proc/self/fd"):
        if int(name) > 2 and int(name) not in needed and _is_open(int(name)):
            os.close(int(name))


def _die_with(parent: int) -> None:
    """Ends this process when its parent ends, or has ended already (prctl(2), PR_SET_PDEATHSIG)."""
    prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        os._exit(127)


def _read(fd: int) -> bytes:
    """The end of the pipe is this process's own."""
    data = os.read(fd, READ_BYTES)
    if not data:
        os._exit(0)
    return data


def _write_record(state: State, name: str) -> None:
    try:
        os.pwrite(state.open_record(name), state.identity(myself()), 0)
    except OSError:
        return  # the semaphore says the same; `status` names the missing record


def _exec(path: str, argv: list[str], env: dict[str, str], fallback: list[str]) -> NoReturn:
    try:
        os.execve(path, argv, env)
    except OSError as error:
        if error.errno != errno.ENOEXEC or not fallback:
            raise
    os.execve(fallback[0], fallback, env)


def at(step: str) -> None:
    """A child has done this step of its birth. Tests put a fault in here; nothing else does."""


def _is_open(fd: int) -> bool:
    try:
        os.fstat(fd)
    except OSError:
        return False
    return True
