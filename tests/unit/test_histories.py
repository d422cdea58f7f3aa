"""Reads tests/histories/*.txt: what happens and what guard orders, told as a text with the time in front of each line.

    2.0  list                               List.txt as it is from now on: the indented lines that follow
             retry=1s..30s name=mail bin/mail
    2.0  due               -> spawn mail    its moment has come; `->`: the orders, all of them; without it: none
    2.0  spawned mail 71   => runs 71       `=>`: what its script does then
    2.4  exited mail 71 1  => waits 1       ended with status 1 (`-9`: signal; `?`: unknown); next try in 1 s
    2.4  next 3.4                           guard sleeps until then (`never`: for ever, unless something happens)
    2.4  mail waits 1                       a line that begins with a script only looks at it

Further events: `exited NAME PID STATUS left`, `refused NAME WHY`, `failed NAME PID WHY` (birth, exec), `adopted NAME PID
SINCE`, `left NAME`, `cleared NAME`, `restart NAME`, `stop [NAME…]`, `start [NAME…]`, `end`. What a script does:
`waits 1`, `waits 1.8..2` (jitter), `due`, `runs PID`, `daemonized`, `ending by 12 then gone`, `stopped`, `gone`.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

import pytest

from guard.lifecycle import (
    Adopted,
    Cleared,
    Event,
    Exited,
    Left,
    Phase,
    Renewed,
    Retired,
    Running,
    Spawned,
    SpawnFailed,
    Stopped,
    Stopping,
    Waiting,
)
from guard.roster import Order, Roster, Wishes
from guard.scripts import parse

FOLDER = Path(__file__).parent.parent / "histories"
HISTORIES = sorted(FOLDER.glob("*.txt"))


@dataclass(frozen=True)
class Step:
    line: int
    now: float
    words: tuple[str, ...]
    orders: tuple[str, ...]
    does: str
    block: str


class Unreadable(Exception):
    """The history itself is written wrongly."""


class Teller:
    """Tells a roster one step after another and compares."""

    def __init__(self) -> None:
        self.roster = Roster()
        self.listed: dict[str, None] = {}
        self.stopped: set[str] = set()
        self.all_stopped = False

    def tell(self, step: Step) -> list[Order]:
        what, *rest = step.words
        match what, rest:
            case "list", []:
                return self._list(step)
            case "due", []:
                return self.roster.due(step.now)
            case "end", []:
                return self.roster.end(step.now)
            case (("stop" | "start"), names):
                return self._wish(what, names, step.now)
            case "next", [when]:
                expected = None if when == "never" else float(when)
                found = self.roster.deadline()
                assert found == pytest.approx(expected), f"the next deadline is {found}"
                return []
            case _ if what in self.roster.entries and rest:
                assert_does(" ".join(rest), self.roster.entries[what].phase, step.now)
                return []
        event = _event(what, rest[1:])
        return self.roster.tell(rest[0], event, step.now)

    def _list(self, step: Step) -> list[Order]:
        listing = parse(step.block.encode(), {name: entry.script for name, entry in self.roster.entries.items()})
        return self.roster.accept(listing.scripts, step.now, whole=not listing.mistakes)

    def _wish(self, what: str, names: list[str], now: float) -> list[Order]:
        if not names:
            self.all_stopped = what == "stop"
            self.stopped.clear()
        elif what == "stop":
            self.stopped |= set(names)
        else:
            self.stopped -= set(names)
        return self.roster.wish(Wishes(self.all_stopped, frozenset(self.stopped)), now)


def read(text: str) -> list[Step]:
    steps: list[Step] = []
    lines = text.splitlines()
    at = 0
    while at < len(lines):
        line, number = lines[at], at + 1
        at += 1
        if not line.strip() or line.startswith("#"):
            continue
        found = re.fullmatch(r"(\d+\.\d+) +([^>]+?)(?: +-> +([^>]+?))?(?: +=> +(.+?))? *", line)
        if not found:
            raise Unreadable(f"line {number}: {line}")
        block: list[str] = []
        while at < len(lines) and lines[at].startswith(" " * 8):
            block.append(lines[at].strip())
            at += 1
        orders = tuple(order.strip() for order in (found[3] or "").split(",") if order.strip())
        steps.append(Step(number, float(found[1]), tuple(found[2].split()), orders, found[4] or "", "\n".join(block)))
        if block and steps[-1].words != ("list",):
            raise Unreadable(f"line {number}: only `list` has indented lines below it")
    return steps


def check(text: str) -> None:
    """Raises AssertionError, with the line, when guard does otherwise than the history says."""
    teller = Teller()
    last = 0.0
    for step in read(text):
        where = f"line {step.line}, at {step.now}: {' '.join(step.words)}"
        if step.now < last:
            raise Unreadable(f"line {step.line}: time runs backwards")
        last = step.now
        try:
            given = tuple(f"{type(order.action).__name__.lower()} {order.name}" for order in teller.tell(step))
            assert given == step.orders, f"guard orders {', '.join(given) or 'nothing'}"
            if step.does:
                assert len(step.words) > 1, "`=>` needs an event with a script"
                entry = teller.roster.entries.get(step.words[1])
                assert_does(step.does, entry.phase if entry else None, step.now)
        except AssertionError as error:
            raise AssertionError(f"{where}: {error}") from error


def assert_does(words: str, phase: Phase | None, now: float) -> None:
    match words.split():
        case ["gone"]:
            right = phase is None
        case ["stopped"]:
            right = phase == Stopped()
        case ["due"]:
            right = isinstance(phase, Waiting) and phase.until <= now
        case ["daemonized"]:
            right = isinstance(phase, Running) and phase.pid is None
        case ["runs", pid]:
            right = isinstance(phase, Running) and phase.pid == int(pid)
        case ["waits", pause]:
            low, _, high = pause.partition("..")
            right = isinstance(phase, Waiting) and float(low) - 1e-9 <= phase.until - now <= float(high or low) + 1e-9
        case ["ending", "by", until, "then", ("waits" | "stopped" | "gone") as after]:
            kind = {"waits": Waiting, "stopped": Stopped, "gone": Retired}[after]
            right = isinstance(phase, Stopping) and isinstance(phase.then, kind) and abs(phase.kill_at - float(until)) < 1e-9
        case _:
            raise Unreadable(f"{words!r} is nothing that a script does")
    assert right, f"it does not {words}: {phase}"


def _event(what: str, rest: list[str]) -> Event:
    match what, rest:
        case "spawned", [pid]:
            return Spawned(int(pid))
        case "refused", [*why]:
            return SpawnFailed(" ".join(why))
        case "failed", [pid, *why]:
            return SpawnFailed(" ".join(why), int(pid))
        case "adopted", [pid, since]:
            return Adopted(None if pid == "?" else int(pid), float(since))
        case "exited", [pid, status, *left]:
            if left not in ([], ["left"]):
                raise Unreadable(" ".join(left))
            return Exited(int(pid), None if status == "?" else int(status), bool(left))
        case "left", []:
            return Left()
        case "cleared", []:
            return Cleared()
        case "restart", []:
            return Renewed()
    raise Unreadable(f"{what} {' '.join(rest)}")


@pytest.mark.parametrize("path", HISTORIES, ids=lambda path: path.stem.replace("-", "_"))
def test_guard_orders_what_the_history_says(path: Path) -> None:
    check(path.read_text())


def test_there_are_histories() -> None:
    assert len(HISTORIES) > 15


STORY = """\
0.0  list
         name=mail bin/mail
