"""All scripts together: what the histories do not show, and random walks through a small world that dies and heals."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from guard.lifecycle import (
    Adopted,
    Cleared,
    Event,
    Exited,
    Forget,
    Impossible,
    Kill,
    Left,
    Phase,
    Renewed,
    Retired,
    Running,
    Spawn,
    Spawned,
    SpawnFailed,
    Stopped,
    Stopping,
    Terminate,
    Waiting,
    moment,
)
from guard.roster import BURST, REFILL_PER_S, Order, Roster, Wishes
from guard.scripts import Script, parse


def scripts(text: str) -> tuple[Script, ...]:
    listing = parse(text.encode())
    assert listing.mistakes == ()
    return listing.scripts


def started(text: str) -> Roster:
    """A roster in which every script of this list runs, with the pids 1, 2, … in the order of the list."""
    roster = Roster()
    roster.accept(scripts(text), 0.0)
    pids = {name: pid for pid, name in enumerate(roster.entries, 1)}
    while orders := roster.due(0.0):
        for order in orders:
            roster.tell(order.name, Spawned(pids[order.name]), 0.0)
    return roster


def phases(roster: Roster) -> dict[str, Phase]:
    return {name: entry.phase for name, entry in roster.entries.items()}


def test_an_event_that_cannot_be_is_told_with_the_scripts_name() -> None:
    with pytest.raises(Impossible, match="mail"):
        started("name=mail bin/mail").tell("mail", Spawned(2), 1.0)


def test_the_entries_stand_in_the_order_of_the_list_and_what_goes_comes_last() -> None:
    roster = started("a\nb\nc")
    roster.accept(scripts("d\nc\na"), 1.0)
    assert list(roster.entries) == ["d", "c", "a", "b"]


def test_restarts_count_from_the_second_start() -> None:
    roster = started("retry=0 a")
    assert roster.entries["a"].restarts == 0
    for pid in (1, 2):
        roster.tell("a", Exited(pid, 3), 1.0)
        roster.due(1.0)
        roster.tell("a", Spawned(pid + 1), 1.0)
    assert roster.entries["a"].restarts == 2
    assert roster.entries["a"].last_exit == 3


def test_the_exit_of_an_old_process_is_not_the_last_exit() -> None:
    roster = started("a")
    roster.tell("a", Exited(99, 3), 1.0)
    assert roster.entries["a"].last_exit is None


def test_changes_are_told_once_each_and_only_when_something_changed() -> None:
    roster = started("a")
    roster.changes.clear()
    roster.tell("a", Exited(99, 3), 1.0)
    roster.wish(Wishes(), 1.0)
    assert roster.changes == []
    roster.tell("a", Exited(1, 0), 1.0)
    (change,) = roster.changes
    assert (change.before, change.after, change.event) == (Running(1, 0.0), Waiting(2.0), Exited(1, 0))
    assert (change.entry.script.name, change.now) == ("a", 1.0)


def test_what_an_earlier_guard_knew_is_remembered() -> None:
    roster = Roster()
    roster.accept(scripts("a"), 100.0)
    roster.remember("a", 7, -9, Waiting(120.0, 5))
    entry = roster.entries["a"]
    assert (entry.restarts, entry.last_exit, entry.phase) == (7, -9, Waiting(120.0, 5))
    assert roster.due(119.9) == []
    assert roster.deadline() == 120.0
    assert roster.due(120.0) == [Order("a", Spawn())]


def test_a_memory_does_not_move_what_runs() -> None:
    roster = started("a")
    roster.remember("a", 7, None, Waiting(120.0, 5))
    assert roster.entries["a"].phase == Running(1, 0.0)


def test_all_that_is_due_comes_in_the_order_of_the_list() -> None:
    roster = Roster()
    roster.accept(scripts("c\na\nb"), 5.0)
    assert [order.name for order in roster.due(5.0)] == ["c", "a", "b"]


def test_listed_tells_the_list_that_will_be_in_force() -> None:
    roster = started("a\nb --old\nc")
    listed = scripts("b --new\nc\nd")
    roster.accept(listed, 1.0)
    assert roster.listed() == list(listed)


def test_a_name_means_itself_or_all_copies() -> None:
    roster = started("copies=3 name=pdf bin/pdf\npdf2")
    assert list(roster.named("pdf")) == ["pdf", "pdf#2", "pdf#3"]
    assert list(roster.named("pdf#2")) == ["pdf#2"]
    assert list(roster.named("none")) == []


def test_it_is_over_when_nothing_is_alive() -> None:
    roster = started("a\nb")
    assert not roster.over()
    roster.end(1.0)
    assert not roster.over()
    roster.tell("a", Exited(1, -15, True), 1.5)
    roster.tell("b", Exited(2, -15), 1.5)
    assert not roster.over()
    roster.tell("a", Cleared(), 1.6)
    assert roster.over()
    assert roster.deadline() is None


def test_a_wish_outlives_its_line() -> None:
    roster = started("a\nb")
    roster.wish(Wishes(stopped=frozenset({"b"})), 1.0)
    roster.tell("b", Exited(2, -15), 1.1)
    roster.accept(scripts("a"), 2.0)
    assert "b" not in roster.entries
    roster.accept(scripts("a\nb"), 3.0)
    assert roster.entries["b"].phase == Stopped()
    assert roster.due(3.0) == []


def test_a_script_that_is_stopped_and_unlisted_and_relisted_while_it_ends_stays_stopped() -> None:
    roster = started("a\nb")
    roster.wish(Wishes(stopped=frozenset({"b"})), 1.0)
    roster.accept(scripts("a"), 1.1)
    roster.accept(scripts("a\nb"), 1.2)
    roster.tell("b", Exited(2, -15), 1.3)
    assert roster.entries["b"].phase == Stopped()


def test_after_holds_back_until_the_awaited_one_is_told_and_says_for_whom() -> None:
    roster = Roster()
    roster.accept(scripts("copies=2 name=db bin/db\nafter=db web"), 0.0)
    assert roster.waits_for(roster.entries["web"]) == "db"
    roster.tell("db", Spawned(1), 0.0)
    assert roster.waits_for(roster.entries["web"]) == "db#2"
    roster.tell("db#2", Adopted(2, -5.0), 0.0)
    assert roster.waits_for(roster.entries["web"]) is None
    assert roster.due(0.0) == [Order("web", Spawn())]


def test_a_line_renamed_while_guard_was_away_also_waits_for_the_old_one() -> None:
    """A fresh primary lists what was accepted before and what the file says now, adopts, then takes the file's list."""
    roster = Roster()
    old, new = scripts("name=old bin/x"), scripts("name=new bin/x")
    roster.accept([*new, *old], 0.0)
    roster.tell("old", Adopted(7, -50.0), 0.0)
    assert roster.accept(new, 0.0) == [Order("old", Terminate())]
    assert roster.due(0.0) == []
    assert roster.tell("old", Exited(7, None), 0.5) == [Order("old", Forget())]
    assert roster.due(0.5) == [Order("new", Spawn())]


