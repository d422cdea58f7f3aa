"""The command line of smtp-spool; also of `sendmail`, `mailq` and `newaliases` when it is called by one of these names.

Each command imports what it needs when it runs: a sendmail call pays for nothing else.
"""

from __future__ import annotations

import os
import sys

from workers.mail.command import Unwritten, complain, perform, version
from workers.mail.errors import OK, USAGE, Refused

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from workers.mail.config import Config
    from workers.spool.commandline import Words

AS_SENDMAIL = ("sendmail", "mailq", "newaliases")
CHOICE = ("--state", "--to")


def main(argv: list[str] | None = None) -> int:
    """Runs one command and returns its exit status (sysexits.h). `argv` as in sys.argv."""
    words = list(sys.argv if argv is None else argv)
    os.umask(0o077)
    name = os.path.basename(words[0]) if words else ""
    if name in AS_SENDMAIL:
        return perform(name, lambda: _sendmail(words[1:], None, name))
    return perform(name or "smtp-spool", lambda: _dispatch(words[1:]))


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
            raise Refused(USAGE, f"unknown option {option}, or its value is missing; see smtp-spool --help")
    if words == ["help"]:
        return _help("HELP")
    if words and words[0] in AS_SENDMAIL:
        return _sendmail(words[1:], explicit, words[0])
    if not words or words[0] not in COMMANDS:
        what = f"unknown command {words[0]}" if words else "no command"
        raise Refused(USAGE, f"{what}; known are sendmail, {', '.join(COMMANDS)}; see smtp-spool --help")
    return _command(words[0], words[1:], explicit)


def _command(name: str, words: list[str], explicit: str | None) -> int:
    from workers.mail.load import load
    from workers.spool.commandline import read

    run, flags, values, operands = COMMANDS[name]
    if words[:1] in (["--help"], ["-h"]):
        return _help(f"{name.upper().replace('-', '_')}_HELP")
    found = read(words, flags=flags, values=values, operands=operands)
    if "--help" in found.flags:
        return _help(f"{name.upper().replace('-', '_')}_HELP")
    config = load(found.one("--config") or explicit)
    result: int = run(config, found) if run is not _change else _change(config, found, name)
    return result


def _sendmail(words: list[str], explicit: str | None, name: str) -> int:
    if words == ["--help"]:
        return _help("SENDMAIL_HELP")
    from workers.mail.load import load
    from workers.spool.arguments import UsageError, parse

    if words[:1] == ["--config"] and len(words) > 1:
        explicit, words = words[1], words[2:]
    try:
        arguments = parse(words, name)
    except UsageError as error:
        raise Refused(USAGE, f"{error}; see smtp-spool sendmail --help") from None
    if arguments.rebuild_aliases:
        return OK
    if arguments.list_queue:
        return _command("list", [], explicit)
    if arguments.flush:
        return _flush(load(explicit))
    from workers.spool.sendmail import serve, submit

    if arguments.speak_smtp:
        return serve(load(explicit))
    submit(arguments, load(explicit))
    return OK


def _run(config: Config, words: Words) -> int:
    from workers.spool.run import run

    return run(config, drain="--drain" in words.flags)


def _list(config: Config, words: Words) -> int:
    import time

    from workers.spool.listing import as_json, as_table, rows

    found = rows(config, sent_too="--all" in words.flags)
    return _print(as_json(found) if "--json" in words.flags else as_table(found, time.time()))


def _count(config: Config, _: Words) -> int:
    from workers.spool.listing import unsent

    return _print(f"{unsent(config)}\n")


def _add(config: Config, _: Words) -> int:
    from workers.spool.add import add

    return add(config)


def _send(config: Config, words: Words) -> int:
    from workers.spool.templated import send

    number = send(config, words)
    try:
        return _print(f"{number}\n")
    except Unwritten as error:
        complain(f"smtp-spool: mail {number} is queued, but its number: {error}")  # who sends again would send it twice
        return OK


def _preview(config: Config, words: Words) -> int:
    from workers.spool.templated import preview

    return _print(preview(config, words))


def _show(config: Config, words: Words) -> int:
    import time

    from workers.spool.explain import show, show_text

    found = show(config, _one_id(words))
    return _print(_json(found) if "--json" in words.flags else show_text(found, time.time()))


def _why(config: Config, words: Words) -> int:
    from workers.spool.explain import why, why_text

    found = why(config, _one_id(words))
    return _print(_json({"version": 1, "recipients": found}) if "--json" in words.flags else why_text(found))


def _stats(config: Config, words: Words) -> int:
    from workers.spool.explain import stats, stats_text

    found = stats(config)
    return _print(_json(found) if "--json" in words.flags else stats_text(found))


def _change(config: Config, words: Words, name: str = "") -> int:
    from workers.spool.admin import change

    return _print(f"{change(config, name, words)} recipients\n")


def _delete(config: Config, words: Words) -> int:
    from workers.spool.admin import delete

    return _print(f"{delete(config, words)} mails\n")


def _prune(config: Config, _: Words) -> int:
    from workers.spool.admin import prune

    return _print(f"{prune(config)} mails\n")


def _flush(config: Config) -> int:
    from workers.spool.admin import flush

    flush(config)
    return OK


def _check(config: Config, _: Words) -> int:
    from workers.spool.check import check

    return check(config)


def _update_schema(config: Config, _: Words) -> int:
    from workers.spool.accept import SCHEMA_VERSION
    from workers.spool.listing import read

    return _print(read(config, "no spool yet\n", lambda _: f"{config.database}: schema {SCHEMA_VERSION}\n"))


COMMANDS: dict[str, tuple[Any, tuple[str, ...], tuple[str, ...], str]] = {  # function, flags, options, operands
    "run": (_run, ("--drain",), (), ""),
    "add": (_add, (), (), ""),
    "send": (_send, (), ("--to", "--data", "--from", "--priority", "--send-at", "--expires", "--identifier"), "TEMPLATE"),
    "preview": (_preview, ("--html", "--raw"), ("--data",), "TEMPLATE"),
    "list": (_list, ("--all", "--json"), (), ""),
    "show": (_show, ("--json",), (), "ID"),
    "why": (_why, ("--json",), (), "ID"),
    "stats": (_stats, ("--json",), (), ""),
    "count": (_count, (), (), ""),
    "retry": (_change, ("--all",), CHOICE, "ID"),
    "hold": (_change, ("--all",), CHOICE, "ID"),
    "release": (_change, ("--all",), CHOICE, "ID"),
    "cancel": (_change, ("--all",), CHOICE, "ID"),
    "delete": (_delete, ("--all",), CHOICE, "ID"),
    "check": (_check, (), (), ""),
    "prune": (_prune, (), (), ""),
    "update-schema": (_update_schema, (), (), ""),
}


def _one_id(words: Words) -> int:
    from workers.spool.admin import mail_id

    if len(words.operands) != 1:
        raise Refused(USAGE, "needs one mail's number; smtp-spool list shows them")
    return mail_id(words.operands[0])


def _json(found: object) -> str:
    import json

    return json.dumps(found) + "\n"


def _help(name: str) -> int:
    from workers.spool import help as texts

    return _print(getattr(texts, name))


def _print(text: str) -> int:
    sys.stdout.write(text)
    sys.stdout.flush()
    return OK
