"""Which relay a mail takes, and what an identity inherits from [relay]."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.unit.test_mail_config import loaded
from tests.unit.test_mail_relays import DEFAULTS, FULL, RELAY, relay_of, values
from workers.mail.config import Config, Identity


def identity_of(config: Config, sender: str) -> Identity:
    identity = config.identity(sender)
    assert identity is not None
    return identity


def test_an_identity_without_a_host_changes_the_relay_key_by_key(tmp_path: Path) -> None:
    config = loaded(tmp_path, f'{FULL}[identity."a@b"]\nrate = "none"\nrecipients = 3\n')
    base = values(relay_of(config))
    changed = {"name": "identity:a@b", "rate": None, "recipients": 3}
    assert values(relay_of(config, "identity:a@b")) == base | changed
    assert (base["rate"], base["recipients"], base["user"]) == (10, 100, "u")


def test_an_identity_replaces_user_and_secret_together(tmp_path: Path) -> None:
    config = loaded(tmp_path, f'{FULL}[identity."a@b"]\nuser = "v"\ntoken_command = "t"\n')
    relay = relay_of(config, "identity:a@b")
    assert (relay.user, relay.password_file, relay.token_command) == ("v", None, "t")
    assert (relay.host, relay.port, relay.connections) == ("h", 2525, 7)


def test_an_identity_replaces_certificate_and_key_together(tmp_path: Path) -> None:
    config = loaded(tmp_path, f'{FULL}[identity."a@b"]\ncert_file = "c2"\nkey_file = "k2"\n')
    relay = relay_of(config, "identity:a@b")
    assert (relay.cert_file, relay.key_file) == (f"{tmp_path}/c2", f"{tmp_path}/k2")
    assert (relay.user, relay.ca_file) == ("u", f"{tmp_path}/ca.pem")


@pytest.mark.parametrize("host", ["other", "h"])
def test_an_identity_with_a_host_inherits_nothing(tmp_path: Path, host: str) -> None:
    config = loaded(tmp_path, f'{FULL}[identity."a@b"]\nhost = "{host}"\n')
    assert values(relay_of(config, "identity:a@b")) == DEFAULTS | {"name": "identity:a@b", "host": host}


def test_a_route_inherits_nothing(tmp_path: Path) -> None:
    config = loaded(tmp_path, f'{FULL}[routes."r.net"]\nhost = "other"\n')
    assert values(relay_of(config, "route:r.net")) == DEFAULTS | {"name": "route:r.net", "host": "other"}


def test_an_identity_without_relay_keys_has_no_relay(tmp_path: Path) -> None:
    text = 'name = "Änn"\nreply_to = "team@bücher.example"\ndkim = { selector = "s1", key_file = "k.pem" }\n'
    config = loaded(tmp_path, f'{RELAY}[identity."App@Example.org"]\n{text}')
    identity = identity_of(config, "aPP@example.ORG")
    assert (identity.address, identity.relay, identity.name) == ("app@example.org", None, "Änn")
    assert identity.reply_to == "team@xn--bcher-kva.example"
    assert identity.dkim is not None
    assert (identity.dkim.selector, identity.dkim.key_file) == ("s1", f"{tmp_path}/k.pem")
    assert list(config.relays()) == ["relay"]
    assert config.lane("app@example.org", "x@y") == "relay"


def test_an_own_identity_beats_the_one_for_all_and_takes_nothing_from_it(tmp_path: Path) -> None:
    config = loaded(tmp_path, f'{RELAY}[identity."*"]\nname = "All"\nrate = "1/s"\n[identity."a@b"]\nreply_to = "c@d"\n')
    assert identity_of(config, "A@b").name is None
    assert identity_of(config, "other@b").name == identity_of(config, "").name == "All"
    assert config.lane("a@b", "x@y") == "relay"
    assert config.lane("other@b", "x@y") == config.lane("", "x@y") == "identity:*"


LANES = f"""{RELAY}
[routes."Example.NET"]
host = "r"
[routes."bücher.example"]
host = "b"
[routes."[192.0.2.1]"]
host = "l"
[identity."app@example.org"]
host = "i"
"""


@pytest.mark.parametrize(
    ("sender", "recipient", "lane"),
    [
        ("app@example.org", "x@example.net", "route:example.net"),
        ("other@x", "x@EXAMPLE.net", "route:example.net"),
        ("other@x", "x@example.net.", "route:example.net"),
        ("other@x", '"a@b"@example.net', "route:example.net"),
        ("other@x", "x@xn--bcher-kva.example", "route:xn--bcher-kva.example"),
        ("other@x", "x@[192.0.2.1]", "route:[192.0.2.1]"),
        ("app@example.org", "x@sub.example.net", "identity:app@example.org"),
        ("APP@Example.ORG", "x@y", "identity:app@example.org"),
        ("other@example.org", "x@y", "relay"),
        ("", "x@y", "relay"),
    ],
)
def test_a_route_beats_an_identity_beats_the_relay(tmp_path: Path, sender: str, recipient: str, lane: str) -> None:
    config = loaded(tmp_path, LANES)
    assert config.lane(sender, recipient) == lane
    assert lane in config.relays()


def test_mail_that_no_relay_takes_goes_into_the_maildir(tmp_path: Path) -> None:
    assert Config(None, str(tmp_path)).lane("a@b", "c@d") == "maildir"
    config = loaded(tmp_path, LANES.removeprefix(RELAY))
    assert config.lane("a@b", "c@d") == "maildir"
    assert config.lane("app@example.org", "c@d") == "identity:app@example.org"
    assert list(config.relays()) == [
        "route:example.net",
        "route:xn--bcher-kva.example",
        "route:[192.0.2.1]",
        "identity:app@example.org",
    ]
