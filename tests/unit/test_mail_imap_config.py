"""[imap] and [[imap.accounts]] of mail.toml: what they may say, the defaults, and how mistakes are named."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.unit.test_mail_config import loaded, modules_after_load, written
from workers.mail.config import Config
from workers.mail.errors import CONFIG, Refused
from workers.mail.imap_config import Account
from workers.mail.secrets import SecretError, password, token

DIGITS = "ab" * 32
ACCOUNT = '[[imap.accounts]]\nname = "alice"\nhost = "imap.example.org"\n'
SECRET = 'password_file = "alice.pw"\n'
IMAP_DEFAULTS: dict[str, object] = {
    "threads": 14,
    "tasks_per_thread": 200,
    "log": None,
    "log_level": "info",
    "recent_present_s": 600,
    "recent_absent_s": 1800,
    "full_present_s": 3600,
    "full_absent_s": 4800,
    "low_at": 1200,
    "auth_pause_s": 1800,
    "per_user": 4,
    "per_host": None,
    "keep_deleted_s": 30 * 86400,
    "accounts": [],
}
ACCOUNT_DEFAULTS: dict[str, object] = {
    "name": "alice",
    "id": None,
    "enabled": True,
    "host": "imap.example.org",
    "port": 993,
    "tls": "tls",
    "user": "alice",
    "password_command": None,
    "token_command": None,
    "hidden_names": frozenset(),
    "fingerprint": None,
    "ca_file": None,
    "cert_file": None,
    "key_file": None,
    "folders": ["*"],
    "high": ["INBOX"],
    "low": [],
    "outbox": None,
    "sent": None,
    "per_user": None,
    "log_level": None,
}
# the contract's own sample, all keys as it shows them
SAMPLE = """
[imap]
root = "mail/accounts"
state = "mail/imap.db"
threads = 14
tasks_per_thread = 200
log = "none"
log_level = "info"
recent = { present = "10m", absent = "30m" }
full = { present = "60m", absent = "80m" }
low_at = "20:00"
auth_pause = "30m"
per_user = 4
per_host = "none"
keep_deleted = "30d"
[[imap.accounts]]
name = "alice"
id = 53
enabled = true
host = "imap.example.org"
port = 993
tls = "tls"
user = "alice"
password_file = "alice.pw"
folders = ["*", "!Spam"]
high = ["INBOX"]
low = ["Archive/*"]
outbox = "To send"
sent = "Sent"
"""


def account(folder: Path, text: str) -> Account:
    """The account ACCOUNT with more lines."""
    (found,) = loaded(folder, ACCOUNT + text).imap.accounts
    return found


@pytest.mark.parametrize("text", [None, "", "[imap]\n", ACCOUNT + "enabled = false\n"])
def test_the_defaults_are_the_same_with_and_without_a_file_and_a_section(tmp_path: Path, text: str | None) -> None:
    state = f'[spool]\nstate = "{tmp_path}/s"\n'
    config = Config(None, f"{tmp_path}/s") if text is None else loaded(tmp_path, state + text)
    given = {key: getattr(config.imap, key) for key in IMAP_DEFAULTS}
    assert [each.name for each in given["accounts"]] == (["alice"] if text and "accounts" in text else [])
    assert given | {"accounts": []} == IMAP_DEFAULTS
    assert config.imap.root == f"{tmp_path}/s/mail/accounts"
    assert config.imap.state == f"{tmp_path}/s/mail/imap.db"
    assert config.imap is config.imap


def test_the_defaults_of_an_account(tmp_path: Path) -> None:
    found = account(tmp_path, SECRET)
    assert {key: getattr(found, key) for key in ACCOUNT_DEFAULTS} == ACCOUNT_DEFAULTS
    assert found.password_file == f"{tmp_path}/alice.pw"
    assert {*ACCOUNT_DEFAULTS, "password_file"} == set(Account.__slots__)


def test_the_sample_of_the_contract_shows_the_defaults(tmp_path: Path) -> None:
    imap = loaded(tmp_path, SAMPLE).imap
    assert {key: getattr(imap, key) for key in IMAP_DEFAULTS} | {"accounts": []} == IMAP_DEFAULTS
    assert imap.root == f"{tmp_path}/mail/accounts"
    assert imap.state == f"{tmp_path}/mail/imap.db"
    (found,) = imap.accounts
    changed = {"id": 53, "folders": ["*", "!Spam"], "low": ["Archive/*"], "outbox": "To send", "sent": "Sent"}
    assert {key: getattr(found, key) for key in ACCOUNT_DEFAULTS} == ACCOUNT_DEFAULTS | changed


@pytest.mark.parametrize(
    ("line", "key", "value"),
    [
        ('root = "/r/../q"', "root", "/q"),
        ('state = "/s.db"', "state", "/s.db"),
        ("threads = 3", "threads", 3),
        ("tasks_per_thread = 9", "tasks_per_thread", 9),
        ('log = "/l"', "log", "/l"),
        ('log_level = "debug"', "log_level", "debug"),
        ('recent = { present = "5s" }', "recent_present_s", 5),
        ('recent = { present = "5s" }', "recent_absent_s", 1800),
        ('recent = { absent = "6s" }', "recent_absent_s", 6),
        ('full = { present = "7s" }', "full_present_s", 7),
        ('full = { absent = "8s" }', "full_absent_s", 8),
        ('low_at = "00:00"', "low_at", 0),
        ('low_at = "23:59"', "low_at", 1439),
        ('auth_pause = "1h"', "auth_pause_s", 3600),
        ("per_user = 15", "per_user", 15),
        ("per_host = 40", "per_host", 40),
        ('keep_deleted = "1d"', "keep_deleted_s", 86400),
    ],
)
def test_each_key_is_read(tmp_path: Path, line: str, key: str, value: object) -> None:
    assert getattr(loaded(tmp_path, f"[imap]\n{line}\n").imap, key) == value


@pytest.mark.parametrize(
    ("line", "key", "value"),
    [
        ("id = 1", "id", 1),
        ("id = 9223372036854775807", "id", 2**63 - 1),
        ("enabled = false", "enabled", False),
        ('tls = "starttls"', "port", 143),
        ('tls = "opportunistic"', "port", 143),
        ('tls = "none"', "port", 143),
        ('tls = "none"\nport = 1143', "port", 1143),
        ('user = "a@b"', "user", "a@b"),
        (f'fingerprint = "sha256:{DIGITS.upper()}"', "fingerprint", DIGITS),
        ('ca_file = "/ca.pem"', "ca_file", "/ca.pem"),
        ('cert_file = "/c"\nkey_file = "/k"', "key_file", "/k"),
        ('folders = ["!Spam", "INBOX"]', "folders", ["!Spam", "INBOX"]),
        ("high = []", "high", []),
        ('low = ["Archive/*"]', "low", ["Archive/*"]),
        ('outbox = "To send"', "sent", "Sent"),
        ('outbox = "To send"\nsent = "Gesendet"', "sent", "Gesendet"),
        ("per_user = 2", "per_user", 2),
        ('log_level = "debug"', "log_level", "debug"),
    ],
)
def test_each_key_of_an_account_is_read(tmp_path: Path, line: str, key: str, value: object) -> None:
    assert getattr(account(tmp_path, f"{SECRET}{line}\n"), key) == value


def test_the_accounts_keep_their_order_and_what_is_theirs(tmp_path: Path) -> None:
    second = '[[imap.accounts]]\nname = "bob"\nhost = "h"\npassword_command = "pass bob"\nlow = ["x"]\n'
    third = '[[imap.accounts]]\nname = "carol"\nhost = "h"\nid = 1\ntoken_command = "token carol"\n'
    alice, bob, carol = loaded(tmp_path, ACCOUNT + SECRET + second + third).imap.accounts
    assert [alice.name, bob.name, carol.name] == ["alice", "bob", "carol"]
    assert [alice.password_command, bob.password_command, carol.password_command] == [None, "pass bob", None]
    assert [alice.token_command, bob.token_command, carol.token_command] == [None, None, "token carol"]
    assert [alice.password_file, bob.password_file] == [f"{tmp_path}/alice.pw", None]
    alice.high.append("mine")
    assert (bob.high, bob.low, carol.low) == (["INBOX"], ["x"], [])


@pytest.mark.parametrize("name", ["a", "7", "alice@example.org", "A_b-c+d.e", "_", "-x", "n" * 100])
def test_a_name_that_is_a_safe_part_of_a_path_is_taken(tmp_path: Path, name: str) -> None:
    (found,) = loaded(tmp_path, ACCOUNT.replace("alice", name) + SECRET).imap.accounts
    assert (found.name, found.user) == (name, name)


@pytest.mark.parametrize("name", ["", ".", "..", ".removed", "a/b", "a b", "ä", "a\\u0000", "a\\n", "n" * 101, "a:b", "٣"])
def test_a_name_that_is_none_is_refused_with_the_number_of_its_section(tmp_path: Path, name: str) -> None:
    good = '[[imap.accounts]]\nname = "bob"\nhost = "h"\nenabled = false\n'
    with pytest.raises(Refused) as refused:
        loaded(tmp_path, good + ACCOUNT.replace("alice", name) + SECRET)
    assert refused.value.status == CONFIG
    assert str(refused.value).startswith(f"{tmp_path}/mail.toml: imap.accounts[2].name: needs up to 100 letters")


OFF = "enabled = false\n"
SECOND = '[[imap.accounts]]\nhost = "h"\nenabled = false\n'


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("imap = 3\n", ["imap", "section"]),
        ("[[imap]]\n", ["imap", "section"]),
        ("[imap]\nfoo = 1\n", ["imap.foo", "unknown", "tasks_per_thread", "accounts"]),
        ("[imap]\nroot = 1\n", ["imap.root", "quotes"]),
        ('[imap]\nstate = "postgresql://h/d"\n', ["imap.state", "not yet known"]),
        ("[imap]\nthreads = 0\n", ["imap.threads", "from 1 to 1000"]),
        ('[imap]\nthreads = "3"\n', ["imap.threads", "without quotes"]),
        ("[imap]\ntasks_per_thread = 0\n", ["imap.tasks_per_thread", "from 1 up"]),
        ("[imap]\nlog = true\n", ["imap.log", "quotes"]),
        ('[imap]\nlog_level = "loud"\n', ["imap.log_level", '"info" or "debug"']),
        ('[imap]\nrecent = "10m"\n', ["imap.recent", "section"]),
        ('[imap]\nrecent = { always = "1m" }\n', ["imap.recent.always", "present, absent"]),
        ('[imap]\nrecent = { present = "0s" }\n', ["imap.recent.present", "30m"]),
        ("[imap]\nfull = { absent = 3 }\n", ["imap.full.absent", "quotes"]),
        ('[imap]\nlow_at = "24:00"\n', ["imap.low_at", "23:59"]),
        ('[imap]\nlow_at = "20:60"\n', ["imap.low_at", "23:59"]),
        ('[imap]\nlow_at = "8:00"\n', ["imap.low_at", "23:59"]),
        ('[imap]\nlow_at = "1²:00"\n', ["imap.low_at", "23:59"]),
        ('[imap]\nlow_at = "020:0"\n', ["imap.low_at", "23:59"]),
        ("[imap]\nlow_at = 20:00:00\n", ["imap.low_at", "quotes"]),
        ('[imap]\nauth_pause = "never"\n', ["imap.auth_pause", "30m"]),
        ("[imap]\nper_user = 0\n", ["imap.per_user", "from 1 to"]),
        ("[imap]\nper_host = 0\n", ["imap.per_host", '1 up, or "none"']),
        ("[imap]\nper_host = true\n", ["imap.per_host", '1 up, or "none"']),
        ('[imap]\nkeep_deleted = "30"\n', ["imap.keep_deleted", "5d"]),
        ("[imap]\naccounts = []\nfoo = 1\n", ["imap.foo", "unknown"]),
        ('[imap.accounts]\nname = "a"\n', ["imap.accounts", "[[imap.accounts]]"]),
        ('[imap]\naccounts = ["a"]\n', ["imap.accounts", "[[imap.accounts]]"]),
        (SECOND, ["imap.accounts[1].name", "folder"]),
        (ACCOUNT + OFF + SECOND, ["imap.accounts[2].name", "folder"]),
        (ACCOUNT + OFF + ACCOUNT + OFF, ["imap.accounts[2].name", "another one", "alice"]),
        ("[[imap.accounts]]\nname = 3\n", ["imap.accounts[1].name", "quotes"]),
        ('[[imap.accounts]]\nname = "alice"\n', ["imap.accounts.alice.host", "IMAP server"]),
        ('[[imap.accounts]]\nname = "a@b"\n', ['imap.accounts."a@b".host', "IMAP server"]),
        (ACCOUNT + "foo = 1\n", ["imap.accounts.alice.foo", "unknown", "password_file", "outbox"]),
        (ACCOUNT.replace("imap.example.org", "a b"), ["imap.accounts.alice.host", "or address of a host", "imap.example"]),
        (ACCOUNT.replace("example.org", "example.org:993"), ["imap.accounts.alice.host", "a key of its own: port = 993"]),
        (ACCOUNT + 'password = "x"\n', ["imap.accounts.alice.password", "secrets do not stand in mail.toml; use password_file"]),
        (ACCOUNT + 'foldres = ["x"]\n', ["imap.accounts.alice.foldres", "unknown; did you mean folders?"]),
        (ACCOUNT + OFF + "id = 0\n", ["imap.accounts.alice.id", "from 1 to"]),
        (ACCOUNT + OFF + "id = 9223372036854775808\n", ["imap.accounts.alice.id", "from 1 to"]),
        (ACCOUNT + OFF + "id = true\n", ["imap.accounts.alice.id", "number"]),
        (ACCOUNT + OFF + "id = 3\n" + SECOND + 'name = "bob"\nid = 3\n', ["imap.accounts.bob.id", "another number", "alice"]),
        (ACCOUNT + "enabled = 1\n", ["imap.accounts.alice.enabled", "true or false"]),
        (ACCOUNT + OFF + "port = 65536\n", ["imap.accounts.alice.port", "1 to 65535"]),
        (ACCOUNT + OFF + 'tls = "ssl"\n', ["imap.accounts.alice.tls", '"tls", "starttls", "opportunistic" or "none"']),
        (ACCOUNT + OFF + 'user = "a\\nb"\n', ["imap.accounts.alice.user", "control characters"]),
        (ACCOUNT, ["imap.accounts.alice.password_file", "password_command", "token_command", "enabled = false"]),
        (ACCOUNT + SECRET + 'token_command = "t"\n', ["imap.accounts.alice.token_command", "to go", "exactly one"]),
        (ACCOUNT + OFF + SECRET + 'password_command = "t"\n', ["imap.accounts.alice.password_file", "exactly one"]),
        (ACCOUNT + 'password_command = ""\n', ["imap.accounts.alice.password_command", "one line"]),
        (ACCOUNT + OFF + 'fingerprint = "md5:ab"\n', ["imap.accounts.alice.fingerprint", "sha256"]),
        (ACCOUNT + OFF + 'cert_file = "c"\n', ["imap.accounts.alice.key_file", "go together"]),
        (ACCOUNT + OFF + 'tls = "none"\nca_file = "c"\n', ["imap.accounts.alice.tls", "beside fingerprint"]),
        (ACCOUNT + OFF + 'folders = "INBOX"\n', ["imap.accounts.alice.folders", "a list"]),
        (ACCOUNT + OFF + "folders = []\n", ["imap.accounts.alice.folders", "nothing is copied"]),
        (ACCOUNT + OFF + 'folders = ["!Spam"]\n', ["imap.accounts.alice.folders", "nothing is copied"]),
        (ACCOUNT + OFF + "folders = [1]\n", ["imap.accounts.alice.folders", "in quotes"]),
        (ACCOUNT + OFF + 'high = ["!"]\n', ["imap.accounts.alice.high", "in quotes"]),
        (ACCOUNT + OFF + 'high = [""]\n', ["imap.accounts.alice.high", "in quotes"]),
        (ACCOUNT + OFF + 'low = ["a\\rb"]\n', ["imap.accounts.alice.low", "in quotes"]),
        (ACCOUNT + OFF + 'sent = "Sent"\n', ["imap.accounts.alice.sent", "outbox"]),
        (ACCOUNT + OFF + 'outbox = "inbox"\n', ["imap.accounts.alice.outbox", "all mail in it is sent"]),
        (ACCOUNT + OFF + 'outbox = "Sent"\n', ["imap.accounts.alice.outbox", "another folder than sent"]),
        (ACCOUNT + OFF + "per_user = 0\n", ["imap.accounts.alice.per_user", "from 1 to"]),
        (ACCOUNT + OFF + 'log_level = "none"\n', ["imap.accounts.alice.log_level", '"info" or "debug"']),
        (ACCOUNT + 'user = "${SURELY_NOT_SET}"\n', ["imap.accounts[1].user", "SURELY_NOT_SET"]),
        (ACCOUNT + 'folders = ["${SURELY_NOT_SET}"]\n', ["imap.accounts[1].folders", "SURELY_NOT_SET"]),
    ],
)
def test_a_mistake_names_file_key_and_what_is_allowed(tmp_path: Path, text: str, words: list[str]) -> None:
    with pytest.raises(Refused) as refused:
        loaded(tmp_path, text)
    assert refused.value.status == CONFIG
    key, *allowed = words
    assert str(refused.value).startswith(f"{tmp_path}/mail.toml: {key}: ")
    for word in allowed:
        assert word in str(refused.value)


def test_variables_are_kept_from_the_commands_of_an_account(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("IMAP_WORD", "s3cret")
    found = account(tmp_path, 'password_command = "echo has-${IMAP_WORD}"\n')
    assert found.hidden_names == {"IMAP_WORD"}
    assert password(found) == "has-s3cret"
    found.password_command = """sh -c 'echo "now:$IMAP_WORD"'"""
    assert password(found) == "now:"


def test_the_secrets_of_an_account_are_fetched_as_a_relay_s_are(tmp_path: Path) -> None:
    (tmp_path / "alice.pw").write_text("s3cret\n")
    (tmp_path / "alice.pw").chmod(0o600)
    assert password(account(tmp_path, SECRET)) == "s3cret"
    assert token(account(tmp_path, 'token_command = "echo t0ken"\n')) == "t0ken"
    with pytest.raises(SecretError, match="alice: has neither password_command nor password_file"):
        password(account(tmp_path, OFF))


def test_only_a_file_with_imap_imports_what_reads_it(tmp_path: Path) -> None:
    own = {"workers.mail.imap_config", "workers.mail.imap_schema"}
    assert not modules_after_load() & own
    assert not modules_after_load(written(tmp_path, '[relay]\nhost = "h"\n')) & own
    with_section = modules_after_load(written(tmp_path, "[imap]\nthreads = 2\n"))
    assert with_section & {*own, "tomllib"} == own
    with_account = modules_after_load(written(tmp_path, ACCOUNT + OFF))
    assert with_account & {*own, "tomllib"} == own
