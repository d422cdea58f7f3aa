"""imap-sync at work for ever: what is pushed, what it tells its supervisor, and what changes under its feet."""

from __future__ import annotations

import base64
import json
import re
import signal
import socket
import sqlite3
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import closing, suppress
from pathlib import Path
from typing import NamedTuple

import psutil
import pytest

from tests.system.imap_fault_server import BASIC, MODERN, SILENCE, Fault, FaultServer, Reply
from tests.system.imap_fixtures import new_dovecot, new_fault_server, syncer
from tests.system.imap_servers import SWITCHES, Dovecot
from tests.system.imap_syncer import Syncer
from tests.system.imap_user import PASSWORD, MailUser
from tests.system.mail_servers import DEADLINE_S, wait_until

__all__ = ["new_dovecot", "new_fault_server", "syncer"]

NewDovecot = Callable[..., Dovecot]
NewServer = Callable[..., FaultServer]
SELDOM = 'recent = { present = "6h", absent = "6h" }\nfull = { present = "6h", absent = "6h" }\n'  # so that only push brings news
OFTEN = 'recent = { present = "1s", absent = "1s" }\nfull = { present = "2s", absent = "2s" }\n'
END_S = 30.0  # for an end that is promised within seconds
TRY_AGAIN = 75


def mail(subject: str) -> bytes:
    return f"From: a@example.org\r\nSubject: {subject}\r\nMessage-ID: <{subject}@x>\r\n\r\nhello\r\n".encode()


@pytest.fixture(scope="module")
def dovecot() -> Iterator[Dovecot]:
    made = Dovecot()
    yield made
    made.close()


@pytest.fixture
def user(dovecot: Dovecot, syncer: Syncer) -> MailUser:
    """A user of the test's own with one message, and an account of which only push brings news."""
    return new_user(dovecot, syncer)


def new_user(dovecot: Dovecot, syncer: Syncer, more: str = "") -> MailUser:
    syncer.settings = syncer.settings or SELDOM
    made = dovecot.user(f"user{len(dovecot.users)}")
    made.append("INBOX", mail("first"))
    syncer.account(made, dovecot.port, more)
    return made


def mirrors(syncer: Syncer, user: MailUser) -> bool:
    """Whether the archive holds what the server has now."""
    with suppress(AssertionError, sqlite3.OperationalError, FileNotFoundError):
        syncer.assert_mirrors(user)
        return True
    return False


def wait_mirrors(syncer: Syncer, user: MailUser, what: str) -> None:
    """Returns when the archive holds what the server has; else what differs fails the test."""
    end = time.monotonic() + DEADLINE_S
    while not mirrors(syncer, user) and time.monotonic() < end:
        time.sleep(0.02)
    try:
        syncer.assert_mirrors(user)
    except AssertionError as error:
        raise AssertionError(f"{what}: {error}\n{syncer.logged()[-4000:]}") from None


def standing(syncer: Syncer, name: str) -> tuple[object, ...]:
    """State, kind and mode of an account, as the worker wrote them; () before that."""
    with suppress(sqlite3.OperationalError):
        rows = syncer.rows("SELECT state, kind, mode FROM imap_account WHERE name = ?", name)
        return rows[0] if rows else ()
    return ()


def wait_standing(syncer: Syncer, name: str, *expected: str) -> None:
    """Returns when state, kind and mode, as far as given, are these."""
    try:
        wait_until(lambda: standing(syncer, name)[: len(expected)] == expected, f"{name} is {expected}")
    except pytest.fail.Exception:
        pytest.fail(f"{name} is {standing(syncer, name)}, not {expected}:\n{syncer.logged()[-4000:]}")


def start(syncer: Syncer, *users: MailUser, mode: str = "notify") -> subprocess.Popen[bytes]:
    """A running worker that has these users' accounts in step."""
    process = syncer.start()
    for each in users:
        wait_standing(syncer, each.name, "in step", "", mode)
        wait_mirrors(syncer, each, "the first pass")
    return process


def wait_logged(syncer: Syncer, pattern: str, times: int = 1) -> None:
    """Returns when the log has a line of this pattern so often."""
    try:
        wait_until(lambda: len(re.findall(pattern, syncer.logged())) >= times, f"the log says {pattern}")
    except pytest.fail.Exception:
        pytest.fail(f"nothing in the log of {pattern}:\n{syncer.logged()[-4000:]}")


