"""A lane between a store and a relay that both are made up."""

from __future__ import annotations

import asyncio
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.unit.lane_world import (
    AGAIN,
    CROWDED,
    CUT,
    REFUSED,
    SENT,
    STORE,
    UNKNOWN,
    Relay,
    World,
    emptied,
    in_a_world,
)
from tests.unit.spool_fakes import a_mail
from workers.spool.attempt import Attempt
from workers.spool.delivery import Verdict
from workers.spool.lane import AHEAD, IDLE_S
from workers.spool.outlet import Trouble

# What is claimed, and when.


def test_nothing_is_claimed_before_a_connection_is_ready() -> None:
    async def work(world: World) -> None:
        lane = world.lane(Relay(connect_s=3.0), 10)
        await world.until(lambda: bool(lane.links))
        assert lane.wanted() == 0
        await asyncio.sleep(2.9)
        assert not world.claims
        await emptied(world, lane, 10)

    in_a_world(work)


def test_eight_are_claimed_for_each_connection_and_no_more_while_half_of_them_wait() -> None:
    async def work(world: World) -> None:
        lane = world.lane(Relay(latency_s=50.0), 100, connections=1)
        await world.until(lambda: bool(world.starts))
        assert len(world.claims) == AHEAD
        assert lane.wanted() == 0

    in_a_world(work)


def test_with_a_rate_no_more_is_claimed_than_may_go() -> None:
    async def work(world: World) -> None:
        relay = Relay(latency_s=0.001)
        world.lane(relay, 30, rate=2.0)
        peak = 0
        while len(world.done()) < 30:
            peak = max(peak, len(world.claims))
            await asyncio.sleep(0.01)
            assert asyncio.get_running_loop().time() < 40
        assert peak <= 3
        gaps = [after - before for before, after in pairwise(world.starts)]
        assert min(gaps) >= 0.5 - 1e-6
        assert world.starts[-1] - world.starts[0] <= 29 * 0.5 * 1.2, "nor is it much slower than allowed"

    in_a_world(work)


def test_the_rate_holds_for_all_connections_together() -> None:
    async def work(world: World) -> None:
        lane = world.lane(Relay(latency_s=3.0), 40, rate=5.0)
        await emptied(world, lane, 40)
        for start in world.starts:
            assert sum(start <= other < start + 1.0 - 1e-6 for other in world.starts) <= 5

    in_a_world(work)


# Connections.


def test_a_connection_carries_no_more_mails_than_allowed() -> None:
    async def work(world: World) -> None:
        relay = Relay(latency_s=0.01)
        lane = world.lane(relay, 30, connections=1, mails=7)
        await emptied(world, lane, 30)
        assert len(relay.connects) == 5
        assert relay.peak == 1

    in_a_world(work)


def test_an_idle_connection_is_closed_and_the_next_mail_opens_one_anew() -> None:
    async def work(world: World) -> None:
        relay = Relay()
        lane = world.lane(relay, 1)
        begun = await emptied(world, lane, 1)
        over = await world.until(lambda: not lane.links)
        assert IDLE_S <= over - begun <= IDLE_S + 0.5
        world.store["relay"].append(2)
        lane.due = True
        lane.pump()
        await emptied(world, lane, 2)
        assert len(relay.connects) == 2

    in_a_world(work)


def test_a_far_relay_gets_as_many_connections_as_allowed_and_never_more() -> None:
    async def work(world: World) -> None:
        relay = Relay(latency_s=0.2, connect_s=0.2)
        lane = world.lane(relay, 2000, connections=12)
        elapsed_s = await emptied(world, lane, 2000)
        assert relay.peak == 12
        assert elapsed_s < 1.5 * 2000 * 0.2 / 12

    in_a_world(work)


def test_a_relay_whose_login_takes_long_gets_more_connections_too() -> None:
    async def work(world: World) -> None:
        relay = Relay(latency_s=0.1, connect_s=1.0)
        lane = world.lane(relay, 1000, connections=12)
        await emptied(world, lane, 1000)
        assert relay.peak == 12

    in_a_world(work)


def test_a_relay_that_takes_its_time_for_each_mail_gets_a_connection_more_each_second() -> None:
    async def work(world: World) -> None:
        relay = Relay(latency_s=30.0)
        world.lane(relay, 100)
        await asyncio.sleep(10.0)
        assert 5 <= relay.open <= 10

    in_a_world(work)


