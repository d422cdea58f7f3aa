"""[imap] and [[imap.accounts]] of mail.toml. Imported only when the file has them: sendmail's start does not pay for them."""

from __future__ import annotations

from workers.mail import values
from workers.mail.config import Config
from workers.mail.errors import CONFIG, Refused
from workers.mail.imap_config import INBOX, SENT, Account, Imap
from workers.mail.schema import CERTIFICATE_KEYS, LOGIN_KEYS, SECRET_KEYS, SECTIONS, Section, read_trust

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

SPAN_KEYS = ("present", "absent")
LIMIT_KEYS = ("per_user", "per_host")
TIME_KEYS = ("recent", "full", "low_at", "auth_pause", "keep_deleted")
IMAP_KEYS = ("root", "state", "threads", "tasks_per_thread", "log", "log_level", *TIME_KEYS, *LIMIT_KEYS, "accounts")
TRUST_KEYS = ("fingerprint", "ca_file", *CERTIFICATE_KEYS)
FOLDER_KEYS = ("folders", "high", "low", "outbox", "sent")
ACCOUNT_KEYS = ("name", "id", "enabled", "host", "port", "tls", *LOGIN_KEYS, *TRUST_KEYS, *FOLDER_KEYS, "per_user", "log_level")
TLS_PORTS = {"tls": 993, "starttls": 143, "opportunistic": 143, "none": 143}  # RFC 8314 3.2, RFC 9051 2.1
LOG_LEVELS = ("info", "debug")
MOST_THREADS = 1000
MOST_CONNECTIONS = 1000
LAST_ID = 2**63 - 1  # what SQLite holds
ACCOUNTS = "imap.accounts"


def read_imap(config: Config, path: str, table: dict[str, Any], names: frozenset[str]) -> None:
    """Puts both of a parsed mail.toml at `path` into `config`; `names` as in schema.configure. Raises Refused."""
    section = Section(path, "", table, SECTIONS).inner("imap", IMAP_KEYS)
    _read_worker(config.imap, section)
    config.imap.accounts = _accounts(path, section, names)


def _read_worker(imap: Imap, section: Section) -> None:
    if "://" in section.take("state", values.line, str, ""):
        raise section.mistake("state", "the path of a file: other databases are not yet known in this version")
    imap.root = section.path("root", imap.root)
    imap.state = section.path("state", imap.state)
    imap.threads = section.take("threads", values.whole(1, MOST_THREADS), int, imap.threads)
    imap.tasks_per_thread = section.take("tasks_per_thread", values.whole(1, None), int, imap.tasks_per_thread)
    imap.log = None if section.table.get("log") == "none" else section.path("log", None)
    imap.log_level = section.take("log_level", values.choice(*LOG_LEVELS), str, imap.log_level)
    recent, full = section.inner("recent", SPAN_KEYS), section.inner("full", SPAN_KEYS)
    imap.recent_present_s = recent.take("present", values.duration_s, str, imap.recent_present_s)
    imap.recent_absent_s = recent.take("absent", values.duration_s, str, imap.recent_absent_s)
    imap.full_present_s = full.take("present", values.duration_s, str, imap.full_present_s)
    imap.full_absent_s = full.take("absent", values.duration_s, str, imap.full_absent_s)
    imap.low_at = section.take("low_at", values.time_of_day, str, imap.low_at)
    imap.auth_pause_s = section.take("auth_pause", values.duration_s, str, imap.auth_pause_s)
    imap.keep_deleted_s = section.take("keep_deleted", values.duration_s, str, imap.keep_deleted_s)
    imap.per_user = section.take("per_user", values.whole(1, MOST_CONNECTIONS), int, imap.per_user)
    imap.per_host = _per_host(section)


def _per_host(section: Section) -> int | None:
    value = section.table.get("per_host", "none")
    if value == "none":
        return None
    if type(value) is not int or value < 1:
        raise section.mistake("per_host", 'a number of connections from 1 up, or "none"')
    return value


