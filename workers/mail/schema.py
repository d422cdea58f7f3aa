"""The keys of mail.toml that this version knows, and how a parsed table becomes a Config.

Imported only when a config file exists. An unknown key is a mistake; so is a key of a later version, by name:
a setting that has no effect must not look as if it had one.
"""

from __future__ import annotations

import os

from workers.mail.addresses import AddressError, check_address
from workers.mail.config import Config, Relay
from workers.mail.errors import CONFIG, Refused
from workers.mail.values import duration_s, size_bytes

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any, TypeVar

    Value = TypeVar("Value")

TLS_PORTS = {"tls": 465, "starttls": 587, "opportunistic": 25, "none": 25}  # RFC 8314 3.3, RFC 6409 3.1, RFC 5321
KNOWN = {
    # `state` moves the whole state folder (database and Maildir), which is also how tests stay inside their own
    "spool": ("state", "database", "max_size", "max_age"),
    "relay": ("host", "port", "tls", "user", "password_command", "password_file"),
}
LATER = {
    "": ("routes", "identity", "imap"),
    "spool": ("domain", "helo", "warn_after", "keep_sent", "unknown", "group", "templates", "priorities"),
    "relay": (
        "token_command",
        "connections",
        "mails_per_connection",
        "recipients",
        "rate",
        "auth_pause",
        "fingerprint",
    ),
}


def configure(path: str, default_state: str | None, table: dict[str, Any], names: frozenset[str]) -> Config:
    """The Config of a parsed mail.toml at `path`; `names` are the variables it takes from the environment.

    Raises Refused(78) naming file, key and what is allowed.
    """
    _refuse_unknown(path, "", table, ("spool", "aliases", "relay"))
    spool = _Section(path, "spool", table)
    state = spool.path("state") or default_state
    if state is None:
        raise spool.mistake("state", "the path of a folder: this user has no home in passwd")
    config = Config(path, state)
    config.database = spool.path("database") or config.database
    config.max_age_s = spool.take("max_age", duration_s, str) or config.max_age_s
    config.max_size_bytes = spool.take("max_size", size_bytes, str) or config.max_size_bytes
    config.aliases = _aliases(path, table.get("aliases", {}))
    if "relay" in table:
        config.relay = _relay(_Section(path, "relay", table), names)
    return config


def _relay(section: _Section, names: frozenset[str]) -> Relay:
    host = section.take("host", _host, str)
    if host is None:
        raise section.mistake("host", "the name of the relay; without a [relay] section mail goes into a Maildir")
    tls = section.take("tls", _tls, str) or "starttls"
    relay = Relay(host, section.take("port", _port, int) or TLS_PORTS[tls], tls)
    relay.user = section.take("user", _line, str)
    relay.password_command = section.take("password_command", _line, str)
    relay.password_file = section.path("password_file")
    relay.hidden_names = names
    secrets = (relay.password_command is not None) + (relay.password_file is not None)
    if relay.user is None and secrets:
        raise section.mistake("user", "the login name that goes with the password")
    if relay.user is not None and secrets != 1:
        raise section.mistake("user", "exactly one of password_command and password_file beside it")
    return relay


def _aliases(path: str, table: Any) -> dict[str, list[str]]:
    allowed = 'a name with one full address or a list of them: root = "ops@example.org"'
    if not isinstance(table, dict):
        raise Refused(CONFIG, f"{path}: [aliases]: needs {allowed}")
    found = {}
    for name, value in table.items():
        targets = [value] if isinstance(value, str) else value
        if "@" in name or not isinstance(targets, list) or not targets:
            raise Refused(CONFIG, f"{path}: aliases.{name}: needs {allowed}")
        try:
            found[name.lower()] = [check_address(str(target)) for target in targets]
        except AddressError as error:
            raise Refused(CONFIG, f"{path}: aliases.{name}: {error}; needs {allowed}") from None
    return found


class _Section:
    """One table of mail.toml, which turns a wrong value into a mistake with file, key and what is allowed."""

    def __init__(self, path: str, name: str, table: dict[str, Any]) -> None:
        self._path = path
        self._name = name
        self._values = table.get(name, {})
        if not isinstance(self._values, dict):
            raise Refused(CONFIG, f"{path}: {name}: needs to be a section: [{name}]")
        _refuse_unknown(path, name, self._values, KNOWN[name])

    def take(self, key: str, read: Callable[[Any], Value], kind: type) -> Value | None:
        """The value of `key`, read by `read`, which raises ValueError with what is allowed; None when not set."""
        if key not in self._values:
            return None
        value = self._values[key]
        if type(value) is not kind:  # True is an int for isinstance
            raise self.mistake(key, "text in quotes" if kind is str else "a number without quotes")
        try:
            return read(value)
        except ValueError as error:
            raise self.mistake(key, str(error)) from None

    def path(self, key: str) -> str | None:
        """The absolute path that `key` names, seen from the folder of mail.toml; None when not set."""
        value = self.take(key, _file, str)
        return None if value is None else os.path.normpath(os.path.join(os.path.dirname(self._path), value))

    def mistake(self, key: str, allowed: str) -> Refused:
        """The exception that says what `key` needs."""
        return Refused(CONFIG, f"{self._path}: {self._name}.{key}: needs {allowed}")


def _line(text: str) -> str:
    if not text or any(sign in text for sign in "\r\n\0"):
        raise ValueError("one line of text")
    return text


def _file(text: str) -> str:
    if "://" in text:
        raise ValueError("a file: other databases are not yet known in this version")
    return _line(text)


def _host(text: str) -> str:
    if not text or not text.isascii() or any(sign.isspace() or sign in "/@" for sign in text):
        raise ValueError('the name or address of a host such as "smtp.example.org"')
    return text


def _tls(text: str) -> str:
    if text not in TLS_PORTS:
        raise ValueError('"tls", "starttls", "opportunistic" or "none"')
    return text


def _port(number: int) -> int:
    if not 0 < number < 65536:
        raise ValueError("a port from 1 to 65535")
    return number


def _refuse_unknown(path: str, section: str, table: dict[str, Any], known: tuple[str, ...]) -> None:
    for key in table:
        name = f"{section}.{key}" if section else key
        if key in known:
            continue
        if key in LATER[section]:
            raise Refused(CONFIG, f"{path}: {name}: not yet known in this version; known are {', '.join(known)}")
        raise Refused(CONFIG, f"{path}: {name}: unknown; known are {', '.join(known)}")
