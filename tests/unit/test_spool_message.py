"""A message on acceptance: what changes, and that nothing else does."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from workers.spool import message

MISSING = {"From": "u@h", "Message-ID": "<id@h>", "Date": "today"}
COMPLETE = b"From: a@b\r\nMessage-ID: <1@b>\r\nDate: Mon, 01 Jan 2024 00:00:00 +0000\r\n"


def accepted(raw: bytes) -> bytes:
    fields, body = message.split(message.normalise(raw))
    return message.finish(fields, body, MISSING)


@pytest.mark.parametrize(
    "raw",
    [
        COMPLETE + b"\r\n",
        COMPLETE + b"\r\nbody\r\n",
        COMPLETE + b"Subject: \xe4\xf6 raw 8-bit\r\nX-Odd   : kept\r\n\r\n\xff\xfe\x00 any bytes\r\n",
        COMPLETE + b"X-Folded: one\r\n\ttwo\r\n  three\r\nX-Empty:\r\n\r\n\r\n\r\n.\r\n..\r\n.x\r\n",
        b"Received: from x\r\nX-A: 1\r\n" + COMPLETE + b"X-A: 2\r\n\r\nBcc: this is body\r\nReturn-Path: too\r\n",
        COMPLETE + b"\r\n" + b"x" * 5000 + b"\r\n",
        COMPLETE + b"\r\n >From here\r\nFrom there\r\n",
    ],
)
def test_a_complete_message_with_crlf_leaves_byte_for_byte(raw: bytes) -> None:
    assert accepted(raw) == raw


@given(st.binary().map(lambda body: body.replace(b"\r", b"").replace(b"\n", b"\r\n") + b"\r\n"))
def test_any_body_with_crlf_leaves_byte_for_byte(body: bytes) -> None:
    assert accepted(COMPLETE + b"\r\n" + body) == COMPLETE + b"\r\n" + body


@given(st.binary())
def test_no_accepted_message_has_a_bare_cr_or_lf(raw: bytes) -> None:
    rest = accepted(raw).replace(b"\r\n", b"")
    assert b"\r" not in rest
    assert b"\n" not in rest


@given(st.binary(), st.binary())
def test_acceptance_is_the_same_a_second_time(head: bytes, body: bytes) -> None:
    once = accepted(b"X-" + head + b"\n\n" + body)
    assert accepted(once) == once


@pytest.mark.parametrize(
    ("raw", "normal"),
    [
        (b"a\nb\n", b"a\r\nb\r\n"),
        (b"a\r\nb\n", b"a\r\nb\r\n"),
        (b"a\rb\n", b"a b\r\n"),
        (b"a\r\r\nb", b"a \r\nb\r\n"),
        (b"x\n\r.\r\n", b"x\r\n .\r\n"),
        (b"x\r.\r\n", b"x .\r\n"),
        (b"", b""),
        (b"From root Mon Jan  1\nSubject: x\n", b"Subject: x\r\n"),
        (b"From: root\n", b"From: root\r\n"),
    ],
)
def test_lines_end_in_crlf_and_a_bare_cr_is_a_space(raw: bytes, normal: bytes) -> None:
    assert message.normalise(raw) == normal


def test_fields_that_would_tell_secrets_go_with_their_folded_lines() -> None:
    raw = (
        b"Bcc: one@x,\n two@x,\n\tthree@x\nSubject: s\nbCC : four@x\nResent-Bcc: five@x\n"
        b"Return-Path: <r@x>\nContent-Length: 3\nBcc-Not: kept\n" + COMPLETE + b"\nbody\n"
    )
    assert accepted(raw) == b"Subject: s\r\nBcc-Not: kept\r\n" + COMPLETE + b"\r\nbody\r\n"


def test_missing_fields_are_added_behind_the_others() -> None:
    assert accepted(b"Subject: s\n\nb\n") == (b"Subject: s\r\nFrom: u@h\r\nMessage-ID: <id@h>\r\nDate: today\r\n\r\nb\r\n")


def test_present_fields_are_not_added_in_any_spelling() -> None:
    raw = b"FROM: a\r\nmessage-id : <1>\r\nDATE:\r\n\r\nb\r\n"
    assert accepted(raw) == raw


@pytest.mark.parametrize("raw", [b"hello\n", b"\nhello\n", b" folded first\nhello\n", b"no colon here\n: no name\n"])
def test_text_without_header_is_all_body(raw: bytes) -> None:
    fields, body = message.split(message.normalise(raw))
    assert fields == []
    assert body == message.normalise(raw).removeprefix(b"\r\n")


def test_the_first_line_that_is_no_field_begins_the_body() -> None:
    fields, body = message.split(b"Subject: x\r\nnot a field\r\nBcc: y\r\n")
    assert fields == [b"Subject: x\r\n"]
    assert body == b"not a field\r\nBcc: y\r\n"


def test_recipients_of_a_message_sent_on_are_the_resent_ones() -> None:
    fields, _ = message.split(b"To: a@b\r\nResent-To: c@d,\r\n e@f\r\n\r\n")
    assert message.recipient_fields(fields) == ["c@d, e@f"]


def test_recipient_fields_come_unfolded_and_bcc_counts() -> None:
    fields, _ = message.split(b"To: a@b,\r\n\tc@d\r\nCc: e@f\r\nBcc: g@h\r\nReply-To: no@x\r\n\r\n")
    assert message.recipient_fields(fields) == ["a@b,\tc@d", "e@f", "g@h"]


def test_own_message_id_is_found() -> None:
    fields, _ = message.split(b"Message-Id: <own@x>\r\n\r\n")
    assert message.message_id(fields, "<other>") == "<own@x>"
    assert message.message_id([], "<other>") == "<other>"


@pytest.mark.parametrize(
    ("text", "sent"),
    [
        (b".\r\n", b"..\r\n"),
        (b"a\r\n.\r\nb\r\n", b"a\r\n..\r\nb\r\n"),
        (b"..x\r\n.y\r\n", b"...x\r\n..y\r\n"),
        (b"a.b\r\n", b"a.b\r\n"),
        (b"", b""),
    ],
)
def test_dots_at_the_start_of_a_line_are_doubled(text: bytes, sent: bytes) -> None:
    assert message.stuffed(text) == sent


@given(st.lists(st.binary().map(lambda line: line.replace(b"\r", b"").replace(b"\n", b""))))
def test_no_stuffed_message_ends_early(lines: list[bytes]) -> None:
    sent = message.stuffed(b"".join(line + b"\r\n" for line in lines))
    assert not sent.startswith(b".\r\n")
    assert b"\r\n.\r\n" not in sent
    received = [line.removeprefix(b".") for line in sent.split(b"\r\n")[:-1]]
    assert received == lines


@pytest.mark.parametrize(
    ("raw", "end"),
    [(b".\nx", 0), (b".\r\nx", 0), (b"a\n.\nb", 2), (b"a\r\n.\r\nb", 3), (b"a\n..\n", -1), (b"a.\n", -1), (b"", -1)],
)
def test_a_line_with_a_single_dot_ends_input(raw: bytes, end: int) -> None:
    assert message.end_at_dot(raw) == end


def test_the_name_in_from_is_quoted_or_encoded() -> None:
    assert message.from_value("a@b", "") == "a@b"
    assert message.from_value("a@b", 'Ann "X"\\\r\nBcc: x') == '"Ann \\"X\\"\\\\Bcc: x" <a@b>'
    assert message.from_value("a@b", "Ängström") == "=?utf-8?B?w4RuZ3N0csO2bQ==?= <a@b>"


@pytest.mark.parametrize(("offset_s", "zone"), [(0, "+0000"), (7200, "+0200"), (-12600, "-0330"), (20700, "+0545")])
def test_the_date_is_written_in_english_with_its_zone(offset_s: int, zone: str) -> None:
    assert message.date_value((2026, 11, 2, 9, 5, 7, 0, 306, 0), offset_s) == f"Mon, 02 Nov 2026 09:05:07 {zone}"
