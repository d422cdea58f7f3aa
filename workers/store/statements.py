"""PURE: SQL files with named statements: `-- name: claim` begins one, the next name or the end of file ends it."""

from __future__ import annotations


def parse(text: str) -> dict[str, str]:
    """The statements of a file by name, each without the semicolon at its end."""
    found = {}
    for part in text.split("-- name: ")[1:]:
        name, _, statement = part.partition("\n")
        found[name.strip()] = statement.strip().removesuffix(";")
    return found
