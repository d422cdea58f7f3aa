"""Which processes belong to a script: read from /proc, asked of the kernel, remembered nowhere.

No dataclasses, contextlib or signal are imported here and in `state`: they cost 17 ms, which each `guard status` would pay.

A script's processes are: its own; its session (it got one of its own at birth); descendants by parent; and whatever
carries its marker `GUARD_KEY=0x…` in the environment, however far it detached itself. An identity is pid and start
time (proc_pid_stat(5), field 22), so that a pid used again is never taken for the old one.
"""

from __future__ import annotations

import os
import time

TYPE_CHECKING = False  # typing's would cost its import, and collections.abc costs 2 ms
if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Mapping

MARKER = b"GUARD_KEY="
SERVER_TITLE, SPARE_TITLE = "guard: fork server", "guard: spare"
_UNBORN = tuple(title.encode()[:15] for title in (SERVER_TITLE, SPARE_TITLE))  # so much of a name is kept: prctl(2)
TICKS_PER_S = os.sysconf("SC_CLK_TCK")
_FREEZE_ROUNDS = 50


class Kin(tuple[int, int]):
    """A process as the kernel tells it apart: pid, and `start` in clock ticks since boot."""

    __slots__ = ()

    def __new__(cls, pid: int, start: int) -> Kin:  # noqa: PYI034 - Self would cost the import of typing
        return tuple.__new__(cls, (pid, start))

    @property
    def pid(self) -> int:
        return self[0]

    @property
    def start(self) -> int:
        return self[1]


class Suspect:
    """A script whose processes are looked for: its session is its pid's, its marker its key's.

    `ours`: born under this guard, so that what it orphaned has become guard's own child.
    """

    __slots__ = ("key", "ours", "pid")

    def __init__(self, pid: int | None, key: int, ours: bool) -> None:
        self.pid, self.key, self.ours = pid, key, ours


class Proc:
    """What /proc/PID/stat says. Times in clock ticks, memory in pages."""

    __slots__ = ("cpu", "ppid", "rss", "session", "start", "state", "unborn")

    def __init__(self, name: bytes, fields: list[bytes]) -> None:
        self.unborn = name.startswith(_UNBORN)  # a child of the fork server on its way to exec, which may fail
        self.state = fields[0].decode()
        self.ppid, self.session, self.start, self.rss = int(fields[1]), int(fields[3]), int(fields[19]), int(fields[21])
        self.cpu = int(fields[11]) + int(fields[12])


def identify(pid: int) -> Kin | None:
    """The living process with this pid; None when there is none, or only its zombie."""
    proc = read_stat(pid)
    return Kin(pid, proc.start) if proc and proc.state not in "ZX" else None


def myself() -> tuple[int, int]:
    """This process's pid and start, for a child on its way to exec: each page that it touches is copied for it."""
    fd = os.open("/proc/self/stat", os.O_RDONLY | os.O_CLOEXEC)
    try:
        return os.getpid(), int(os.read(fd, 4096).rpartition(b")")[2].split(None, 20)[19])
    finally:
        os.close(fd)


def alive(kin: Kin) -> bool:
    """Whether exactly this process still lives (a zombie does not)."""
    return identify(kin.pid) == kin


def started_at_s(kin: Kin) -> float:
    """When it started, on the clock of time.monotonic()."""
    age_s = time.clock_gettime(time.CLOCK_BOOTTIME) - kin.start / TICKS_PER_S
    return time.monotonic() - max(0.0, age_s)


def children() -> set[int] | None:
    """guard's own children, dead ones too until they are reaped; None where the kernel keeps no list of them.

    Complete, because only guard itself takes children off that list, and not while it reads (proc_pid_children(5)).
    """
    me = os.getpid()
    try:
        with open(f"/proc/{me}/task/{me}/children", "rb") as file:
            return {int(pid) for pid in file.read().split()}
    except OSError:
        return None


def marked(pid: int) -> int | None:
    """The key in a process's marker, None when it has none that we may read."""
    try:
        with open(f"/proc/{pid}/environ", "rb", buffering=0) as file:
            environ = b"\0" + file.read(1 << 20)
    except OSError:
        return None
    _, found, rest = environ.partition(b"\0" + MARKER)
    try:
        return int(rest.partition(b"\0")[0], 16) if found else None
    except ValueError:
        return None


def signal_kin(kin: Kin, number: int) -> None:
    """Signals exactly this process, or nothing when it is gone. Never a stranger on its pid."""
    import signal

    try:
        fd = os.pidfd_open(kin.pid)
    except OSError:
        return
    try:
        if identify(kin.pid) == kin:
            signal.pidfd_send_signal(fd, number)
    except OSError:
        return
    finally:
        os.close(fd)


