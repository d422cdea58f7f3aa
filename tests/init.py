"""Pid 1 of the test suite's PID namespace: reaps orphans, and at the end proves that the tests left nothing behind."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).parents[1]
CACHES = (".git", ".venv", ".hypothesis", "__pycache__", "_cache", ".egg-info")  # what tools of development write
STATES = ("/var/lib/semguard", "~/.local/state/semguard", "~/.config/semguard")  # where programs put it when nobody tells


def main(command: list[str]) -> int:
    """Runs the command; its exit status, or 1 if something is left."""
    queues = tempfile.mkdtemp()  # a place of our own: not every machine has a /dev/mqueue
    subprocess.run(["mount", "-t", "mqueue", "mqueue", queues], check=True)
    before = _places()
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    suite = os.posix_spawnp(command[0], command, os.environ)
    status = 1
    while True:
        pid, ended = os.waitpid(-1, 0)
        if pid == suite:
            status = os.waitstatus_to_exitcode(ended)
            break
    left = _left_behind(queues) + sorted(_places() - before)
    subprocess.run(["umount", queues], check=True)
    os.rmdir(queues)
    for line in left:
        sys.stdout.write(f"left behind by the tests: {line}\n")
    return (status if status >= 0 else 128 - status) or int(bool(left))


def _left_behind(queues: str) -> list[str]:
    """Processes that have not ended a moment after the suite, semaphore sets, and what lies in the folder `queues`."""
    deadline = time.monotonic() + 5
    while (processes := _processes()) and time.monotonic() < deadline:
        try:
            os.waitpid(-1, os.WNOHANG)
        except ChildProcessError:
            break
    found = [f"process {text}" for text in processes]
    with open("/proc/sysvipc/sem", encoding="ascii") as file:
        found += [f"semaphore set {line.split()[0]}" for line in file.read().splitlines()[1:]]
    return found + [f"message queue {name}" for name in os.listdir(queues)]


def _places() -> set[str]:
    """Mounts here, the state that a program without a config makes, and in CI, where nobody else writes, the project's files."""
    found = {f"folder {place}" for place in STATES if os.path.exists(os.path.expanduser(place))}
    for folder, folders, files in os.walk(ROOT) if os.environ.get("CI") == "true" else ():
        folders[:] = [name for name in folders if not name.endswith(CACHES)]
        found.update(f"file {os.path.join(folder, name)}" for name in (*folders, *files))
    with open("/proc/self/mountinfo", encoding="utf-8", errors="replace") as mounts:
        return found | {f"mount {line.split()[4]}" for line in mounts}


def _processes() -> list[str]:
    found = []
    for name in os.listdir("/proc"):
        if name.isdigit() and int(name) != os.getpid():
            try:
                with open(f"/proc/{name}/stat", encoding="utf-8", errors="replace") as stat:
                    words = stat.read().rpartition(")")
            except OSError:
                continue
            if words[2].split()[0] not in "ZX":
                found.append(words[0] + ")")
    return found


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
