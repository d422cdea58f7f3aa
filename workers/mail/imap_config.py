"""What mail.toml says to imap-sync, as values, with their defaults. It is read in imap_schema.py."""

from __future__ import annotations

import os

THREADS = 14
TASKS_PER_THREAD = 200
RECENT_PRESENT_S = 600.0
RECENT_ABSENT_S = 1800.0
FULL_PRESENT_S = 3600.0
FULL_ABSENT_S = 4800.0
LOW_AT = 20 * 60  # "20:00"
AUTH_PAUSE_S = 1800.0
PER_USER = 4
KEEP_DELETED_S = 30 * 86400.0
EVERYTHING = "*"
INBOX = "INBOX"
SENT = "Sent"  # where sent mail goes when the file names only an outbox


class Account:
    """One IMAP account: where it is, how to log in, what is copied. `tls` is tls, starttls, opportunistic or none.

    `name` is unique and one safe component of a path; `id` is unique, or None when the file gives none. Exactly one of
    the secrets is set; none may be in an account that is not `enabled`. `fingerprint` is the lower-case hex SHA-256 of
    the server's certificate (DER); files are absolute paths, of PEM but for the password's. `folders`, `high` and
    `low` are patterns of folder names, `!` before those left out; `sent` is None exactly when `outbox` is. `per_user`
    and `log_level` are None where those of Imap hold. What the constructor does not take has its default.
    """

    __slots__ = (
        "ca_file",
        "cert_file",
        "enabled",
        "fingerprint",
        "folders",
        "hidden_names",
        "high",
        "host",
        "id",
        "key_file",
        "log_level",
        "low",
        "name",
        "outbox",
        "password_command",
        "password_file",
        "per_user",
        "port",
        "sent",
        "tls",
        "token_command",
        "user",
    )

    def __init__(self, *, name: str, host: str, port: int = 993, tls: str = "tls") -> None:
        self.name = name
        self.id: int | None = None
        self.enabled = True
        self.host = host
        self.port = port
        self.tls = tls
        self.user = name
        self.password_command: str | None = None
        self.password_file: str | None = None
        self.token_command: str | None = None
        self.hidden_names: frozenset[str] = frozenset()  # variables named in mail.toml: kept from the commands
        self.fingerprint: str | None = None
        self.ca_file: str | None = None
        self.cert_file: str | None = None
        self.key_file: str | None = None
        self.folders = [EVERYTHING]
        self.high = [INBOX]
        self.low: list[str] = []
        self.outbox: str | None = None
        self.sent: str | None = None
        self.per_user: int | None = None
        self.log_level: str | None = None


class Imap:
    """What holds for all accounts. `root`, `state` and `log` are absolute paths, `log` of a folder, None without one.

    `present` and `absent` are about the account's user. `low_at` is a time of day in minutes since midnight; `per_user`
    and `per_host` are numbers of connections, `per_host` None without a limit.
    """

    __slots__ = (
        "accounts",
        "auth_pause_s",
        "full_absent_s",
        "full_present_s",
        "keep_deleted_s",
        "log",
        "log_level",
        "low_at",
        "per_host",
        "per_user",
        "recent_absent_s",
        "recent_present_s",
        "root",
        "state",
        "tasks_per_thread",
        "threads",
    )

    def __init__(self, state_folder: str) -> None:
        """`state_folder` is Config.state."""
        self.root = os.path.join(state_folder, "mail", "accounts")
        self.state = os.path.join(state_folder, "mail", "imap.db")
        self.threads = THREADS
        self.tasks_per_thread = TASKS_PER_THREAD
        self.log: str | None = None
        self.log_level = "info"
        self.recent_present_s = RECENT_PRESENT_S
        self.recent_absent_s = RECENT_ABSENT_S
        self.full_present_s = FULL_PRESENT_S
        self.full_absent_s = FULL_ABSENT_S
        self.low_at = LOW_AT
        self.auth_pause_s = AUTH_PAUSE_S
        self.per_user = PER_USER
        self.per_host: int | None = None
        self.keep_deleted_s = KEEP_DELETED_S
        self.accounts: list[Account] = []
