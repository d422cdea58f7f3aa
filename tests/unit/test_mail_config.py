"""mail.toml: which one is in force, what it may say, and how mistakes are named."""

from __future__ import annotations

import grp
import os
import re
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from workers.mail import load as load_module
from workers.mail.config import Config, says_the_same
from workers.mail.errors import CONFIG, Refused
from workers.mail.load import find, find_again, load, load_again, stamp


def written(folder: Path, text: str, mode: int = 0o600) -> str:
    path = folder / "mail.toml"
    path.write_text(text)
    path.chmod(mode)
    return str(path)


def loaded(folder: Path, text: str) -> Config:
    return load(written(folder, text))


def test_the_order_in_which_a_config_is_looked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    system = tmp_path / "etc.toml"
    monkeypatch.setattr(load_module, "SYSTEM_FILE", str(system))
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
    monkeypatch.setattr(load_module, "SYSTEM_FILE", str(tmp_path / "none"))
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


DEFAULTS = {
    "max_age_s": 5 * 86400,
    "warn_after_s": 4 * 3600,
    "max_size_bytes": 50 * 1024**2,
    "keep_sent_s": 30 * 86400,
    "unknown": "resend",
    "group": None,
    "priorities": {"now": 0, "normal": 5, "bulk": 9},
    "aliases": {},
    "relay": None,
    "routes": {},
    "identities": {},
}


@pytest.mark.parametrize("from_file", [False, True])
def test_the_defaults_are_the_same_with_an_empty_file_and_with_none(tmp_path: Path, from_file: bool) -> None:
    config = loaded(tmp_path, f'[spool]\nstate = "{tmp_path}/s"\n') if from_file else Config(None, f"{tmp_path}/s")
    assert {key: getattr(config, key) for key in DEFAULTS} == DEFAULTS
    assert config.domain == config.helo == os.uname().nodename
    assert config.database == f"{tmp_path}/s/mail/spool.db"
    assert config.delivered == f"{tmp_path}/s/mail/delivered"
    assert config.templates == (f"{tmp_path}/templates" if from_file else f"{tmp_path}/s/mail/templates")


@pytest.mark.parametrize(
    ("line", "key", "value"),
    [
        ('max_age = "2h"', "max_age_s", 7200),
        ('warn_after = "30m"', "warn_after_s", 1800),
        ('warn_after = "never"', "warn_after_s", None),
        ('max_size = "3K"', "max_size_bytes", 3072),
        ('keep_sent = "1d"', "keep_sent_s", 86400),
        ('unknown = "hold"', "unknown", "hold"),
        ('domain = "Bücher.example"', "domain", "xn--bcher-kva.example"),
        ('helo = "out.example.org"', "helo", "out.example.org"),
        ('helo = "[192.0.2.1]"', "helo", "[192.0.2.1]"),
        ('domain = "example.org"', "helo", "example.org"),
        ("priorities = { normal = 3, later = 9 }", "priorities", {"normal": 3, "later": 9}),
        (f'group = "{grp.getgrgid(0).gr_name}"', "group", grp.getgrgid(0).gr_name),
        ('templates = "/t/../u"', "templates", "/u"),
    ],
)
def test_each_key_of_the_spool_is_read(tmp_path: Path, line: str, key: str, value: object) -> None:
    assert getattr(loaded(tmp_path, f"[spool]\n{line}\n"), key) == value


def test_a_secret_in_the_file_is_never_told(tmp_path: Path) -> None:
    with pytest.raises(Refused) as refused:
        loaded(tmp_path, '[relay]\nhost = "h"\nuser = "u"\nPassword = "s3cret"\n')
    assert "use password_file" in str(refused.value)
    assert "s3cret" not in str(refused.value)


def test_what_readme_shows_as_a_default_means_the_same_when_it_is_written_out(tmp_path: Path) -> None:
    readme = (Path(__file__).resolve().parents[2] / "README.md").read_text()
    for head, table in (("All keys of `[spool]`", "spool"), ("All keys of `[imap]`", "imap")):
        paragraph = readme.split(head)[1].partition("\n\n")[0].partition("Of `[relay]`")[0]
        shown = re.findall(r"`([a-z_]+ = [^`]+)`", paragraph)
        assert len(shown) >= 7
        given = loaded(tmp_path, f"[{table}]\n" + "\n".join(shown))
        defaults = loaded(tmp_path, "")
        one, other = (given.imap, defaults.imap) if table == "imap" else (given, defaults)
        assert says_the_same(one, other, without=("_imap", "stamp")), shown


