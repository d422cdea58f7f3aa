"""PURE: the command line of sendmail, read as getopt(3) does: single letters, joined or apart, operands last."""

from __future__ import annotations

WITH_VALUE = frozenset("ABCFLNORVXbefhopr")  # Postfix's sendmail(1) and Sendmail's; -d and -q carry theirs joined only
JOINED_VALUE = frozenset("dq")
FLAGS = frozenset("GIUcimntvx")
MODES_NOT_HERE = {
    "s": "SMTP on standard input",
    "d": "a listening daemon",
    "D": "a listening daemon",
    "i": "newaliases",
    "v": "address verification",
    "t": "address test mode",
    "H": "host status",
    "h": "host status",
    "P": "queue statistics",
    "a": "ARPANET mode",
}


class UsageError(Exception):
    """A command line that makes no sense; the text says why and what to write instead."""


class Arguments:
    """What a sendmail command line asks for."""

    __slots__ = ("from_header", "full_name", "ignore_dots", "list_queue", "recipients", "sender")

    def __init__(self) -> None:
        self.sender: str | None = None  # None: the caller; "": the null sender
        self.full_name: str | None = None
        self.from_header = False  # -t
        self.ignore_dots = False  # -i
        self.list_queue = False  # -bp
        self.recipients: list[str] = []


def parse(words: list[str]) -> Arguments:
    """Reads the words behind `sendmail`. Raises UsageError."""
    found = Arguments()
    rest = list(words)
    while rest and rest[0].startswith("-") and rest[0] != "-":
        word = rest.pop(0)
        if word == "--":
            break
        letters = word[1:]
        while letters:
            letter, letters = letters[0], letters[1:]
            if letter in WITH_VALUE:
                if not letters and not rest:
                    raise UsageError(f"-{letter} needs a value")
                _take(found, letter, letters or rest.pop(0))
                break
            if letter in JOINED_VALUE:
                break
            if letter not in FLAGS:
                raise UsageError(f"unknown option -{letter}")
            _flag(found, letter)
    found.recipients = rest
    return found


def _flag(found: Arguments, letter: str) -> None:
    if letter == "t":
        found.from_header = True
    elif letter == "i":
        found.ignore_dots = True


def _take(found: Arguments, letter: str, value: str) -> None:
    if letter in "fr":
        found.sender = "" if value == "<>" else value
    elif letter == "F":
        found.full_name = value
    elif letter == "o" and value == "i":
        found.ignore_dots = True
    elif letter == "b" and value == "p":
        found.list_queue = True
    elif letter == "b" and value != "m":
        what = MODES_NOT_HERE.get(value[:1], "this mode")
        raise UsageError(f"-b{value}: {what} is not in this version; only -bm (send, the default) and -bp (list) are")
