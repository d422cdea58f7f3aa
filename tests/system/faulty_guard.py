"""guard with one fault switched on, for tests: `faulty_guard.py FAULT [ARGUMENT…]`.

birth:STEP         the child SIGKILLs the primary right after this step of its birth, once
ping:SECONDS       the limit after which a silent primary is replaced
undo               semop forgets SEM_UNDO, as some container runtimes do
"""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path

from guard import birth, instance, semaphore
from guard.cli import main


def birth_fault(fatal: str) -> None:
    """The marker file makes it happen once, whichever process is primary then."""

    def at(step: str) -> None:
        if step == fatal:
            try:
                os.close(os.open("fault-done", os.O_CREAT | os.O_EXCL))
            except FileExistsError:
                return
            os.kill(os.getppid(), signal.SIGKILL)

    birth.at = at


def switch_on(fault: str) -> None:
    """Puts the fault in."""
    kind, _, value = fault.partition(":")
    if kind == "birth":
        birth_fault(value)
    elif kind == "ping":
        instance.PING_LIMIT_S = float(value)
    elif kind == "undo":
        semaphore._SEM_UNDO = 0
        semaphore._TAKE = semaphore._ops((0, 0, semaphore._IPC_NOWAIT), (0, 1, 0))
    else:
        raise SystemExit(f"unknown fault {fault}")


if __name__ == "__main__":
    switch_on(sys.argv[1])
    sys.argv = [str(Path(sys.executable).parent / "guard"), *sys.argv[2:]]
    sys.exit(main())
