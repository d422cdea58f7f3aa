"""PURE: what a change of phase reads like, in the log, in a record, in `status`."""

from __future__ import annotations

from guard.lifecycle import DAEMONIZED, Adopted, Exited, Phase, Retired, Running, SpawnFailed, Stopped, Stopping, Waiting
from guard.roster import Change, Entry
from guard.words import duration_words, exit_words, printable


def line(change: Change) -> str | None:
    """One line of guard.log, None when there is nothing to tell."""
    name, now, after = change.entry.script.name, change.now, change.after
    match change.before, change.event, after:
        case Waiting(), Adopted(), Running(pid, since):
            return f"{name}[{pid or '?'}] adopted: it runs since {duration_words(now - since)}"
        case Waiting(), _, Running(pid):
            return f"{name}[{pid}] started"
        case Running(), SpawnFailed(problem), _:
            return f"{name} can't start: {problem}{_next(after, now)}"
        case Waiting(), SpawnFailed(problem), _:
            return f"{name} can't start: {problem}{_next(after, now)}"
        case Running(pid), Exited(), Running(None):
            return f"{name}[{pid}] ended with 0 and left processes behind, which go on (it daemonizes: use its foreground option)"
        case Running(pid, since), Exited(_, status, left), _:
            rest = "; ending what it left behind" if left else _next(after, now)
            return f"{name}[{pid}] died: {exit_words(status)} after {duration_words(now - since)}{rest}"
        case Running(None), _, Waiting():
            return f"{name}: what it left behind is gone{_next(after, now)}"
        case Running(pid), _, Stopping():
            return f"{name}[{pid or '?'}] is told to end"
        case Waiting(), _, Stopping():
            return f"{name}: ending what an earlier one left behind"
        case Stopping(killed=False), _, Stopping(pid, killed=True):
            return f"{name}[{pid or '?'}] did not end in time: killed"
        case Stopping(), Exited(pid, status), (Waiting() | Stopped() | Retired()):
            return f"{name}[{pid}] stopped: {exit_words(status)}{_next(after, now)}"
        case Stopping(None), _, (Waiting() | Stopped() | Retired()):
            return f"{name}: nothing of it is left{_next(after, now)}"
    return None


def _next(after: Phase, now: float) -> str:
    if not isinstance(after, Waiting):
        return ""
    return f"; next try in {duration_words(after.until - now)}" if after.until > now else "; next try now"


def state(entry: Entry) -> str:
    """The word that a record and `status` have for a phase."""
    match entry.phase:
        case Running(None):
            return DAEMONIZED
        case Waiting(problem=str()):
            return "broken"
        case phase:
            return type(phase).__name__.lower()


def problem(entry: Entry, waits_for: str | None) -> str | None:
    """What people should know of a script beside its state."""
    match entry.phase:
        case Waiting(problem=str(text)):
            return text
        case Waiting() if waits_for:
            return f"waits for {waits_for}"
        case Running(None):
            return "it daemonizes: its own process ended with 0, what it left runs; use its foreground option"
    return None


def notes(entry: Entry, boot: str, trouble: str | None) -> dict[str, str]:
    """guard's part of a record. Moments on the monotonic clock, which all processes of a boot share."""
    found = {
        "name": entry.script.name,
        "line": str(entry.script.line),
        "copy": str(entry.script.copy),
        "state": state(entry),
        "restarts": str(entry.restarts),
        "boot": boot,
    }
    if entry.last_exit is not None:
        found["last_exit"] = str(entry.last_exit)
    match entry.phase:
        case Waiting(until, failures):
            found |= {"next_try": f"{until:.3f}", "failures": str(failures)}
        case Running(failures=failures):
            found["failures"] = str(failures)
    if trouble:
        found["problem"] = printable(trouble)
    return found
