"""PURE: reads the plain TOML that most mail.toml are, because tomllib's import costs sendmail as much as its work.

Anything not surely understood gives None, and tomllib reads the text then; what is understood means the same in both.
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

KEY = frozenset("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789_-")
MOST_DIGITS = 9


def parse(text: str) -> dict[str, Any] | None:
    """The table of a text made of `[section]`, `key = "text"`, `key = 12`, `key = true` and comments; else None."""
    table: dict[str, Any] = {}
    section = table
    for line in (raw.strip(" \t") for raw in text.replace("\r\n", "\n").split("\n")):
        if not line.replace("\t", " ").isprintable():
            return None
        if not line or line[0] == "#":
            continue
        if line[0] == "[":
            name, closing, rest = line[1:].partition("]")
            if not closing or not _is_key(name) or name in table or not _is_over(rest):
                return None
            section = table[name] = {}
            continue
        key, equals, rest = line.partition("=")
        key = key.rstrip(" \t")
        value = _value(rest.lstrip(" \t"))
        if not equals or not _is_key(key) or key in section or value is None:
            return None
        section[key] = value
    return table


def _value(text: str) -> str | int | bool | None:
    if text[:1] == '"':
        value, closing, rest = text[1:].partition('"')
        if not closing or "\\" in value or not _is_over(rest) or (not value and rest[:1] == '"'):
            return None
        return value
    word, _, _ = text.partition("#")
    word = word.rstrip(" \t")
    if word in ("true", "false"):
        return word == "true"
    if word.isascii() and word.isdigit() and len(word) <= MOST_DIGITS and (word[0] != "0" or word == "0"):
        return int(word)
    return None


def _is_key(name: str) -> bool:
    return bool(name) and KEY.issuperset(name)


def _is_over(rest: str) -> bool:
    rest = rest.lstrip(" \t")
    return not rest or rest[0] == "#"
