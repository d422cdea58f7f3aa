"""Standard files that are full, closed or without a reader, and Ctrl-C: one line or none, and the right exit status."""

from __future__ import annotations

import os
import shlex
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.system.mail_servers import DEADLINE_S, ROOT, Spool, wait_until

LAUNCH = ROOT / "workers" / "launch"
FULL = "No space left on device"
SAID = "can't write to standard output:"
COMMANDS = [
    "imap-sync --help",
    "imap-sync status",
    "imap-sync status --json",
    "imap-sync sync",
    "imap-sync verify",
    "imap-sync check",
    "smtp-spool --version",
    "smtp-spool list",
    "smtp-spool sendmail -bp",
    "smtp-spool check",
]


def shell(spool: Spool, command: str, files: str) -> subprocess.CompletedProcess[str]:
    """Runs a command with its standard files as a shell is told."""
    line = f"{shlex.quote(sys.executable)} {LAUNCH}/{command} {files}"
    return subprocess.run(["sh", "-c", line], env=spool.environment, capture_output=True, text=True, timeout=DEADLINE_S)


@pytest.mark.parametrize("command", COMMANDS)
def test_output_that_cannot_be_written_is_74_and_one_line(spool: Spool, command: str) -> None:
    program = command.partition(" ")[0]
    for files, why in (("> /dev/full", FULL), (">&-", "Bad file descriptor")):
        done = shell(spool, command, files)
        assert (done.returncode, done.stderr) == (74, f"{program}: {SAID} {why}\n"), files
    assert shell(spool, command, "| true").stderr == ""
    assert shell(spool, command, "> /dev/full 2>&1").returncode == 74
    assert shell(spool, command, "> /dev/null 2>&-").returncode == 0


def test_a_mistake_is_no_output_without_standard_error(spool: Spool) -> None:
    done = shell(spool, "smtp-spool dance", "2>&-")
    assert (done.returncode, done.stdout, done.stderr) == (64, "", "")


@pytest.mark.parametrize("buffered", [True, False])
def test_a_mail_that_is_queued_is_queued_whoever_hears_its_number(spool: Spool, *, buffered: bool) -> None:
    spool.environment["PYTHONUNBUFFERED"] = "" if buffered else "1"
    page = spool.folder / "templates" / "t"
    page.mkdir(parents=True)
    (page / "subject.txt").write_text("s")
    (page / "body.html").write_text("<p>b</p>")
    done = shell(spool, "smtp-spool send t --to a@example.org", "> /dev/full")
    assert (done.returncode, done.stderr) == (0, f"smtp-spool: mail 1 is queued, but its number: {SAID} {FULL}\n")
    assert len(spool.rows()) == 1


@pytest.mark.parametrize("files", ["0<&-", "0<&- >&- 2>&-"])
def test_input_that_is_closed_queues_nothing(spool: Spool, files: str) -> None:
    assert shell(spool, "smtp-spool sendmail a@example.org", files).returncode == 74
    assert shell(spool, "smtp-spool send confirm-address --to a@example.org --data -", files).returncode == 74
    assert not spool.database.exists() or spool.rows() == []


def test_a_sender_without_standard_files_writes_no_log_into_the_mail(spool: Spool) -> None:
    assert spool.sendmail("a@example.org").returncode == 0
    for files in ("0<&- >&- 2>&-", ">&-"):
        assert shell(spool, "smtp-spool run --drain", files).returncode == 0
    (text,) = spool.delivered()
    assert text.endswith("\n\nbody\n")
    for path in spool.folder.rglob("*"):
        assert not path.is_file() or b"smtp-spool[" not in path.read_bytes(), path


@pytest.fixture
def silent(spool: Spool) -> Iterator[socket.socket]:
    """A server that says nothing, as relay and as account."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        (spool.folder / "pw").write_text("x\n")
        (spool.folder / "pw").chmod(0o600)
        where = f'host = "127.0.0.1"\nport = {port}\ntls = "none"\n'
        spool.configure(f'[relay]\n{where}[[imap.accounts]]\nname = "a"\n{where}password_file = "pw"\n')
        server.settimeout(DEADLINE_S)
        yield server


@pytest.mark.parametrize("command", ["imap-sync sync", "imap-sync verify", "imap-sync check", "smtp-spool check"])
@pytest.mark.parametrize("times", [1, 2])
def test_ctrl_c_is_130_without_a_word(spool: Spool, silent: socket.socket, command: str, times: int) -> None:
    process = begun(spool, command)
    connection, _ = silent.accept()
    interrupt(process, times)
    connection.close()


def test_ctrl_c_while_the_mail_is_typed_queues_nothing(spool: Spool) -> None:
    process = begun(spool, "smtp-spool sendmail a@example.org")
    stdin = process.stdin
    assert stdin is not None
    wait_until(lambda: " read" in f" {waits_in(process)}" or "pipe" in waits_in(process), "it waits for the mail")
    interrupt(process, 1)
    assert not spool.database.exists()


def begun(spool: Spool, command: str) -> subprocess.Popen[str]:
    words = command.split()
    line = [sys.executable, str(LAUNCH / words[0]), *words[1:]]
    pipe = subprocess.PIPE

    def as_typed() -> None:  # what runs the tests ignores it
        signal.signal(signal.SIGINT, signal.default_int_handler)

    return subprocess.Popen(line, env=spool.environment, stdin=pipe, stdout=pipe, stderr=pipe, text=True, preexec_fn=as_typed)


def interrupt(process: subprocess.Popen[str], times: int) -> None:
    for _ in range(times):
        os.kill(process.pid, signal.SIGINT)
    try:
        _, complaint = process.communicate(timeout=DEADLINE_S)
    finally:
        process.kill()
    assert (process.returncode, complaint) == (130, "")


def waits_in(process: subprocess.Popen[str]) -> str:
    return Path(f"/proc/{process.pid}/wchan").read_text()
