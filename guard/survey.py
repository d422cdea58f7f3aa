"""What `guard status` tells: the records, checked against what the kernel says now. Works while guard is dead.

Kept free of heavy imports: a status of 100 scripts costs less than a second start of Python.
"""

from __future__ import annotations

import os
import time

from guard.kin import TICKS_PER_S, Kin, Proc, read_stat
from guard.semaphore import GUARD_SIZE, Gone, SemaphoreSet, Unusable, key_and_tag
from guard.state import GUARD_RECORD, STANDBY_RECORD, Record, State

VERSION = 1
UP = ("running", "resting")
_PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")

Row = dict[str, object]


class Survey:
    """The whole status. `guard` and `scripts` are shaped as DESIGN 6 documents them for `--json`."""

    __slots__ = ("guard", "list_path", "scripts")

    def __init__(self, list_path: str, guard: Row, scripts: list[Row]) -> None:
        self.list_path, self.guard, self.scripts = list_path, guard, scripts

    @property
    def guarded(self) -> bool:
        """Whether guard is running."""
        return self.guard["state"] == "running"

    @property
    def exit_status(self) -> int:
        """0 all up, 1 some not up, 3 guard is not running (scripts may be)."""
        if not self.guarded:
            return 3
        return 0 if all(row["state"] in UP for row in self.scripts) else 1

    def json(self) -> str:
        """The documented form."""
        return to_json({"version": VERSION, "list": self.list_path, "guard": self.guard, "scripts": self.scripts})


def survey(state: State, list_path: str, key: int | None = None) -> Survey:
    """Looks now."""
    guard = _guard(state, key)
    now, monotonic, boottime = time.time(), time.monotonic(), time.clock_gettime(time.CLOCK_BOOTTIME)
    moments = now - monotonic, now - boottime
    guard_pid = guard["pid"] if isinstance(guard["pid"], int) else 0
    rows = [_script(number, record, guard_pid, guard["state"] == "running", moments) for number, record in state.records()]
    rows += _never_recorded(state) if not rows else []
    rows.sort(key=lambda row: (row["line"], row["copy"], row["name"]))
    for row in rows:
        del row["copy"]
    return Survey(list_path, guard, rows)


def _guard(state: State, key: int | None) -> Row:
    own, tag = key_and_tag(state.place(), state.name(), "")
    semaphore = SemaphoreSet(own if key is None else key, tag, GUARD_SIZE)
    pid: int | None = None
    try:
        if semaphore.known(untagged=key is not None):
            pid = semaphore.holder()
    except (Gone, Unusable):
        pid = None
    primary, standby = (record.alive if record else None for record in map(state.read_record, (GUARD_RECORD, STANDBY_RECORD)))
    if pid is None and primary:
        pid = primary.pid  # its set was removed a moment ago, and it has not yet made it anew
    proc = read_stat(pid) if pid else None
    return {
        "state": "running" if pid is not None else "not running",
        "pid": pid or None,
        "standby": standby.pid if standby and pid not in (None, standby.pid) else None,
        "since": _stamp(_since(proc, time.time() - time.clock_gettime(time.CLOCK_BOOTTIME))) if proc else None,
        "key": f"{semaphore.key:#010x}",
    }


def _script(key: int, record: Record, guard_pid: int, guarded: bool, moments: tuple[float, float]) -> Row:
    notes = record.notes
    proc = _living(record.kin)
    word, problem = _truth(notes.get("state", "waiting"), proc, guarded), notes.get("problem")
    if proc and record.kin and word in ("running", "stopping") and not _holds(key, record.kin.pid):
        problem = problem or "its semaphore is not held (removed, or it runs `unshare -i`): its record keeps it from a twin"
    if word == "running" and not guarded:
        problem = "runs unguarded until guard is started again"
    next_try = notes.get("next_try") if word in ("waiting", "broken") and guarded else None
    last_exit = notes.get("last_exit")
    age_s = time.time() - _since(proc, moments[1]) if proc else 0.0
    return {
        "name": notes.get("name") or f"unknown {key:#010x}",
        "state": word,
        "pid": record.kin.pid if proc and record.kin else None,
        "adopted": bool(proc and guard_pid and proc.ppid != guard_pid and word == "running"),
        "since": _stamp(_since(proc, moments[1])) if proc else None,
        "restarts": int(notes.get("restarts", "0")),
        "last_exit": int(last_exit) if last_exit is not None else None,
        "next_try": _stamp(float(next_try) + moments[0]) if next_try else None,
        "memory": proc.rss * _PAGE_BYTES if proc else None,
        "cpu": round(proc.cpu / TICKS_PER_S / age_s, 3) if proc and age_s > 0 else None,
        "status": None,
        "key": f"{key:#010x}",
        "line": int(notes.get("line", "0")),
        "problem": problem,
        "copy": int(notes.get("copy", "1")),
    }


def _truth(noted: str, proc: Proc | None, guarded: bool) -> str:
    """The state by what lives, not by what was written: guard may be dead, or about to write."""
    if noted == "daemonized":
        return "running"
    if proc:
        return "stopping" if noted == "stopping" and guarded else "running"
    if noted == "running" or (noted == "stopping" and not guarded):
        return "waiting"
    return noted


def _living(kin: Kin | None) -> Proc | None:
    proc = read_stat(kin.pid) if kin else None
    return proc if proc and kin and proc.start == kin.start and proc.state not in "ZX" and not proc.unborn else None


def _holds(key: int, pid: int) -> bool:
    semaphore = SemaphoreSet(key, 0)
    try:
        return semaphore.exists() and semaphore.holder() in (pid, 0)
    except (Gone, Unusable):
        return False


def _never_recorded(state: State) -> list[Row]:
    """The accepted list where no script has a record: all was stopped, or records can't be written."""
    from guard.lists import read_accepted
    from guard.wishes import read_or_set_aside

    asked, _ = read_or_set_aside(state)
    rows: list[Row] = []
    for script in read_accepted(state)[0]:
        own, _ = key_and_tag(state.place(), state.name(), script.name)
        notes = {"name": script.name, "line": str(script.line), "copy": str(script.copy)}
        notes["state"] = "stopped" if asked.wishes.stops(script) else "waiting"
        rows.append(_script(script.key or own, Record(None, notes), 0, False, (0.0, 0.0)))
    return rows


def _since(proc: Proc, boot_moment: float) -> float:
    return boot_moment + proc.start / TICKS_PER_S


def _stamp(moment: float) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(moment))


def to_json(value: object) -> str:
    """JSON text; the library for it costs 5 ms at each start (it imports `re`), which health checks would pay."""
    match value:
        case None:
            return "null"
        case bool():
            return "true" if value else "false"
        case int() | float():
            return repr(value)
        case str():
            return '"' + value.translate(_ESCAPES) + '"'
        case dict():
            return "{" + ", ".join(f"{to_json(str(name))}: {to_json(part)}" for name, part in value.items()) + "}"
        case list():
            return "[" + ",\n".join(to_json(part) for part in value) + "]"
    raise TypeError(value)


_ESCAPES = {code: f"\\u{code:04x}" for code in (*range(32), 127)} | {ord('"'): '\\"', ord("\\"): "\\\\"}
