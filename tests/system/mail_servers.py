"""Mail servers and spools for the system tests: Debian's smtp-sink, a relay with answers of our choice, a spool."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import ssl
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import posix_ipc
import pytest

from workers.mail.config import Config
from workers.spool import listing
from workers.spool.accept import Submission, accept, open_spool
from workers.store.bell import bell_name

ROOT = Path(__file__).resolve().parents[2]
DEADLINE_S = 120.0


def wait_until(condition: Callable[[], bool], what: str, deadline_s: float = DEADLINE_S) -> None:
    """Returns when the condition holds; fails the test when it does not in time."""
    end = time.monotonic() + deadline_s
    while not condition():
        if time.monotonic() > end:
            pytest.fail(f"not within {deadline_s:.0f} s: {what}")
        time.sleep(0.005)


def free_port() -> int:
    """A TCP port of 127.0.0.1 that nobody uses now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def end(process: subprocess.Popen[bytes]) -> None:
    """Kills and reaps a process of ours."""
    if process.poll() is None:
        process.kill()
    process.wait()


def take_bell_away(database: Path) -> None:
    """Removes the message queue that a killed worker has left for the next one, which a test does not start."""
    with suppress(FileNotFoundError, posix_ipc.ExistentialError):
        posix_ipc.unlink_message_queue(bell_name(str(database)))


class Sink:
    """Postfix's smtp-sink(1), which dumps each mail into a file of `folder`."""

    def __init__(self, folder: Path, port: int | None = None) -> None:
        program = shutil.which("smtp-sink", path=f"{os.environ.get('PATH', '')}:/usr/sbin:/usr/libexec/postfix")
        if program is None:
            reason = "smtp-sink is missing; Debian has it in the package postfix"
            if os.environ.get("CI") == "true":
                pytest.fail(reason)
            pytest.skip(reason)
        self.folder = folder
        self.port = port or free_port()
        folder.mkdir(exist_ok=True)
        user = ["-u", "root"] if os.geteuid() == 0 else []
        command = [program, *user, "-d", f"{folder}/mail.", f"127.0.0.1:{self.port}", "100"]
        self.process = subprocess.Popen(command, cwd=folder)
        wait_until(self._listens, "smtp-sink listens")

    def _listens(self) -> bool:
        assert self.process.poll() is None, "smtp-sink ended"
        with socket.socket() as probe:
            return probe.connect_ex(("127.0.0.1", self.port)) == 0

    def count(self) -> int:
        """How many mails have come, duplicates too."""
        return len(os.listdir(self.folder))

    def mails(self) -> list[str]:
        """All mails that came whole, as text."""
        texts = [path.read_text() for path in self.folder.iterdir()]
        return [text for text in texts if "X-Rcpt-Args" in text]

    def tags(self) -> list[str]:
        """The Subject of each mail that came, sorted; duplicates stand as often as they came."""
        return subjects(self.mails())

    def close(self) -> None:
        """Ends the process."""
        end(self.process)


def subjects(texts: list[str]) -> list[str]:
    """The first Subject of each text, sorted."""
    return sorted(next(line[9:] for line in text.splitlines() if line.startswith("Subject: ")) for text in texts)


class Relay:
    """A relay in a thread of the test, one connection after another. `answer(line)` gives a reply line or None: close.

    A body is kept in `bodies` and answered like a line of a single dot.
    """

    def __init__(self, answer: Callable[[str], str | None], tls: ssl.SSLContext | None = None) -> None:
        self.answer = answer
        self.heard: list[str] = []
        self.bodies: list[str] = []
        self._tls = tls
        self._server = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._server.getsockname()[1]
        self._open: socket.socket | None = None
        self._closing = False
        self._thread = threading.Thread(target=self._serve)
        self._thread.start()

    def close(self) -> None:
        """Ends the thread."""
        self._closing = True
        for sock in (self._server, self._open):
            if sock is not None:
                try:
                    socket.socket.shutdown(sock, socket.SHUT_RDWR)
                except OSError:
                    continue
        self._thread.join()
        self._server.close()

    def _serve(self) -> None:
        while not self._closing:
            try:
                self._open, _ = self._server.accept()
            except OSError:
                return
            try:
                self._talk(self._open)
            except OSError:
                pass
            finally:
                self._open.close()

    def _talk(self, sock: socket.socket) -> None:
        sock.sendall(b"220 test ESMTP\r\n")
        file = sock.makefile("rb")
        try:
            while raw := file.readline():
                line = raw.decode().rstrip()
                self.heard.append(line)
                reply = self.answer(line)
                if reply is None:
                    return
                sock.sendall(reply.encode() + b"\r\n")
                if line == "DATA" and reply.startswith("354"):
                    self.bodies.append("".join(part.decode() for part in iter(file.readline, b".\r\n")))
                    last = self.answer(".")
                    if last is None:
                        return
                    sock.sendall(last.encode() + b"\r\n")
                if line == "STARTTLS" and reply.startswith("220") and self._tls is not None:
                    file.close()
                    self._open = sock = self._tls.wrap_socket(sock, server_side=True)
                    file = sock.makefile("rb")
        finally:
            file.close()
            sock.close()


