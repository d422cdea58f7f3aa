"""The command line: which words each command takes, and its help. By hand, since argparse costs each start 6 ms."""

from __future__ import annotations

from guard import __version__

USAGE = 64

COMMON = {
    "--list": ("FILE", "the list of scripts (default: $GUARD_LIST, else ./List.txt)"),
    "--state": ("DIR", "the state folder (default: .guard beside the list)"),
}
RUN = {
    "--key": ("N", "semaphore key of guard itself, to exclude another guard that uses it"),
    "--no-standby": ("", "no second process that takes over at once (under systemd)"),
    "--as-root": ("", "as root in another user's folder: stay root"),
}
WAIT = {"--timeout": ("TIME", "how long to wait until it is so (default: 60s)")}
COMMANDS = {
    "": ("[OPTION…]", "run here, in the foreground, until told to end; does nothing when it runs already", {**COMMON, **RUN}),
    "status": (
        "[NAME…]",
        "what runs; exit status 0 all up, 1 some not up, 3 guard is not running",
        {**COMMON, "--json": ("", "for programs"), "--key": RUN["--key"]},
    ),
    "start": ("[NAME…]", "end a stop: of all of it, or of these scripts", {**COMMON, **RUN, **WAIT}),
    "stop": ("[NAME…]", "stop all of it, or these scripts; it stays so over cron and reboot", {**COMMON, **RUN, **WAIT}),
    "restart": ("[NAME…]", "end and start all scripts, or these", {**COMMON, **RUN, **WAIT}),
    "reload": ("", "read List.txt now (a saved edit is seen without this)", {**COMMON, **WAIT, "--key": RUN["--key"]}),
    "check": ("[FILE]", "look for mistakes in List.txt; exit status 1 if there are any", COMMON),
    "plan": ("[FILE]", "what saving this file as List.txt would start, stop and restart", COMMON),
    "init": ("", "write a first List.txt here, with everything explained in it", COMMON),
}
ONE_FILE = ("check", "plan")
NO_WORDS = ("", "reload", "init")


class Misuse(Exception):
    """The command line can't be understood; the text says what to do."""


class Help(Exception):
    """Help or version was asked for; the text is it."""


class Options:
    """A command, its names or file, and its options by name ("" for those without a value)."""

    __slots__ = ("command", "given", "words")

    def __init__(self, command: str) -> None:
        self.command = command
        self.words: list[str] = []
        self.given: dict[str, str] = {}

    def has(self, option: str) -> bool:
        return option in self.given

    def number(self, option: str) -> int | None:
        """A key as a number. Raises Misuse."""
        text = self.given.get(option)
        if text is None:
            return None
        try:
            number = int(text, 0)
        except ValueError:
            number = 0
        if not 0 < number < 1 << 32:
            raise Misuse(f"{option} {text}: not a semaphore key; write one as 342345 or 0x53949")
        return number


def parse(arguments: list[str]) -> Options:
    """Raises Misuse, Help."""
    rest = list(arguments)
    command = rest.pop(0) if rest and rest[0] in COMMANDS and rest[0] else ""
    options = Options(command)
    while rest:
        word = rest.pop(0)
        name, equals, value = word.partition("=")
        if word in ("-h", "--help"):
            raise Help(_help(command))
        if word in ("-V", "--version"):
            raise Help(f"semguard {__version__}")
        if not word.startswith("-"):
            if command in NO_WORDS or (command in ONE_FILE and options.words):
                if not command and word in COMMANDS:
                    raise Misuse(f"{word}: a command stands first: guard {word} {' '.join(w for w in arguments if w != word)}")
                raise Misuse(_unknown(command, word))
            options.words.append(word)
            continue
        known = COMMANDS[command][2].get(name)
        if known is None:
            own = f"guard {command}".rstrip()
            raise Misuse(f"{name}: not an option of `{own}`; `{own} --help` lists them")
        if known[0] and not equals:
            if not rest:
                raise Misuse(f"{name} needs a value: {name} {known[0]}")
            value = rest.pop(0)
        elif equals and not known[0]:
            raise Misuse(f"{name} takes no value")
        options.given[name] = value
    return options


def _unknown(command: str, word: str) -> str:
    if command:
        return f"{word}: one word too many for `guard {command}`"
    close = [name for name in COMMANDS if name and (name.startswith(word[:3]) or word.startswith(name[:3]))]
    hint = f"did you mean `guard {close[0]}`?" if close else "commands are " + " ".join(name for name in COMMANDS if name)
    return f"{word}: no such command; {hint}"


def _help(command: str) -> str:
    words, about, options = COMMANDS[command]
    lines = [f"usage: guard{' ' * bool(command)}{command}{' [OPTION…]' if command else ''} {words}".rstrip(), "", about + "."]
    if not command:
        lines = ["usage: guard [COMMAND] [OPTION…]", ""]
        lines += [
            "Keeps every script of List.txt running, exactly once each, for ever. Start it from cron every five minutes:",
            "",
        ]
        lines += [
            "    */5 * * * *  cd /srv/app && .venv/bin/guard >> guard.log 2>&1",
            "",
            "Without a command: " + about + ".",
            "",
        ]
        lines += ["commands:"]
        lines += [f"  {name:<9} {text[0]:<9} {text[1]}" for name, text in COMMANDS.items() if name]
    lines += ["", "options:"]
    lines += [f"  {f'{name} {value[0]}'.strip():<16} {value[1]}" for name, value in options.items()]
    lines += ["  --help, --version"]
    if not command:
        lines += ["", "exit status: 0 stopped on request, 1 already running, 2 no semaphore to be had, 3 no usable List.txt,"]
        lines += ["  4 none of the scripts exists, 5 guard's own key is another program's, 6 state folder unusable, 64 usage"]
    return "\n".join(lines)
