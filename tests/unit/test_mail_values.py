"""How single values are written in mail.toml."""

from __future__ import annotations

import pytest

from workers.mail.values import (
    dotted,
    duration_or_never_s,
    duration_s,
    expand,
    expand_all,
    fingerprint,
    host,
    rate_per_s,
    selector,
    size_bytes,
    whole,
    words,
)

PAIRS = [f"{number:02X}" for number in range(32)]
HEX = "".join(PAIRS)


def test_expand_replaces_each_variable_once() -> None:
    names: set[str] = set()
    assert expand("a${X}b${Y}$c", {"X": "${Y}", "Y": "2"}, names) == "a${Y}b2$c"
    assert names == {"X", "Y"}
    with pytest.raises(ValueError, match="closing"):
        expand("${X", {"X": "1"}, names)


@pytest.mark.parametrize(("text", "value"), [("90s", 90), ("1.5h", 5400), ("2w", 1209600)])
def test_durations(text: str, value: float) -> None:
    assert duration_s(text) == value


@pytest.mark.parametrize("text", ["", "5", "d", "0s", "-1s", "1 d", "5D", "\u0661s", "1.s5s", "infs", "9" * 400 + "s"])
def test_wrong_durations(text: str) -> None:
    with pytest.raises(ValueError, match="such as"):
        duration_s(text)


@pytest.mark.parametrize(("text", "value"), [("500", 500), ("1K", 1024), ("1.5M", 1572864)])
def test_sizes(text: str, value: int) -> None:
    assert size_bytes(text) == value


@pytest.mark.parametrize("text", ["", "K", "0", "0.1", "-1", "1KB", "9" * 400, "1e3"])
def test_wrong_sizes(text: str) -> None:
    with pytest.raises(ValueError, match="such as"):
        size_bytes(text)


def test_never_is_no_duration_and_allowed_where_it_is_said() -> None:
    assert duration_or_never_s("never") is None
    assert duration_or_never_s("1m") == 60
    with pytest.raises(ValueError, match='"5d", or "never"'):
        duration_or_never_s("Never")


@pytest.mark.parametrize(("text", "value"), [("10/s", 10), ("600/m", 10), ("5400/h", 1.5), ("0.5/s", 0.5), ("none", None)])
def test_rates(text: str, value: float | None) -> None:
    assert rate_per_s(text) == value


@pytest.mark.parametrize("text", ["", "10", "10/d", "0/s", "-1/s", "/s", "10 /s", "10/s/s", "None"])
def test_wrong_rates(text: str) -> None:
    with pytest.raises(ValueError, match='"10/s", "600/m" or "5000/h", or "none"'):
        rate_per_s(text)


@pytest.mark.parametrize("text", [f"sha256:{HEX}", f"sha256:{HEX.lower()}", "SHA256:" + ":".join(PAIRS)])
def test_fingerprints_become_plain_lower_case_digits(text: str) -> None:
    assert fingerprint(text) == HEX.lower()


@pytest.mark.parametrize(
    "text", ["", HEX, "sha1:" + HEX, "sha256:" + HEX[:-1], f"sha256:{HEX[:-1]}g", f"sha256:{HEX[:3]}:{HEX[3:]}", f"sha256:{HEX}:"]
)
def test_wrong_fingerprints(text: str) -> None:
    with pytest.raises(ValueError, match="64 hex digits"):
        fingerprint(text)


@pytest.mark.parametrize("text", ["", "a b", "a/b", "u@h", "a\tb", "b\u00fccher.example", "a\x7fb"])
def test_wrong_hosts(text: str) -> None:
    with pytest.raises(ValueError, match=r"imap\.example\.org"):
        host("imap.example.org")(text)


@pytest.mark.parametrize("text", ["localhost:993", "192.0.2.1:993", "[::1]:993"])
def test_a_port_does_not_stand_in_the_host(text: str) -> None:
    with pytest.raises(ValueError, match=r"host alone.*port = 993$"):
        host("x")(text)


@pytest.mark.parametrize("text", ["localhost", "192.0.2.1", "::1", "2001:db8::993", "[::1]"])
def test_hosts(text: str) -> None:
    assert host("x")(text) == text


@pytest.mark.parametrize("text", ["", "a..b", ".a", "a b", "\u00e4", "a;b"])
def test_wrong_selectors(text: str) -> None:
    assert selector("mail-2024._x") == "mail-2024._x"
    with pytest.raises(ValueError, match="DNS"):
        selector(text)


@pytest.mark.parametrize("text", ["", "a\nb", "a\x01b", "a\x85b", "a\udc80"])
def test_names_have_no_control_characters(text: str) -> None:
    assert words("\u00c4nn O'Neil") == "\u00c4nn O'Neil"
    with pytest.raises(ValueError, match="control characters"):
        words(text)


def test_numbers_have_their_ends() -> None:
    assert [whole(1, 3)(number) for number in (1, 3)] == [1, 3]
    assert whole(1, None)(10**9) == 10**9
    for number in (0, 4):
        with pytest.raises(ValueError, match="from 1 to 3"):
            whole(1, 3)(number)
    with pytest.raises(ValueError, match="from 1 up"):
        whole(1, None)(0)


@pytest.mark.parametrize(
    ("section", "key", "name"),
    [
        ("", "spool", "spool"),
        ("relay", "port", "relay.port"),
        ("routes", "example.net", 'routes."example.net"'),
        ("a", "", 'a.""'),
        ("a", 'b"\\\x1b', 'a."b\\"\\\\\\U0000001b"'),
    ],
)
def test_keys_are_named_as_toml_writes_them(section: str, key: str, name: str) -> None:
    assert dotted(section, key) == name


def test_variables_are_replaced_everywhere_but_in_keys() -> None:
    names: set[str] = set()
    table = {"a": ["${X}", 3], "${X}": {"b.c": "-${X}-"}}
    assert expand_all("", table, {"X": "1"}, names) == {"a": ["1", 3], "${X}": {"b.c": "-1-"}}
    assert names == {"X"}
    with pytest.raises(ValueError, match=r'^a\."b\.c": needs .*Y is not'):
        expand_all("", {"a": {"b.c": ["${Y}"]}}, {}, names)
