"""PURE: every script and its phase; a new List.txt and new wishes compared with them; what is due, and when.

`Roster` is the one place where a phase changes. It returns orders (whose, what); the loop performs them.
"""

from __future__ import annotations

import heapq
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass

from guard.lifecycle import (
    Action,
    Due,
    Event,
    Exited,
    Phase,
    Renewed,
    Retired,
    Running,
    Stopped,
    Stopping,
    Unlisted,
    Unwanted,
    Waiting,
    Wanted,
    decide,
    moment,
)
from guard.scripts import Script

# So that a broken host is not hammered: respawns after failed young deaths, of all scripts together.
BURST = 500
REFILL_PER_S = 100.0


@dataclass(slots=True)
class Entry:
    """A script, its phase, and what people want to know of its past."""

    script: Script
    phase: Phase
    restarts: int = 0
    last_exit: int | None = None
    up_once: bool = False  # `after=` holds back the first start only
    held_by: tuple[str, ...] = ()  # vanished lines, not yet gone, that run the same file
    renewal: Script | None = None  # its line as it is now, taken over when the old process is gone

    @property
    def alive(self) -> bool:
        """Whether something of it may be running."""
        return isinstance(self.phase, Running | Stopping)


@dataclass(frozen=True, slots=True)
class Order:
    """What the loop shall do for which script."""

    name: str
    action: Action


@dataclass(frozen=True, slots=True)
class Change:
    """A script went from one phase to another, because of an event."""

    entry: Entry
    before: Phase
    after: Phase
    event: Event
    now: float


@dataclass(frozen=True, slots=True)
class Wishes:
    """What people asked for with `guard stop`: all of it, or these names (a base name means all its copies)."""

    all_stopped: bool = False
    stopped: frozenset[str] = frozenset()

    def stops(self, script: Script) -> bool:
        """Whether this script is to be stopped."""
        return self.all_stopped or script.name in self.stopped or script.base in self.stopped


@dataclass(frozen=True, slots=True)
class _Links:
    """`after`: script -> base name that it comes after; `dependents`: base name -> scripts that come after it."""

    after: dict[str, str]
    dependents: dict[str, list[str]]


