"""Addresses of the envelope, and those in header fields."""

from __future__ import annotations

import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from workers.mail.addresses import (
    AddressError,
    check_address,
    check_domain,
    expand_recipient,
    expand_recipients,
    needs_smtputf8,
    split_addresses,
)

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
        "ä@b",
        "jörg.用户@example.org",
        '"ä b"@x',
        "ä" * 32 + "@b",
        "न\u200dम@b",
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
        "a(c)@b",
        "ä b@c",
        "ä\u00a0b@c",
        "ä>@b",
        "a\udce4@b",
        "a\x85b@c",
        "a\u2028b@c",
        '"ä\u2029"@c',
        '"ä"b"@c',
        "ä" * 33 + "@b",
        "a@\u00ad",
        "a@b\uff1ec",
        "a@ä\udce4",
        "a@" + "ä" * 300,
        "x" * 65 + "@b",
        "a@" + "x." * 127 + "x",
    ],
)
def test_bad_addresses_are_refused(text: str) -> None:
    with pytest.raises(AddressError):
        check_address(text)


def test_a_non_ascii_domain_becomes_a_labels() -> None:
    assert check_address("a@bücher.example") == "a@xn--bcher-kva.example"


@given(st.text(), st.text())
def test_no_address_that_passes_can_break_out_of_a_command(local: str, domain: str) -> None:
    for text in (f"{local}@example.org", f"{local}@{domain}", f"a@{domain}"):
        try:
            passed = check_address(text)
        except AddressError:
            continue
        local_part, _, domain_part = passed.rpartition("@")
        assert domain_part.isascii()
        assert not set(domain_part) & set("<> \t")
        assert len(passed.encode().splitlines()) == len(passed.splitlines()) == 1
        assert not any(unicodedata.category(sign) == "Cc" for sign in passed)
        assert len(local_part.encode()) <= 64
        if not passed.startswith('"'):
            assert not set(passed) & set("<>")
            assert len(passed.split()) == 1


@given(st.text(alphabet=st.sampled_from('ä日 <>"\\\r\n\x85\u2028\udc80@a.-'), min_size=1))
def test_quotes_let_no_line_end_in(inner: str) -> None:
    try:
        passed = check_address(f'"{inner}"@example.org')
    except AddressError:
        return
    assert len(passed.splitlines()) == 1
    assert passed.encode().decode() == passed


@pytest.mark.parametrize(
    ("address", "needed"),
    [("ä@b", True), ('"ä b"@c', True), ("a@b", False), ("a@bücher.example", False), ("", False), ('"a@ä"@b', True)],
)
def test_smtputf8_is_needed_for_a_non_ascii_local_part_only(address: str, needed: bool) -> None:
    assert needs_smtputf8(address) is needed


@pytest.mark.parametrize(
    ("text", "domain"),
    [("Example.org", "Example.org"), ("bücher.example", "xn--bcher-kva.example"), ("[IPv6:::1]", "[IPv6:::1]")],
)
def test_domains_come_with_a_labels(text: str, domain: str) -> None:
    assert check_domain(text) == domain


@pytest.mark.parametrize("text", ["", "a b", "-a", ".a", "a..b", "\u00ad", "a@b", "[a]b", "x" * 256, "ä" * 300, "a\r\nb"])
def test_what_is_no_domain_is_refused(text: str) -> None:
    with pytest.raises(AddressError, match="domain name"):
        check_domain(text)


@pytest.mark.parametrize("text", ["a\r\n\x1b[31m@b", "a\udce4@b", "a\u2028@b", "a b\u00a0@c", "a@b\u200b c"])
def test_what_is_said_of_a_bad_address_is_one_plain_line(text: str) -> None:
    with pytest.raises(AddressError) as refused:
        check_address(text)
    assert str(refused.value).isprintable()


def test_an_address_that_is_no_utf_8_says_so() -> None:
    with pytest.raises(AddressError, match="not valid UTF-8"):
        check_address("a\udce4@b")


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
        ("Jörg <jörg@b>, ä@c", ["jörg@b", "ä@c"]),
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
