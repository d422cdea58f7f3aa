"""smtp-spool behind the face that the figures use: a spool of its own in a fresh folder, the real commands."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import time
from pathlib import Path

import posix_ipc

from tests.bench import world
from tests.bench.mail_world import (
    DOMAIN,
    ENVIRONMENT,
    OTHER_CORES,
    SENDER_CORE,
    family,
    finish,
    launch,
    mail,
    on_cores,
    recipient,
)
from tests.bench.peers import BIN
from workers.mail.config import load
from workers.spool.accept import Submission, accept, open_spool
from workers.store.bell import bell_name, ring

UNKNOWN_COMMAND = 64
FILL_LIMIT_S = 900.0
BATCH = 100  # mails a commit where there is no `add`


class Ours:
    """A spool whose relay is at `port` of 127.0.0.1. Mails are numbered from 0."""

    def __init__(self, folder: Path, port: int) -> None:
        folder.mkdir()
        self.folder = folder
        self.config = folder / "mail.toml"
        self.database = folder / "state" / "mail" / "spool.db"
        self.log = folder / "log"
        self.pid = 0
        self._has_add: bool | None = None
        self.through(port)

    def through(self, port: int) -> None:
        """Makes the server at `port` the relay, all else as it comes."""
        self.config.write_text(f'[spool]\nstate = "state"\n[relay]\nhost = "127.0.0.1"\nport = {port}\ntls = "none"\n')

    def command(self, *words: str) -> list[str]:
        """A command line of smtp-spool."""
        return [str(BIN / "smtp-spool"), "--config", str(self.config), *words]

    def ask(self, *words: str, text: str = "") -> subprocess.CompletedProcess[str]:
        """Runs a command to its end, away from the sender's core."""
        with on_cores(OTHER_CORES):
            return subprocess.run(self.command(*words), input=text, text=True, capture_output=True, env=ENVIRONMENT, check=False)

    def has_add(self) -> bool:
        """Whether this version has the command `add`; asked once."""
        if self._has_add is None:
            self._has_add = self.ask("add").returncode != UNKNOWN_COMMAND
        return self._has_add

    def fill(self, count: int, size_bytes: int) -> None:
        """Queues mails 0 to `count`; nobody sends meanwhile."""
        if self.has_add():
            lines = self.lines(count, size_bytes)
            pid = launch(self.command("add"), self.log, OTHER_CORES, stdin=lines, stdout=self.folder / "ids")
            status, _ = finish(pid, FILL_LIMIT_S)
            if status:
                raise AssertionError(f"smtp-spool add ended with {status}: {self.log.read_text()[-500:]}")
            lines.unlink()
        else:
            for first in range(0, count, BATCH):
                self.accept(range(first, min(first + BATCH, count)), size_bytes)

    def lines(self, count: int, size_bytes: int, first: int = 0) -> Path:
        """A file with the lines that `add` reads."""
        path = self.folder / f"lines-{first}"
        with path.open("w") as file:
            for number in range(first, first + count):
                text = mail(number, size_bytes)
                file.write(json.dumps({"from": f"s@{DOMAIN}", "to": [recipient(number)], "message": text}) + "\n")
        return path

    def accept(self, numbers: range, size_bytes: int) -> None:
        """Queues mails in this process as `sendmail` does, as one commit, which is on disk when this returns."""
        config, now = load(str(self.config)), time.time()
        database = open_spool(config)
        mails = []
        for number in numbers:
            sender, address, text = f"s@{DOMAIN}", recipient(number), mail(number, size_bytes).encode()
            lanes = [config.lane(sender, address)]
            mails.append(Submission(sender, [address], lanes, f"<{number}@{DOMAIN}>", text, now + config.max_age_s))
        database.transact(lambda transaction: accept(transaction, mails, now))
        database.close()

    def make(self) -> None:
        """Makes the empty spool, if this has not been done."""
        status = self.ask("run", "--drain").returncode
        if status or not self.database.exists():
            raise AssertionError(f"an empty spool can't be made: smtp-spool run --drain ended with {status}")

    def commit(self, size_bytes: int) -> int:
        """Queues one mail beside a running sender; when it was said to be on disk, in nanoseconds of the monotonic clock."""
        if not self.has_add():
            self.accept(range(1), size_bytes)
            moment = time.monotonic_ns()
            ring(str(self.database))
            return moment
        lines = self.lines(1, size_bytes)
        read, write = os.pipe()
        try:
            pid = launch(self.command("add"), self.log, OTHER_CORES, stdin=lines, stdout=write)
        finally:
            os.close(write)
        with open(read, "rb", buffering=0) as answer:
            words = answer.read(4096)
            moment = time.monotonic_ns()
        status, _ = finish(pid, FILL_LIMIT_S)
        if status or not words:
            raise AssertionError(f"smtp-spool add ended with {status}: {self.log.read_text()[-500:]}")
        return moment

    def start(self, *words: str) -> int:
        """Starts a sender on its core; returns its pid."""
        self.pid = launch(self.command("run", *words), self.log, SENDER_CORE)
        return self.pid

    def drain(self) -> int:
        """Starts a sender that ends when nothing is due."""
        return self.start("--drain")

    def processes(self) -> list[int]:
        """The sender and whatever it started."""
        return family(self.pid)

    def waiting(self) -> int:
        """How many recipients are still to be sent to."""
        return int(self.ask("count").stdout)

    def uncertain(self) -> dict[str, int] | None:
        """How many possible duplicates it counted for each recipient; None when this version does not tell."""
        rows = json.loads(self.ask("list", "--all", "--json").stdout)["recipients"]
        if not all("unknowns" in row and "address" in row for row in rows):
            return None
        return {row["address"]: row["unknowns"] for row in rows}

    def kill(self) -> None:
        """SIGKILL to all its processes, as a crash would."""
        if self.pid:
            world.kill_tree(self.pid)
            self.pid = 0

    def close(self) -> None:
        """Ends the sender, and takes away the message queue that a killed one left."""
        self.kill()
        if self.database.exists():
            with contextlib.suppress(posix_ipc.ExistentialError):
                posix_ipc.unlink_message_queue(bell_name(str(self.database)))
