"""Sets of UIDs against Python's own sets."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from workers.imap import sets

numbers = st.sets(st.integers(1, 60))
ranges = st.lists(st.tuples(st.integers(1, 60), st.integers(0, 5)).map(lambda each: (each[0], each[0] + each[1])))


def plain(found: sets.Ranges) -> set[int]:
    """The numbers, of ranges that are in order and do not touch."""
    assert all(low <= high for low, high in found)
    assert all(one[1] + 1 < other[0] for one, other in pairwise(found))
    return set(sets.numbers(found))


@given(numbers)
def test_a_set_is_what_it_was_made_of(wanted: set[int]) -> None:
    found = sets.of(sorted(wanted))
    assert plain(found) == wanted
    assert sets.count(found) == len(wanted)
    assert sets.parse(sets.text(found)) == found


@given(st.lists(st.integers(1, 20)))
def test_numbers_that_come_twice_count_once(wanted: list[int]) -> None:
    assert plain(sets.of(sorted(wanted))) == set(wanted)


@given(ranges)
def test_ranges_that_overlap_become_one(wanted: sets.Ranges) -> None:
    numbers_of = {number for low, high in wanted for number in range(low, high + 1)}
    assert plain(sets.merged(wanted)) == numbers_of
    if wanted:
        assert plain(sets.parse(b",".join(b"%d:%d" % (high, low) for low, high in wanted))) == numbers_of


@given(numbers, numbers)
def test_minus_and_both_are_those_of_sets(left: set[int], right: set[int]) -> None:
    one, other = sets.of(sorted(left)), sets.of(sorted(right))
    assert plain(sets.minus(one, other)) == left - right
    assert plain(sets.both(one, other)) == left & right


@given(numbers, st.integers(0, 70), st.integers(1, 40))
def test_take_gives_the_first_ones_and_the_rest(wanted: set[int], most: int, most_bytes: int) -> None:
    whole = sets.of(sorted(wanted))
    taken, rest = sets.take(whole, most, most_bytes)
    assert [*sets.numbers(taken), *sets.numbers(rest)] == sorted(wanted)
    assert sets.count(taken) <= most
    assert len(taken) <= 1 or len(sets.text(taken)) <= most_bytes
    assert taken or not whole or not most
    plain(taken)
    plain(rest)


def test_take_uses_the_room_there_is() -> None:
    whole = [(1, 3), (5, 5), (9, 20)]
    assert sets.take(whole, 3) == ([(1, 3)], [(5, 5), (9, 20)])
    assert sets.take(whole, 6) == ([(1, 3), (5, 5), (9, 10)], [(11, 20)])
    assert sets.take(whole, 100) == (whole, [])
    assert sets.take(whole, 100, 6) == ([(1, 3), (5, 5)], [(9, 20)])


def test_a_million_messages_are_one_range() -> None:
    huge = sets.parse(b"1:4294967295")
    assert sets.count(huge) == sets.MOST_UID
    assert sets.minus(huge, [(7, 7)]) == [(1, 6), (8, sets.MOST_UID)]
    assert sets.take(huge, 10) == ([(1, 10)], [(11, sets.MOST_UID)])


@pytest.mark.parametrize(
    "text",
    [b"0", b"1:0", b"4294967296", b"1:4294967296", b"1:", b":1", b",", b"1,,2", b"*", b"1:*", b"-1", b" 1", b"1:2:3", b"9" * 50],
)
def test_what_is_no_set_is_refused(text: bytes) -> None:
    with pytest.raises(ValueError, match="not a set"):
        sets.parse(text)


def test_nothing_is_an_empty_set() -> None:
    assert sets.parse(b"") == []
    assert sets.text([]) == b""
    assert sets.of([]) == sets.merged([]) == []
