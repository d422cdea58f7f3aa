"""Delivery status notifications: Python's own parser reads each, and finds no defect, whatever servers and senders say."""

from __future__ import annotations

import email
import re
from dataclasses import replace
from email import policy
from email.message import EmailMessage, Message

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from workers.spool.bounce import BOUNCES_PER_HOUR, Failure, Original, bounce, delay_warning, may_bounce, status_of

HOST = "app.example.org"
NOW = 1_793_610_310.0  # Mon, 02 Nov 2026 09:05:10 +0000
HEADER = b"From: Billing <billing@example.org>\r\nTo: ann@example.net\r\nSubject: Invoice 42\r\nMessage-ID: <1@example.org>\r\n"
ORIGINAL = Original("billing@example.org", "<1@example.org>", NOW - 3, 48_213, HEADER, "17")
SAID = "550 5.1.1 <ann@example.net>: User unknown"
FAILED = Failure("ann@example.net", "failed", "5.1.1", SAID, "smtp.example.org", 1, NOW - 1, None)
DELAYED = Failure("bob@example.net", "delayed", "4.4.1", "connection lost at MAIL: timed out", None, 7, NOW - 1, NOW + 3600)


def raw(original: Original = ORIGINAL, *failures: Failure, unique: str = "17.b") -> bytes:
    return bounce(original, list(failures) or [FAILED], host=HOST, now=NOW, unique=unique)


def parsed(text: bytes) -> EmailMessage:
    """The message, once it is sure that neither it nor anything in it has a defect or a line that can't be sent."""
    for line in text.removesuffix(b"\r\n").split(b"\r\n"):
        assert len(line) <= 998
        assert b"\r" not in line
        assert b"\n" not in line
        assert b"\0" not in line
    found = email.message_from_bytes(text, policy=policy.default)
    for part in found.walk():
        assert not part.defects
        for value in part.values():
            assert not value.defects
    return found


def parts(text: bytes) -> list[Message]:
    found = parsed(text).get_payload()
    assert isinstance(found, list)
    return [part for part in found if isinstance(part, Message)]


def words(text: bytes) -> str:
    part = parts(text)[0]
    assert isinstance(part, EmailMessage)
    return str(part.get_content()).replace("\r\n", "\n")


def flowing(text: bytes) -> str:
    return " ".join(words(text).split())


def groups(text: bytes) -> list[dict[str, str]]:
    """The fields of the delivery report, unfolded: those of the mail, then those of each recipient."""
    found = parts(text)[1].get_payload()
    assert isinstance(found, list)
    return [{name: str(value) for name, value in group.items()} for group in found if isinstance(group, Message)]


def returned(text: bytes) -> bytes:
    found = parts(text)[2].get_payload(decode=True)
    assert isinstance(found, bytes)
    return found


def test_a_bounce_has_the_header_of_a_bounce() -> None:
    assert raw().startswith(b'From: "Mail Delivery System" <MAILER-DAEMON@app.example.org>\r\nTo: billing@example.org\r\n')
    assert dict(parsed(raw()).items()) == {
        "From": "Mail Delivery System <MAILER-DAEMON@app.example.org>",
        "To": "billing@example.org",
        "Subject": "Your message could not be delivered",
        "Date": "Mon, 02 Nov 2026 09:05:10 +0000",
        "Message-ID": "<17.b@app.example.org>",
        "In-Reply-To": "<1@example.org>",
        "References": "<1@example.org>",
        "Auto-Submitted": "auto-replied",
        "MIME-Version": "1.0",
        "Content-Type": 'multipart/report; report-type="delivery-status"; boundary="=_17.b_0"',
    }


def test_a_bounce_has_the_three_parts_in_order() -> None:
    kinds = ["text/plain", "message/delivery-status", "text/rfc822-headers"]
    assert [part.get_content_type() for part in parts(raw())] == kinds


def test_a_simple_bounce_is_plain_ascii_without_any_encoding() -> None:
    text = raw()
    assert text.isascii()
    assert [part["Content-Transfer-Encoding"] for part in parts(text)] == ["7bit", None, "7bit"]


def test_a_person_reads_what_happened_and_what_comes_next() -> None:
    said = flowing(raw())
    assert f"This is the mail system of {HOST}." in said
    assert 'Your message "Invoice 42" (49 kB) of Mon, 02 Nov 2026 09:05:07 UTC could not be delivered to: ann@example.net' in said
    assert "There is no such mailbox." in said
    assert f"The mail server smtp.example.org said: {SAID}" in said
    assert "Attempts so far: 1, the last on Mon, 02 Nov 2026 09:05:09 UTC. It will not be tried again." in said
    assert "send the message again" in said
    assert said.endswith(f"run {HOST}: 17")


