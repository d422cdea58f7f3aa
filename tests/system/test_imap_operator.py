"""What an operator meets: a server, a user or a file that is not as it should be, and what imap-sync tells of it."""

from __future__ import annotations

import json
import os
import shutil
import ssl
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.system.harness import need_reach
from tests.system.imap_fault_server import MODERN, SILENCE, Fault, FaultServer, Reply, no
from tests.system.imap_fixtures import new_fault_server, syncer
from tests.system.imap_servers import make_certificates
from tests.system.imap_store import Box, Command
from tests.system.imap_syncer import Syncer
from tests.system.mail_servers import ROOT, free_port, wait_until

__all__ = ["new_fault_server", "syncer"]

NewServer = Callable[..., FaultServer]
PERSON, LATER, NOT_ALLOWED = 1, 75, 77
NOBODY = 65534
FAILED = "[AUTHENTICATIONFAILED] Authentication failed."


def told(syncer: Syncer, name: str = "alice") -> dict[str, Any]:
    """What `status --json` has of an account."""
    accounts = json.loads(syncer.run("status", "--json").stdout)["accounts"]
    found: dict[str, Any] = next(each for each in accounts if each["name"] == name)
    return found


def test_a_server_that_takes_no_tokens_is_told_as_that(syncer: Syncer, new_fault_server: NewServer) -> None:
    server = new_fault_server(capabilities=[*MODERN, "AUTH=PLAIN"])
    asked = syncer.folder / "asked"
    syncer.account("alice", server.port, f'token_command = "touch {asked} hush"')
    said = syncer.sync(status=PERSON)
    assert "it offers no login with a token: neither OAUTHBEARER nor XOAUTH2 (AUTH=PLAIN)" in said
    assert "asks for a new token" not in said
    assert not asked.exists()
    explained = syncer.run("why", "alice").stdout
    assert "It takes no tokens: put password_file or password_command in the place of token_command at" in explained
    assert "hush" not in explained


def test_a_server_that_takes_only_tokens_is_told_as_that(syncer: Syncer, new_fault_server: NewServer) -> None:
    server = new_fault_server(capabilities=[*MODERN, "AUTH=XOAUTH2", "LOGINDISABLED"])
    syncer.account("alice", server.port)
    assert "it offers no login with a password (AUTH=XOAUTH2)" in syncer.sync(status=PERSON)
    assert "put token_command in the place of password_file" in syncer.run("why", "alice").stdout


def test_after_the_last_pass_no_next_try_is_promised(syncer: Syncer, new_fault_server: NewServer) -> None:
    server = new_fault_server(Fault("LOGIN", no(FAILED)), Fault("AUTHENTICATE", no(FAILED)))
    syncer.account("alice", server.port)
    said = syncer.sync(status=PERSON)
    assert f"{FAILED.removesuffix('.')}; next try with the next sync or run [1]" in said
    shown = syncer.run("status").stdout
    assert FAILED.removesuffix(".") in shown
    assert "next try" not in shown
    assert told(syncer)["until"] is None
    process = syncer.start()
    wait_until(lambda: "; next try in 30 min [1]" in syncer.logged(), "a worker says when it tries again", 30)
    wait_until(lambda: told(syncer)["until"] is not None, "and writes it down", 30)
    assert f"{FAILED.removesuffix('.')}; next try in " in syncer.run("status").stdout
    assert syncer.stop(process) == 0


def test_check_counts_the_folders_that_can_be_opened(syncer: Syncer, new_fault_server: NewServer) -> None:
    server = new_fault_server()
    server.boxes[b"Parent"] = Box()
    server.boxes[b"Parent"].attributes = "\\Noselect"
    syncer.account("alice", server.port, 'outbox = "Parent"')
    said = syncer.run("check").stdout
    assert "1 of 1 folders are copied" in said
    assert "it has no folder Parent (its outbox); it has no folder Sent (for sent mail: made when it is needed); 1 of" in said