def test_aliases_are_read_in_lower_case(tmp_path: Path) -> None:
    config = loaded(tmp_path, '[aliases]\nRoot = "a@b"\nteam = ["c@d", "e@f"]\n')
    assert config.aliases == {"root": ["a@b"], "team": ["c@d", "e@f"]}


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("[other]\n", ["other", "unknown", "relay", "routes", "identity", "imap"]),
        ("spool = 3\n", ["spool", "section"]),
        ("[[spool]]\n", ["spool", "section"]),
        ("[spool]\nfoo = 1\n", ["spool.foo", "unknown", "max_age", "priorities"]),
        ("[spool]\nstate = 1\n", ["spool.state", "quotes"]),
        ('[spool]\nstate = ""\n', ["spool.state", "one line"]),
        ('[spool]\ndatabase = "postgresql://h/d"\n', ["spool.database", "not yet known"]),
        ('[spool]\ndomain = "a b"\n', ["spool.domain", "mail.example.org"]),
        ('[spool]\nhelo = "x y"\n', ["spool.helo", "mail.example.org"]),
        ('[spool]\nmax_age = "5"\n', ["spool.max_age", "5d"]),
        ("[spool]\nmax_age = 5\n", ["spool.max_age", "quotes"]),
        ('[spool]\nwarn_after = "no"\n', ["spool.warn_after", "4h", "never"]),
        ('[spool]\nmax_size = "much"\n', ["spool.max_size", "50M"]),
        ('[spool]\nkeep_sent = "never"\n', ["spool.keep_sent", "5d"]),
        ('[spool]\nunknown = "drop"\n', ["spool.unknown", '"resend" or "hold"']),
        ('[spool]\ngroup = "no such group"\n', ["spool.group", "groupadd"]),
        ('[spool]\ngroup = "a\\u0000b"\n', ["spool.group", "control characters"]),
        ("[spool]\ntemplates = []\n", ["spool.templates", "quotes"]),
        ("[spool]\npriorities = 3\n", ["spool.priorities", "section"]),
        ("[spool]\npriorities = { bulk = 9 }\n", ["spool.priorities.normal", "0 to 9"]),
        ("[spool]\npriorities = { normal = 5, bulk = 10 }\n", ["spool.priorities.bulk", "0 to 9"]),
        ("[spool]\npriorities = { normal = -1 }\n", ["spool.priorities.normal", "0 to 9"]),
        ('[spool]\npriorities = { normal = 5, "very low" = "9" }\n', ['spool.priorities."very low"', "number"]),
        ("[spool]\npriorities = { normal = 5, 3 = 3 }\n", ["spool.priorities.3", "name"]),
        ('[aliases]\nroot = "nobody"\n', ["aliases.root", "local@domain"]),
        ("[aliases]\nroot = []\n", ["aliases.root"]),
        ('[aliases]\n"a@b" = "c@d"\n', ['aliases."a@b"', "a name with"]),
        ('[aliases]\nroot = "a@b\\r\\nc"\n', ["aliases.root", "control"]),
        ("[spol]\n", ["spol: unknown; did you mean spool? known are spool, aliases"]),
        ('[spool]\nmax_ages = "1d"\n', ["spool.max_ages: unknown; did you mean max_age? known are state"]),
        ("[spool]\nquux = 1\n", ["spool.quux: unknown; known are"]),
        ('[spool]\npassword = "x"\n', ["spool.password: unknown; known are"]),
        ('[relay]\nhost = "h"\npassword = "x"\n', ["relay.password: secrets do not stand in mail.toml; use password_file"]),
        ('[relay]\nhost = "h:25"\n', ["relay.host: needs the host alone: the port has a key of its own: port = 25"]),
        ('[spool]\nstate = "${SURELY_NOT_SET}"\n', ["spool.state", "SURELY_NOT_SET"]),
        ("[spool\n", ["TOML"]),
    ],
)
def test_a_mistake_names_file_key_and_what_is_allowed(tmp_path: Path, text: str, words: list[str]) -> None:
    with pytest.raises(Refused) as refused:
        loaded(tmp_path, text)
    assert refused.value.status == CONFIG
    for word in [f"{tmp_path}/mail.toml: ", *words]:
        assert word in str(refused.value)


def test_a_config_that_does_not_exist_is_a_mistake(tmp_path: Path) -> None:
    with pytest.raises(Refused, match="--config"):
        load(str(tmp_path / "none.toml"))


@pytest.mark.parametrize("kind", ["folder", "fifo", "socket", "device"])
def test_a_config_that_is_no_file_is_refused_at_once_and_nothing_stays_open(tmp_path: Path, kind: str) -> None:
    path = str(tmp_path / "mail.toml")
    if kind == "folder":
        os.mkdir(path)
    elif kind == "fifo":
        os.mkfifo(path)
    elif kind == "socket":
        with socket.socket(socket.AF_UNIX) as sock:
            sock.bind(path)
    else:
        os.symlink("/dev/zero", path)
    before = os.listdir("/proc/self/fd")
    with pytest.raises(Refused, match=f"^{path}: is no file; .*--config") as refused:
        load(path)
    assert refused.value.status == CONFIG
    assert os.listdir("/proc/self/fd") == before