# Push


class Way(NamedTuple):
    """What the server lacks, how often the worker looks by itself, what its mode then is, and which folders it follows soon."""

    off: tuple[str, ...]
    settings: str
    mode: str
    others: bool  # than INBOX
    flags: bool  # of those


WAYS = {
    "NOTIFY": Way((), SELDOM, "notify", True, True),
    "IDLE": Way(("NOTIFY",), SELDOM, "idle", False, False),
    "IDLE and timers": Way(("NOTIFY",), OFTEN, "idle", True, True),
    "timers": Way(("NOTIFY", "IDLE"), OFTEN, "poll", True, True),
    "timers and no extension": Way(SWITCHES, OFTEN, "poll", True, False),  # flags of others once a day
}


@pytest.mark.parametrize("way", WAYS.values(), ids=WAYS)
def test_what_happens_on_the_server_happens_in_the_archive(syncer: Syncer, new_dovecot: NewDovecot, way: Way) -> None:
    dovecot = new_dovecot(off=way.off)
    syncer.settings = way.settings
    user = dovecot.user("alice")
    for folder in ("INBOX", "Work"):
        if folder != "INBOX":
            user.create(folder)
        for number in range(3):
            user.append(folder, mail(f"{folder}{number}"))
    syncer.account(user, dovecot.port)
    process = start(syncer, user, mode=way.mode)
    for folder in ("INBOX", "Work") if way.others else ("INBOX",):
        user.append(folder, mail(f"new in {folder}"), ["\\Seen"])
        wait_mirrors(syncer, user, f"new mail in {folder}")
        if folder == "INBOX" or way.flags:
            user.flag(folder, "2", "\\Flagged $Forwarded")
            wait_mirrors(syncer, user, f"flags in {folder}")
        user.expunge(folder, "1")
        wait_mirrors(syncer, user, f"an expunge in {folder}")
    if way.others:
        user.create("New")
        user.append("New", mail("in a new folder"))
        wait_mirrors(syncer, user, "a new folder")
        inodes = {each.path.stat().st_ino for each in syncer.files(user.name, "Work").values()}
        user.rename("Work", "Moved")
        wait_mirrors(syncer, user, "a folder with a new name")
        assert {each.path.stat().st_ino for each in syncer.files(user.name, "Moved").values()} == inodes
    wait_standing(syncer, user.name, "in step", "", way.mode)
    assert process.poll() is None
    syncer.verify()


def test_a_connection_that_the_server_ends_is_made_anew(syncer: Syncer, dovecot: Dovecot, user: MailUser) -> None:
    start(syncer, user)
    for number in range(3):
        user.close()
        dovecot.kick(user.name)
        user.append("INBOX", mail(f"meanwhile {number}"))
        wait_mirrors(syncer, user, "what came meanwhile")
        wait_standing(syncer, user.name, "in step", "", "notify")
        user.append("INBOX", mail(f"later {number}"))
        wait_mirrors(syncer, user, "what is pushed on the new one")


def test_present_shortens_the_interval(syncer: Syncer, new_dovecot: NewDovecot) -> None:
    dovecot = new_dovecot(off=("NOTIFY", "IDLE"))
    syncer.settings = 'recent = { present = "1s", absent = "6h" }'
    user = new_user(dovecot, syncer)
    start(syncer, user, mode="poll")
    user.append("INBOX", mail("while nobody is here"))
    user.create("Work")
    assert syncer.run("present", user.name).returncode == 0
    wait_mirrors(syncer, user, "present asks at once")
    for number in range(2):
        user.append("Work", mail(f"while somebody is here {number}"))
        wait_mirrors(syncer, user, "present asks again and again")


# What it tells


