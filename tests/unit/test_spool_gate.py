"""Gate, growth and rate by a clock that is only counted up: a relay is a latency, our own work a time for each mail."""

from __future__ import annotations

import random
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from workers.spool.gate import AGAIN_S, FORGIVEN_S, WINDOW_MAILS, Gate, Growth, Rate

# The gate.


def test_a_relay_that_is_down_is_probed_after_5_s_doubling_to_a_minute() -> None:
    gate = Gate()
    pauses = []
    now = 100.0
    for _ in range(7):
        pauses.append(gate.down("no answer", now))
        assert gate.left_s(now) == pauses[-1]
        now += pauses[-1]
        assert gate.left_s(now) == 0
        assert gate.is_shut(), "one connection tries first"
    assert pauses == [5, 10, 20, 40, 60, 60, 60]
    assert gate.problem == "no answer"


def test_an_answer_forgets_all_trouble_and_says_so_once() -> None:
    gate = Gate()
    assert not gate.answered()
    gate.down("a", 0.0)
    gate.refused("b", 1.0, 1800.0)
    assert gate.left_s(1.0) == 1800.0
    assert gate.answered()
    assert not gate.answered()
    assert (gate.left_s(1.0), gate.is_shut(), gate.problem) == (0.0, False, "")
    assert gate.down("c", 2.0) == 5.0


def test_a_pause_that_the_relay_asks_for_is_kept_and_the_next_is_ours_again() -> None:
    gate = Gate()
    assert gate.down("wait", 0.0, 120.0) == 120.0
    assert gate.down("gone", 120.0) == 10.0


def test_connections_that_break_are_trouble_when_none_between_them_carried_a_mail() -> None:
    gate = Gate()
    for _ in range(5):
        assert gate.cut("reset", 0.0) is None
        assert not gate.is_shut()
        gate.answered()
    assert [gate.cut("reset", 0.0), gate.cut("reset", 0.0), gate.cut("reset", 5.0)] == [None, 5.0, 10.0]


EVENTS = st.lists(st.tuples(st.sampled_from(["down", "refused", "cut", "answered", "open"]), st.floats(0, 100)), max_size=40)


@given(EVENTS)
def test_a_gate_with_time_left_is_shut_and_has_a_problem(events: list[tuple[str, float]]) -> None:
    gate, now = Gate(), 0.0
    for name, span_s in events:
        now += span_s
        if name == "refused":
            assert gate.refused("no", now, 300.0) == 300.0
        elif name in ("down", "cut"):
            pause_s = getattr(gate, name)("gone", now)
            assert pause_s is None or 5.0 <= pause_s <= 60.0
        else:
            getattr(gate, name)()
            assert not gate.is_shut()
        if gate.left_s(now):
            assert gate.is_shut()
        assert gate.is_shut() == bool(gate.problem)


# Growth.


class Load:
    """A queue that never ends. The relay needs `latency_s` for a mail, at most `cap` mails a second, and we `work_s`."""

    def __init__(self, most: int = 20, *, latency_s: float, work_s: float = 0.0005, cap: float = 1e9, noise: float = 0.0) -> None:
        self.growth = Growth(most)
        self.latency_s = latency_s
        self.work_s = work_s
        self.cap = cap
        self.now = 0.0
        self.cpu_s = 0.0
        self.mails = 0
        self.spent: dict[int, float] = {}  # seconds with so many connections
        self._chance = random.Random(7)
        self._noise = noise

    def rate(self, connections: int) -> float:
        """Mails a second."""
        return min(connections / (self.latency_s + self.work_s), 1.0 / self.work_s, self.cap)

    def run(self, span_s: float) -> None:
        """Mails for so many seconds, each connection ready at once."""
        end = self.now + span_s
        while self.now < end:
            connections = self.growth.limit(self.now)
            pause_s = 1.0 / self.rate(connections) * (1.0 + self._noise * self._chance.uniform(-1.0, 1.0))
            self.now += pause_s
            self.cpu_s += self.work_s
            self.mails += 1
            self.spent[connections] = self.spent.get(connections, 0.0) + pause_s
            self.growth.carried(self.now, self.cpu_s, connections, waiting=True)

    def mean(self) -> float:
        """Connections in use, on an average of time."""
        return sum(connections * span_s for connections, span_s in self.spent.items()) / sum(self.spent.values())


@pytest.mark.parametrize("noise", [0.0, 0.3, 0.9])
@pytest.mark.parametrize("latency_s", [0.00005, 0.0001, 0.0002])
def test_a_relay_near_by_keeps_one_connection_or_two(latency_s: float, noise: float) -> None:
    load = Load(latency_s=latency_s, noise=noise)
    load.run(30.0)
    assert load.mean() <= 2.5
    assert max(load.spent) <= 4


