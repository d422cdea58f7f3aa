"""The fast reader of plain TOML never differs from tomllib; where it is not sure, it says so."""

from __future__ import annotations

import tomllib
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from workers.mail.plain_toml import parse

WORDS = [
    "[a]",
    "[b.c]",
    '[b."c"]',
    '["x", "y"]',
    "[a] # x",
    "k",
    "k2",
    "x",
    '"text"',
    "'x'",
    "12",
    "012",
    "0",
    "-1",
    "1_0",
    "1.5",
    "true",
    "# note",
]
SIGNS = [
    "=",
    " = ",
    '"',
    '""',
    "\n",
    "\r\n",
    "\r",
    "\t",
    " ",
    "#",
    "[",
    "]",
    "[1]",
    "\\",
    "ä",
    "\x00",
    "\x85",
    "\u2028",
    "{}",
    ".",
]
PIECES = st.sampled_from([*WORDS, *SIGNS, "\n", "\n"])


def by_tomllib(text: str) -> dict[str, Any] | None:
    try:
        return tomllib.loads(text)
    except tomllib.TOMLDecodeError:
        return None


@given(st.lists(PIECES, max_size=25).map("".join))
@settings(max_examples=1000)
def test_what_it_reads_means_the_same_to_tomllib(text: str) -> None:
    table = parse(text)
    if table is not None:
        assert table == by_tomllib(text)


LINES = st.sampled_from(
    [
        "[a]",
        "[b] # x",
        'k = "v"',
        'k = "#v" # x',
        "j=12",
        "k = 0",
        "l = true",
        "l = false#x",
        "",
        "# note",
        '\tm\t=\t"ä"\t',
        'k = ""',
        'l = ["v", "#]"] # x',
        "n = [ ]",
        'n=[ "v" , ]#x',
    ]
)


@given(st.lists(LINES, max_size=12).map("\n".join))
def test_plain_lines_are_read_or_refused_exactly_as_tomllib_does(text: str) -> None:
    assert parse(text) == by_tomllib(text)


@given(st.lists(st.sampled_from(['[r."a.b"]', '[r."ä"] # x', '[s."a.b"]', "[t]", 'k = "v"', "j = 1"]), max_size=6).map("\n".join))
def test_sections_with_a_quoted_name_are_read_or_refused_exactly_as_tomllib_does(text: str) -> None:
    assert parse(text) == by_tomllib(text)


REPEATED = st.sampled_from(["[[r.a]]", "[[r.b]] # x", "[r]", "[s]", "[[s.a]]", 'a = "v"', "j = 1", 'b = ["x"]', "b = []"])


@given(st.lists(REPEATED, max_size=7).map("\n".join))
def test_repeated_sections_mean_the_same_to_tomllib(text: str) -> None:
    table = parse(text)
    if table is not None:
        assert table == by_tomllib(text)


def test_accounts_are_read_without_tomllib() -> None:
    text = '[imap]\nthreads = 3\n[[imap.accounts]]\nname = "a"\n[[imap.accounts]] # second\nname = "b"\n[relay]\nhost = "h"\n'
    assert (
        parse(text)
        == by_tomllib(text)
        == {
            "imap": {"threads": 3, "accounts": [{"name": "a"}, {"name": "b"}]},
            "relay": {"host": "h"},
        }
    )


@pytest.mark.parametrize("text", ['r = 1\n[r."a"]', '[r]\na = 1\n[r."a"]', '[r."a"]\n[r."a"]'])
def test_a_quoted_name_that_is_taken_is_refused_by_both(text: str) -> None:
    assert parse(text) is None
    assert by_tomllib(text) is None


@pytest.mark.parametrize(
    "text",
    [
        "k = [",
        'k = ["a"',
        'k = ["a" "b"]',
        "k = [,]",
        'k = ["a",,]',
        'k = ["a", 1]',
        "k = ['a']",
        'k = ["\\n"]',
        'k = ["a"] x',
        'k = [["a"]]',
        'k = ["""a"""]',
        '[a."b]"]',
        '[a."b\\n"]',
        '[a . "b"]',
        '[a."b"."c"]',
        '[a.""]',
        '["a"]',
        'k = "\\n"',
        "k = 'x'",
        "k = [1]",
        'k = """x"""',
        "a.b = 1",
        '"a" = 1',
        "[a.b]",
        "[[a]]",
        '[[a."b"]]',
        "k = 1.5",
        "k = 010",
        "k = 1 2",
        "k",
        "k =",
    ],
)
def test_what_is_not_plain_is_left_to_tomllib(text: str) -> None:
    assert parse(text) is None
