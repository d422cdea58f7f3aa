"""What changes read like, in guard.log, in a record, in `status`."""

from __future__ import annotations

import pytest

from guard.lifecycle import (
    Adopted,
    Cleared,
    Due,
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
    Unlisted,
    Unwanted,
    Waiting,
    Wanted,
    decide,
)
from guard.roster import Change, Entry
from guard.scripts import Script
from guard.story import line, notes, problem, state

MAIL = Script(name="mail", argv=("mail",), base="mail", line=3)


def told(before: Phase, event: Event, now: float = 100.0) -> str | None:
    """What is said of the change that lifecycle makes of it."""
    after, _ = decide(MAIL, before, event, now)
    return line(Change(Entry(MAIL, after), before, after, event, now))


RUNNING = Running(71, 40.0)
YOUNG = Running(71, 99.5, 2)


@pytest.mark.parametrize(
    ("before", "event", "text"),
    [
        (Waiting(99.0), Spawned(71), "mail[71] started"),
        (Waiting(99.0), Adopted(71, 88.0), "mail[71] adopted: it runs since 12 s"),
        (Waiting(99.0), Adopted(None, 88.0), "mail[?] adopted: it runs since 12 s"),
        (Waiting(99.0), SpawnFailed("no such file"), "mail can't start: no such file; next try in 1 s"),
        (RUNNING, SpawnFailed("permission denied", 71), "mail can't start: permission denied; next try in 1 s"),
        (RUNNING, Exited(71, 0), "mail[71] died: exit 0 after 1m 0s; next try in 1 s"),
        (RUNNING, Exited(71, -9), "mail[71] died: signal KILL after 1m 0s; next try in 1 s"),
        (RUNNING, Exited(71, None), "mail[71] died: exit status unknown (it was adopted) after 1m 0s; next try in 1 s"),
        (RUNNING, Exited(71, 1, True), "mail[71] died: exit 1 after 1m 0s; ending what it left behind"),
        (
            RUNNING,
            Exited(71, 0, True),
            "mail[71] ended with 0 and left processes behind, which go on (it daemonizes: use its foreground option)",
        ),
        (Running(None, 40.0), Cleared(), "mail: what it left behind is gone; next try in 1 s"),
        (RUNNING, Unwanted(), "mail[71] is told to end"),
        (RUNNING, Unlisted(), "mail[71] is told to end"),
        (RUNNING, Renewed(), "mail[71] is told to end"),
        (Running(None, 40.0), Unwanted(), "mail[?] is told to end"),
        (Waiting(99.0), Left(), "mail: ending what an earlier one left behind"),
        (Stopping(71, 100.0, Stopped()), Due(), "mail[71] did not end in time: killed"),
        (Stopping(None, 100.0, Stopped()), Due(), "mail[?] did not end in time: killed"),
        (Stopping(71, 100.0, Stopped()), Exited(71, -15), "mail[71] stopped: signal TERM"),
        (Stopping(71, 100.0, Retired()), Exited(71, 0), "mail[71] stopped: exit 0"),
        (Stopping(71, 100.0, Waiting(90.0)), Exited(71, 0), "mail[71] stopped: exit 0; next try now"),
        (Stopping(71, 100.0, Waiting(112.0)), Exited(71, 0), "mail[71] stopped: exit 0; next try in 12 s"),
        (Stopping(None, 100.0, Stopped()), Cleared(), "mail: nothing of it is left"),
        (Stopping(None, 100.0, Waiting(112.0)), Cleared(), "mail: nothing of it is left; next try in 12 s"),
    ],
)
def test_a_change_reads_like_this(before: Phase, event: Event, text: str) -> None:
    assert told(before, event) == text


@pytest.mark.parametrize(
    ("before", "event"),
    [
        (Waiting(99.0), Unwanted()),
        (Waiting(200.0), Renewed()),
        (Waiting(99.0), Unlisted()),
        (Stopped(), Wanted()),
        (Stopping(71, 200.0, Waiting(1.0)), Unwanted()),
        (Stopping(71, 200.0, Stopped()), Exited(71, 1, True)),
        (Stopping(71, 100.0, Stopped(), killed=True), Due()),
    ],
)
def test_a_change_that_people_asked_for_or_know_already_is_not_told(before: Phase, event: Event) -> None:
    assert told(before, event) is None


def test_a_pause_that_has_grown_is_told() -> None:
    text = told(YOUNG, Exited(71, 1)) or ""
    assert text.startswith("mail[71] died: exit 1 after 0.5 s; next try in 3.")


@pytest.mark.parametrize(
    ("phase", "word"),
    [
        (Waiting(99.0), "waiting"),
        (Waiting(99.0, 3), "waiting"),
        (Waiting(99.0, 3, "no such file"), "broken"),
        (RUNNING, "running"),
        (Running(None, 40.0), "daemonized"),
        (Stopping(71, 100.0, Stopped()), "stopping"),
        (Stopping(None, 100.0, Retired()), "stopping"),
        (Stopped(), "stopped"),
        (Retired(), "retired"),
    ],
)
def test_each_phase_has_its_word(phase: Phase, word: str) -> None:
    assert state(Entry(MAIL, phase)) == word


def test_a_problem_says_what_people_should_know() -> None:
    assert problem(Entry(MAIL, RUNNING), "db") is None
    assert problem(Entry(MAIL, Waiting(1.0)), None) is None
    assert problem(Entry(MAIL, Waiting(1.0)), "db") == "waits for db"
    assert problem(Entry(MAIL, Waiting(1.0, 1, "no such file")), "db") == "no such file"
    assert "foreground" in (problem(Entry(MAIL, Running(None, 1.0)), None) or "")


def test_a_record_holds_what_status_and_a_new_guard_need() -> None:
    running = notes(Entry(MAIL, Running(71, 40.0, 2), restarts=5, last_exit=-9), "boot", None)
    assert running == {
        "name": "mail",
        "line": "3",
        "copy": "1",
        "state": "running",
        "restarts": "5",
        "boot": "boot",
        "last_exit": "-9",
        "failures": "2",
    }
    waiting = notes(Entry(MAIL, Waiting(112.3456, 3, "x")), "boot", "two\nlines")
    assert waiting["next_try"] == "112.346"
    assert waiting["failures"] == "3"
    assert waiting["state"] == "broken"
    assert waiting["problem"] == "two\\nlines"
    assert "last_exit" not in waiting


def test_an_exit_0_is_recorded_as_well() -> None:
    assert notes(Entry(MAIL, Waiting(1.0), last_exit=0), "boot", None)["last_exit"] == "0"


def test_no_note_holds_a_line_end() -> None:
    odd = Script(name="a b", argv=("a b",), base="a b")
    assert all(value.isprintable() for value in notes(Entry(odd, Waiting(1.0)), "boot", "a\rb\0c").values())
