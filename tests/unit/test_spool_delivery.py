"""What an answer means: the table of verdicts, the pauses, and what a recipient becomes."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from workers.spool.delivery import LOST, Step, Verdict, closes, judge, outcome, probe_pause_s, retry_pause_s, troubles_relay
from workers.spool.pause import Pause

BEFORE_MAIL = [Step.CONNECT, Step.EHLO, Step.STARTTLS, Step.AUTH]
OF_MAIL = [Step.MAIL, Step.RCPT, Step.DATA, Step.DOT]


@pytest.mark.parametrize("code", [LOST, 421, 450, 500, 502, 535, 554, 571])
@pytest.mark.parametrize("step", BEFORE_MAIL)
def test_trouble_before_mail_is_never_the_fault_of_a_mail(step: Step, code: int) -> None:
    assert judge(step, code) is Verdict.RELAY
    assert troubles_relay(step, code)


@pytest.mark.parametrize("code", [530, 534, 535, 538])
@pytest.mark.parametrize("step", OF_MAIL)
def test_a_login_that_is_missing_is_trouble_of_the_relay_anywhere(step: Step, code: int) -> None:
    assert judge(step, code, accepted=1) is Verdict.RELAY
    assert troubles_relay(step, code)


@pytest.mark.parametrize("code", [450, 451, 454, 471])
@pytest.mark.parametrize("step", OF_MAIL)
def test_4xx_defers(step: Step, code: int) -> None:
    assert judge(step, code) is Verdict.DEFERRED
    assert not troubles_relay(step, code)
    assert not closes(code)


@pytest.mark.parametrize("code", [500, 501, 550, 553, 554])
@pytest.mark.parametrize("step", OF_MAIL)
def test_5xx_fails(step: Step, code: int) -> None:
    assert judge(step, code) is Verdict.FAILED
    assert not troubles_relay(step, code)


def test_only_a_yes_to_the_final_dot_is_sent() -> None:
    assert judge(Step.DOT, 250) is Verdict.SENT
    for step in (Step.MAIL, Step.RCPT, Step.DATA):
        assert judge(step, 250) is not Verdict.SENT


@pytest.mark.parametrize("code", [LOST, -1, 354, 999])
def test_no_answer_behind_the_final_dot_is_unknown(code: int) -> None:
    assert judge(Step.DOT, code) is Verdict.UNKNOWN
    assert closes(code)


@pytest.mark.parametrize("code", [LOST, 421])
def test_a_connection_that_was_closed_while_idle_is_renewed_at_once(code: int) -> None:
    assert judge(Step.MAIL, code, reused=True) is Verdict.AGAIN
    assert not troubles_relay(Step.MAIL, code, reused=True)
    assert judge(Step.MAIL, code, reused=False) is Verdict.DEFERRED
    assert troubles_relay(Step.MAIL, code, reused=False)


@pytest.mark.parametrize("code", [452, 552])
def test_too_many_recipients_go_again_at_once_if_some_were_taken(code: int) -> None:
    assert judge(Step.RCPT, code, accepted=3) is Verdict.AGAIN
    assert judge(Step.RCPT, code, accepted=0) is Verdict.DEFERRED


@given(st.sampled_from(OF_MAIL), st.integers(-1, 999), st.booleans(), st.integers(0, 3))
def test_every_answer_has_a_verdict_and_what_closes_never_keeps(step: Step, code: int, reused: bool, accepted: int) -> None:
    verdict = judge(step, code, reused=reused, accepted=accepted)
    if verdict is Verdict.FAILED:
        assert 500 <= code < 600
    if not 200 <= code < 600:
        assert closes(code)


def test_a_mail_waits_5_s_doubling_to_an_hour() -> None:
    assert [retry_pause_s(failures, 0.0) for failures in (1, 2, 3, 10, 11, 5000)] == [5, 10, 20, 2560, 3600, 3600]


@given(st.integers(1, 10_000), st.floats(0, 1))
def test_jitter_takes_a_fifth_at_most(failures: int, chance: float) -> None:
    whole = retry_pause_s(failures, 0.0)
    assert 0.8 * whole - 1e-9 <= retry_pause_s(failures, chance) <= whole


def test_a_relay_is_probed_after_5_s_doubling_to_a_minute() -> None:
    assert [probe_pause_s(failures) for failures in (1, 2, 3, 4, 5, 5000)] == [5, 10, 20, 40, 60, 60]


def test_an_answer_ends_the_pause_of_a_relay() -> None:
    pause = Pause()
    assert pause.left_s(100.0) == 0
    assert pause.trouble(100.0) == 5
    assert pause.trouble(105.0) == 10
    assert pause.left_s(107.0) == 8
    assert pause.answered()
    assert pause.left_s(107.0) == 0
    assert pause.trouble(107.0) == 5
    assert pause.answered()
    assert not pause.answered()


@pytest.mark.parametrize(
    ("verdict", "failures", "now", "becomes"),
    [
        (Verdict.SENT, 2, 100.0, ("sent", 2, 100.0)),
        (Verdict.FAILED, 0, 100.0, ("failed", 0, 100.0)),
        (Verdict.AGAIN, 1, 100.0, ("queued", 1, 100.0)),
        (Verdict.RELAY, 1, 100.0, ("deferred", 1, 100.0)),
        (Verdict.DEFERRED, 0, 100.0, ("deferred", 1, 105.0)),
        (Verdict.DEFERRED, 1, 100.0, ("deferred", 2, 110.0)),
        (Verdict.UNKNOWN, 0, 100.0, ("unknown", 1, 105.0)),
        (Verdict.DEFERRED, 9, 900.0, ("deferred", 10, 1000.0)),  # the last try comes with the age, not behind it
        (Verdict.DEFERRED, 9, 1000.0, ("expired", 9, 1000.0)),
        (Verdict.RELAY, 0, 1000.0, ("expired", 0, 1000.0)),
        (Verdict.UNKNOWN, 0, 1000.0, ("expired", 0, 1000.0)),
        (Verdict.SENT, 0, 2000.0, ("sent", 0, 2000.0)),
    ],
)
def test_what_a_recipient_becomes(verdict: Verdict, failures: int, now: float, becomes: tuple[str, int, float]) -> None:
    assert outcome(verdict, failures, now, 1000.0, 0.0) == becomes
