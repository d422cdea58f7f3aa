"""What system tests need: a folder with a List.txt, guards in it, scripts that leave a trace, and conditions to wait for."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

INSIDE = "SEMGUARD_TESTS_INSIDE"  # set inside the namespaces of the suite; see tests/conftest.py
BIN = Path(sys.executable).parent
GUARD = str(BIN / "guard")
FAULTY = str(Path(__file__).with_name("faulty_guard.py"))

# Leaves a line for each start; a second instance of the same name finds the lock taken and says so in the journal.
WORKER = """#!/bin/sh
exec 9>>"locks/$GUARD_NAME"
flock -n 9 || echo "TWIN $GUARD_NAME $$" >> journal
echo "START $GUARD_NAME $$" >> journal
exec sleep 1000000
"""


def wait_until(true: Callable[[], Any], what: str, limit_s: float = 30.0) -> Any:
    """Waits for a condition; its first true value. Fails with `what` when it does not come."""
    deadline = time.monotonic() + limit_s
    while True:
        value = true()
        if value:
            return value
        if time.monotonic() > deadline:
            raise AssertionError(f"not in {limit_s:g} s: {what}")
        time.sleep(0.005)


class Folder:
    """A folder with a guard."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.path.mkdir(parents=True, exist_ok=True)
        (path / "locks").mkdir(exist_ok=True)
        self.script("w", WORKER)
        self.guards: list[subprocess.Popen[bytes]] = []
        self.options: tuple[str, ...] = ()

    # what stands in it

    def script(self, name: str, text: str) -> Path:
        """An executable script."""
        file = self.path / name
        file.write_text(text)
        file.chmod(0o755)
        return file

    def write_list(self, *lines: str) -> None:
        """Writes List.txt anew, by rename."""
        draft = self.path / ".List.new"
        draft.write_text("".join(f"{line}\n" for line in lines))
        draft.rename(self.path / "List.txt")

    def workers(self, count: int, options: str = "") -> list[str]:
        """A list of so many workers; their names."""
        names = [f"w{number}" for number in range(count)]
        self.write_list(*(f"name={name} {options} ./w" for name in names))
        return names

    # guard and its commands

    def guard(self, *options: str, **popen: Any) -> subprocess.Popen[bytes]:
        """Starts `guard >> guard.log 2>&1` as cron would."""
        return self._start([GUARD, *self.options, *options], popen)

    def faulty(self, fault: str, *options: str) -> subprocess.Popen[bytes]:
        """A guard with a fault switched on; see faulty_guard.py."""
        return self._start([sys.executable, FAULTY, fault, *self.options, *options], {})

    def _start(self, command: list[str], popen: dict[str, Any]) -> subprocess.Popen[bytes]:
        with (self.path / "guard.log").open("ab") as log:
            settings: dict[str, Any] = {"stdin": subprocess.DEVNULL, "stdout": log, "stderr": log, "cwd": self.path} | popen
            guard = subprocess.Popen(command, start_new_session=True, **settings)
        self.guards.append(guard)
        return guard

    def up(self, *options: str, count: int | None = None) -> subprocess.Popen[bytes]:
        """Starts guard and waits until all of the list runs, or so many."""
        guard = self.guard(*options)
        self.wait_up(count)
        return guard

    def wait_up(self, count: int | None = None, limit_s: float = 30.0) -> None:
        """Waits until guard runs with a standby and all scripts run, and have come to the `exec` that is their last line."""

        def ready() -> bool:
            found = self.status()
            rows = found["scripts"]
            running = [row for row in rows if row["state"] == "running" and row["pid"]]
            if not found["guard"]["standby"] or not rows or len(running) != (len(rows) if count is None else count):
                return False
            return all(self.settled(row["pid"]) for row in running)

        wait_until(ready, "all scripts run", limit_s)

    def settled(self, pid: int) -> bool:
        """Whether a script has come to the `exec` that is its last line; one without such a line has at once."""
        try:
            script = self.path / Path(f"/proc/{pid}/comm").read_text().rstrip("\n")
            return not script.is_file() or not script.read_text().splitlines()[-1].startswith("exec ")
        except OSError:
            return False  # it ended in this moment

    def run(self, *arguments: str, **changes: Any) -> subprocess.CompletedProcess[str]:
        """One command of guard, to its end."""
        settings: dict[str, Any] = {
            "cwd": self.path,
            "capture_output": True,
            "text": True,
            "timeout": 120,
            "check": False,
        } | changes
        done: subprocess.CompletedProcess[str] = subprocess.run(
            [GUARD, *arguments[:1], *self.options, *arguments[1:]], **settings
        )
        return done

    def status(self) -> dict[str, Any]:
        """`guard status --json`."""
        done = self.run("status", "--json")
        if not done.stdout:
            return {"guard": {"state": "none", "pid": None, "standby": None}, "scripts": []}
        found: dict[str, Any] = json.loads(done.stdout)
        return found

    def rows(self) -> dict[str, dict[str, Any]]:
        """The scripts of the status, by name."""
        return {row["name"]: row for row in self.status()["scripts"]}

    def pids(self) -> dict[str, int | None]:
        """The pid of each script."""
        return {name: row["pid"] for name, row in self.rows().items()}

    def log(self) -> str:
        """guard.log so far."""
        return (self.path / "guard.log").read_text(errors="replace") if (self.path / "guard.log").exists() else ""

    def logged(self, text: str, times: int = 1, limit_s: float = 30.0) -> None:
        """Waits until guard.log holds a text so often."""
        wait_until(
            lambda: self.log().count(text) >= times, f"{text!r} {times} times in guard.log:\n{self.log()[-3000:]}", limit_s
        )

    # the world outside

    def journal(self) -> list[list[str]]:
        """What the workers wrote: START or TWIN, name, pid."""
        file = self.path / "journal"
        return [line.split() for line in file.read_text().splitlines()] if file.exists() else []

    def twins(self) -> list[list[str]]:
        """Second instances that the workers themselves noticed."""
        return [line for line in self.journal() if line[0] == "TWIN"]

    def instances(self) -> Counter[str]:
        """How many instances of each script run now, counted from outside by their environment and session.

        A look at all processes takes its time, in which one may end and a spare become the next: those that seem to be two
        are looked at once more, and are two if both still live.
        """
        found = list(self.processes(leaders=True))
        times = Counter(name for name, _ in found)
        return Counter(name for name, pid in found if times[name] == 1 or alive(pid))

    def processes(self, *, leaders: bool = False) -> Iterator[tuple[str, int]]:
        """All living processes that carry this folder's marker: script name, pid."""
        for process in psutil.process_iter():
            try:
                environment = process.environ()
                if process.cwd() != str(self.path) or process.status() == psutil.STATUS_ZOMBIE or "GUARD_NAME" not in environment:
                    continue
                if leaders and os.getsid(process.pid) != process.pid:
                    continue
            except (psutil.Error, OSError):
                continue
            yield environment["GUARD_NAME"], process.pid

    def close(self) -> None:
        """Stops all of it, by its own command, and shows that nothing is left."""
        for guard in self.guards:
            if guard.poll() is None:
                guard.send_signal(signal.SIGCONT)
        done = self.run("stop", "--timeout", "60s")
        for guard in self.guards:
            guard.wait(60)
        left = list(self.processes())
        for _, pid in left:
            os.kill(pid, signal.SIGKILL)
        assert not left, f"left after guard stop: {left}\n{done.stderr}\n{self.log()[-3000:]}"


def need_reach(uid: int) -> None:
    """Skips a test whose other user can't run this Python (it lies in somebody's home); a failure in CI."""
    try:
        subprocess.run([sys.executable, "-c", "pass"], user=uid, group=uid, extra_groups=[], check=True)
    except (PermissionError, subprocess.CalledProcessError):
        reason = f"{sys.executable} can't be run by user {uid}: make the environment with Debian's /usr/bin/python3"
        if os.environ.get("CI") == "true":
            pytest.fail(reason)
        pytest.skip(reason)


def alive(pid: int) -> bool:
    """Whether a process lives; a zombie does not."""
    try:
        return psutil.Process(pid).status() not in (psutil.STATUS_ZOMBIE, psutil.STATUS_DEAD)
    except psutil.Error:
        return False
