"""Addresses of the envelope, and those in header fields."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from workers.mail.addresses import AddressError, check_address, expand_recipient, expand_recipients, split_addresses

ALIASES = {"root": ["ops@example.org", "boss@example.org"]}


@pytest.mark.parametrize(
    "text",
    [
        "a@b",
        "a.b+c@sub.example.org",
        "a..b@docomo.example",
        '"a b"@x.org',
        '"a\\"b"@x',
        "a@[192.0.2.1]",
        "a@[IPv6:::1]",
        "o'k/=?@x_y.z",
    ],
)
def test_good_addresses_stay_as_they_are(text: str) -> None:
    assert check_address(text) == text


@pytest.mark.parametrize(
    "text",
    [
        "a@b\r\nRCPT TO:<x@y>",
        "a\n@b",
        "a@b\r",
        "a\0@b",
        "a@b\x7f",
        "a",
        "@b",
        "a@",
        "",
        "-f@b",
        "a b@c",
        "a@b c",
        "a>@b",
        "<a@b>",
        "a@b> SIZE=1",
        "a@-b",
        "a@.b",
        "a@b..c",
        "a@[b",
        '"a"b"@c',
        '"a\\"@c',
        '"@c',
        "ä@b",
        "a(c)@b",
        "x" * 65 + "@b",
        "a@" + "x." * 127 + "x",
    ],
)
def test_bad_addresses_are_refused(text: str) -> None:
    with pytest.raises(AddressError):
        check_address(text)


def test_a_non_ascii_domain_becomes_a_labels() -> None:
    assert check_address("a@bücher.example") == "a@xn--bcher-kva.example"


@given(st.text())
def test_no_address_that_passes_can_break_out_of_a_command(text: str) -> None:
    try:
        passed = check_address(text + "@example.org")
    except AddressError:
        return
    assert passed.isascii()
    assert passed.isprintable()
    if not passed.startswith('"'):
        assert not set(passed) & set("<> \t")


def test_a_bare_name_is_an_alias_or_local() -> None:
    assert expand_recipient("root", ALIASES, "host") == ["ops@example.org", "boss@example.org"]
    assert expand_recipient("Root", ALIASES, "host") == ["ops@example.org", "boss@example.org"]
    assert expand_recipient("bob", ALIASES, "host") == ["bob@host"]
    assert expand_recipient("root@x", ALIASES, "host") == ["root@x"]


def test_each_recipient_is_taken_once() -> None:
    assert expand_recipients(["a@b", "root", "ops@example.org", "a@b"], ALIASES, "h") == [
        "a@b",
        "ops@example.org",
        "boss@example.org",
    ]


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("a@b", ["a@b"]),
        ("a@b, c@d,,", ["a@b", "c@d"]),
        ("Ann <a@b>, Bob B. <c@d>", ["a@b", "c@d"]),
        ('"Last, First" <a@b>, "x <y>" <c@d>', ["a@b", "c@d"]),
        ("a@b (Ann, the (very) first), c@d", ["a@b", "c@d"]),
        ("team: a@b, Bob <c@d>;, e@f", ["a@b", "c@d", "e@f"]),
        ("undisclosed-recipients:;", []),
        ('"a,b"@c', ['"a,b"@c']),
        ('"a\\"b" <c@d>', ["c@d"]),
        ("<@x,@y:a@b>", ["a@b"]),
        ("Ann\t<a@b>", ["a@b"]),
        ("a@[IPv6:::1]", ["a@[IPv6:::1]"]),
        ("=?utf-8?Q?=C3=84nn?= <a@b>", ["a@b"]),
        ("root", ["root"]),
        ("", []),
    ],
)
def test_lists_of_addresses(text: str, found: list[str]) -> None:
    assert split_addresses(text) == found


@pytest.mark.parametrize("text", ['"open <a@b>', "Ann <a@b", "a@b (open"])
def test_an_open_quote_bracket_or_comment_is_refused(text: str) -> None:
    with pytest.raises(AddressError):
        split_addresses(text)
