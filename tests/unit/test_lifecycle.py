"""One script's life: the whole product of phases and events, and the rules of the pause between two lives."""

from __future__ import annotations

from dataclasses import replace
from itertools import product
from typing import get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st

from guard.lifecycle import (
    KILL_AGAIN_S,
    Action,
    Adopted,
    Cleared,
    Due,
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
    Unlisted,
    Unwanted,
    Waiting,
    Wanted,
    decide,
    moment,
    pause_s,
)
from guard.scripts import Script

MAIL = Script(name="mail", argv=("mail",), base="mail", retry_min_s=1.0, retry_max_s=30.0, stable_s=60.0, stop_s=10.0)
NOW = 100.0  # all phases below wait for 100, `due early` comes at 99, every other event at 100
EARLY = 99.0

PHASES: dict[str, Phase] = {
    "waiting": Waiting(NOW, 2, "no such file"),
    "running": Running(71, 90.0, 2),
    "daemonized": Running(None, 90.0, 2),
    "ending, then waiting": Stopping(71, NOW, Waiting(95.0, 2)),
    "ending, then stopped": Stopping(71, NOW, Stopped()),
    "ending, then retired": Stopping(71, NOW, Retired()),
    "leftovers, then waiting": Stopping(None, NOW, Waiting(95.0, 2)),
    "leftovers, then stopped": Stopping(None, NOW, Stopped()),
    "leftovers, then retired": Stopping(None, NOW, Retired()),
    "killed leftovers, then stopped": Stopping(None, NOW, Stopped(), killed=True),
    "stopped": Stopped(),
    "retired": Retired(),
}

EVENTS: dict[str, tuple[Event, float]] = {
    "wanted": (Wanted(), NOW),
    "unwanted": (Unwanted(), NOW),
    "unlisted": (Unlisted(), NOW),
    "renewed": (Renewed(), NOW),
    "due": (Due(), NOW),
    "due early": (Due(), EARLY),
    "spawned": (Spawned(72), NOW),
    "refused": (SpawnFailed("no such file"), NOW),
    "exec failed": (SpawnFailed("no such file", 71), NOW),
    "old exec failed": (SpawnFailed("no such file", 70), NOW),
    "adopted": (Adopted(71, 50.0, 3), NOW),
    "adopted other": (Adopted(72, 50.0, 3), NOW),
    "adopted leftovers": (Adopted(None, 50.0, 3), NOW),
    "exited 0": (Exited(71, 0), NOW),
    "exited 1": (Exited(71, 1), NOW),
    "exited unknown": (Exited(71, None), NOW),
    "exited 0, some left": (Exited(71, 0, True), NOW),
    "exited 1, some left": (Exited(71, 1, True), NOW),
    "old exited": (Exited(70, 1), NOW),
    "left": (Left(), NOW),
    "cleared": (Cleared(), NOW),
}

Expected = tuple[Phase, tuple[Action, ...]] | None  # None: Impossible


def becomes(phase: Phase, *actions: Action) -> Expected:
    return phase, actions


def stale(phase: str, *events: str) -> dict[str, Expected]:
    """News that changes nothing."""
    return dict.fromkeys(events, (PHASES[phase], ()))


def impossible(*events: str) -> dict[str, Expected]:
    return dict.fromkeys(events)


def pause(failures: int, salt: int) -> float:
    return pause_s(MAIL, failures, salt)


ADOPTIONS = ("adopted", "adopted other", "adopted leftovers")
OWN_EXITS = ("exited 0", "exited 1", "exited unknown", "exited 0, some left", "exited 1, some left")
BIRTHS = ("spawned", "refused")
OLD_NEWS = ("old exited", "old exec failed", "due early")


def ending(name: str, after: Phase, *after_actions: Action) -> dict[str, Expected]:
    """What is the same for all that was told to end and whose own process still lives."""
    phase = PHASES[name]
    assert isinstance(phase, Stopping)
    leftovers = replace(phase, pid=None)
    return {
        **stale(name, *OLD_NEWS, "left", "cleared"),
        **impossible(*BIRTHS, *ADOPTIONS),
        "due": becomes(replace(phase, kill_at=NOW + KILL_AGAIN_S, killed=True), Kill()),
        "exited 0": becomes(after, *after_actions),
        "exited 1": becomes(after, *after_actions),
        "exited unknown": becomes(after, *after_actions),
        "exec failed": becomes(after, *after_actions),
        "exited 0, some left": becomes(leftovers, Terminate()),
        "exited 1, some left": becomes(leftovers, Terminate()),
    }


