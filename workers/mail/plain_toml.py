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
    """The table of a text made of plain lines; None when any line is not sure to be one.

    They are `[section]`, `[section."name"]`, `[[section.name]]`, `key = "text"`, `key = ["text", "text"]`, `key = 12`,
    `key = true`, comments.
    """
    table: dict[str, Any] = {}
    section = table
    for line in (raw.strip(" \t") for raw in text.replace("\r\n", "\n").split("\n")):
        if not line.replace("\t", " ").isprintable():
            return None
        if not line or line[0] == "#":
            continue
        if line[0] == "[":
            opened = _repeated(table, line) if line[:2] == "[[" else _section(table, line)
            if opened is None:
                return None
            section = opened
            continue
        key, equals, rest = line.partition("=")
        key = key.rstrip(" \t")
        value = _value(rest.lstrip(" \t"))
        if not equals or not _is_key(key) or key in section or value is None:
            return None
        section[key] = value
    return table


def _section(table: dict[str, Any], line: str) -> dict[str, Any] | None:
    """The new, empty table that a line `[section]` or `[section."name"]` opens in `table`."""
    head, closing, rest = line[1:].partition("]")
    name, dot, quoted = head.partition(".")
    if not closing or not _is_key(name) or not _is_over(rest):
        return None
    if dot:
        if len(quoted) < 3 or quoted[0] != '"' or quoted[-1] != '"' or '"' in quoted[1:-1] or "\\" in quoted:
            return None
        table = table.setdefault(name, {})
        name = quoted[1:-1]
    if not isinstance(table, dict) or name in table:
        return None
    opened = table[name] = {}
    return opened


def _repeated(table: dict[str, Any], line: str) -> dict[str, Any] | None:
    """The new table that a line `[[section.name]]` adds to the list of that name."""
    head, closing, rest = line[2:].partition("]]")
    section, dot, name = head.partition(".")
    if not closing or not dot or not _is_key(section) or not _is_key(name) or not _is_over(rest):
        return None
    above = table.setdefault(section, {})
    if not isinstance(above, dict):
        return None
    tables = above.get(name)
    if tables is None:
        tables = above[name] = []
    elif not isinstance(tables, list) or not tables or not isinstance(tables[0], dict):
        return None  # a list that was written as a value can't be added to
    opened: dict[str, Any] = {}
    tables.append(opened)
    return opened


def _value(text: str) -> str | list[str] | int | bool | None:
    if text[:1] == '"':
        value, rest = _text(text)
        return value if _is_over(rest) else None
    if text[:1] == "[":
        return _texts(text)
    word, _, _ = text.partition("#")
    word = word.rstrip(" \t")
    if word in ("true", "false"):
        return word == "true"
    if word.isascii() and word.isdigit() and len(word) <= MOST_DIGITS and (word[0] != "0" or word == "0"):
        return int(word)
    return None


def _text(text: str) -> tuple[str | None, str]:
    """What stands between the quotes at the start of `text`, None when that is not plain; and the rest behind them."""
    value, closing, rest = text[1:].partition('"')
    if text[:1] != '"' or not closing or "\\" in value or (not value and rest[:1] == '"'):
        return None, ""
    return value, rest.lstrip(" \t")


def _texts(text: str) -> list[str] | None:
    """The texts of a list that ends on its line."""
    found: list[str] = []
    rest = text[1:].lstrip(" \t")
    while rest[:1] != "]":
        value, rest = _text(rest)
        if value is None or rest[:1] not in (",", "]"):
            return None
        found.append(value)
        if rest[0] == ",":
            rest = rest[1:].lstrip(" \t")
    return found if _is_over(rest[1:]) else None


def _is_key(name: str) -> bool:
    return bool(name) and KEY.issuperset(name)


def _is_over(rest: str) -> bool:
    rest = rest.lstrip(" \t")
    return not rest or rest[0] == "#"
