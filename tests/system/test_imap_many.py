"""Two hundred accounts in one worker: push on all, caps, restarts without a storm, a laptop's sleep, a way that forgets."""

from __future__ import annotations

import base64
import ctypes
import json
import os
import random
import re
import shutil
import signal
import socket
import sqlite3
import struct
import subprocess
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from itertools import pairwise
from pathlib import Path
from typing import Any

import psutil
import pytest

from tests.system.imap_fault_server import CUT, MODERN, SILENCE, Fault, FaultServer, Reply
from tests.system.imap_fixtures import new_dovecot, syncer
from tests.system.imap_servers import Dovecot
from tests.system.imap_session import Session
from tests.system.imap_store import Box, Command
from tests.system.imap_syncer import Syncer
from tests.system.imap_user import PASSWORD, MailUser
from tests.system.mail_servers import DEADLINE_S, wait_until
from workers.imap.hosts import AT_ONCE
from workers.imap.schedule import PROBE_S

__all__ = ["new_dovecot", "syncer"]

ACCOUNTS = 200
PER_HOST = 210
SOME = 20
PERSON = 1  # the status of a sync that needs one
SELDOM = 'recent = { present = "6h", absent = "6h" }\nfull = { present = "6h", absent = "6h" }\nauth_pause = "6h"\n'
LOGIN_S = 0.25  # what a login takes at least on the paced server
AGAIN_S = 30.0  # all current again: what the issue asks for
SO_ATTACH_FILTER = 26  # socket(7)
KEEPALIVE_S = 25.0  # behind which a connection without answers ends by itself; workers/imap/stream.py

CLOCK = r"""
#define _GNU_SOURCE
#include <fcntl.h>
#include <stdlib.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

/* clock_gettime(2) whose CLOCK_BOOTTIME is ahead by as many seconds as the file $CLOCK_AHEAD says, as behind a sleep. */
int clock_gettime(clockid_t clock, struct timespec *now)
{
    long status = syscall(SYS_clock_gettime, clock, now);
    const char *path = getenv("CLOCK_AHEAD");
    if (clock == CLOCK_BOOTTIME && status == 0 && path) {
        char text[32] = "";
        int fd = open(path, O_RDONLY | O_CLOEXEC);
        if (fd >= 0) {
            if (read(fd, text, sizeof text - 1) > 0)
                now->tv_sec += atol(text);
            close(fd);
        }
    }
    return (int)status;
}
"""


def mail(subject: str) -> bytes:
    return f"From: a@example.org\r\nSubject: {subject}\r\nMessage-ID: <{subject}@x>\r\n\r\nhello\r\n".encode()


def standings(syncer: Syncer) -> dict[str, tuple[str, str, str]]:
    """State, kind and mode of each account, as the worker wrote them."""
    with suppress(sqlite3.OperationalError):
        rows = syncer.rows("SELECT name, state, kind, mode FROM imap_account")
        return {str(row[0]): (str(row[1]), str(row[2]), str(row[3])) for row in rows}
    return {}


def wait_all(syncer: Syncer, names: list[str], mode: str, deadline_s: float = DEADLINE_S) -> None:
    """Returns when all these accounts are in step."""
    good = ("in step", "", mode)

    def all_good() -> bool:
        found = standings(syncer)
        return all(found.get(name) == good for name in names)

    wait(syncer, all_good, f"{len(names)} accounts are in step by {mode}", deadline_s)


def wait(syncer: Syncer, condition: Callable[[], bool], what: str, deadline_s: float = DEADLINE_S) -> None:
    """wait_until with less haste, and with what the worker says when it fails."""
    end = time.monotonic() + deadline_s
    while not condition():
        if time.monotonic() > end:
            found = Counter(standings(syncer).values())
            pytest.fail(f"not within {deadline_s:.0f} s: {what}; {found}\n{syncer.logged()[-3000:]}")
        time.sleep(0.05)


