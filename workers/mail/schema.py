"""The keys of mail.toml that this version knows, and how a parsed table becomes a Config.

Imported only when a config file exists. An unknown key is a mistake: a setting that has no effect must not look as if
it had one.
"""

from __future__ import annotations

import os

from workers.mail import values
from workers.mail.addresses import AddressError, check_address, check_domain
from workers.mail.config import NORMAL, Config, Relay
from workers.mail.errors import CONFIG, Refused

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any, TypeVar

    from workers.mail.imap_config import Account

    Value = TypeVar("Value")

SECTIONS = ("spool", "aliases", "relay", "routes", "identity", "imap")
SPOOL_KEYS = (
    "state",  # moves the whole state folder (database and Maildir), which is also how tests stay inside their own
    "database",
    "domain",
    "helo",
    "max_age",
    "warn_after",
    "max_size",
    "keep_sent",
    "unknown",
    "group",
    "templates",
    "priorities",
)
SECRET_KEYS = ("password_command", "password_file", "token_command")
INLINE = ("password", "passwd", "pass", "secret", "token")  # what people write for a secret itself
LOGIN_KEYS = ("user", *SECRET_KEYS)
CERTIFICATE_KEYS = ("cert_file", "key_file")
LIMIT_KEYS = ("connections", "mails_per_connection", "recipients", "rate", "auth_pause")
RELAY_KEYS = ("host", "port", "tls", *LOGIN_KEYS, *LIMIT_KEYS, "fingerprint", "ca_file", *CERTIFICATE_KEYS)
TLS_PORTS = {"tls": 465, "starttls": 587, "opportunistic": 25, "none": 25}  # RFC 8314 3.3, RFC 6409 3.1, RFC 5321
MOST_CONNECTIONS = 1000
MOST_RECIPIENTS = 500
LAST_PRIORITY = 9
WITHOUT_RELAY = "the name of the relay; without a [relay] section mail goes into a Maildir"
KINDS = {
    str: "text in quotes",
    int: "a number without quotes",
    bool: "true or false, without quotes",
    list: 'a list: ["…", "…"]',
}


def configure(path: str, default_state: str | None, table: dict[str, Any], names: frozenset[str]) -> Config:
    """The Config of a parsed mail.toml at `path`; `names` are the variables it takes from the environment. [routes] and
    [identity] are read in routes.py, [imap] in imap_schema.py.

    Raises Refused(78) naming file, key and what is allowed.
    """
    top = Section(path, "", table, SECTIONS)
    spool = top.inner("spool", SPOOL_KEYS)
    state = spool.path("state", default_state)
    if state is None:
        raise spool.mistake("state", "the path of a folder: this user has no home in passwd")
    config = Config(path, state)
    _read_spool(config, spool)
    config.aliases = _aliases(path, table.get("aliases", {}))
    if "relay" in table:
        config.relay = read_relay(top.inner("relay", RELAY_KEYS), "relay", names, WITHOUT_RELAY)
    return config


def read_relay(section: Section, name: str, hidden_names: frozenset[str], why_host: str) -> Relay:
    """The relay that a table describes, as lane `name`. Raises Refused."""
    host = section.take("host", values.host("smtp.example.org"), str, None)
    if host is None:
        raise section.mistake("host", why_host)
    tls = section.take("tls", values.choice(*TLS_PORTS), str, "starttls")
    relay = Relay(host=host, port=section.take("port", values.whole(1, 65535), int, TLS_PORTS[tls]), tls=tls, name=name)
    _read_login(relay, section)
    relay.hidden_names = hidden_names
    relay.connections = section.take("connections", values.whole(1, MOST_CONNECTIONS), int, relay.connections)
    relay.mails_per_connection = section.take("mails_per_connection", values.whole(1, None), int, relay.mails_per_connection)
    relay.recipients = section.take("recipients", values.whole(1, MOST_RECIPIENTS), int, relay.recipients)
    relay.rate = section.take("rate", values.rate_per_s, str, None)
    relay.auth_pause_s = section.take("auth_pause", values.duration_s, str, relay.auth_pause_s)
    read_trust(relay, section)
    return relay


def read_trust(target: Relay | Account, section: Section) -> None:
    """What proves the server, and us to it, by certificates. Raises Refused."""
    target.fingerprint = section.take("fingerprint", values.fingerprint, str, None)
    target.ca_file = section.path("ca_file", None)
    target.cert_file = section.path("cert_file", None)
    target.key_file = section.path("key_file", None)
    if (target.cert_file is None) != (target.key_file is None):
        missing = "cert_file" if target.cert_file is None else "key_file"
        raise section.mistake(missing, "the path of a PEM file: cert_file and key_file go together")
    if target.tls == "none" and (target.fingerprint or target.ca_file or target.cert_file):
        raise section.mistake("tls", '"tls", "starttls" or "opportunistic" beside fingerprint, ca_file and cert_file')


def _read_login(relay: Relay, section: Section) -> None:
    relay.user = section.take("user", values.words, str, None)
    relay.password_command = section.take("password_command", values.line, str, None)
    relay.password_file = section.path("password_file", None)
    relay.token_command = section.take("token_command", values.line, str, None)
    secrets = sum(key in section.table for key in SECRET_KEYS)
    if relay.user is None and secrets:
        raise section.mistake("user", "the login name that goes with the password or token")
    if relay.user is not None and secrets != 1:
        raise section.mistake("user", f"exactly one of {', '.join(SECRET_KEYS)} beside it")