def test_the_words_fit_a_narrow_window() -> None:
    assert max(len(line) for line in words(raw(ORIGINAL, FAILED, DELAYED)).split("\n")) <= 72


def test_a_program_reads_the_fields() -> None:
    assert groups(raw()) == [
        {
            "Reporting-MTA": f"dns; {HOST}",
            "Arrival-Date": "Mon, 02 Nov 2026 09:05:07 +0000",
            "X-Semguard-Queue-ID": "17",
        },
        {
            "Final-Recipient": "rfc822; ann@example.net",
            "Action": "failed",
            "Status": "5.1.1",
            "Remote-MTA": "dns; smtp.example.org",
            "Diagnostic-Code": f"smtp; {SAID}",
            "Last-Attempt-Date": "Mon, 02 Nov 2026 09:05:09 +0000",
        },
    ]


def test_a_delay_warning_says_until_when_it_is_tried_again() -> None:
    text = delay_warning(ORIGINAL, [DELAYED], host=HOST, now=NOW, unique="17.w")
    assert parsed(text)["Subject"] == "Your message is delayed"
    assert groups(text)[1] == {
        "Final-Recipient": "rfc822; bob@example.net",
        "Action": "delayed",
        "Status": "4.4.1",
        "Diagnostic-Code": "x-semguard; connection lost at MAIL: timed out",
        "Last-Attempt-Date": "Mon, 02 Nov 2026 09:05:09 +0000",
        "Will-Retry-Until": "Mon, 02 Nov 2026 10:05:10 +0000",
    }
    said = flowing(text)
    assert "has not been delivered yet to: bob@example.net" in said
    assert "What happened: connection lost at MAIL: timed out" in said
    assert "Attempts so far: 7" in said
    assert "It will be tried again until Mon, 02 Nov 2026 10:05:10 UTC." in said
    assert "Please do not send the message again" in said


def test_what_is_given_up_after_its_time_says_so() -> None:
    late = replace(FAILED, status="4.2.0", answer="451 4.2.0 greylisted")
    assert "It will not be tried again: the time for it is over." in flowing(raw(ORIGINAL, late))
    assert "the time for it is over" not in flowing(raw())


def test_all_recipients_are_told_of_in_one_report() -> None:
    failures = [replace(FAILED, address=f"u{number}@example.net") for number in range(100)]
    text = raw(ORIGINAL, *failures)
    assert [group["Final-Recipient"] for group in groups(text)[1:]] == [f"rfc822; {one.address}" for one in failures]
    assert all(one.address in words(text) for one in failures)


def test_what_is_not_known_is_left_out() -> None:
    bare = Failure("ann@example.net", "delayed", "4.0.0", "", None, 0, None, None)
    text = raw(replace(ORIGINAL, header=b"", message_id=""), bare)
    assert groups(text)[1] == {"Final-Recipient": "rfc822; ann@example.net", "Action": "delayed", "Status": "4.0.0"}
    assert len(parts(text)) == 2
    assert parsed(text)["In-Reply-To"] is None
    assert parsed(text)["References"] is None
    assert "None" not in text.decode()
    assert "Your message (49 kB)" in words(text)


@pytest.mark.parametrize("odd", ["no brackets", "<a b@c>", "<a@b>\r\nX: y", "<a@b> <c@d>", "<ä@b>", f"<{'a' * 2000}@b>", "<>"])
def test_a_message_id_that_is_none_is_not_referred_to(odd: str) -> None:
    found = parsed(raw(replace(ORIGINAL, message_id=odd)))
    assert found["In-Reply-To"] is None
    assert found["References"] is None


@pytest.mark.parametrize(
    ("subject", "shown"),
    [
        (b"=?utf-8?q?Rechnung_f=C3=BCr?= =?UTF-8?B?TcOkcno=?=", '"Rechnung fürMärz"'),
        (b"=?iso-8859-1*de?Q?M=E4rz?= 2026", '"März 2026"'),
        (b"folded\r\n over lines", '"folded over lines"'),
        (b"raw M\xc3\xa4rz", '"raw März"'),
        (b"x" * 500, '"' + "x" * 80 + '..."'),
        (b"=?utf-8?B?YQpiAGM=?=", '"a b?c"'),
    ],
)
def test_the_subject_is_shown_as_people_read_it(subject: bytes, shown: str) -> None:
    text = raw(replace(ORIGINAL, header=b"To: a@b\r\nSubject: " + subject + b"\r\n"))
    assert f"Your message {shown} (49 kB)" in flowing(text)