def ending_leftovers(name: str, again: Action, after: Phase, *after_actions: Action) -> dict[str, Expected]:
    """What is the same for all of which only leftovers are left to end."""
    phase = PHASES[name]
    assert isinstance(phase, Stopping)
    return {
        **stale(name, *OLD_NEWS, *OWN_EXITS, "exec failed"),
        **impossible(*BIRTHS, *ADOPTIONS),
        "due": becomes(replace(phase, kill_at=NOW + KILL_AGAIN_S, killed=True), Kill()),
        "left": becomes(phase, again),
        "cleared": becomes(after, *after_actions),
    }


def turned(name: str, then: Waiting | Stopped | Retired) -> Expected:
    """It goes on ending, but something else comes after."""
    phase = PHASES[name]
    assert isinstance(phase, Stopping)
    return becomes(replace(phase, then=then))


LIFE: dict[str, dict[str, Expected]] = {
    "waiting": {
        "due": becomes(PHASES["waiting"], Spawn()),
        "spawned": becomes(Running(72, NOW, 2)),
        "refused": becomes(Waiting(NOW + pause(3, 2), 3, "no such file")),
        "exec failed": becomes(Waiting(NOW + pause(3, 2), 3, "no such file")),  # told late, its exit was heard first
        "old exec failed": becomes(Waiting(NOW + pause(3, 2), 3, "no such file")),
        "adopted": becomes(Running(71, 50.0, 3)),
        "adopted other": becomes(Running(72, 50.0, 3)),
        "adopted leftovers": becomes(Running(None, 50.0, 3)),
        "left": becomes(Stopping(None, 110.0, Waiting(NOW, 2, "no such file")), Terminate()),
        "renewed": becomes(Waiting(NOW)),
        "unwanted": becomes(Stopped()),
        "unlisted": becomes(Retired(), Forget()),
        **stale("waiting", "old exited", "due early", *OWN_EXITS, "wanted", "cleared"),
    },
    "running": {
        "exited 0": becomes(Waiting(101.0)),
        "exited 1": becomes(Waiting(NOW + pause(3, 71), 3)),
        "exited unknown": becomes(Waiting(NOW + pause(3, 71), 3)),
        "exited 0, some left": becomes(Running(None, 90.0, 2)),
        "exited 1, some left": becomes(Stopping(None, 110.0, Waiting(NOW + pause(3, 71), 3)), Terminate()),
        "exec failed": becomes(Waiting(NOW + pause(3, 2), 3, "no such file")),
        "renewed": becomes(Stopping(71, 110.0, Waiting(NOW)), Terminate()),
        "unwanted": becomes(Stopping(71, 110.0, Stopped()), Terminate()),
        "unlisted": becomes(Stopping(71, 110.0, Retired()), Terminate()),
        **stale("running", *OLD_NEWS, "adopted", "wanted", "due", "left", "cleared"),
        **impossible(*BIRTHS, "adopted other", "adopted leftovers"),
    },
    "daemonized": {
        "cleared": becomes(Waiting(101.0)),
        "renewed": becomes(Stopping(None, 110.0, Waiting(NOW)), Terminate()),
        "unwanted": becomes(Stopping(None, 110.0, Stopped()), Terminate()),
        "unlisted": becomes(Stopping(None, 110.0, Retired()), Terminate()),
        **stale("daemonized", *OLD_NEWS, *OWN_EXITS, "exec failed", "adopted leftovers", "wanted", "due", "left"),
        **impossible(*BIRTHS, "adopted", "adopted other"),
    },
    "ending, then waiting": {
        **ending("ending, then waiting", Waiting(95.0, 2)),
        **stale("ending, then waiting", "wanted"),
        "unwanted": turned("ending, then waiting", Stopped()),
        "unlisted": turned("ending, then waiting", Retired()),
        "renewed": turned("ending, then waiting", Waiting(NOW)),
    },
    "ending, then stopped": {
        **ending("ending, then stopped", Stopped()),
        **stale("ending, then stopped", "unwanted", "renewed"),
        "wanted": turned("ending, then stopped", Waiting(NOW)),
        "unlisted": turned("ending, then stopped", Retired()),
    },
    "ending, then retired": {
        **ending("ending, then retired", Retired(), Forget()),
        **stale("ending, then retired", "unwanted", "renewed", "unlisted"),
        "wanted": turned("ending, then retired", Waiting(NOW)),
    },
    "leftovers, then waiting": {
        **ending_leftovers("leftovers, then waiting", Terminate(), Waiting(95.0, 2)),
        **stale("leftovers, then waiting", "wanted"),
        "unwanted": turned("leftovers, then waiting", Stopped()),
        "unlisted": turned("leftovers, then waiting", Retired()),
        "renewed": turned("leftovers, then waiting", Waiting(NOW)),
    },
    "leftovers, then stopped": {
        **ending_leftovers("leftovers, then stopped", Terminate(), Stopped()),
        **stale("leftovers, then stopped", "unwanted", "renewed"),
        "wanted": turned("leftovers, then stopped", Waiting(NOW)),
        "unlisted": turned("leftovers, then stopped", Retired()),
    },
    "leftovers, then retired": {
        **ending_leftovers("leftovers, then retired", Terminate(), Retired(), Forget()),
        **stale("leftovers, then retired", "unwanted", "renewed", "unlisted"),
        "wanted": turned("leftovers, then retired", Waiting(NOW)),
    },
    "killed leftovers, then stopped": {
        **ending_leftovers("killed leftovers, then stopped", Kill(), Stopped()),
        **stale("killed leftovers, then stopped", "unwanted", "renewed"),
        "wanted": turned("killed leftovers, then stopped", Waiting(NOW)),
        "unlisted": turned("killed leftovers, then stopped", Retired()),
    },
    "stopped": {
        "wanted": becomes(Waiting(NOW)),
        "unlisted": becomes(Retired(), Forget()),
        "left": becomes(Stopping(None, 110.0, Stopped()), Terminate()),  # stop means stopped
        **stale("stopped", *OLD_NEWS, *OWN_EXITS, "exec failed", "unwanted", "renewed", "due", "cleared"),
        **impossible(*BIRTHS, *ADOPTIONS),
    },
    "retired": {
        **stale("retired", *OLD_NEWS, *OWN_EXITS, "exec failed", "unlisted", "due", "left", "cleared"),
        **impossible(*BIRTHS, *ADOPTIONS, "wanted", "unwanted", "renewed"),
    },
}


