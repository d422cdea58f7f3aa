"""Semaphore sets from outside: listed, removed, made and set as other programs do."""

from __future__ import annotations

import contextlib
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from guard.semaphore import key_and_tag
from tests.system.harness import Folder

STRANGER = str(Path(__file__).with_name("stranger.py"))
ROOT = Path(__file__).parents[2]


def sets() -> dict[int, dict[str, int]]:
    """All sets of this IPC namespace by key: semid, perms, nsems, uid, cuid and so on (sysvipc(7))."""
    lines = Path("/proc/sysvipc/sem").read_text(encoding="ascii").splitlines()
    names = lines[0].split()
    rows = [dict(zip(names, (int(word) for word in line.split()), strict=True)) for line in lines[1:]]
    return {row["key"] & 0xFFFFFFFF: row for row in rows}


def key_of(folder: Folder, name: str = "") -> int:
    """The key that a script of the folder has, or guard itself."""
    status = folder.path.stat()
    return key_and_tag((status.st_dev, status.st_ino), ".guard", name)[0]


def ipcrm(*keys: int) -> None:
    """Removes sets as `ipcrm` does, all with one command; those that are gone already are no matter."""
    words = [word for key in keys for word in ("-S", f"{key:#x}")]
    subprocess.run(["ipcrm", *words], check=False, capture_output=True)


def stranger(*words: str | int, **popen: Any) -> None:
    """A process that is no guard does something with a set, and ends."""
    subprocess.run([sys.executable, STRANGER, *map(str, words)], check=True, cwd=ROOT, env=_environment(), **popen)


@contextlib.contextmanager
def living_stranger(*words: str | int) -> Iterator[subprocess.Popen[bytes]]:
    """The same by one that lives on; at the end it must be as alive as before."""
    command = [sys.executable, STRANGER, *map(str, words), "stay"]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, cwd=ROOT, env=_environment())
    assert process.stdin
    assert process.stdout
    assert process.stdout.readline() == b"done\n"
    try:
        yield process
        assert process.poll() is None, "a stranger was signalled"
    finally:
        process.stdin.close()
        process.wait(30)
        process.stdout.close()
    assert process.returncode == 0


def _environment() -> dict[str, str]:
    return {"PYTHONPATH": str(ROOT), "PATH": "/usr/bin:/bin"}
