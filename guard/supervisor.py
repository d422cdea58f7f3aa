"""The only loop: wait, tell the roster what happened, perform what it orders. It decides nothing itself.

One turn: signals, edits, failed births, deaths, what is due. A `Supervisor` belongs to one process: a standby that
became primary makes its own.
"""

from __future__ import annotations

import contextlib
import gc
import os
import selectors
import signal
import time
from collections.abc import Collection, Iterable, Mapping

from guard import __version__, adoption, story, wishes
from guard.forkserver import ForkServer
from guard.instance import PRIMARY, Instance
from guard.kin import Kin, Table, identify
from guard.lifecycle import (
    Adopted,
    Cleared,
    Event,
    Exited,
    Forget,
    Kill,
    Left,
    Renewed,
    Running,
    Spawn,
    SpawnFailed,
    Stopping,
    Terminate,
    Unlisted,
    Waiting,
)
from guard.lists import ListFile, Look, read_accepted
from guard.log import Log
from guard.pidfds import Ended, Pidfds
from guard.processes import Processes
from guard.records import Records
from guard.roster import Order, Roster
from guard.scripts import Listing, Script
from guard.semaphore import Gone
from guard.signals import Signals
from guard.title import title
from guard.upkeep import REMOVED, Upkeep

SETTLE_S = 0.05  # several saves in a row are one edit
AGAIN_S = 0.2  # how soon guard looks again after its own semaphore, while another holds it for a moment
ORPHANS_S = 10.0


