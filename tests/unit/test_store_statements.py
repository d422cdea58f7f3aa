"""Named statements, and that SQLite understands each of those that are there."""

from __future__ import annotations

import os
import sqlite3
from pathlib import Path
from typing import Any

import pytest

from tests.unit.store_world import open_at
from workers.spool.accept import SCHEMA
from workers.store import sqlite
from workers.store.statements import parse

FILES = sorted(name[:-4] for name in os.listdir(SCHEMA.folder) if name.endswith(".sql") and not name[0].isdigit())


class AnyValue(dict[str, Any]):
    """Has a value for each name."""

    def __missing__(self, name: str) -> None:
        return None


def test_each_name_begins_a_statement_and_the_next_one_ends_it() -> None:
    text = "-- what it is for\n\n-- name: first\nSELECT 1;\n\n-- name: second\n-- why\nSELECT ';'\n    FROM t;\n"
    assert parse(text) == {"first": "SELECT 1", "second": "-- why\nSELECT ';'\n    FROM t"}


def test_spaces_behind_a_name_and_a_missing_semicolon_do_no_harm() -> None:
    assert parse("-- name: one  \nSELECT 1") == {"one": "SELECT 1"}


def test_what_stands_before_the_first_name_is_no_statement() -> None:
    assert parse("SELECT 1;\n") == {}


@pytest.mark.parametrize("file", [*FILES, "owner"])
def test_sqlite_understands_each_statement(file: str, tmp_path: Path) -> None:
    path = tmp_path / "spool.db"
    open_at(path).close()
    found = parse(sqlite._text(SCHEMA, file))
    assert found
    database = sqlite3.connect(path)
    for text in found.values():
        values: Any = (None,) * text.count("?") if "?" in text else AnyValue()
        assert database.execute(f"EXPLAIN {text}", values).fetchall()
    database.close()


def test_the_tables_of_leases_have_the_prefix_of_their_schema() -> None:
    assert "mail_owner" in parse(sqlite._text(SCHEMA, "owner"))["register"]
    assert "PREFIX_" not in sqlite._text(SCHEMA, "owner")