def test_a_held_line_runs_when_the_other_was_taken_back_and_then_goes_without_a_life() -> None:
    roster = started("name=old bin/x\nz")
    roster.accept(scripts("name=new bin/x\nz"), 1.0)
    roster.accept(scripts("name=new bin/x\nname=old bin/x\nz"), 2.0)
    roster.tell("old", Exited(1, -15), 3.0)
    roster.accept(scripts("name=new bin/x\nz"), 3.0)
    assert roster.due(4.0) == [Order("new", Spawn())]


def test_what_a_bad_list_leaves_out_is_started_all_the_same_and_waits_neither_for_itself_nor_for_its_like() -> None:
    roster = Roster()
    roster.accept(scripts("name=a bin/x\nname=b bin/x"), 0.0)
    roster.accept(scripts("name=c bin/c"), 1.0, whole=False)
    assert {order.name for order in roster.due(1.0)} == {"a", "b", "c"}


def test_half_a_circle_of_an_older_list_does_not_hinder_the_end() -> None:
    """While a line is bad, `a` keeps the after= of its old form, and `b` may come after it already."""
    roster = started("name=b bin/b\nname=a after=b bin/a")
    listing = parse(b"name=b after=a bin/b\nname=a bin/a --changed\nretry=soon bad")
    assert [script.name for script in listing.scripts] == ["b", "a"]
    roster.accept(listing.scripts, 1.0, whole=False)
    pids = {"b": 1, "a": 2}
    told = deque(roster.end(3.0))
    while told:
        order = told.popleft()
        told += roster.tell(order.name, Exited(pids[order.name], -15), 3.0)
    assert roster.over()


