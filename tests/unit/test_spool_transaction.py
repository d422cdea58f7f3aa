"""Mail transactions against a relay that keeps the rules of SMTP and says what it is told to."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.unit.spool_fakes import ALL, CUT, SILENT, TAKEN_CUT, FakeRelay, Watch, a_mail, courier, run
from workers.spool.attempt import Attempt
from workers.spool.content import Content
from workers.spool.delivery import Effect, Verdict
from workers.spool.transaction import Limits, stuffed
from workers.store.database import StoreError

ONE_BY_ONE = {name: value for name, value in ALL.items() if name != "pipelining"}
BARE: dict[str, str] = {}
BOTH = pytest.mark.parametrize("extensions", [ALL, ONE_BY_ONE], ids=["pipelining", "one by one"])
Script = list[int | str | None]


class Talk:
    """Mails one after another over one connection, as a lane hands them in: the second behind the first's dot."""

    guard: type[Watch] = Watch

    def __init__(self, mails: list[Attempt], answers: Script, extensions: dict[str, str] = ALL, **more: Any) -> None:
        self.attempts = list(mails)
        self.done: list[Attempt] = []
        self.begun: Attempt | None = None  # at the end, begun and not brought to its end
        self.error: StoreError | None = None
        self.elapsed_s = 0.0
        run(self._run(answers, extensions, **more))

    async def _run(
        self, answers: Script, extensions: dict[str, str], holds: bool = True, jam_at: int | None = None, **watch: Any
    ) -> None:
        self.relay = FakeRelay(answers, pipelining="pipelining" in extensions)
        self.relay.jam_at = jam_at
        self.watch = self.guard(self.relay, self.attempts[1:], holds=holds)
        for name, value in watch.items():
            setattr(self.watch, name, value)
        self.courier = courier(self.relay, self.watch, extensions)
        loop = asyncio.get_running_loop()
        ticks = loop.create_task(self._tick())
        following: Attempt | None = None
        try:
            attempt = self.attempts[0]
            while self.courier.lost is None:
                if following is None and self.courier.is_stale():
                    break
                _, following = await self.courier.deliver(attempt)
                self.done.append(attempt)
                if following is None and not self.watch.following:
                    break
                attempt = following or self.watch.following.pop(0)
            self.begun = following
        except StoreError as error:
            self.error = error
        self.elapsed_s = loop.time()
        self.lost = self.courier.lost
        ticks.cancel()

    async def _tick(self) -> None:
        while True:
            await asyncio.sleep(1.0)
            self.courier.expire(asyncio.get_running_loop().time())

    def verdicts(self, number: int = 0) -> list[Verdict]:
        by_id = {recipient.id: verdict for recipient, verdict, _, _ in self.done[number].results}
        return [by_id[recipient.id] for recipient in self.done[number].mail.recipients]


def attempt(number: int = 1, *addresses: str, **more: Any) -> Attempt:
    return Attempt(a_mail(number, *addresses, **more))


def two() -> list[Attempt]:
    return [attempt(1), attempt(2)]


# The right way.


def test_with_pipelining_an_envelope_is_one_write_and_the_next_one_goes_with_the_dot() -> None:
    talk = Talk([attempt(1, "a@x", "b@x"), attempt(2)], [])
    envelope = b"MAIL FROM:<s1@x> SIZE=3\r\nRCPT TO:<a@x>\r\nRCPT TO:<b@x>\r\nDATA\r\n"
    assert talk.relay.writes[0] == envelope
    assert b"".join(talk.relay.writes[1:3]).startswith(b"x\r\n.\r\nMAIL FROM:<s2@x> SIZE=3\r\nRCPT TO:<r2@x>\r\nDATA\r\n")
    assert talk.relay.events[:6] == ["write", "note", "write", "dot", "write", "taken"], "behind the dot, before its answer"
    assert [talk.verdicts(0), talk.verdicts(1)] == [[Verdict.SENT] * 2, [Verdict.SENT]]
    assert talk.lost is None


