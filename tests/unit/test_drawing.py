"""README's drawing of a script's states, compared with what `decide` does: not a row too many, not one too few.

The drawing is a text table between `<!-- states -->` and `<!-- /states -->`: `phase | event | next phase | actions`.
A cell may name several phases or events, with commas; `stopping > …` is one that ends, whatever comes then; `as before`
is the phase of the row. What changes nothing and orders nothing has no row.
Run as a program, this file prints one row for each transition that the code knows.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from guard.lifecycle import (
    Action,
    Adopted,
    Cleared,
    Due,
    Event,
    Exited,
    Impossible,
    Kill,
    Left,
    Phase,
    Renewed,
    Retired,
    Running,
    Spawned,
    SpawnFailed,
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

README = Path(__file__).parent.parent.parent / "README.md"
BEGIN, END = "<!-- states -->", "<!-- /states -->"
ROWS_LIMIT = 35

MAIL = Script(name="mail", argv=("mail",))
NOW = 1000.0
PID = 71

BEFORE_FORK = SpawnFailed("no such file")

Row = tuple[str, str, str, str]

EVENTS: dict[str, tuple[Event, ...]] = {
    "wanted": (Wanted(),),
    "unwanted": (Unwanted(),),
    "unlisted": (Unlisted(),),
    "renewed": (Renewed(),),
    "due": (Due(),),
    "spawned": (Spawned(PID),),
    "spawn failed": (BEFORE_FORK, SpawnFailed("no such file", PID)),
    "adopted": (Adopted(PID, 0.0),),
    "leftovers adopted": (Adopted(None, 0.0),),
    "exited": (Exited(PID, 0), Exited(PID, 1), Exited(PID, None)),
    "exited 0 but left some": (Exited(PID, 0, True),),
    "failed and left some": (Exited(PID, 1, True), Exited(PID, None, True)),
    "some left": (Left(),),
    "none left": (Cleared(),),
}


def word(phase: Phase) -> str:
    """What the drawing calls a phase."""
    match phase:
        case Running(None):
            return "daemonized"
        case Stopping(then=then):
            return f"stopping > {word(then)}"
    return type(phase).__name__.lower()


def explored() -> Iterator[tuple[str, str, str, tuple[Action, ...]]]:
    """Every transition that can be reached from a script's first moment."""
    unexplored: list[Phase] = [Waiting(NOW)]
    seen: set[str] = set()
    while unexplored:
        phase = unexplored.pop()
        # `seen` tells apart what decides the next step, and not how long it has been so
        killed = isinstance(phase, Stopping) and phase.killed
        kind = f"{word(phase)} {getattr(phase, 'pid', None)} {killed}"
        if kind in seen:
            continue
        seen.add(kind)
        for name, events in EVENTS.items():
            for event in events:
                if event == BEFORE_FORK and not isinstance(phase, Waiting):
                    continue  # it answers a Spawn, and only what waits is spawned
                try:
                    after, actions = decide(MAIL, phase, event, (moment(phase) or NOW) + 1)
                except Impossible:
                    continue
                if after != phase or actions:
                    # what was killed already has rows of its own only where that makes a difference
                    differs = killed and actions == (Kill(),) and name != "due"
                    names = (word(each).replace("stopping", "killed") if differs else word(each) for each in (phase, after))
                    yield next(names), name, next(names), actions
                    unexplored.append(after)


def known() -> set[Row]:
    """The rows that the code makes true, one phase and one event each."""
    return {
        (phase, event, after, ", ".join(type(action).__name__.lower() for action in actions))
        for phase, event, after, actions in explored()
    }


def drawn(text: str) -> list[Row]:
    """The rows of a drawing, one phase and one event each."""
    rows: list[Row] = []
    for line in text.splitlines():
        cells = [cell.strip() for cell in line.split("|")]
        if len(cells) != 4 or cells[0] == "phase" or not cells[0].strip("-: "):
            continue
        phases, events, after, actions = cells
        rows += [
            (phase.strip(), event.strip(), phase.strip() if after == "as before" else after, actions)
            for short in phases.split(",")
            for phase in ([short.replace("…", then) for then in ("waiting", "stopped", "retired")] if "…" in short else [short])
            for event in events.split(",")
        ]
    return rows


def drawing() -> str:
    """What stands between the markers in README."""
    text = README.read_text(encoding="utf-8")
    assert text.count(BEGIN) == text.count(END) == 1, f"README.md needs the drawing of the states between {BEGIN} and {END}"
    return text.partition(BEGIN)[2].partition(END)[0]


def test_the_drawing_in_readme_shows_every_transition_and_no_other() -> None:
    rows = drawn(drawing())
    assert rows, f"there is no drawing of the states between {BEGIN} and {END} in README.md"
    lines = [" | ".join(row) for row in sorted(known() - set(rows))]
    assert not lines, "the drawing lacks:\n" + "\n".join(lines)
    lines = [" | ".join(row) for row in sorted(set(rows) - known())]
    assert not lines, "the drawing shows what is not so:\n" + "\n".join(lines)
    assert len(rows) == len(set(rows)), "the drawing shows something twice"


def test_the_drawing_in_readme_is_short_enough_to_be_read() -> None:
    assert sum("|" in line for line in drawing().splitlines()) <= ROWS_LIMIT + 2


def test_the_exploration_reaches_every_phase() -> None:
    reached = {after for _, _, after, _ in explored()}
    kinds = (Waiting(0.0), Running(1, 0.0), Running(None, 0.0), Stopped(), Retired())
    assert {word(phase) for phase in kinds} <= reached
    assert {f"stopping > {then}" for then in ("waiting", "stopped", "retired")} <= reached
    assert {f"killed > {then}" for then in ("waiting", "stopped", "retired")} <= reached


def test_a_row_of_the_drawing_may_stand_for_several() -> None:
    table = "phase | event | next phase | actions\n--- | --- | --- | ---\na, b | x, y | as before | kill\na | z | b |\n"
    several = drawn("stopping > … | due | as before | kill")
    assert several == [(f"stopping > {then}", "due", f"stopping > {then}", "kill") for then in ("waiting", "stopped", "retired")]
    assert drawn(table) == [
        ("a", "x", "a", "kill"),
        ("a", "y", "a", "kill"),
        ("b", "x", "b", "kill"),
        ("b", "y", "b", "kill"),
        ("a", "z", "b", ""),
    ]


if __name__ == "__main__":
    print("\n".join(" | ".join(row) for row in sorted(known())))