class Sampler:
    """Counts a process's connections to a port again and again; `most` is the most there were at one time.

    `most_of` by whatever `owner(local port)` says. The client's side is looked at: there an end comes before what follows.
    """

    def __init__(self, process: subprocess.Popen[bytes], port: int, owner: Callable[[int], str] = str) -> None:
        self.most = 0
        self.most_of: dict[str, int] = {}
        self.looks = 0
        self._process = psutil.Process(process.pid)
        self._port = port
        self._owner = owner
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def now(self) -> list[int]:
        """The local ports of the connections that there are."""
        rows = self._process.net_connections("tcp")
        return [row.laddr.port for row in rows if row.raddr and row.raddr.port == self._port]

    def end(self) -> None:
        """Looks no more."""
        self._over.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._over.wait(0.05):
            with suppress(psutil.NoSuchProcess):
                ports = self.now()
                self.looks += 1
                self.most = max(self.most, len(ports))
                for name, number in Counter(self._owner(port) for port in ports).items():
                    self.most_of[name] = max(self.most_of.get(name, 0), number)


# Dovecot


class Fleet:
    """A worker with ACCOUNTS accounts on one Dovecot, and no interval that would bring news before the tests are over."""

    def __init__(self, folder: Path) -> None:
        self.dovecot = Dovecot()
        self.syncer = Syncer(folder)
        self.syncer.settings = f"{SELDOM}per_user = 2\nper_host = {PER_HOST}\n"
        self.users = [self.dovecot.user(f"user{number}") for number in range(ACCOUNTS)]
        self.names = [user.name for user in self.users]
        self.more = f'ca_file = "{self.dovecot.ca}"'
        for user in self.users:
            self.syncer.account(user, self.dovecot.tls_port, self.more, tls="tls")
        self.process = self.syncer.start()
        self.sampler = Sampler(self.process, self.dovecot.tls_port)

    def close(self) -> None:
        """Ends all."""
        self.sampler.end()
        self.syncer.close()
        self.dovecot.close()

    def logins(self) -> Counter[str]:
        """How often each user has logged in so far, the tests too."""
        return Counter(re.findall(r"Login: user=<(\w+)>", self.dovecot.log()))

    def subjects(self, user: MailUser) -> set[str]:
        """What lies in the copied INBOX of a user."""
        files = [path.read_text() for path in (self.syncer.root / user.name / "INBOX" / "cur").glob("*")]
        return {found[1] for text in files if (found := re.search(r"Subject: (.*)", text))}

    def append(self, users: list[MailUser], subject: str) -> None:
        """New mail for all of these at once."""
        with ThreadPoolExecutor(len(users)) as pool:
            for done in [pool.submit(user.append, "INBOX", mail(subject)) for user in users]:
                done.result()

    def wait_subject(self, users: list[MailUser], subject: str, deadline_s: float = DEADLINE_S) -> None:
        """Returns when all of these have it as a file."""
        wait(
            self.syncer, lambda: all(subject in self.subjects(user) for user in users), f"{subject} is there for all", deadline_s
        )


@pytest.fixture(scope="module")
def fleet(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Fleet]:
    made = Fleet(tmp_path_factory.mktemp("fleet"))
    try:
        wait_all(made.syncer, made.names, "notify")
        yield made
        assert made.process.poll() is None
    finally:
        made.close()


def test_all_are_in_step_and_each_has_one_connection_at_rest(fleet: Fleet) -> None:
    done = fleet.syncer.run("status", "--json")
    assert done.returncode == 0
    rows = json.loads(done.stdout)["accounts"]
    assert [(row["name"], row["state"], row["mode"]) for row in rows] == [(name, "in step", "notify") for name in fleet.names]
    for user in fleet.users:
        user.close()
    wait(fleet.syncer, lambda: len(fleet.sampler.now()) == ACCOUNTS, "one connection each")
    wait(fleet.syncer, lambda: connections(fleet.dovecot) == dict.fromkeys(fleet.names, 1), "Dovecot says so too")
    assert fleet.sampler.looks > 1
    assert ACCOUNTS <= fleet.sampler.most <= PER_HOST


def connections(dovecot: Dovecot) -> dict[str, int]:
    """How many each user has."""
    rows = [line.split() for line in dovecot.admin("who").splitlines()[1:]]
    return {row[0]: int(row[1]) for row in rows}


def test_new_mail_on_any_of_them_is_a_file(fleet: Fleet) -> None:
    for turn in range(3):
        some = random.sample(fleet.users, SOME)
        fleet.append(some, f"turn {turn}")
        fleet.wait_subject(some, f"turn {turn}")
        assert {user.name for user in fleet.users if f"turn {turn}" in fleet.subjects(user)} == {user.name for user in some}
    wait_all(fleet.syncer, fleet.names, "notify")
    assert fleet.sampler.most <= PER_HOST
    for user in some:
        fleet.syncer.assert_mirrors(user)


