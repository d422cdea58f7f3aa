"""PURE: the life of one script. `decide(script, phase, event, now) -> (phase, actions)`.

Two rules: everything that changes a phase stands in this file, and this file knows no clock, process or log.
`now` is monotonic, in seconds. Phases hold only what is true in them, so nothing is stale.

Every pair of phase and event is one of three kinds: a transition (written below), stale news (an old pid's exit, a
deadline that is not due: the phase stays), or impossible (raises: a bug ends guard, the standby takes over and adopts).
"""

from __future__ import annotations

import binascii
from dataclasses import dataclass, replace

from guard.scripts import Script

KILL_AGAIN_S = 1.0  # what survives KILL for now (a process in disk wait, a fast forker) gets it again
FIRST_GROWTH_S = 0.1  # where doubling starts for `retry=0..MAX`
JITTER = 0.1
DAEMONIZED = "daemonized"  # the word for Running(pid=None)


@dataclass(frozen=True, slots=True)
class Waiting:
    """Nothing of it runs; it is due at `until`. `problem`: why the last try was none."""

    until: float
    failures: int = 0
    problem: str | None = None


@dataclass(frozen=True, slots=True)
class Running:
    """`pid` is None when the script daemonized: it ended with 0 and left processes behind that go on."""

    pid: int | None
    since: float
    failures: int = 0


@dataclass(frozen=True, slots=True)
class Stopped:
    """Nothing of it runs, by wish."""


@dataclass(frozen=True, slots=True)
class Retired:
    """Nothing of it runs and its line is gone: the roster forgets it."""


@dataclass(frozen=True, slots=True)
class Stopping:
    """It was told to end; KILL at `kill_at`. `pid` is None once only leftovers are left. `then` comes after."""

    pid: int | None
    kill_at: float
    then: Waiting | Stopped | Retired
    killed: bool = False


Phase = Waiting | Running | Stopping | Stopped | Retired


@dataclass(frozen=True, slots=True)
class Wanted:
    """It is listed, and no wish stops it."""


@dataclass(frozen=True, slots=True)
class Unwanted:
    """A wish stops it, or guard is ending."""


@dataclass(frozen=True, slots=True)
class Unlisted:
    """Its line is gone."""


@dataclass(frozen=True, slots=True)
class Renewed:
    """It shall start afresh: its line changed in what the process sees, or a person asked for a restart."""


@dataclass(frozen=True, slots=True)
class Due:
    """The moment it waits for has come."""


@dataclass(frozen=True, slots=True)
class Spawned:
    """It was forked and is on its way to exec."""

    pid: int


@dataclass(frozen=True, slots=True)
class SpawnFailed:
    """It could not be started; `pid` when that came out after the fork."""

    problem: str
    pid: int | None = None


@dataclass(frozen=True, slots=True)
class Adopted:
    """It runs already. `pid` None: what a daemonizing script left."""

    pid: int | None
    since: float
    failures: int = 0


@dataclass(frozen=True, slots=True)
class Exited:
    """Its process ended. `status` as waitstatus_to_exitcode gives it, None when unknown; `left`: something remains."""

    pid: int
    status: int | None
    left: bool = False


@dataclass(frozen=True, slots=True)
class Left:
    """Its process is gone, but something that it started is still there."""


@dataclass(frozen=True, slots=True)
class Cleared:
    """Its process is gone, and nothing that it started is left."""


Event = Wanted | Unwanted | Unlisted | Renewed | Due | Spawned | SpawnFailed | Adopted | Exited | Left | Cleared


@dataclass(frozen=True, slots=True)
class Spawn:
    """Start it; answered by Spawned, SpawnFailed or Adopted before the next wait."""


@dataclass(frozen=True, slots=True)
class Terminate:
    """Send its stop signal to all of it that has not had it yet."""


@dataclass(frozen=True, slots=True)
class Kill:
    """Send KILL to all of it."""


@dataclass(frozen=True, slots=True)
class Forget:
    """Remove its semaphore set and its record."""


Action = Spawn | Terminate | Kill | Forget
Decision = tuple[Phase, tuple[Action, ...]]


class Impossible(Exception):
    """An event that this phase cannot see: a bug in guard."""