class Supervisor:
    """The socket of sd_notify(3); `said` is all that was heard."""

    def __init__(self, syncer: Syncer) -> None:
        path = str(syncer.folder / "notify")
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.socket.bind(path)
        self.socket.settimeout(DEADLINE_S)
        self.said: list[str] = []
        syncer.environment |= {"NOTIFY_SOCKET": path, "WATCHDOG_USEC": "2000000"}

    def hear(self, pattern: str) -> str:
        """The next assignment of this pattern; those before it are kept in `said`."""
        end = time.monotonic() + DEADLINE_S
        while time.monotonic() < end:
            for line in self.socket.recv(65536).decode().split("\n"):
                self.said.append(line)
                if re.fullmatch(pattern, line):
                    return line
        pytest.fail(f"nobody said {pattern} but {self.said}")


@pytest.fixture
def supervisor(syncer: Syncer) -> Iterator[Supervisor]:
    made = Supervisor(syncer)
    yield made
    made.socket.close()


def test_a_supervisor_hears_how_it_goes(syncer: Syncer, dovecot: Dovecot, supervisor: Supervisor) -> None:
    users = [new_user(dovecot, syncer) for _ in range(2)]
    syncer.account("carol", users[0].imap.port, password="wrong")
    process = syncer.start()
    supervisor.hear("READY=1")
    supervisor.hear("STATUS=3 accounts, 2 in step; 1 resting")
    for _ in range(3):
        supervisor.hear("WATCHDOG=1")
    assert "STOPPING=1" not in supervisor.said
    assert syncer.stop(process) == 0
    supervisor.hear("STOPPING=1")
    assert supervisor.said[0] == "READY=1"
    assert supervisor.said.count("READY=1") == 1


HANGS = {
    "greeting": ("CONNECT", "alice connect"),
    "login": ("AUTHENTICATE", "alice (connect|login)"),
    "list": ("LIST", 'alice LIST "" "\\*".*'),
    "open": ("EXAMINE", "alice INBOX EXAMINE.*"),
    "fetch": ("UID FETCH", "alice INBOX UID FETCH .*"),
    "body": ("BODY", "alice INBOX UID FETCH .*"),
}


@pytest.mark.parametrize(("step", "where"), HANGS.values(), ids=HANGS)
def test_a_supervisor_hears_what_hangs_and_the_end_comes_soon_all_the_same(
    syncer: Syncer, new_fault_server: NewServer, supervisor: Supervisor, step: str, where: str
) -> None:
    server = new_fault_server(Fault(step, SILENCE))
    server.inbox.append(mail("one"))
    syncer.environment["SEMGUARD_IMAP_LIMITS"] = f"stall={DEADLINE_S} command={DEADLINE_S} connect={DEADLINE_S}"
    syncer.account("alice", server.port)
    process = syncer.start()
    supervisor.hear("READY=1")
    supervisor.hear(f"STATUS=1 account, 0 in step; {where} since [1-9].*")
    supervisor.hear("WATCHDOG=1")  # the main thread is well, and the wait has a limit of its own
    asked = time.monotonic()
    assert syncer.stop(process) == 0
    assert time.monotonic() - asked < END_S
    supervisor.hear("STOPPING=1")


def test_it_ends_soon_in_the_middle_of_a_download_and_goes_on_there(syncer: Syncer, new_fault_server: NewServer) -> None:
    large = b"Subject: large\r\n\r\n" + b"x" * 100_000
    slow = Reply(b"{%d}\r\n" % len(large) + large, pause_s=0.01)
    server = new_fault_server(Fault("BODY", slow, 1, lambda command: command.words[0] == b"3"))
    for number in range(2):
        server.inbox.append(mail(f"m{number}"))
    server.inbox.append(large)
    syncer.account("alice", server.port)
    process = syncer.start()
    wait_until(lambda: any(b"Subject: large" in each.read_bytes() for each in partial(syncer)), "the large one is on its way")
    asked = time.monotonic()
    assert syncer.stop(process) == 0
    assert time.monotonic() - asked < END_S
    syncer.sync()
    assert {uid: each.path.read_bytes() for uid, each in syncer.files("alice", "INBOX").items()} == {
        uid: each.content for uid, each in server.inbox.mails.items()
    }
    assert syncer.left_over() == []


def partial(syncer: Syncer) -> list[Path]:
    """Files in tmp that are still being written."""
    return [path for path in syncer.root.rglob("tmp/*") if path.is_file()]


