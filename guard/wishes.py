"""What people asked for, kept in `.guard/wishes.json`: `stop` and `restart` survive guard, cron and reboot.

A restart is a wish about one process, not a command: "this one shall not go on". So it is fulfilled once, whoever
dies in between, and one that was fulfilled already means nothing any more.
"""

from __future__ import annotations

import fcntl
import json
import os
from collections.abc import Callable
from dataclasses import dataclass, field

from guard.roster import Wishes
from guard.state import State

NAME = "wishes.json"
VERSION = 1


@dataclass(slots=True)
class Asked:
    """`restart`: script name -> the identity "pid start boot" that shall not go on, "" when none ran, and a token."""

    all_stopped: bool = False
    stopped: set[str] = field(default_factory=set)
    restart: dict[str, tuple[str, str]] = field(default_factory=dict)

    @property
    def wishes(self) -> Wishes:
        """The part about stopping, as the roster takes it."""
        return Wishes(self.all_stopped, frozenset(self.stopped))


class Unreadable(Exception):
    """The file is not what this version writes."""


def read(state: State) -> Asked:
    """Raises Unreadable, OSError."""
    text = state.read(NAME)
    if text is None:
        return Asked()
    try:
        data = json.loads(text)
        if data["version"] != VERSION:
            raise Unreadable(f"{state.path}/{NAME} is of version {data['version']}, this guard knows {VERSION}")
        restart = {str(name): (str(pair[0]), str(pair[1])) for name, pair in data["restart"].items()}
        return Asked(bool(data["all_stopped"]), {str(name) for name in data["stopped"]}, restart)
    except (ValueError, KeyError, TypeError, AttributeError, IndexError):
        raise Unreadable(f"{state.path}/{NAME} can't be read") from None


def read_or_set_aside(state: State, *, primary: bool = False) -> tuple[Asked, str | None]:
    """What is asked for, and what to say about a file that can't be read: never a reason to refuse.

    The primary sets such a file aside, since it says so; who only looks leaves it.
    """
    try:
        return read(state), None
    except Unreadable as error:
        if primary:
            state.set_aside(NAME)
        return Asked(), _set_aside_words(error)
    except OSError as error:
        return Asked(), f"can't read {state.path}/{NAME}: {error.strerror}; nothing is taken as stopped"


def update(state: State, change: Callable[[Asked], None]) -> str | None:
    """Changes the wishes, whole or not at all; commands that come at the same time wait for each other.

    Returns what to say about a file that could not be read and was set aside. Raises OSError.
    """
    lock = os.open("wishes.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600, dir_fd=state.fd)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX)
        asked, trouble = Asked(), None
        try:
            asked = read(state)
        except Unreadable as error:
            state.set_aside(NAME)
            trouble = _set_aside_words(error)
        change(asked)
        restart = {name: pair for name, pair in asked.restart.items() if not pair[0] or pair[0].endswith(state.boot)}
        text = json.dumps(
            {"version": VERSION, "all_stopped": asked.all_stopped, "stopped": sorted(asked.stopped), "restart": restart}, indent=1
        )
        state.replace(NAME, text + "\n")
        return trouble
    finally:
        os.close(lock)


def _set_aside_words(error: Unreadable) -> str:
    return f"{error}: set aside as {NAME}.unreadable, nothing is taken as stopped"
