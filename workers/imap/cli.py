"""The command line of imap-sync. Each command imports what it needs when it runs."""

from __future__ import annotations

import os
import sys

from workers.mail.command import perform, version
from workers.mail.errors import OK, USAGE, Refused

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from workers.mail.config import Config
    from workers.spool.commandline import Words


def main(argv: list[str] | None = None) -> int:
    """Runs one command and returns its exit status (sysexits.h). `argv` as in sys.argv."""
    words = list(sys.argv if argv is None else argv)
    os.umask(0o077)
    return perform("imap-sync", lambda: _dispatch(words[1:]))


def _dispatch(words: list[str]) -> int:
    explicit = None
    while words and words[0].startswith("-"):
        option, words = words[0], words[1:]
        if option in ("--help", "-h"):
            return _help("HELP")
        if option in ("--version", "-V"):
            return _print(version())
        if option == "--config" and words:
            explicit, words = words[0], words[1:]
        elif option.startswith("--config="):
            explicit = option.partition("=")[2]
        else:
            raise Refused(USAGE, f"unknown option {option}, or its value is missing; see imap-sync --help")
    if words == ["help"]:
        return _help("HELP")
    if not words or words[0] not in COMMANDS:
        what = f"unknown command {words[0]}" if words else "no command"
        raise Refused(USAGE, f"{what}; known are {', '.join(COMMANDS)}; see imap-sync --help")
    return _command(words[0], words[1:], explicit)


def _command(name: str, words: list[str], explicit: str | None) -> int:
    from workers.mail.load import load
    from workers.spool.commandline import read

    run, flags, values, operands = COMMANDS[name]
    title = f"{name.upper().replace('-', '_')}_HELP"
    if words[:1] in (["--help"], ["-h"]):
        return _help(title)
    found = read(words, flags=flags, values=values, operands=operands)
    if "--help" in found.flags:
        return _help(title)
    result: int = run(load(found.one("--config") or explicit), found)
    return result


def _run(config: Config, _: Words) -> int:
    from workers.imap.run import run

    return run(config)


def _sync(config: Config, words: Words) -> int:
    from workers.imap.sync import sync

    return sync(config, words.operands)


def _status(config: Config, words: Words) -> int:
    import time

    from workers.imap.status import as_json, status, status_text

    found = status(config)
    return _print(as_json(found) if "--json" in words.flags else status_text(found, config, time.time()))


def _folders(config: Config, words: Words) -> int:
    import time

    from workers.imap.status import as_json, folders, folders_text
    from workers.imap.visit import only

    found = folders(config.imap, only(config.imap, words.operands, "folders"))
    return _print(as_json(found) if "--json" in words.flags else folders_text(found, time.time()))


def _why(config: Config, words: Words) -> int:
    from workers.imap.visit import only
    from workers.imap.why import why

    return _print(why(config, only(config.imap, words.operands, "why")))


def _verify(config: Config, words: Words) -> int:
    from workers.imap.verify import verify

    return verify(config, words.operands, content="--content" in words.flags)


def _check(config: Config, _: Words) -> int:
    from workers.imap.check import check

    return check(config)


def _present(config: Config, words: Words) -> int:
    from workers.imap.visit import only
    from workers.imap.wishes import present

    return _print(present(config.imap, only(config.imap, words.operands, "present"), words.one("--for")))


def _log_level(config: Config, words: Words) -> int:
    from workers.imap.wishes import log_level

    return _print(log_level(config, words.operands, words.one("--for")))


COMMANDS: dict[str, tuple[Any, tuple[str, ...], tuple[str, ...], str]] = {  # function, flags, options, operands
    "run": (_run, (), (), ""),
    "sync": (_sync, (), (), "ACCOUNT"),
    "status": (_status, ("--json",), (), ""),
    "folders": (_folders, ("--json",), (), "ACCOUNT"),
    "why": (_why, (), (), "ACCOUNT"),
    "verify": (_verify, ("--content",), (), "ACCOUNT"),
    "check": (_check, (), (), ""),
    "present": (_present, (), ("--for",), "ACCOUNT"),
    "log-level": (_log_level, (), ("--for",), "debug, info or ACCOUNT"),
}


def _help(name: str) -> int:
    from workers.imap import help as texts

    return _print(getattr(texts, name))


def _print(text: str) -> int:
    sys.stdout.write(text)
    sys.stdout.flush()
    return OK
