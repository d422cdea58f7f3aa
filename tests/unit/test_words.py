"""The wording of what people read: exit statuses, durations, and text that a terminal can take."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from guard.words import duration_words, exit_words, printable


@pytest.mark.parametrize(
    ("status", "words"),
    [
        (0, "exit 0"),
        (1, "exit 1"),
        (255, "exit 255"),
        (-9, "signal KILL"),
        (-15, "signal TERM"),
        (-11, "signal SEGV"),
        (-2, "signal INT"),
        (-34, "signal 34"),
        (None, "exit status unknown (it was adopted)"),
    ],
)
def test_an_exit_status_in_words(status: int | None, words: str) -> None:
    assert exit_words(status) == words


@pytest.mark.parametrize(
    ("seconds", "words"),
    [
        (0.0, "0 s"),
        (0.25, "0.25 s"),
        (1.0, "1 s"),
        (1.84, "1.8 s"),
        (9.4, "9.4 s"),
        (9.97, "10 s"),
        (12.3, "12 s"),
        (59.4, "59 s"),
        (60.0, "1m 0s"),
        (301.0, "5m 1s"),
        (3600.0, "1h 0m"),
        (10920.0, "3h 2m"),
        (86400.0, "1d 0h"),
        (90061.0, "1d 1h"),
        (40 * 86400.0, "40d 0h"),
    ],
)
def test_a_duration_in_words(seconds: float, words: str) -> None:
    assert duration_words(seconds) == words


@given(st.floats(0, 10**8))
def test_a_duration_is_never_in_scientific_notation_and_has_at_most_two_units(seconds: float) -> None:
    words = duration_words(seconds)
    assert "e" not in words
    assert len(words.split()) <= 2


@given(st.floats(-1.0, -0.001))
def test_a_duration_that_clocks_make_negative_is_none(seconds: float) -> None:
    """A start time counts in ticks, so an adopted process may seem to start a moment from now."""
    assert not duration_words(seconds).startswith("-")


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("workers/smtp_spool.py", "workers/smtp_spool.py"),
        ("zażółć gęślą", "zażółć gęślą"),
        ("two\nlines", "two\\nlines"),
        ("\x1b[31mred", "\\x1b[31mred"),
        ("nul\0", "nul\\x00"),
        ("\u202eright to left", "\\u202eright to left"),
        ("not utf-8: \udcff", "not utf-8: \\udcff"),
        ('it\'s "quoted" \\ as it is', 'it\'s "quoted" \\ as it is'),
    ],
)
def test_control_characters_become_escapes_and_the_rest_stays(text: str, shown: str) -> None:
    assert printable(text) == shown


@given(st.text(st.characters()))
def test_any_text_becomes_one_printable_line(text: str) -> None:
    shown = printable(text)
    assert shown.isprintable()
    assert printable(shown) == shown
    assert shown.encode(errors="strict") or not text
