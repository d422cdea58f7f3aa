"""What mail.toml says, as values, with their defaults. It is found and read in load.py."""

from __future__ import annotations

import os

TYPE_CHECKING = False
if TYPE_CHECKING:
    from workers.mail.imap_config import Imap

MAX_AGE_S = 5 * 86400.0
WARN_AFTER_S = 4 * 3600.0
MAX_SIZE_BYTES = 50 * 1024**2
KEEP_SENT_S = 30 * 86400.0
NORMAL = "normal"  # the priority of a mail that names none
MAILDIR = "maildir"  # the lane of mail that no relay takes
EVERYBODY = "*"  # the identity of senders without one of their own


class Relay:
    """One mail relay: where it is, how to log in, how much it takes. `tls` is tls, starttls, opportunistic or none.

    `name` is its lane: "relay", "route:example.net" or "identity:app@example.org". `rate` is in mails per second,
    None without a limit; `fingerprint` is the lower-case hex SHA-256 of the server's certificate (DER). Files are
    absolute paths of PEM: own CA bundle, client certificate and its key. What the constructor does not take has its default.
    """

    __slots__ = (
        "auth_pause_s",
        "ca_file",
        "cert_file",
        "connections",
        "fingerprint",
        "hidden_names",
        "host",
        "key_file",
        "mails_per_connection",
        "name",
        "password_command",
        "password_file",
        "port",
        "rate",
        "recipients",
        "tls",
        "token_command",
        "user",
    )

    def __init__(self, *, host: str, port: int, tls: str, name: str = "relay") -> None:
        self.name = name
        self.host = host
        self.port = port
        self.tls = tls
        self.user: str | None = None
        self.password_command: str | None = None
        self.password_file: str | None = None
        self.token_command: str | None = None
        self.hidden_names: frozenset[str] = frozenset()  # variables named in mail.toml: kept from the commands
        self.connections = 20
        self.mails_per_connection = 100
        self.recipients = 100
        self.rate: float | None = None
        self.auth_pause_s = 1800.0
        self.fingerprint: str | None = None
        self.ca_file: str | None = None
        self.cert_file: str | None = None
        self.key_file: str | None = None


class Dkim:
    """With which key a sender's mail is signed: its selector in DNS, and the absolute path of the private key."""

    __slots__ = ("key_file", "selector")

    def __init__(self, selector: str, key_file: str) -> None:
        self.selector = selector
        self.key_file = key_file


class Identity:
    """What holds for one sender. `address` is in lower case, or "*" for all; `relay` is None when it names none."""

    __slots__ = ("address", "dkim", "name", "relay", "reply_to")

    def __init__(self, address: str) -> None:
        self.address = address
        self.relay: Relay | None = None
        self.name: str | None = None
        self.reply_to: str | None = None
        self.dkim: Dkim | None = None


class Config:
    """What is in force. Paths are absolute; `path` is the file read, or None when defaults rule.

    `domain` stands behind a bare local name, `helo` is said to relays. `warn_after_s` is None for never. `routes` are by
    recipient domain (lower case, A-labels, no dot at the end), `identities` by sender address in lower case, or "*".
    """

    __slots__ = (
        "_imap",
        "aliases",
        "asked_for",
        "database",
        "delivered",
        "domain",
        "group",
        "helo",
        "identities",
        "keep_sent_s",
        "max_age_s",
        "max_size_bytes",
        "path",
        "priorities",
        "relay",
        "routes",
        "stamp",
        "state",
        "templates",
        "unknown",
        "warn_after_s",
    )

    def __init__(self, path: str | None, state: str) -> None:
        self.path = path
        self.asked_for: str | None = None  # the file that the command line names
        self.stamp: tuple[str, int, int, int] | None = None  # of the file when it was read
        self.state = state
        self.database = os.path.join(state, "mail", "spool.db")
        self.delivered = os.path.join(state, "mail", "delivered")
        self.domain = self.helo = os.uname().nodename
        self.max_age_s = MAX_AGE_S
        self.warn_after_s: float | None = WARN_AFTER_S
        self.max_size_bytes = MAX_SIZE_BYTES
        self.keep_sent_s = KEEP_SENT_S
        self.unknown = "resend"
        self.group: str | None = None
        self.templates = os.path.join(os.path.dirname(path) if path else os.path.join(state, "mail"), "templates")
        self.priorities = {"now": 0, NORMAL: 5, "bulk": 9}
        self.aliases: dict[str, list[str]] = {}
        self.relay: Relay | None = None
        self.routes: dict[str, Relay] = {}
        self.identities: dict[str, Identity] = {}
        self._imap: Imap | None = None

    @property
    def imap(self) -> Imap:
        """What [imap] says. Made when it is first asked for: sendmail never does, and so does not import it."""
        if self._imap is None:
            from workers.mail.imap_config import Imap

            self._imap = Imap(self.state)
        return self._imap

    def lane(self, sender: str, recipient: str) -> str:
        """The name of the relay for this mail: a route beats an identity beats the relay; "maildir" when there is none."""
        relay = self.routes.get(recipient.rpartition("@")[2].rstrip(".").lower())
        if relay is None:
            identity = self.identity(sender)
            relay = (identity and identity.relay) or self.relay
        return relay.name if relay else MAILDIR

    def relays(self) -> dict[str, Relay]:
        """All relays by the name of their lane."""
        own = [identity.relay for identity in self.identities.values()]
        return {relay.name: relay for relay in (self.relay, *self.routes.values(), *own) if relay}

    def identity(self, sender: str) -> Identity | None:
        """The sender's own identity, else the one for all, else None. An own one takes nothing from the one for all."""
        return self.identities.get(sender.rstrip(".").lower()) or self.identities.get(EVERYBODY)


def says_the_same(one: object, other: object, *, without: tuple[str, ...] = ()) -> bool:
    """Whether two values of the config are equal in all that they hold, these attributes apart."""
    if isinstance(one, dict) and isinstance(other, dict):
        return one.keys() == other.keys() and all(says_the_same(one[key], other[key]) for key in one)
    slots: tuple[str, ...] | None = getattr(type(one), "__slots__", None)
    if slots is None or type(one) is not type(other):
        return one == other
    return all(says_the_same(getattr(one, slot), getattr(other, slot)) for slot in slots if slot not in without)