class Supervisor:
    """Runs until guard is told to end."""

    def __init__(
        self,
        list_file: ListFile,
        instance: Instance,
        signals: Signals,
        server: ForkServer,
        log: Log,
        only: frozenset[str] | None = None,
    ) -> None:
        self._instance, self._signals, self._server, self._log = instance, signals, server, log
        self._state = instance.state
        self._roster = Roster()
        self._processes = Processes(self._state, server)
        self._records = Records(self._state, self._processes, log, self._roster.waits_for)
        self._list = list_file
        self._upkeep = Upkeep(instance, server, log)
        self._selector = selectors.DefaultSelector()
        self._pidfds = Pidfds(self._selector)
        self._moments: dict[str, float] = {}  # when guard itself wants to look at something again
        self._asked = wishes.Asked()
        self._restarts_done: set[str] = set()
        self._ending = False
        self._only = only  # `guard stop NAME` while no guard runs: end these, start nothing

    def run(self) -> int:
        """Raises TookOver in what began as the standby, Deposed when another guard took this one's place."""
        self._begin()
        while not self._finished():
            self._turn()
        self._report()
        for_good = self._asked.all_stopped or self._state.deleted()  # no guard can come back to a deleted folder
        if for_good:
            for name in list(self._roster.entries):
                self._processes.forget(name)
        self._server.stop()
        self._instance.leave(remove=for_good)
        self._log.say("ended")
        return 0

    def close(self) -> None:
        """Gives back the descriptors that a standby inherited with its primary's loop."""
        self._pidfds.close()
        self._selector.close()
        self._list.watch.close()
        self._server.forget()

    def _begin(self) -> None:
        """Before the first turn: a standby, then whatever outlived the last guard, then the list and the wishes."""
        title(f"{PRIMARY} {os.path.abspath(self._list.path)}")
        self._instance.begin()
        for fd in (self._signals.fd, self._server.fd, self._list.watch.fd):
            if fd is not None:
                self._selector.register(fd, selectors.EVENT_READ)
        gc.collect()
        gc.freeze()  # the collector leaves alone what primary, standby and fork server share
        self._upkeep.standby()
        if self._only is None:
            self._upkeep.server()
        self._log.say(f"guard {__version__} is primary; list {os.path.abspath(self._list.path)}")
        accepted, trouble = read_accepted(self._state, primary=True)
        if trouble:
            self._log.say(trouble)
        look = self._list.look({script.name: script for script in accepted})
        self._adopt(accepted, look.listing or Listing())
        self._keep_folder()
        self._heed_wishes()
        self._digest(look)

    def _adopt(self, accepted: list[Script], listing: Listing) -> None:
        now = time.monotonic()
        known = {script.name: script for script in (*listing.scripts, *accepted)}
        gone: list[Script] = []
        if accepted or (listing.scripts and not listing.mistakes):
            gone = list(adoption.unlisted(self._state, self._processes, known.values()))
        self._perform(self._roster.accept([*known.values(), *gone], now))
        for name, past, event in adoption.survivors([*known.values(), *gone], self._processes, now):
            self._roster.remember(name, past.restarts, past.last_exit, past.waiting)
            if event is not None:
                self._tell(name, event)
            if isinstance(event, Adopted):
                self._watch_adopted(name, event.pid)
        for script in gone:
            self._tell(script.name, Unlisted())

    # one turn

    def _turn(self) -> None:
        ready = self._wait()
        ended = [news for fd in ready if (news := self._pidfds.take(fd))]
        came = self._signals.read() if self._signals.fd in ready else set()
        if came & {signal.SIGTERM, signal.SIGINT}:
            self._end()
        if signal.SIGUSR2 in came:
            self._log.say("USR2: this version can't upgrade in place; end guard with TERM or KILL, cron starts the new one")
        if signal.SIGHUP in came:
            self._heed_wishes()
            self._moments["look"] = 0.0
        if self._list.watch.fd in ready and self._list.watch.changed():
            soon = time.monotonic() + SETTLE_S
            self._moments["look"] = min(soon, self._moments.get("look", soon))
        reaped = self._processes.reap()
        if reaped or self._server.fd in ready:
            self._failed_births()  # after the reaping: what a child said before its end is there then, and tells more
        self._deaths(reaped, ended)
        self._own_moments(time.monotonic())
        self._perform(self._roster.due(time.monotonic()))
        if self._upkeep.semaphore() or (not self._ending and self._upkeep.standby()):
            self._moments["again"] = time.monotonic() + AGAIN_S
        if signal.SIGHUP in came:
            self._instance.record()
            self._records.retry()
            self._report()  # whoever asked looks at the records next
            with contextlib.suppress(Gone):
                self._instance.semaphore.answer()

    def _wait(self) -> set[int]:
        """Sleeps until something happens; returns the descriptors that tell it."""
        self._report()
        moments = [moment for moment in (self._roster.deadline(), *self._moments.values()) if moment is not None]
        timeout = max(0.0, min(moments) - time.monotonic()) if moments else None
        return {key.fd for key, _ in self._selector.select(timeout)}

    def _failed_births(self) -> None:
        for name, failure in self._processes.failures():
            held = self._processes.holder(self._roster.entries[name].script) if failure.held else str(failure)
            self._tell(name, SpawnFailed(held if isinstance(held, str) else str(failure), failure.pid))
            entry = self._roster.entries.get(name)
            if isinstance(held, Adopted) and entry and isinstance(entry.phase, Waiting):
                self._tell(name, held)
                self._watch_adopted(name, held.pid)

    def _deaths(self, reaped: list[tuple[int, str | None, int]], ended: list[Ended]) -> None:
        """Children that ended, and what pidfds told; then, for all of them together: what is left of each?"""
        gone: dict[str, Exited | None] = {}
        for pid, child, status in reaped:
            if not self._upkeep.ended(pid) and child is not None and self._pid(child) == pid:
                gone[child] = Exited(pid, status)
        for news in ended:
            if news.name in self._roster.entries and self._pid(news.name) == news.pid:
                gone.setdefault(news.name, Exited(news.pid, None) if news.pid is not None else None)
        if not gone:
            return
        left = self._left(gone)
        for name, exited in gone.items():
            remains = left.get(name, set())
            if exited is not None:
                self._tell(name, Exited(exited.pid, exited.status, bool(remains)))
            else:
                self._tell(name, Left() if remains else Cleared())
            self._watch_left(name, remains)

    def _left(self, names: Collection[str]) -> Mapping[str, set[Kin]]:
        return self._processes.left(names, self._instance.standby.pid if self._instance.standby else None)

    def _own_moments(self, now: float) -> None:
        for what in [what for what, moment in self._moments.items() if moment <= now]:
            del self._moments[what]
            if what == "look":
                self._keep_folder()
                self._look()

    def _finished(self) -> bool:
        """Whether guard's own end has come: all is to be stopped, and nothing is left."""
        if self._only is not None:
            return not any(self._roster.entries[name].alive for name in self._only if name in self._roster.entries)
        if not (self._ending or self._asked.all_stopped) or not self._roster.over():
            return False
        if not self._upkeep.orphans():
            return True
        self._moments["again"] = time.monotonic() + ORPHANS_S
        return False

    def _end(self) -> None:
        if not self._ending:
            self._ending = True
            self._log.say("told to end: all scripts are stopped first")
            self._perform(self._roster.end(time.monotonic()))

    # telling and performing

    def _tell(self, name: str, event: Event) -> None:
        entry = self._roster.entries[name]
        orders = self._roster.tell(name, event, time.monotonic())
        if not entry.alive:
            self._processes.gone(name)
        self._perform(orders)

    def _perform(self, orders: Iterable[Order]) -> None:
        """Does what was ordered; each answer is told at once, before the next wait."""
        table: Table | None = None
        births: list[Script] = []
        for order in orders:
            entry = self._roster.entries.get(order.name)
            match order.action:
                case Spawn() if self._only is not None:
                    continue
                case Spawn() if entry:
                    births.append(entry.script)
                case Terminate() if entry:
                    table = table or Table()
                    self._signalled(order.name, self._processes.terminate(entry.script, table))
                case Kill() if entry:
                    self._signalled(order.name, self._processes.kill(order.name))
                case Forget():
                    self._processes.forget(order.name)
        for name, event in self._processes.spawn(births).items() if births else ():
            self._tell(name, event)
        while self._processes.removed:
            self._log.say(f"{self._processes.removed.pop()}: its {REMOVED}")

    def _report(self) -> None:
        """Log and records of what has changed, once a turn, after the births: those are what people wait for."""
        changes, self._roster.changes = self._roster.changes, []
        for change in changes:
            text = story.line(change)
            if text:
                self._log.say(text)
            self._records.touch(change.entry)
        self._records.write()

    def _signalled(self, name: str, found: Collection[Kin]) -> None:
        """Where only leftovers were signalled, no child's end will be told: they are watched, or gone already."""
        if self._pid(name) is None and not found:
            self._tell(name, Cleared())
        self._watch_left(name, found)

    def _watch_adopted(self, name: str, pid: int | None) -> None:
        if pid is not None:
            self._pidfds.watch_process(name, pid)
        else:
            self._watch_left(name, self._left({name}).get(name, ()))

    def _watch_left(self, name: str, remains: Collection[Kin]) -> None:
        entry = self._roster.entries.get(name)
        if remains and entry and entry.alive and self._pid(name) is None:
            self._pidfds.watch_leftovers(name, [kin.pid for kin in remains])

    def _pid(self, name: str) -> int | None:
        entry = self._roster.entries.get(name)
        return entry.phase.pid if entry and isinstance(entry.phase, Running | Stopping) else None

    # the list and the wishes

    def _look(self) -> None:
        self._digest(self._list.look({name: entry.script for name, entry in self._roster.entries.items()}))

    def _digest(self, look: Look) -> None:
        now = time.monotonic()
        if look.again_s is not None:
            self._moments["look"] = now + look.again_s
        if look.trouble:
            self._log.say(look.trouble)
        if look.listing is not None:
            self._take(look.listing, now)

    def _take(self, listing: Listing, now: float) -> None:
        name = os.path.basename(self._list.path)
        for mistake in listing.mistakes:
            self._log.say(f"mistake in {name}:{mistake}")
        if listing.mistakes:
            self._log.say(f"until {name} is mended nothing is stopped for it; its other lines are in force")
        self._perform(self._roster.accept(listing.scripts, now, whole=not listing.mistakes))
        for entry in self._roster.entries.values():
            self._records.touch(entry)
        self._records.accept(self._roster.listed())

    def _heed_wishes(self) -> None:
        self._asked, trouble = wishes.read_or_set_aside(self._state, primary=True)
        if trouble:
            self._log.say(trouble)
        self._perform(self._roster.wish(self._asked.wishes, time.monotonic()))
        for name, (identity, token) in self._asked.restart.items():
            if name in self._roster.entries and token not in self._restarts_done and identity == self._identity(name):
                self._tell(name, Renewed())
        self._restarts_done = {token for _, token in self._asked.restart.values()}

    def _identity(self, name: str) -> str:
        pid = self._pid(name)
        kin = identify(pid) if pid is not None else None
        return self._state.identity(kin).decode().strip() if kin else ""

    def _keep_folder(self) -> None:
        """After the state folder was made anew: everything that stands in it, once more."""
        if self._upkeep.folder():
            self._instance.record()
            self._records.accept(self._roster.listed())
            self._records.rewrite(self._roster.entries.values())
