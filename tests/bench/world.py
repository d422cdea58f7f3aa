"""Processes as the bench sees them: started in sessions of their own, found through /proc, ended for certain.

The bench is the subreaper of all that it starts. Whatever loses its parent becomes its child, so nothing escapes.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import select
import signal
import time
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from tests.bench.births import Late

PR_SET_CHILD_SUBREAPER = 36


def become_subreaper() -> None:
    """From now on orphans of what the bench starts are the bench's children (prctl(2))."""
    ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, ctypes.c_ulong(1), 0, 0, 0)


def start(argv: list[str], log: Path, env: dict[str, str]) -> int:
    """Starts a program in its own session, its output in a file; returns its pid."""
    flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND
    actions = [
        (os.POSIX_SPAWN_OPEN, 0, "/dev/null", os.O_RDONLY, 0),
        (os.POSIX_SPAWN_OPEN, 1, str(log), flags, 0o600),
        (os.POSIX_SPAWN_DUP2, 1, 2),
    ]
    return os.posix_spawn(argv[0], argv, env, file_actions=actions, setsid=True)


def run(argv: list[str], log: Path, env: dict[str, str], limit_s: float = 120.0) -> int:
    """Runs a program to its end; returns its exit status. Raises Late."""
    pid = start(argv, log, env)
    if not gone([pid], limit_s):
        os.kill(pid, signal.SIGKILL)
        raise Late(f"{argv} did not end")
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def parents() -> dict[int, int]:
    """All processes with their parents."""
    found: dict[int, int] = {}
    for name in os.listdir("/proc"):
        if name.isdigit():
            with contextlib.suppress(OSError):
                text = Path("/proc", name, "stat").read_bytes().rpartition(b")")[2].split()
                found[int(name)] = int(text[1])
    return found


def descendants(root: int) -> list[int]:
    """All processes below this one, parents before their children."""
    children: dict[int, list[int]] = {}
    for pid, parent in parents().items():
        children.setdefault(parent, []).append(pid)
    found, queue = [], [root]
    while queue:
        below = children.get(queue.pop(), [])
        found += below
        queue += below
    return found


def reap() -> None:
    """Takes in all children that have ended."""
    with contextlib.suppress(ChildProcessError):
        while os.waitpid(-1, os.WNOHANG)[0]:
            pass


def gone(pids: Iterable[int], limit_s: float) -> bool:
    """Waits until all of them have ended; False when that took longer."""
    deadline = time.monotonic() + limit_s
    for pid in pids:
        try:
            fd = os.pidfd_open(pid)
        except OSError:
            continue
        try:
            if not select.select([fd], [], [], max(0.0, deadline - time.monotonic()))[0]:
                return False
        finally:
            os.close(fd)
    return True


def kill_tree(root: int, more: Iterable[int] = ()) -> None:
    """SIGKILL to a process that the bench started, all below it, and `more` as far as they are below the bench."""
    ours = descendants(os.getpid())
    wanted = {root, *descendants(root), *more}
    tree = [pid for pid in ours if pid in wanted]
    for pid in tree:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    gone(tree, 10)
    reap()


def kill_all() -> None:
    """The same to everything below the bench: its children, and orphans that became its children."""
    while below := descendants(os.getpid()):
        for pid in below:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        gone(below, 10)
        reap()


@dataclass(frozen=True, slots=True)
class Effort:
    """What processes have done so far: context switches of both kinds, and time on a CPU."""

    switches: int
    cpu_ns: int


def effort(pids: Iterable[int]) -> Effort:
    """All threads of these processes together."""
    switches = cpu_ns = 0
    for pid in pids:
        for task in Path(f"/proc/{pid}/task").iterdir():
            lines = (task / "status").read_text().splitlines()
            switches += sum(int(line.split()[1]) for line in lines if "ctxt_switches" in line)
            cpu_ns += int((task / "schedstat").read_text().split()[0])
    return Effort(switches, cpu_ns)


def private_bytes(pids: Iterable[int]) -> int:
    """USS: what would be free if they ended (Private_Clean and Private_Dirty of smaps_rollup, in kB)."""
    total = 0
    for pid in pids:
        for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
            if line.startswith(("Private_Clean:", "Private_Dirty:")):
                total += int(line.split()[1]) * 1024
    return total
