"""The two copiers behind one face: a copy of their own in a fresh folder, one whole pass timed from outside."""

from __future__ import annotations

import json
import os
import select
import signal
import subprocess
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from tests.bench import world
from tests.bench.births import Late
from tests.bench.imap_dovecot import HOST, PASSWORD
from tests.bench.mail_world import ENVIRONMENT, OTHER_CORES, SENDER_CORE, find, finish, launch, on_cores, peak_bytes
from tests.bench.peers import BIN

SAMPLE_S = 0.01
PASS_LIMIT_S = 900.0
END_LIMIT_S = 20.0
NOT_MESSAGES = (".removed", "tmp")


@dataclass(frozen=True, slots=True)
class Ran:
    """One pass: wall clock and CPU time in seconds, the largest resident size and USS that were seen, in bytes."""

    wall_s: float
    cpu_s: float
    peak_bytes: int
    private_bytes: int


class Copier:
    """A program with a config and a copy of some accounts. Accounts have the password of imap_dovecot."""

    keeps_bytes = True

    def __init__(self, folder: Path, accounts: Sequence[str], port: int) -> None:
        folder.mkdir()
        self.folder = folder
        self.accounts = list(accounts)
        self.root = folder / "copy"
        self.root.mkdir()
        self.log = folder / "log"
        self.through(port)

    def through(self, port: int) -> None:
        """Writes the config; the server is at `port` from now on."""
        raise NotImplementedError

    def command(self) -> list[str]:
        """What makes one pass over all accounts."""
        raise NotImplementedError

    def sync(self, private: bool = False) -> Ran:
        """One pass, which has to succeed; `private` asks for the USS too, which costs the copier some time."""
        os.sync()  # what others wrote before is not flushed at its expense
        started = time.monotonic()
        pid = launch(self.command(), self.log, SENDER_CORE)
        fd = os.pidfd_open(pid)
        try:
            peak, mine = _watch(pid, fd, started + PASS_LIMIT_S, private)
            wall_s = time.monotonic() - started
        finally:
            os.close(fd)
        status, cpu_s = finish(pid, END_LIMIT_S)
        if status:
            raise AssertionError(f"{self.command()} ended with {status}: {self.log.read_text(errors='replace')[-1000:]}")
        return Ran(wall_s, cpu_s, peak, mine)

    def messages(self) -> tuple[int, int]:
        """How many message files there are, and their bytes together."""
        count = size = 0
        for folder, below, names in os.walk(self.root):
            below[:] = [name for name in below if name not in NOT_MESSAGES]
            if os.path.basename(folder) in ("cur", "new"):
                count += len(names)
                size += sum(os.stat(os.path.join(folder, name)).st_size for name in names)
        return count, size

    def expect(self, count: int, size_bytes: int) -> None:
        """Raises AssertionError when the copy has not so many messages, or other bytes than the server."""
        there, bytes_there = self.messages()
        if there != count or (self.keeps_bytes and bytes_there != size_bytes):
            raise AssertionError(f"{type(self).__name__}: {there} of {count} messages, {bytes_there} of {size_bytes} bytes")


class Mbsync(Copier):
    """Debian's mbsync, one channel an account; `durable` is its default (FSync yes)."""

    keeps_bytes = False  # it makes LF of CRLF

    def __init__(self, folder: Path, accounts: Sequence[str], port: int, durable: bool = True) -> None:
        self.durable = durable
        super().__init__(folder, accounts, port)

    def through(self, port: int) -> None:
        head = f"FSync {'yes' if self.durable else 'no'}\n"
        (self.folder / "mbsyncrc").write_text("\n".join([head, *(self._channel(name, port) for name in self.accounts)]))

    def command(self) -> list[str]:
        return [find("mbsync"), "-q", "-c", str(self.folder / "mbsyncrc"), "-a"]

    def _channel(self, name: str, port: int) -> str:
        path = self.root / name
        path.mkdir(exist_ok=True)
        return (
            f"IMAPAccount {name}\nHost {HOST}\nPort {port}\nUser {name}\nPass {PASSWORD}\nSSLType None\nAuthMechs LOGIN\n"
            f"DisableExtension COMPRESS=DEFLATE\n\nIMAPStore {name}-far\nAccount {name}\n\n"
            f"MaildirStore {name}-near\nPath {path}/\nInbox {path}/INBOX\nSubFolders Verbatim\n\n"
            f"Channel {name}\nFar :{name}-far:\nNear :{name}-near:\nPatterns *\nCreate Near\nSync Pull\nExpunge Near\n"
            "SyncState *\n"
        )