def test_sigquit_tells_where_the_threads_are_and_ends_nothing(syncer: Syncer, user: MailUser) -> None:
    process = start(syncer, user)
    process.send_signal(signal.SIGQUIT)
    wait_logged(syncer, r"Current thread 0x[0-9a-f]+")
    wait_logged(syncer, r'Thread 0x[0-9a-f]+[^\n]*\n  File ".*crew.py", line \d+ in _run')
    user.append("INBOX", mail("later"))
    wait_mirrors(syncer, user, "it goes on")
    assert syncer.stop(process) == 0


def test_a_second_worker_is_refused_in_plain_words(syncer: Syncer, user: MailUser) -> None:
    start(syncer, user)
    done = syncer.run("run")
    assert done.returncode == TRY_AGAIN
    assert "one worker at a time" in done.stderr
    assert len(done.stderr.splitlines()) == 1
    user.append("INBOX", mail("later"))
    wait_mirrors(syncer, user, "the first one goes on")


# What changes under its feet


def told(syncer: Syncer) -> dict[str, dict[str, object]]:
    """The accounts in `status --json`, by name."""
    done = syncer.run("status", "--json")
    assert done.returncode == 0, done.stderr
    return {each["name"]: each for each in json.loads(done.stdout)["accounts"]}


def forget(syncer: Syncer, user: MailUser) -> None:
    """Takes an account out of mail.toml."""
    del syncer._accounts[user.name]
    syncer.write()


def is_connected(dovecot: Dovecot, user: MailUser) -> bool:
    """Whether somebody else than the test has a connection of this user."""
    user.close()
    return any(line.split()[0] == user.name for line in dovecot.admin("who").splitlines()[1:])


def test_accounts_come_and_go_under_a_running_worker(syncer: Syncer, dovecot: Dovecot, supervisor: Supervisor) -> None:
    process = syncer.start()
    supervisor.hear("STATUS=no accounts.*")
    wait_logged(syncer, "no accounts: waits for")
    first = new_user(dovecot, syncer)
    wait_standing(syncer, first.name, "in step", "", "notify")
    second = new_user(dovecot, syncer)
    for each in (first, second):
        wait_mirrors(syncer, each, "both are served")
    inode = syncer.files(first.name, "INBOX")[1].path.stat().st_ino
    forget(syncer, first)
    wait_until(lambda: not is_connected(dovecot, first), "the one that is gone has no connection")
    syncer.account(second, dovecot.port, "enabled = false")
    wait_until(lambda: not is_connected(dovecot, second), "nor has the one that is disabled")
    assert [(each["name"], each["state"], each["mode"]) for each in told(syncer).values()] == [(second.name, "disabled", "none")]
    assert len(syncer.files(first.name, "INBOX")) == 1
    for each in (first, second):
        each.append("INBOX", mail("meanwhile"))
        syncer.account(each, dovecot.port)
    for each in (first, second):
        wait_mirrors(syncer, each, "they are back")
    assert syncer.files(first.name, "INBOX")[1].path.stat().st_ino == inode
    assert process.poll() is None


def test_a_broken_config_leaves_the_old_in_force_and_is_said(syncer: Syncer, dovecot: Dovecot, user: MailUser) -> None:
    process = start(syncer, user)
    good = syncer.config.read_text()
    for number, bad in enumerate((good + "[imap\n", good.replace("[imap]", "[imap]\nthreads = 0"), good + "[[imap.accounts]]\n")):
        syncer.config.write_text(bad)
        wait_logged(syncer, "mail.toml.*the config before stays in force", number + 1)
        user.append("INBOX", mail(f"under config {number}"))
        wait_mirrors(syncer, user, "the old one is in force")
    syncer.config.unlink()
    wait_logged(syncer, "mail.toml.*the config before stays in force", 4)
    other = new_user(dovecot, syncer)
    wait_mirrors(syncer, other, "a good one is taken")
    assert process.poll() is None