def test_421_lowers_the_number_of_connections_for_minutes() -> None:
    async def work(world: World) -> None:
        relay = Relay(latency_s=0.2, connect_s=0.2)
        relay.most = 5
        lane = world.lane(relay, 20000, mails=10**6)
        await world.until(lambda: relay.open == 5)
        await asyncio.sleep(10.0)
        tried = len(relay.connects)
        await asyncio.sleep(200.0)
        assert len(relay.connects) == tried, "what the relay has shown is kept"
        assert relay.open == 5
        await asyncio.sleep(100.0)
        assert len(relay.connects) > tried, "and is probed again later"
        assert not lane.gate.is_shut()

    in_a_world(work)


def test_a_mail_handed_to_a_dead_connection_goes_by_another_one_soon() -> None:
    async def work(world: World) -> None:
        relay = Relay()
        relay.stale = [True, True]
        lane = world.lane(relay, 5)
        assert await emptied(world, lane, 5) < 5.0
        assert world.done(Verdict.AGAIN) == []

    in_a_world(work)


# Trouble.


def test_a_relay_that_is_down_is_probed_after_5_s_doubling_to_a_minute_and_claims_nothing() -> None:
    async def work(world: World) -> None:
        relay = Relay(connect_s=0.0)
        relay.troubles = [Trouble("refused")] * 6
        lane = world.lane(relay, 3)
        await world.until(lambda: len(relay.connects) == 6)
        assert not world.claims
        await emptied(world, lane, 3)
        gaps = [round(after - before) for before, after in pairwise(relay.connects)]
        assert gaps[:6] == [5, 10, 20, 40, 60, 60]
        assert world.lines[-1] == "relay: answers again"

    in_a_world(work)


@pytest.mark.parametrize(("trouble", "pause_s"), [(Trouble("wait", pause_s=120.0), 120), (Trouble("no", refused=True), 1800)])
def test_a_pause_that_is_asked_for_or_a_refusal_is_kept(trouble: Trouble, pause_s: int) -> None:
    async def work(world: World) -> None:
        relay = Relay(connect_s=0.0)
        relay.troubles = [trouble]
        lane = world.lane(relay, 1)
        await emptied(world, lane, 1)
        assert [round(at) for at in relay.connects] == [0, pause_s]

    in_a_world(work)


def test_a_refused_account_gives_back_what_is_claimed_and_tries_after_the_pause() -> None:
    async def work(world: World) -> None:
        relay = Relay(fates=[SENT, REFUSED])
        lane = world.lane(relay, 20, connections=1, pause_s=600.0)
        await world.until(lane.gate.is_shut)
        await asyncio.sleep(100.0)
        assert not lane.in_hand()
        assert not world.claims
        elapsed_s = await emptied(world, lane, 20)
        assert elapsed_s > 600.0

    in_a_world(work)


def test_what_comes_from_the_store_when_the_gate_is_shut_already_goes_back() -> None:
    async def work(world: World) -> None:
        lane = world.lane(Relay(), 0)
        lane.gate.refused("no", asyncio.get_running_loop().time(), 1800.0)
        late = a_mail(99)
        late.claim = 99
        world.claims[99] = lane
        lane.feed([late])
        assert not lane.in_hand()
        assert not world.claims

    in_a_world(work)


def test_two_connections_that_break_in_a_row_are_trouble_and_one_is_not() -> None:
    async def work(world: World) -> None:
        relay = Relay(latency_s=0.01, fates=[SENT, CUT, SENT, CUT, SENT, CUT, CUT])
        lane = world.lane(relay, 12, connections=1)
        await world.until(lane.gate.is_shut)
        assert len(world.done(Verdict.DEFERRED)) == 4
        await world.until(lambda: len(set(world.done())) == 8)
        assert [line for line in world.lines if "answers" not in line] == ["relay: cut"]

    in_a_world(work)


def test_a_connection_that_was_lost_while_idle_does_not_open_the_gate() -> None:
    async def work(world: World) -> None:
        lane = world.lane(Relay(), 0)
        lane.gate.down("no connection", 0.0)
        attempt = Attempt(a_mail(1))
        attempt.settle(attempt.waiting, Verdict.AGAIN, "connection lost at MAIL")
        world.claims[attempt.mail.claim] = lane
        lane.finish(attempt)
        assert lane.gate.is_shut()

    in_a_world(work)


