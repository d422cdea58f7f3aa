"""SMTP on standard input: what is taken, what is refused, and what ends a message."""

from __future__ import annotations

import os
import smtplib
import socket
import subprocess
import sys
import threading
import tracemalloc
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from workers.mail.errors import Refused
from workers.spool.session import MOST_RECIPIENTS, Session, serve

MOST_BYTES = 1000
OPEN = b"EHLO app\r\nMAIL FROM:<a@x>\r\nRCPT TO:<b@x>\r\n"
Accepted = list[tuple[str, list[str], bytes]]


def started() -> tuple[Session, Accepted]:
    accepted: Accepted = []

    def accept(sender: str, recipients: list[str], raw: bytes) -> str:
        accepted.append((sender, recipients, raw))
        return str(len(accepted))

    return Session(accept, host="box.test", max_size_bytes=MOST_BYTES), accepted


def talk(data: bytes) -> tuple[list[str], Accepted]:
    """The answers to all of `data`, and what was queued."""
    session, accepted = started()
    return session.feed(data).decode().splitlines(), accepted


def answer(command: bytes, *, before: bytes = b"EHLO app\r\n") -> str:
    """The last answer when `command` stands behind `before`."""
    return talk(before + command + b"\r\n")[0][-1]


def test_a_conversation_as_symfony_holds_it() -> None:
    session, accepted = started()
    said = [
        session.feed(line)[:4]
        for line in [b"HELO [127.0.0.1]\r\n", b"MAIL FROM:<a@x>\r\n", b"RCPT TO:<b@x>\r\n", b"RCPT TO:<root>\r\n", b"DATA\r\n"]
    ]
    assert said == [b"250 ", b"250 ", b"250 ", b"250 ", b"354 "]
    assert session.feed(b"Subject: s\r\n\r\n..dot\r\nend\r\n") == b""
    assert session.feed(b"\r\n.\r\n") == b"250 2.0.0 Ok: queued as 1\r\n"
    assert accepted == [("a@x", ["b@x", "root"], b"Subject: s\r\n\r\n.dot\r\nend\r\n\r\n")]
    assert session.status is None
    assert session.feed(b"QUIT\r\nNOOP\r\n") == b"221 2.0.0 box.test closes\r\n"
    assert session.status == 0


def test_ehlo_offers_what_is_kept() -> None:
    assert talk(b"EHLO app\r\n")[0] == [
        "250-box.test",
        "250-PIPELINING",
        f"250-SIZE {MOST_BYTES}",
        "250-8BITMIME",
        "250-SMTPUTF8",
        "250 ENHANCEDSTATUSCODES",
    ]


def test_a_second_mail_starts_with_an_empty_envelope() -> None:
    _, accepted = talk(OPEN + b"DATA\r\n1\r\n.\r\nMAIL FROM:<>\r\nRCPT TO:<c@x>\r\nDATA\r\n.\r\n")
    assert accepted == [("a@x", ["b@x"], b"1\r\n"), ("", ["c@x"], b"")]


@pytest.mark.parametrize(
    ("command", "envelope"),
    [
        (b"mail from:<a@x>", "a@x"),
        (b"MAIL FROM: <a@x> ", "a@x"),
        (b"MAIL FROM:a@x SIZE=5", "a@x"),
        (b"MAIL FROM:<>", ""),
        (b"MAIL FROM:<root>", "root"),
        (b'MAIL FROM:<"a> \\"b"@x> BODY=8BITMIME', '"a> \\"b"@x'),
        (b"MAIL FROM:<@r,@s:a@[IPv6:::1]>", "a@[IPv6:::1]"),
        ("MAIL FROM:<a@bücher.example> smtputf8 SIZE=1000".encode(), "a@xn--bcher-kva.example"),
    ],
)
def test_senders_that_are_taken(command: bytes, envelope: str) -> None:
    _, accepted = talk(b"EHLO app\r\n" + command + b"\r\nRCPT TO:<b@x>\r\nDATA\r\n.\r\n")
    assert accepted == [(envelope, ["b@x"], b"")]


