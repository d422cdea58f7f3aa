"""PURE: the text of List.txt -> the scripts it lists, and the mistakes it holds, each with its line number.

Nothing here looks at the world: whether a file exists is found out when it is to run.
"""

from __future__ import annotations

import shlex
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

LINE_LIMIT_BYTES = 100_000  # the kernel takes 128 KiB for one word of a command line (execve(2), MAX_ARG_STRLEN)
COPIES_LIMIT = 1000
SIGNALS = {"HUP": 1, "INT": 2, "QUIT": 3, "KILL": 9, "USR1": 10, "USR2": 12, "ALRM": 14, "TERM": 15, "CONT": 18, "WINCH": 28}
LATER = (
    "memory",
    "hang",
    "watch",
    "every",
    "user",
    "group",
    "nice",
    "umask",
    "nofile",
    "cpu",
    "limit",
    "log",
    "logsize",
    "logkeep",
    "on",
)
OWN_LINE_ONLY = ("name", "key", "copies", "after")
INTERPRETERS = ("bash", "dash", "env", "java", "ksh", "lua", "node", "nodejs", "perl", "php", "python", "ruby", "sh", "zsh")
_UNITS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}


@dataclass(frozen=True, slots=True)
class Script:
    """What a line says. Durations in seconds; paths as written, relative to List.txt's folder."""

    name: str
    argv: tuple[str, ...]
    base: str = ""  # the name without `#2`; what `after=` and commands mean by it
    line: int = 0
    copy: int = 1
    env: tuple[tuple[str, str], ...] = ()
    cwd: str | None = None
    env_file: str | None = None
    key: int | None = None
    retry_min_s: float = 1.0
    retry_max_s: float = 30.0
    stable_s: float = 60.0
    stop_s: float = 10.0
    signal: int = 15
    after: str | None = None

    @property
    def seen(self) -> tuple[object, ...]:
        """What the process sees of its line: only a change in this restarts it."""
        return (self.argv, tuple(sorted(self.env)), self.cwd, self.env_file, self.key, self.copy)

    @property
    def file(self) -> str:
        """The name that the command alone would give: which file it runs."""
        return name_of(self.argv)


@dataclass(frozen=True, slots=True)
class Mistake:
    """`word` may be empty; `text` says what is wrong and `remedy` what to do."""

    line: int
    word: str
    text: str
    remedy: str

    def __str__(self) -> str:
        word = f"{self.word}: " if self.word else ""
        return f"{self.line}: {word}{self.text}; {self.remedy}"


@dataclass(frozen=True, slots=True)
class Listing:
    """What a List.txt holds: scripts in the order of the file, and its mistakes."""

    scripts: tuple[Script, ...] = ()
    mistakes: tuple[Mistake, ...] = ()


@dataclass(frozen=True, slots=True)
class _Settings:
    env: tuple[tuple[str, str], ...] = ()
    options: tuple[tuple[str, object], ...] = ()


@dataclass(slots=True)
class _Draft:
    settings: _Settings = field(default_factory=_Settings)
    scripts: dict[str, Script] = field(default_factory=dict)
    mistakes: list[Mistake] = field(default_factory=list)


class _Wrong(Exception):
    def __init__(self, word: str, text: str, remedy: str) -> None:
        self.word, self.text, self.remedy = word, text, remedy


def parse(text: bytes, running: Mapping[str, Script] | None = None) -> Listing:
    """Reads a whole List.txt. Of two lines with one name the one that is `running` keeps it, else the first."""
    draft = _Draft()
    for number, raw in enumerate(text.removeprefix(b"\xef\xbb\xbf").split(b"\n"), 1):
        try:
            _read_line(draft, number, raw.removesuffix(b"\r"), running or {})
        except _Wrong as wrong:
            draft.mistakes.append(Mistake(number, wrong.word[:60], wrong.text, wrong.remedy))
    _check_after(draft)
    return Listing(tuple(draft.scripts.values()), tuple(sorted(draft.mistakes, key=lambda mistake: mistake.line)))


def name_of(argv: tuple[str, ...]) -> str:
    """The first word that is neither interpreter nor its option, its path normalised, by text alone."""
    words = iter(argv)
    for word in words:
        program = word.rpartition("/")[2].rstrip("0123456789.")
        if program not in INTERPRETERS and not word.startswith("-") and not (argv[0].endswith("env") and "=" in word):
            return _normal(word)
    return _normal(argv[0])