def test_without_pipelining_each_command_waits_for_the_answer_to_the_one_before() -> None:
    talk = Talk([attempt(1, "a@x", "b@x"), attempt(2)], [], ONE_BY_ONE)
    assert not talk.relay.hasty
    assert [(mail.sender, mail.recipients) for mail in talk.relay.taken] == [("s1@x", ["a@x", "b@x"]), ("s2@x", ["r2@x"])]


@BOTH
def test_the_note_stands_before_the_dot_and_the_answer_is_told(extensions: dict[str, str]) -> None:
    talk = Talk([attempt()], [], extensions)
    events = [event for event in talk.relay.events if event != "write"]
    assert events == ["note", "dot", "taken"]
    ((_, verdict, words, asked_s),) = talk.done[0].results
    assert (verdict, words, asked_s) == (Verdict.SENT, "250 words", None)


@pytest.mark.parametrize(
    ("extensions", "mail", "said"),
    [
        (BARE, {"eight_bit": True}, "MAIL FROM:<s1@x>"),
        ({"size": ""}, {}, "MAIL FROM:<s1@x> SIZE=3"),
        ({"8bitmime": ""}, {}, "MAIL FROM:<s1@x>"),
        ({"8bitmime": ""}, {"eight_bit": True}, "MAIL FROM:<s1@x> BODY=8BITMIME"),
        ({"smtputf8": ""}, {"sender": "ä@x"}, "MAIL FROM:<ä@x> SMTPUTF8"),
        ({"smtputf8": ""}, {}, "MAIL FROM:<s1@x>"),
        (BARE, {"sender": ""}, "MAIL FROM:<>"),
        (ALL, {"eight_bit": True, "sender": "ä@x"}, "MAIL FROM:<ä@x> SIZE=3 BODY=8BITMIME SMTPUTF8"),
    ],
)
def test_mail_names_what_the_relay_offers_and_the_mail_needs(extensions: dict[str, str], mail: dict[str, Any], said: str) -> None:
    assert Talk([attempt(**mail)], [], extensions).relay.commands[0] == said


def test_a_recipient_alone_may_need_smtputf8() -> None:
    assert Talk([attempt(1, "ö@x")], []).relay.commands[0].endswith(" SMTPUTF8")


def test_content_made_anew_is_what_is_sent_and_measured() -> None:
    one = attempt()
    one.content = Content(b".other\r\n")
    talk = Talk([one], [])
    assert talk.relay.commands[0] == "MAIL FROM:<s1@x> SIZE=8"
    assert talk.relay.taken[0].body == b".other\r\n"


@pytest.mark.parametrize("extensions", [{"pipelining": ""}, BARE], ids=["pipelining", "one by one"])
def test_without_smtputf8_only_those_who_need_it_fail(extensions: dict[str, str]) -> None:
    talk = Talk([attempt(1, "ä@x", "good@x"), attempt(2, "ö@x"), attempt(3, sender="ä@x"), attempt(4)], [], extensions)
    verdicts = [talk.verdicts(number) for number in range(4)]
    assert verdicts == [[Verdict.FAILED, Verdict.SENT], [Verdict.FAILED], [Verdict.FAILED], [Verdict.SENT]]
    assert [mail.recipients for mail in talk.relay.taken] == [["good@x"], ["r4@x"]]
    assert "SMTPUTF8" in talk.done[1].results[0][2]


# The body.