def test_a_relay_that_refuses_further_connections_is_not_asked_for_each_mail() -> None:
    async def work(world: World) -> None:
        relay = Relay(latency_s=0.2, connect_s=0.05)
        relay.troubles = [None] + [Trouble("554 too many connections", refused=True)] * 10000
        lane = world.lane(relay, 500)
        await world.until(lambda: len(world.done()) > 100, 200.0)
        assert len(relay.connects) < 10
        assert len(world.done(Verdict.AGAIN)) < 20
        assert lane.links

    in_a_world(work)


def test_reopening_tries_at_once() -> None:
    async def work(world: World) -> None:
        relay = Relay(connect_s=0.0)
        relay.troubles = [Trouble("no", refused=True)]
        lane = world.lane(relay, 1)
        await world.until(lane.gate.is_shut)
        lane.reopen()
        assert await emptied(world, lane, 1) < 1.0

    in_a_world(work)


def test_a_relay_that_takes_fewer_recipients_gets_fewer() -> None:
    async def work(world: World) -> None:
        lane = world.lane(Relay(), 0)
        for number, most in enumerate([50, 70, 20]):
            attempt = Attempt(a_mail(number))
            attempt.settle(attempt.waiting, Verdict.SENT, "")
            attempt.most_recipients = most
            world.claims[attempt.mail.claim] = lane
            lane.finish(attempt)
        assert lane.recipients == 20

    in_a_world(work)


def test_a_dead_lane_does_not_touch_the_other() -> None:
    async def work(world: World) -> None:
        dead, alive = Relay(connect_s=30.0), Relay(latency_s=0.05, connect_s=0.05)
        dead.troubles = [Trouble("no answer")] * 1000
        slow = world.lane(dead, 50, name="dead")
        lane = world.lane(alive, 500, name="alive")
        elapsed_s = await emptied(world, lane, 500)
        assert elapsed_s < 10.0
        assert len(world.results) == 500
        assert len(world.store["dead"]) == 50
        assert slow.growth.limit(elapsed_s) == 1

    in_a_world(work)


# Mails under way.


def test_a_mail_begun_behind_a_dot_without_an_answer_goes_by_another_connection_once() -> None:
    async def work(world: World) -> None:
        relay = Relay(fates=[SENT, UNKNOWN])
        lane = world.lane(relay, 6, connections=1)
        await emptied(world, lane, 6)
        assert sorted(world.done()) == [1, 2, 3, 4, 5, 6]
        assert len(world.done(Verdict.UNKNOWN)) == 1
        assert world.done(Verdict.AGAIN) == []

    in_a_world(work)


def test_a_body_that_cannot_be_read_blames_nobody() -> None:
    async def work(world: World) -> None:
        lane = world.lane(Relay(fates=[STORE]), 5, connections=1)
        await emptied(world, lane, 5)
        assert sorted(world.done()) == [1, 2, 3, 4, 5]
        assert world.done(Verdict.RELAY) == [1]
        assert not lane.gate.is_shut()

    in_a_world(work)


def test_a_begun_mail_whose_body_cannot_be_read_goes_out_once() -> None:
    async def work(world: World) -> None:
        lane = world.lane(Relay(fates=[SENT, STORE]), 5, connections=1)
        await emptied(world, lane, 5)
        await asyncio.sleep(10.0)
        assert sorted(world.done()) == [1, 2, 3, 4, 5]

    in_a_world(work)


# The end.


def test_stopping_ends_what_is_under_way_and_gives_back_the_rest() -> None:
    async def work(world: World) -> None:
        relay = Relay(latency_s=1.0)
        lane = world.lane(relay, 100)
        await world.until(lambda: len(world.done()) >= 20)
        before, under_way = len(world.done()), relay.open
        lane.stop()
        await world.until(lambda: not lane.links, asyncio.get_running_loop().time() + 5.0)
        assert not world.claims
        assert {verdict for _, _, verdict in world.results} == {Verdict.SENT, Verdict.AGAIN}
        assert len(world.done()) <= before + 2 * under_way, "a mail whose envelope went with a dot is finished too"
        assert len(set(world.done())) + len(world.store["relay"]) == 100

    in_a_world(work)


