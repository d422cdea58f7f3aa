"""The few calls of libc that Python's standard library does not offer, as functions that raise OSError.

Nothing here decides anything. Importing this costs 1.5 ms (ctypes), so the commands that need none of it don't.
"""

from __future__ import annotations

import ctypes
import os

_LIBC = ctypes.CDLL(None, use_errno=True)
_PRCTL = _LIBC.prctl
_PRCTL.argtypes = (ctypes.c_int, *[ctypes.c_ulong] * 4)  # bound here: what a child on its way to exec touches is copied
_SIGNAL = _LIBC.signal
_SIG_SETMASK, _NO_SIGNALS = 2, bytes(128)
PR_SET_PDEATHSIG = 1  # prctl(2)
PR_SET_CHILD_SUBREAPER = 36


def call(name: str, *args: object) -> int:
    """One call of libc; a result of -1 becomes OSError with the call's errno."""
    result: int = getattr(_LIBC, name)(*args)
    if result == -1:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number), name)
    return result


def default_signal(number: int) -> None:
    """signal(2) with SIG_DFL, behind the back of Python, whose own needs enums that cost each birth 50 page faults."""
    _SIGNAL(number, 0)


def unblock_all_signals() -> None:
    """sigprocmask(2) with an empty set; Python's builds enums of the old mask, in a child that copies what it touches."""
    _LIBC.sigprocmask(_SIG_SETMASK, _NO_SIGNALS, None)


def prctl(option: int, value: int) -> None:
    """prctl(2) with one argument; raises OSError."""
    if _PRCTL(option, value, 0, 0, 0) == -1:
        raise OSError(ctypes.get_errno(), "prctl")