def test_what_comes_after_a_leftover_of_a_changed_line_starts() -> None:
    """`web` has not been up, its line changes while an earlier guard's leftovers of it end: then its new after= counts."""
    roster = Roster()
    roster.accept(scripts("name=web bin/web\nname=db bin/db"), 0.0)
    roster.tell("web", Left(), 0.0)
    roster.accept(scripts("name=web after=db bin/web --new\nname=db bin/db"), 0.0)
    roster.tell("web", Cleared(), 0.5)
    assert roster.due(0.5) == [Order("db", Spawn())]
    assert roster.deadline() is None
    roster.tell("db", Spawned(1), 0.5)
    assert roster.due(0.5) == [Order("web", Spawn())]


def test_a_start_wish_does_not_bring_back_what_left_the_list() -> None:
    roster = started("a\nb")
    roster.accept(scripts("a"), 1.0)
    roster.wish(Wishes(), 2.0)
    assert roster.tell("b", Exited(2, -15), 3.0) == [Order("b", Forget())]


def test_a_script_whose_birth_fails_during_the_stop_does_not_come_again() -> None:
    roster = started("name=db bin/db\nname=web after=db bin/web")
    roster.wish(Wishes(all_stopped=True), 1.0)
    roster.tell("db", SpawnFailed("no such file", 1), 1.0)
    assert roster.due(100.0) == [Order("web", Kill())]
    roster.tell("web", Exited(2, -9), 100.0)
    assert roster.due(200.0) == []
    assert set(phases(roster).values()) == {Stopped()}


def test_first_starts_are_not_held_back_by_the_cap_on_respawns() -> None:
    roster = Roster()
    roster.accept([Script(name=f"s{n}", argv=("x",), base=f"s{n}") for n in range(3 * BURST)], 0.0)
    assert len(roster.due(0.0)) == 3 * BURST


def test_respawns_after_failed_young_deaths_are_capped_over_the_whole_list() -> None:
    """So that a broken host is not hammered: a burst, then so many a second, each script in its turn and none forgotten."""
    many = BURST + 250
    roster = Roster()
    roster.accept([Script(name=f"s{n}", argv=("x",), base=f"s{n}", retry_min_s=1.0, retry_max_s=1.0) for n in range(many)], 0.0)
    for pid, order in enumerate(roster.due(0.0)):
        roster.tell(order.name, Spawned(pid), 0.0)
    for pid in range(many):
        roster.tell(f"s{pid}", Exited(pid, 1), 0.0)
    now, came = 1.0, [order.name for order in roster.due(1.0)]
    assert len(came) == BURST
    for pid, name in enumerate(came):
        roster.tell(name, Spawned(many + pid), now)
    while len(came) < many:
        deadline = roster.deadline()
        assert deadline is not None
        assert now < deadline <= now + 2 / REFILL_PER_S
        now = deadline
        for order in roster.due(now):
            assert order.action == Spawn()
            roster.tell(order.name, Spawned(0), now)
            came.append(order.name)
        assert len(came) <= BURST + (now - 1.0) * REFILL_PER_S + 1
    assert sorted(came) == sorted(roster.entries)
    assert now <= 1.0 + 250 / REFILL_PER_S + 0.1


def test_exit_0_is_not_counted_against_the_cap() -> None:
    many = BURST + 50
    roster = Roster()
    roster.accept([Script(name=f"s{n}", argv=("x",), base=f"s{n}") for n in range(many)], 0.0)
    for pid, order in enumerate(roster.due(0.0)):
        roster.tell(order.name, Spawned(pid), 0.0)
    for pid in range(many):
        roster.tell(f"s{pid}", Exited(pid, 0), 0.0)
    assert len(roster.due(1.0)) == many


# Random walks


@dataclass
class Life:
    """What exists of one script in the world."""

    pid: int | None = None
    left: int = 0  # processes that it started and that do not end by themselves with it

    @property
    def something(self) -> bool:
        return self.pid is not None or self.left > 0