def friendly(line: str) -> str:
    """The answer of a relay that takes everything."""
    verb = line.partition(" ")[0].upper()
    return {"DATA": "354 go on", "QUIT": "221 bye", "AUTH": "235 welcome"}.get(verb, "250 2.0.0 Ok")


class Spool:
    """A spool inside a folder of the test, used by the real commands."""

    def __init__(self, folder: Path, settings: str = "") -> None:
        self.folder = folder
        self.config = folder / "mail.toml"
        self.database = folder / "state" / "mail" / "spool.db"
        self.log = folder / "spool.log"
        self.lane = "maildir"
        self.senders: list[subprocess.Popen[bytes]] = []
        self.environment = {**os.environ, "MAIL_CONFIG": str(self.config), "PYTHONPATH": str(ROOT)}
        self.configure(settings)

    def configure(self, settings: str) -> None:
        """Writes mail.toml; the state folder stays inside the test's folder."""
        self.config.write_text(f'[spool]\nstate = "state"\n{settings}')

    def through(self, port: int, more: str = 'tls = "none"\n') -> None:
        """Makes the relay at this port of 127.0.0.1 the way out."""
        self.lane = "relay"
        self.configure(f'[relay]\nhost = "localhost"\nport = {port}\n{more}')

    def command(self, *words: str) -> list[str]:
        """The command line of an installed smtp-spool."""
        return [sys.executable, str(ROOT / "workers" / "launch" / "smtp-spool"), *words]

    def sendmail(self, *words: str, text: str = "Subject: x\n\nbody\n") -> subprocess.CompletedProcess[str]:
        """Runs sendmail to its end."""
        command = self.command("sendmail", *words)
        return subprocess.run(command, input=text, text=True, capture_output=True, env=self.environment)

    def queue(self, tags: list[str], recipient: str = "a@example.org") -> None:
        """Queues a mail for each tag, many faster than by sendmail."""
        now = time.time()
        mails = []
        for tag in tags:
            text = f"Subject: {tag}\r\n\r\nbody\r\n".encode()
            mails.append(Submission("s@example.org", [recipient], [self.lane], f"<{tag}@x>", text, now + 1e6))
        spool = open_spool(self.settings())
        spool.transact(lambda transaction: accept(transaction, mails, now))
        spool.close()

    def settings(self) -> Config:
        """The config as far as it says where the spool is."""
        return Config(str(self.config), str(self.folder / "state"))

    def start(self, *words: str) -> subprocess.Popen[bytes]:
        """Starts a sender as guard does: this Python, the script of List.txt."""
        command = [sys.executable, "workers/smtp_spool.py", *words]
        environment = {name: value for name, value in self.environment.items() if name != "PYTHONPATH"}
        with self.log.open("ab") as log:
            process = subprocess.Popen(command, cwd=ROOT, env=environment, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        self.senders.append(process)
        return process

    def stop(self, process: subprocess.Popen[bytes]) -> int:
        """Asks a sender to end and returns its exit status."""
        process.send_signal(signal.SIGTERM)
        return process.wait(DEADLINE_S)

    def drain(self) -> int:
        """Sends what is due and returns the exit status."""
        return self.start("--drain").wait(DEADLINE_S)

    def rows(self) -> list[dict[str, Any]]:
        """A row for each recipient, sent ones too."""
        return listing.rows(self.settings(), sent_too=True)

    def states(self) -> list[str]:
        """The state of each recipient."""
        return [row["state"] for row in self.rows()]

    def logged(self) -> str:
        """What senders wrote so far."""
        return self.log.read_text() if self.log.exists() else ""

    def delivered(self) -> list[str]:
        """The texts in the Maildir that stands in for a relay."""
        new = self.folder / "state" / "mail" / "delivered" / "new"
        return [path.read_text() for path in new.iterdir()] if new.exists() else []

    def has_bell(self) -> bool:
        """Whether the message queue of this spool is there."""
        try:
            posix_ipc.MessageQueue(bell_name(str(self.database))).close()
        except posix_ipc.ExistentialError:
            return False
        return True

    def close(self) -> None:
        """Ends all senders and takes away the bell that a killed one left."""
        for process in self.senders:
            end(process)
        take_bell_away(self.database)