def _accounts(path: str, section: Section, hidden_names: frozenset[str]) -> list[Account]:
    """The accounts in their order in the file. A mistake names one by its name, before that is read by its number from 1."""
    tables = section.table.get("accounts", [])
    if not isinstance(tables, list) or not all(isinstance(each, dict) for each in tables):
        raise Refused(CONFIG, f"{path}: {ACCOUNTS}: needs to be sections, one for each account: [[{ACCOUNTS}]]")
    accounts: dict[str, Account] = {}
    ids: dict[int, str] = {}
    for number, table in enumerate(tables, 1):
        head = Section(path, f"{ACCOUNTS}[{number}]", table, None)
        name = head.take("name", values.component, str, None)
        if name is None:
            raise head.mistake("name", "the account's name, which is also its folder's")
        if name in accounts:
            raise head.mistake("name", f"to be another one: an account above is {name} already")
        own = Section(path, values.dotted(ACCOUNTS, name), table, ACCOUNT_KEYS)
        account = accounts[name] = _account(own, name, hidden_names)
        if account.id is not None and ids.setdefault(account.id, name) != name:
            raise own.mistake("id", f"to be another number: account {ids[account.id]} has it already")
    return list(accounts.values())


def _account(section: Section, name: str, hidden_names: frozenset[str]) -> Account:
    host = section.take("host", values.host("imap.example.org"), str, None)
    if host is None:
        raise section.mistake("host", "the name or address of the account's IMAP server")
    tls = section.take("tls", values.choice(*TLS_PORTS), str, "tls")
    port = section.take("port", values.whole(1, 65535), int, TLS_PORTS[tls])
    account = Account(name=name, host=host, port=port, tls=tls)
    account.id = section.take("id", values.whole(1, LAST_ID), int, None)
    account.enabled = section.take("enabled", bool, bool, account.enabled)
    account.hidden_names = hidden_names
    _read_login(account, section)
    read_trust(account, section)
    account.folders = section.take("folders", _folders, list, account.folders)
    account.high = section.take("high", _patterns, list, account.high)
    account.low = section.take("low", _patterns, list, account.low)
    _read_outbox(account, section)
    account.per_user = section.take("per_user", values.whole(1, MOST_CONNECTIONS), int, None)
    account.log_level = section.take("log_level", values.choice(*LOG_LEVELS), str, None)
    return account


def _read_login(account: Account, section: Section) -> None:
    account.user = section.take("user", values.words, str, account.user)
    account.password_command = section.take("password_command", values.line, str, None)
    account.password_file = section.path("password_file", None)
    account.token_command = section.take("token_command", values.line, str, None)
    given = [key for key in SECRET_KEYS if key in section.table]
    if len(given) > 1:
        raise section.mistake(given[1], f"to go: exactly one of {', '.join(SECRET_KEYS)} is allowed")
    if account.enabled and not given:
        raise section.mistake("password_file", f"to be set, or another one of {', '.join(SECRET_KEYS)}, or enabled = false")


def _read_outbox(account: Account, section: Section) -> None:
    account.outbox = section.take("outbox", values.words, str, None)
    account.sent = section.take("sent", values.words, str, SENT if account.outbox is not None else None)
    if account.outbox is None:
        if account.sent is not None:
            raise section.mistake("sent", "outbox beside it: only mail that is sent from there is moved")
    elif account.outbox.upper() == INBOX:
        raise section.mistake("outbox", "the name of a folder of its own: all mail in it is sent")
    elif account.outbox == account.sent:
        raise section.mistake("outbox", "another folder than sent: what lies in it is sent")


def _patterns(items: list[Any]) -> list[str]:
    """Patterns of folder names. Raises ValueError."""
    for item in items:
        try:
            text = values.words(item) if isinstance(item, str) else ""
        except ValueError:
            text = ""
        if not text.removeprefix("!"):
            raise ValueError('names of folders in quotes, with * for anything, and "!" before those left out: ["*", "!Spam"]')
    return items


def _folders(items: list[Any]) -> list[str]:
    patterns = _patterns(items)
    if all(pattern.startswith("!") for pattern in patterns):
        raise ValueError('at least one name of a folder without "!", or "*" for all: else nothing is copied')
    return patterns