@dataclass
class World:
    """A small world around a roster: it answers orders as the loop does, and keeps account of what lives."""

    roster: Roster = field(default_factory=Roster)
    now: float = 1000.0
    lives: dict[str, Life] = field(default_factory=dict)
    listed: dict[str, Script] = field(default_factory=dict)
    wishes: Wishes = field(default_factory=Wishes)
    ending: bool = False
    last_pid: int = 1
    births: deque[str] = field(default_factory=deque)  # what happens to the next births; empty: all goes well
    unborn: dict[int, str] = field(default_factory=dict)  # forked, and the exec will fail: pid -> name
    obeys: bool = True  # whether scripts end at TERM
    mortal: bool = True  # whether they end at KILL
    dying: deque[str] = field(default_factory=deque)  # signalled, and not yet dead
    unmended: set[str] = field(default_factory=set)  # perhaps a renamed line, but a bad line keeps the old name alive
    holds: dict[str, set[str]] = field(default_factory=dict)  # a new line -> vanished lines that run the same file

    def life(self, name: str) -> Life:
        return self.lives.setdefault(name, Life())

    def new_pid(self) -> int:
        self.last_pid += 1
        return self.last_pid

    def stopped(self, name: str) -> bool:
        return self.ending or self.wishes.stops(self.roster.entries[name].script)

    def tell(self, name: str, event: Event) -> None:
        entry = self.roster.entries[name]
        before, cap = entry.phase, entry.script.retry_max_s
        orders = self.roster.tell(name, event, self.now)
        after = entry.phase.then if isinstance(entry.phase, Stopping) else entry.phase
        if isinstance(after, Waiting) and (isinstance(before, Running) or isinstance(event, SpawnFailed)):
            assert after.until - self.now <= cap, f"{name} waits longer than its cap"
        self.perform(orders)

    def perform(self, orders: list[Order]) -> None:
        """Like Supervisor._perform."""
        queue = deque(orders)
        self.check()
        while queue:
            order = queue.popleft()
            if order.action == Forget():
                assert not self.life(order.name).something, f"{order.name} is forgotten while something of it lives"
                assert order.name not in self.listed, f"{order.name} is listed and forgotten"
            elif order.name in self.roster.entries:
                match order.action:
                    case Spawn():
                        self.spawn(order.name)
                    case Terminate():
                        self.signal(order.name, self.obeys)
                    case Kill():
                        self.signal(order.name, self.mortal)

    def spawn(self, name: str) -> None:
        life = self.life(name)
        assert not life.something, f"{name} is started while something of it lives"
        assert not self.stopped(name), f"{name} is stopped and started"
        for old in self.holds.pop(name, ()):
            going = old not in self.listed and self.life(old).something
            assert not going, f"{name} is started while {old} still runs the same file"
        match self.births.popleft() if self.births else "well":
            case "refused":
                self.tell(name, SpawnFailed("no such file"))
            case "exec fails":
                life.pid = self.new_pid()
                self.unborn[life.pid] = name
                self.tell(name, Spawned(life.pid))
            case _:
                life.pid = self.new_pid()
                self.tell(name, Spawned(life.pid))

    def signal(self, name: str, deadly: bool) -> None:
        """Deaths are told later; but where there are no processes at all, nobody will tell, so it is told now."""
        life = self.life(name)
        if life.pid is None and not life.left:
            self.tell(name, Cleared())
        elif deadly:
            self.dying.append(name)

    def exit(self, name: str, status: int | None, left: int = 0) -> None:
        life = self.life(name)
        pid, life.pid = life.pid, None
        life.left += left
        assert pid is not None
        if self.unborn.pop(pid, None):
            life.left = 0
            self.tell(name, SpawnFailed("permission denied", pid))
            status = 126
        if name in self.roster.entries:
            self.tell(name, Exited(pid, status, life.left > 0))

    def clear(self, name: str, remain: int = 0) -> None:
        life = self.life(name)
        life.left = remain
        if name in self.roster.entries:
            self.tell(name, Left() if remain else Cleared())

    def let_die(self) -> None:
        """All that were signalled and obey."""
        while self.dying:
            name = self.dying.popleft()
            life = self.life(name)
            if life.pid is not None:
                life.left = 0
                self.exit(name, -15)
            elif life.left:
                self.clear(name)

    def take(self, text: str) -> None:
        listing = parse(text.encode(), {name: entry.script for name, entry in self.roster.entries.items()})
        new = {script.name: script for script in listing.scripts}
        whole = not listing.mistakes
        before = set(self.roster.entries)
        self.listed = new if whole else {**self.listed, **new}
        files = {name: entry.script.file for name, entry in self.roster.entries.items()}
        for name, script in new.items():
            if name not in before:
                gone = {old for old, file in files.items() if old not in self.listed and file == script.file}
                self.holds[name] = {old for old in gone if self.life(old).something}
            if not whole and any(file == script.file and old not in new for old, file in files.items()):
                self.unmended.add(name)
        if whole:
            self.unmended.clear()
        orders = self.roster.accept(listing.scripts, self.now, whole=whole)
        if not whole:
            assert not [order for order in orders if isinstance(order.action, Terminate | Kill | Forget)], "stopped by a bad line"
        self.perform(orders)

    def check(self) -> None:
        """What holds at every moment."""
        for name, entry in self.roster.entries.items():
            life = self.life(name)
            match entry.phase:
                case Running(pid) | Stopping(pid):
                    assert life.pid == pid, f"{name}: {entry.phase}, but pid {life.pid}"
                case _:
                    assert not life.something, f"{name}: {entry.phase}, but {life}"
        assert set(self.listed) <= set(self.roster.entries), "something wanted is forgotten"

    def pass_time(self, seconds: float) -> None:
        """At each deadline does what is due, as the loop does."""
        end = self.now + seconds
        for _ in range(10_000):
            deadline = self.roster.deadline()
            if deadline is None or deadline > end:
                break
            self.now = max(self.now, deadline)
            self.perform(self.roster.due(self.now))
        else:
            raise AssertionError("guard never sleeps")
        self.now = end

    def required(self) -> set[str]:
        """The scripts that must run in a healthy world: listed, not stopped, and so is all that they come after."""
        fine = {name for name, script in self.listed.items() if not self.wishes.stops(script)} - self.unmended
        while True:
            bases = {self.listed[name].base for name in self.listed if name not in fine}
            less = {name for name in fine if self.listed[name].after not in bases}
            if less == fine:
                return fine
            fine = less


