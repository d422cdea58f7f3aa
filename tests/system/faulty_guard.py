"""guard with one fault switched on, for tests: `faulty_guard.py FAULT [ARGUMENT…]`.

birth:STEP         the child SIGKILLs the primary right after this step of its birth, once
spareless:STEP     the same, in a birth that no spare was forked ahead for
halted:STEP        a child waits behind this step of its birth while there is a file halt
stuck              the fork server hangs at its third fork, once; a second later it is given up
serverless         the fork server SIGKILLs itself when it has forked the third child, before it says so, once
ping:SECONDS       the limit after which a silent primary is replaced
clock:SECONDS      the time of day is off by so much while there is a file clock-is-set
undo               semop forgets SEM_UNDO, as some container runtimes do
blind:SECONDS      inotify sees nothing, as on a network file system; the slow stat comes so often
nochildren         the kernel keeps no list of a process's children (CONFIG_PROC_CHILDREN)
nolease            no lease can be had, as on some file systems and on the file of another user
"""

from __future__ import annotations

import errno
import fcntl
import itertools
import os
import signal
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

from guard import birth, forkserver, instance, processes, semaphore, watch
from guard.cli import main


def birth_fault(fatal: str) -> None:
    """The marker file makes it happen once, whichever process is primary then."""

    def at(step: str) -> None:
        if step == fatal and first_time():
            os.kill(os.getppid(), signal.SIGKILL)

    birth.at = at


def halt(where: str) -> None:
    """The test takes the file away when it has seen enough."""

    def at(step: str) -> None:
        while step == where and Path("halt").exists():
            Path(f"halted.{os.getpid()}").touch()
            time.sleep(0.005)

    birth.at = at


def first_time() -> bool:
    """Whether the fault has not happened yet."""
    try:
        os.close(os.open("fault-done", os.O_CREAT | os.O_EXCL))
    except FileExistsError:
        return False
    return True


def third_fork(fault: Callable[[], object]) -> None:
    """Happens in the server, once, when there is a child more, of which the primary has not heard."""
    fork, forked = vars(birth)["fork_sibling"], itertools.count(1)

    def fork_and_fail() -> int:
        pid: int = fork()
        if pid and next(forked) == 3 and first_time():
            fault()
        return pid

    vars(birth)["fork_sibling"] = fork_and_fail


def no_lease(_fd: int, _command: int, _argument: int) -> int:
    """fcntl as it answers where there are no leases."""
    raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))


def switch_on(fault: str) -> None:
    """Puts the fault in."""
    kind, _, value = fault.partition(":")
    if kind == "birth":
        birth_fault(value)
    elif kind == "halted":
        halt(value)
    elif kind == "spareless":
        birth_fault(value)
        vars(birth)["Server"]._fork_spare = lambda _self: None
    elif kind == "serverless":
        third_fork(lambda: os.kill(os.getpid(), signal.SIGKILL))
    elif kind == "stuck":
        vars(forkserver)["LIMIT_S"] = 1.0
        third_fork(threading.Event().wait)
    elif kind == "nochildren":
        vars(processes)["children"] = lambda: None
    elif kind == "ping":
        instance.PING_LIMIT_S = float(value)
    elif kind == "clock":
        true = time.time
        time.time = lambda: true() + (float(value) if os.path.exists("clock-is-set") else 0.0)
    elif kind == "undo":
        semaphore._SEM_UNDO = 0
        semaphore._TAKE = semaphore._ops((0, 0, semaphore._IPC_NOWAIT), (0, 1, 0))
    elif kind == "blind":
        from guard import supervisor

        vars(supervisor)["POLL_S"] = float(value)
        watch.Watch.follow = lambda _self, *_paths: False  # type: ignore[method-assign]
    elif kind == "nolease":
        leases = SimpleNamespace(fcntl=no_lease, F_SETLEASE=fcntl.F_SETLEASE, F_RDLCK=fcntl.F_RDLCK, F_UNLCK=fcntl.F_UNLCK)
        vars(watch)["fcntl"] = leases
    else:
        raise SystemExit(f"unknown fault {fault}")


if __name__ == "__main__":
    switch_on(sys.argv[1])
    sys.argv = [str(Path(sys.executable).parent / "guard"), *sys.argv[2:]]
    sys.exit(main())