@pytest.mark.parametrize("key", ["root", "state"])
def test_another_place_is_taken_by_the_same_process(syncer: Syncer, user: MailUser, key: str) -> None:
    process = start(syncer, user)
    before = {each.path.stat().st_ino for each in syncer.files(user.name, "INBOX").values()}
    text = syncer.config.read_text()
    if key == "root":
        syncer.config.write_text(text.replace('root = "archive"', 'root = "second"'))
        syncer.root = syncer.folder / "second"
    else:
        syncer.config.write_text(text.replace('state = "imap.db"', 'state = "second.db"'))
        syncer.database = syncer.folder / "second.db"
    user.append("INBOX", mail("later"))
    wait_mirrors(syncer, user, "it has begun anew")
    wait_standing(syncer, user.name, "in step", "", "notify")
    user.append("INBOX", mail("pushed"))
    wait_mirrors(syncer, user, "it is pushed there too")
    after = {each.path.stat().st_ino for each in syncer.files(user.name, "INBOX").values()}
    assert (before < after) is (key == "state")  # downloaded again only where nothing was
    assert process.poll() is None
    assert syncer.stop(process) == 0


def test_a_deleted_state_database_brings_nothing_down_again(syncer: Syncer, new_fault_server: NewServer) -> None:
    server = new_fault_server()
    for number in range(20):
        server.inbox.append(mail(f"m{number}"), ["\\Seen"] if number % 2 else [])
    syncer.settings = SELDOM
    syncer.account("alice", server.port)
    process = syncer.start()
    wait_until(lambda: holds(syncer, server), "the first pass")
    wait_standing(syncer, "alice", "in step")
    before = {uid: each.path.stat().st_ino for uid, each in syncer.files("alice", "INBOX").items()}
    bodies = len(fetched(server))
    for path in syncer.folder.glob("imap.db*"):
        path.unlink()
    wait_logged(syncer, "begins anew with what lies on disk")
    wait_until(lambda: holds(syncer, server), "it is as it was")
    wait_standing(syncer, "alice", "in step")
    assert {uid: each.path.stat().st_ino for uid, each in syncer.files("alice", "INBOX").items()} == before
    assert len(fetched(server)) == bodies
    arrives(server, "later")
    wait_until(lambda: holds(syncer, server), "and goes on")
    assert process.poll() is None


