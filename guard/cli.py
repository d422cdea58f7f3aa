"""Commands and exit statuses. Each command imports what it needs when it runs: cron and health checks pay for start-up."""

from __future__ import annotations

import errno
import os
import sys

from guard.options import USAGE, Help, Misuse, Options, parse

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, TextIO

UNWRITTEN = 74  # sysexits.h: input or output error
CLOSED = ((0, os.O_WRONLY), (1, os.O_RDONLY), (2, os.O_WRONLY))  # such that to read or write them is the error it was


class Unwritten(Exception):
    """Standard output can't be written. No OSError: a command would take that for one of its own files."""

    def __init__(self, error: OSError) -> None:
        super().__init__(f"can't write to standard output: {error.strerror}")
        self.reader_has_gone = error.errno == errno.EPIPE


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
            raise Unwritten(error) from None

    def __getattr__(self, name: str) -> Any:
        return getattr(self._file, name)


def main(arguments: list[str] | None = None) -> int:
    """The command `guard`; returns its exit status."""
    if sys.platform != "linux" or sys.version_info < (3, 11):
        sys.stderr.write("guard: needs Linux and Python 3.11 or later\n")
        return USAGE
    _open_missing()
    file = sys.stdout
    sys.stdout = Output(file)
    try:
        status = _status(sys.argv[1:] if arguments is None else arguments)
        sys.stdout.flush()
        return status
    except Unwritten as error:
        _let_go(file)
        if error.reader_has_gone:
            return 1  # nothing is left to say
        sys.stderr.write(f"guard: {error}\n")
        return UNWRITTEN
    except KeyboardInterrupt:
        _let_go(file)
        return 130
    finally:
        sys.stdout = file


def _status(arguments: list[str]) -> int:
    """The exit status of a command. Raises Unwritten, KeyboardInterrupt."""
    try:
        options = parse(arguments)
    except Help as text:
        sys.stdout.write(f"{text}\n")
        return 0
    except Misuse as error:
        sys.stderr.write(f"guard: {error}\n")
        return USAGE
    from guard.place import NoPlace

    try:
        return _perform(options)
    except (NoPlace, Misuse) as error:
        from guard.log import complain

        complain(str(error))
        return error.status if isinstance(error, NoPlace) else USAGE


def _let_go(file: TextIO) -> None:
    """What can't be written is dropped: Python would complain once more when it flushes at its end."""
    try:
        file.flush()
    except OSError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)


def _open_missing() -> None:
    """Standard files that the caller has closed are taken, else a record gets the number, and the log's lines."""
    for fd, flags in CLOSED:
        try:
            os.fstat(fd)
        except OSError:
            os.set_inheritable(os.open(os.devnull, flags), True)  # the lowest number that is free: this one
    if sys.stdout is None:
        sys.stdout = os.fdopen(1, "w", encoding="utf-8", closefd=False)
    if sys.stderr is None:
        sys.stderr = os.fdopen(2, "w", encoding="utf-8", closefd=False)


def _perform(options: Options) -> int:
    from guard.place import Place

    file = options.words[0] if options.command in ("check", "plan") and options.words else None
    if options.command in ("check", "plan", "init"):
        from guard import lint

        return lint.perform(options.command, options.given.get("--list"), options.given.get("--state"), file)
    place = Place(options.given.get("--list"), options.given.get("--state"))
    place.become_owner(as_root=options.has("--as-root"))
    key = options.number("--key")
    if options.command == "":
        from guard.run import run

        return run(place, key, standby=not options.has("--no-standby"))
    if options.command == "status":
        from guard import report

        return report.status(place, key, options.words, as_json=options.has("--json"))
    from guard import control

    return control.Control(place, key, options).perform()
