"""`start`, `stop`, `restart`, `reload`: a wish is written, guard is told, and the command waits until it is so.

There is no socket: wishes are a file, the holder of guard's semaphore gets a HUP. What was wished for and what came of
it are two things; an exit status of 0 says that it came.
"""

from __future__ import annotations

import os
import select
import signal
import sys
import time
from collections.abc import Callable

from guard.instance import primary_of
from guard.kin import signal_kin
from guard.log import complain
from guard.options import Misuse, Options
from guard.place import NO_STATE, NoPlace, Place
from guard.report import base, look
from guard.run import BROKEN, RUNNING
from guard.semaphore import GUARD_SIZE, Gone, SemaphoreSet, Unusable, key_and_tag
from guard.survey import UP, Row, Survey
from guard.wishes import NAME, Asked, update

DEFAULT_TIMEOUT_S = 60.0
LOOK_AGAIN_S = 0.03
STRANGER_S = 5.0  # what holds the semaphore may be no guard: one that just starts answers before
NOT_IN_TIME = 1


class Control:
    """One command. Raises Misuse, NoPlace."""

    def __init__(self, place: Place, key: int | None, options: Options) -> None:
        self._place, self._key, self._options = place, key, options
        self._names = options.words
        self._deadline = time.monotonic() + _timeout_s(options.given.get("--timeout"))

    def perform(self) -> int:
        """Returns 0 when it is so, 1 when it was not in time."""
        match self._options.command:
            case "stop":
                return self._stop()
            case "restart":
                return self._restart()
            case "reload":
                return self._reload()
        return self._start()

    def _stop(self) -> int:
        names = self._chosen()
        self._wish(lambda asked: _stop(asked, self._names))
        if not self._tell():
            from guard.run import run

            return run(self._place, self._key, standby=False, only=names if self._names else None)
        if not self._names:
            return self._wait(lambda found: not found.guarded and not any(row["pid"] for row in found.scripts), "stopped")
        return self._wait(lambda found: all(row["state"] == "stopped" for row in _of(found, names)), "stopped", names)

    def _start(self) -> int:
        names = self._chosen() if self._names else frozenset[str]()
        everything = frozenset(str(row["name"]) for row in self._survey().scripts) if self._exists() else frozenset()
        self._wish(lambda asked: _start(asked, self._names, everything))
        launched: Launched | None = None
        if self._tell():
            self._restart_wishes([row for row in _of(self._survey(), names) if row["state"] in ("waiting", "broken")])
        else:
            launched = Launched(self._place, self._options)
            if self._wait(lambda found: found.guarded or launched.failed(), "started"):
                return NOT_IN_TIME
            self._tell()  # answered as soon as it is primary
            self._tell()  # answered after its first turn: from then on what it tells of its scripts is whole

        def done(found: Survey) -> bool:
            rows = _of(found, names)
            up = found.guarded and bool(rows) and all(row["state"] in UP for row in rows)
            return up or bool(launched and launched.failed())

        status = self._wait(done, "up", names)
        return launched.explain() if launched and launched.failed() else status

    def _restart(self) -> int:
        names = self._chosen()
        before = {row["name"]: row["pid"] for row in self._survey().scripts}
        if not self._survey().guarded:
            return self._start()
        if self._names:
            self._wish(lambda asked: _start(asked, self._names, names))
        self._restart_wishes([row for row in _of(self._survey(), names) if row["state"] != "stopped"])

        def renewed(found: Survey) -> bool:
            rows = [row for row in _of(found, names) if row["state"] != "stopped"]
            return all(row["state"] in UP and row["pid"] != before.get(row["name"]) for row in rows)

        return self._wait(renewed, "restarted", names)

    def _reload(self) -> int:
        from guard import lint

        if not self._tell(wait=True):
            complain("guard is not running: start it with `guard start`")
            return 3
        return lint.check(self._place.list_path)

    def _restart_wishes(self, rows: list[Row]) -> None:
        state = self._place.state(create=False)
        records = {record.notes.get("name"): record for _, record in state.records()}

        def change(asked: Asked) -> None:
            for row in rows:
                record = records.get(str(row["name"]))
                kin = record.kin if record and row["pid"] else None
                identity = state.identity(kin).decode().strip() if kin else ""
                asked.restart[str(row["name"])] = (identity, f"{time.time_ns()} {os.getpid()}")

        if rows:
            self._wish(change)
            self._tell()

    def _chosen(self) -> frozenset[str]:
        """The scripts that the command means, all without names. Raises Misuse for a name that is none."""
        if not self._exists():
            return frozenset()
        return frozenset(str(row["name"]) for row in look(self._place, self._key, self._names).scripts)

    def _exists(self) -> bool:
        """Whether there is a state folder to look at; a first `start` makes it."""
        if os.path.isdir(self._place.state_path):
            return True
        if self._options.command != "start":
            self._place.state(create=False)
        return False

    def _survey(self) -> Survey:
        return look(self._place, self._key, [])

    def _wish(self, change: Callable[[Asked], None]) -> None:
        state = self._place.state(create=True)
        try:
            trouble = update(state, change)
        except OSError as error:
            path = os.path.join(os.path.abspath(self._place.state_path), NAME)
            raise NoPlace(f"{path} can't be written: {error.strerror}; nothing was changed", NO_STATE) from None
        if trouble:
            complain(trouble)

    def _tell(self, *, wait: bool = True) -> bool:
        """HUP to the primary, and its answer awaited; False when no guard is running."""
        state = self._place.state(create=False)
        own, tag = key_and_tag(state.place(), state.name(), "")
        semaphore = SemaphoreSet(own if self._key is None else self._key, tag, GUARD_SIZE)
        try:
            if not semaphore.known(untagged=self._key is not None) or not semaphore.holder():
                return False
            answers = semaphore.exists(GUARD_SIZE)
            if answers:
                semaphore.ping()
            primary = primary_of(state, semaphore)
            if primary:
                signal_kin(primary, signal.SIGHUP)
            if wait and answers:
                left_s = max(0.0, self._deadline - time.monotonic())
                return semaphore.answered(left_s if primary else min(left_s, STRANGER_S)) or primary is not None
        except (Gone, Unusable):
            return False
        return True

    def _wait(self, so: Callable[[Survey], bool], word: str, names: frozenset[str] = frozenset()) -> int:
        """Looks until it is so; says each script that gets there."""
        while not so(found := self._survey()):
            if time.monotonic() > self._deadline:
                for row in _of(found, names):
                    if word == "up" and row["state"] in UP:
                        continue
                    complain(f"{row['name']} is {row['state']}{': ' + str(row['problem']) if row['problem'] else ''}")
                complain(f"not {word} in time; it goes on, `guard status` shows how far it is")
                return NOT_IN_TIME
            select.select((), (), (), LOOK_AGAIN_S)
        rows = _of(found, names)
        if sys.stdout.isatty():
            for row in rows:
                sys.stdout.write(f"{row['name']} {word}{' [' + str(row['pid']) + ']' if row['pid'] else ''}\n")
        return 0