def test_a_wrong_password_parks_one_and_the_others_do_not_notice(fleet: Fleet) -> None:
    for user in fleet.users:
        user.close()
    before = fleet.logins()
    bad = fleet.dovecot.user("bad", "the right one")
    fleet.syncer.account("bad", fleet.dovecot.tls_port, fleet.more, tls="tls", password="a wrong one")
    wait(fleet.syncer, lambda: standings(fleet.syncer).get("bad", ())[:2] == ("paused", "auth"), "the bad one is parked")
    some = random.sample(fleet.users, SOME)
    fleet.append(some, "beside a bad one")
    fleet.wait_subject(some, "beside a bad one")
    wait_all(fleet.syncer, fleet.names, "notify")
    assert fleet.syncer.run("sync", some[0].name).returncode == 0
    assert refusals(fleet.dovecot, "bad") == 1
    assert fleet.syncer.run("sync", "bad").returncode == PERSON  # who asks has it tried
    assert refusals(fleet.dovecot, "bad") == 2
    assert fleet.logins() == before + Counter(user.name for user in some)  # the tests' own
    bad.append("INBOX", mail("at last"))
    (fleet.syncer.folder / "bad.pw").write_text("the right one\n")
    fleet.wait_subject([bad], "at last")
    wait_all(fleet.syncer, ["bad", *fleet.names], "notify")
    assert refusals(fleet.dovecot, "bad") == 2
    del fleet.syncer._accounts["bad"]
    fleet.syncer.write()
    bad.close()
    wait(fleet.syncer, lambda: "bad" not in connections(fleet.dovecot), "it is let go")


def refusals(dovecot: Dovecot, name: str) -> int:
    """How often Dovecot refused this user's login."""
    return len(re.findall(rf"auth failed, \d+ attempts.*user=<{name}>", dovecot.log()))


def test_all_are_current_again_soon_behind_a_restart_of_the_server(fleet: Fleet) -> None:
    fleet.append(fleet.users[:SOME], "before the restart")
    fleet.dovecot.stop()
    wait(fleet.syncer, lambda: any(row[1] == "network" for row in standings(fleet.syncer).values()), "it is seen")
    before = fleet.logins()
    fleet.dovecot.start()
    started = time.monotonic()
    some = random.sample(fleet.users, SOME)
    fleet.append(some, "behind the restart")
    own = Counter(user.name for user in some)

    def all_are_back() -> bool:
        return all((fleet.logins() - before - own)[name] for name in fleet.names)

    wait(fleet.syncer, all_are_back, "all are connected again", AGAIN_S)
    fleet.wait_subject(some, "behind the restart", AGAIN_S - (time.monotonic() - started))
    fleet.wait_subject(fleet.users[:SOME], "before the restart")
    wait_all(fleet.syncer, fleet.names, "notify")
    assert fleet.sampler.most <= PER_HOST


def test_a_cap_of_the_server_stops_only_whom_it_is_for(syncer: Syncer, new_dovecot: Callable[..., Dovecot]) -> None:
    dovecot = new_dovecot(userip_connections=1)
    users = [dovecot.user(f"user{number}") for number in range(5)]
    syncer.settings = SELDOM
    for user in users:
        user.append("INBOX", mail("one"))
        syncer.account(user, dovecot.port)
        if user is not users[0]:
            user.close()
    process = syncer.start()
    wait_all(syncer, [user.name for user in users[1:]], "notify")
    wait(syncer, lambda: standings(syncer).get(users[0].name, ())[1:2] == ("network",), "the one at its cap waits")
    tries = dovecot.log().count("Maximum number of connections")
    wait(syncer, lambda: dovecot.log().count("Maximum number of connections") > tries, "it is tried again")
    users[0].close()
    wait_all(syncer, [users[0].name], "notify")
    assert (syncer.root / users[0].name / "INBOX" / "cur").exists()
    assert syncer.stop(process) == 0


# The hostile server