class Table:
    """One look at all processes, shared by all questions of one turn of the loop.

    `sessions` of living scripts are skipped without a read: most of the machine's processes, and none of the others.
    """

    def __init__(self) -> None:
        self._sessions: dict[int, list[int]] = {}
        self._procs: dict[int, Proc | None] = {}
        self._markers: dict[int, int | None] = {}
        for name in os.listdir("/proc"):
            if name.isdigit():
                try:
                    self._sessions.setdefault(os.getsid(int(name)), []).append(int(name))
                except OSError:
                    continue

    def of(self, suspect: Suspect, others: Collection[int] = ()) -> set[Kin]:
        """All living processes of a script; `others`: sessions known to be other living scripts'."""
        return self.of_all({"": suspect}, others).get("", set())

    def of_all(self, suspects: Mapping[str, Suspect], others: Collection[int] = ()) -> dict[str, set[Kin]]:
        """The same for several scripts at once."""
        by_session = {suspect.pid: name for name, suspect in suspects.items() if suspect.pid is not None}
        by_key = {suspect.key: name for name, suspect in suspects.items()}
        strangers = not all(suspect.ours for suspect in suspects.values())
        owner: dict[int, str] = {}
        rest: list[int] = []
        for session, pids in self._sessions.items():
            if session in by_session:
                owner.update((pid, by_session[session]) for pid in pids)
            elif session and session not in others:  # 0: kernel threads, and what lives outside this PID namespace
                rest += pids
        me = os.getpid()
        for child, script in by_session.items():  # a child is found before its setsid, too
            proc = self._proc(child) if child not in others else None
            if proc and proc.ppid == me:
                owner[child] = script
        for pid in rest:
            proc = self._proc(pid)
            if proc and pid != me and (strangers or proc.ppid == me or proc.ppid in owner):
                name = by_key.get(self._marker(pid) or 0)
                if name is not None:
                    owner[pid] = name
        self._add_descendants(owner, rest)
        found: dict[str, set[Kin]] = {}
        for pid, name in owner.items():
            proc = self._proc(pid)
            if proc and proc.state not in "ZX":
                found.setdefault(name, set()).add(Kin(pid, proc.start))
        return found

    def marked(self) -> dict[int, list[Kin]]:
        """All living processes that carry a marker, by its key."""
        found: dict[int, list[Kin]] = {}
        for session, pids in self._sessions.items():
            for pid in pids if session else ():
                key, proc = self._marker(pid), self._proc(pid)
                if key is not None and proc and proc.state not in "ZX":
                    found.setdefault(key, []).append(Kin(pid, proc.start))
        return found

    def orphans(self, known: Collection[int]) -> set[Kin]:
        """Children of guard that are none of `known`: what scripts left and nobody can attribute."""
        me = os.getpid()
        procs = ((pid, self._proc(pid)) for pids in self._sessions.values() for pid in pids if pid not in known)
        return {Kin(pid, proc.start) for pid, proc in procs if proc and proc.ppid == me and proc.state not in "ZX"}

    def _add_descendants(self, owner: dict[int, str], candidates: Iterable[int]) -> None:
        children: dict[int, list[int]] = {}
        for pid in candidates:
            proc = self._proc(pid)
            if proc and pid not in owner:
                children.setdefault(proc.ppid, []).append(pid)
        queue = list(owner)
        while queue:
            parent = queue.pop()
            for pid in children.pop(parent, ()):
                owner[pid] = owner[parent]
                queue.append(pid)

    def _proc(self, pid: int) -> Proc | None:
        if pid not in self._procs:
            self._procs[pid] = read_stat(pid)
        return self._procs[pid]

    def _marker(self, pid: int) -> int | None:
        if pid not in self._markers:
            self._markers[pid] = marked(pid)
        return self._markers[pid]


def freeze_and_kill(suspect: Suspect, others: Collection[int]) -> None:
    """KILL to all of a script. They are stopped first, until a look finds no new one: a fast forker can't outrun it."""
    from signal import SIGKILL, SIGSTOP

    frozen: set[Kin] = set()
    for _ in range(_FREEZE_ROUNDS):
        new = Table().of(suspect, others) - frozen
        if not new:
            break
        for kin in new:
            signal_kin(kin, SIGSTOP)
        frozen |= new
    for kin in frozen:
        signal_kin(kin, SIGKILL)


def read_stat(pid: int) -> Proc | None:
    """None when there is no such process."""
    try:
        fd = os.open(f"/proc/{pid}/stat", os.O_RDONLY | os.O_CLOEXEC)  # half the time of open(): `status` reads many
    except OSError:
        return None
    try:
        head, _, tail = os.read(fd, 4096).rpartition(b")")
    except OSError:  # it ended in this moment
        return None
    finally:
        os.close(fd)
    fields = tail.split(None, 22)
    return Proc(head.partition(b"(")[2], fields) if len(fields) > 21 else None
