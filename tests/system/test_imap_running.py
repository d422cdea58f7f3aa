"""imap-sync at work for ever: what is pushed, what it tells its supervisor, and what changes under its feet."""

from __future__ import annotations

import base64
import json
import os
import re
import signal
import socket
import sqlite3
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from tests.system.imap_fault_server import BASIC, FOR_EVER, MODERN, SILENCE, Fault, FaultServer, Reply
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


class Way(tuple[tuple[str, ...], str, str, bool, bool], __import__("enum").Enum):  # replaced below
    pass
