"""The command line of smtp-spool; also of `sendmail` and `mailq` when it is called by one of these names."""

from __future__ import annotations

import os
import sys
import time

from workers.mail.errors import IO, OK, USAGE, Refused


def main(argv: list[str] | None = None) -> int:
    """Runs one command and returns its exit status (sysexits.h). `argv` as in sys.argv."""
    words = list(sys.argv if argv is None else argv)
    os.umask(0o077)
    name = os.path.basename(words[0]) if words else ""
    try:
        if name == "sendmail":
            return _sendmail(words[1:], None)
        if name == "mailq":
            return _list([], None)
        return _dispatch(words[1:])
    except Refused as refused:
        print(f"{name or 'smtp-spool'}: {refused}", file=sys.stderr)
        return refused.status
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # else Python complains once more when it flushes at its end
        return IO


def _dispatch(words: list[str]) -> int:
    explicit = None
    while words and words[0].startswith("-"):
        option, words = words[0], words[1:]
        if option in ("--help", "-h"):
            return _help("HELP")
        if option == "--config" and words:
            explicit, words = words[0], words[1:]
        elif option.startswith("--config="):
            explicit = option.partition("=")[2]
        else:
            raise Refused(USAGE, f"unknown option {option}, or its value is missing; see smtp-spool --help")
    commands = {"sendmail": _sendmail, "run": _run, "list": _list, "count": _count}
    if not words or words[0] not in commands:
        what = f"unknown command {words[0]}" if words else "no command"
        raise Refused(USAGE, f"{what}; known are {', '.join(commands)}; see smtp-spool --help")
    return commands[words[0]](words[1:], explicit)


def _sendmail(words: list[str], explicit: str | None) -> int:
    if words == ["--help"]:
        return _help("SENDMAIL_HELP")
    from workers.mail.config import load
    from workers.spool.arguments import UsageError, parse

    try:
        arguments = parse(words)
    except UsageError as error:
        raise Refused(USAGE, f"{error}; see smtp-spool sendmail --help") from None
    if arguments.list_queue:
        return _list([], explicit)
    from workers.spool.sendmail import submit

    submit(arguments, load(explicit))
    return OK


def _run(words: list[str], explicit: str | None) -> int:
    explicit, flags = _flags(words, explicit, ("--drain",))
    if "--help" in flags:
        return _help("RUN_HELP")
    from workers.mail.config import load
    from workers.spool.run import run

    return run(load(explicit), drain="--drain" in flags)


def _list(words: list[str], explicit: str | None) -> int:
    explicit, flags = _flags(words, explicit, ("--all", "--json"))
    if "--help" in flags:
        return _help("LIST_HELP")
    from workers.mail.config import load
    from workers.spool.listing import as_json, as_table, rows

    found = rows(load(explicit), sent_too="--all" in flags)
    return _print(as_json(found) if "--json" in flags else as_table(found, time.time()))


def _count(words: list[str], explicit: str | None) -> int:
    explicit, flags = _flags(words, explicit, ())
    if "--help" in flags:
        return _help("COUNT_HELP")
    from workers.mail.config import load
    from workers.spool.listing import unsent

    return _print(f"{unsent(load(explicit))}\n")


def _flags(words: list[str], explicit: str | None, known: tuple[str, ...]) -> tuple[str | None, set[str]]:
    """The value of --config, which may stand behind the command too, and the flags found."""
    flags = set()
    rest = list(words)
    while rest:
        word = rest.pop(0)
        if word == "--config" and rest:
            explicit = rest.pop(0)
        elif word.startswith("--config="):
            explicit = word.partition("=")[2]
        elif word in (*known, "--help"):
            flags.add(word)
        else:
            allowed = ", ".join((*known, "--config FILE", "--help"))
            raise Refused(USAGE, f"unknown argument {word}; known are {allowed}")
    return explicit, flags


def _help(name: str) -> int:
    from workers.spool import help as texts

    return _print(getattr(texts, name))


def _print(text: str) -> int:
    sys.stdout.write(text)
    sys.stdout.flush()
    return OK