class Paced(FaultServer):
    """Takes LOGIN_S for each login. `most_on_way`: of connections that were not yet logged in; `users` by the client's port."""

    def __init__(self, *faults: Fault, accounts: int, **options: Any) -> None:
        self.names = [f"user{number}" for number in range(accounts)]
        self.most_on_way = 0
        self.users: dict[int, str] = {}
        self._on_way: set[int] = set()
        self._dropped: set[Session] = set()
        super().__init__(faults, passwords=dict.fromkeys(self.names, PASSWORD), **options)

    def welcome(self, mechanism: str, credentials: bytes) -> bool:
        """Of FaultServer."""
        self.closing.wait(LOGIN_S)
        return super().welcome(mechanism, credentials)

    def reply(self, step: str, command: Command) -> Reply | None:
        """Of FaultServer: also counts who is on the way."""
        found = super().reply(step, command)
        with self.lock:
            if step == "CONNECT" and found is None:
                self._on_way.add(command.talk)
                self.most_on_way = max(self.most_on_way, len(self._on_way))
            elif step == "AUTHENTICATE":
                word = command.words[1]
                assert isinstance(word, bytes)
                user = base64.b64decode(word).split(b"\0")[1].decode()
                for session in self._sessions:
                    if session._number == command.talk:
                        self.users[session._sock.getpeername()[1]] = user
            elif step == "DONE" and command.verb == "AUTHENTICATE":
                self._on_way.discard(command.talk)
        return found

    def serve_by(self, syncer: Syncer, more: str = "") -> None:
        """Gives a worker an account for each user."""
        for name in self.names:
            syncer.account(name, self.port, more)

    def drop_all(self) -> None:
        """From now on nothing of what clients send on the connections that there are arrives, and nobody is told."""
        self._dropped.update(self._sessions)
        for session in self._dropped:
            drop(session._sock)

    def arrives(self, subject: str) -> None:
        """New mail for all, told to each client; all of them have to be waiting for news."""

        def all_wait() -> bool:
            return sum(each.idling for each in list(self._sessions) if each not in self._dropped) >= len(self.names)

        wait_until(all_wait, "all wait for news")
        self.inbox.append(mail(subject))
        self.announce()

    def are_copied(self, syncer: Syncer) -> bool:
        """Whether each account has as many files as there are messages in the one INBOX of all."""
        expected = len(self.inbox.mails)
        return all(len(list((syncer.root / name / "INBOX" / "cur").glob("*"))) == expected for name in self.names)


def drop(sock: socket.socket) -> None:
    """The kernel throws away all that comes for this socket, even what only acknowledges: a filter that lets nothing pass."""
    program = ctypes.create_string_buffer(struct.pack("HBBI", 0x06, 0, 0, 0))  # BPF_RET | BPF_K: 0 bytes of each packet
    sock.setsockopt(socket.SOL_SOCKET, SO_ATTACH_FILTER, struct.pack("HL", 1, ctypes.addressof(program)))


@pytest.fixture
def new_paced() -> Iterator[Callable[..., Paced]]:
    made: list[Paced] = []

    def make(*faults: Fault, accounts: int, **options: Any) -> Paced:
        made.append(Paced(*faults, accounts=accounts, **options))
        return made[-1]

    yield make
    for each in made:
        each.close()


def busiest_second(times: list[float]) -> int:
    """The most of these moments that lie within one second."""
    return max((sum(start <= at < start + 1.0 for at in times) for start in times), default=0)


MOST_IN_A_SECOND = AT_ONCE * (int(1.0 / LOGIN_S) + 1)  # AT_ONCE on the way, and each is so for LOGIN_S at least


def test_a_server_that_ends_all_connections_meets_no_storm(syncer: Syncer, new_paced: Callable[..., Paced]) -> None:
    server = new_paced(accounts=ACCOUNTS)
    server.inbox.append(mail("one"))
    syncer.settings = SELDOM
    server.serve_by(syncer)
    syncer.start()
    wait_all(syncer, server.names, "idle")
    first = len(server.connected)
    server.inbox.append(mail("meanwhile"))
    server.cut()
    wait(syncer, lambda: server.are_copied(syncer), "all are current again", AGAIN_S)
    wait_all(syncer, server.names, "idle")
    times = server.connected[first:]
    assert len(times) == ACCOUNTS
    assert server.most_on_way <= AT_ONCE
    assert busiest_second(times) <= MOST_IN_A_SECOND
    assert busiest_second(server.connected[:first]) <= MOST_IN_A_SECOND  # nor at the start


