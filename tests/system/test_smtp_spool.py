"""smtp-spool with real processes and servers: what is accepted arrives, whoever is killed."""

from __future__ import annotations

import os
import random
import shutil
import signal
import ssl
import subprocess
import time
from base64 import b64encode
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.system.mail_servers import Relay, Sink, Spool, end, free_port, friendly, subjects, wait_until

MAILS = 200
KILLS = 12


@pytest.fixture
def sink(tmp_path: Path, spool: Spool) -> Iterator[Sink]:
    made = Sink(tmp_path / "sink")
    spool.through(made.port)
    yield made
    made.close()


@pytest.fixture
def relay(spool: Spool) -> Iterator[Callable[[Callable[[str], str | None]], Relay]]:
    made: list[Relay] = []

    def make(answer: Callable[[str], str | None], tls: ssl.SSLContext | None = None) -> Relay:
        made.append(Relay(answer, tls))
        spool.through(made[-1].port)
        return made[-1]

    yield make
    for each in made:
        each.close()


MakeRelay = Callable[[Callable[[str], str | None]], Relay]


def tags(number: int = MAILS) -> list[str]:
    return [f"tag{each:04d}" for each in range(number)]


def doubled(came: list[str]) -> int:
    return len(came) - len(set(came))


def kill_at_random(spool: Spool, count: Callable[[], int], mails: int) -> int:
    """Runs senders and kills each at a random point of the work; the last one finishes. The number of kills."""
    kills = 0
    for threshold in sorted(random.sample(range(mails), KILLS)):
        sender = spool.start()
        wait_until(lambda least=threshold: count() >= least, "mail arrives")  # type: ignore[misc]
        time.sleep(random.uniform(0, 0.02))  # a random moment, not a wait for something
        sender.send_signal(signal.SIGKILL)
        sender.wait()
        kills += 1
    assert spool.drain() == 0
    return kills


def test_a_mail_goes_from_sendmail_through_the_relay(spool: Spool, sink: Sink) -> None:
    sender = spool.start()
    text = "To: a@example.org\nBcc: b@example.org\nSubject: hello\n\n.\nbody\n"
    assert spool.sendmail("-t", "-i", "-f", "me@example.org", text=text).returncode == 0
    wait_until(lambda: spool.states() == ["sent", "sent"], "both are sent")
    (mail,) = sink.mails()
    assert "X-Mail-Args: <me@example.org>" in mail
    assert "X-Rcpt-Args: <a@example.org>\nX-Rcpt-Args: <b@example.org>\n" in mail
    assert "Bcc" not in mail
    assert "\n\n.\nbody\n" in mail
    assert spool.stop(sender) == 0
    assert "sent in" in spool.logged()
    assert not spool.has_bell()


def test_a_sender_at_rest_is_woken_by_the_bell(spool: Spool, sink: Sink) -> None:
    spool.queue(["first"])
    spool.start()
    wait_until(lambda: spool.states() == ["sent"], "the first is sent")
    for number in range(2, 5):
        assert spool.sendmail("a@example.org").returncode == 0
        wait_until(lambda most=number: sink.count() == most, "the next arrives before any slow poll", 20.0)  # type: ignore[misc]


def test_senders_killed_at_random_lose_nothing_and_double_at_most_one_each(spool: Spool, sink: Sink) -> None:
    spool.queue(tags())
    kills = kill_at_random(spool, sink.count, MAILS)
    came = sink.tags()
    assert sorted(set(came)) == tags()
    assert doubled(came) <= kills
    rows = spool.rows()
    assert {row["state"] for row in rows} == {"sent"}
    assert doubled(came) <= sum(row["unknowns"] for row in rows) <= kills


def test_senders_killed_at_random_deliver_into_the_maildir_exactly_once(spool: Spool) -> None:
    spool.queue(tags())
    kill_at_random(spool, lambda: len(spool.delivered()), MAILS)
    assert subjects(spool.delivered()) == tags()


