"""From a script to what exec gets: the program, its words, its environment. Looks at files, changes nothing."""

from __future__ import annotations

import os
import pwd
import sys
from dataclasses import dataclass

from guard.scripts import Script

STANDARD_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
BY_ENDING = {".py": sys.executable, ".php": "php", ".sh": "sh", ".js": "node", ".rb": "ruby", ".pl": "perl"}


class CannotRun(Exception):
    """The script can't be started now; the text says why and what to do."""


@dataclass(frozen=True, slots=True)
class Command:
    """`path` is exec'd with `argv` and `env` in `cwd` (None: where guard is). `fallback` runs a file without `#!`."""

    path: str
    argv: list[str]
    env: dict[str, str]
    cwd: str | None
    fallback: list[str]


def command(script: Script, key: int) -> Command:
    """What runs the script, by DESIGN 5: the file itself, else by its ending, else a program on PATH. Raises CannotRun."""
    env = _environment(script, key)
    word = script.argv[0]
    here = os.path.abspath(word) if script.cwd else word
    if script.cwd and not os.path.isdir(script.cwd):
        raise CannotRun(f"cwd={script.cwd}: no such folder; make it, or correct the line")
    if os.path.isfile(word):
        path = here if "/" in here else f"./{here}"
        interpreter = _interpreter(word, env["PATH"])
        if os.access(word, os.X_OK):
            return Command(path, list(script.argv), env, script.cwd, [*(interpreter or ["/bin/sh"]), path, *script.argv[1:]])
        if interpreter is None:
            raise CannotRun(f"{word}: is not executable; chmod +x it, or write its interpreter in front")
        return Command(interpreter[0], [*interpreter, here, *script.argv[1:]], env, script.cwd, [])
    if "/" in word:
        raise CannotRun(f"{word}: no such file; put it there, or correct the line")
    program = which(word, env["PATH"])
    if program is None:
        raise CannotRun(f"{word}: neither a file here nor a program on PATH; correct the line, or set PATH= in front")
    return Command(program, list(script.argv), env, script.cwd, [])


def which(word: str, path: str) -> str | None:
    """A program on a PATH."""
    for folder in path.split(":"):
        full = os.path.join(folder or ".", word)
        if os.path.isfile(full) and os.access(full, os.X_OK):
            return full
    return None


def _interpreter(word: str, path: str) -> list[str] | None:
    program = BY_ENDING.get(os.path.splitext(word)[1])
    if program is None:
        return None
    found = program if "/" in program else which(program, path)
    if found is None:
        raise CannotRun(f"{word}: {program} is not on PATH; install it, or set PATH= in front")
    return [found]


_base: dict[str, str] = {}


def _environment(script: Script, key: int) -> dict[str, str]:
    """Built from nothing, so that a start by cron and one by hand are equal."""
    if not _base:
        own = os.path.dirname(os.path.abspath(sys.argv[0]))
        try:
            user = pwd.getpwuid(os.getuid())
            _base.update(HOME=user.pw_dir, USER=user.pw_name, LOGNAME=user.pw_name, SHELL=user.pw_shell or "/bin/sh")
        except KeyError:  # a uid without an entry in passwd, as in many containers
            _base.update(HOME="/", USER=str(os.getuid()), LOGNAME=str(os.getuid()), SHELL="/bin/sh")
        _base.update(PATH=f"{STANDARD_PATH}:{own}", LANG="C.UTF-8")
    from_file = _env_file(script.env_file) if script.env_file else {}
    return {**_base, **from_file, **dict(script.env), "GUARD_NAME": script.name, "GUARD_KEY": f"{key:#010x}"}


def _env_file(path: str) -> dict[str, str]:
    """NAME=value lines, `#` comments, values with or without quotes. Read at each start. Raises CannotRun."""
    try:
        with open(path, encoding="utf-8") as file:
            lines = file.read().splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise CannotRun(f"env={path}: {getattr(error, 'strerror', None) or 'is not UTF-8'}") from None
    found: dict[str, str] = {}
    for number, line in enumerate(lines, 1):
        name, equals, value = line.strip().removeprefix("export ").partition("=")
        if not name or name.startswith("#"):
            continue
        if not equals or "\0" in line or not name.replace("_", "a").isalnum():
            raise CannotRun(f"env={path}: line {number} is no NAME=value")
        quoted = len(value) > 1 and value[0] == value[-1] and value[0] in "'\""
        found[name] = value[1:-1] if quoted else value
    return found