def duration_s(text: str) -> float:
    """`500ms`, `5s`, `10m`, `1h`, `2d`, or a number of seconds. Raises ValueError."""
    number = text.rstrip("abcdefghijklmnopqrstuvwxyz")
    seconds = float(number) * _UNITS.get(text[len(number) :] or "s", float("nan"))
    if not 0 <= seconds <= 10 * 365 * 86400:  # also refuses nan
        raise ValueError(text)
    return seconds


def _read_line(draft: _Draft, number: int, raw: bytes, running: Mapping[str, Script]) -> None:
    line = _text(raw).strip()
    if not line or line.startswith("#"):
        return None
    env: list[tuple[str, str]] = []
    options: dict[str, object] = {}
    words = _words(line)
    while words and (setting := _setting(words[0])):
        name, value = setting
        if name[0].islower():
            if name in options:
                raise _Wrong(words[0], "is set twice on this line", "keep one of them")
            options[name] = _option(name, value)
        else:
            env.append((name, value))
        del words[0]
    if not words:
        return _keep_settings(draft, env, options)
    _add_scripts(draft, number, tuple(words), tuple(dict((*draft.settings.env, *env)).items()), options, running)
    return None


def _text(raw: bytes) -> str:
    if len(raw) > LINE_LIMIT_BYTES:
        raise _Wrong("", f"the line has {len(raw)} bytes", f"a line may have {LINE_LIMIT_BYTES}: put the command into a script")
    if b"\0" in raw:
        raise _Wrong("", "the line holds a NUL byte", "is this a text file? remove the byte")
    try:
        return raw.decode()
    except UnicodeDecodeError as error:
        word = raw[max(0, error.start - 10) : error.start + 10].decode("latin-1")
        raise _Wrong(word, "is not UTF-8", "save the file as UTF-8") from None


def _words(line: str) -> list[str]:
    try:
        quoted = any(mark in line for mark in "'\"\\")
        words = shlex.split(line) if quoted else line.split()
        if "#" in words and (not quoted or "#" in shlex.split(line, posix=False)):  # posix=False keeps the quotes of '#'
            raise _Wrong("#", "a comment behind a command would be handed to it", "give the comment a line of its own")
    except ValueError as error:
        raise _Wrong("", str(error).lower(), "close the quotation, or put a backslash before a quote that is meant") from None
    return words


def _setting(word: str) -> tuple[str, str] | None:
    name, equals, value = word.partition("=")
    plain = name.isascii() and name.replace("_", "a").isalnum() and not name[0].isdigit()
    return (name, value) if equals and plain and (name.isupper() or name.islower() or not name.strip("_")) else None


def _keep_settings(draft: _Draft, env: list[tuple[str, str]], options: dict[str, object]) -> None:
    for name in OWN_LINE_ONLY:
        if name in options:
            raise _Wrong(f"{name}=", "belongs to one command", "write it in front of that command")
    draft.settings = _Settings(
        tuple(dict((*draft.settings.env, *env)).items()), tuple(dict((*draft.settings.options, *options.items())).items())
    )


def _add_scripts(
    draft: _Draft,
    number: int,
    argv: tuple[str, ...],
    env: tuple[tuple[str, str], ...],
    options: dict[str, object],
    running: Mapping[str, Script],
) -> None:
    merged = dict((*draft.settings.options, *options.items()))
    copies = merged.pop("copies", 1)
    base = str(merged.pop("name", "") or name_of(argv))
    if not base or base.startswith("-") or not base.isprintable():
        raise _Wrong(base, "can't be a script's name", "give it one with name=")
    if copies != 1 and "key" in merged:
        raise _Wrong("key=", "one key can't serve several copies", "leave key= out, or write the copies as lines of their own")
    first = Script(name=base, argv=argv, base=base, line=number, env=env, **_fields(merged))
    new = [replace(first, name=f"{base}#{n}", copy=n) if n > 1 else first for n in range(1, int(str(copies)) + 1)]
    taken = {draft.scripts[script.name].line: script.name for script in new if script.name in draft.scripts}
    keeps = [script for script in new if (known := running.get(script.name)) and known.seen == script.seen]
    others = [script for script in draft.scripts.values() if script.line in taken]
    if taken and keeps and not any((known := running.get(other.name)) and known.seen == other.seen for other in others):
        for line, name in taken.items():
            draft.mistakes.append(_taken(line, name, number))
        draft.scripts = {name: script for name, script in draft.scripts.items() if script.line not in taken}
    elif taken:
        line, name = next(iter(taken.items()))
        draft.mistakes.append(_taken(number, name, line))
        return
    draft.scripts.update({script.name: script for script in new})