def test_check_tells_what_to_do(syncer: Syncer, new_fault_server: NewServer) -> None:
    server = new_fault_server()
    syncer.account("alice", server.port, 'outbox = "To send"')
    where, again = f'[[imap.accounts]] name = "alice" in {syncer.config}', "then: imap-sync check\n"
    done = syncer.run("check")
    assert (done.returncode, done.stderr) == (PERSON, "")
    assert f" folders are copied; make that folder on the server, or put outbox right at {where}; {again}" in done.stdout
    server.boxes[b"To send"] = Box()
    assert syncer.run("check").returncode == 0
    password = syncer.folder / "alice.pw"
    password.unlink()
    done = syncer.run("check")
    assert done.returncode == PERSON
    assert f"{password}: No such file or directory; write the password into {password}, mode 0600; {again}" in done.stdout
    password.write_text("correct horse\n")
    password.chmod(0o644)
    assert f"; take that away: chmod o= {password}\n" in syncer.run("check").stdout
    password.chmod(0o600)
    server.faults = [Fault("LOGIN", no(FAILED)), Fault("AUTHENTICATE", no(FAILED))]
    source = f"password_file = {password}"
    said = f"{FAILED.removesuffix('.')}; put user (alice) or the secret right ({source}) at {where}; {again}"
    assert said in syncer.run("check").stdout


def test_beside_a_worker_sync_tells_why(syncer: Syncer, new_fault_server: NewServer) -> None:
    refuses = new_fault_server(Fault("LOGIN", no(FAILED)), Fault("AUTHENTICATE", no(FAILED)))
    half = new_fault_server(Fault("BODY", Reply(b"NIL")), passwords={"carol": "correct horse"})
    half.inbox.append(b"Subject: x\r\n\r\nhello\r\n")
    syncer.account("alice", new_fault_server().port)
    syncer.account("bob", refuses.port)
    syncer.account("carol", half.port)
    syncer.account("dora", free_port())
    process = syncer.start()
    wait_until(lambda: told(syncer)["state"] == "in step", "the worker is at work", 30)
    for name, status, why in (
        ("alice", 0, ""),
        ("bob", PERSON, f"bob: login: NO {FAILED.removesuffix('.')}; imap-sync why bob\n"),
        ("carol", PERSON, "carol: 1 message could not be fetched; imap-sync why carol\n"),
        ("dora", LATER, "dora: can't connect: Connection refused; imap-sync why dora\n"),
    ):
        done = syncer.run("sync", name)
        assert (done.returncode, done.stdout, done.stderr) == (status, "", why)
    done = syncer.run("sync")
    assert done.returncode == PERSON
    assert sorted(line.partition(":")[0] for line in done.stderr.splitlines()) == ["bob", "carol", "dora"]
    assert syncer.stop(process) == 0
    assert syncer.sync("carol", status=PERSON).endswith("carol: 1 message could not be fetched; imap-sync why carol\n")


def test_a_log_that_can_not_be_written_is_said_by_the_worker(syncer: Syncer, new_fault_server: NewServer) -> None:
    syncer.settings = 'log = "/proc/nope"'
    syncer.account("alice", new_fault_server().port)
    assert syncer.sync().count("log /proc/nope: No such file or directory; log lines go to standard output only") == 1


def test_verify_does_not_call_the_outbox_uncopied(syncer: Syncer, new_fault_server: NewServer) -> None:
    server = new_fault_server()
    syncer.account("alice", server.port, 'outbox = "To send"')
    syncer.sync(status=PERSON)  # it is not there yet
    server.boxes[b"To send"] = Box()
    done = syncer.run("verify")
    assert done.stdout.splitlines() == ["alice INBOX: 0 messages, all here", "alice To send: 0 messages, all here", "complete"]


def test_what_speaks_no_tls_is_told_with_the_keys_to_look_at(syncer: Syncer, new_fault_server: NewServer) -> None:
    server = new_fault_server()
    syncer.account("alice", server.port, tls="tls")
    said = syncer.sync(status=LATER)
    assert "TLS failed: what answers there speaks no TLS (WRONG_VERSION_NUMBER); see port and tls in mail.toml" in said
    server.faults = [Fault("CONNECT", Reply(b"220 mail.example.org ESMTP\r\n", "hang"))]
    syncer.account("alice", server.port)
    assert "it greets with 220: is that an IMAP port? See host, port and tls in mail.toml" in syncer.sync(status=PERSON)
    server.faults = [Fault("CONNECT", Reply(b"+OK POP3 ready\r\n", "hang"))]
    assert "it greets with +OK: is that an IMAP port?" in syncer.sync(status=PERSON)
    server.faults = [Fault("CONNECT", SILENCE)]
    syncer.environment["SEMGUARD_IMAP_LIMITS"] = "stall=1 command=4 connect=2"
    assert "greeting: nothing came for 1 s: does it wait for TLS? See port and tls in mail.toml" in syncer.sync(status=LATER)


