"""The keys of a relay in [relay], [routes."DOMAIN"] and [identity."ADDRESS"] of mail.toml, and mistakes in these."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.unit.test_mail_config import loaded
from workers.mail.config import Config, Relay
from workers.mail.errors import CONFIG, Refused

PRINT = "0123456789abcdef" * 4
RELAY = '[relay]\nhost = "h"\n'
LOGIN = 'user = "u"\npassword_file = "pw"\n'
FULL = f"""{RELAY}{LOGIN}port = 2525
connections = 7
rate = "10/s"
ca_file = "ca.pem"
cert_file = "cert.pem"
key_file = "key.pem"
"""


def relay_of(config: Config, lane: str = "relay") -> Relay:
    relay = config.relays()[lane]
    assert relay.name == lane
    return relay


def values(relay: Relay) -> dict[str, object]:
    return {key: getattr(relay, key) for key in Relay.__slots__}


DEFAULTS = {
    "name": "relay",
    "host": "h",
    "port": 587,
    "tls": "starttls",
    "user": None,
    "password_command": None,
    "password_file": None,
    "token_command": None,
    "hidden_names": frozenset(),
    "connections": 20,
    "mails_per_connection": 100,
    "recipients": 100,
    "rate": None,
    "auth_pause_s": 1800,
    "fingerprint": None,
    "ca_file": None,
    "cert_file": None,
    "key_file": None,
}


def test_a_relay_with_a_host_alone_has_the_defaults(tmp_path: Path) -> None:
    assert values(relay_of(loaded(tmp_path, RELAY))) == DEFAULTS
    assert values(Relay(host="h", port=587, tls="starttls")) == DEFAULTS


@pytest.mark.parametrize(("tls", "port"), [("tls", 465), ("starttls", 587), ("opportunistic", 25), ("none", 25)])
def test_the_port_follows_from_tls(tmp_path: Path, tls: str, port: int) -> None:
    relay = relay_of(loaded(tmp_path, f'{RELAY}tls = "{tls}"\n'))
    assert (relay.port, relay.tls) == (port, tls)


@pytest.mark.parametrize(
    ("line", "changed"),
    [
        ("port = 26", {"port": 26}),
        ('user = "u"\npassword_command = "pass x"', {"user": "u", "password_command": "pass x"}),
        ('user = "u"\npassword_file = "pw"', {"user": "u", "password_file": "{}/pw"}),
        ('user = "u"\ntoken_command = "oauth x"', {"user": "u", "token_command": "oauth x"}),
        ("connections = 1000", {"connections": 1000}),
        ("mails_per_connection = 1", {"mails_per_connection": 1}),
        ("recipients = 500", {"recipients": 500}),
        ('rate = "600/m"', {"rate": 10.0}),
        ('rate = "none"', {}),
        ('auth_pause = "2m"', {"auth_pause_s": 120.0}),
        (f'fingerprint = "sha256:{PRINT.upper()}"', {"fingerprint": PRINT}),
        ('ca_file = "/etc/ca.pem"', {"ca_file": "/etc/ca.pem"}),
        ('cert_file = "c.pem"\nkey_file = "../k.pem"', {"cert_file": "{}/c.pem", "key_file": "{}/../k.pem"}),
    ],
)
@pytest.mark.parametrize("section", ["relay", 'routes."example.net"', 'identity."a@example.org"'])
def test_each_key_is_read_in_each_kind_of_section(tmp_path: Path, section: str, line: str, changed: dict[str, object]) -> None:
    config = loaded(tmp_path, f'[{section}]\nhost = "h"\n{line}\n')
    (relay,) = config.relays().values()
    paths = {
        key: str(Path(value.format(tmp_path)).resolve())
        for key, value in changed.items()
        if "_file" in key and isinstance(value, str)
    }
    assert (
        values(relay) == DEFAULTS | {"name": section.replace('."', ":").rstrip('"').replace("routes", "route")} | changed | paths
    )


@pytest.mark.parametrize(
    ("lines", "words"),
    [
        ('host = "h"\nfoo = 1', [".foo: unknown", "token_command", "ca_file"]),
        ('host = ""', [".host", "smtp.example.org"]),
        ('host = "${SURELY_NOT_SET}"', [".host", "SURELY_NOT_SET"]),
        ('host = "h"\nport = "25"', [".port", "number"]),
        ('host = "h"\nport = true', [".port", "number"]),
        ('host = "h"\nport = 70000', [".port", "1 to 65535"]),
        ('host = "h"\nport = 0', [".port", "1 to 65535"]),
        ('host = "h"\ntls = "yes"', [".tls", '"tls", "starttls", "opportunistic" or "none"']),
        ('host = "h"\nuser = "u"', [".user", "exactly one of password_command, password_file, token_command"]),
        ('host = "h"\nuser = "u"\npassword_file = "p"\ntoken_command = "t"', [".user", "exactly one of"]),
        ('host = "h"\nuser = "u\\u0001"\npassword_file = "p"', [".user", "control characters"]),
        ('host = "h"\npassword_file = "p"', [".user", "login name"]),
        ('host = "h"\ntoken_command = "t"', [".user", "login name"]),
        ('host = "h"\nuser = "u"\npassword_command = ""', [".password_command", "one line"]),
        ('host = "h"\nuser = "u"\ntoken_command = "a\\nb"', [".token_command", "one line"]),
        ('host = "h"\nconnections = 0', [".connections", "1 to 1000"]),
        ('host = "h"\nconnections = 1001', [".connections", "1 to 1000"]),
        ('host = "h"\nmails_per_connection = 0', [".mails_per_connection", "1 up"]),
        ('host = "h"\nrecipients = 501', [".recipients", "1 to 500"]),
        ('host = "h"\nrate = "10"', [".rate", "10/s", "none"]),
        ('host = "h"\nauth_pause = "0s"', [".auth_pause", "30m"]),
        ('host = "h"\nfingerprint = "sha256:00"', [".fingerprint", "64 hex digits"]),
        ('host = "h"\nca_file = 3', [".ca_file", "quotes"]),
        ('host = "h"\ncert_file = "c"', [".key_file", "go together"]),
        ('host = "h"\nkey_file = "k"', [".cert_file", "go together"]),
        ('host = "h"\ntls = "none"\nca_file = "c"', [".tls", "beside fingerprint, ca_file"]),
    ],
)
@pytest.mark.parametrize("section", ["relay", 'routes."example.net"', 'identity."a@example.org"'])
def test_a_mistake_in_a_relay_names_section_and_key(tmp_path: Path, section: str, lines: str, words: list[str]) -> None:
    with pytest.raises(Refused) as refused:
        loaded(tmp_path, f"[{section}]\n{lines}\n")
    assert refused.value.status == CONFIG
    for word in [f"{tmp_path}/mail.toml: {section}{words[0]}", *words[1:]]:
        assert word in str(refused.value)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("[relay]\nport = 25\n", ["relay.host", "Maildir"]),
        ('[routes."a b"]\nhost = "h"\n', ['routes."a b"', '[routes."example.net"]']),
        ('[routes]\nhost = "h"\n', ["routes.host", "section"]),
        ('[routes."example.net"]\nport = 25\n', ['routes."example.net".host', "relay"]),
        ('[routes."A.net"]\nhost = "h"\n[routes."a.net"]\nhost = "h"\n', ['routes."a.net"', "a section already"]),
        ("routes = 3\n", ["routes", "section"]),
        ("identity = []\n", ["identity", "section"]),
        ('[identity]\nname = "A"\n', ["identity.name", '[identity."app@example.org"]', '"*"']),
        ('[identity."a@b"]\n[identity."A@B"]\n', ['identity."A@B"', "a section already"]),
        ('[identity."a@b"]\nfoo = 1\n', ['identity."a@b".foo', "unknown", "reply_to", "token_command"]),
        ('[identity."a@b"]\nname = ""\n', ['identity."a@b".name', "one line"]),
        ('[identity."a@b"]\nname = "a\\r\\nBcc: x@y"\n', ['identity."a@b".name', "control characters"]),
        ('[identity."a@b"]\nreply_to = "Ann <c@d>"\n', ['identity."a@b".reply_to', "one full address"]),
        ('[identity."a@b"]\nreply_to = "c@d\\r\\n"\n', ['identity."a@b".reply_to', "control character"]),
        ('[identity."a@b"]\ndkim = "k"\n', ['identity."a@b".dkim', "section"]),
        ('[identity."a@b"]\ndkim = { selector = "s" }\n', ['identity."a@b".dkim.key_file', "private key"]),
        ('[identity."a@b"]\ndkim = { key_file = "k" }\n', ['identity."a@b".dkim.selector', "DNS"]),
        ('[identity."a@b"]\ndkim = { selector = "s;", key_file = "k" }\n', ['identity."a@b".dkim.selector', "DNS"]),
        ('[identity."a@b"]\ndkim = { key = "k" }\n', ['identity."a@b".dkim.key', "unknown", "selector, key_file"]),
        ('[identity."*"]\nrate = "1/s"\n', ['identity."*".rate', "host beside it, or a [relay] section"]),
        (f'{RELAY}[identity."a@b"]\nport = 0\n', ['identity."a@b".port', "65535"]),
        (f'{FULL}[identity."a@b"]\nuser = "v"\n', ['identity."a@b".user', "exactly one of"]),
        (f'{FULL}[identity."a@b"]\ntoken_command = "t"\n', ['identity."a@b".user', "login name"]),
        (f'{FULL}[identity."a@b"]\ncert_file = "c"\n', ['identity."a@b".key_file', "go together"]),
    ],
)
def test_a_mistake_in_routes_and_identities_is_named(tmp_path: Path, text: str, words: list[str]) -> None:
    with pytest.raises(Refused) as refused:
        loaded(tmp_path, text)
    for word in [f"{tmp_path}/mail.toml: {words[0]}: ", *words[1:]]:
        assert word in str(refused.value)


def test_variables_named_anywhere_are_hidden_from_the_commands_of_all_relays(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RELAY_HOST", "mx.example.org")
    config = loaded(tmp_path, f'{RELAY}[routes."r"]\nhost = "${{RELAY_HOST}}"\n[identity."a@b"]\nport = 1\n')
    assert relay_of(config, "route:r").host == "mx.example.org"
    assert [relay.hidden_names for relay in config.relays().values()] == [{"RELAY_HOST"}] * 3