def _taken(line: int, name: str, other: int) -> Mistake:
    return Mistake(line, name, f"line {other} has this name already", "give this one another with name=")


def _fields(options: Mapping[str, object]) -> dict[str, Any]:
    """Options as the fields of Script that they set."""
    fields: dict[str, Any] = {_OPTIONS[name][0]: value for name, value in options.items()}
    if "retry" in fields:
        fields["retry_min_s"], fields["retry_max_s"] = fields.pop("retry")
    return fields


def _check_after(draft: _Draft) -> None:
    """A line whose `after=` leads to no line that is taken, or back to itself, is a mistake and not taken."""
    wants = {script.base: script for script in draft.scripts.values() if script.copy == 1}
    bad: dict[str, Mistake] = {}
    for base, script in wants.items():
        trail, seen = script.after, [base]
        while trail is not None and trail in wants and trail not in seen:
            seen.append(trail)
            trail = wants[trail].after
        if trail is None:
            continue
        if trail == base:
            text, remedy = "waits for itself: " + " after ".join((*seen, base)), "take one of these after= out"
        elif trail == script.after:
            text, remedy = "no line has this name", "use a name that `guard status` shows"
        else:
            text, remedy = f"that line has a mistake (after={trail})", "correct that one"
        bad[base] = Mistake(script.line, f"after={script.after}", text, remedy)
    draft.mistakes += bad.values()
    draft.scripts = {name: script for name, script in draft.scripts.items() if script.base not in bad}


def _option(name: str, value: str) -> object:
    """The value of an option as Script wants it. Raises _Wrong."""
    if name in LATER:
        raise _Wrong(f"{name}=", "is not yet known in this version", "take it out until a later version knows it")
    if name not in _OPTIONS:
        remedy = "environment variables in lower case go into a file: env=FILE" if value else "known are " + " ".join(_OPTIONS)
        raise _Wrong(f"{name}=", "is no option", remedy)
    _, convert, form = _OPTIONS[name]
    try:
        return convert(value)
    except (ValueError, KeyError):
        raise _Wrong(f"{name}={value}", "is not understood", f"write {form}") from None


def _retry_range(text: str) -> tuple[float, float]:
    low, dots, high = text.partition("..")
    pair = duration_s(low), duration_s(high if dots else low)
    if pair[0] > pair[1]:
        raise ValueError(text)
    return pair


def _count(text: str) -> int:
    if not 1 <= int(text) <= COPIES_LIMIT:
        raise ValueError(text)
    return int(text)


def _key(text: str) -> int:
    if not 0 < int(text, 0) < 1 << 32:
        raise ValueError(text)
    return int(text, 0)


def _some(text: str) -> str:
    if not text.isprintable() or not text.strip():
        raise ValueError(text)
    return text


def _normal(path: str) -> str:
    parts: list[str] = []
    for part in path.split("/"):
        if part == ".." and parts and parts[-1] != "..":
            parts.pop()
        elif part not in ("", "."):
            parts.append(part)
    return ("/" if path.startswith("/") else "") + "/".join(parts) or path


_OPTIONS: dict[str, tuple[str, Callable[[str], object], str]] = {
    "name": ("name", _some, "a name, as name=importer"),
    "retry": ("retry", _retry_range, "a pause or a range, as retry=5s or retry=1s..10m"),
    "stable": ("stable_s", duration_s, "a time, as stable=60s"),
    "stop": ("stop_s", duration_s, "a time, as stop=10s"),
    "signal": ("signal", lambda text: SIGNALS[text.upper().removeprefix("SIG")], "one of " + " ".join(SIGNALS)),
    "copies": ("copies", _count, f"a number from 1 to {COPIES_LIMIT}"),
    "after": ("after", _some, "the name of another line"),
    "key": ("key", _key, "a semaphore key, as key=0x5eed0001 or key=342345"),
    "cwd": ("cwd", _some, "a folder"),
    "env": ("env_file", _some, "a file of NAME=value lines"),
}