class Roster:
    """All scripts by name, in the order of List.txt. `changes` collects what happened, for log and records."""

    def __init__(self) -> None:
        self.entries: dict[str, Entry] = {}
        self.changes: list[Change] = []
        self._wishes = Wishes()
        self._ending = False
        self._moments: list[tuple[float, int, str]] = []  # a heap, first come first served; what no longer holds is skipped
        self._count = 0
        self._links: _Links | None = None  # who comes after whom; None: to be found anew
        self._tokens, self._refilled = float(BURST), 0.0

    def tell(self, name: str, event: Event, now: float) -> list[Order]:
        """One event for one script. Raises Impossible."""
        entry = self.entries[name]
        if isinstance(event, Exited) and isinstance(entry.phase, Running | Stopping) and entry.phase.pid == event.pid:
            entry.last_exit = event.status
        needed = self._needs(entry)  # before a renewal replaces the script
        before, (entry.phase, actions) = entry.phase, decide(entry.script, entry.phase, event, now)
        if entry.phase is not before:
            self.changes.append(Change(entry, before, entry.phase, event, now))
            self._entered(name, entry, before)
        return [Order(name, action) for action in actions] + self._consequences(before, needed, entry, now)

    def accept(self, listed: Collection[Script], now: float, *, whole: bool = True) -> list[Order]:
        """Makes the list what `listed` says. Unless it is `whole` (a line is bad), nothing is stopped for it."""
        orders: list[Order] = []
        names = {script.name for script in listed}
        known = set() if whole else {name for name, entry in self.entries.items() if not entry.held_by}
        if whole:
            for name in [name for name in self.entries if name not in names]:
                orders += self.tell(name, Unlisted(), now)
        for script in listed:
            orders += self._list(script, now, whole)
        self._hold(names, known)
        order = {script.name: place for place, script in enumerate(listed)}
        self.entries = dict(sorted(self.entries.items(), key=lambda item: order.get(item[0], len(order))))
        self._links = None
        for name, entry in self.entries.items():
            self._schedule(name, entry)
        return orders

    def wish(self, wishes: Wishes, now: float) -> list[Order]:
        """Makes stopped what shall be stopped and wanted what shall not."""
        self._wishes = wishes
        orders: list[Order] = []
        for name, entry in list(self.entries.items()):
            if self._stops(entry.script):
                orders += self.tell(name, Unwanted(), now) if self._may_stop(entry) else []
            elif not _going(entry):
                orders += self.tell(name, Wanted(), now)
        return orders

    def end(self, now: float) -> list[Order]:
        """guard ends: everything is to be stopped, dependents (`after=`) before what they depend on."""
        self._ending = True
        return self.wish(self._wishes, now)

    def over(self) -> bool:
        """Whether all that was to be stopped is gone."""
        return not any(entry.alive for entry in self.entries.values())

    def remember(self, name: str, restarts: int, last_exit: int | None, waiting: Waiting | None) -> None:
        """What an earlier guard knew of a script: its past, and how long it was to wait."""
        entry = self.entries[name]
        entry.restarts, entry.last_exit = restarts, last_exit
        if waiting is not None and isinstance(entry.phase, Waiting):
            entry.phase = waiting
            self._schedule(name, entry)

    def due(self, now: float) -> list[Order]:
        """The orders whose moment has come."""
        orders: list[Order] = []
        told: set[str] = set()
        while self._moments and self._moments[0][0] <= now:
            _, _, name = heapq.heappop(self._moments)
            entry = self.entries.get(name)
            if entry is None or name in told or not self._ripe(entry, now):
                continue
            told.add(name)  # a Spawn is answered after this returns: until then the phase is as before
            if isinstance(entry.phase, Waiting) and entry.phase.failures and not self._token(now):
                self._push(now + 1 / REFILL_PER_S, name)
                continue
            orders += self.tell(name, Due(), now)
        return orders

    def deadline(self) -> float | None:
        """The next moment at which `due` has something to say, or None."""
        while self._moments:
            when, _, name = self._moments[0]
            entry = self.entries.get(name)
            if entry is not None and self._ripe(entry, when):
                return when
            heapq.heappop(self._moments)
        return None

    def listed(self) -> list[Script]:
        """The list in force, as it will be when all changes are through."""
        return [entry.renewal or entry.script for entry in self.entries.values() if not _going(entry)]

    def named(self, name: str) -> Iterator[str]:
        """The scripts that a name means: itself, or all copies of a line."""
        return (entry.script.name for entry in self.entries.values() if name in (entry.script.name, entry.script.base))

    def _list(self, script: Script, now: float, whole: bool) -> list[Order]:
        entry = self.entries.get(script.name)
        stops = self._stops(script)
        if entry is None:
            self.entries[script.name] = Entry(script, Stopped() if stops else Waiting(now))
            return []
        going = _going(entry)
        changed = entry.script.seen != script.seen
        if changed and entry.alive and not (whole or going):
            return []  # taking it would stop the running process
        if changed and entry.alive:
            entry.renewal = script
        else:
            entry.script, entry.renewal = script, None
        orders: list[Order] = []
        if going or not stops:
            orders += self.tell(script.name, Wanted(), now)
        if going and stops:
            orders += self.tell(script.name, Unwanted(), now)
        return orders + (self.tell(script.name, Renewed(), now) if changed else [])

    def _hold(self, listed: Collection[str], known: Collection[str]) -> None:
        """A new line that runs a vanished line's file waits until that is gone: it may be the same one, renamed.

        `known`: not new, though it may not have run yet.
        """
        vanished: dict[str, tuple[str, ...]] = {}
        for name, entry in self.entries.items():
            if name not in listed and not isinstance(entry.phase, Stopped):
                vanished[entry.script.file] = (*vanished.get(entry.script.file, ()), name)
        for name, entry in self.entries.items():
            if entry.alive or entry.up_once:
                entry.held_by = ()
            elif name in listed and name not in known:
                entry.held_by = vanished.get(entry.script.file, ())
            else:  # it goes on waiting, but for a line that came back
                entry.held_by = tuple(old for old in entry.held_by if old not in listed)

    def _entered(self, name: str, entry: Entry, before: Phase) -> None:
        """Bookkeeping of a change of phase."""
        if isinstance(entry.phase, Running) and isinstance(before, Waiting):
            entry.restarts += entry.up_once
            entry.up_once = True
        if isinstance(before, Running | Stopping) and not entry.alive and entry.renewal:
            entry.script, entry.renewal, self._links = entry.renewal, None, None
        if isinstance(entry.phase, Retired):
            del self.entries[name]
            self._links = None
        self._schedule(name, entry)

    def _schedule(self, name: str, entry: Entry) -> None:
        when = moment(entry.phase)
        if when is not None:
            self._push(when, name)

    def _push(self, when: float, name: str) -> None:
        self._count += 1
        heapq.heappush(self._moments, (when, self._count, name))

    def _consequences(self, before: Phase, needed: str | None, entry: Entry, now: float) -> list[Order]:
        """What one script's change means for others: those that come after it, and what waits for it to be gone."""
        if isinstance(entry.phase, Running | Retired) and not isinstance(before, Running):
            for name in self._relying(entry.script.base):
                self._schedule(name, self.entries[name])
        if not isinstance(before, Running | Stopping) or entry.alive:
            return []
        for name, other in self.entries.items():
            if entry.script.name in other.held_by:
                other.held_by = tuple(held for held in other.held_by if held != entry.script.name)
                self._schedule(name, other)
        orders: list[Order] = []
        if isinstance(entry.phase, Waiting) and self._stops(entry.script):
            orders += self.tell(entry.script.name, Unwanted(), now)  # it ended by itself before its turn came
        if needed is not None:
            orders += [order for name in list(self.named(needed)) for order in self._stop_next(name, now)]
        return orders

    def _stop_next(self, name: str, now: float) -> list[Order]:
        entry = self.entries[name]
        if self._stops(entry.script) and isinstance(entry.phase, Running) and self._may_stop(entry):
            return self.tell(name, Unwanted(), now)
        return []

    def _stops(self, script: Script) -> bool:
        return self._ending or self._wishes.stops(script)

    def _ripe(self, entry: Entry, now: float) -> bool:
        when = moment(entry.phase)
        return when is not None and when <= now and (isinstance(entry.phase, Stopping) or self.waits_for(entry) is None)

    def waits_for(self, entry: Entry) -> str | None:
        """The script that holds this one's start back, or None."""
        if entry.held_by:
            return entry.held_by[0]
        after = None if entry.up_once else self._needs(entry)
        if after is None:
            return None
        return next((name for name in self.named(after) if not isinstance(self.entries[name].phase, Running)), None)

    def _may_stop(self, entry: Entry) -> bool:
        """When all of it is to stop, a script goes after those that depend on it."""
        if not (self._ending or self._wishes.all_stopped) or not isinstance(entry.phase, Running):
            return True
        return not any(self.entries[name].alive for name in self._relying(entry.script.base))

    def _needs(self, entry: Entry) -> str | None:
        """Its `after=`, but for one that leads back to itself (half of such a circle may come from an older list)."""
        return self._linked().after.get(entry.script.name) if entry.script.after else None

    def _relying(self, base: str) -> list[str]:
        """The scripts that come after this one."""
        return self._linked().dependents.get(base, [])

    def _linked(self) -> _Links:
        if self._links is None:
            self._links = _Links({}, {})
            afters = {entry.script.base: entry.script.after for entry in self.entries.values()}
            for name, entry in self.entries.items():
                if (after := entry.script.after) and not _circular(entry.script.base, afters):
                    self._links.after[name] = after
                    self._links.dependents.setdefault(after, []).append(name)
        return self._links

    def _token(self, now: float) -> bool:
        self._tokens = min(BURST, self._tokens + (now - self._refilled) * REFILL_PER_S)
        self._refilled = now
        if self._tokens < 1:
            return False
        self._tokens -= 1
        return True


def _circular(base: str, afters: Mapping[str, str | None]) -> bool:
    trail, seen = afters[base], set[str]()
    while trail is not None and trail not in seen:
        if trail == base:
            return True
        seen.add(trail)
        trail = afters.get(trail)
    return False


def _going(entry: Entry) -> bool:
    """Its line is gone, its process not yet."""
    return isinstance(entry.phase, Stopping) and isinstance(entry.phase.then, Retired)
