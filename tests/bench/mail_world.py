"""What the mail figures need of the system: programs on a core of their choice, their CPU time and memory, mails.

The sender under test has one core to itself; sinks, proxies and the bench share the others.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import socket
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

from tests.bench import world
from tests.bench.births import Late

ROOT = Path(__file__).resolve().parents[2]
LOOK_S = 0.002
DOMAIN = "example.org"
_ALL = sorted(os.sched_getaffinity(0))
SENDER_CORE = {_ALL[0]}
OTHER_CORES = set(_ALL[1:]) or SENDER_CORE
ENVIRONMENT = {name: os.environ[name] for name in ("PATH", "LANG", "HOME") if name in os.environ} | {"PYTHONPATH": str(ROOT)}


@contextlib.contextmanager
def on_cores(cores: set[int]) -> Iterator[None]:
    """What is started inside inherits these cores (sched_setaffinity(2)), from its first instruction on."""
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, cores)
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


def launch(argv: list[str], log: Path, cores: set[int], stdin: Path | None = None, stdout: Path | int | None = None) -> int:
    """Starts a program in its own session and returns its pid; `stdout` is a file or a descriptor, else the log."""
    flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND
    actions: list[tuple[int, ...] | tuple[int, int, str, int, int]] = [
        (os.POSIX_SPAWN_OPEN, 0, str(stdin or "/dev/null"), os.O_RDONLY, 0),
        (os.POSIX_SPAWN_OPEN, 2, str(log), flags, 0o600),
    ]
    if isinstance(stdout, int):
        actions.append((os.POSIX_SPAWN_DUP2, stdout, 1))
    else:
        actions.append((os.POSIX_SPAWN_OPEN, 1, str(stdout or log), flags, 0o600))
    with on_cores(cores):
        return os.posix_spawn(find(argv[0]), argv, ENVIRONMENT, file_actions=actions, setsid=True)


def python(module: str, *words: object) -> list[str]:
    """The command line of one of our own programs."""
    return [sys.executable, "-m", f"tests.bench.{module}", *map(str, words)]


def find(name: str) -> str:
    """The path of a program; the sbin folders are looked through too. Raises FileNotFoundError."""
    path = shutil.which(name, path=f"{os.environ.get('PATH', os.defpath)}:/usr/sbin:/sbin")
    if path is None:
        raise FileNotFoundError(f"{name} is missing")
    return path


def finish(pid: int, limit_s: float) -> tuple[int, float]:
    """Waits for a child: its exit status, and the CPU seconds of it and its children. Raises Late, then it is killed."""
    late = not world.gone([pid], limit_s)
    if late:
        os.kill(pid, signal.SIGKILL)
    _, status, usage = os.wait4(pid, 0)
    if late:
        raise Late(f"process {pid} did not end within {limit_s:g} s")
    return os.waitstatus_to_exitcode(status), usage.ru_utime + usage.ru_stime


def cpu_s(pids: Iterable[int]) -> float:
    """CPU seconds of living processes and of their children that have ended (proc(5): utime, stime, cutime, cstime)."""
    ticks = 0
    for pid in pids:
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):  # ended and reaped: its parent has its time
            fields = Path(f"/proc/{pid}/stat").read_bytes().rpartition(b")")[2].split()
            ticks += sum(int(number) for number in fields[11:15])
    return ticks / os.sysconf("SC_CLK_TCK")


def peak_bytes(pids: Iterable[int]) -> int:
    """The sum of the largest resident sizes so far of those that still live (proc(5): status, VmHWM)."""
    return _kilobytes(pids, "status", "VmHWM:") * 1024


def shared_bytes(pids: Iterable[int]) -> int:
    """What they hold together, a page that several have counted once (proc(5): smaps_rollup, Pss)."""
    return _kilobytes(pids, "smaps_rollup", "Pss:") * 1024


def _kilobytes(pids: Iterable[int], file: str, label: str) -> int:
    total = 0
    for pid in pids:
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):
            lines = Path(f"/proc/{pid}/{file}").read_text().splitlines()
            total += sum(int(line.split()[1]) for line in lines if line.startswith(label))
    return total


def folder_for_all(path: Path) -> Path:
    """Makes a folder that Postfix's own user may pass through, and returns it."""
    path.mkdir()
    path.chmod(0o755)
    return path


def family(pid: int) -> list[int]:
    """A process and all below it."""
    return [pid, *world.descendants(pid)]


def until(condition: Callable[[], bool], what: str, limit_s: float = 120.0) -> None:
    """Returns when the condition holds. Raises Late."""
    if not holds_within(condition, limit_s):
        raise Late(f"not within {limit_s:g} s: {what}")


def holds_within(condition: Callable[[], bool], limit_s: float) -> bool:
    """Whether the condition came true in time."""
    deadline = time.monotonic() + limit_s
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(LOOK_S)
    return True


def free_port() -> int:
    """A TCP port of 127.0.0.1 that nobody uses now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def listens(port: int) -> bool:
    """Whether someone accepts connections there."""
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def recipient(number: int) -> str:
    """The one recipient of mail `number`: by it a mail is known everywhere."""
    return f"u{number}@{DOMAIN}"


def mail(number: int, size_bytes: int) -> str:
    """Mail `number` with CRLF line ends: `size_bytes` in all."""
    head = (
        f"From: s@{DOMAIN}\r\nTo: {recipient(number)}\r\nSubject: {number}\r\nMessage-ID: <{number}@{DOMAIN}>\r\n"
        "Date: Sun, 22 Nov 2026 10:00:00 +0000\r\n\r\n"
    )
    line = "x" * 70 + "\r\n"
    lines, rest = divmod(max(0, size_bytes - len(head)), len(line))
    return head + line * lines + ("y" * (rest - 2) + "\r\n" if rest > 2 else "")