def test_what_killed_enqueuers_had_accepted_is_delivered_whole(spool: Spool) -> None:
    sender = spool.start()
    body = "line\n" * 20_000
    accepted, tried = [], tags(60)
    for start in range(0, len(tried), 6):
        running = []
        for tag in tried[start : start + 6]:
            message = spool.folder / f"{tag}.txt"
            message.write_text(f"Subject: {tag}\n\n{body}the end\n")
            with message.open("rb") as text:
                command = spool.command("sendmail", "a@example.org")
                running.append(subprocess.Popen(command, stdin=text, env=spool.environment))
        time.sleep(random.uniform(0, 0.15))  # a random moment
        for process in running[::2]:
            process.send_signal(signal.SIGKILL)
        accepted += [tag for tag, process in zip(tried[start:], running, strict=False) if process.wait() == 0]
    assert spool.stop(sender) == 0
    assert spool.drain() == 0
    came = subjects(spool.delivered())
    assert set(accepted) <= set(came) <= set(tried)
    assert doubled(came) == 0
    for came_text in spool.delivered():
        assert came_text.endswith(f"\n{body}the end\n")


def test_without_a_relay_mail_goes_into_the_maildir_and_that_is_said(spool: Spool) -> None:
    assert spool.sendmail("-F", "Ann", "root", "a@example.org").returncode == 0
    assert spool.drain() == 0
    first, second = sorted(spool.delivered(), key=lambda text: "Delivered-To: a@example.org\n" in text)
    assert "Delivered-To: root@" in first
    assert 'From: "Ann" <' in second
    assert f"mail goes to Maildir {spool.folder}/state/mail/delivered" in spool.logged()


def test_senders_at_once_share_the_work(spool: Spool, sink: Sink) -> None:
    spool.queue(tags())
    running = [spool.start("--drain") for _ in range(3)]
    assert [sender.wait() for sender in running] == [0, 0, 0]
    assert sink.tags() == tags()
    assert spool.logged().count("started: ") == 3


def test_a_relay_that_comes_back_gets_everything_and_nobody_failed(spool: Spool, tmp_path: Path) -> None:
    port = free_port()
    spool.through(port)
    spool.queue(tags(50))
    spool.start()
    wait_until(lambda: "next try in" in spool.logged(), "the relay is missed")
    sink = Sink(tmp_path / "sink", port)
    try:
        wait_until(lambda: set(spool.states()) == {"sent"}, "all are sent")
        assert sink.tags() == tags(50)
    finally:
        sink.close()


def test_one_bad_recipient_does_not_hold_up_the_others(spool: Spool, relay: MakeRelay) -> None:
    refused = {"RCPT TO:<bad@x>": "550 5.1.1 no such user", "RCPT TO:<later@x>": "450 4.2.0 later"}
    made = relay(lambda line: refused.get(line) or friendly(line))
    assert spool.sendmail("bad@x", "good@x", "later@x").returncode == 0
    assert spool.drain() == 0
    assert spool.states() == ["failed", "sent", "deferred", "sent"]
    _, bounce = made.bodies
    assert "Final-Recipient: rfc822; bad@x\r\nAction: failed\r\nStatus: 5.1.1" in bounce


def test_a_connection_lost_behind_the_dot_is_sent_again_with_its_message_id(spool: Spool, relay: MakeRelay) -> None:
    answers: list[str | None] = [None]
    made = relay(lambda line: answers.pop() if line == "." and answers else friendly(line))
    spool.sendmail("a@x")
    sender = spool.start()
    wait_until(lambda: "unknown" in spool.logged(), "it is cut off")
    wait_until(lambda: spool.states() == ["sent"], "it is sent again")
    first, second = made.bodies
    assert first == second
    assert "\r\nMessage-ID: <" in first
    assert spool.rows()[0]["unknowns"] == 1
    assert spool.stop(sender) == 0


def test_a_sender_asked_to_end_while_the_relay_hangs_ends_in_order(spool: Spool, relay: MakeRelay) -> None:
    hangs = Hang()
    relay(lambda line: hangs.here() if line == "." else friendly(line))
    spool.queue(["x"])
    sender = spool.start()
    wait_until(lambda: hangs.reached, "the relay hangs at the final dot")
    assert spool.stop(sender) == 0
    hangs.over = True
    assert spool.states() == ["unknown"]
    assert not spool.has_bell()


class Hang:
    """A place where a relay's thread waits until the test lets it go on."""

    def __init__(self) -> None:
        self.reached = False
        self.over = False

    def here(self) -> str | None:
        self.reached = True
        wait_until(lambda: self.over, "the test goes on")
        return None


