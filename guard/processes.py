"""The scripts' processes: the only place that spawns, finds, signals and reaps them.

It decides nothing: the loop tells it what the roster ordered, and takes its answers as events.
"""

from __future__ import annotations

import contextlib
import errno
import os
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from signal import SIGCONT

from guard.birth import Failure, Plan
from guard.command import CannotRun, command
from guard.forkserver import ForkServer
from guard.kin import Kin, Suspect, Table, children, freeze_and_kill, identify, marked, signal_kin, started_at_s
from guard.lifecycle import Adopted, Spawned, SpawnFailed
from guard.scripts import Script
from guard.semaphore import Foreign, Gone, SemaphoreSet, Unusable, key_and_tag
from guard.state import State, record_name


@dataclass(slots=True)
class Body:
    """What guard holds of one script in the world: its semaphore set, its session, whom it has told to end."""

    semaphore: SemaphoreSet
    session: int | None = None
    ours: bool = True
    told: set[Kin] = field(default_factory=set)

    @property
    def suspect(self) -> Suspect:
        """How its processes are found."""
        return Suspect(self.session, self.semaphore.key, self.ours)


class Processes:
    """The bodies of all scripts, by name."""

    def __init__(self, state: State, server: ForkServer) -> None:
        self.state, self._server = state, server
        self._place = state.place(), state.name()
        self.bodies: dict[str, Body] = {}
        self._names: dict[int, str] = {}  # own children only
        self._reaped: dict[int, str] = {}  # those of the last look at them
        self.removed: list[str] = []  # scripts whose set somebody removed, found out at their respawn

    def body(self, script: Script) -> Body:
        """The body of a script; a new one when its key changed (then nothing of the old one runs)."""
        key, tag = key_and_tag(*self._place, script.name)
        key = script.key or key
        body = self.bodies.get(script.name)
        if body is None or body.semaphore.key != key:
            if body is not None:
                self.forget(script.name)
            body = self.bodies[script.name] = Body(SemaphoreSet(key, tag))
        return body

    def spawn(self, scripts: Iterable[Script]) -> dict[str, Spawned | SpawnFailed]:
        """Starts scripts, by name; what goes wrong between fork and exec comes later, as a failure."""
        answers: dict[str, Spawned | SpawnFailed] = {}
        planned: list[str] = []

        def plans() -> Iterator[Plan]:
            for script in scripts:
                plan = self._plan(script)
                if isinstance(plan, SpawnFailed):
                    answers[script.name] = plan
                else:
                    planned.append(script.name)
                    yield plan

        pids = self._server.spawn(plans())
        return answers | {name: self._spawned(name, pid) for name, pid in zip(planned, pids, strict=True)}

    def _plan(self, script: Script) -> Plan | SpawnFailed:
        semaphore = self.body(script).semaphore
        try:
            removed = semaphore.removed()
            if removed:
                self.removed.append(script.name)
            if removed or semaphore.id < 0:
                semaphore.open()
            what = command(script, semaphore.key)
        except Foreign as error:
            return SpawnFailed(f"{error}; give the line a key of its own, as key={semaphore.key ^ 0x5EED:#x}")
        except (Unusable, CannotRun) as error:
            return SpawnFailed(str(error))
        return semaphore.id, record_name(semaphore.key), what.path, what.argv, what.env, what.cwd, what.fallback

    def _spawned(self, name: str, pid: int) -> Spawned | SpawnFailed:
        if pid == -errno.EPIPE:
            return SpawnFailed("guard's fork server was killed in that moment")
        if pid < 0:
            why = "; too many processes or too little memory" if -pid in (errno.EAGAIN, errno.ENOMEM) else ""
            return SpawnFailed(f"can't fork: {os.strerror(-pid)}{why}")
        body = self.bodies[name]
        body.session, body.ours, body.told = pid, True, set()
        self._names[pid] = name
        return Spawned(pid)

    def failures(self) -> list[tuple[str, Failure]]:
        """Births that did not reach their exec, with the script's name."""
        names = ((self._names.get(failure.pid) or self._reaped.get(failure.pid), failure) for failure in self._server.failures())
        return [(name, failure) for name, failure in names if name is not None]

    def holder(self, script: Script) -> Adopted | str:
        """Who holds the semaphore that a birth found held: this very script (adopt it), or what to tell people."""
        body = self.body(script)
        key = f"{body.semaphore.key:#010x}"
        record = self.state.read_record(record_name(body.semaphore.key))
        recorded = record.alive if record else None
        if recorded:
            return self.adopt(script, recorded)
        try:
            pid = body.semaphore.holder()
        except Gone:
            return "its semaphore set was removed in that moment"
        if pid is None:
            return "its semaphore was held a moment ago"
        if pid == 0:
            return f"its semaphore {key} is held by a process of another PID namespace; end that one, or start guard there"
        kin = identify(pid)
        if kin is None:
            body.semaphore.remove()  # the kernel would have released it: somebody used SETVAL, which clears undo
            return f"its semaphore {key} was set by process {pid}, which is gone: made anew"
        if marked(pid) == body.semaphore.key:
            return self.adopt(script, kin)
        return f"its semaphore {key} is held by process {pid}, which is not this script; end it, or: ipcrm -S {key}"

    def adopt(self, script: Script, kin: Kin) -> Adopted:
        """Takes a process that runs already as this script's, and writes its record when that was lost."""
        body = self.body(script)
        body.session, body.ours, body.told = kin.pid, False, set()
        record = self.state.read_record(record_name(body.semaphore.key))
        if record is None or record.kin != kin:
            self.record(script, kin.pid)
        return Adopted(kin.pid, started_at_s(kin))

    def reap(self) -> list[tuple[int, str | None, int]]:
        """All children that ended: pid, the script's name (None: an orphan or the standby), status."""
        ended: list[tuple[int, str | None, int]] = []
        with contextlib.suppress(ChildProcessError):
            while (found := os.waitpid(-1, os.WNOHANG))[0]:
                ended.append((found[0], self._names.pop(found[0], None), os.waitstatus_to_exitcode(found[1])))
        self._reaped = {pid: name for pid, name, _ in ended if name is not None}
        return ended

    def left(self, names: Collection[str], standby: int | None) -> Mapping[str, set[Kin]]:
        """What is left of each of these scripts, whose own processes ended; nothing for those that left nothing.

        What a script born here leaves becomes guard's child (subreaper). So where guard has no child that it doesn't
        know, nothing is left, and no look at each process of the machine is needed.
        """
        if all(self.bodies[name].ours for name in names):
            born = children()
            if born is not None and all(map(self._server.forked, born - self._names.keys() - {standby})):
                return {}
        return Table().of_all({name: self.bodies[name].suspect for name in names}, self._others(names))

    def gone(self, name: str) -> None:
        """Nothing of a script is left."""
        if name in self.bodies:
            self.bodies[name].session = None

    def terminate(self, script: Script, table: Table) -> set[Kin]:
        """The stop signal to all of a script that has not had it yet; returns all of it."""
        body = self.bodies[script.name]
        found = table.of(body.suspect, self._others({script.name}))
        for kin in found - body.told:
            signal_kin(kin, script.signal)
            signal_kin(kin, SIGCONT)  # one that is stopped (SIGSTOP) could not end
        body.told |= found
        return found

    def kill(self, name: str) -> set[Kin]:
        """KILL to all of a script; returns what is left of it even so."""
        suspect, others = self.bodies[name].suspect, self._others({name})
        freeze_and_kill(suspect, others)
        return Table().of(suspect, others)

    def _others(self, but: Collection[str]) -> set[int]:
        """The sessions of all other scripts of which something runs: their processes need no closer look."""
        return {body.session for name, body in self.bodies.items() if body.session is not None and name not in but}

    def record(self, script: Script, pid: int | None) -> None:
        """Writes a script's identity for it, after its record was lost."""
        kin = identify(pid) if pid is not None else None
        record = self._open_record(self.body(script)) if kin else -1
        if kin and record >= 0:
            with contextlib.suppress(OSError):
                os.pwrite(record, self.state.identity(kin), 0)
            os.close(record)

    def forget(self, name: str) -> None:
        """Removes a script's semaphore set and record: it is gone for good."""
        body = self.bodies.pop(name, None)
        if body is not None:
            if body.semaphore.known():
                body.semaphore.remove()
            self.state.remove(record_name(body.semaphore.key))

    def _open_record(self, body: Body) -> int:
        try:
            return self.state.open_record(record_name(body.semaphore.key))
        except OSError:
            return -1  # the semaphore and the marker still tell who it is