@pytest.mark.parametrize(
    ("command", "said"),
    [
        (b"MAIL FROM:", "501 5.5.4 expected"),
        (b"MAIL TO:<a@x>", "501 5.5.4 expected"),
        (b"MAIL FROM:<a@x", "501 5.5.4 expected"),
        (b"MAIL FROM:<a@x> SIZE=1001", "552 5.3.4 "),
        (b"MAIL FROM:<a@x> SIZE=-1", "501 5.5.4 SIZE=-1"),
        (b"MAIL FROM:<a@x> SIZE=", "501 5.5.4 SIZE="),
        (b"MAIL FROM:<a@x> BODY=BINARYMIME", "501 5.5.4 BODY"),
        (b"MAIL FROM:<a@x> SIZE=1 RET=HDRS", "555 5.5.4 RET=HDRS"),
        (b"MAIL FROM:<a b@x>", "501 5.1.7 "),
        (b"MAIL FROM:<a@x\t>", "500 5.5.2 "),
        (b"MAIL FROM:<a@\xff>", "500 5.5.2 "),
        (b"RCPT TO:<b@x>", "503 5.5.1 "),
        (b"DATA", "503 5.5.1 "),
        (b"MAIL FROM:<a@x>\r\nMAIL FROM:<b@x>", "503 5.5.1 "),
        (b"MAIL FROM:<a@x>\r\nDATA", "503 5.5.1 "),
        (b"MAIL FROM:<a@x>\r\nRCPT TO:<>", "553 5.1.3 "),
        (b"MAIL FROM:<a@x>\r\nRCPT TO:<b@-x>", "553 5.1.3 address 'b@-x'"),
        (b"MAIL FROM:<a@x>\r\nRCPT TO:<b@x> NOTIFY=NEVER", "555 5.5.4 NOTIFY=NEVER"),
        (b"MAIL FROM:<a@x>\r\nRCPT FROM:<b@x>", "501 5.5.4 expected"),
        (b"MAIL FROM:<a@x>\r\nRCPT TO:<b@x>\r\nDATA now", "501 5.5.4 "),
        (b"MAIL FROM:<a@x>\r\nRCPT TO:<b@x>\r\nRSET\r\nDATA", "503 5.5.1 "),
        (b"MAIL FROM:<a@x>\r\nRCPT TO:<b@x>\r\nEHLO app\r\nDATA", "503 5.5.1 "),
        (b"EHLO", "501 "),
        (b"VRFY root", "252 2.5.2 "),
        (b"HELP", "214 2.0.0 "),
        (b"NOOP now", "250 2.0.0 "),
        (b"STARTTLS", "502 5.5.1 "),
        (b"AUTH PLAIN AGEAYg==", "502 5.5.1 "),
        (b"DANCE", "500 5.5.2 unknown"),
        (b"", "500 5.5.2 unknown"),
        (b"NOOP " + b"x" * 4089, "250 2.0.0 "),
        (b"NOOP " + b"x" * 4090, "500 5.5.2 a command has 4096"),
    ],
)
def test_answers(command: bytes, said: str) -> None:
    assert answer(command).startswith(said)


def test_mail_before_helo_is_out_of_order() -> None:
    assert answer(b"MAIL FROM:<a@x>", before=b"").startswith("503 5.5.1")


def test_a_bad_recipient_does_not_stop_the_others() -> None:
    said, accepted = talk(OPEN + b"RCPT TO:<a b@x>\r\nRCPT TO:<c@x>\r\nDATA\r\n.\r\n")
    assert [line[:3] for line in said[-4:]] == ["553", "250", "354", "250"]
    assert accepted[0][1] == ["b@x", "c@x"]


