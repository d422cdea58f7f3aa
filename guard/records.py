"""What guard writes into the state folder about its scripts: on changes only, each record once a turn of the loop."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable

from guard import story
from guard.lifecycle import Retired, Running, Stopping
from guard.lists import write_accepted
from guard.log import Log
from guard.processes import Processes
from guard.roster import Entry
from guard.scripts import Script
from guard.state import State, record_name


class Records:
    """`waits_for` is the roster's: what holds a script's start back."""

    def __init__(self, state: State, processes: Processes, log: Log, waits_for: Callable[[Entry], str | None]) -> None:
        self._state, self._processes, self._log, self._waits_for = state, processes, log, waits_for
        self._changed: dict[str, Entry] = {}
        self._failed: dict[str, Entry] = {}  # they could not be written: a full disk, a folder that is read-only

    def touch(self, entry: Entry) -> None:
        """Something that `status` shows of this script has changed."""
        self._changed[entry.script.name] = entry

    def write(self) -> None:
        """Writes what was touched since the last call."""
        changed, self._changed = self._changed, {}
        for name, entry in changed.items():
            if self._write(entry):
                self._failed.pop(name, None)
            else:
                self._failed[name] = entry

    def retry(self) -> None:
        """Once more what could not be written."""
        failed, self._failed = self._failed, {}
        self.rewrite(failed.values())

    def rewrite(self, entries: Iterable[Entry]) -> None:
        """Whole records, with the process's own part: the folder was lost, or could not be written at its birth."""
        for entry in entries:
            if isinstance(entry.phase, Running | Stopping):
                self._processes.record(entry.script, entry.phase.pid)
            self.touch(entry)
        self.write()

    def accept(self, scripts: Iterable[Script]) -> None:
        """Keeps the list in force for a fresh primary."""
        try:
            write_accepted(self._state, scripts)
        except OSError as error:
            self._log.say(f"can't keep the accepted list in {self._state.path}: {error.strerror}; guard goes on without it")

    def _write(self, entry: Entry) -> bool:
        if isinstance(entry.phase, Retired):
            return True
        notes = story.notes(entry, self._state.boot, story.problem(entry, self._waits_for(entry)))
        try:
            fd = self._state.open_record(record_name(self._processes.body(entry.script).semaphore.key))
        except OSError:
            return False  # `status` shows less
        try:
            self._state.write_notes(fd, notes)
        except OSError:
            return False
        finally:
            os.close(fd)
        return True