def test_a_locked_state_database_is_waited_for(syncer: Syncer, new_fault_server: NewServer, supervisor: Supervisor) -> None:
    server = new_fault_server()
    server.inbox.append(mail("one"))
    syncer.settings = SELDOM
    syncer.account("alice", server.port)
    process = syncer.start()
    wait_standing(syncer, "alice", "in step", "", "idle")
    bodies = len(fetched(server))
    with closing(sqlite3.connect(syncer.database, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        arrives(server, "two")
        supervisor.hear("STATUS=1 account, 0 in step; alice INBOX .* since [1-9].*")
        supervisor.hear("WATCHDOG=1")
        other.execute("ROLLBACK")
    wait_until(lambda: holds(syncer, server), "it goes on")
    arrives(server, "three")
    wait_until(lambda: holds(syncer, server) and len(syncer.flags("alice", "INBOX")) == 3, "and on")
    assert len(fetched(server)) == bodies + 2
    assert process.poll() is None


def holds(syncer: Syncer, server: FaultServer) -> bool:
    """Whether the copied INBOX of alice is the hostile server's."""
    with suppress(sqlite3.OperationalError, KeyError, FileNotFoundError):
        files = syncer.files("alice", "INBOX")
        expected = {uid: ("S" if each.flags else "", each.content) for uid, each in server.inbox.mails.items()}
        return {uid: (each.letters, each.path.read_bytes()) for uid, each in files.items()} == expected
    return False


def arrives(server: FaultServer, subject: str) -> None:
    """New mail that is told to the one client as soon as it waits for news."""
    wait_until(lambda: any(session.idling for session in list(server._sessions)), "somebody waits for news")
    server.inbox.append(mail(subject))
    server.announce()


def fetched(server: FaultServer) -> list[str]:
    """The commands that asked for whole messages."""
    return [command.text for command in server.said("UID FETCH") if "BODY.PEEK[]" in command.text.upper()]


def test_a_change_of_an_account_in_the_middle_of_a_download_doubles_nothing(syncer: Syncer, new_fault_server: NewServer) -> None:
    first = mail("slow") + b"x" * 1500
    slow = Reply(b"{%d}\r\n" % len(first) + first, pause_s=0.003)
    server = new_fault_server(Fault("BODY", slow, 1, lambda command: command.words[0] == b"1"))
    server.inbox.append(first)
    for number in range(30):
        server.inbox.append(mail(f"m{number}"))
    syncer.settings = SELDOM + "per_user = 1"
    syncer.account("alice", server.port)
    process = syncer.start()
    wait_until(lambda: bool(fetched(server)), "the first pass has begun")
    worker = psutil.Process(process.pid)
    connections: list[int] = []  # of the worker's, at each command from now on
    server.before = lambda _: connections.append(
        sum(1 for each in worker.net_connections("tcp") if each.raddr and each.raddr.port == server.port)
    )
    syncer.account("alice", server.port, 'log_level = "debug"')
    wait_logged(syncer, r"> s\d+ .*")
    wait_until(lambda: holds(syncer, server), "all is there")
    wait_standing(syncer, "alice", "in step")
    assert holds(syncer, server)  # which also looks for what is there twice
    assert syncer.removed("alice") == []
    assert set(connections) == {1}
    server.before = None
    assert syncer.stop(process) == 0
    assert syncer.left_over() == []


# Secrets


def traces(secret: str) -> set[str]:
    """How a secret may look in a log: plain, quoted, and the signs of base64 that depend on it alone."""
    found = {secret, secret.replace("\\", "\\\\").replace('"', '\\"')}
    octets = secret.encode()
    for shift in range(3):
        coded = base64.b64encode(b"\0" * shift + octets).decode().rstrip("=")
        found.add(coded[-(-8 * shift // 6) : (8 * (shift + len(octets))) // 6])
    return found


def assert_unsaid(syncer: Syncer, *secrets: str) -> None:
    """No log has any of these secrets in any form."""
    texts = [syncer.logged(), *(path.read_text() for path in (syncer.folder / "logs").glob("*"))]
    assert len(texts) > 1
    for secret in secrets:
        for each in traces(secret):
            assert not [line for text in texts for line in text.splitlines() if each in line]


SECRET = 'pa"ss\\word 4 alice'
ECHO = " ".join((SECRET, base64.b64encode(f"\0alice\0{SECRET}".encode()).decode(), base64.b64encode(SECRET.encode()).decode()))
MECHANISMS = {"PLAIN": ["AUTH=PLAIN"], "PLAIN without SASL-IR": ["AUTH=PLAIN"], "LOGIN": ["AUTH=LOGIN"], "command": ["AUTH=X"]}


@pytest.mark.parametrize("mechanism", MECHANISMS)
def test_no_password_is_in_any_log(syncer: Syncer, new_fault_server: NewServer, mechanism: str) -> None:
    capabilities = [word for word in MODERN if word != "SASL-IR" or mechanism == "PLAIN"] + MECHANISMS[mechanism]
    refusal = Reply(f"* OK I saw {ECHO}\r\nTAG NO [AUTHENTICATIONFAILED] {ECHO}\r\n".encode())
    faults = [Fault(verb, refusal, 1) for verb in ("AUTHENTICATE", "LOGIN")]
    server = new_fault_server(*faults, capabilities=capabilities, passwords={"alice": SECRET})
    server.inbox.append(mail("one"))
    syncer.settings = f'log = "logs"\nlog_level = "debug"\n{SELDOM}'
    syncer.account("alice", server.port, password=SECRET)
    process = syncer.start()
    wait_standing(syncer, "alice", "paused", "auth")
    syncer.account("alice", server.port, password=f"{SECRET}\n")  # another file, the same secret
    wait_standing(syncer, "alice", "in step", "", "idle")
    assert holds(syncer, server)
    told(syncer)
    syncer.run("why", "alice")
    assert syncer.stop(process) == 0
    assert len(re.findall("[<>] ", syncer.logged())) > 10
    assert_unsaid(syncer, SECRET)


def test_an_expired_token_is_asked_for_again_and_never_logged(syncer: Syncer, new_fault_server: NewServer) -> None:
    tokens = [f"ya29.token-number-{number}" for number in range(3)]
    server = new_fault_server(capabilities=[*MODERN, "AUTH=XOAUTH2"], passwords={"alice": tokens[0]})
    server.inbox.append(mail("one"))
    valid, asked = syncer.folder / "token", syncer.folder / "asked"
    valid.write_text(tokens[0])
    syncer.settings = f'log = "logs"\nlog_level = "debug"\nauth_pause = "6h"\n{SELDOM}'
    script = syncer.folder / "script"
    script.write_text(f"echo x >> {asked}\ncat {valid}\n")
    syncer.account("alice", server.port, f'token_command = "sh {script}"')
    process = syncer.start()
    wait_standing(syncer, "alice", "in step", "", "idle")
    server.passwords["alice"] = tokens[1]
    valid.write_text(tokens[1])
    server.inbox.append(mail("two"))
    server.cut()
    wait_until(lambda: holds(syncer, server), "it is back with a new token")
    assert asked.read_text().count("x") == 2
    wait_standing(syncer, "alice", "in step", "", "idle")
    server.passwords["alice"] = "what nobody has"
    valid.write_text(tokens[2])
    tries = len(server.said("AUTHENTICATE"))
    server.cut()
    wait_standing(syncer, "alice", "paused", "auth")
    assert len(server.said("AUTHENTICATE")) == tries + 2  # the one in hand and a new one
    assert asked.read_text().count("x") == 3
    assert syncer.stop(process) == 0
    assert_unsaid(syncer, *tokens)


# The level of the log


def debug_lines(syncer: Syncer, number: int) -> int:
    """How many lines of what was said on connections of the account with this id the log has."""
    return len(re.findall(rf"\] [<>] .* \[{number}\]$", syncer.logged(), re.M))


def wait_silence(syncer: Syncer, user: MailUser, number: int) -> None:
    """Returns when new mail of a user comes without a line of debugging."""

    def came_in_silence() -> bool:
        before = debug_lines(syncer, number)
        user.append("INBOX", mail("noise"))
        wait_mirrors(syncer, user, "new mail")
        return debug_lines(syncer, number) == before

    wait_until(came_in_silence, "nothing is said any more")


@pytest.mark.parametrize("way", ["mail.toml", "log-level"])
def test_one_account_tells_more_for_a_while(syncer: Syncer, dovecot: Dovecot, way: str) -> None:
    users = [new_user(dovecot, syncer, f"id = {number}") for number in (11, 22)]
    process = start(syncer, *users)

    def switch(level: str) -> None:
        if way == "mail.toml":
            syncer.account(users[0], dovecot.port, f'id = 11\nlog_level = "{level}"')
        else:
            assert syncer.run("log-level", level, users[0].name).returncode == 0

    assert debug_lines(syncer, 11) == 0
    for _ in range(2):
        before = debug_lines(syncer, 11)
        switch("debug")

        def is_told(before: int = before) -> bool:
            users[0].append("INBOX", mail("noise"))
            wait_mirrors(syncer, users[0], "new mail")
            return debug_lines(syncer, 11) > before

        wait_until(is_told, "more is told")
        users[1].append("INBOX", mail("other"))
        wait_mirrors(syncer, users[1], "the other's mail")
        switch("info")
        wait_silence(syncer, users[0], 11)
    assert debug_lines(syncer, 22) == 0
    assert not any(each in syncer.logged() for each in traces(PASSWORD))
    assert syncer.stop(process) == 0


def test_a_password_that_changes_parks_the_account_until_its_file_changes(syncer: Syncer, new_fault_server: NewServer) -> None:
    server = new_fault_server()
    server.inbox.append(mail("one"))
    syncer.settings = SELDOM + 'auth_pause = "6h"'
    syncer.account("alice", server.port)
    process = syncer.start()
    wait_standing(syncer, "alice", "in step", "", "idle")
    server.passwords["alice"] = "another"
    server.inbox.append(mail("two"))
    server.cut()
    wait_standing(syncer, "alice", "paused", "auth")
    tries = len(server.said("AUTHENTICATE"))
    assert tries == 2
    (syncer.folder / "alice.pw").write_text("a third\n")
    wait_until(lambda: len(server.said("AUTHENTICATE")) == tries + 1, "the new one is tried at once, and once")
    wait_standing(syncer, "alice", "paused", "auth")
    fresh = syncer.folder / "fresh"
    fresh.touch(0o600)
    fresh.write_text("another\n")
    fresh.rename(syncer.folder / "alice.pw")
    wait_until(lambda: holds(syncer, server), "it goes on")
    wait_standing(syncer, "alice", "in step", "", "idle")
    assert len(server.said("AUTHENTICATE")) == tries + 2
    assert syncer.stop(process) == 0


PASSING = {
    "Dovecot's": "NO [UNAVAILABLE] Maximum number of connections from user+IP exceeded (mail_max_userip_connections=10)",
    "Gmail's": "NO [ALERT] Too many simultaneous connections. (Failure)",
    "a limit": "NO [LIMIT] later",
    "down": "NO [UNAVAILABLE] Temporary authentication failure.",
    "in use": "NO [INUSE] mailbox is in use",
    "by words alone": "NO Too many connections",
    "BYE": "* BYE Too many connections",
}


@pytest.mark.parametrize("text", PASSING.values(), ids=PASSING)
def test_a_limit_is_no_wrong_password(syncer: Syncer, new_fault_server: NewServer, text: str) -> None:
    reply = Reply(f"{text}\r\n".encode(), "bye") if text.startswith("*") else Reply(f"TAG {text}\r\n".encode())
    server = new_fault_server(Fault("AUTHENTICATE", reply, 2), capabilities=BASIC)
    server.inbox.append(mail("one"))
    syncer.settings = SELDOM + 'auth_pause = "6h"'
    syncer.account("alice", server.port)
    process = syncer.start()
    wait_standing(syncer, "alice", "paused", "network")
    wait_standing(syncer, "alice", "in step", "", "idle")
    assert len(server.said("AUTHENTICATE")) == 3
    assert holds(syncer, server)
    assert syncer.stop(process) == 0


# A command waits for it


def wishes(syncer: Syncer, name: str) -> tuple[int, int]:
    """Passes asked for and done."""
    ((asked, done),) = syncer.rows("SELECT asked, done FROM imap_account WHERE name = ?", name)
    return int(str(asked)), int(str(done))


@pytest.fixture
def silent() -> Iterator[socket.socket]:
    """A port on which nobody ever answers."""
    with socket.create_server(("127.0.0.1", 0)) as made:
        yield made


def waiting(syncer: Syncer, port: int) -> tuple[subprocess.Popen[bytes], subprocess.Popen[bytes]]:
    """A worker whose one account's server says nothing, and a `sync` that waits for it."""
    syncer.settings = SELDOM
    syncer.account("alice", port)
    process = syncer.start()
    wait_standing(syncer, "alice", "syncing")
    other = syncer.start("sync")
    wait_until(lambda: wishes(syncer, "alice")[0] > 0, "it has asked")
    return process, other


def test_who_waits_for_an_account_that_is_disabled_is_told(syncer: Syncer, silent: socket.socket) -> None:
    process, other = waiting(syncer, silent.getsockname()[1])
    syncer.account("alice", silent.getsockname()[1], "enabled = false")
    assert other.wait(DEADLINE_S) == 1
    assert syncer.stop(process) == 0


def test_who_waits_asks_anew_when_the_state_database_is_gone(syncer: Syncer, silent: socket.socket) -> None:
    process, other = waiting(syncer, silent.getsockname()[1])
    for path in syncer.folder.glob("imap.db*"):
        path.unlink()
    wait_logged(syncer, "begins anew with what lies on disk")
    silent.close()  # from now on connections are refused
    assert other.wait(DEADLINE_S) == TRY_AGAIN
    assert syncer.stop(process) == 0


def test_a_signal_while_it_begins_anew_ends_it(syncer: Syncer, new_fault_server: NewServer, tmp_path: Path) -> None:
    script, asked = tmp_path / "password", tmp_path / "asked"
    script.write_text(f"touch {asked}; exec sleep 4")
    syncer.settings = SELDOM
    syncer.account("alice", new_fault_server().port, f'password_command = "sh {script}"')
    process = syncer.start()
    wait_until(asked.exists, "a thread waits for a password")
    syncer.settings += "threads = 3\n"
    syncer.write()
    wait_logged(syncer, "begins anew with it")
    process.send_signal(signal.SIGTERM)
    assert process.wait(DEADLINE_S) == 0
    assert len(re.findall("started:", syncer.logged())) == 1
