"""What is to be done about a folder, from what was seen and what is."""

from __future__ import annotations

from itertools import product

import pytest
from hypothesis import given
from hypothesis import strategies as st

from workers.imap import plan, sets
from workers.imap.plan import (
    CONDSTORE,
    DAY_S,
    PLAIN,
    QRESYNC,
    Seen,
    asks_since,
    compare,
    is_complete,
    is_daily,
    make,
    next_poison_s,
    pair,
)

TIERS = (QRESYNC, CONDSTORE, PLAIN)
Plain = tuple[str, str, bool]


def seen(*, epoch: int = 7, uidnext: int = 10, modseq: int = 50, messages: int = 5, held: int = 5, clean: bool = True) -> Seen:
    return Seen(epoch, uidnext, modseq, messages, held, clean=clean)


def steps(was: Seen, state: tuple[int, int, int, int], tier: str, *, full: bool = False) -> Plain:
    made = make(was, state, tier, full=full)
    return made.listing, made.flags, made.new_epoch


@pytest.mark.parametrize("tier", TIERS)
def test_a_state_that_proves_that_nothing_has_changed(tier: str) -> None:
    modseq = 0 if tier == PLAIN else 50
    assert seen().is_same((7, 10, 5, modseq), tier) is (tier != PLAIN)
    assert not seen().is_same((8, 10, 5, modseq), tier)
    assert not seen().is_same((7, 11, 5, modseq), tier)
    assert not seen().is_same((7, 10, 4, modseq), tier)
    assert not seen().is_same((7, 10, 5, 0), tier)
    assert not seen().is_same((7, 10, 5, 51), tier)
    assert not seen(clean=False).is_same((7, 10, 5, modseq), tier)
    assert not seen(epoch=0).is_same((0, 10, 5, modseq), tier)


@pytest.mark.parametrize("tier", TIERS)
def test_an_empty_folder_has_no_flags_to_change(tier: str) -> None:
    assert seen(messages=0, held=0).is_same((7, 10, 0, 0), tier)
    assert not seen(messages=1).is_same((7, 10, 0, 0), tier)


def test_only_what_is_sure_is_told_to_the_server() -> None:
    assert asks_since(seen(), QRESYNC, full=False) == (7, 50)
    assert asks_since(seen(), CONDSTORE, full=False) is None
    assert asks_since(seen(), PLAIN, full=False) is None
    assert asks_since(seen(), QRESYNC, full=True) is None
    for unsure in (seen(clean=False), seen(epoch=0), seen(modseq=0), seen(uidnext=0)):
        assert asks_since(unsure, QRESYNC, full=False) is None


@pytest.mark.parametrize(("tier", "full"), list(product(TIERS, (False, True))))
def test_another_epoch_compares_everything(tier: str, full: bool) -> None:
    assert steps(seen(), (8, 10, 5, 50), tier, full=full) == ("all", "all", True)
    assert steps(seen(uidnext=0), (7, 10, 5, 50), tier, full=full) == ("all", "all", False)
    listing, _, new_epoch = steps(seen(epoch=0, uidnext=0), (8, 10, 5, 50), tier, full=full)
    assert (listing, new_epoch) == ("all", True)


def test_with_qresync_the_opening_told_all() -> None:
    assert steps(seen(), (7, 10, 5, 51), QRESYNC) == ("none", "told", False)
    assert steps(seen(), (7, 12, 5, 51), QRESYNC) == ("new", "told", False)
    assert steps(seen(), (7, 10, 3, 51), QRESYNC) == ("none", "told", False)
    assert steps(seen(), (7, 0, 5, 51), QRESYNC) == ("new", "told", False)


def test_with_condstore_flags_are_told_and_expunges_are_counted() -> None:
    assert steps(seen(), (7, 10, 5, 50), CONDSTORE) == ("none", "none", False)
    assert steps(seen(), (7, 10, 5, 51), CONDSTORE) == ("none", "since", False)
    assert steps(seen(), (7, 11, 6, 51), CONDSTORE) == ("new", "since", False)
    assert steps(seen(), (7, 11, 4, 51), CONDSTORE) == ("all", "since", False)


def test_without_both_the_newest_flags_are_read_again() -> None:
    assert steps(seen(modseq=0), (7, 10, 5, 0), PLAIN) == ("none", "window", False)
    assert steps(seen(modseq=0), (7, 11, 6, 0), PLAIN) == ("new", "window", False)
    assert steps(seen(modseq=0), (7, 11, 4, 0), PLAIN) == ("all", "window", False)
    assert steps(seen(modseq=0), (7, 10, 5, 0), PLAIN, full=True) == ("all", "all", False)


@pytest.mark.parametrize("tier", [QRESYNC, CONDSTORE])
@pytest.mark.parametrize(("was", "now"), [(50, 49), (50, 0), (0, 50)])
def test_a_modseq_that_is_not_ours_any_more_compares_all(tier: str, was: int, now: int) -> None:
    assert steps(seen(modseq=was), (7, 10, 5, now), tier) == ("all", "all", False)
    assert make(seen(modseq=was), (7, 10, 5, now), tier, full=False).marks


@pytest.mark.parametrize("tier", TIERS)
def test_a_uidnext_that_goes_back_compares_all(tier: str) -> None:
    modseq = 0 if tier == PLAIN else 60
    made = make(seen(modseq=modseq), (7, 9, 5, modseq), tier, full=False)
    assert (made.listing, made.flags, made.marks) == ("all", "all", True)