def decide(script: Script, phase: Phase, event: Event, now: float) -> Decision:
    """What becomes of a script, and what is to be done for it. Raises Impossible.

    Longer than other functions on purpose: read down its left edge, it is the life of a script.
    """
    match phase, event:
        case Waiting(), Due() if now >= phase.until:
            return phase, (Spawn(),)
        case Waiting(), Spawned(pid):
            return Running(pid, now, phase.failures), ()
        case Waiting(), SpawnFailed(problem):
            return _refused(script, phase.failures, problem, now), ()
        case Waiting(), Adopted(pid, since, failures):
            return Running(pid, since, failures), ()
        case Waiting(), Left():
            return Stopping(None, now + script.stop_s, phase), (Terminate(),)
        case Waiting(), Renewed():
            return Waiting(now), ()
        case Waiting(), Unwanted():
            return Stopped(), ()
        case ((Waiting() | Stopped()), Unlisted()):
            return Retired(), (Forget(),)

        case Running(pid), Exited(gone, status, left) if pid == gone:
            if left and status == 0:
                return replace(phase, pid=None), ()
            after = _respawn(script, phase, status, now)
            return (Stopping(None, now + script.stop_s, after), (Terminate(),)) if left else (after, ())
        case Running(None), Cleared():
            return _respawn(script, phase, 0, now), ()
        case Running(pid), SpawnFailed(problem, int(gone)) if pid == gone:
            return _refused(script, phase.failures, problem, now), ()
        case Running(pid), Adopted(other) if pid == other:
            return phase, ()
        case Running(), Renewed():
            return _stopping(script, phase, Waiting(now), now)
        case Running(), Unwanted():
            return _stopping(script, phase, Stopped(), now)
        case Running(), Unlisted():
            return _stopping(script, phase, Retired(), now)

        case Stopping(pid), Exited(gone, _, left) if pid == gone:
            return _ended(replace(phase, pid=None), left)
        case Stopping(None), Cleared():
            return _ended(phase, False)
        case Stopping(None), Left():
            return _ended(phase, True)
        case Stopping(pid), SpawnFailed(_, int(gone)) if pid == gone:
            return _ended(replace(phase, pid=None), False)
        case Stopping(), Due() if now >= phase.kill_at:
            return replace(phase, kill_at=now + KILL_AGAIN_S, killed=True), (Kill(),)
        case Stopping(then=Waiting()), Unwanted():
            return replace(phase, then=Stopped()), ()
        case Stopping(), Unlisted():
            return replace(phase, then=Retired()), ()
        case Stopping(then=Waiting()), Renewed():
            return replace(phase, then=Waiting(now)), ()
        case Stopping(then=Stopped() | Retired()), Wanted():
            return replace(phase, then=Waiting(now)), ()

        case Stopped(), Wanted():
            return Waiting(now), ()
        case Stopped(), Left():
            return Stopping(None, now + script.stop_s, phase), (Terminate(),)

    if _stale(phase, event):
        return phase, ()
    raise Impossible(f"{script.name}: {event} in {phase}")


def moment(phase: Phase) -> float | None:
    """When `Due` is to be told, None when never."""
    match phase:
        case Waiting(until):
            return until
        case Stopping(kill_at=kill_at):
            return kill_at
    return None


def pause_s(script: Script, failures: int, salt: int) -> float:
    """The pause before the next try after so many failed young deaths in a row; `salt` spreads it (jitter)."""
    low, high = script.retry_min_s, script.retry_max_s
    if failures <= 1 or low == high:
        return low
    pause = (low or FIRST_GROWTH_S) * 2.0 ** min(failures - 1, 60)
    spread = binascii.crc32(f"{script.name}:{salt}".encode()) / 0xFFFFFFFF
    return max(low, min(high, pause) * (1 - JITTER * spread))


def _respawn(script: Script, phase: Running, status: int | None, now: float) -> Waiting:
    """Exit 0 never lengthens the pause, and a long life forgives."""
    healthy = status == 0 or now - phase.since >= script.stable_s
    failures = 0 if healthy else phase.failures + 1
    return Waiting(now + pause_s(script, failures, phase.pid or 0), failures)


def _refused(script: Script, failures: int, problem: str, now: float) -> Waiting:
    return Waiting(now + pause_s(script, failures + 1, failures), failures + 1, problem)


def _stopping(script: Script, phase: Running, then: Waiting | Stopped | Retired, now: float) -> Decision:
    return Stopping(phase.pid, now + script.stop_s, then), (Terminate(),)


def _ended(phase: Stopping, left: bool) -> Decision:
    if left:
        return phase, (Kill() if phase.killed else Terminate(),)
    return phase.then, (Forget(),) if isinstance(phase.then, Retired) else ()


def _stale(phase: Phase, event: Event) -> bool:
    """News that a phase may get late, or hear twice, and that changes nothing."""
    match phase, event:
        case Retired(), Unlisted() | Due() | Exited() | Cleared() | Left() | SpawnFailed(pid=int()):
            return True
        case Retired(), _:
            return False
        case _, Due() | Exited() | Cleared() | Unlisted() | Unwanted() | Wanted() | Renewed():
            return True
        case _, SpawnFailed(pid=int()):
            return True
        case ((Running() | Stopping()), Left()):
            return True
    return False
