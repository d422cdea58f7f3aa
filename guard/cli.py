"""Commands and exit statuses. Each command imports what it needs when it runs: cron and health checks pay for start-up."""

from __future__ import annotations

import sys

from guard.options import USAGE, Help, Misuse, Options, parse


def main(arguments: list[str] | None = None) -> int:
    """The command `guard`; returns its exit status."""
    if sys.platform != "linux" or sys.version_info < (3, 11):
        sys.stderr.write("guard: needs Linux and Python 3.11 or later\n")
        return USAGE
    try:
        options = parse(sys.argv[1:] if arguments is None else arguments)
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
    except BrokenPipeError:
        sys.stderr.close()  # whoever read our output has gone; nothing is left to say
        return 1
    except KeyboardInterrupt:
        return 130


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
