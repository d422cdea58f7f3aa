"""`check`, `plan`, `init`: about List.txt before it is in force. They change nothing but what `init` writes."""

from __future__ import annotations

import os
import sys

from guard.command import CannotRun, command
from guard.lists import read_accepted
from guard.log import complain
from guard.place import LIST_NAME, NoPlace, Place, no_list
from guard.scripts import Listing, Script, parse
from guard.state import State
from guard.words import printable

CLEAN, MISTAKES = 0, 1

FIRST_LIST = """\
# Scripts that guard keeps running, one a line; guard sees each save of this file.
#
#   workers/smtp_spool.py                        a file: executable, or run by what its ending says
#   php cli/import.php --all                     or with its interpreter in front
#   retry=5s..10m stop=30s bin/fetch             lower case in front: what guard shall do
#   TZ=Europe/Warsaw name=report bin/report.py   upper case in front: the script's environment
#
#   retry=MIN..MAX  pause before a respawn, growing while it dies young (1s..30s); one value = fixed; 0 = at once
#   stable=60s      up this long = healthy again          stop=10s  signal=TERM  how it is ended, and when by KILL
#   copies=2        so many of it                         after=NAME  first start when that one is up
#   name=  cwd=  env=FILE  key=                           see README
#
# A line of settings alone holds for all lines below it. `guard check` finds mistakes, `guard plan` tells what a save does.
"""


def perform(what: str, list_option: str | None, state_option: str | None, file: str | None) -> int:
    """Returns 0 clean, 1 mistakes. Raises NoPlace."""
    if what == "init":
        return init(list_option or os.environ.get("GUARD_LIST") or LIST_NAME)
    file = os.path.abspath(file) if file else None
    place = Place(list_option, state_option)
    if what == "check":
        return check(file or place.list_path)
    return plan(place, file or place.list_path)


def check(path: str) -> int:
    """Prints every mistake of a list, and every script that could not be started now."""
    listing = _read(path)
    name = os.path.relpath(path)
    found = [f"{name}:{mistake}" for mistake in listing.mistakes]
    for script in listing.scripts:
        try:
            command(script, 0)
        except CannotRun as problem:
            found.append(f"{name}:{script.line}: {problem}")
    if not listing.scripts and not found:
        found.append(f"{name}: lists no script; guard would change nothing for it (to stop it all: guard stop)")
    for line in found:
        sys.stdout.write(printable(line) + "\n")
    return MISTAKES if found else CLEAN


def plan(place: Place, path: str) -> int:
    """Prints what this list would change, against the one in force."""
    force: dict[str, Script] = {}
    if os.path.isdir(place.state_path):
        force = {script.name: script for script in read_accepted(State(place.state_path, create=False))[0]}
    listing = _read(path, force)
    listed = {script.name: script for script in listing.scripts}
    lines = [f"start    {name}" for name in listed if name not in force]
    lines += [f"stop     {name}" for name in force if name not in listed]
    lines += [
        f"restart  {name}: {_difference(force[name], script)}" for name, script in listed.items() if _differs(force, script)
    ]
    kept = sum(1 for name, script in listed.items() if name in force and not _differs(force, script))
    if listing.mistakes:
        lines = [line for line in lines if line.startswith("start")]
        lines += [f"mistake  {os.path.relpath(path)}:{mistake}" for mistake in listing.mistakes]
        lines.append("until that is mended nothing is stopped or restarted")
    sys.stdout.write("".join(printable(line) + "\n" for line in [*lines, f"keep     {kept} as they are"]))
    return MISTAKES if listing.mistakes else CLEAN


def init(path: str) -> int:
    """Writes a first list into an empty place, never over one."""
    try:
        fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o644)
    except FileExistsError:
        complain(f"{os.path.abspath(path)} exists already: nothing was written")
        return MISTAKES
    except OSError as error:
        raise NoPlace(f"{os.path.abspath(path)}: {error.strerror}", 1) from None
    with open(fd, "w", encoding="utf-8") as file:
        file.write(FIRST_LIST)
    folder = os.path.dirname(os.path.abspath(path))
    sys.stdout.write(f"wrote {os.path.abspath(path)}; add your scripts to it, then: guard start\n")
    sys.stdout.write("and so that it also starts after a reboot, `crontab -e` and add:\n")
    sys.stdout.write(f"*/5 * * * *  cd {folder} && {os.path.abspath(sys.argv[0])} >> guard.log 2>&1\n")
    return CLEAN


def _read(path: str, running: dict[str, Script] | None = None) -> Listing:
    try:
        with open(path, "rb") as file:
            return parse(file.read(), running)
    except FileNotFoundError:
        raise NoPlace(no_list(os.path.abspath(path)), MISTAKES) from None
    except OSError as error:
        raise NoPlace(f"{os.path.abspath(path)}: {error.strerror}", MISTAKES) from None


def _differs(force: dict[str, Script], script: Script) -> bool:
    return script.name in force and force[script.name].seen != script.seen


def _difference(old: Script, new: Script) -> str:
    parts = {"command": "argv", "environment": "env", "cwd=": "cwd", "env=": "env_file", "key=": "key"}
    changed = [word for word, attribute in parts.items() if getattr(old, attribute) != getattr(new, attribute)]
    return f"{' and '.join(changed)} changed"