@given(st.lists(st.sampled_from([b"\r\n", b".", b"\r", b"\n", b"x", b""]), max_size=30))
def test_any_cut_of_a_message_is_stuffed_like_the_whole(parts: list[bytes]) -> None:
    end, done = b"\r\n", b""
    for part in parts:
        done += stuffed(part, end)
        end = (end + part)[-2:]
    whole = b"".join(parts)
    assert done == stuffed(whole, b"\r\n")
    assert (b"\r\n" + done).replace(b"\r\n..", b"\r\n.") == b"\r\n" + whole
    assert b"\r\n.\r\n" not in b"\r\n" + done, "the end of data is never in it"


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_a_message_in_parts_arrives_as_it_is(data: st.DataObject) -> None:
    lines = data.draw(st.lists(st.sampled_from([b"", b".", b"..", b"x", b".x", b"x" * 70000]), max_size=8))
    body = b"".join(line + b"\r\n" for line in lines)
    cuts = sorted(data.draw(st.lists(st.integers(0, len(body)), max_size=6)))
    parts = [body[start:end] for start, end in zip([0, *cuts], [*cuts, len(body)], strict=True)]
    talk = Talk([attempt(1, body=None), attempt(2)], [], split={1: parts})
    assert [mail.body for mail in talk.relay.taken] == [body, b"x\r\n"]


def test_a_body_goes_out_in_blocks_and_the_dot_with_the_last_of_them() -> None:
    talk = Talk([attempt(body=None)], [], split={1: [b"a" * 99998 + b"\r\n"] * 3})
    assert max(map(len, talk.relay.writes)) <= 65536 + 3
    assert talk.relay.writes[-1].endswith(b"a\r\n.\r\n")
    assert len(talk.relay.writes[-1]) > 5


# Refusals.

REFUSALS = [
    ([450], Verdict.DEFERRED, Effect.NONE, True),
    ([550], Verdict.FAILED, Effect.NONE, True),
    ([530], Verdict.RELAY, Effect.REFUSED, True),
    ([421], Verdict.DEFERRED, Effect.CROWDED, False),
    ([CUT], Verdict.DEFERRED, Effect.CUT, False),
    (["x"], Verdict.DEFERRED, Effect.CUT, False),
    ([354], Verdict.DEFERRED, Effect.CUT, False),
    ([250, 451], Verdict.DEFERRED, Effect.NONE, True),
    ([250, 550], Verdict.FAILED, Effect.NONE, True),
    ([250, 535], Verdict.RELAY, Effect.REFUSED, True),
    ([250, 421], Verdict.DEFERRED, Effect.CROWDED, False),
    ([250, CUT], Verdict.DEFERRED, Effect.CUT, False),
    ([250, 452], Verdict.DEFERRED, Effect.NONE, True),
    ([250, 552], Verdict.DEFERRED, Effect.NONE, True),
    ([250, 250, 451], Verdict.DEFERRED, Effect.NONE, True),
    ([250, 250, 554], Verdict.FAILED, Effect.NONE, True),
    ([250, 250, 538], Verdict.RELAY, Effect.REFUSED, True),
    ([250, 250, 421], Verdict.DEFERRED, Effect.CROWDED, False),
    ([250, 250, CUT], Verdict.DEFERRED, Effect.CUT, False),
    ([250, 250, 354, 451], Verdict.DEFERRED, Effect.NONE, True),
    ([250, 250, 354, 554], Verdict.FAILED, Effect.NONE, True),
    ([250, 250, 354, 552], Verdict.FAILED, Effect.NONE, True),
    ([250, 250, 354, 534], Verdict.RELAY, Effect.REFUSED, True),
    ([250, 250, 354, 421], Verdict.DEFERRED, Effect.CROWDED, False),
    ([250, 250, 354, CUT], Verdict.UNKNOWN, Effect.CUT, False),
    ([250, 250, 354, TAKEN_CUT], Verdict.UNKNOWN, Effect.CUT, False),
    ([250, 250, 354, "junk"], Verdict.UNKNOWN, Effect.CUT, False),
    ([250, 250, 354, 354], Verdict.UNKNOWN, Effect.CUT, False),
]