@pytest.mark.parametrize(("phase", "event"), list(product(PHASES, EVENTS)), ids=str)
def test_every_pair_of_phase_and_event_is_a_transition_or_stale_or_impossible(phase: str, event: str) -> None:
    assert event in LIFE[phase], f"nothing is written about {event!r} while {phase!r}"
    expected = LIFE[phase][event]
    what, now = EVENTS[event]
    if expected is None:
        with pytest.raises(Impossible, match="mail"):
            decide(MAIL, PHASES[phase], what, now)
    else:
        assert decide(MAIL, PHASES[phase], what, now) == expected


def test_the_product_holds_every_kind_of_phase_and_event() -> None:
    assert {type(phase) for phase in PHASES.values()} == set(get_args(Phase))
    assert {type(event) for event, _ in EVENTS.values()} == set(get_args(Event))
    assert LIFE.keys() == PHASES.keys()
    assert [sorted(set(row) - set(EVENTS)) for row in LIFE.values()] == [[]] * len(PHASES)


def test_a_birth_that_fails_before_the_fork_is_no_news_for_what_has_no_pid() -> None:
    """`None == None` must not pass for "it was this one": nothing ordered that birth."""
    for phase in (PHASES["daemonized"], PHASES["leftovers, then waiting"]):
        with pytest.raises(Impossible):
            decide(MAIL, phase, SpawnFailed("no such file"), NOW)


def test_a_script_that_dies_young_waits_longer_each_time() -> None:
    phase: Phase = Running(71, 0.0)
    pauses = []
    for _ in range(9):
        phase, actions = decide(MAIL, phase, Exited(71, 1), 0.5)
        assert isinstance(phase, Waiting)
        assert actions == ()
        pauses.append(phase.until - 0.5)
        phase = Running(71, 0.0, phase.failures)
    assert pauses[0] == 1.0
    for grown, shrunk in zip(pauses[1:], (2, 4, 8, 16, 30, 30, 30, 30), strict=True):
        assert shrunk * 0.9 <= grown <= shrunk


def test_exit_0_never_lengthens_the_pause() -> None:
    assert decide(MAIL, Running(71, 0.0, 4), Exited(71, 0), 0.5)[0] == Waiting(1.5, 0)


