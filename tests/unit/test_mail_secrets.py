"""Passwords and tokens: where they come from, and that no mistake tells them."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.unit.test_mail_config import loaded
from workers.mail import secrets
from workers.mail.config import Config, Relay
from workers.mail.secrets import SecretError, password, token

Fetch = Callable[[Relay], str]


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


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a file to somebody else")
def test_a_password_file_of_somebody_else_is_refused(tmp_path: Path) -> None:
    relay = with_password_file(tmp_path, "s3cret", 0o600).relay
    assert relay is not None
    os.chown(tmp_path / "pw", 12345, -1)
    with pytest.raises(SecretError, match="12345"):
        password(relay)


def script(folder: Path, text: str) -> str:
    path = folder / "secret.sh"
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o700)
    return str(path)


def with_command(key: str, command: str) -> Relay:
    relay = Relay(host="h", port=25, tls="tls")
    relay.user = "u"
    setattr(relay, key, command)
    return relay


KINDS = pytest.mark.parametrize(("key", "fetch"), [("password_command", password), ("token_command", token)])


@KINDS
def test_the_first_line_of_the_command_is_the_secret(tmp_path: Path, key: str, fetch: Fetch) -> None:
    command = script(tmp_path, "printf '%s\\r\\nsecond\\n' \"$1\"")
    assert fetch(with_command(key, f"{command} 's3cr\"et'")) == 's3cr"et'


@KINDS
def test_the_command_goes_through_no_shell(tmp_path: Path, key: str, fetch: Fetch) -> None:
    command = script(tmp_path, 'echo "$1$2"')
    assert fetch(with_command(key, f"{command} $HOME;id |x")) == "$HOME;id|x"


@pytest.fixture
def words_on_standard_input() -> Iterator[None]:
    reader, writer = os.pipe()
    before = os.dup(0)
    os.write(writer, b"words for somebody else\n")
    os.close(writer)
    os.dup2(reader, 0)
    os.close(reader)
    yield
    os.dup2(before, 0)
    os.close(before)


@KINDS
@pytest.mark.usefixtures("words_on_standard_input")
def test_the_command_can_not_read_our_standard_input(tmp_path: Path, key: str, fetch: Fetch) -> None:
    assert fetch(with_command(key, script(tmp_path, "cat; echo s3cret"))) == "s3cret"


@KINDS
def test_hidden_variables_are_kept_from_the_command(
    tmp_path: Path, key: str, fetch: Fetch, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HIDDEN", "s3cret")
    monkeypatch.setenv("SEEN", "yes")
    relay = with_command(key, script(tmp_path, "echo ${HIDDEN-gone},$SEEN"))
    relay.hidden_names = frozenset({"HIDDEN"})
    assert fetch(relay) == "gone,yes"


@KINDS
@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("echo s3cret; exit 3", "ended with status 3"),
        ("echo; echo s3cret", "first line is empty"),
        ("printf 's3cret\\377'", "not UTF-8"),
    ],
)
def test_a_failed_command_is_named_without_what_it_wrote(tmp_path: Path, key: str, fetch: Fetch, text: str, why: str) -> None:
    with pytest.raises(SecretError, match=f"{key}.*{why}") as refused:
        fetch(with_command(key, script(tmp_path, text)))
    assert "s3cret" not in str(refused.value)


@KINDS
@pytest.mark.parametrize(
    ("command", "why"),
    [("/does/not/exist", "can't be run: No such file"), ("' ", "can't be run: No closing"), (" ", "no program")],
)
def test_a_command_that_can_not_be_run_is_named(key: str, fetch: Fetch, command: str, why: str) -> None:
    with pytest.raises(SecretError, match=f"{key}.*{why}"):
        fetch(with_command(key, command))


@KINDS
def test_a_command_that_does_not_end_is_ended(key: str, fetch: Fetch, monkeypatch: pytest.MonkeyPatch) -> None:
    assert secrets.COMMAND_S == 30
    monkeypatch.setattr(secrets, "COMMAND_S", 0.1)
    with pytest.raises(SecretError, match=f"{key} did not end"):
        fetch(with_command(key, "tail -f /dev/null"))


def test_a_token_has_no_spaces_around_it(tmp_path: Path) -> None:
    assert token(with_command("token_command", script(tmp_path, "echo ' ya29.a0-_~+/== '"))) == "ya29.a0-_~+/=="


@pytest.mark.parametrize("text", ["Error: s3cret", "s3cret\\001auth=x", "s3cret\\303\\244", "  "])
def test_what_can_be_no_token_is_refused_without_telling_it(tmp_path: Path, text: str) -> None:
    with pytest.raises(SecretError, match="no access token") as refused:
        token(with_command("token_command", script(tmp_path, f"printf '{text}'")))
    assert "s3cret" not in str(refused.value)


def test_a_relay_without_the_secret_asked_for_says_so() -> None:
    with pytest.raises(SecretError, match="relay: has neither password_command nor password_file"):
        password(with_command("token_command", "true"))
    with pytest.raises(SecretError, match="relay: has no token_command"):
        token(with_command("password_command", "true"))
