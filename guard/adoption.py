"""What outlived the last guard: looked for once, by a new primary, before its first spawn.

A script runs if the process that it recorded lives, or if its semaphore is held by one that carries its marker. What
carries the marker of a script that does not run is a leftover. Nobody is adopted on the word of a number alone.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace

from guard.kin import Kin, Table, identify
from guard.lifecycle import DAEMONIZED, Adopted, Event, Left, Waiting
from guard.processes import Processes
from guard.scripts import Script
from guard.semaphore import Gone
from guard.state import Record, State, record_name


@dataclass(frozen=True, slots=True)
class Past:
    """What a record of this boot and folder tells of a script's past."""

    restarts: int = 0
    last_exit: int | None = None
    waiting: Waiting | None = None


def survivors(scripts: Iterable[Script], processes: Processes, now: float) -> Iterator[tuple[str, Past, Event | None]]:
    """Each script's past, and the event to tell if something of it runs."""
    table = Table()
    found = table.marked()
    for script in scripts:
        body = processes.body(script)
        key = body.semaphore.key
        record = processes.state.read_record(record_name(key))
        past = _past(record, script, processes.state.boot, now)
        failures = past.waiting.failures if past.waiting else 0
        kin = (record.alive if record else None) or _holder(script, processes, found.get(key, []))
        event: Event | None = None
        if kin is not None:
            event = replace(processes.adopt(script, kin), failures=failures)
        elif key in found:
            body.ours, body.session = False, record.kin.pid if record and record.kin else None
            daemonized = record is not None and record.notes.get("state") == DAEMONIZED
            event = Adopted(None, now, failures) if daemonized else Left()
        yield script.name, past, event


def unlisted(state: State, processes: Processes, listed: Iterable[Script]) -> Iterator[Script]:
    """Scripts that an earlier guard recorded and no list names any more: to be retired, alive or not."""
    keys = {processes.body(script).semaphore.key for script in listed}
    for key in state.strange_records():
        if key not in keys:
            state.remove(record_name(key))  # no process and no semaphore set of ours belongs to it
    for key, record in state.records():
        if key not in keys:
            name = record.notes.get("name", "") or f"unlisted {key:#010x}"
            yield Script(name=name, argv=(name,), base=name, key=key)


def _holder(script: Script, processes: Processes, marked: list[Kin]) -> Kin | None:
    semaphore = processes.body(script).semaphore
    if not marked or not semaphore.known():
        return None
    try:
        pid = semaphore.holder()
    except Gone:
        return None
    kin = identify(pid) if pid else None
    return kin if kin in marked else None


def _past(record: Record | None, script: Script, boot: str, now: float) -> Past:
    if record is None or record.notes.get("boot") != boot:
        return Past()
    notes = record.notes
    try:
        failures = int(notes.get("failures", 0))
        until = min(float(notes.get("next_try", now)), now + script.retry_max_s)
        last_exit = int(notes["last_exit"]) if "last_exit" in notes else None
        return Past(int(notes.get("restarts", 0)), last_exit, Waiting(until, failures) if failures else None)
    except ValueError:
        return Past()
