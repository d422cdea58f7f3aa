"""List.txt and the last accepted list: when a save is whole, what it says, what serves when it is missing or bad."""

from __future__ import annotations

import contextlib
import json
import os
import time
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, fields, replace

from guard.scripts import Listing, Script, parse
from guard.state import State
from guard.watch import POLL_S, Busy, Watch, read_closed

ACCEPTED = "list"
VERSION = 1
SETTLED_S = 3.0  # how long an edit must stand where no lease tells whether it is finished
AGAIN_S = 5.0


@dataclass(frozen=True, slots=True)
class Look:
    """One look at List.txt. `listing`: a new content to take. `again_s`: look once more after so long."""

    listing: Listing | None = None
    trouble: str | None = None
    again_s: float | None = None


class ListFile:
    """List.txt at `path`, and the watch on it. Says each trouble once.

    `follow`: the path is gone again from its start each time, so that a folder behind a symlink can be exchanged.
    """

    def __init__(self, path: str, state_path: str, *, follow: bool) -> None:
        self.path, self._state_path, self._follow = path, state_path, follow
        self.watch = Watch()
        self._taken: bytes | None = None
        self._seen: tuple[bytes, float] | None = None  # a content that may be half of one, and since when it stands
        self._trouble: str | None = None

    def look(self, running: Mapping[str, Script]) -> Look:
        """Reads the file if it is whole now; `running` are the scripts in force."""
        if self._follow:
            with contextlib.suppress(OSError):
                os.chdir(os.path.dirname(self.path))
        seen = self.watch.follow(self.path, self._state_path)  # before the look: nothing can change unseen between the two
        look = self._read(running)
        return look if seen else replace(look, again_s=min(POLL_S, look.again_s or POLL_S))

    def _read(self, running: Mapping[str, Script]) -> Look:
        try:
            content, certain = read_closed(self.path)
        except Busy:
            return Look(again_s=AGAIN_S)  # its close will wake us; this is for a close that inotify can't tell
        except FileNotFoundError:
            return self._kept("is missing")
        except OSError as error:
            return self._kept(f"can't be read: {error.strerror}")
        if content == self._taken:
            self._trouble = self._seen = None
            return Look()
        if not certain and (left_s := self._unsettled_s(content)) > 0:
            return Look(again_s=left_s)
        listing = parse(content, running)
        if not listing.scripts and not listing.mistakes:
            return self._kept("lists no script")
        self._taken, self._trouble, self._seen = content, None, None
        return Look(listing)

    def _unsettled_s(self, content: bytes) -> float:
        """How long this content must still stand until it is taken for whole, however often it is looked at."""
        now = time.monotonic()
        if self._seen is None or self._seen[0] != content:
            self._seen = content, now
        return self._seen[1] + SETTLED_S - now

    def _kept(self, trouble: str) -> Look:
        self._taken = None
        if trouble == self._trouble:
            return Look()
        self._trouble = trouble
        return Look(trouble=f"{self.path} {trouble}: everything goes on as it is (to stop it all: guard stop)")


def write_accepted(state: State, scripts: Iterable[Script]) -> None:
    """Keeps the list in force for a fresh primary. Raises OSError."""
    lines = ",\n".join(json.dumps(asdict(script)) for script in scripts)
    state.replace(ACCEPTED, f'{{"version": {VERSION}, "scripts": [\n{lines}\n]}}\n')


def read_accepted(state: State, *, primary: bool = False) -> tuple[list[Script], str | None]:
    """The list in force before, and what to say when it can't be read: then the primary, which says it, sets it aside."""
    try:
        text = state.read(ACCEPTED)
        if text is None:
            return [], None
        data = json.loads(text)
        if data["version"] == VERSION:
            return [_script(row) for row in data["scripts"]], None
    except OSError as error:
        return [], f"can't read {state.path}/{ACCEPTED}: {error.strerror}"
    except (ValueError, KeyError, TypeError):
        pass
    if primary:
        state.set_aside(ACCEPTED)
    return [], f"{state.path}/{ACCEPTED} is not this version's: set aside as {ACCEPTED}.unreadable"


def _script(row: dict[str, object]) -> Script:
    known = {field.name for field in fields(Script)}
    if set(row) != known:
        raise ValueError(row)
    values: dict[str, object] = {**row, "argv": tuple(_strings(row["argv"]))}
    values["env"] = tuple(tuple(_strings(pair)) for pair in row["env"])  # type: ignore[attr-defined]
    return Script(**values)  # type: ignore[arg-type]


def _strings(value: object) -> list[str]:
    if not isinstance(value, list) or not all(isinstance(word, str) for word in value):
        raise TypeError(value)
    return value