def test_stopping_does_not_wait_for_a_connection_that_is_being_made() -> None:
    async def work(world: World) -> None:
        lane = world.lane(Relay(connect_s=300.0), 5)
        await asyncio.sleep(1.0)
        lane.stop()
        await world.until(lambda: not lane.links, 2.0)
        assert world.results == []

    in_a_world(work)


def test_stopping_does_not_wait_for_the_rate_nor_for_an_idle_connection() -> None:
    async def work(world: World) -> None:
        limited = world.lane(Relay(), 5, rate=0.01)
        idle = world.lane(Relay(), 1, name="idle")
        await world.until(lambda: len(world.results) == 2)
        for lane in (limited, idle):
            lane.stop()
        await world.until(lambda: not limited.links and not idle.links, asyncio.get_running_loop().time() + 0.5)
        assert not world.claims

    in_a_world(work)


def test_what_comes_from_the_store_after_the_stop_goes_back() -> None:
    async def work(world: World) -> None:
        lane = world.lane(Relay(), 5)
        await world.until(lambda: bool(world.done()))
        lane.stop()
        late = a_mail(99)
        late.claim = 99
        world.claims[99] = lane
        lane.feed([late])
        await world.until(lambda: not lane.links)
        assert not world.claims

    in_a_world(work)


def test_a_cut_leaves_no_connection_and_what_was_under_way_is_unknown() -> None:
    async def work(world: World) -> None:
        lane = world.lane(Relay(latency_s=1.0), 30)
        await world.until(lambda: len(world.done()) >= 10)
        lane.stop()
        lane.cut("the sender was asked to end")
        await world.until(lambda: not lane.links)
        assert Verdict.UNKNOWN in {verdict for _, _, verdict in world.results}

    in_a_world(work)


def test_a_begun_mail_that_comes_back_after_the_stop_is_given_back() -> None:
    async def work(world: World) -> None:
        lane = world.lane(Relay(latency_s=1.0), 30, connections=1)
        await world.until(lambda: len(world.done()) >= 3)
        lane.stop()
        lane.cut("the sender was asked to end")
        await world.until(lambda: not lane.links)
        assert not world.claims

    in_a_world(work)


def test_a_begun_mail_that_comes_back_when_the_gate_is_shut_is_given_back() -> None:
    async def work(world: World) -> None:
        relay = Relay(latency_s=0.01, fates=[UNKNOWN, UNKNOWN])
        lane = world.lane(relay, 30, connections=1)
        await world.until(lane.gate.is_shut)
        await asyncio.sleep(1.0)
        assert not world.claims

    in_a_world(work)


FATES = st.lists(st.sampled_from([SENT, SENT, SENT, CUT, AGAIN, UNKNOWN, CROWDED, REFUSED]), max_size=25)


@settings(max_examples=150, deadline=None)
@given(
    FATES,
    st.lists(st.sampled_from([None, None, Trouble("down"), Trouble("no", refused=True)]), max_size=6),
    st.lists(st.booleans(), max_size=10),
    st.integers(1, 6),
    st.integers(1, 5),
    st.sampled_from([None, 3.0, 50.0]),
    st.sampled_from([0.001, 0.1, 4.0]),
)
def test_whatever_happens_each_claim_has_one_result_and_no_mail_stays_behind(
    fates: list[str],
    troubles: list[Trouble | None],
    stale: list[bool],
    connections: int,
    mails: int,
    rate: float | None,
    latency_s: float,
) -> None:
    async def work(world: World) -> None:
        relay = Relay(latency_s=latency_s, fates=fates)
        relay.troubles, relay.stale = list(troubles), list(stale)
        lane = world.lane(relay, 40, connections=connections, mails=mails, rate=rate, pause_s=100.0)
        finished = (Verdict.SENT, Verdict.DEFERRED)
        await world.until(lambda: len([each for each in world.results if each[2] in finished]) == 40, 9000.0, 5.0)
        await world.until(lambda: not lane.links, 10000.0, 0.5)
        assert not world.claims
        assert not lane.in_hand()
        assert relay.peak <= 2 * connections, "those that say goodbye are not counted"
        given = [number for _, number, verdict in world.results if verdict in finished]
        assert sorted(given) == list(range(1, 41))

    in_a_world(work)
