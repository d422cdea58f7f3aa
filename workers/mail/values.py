"""PURE: how single values are written in mail.toml: durations, sizes, rates, names, ${NAME}.

Each reader raises ValueError with what is allowed, worded to stand behind "needs".
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from typing import Any

DURATION_UNITS_S = {"s": 1, "m": 60, "h": 3600, "d": 86400, "w": 604800}
SIZE_UNITS_BYTES = {"K": 1024, "M": 1024**2, "G": 1024**3}
RATE_UNITS_S = {"s": 1, "m": 60, "h": 3600}
MOST_DIGITS = 15  # what a float holds exactly, and far from infinity
SHA256_DIGITS = 64
BARE = frozenset("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789_-")
COMPONENT = BARE | frozenset(".+@")
MOST_NAME_SIGNS = 100  # a file name may have 255 octets


def duration_s(text: str) -> float:
    """`"90s"`, `"4h"`, `"5d"` as seconds. Raises ValueError that says what is allowed."""
    number, unit = text[:-1], text[-1:]
    if unit not in DURATION_UNITS_S or not _is_number(number) or float(number) <= 0:
        raise ValueError('a duration above zero such as "90s", "30m", "4h" or "5d"')
    return float(number) * DURATION_UNITS_S[unit]


def duration_or_never_s(text: str) -> float | None:
    """A duration in seconds; `"never"` is None. Raises ValueError that says what is allowed."""
    try:
        return None if text == "never" else duration_s(text)
    except ValueError as error:
        raise ValueError(f'{error}, or "never"') from None


def size_bytes(text: str) -> int:
    """`"500K"`, `"50M"`, `"1G"` or a plain number of bytes. Raises ValueError that says what is allowed."""
    number, factor = (text[:-1], SIZE_UNITS_BYTES[text[-1]]) if text[-1:] in SIZE_UNITS_BYTES else (text, 1)
    if not _is_number(number) or float(number) * factor < 1:
        raise ValueError('a size above zero such as "500K", "50M" or "1G"')
    return int(float(number) * factor)


def rate_per_s(text: str) -> float | None:
    """`"10/s"`, `"600/m"`, `"5000/h"` as mails per second; `"none"` is None. Raises ValueError that says what is allowed."""
    if text == "none":
        return None
    number, _, unit = text.partition("/")
    if unit not in RATE_UNITS_S or not _is_number(number) or float(number) <= 0:
        raise ValueError('a number of mails above zero in a time such as "10/s", "600/m" or "5000/h", or "none"')
    return float(number) / RATE_UNITS_S[unit]


def fingerprint(text: str) -> str:
    """The lower-case hex digits of `"sha256:AA:BB…"`, as openssl writes it, or without the inner colons. Raises ValueError."""
    kind, _, digits = text.lower().partition(":")
    if ":" in digits:
        pairs = digits.split(":")
        digits = "".join(pairs) if all(len(pair) == 2 for pair in pairs) else ""
    if kind != "sha256" or len(digits) != SHA256_DIGITS or not set("0123456789abcdef").issuperset(digits):
        raise ValueError(f'"sha256:" and {SHA256_DIGITS} hex digits, colons between the pairs or not')
    return digits


def line(text: str) -> str:
    """One line that is not empty, such as a command or a path. Raises ValueError."""
    if not text or any(sign in text for sign in "\r\n\0"):
        raise ValueError("one line of text")
    return text


def words(text: str) -> str:
    """One line that may stand in a header field or a login: no control characters, valid UTF-8. Raises ValueError."""
    if not text or any(sign < " " or "\x7f" <= sign <= "\x9f" or "\ud800" <= sign <= "\udfff" for sign in text):
        raise ValueError("one line of text without control characters")
    return text


def host(example: str) -> Callable[[str], str]:
    """A reader of names and IP addresses of hosts."""

    def read(text: str) -> str:
        if not text or not text.isascii() or not text.isprintable() or any(sign in text for sign in " /@"):
            raise ValueError(f'the name or address of a host such as "{example}"')
        name, _, port = text.rpartition(":")
        if port.isdigit() and (":" not in name or name.endswith("]")):  # with more colons it is an IPv6 address
            raise ValueError(f"the host alone: the port has a key of its own: port = {port}")
        return text

    return read


def selector(text: str) -> str:
    """A DKIM selector: labels with dots between them (RFC 6376 3.1). Raises ValueError."""
    if not all(label and BARE.issuperset(label) for label in text.split(".")):
        raise ValueError('the selector under which the public key stands in DNS, such as "mail2024"')
    return text


def component(text: str) -> str:
    """A name that is one safe part of a path: letters, digits and . _ - + @, no dot in front. Raises ValueError."""
    if not COMPONENT.issuperset(text) or not text or text[0] == "." or len(text) > MOST_NAME_SIGNS:
        raise ValueError(f"up to {MOST_NAME_SIGNS} letters (a to z), digits or . _ - + @, and no dot in front")
    return text


def time_of_day(text: str) -> int:
    """`"20:00"` as minutes since midnight. Raises ValueError."""
    hours, _, minutes = text.partition(":")
    if (
        len(text) != 5
        or len(hours) != 2
        or not text.isascii()
        or not (hours + minutes).isdigit()
        or hours > "23"
        or minutes > "59"
    ):
        raise ValueError('a time of day from "00:00" to "23:59"')
    return int(hours) * 60 + int(minutes)


def choice(*allowed: str) -> Callable[[str], str]:
    """A reader that lets one of `allowed` pass."""

    def read(text: str) -> str:
        if text not in allowed:
            quoted = [f'"{word}"' for word in allowed]
            raise ValueError(f"{', '.join(quoted[:-1])} or {quoted[-1]}")
        return text

    return read


def whole(least: int, most: int | None) -> Callable[[int], int]:
    """A reader of whole numbers from `least` to `most`; None: without an upper end."""

    def read(number: int) -> int:
        if number < least or (most is not None and number > most):
            raise ValueError(f"a number from {least} {'up' if most is None else f'to {most}'}")
        return number

    return read


def dotted(section: str, key: str) -> str:
    """The name of a key as mistakes tell it and TOML writes it: `relay.port`, `routes."example.net".port`."""
    if not key or not BARE.issuperset(key):
        inner = key.replace("\\", "\\\\").replace('"', '\\"')
        signs = [sign if sign.isprintable() else "\\U" + format(ord(sign), "08x") for sign in inner]
        key = '"' + "".join(signs) + '"'
    return f"{section}.{key}" if section else key


def expand(text: str, environment: Mapping[str, str], names: set[str]) -> str:
    """`text` with each ${NAME} replaced; the names met are added to `names`. Raises ValueError for one not set."""
    done = ""
    rest = text
    while (start := rest.find("${")) >= 0:
        end = rest.find("}", start)
        if end < 0:
            raise ValueError("a closing } after ${")
        name = rest[start + 2 : end]
        if name not in environment:
            raise ValueError(f"a variable of the environment that is set: {name} is not")
        names.add(name)
        done += rest[:start] + environment[name]
        rest = rest[end + 1 :]
    return done + rest


def expand_all(key: str, value: Any, environment: Mapping[str, str], names: set[str]) -> Any:
    """A parsed table with `expand` done to each text in it. Raises ValueError that starts with the key."""
    if isinstance(value, dict):
        return {name: expand_all(dotted(key, name), inner, environment, names) for name, inner in value.items()}
    if isinstance(value, list):
        keys = (f"{key}[{number}]" if isinstance(item, dict) else key for number, item in enumerate(value, 1))
        return [expand_all(name, item, environment, names) for name, item in zip(keys, value, strict=True)]
    if not isinstance(value, str):
        return value
    try:
        return expand(value, environment, names)
    except ValueError as error:
        raise ValueError(f"{key}: needs {error}") from None


def _is_number(text: str) -> bool:
    whole_part, _, fraction = text.partition(".")
    digits = whole_part + fraction
    return bool(whole_part) and len(digits) <= MOST_DIGITS and digits.isascii() and digits.isdigit()
