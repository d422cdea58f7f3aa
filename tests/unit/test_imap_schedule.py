"""When what is due."""

from __future__ import annotations

import datetime
import time
from collections.abc import Iterator
from itertools import pairwise
from zoneinfo import ZoneInfo

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from workers.imap import schedule
from workers.imap.books import Folder
from workers.imap.schedule import MOST_S, SPREAD_S, backoff_s, daily, full_s, is_full_due, recent_s
from workers.mail.imap_config import Imap

WARSAW = ZoneInfo("Europe/Warsaw")
DAY_S = 86400.0


@pytest.fixture(scope="module", autouse=True)
def warsaw() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TZ", "Europe/Warsaw")
        time.tzset()
        yield
    time.tzset()


def at(*words: int) -> float:
    """Of a day and time in Warsaw: Unix seconds."""
    return datetime.datetime(*words, tzinfo=WARSAW).timestamp()  # type: ignore[arg-type, misc]


def folder(full_at: float) -> Folder:
    """One that was compared then; nothing else of it counts here."""
    made = Folder.__new__(Folder)
    made.full_at = full_at
    return made


def test_intervals_are_those_of_the_config() -> None:
    imap = Imap("/x")
    imap.recent_present_s, imap.recent_absent_s, imap.full_present_s, imap.full_absent_s = 1.0, 2.0, 3.0, 4.0
    assert (recent_s(imap, present=True), recent_s(imap, present=False)) == (1.0, 2.0)
    assert (full_s(imap, present=True), full_s(imap, present=False)) == (3.0, 4.0)


@given(st.floats(1e9, 2e9), st.integers(0, 1439), st.text(min_size=1, max_size=9))
@example(at(2021, 3, 28, 3), 0, "0")
@example(at(2021, 10, 31, 3), 150, "0")
def test_the_daily_pass_was_due_within_the_last_day(now: float, low_at: int, name: str) -> None:
    due = daily(now, low_at, name)
    assert now - DAY_S - 3601 < due <= now  # once a year a day has 25 hours
    assert daily(due + 1, low_at, name) == due  # of the same day


@given(st.integers(0, 1439), st.text(min_size=1, max_size=9))
def test_on_a_usual_day_it_is_due_once_at_its_time(low_at: int, name: str) -> None:
    midnight = at(2014, 1, 12)
    times = {round(daily(midnight + 2 * DAY_S + hour * 3600, low_at, name)) for hour in range(24)}
    assert len(times) <= 2
    for due in times:
        assert 0 <= (due - midnight - low_at * 60) % DAY_S < SPREAD_S


def test_accounts_are_spread_over_two_hours_and_each_keeps_its_place() -> None:
    now = at(2014, 1, 12, 23, 59)
    places = [daily(now, 20 * 60, f"a{number}") - at(2014, 1, 12, 20) for number in range(200)]
    assert places == [daily(now + DAY_S, 20 * 60, f"a{number}") - at(2014, 1, 13, 20) for number in range(200)]
    assert min(places) >= 0
    assert max(places) < SPREAD_S
    assert [sum(int(place // 1800) == quarter for place in places) > 20 for quarter in range(4)] == [True] * 4


@pytest.mark.parametrize("day", [(2014, 3, 30), (2014, 10, 26)])
@pytest.mark.parametrize("low_at", [0, 60, 150, 20 * 60, 23 * 60])
def test_a_change_of_the_clock_costs_no_day_and_doubles_none(day: tuple[int, int, int], low_at: int) -> None:
    """A worker that looks each ten minutes makes one pass a day, also on the days of 23 and 25 hours."""
    for name in ("a", "b", "c", "d"):
        start, done, passes = at(*day) - 2 * DAY_S, 0.0, []
        done = start
        for minute in range(0, 5 * 1440, 10):
            now = start + minute * 60
            if done < daily(now, low_at, name):
                done = now
                passes.append(now)
        assert 4 <= len(passes) <= 6
        gaps = [later - earlier for earlier, later in pairwise(passes[1:])]
        assert all(gap <= DAY_S + 7200 for gap in gaps), gaps


def test_a_folder_never_compared_is_due_and_so_is_one_of_the_future() -> None:
    imap = Imap("/x")
    now = at(2014, 1, 12, 12)
    assert is_full_due(folder(0.0), imap, now, "a", high=False, present=False)
    assert is_full_due(folder(now + 1), imap, now, "a", high=False, present=False)


@pytest.mark.parametrize("present", [False, True])
def test_high_folders_are_due_by_the_interval(present: bool) -> None:
    imap = Imap("/x")
    imap.full_present_s, imap.full_absent_s = 100.0, 200.0
    now, pause_s = at(2014, 1, 12, 12), 100.0 if present else 200.0
    assert is_full_due(folder(now - pause_s), imap, now, "a", high=True, present=present)
    assert not is_full_due(folder(now - pause_s + 1), imap, now, "a", high=True, present=present)


def test_all_others_are_due_once_a_day() -> None:
    imap = Imap("/x")
    due = daily(at(2014, 1, 12, 23, 59), imap.low_at, "a")
    assert not is_full_due(folder(due - 1), imap, due - 0.5, "a", high=False, present=True)
    assert is_full_due(folder(due - 1), imap, due + 1, "a", high=False, present=True)
    assert not is_full_due(folder(due), imap, due + 3600, "a", high=False, present=True)


def test_pauses_grow_to_a_quarter_of_an_hour() -> None:
    middle = [backoff_s(failures, 0.5) for failures in range(30)]
    assert middle[:6] == [1.5, 1.5, 5.0, 10.0, 20.0, 40.0]
    assert middle == sorted(middle)
    assert middle[-1] == backoff_s(10**9, 0.5) == MOST_S


@given(st.integers(0, 100), st.floats(0, 1), st.floats(0, 1))
def test_jitter_keeps_accounts_apart_and_pauses_in_bounds(failures: int, one: float, other: float) -> None:
    first, second = backoff_s(failures, one), backoff_s(failures, other)
    assert 1.0 <= first <= MOST_S * 1.25
    assert (first < second) is (one < other) or first == pytest.approx(second)
    assert second <= first * 2


def test_priorities_are_in_order() -> None:
    order = [schedule.SEND, schedule.PUSHED, schedule.HIGH, schedule.NORMAL, schedule.LOW, schedule.REST]
    assert order == sorted(set(order))
