"""mail.toml: which one is in force, what it may say, and how mistakes are named."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from workers.mail import config as config_module
from workers.mail.config import Config, find, load
from workers.mail.errors import CONFIG, Refused
from workers.mail.secrets import SecretError, password
from workers.mail.values import duration_s, expand, size_bytes


def written(folder: Path, text: str, mode: int = 0o600) -> str:
    path = folder / "mail.toml"
    path.write_text(text)
    path.chmod(mode)
    return str(path)


def loaded(folder: Path, text: str) -> Config:
    return load(written(folder, text))


def test_the_order_in_which_a_config_is_looked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    system = tmp_path / "etc.toml"
    monkeypatch.setattr(config_module, "SYSTEM_FILE", str(system))
    home = tmp_path / "home"
    own = home / ".config" / "semguard" / "mail.toml"
    own.parent.mkdir(parents=True)
    assert find(None, None, str(home)) is None
    system.touch()
    assert find(None, None, str(home)) == str(system)
    own.touch()
    assert find(None, "", str(home)) == str(own)
    assert find(None, "/named", str(home)) == "/named"
    assert find("/explicit", "/named", str(home)) == "/explicit"


def test_a_config_in_the_current_folder_is_not_looked_at(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(config_module, "SYSTEM_FILE", str(tmp_path / "none"))
    monkeypatch.chdir(tmp_path)
    written(tmp_path, "")
    assert find(None, None, str(tmp_path)) is None


def test_relative_paths_start_at_the_folder_of_the_config(tmp_path: Path) -> None:
    config = loaded(tmp_path, '[spool]\nstate = "s"\n')
    assert config.state == f"{tmp_path}/s"
    assert config.database == f"{tmp_path}/s/mail/spool.db"
    assert config.delivered == f"{tmp_path}/s/mail/delivered"
    assert config.relay is None
    assert loaded(tmp_path, '[spool]\ndatabase = "x.db"\n').database == f"{tmp_path}/x.db"


def test_values_are_read(tmp_path: Path) -> None:
    text = '[spool]\nmax_age = "2h"\nmax_size = "3K"\n[aliases]\nRoot = "a@b"\nteam = ["c@d", "e@f"]\n'
    config = loaded(tmp_path, text)
    assert (config.max_age_s, config.max_size_bytes) == (7200, 3072)
    assert config.aliases == {"root": ["a@b"], "team": ["c@d", "e@f"]}


@pytest.mark.parametrize(("tls", "port"), [("tls", 465), ("starttls", 587), ("opportunistic", 25), ("none", 25)])
def test_the_port_follows_from_tls(tmp_path: Path, tls: str, port: int) -> None:
    relay = loaded(tmp_path, f'[relay]\nhost = "h"\ntls = "{tls}"\n').relay
    assert relay is not None
    assert (relay.port, relay.tls) == (port, tls)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("[spool]\nfoo = 1\n", ["spool.foo", "unknown", "max_age"]),
        ("[other]\n", ["other", "unknown", "relay"]),
        ("[imap]\n", ["imap", "not yet known in this version"]),
        ('[spool]\nunknown = "hold"\n', ["spool.unknown", "not yet known"]),
        ('[relay]\nhost = "h"\nrate = "1/s"\n', ["relay.rate", "not yet known"]),
        ("spool = 3\n", ["spool", "section"]),
        ('[spool]\nmax_age = "5"\n', ["spool.max_age", "5d"]),
        ("[spool]\nmax_age = 5\n", ["spool.max_age", "quotes"]),
        ('[spool]\nmax_size = "much"\n', ["spool.max_size", "50M"]),
        ('[spool]\ndatabase = "postgresql://h/d"\n', ["spool.database", "not yet known"]),
        ("[relay]\nport = 25\n", ["relay.host"]),
        ('[relay]\nhost = "h"\nport = "25"\n', ["relay.port", "number"]),
        ('[relay]\nhost = "h"\nport = true\n', ["relay.port", "number"]),
        ('[relay]\nhost = "h"\nport = 70000\n', ["relay.port", "65535"]),
        ('[relay]\nhost = "h"\ntls = "yes"\n', ["relay.tls", "opportunistic"]),
        ('[relay]\nhost = "h"\nuser = "u"\n', ["relay.user", "password_command"]),
        ('[relay]\nhost = "h"\npassword_file = "p"\n', ["relay.user", "login name"]),
        ('[relay]\nhost = "${SURELY_NOT_SET}"\n', ["relay.host", "SURELY_NOT_SET"]),
        ('[aliases]\nroot = "nobody"\n', ["aliases.root", "local@domain"]),
        ("[aliases]\nroot = []\n", ["aliases.root"]),
        ('[aliases]\nroot = "a@b\\r\\nc"\n', ["aliases.root", "control"]),
        ("[spool\n", ["TOML"]),
    ],
)
def test_a_mistake_names_file_key_and_what_is_allowed(tmp_path: Path, text: str, words: list[str]) -> None:
    with pytest.raises(Refused) as refused:
        loaded(tmp_path, text)
    assert refused.value.status == CONFIG
    for word in [f"{tmp_path}/mail.toml", *words]:
        assert word in str(refused.value)


def test_a_config_that_does_not_exist_is_a_mistake(tmp_path: Path) -> None:
    with pytest.raises(Refused, match="--config"):
        load(str(tmp_path / "none.toml"))


def test_a_config_that_anyone_may_write_is_refused(tmp_path: Path) -> None:
    with pytest.raises(Refused, match="chmod"):
        load(written(tmp_path, "", 0o666))


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a file to somebody else")
def test_a_config_of_somebody_else_is_refused(tmp_path: Path) -> None:
    path = written(tmp_path, "")
    os.chown(path, 12345, 12345)
    with pytest.raises(Refused, match="12345"):
        load(path)


def test_variables_come_from_the_environment_and_are_noted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RELAY_HOST", "mx.example.org")
    relay = loaded(tmp_path, '[relay]\nhost = "${RELAY_HOST}"\n').relay
    assert relay is not None
    assert relay.host == "mx.example.org"
    assert relay.hidden_names == {"RELAY_HOST"}


def test_expand_replaces_each_variable_once() -> None:
    names: set[str] = set()
    assert expand("a${X}b${Y}$c", {"X": "${Y}", "Y": "2"}, names) == "a${Y}b2$c"
    assert names == {"X", "Y"}
    with pytest.raises(ValueError, match="closing"):
        expand("${X", {"X": "1"}, names)


@pytest.mark.parametrize(("text", "value"), [("90s", 90), ("1.5h", 5400), ("2w", 1209600)])
def test_durations(text: str, value: float) -> None:
    assert duration_s(text) == value


@pytest.mark.parametrize("text", ["", "5", "d", "0s", "-1s", "1 d", "5D", "\u0661s", "1.s5s", "infs"])
def test_wrong_durations(text: str) -> None:
    with pytest.raises(ValueError, match="such as"):
        duration_s(text)


@pytest.mark.parametrize(("text", "value"), [("500", 500), ("1K", 1024), ("1.5M", 1572864)])
def test_sizes(text: str, value: int) -> None:
    assert size_bytes(text) == value


def with_password_file(folder: Path, secret: str, mode: int) -> Config:
    (folder / "pw").write_text(secret)
    (folder / "pw").chmod(mode)
    return loaded(folder, '[relay]\nhost = "h"\nuser = "u"\npassword_file = "pw"\n')


def test_the_first_line_of_the_password_file_is_the_password(tmp_path: Path) -> None:
    relay = with_password_file(tmp_path, "s3cret \r\nsecond\n", 0o600).relay
    assert relay is not None
    assert password(relay) == "s3cret "


@pytest.mark.parametrize(("secret", "mode"), [("s3cret", 0o604), ("\ns3cret", 0o600)])
def test_a_bad_password_file_is_refused_without_telling_it(tmp_path: Path, secret: str, mode: int) -> None:
    relay = with_password_file(tmp_path, secret, mode).relay
    assert relay is not None
    with pytest.raises(SecretError) as refused:
        password(relay)
    assert "s3cret" not in str(refused.value)
    assert "pw" in str(refused.value)


def test_a_user_without_a_home_needs_a_state_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(config_module, "_home", lambda: None)
    monkeypatch.setattr(config_module, "SYSTEM_FILE", str(tmp_path / "none"))
    monkeypatch.delenv("MAIL_CONFIG", raising=False)
    assert loaded(tmp_path, '[spool]\nstate = "s"\n').state == f"{tmp_path}/s"
    monkeypatch.setattr(os, "geteuid", lambda: 12345)
    with pytest.raises(Refused, match=r"spool\.state"):
        load()