def test_a_server_that_is_down_is_asked_by_one_account_at_a_time(syncer: Syncer, new_paced: Callable[..., Paced]) -> None:
    down = threading.Event()
    server = new_paced(Fault("CONNECT", CUT, when=lambda _: down.is_set()), accounts=60)
    server.inbox.append(mail("one"))
    syncer.settings = SELDOM
    server.serve_by(syncer)
    syncer.start()
    wait_all(syncer, server.names, "idle")
    first = len(server.connected)
    down.set()
    server.cut()
    server.inbox.append(mail("meanwhile"))

    def probes() -> list[float]:
        """When it was asked behind the first second, in which AT_ONCE may have been on the way together."""
        times = server.connected[first:]
        return [at for at in times if at > times[0] + 1.0]

    wait(syncer, lambda: len(probes()) > 1, "it is asked again and again", 6 * PROBE_S)
    times, later = server.connected[first:], probes()
    down.clear()
    wait(syncer, lambda: server.are_copied(syncer), "all are current again", AGAIN_S)
    wait_all(syncer, server.names, "idle")
    assert len(times) - len(later) <= AT_ONCE
    assert min(after - before for before, after in pairwise(later)) > 0.9  # the least pause is 1 s
    assert busiest_second(server.connected[first + len(times) :]) <= MOST_IN_A_SECOND


def test_a_host_that_was_down_for_long_is_asked_as_often_as_ever(syncer: Syncer, new_paced: Callable[..., Paced]) -> None:
    server = new_paced(Fault("CONNECT", CUT, 5), accounts=1)
    server.inbox.append(mail("one"))
    server.serve_by(syncer)
    process = syncer.start()
    wait(syncer, lambda: server.are_copied(syncer), "it is there again", 6 * PROBE_S)
    assert max(after - before for before, after in pairwise(server.connected)) < PROBE_S + 5
    assert syncer.stop(process) == 0


def test_caps_hold_and_nobody_is_left_out(syncer: Syncer, new_paced: Callable[..., Paced]) -> None:
    server = new_paced(accounts=12, capabilities=[word for word in MODERN if word != "IDLE"])
    for number in range(4):
        server.boxes[f"f{number}".encode()] = Box(number + 2)
        for each in range(50):
            server.boxes[f"f{number}".encode()].append(mail(f"{number} {each}") + b"x" * 20_000)
    syncer.settings = f"{SELDOM}per_user = 2\nper_host = 5\n"
    server.serve_by(syncer)
    process = syncer.start()
    sampler = Sampler(process, server.port, lambda port: server.users.get(port, ""))
    try:
        wait_until(lambda: all_have(syncer, server, "f3", 50), "everybody has everything")
    finally:
        sampler.end()
    assert sampler.looks > 1
    assert 1 < sampler.most <= 5
    assert max(number for name, number in sampler.most_of.items() if name) <= 2
    assert syncer.stop(process) == 0


def test_a_cap_below_the_number_of_accounts_leaves_nobody_out(syncer: Syncer, new_paced: Callable[..., Paced]) -> None:
    server = new_paced(accounts=12)
    server.inbox.append(mail("one"))
    syncer.settings = 'per_host = 5\nrecent = { present = "2s", absent = "2s" }\n'
    server.serve_by(syncer)
    process = syncer.start()
    sampler = Sampler(process, server.port)
    try:
        for turn in range(3):
            wait(syncer, lambda: server.are_copied(syncer), "everybody has everything")
            server.inbox.append(mail(f"turn {turn}"))
            server.announce()
    finally:
        sampler.end()
    assert sampler.looks > 1
    assert sampler.most <= 5
    assert syncer.stop(process) == 0


def all_have(syncer: Syncer, server: Paced, folder: str, number: int) -> bool:
    """Whether each account has so many files in this folder."""
    return all(len(list((syncer.root / name / folder / "cur").glob("*"))) == number for name in server.names)


# Sleep and forgetful ways


