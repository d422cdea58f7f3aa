"""How a command of the mail workers ends: its exit status, and a line on standard error for what is wrong."""

from __future__ import annotations

import errno
import os
import sys

from workers.mail.errors import IO, Refused

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any, TextIO

INTERRUPTED = 130  # what a shell makes of SIGINT
CLOSED = ((0, os.O_WRONLY), (1, os.O_RDONLY), (2, os.O_WRONLY))  # such that to read or write them is the error it was


class Unwritten(Exception):
    """Standard output can't be written. No OSError: a command would take that for one of its own files."""

    def __init__(self, error: OSError) -> None:
        super().__init__(f"can't write to standard output: {error.strerror}")
        self.reader_has_gone = error.errno == errno.EPIPE  # as `| head -1` does: nothing is left to say


class Output:
    """Standard output while a command runs. Raises Unwritten."""

    def __init__(self, file: TextIO) -> None:
        self._file = file

    def write(self, text: str) -> int:
        """As of the file."""
        try:
            return self._file.write(text)
        except OSError as error:
            raise Unwritten(error) from None

    def flush(self) -> None:
        """As of the file."""
        try:
            self._file.flush()
        except OSError as error:
            _let_go(self._file)  # a command that goes on all the same must not meet it again at its end
            raise Unwritten(error) from None

    def __getattr__(self, name: str) -> Any:
        return getattr(self._file, name)


def perform(name: str, command: Callable[[], int]) -> int:
    """Runs a command of the program `name`; its exit status (sysexits.h). What it can't do is said in one line."""
    _open_missing()
    file = sys.stdout
    sys.stdout = Output(file)
    try:
        status = command()
        sys.stdout.flush()
        return status
    except BaseException as error:
        status = _status(name, error)
        _let_go(file)
        return status
    finally:
        sys.stdout = file


def complain(text: str) -> None:
    """One line on standard error, where there is one."""
    try:
        print(text, file=sys.stderr, flush=True)
    except OSError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 2)


def version() -> str:
    """What --version says."""
    from importlib import metadata

    try:
        return f"semguard {metadata.version('semguard')}\n"
    except metadata.PackageNotFoundError:
        return "semguard, not installed\n"


def _status(name: str, error: BaseException) -> int:
    """The exit status for what ended a command, which is told; a bug is raised again."""
    if _is_interrupt(error):
        return INTERRUPTED
    if isinstance(error, Refused):
        complain(f"{name}: {error}")
        return error.status
    if isinstance(error, Unwritten) and not error.reader_has_gone:
        complain(f"{name}: {error}")
    elif not isinstance(error, (Unwritten, BrokenPipeError)):
        raise error
    return IO


def _is_interrupt(error: BaseException | None) -> bool:
    """Whether it is Ctrl-C, or came of the clearing up behind one."""
    while error is not None and not isinstance(error, KeyboardInterrupt):
        error = error.__context__
    return error is not None


def _let_go(file: TextIO) -> None:
    """What can't be written is dropped: Python would complain once more when it flushes at its end."""
    try:
        file.flush()
    except OSError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)


def _open_missing() -> None:
    """Standard files that the caller has closed are taken, else a file of mail gets the number, and the log's lines."""
    for fd, flags in CLOSED:
        try:
            os.fstat(fd)
        except OSError:
            os.set_inheritable(os.open(os.devnull, flags), True)  # the lowest number that is free: this one
    if sys.stdin is None:
        sys.stdin = os.fdopen(0, encoding="utf-8", closefd=False)
    if sys.stdout is None:
        sys.stdout = os.fdopen(1, "w", encoding="utf-8", closefd=False)
    if sys.stderr is None:
        sys.stderr = os.fdopen(2, "w", encoding="utf-8", closefd=False)
