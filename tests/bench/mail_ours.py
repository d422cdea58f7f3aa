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
from workers.store.bell import bell_name

FILL_LIMIT_S = 900.0


class Ours:
    """A spool whose relay is at `port` of 127.0.0.1. Mails are numbered from 0."""

    def __init__(self, folder: Path, port: int) -> None:
        folder.mkdir()
        self.folder = folder
        self.config = folder / "mail.toml"
        self.database = folder / "state" / "mail" / "spool.db"
        self.log = folder / "log"
        self.pid = 0
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

    def fill(self, count: int, size_bytes: int) -> None:
        """Queues mails 0 to `count`; nobody sends meanwhile."""
        lines = self.lines(count, size_bytes)
        pid = launch(self.command("add"), self.log, OTHER_CORES, stdin=lines, stdout=self.folder / "ids")
        status, _ = finish(pid, FILL_LIMIT_S)
        lines.unlink()
        if status or self.waiting() != count:
            raise AssertionError(f"add ended with {status}, {self.waiting()} of {count} queued: {self.log.read_text()[-500:]}")

    def lines(self, count: int, size_bytes: int) -> Path:
        """A file with the lines that `add` reads."""
        path = self.folder / "lines"
        with path.open("w") as file:
            for number in range(count):
                text = mail(number, size_bytes)
                file.write(json.dumps({"from": f"s@{DOMAIN}", "to": [recipient(number)], "message": text}) + "\n")
        return path

    def make(self) -> None:
        """Makes the empty spool, if this has not been done."""
        status = self.ask("run", "--drain").returncode
        if status or not self.database.exists():
            raise AssertionError(f"an empty spool can't be made: smtp-spool run --drain ended with {status}")

    def commit(self, size_bytes: int) -> int:
        """Queues one mail beside a running sender; when it was said to be on disk, in nanoseconds of the monotonic clock."""
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