@pytest.mark.parametrize("tier", [QRESYNC, CONDSTORE])
def test_a_folder_without_modseqs_is_read_as_ever(tier: str) -> None:
    made = make(seen(modseq=0), (7, 10, 5, 0), tier, full=False)
    assert (made.listing, made.flags, made.marks) == ("none", "all", False)


@pytest.mark.parametrize("tier", TIERS)
def test_of_the_full_passes_one_a_day_reads_all_flags_and_marks(tier: str) -> None:
    modseq = 0 if tier == PLAIN else 50
    often = make(seen(modseq=modseq), (7, 10, 5, modseq), tier, full=True)
    assert (often.listing, often.flags, often.marks) == ("all", "all" if tier == PLAIN else "since", False)
    daily = make(seen(modseq=modseq), (7, 10, 5, modseq), tier, full=True, daily=True)
    assert (daily.listing, daily.flags, daily.marks) == ("all", "all", True)


@given(st.integers(0, 10**6), st.lists(st.floats(60, 2 * DAY_S), min_size=1, max_size=99))
def test_a_day_with_full_passes_has_a_daily_one(key: int, pauses: list[float]) -> None:
    now = last = 1_700_000_000.0
    for pause in pauses:
        before, now = now, now + pause
        if is_daily(before, now, key):
            last = now
        assert now - last < DAY_S


@given(st.integers(0, 10**6), st.floats(60, DAY_S / 2 - 1))
def test_of_many_full_passes_a_day_one_is_daily(key: int, pause: float) -> None:
    start = 1_700_000_000.0
    number = sum(is_daily(start + pause * at, start + pause * (at + 1), key) for at in range(int(10 * DAY_S / pause)))
    assert 9 <= number <= 11


def test_without_a_full_pass_before_or_with_one_in_the_future_it_is_daily() -> None:
    assert is_daily(0.0, 1_700_000_000.0, 1)
    assert is_daily(1_700_000_100.0, 1_700_000_000.0, 1)


def test_the_daily_passes_of_folders_are_spread_over_the_day() -> None:
    start, hours = 1_700_000_000, range(24)
    found = {hour for key in range(200) for hour in hours if is_daily(start + 3600 * hour, start + 3600 * (hour + 1), key)}
    assert found == set(hours)


@given(
    st.builds(
        Seen, st.integers(0, 2), st.integers(0, 3), st.integers(0, 3), st.integers(0, 3), st.integers(0, 3), clean=st.booleans()
    ),
    st.tuples(st.integers(1, 2), st.integers(0, 3), st.integers(0, 3), st.integers(0, 3)),
    st.sampled_from(TIERS),
)
def test_a_full_pass_or_one_in_doubt_compares_all_and_asks_for_flags(
    was: Seen, state: tuple[int, int, int, int], tier: str
) -> None:
    listing, flags, _ = steps(was, state, tier, full=True)
    assert listing == "all"
    for full in (False, True):
        made = make(was, state, tier, full=full)
        assert not made.marks or made.listing == "all"  # what turns out to be another message is fetched at once
    assert flags in ("all", "since") or not was.epoch
    assert flags != "since" or (tier != PLAIN and was.modseq and state[3] >= was.modseq)
    if not was.clean:
        assert steps(was, state, tier)[0] == "all"
    if steps(was, state, tier)[1] == "told":
        assert asks_since(was, tier, full=False) == (state[0], was.modseq)


numbers = st.sets(st.integers(1, 30))


@given(numbers, numbers, numbers)
def test_comparison(server: set[int], ours: set[int], poison: set[int]) -> None:
    missing, gone = compare(*(sets.of(sorted(each)) for each in (server, ours, poison)))
    assert set(sets.numbers(missing)) == server - ours - poison
    assert set(sets.numbers(gone)) == ours - server


def test_numbers_prove_completeness_unless_news_came_in_between() -> None:
    assert is_complete(5, 4, 1, False)
    assert not is_complete(5, 5, 1, False)
    assert not is_complete(5, 3, 0, False)
    assert is_complete(5, 3, 0, True)


def test_messages_are_known_by_a_mark_of_their_own() -> None:
    assert pair([(1, "a"), (2, "b"), (3, "c")], [((7, 10), "c"), ((7, 11), "b"), ((7, 12), "d")]) == [(2, (7, 11)), (3, (7, 10))]


@pytest.mark.parametrize(
    ("there", "here"),
    [([(1, "a"), (2, "a")], [(7, "a")]), ([(1, "a")], [(7, "a"), (8, "a")]), ([(1, "a"), (2, "a")], [(7, "a"), (8, "a")])],
)
def test_what_is_ambiguous_is_left_out(there: list[tuple[int, str]], here: list[tuple[int, str]]) -> None:
    assert pair(there, here) == []


@given(st.lists(st.integers(1, 4), max_size=6), st.lists(st.integers(1, 4), max_size=6))
def test_each_message_is_paired_once_and_only_with_its_like(one: list[int], other: list[int]) -> None:
    found = pair(enumerate(one), enumerate(other))
    assert all(one[uid] == other[mine] and one.count(one[uid]) == other.count(one[uid]) == 1 for uid, mine in found)
    assert len(found) == sum(one.count(mark) == other.count(mark) == 1 for mark in set(one) & set(other))


def test_a_poison_message_is_asked_for_ever_more_rarely() -> None:
    pauses = [next_poison_s(tries) for tries in range(30)]
    assert pauses[:3] == [3600.0, 7200.0, 14400.0]
    assert pauses == sorted(pauses)
    assert pauses[-1] == next_poison_s(10**9) == 86400.0


def test_the_window_and_the_limit_of_epochs_are_as_documented() -> None:
    assert (plan.FLAG_WINDOW, plan.MOST_EPOCHS) == (500, 5)
