"""PURE: how durations, sizes and ${NAME} are written in mail.toml."""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping

DURATION_UNITS_S = {"s": 1, "m": 60, "h": 3600, "d": 86400, "w": 604800}
SIZE_UNITS_BYTES = {"K": 1024, "M": 1024**2, "G": 1024**3}


def duration_s(text: str) -> float:
    """`"90s"`, `"4h"`, `"5d"` as seconds. Raises ValueError that says what is allowed."""
    number, unit = text[:-1], text[-1:]
    if unit not in DURATION_UNITS_S or not _is_number(number) or float(number) <= 0:
        raise ValueError('a duration above zero such as "90s", "30m", "4h" or "5d"')
    return float(number) * DURATION_UNITS_S[unit]


def size_bytes(text: str) -> int:
    """`"500K"`, `"50M"`, `"1G"` or a plain number of bytes. Raises ValueError that says what is allowed."""
    number, factor = (text[:-1], SIZE_UNITS_BYTES[text[-1]]) if text[-1:] in SIZE_UNITS_BYTES else (text, 1)
    if not _is_number(number) or float(number) <= 0:
        raise ValueError('a size above zero such as "500K", "50M" or "1G"')
    return int(float(number) * factor)


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


def _is_number(text: str) -> bool:
    whole, _, fraction = text.partition(".")
    return whole.isascii() and whole.isdigit() and (not fraction or (fraction.isascii() and fraction.isdigit()))