def test_one_recipient_too_many_is_left_for_another_mail() -> None:
    said, accepted = talk(OPEN + b"RCPT TO:<b@x>\r\n" * MOST_RECIPIENTS + b"DATA\r\n.\r\n")
    assert [line[:9] for line in said[-4:]] == ["250 2.1.5", "452 4.5.3", "354 end w", "250 2.0.0"]
    assert len(accepted[0][1]) == MOST_RECIPIENTS


@pytest.mark.parametrize(
    ("eol", "content"),
    [
        (b"\r\n", b"a\n.\nMAIL FROM:<evil@x>\r\n"),
        (b"\r\n", b"a\n.\r\nMAIL FROM:<evil@x>\r\n"),
        (b"\r\n", b"a\r\n.\nMAIL FROM:<evil@x>\r\n"),
        (b"\r\n", b"a\r.\r\nMAIL FROM:<evil@x>\r\n"),
        (b"\n", b"a\r\n.\r\nMAIL FROM:<evil@x>\r\n"),
        (b"\n", b"a\n.\r\nMAIL FROM:<evil@x>\n"),
        (b"\n", b"a\r.\rMAIL FROM:<evil@x>\n"),
    ],
)
def test_a_dot_between_other_line_ends_ends_no_message(eol: bytes, content: bytes) -> None:
    said, accepted = talk(OPEN.replace(b"\r\n", eol) + b"DATA" + eol + content + b"." + eol + b"NOOP" + eol)
    assert [line[:9] for line in said[-3:]] == ["354 end w", "250 2.0.0", "250 2.0.0"]
    assert [raw for _, _, raw in accepted] == [content.replace(eol + b".", eol)]


def test_a_command_with_the_other_line_end_closes_so_that_nothing_behind_it_is_one() -> None:
    said, accepted = talk(b"EHLO app\r\nMAIL FROM:<a@x>\nNOOP\r\n")
    assert said[-1].startswith("421 4.7.0 lines end as the first one did")
    assert accepted == []
    assert talk(b"EHLO app\nMAIL FROM:<a@x>\r\n")[0][-1].endswith("ended by LF")


@pytest.mark.parametrize("eol", [b"\r\n", b"\n"])
def test_an_overlong_first_line_decides_too_and_is_dropped_whole(eol: bytes) -> None:
    session, _ = started()
    assert session.feed(b"x" * 5000) == b""
    assert session.feed(b"x" * 5000 + eol[:-1]) == b""
    assert session.feed(b"\nEHLO app" + eol).startswith(b"500 5.5.2 a command has 4096 octets at most\r\n250-")


bodies = st.lists(st.sampled_from([b".", b"..", b".x", b"x", b"", b"\n", b"\r", b"\n.", b"\xff"])).map(b"\r\n".join)


def stuffed(body: bytes) -> bytes:
    return (b"\r\n" + body).replace(b"\r\n.", b"\r\n..")[2:]


@given(bodies, st.data())
def test_any_stuffed_message_arrives_as_it_was_however_the_input_is_cut(body: bytes, data: st.DataObject) -> None:
    body += b"\r\n"
    whole = OPEN + b"DATA\r\n" + stuffed(body) + b".\r\nNOOP\r\nMAIL FROM:<>\r\n"
    cuts = sorted(data.draw(st.lists(st.integers(0, len(whole)))))
    session, accepted = started()
    said = b"".join(session.feed(whole[start:end]) for start, end in zip([0, *cuts], [*cuts, len(whole)], strict=True))
    assert accepted == [("a@x", ["b@x"], body)]
    assert said.decode().splitlines() == talk(whole)[0]


