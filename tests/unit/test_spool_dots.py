"""The past-dot notes: what a file says when its sender is gone at any moment."""

from __future__ import annotations

import errno
import os
from pathlib import Path
from unittest.mock import patch

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from workers.spool.dots import MOST_RECIPIENTS, SLOT_BYTES, SLOTS, Dots, path_of, read

CLAIM = (7 << 32) + 1


@pytest.fixture
def path(tmp_path: Path) -> str:
    return path_of(str(tmp_path / "spool.db"), 7)


def notes(path: str) -> dict[int, tuple[set[int], str]]:
    """What a dead sender's file says, by claim; read by another descriptor, as after its death."""
    found = read(path)
    assert found is not None
    assert len({note.claim for note in found}) == len(found)
    return {note.claim: (set(note.recipients), note.answer) for note in found}


def test_without_a_file_nothing_can_be_told(path: str) -> None:
    assert read(path) is None


def test_a_new_file_notes_nothing_whatever_lay_there_before(path: str) -> None:
    Path(path).write_bytes(b"\x01" * SLOT_BYTES)
    Dots(path)
    assert notes(path) == {}


def test_the_notes_are_for_nobody_else(path: str) -> None:
    Dots(path)
    assert os.stat(path).st_mode & 0o777 == 0o600


def test_a_note_goes_from_past_the_dot_to_answered_to_free(path: str) -> None:
    dots = Dots(path)
    slot = dots.past(CLAIM, [3, 5])
    assert notes(path) == {CLAIM: ({3, 5}, "")}
    dots.answered(slot, CLAIM, [3, 5], "250 2.0.0 Ok: queued as ä1")
    assert notes(path) == {CLAIM: ({3, 5}, "250 2.0.0 Ok: queued as ä1")}
    dots.free(slot)
    assert notes(path) == {}


def test_the_file_goes_at_the_clean_end(path: str) -> None:
    dots = Dots(path)
    dots.close()
    assert read(path) is None


def test_a_slot_is_used_again_and_keeps_no_words_of_the_last_one(path: str) -> None:
    dots = Dots(path)
    for number in range(3 * SLOTS):
        slot = dots.past(CLAIM + number, list(range(number % 50 + 1)))
        dots.answered(slot, CLAIM + number, list(range(number % 50 + 1)), "x" * 200)
        dots.free(slot)
    slot = dots.past(CLAIM, [1])
    assert notes(path) == {CLAIM: ({1}, "")}
    assert os.path.getsize(path) == SLOTS * SLOT_BYTES


def test_the_file_grows_with_what_is_under_way(path: str) -> None:
    dots = Dots(path)
    slots = [dots.past(CLAIM + number, [number]) for number in range(2 * SLOTS + 1)]
    assert len(set(slots)) == len(slots)
    assert notes(path) == {CLAIM + number: ({number}, "") for number in range(2 * SLOTS + 1)}
    assert os.path.getsize(path) == 3 * SLOTS * SLOT_BYTES


@pytest.mark.parametrize("count", [1, 100, MOST_RECIPIENTS])
def test_each_recipient_of_the_biggest_transaction_is_noted_and_a_long_answer_is_cut(path: str, count: int) -> None:
    dots = Dots(path)
    ids = [2**62 + number for number in range(count)]
    first, slot, last = dots.past(1, [1]), dots.past(2, ids), dots.past(3, [3])
    dots.answered(slot, 2, ids, "250 " + "ä" * 5000)
    found = notes(path)
    assert found[1] == ({1}, "")
    assert found[3] == ({3}, "")
    assert found[2][0] == set(ids)
    assert found[2][1].startswith("250 " + "ä" * 30)
    dots.answered(first, 1, [1], "250 a")
    dots.answered(last, 3, [3], "250 b")
    assert notes(path)[2][0] == set(ids), "neighbours are left alone"


def test_half_a_file_and_what_is_no_note_are_passed_over(path: str) -> None:
    dots = Dots(path)
    slots = {dots.past(number, [number]): number for number in range(5)}
    places = sorted(slots)
    with open(path, "r+b") as file:
        file.seek(places[0] * SLOT_BYTES)
        file.write(b"\x07")  # no state
        file.seek(places[1] * SLOT_BYTES + 2)
        file.write(b"\xff\xff")  # too many recipients
        file.truncate(places[4] * SLOT_BYTES + 100)
    assert set(notes(path)) == {slots[places[2]], slots[places[3]]}


class Killed(Exception):
    """The sender ends here."""


@pytest.mark.parametrize("step", range(4))
def test_no_half_note_is_ever_read(path: str, step: int) -> None:
    """Ends the sender before each of the writes that make a note."""

    class Map:
        """A map that stops taking writes."""

        def __init__(self, part: object) -> None:
            self.part = part
            self.left = step

        def __getitem__(self, at: int) -> int:
            return self.part[at]  # type: ignore[index, no-any-return]

        def __setitem__(self, at: object, value: object) -> None:
            if not self.left:
                raise Killed
            self.left -= 1
            self.part[at] = value  # type: ignore[index]

    dots = Dots(path)
    old = dots.past(1, [1, 2])
    dots.answered(old, 1, [1, 2], "250 old")
    dots.free(old)
    dots._maps[0] = Map(dots._maps[0])  # type: ignore[call-overload]
    try:
        slot = dots.past(2, [3])
        dots.answered(slot, 2, [3], "250 new")
    except Killed:
        pass
    assert notes(path) in ({}, {2: ({3}, "")}, {2: ({3}, "250 new")})


def test_a_full_disk_is_met_before_the_dot_and_loses_no_note(path: str) -> None:
    dots = Dots(path)
    for number in range(SLOTS):
        dots.past(number, [number])
    with patch("os.pwrite", side_effect=OSError(errno.ENOSPC, "No space left on device")), pytest.raises(OSError, match="space"):
        dots.past(SLOTS, [SLOTS])
    with patch("os.pwrite", return_value=100), pytest.raises(OSError, match="space"):
        dots.past(SLOTS, [SLOTS])
    dots.past(SLOTS, [SLOTS])
    assert set(notes(path)) == set(range(SLOTS + 1))


ACTIONS = st.lists(
    st.tuples(st.sampled_from(["past", "answered", "free"]), st.integers(0, 300), st.text(max_size=30)), max_size=120
)


@settings(max_examples=60, deadline=None)
@given(ACTIONS)
def test_the_file_says_what_was_noted_last(tmp_path_factory: pytest.TempPathFactory, actions: list[tuple[str, int, str]]) -> None:
    path = str(tmp_path_factory.mktemp("dots") / "notes")
    dots = Dots(path)
    slots: dict[int, int] = {}
    expected: dict[int, tuple[set[int], str]] = {}
    for claim, (action, number, words) in enumerate(actions):
        if action == "past":
            slots[claim] = dots.past(claim, range(number))
            expected[claim] = (set(range(number)), "")
        elif slots:
            chosen = sorted(slots)[number % len(slots)]
            if action == "answered":
                dots.answered(slots[chosen], chosen, sorted(expected[chosen][0]), "250 " + words)
                expected[chosen] = (expected[chosen][0], "250 " + words.encode("utf-8", "replace").decode())
            else:
                dots.free(slots.pop(chosen))
                del expected[chosen]
    assert notes(path) == expected
    dots.close()