class Ours(Copier):
    """imap-sync; with `ca` by TLS from the start."""

    def __init__(self, folder: Path, accounts: Sequence[str], port: int, ca: Path | None = None) -> None:
        self._ca = ca
        self.pid = 0
        super().__init__(folder, accounts, port)

    def through(self, port: int) -> None:
        secret = self.folder / "password"
        secret.write_text(f"{PASSWORD}\n")
        secret.chmod(0o600)
        tls = f'tls = "tls"\nca_file = "{self._ca}"' if self._ca else 'tls = "none"'
        head = f'[imap]\nroot = "{self.root}"\nstate = "{self.folder}/imap.db"\n'
        accounts = [
            f'[[imap.accounts]]\nname = "{name}"\nhost = "{HOST}"\nport = {port}\nuser = "{name}"\n'
            f'password_file = "{secret}"\n{tls}\n'
            for name in self.accounts
        ]
        (self.folder / "mail.toml").write_text("\n".join([head, *accounts]))

    def command(self) -> list[str]:
        return self._words("sync")

    def start(self) -> None:
        """Starts the worker that runs for ever; returns when every account is in step and listens for push."""
        self.pid = launch(self._words("run"), self.log, SENDER_CORE)
        deadline = time.monotonic() + PASS_LIMIT_S
        while not self._in_step():
            if world.gone([self.pid], 0) or time.monotonic() > deadline:
                raise AssertionError(f"imap-sync run: ended or not in step: {self.log.read_text(errors='replace')[-1000:]}")
            time.sleep(0.5)  # each question is a process of its own

    def inbox(self) -> Path:
        """Where the first account's new mail lies."""
        return self.root / self.accounts[0] / "INBOX" / "cur"

    def close(self) -> None:
        """Ends the worker."""
        if self.pid:
            os.kill(self.pid, signal.SIGTERM)
            world.gone([self.pid], END_LIMIT_S)
            world.kill_tree(self.pid)
            self.pid = 0

    def _in_step(self) -> bool:
        with on_cores(OTHER_CORES):
            asked = subprocess.run(self._words("status", "--json"), capture_output=True, text=True, env=ENVIRONMENT)
        if asked.returncode:
            return False  # it has not made its database yet
        accounts = json.loads(asked.stdout)["accounts"]
        good = [account for account in accounts if account["state"] == "in step" and account["mode"] in ("notify", "idle")]
        return len(good) == len(self.accounts)

    def _words(self, *words: str) -> list[str]:
        return [str(BIN / "imap-sync"), "--config", str(self.folder / "mail.toml"), *words]


def _watch(pid: int, fd: int, deadline: float, private: bool) -> tuple[int, int]:
    """Returns when the process has ended: its peaks (VmHWM, USS). wait4's ru_maxrss would count its parent's pages too."""
    peak = mine = 0
    while not select.select([fd], [], [], SAMPLE_S)[0]:
        if time.monotonic() > deadline:
            world.kill_tree(pid)
            raise Late(f"process {pid} did not end")
        peak = max(peak, peak_bytes([pid]))
        if private:
            mine = max(mine, _private(pid))
    return peak, mine


def _private(pid: int) -> int:
    try:
        return world.private_bytes([pid])
    except (FileNotFoundError, ProcessLookupError):
        return 0  # it has just ended
