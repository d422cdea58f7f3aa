"""PURE: the words behind a command: flags, options with a value, operands. sendmail's own are read in arguments.py."""

from __future__ import annotations

from workers.mail.errors import USAGE, Refused


class Words:
    """What stood on the command line. An option that may come more than once has all its values, in order."""

    def __init__(self) -> None:
        self.operands: list[str] = []
        self.flags: set[str] = set()
        self.values: dict[str, list[str]] = {}

    def one(self, option: str) -> str | None:
        """The last value of an option; None when it was not given."""
        found = self.values.get(option)
        return found[-1] if found else None


def read(words: list[str], *, flags: tuple[str, ...] = (), values: tuple[str, ...] = (), operands: str = "") -> Words:
    """Reads `--flag`, `--option VALUE`, `--option=VALUE` and operands, whose name in the usage is `operands`.

    `--config FILE` and `--help` are known to each command. Raises Refused(64) that names what is known.
    """
    found = Words()
    flags = (*flags, "--help")
    values = (*values, "--config")
    rest = list(words)
    while rest:
        word = rest.pop(0)
        name, equals, value = word.partition("=")
        if word in flags:
            found.flags.add(word)
        elif name in values and (equals or rest):
            found.values.setdefault(name, []).append(value if equals else rest.pop(0))
        elif word == "--" and operands:
            found.operands += rest
            break
        elif operands and not word.startswith("--"):
            found.operands.append(word)
        else:
            what = f"{word} needs a value" if name in values else f"unknown argument {word}"
            known = [operands] if operands else []
            known += [*(f"{name} VALUE" for name in values), *flags]
            raise Refused(USAGE, f"{what}; known are {', '.join(known)}")
    return found