@pytest.mark.parametrize("noise", [0.0, 0.3, 0.9])
@pytest.mark.parametrize("latency_s", [0.02, 0.1, 0.5])
def test_a_far_relay_gets_all_within_ten_windows(latency_s: float, noise: float) -> None:
    load = Load(latency_s=latency_s, noise=noise)
    windows = 0
    while load.growth.limit(load.now) < 20:
        load.run(WINDOW_MAILS * load.growth.limit(load.now) / load.rate(load.growth.limit(load.now)))
        windows += 1
        assert windows < 60
    assert windows <= (10 if noise == 0.0 else 60)
    assert load.mails <= 20 * 2 * WINDOW_MAILS * (10 if noise == 0.0 else 60)


def test_a_far_relay_is_used_as_far_as_it_goes() -> None:
    load = Load(latency_s=0.1)
    load.run(60.0)
    assert load.mails >= 0.9 * 60.0 * load.rate(20)


@pytest.mark.parametrize("cap", [10.0, 50.0])
def test_a_relay_that_can_do_no_more_at_once_gets_no_more_than_it_needs(cap: float) -> None:
    load = Load(latency_s=0.1, cap=cap)
    load.run(300.0)
    needed = cap * 0.1
    assert load.mean() <= 2 * needed + 1
    assert load.mails >= 0.6 * 300.0 * cap


def test_a_step_that_did_not_pay_is_taken_back_and_tried_again_later() -> None:
    load = Load(latency_s=0.1, cap=10.0)
    load.run(3.0)
    assert load.growth.limit(load.now) == 1
    load.cap = 1e9
    load.run(AGAIN_S + 10.0)
    assert load.growth.limit(load.now) >= 19, "the relay has become faster"


def test_nothing_grows_while_nothing_waits_or_connections_are_missing() -> None:
    growth = Growth(20)
    for number in range(1000):
        growth.carried(number * 0.1, 0.0, 1, waiting=False)
    assert growth.limit(100.0) == 1
    growth.slow()
    for number in range(1000):
        growth.carried(100 + number * 0.1, 0.0, 1, waiting=True)
    assert growth.limit(200.0) == 2, "the second one is not there yet"


def test_work_of_our_own_keeps_it_small() -> None:
    growth = Growth(20)
    for number in range(1000):
        growth.carried(number * 0.001, number * 0.0009, 1, waiting=True)
    assert growth.limit(1.0) == 1


def test_a_limit_that_the_relay_has_shown_is_kept_and_probed_by_one_more_after_minutes() -> None:
    load = Load(latency_s=0.1)
    load.run(30.0)
    assert load.growth.limit(load.now) >= 19
    load.growth.crowded(load.now, 6)
    shown_at = load.now
    load.run(FORGIVEN_S - 1.0)
    assert load.growth.limit(load.now) == 5
    load.growth.idle()
    for _ in range(20):
        load.growth.slow()
    assert load.growth.limit(load.now) == 5, "an idle time does not forget it"
    assert load.growth.limit(shown_at + FORGIVEN_S + 1.0) == 6
    assert load.growth.limit(shown_at + FORGIVEN_S + 2.0) == 6
    load.run(20 * FORGIVEN_S)
    assert load.growth.limit(load.now) >= 19


@given(st.lists(st.integers(1, 30), min_size=1, max_size=30), st.integers(1, 20))
def test_the_limit_is_never_under_one_nor_over_the_setting(crowds: list[int], most: int) -> None:
    growth = Growth(most)
    for now, connections in enumerate(crowds):
        growth.slow()
        growth.crowded(float(now), connections)
        assert 1 <= growth.limit(float(now)) <= min(most, max(1, connections - 1))


def test_the_next_load_starts_small() -> None:
    load = Load(latency_s=0.1)
    load.run(30.0)
    load.growth.idle()
    assert load.growth.limit(load.now) == 1


def test_a_relay_that_is_slow_gets_one_more_each_time() -> None:
    growth = Growth(3)
    assert growth.limit(0.0) == 1
    for most in (2, 3, 3):
        growth.slow()
        assert growth.limit(0.0) == most


def test_the_last_connections_are_kept_where_all_of_them_pay() -> None:
    load = Load(latency_s=0.1)
    load.run(60.0)
    limits = set()
    for _ in range(50):
        load.run(1.0)
        limits.add(load.growth.limit(load.now))
    assert limits == {20}


def test_hiccups_do_not_add_up() -> None:
    load = Load(latency_s=0.0001)
    for _ in range(30):
        load.run(10.0)
        load.growth.slow()
    load.run(10.0)
    assert load.growth.limit(load.now) <= 3


# The rate.


def test_no_rate_is_no_limit() -> None:
    rate = Rate(None)
    for _ in range(5):
        rate.take(1.0)
        assert rate.left_s(1.0) == 0


@given(st.floats(0.01, 1000), st.lists(st.floats(0, 5), min_size=1, max_size=50))
def test_a_rate_is_even_and_rest_saves_up_nothing(per_s: float, rests: list[float]) -> None:
    rate, now, taken = Rate(per_s), 0.0, []
    for rest_s in rests:
        now += rest_s
        now += rate.left_s(now)
        assert rate.left_s(now) <= 1e-9
        rate.take(now)
        taken.append(now)
    assert all(after - before >= (1.0 / per_s) * (1 - 1e-6) - 1e-9 for before, after in pairwise(taken))