LINES = (
    "retry=1s..8s name=a bin/a",
    "retry=0 name=a bin/a",
    "retry=1s..8s name=a bin/a --more",
    "name=a after=b bin/a",
    "stop=2s name=b bin/b",
    "name=b copies=2 bin/b",
    "name=b copies=3 after=d bin/b --more",
    "retry=3s name=c after=b bin/c",
    "name=c bin/c",
    "name=e bin/a",
    "name=e copies=2 after=c bin/b",
    "retry=0..4s name=d bin/d",
)
BAD = "retry=soon bin/bad"
NAMES = ("a", "b", "b#2", "c", "d", "e")


class Walk(RuleBasedStateMachine):
    """Edits, wishes and deaths in any order; at the end the world heals, and everything wanted runs; then all of it ends."""

    def __init__(self) -> None:
        super().__init__()
        self.world = World()

    @initialize(lines=st.lists(st.sampled_from(LINES), min_size=1, max_size=5, unique=True))
    def first(self, lines: list[str]) -> None:
        self.world.take("\n".join(lines))

    @initialize(name=st.sampled_from(NAMES), what=st.sampled_from(["runs", "daemonized", "leftovers", "nothing"]))
    def survivor(self, name: str, what: str) -> None:
        """Something outlived an earlier guard."""
        world = self.world
        if name not in world.roster.entries or what == "nothing":
            return
        life = world.life(name)
        life.pid = world.new_pid() if what == "runs" else None
        life.left = 0 if what == "runs" else 1
        world.tell(name, Left() if what == "leftovers" else Adopted(life.pid, world.now - 5, 1))

    @rule(lines=st.lists(st.sampled_from((*LINES, BAD)), min_size=1, max_size=6, unique=True))
    def edit(self, lines: list[str]) -> None:
        self.world.take("\n".join(lines))

    @rule(all_stopped=st.booleans(), names=st.frozensets(st.sampled_from(NAMES), max_size=2))
    def ask(self, all_stopped: bool, names: frozenset[str]) -> None:
        self.world.wishes = Wishes(all_stopped, names)
        self.world.perform(self.world.roster.wish(self.world.wishes, self.world.now))

    @rule()
    def look_at_wishes_again(self) -> None:
        self.world.perform(self.world.roster.wish(self.world.wishes, self.world.now))

    @rule(name=st.sampled_from(NAMES))
    def restart(self, name: str) -> None:
        if name in self.world.roster.entries:
            self.world.tell(name, Renewed())

    @rule(births=st.lists(st.sampled_from(["refused", "exec fails"]), max_size=3))
    def bad_births(self, births: list[str]) -> None:
        self.world.births.extend(births)

    @rule(seconds=st.sampled_from([0.0, 0.1, 1.0, 5.0, 100.0]))
    def time_passes(self, seconds: float) -> None:
        self.world.pass_time(seconds)

    @rule(status=st.sampled_from([0, 1, -9, None]), left=st.integers(0, 2), data=st.data())
    def one_dies(self, status: int | None, left: int, data: st.DataObject) -> None:
        running = [name for name, life in self.world.lives.items() if life.pid is not None]
        if running:
            self.world.exit(data.draw(st.sampled_from(running)), status, left)

    @rule(all_of_it=st.booleans(), data=st.data())
    def leftovers_die(self, all_of_it: bool, data: st.DataObject) -> None:
        leavers = [name for name, life in self.world.lives.items() if life.pid is None and life.left]
        if leavers:
            name = data.draw(st.sampled_from(leavers))
            self.world.clear(name, 0 if all_of_it else self.world.lives[name].left - 1)

    @rule()
    def old_news(self) -> None:
        for name in list(self.world.roster.entries):
            self.world.tell(name, Exited(1, 0))

    @rule()
    def the_signalled_die(self) -> None:
        self.world.let_die()

    @rule(obeys=st.booleans(), mortal=st.booleans())
    def manners(self, obeys: bool, mortal: bool) -> None:
        self.world.obeys, self.world.mortal = obeys, mortal

    @precondition(lambda self: not self.world.ending)
    @invariant()
    def the_deadline_is_never_later_than_what_is_due(self) -> None:
        roster = self.world.roster
        moments = [
            when
            for entry in roster.entries.values()
            if (when := moment(entry.phase)) is not None
            and (isinstance(entry.phase, Stopping) or roster.waits_for(entry) is None)
        ]
        deadline = roster.deadline()
        assert bool(moments) == (deadline is not None)
        if deadline is not None:
            assert deadline <= max(min(moments), self.world.now)

    @invariant()
    def phases_tell_the_truth(self) -> None:
        self.world.check()

    def teardown(self) -> None:
        world = self.world
        if not world.listed:
            return
        heal(world)
        wanted = world.required()
        running = {name for name, entry in world.roster.entries.items() if isinstance(entry.phase, Running)}
        assert wanted <= running, f"dead end: {wanted - running}"
        assert {name for name in running if world.stopped(name)} == set()
        world.ending = True
        world.perform(world.roster.end(world.now))
        heal(world)
        assert world.roster.over(), f"guard never ends: {phases(world.roster)}"
        assert not any(isinstance(entry.phase, Waiting | Retired) for entry in world.roster.entries.values())


def heal(world: World) -> None:
    """A healthy world for a long time: births succeed, TERM and KILL work, leftovers of daemons stay."""
    world.births.clear()
    world.obeys = world.mortal = True
    for pid, name in list(world.unborn.items()):
        if world.life(name).pid == pid:
            world.exit(name, None)
    for _ in range(60):
        world.let_die()
        world.pass_time(1.0)


WalkTest = Walk.TestCase
WalkTest.settings = settings(
    max_examples=150,
    report_multiple_bugs=False,
    stateful_step_count=30,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)


def test_the_walks_world_notices_a_second_process() -> None:
    world = World()
    world.take("name=a bin/a")
    world.pass_time(0.0)
    with pytest.raises(AssertionError, match="started while something of it lives"):
        world.spawn("a")