def _read_spool(config: Config, spool: Section) -> None:
    if "://" in spool.take("database", values.line, str, ""):
        raise spool.mistake("database", "the path of a file: other databases are not yet known in this version")
    config.database = spool.path("database", config.database)
    config.domain = spool.take("domain", _domain, str, config.domain)
    config.helo = spool.take("helo", _domain, str, config.domain)
    config.max_age_s = spool.take("max_age", values.duration_s, str, config.max_age_s)
    config.warn_after_s = spool.take("warn_after", values.duration_or_never_s, str, config.warn_after_s)
    config.max_size_bytes = spool.take("max_size", values.size_bytes, str, config.max_size_bytes)
    config.keep_sent_s = spool.take("keep_sent", values.duration_s, str, config.keep_sent_s)
    config.unknown = spool.take("unknown", values.choice("resend", "hold"), str, config.unknown)
    config.group = spool.take("group", _group, str, None)
    config.templates = spool.path("templates", config.templates)
    if "priorities" in spool.table:
        config.priorities = _priorities(spool.inner("priorities", None))


def _priorities(section: Section) -> dict[str, int]:
    for name in section.table:
        if not name or name.isdigit():
            raise section.mistake(name, "a name that is no number")
    if NORMAL not in section.table:
        raise section.mistake(NORMAL, f"a number from 0 to {LAST_PRIORITY}: the priority of mail that names none")
    return {name: section.take(name, values.whole(0, LAST_PRIORITY), int, 0) for name in section.table}


def _aliases(path: str, table: Any) -> dict[str, list[str]]:
    allowed = 'a name with one full address or a list of them: root = "ops@example.org"'
    if not isinstance(table, dict):
        raise Refused(CONFIG, f"{path}: [aliases]: needs {allowed}")
    found = {}
    for name, value in table.items():
        targets = [value] if isinstance(value, str) else value
        key = values.dotted("aliases", name)
        if "@" in name or not isinstance(targets, list) or not targets:
            raise Refused(CONFIG, f"{path}: {key}: needs {allowed}")
        try:
            found[name.lower()] = [check_address(str(target)) for target in targets]
        except AddressError as error:
            raise Refused(CONFIG, f"{path}: {key}: {error}; needs {allowed}") from None
    return found


def _domain(text: str) -> str:
    try:
        return check_domain(text)
    except AddressError:
        raise ValueError('the name of a domain or host such as "mail.example.org"') from None


def _group(text: str) -> str:
    import grp

    try:
        grp.getgrnam(values.words(text))
    except KeyError:
        raise ValueError("the name of a group of this host; make it first, with groupadd") from None
    return text


def _unknown(key: str, known: tuple[str, ...]) -> str:
    """What to do about a key that there is not."""
    if key.lower() in INLINE and "password_file" in known:
        return "secrets do not stand in mail.toml; use password_file (or password_command, token_command)"
    from difflib import get_close_matches

    near = get_close_matches(key, known, 1)
    return f"unknown; {f'did you mean {near[0]}? ' if near else ''}known are {', '.join(known)}"


class Section:
    """One table of mail.toml, which turns a wrong value into a mistake with file, key and what is allowed.

    `known` are its keys; None when they are names that the user chooses. Raises Refused for any other key.
    """

    def __init__(self, path: str, name: str, table: Any, known: tuple[str, ...] | None) -> None:
        self._path = path
        self._name = name
        if not isinstance(table, dict):
            raise Refused(CONFIG, f"{path}: {name}: needs to be a section: [{name}]")
        self.table: dict[str, Any] = table
        for key in table:
            if known is not None and key not in known:
                raise Refused(CONFIG, f"{path}: {values.dotted(name, key)}: {_unknown(key, known)}")

    def inner(self, key: str, known: tuple[str, ...] | None) -> Section:
        """The table under `key`; an empty one when there is none."""
        return Section(self._path, values.dotted(self._name, key), self.table.get(key, {}), known)

    def holding(self, table: dict[str, Any], known: tuple[str, ...] | None) -> Section:
        """A section of the same name with another table."""
        return Section(self._path, self._name, table, known)

    def take(self, key: str, read: Callable[[Any], Value], kind: type, default: Value) -> Value:
        """The value of `key`, read by `read`, which raises ValueError with what is allowed; `default` when not set."""
        if key not in self.table:
            return default
        value = self.table[key]
        if type(value) is not kind:  # True is an int for isinstance
            raise self.mistake(key, KINDS[kind])
        try:
            return read(value)
        except ValueError as error:
            raise self.mistake(key, str(error)) from None

    def path(self, key: str, default: Value) -> str | Value:
        """The absolute path that `key` names, seen from the folder of mail.toml; `default` when not set."""
        if key not in self.table:
            return default
        return os.path.normpath(os.path.join(os.path.dirname(self._path), self.take(key, values.line, str, "")))

    def mistake(self, key: str, allowed: str) -> Refused:
        """The exception that says what `key` needs."""
        return Refused(CONFIG, f"{self._path}: {values.dotted(self._name, key)}: needs {allowed}")