0.0  due               -> spawn mail
0.0  spawned mail 71   => runs 71
0.4  exited mail 71 1  => waits 1
0.4  next 1.4
"""


@pytest.mark.parametrize(
    ("right", "wrong"),
    [
        ("-> spawn mail", ""),
        ("-> spawn mail", "-> spawn imap"),
        ("-> spawn mail", "-> spawn mail, spawn mail"),
        ("-> spawn mail", "-> kill mail"),
        ("=> runs 71", "=> runs 72"),
        ("=> runs 71", "=> stopped"),
        ("=> waits 1", "=> waits 2"),
        ("=> waits 1", "=> waits 1.1..1.2"),
        ("=> waits 1", "=> gone"),
        ("next 1.4", "next 1.5"),
        ("next 1.4", "next never"),
    ],
)
def test_a_history_that_says_otherwise_fails(right: str, wrong: str) -> None:
    check(STORY)
    assert STORY.count(right) == 1
    with pytest.raises(AssertionError, match=r"line [0-9]"):
        check(STORY.replace(right, wrong))


@pytest.mark.parametrize("wrong", ["0.0 danced mail", "0 due", "due", "0.0  due\n     indented", "1.0  mail due\n0.0  due"])
def test_a_history_that_is_not_understood_is_refused(wrong: str) -> None:
    with pytest.raises(Unreadable):
        check(STORY.splitlines(keepends=True)[0] + STORY.splitlines(keepends=True)[1] + wrong + "\n")
