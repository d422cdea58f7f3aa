"""The three supervisors, each with its mildest settings, behind one face.

`up` starts it in a fresh folder with scripts s0, s1, ...; `add` and `remove` edit its list as its users do.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import sys
import time
from abc import ABC, abstractmethod
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from tests.bench import world
from tests.bench.births import Birth, Births, Late

BIN = Path(sys.executable).parent
LONG_AGO_S = 1e9  # of a folder's change: runsvdir waits a second before it reads one that changed just now


@dataclass(frozen=True, slots=True)
class Bench:
    """What all figures share: the temp folder, the program under test, how thorough to be."""

    folder: Path
    sleeper: Path
    quick: bool

    def times(self, thorough: int, quick: int) -> int:
        """How often to repeat something."""
        return quick if self.quick else thorough


class Peer(ABC):
    """One supervisor in a folder of its own. Leave it by `end`, which `with` does."""

    name = ""
    made = 0

    def __init__(self, bench: Bench, count: int) -> None:
        Peer.made += 1
        self.folder = bench.folder / f"{self.name}{Peer.made}"
        self.folder.mkdir()
        self.sleeper, self.count, self.pid = bench.sleeper, count, 0
        self.births = Births(bench.folder / f"{self.folder.name}.births")  # not under the eyes of guard's inotify
        self.log = self.folder / "log"
        kept = {name: os.environ[name] for name in ("PATH", "PYTHONPATH", "LANG", "HOME") if name in os.environ}
        self.env = {**kept, "BENCH_BIRTHS": str(self.births.path)}
        for number in range(count):
            self.write(f"s{number}")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.end()

    def up(self) -> float:
        """Starts it; returns the seconds until the last script is up."""
        start = time.monotonic_ns()
        self.pid = world.start(self.command(), self.log, self.env)
        last = max(birth.moment for birth in self.births.wait(self.count))
        return (last - start) / 1e9

    def kill(self, name: str) -> float:
        """SIGKILLs a script; returns the seconds until it is back."""
        start = time.monotonic_ns()
        os.kill(self.births.living[name].pid, signal.SIGKILL)
        birth: Birth = self.births.wait(1)[0]
        return (birth.moment - start) / 1e9

    def processes(self) -> list[int]:
        """The supervisor's own processes, without the scripts'."""
        self.births.read()
        return [pid for pid in (self.pid, *world.descendants(self.pid)) if pid not in self.births.pids]

    def end(self) -> None:
        """Ends it and all scripts.

        The folder stays until the bench ends: for minutes after many files were deleted, ext4 is slow to make new ones, which
        would be the next peer's loss.
        """
        self.births.read()
        if self.pid:
            world.kill_tree(self.pid, self.births.pids)
        self.births.close()

    @abstractmethod
    def command(self) -> list[str]:
        """What starts it."""

    @abstractmethod
    def write(self, name: str) -> None:
        """Puts a script on its list before the start."""

    @abstractmethod
    def add(self, name: str) -> None:
        """Puts one more script on its list while it runs."""

    @abstractmethod
    def remove(self, name: str) -> None:
        """Takes a script off its list while it runs."""


class Guard(Peer):
    """`retry=0`, all else as it comes."""

    name = "guard"

    @property
    def list_path(self) -> Path:
        """Its List.txt."""
        return self.folder / "List.txt"

    def command(self, *words: str) -> list[str]:
        return [str(BIN / "guard"), *words, "--list", str(self.list_path)]

    def write(self, name: str) -> None:
        with self.list_path.open("a") as file:
            if file.tell() == 0:
                file.write(f"retry=0 BENCH_BIRTHS={self.births.path}\n")
            file.write(f"name={name} {self.sleeper} {name}\n")

    add = write

    def remove(self, name: str) -> None:
        lines = self.list_path.read_text().splitlines(keepends=True)
        draft = self.folder / "List.txt.new"
        draft.write_text("".join(line for line in lines if not line.startswith(f"name={name} ")))
        draft.rename(self.list_path)

    def end(self) -> None:
        """`guard stop` also removes its semaphore sets; a second one does it where the first was not able to."""
        if self.pid:
            try:
                world.run(self.command("stop"), self.log, self.env)
            except Late:
                world.kill_tree(self.pid)
                with contextlib.suppress(Late):
                    world.run(self.command("stop"), self.log, self.env)
        super().end()


class Runit(Peer):
    """`run` is the program itself, no shell; output goes to the common log."""

    name = "runit"

    @property
    def service(self) -> Path:
        """What runsvdir looks at."""
        return self.folder / "service"

    def command(self) -> list[str]:
        return [shutil.which("runsvdir") or "runsvdir", str(self.service)]

    def write(self, name: str) -> None:
        self.service.mkdir(exist_ok=True)
        home = self.folder / "sv" / name
        home.mkdir(parents=True)
        (home / "run").symlink_to(self.sleeper)
        self.add(name)

    def up(self) -> float:
        os.utime(self.service, (LONG_AGO_S, LONG_AGO_S))
        return super().up()

    def add(self, name: str) -> None:
        home = self.folder / "sv" / name
        if not home.exists():
            home.mkdir()
            (home / "run").symlink_to(self.sleeper)
        (self.service / name).symlink_to(home)

    def remove(self, name: str) -> None:
        (self.service / name).unlink()


class FreshRunit(Runit):
    """With services that were written in this very second: runsvdir waits until it is over, to see later changes."""

    def up(self) -> float:
        return Peer.up(self)


class Supervisord(Peer):
    """No pauses, no output files."""

    name = "supervisord"
    _HEAD = """[supervisord]
nodaemon=true
user=root
logfile=/dev/null
logfile_maxbytes=0
pidfile={folder}/pid
minfds=10000
[unix_http_server]
file={folder}/socket
[supervisorctl]
serverurl=unix://{folder}/socket
[rpcinterface:supervisor]
supervisor.rpcinterface_factory = supervisor.rpcinterface:make_main_rpcinterface
"""
    _PROGRAM = """[program:{name}]
command={sleeper} {name}
autorestart=true
startsecs=0
stdout_logfile=NONE
stderr_logfile=NONE
"""

    @property
    def config(self) -> Path:
        """Its configuration."""
        return self.folder / "conf"

    def command(self) -> list[str]:
        return [str(BIN / "supervisord"), "-c", str(self.config)]

    def write(self, name: str) -> None:
        with self.config.open("a") as file:
            if file.tell() == 0:
                head = self._HEAD if os.geteuid() == 0 else self._HEAD.replace("user=root\n", "")
                file.write(head.format(folder=self.folder))
            file.write(self._PROGRAM.format(name=name, sleeper=self.sleeper))

    def add(self, name: str) -> None:
        self.write(name)
        self._update()

    def remove(self, name: str) -> None:
        program = self._PROGRAM.format(name=name, sleeper=self.sleeper)
        self.config.write_text(self.config.read_text().replace(program, ""))
        self._update()

    def _update(self) -> None:
        world.start([str(BIN / "supervisorctl"), "-c", str(self.config), "update"], self.log, self.env)


PEERS: tuple[type[Peer], ...] = (Guard, Runit, Supervisord)
