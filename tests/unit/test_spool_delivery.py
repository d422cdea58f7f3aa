"""What an answer means: for the mail, for the relay, and until when."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from workers.spool.delivery import (
    BEFORE_MAIL,
    LOST,
    RELAY_CODES,
    Effect,
    Step,
    Verdict,
    again_in_s,
    closes,
    effect,
    judge,
    outcome,
    retry_pause_s,
)

OF_MAIL = [Step.MAIL, Step.RCPT, Step.DATA, Step.DOT]
STEPS = st.sampled_from(list(Step))
CODES = st.one_of(st.integers(-1, 999), st.sampled_from([LOST, 250, 354, 421, 452, 530, 535, 550, 552]))

# The classes of answers behind the connect phase: verdict at MAIL, RCPT, DATA and the dot; effect; whether it closes.
S, D, F, R, U = Verdict.SENT, Verdict.DEFERRED, Verdict.FAILED, Verdict.RELAY, Verdict.UNKNOWN
TABLE = [
    ([200, 250, 251, 252], (D, D, D, S), Effect.NONE, False),
    ([450, 451, 454, 455, 471, 499], (D, D, D, D), Effect.NONE, False),
    ([452], (D, D, D, D), Effect.NONE, False),
    ([421], (D, D, D, D), Effect.CROWDED, True),
    ([500, 501, 503, 541, 550, 553, 554, 571, 599], (F, F, F, F), Effect.NONE, False),
    ([552], (F, D, F, F), Effect.NONE, False),
    ([530, 534, 535, 538], (R, R, R, R), Effect.REFUSED, False),
    ([LOST, -1, 1, 100, 300, 334, 399, 600, 999], (D, D, D, U), Effect.CUT, True),
]


@pytest.mark.parametrize(("codes", "verdicts", "means", "over"), TABLE)
def test_each_class_of_answers_has_its_meaning_at_each_step(
    codes: list[int], verdicts: tuple[Verdict, ...], means: Effect, over: bool
) -> None:
    for code in codes:
        assert tuple(judge(step, code) for step in OF_MAIL) == verdicts, code
        assert {effect(step, code) for step in OF_MAIL} == {means}, code
        assert closes(code) is over, code


@given(st.sampled_from(BEFORE_MAIL), CODES, st.booleans(), st.integers(0, 3))
def test_trouble_before_mail_is_never_the_fault_of_a_mail(step: Step, code: int, reused: bool, accepted: int) -> None:
    assert judge(step, code, reused=reused, accepted=accepted) is Verdict.RELAY


@given(STEPS, CODES, st.booleans(), st.integers(0, 3))
def test_no_answer_says_what_it_does_not_mean(step: Step, code: int, reused: bool, accepted: int) -> None:
    verdict = judge(step, code, reused=reused, accepted=accepted)
    means = effect(step, code, reused=reused)
    if verdict is Verdict.SENT:
        assert (step, code // 100) == (Step.DOT, 2)
    if verdict is Verdict.FAILED:
        assert code // 100 == 5
        assert code not in RELAY_CODES
    if verdict is Verdict.UNKNOWN:
        assert step is Step.DOT
        assert closes(code)
    if verdict is Verdict.AGAIN:
        assert (step is Step.MAIL and reused) or (step is Step.RCPT and accepted)
    if code in RELAY_CODES:
        assert (verdict, means) == (Verdict.RELAY, Effect.REFUSED)
    if means in (Effect.CUT, Effect.CROWDED):
        assert closes(code)


@pytest.mark.parametrize("code", [LOST, 421])
def test_a_connection_that_was_closed_while_idle_costs_the_mail_nothing(code: int) -> None:
    assert judge(Step.MAIL, code, reused=True) is Verdict.AGAIN
    for step in (Step.RCPT, Step.DATA):
        assert judge(step, code, reused=True) is Verdict.DEFERRED
    assert judge(Step.DOT, LOST, reused=True) is Verdict.UNKNOWN
    assert effect(Step.MAIL, LOST, reused=True) is Effect.NONE


@pytest.mark.parametrize("code", [452, 552])
def test_too_many_recipients_go_again_at_once_if_some_were_taken(code: int) -> None:
    assert judge(Step.RCPT, code, accepted=1) is Verdict.AGAIN
    assert judge(Step.RCPT, code, accepted=0) is Verdict.DEFERRED


def test_354_is_right_for_data_only() -> None:
    assert effect(Step.DATA, 354) is Effect.NONE
    for step in (Step.MAIL, Step.RCPT, Step.DOT):
        assert effect(step, 354) is Effect.CUT


# The pause that an answer asks for.


@pytest.mark.parametrize(
    ("text", "pause_s"),
    [
        ("4.7.1 <a@x>: Recipient address rejected: Greylisted for 300 seconds (see https://postgrey.example/x.html)", 300),
        ("4.2.0 <a@x>: Recipient address rejected: Greylisted, try again in 120 seconds", 120),
        ("4.7.1 Greylisted, please try again in 180 seconds", 180),
        ("please retry in 5 minutes", 300),
        ("4.7.0 Temporarily rejected. Try again in 10 min.", 600),
        ("4.3.2 please wait 30s and try again", 30),
        ("4.7.1 Try again after 45 secs", 45),
        ("Rate limit reached, retry after 1 hour", 3600),
        ("Requested action aborted: try again within 2 hours", 3600),
        ("TRY AGAIN IN 90 SECONDS", 90),
        ("4.7.1 You have been greylisted; come back in 1 minute", 60),
        ("Too many messages, wait 0 seconds", 0),
        ("try again in 999999 seconds", 3600),
    ],
)
def test_a_pause_that_is_asked_for_is_understood(text: str, pause_s: int) -> None:
    assert again_in_s(text) == pause_s


@pytest.mark.parametrize(
    "text",
    [
        "4.2.0 <a@x>: Recipient address rejected: Greylisted, see http://postgrey.schweikert.ch/help/x.html",
        "4.7.1 Greylisting in action, please come back later",
        "4.7.1 Try again later",
        "4.2.1 The user you are trying to contact is receiving mail too quickly. Please resend your message at a later time.",
        "4.7.28 Our system has detected an unusual rate of mail from your IP address [192.0.2.1       15].",
        "4.7.0 [TS01] Messages from 192.0.2.1 temporarily deferred due to user complaints - 4.16.55.1; see https://x.example/e",
        "4.7.0 Try again later, closing connection. (EHLO) a640c23a62f3a-ab7732e70sm1m.12 - gsmtp",
        "4.7.0 too many connections for 192.0.2.1 s",
        "4.7.650 The mail server [192.0.2.1] has been temporarily rate limited due to IP reputation",
        "4.5.3 Too many recipients in this transaction for 100 users",
        "4.3.1 Insufficient system storage for 10485760 bytes",
        "4.3.1 quota for 10 MB mailbox exceeded",
        "4.7.1 limit of 100 messages per 60 minutes reached",
        "5.3.4 Message size 12345678 exceeds limit for 10240000 octets",
        "retry time not reached for any host after a long failure period",
        "2.0.0 Ok: queued as 4F2M for 7",
        "4.4.2 mx.example Error: timeout exceeded",
        "try again in a few minutes",
        "try again on 2026-11-23 10:00:00",
        "",
    ],
)
def test_other_numbers_are_no_time(text: str) -> None:
    assert again_in_s(text) is None


@pytest.mark.parametrize(
    ("text", "pause_s"),
    [
        ("4.7.1 Greylisting in action, please come back in 00:04:59", 299),  # milter-greylist
        ("rate limited: 100 messages per 60 minutes, retry after 00:05:00", 300),
    ],
)
def test_a_pause_by_the_clock_is_understood(text: str, pause_s: int) -> None:
    assert again_in_s(text) == pause_s


@given(st.text(max_size=60), st.integers(0, 10**9), st.sampled_from(["s", "seconds", "m", "min", "minutes", "h", "hours"]))
def test_no_pause_is_longer_than_an_hour(before: str, number: int, unit: str) -> None:
    pause_s = again_in_s(f"{before} try again in {number} {unit}")
    assert pause_s is None or 0 <= pause_s <= 3600


# When the next try is due.


def test_a_mail_waits_5_s_doubling_to_an_hour() -> None:
    assert [retry_pause_s(failures, 0.0) for failures in (1, 2, 3, 10, 11, 5000)] == [5, 10, 20, 2560, 3600, 3600]


@given(st.integers(1, 10_000), st.floats(0, 1))
def test_jitter_takes_a_fifth_at_most(failures: int, chance: float) -> None:
    whole = retry_pause_s(failures, 0.0)
    assert 0.8 * whole - 1e-9 <= retry_pause_s(failures, chance) <= whole


NOW = 10_000.0


@pytest.mark.parametrize(
    ("verdict", "failures", "left_s", "asked_s", "becomes"),
    [
        (S, 2, 1000.0, None, ("sent", 2, NOW)),
        (F, 0, 1000.0, None, ("failed", 0, NOW)),
        (Verdict.EXPIRED, 1, 0.0, None, ("expired", 1, NOW)),
        (Verdict.AGAIN, 1, 1000.0, None, ("queued", 1, 0.0)),
        (Verdict.AGAIN, 1, -1.0, None, ("queued", 1, 0.0)),
        (R, 1, 1000.0, None, ("deferred", 1, NOW)),
        (R, 1, -1.0, None, ("deferred", 1, NOW)),  # expired by the lane's own look-out, with a better reason
        (D, 0, 1000.0, None, ("deferred", 1, NOW + 5)),
        (D, 1, 1000.0, None, ("deferred", 2, NOW + 10)),
        (D, 1, 1000.0, 300.0, ("deferred", 2, NOW + 300)),
        (D, 1, 1000.0, 0.0, ("deferred", 2, NOW + 1)),
        (D, 1, 1000.0, 3600.0, ("deferred", 2, NOW + 970)),  # not behind its age, but in the last minute of it
        (D, 12, 1000.0, None, ("deferred", 13, NOW + 970)),
        (D, 12, 60.0, None, ("expired", 12, NOW)),
        (D, 1, -5.0, None, ("expired", 1, NOW)),
        (D, 1, -5.0, 300.0, ("expired", 1, NOW)),
        (D, 0, -5.0, None, ("deferred", 1, NOW + 1)),  # a mail late from the start gets a second try, and no third
        (D, 0, 60.0, None, ("deferred", 1, NOW + 5)),
        (U, 1, -5.0, None, ("expired", 1, NOW)),
    ],
)
def test_what_a_recipient_becomes(
    verdict: Verdict, failures: int, left_s: float, asked_s: float | None, becomes: tuple[str, int, float]
) -> None:
    assert outcome(verdict, failures, NOW, NOW + left_s, 0.0, asked_s) == becomes


def test_the_first_that_may_have_arrived_is_tried_at_once() -> None:
    assert outcome(Verdict.UNKNOWN, 0, NOW, NOW + 1000.0, 0.0) == ("unknown", 1, NOW)


def test_one_that_is_cut_off_behind_the_dot_again_and_again_waits_longer_and_longer() -> None:
    pauses = [outcome(Verdict.UNKNOWN, failures, NOW, NOW + 1e6, 0.0)[2] - NOW for failures in range(1, 6)]
    assert pauses == sorted(set(pauses))
    assert pauses[-1] >= 40.0


@given(
    st.sampled_from([D, U, R, S, F]),
    st.integers(0, 30),
    st.floats(-100, 1e6),
    st.floats(0, 1),
    st.one_of(st.none(), st.floats(0, 3600)),
)
def test_each_try_counts_and_none_is_due_in_the_past_or_long_behind_the_age(
    verdict: Verdict, failures: int, left_s: float, chance: float, asked_s: float | None
) -> None:
    state, counted, due_at = outcome(verdict, failures, NOW, NOW + left_s, chance, asked_s)
    assert state in ("sent", "failed", "expired", "deferred", "unknown")
    assert due_at >= NOW
    assert counted == failures + (verdict in (D, U) and state != "expired")
    if state == "deferred":
        assert due_at <= max(NOW + 1.0, NOW + left_s)


def test_every_mail_that_is_only_deferred_expires() -> None:
    now, failures, tries = 0.0, 0, 0
    state = "queued"
    while state != "expired":
        state, failures, now = outcome(Verdict.DEFERRED, failures, now, 5 * 86400.0, 0.5)
        tries += 1
    assert 5 * 86400.0 - 60.0 <= now <= 5 * 86400.0
    assert 120 <= tries <= 160, "about each hour"