@pytest.mark.parametrize("subject", [b"=?utf-7?Q?a?=", b"=?utf-8?B?abcde?=", b"=?utf-8?B?\xe4?=", b"", b" \r\n "])
def test_a_subject_that_nobody_could_read_is_left_out(subject: bytes) -> None:
    text = raw(replace(ORIGINAL, header=b"To: a@b\r\nSubject: " + subject + b"\r\n"))
    assert "Your message (49 kB)" in flowing(text)


def test_an_address_that_is_not_ascii_has_its_own_type() -> None:
    text = raw(ORIGINAL, replace(FAILED, address="jörg+x=y@exämple.net"))
    assert text.isascii()
    assert groups(text)[1]["Final-Recipient"] == "utf-8; j\\x{F6}rg\\x{2B}x\\x{3D}y@ex\\x{E4}mple.net"
    assert "jörg+x=y@exämple.net" in words(text)


def test_a_sender_that_is_not_ascii_stands_in_to_as_utf8() -> None:
    text = raw(replace(ORIGINAL, sender="jörg@example.org"))
    assert "\r\nTo: jörg@example.org\r\n".encode() in text


def test_an_answer_that_is_not_ascii_is_whole_for_people_and_escaped_for_programs() -> None:
    text = raw(ORIGINAL, replace(FAILED, answer="550 Empfänger unbekannt 你"))
    assert groups(text)[1]["Diagnostic-Code"] == "smtp; 550 Empf\\x{E4}nger unbekannt \\x{4F60}"
    assert "550 Empfänger unbekannt 你" in words(text)


@pytest.mark.parametrize(
    "answer",
    [
        "550 no\r\nAction: delivered\r\n\r\nFinal-Recipient: rfc822; x@y",
        "550 no\rStatus: 2.0.0\nX: y",
        "550 \0\x1b[31m\x7f\x85\u2028\u202e red \ud800",
        "550 " + "x" * 10_000,
        "550 " + "word " * 2_000,
        "550 " + "ä" * 10_000,
        "550 --=_17.b_0 \r\n--=_17.b_0--\r\n",
        "\r\n\r\n",
    ],
)
def test_a_hostile_answer_stays_one_line(answer: str) -> None:
    text = raw(ORIGINAL, replace(FAILED, answer=answer, remote="mx\r\n\r\nAction: x"), DELAYED)
    assert len(parts(text)) == 3
    assert [group["Action"] for group in groups(text)[1:]] == ["failed", "delayed"]
    assert [group["Status"] for group in groups(text)[1:]] == ["5.1.1", "4.4.1"]
    assert all(sign.isprintable() or sign == "\n" for sign in words(text))
    assert returned(text) == HEADER


def test_a_very_long_answer_is_cut_and_folded() -> None:
    text = raw(ORIGINAL, replace(FAILED, answer="550 " + "x" * 10_000))
    shown = groups(text)[1]["Diagnostic-Code"]
    assert re.fullmatch(r"smtp; 550 [x ]{1990,2005}\.\.\.", shown)
    assert len(text) < 10_000


@pytest.mark.parametrize(
    "header",
    [
        b"Subject: x\r\n--=_17.b_0\r\nContent-Type: text/html\r\n\r\n<b>\r\n",
        b"Subject: x\r\n--=_17.b_0--\r\n--=_17.b_1--\r\n",
        b"X-Long: " + b"y" * 5_000 + b"\r\nSubject: x\r\n",
        b"X-Cr: a\rb\nc\0d\r\n",
        b"X-Bytes: \xff\xfe\xe4 not UTF-8\r\n",
        "Subject: März\r\nTo: Jörg <j@example.net>\r\n".encode(),
        b"Subject: ends in space \t\r\n.\r\n..\r\nFrom me\r\n=_=\r\n",
        ("X: " + "ä" * 40_000).encode()[: 1 << 16],
        b"X" * (1 << 16),
        b"X: cut behind a\r",
    ],
)
def test_a_hostile_header_comes_back_byte_for_byte_and_breaks_nothing(header: bytes) -> None:
    text = raw(replace(ORIGINAL, header=header))
    assert text.isascii()
    assert len(parts(text)) == 3
    assert returned(text) == header.strip(b"\r\n") + b"\r\n"