@given(st.integers(1, 30), st.sampled_from([b".\r\n", b"\r\n", b".xxxxxxxx\r\n", b"x"]), st.integers(0, 1))
def test_the_size_limit_counts_neither_added_dots_nor_the_end(piece_bytes: int, line: bytes, over: int) -> None:
    body = (line * MOST_BYTES)[: MOST_BYTES - 2 + over] + b"\r\n"
    whole = stuffed(body) + b".\r\n"
    session, accepted = started()
    session.feed(OPEN + b"DATA\r\n")
    said = b"".join(session.feed(whole[at : at + piece_bytes]) for at in range(0, len(whole), piece_bytes))
    assert said[:3] == (b"552" if over else b"250")
    assert [raw for _, _, raw in accepted] == ([] if over else [body])


def peak_bytes(work: Callable[[], object]) -> int:
    tracemalloc.start()
    try:
        work()
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def test_a_message_over_the_limit_is_read_to_its_end_without_being_kept() -> None:
    session, accepted = started()
    session.feed(OPEN + b"DATA\r\n")
    block = b"..x\r\n" * 10_000
    said: list[bytes] = []
    assert peak_bytes(lambda: said.extend(session.feed(block) for _ in range(50))) < 4 * len(block)
    assert set(said) == {b""}
    said_then = session.feed(b".\r\n" + OPEN + b"DATA\r\nshort\r\n.\r\n").decode().splitlines()
    assert said_then[0] == f"552 5.3.4 the message is bigger than spool.max_size = {MOST_BYTES} bytes"
    assert said_then[-1] == "250 2.0.0 Ok: queued as 1"
    assert [raw for _, _, raw in accepted] == [b"short\r\n"]


def test_a_line_without_end_is_not_kept() -> None:
    session, _ = started()
    block = b"x" * 50_000
    assert peak_bytes(lambda: [session.feed(block) for _ in range(50)]) < 4 * len(block)


@pytest.mark.parametrize(
    ("status", "said"),
    [
        (64, "554 5.5.4 "),
        (65, "554 5.6.0 "),
        (70, "451 4.3.0 "),
        (74, "451 4.3.0 "),
        (75, "451 4.3.0 "),
        (77, "550 5.7.1 "),
        (78, "451 4.3.0 "),
    ],
)
def test_a_message_that_cannot_be_queued_is_refused_in_one_line(status: int, said: str) -> None:
    def accept(sender: str, recipients: list[str], raw: bytes) -> str:
        raise Refused(status, "no\r\n250 Ok\0ä" + "x" * 600)

    session = Session(accept, host="box.test", max_size_bytes=MOST_BYTES)
    found = session.feed(OPEN + b"DATA\r\n.\r\n").splitlines(keepends=True)[-1]
    assert found.startswith(f"{said}no??250 Ok?\\xe4xx".encode())
    assert len(found) == 512
    assert session.feed(b"MAIL FROM:<a@x>\r\n") == b"250 2.1.0 Ok\r\n"


def test_a_message_sent_blindly_behind_a_refusal_is_no_commands() -> None:
    session, accepted = started()
    blind = b"DATA\r\nX-From: a\r\n\r\n" + OPEN + b"DATA\r\nevil\r\n.\r\n"
    assert session.feed(b"EHLO app\r\n" + blind).splitlines()[-1].startswith(b"421 4.7.0")
    assert (session.status, accepted) == (65, [])


Serve = Callable[[int, int], int]


@pytest.fixture
def queue() -> Accepted:
    return []


@pytest.fixture
def serve_it(queue: Accepted) -> Serve:
    def accept(sender: str, recipients: list[str], raw: bytes) -> str:
        queue.append((sender, recipients, raw))
        return "7"

    return lambda fd_in, fd_out: serve(fd_in, fd_out, accept, host="box.test", max_size_bytes=MOST_BYTES)


def piped(serve_it: Serve, data: bytes) -> tuple[int, list[str]]:
    """Exit status and answers when all of the input is there at once and ends."""
    fd_in, to_it = os.pipe()
    from_it, fd_out = os.pipe()
    try:
        os.write(to_it, data)
        os.close(to_it)
        status = serve_it(fd_in, fd_out)
        return status, os.read(from_it, 65536).decode().splitlines()
    finally:
        for fd in (fd_in, fd_out, from_it):
            os.close(fd)