@pytest.fixture(scope="module")
def clock(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A library whose CLOCK_BOOTTIME can be put forward."""
    compiler = shutil.which("gcc") or shutil.which("cc")
    if compiler is None:
        if os.environ.get("CI") == "true":
            pytest.fail("no gcc")
        pytest.skip("no gcc")
    folder = tmp_path_factory.mktemp("clock")
    (folder / "clock.c").write_text(CLOCK)
    subprocess.run([compiler, "-shared", "-fPIC", "-o", folder / "clock.so", folder / "clock.c"], check=True)
    return folder / "clock.so"


class Sleeper:
    """A worker on a machine that can be put to sleep."""

    def __init__(self, syncer: Syncer, clock: Path) -> None:
        self._ahead = syncer.folder / "ahead"
        self._ahead.write_text("0")
        syncer.environment |= {"LD_PRELOAD": str(clock), "CLOCK_AHEAD": str(self._ahead)}
        self.process = syncer.start()

    def sleep(self) -> None:
        """Stands still until `wake`."""
        self.process.send_signal(signal.SIGSTOP)
        os.waitid(os.P_PID, self.process.pid, os.WSTOPPED | os.WNOWAIT)

    def wake(self, slept_s: int) -> None:
        """Goes on, so many seconds later by the clock."""
        self._ahead.write_text(str(slept_s))
        self.process.send_signal(signal.SIGCONT)


def test_behind_a_sleep_all_connections_are_made_anew(syncer: Syncer, new_paced: Callable[..., Paced], clock: Path) -> None:
    server = new_paced(accounts=40)
    server.inbox.append(mail("one"))
    syncer.settings = SELDOM
    server.serve_by(syncer)
    sleeper = Sleeper(syncer, clock)
    wait_all(syncer, server.names, "idle")
    first = len(server.connected)
    assert first == len(server.names)
    sleeper.sleep()
    server.drop_all()
    server.inbox.append(mail("meanwhile"))
    sleeper.wake(3600)
    wait(syncer, lambda: server.are_copied(syncer), "the mail of the night is there", KEEPALIVE_S)
    assert len(re.findall(r"the clock has jumped by 60 min", syncer.logged())) == 1
    wait_all(syncer, server.names, "idle")
    times = server.connected[first:]
    assert len(times) == len(server.names)
    assert max(times) - min(times) > 0.5  # staggered
    assert busiest_second(times) <= MOST_IN_A_SECOND
    assert server.most_on_way <= AT_ONCE
    server.arrives("in the morning")
    wait(syncer, lambda: server.are_copied(syncer), "and they are pushed")
    assert syncer.stop(sleeper.process) == 0


@pytest.mark.parametrize("step", ["LIST", "EXAMINE", "UID FETCH"])
def test_what_was_in_hand_before_a_sleep_is_not_waited_for(
    syncer: Syncer, new_paced: Callable[..., Paced], clock: Path, step: str
) -> None:
    server = new_paced(Fault(step, SILENCE, 1), accounts=1)
    server.inbox.append(mail("one"))
    syncer.environment["SEMGUARD_IMAP_LIMITS"] = "stall=600 command=600 connect=600"
    syncer.settings = SELDOM
    server.serve_by(syncer)
    sleeper = Sleeper(syncer, clock)
    wait(syncer, lambda: bool(server.said(step)), "it waits for an answer")
    sleeper.sleep()
    server.drop_all()
    sleeper.wake(3600)
    wait(syncer, lambda: server.are_copied(syncer), "it is asked anew", KEEPALIVE_S - 5)
    wait_all(syncer, server.names, "idle")
    assert syncer.stop(sleeper.process) == 0


@pytest.mark.parametrize("is_pushed", [False, True], ids=["nothing comes any more", "nothing arrives any more"])
def test_a_way_that_forgets_is_noticed(syncer: Syncer, new_paced: Callable[..., Paced], *, is_pushed: bool) -> None:
    server = new_paced(accounts=5)
    server.inbox.append(mail("one"))
    syncer.environment["SEMGUARD_IMAP_LIMITS"] = ""  # as for everybody
    syncer.settings = SELDOM
    server.serve_by(syncer)
    process = syncer.start()
    wait_all(syncer, server.names, "idle")
    server.drop_all()
    server.inbox.append(mail("meanwhile"))
    if is_pushed:
        server.announce()  # what the worker then says is lost
    started = time.monotonic()
    wait(syncer, lambda: server.are_copied(syncer), "all are current again", KEEPALIVE_S + 15)
    assert time.monotonic() - started > KEEPALIVE_S / 2  # or nothing was lost and nothing is shown
    wait_all(syncer, server.names, "idle")
    server.arrives("later")
    wait(syncer, lambda: server.are_copied(syncer), "and they are pushed")
    assert syncer.stop(process) == 0