@BOTH
@pytest.mark.parametrize(("answers", "verdict", "effect", "keeps"), REFUSALS)
def test_a_refusal_has_its_verdict_and_the_next_mail_is_none_the_worse(
    answers: Script, verdict: Verdict, effect: Effect, keeps: bool, extensions: dict[str, str]
) -> None:
    if answers == ["x"]:
        answers = ["no SMTP at all"]
    talk = Talk(two(), ["999 no such code" if each == "junk" else each for each in answers], extensions)
    assert talk.verdicts() == [verdict]
    assert talk.done[0].effect is effect
    assert bool(talk.done[0].trouble) == (effect is not Effect.NONE)
    assert (talk.lost is None) == keeps
    if keeps:
        assert talk.verdicts(1) == [Verdict.SENT]
        assert [(mail.sender, mail.body) for mail in talk.relay.taken] == [("s2@x", b"x\r\n")]
    assert not talk.relay.hasty


@BOTH
def test_each_recipient_has_its_own_answer(extensions: dict[str, str]) -> None:
    answers: Script = [250, 550, 250, "450 4.7.1 try again in 120 seconds", 535]
    talk = Talk([attempt(1, "bad@x", "good@x", "later@x", "login@x")], answers, extensions)
    assert talk.verdicts() == [Verdict.FAILED, Verdict.SENT, Verdict.DEFERRED, Verdict.RELAY]
    asked = {recipient.address: asked_s for recipient, _, _, asked_s in talk.done[0].results}
    assert asked == {"bad@x": None, "good@x": None, "later@x": 120.0, "login@x": None}
    assert talk.done[0].effect is Effect.REFUSED


def test_a_data_that_was_taken_for_nobody_is_ended_by_the_dot_alone() -> None:
    talk = Talk(two(), [250, 550, 354])
    assert talk.relay.bodies == [b"", b"x\r\n"], "nothing of the mail goes to a relay that refused all"
    assert [talk.verdicts(0), talk.verdicts(1)] == [[Verdict.FAILED], [Verdict.SENT]]
    assert talk.watch.noted == [talk.attempts[1]]


@BOTH
@pytest.mark.parametrize("code", [452, 552])
def test_too_many_recipients_leave_the_rest_for_another_transaction(code: int, extensions: dict[str, str]) -> None:
    talk = Talk([attempt(1, "a@x", "b@x", "c@x", "d@x")], [250, 250, 250, code, code], extensions)
    assert talk.verdicts() == [Verdict.SENT, Verdict.SENT, Verdict.AGAIN, Verdict.AGAIN]
    assert talk.done[0].most_recipients == 2
    assert talk.done[0].effect is Effect.NONE


@pytest.mark.parametrize("answer", ["452 4.2.2 mailbox full", "552 5.2.2 over quota"])
def test_a_full_mailbox_is_no_limit_of_the_relay(answer: str) -> None:
    talk = Talk([attempt(1, "a@x", "full@x")], [250, 250, answer])
    assert talk.done[0].most_recipients is None


@BOTH
@pytest.mark.parametrize("cut", [CUT, 421])
def test_a_cut_in_the_middle_of_the_recipients_keeps_what_was_said(cut: int | str, extensions: dict[str, str]) -> None:
    talk = Talk([attempt(1, "bad@x", "a@x", "b@x")], [250, 550, 250, cut], extensions)
    assert talk.verdicts() == [Verdict.FAILED, Verdict.DEFERRED, Verdict.DEFERRED]
    assert talk.lost is not None


@BOTH
@pytest.mark.parametrize("cut", [CUT, 421])
def test_a_connection_that_is_closed_between_mails_costs_the_second_nothing(cut: int | str, extensions: dict[str, str]) -> None:
    talk = Talk(two(), [250, 250, 354, 250, cut], extensions)
    assert talk.verdicts(0) == [Verdict.SENT]
    if talk.begun is None:
        assert talk.verdicts(1) == [Verdict.AGAIN]
        assert talk.done[1].effect is Effect.NONE
    else:
        assert talk.begun.results == []
    assert talk.lost is not None