@pytest.mark.parametrize(
    ("data", "status", "last"),
    [
        (b"", 0, "220"),
        (b"EHLO app\n", 0, "250"),
        (OPEN + b"QUIT\r\n", 0, "221"),
        (OPEN + b"RSET\r\n", 0, "250"),
        (OPEN, 65, "421"),
        (OPEN + b"DATA\r\nhalf\r\n", 65, "421"),
        (OPEN + b"DATA\r\nhalf\r\n.\r", 65, "421"),
    ],
)
def test_the_exit_status_says_whether_a_mail_was_cut_off(
    serve_it: Serve, queue: Accepted, data: bytes, status: int, last: str
) -> None:
    found, said = piped(serve_it, data)
    assert (found, said[-1][:3], queue) == (status, last, [])


def test_a_script_may_pipe_lines_with_bare_lf(serve_it: Serve, queue: Accepted) -> None:
    status, said = piped(serve_it, b"HELO me\nMAIL FROM:<a>\nRCPT TO:<b@x>\nDATA\nSubject: s\n\n..\ntext\n.\nQUIT\n")
    assert (status, [line[:3] for line in said]) == (0, ["220", "250", "250", "250", "354", "250", "221"])
    assert queue == [("a", ["b@x"], b"Subject: s\n\n.\ntext\n")]


def test_an_answer_that_goes_out_in_pieces_is_whole(serve_it: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
    write = os.write
    monkeypatch.setattr(os, "write", lambda fd, data: write(fd, data[:3] if isinstance(data, memoryview) else data))
    assert piped(serve_it, b"QUIT\n") == (0, ["220 box.test ESMTP smtp-spool", "221 2.0.0 box.test closes"])


def test_smtplib_can_talk_to_it(serve_it: Serve, queue: Accepted) -> None:
    ours, theirs = socket.socketpair()
    results: list[int] = []
    thread = threading.Thread(target=lambda: results.append(serve_it(ours.fileno(), ours.fileno())))
    with ours, theirs:
        thread.start()
        theirs.settimeout(60)
        client = smtplib.SMTP()
        client.sock = theirs
        assert client.getreply()[0] == 220
        assert client.sendmail("a@x", ["b@x", "c@x"], "Subject: s\n\n.\n..\n") == {}
        with pytest.raises(smtplib.SMTPResponseException, match="max_size"):
            client.sendmail("a@x", ["b@x"], "x" * MOST_BYTES)
        client.quit()
        thread.join(60)
    assert results == [0]
    assert queue == [("a@x", ["b@x", "c@x"], b"Subject: s\r\n\r\n.\r\n..\r\n")]


def test_an_answer_that_nobody_reads_is_74(serve_it: Serve) -> None:
    fd_in, to_it = os.pipe()
    from_it, fd_out = os.pipe()
    os.close(from_it)
    try:
        with pytest.raises(Refused, match="answer can't be written") as caught:
            serve_it(fd_in, fd_out)
        assert caught.value.status == 74
    finally:
        for fd in (fd_in, to_it, fd_out):
            os.close(fd)


def test_input_that_cannot_be_read_is_74(serve_it: Serve, tmp_path: Path) -> None:
    fd_in = os.open(tmp_path, os.O_RDONLY)
    from_it, fd_out = os.pipe()
    try:
        with pytest.raises(Refused, match="standard input can't be read") as caught:
            serve_it(fd_in, fd_out)
        assert caught.value.status == 74
    finally:
        for fd in (fd_in, from_it, fd_out):
            os.close(fd)


def test_its_import_is_cheap() -> None:
    code = "import os, sys; before = set(sys.modules); import workers.spool.session; print(*set(sys.modules) - before)"
    found = subprocess.run([sys.executable, "-S", "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert {name for name in found if not name.startswith("workers")} <= {"__future__"}