def test_a_certificate_that_is_refused_names_no_port(syncer: Syncer, new_fault_server: NewServer) -> None:
    make_certificates(syncer.folder)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(syncer.folder / "cert.pem", syncer.folder / "key.pem")
    server = new_fault_server(tls=context, tls_first=True)
    syncer.account("alice", server.port, tls="tls")
    said = syncer.sync(status=PERSON)
    assert "certificate refused" in said
    assert "see port" not in said


def test_debug_lines_are_imap(syncer: Syncer, new_fault_server: NewServer) -> None:
    server = new_fault_server(capabilities=[each for each in MODERN if each != "SASL-IR"])
    server.inbox.append(b"Subject: x\r\n\r\nhello\r\n")
    syncer.account("alice", server.port, 'log_level = "debug"')
    lines = [line.rpartition(" [")[0].partition("] ")[2] for line in syncer.sync().splitlines()]
    heard = [line for line in lines if line.startswith("< ")]
    assert "< +" in heard
    assert "< * 1 EXISTS" in heard
    assert any(line.startswith("< * STATUS INBOX (") for line in heard)
    assert any(line.startswith("< * OK [UIDVALIDITY 1]") for line in heard)
    assert [line for line in heard if "b'" in line or "+ +" in line or "[]" in line] == []


def test_last_sync_is_when_it_came_in_step(syncer: Syncer, new_fault_server: NewServer) -> None:
    asked: list[float] = []

    def note(command: Command) -> None:
        if command.verb == "UID FETCH":
            asked.append(time.time())

    server = new_fault_server(before=note)
    server.boxes[b"Other"] = Box()
    server.inbox.append(b"Subject: x\r\n\r\nhello\r\n")
    syncer.account("alice", server.port)
    syncer.sync()
    assert asked
    assert asked[-1] < told(syncer)["synced_at"] <= time.time()
    server.faults = [Fault("EXAMINE", no("[SERVERBUG] no"), when=lambda command: command.words[0] == b"INBOX")]
    for box in server.boxes.values():  # INBOX is first, and the last one goes well
        box.append(b"Subject: y\r\n\r\nhello\r\n")
    before = told(syncer)["synced_at"]
    syncer.sync(status=PERSON)
    assert told(syncer)["synced_at"] == before  # a folder is not


def test_no_number_in_the_log_is_that_of_two_accounts(syncer: Syncer, new_fault_server: NewServer) -> None:
    server = new_fault_server(passwords={"alice": "correct horse", "bob": "correct horse"})
    syncer.account("alice", server.port)
    syncer.account("bob", server.port, "id = 1")
    said = syncer.sync()
    assert told(syncer)["id"] == 1_000_000_001
    assert told(syncer, "bob")["id"] == 1
    assert "[1000000001," in said
    assert "[1," in said
    process = syncer.start()
    wait_until(lambda: syncer.logged().count("[1000000001,") > said.count("[1000000001,"), "the worker says the same", 30)
    syncer.account("carol", server.port, "id = 1000000001", password="wrong")
    wait_until(lambda: "[2000000001," in syncer.run("sync").stdout + syncer.logged(), "it makes room for a new one", 30)
    assert syncer.stop(process) == 0


@pytest.fixture
def others_syncer() -> Iterator[Syncer]:
    """Root's, where others may read mail.toml and nothing else."""
    need_reach(NOBODY)
    folder = Path(tempfile.mkdtemp(prefix="semguard-"))
    folder.chmod(0o755)
    made = Syncer(folder)
    made.write()
    yield made
    made.close()
    shutil.rmtree(folder)


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root to become another user")
def test_another_user_is_told_who_may(others_syncer: Syncer, new_fault_server: NewServer) -> None:
    made = others_syncer
    made.account("alice", new_fault_server().port)
    made.sync()
    made.config.chmod(0o644)
    made.environment["SEMGUARD_PEAK"] = os.devnull
    for word in ("sync", "status", "run"):
        command = made.command(word)
        done = subprocess.run(
            command, cwd=ROOT, env=made.environment, text=True, capture_output=True, user=NOBODY, group=NOBODY, extra_groups=[]
        )
        assert f"{made.root}: Permission denied; run it as the user who keeps the copies" in done.stderr, word
        assert done.returncode == NOT_ALLOWED, word