def test_a_mail_begun_behind_a_dot_without_an_answer_is_handed_back_untouched() -> None:
    talk = Talk(two(), [250, 250, 354, TAKEN_CUT])
    assert talk.verdicts() == [Verdict.UNKNOWN]
    assert talk.begun is talk.attempts[1]
    assert talk.begun.results == []


def test_a_reset_that_fails_only_ends_the_connection() -> None:
    talk = Talk([attempt()], [550, None, 421], ONE_BY_ONE)
    assert talk.verdicts() == [Verdict.FAILED]
    assert talk.relay.commands[-1] == "RSET"
    assert talk.done[0].effect is Effect.NONE


@pytest.mark.parametrize("extensions", [ALL, ONE_BY_ONE], ids=["pipelining", "one by one"])
def test_a_yes_in_place_of_354_hands_nothing_over(extensions: dict[str, str]) -> None:
    talk = Talk([attempt()], [250, 250, 250], extensions)
    assert talk.verdicts() == [Verdict.DEFERRED]
    assert talk.relay.bodies == []


# The step that can't be taken back.


@BOTH
@pytest.mark.parametrize("body", [b"x\r\n", b"y" * 200_000 + b"\r\n"], ids=["small", "big"])
def test_no_dot_goes_out_when_the_lease_is_over(body: bytes, extensions: dict[str, str]) -> None:
    talk = Talk([attempt(1, "bad@x", "a@x", body=body), attempt(2)], [250, 550], extensions, holds=False)
    assert talk.verdicts() == [Verdict.FAILED, Verdict.RELAY]
    assert talk.relay.bodies == []
    assert talk.lost is not None
    assert talk.watch.told == []
    assert talk.done[0].effect is Effect.NONE, "it is no fault of the relay"


def test_a_body_that_cannot_be_read_hands_nothing_over() -> None:
    fault = StoreError("busy", "in use")
    talk = Talk([attempt(body=None)], [], split={1: [b"x\r\n", b"y" * 100_000]}, fault=fault)
    assert talk.error is fault
    assert talk.lost is not None
    assert talk.relay.bodies == []
    assert talk.watch.noted == []


def test_an_answer_before_the_dot_is_not_the_answer_to_the_dot() -> None:
    class Early(Watch):
        def parts(self, attempt: Attempt) -> list[bytes]:
            self.relay.say("250 unasked")
            return [b"x\r\n"]

    async def talk() -> list[Verdict]:
        relay = FakeRelay([250, 250, 354, 554])
        one = attempt(body=None)
        await courier(relay, Early(relay)).deliver(one)
        return [verdict for _, verdict, _, _ in one.results]

    assert run(talk()) != [Verdict.SENT], "it was refused"


# Time.


@BOTH
@pytest.mark.parametrize(
    ("answers", "limit_s", "verdict"),
    [
        ([SILENT], 300.0, Verdict.DEFERRED),
        ([250, SILENT], 300.0, Verdict.DEFERRED),
        ([250, 250, SILENT], 120.0, Verdict.DEFERRED),
        ([250, 250, 354, SILENT], 600.0, Verdict.UNKNOWN),
        ([550, None, SILENT], 300.0, Verdict.FAILED),
    ],
)
def test_each_step_has_its_limit(answers: Script, limit_s: float, verdict: Verdict, extensions: dict[str, str]) -> None:
    if answers[0] == 550 and "pipelining" in extensions:
        answers = [550, None, None, SILENT]
    elif answers[0] == 550:
        answers = [550, SILENT]
    talk = Talk([attempt()], answers, extensions)
    assert limit_s <= talk.elapsed_s <= limit_s + 3.0
    assert talk.verdicts() == [verdict]
    assert talk.lost == f"no answer within {limit_s:.0f} s" or talk.lost == "RSET was refused"


def test_a_relay_that_takes_no_more_of_a_body_is_left() -> None:
    talk = Talk([attempt(body=b"x" * 500_000 + b"\r\n")], [], jam_at=200_000)
    assert talk.verdicts() == [Verdict.DEFERRED]
    assert 180.0 <= talk.elapsed_s <= 183.0
    assert talk.relay.bodies == []


