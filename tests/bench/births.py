"""When scripts come up, told by themselves: each sleeper appends a line with its own clock to one file.

So nobody scans /proc while a supervisor is measured, and how often the bench looks does not change a figure.
"""

from __future__ import annotations

import shutil
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path

LOOK_S = 0.002
HERE = Path(__file__).parent


class Late(Exception):
    """Something did not happen in time."""


@dataclass(frozen=True, slots=True)
class Birth:
    """One sleeper came up: `moment` in nanoseconds of the monotonic clock."""

    name: str
    pid: int
    moment: int


class Births:
    """The file of one supervisor's sleepers. `living` holds the last birth of each."""

    def __init__(self, path: Path) -> None:
        self.path = path
        path.touch()
        self._file = path.open("rb", buffering=0)
        self._rest = b""
        self.count = 0
        self.pids: set[int] = set()
        self.living: dict[str, Birth] = {}

    def close(self) -> None:
        """Gives the descriptor back."""
        self._file.close()

    def read(self) -> list[Birth]:
        """The births since the last call."""
        lines = (self._rest + (self._file.read(1 << 22) or b"")).split(b"\n")
        self._rest = lines.pop()
        new = []
        for line in lines:
            name, pid, moment = line.decode().split()
            birth = Birth(name, int(pid), int(moment) or time.monotonic_ns())
            self.living[name] = birth
            self.pids.add(birth.pid)
            new.append(birth)
        self.count += len(new)
        return new

    def wait(self, count: int, limit_s: float = 120.0) -> list[Birth]:
        """Waits for so many births; returns them. Raises Late."""
        found: list[Birth] = []
        deadline = time.monotonic() + limit_s
        while len(found) < count:
            found += self.read()
            if time.monotonic() > deadline:
                raise Late(f"{len(found)} of {count} scripts up after {limit_s:g} s")
            time.sleep(LOOK_S)
        return found


def make_sleeper(folder: Path) -> tuple[Path, str]:
    """The program under test, and what to say about it."""
    compiler = shutil.which("cc")
    if compiler is None:
        return Path(shutil.copy(HERE / "sleeper.sh", folder / "sleeper")), "no cc here: the script is `sh`, then `sleep`"
    subprocess.run([compiler, "-O2", "-o", folder / "sleeper", HERE / "sleeper.c"], check=True)
    return folder / "sleeper", "the script is a C program that notes its start and sleeps"


def raise_limits() -> None:
    """As many descriptors as allowed: 1000 scripts under supervisord need them."""
    import resource

    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