def test_a_header_in_utf8_says_so() -> None:
    text = raw(replace(ORIGINAL, header="Subject: März\r\n".encode()))
    part = parts(text)[2]
    assert isinstance(part, EmailMessage)
    assert part.get_content_type() == "text/rfc822-headers"
    assert part["Content-Transfer-Encoding"] == "quoted-printable"
    assert str(part.get_content()).strip() == "Subject: März"


def test_the_boundary_gives_way_to_content_that_holds_it() -> None:
    found = parsed(raw(replace(ORIGINAL, header=HEADER + b"X: =_17.b_0 and =_17.b_1\r\n")))
    assert found.get_boundary() == "=_17.b_2"


@given(answer=st.text(), address=st.text(min_size=1), header=st.binary(), status=st.text(), message_id=st.text())
@example(answer="\n", address="\r", header=b"\r\n\r\n", status="\n", message_id="<\n>")
def test_nothing_from_outside_changes_the_structure(
    answer: str, address: str, header: bytes, status: str, message_id: str
) -> None:
    original = replace(ORIGINAL, header=HEADER + header, message_id=message_id)
    failure = replace(FAILED, answer=answer, address=address, status=status, remote=answer)
    text = raw(original, failure, DELAYED)
    assert text.isascii()
    assert [part.get_content_type() for part in parts(text)][2:] == ["text/rfc822-headers"]
    assert len(groups(text)) == 3
    assert groups(text)[2]["Final-Recipient"] == "rfc822; bob@example.net"
    assert returned(text) == (HEADER + header).strip(b"\r\n") + b"\r\n"


@pytest.mark.parametrize("unique", ["", "a b", 'a"b', "a\r\nb", "ä", "a" * 61, "a\n"])
def test_a_unique_that_would_break_the_message_is_refused(unique: str) -> None:
    with pytest.raises(ValueError, match="1 to 60 of letters"):
        raw(unique=unique)


def test_the_longest_unique_still_makes_a_legal_boundary() -> None:
    assert len(parsed(raw(unique="a" * 60)).get_boundary() or "") <= 70


def test_a_report_to_nobody_or_of_nothing_is_refused() -> None:
    for original, failures in ((replace(ORIGINAL, sender=""), [FAILED]), (ORIGINAL, [])):
        with pytest.raises(ValueError, match="mail 17: a report needs a sender"):
            bounce(original, failures, host=HOST, now=NOW, unique="x")


@pytest.mark.parametrize(
    ("answer", "status"),
    [
        ("550 5.1.1 no such user", "5.1.1"),
        ("550-5.7.26 policy", "5.7.26"),
        ("451 4.7.1 greylisted", "4.7.1"),
        ("550 #5.1.0 Address rejected", "5.1.0"),
        ("552 5.3.4", "5.3.4"),
        ("550 5.1.1. Sorry", "5.1.1"),
        ("550 no such user", "5.0.0"),
        ("421 closing", "4.0.0"),
        ("554", "5.0.0"),
        ("550 4.7.1 of another class", "5.0.0"),
        ("550 5.1.1.2 looks like an address", "5.0.0"),
        ("550 5.1.1000 is too long", "5.0.0"),
        ("5501 is no reply", "?"),
        ("250 2.0.0 ok", "?"),
        ("354 go on", "?"),
        ("connection lost at MAIL: 550 5.1.1", "?"),
        ("\u0665\u0665\u0660 5.1.1", "?"),
        ("", "?"),
    ],
)
def test_a_status_is_read_from_an_answer(answer: str, status: str) -> None:
    assert status_of(answer, "?") == status


@pytest.mark.parametrize("sender", ["", "<>", "MAILER-DAEMON@example.org", "mailer-daemon", "Mailer-Daemon@x"])
def test_no_report_goes_to_the_null_sender_or_a_mail_system(sender: str) -> None:
    assert may_bounce(sender, HEADER, 0)


@pytest.mark.parametrize("sender", ["billing@example.org", "root", "daemon@x", "mailer-daemon.fan@x"])
def test_a_report_goes_to_anyone_else(sender: str) -> None:
    assert may_bounce(sender, HEADER, 0) is None


def test_automatic_mail_with_a_sender_gets_its_bounce() -> None:
    assert may_bounce("billing@example.org", b"Auto-Submitted: auto-generated\r\nPrecedence: bulk\r\n", 0) is None


def test_so_many_reports_an_hour_and_no_more() -> None:
    assert may_bounce("a@b", HEADER, BOUNCES_PER_HOUR - 1) is None
    reason = may_bounce("a@b", HEADER, BOUNCES_PER_HOUR)
    assert reason == "a@b got 20 reports in the last hour; 20 are allowed"
