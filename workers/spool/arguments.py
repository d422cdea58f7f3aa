"""PURE: the command line of sendmail, read as getopt(3) does: single letters, joined or apart, operands last.

Known are the letters of Postfix's sendmail(1) and Sendmail's sendmail(8), also those without effect here; any other
is a mistake, as it is for Postfix.
"""

from __future__ import annotations

WITH_VALUE = frozenset("ABCDFLMNORVXbefhopr")  # -d and -q carry theirs joined only
JOINED_VALUE = frozenset("dq")
FLAGS = frozenset("GIUcimntvx")
MODES = frozenset("mpsi")
MODE_OF_NAME = {"mailq": "p", "newaliases": "i"}
MODES_NOT_HERE = {
    "d": "a listening daemon",
    "D": "a listening daemon",
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

    __slots__ = (
        "flush",
        "from_header",
        "full_name",
        "ignore_dots",
        "list_queue",
        "rebuild_aliases",
        "recipients",
        "sender",
        "speak_smtp",
    )

    def __init__(self) -> None:
        self.sender: str | None = None  # None: the caller; "": the null sender
        self.full_name: str | None = None
        self.from_header = False  # -t
        self.ignore_dots = False  # -i
        self.list_queue = False  # -bp, mailq; of this, the next two and `flush` one at most is set
        self.speak_smtp = False  # -bs
        self.rebuild_aliases = False  # -bi, -I, newaliases: nothing is to be done, the config is read each time
        self.flush = False  # -q, -qTIME and so on, with no other mode and nothing to send: everything is due now
        self.recipients: list[str] = []


def parse(words: list[str], name: str = "sendmail") -> Arguments:
    """Reads the words behind `name`, as which the program was called; of several modes the last counts. Raises UsageError."""
    found = Arguments()
    _mode(found, MODE_OF_NAME.get(name, "m"))
    flush = False
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
                flush = flush or letter == "q"
                break
            if letter not in FLAGS:
                raise UsageError(f"unknown option -{letter}")
            _flag(found, letter)
    found.recipients = rest
    if found.speak_smtp and rest:
        raise UsageError(f"-bs takes no recipient ({rest[0]}); RCPT names them on standard input")
    other = found.list_queue or found.speak_smtp or found.rebuild_aliases
    found.flush = flush and not (other or rest or found.from_header)
    return found


def _flag(found: Arguments, letter: str) -> None:
    if letter == "t":
        found.from_header = True
    elif letter == "i":
        found.ignore_dots = True
    elif letter == "I":
        _mode(found, "i")


def _take(found: Arguments, letter: str, value: str) -> None:
    if letter in "fr":
        found.sender = "" if value == "<>" else value
    elif letter == "F":
        found.full_name = value
    elif letter == "o" and value == "i":
        found.ignore_dots = True
    elif letter == "b":
        if value not in MODES:
            what = MODES_NOT_HERE.get(value[:1], "this mode")
            raise UsageError(f"-b{value}: {what} is not here; only -bm (send, the default), -bp (list), -bs (SMTP) and -bi are")
        _mode(found, value)


def _mode(found: Arguments, letter: str) -> None:
    found.list_queue, found.speak_smtp, found.rebuild_aliases = letter == "p", letter == "s", letter == "i"
