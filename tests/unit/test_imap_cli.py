"""imap-sync's commands that need no server: help, bad words, and what they tell from a state database."""

from __future__ import annotations

import fcntl
import json
import os
import pwd
import re
import sqlite3
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from guard import __version__
from workers.imap import help as texts
from workers.imap.books import open_state
from workers.imap.cli import COMMANDS, main
from workers.imap.proof import aligned
from workers.imap.report import Report
from workers.imap.shelf import ODD, Shelf, bits
from workers.imap.spoken import told
from workers.imap.wire import understood
from workers.mail import load

Run = Callable[..., tuple[int, str, str]]
CONFIG = """\
[spool]
state = "state"
[imap]
root = "archive"
state = "imap.db"
"""
ALICE = '[[imap.accounts]]\nname = "alice"\nid = 53\nhost = "imap.example.org"\npassword_file = "alice.pw"\n'
BOB = '[[imap.accounts]]\nname = "bob"\nhost = "imap.example.org"\nenabled = false\n'


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder with a mail.toml of two accounts, one of them disabled."""
    (tmp_path / "mail.toml").write_text(CONFIG + ALICE + BOB)
    monkeypatch.setenv("MAIL_CONFIG", str(tmp_path / "mail.toml"))
    umask = os.umask(0o077)
    yield tmp_path
    os.umask(umask)


@pytest.fixture
def run(folder: Path, capsys: pytest.CaptureFixture[str]) -> Run:
    """Runs a command; gives exit status, stdout and stderr."""

    def run_it(*words: str) -> tuple[int, str, str]:
        status = main(["imap-sync", *words])
        out = capsys.readouterr()
        return status, out.out, out.err

    return run_it


@pytest.fixture
def books(folder: Path) -> Iterator[Callable[..., None]]:
    """Runs statements in the state database: alice has key 1, an INBOX of 3 messages and a folder with a poison message."""
    path = folder / "imap.db"
    open_state(str(path)).close()
    now = time.time()
    with closing(sqlite3.connect(path)) as database:

        def change(statement: str, *values: object) -> None:
            with database:
                database.execute(statement, values)

        change("INSERT INTO imap_account (name, mode, state, synced_at) VALUES ('alice', 'idle', 'in step', ?)", now - 300)
        for number, name, path_, held in ((1, b"INBOX", "INBOX", 3), (2, b"Entw&APw-rfe", "Entwürfe", 1)):
            columns = "(id, account, name, delimiter, path, epoch, messages, held, synced_at)"
            change(
                f"INSERT INTO imap_folder {columns} VALUES (?, 1, ?, ?, ?, 9, ?, ?, ?)",
                number,
                name,
                b"/",
                path_,
                held,
                held,
                now,
            )
        change("INSERT INTO imap_poison VALUES (2, 9, 17, 'NO [SERVERBUG] broken', 3, ?, ?)", now, now + 7200)
        yield change


@pytest.fixture
def worker(folder: Path) -> Iterator[None]:
    """The lock of a running worker."""
    (folder / "archive").mkdir()
    fd = os.open(folder / "archive", os.O_RDONLY)
    fcntl.flock(fd, fcntl.LOCK_EX)
    yield
    os.close(fd)


def account(run: Run, name: str = "alice") -> dict[str, Any]:
    found = json.loads(run("status", "--json")[1])
    accounts: dict[str, dict[str, Any]] = {each["name"]: each for each in found["accounts"]}
    return accounts[name]


def test_the_help_names_every_command_and_each_has_its_own(run: Run) -> None:
    status, out, _ = run("--help")
    assert status == 0
    for name in COMMANDS:
        assert f"\n  {name} " in out, name
        status, own, err = run(name, "--help")
        assert (status, err) == (0, "")
        assert own.startswith(f"usage: imap-sync {name}")
        assert "Exit status: " in own
        assert own == getattr(texts, f"{name.upper().replace('-', '_')}_HELP")
        assert all(len(line) <= 125 for line in own.splitlines())


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ([], "known are run, sync, status"),
        (["stauts"], "unknown command stauts"),
        (["--nope", "status"], "unknown option --nope"),
        (["status", "alice"], "unknown argument alice"),
        (["status", "--nope"], "known are"),
        (["folders"], "needs the name of one account"),
        (["folders", "alice", "bob"], "needs the name of one account"),
        (["folders", "carol"], "no account carol; known are alice, bob"),
        (["why", "carol"], "no account carol; known are alice, bob"),
        (["verify", "carol"], "no account carol; known are alice, bob"),
        (["sync", "carol"], "no account carol; known are alice, bob"),
        (["present", "carol"], "no account carol; known are alice, bob"),
        (["present", "alice", "--for"], "--for needs a value"),
        (["present", "alice", "--for", "soon"], "--for soon: needs to be a duration"),
        (["log-level"], "needs debug or info"),
        (["log-level", "trace"], "not trace"),
        (["log-level", "debug", "carol"], "no account carol; known are alice, bob"),
        (["log-level", "info", "--for", "5m"], "--for goes with debug"),
    ],
)
def test_bad_words_are_refused_and_told(run: Run, folder: Path, words: list[str], said: str) -> None:
    status, out, err = run(*words)
    assert (status, out) == (64, "")
    assert err.startswith("imap-sync: ")
    assert said in err
    assert sorted(path.name for path in folder.iterdir()) == ["mail.toml"]


def test_help_and_version(run: Run) -> None:
    assert run("help") == run("--help")
    assert run("--version") == run("-V") == (0, f"semguard {__version__}\n", "")


def test_looking_makes_nothing(run: Run, folder: Path) -> None:
    assert run("status")[0] == run("why", "alice")[0] == run("folders", "alice")[0] == 0
    assert account(run)["state"] == "waiting"
    assert "was not looked at yet" in run("why", "alice")[1]
    assert "no folders are known yet" in run("folders", "alice")[1]
    assert sorted(path.name for path in folder.iterdir()) == ["mail.toml"]


def test_the_place_for_accounts_is_the_one_that_is_read(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MAIL_CONFIG")
    monkeypatch.setattr(load, "find", lambda *_: None)
    passwd = pwd.getpwuid(os.geteuid())
    for uid, place in ((0, "/etc/semguard/mail.toml"), (1, f"{passwd.pw_dir}/.config/semguard/mail.toml")):
        monkeypatch.setattr(os, "geteuid", lambda uid=uid: uid)
        monkeypatch.setattr(pwd, "getpwuid", lambda _: passwd)
        assert run("sync")[1] == f"no accounts: add [[imap.accounts]] with name, host and password_file to {place}\n"


def test_a_root_that_is_a_file_is_told_as_that(run: Run, folder: Path) -> None:
    (folder / "archive").touch()
    said = f"imap-sync: {folder / 'archive'}: is no folder; imap.root in mail.toml has to be a folder\n"
    for words in (["status"], ["check"], ["why", "alice"], ["sync"], ["run"]):
        assert run(*words)[::2] == (78, said), words
    (folder / "mail.toml").write_text((CONFIG + ALICE).replace("archive", "archive/below"))
    assert run("sync")[::2] == (78, said.replace("archive", "archive/below"))


def test_without_accounts_it_is_told_what_to_do(run: Run, folder: Path) -> None:
    (folder / "mail.toml").write_text(CONFIG)
    for words in (["status"], ["verify"], ["check"], ["sync"]):
        status, out, _ = run(*words)
        assert status == 0
        assert f"add [[imap.accounts]] with name, host and password_file to {folder / 'mail.toml'}" in out
        assert "complete" not in out  # nothing was compared
    assert json.loads(run("status", "--json")[1]) == {"version": 1, "running": False, "accounts": []}


@pytest.mark.usefixtures("books")
def test_status_as_json(run: Run) -> None:
    found = account(run)
    assert list(found) == [
        *("name", "id", "enabled", "mode", "state", "folders", "messages", "synced_at", "problem", "until", "demoted", "poison")
    ]
    assert (found["id"], found["mode"], found["state"], found["folders"], found["messages"]) == (53, "none", "in step", 2, 4)
    assert (found["problem"], found["until"], found["demoted"]) == ("", None, [])
    (poison,) = found["poison"]
    assert (poison["folder"], poison["uid"], poison["tries"]) == ("Entwürfe", 17, 3)
    other = account(run, "bob")
    assert (other["state"], other["enabled"], other["mode"], other["synced_at"], other["id"]) == (
        "disabled",
        False,
        "none",
        None,
        None,
    )


@pytest.mark.usefixtures("worker")
def test_status_beside_a_worker(run: Run, books: Callable[..., None]) -> None:
    assert json.loads(run("status", "--json")[1])["running"]
    assert account(run)["mode"] == "idle"
    books("UPDATE imap_account SET state = 'syncing'")
    assert account(run)["state"] == "syncing"
    assert "no worker" not in run("status")[1]
    assert "is being brought in step" in run("why", "alice")[1]


def test_status_for_people(run: Run, folder: Path, books: Callable[..., None]) -> None:
    values = ("paused", "auth", "NO \x1b[31mwrong\r\npassword.", time.time() + 600, "QRESYNC NOTIFY")
    books("UPDATE imap_account SET state = ?, kind = ?, problem = ?, until = ?, demoted = ?", *values)
    books("UPDATE imap_account SET synced_at = ?", time.time() - 9.37)
    lines = run("status")[1].splitlines()
    user = pwd.getpwuid(os.geteuid()).pw_name
    assert lines[0] == f"no worker runs for user {user} (copies in {folder / 'archive'}); start guard, or imap-sync run"
    assert lines[1].split() == ["account", "state", "mode", "folders", "messages", "last", "sync", "problem"]
    assert lines[2].startswith(
        "alice    paused    none  2        4         9 s ago    NO ?[31mwrong password; 1 message that the server can't give; "
    )
    assert lines[2].endswith("without QRESYNC, NOTIFY")
    assert lines[3].split() == ["bob", "disabled", "none", "0", "0", "never", "-"]
    assert account(run)["until"] is None  # nobody is there to try


@pytest.mark.usefixtures("worker")
def test_beside_a_worker_it_is_told_when_the_next_try_is(run: Run, books: Callable[..., None]) -> None:
    until = time.time() + 600
    books("UPDATE imap_account SET state = 'paused', kind = 'auth', problem = 'login: it failed.', until = ?", until)
    assert "login: it failed; next try in 10 min; 1 message" in run("status")[1]
    assert account(run)["until"] == until


@pytest.mark.usefixtures("books")
def test_folders(run: Run, folder: Path) -> None:
    found = json.loads(run("folders", "alice", "--json")[1])
    assert [(each["id"], each["name"], each["messages"], len(each["poison"])) for each in found["folders"]] == [
        (2, "Entwürfe", 1, 1),
        (1, "INBOX", 3, 0),
    ]
    assert found["id"] == 53  # both numbers stand in the log
    lines = run("folders", "alice")[1].splitlines()
    assert lines[1].endswith(str(folder / "archive" / "alice" / "Entwürfe"))
    assert lines[2].split()[:2] == ["INBOX", "3"]


@pytest.mark.parametrize(
    ("kind", "said"),
    [
        ("auth", "password_file = "),
        ("secret", 'see password_file at [[imap.accounts]] name = "alice"'),
        ("tls", "tls, host, ca_file, fingerprint"),
        ("disk", "Make space for"),
        ("network", 'It is tried again by itself; if that lasts, see host (imap.example.org), port (993) and tls ("tls")'),
        ("outbox", "put outbox right at"),
        ("server", "its administrator"),
    ],
)
@pytest.mark.usefixtures("worker")
def test_why_tells_the_problem_until_when_and_what_to_do(
    run: Run, folder: Path, books: Callable[..., None], kind: str, said: str
) -> None:
    (folder / "mail.toml").write_text(CONFIG + ALICE + 'outbox = "Out"\n')
    (folder / "alice.pw").touch(0o600)
    until = time.time() + 600
    books("UPDATE imap_account SET state = 'paused', kind = ?, problem = 'it said no', until = ?, demoted = 'IDLE'", kind, until)
    text = run("why", "alice")[1]
    assert "alice can't be brought in step" in text
    assert "it said no." in text
    assert f"It rests until {time.strftime('%Y-%m-%d %H:%M:%S', time.localtime(until))}, that is 10 min." in text
    assert said in text
    assert "Message 17 of Entwürfe could not be had in 3 tries, next one in 2.0 h: NO [SERVERBUG] broken." in text
    assert "contradicted itself with IDLE" in text


@pytest.mark.parametrize(
    ("kind", "said"),
    [
        ("network", "The next sync or run tries it again; if"),
        ("server", "The next sync or run"),
        ("disk", "; then: imap-sync sync"),
    ],
)
def test_without_a_worker_nothing_happens_by_itself(run: Run, books: Callable[..., None], kind: str, said: str) -> None:
    books("UPDATE imap_account SET state = 'paused', kind = ?, problem = 'it said no', until = ?", kind, time.time() + 600)
    text = run("why", "alice")[1]
    assert said in text
    assert "by itself" not in text
    assert "next one with the first sync after" in text


def test_a_password_file_that_is_missing_is_to_be_written(run: Run, folder: Path, books: Callable[..., None]) -> None:
    books("UPDATE imap_account SET kind = 'secret', problem = 'No such file or directory'")
    said = f"Write the password into {folder / 'alice.pw'}, mode 0600; then: imap-sync sync alice."
    assert said in run("why", "alice")[1].splitlines()


@pytest.mark.parametrize("key", ["password_command", "token_command"])
@pytest.mark.parametrize("kind", ["auth", "secret"])
def test_why_prints_no_command(run: Run, folder: Path, books: Callable[..., None], key: str, kind: str) -> None:
    """There may be a secret in it."""
    (folder / "mail.toml").write_text(CONFIG + ALICE.replace('password_file = "alice.pw"', f'{key} = "get --key hush"'))
    books("UPDATE imap_account SET kind = ?, problem = 'NO wrong'", kind)
    text = run("why", "alice")[1]
    assert key in text
    assert "hush" not in text


def test_letters_that_cannot_be_sent_are_told_with_what_to_do(run: Run, folder: Path, books: Callable[..., None]) -> None:
    (folder / "mail.toml").write_text(CONFIG + ALICE + 'outbox = "Out"\n')
    books("UPDATE imap_account SET kind = 'outbox', problem = '1 message of Out can''t be sent: no recipient'")
    books(
        "INSERT INTO imap_outbox (account, folder, epoch, uid, size_bytes, date, why) VALUES (1, ?, 9, 4, 5, 6, 'no recipient')",
        b"Out",
    )
    text = run("why", "alice")[1]
    assert "Message 4 of Out is not sent: no recipient. Save it again when that is put right." in text
    assert "put outbox right" not in text
    for other in ('outbox = "Other"\n', ""):  # what is known of a former one is nobody's business
        (folder / "mail.toml").write_text(CONFIG + ALICE + other)
        text = run("why", "alice")[1]
        assert "is not sent" not in text
        assert "1 message of Out" not in text
        assert "outbox" not in text


def test_the_outbox_is_known_by_any_delimiter(run: Run, folder: Path, books: Callable[..., None]) -> None:
    (folder / "mail.toml").write_text(CONFIG + ALICE + 'outbox = "Mail/Out"\n')
    books("UPDATE imap_folder SET delimiter = ?", b"\\")
    for uid, name in enumerate((b"Mail\\Out", b"Mail.Out", b"Mail/Out", b"Mail-Out")):
        columns = "(account, folder, epoch, uid, size_bytes, date, why)"
        books(f"INSERT INTO imap_outbox {columns} VALUES (1, ?, 9, ?, 5, 6, 'no recipient')", name, uid)
    text = run("why", "alice")[1]
    assert [uid for uid in range(4) if f"Message {uid} of" in text] == [0, 1, 2]


def test_a_number_is_never_two_accounts(run: Run, folder: Path, books: Callable[..., None]) -> None:
    (folder / "mail.toml").write_text(CONFIG + ALICE.replace("id = 53\n", "") + BOB + "id = 1\n")
    numbers = account(run)["id"], account(run, "bob")["id"]
    assert numbers == (1_000_000_001, 1)  # alice has key 1
    books("UPDATE imap_account SET key = 7")
    assert account(run)["id"] == 7


def test_sync_of_accounts_that_are_all_disabled_says_so(run: Run, folder: Path) -> None:
    (folder / "mail.toml").write_text(CONFIG + BOB)
    assert run("sync") == (0, f"nothing to do: all accounts have enabled = false in {folder / 'mail.toml'}\n", "")


@pytest.mark.parametrize(
    ("said", "shown"),
    [
        (b"* STATUS INBOX (MESSAGES 1 UIDNEXT 5)", "* STATUS INBOX (MESSAGES 1 UIDNEXT 5)"),
        (b'* LIST (\\HasNoChildren) "/" "To send"', '* LIST (\\HasNoChildren) / "To send"'),
        (b"* LIST () NIL a", "* LIST () NIL a"),
        (b"* 0 EXISTS", "* 0 EXISTS"),
        (b"* OK [PERMANENTFLAGS (\\Seen \\*)] Limited", "* OK [PERMANENTFLAGS (\\Seen \\*)] Limited"),
        (b"* 5 FETCH (UID 5 BODY[] secret)", "* 5 FETCH"),
        (b"+ c2VjcmV0", "+"),
        (b"s1 OK done", "s1 OK done"),
        (b"* SEARCH " + b" ".join(b"%d" % number for number in range(50)), f"* SEARCH {' '.join(map(str, range(40)))} \u2026"),
        (b"* X (((", "* (not understood)"),
    ],
)
def test_what_a_server_says_is_logged_as_it_says_it(said: bytes, shown: str) -> None:
    assert told(understood([said])) == shown


@pytest.mark.usefixtures("books")
def test_why_of_those_that_wait_for_nothing(run: Run) -> None:
    text = run("why", "alice")[1]
    assert text.startswith("Nothing is tried now: no worker runs for user ")
    assert "alice waits for nothing: last in step at " in text
    assert "bob is disabled: enabled = false at [[imap.accounts]]" in run("why", "bob")[1]


def test_a_damaged_state_database_is_told_and_left_alone(run: Run, folder: Path) -> None:
    (folder / "imap.db").write_bytes(b"no database at all, and that for long" * 100)
    for words in (["status"], ["folders", "alice"], ["why", "alice"]):
        status, _, err = run(*words)
        assert status == 74
        assert "is damaged; the next imap-sync sync or run" in err
    assert (folder / "imap.db").read_bytes().startswith(b"no database")


def test_present_and_log_level_are_written_down(run: Run, folder: Path) -> None:
    def row(name: str, column: str) -> float:
        with closing(sqlite3.connect(folder / "imap.db")) as database:
            return float(database.execute(f"SELECT {column} FROM imap_account WHERE name = ?", (name,)).fetchone()[0])

    status, out, _ = run("present", "alice", "--for", "1h")
    assert status == 0
    assert out.startswith("alice: its user is here until ")
    assert "no worker runs" in out
    assert row("alice", "present_until") == pytest.approx(time.time() + 3600, abs=60)
    assert run("log-level", "debug", "alice")[0] == 0
    assert row("alice", "debug_until") == pytest.approx(time.time() + 900, abs=60)
    assert run("log-level", "debug", "--for", "2m")[0] == 0
    assert row("bob", "debug_until") == row("alice", "debug_until") == pytest.approx(time.time() + 120, abs=60)
    assert run("log-level", "info", "bob")[0] == 0
    assert (row("bob", "debug_until"), row("alice", "debug_until") > 0) == (0, True)


def test_why_tells_of_wishes(run: Run, folder: Path) -> None:
    run("present", "alice")
    run("log-level", "debug", "alice")
    text = run("why", "alice")[1]
    until = r"until \d{4}-\d\d-\d\d \d\d:\d\d:\d\d"
    assert re.search(f"^Its user is here {until}, so the short intervals hold.$", text, re.MULTILINE)
    ends = "imap-sync log-level info alice ends it"
    assert re.search(f"^What is said on its connections is logged {until}; {ends}.$", text, re.MULTILINE)
    run("log-level", "info")
    assert "connections" not in run("why", "alice")[1]
    (folder / "mail.toml").write_text(CONFIG + ALICE + 'log_level = "debug"\n' + BOB)
    assert f'is logged: log_level = "debug" in {folder / "mail.toml"}.' in run("why", "alice")[1]


@pytest.mark.usefixtures("worker")
def test_what_is_due_at_once_is_due_now(run: Run, books: Callable[..., None], monkeypatch: pytest.MonkeyPatch) -> None:
    now = time.time()
    monkeypatch.setattr(time, "time", lambda: now)
    books("UPDATE imap_account SET state = 'paused', kind = 'network', problem = 'gone', until = ?", now + 0.3)
    books("UPDATE imap_poison SET next_try = ?", now + 0.3)
    assert "gone; next try now; " in run("status")[1]
    text = run("why", "alice")[1]
    assert ", that is now." in text
    assert "in 3 tries, next one now: " in text


def test_a_log_that_can_not_be_written_is_told_by_check(run: Run, folder: Path) -> None:
    (folder / "mail.toml").write_text(CONFIG + 'log = "mail.toml/log"\n')
    place = folder / "mail.toml" / "log"
    why = f"can't be written ({place}: Not a directory): log lines go to standard output only"
    assert f"log      {place}, level info; {why}; put that folder or imap.log in mail.toml right\n" in run("check")[1]
    (folder / "mail.toml").write_text(CONFIG + 'log = "new/log"\n')
    assert f"log      {folder / 'new' / 'log'}, level info\n" in run("check")[1]
    assert not (folder / "new").exists()


def test_info_says_where_the_config_wants_debug(run: Run, folder: Path) -> None:
    (folder / "mail.toml").write_text(CONFIG + ALICE + 'log_level = "debug"\n' + BOB)
    assert 'alice: still debug, for log_level = "debug" in' in run("log-level", "info")[1]


def test_streams_side_by_side() -> None:
    found = list(aligned(iter([(1, "a"), (3, "c")]), iter([]), iter([(2, "B"), (3, "C"), (4, "D")])))
    assert found == [
        (1, ["a", None, None]),
        (2, [None, None, "B"]),
        (3, ["c", None, "C"]),
        (4, [None, None, "D"]),
    ]


def test_a_report_keeps_what_differs_in_the_same_way_twice() -> None:
    first, second = Report(), Report()
    for report, flags in ((first, "S"), (second, "F")):
        for uid in (1, 2, 3, 9):
            report.note("missing", uid)
        report.note("letters", 5, flags)
        report.note("letters", 6, "same")
    second.note("missing", 4)
    second.names["foreign"] = {"cur/x"}
    stands = second.both(first)
    assert (stands.count(), stands.told()) == (
        5,
        "0 messages; 4 missing (UID 1, 2, 3, 9); 1 with other flags in the name (UID 6)",
    )


def test_a_message_that_differs_in_two_ways_is_one_difference() -> None:
    report = Report()
    for kind in ("size", "content", "epoch"):
        report.note(kind, 7)
    report.note("content", 8)
    report.names["foreign"] = {"cur/x"}
    assert (report.count(), report.differences()) == (5, 4)  # 7, 8, one of another UIDVALIDITY, and the file


def test_a_report_names_the_first_few() -> None:
    report = Report()
    report.messages = 9
    report.add("missing", [9, 1, 2, 3, 4, 5])
    report.names["foreign"] = {f"cur/{number}" for number in range(7)}
    assert report.told() == (
        "9 messages; 6 missing (UID 1, 2, 3, 4, 5, …); 7 files that nobody knows: cur/0, cur/1, cur/2, cur/3, cur/4, …"
    )


@pytest.mark.parametrize(("letters", "odd"), [("", False), ("DFRST", False), ("SF", True), ("SS", True), ("Sa", True)])
def test_letters_that_imap_sync_does_not_write_are_odd(letters: str, odd: bool) -> None:
    assert bool(bits(letters) & ODD) == odd


def test_a_shelf_tells_what_lies_in_a_maildir(tmp_path: Path) -> None:
    for name in ("cur", "new", "tmp"):
        (tmp_path / name).mkdir()
    uids = [5000, 4096, 4095, 2**32 - 1, 1, 70_000]
    for uid in uids:
        (tmp_path / "cur" / f"1300000000.V9U{uid}.imap-sync,S=2:2,FS").write_text("ab" if uid != 1 else "a")
    (tmp_path / "cur" / "1300000000.V8U3.imap-sync,S=2:2,").write_text("ab")
    (tmp_path / "cur" / "x:2,S").touch()
    dead = next(pid for pid in range(2**22 - 1, 0, -1) if not os.path.exists(f"/proc/{pid}"))
    for pid in (os.getpid(), dead):
        (tmp_path / "tmp" / f"imap-sync.{pid}.1.1").touch()
    shelf = Shelf(str(tmp_path), 9, running=True)
    found = dict(shelf.each())
    assert list(found) == sorted(uids)
    assert {file.bits for file in found.values()} == {bits("FS")}
    assert shelf.path("1300000000.V9U1.imap-sync,S=2", found[1]) == str(tmp_path / "cur/1300000000.V9U1.imap-sync,S=2:2,FS")
    assert (shelf.wrong_size, list(shelf.others), shelf.foreign) == ([1], [3], {"cur/x:2,S"})
    assert shelf.left_over == {f"tmp/imap-sync.{dead}.1.1"}
    assert len(Shelf(str(tmp_path), 9, running=False).left_over) == 2
    assert shelf.count({1, 2}) == {1: 1, 2: 0}
