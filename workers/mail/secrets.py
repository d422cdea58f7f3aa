"""Fetches a password or token, when it is needed and not before. It is returned, and never logged or put into an error."""

from __future__ import annotations

import os

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Protocol

    class Credentials(Protocol):
        """What of a Relay or Account says where its secret is; `name` is told in errors."""

        name: str
        password_command: str | None
        password_file: str | None
        token_command: str | None
        hidden_names: frozenset[str]


COMMAND_S = 30.0


class SecretError(Exception):
    """No password or token could be had; the text says why, without it."""


def password(login: Credentials) -> str:
    """The first line of the password file, or of what the password command writes. Raises SecretError."""
    if login.password_file is not None:
        text, source = _from_file(login.password_file), login.password_file
    elif login.password_command is not None:
        text, source = _from_command("password_command", login.password_command, login.hidden_names), "password_command"
    else:
        raise SecretError(f"{login.name}: has neither password_command nor password_file")
    return _first_line(text, source)


def token(login: Credentials) -> str:
    """The OAuth access token: the first line of what the token command writes, at each call anew. Raises SecretError.

    Visible ASCII only (RFC 6750 2.1 allows less still): XOAUTH2 and OAUTHBEARER end their fields with control characters.
    """
    if login.token_command is None:
        raise SecretError(f"{login.name}: has no token_command")
    line = _first_line(_from_command("token_command", login.token_command, login.hidden_names), "token_command").strip(" \t")
    if not line or not all("!" <= sign <= "~" for sign in line):
        raise SecretError("token_command: its first line is no access token: only visible ASCII signs, without spaces")
    return line


def _first_line(text: str, source: str) -> str:
    line = text.split("\n", 1)[0].rstrip("\r")
    if not line:
        raise SecretError(f"{source}: its first line is empty")
    return line


def _from_file(path: str) -> str:
    try:
        with open(path, encoding="utf-8") as file:
            facts = os.fstat(file.fileno())
            if facts.st_mode & 0o007:
                raise SecretError(f"{path}: others can read the password; take that away: chmod o= {path}")
            if facts.st_uid not in (0, os.geteuid()):
                raise SecretError(f"{path}: belongs to user id {facts.st_uid}; it must belong to you or to root")
            return file.read(65536)
    except OSError as error:
        raise SecretError(f"{path}: {error.strerror}") from None
    except UnicodeDecodeError:
        raise SecretError(f"{path}: is not UTF-8") from None


def _from_command(key: str, command: str, hidden_names: frozenset[str]) -> str:
    """No shell. Variables that mail.toml takes values from may be secrets, so the child does not get them."""
    import shlex
    import subprocess

    environment = {name: value for name, value in os.environ.items() if name not in hidden_names}
    try:
        words = shlex.split(command)
        if not words:
            raise SecretError(f"{key} names no program")
        done = subprocess.run(
            words,
            check=False,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            env=environment,
            timeout=COMMAND_S,
        )
        if done.returncode != 0:
            raise SecretError(f"{key} ended with status {done.returncode}")
        return done.stdout.decode("utf-8")
    except subprocess.TimeoutExpired:
        raise SecretError(f"{key} did not end within {COMMAND_S:.0f} s") from None
    except UnicodeDecodeError:
        raise SecretError(f"{key} wrote something that is not UTF-8") from None
    except (OSError, ValueError) as error:
        raise SecretError(f"{key} can't be run: {getattr(error, 'strerror', None) or error}") from None
