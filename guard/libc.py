"""The few calls of libc that Python's standard library does not offer, as functions that raise OSError.

Nothing here decides anything. Importing this costs 1.5 ms (ctypes), so the commands that need none of it don't.
"""

from __future__ import annotations

import ctypes
import os
import sys

_LIBC = ctypes.CDLL(None, use_errno=True)
_PRCTL = _LIBC.prctl
_PRCTL.argtypes = (ctypes.c_int, *[ctypes.c_ulong] * 4)  # bound here: what a child on its way to exec touches is copied
_SYSCALL = ctypes.PyDLL(None, use_errno=True).syscall  # keeps the interpreter's lock: a forked child goes on with it
_SYS_CLONE = 120 if sys.maxsize < 1 << 32 else {"x86_64": 56, "ppc64le": 120, "s390x": 120}.get(os.uname().machine, 220)
_CLONE_PARENT, _SIGCHLD = 0x8000, 17
_CLONE_ARGS = (0, _CLONE_PARENT | _SIGCHLD) if os.uname().machine == "s390x" else (_CLONE_PARENT | _SIGCHLD, 0)
PR_SET_PDEATHSIG = 1  # prctl(2)
PR_SET_CHILD_SUBREAPER = 36


def call(name: str, *args: object) -> int:
    """One call of libc; a result of -1 becomes OSError with the call's errno."""
    result: int = getattr(_LIBC, name)(*args)
    if result == -1:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number), name)
    return result


def fork_sibling() -> int:
    """fork(2), but the child is the caller's sibling: a child of the caller's parent (clone(2), CLONE_PARENT).

    Only for a process of one thread whose child goes on to exec: nothing that Python or libc do after a fork is done.
    Raises OSError.
    """
    pid: int = _SYSCALL(_SYS_CLONE, *_CLONE_ARGS, 0, 0, 0)
    if pid == -1:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number), "clone")
    return pid


def prctl(option: int, value: int) -> None:
    """prctl(2) with one argument; raises OSError."""
    if _PRCTL(option, value, 0, 0, 0) == -1:
        raise OSError(ctypes.get_errno(), "prctl")
