"""imap-sync as the system tests run it: its mail.toml, its commands, and its archive compared with what a server has."""

from __future__ import annotations

import os
import re
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Iterable
from contextlib import closing
from pathlib import Path
from typing import NamedTuple

from tests.system.imap_user import MailUser, Message
from tests.system.mail_servers import DEADLINE_S, ROOT, end, take_bell_away

NAME = re.compile(r"(-?\d+)\.V(\d+)U(\d+)\.imap-sync,S=(\d+):2,([A-Z]*)")
STARTER = """\
import os, sys
from workers.imap.cli import main
status = main(["imap-sync", *sys.argv[1:]])
with open("/proc/self/status") as found, open(os.environ["SEMGUARD_PEAK"], "w") as kept:
    kept.write(next(line.split()[1] for line in found if line.startswith("VmHWM:")))
sys.exit(status)
"""


class File(NamedTuple):
    """What the name of a message file says, and where it is."""

    date: int
    epoch: int
    uid: int
    size: int
    letters: str
    path: Path


class Syncer:
    """An imap-sync inside a folder of the test; `root` is its archive, `database` its books, `limits` its patience in s."""

    def __init__(self, folder: Path, limits: str = "stall=20 command=30 connect=10") -> None:
        self.folder = folder
        self.config = folder / "mail.toml"
        self.root = folder / "archive"
        self.database = folder / "imap.db"
        self.log = folder / "imap.log"
        self.environment = {**os.environ, "MAIL_CONFIG": str(self.config), "PYTHONPATH": str(ROOT)}
        self.environment |= {"SEMGUARD_IMAP_LIMITS": limits, "SEMGUARD_PEAK": str(folder / "peak")}
        self.settings = ""
        self._accounts: dict[str, str] = {}
        self._running: list[subprocess.Popen[bytes]] = []

    def account(self, user: MailUser | str, port: int, more: str = "", *, tls: str = "none", password: str = "") -> None:
        """Adds or replaces an account; `more` are further lines of its table."""
        name = user if isinstance(user, str) else user.name
        secret = self.folder / f"{name}.pw"
        secret.touch(0o600)
        secret.write_text((password or (user.password if isinstance(user, MailUser) else "correct horse")) + "\n")
        lines = [f'name = "{name}"', 'host = "127.0.0.1"', f"port = {port}", f'tls = "{tls}"']
        if "_command" not in more:
            lines.append(f'password_file = "{secret.name}"')
        self._accounts[name] = "\n".join(["[[imap.accounts]]", *lines, more, ""])
        self.write()

    def write(self) -> None:
        """Writes mail.toml; all that it names lies inside the test's folder."""
        head = f'[spool]\nstate = "state"\n[imap]\nroot = "archive"\nstate = "imap.db"\n{self.settings}\n'
        self.config.write_text(head + "".join(self._accounts.values()))

    def command(self, *words: str) -> list[str]:
        """The command line of imap-sync."""
        return [sys.executable, "-c", STARTER, *words]

    def run(self, *words: str, deadline_s: float = DEADLINE_S) -> subprocess.CompletedProcess[str]:
        """Runs a command to its end; what it says is in the log as well."""
        done = subprocess.run(
            self.command(*words), cwd=ROOT, env=self.environment, text=True, capture_output=True, timeout=deadline_s
        )
        with self.log.open("a") as log:
            log.write(done.stdout + done.stderr)
        return done

    def sync(self, *accounts: str, status: int = 0) -> str:
        """One pass that has to end with this status; what was said."""
        done = self.run("sync", *accounts)
        assert done.returncode == status, (done.returncode, done.stdout, done.stderr)
        return done.stdout + done.stderr

    def verify(self) -> None:
        """`verify` has to find the copy complete."""
        done = self.run("verify")
        assert done.returncode == 0, (done.stdout, done.stderr)

    def start(self, *words: str) -> subprocess.Popen[bytes]:
        """Starts a command, `run` unless told."""
        command = self.command(*(words or ("run",)))
        with self.log.open("ab") as log:
            process = subprocess.Popen(command, cwd=ROOT, env=self.environment, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        self._running.append(process)
        return process

    def stop(self, process: subprocess.Popen[bytes]) -> int:
        """Asks a process to end and returns its exit status."""
        process.send_signal(signal.SIGTERM)
        return process.wait(DEADLINE_S)

    def close(self) -> None:
        """Ends all, and takes away the bell that a killed worker left."""
        for process in self._running:
            end(process)
        take_bell_away(self.database)

    def peak_kib(self) -> int:
        """The most memory that the last command had which ended by itself."""
        return int((self.folder / "peak").read_text())

    def logged(self) -> str:
        """What all commands wrote so far."""
        return self.log.read_text() if self.log.exists() else ""

    def rows(self, query: str, *values: object) -> list[tuple[object, ...]]:
        """Rows of the state database."""
        with closing(sqlite3.connect(f"file:{self.database}?mode=ro", uri=True)) as database:
            return database.execute(query, values).fetchall()

    def paths(self, account: str) -> dict[str, Path]:
        """The folder on disk of each folder of the server, by its name on the wire."""
        query = "SELECT f.name, f.path FROM imap_folder f JOIN imap_account a ON a.key = f.account WHERE a.name = ?"
        rows = self.rows(query, account)
        return {text(raw): self.root / account / text(path) for raw, path in rows}

    def files(self, account: str, folder: str) -> dict[int, File]:
        """The copy of a folder by UID. Fails the test when a message is there twice or a name is odd."""
        path = self.paths(account)[folder]
        found: dict[int, File] = {}
        for each in messages(path / "cur"):
            assert each.uid not in found, f"twice: {each.path} and {found[each.uid].path}"
            found[each.uid] = each
        return found

    def removed(self, account: str) -> list[File]:
        """All that is kept of what the server has removed."""
        top = self.root / account / ".removed"
        return [file for path in sorted(top.glob("*/cur")) for file in messages(path)]

    def left_over(self) -> list[Path]:
        """Everything in tmp and new."""
        found = [*self.root.rglob("tmp/*"), *self.root.rglob("new/*")]
        return [path for path in found if path.name not in ("cur", "new", "tmp")]

    def flags(self, account: str, folder: str) -> dict[int, frozenset[str]]:
        """The flags of each message in the books, keywords too."""
        query = """SELECT m.uid, m.flags FROM imap_message m JOIN imap_folder f ON f.id = m.folder
            JOIN imap_account a ON a.key = f.account WHERE a.name = ? AND f.name = ?"""
        rows = self.rows(query, account, folder.encode("latin-1"))
        return {int(str(uid)): frozenset(text(flags).split()) for uid, flags in rows}

    def assert_mirrors(self, user: MailUser, folders: Iterable[str] | None = None) -> None:
        """The archive holds what the server has: message set, content, dates, flags, keywords; and nothing else."""
        expected = sorted(user.folders() if folders is None else folders)
        paths = self.paths(user.name)
        assert sorted(paths) == expected
        for folder in expected:
            self._assert_folder(user.name, folder, user.epoch(folder), user.contents(folder))
        known = {path.name for path in paths.values()}
        others = [path for path in (self.root / user.name).iterdir() if path.is_dir() and path.name not in known]
        assert [file for path in others if path.name != ".removed" for file in messages(path / "cur")] == []
        assert self.left_over() == []

    def _assert_folder(self, account: str, folder: str, epoch: int, expected: dict[int, Message]) -> None:
        files = self.files(account, folder)
        assert sorted(files) == sorted(expected), folder
        for uid, file in files.items():
            message = expected[uid]
            content = file.path.read_bytes()
            assert content == message.content, (folder, uid)
            named = (file.date, file.epoch, file.size, file.letters)
            assert named == (message.date, epoch, len(content), message.letters()), (folder, uid)
        in_books = self.flags(account, folder)
        assert in_books == {uid: message.flags for uid, message in expected.items()}, folder


def messages(path: Path) -> list[File]:
    """The message files of a cur folder. Fails the test at a name that is none."""
    found = []
    for each in sorted(path.iterdir()) if path.is_dir() else []:
        match = NAME.fullmatch(each.name)
        assert match is not None, each
        date, epoch, uid, size = (int(match[place]) for place in (1, 2, 3, 4))
        found.append(File(date, epoch, uid, size, match[5], each))
    return found


def text(value: object) -> str:
    """A name of the books, which may be bytes there."""
    return value.decode("latin-1") if isinstance(value, bytes) else str(value)