def test_a_refused_password_fails_no_mail_and_is_told_nowhere(spool: Spool, relay: MakeRelay) -> None:
    (spool.folder / "pw").write_text("s3cret-word\n")
    (spool.folder / "pw").chmod(0o600)

    def answer(line: str) -> str:
        if line.upper().startswith("EHLO"):
            return "250-test\r\n250 AUTH PLAIN"
        return f"535 5.7.8 wrong: {line}" if line.startswith("AUTH") else friendly(line)

    made = relay(answer)
    spool.through(made.port, 'tls = "none"\nuser = "me"\npassword_file = "pw"\n')
    spool.queue(["x"])
    assert spool.drain() == 75
    assert spool.states() == ["queued"]
    assert "login refused: 535" in spool.logged()
    assert any(line.startswith("AUTH PLAIN ") for line in made.heard)
    secret = next(line for line in made.heard if line.startswith("AUTH")).split()[-1]
    assert secret not in spool.logged()
    assert "s3cret" not in spool.logged()


def certificate(folder: Path) -> ssl.SSLContext:
    """A server's TLS for localhost, whose own certificate `folder/cert.pem` is."""
    program = shutil.which("openssl")
    if program is None:
        if os.environ.get("CI") == "true":
            pytest.fail("openssl is missing")
        pytest.skip("openssl is missing")
    command = [program, "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=localhost"]
    command += ["-addext", "subjectAltName=DNS:localhost", "-keyout", "key.pem", "-out", "cert.pem"]
    subprocess.run(command, cwd=folder, check=True, capture_output=True)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(folder / "cert.pem", folder / "key.pem")
    return context


def secured(line: str) -> str:
    if line.upper().startswith("EHLO"):
        return "250-test\r\n250-STARTTLS\r\n250 AUTH PLAIN LOGIN"
    return "220 ready" if line == "STARTTLS" else friendly(line)


def test_mail_goes_over_starttls_with_a_password_whose_command_sees_no_secrets(spool: Spool) -> None:
    made = Relay(secured, certificate(spool.folder))
    try:
        command = "sh -c 'printf s3cret-$RELAY_USER'"
        spool.through(made.port, f'user = "${{RELAY_USER}}"\npassword_command = "{command}"\n')
        spool.environment |= {"SSL_CERT_FILE": str(spool.folder / "cert.pem"), "RELAY_USER": "me"}
        spool.queue(["x"])
        assert spool.drain() == 0
        assert spool.states() == ["sent"]
        login = "AUTH PLAIN " + b64encode(b"\0me\0s3cret-").decode()
        assert made.heard.index("STARTTLS") < made.heard.index(login)
        assert "s3cret" not in spool.logged()
    finally:
        made.close()


@pytest.mark.parametrize(("tls", "state", "status"), [("starttls", "queued", 75), ("opportunistic", "sent", 0)])
def test_a_certificate_of_nobody_is_trouble_of_the_relay(spool: Spool, tls: str, state: str, status: int) -> None:
    made = Relay(secured, certificate(spool.folder))
    try:
        spool.through(made.port, f'tls = "{tls}"\n')
        spool.queue(["x"])
        assert spool.drain() == status
        assert spool.states() == [state]
        assert ("ca_file or fingerprint" in spool.logged()) == (state == "queued")
    finally:
        made.close()


def test_a_full_disk_is_said_and_nothing_is_half_written(spool: Spool) -> None:
    limiter = shutil.which("prlimit")
    if limiter is None:
        pytest.skip("prlimit is missing; Debian has it in the package util-linux")
    assert spool.sendmail("a@x").returncode == 0
    command = [limiter, "--fsize=200000", *spool.command("sendmail", "a@x")]
    text = "Subject: x\n\n" + "line\n" * 100_000
    done = subprocess.run(command, input=text, text=True, capture_output=True, env=spool.environment)
    assert done.returncode in (74, 75)
    assert str(spool.database) in done.stderr
    assert "Traceback" not in done.stderr
    assert spool.sendmail("a@x").returncode == 0
    assert spool.states() == ["queued", "queued"]


def test_input_without_i_ends_at_a_single_dot(spool: Spool) -> None:
    assert spool.sendmail("a@x", text="Subject: x\n\nbody\n.\nmore\n").returncode == 0
    assert spool.drain() == 0
    assert spool.delivered()[0].endswith("\n\nbody\n")


def test_first_enqueuers_at_once_make_one_spool(spool: Spool) -> None:
    running = []
    for _ in range(8):
        process = subprocess.Popen(spool.command("sendmail", "a@x"), stdin=subprocess.DEVNULL, env=spool.environment)
        running.append(process)
    try:
        assert [process.wait() for process in running] == [0] * 8
        assert spool.states() == ["queued"] * 8
    finally:
        for process in running:
            end(process)
