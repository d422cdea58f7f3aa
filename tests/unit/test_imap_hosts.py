"""Connections to a host are paced, and one account asks for all when it is down."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from workers.imap.hosts import AT_ONCE, Host
from workers.imap.schedule import PROBE_S


def test_few_logins_at_once() -> None:
    host = Host()
    opened = 0
    while host.may_open(0.0, None):
        host.opens()
        opened += 1
    assert opened == AT_ONCE == host.opening == host.connections
    assert not host.opened()
    assert host.may_open(0.0, None)
    assert host.connections == AT_ONCE


def test_no_more_connections_than_allowed() -> None:
    host = Host()
    for _ in range(3):
        assert host.may_open(0.0, 3)
        host.opens()
        host.opened()
    assert not host.may_open(0.0, 3)
    assert host.may_open(0.0, 4)
    host.closed()
    assert host.may_open(0.0, 3)
    assert not host.may_open(0.0, 0)


def fail(host: Host, now: float, *, unreachable: bool = True) -> None:
    host.opens()
    host.failed(now, 0.5, unreachable=unreachable)
    host.closed()


def test_a_host_that_is_down_is_asked_by_one_for_all() -> None:
    host = Host()
    assert (host.is_down, host.next_at()) == (False, 0.0)
    fail(host, 100.0)
    assert host.is_down
    assert not host.may_open(100.0, None)
    until = host.next_at()
    assert 100.0 < until <= 100.0 + PROBE_S
    assert not host.may_open(until - 0.01, None)
    assert host.may_open(until, None)
    host.opens()
    assert not host.may_open(until, None)  # one is enough
    assert host.opened()  # it was down, and is up
    assert (host.is_down, host.next_at()) == (False, 0.0)
    assert host.may_open(until, None)
    host.opens()
    assert not host.opened()


def test_a_host_is_asked_three_times_a_minute_however_long_it_is_down() -> None:
    host = Host()
    now = 0.0
    for _ in range(50):
        fail(host, now)
        assert now < host.next_at() <= now + PROBE_S
        now = host.next_at()
    fail(host, now)
    assert host.next_at() == now + PROBE_S


def test_what_is_the_matter_with_one_account_is_not_the_hosts() -> None:
    host = Host()
    fail(host, 0.0, unreachable=False)
    assert (host.is_down, host.opening, host.connections) == (False, 0, 0)
    assert host.may_open(0.0, 1)
    fail(host, 0.0)
    fail(host, 5.0, unreachable=False)  # it answered, if only No
    assert not host.is_down


@given(st.lists(st.tuples(st.sampled_from(["open", "well", "down", "no", "close"]), st.floats(0, 5)), max_size=60))
def test_numbers_are_those_of_the_connections(history: list[tuple[str, float]]) -> None:
    host, now, opening, standing = Host(), 0.0, 0, 0
    for what, pause_s in history:
        now += pause_s
        if what == "open" and host.may_open(now, 10):
            assert not host.is_down or (opening == 0 and now >= host.next_at())
            host.opens()
            opening += 1
        elif what == "close" and standing:
            host.closed()
            standing -= 1
        elif opening and what in ("well", "down", "no"):
            opening -= 1
            if what == "well":
                host.opened()
                standing += 1
            else:
                host.failed(now, 0.0, unreachable=what == "down")
                host.closed()
        assert (host.opening, host.connections) == (opening, opening + standing)
        assert host.connections <= 10
        assert opening <= AT_ONCE