def _of(found: Survey, names: frozenset[str]) -> list[Row]:
    return [row for row in found.scripts if not names or row["name"] in names]


def _stop(asked: Asked, names: list[str]) -> None:
    if names:
        asked.stopped |= set(names)
    else:
        asked.all_stopped = True


def _start(asked: Asked, names: list[str], everything: frozenset[str]) -> None:
    """`start NAME` after a stop of all starts that one and leaves the others stopped."""
    if not names:
        asked.all_stopped, asked.stopped = False, set()
        return
    if asked.all_stopped:
        asked.all_stopped = False
        asked.stopped |= everything
    for stopped in list(asked.stopped):
        if stopped in names or base(stopped) in names:
            asked.stopped.discard(stopped)
        elif any(base(name) == stopped for name in names):  # one copy of a line that was stopped whole
            asked.stopped.discard(stopped)
            asked.stopped |= {name for name in everything if base(name) == stopped and name not in names}


class Launched:
    """A guard of its own, detached from this terminal, as cron would start it; this command's child while both live."""

    def __init__(self, place: Place, options: Options) -> None:
        self._status: int | None = None
        self._output = _output(place)
        self._said_before = os.fstat(self._output).st_size
        self._pid = os.fork()
        if self._pid == 0:
            try:
                self._become_guard(place, options)
            except OSError as error:
                complain(f"can't start guard by {sys.executable}: {error.strerror}")
            finally:
                os._exit(BROKEN)

    def _become_guard(self, place: Place, options: Options) -> None:
        os.setsid()
        os.dup2(os.open("/dev/null", os.O_RDWR), 0)
        os.dup2(self._output, 1)
        os.dup2(self._output, 2)
        given = [word for name in ("--list", "--state", "--key") if name in options.given for word in (name, options.given[name])]
        flags = [name for name in ("--no-standby", "--as-root") if options.has(name)]
        environment = {name: value for name, value in os.environ.items() if not name.startswith("GUARD_")}
        arguments = [sys.executable, sys.argv[0], *_absolute(given, place), *flags]
        os.execve(sys.executable, arguments, environment)

    def failed(self) -> bool:
        """Whether it has ended, and not because another, of cron, was first."""
        if self._status is None:
            pid, status = os.waitpid(self._pid, os.WNOHANG)
            self._status = os.waitstatus_to_exitcode(status) if pid else None
        return self._status not in (None, RUNNING)

    def explain(self) -> int:
        """Says what it said; returns its exit status."""
        said = os.pread(self._output, 65536, self._said_before).decode(errors="replace")
        for line in said.splitlines():
            sys.stderr.write(f"{line}\n")
        complain(f"the guard that was started has ended, exit status {self._status}")
        return self._status if self._status is not None and self._status > 0 else BROKEN


def _output(place: Place) -> int:
    """Where a launched guard writes: the log that the crontab line made, else its own, else nowhere."""
    own = os.path.join(place.state_path, "guard.log")
    for path, flags in (("guard.log", 0), (own, os.O_CREAT)):
        try:
            return os.open(path, os.O_RDWR | os.O_APPEND | os.O_CLOEXEC | flags, 0o600)
        except OSError:
            continue  # not there, another user's, read-only: no reason not to start
    return os.open("/dev/null", os.O_RDWR | os.O_CLOEXEC)


def _absolute(given: list[str], place: Place) -> list[str]:
    """The paths as they are now: the launched guard starts in List.txt's folder."""
    words = [word for word in given if word not in ("--list", "--state")]
    keys = words[words.index("--key") :][:2] if "--key" in words else []
    state = ["--state", place.state_path] if place.follow else []
    return ["--list", place.list_path, *state, *keys]


def _timeout_s(text: str | None) -> float:
    from guard.scripts import duration_s

    if text is None:
        return DEFAULT_TIMEOUT_S
    try:
        return duration_s(text)
    except (ValueError, KeyError):
        raise Misuse(f"--timeout {text}: not a time; write one as 30s or 5m") from None