def test_closing_says_quit_and_waits_two_seconds_at_most() -> None:
    async def close(answers: Script) -> tuple[list[str], str | None, float]:
        relay = FakeRelay(answers)
        way = courier(relay, Watch(relay), ALL, Limits())
        closing = asyncio.get_running_loop().create_task(way.close())
        while not closing.done():
            await asyncio.sleep(0.5)
            way.expire(asyncio.get_running_loop().time())
        return relay.commands, way.lost, asyncio.get_running_loop().time()

    commands, lost, elapsed_s = run(close([]))
    assert (commands, lost) == (["QUIT"], "closed")
    assert elapsed_s < 1.0
    commands, lost, elapsed_s = run(close([SILENT]))
    assert (commands, lost is None) == (["QUIT"], False)
    assert 2.0 <= elapsed_s <= 3.0


# All scripts.

CODES = st.sampled_from(
    [None, None, None, None, 250, 250, 354, 354, 450, 452, 550, 552, 530, 421, 503, CUT, TAKEN_CUT, "no SMTP", "999 ?", "000 ?"]
)
ADDRESSES = st.lists(st.sampled_from(["a@x", "b@x", "c@x", "ä@x"]), min_size=1, max_size=4, unique=True)
BODIES = [b"", b"one\r\n", b".\r\ntwo\r\n", b"three\r\n" * 20_000]
OFFERS = [ALL, ONE_BY_ONE, BARE, {"pipelining": ""}]


@settings(max_examples=400, deadline=None)
@given(
    st.lists(CODES, max_size=40),
    st.lists(ADDRESSES, min_size=1, max_size=4),
    st.sampled_from(OFFERS),
    st.lists(st.booleans(), min_size=4, max_size=4),
)
def test_whatever_a_relay_says_no_mail_is_lost_doubled_or_mixed(
    answers: Script, envelopes: list[list[str]], extensions: dict[str, str], holds: list[bool]
) -> None:
    mails = [attempt(at, *addresses, body=BODIES[at]) for at, addresses in enumerate(envelopes)]
    talk = Leased(mails, answers, extensions, holds)
    relay = talk.relay
    assert talk.done, "the first is always brought to its end"
    for each in talk.done:
        found = [recipient.id for recipient, _, _, _ in each.results]
        assert sorted(found) == [recipient.id for recipient in each.mail.recipients], "one result for each recipient"
        assert each.waiting == []
    mine = {f"s{at}@x": one for at, one in enumerate(mails)}
    sent = [
        (each.mail.sender, recipient.address) for each in talk.done for recipient, v, _, _ in each.results if v is Verdict.SENT
    ]
    cut = [
        (each.mail.sender, recipient.address) for each in talk.done for recipient, v, _, _ in each.results if v is Verdict.UNKNOWN
    ]
    taken = [(mail.sender, recipient) for mail in relay.taken for recipient in mail.recipients]
    assert len(set(taken)) == len(taken), "nobody gets it twice"
    assert set(sent) <= set(taken) <= set(sent) | set(cut)
    for mail in relay.taken:
        if mail.recipients:
            assert mail.body == mine[mail.sender].mail.body
            assert holds[mine[mail.sender].mail.id], "no dot behind a lease that is over"
    for each in talk.done:
        if each.effect is not Effect.NONE:
            assert each.trouble
    assert talk.watch.told == [each for each in talk.done if any(result[1] is Verdict.SENT for result in each.results)]
    assert not relay.hasty


class Leased(Talk):
    """A talk whose lease holds for some of its mails."""

    def __init__(self, mails: list[Attempt], answers: Script, extensions: dict[str, str], leases: list[bool]) -> None:
        class Fickle(Watch):
            def past_dot(self, attempt: Attempt) -> bool:
                super().past_dot(attempt)
                return leases[attempt.mail.id]

        self.guard = Fickle
        super().__init__(mails, answers, extensions)