@pytest.fixture
def places(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Path, Path]:
    """The user's file and the system's, neither there yet."""
    own, system = tmp_path / "home" / ".config" / "semguard" / "mail.toml", tmp_path / "etc" / "mail.toml"
    for path in (own, system):
        path.parent.mkdir(parents=True)
    monkeypatch.setattr(load_module, "SYSTEM_FILE", str(system))
    monkeypatch.setattr(load_module, "_home", lambda: str(tmp_path / "home"))
    monkeypatch.delenv("MAIL_CONFIG", raising=False)
    return own, system


def test_one_at_work_never_falls_back_to_less_than_its_own_file(places: tuple[Path, Path]) -> None:
    own, system = places
    own.write_text('[spool]\nmax_age = "2d"\n')
    before = load()
    own.rename(own.parent / "away")
    for there in (False, True):
        if there:
            system.touch()
        assert find_again(before) == str(own)
        assert stamp(find_again(before)) != before.stamp
        with pytest.raises(Refused, match=f"^{own}: is gone; put it back") as refused:
            load_again(before)
        assert refused.value.status == CONFIG
    (own.parent / "away").rename(own)
    assert stamp(find_again(before)) == before.stamp
    assert load_again(before).max_age_s == 2 * 86400


def test_one_at_work_takes_a_greater_file_and_one_that_appears(places: tuple[Path, Path]) -> None:
    own, system = places
    none = load()
    assert none.path is find_again(none) is load_again(none).path is None
    system.touch()
    assert load_again(none).path == find_again(none) == str(system)
    of_system = load()
    own.touch()
    assert load_again(of_system).path == find_again(of_system) == str(own)
    own.unlink()
    system.unlink()
    with pytest.raises(Refused, match=f"^{system}: is gone"):
        load_again(of_system)


def test_a_file_asked_for_by_name_that_goes_is_gone_too(tmp_path: Path, places: tuple[Path, Path]) -> None:
    places[1].touch()
    config = loaded(tmp_path, "")
    os.unlink(tmp_path / "mail.toml")
    with pytest.raises(Refused, match=r"mail\.toml: is gone"):
        load_again(config)


FULL = """
[spool]
max_age = "2d"
[aliases]
root = "a@b"
[relay]
host = "h"
[routes."example.net"]
host = "g"
[identity."*"]
name = "N"
dkim = { selector = "s", key_file = "k" }
"""


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ('"2d"', '"3d"'),
        ('"a@b"', '["a@b", "c@d"]'),
        ('"h"', '"i"'),
        ('"g"', '"g"\nport = 25'),
        ("example.net", "example.org"),
        ('"N"', '"M"'),
        ('"k"', '"l"'),
        ("*", "a@b"),
    ],
)
def test_any_difference_in_what_a_sender_uses_is_one(tmp_path: Path, old: str, new: str) -> None:
    before = loaded(tmp_path, FULL)
    assert says_the_same(before, loaded(tmp_path, FULL), without=("stamp",))
    assert FULL.count(old) == 1
    assert not says_the_same(before, loaded(tmp_path, FULL.replace(old, new)), without=("stamp",))


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


def test_a_user_without_a_home_needs_a_state_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(load_module, "_home", lambda: None)
    monkeypatch.setattr(load_module, "SYSTEM_FILE", str(tmp_path / "none"))
    monkeypatch.delenv("MAIL_CONFIG", raising=False)
    assert loaded(tmp_path, '[spool]\nstate = "s"\n').state == f"{tmp_path}/s"
    monkeypatch.setattr(os, "geteuid", lambda: 12345)
    with pytest.raises(Refused, match=r"spool\.state"):
        load()


HEAVY = {"dataclasses", "email", "grp", "ssl", "subprocess", "tomllib", "workers.mail.imap_config", "workers.mail.routes"}
LOAD = """
import sys
from workers.mail import load
load.SYSTEM_FILE, load._home = "/does/not/exist", lambda: "/does/not/exist"
load.load(*sys.argv[1:])
print(*sys.modules)
"""


def modules_after_load(*words: str) -> set[str]:
    environment = {name: value for name, value in os.environ.items() if name != "MAIL_CONFIG"}
    root = os.path.dirname(os.path.dirname(os.path.dirname(__file__)))
    command = [sys.executable, "-S", "-c", LOAD, *words]
    return set(subprocess.run(command, cwd=root, env=environment, stdout=subprocess.PIPE, check=True, text=True).stdout.split())


def test_defaults_without_a_file_import_nothing_that_a_file_needs() -> None:
    assert not modules_after_load() & (HEAVY | {"workers.mail.schema", "workers.mail.values", "workers.mail.plain_toml"})


def test_a_plain_file_imports_nothing_heavy(tmp_path: Path) -> None:
    text = '[spool]\nmax_age = "2d"\n[aliases]\nroot = ["a@b", "c@d"]\n[relay]\nhost = "h"\n'
    assert not modules_after_load(written(tmp_path, text)) & HEAVY
    routed = modules_after_load(written(tmp_path, f'{text}[routes."example.net"]\nhost = "g"\n'))
    assert routed & HEAVY == {"workers.mail.routes"}