def test_a_life_as_long_as_stable_forgives_all_failures() -> None:
    assert decide(MAIL, Running(71, 0.0, 4), Exited(71, 1), 60.0)[0] == Waiting(61.0, 0)
    young = decide(MAIL, Running(71, 0.0, 4), Exited(71, 1), 59.9)[0]
    assert isinstance(young, Waiting)
    assert young.failures == 5


def test_an_unknown_exit_status_counts_as_a_failure_while_young() -> None:
    assert decide(MAIL, Running(71, 0.0), Exited(71, None), 0.5)[0] == Waiting(1.5, 1)


def test_a_signal_counts_as_a_failure() -> None:
    assert decide(MAIL, Running(71, 0.0), Exited(71, -11), 0.5)[0] == Waiting(1.5, 1)


def test_the_remainder_of_a_daemonizing_script_ends_like_exit_0() -> None:
    assert decide(MAIL, Running(None, 0.0, 4), Cleared(), 0.5)[0] == Waiting(1.5, 0)


def test_leftovers_of_a_failed_script_end_before_its_pause_is_over_but_never_shorten_it() -> None:
    phase, _ = decide(MAIL, Running(71, 0.0), Exited(71, 1, True), 0.5)
    assert phase == Stopping(None, 10.5, Waiting(1.5, 1))
    assert decide(MAIL, phase, Cleared(), 0.7) == (Waiting(1.5, 1), ())


def test_kill_is_repeated_each_second() -> None:
    phase: Phase = Stopping(71, 10.0, Stopped())
    for now in (10.0, 11.0, 12.0):
        assert decide(MAIL, phase, Due(), now - 0.1) == (phase, ())
        phase, actions = decide(MAIL, phase, Due(), now)
        assert phase == Stopping(71, now + 1, Stopped(), killed=True)
        assert actions == (Kill(),)


def test_what_is_left_of_a_killed_script_is_killed_and_not_asked() -> None:
    killed = Stopping(71, 11.0, Stopped(), killed=True)
    assert decide(MAIL, killed, Exited(71, -9, True), 10.1)[1] == (Kill(),)


def test_a_script_taken_back_while_it_ends_comes_back_at_once() -> None:
    ending, _ = decide(MAIL, Running(71, 0.0, 4), Unlisted(), 1.0)
    back, _ = decide(MAIL, ending, Wanted(), 2.0)
    assert decide(MAIL, back, Exited(71, -15), 3.0) == (Waiting(2.0), ())


def test_moments_are_those_of_due() -> None:
    assert moment(Waiting(5.0)) == 5.0
    assert moment(Stopping(71, 6.0, Retired())) == 6.0
    assert [moment(phase) for phase in (Running(71, 0.0), Running(None, 0.0), Stopped(), Retired())] == [None] * 4


def test_a_single_retry_value_is_a_fixed_pause_without_jitter() -> None:
    fixed = replace(MAIL, retry_min_s=5.0, retry_max_s=5.0)
    assert {pause_s(fixed, failures, salt) for failures in range(50) for salt in range(20)} == {5.0}


def test_retry_0_is_at_once_every_time() -> None:
    at_once = replace(MAIL, retry_min_s=0.0, retry_max_s=0.0)
    assert {pause_s(at_once, failures, salt) for failures in range(50) for salt in range(20)} == {0.0}


def test_retry_0_to_a_cap_starts_at_once_and_grows_all_the_same() -> None:
    script = replace(MAIL, retry_min_s=0.0, retry_max_s=5.0)
    assert pause_s(script, 1, 0) == 0.0
    assert 0.18 <= pause_s(script, 2, 0) <= 0.2
    assert 4.5 <= pause_s(script, 20, 0) <= 5.0


def test_jitter_differs_between_scripts_and_between_pids_and_is_the_same_for_the_same() -> None:
    other = replace(MAIL, name="imap")
    assert pause_s(MAIL, 5, 1) == pause_s(MAIL, 5, 1)
    assert len({pause_s(MAIL, 5, salt) for salt in range(50)}) > 40
    assert pause_s(MAIL, 5, 1) != pause_s(other, 5, 1)


@given(low=st.floats(0, 1000), more=st.floats(0, 1000), failures=st.integers(0, 10**6), salt=st.integers(0, 2**22))
def test_no_pause_is_above_its_cap_or_below_its_minimum(low: float, more: float, failures: int, salt: int) -> None:
    script = replace(MAIL, retry_min_s=low, retry_max_s=low + more)
    assert low <= pause_s(script, failures, salt) <= low + more
