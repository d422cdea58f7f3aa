"""[routes."DOMAIN"] and [identity."ADDRESS"] of mail.toml. Imported only when the file has such sections."""

from __future__ import annotations

from workers.mail import values
from workers.mail.addresses import AddressError, check_address, check_domain
from workers.mail.config import EVERYBODY, Config, Dkim, Identity, Relay
from workers.mail.schema import CERTIFICATE_KEYS, LOGIN_KEYS, RELAY_KEYS, SECTIONS, Section, read_relay

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

IDENTITY_KEYS = (*RELAY_KEYS, "name", "reply_to", "dkim")
ROUTE = 'the domain of recipients as a section: [routes."example.net"]'
IDENTITY = 'the full address of a sender, or "*" for all, as a section: [identity."app@example.org"]'


def read_routes(config: Config, path: str, table: dict[str, Any], names: frozenset[str]) -> None:
    """Puts both sections of a parsed mail.toml at `path` into `config`; `names` as in schema.configure. Raises Refused."""
    top = Section(path, "", table, SECTIONS)
    config.routes = _routes(top.inner("routes", None), names)
    config.identities = _identities(top.inner("identity", None), table.get("relay"), names)


def _routes(section: Section, hidden_names: frozenset[str]) -> dict[str, Relay]:
    """The relays by recipient domain: lower case, A-labels, no dot at the end. Raises Refused."""
    routes: dict[str, Relay] = {}
    for key in section.table:
        try:
            domain = check_domain(key).rstrip(".").lower()
        except AddressError as error:
            raise section.mistake(key, f"{ROUTE} ({error})") from None
        if domain in routes:
            raise section.mistake(key, f"to go: it is the domain {domain}, which has a section already")
        routes[domain] = read_relay(section.inner(key, RELAY_KEYS), f"route:{domain}", hidden_names, "the name of its relay")
    return routes


def _identities(section: Section, relay_table: Any, hidden_names: frozenset[str]) -> dict[str, Identity]:
    """The identities by sender address in lower case, or "*"; `relay_table` is the valid [relay], or None. Raises Refused."""
    identities: dict[str, Identity] = {}
    for key in section.table:
        address = _address(section, key)
        if address in identities:
            raise section.mistake(key, f"to go: it is the sender {address}, who has a section already")
        own = section.inner(key, IDENTITY_KEYS)
        identity = identities[address] = Identity(address)
        identity.name = own.take("name", values.words, str, None)
        identity.reply_to = own.take("reply_to", _reply_to, str, None)
        identity.dkim = _dkim(own.inner("dkim", ("selector", "key_file"))) if "dkim" in own.table else None
        identity.relay = _relay(own, address, relay_table, hidden_names)
    return identities


def _relay(own: Section, address: str, relay_table: Any, hidden_names: frozenset[str]) -> Relay | None:
    """The identity's relay: with a host its own alone, so that no password goes to another host; else a changed [relay]."""
    given = {key: value for key, value in own.table.items() if key in RELAY_KEYS}
    if not given:
        return None
    if "host" not in given:
        if relay_table is None:
            raise own.mistake(next(iter(given)), "host beside it, or a [relay] section that it changes")
        given = _changed(relay_table, given)
    return read_relay(own.holding(given, RELAY_KEYS), f"identity:{address}", hidden_names, "the name of its relay")


def _changed(base: dict[str, Any], given: dict[str, Any]) -> dict[str, Any]:
    """`base` with the given keys; user and secret belong together, as do certificate and key, and are replaced as one."""
    replaced = {key for group in (LOGIN_KEYS, CERTIFICATE_KEYS) if not given.keys().isdisjoint(group) for key in group}
    return {key: value for key, value in base.items() if key not in replaced} | given


def _address(section: Section, key: str) -> str:
    if key == EVERYBODY:
        return key
    try:
        return check_address(key).rstrip(".").lower()
    except AddressError as error:
        raise section.mistake(key, f"{IDENTITY} ({error})") from None


def _reply_to(text: str) -> str:
    try:
        return check_address(text)
    except AddressError as error:
        raise ValueError(f"one full address ({error})") from None


def _dkim(section: Section) -> Dkim:
    selector = section.take("selector", values.selector, str, None)
    if selector is None:
        raise section.mistake("selector", "the name under which the public key stands in DNS")
    key_file = section.path("key_file", None)
    if key_file is None:
        raise section.mistake("key_file", "the path of the private key in PEM")
    return Dkim(selector, key_file)
