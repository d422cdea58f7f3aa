"""Programs that send mail by `sendmail`: each with its own words and its own bytes, as they run on Debian."""

from __future__ import annotations

import json
import os
import select
import shutil
import smtplib
import socket
import sqlite3
import stat
import subprocess
from collections.abc import Callable, Iterator
from email import message_from_string
from pathlib import Path
from typing import NamedTuple

import pytest

from tests.system.harness import BIN
from tests.system.mail_servers import DEADLINE_S, Relay, Spool, end, friendly, wait_until

ME = "me@example.org"
MAIL = b"Subject: hello\nFrom: me@example.org\nMessage-ID: <1@example.org>\nDate: today\n\nbody\n"
NOBODY = 65534


@pytest.fixture
def spool(tmp_path: Path) -> Iterator[Spool]:
    made = Spool(tmp_path, 'domain = "host.example"\nmax_size = "100K"\n[aliases]\nroot = "ops@example.org"\n')
    yield made
    made.close()


class Called(NamedTuple):
    """What came of a call."""

    status: int
    out: str
    err: str


@pytest.fixture
def call(spool: Spool) -> Callable[..., Called]:
    """Runs the installed command by a link of another name, in no more of an environment than cron gives."""

    def run(name: str, *words: str, text: bytes = b"") -> Called:
        link = spool.folder / name
        if not link.is_symlink():
            link.symlink_to(BIN / "smtp-spool")
        environment = {"MAIL_CONFIG": str(spool.config), "PATH": "/usr/bin:/bin", "HOME": "/", "LOGNAME": "root"}
        done = subprocess.run([link, *words], input=text, capture_output=True, env=environment, cwd="/")
        return Called(done.returncode, done.stdout.decode(), done.stderr.decode())

    return run


Call = Callable[..., Called]


def delivered(spool: Spool) -> list[tuple[str, str, str]]:
    """(sender, recipient, message) of each copy that arrives when all is sent; the message as it was handed in."""
    assert spool.drain() == 0
    found = []
    for text in spool.delivered():
        sender, recipient, message = text.split("\n", 2)
        found.append((sender[len("Return-Path: <") : -1], recipient[len("Delivered-To: ") :], message))
    return sorted(found)


def php() -> str:
    """The path of Debian's php."""
    program = shutil.which("php")
    if program is None:
        reason = "php is missing; Debian has it in the package php-cli"
        if os.environ.get("CI") == "true":
            pytest.fail(reason)
        pytest.skip(reason)
    return program


CRON = """\
From: root (Cron Daemon)
To: {to}
Subject: Cron <root@host> cd /srv && ./backup --all
MIME-Version: 1.0
Content-Type: text/plain; charset=UTF-8
Content-Transfer-Encoding: 8bit
X-Cron-Env: <SHELL=/bin/sh>
X-Cron-Env: <HOME=/root>
X-Cron-Env: <LOGNAME=root>

Gr\u00f6\u00dfe: 3 GiB
.
done
"""


@pytest.mark.parametrize(
    ("mailto", "recipients"), [("root", ["ops@example.org"]), ("ann@example.org,bob@x", ["ann@example.org", "bob@x"])]
)
def test_what_cron_mails_arrives_whole(spool: Spool, call: Call, mailto: str, recipients: list[str]) -> None:
    text = CRON.format(to=mailto)
    assert call("sendmail", "-FCronDaemon", "-i", "-B8BITMIME", "-oem", mailto, text=text.encode()) == (0, "", "")
    came = delivered(spool)
    assert [recipient for _, recipient, _ in came] == recipients
    head, _, body = text.partition("\n\n")
    for sender, _, message in came:
        assert sender.endswith("@host.example")
        assert message.startswith(f"{head}\nMessage-ID: <")
        assert message.endswith(f"\n\n{body}")


class Caller(NamedTuple):
    """A program, the words that it calls sendmail with, and what it writes. It always means a mail from ME to a@x and b@x."""

    program: str
    words: str
    text: bytes = MAIL


TO = b"To: Ann <a@x>,\n\tb@x\n" + MAIL
BCC = b'To: a@x\nBcc: "B, b" <b@x>\n' + MAIL
CALLERS = [
    Caller("mutt", f"-oem -oi -f {ME} -- a@x b@x"),
    Caller("mutt with use_8bitmime and dsn_notify", f"-oem -oi -B8BITMIME -N failure,delay -R hdrs -f {ME} -- a@x b@x"),
    Caller("mail of bsd-mailx", f"-i -f {ME} a@x b@x"),
    Caller("mail of s-nail", f"-oem -oi -r {ME} -- a@x b@x"),
    Caller("mail of mailutils", f"-f {ME} -oi -t", TO),
    Caller("anacron", f"-FAnacron -odi -f {ME} a@x,b@x"),
    Caller("Go's os/exec in many programs", f"-i -t -f {ME}", TO),
    Caller("Ruby's mail up to 2.7", f"-i -t -f {ME}", BCC),
    Caller("Ruby's mail, Action Mailer", f"-i -f {ME} -- a@x b@x"),
    Caller("git send-email", f"-f {ME} -i a@x b@x"),
    Caller("PHPMailer", f"-oi -f{ME} -t", BCC),
    Caller("Symfony Mailer, -t -i", f"-i -f{ME} -- a@x b@x"),
    Caller("nodemailer", f"-i -f {ME} a@x b@x", MAIL.replace(b"\n", b"\r\n")),
    Caller("Perl's MIME::Lite", f"-t -oi -oem -f {ME}", TO),
    Caller("MIME::Lite over a list", f"-it -oem -f{ME} b@x", b"To: a@x\n" + MAIL),
    Caller("a mail that was in an mbox", f"-i -f {ME} a@x b@x", b"From me@example.org Sat Nov 22 10:00:00 2014\n" + MAIL),
]


@pytest.mark.parametrize("caller", CALLERS, ids=[caller.program for caller in CALLERS])
def test_a_caller_gets_its_mail_out(spool: Spool, call: Call, caller: Caller) -> None:
    assert call("sendmail", *caller.words.split(), text=caller.text) == (0, "", "")
    expected = caller.text.replace(b"\r\n", b"\n").replace(b'Bcc: "B, b" <b@x>\n', b"").decode()
    expected = expected.partition("\n")[2] if expected.startswith("From ") else expected
    assert delivered(spool) == [(ME, "a@x", expected), (ME, "b@x", expected)]


PHP_MAIL = """
$to = "Ann <a@x>, b@x";
$header = ["From" => "me@example.org", "Bcc" => "c@x", "Content-Type" => "text/plain; charset=utf-8"];
exit(mail($to, "=?utf-8?Q?Gr=C3=BC=C3=9Fe?=", "one\\n.\\ntw\\u{f6}\\r\\nthree", $header, "-f me@example.org") ? 0 : 3);
"""


def test_php_mail_arrives(spool: Spool) -> None:
    command = [php(), "-n", "-d", f"sendmail_path={BIN}/smtp-spool sendmail -t -i", "-r", PHP_MAIL]
    done = subprocess.run(command, env=spool.environment, capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    came = delivered(spool)
    assert [(sender, recipient) for sender, recipient, _ in came] == [(ME, "a@x"), (ME, "b@x"), (ME, "c@x")]
    mail = message_from_string(came[0][2])
    assert {name: mail[name] for name in ("To", "From", "Subject", "Bcc")} == {
        "To": "Ann <a@x>, b@x",
        "From": ME,
        "Subject": "=?utf-8?Q?Gr=C3=BC=C3=9Fe?=",
        "Bcc": None,
    }
    assert mail.get_payload() == "one\n.\ntw\u00f6\nthree\n"


def test_php_mail_says_false_when_it_was_not_taken(spool: Spool) -> None:
    command = [
        php(),
        "-n",
        "-d",
        f"sendmail_path={BIN}/smtp-spool sendmail -t -i",
        "-r",
        'exit(mail("a@x y", "s", "b") ? 0 : 3);',
    ]
    done = subprocess.run(command, env=spool.environment, capture_output=True, text=True)
    assert done.returncode == 3
    assert "sendmail" not in done.stdout
    assert "is no domain name" in done.stderr
    assert spool.rows() == []


class Conversation:
    """A `sendmail -bs` that is kept open, as Symfony's ProcessStream does it: by two pipes."""

    def __init__(self, spool: Spool, *words: str) -> None:
        command = spool.command("sendmail", *words)
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=spool.environment)

    def say(self, text: bytes) -> bytes:
        """Writes and returns the whole answer."""
        assert self.process.stdin is not None
        self.process.stdin.write(text)
        self.process.stdin.flush()
        return self.hear()

    def hear(self) -> bytes:
        """All lines of one answer: the last has a blank behind its code."""
        assert self.process.stdout is not None
        answer = b""
        while not answer or answer.splitlines()[-1][3:4] == b"-":
            line = b""
            while not line.endswith(b"\n"):
                assert select.select([self.process.stdout], [], [], DEADLINE_S)[0], f"no answer; so far {answer + line!r}"
                byte = os.read(self.process.stdout.fileno(), 1)
                assert byte, f"it has hung up; so far {answer + line!r}"
                line += byte
            answer += line
        return answer

    def end(self) -> int:
        """Closes the pipes; the exit status."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.close()
        self.process.stdout.close()
        return self.process.wait(DEADLINE_S)


SYMFONY = MAIL.replace(b"\n", b"\r\n")


def symfony_sends(talk: Conversation, recipients: list[str], message: bytes) -> None:
    """One mail as SmtpTransport::doSend says it."""
    assert talk.say(b"MAIL FROM:<me@example.org>\r\n").startswith(b"250 ")
    for recipient in recipients:
        assert talk.say(f"RCPT TO:<{recipient}>\r\n".encode()).startswith(b"250 ")
    assert talk.say(b"DATA\r\n").startswith(b"354 ")
    assert talk.process.stdin is not None
    talk.process.stdin.write(message.replace(b"\r\n.", b"\r\n.."))
    assert talk.say(b"\r\n.\r\n").startswith(b"250 2.0.0 Ok: queued as ")


@pytest.mark.parametrize(
    ("words", "hello"),
    [("-bs", b"HELO [127.0.0.1]\r\n"), ("-bs", b"EHLO [127.0.0.1]\r\n"), ("-bs -i", b"HELO [127.0.0.1]\r\n")],
    ids=["Symfony's SendmailTransport", "Symfony's EsmtpTransport", "Laravel"],
)
def test_symfony_speaks_its_smtp_for_several_mails(spool: Spool, words: str, hello: bytes) -> None:
    talk = Conversation(spool, *words.split())
    try:
        assert talk.hear().startswith(b"220 ")
        assert talk.say(hello).startswith(b"250")
        symfony_sends(talk, ["a@x", "b@x"], SYMFONY + b".\r\n..two\r\n")
        assert talk.say(b"MAIL FROM:<me@example.org>\r\n").startswith(b"250 ")
        assert talk.say(b"RCPT TO:<no address>\r\n").startswith(b"553 ")
        assert talk.say(b"RSET\r\n").startswith(b"250 ")  # what it says when a mail was refused
        assert talk.say(b"NOOP\r\n").startswith(b"250 ")  # and before a mail that comes late
        symfony_sends(talk, ["c@x"], SYMFONY)
        assert [row["address"] for row in spool.rows()] == ["a@x", "b@x", "c@x"]  # while it still speaks
        assert talk.say(b"QUIT\r\n").startswith(b"221 ")
        assert talk.end() == 0
    finally:
        end(talk.process)
    text = SYMFONY.replace(b"\r\n", b"\n").decode()
    first = text + ".\n..two\n\n"  # Symfony writes an empty line of its own before the dot
    assert delivered(spool) == [(ME, "a@x", first), (ME, "b@x", first), (ME, "c@x", text + "\n")]


def test_a_conversation_that_breaks_off_inside_a_mail_queues_nothing_of_it(spool: Spool) -> None:
    talk = Conversation(spool, "-bs")
    try:
        talk.hear()
        talk.say(b"HELO [127.0.0.1]\r\n")
        symfony_sends(talk, ["a@x"], SYMFONY)
        talk.say(b"MAIL FROM:<me@example.org>\r\n")
        talk.say(b"RCPT TO:<b@x>\r\n")
        talk.say(b"DATA\r\n")
        assert talk.process.stdin is not None
        talk.process.stdin.write(SYMFONY)
        talk.process.stdin.close()
        assert talk.hear().startswith(b"421 ")
        assert talk.end() == 65
    finally:
        end(talk.process)
    assert [row["address"] for row in spool.rows()] == ["a@x"]


class OverPipe(smtplib.SMTP):
    """smtplib, with a process in place of a server."""

    process: subprocess.Popen[bytes]

    def __init__(self, spool: Spool) -> None:
        self._spool = spool
        super().__init__("localhost", 25)

    def _get_socket(self, host: str, port: int, timeout: float) -> socket.socket:
        ours, theirs = socket.socketpair()
        ours.settimeout(DEADLINE_S)
        command = self._spool.command("sendmail", "-bs")
        with theirs:
            self.process = subprocess.Popen(command, stdin=theirs.fileno(), stdout=theirs.fileno(), env=self._spool.environment)
        return ours


def test_smtplib_speaks_to_it_over_a_socket(spool: Spool) -> None:
    with OverPipe(spool) as client:
        try:
            refused = client.sendmail(ME, ["a@x", "nobody@", "b@x"], SYMFONY + b".\r\n", ["BODY=8BITMIME"])
            assert {recipient: code for recipient, (code, _) in refused.items()} == {"nobody@": 553}
            client.sendmail(ME, "c@x", SYMFONY)
            with pytest.raises(smtplib.SMTPSenderRefused, match="max_size"):
                client.sendmail(ME, ["d@x"], b"x" * 200_000)
            assert client.quit()[0] == 221
            assert client.process.wait(DEADLINE_S) == 0
        finally:
            end(client.process)
    text = SYMFONY.replace(b"\r\n", b"\n").decode()
    assert delivered(spool) == [(ME, "a@x", text + ".\n"), (ME, "b@x", text + ".\n"), (ME, "c@x", text)]


@pytest.mark.parametrize("words", [["mailq"], ["sendmail", "-bp"], ["smtp-spool", "list"]], ids=" ".join)
def test_the_queue_is_listed_by_each_name(spool: Spool, call: Call, words: list[str]) -> None:
    assert call(*words) == (0, "Nothing is queued.\n", "")
    for recipient in ("a@x", "b@x"):
        assert call("sendmail", "-f", ME, recipient, text=MAIL).status == 0
    status, out, err = call(*words)
    assert (status, err) == (0, "")
    assert [line.split()[-1] for line in out.splitlines()[1:]] == ["a@x", "b@x"]


@pytest.mark.parametrize("words", [["newaliases"], ["sendmail", "-bi"], ["sendmail", "-I"]], ids=" ".join)
def test_there_are_no_aliases_to_rebuild(spool: Spool, call: Call, words: list[str]) -> None:
    assert call(*words) == (0, "", "")
    assert not spool.database.exists()


def test_q_tries_at_once_what_was_to_wait(spool: Spool, call: Call) -> None:
    answers = ["451 4.7.1 try again in 3600 seconds"]
    relay = Relay(lambda line: answers.pop() if line.startswith("RCPT") and answers else friendly(line))
    try:
        spool.through(relay.port)
        sender = spool.start()
        assert call("sendmail", "-f", ME, "a@x", text=MAIL).status == 0
        wait_until(lambda: spool.states() == ["deferred"], "it is put off")
        assert call("sendmail", "-q") == (0, "", "")
        wait_until(lambda: spool.states() == ["sent"], "it is sent")
        assert spool.stop(sender) == 0
    finally:
        relay.close()


class Wrong(NamedTuple):
    """A call that is refused: its exit status (sysexits.h), and what it says."""

    status: int
    words: str
    says: str
    text: bytes = MAIL


WRONG = [
    Wrong(64, "", "no recipient"),
    Wrong(64, "-i -J a@x", "unknown option -J"),
    Wrong(65, "a@x -f", "starts with a dash; options stand before the recipients"),
    Wrong(64, "-f", "-f needs a value"),
    Wrong(64, "-bd", "a listening daemon"),
    Wrong(64, "-bs a@x", "-bs takes no recipient"),
    Wrong(65, "-t", "no recipient in To"),
    Wrong(65, "-t", "left open", b"To: Ann <a@x\n" + MAIL),
    Wrong(65, "-f me@a@b,c@d a@x", "sender"),
    Wrong(65, "a@", "local@domain"),
    Wrong(65, "a@x\nb@x", "line end"),
    Wrong(65, "a@x", "spool.max_size", MAIL + b"x" * 200_000),
]


@pytest.mark.parametrize("wrong", WRONG, ids=[f"{wrong.words} is {wrong.status}".strip() for wrong in WRONG])
def test_a_wrong_call_is_refused_with_its_status(spool: Spool, call: Call, wrong: Wrong) -> None:
    words = wrong.words.split(" ") if wrong.words else []
    status, out, err = call("sendmail", *words, text=wrong.text)
    assert (status, out) == (wrong.status, "")
    assert wrong.says in err
    assert err.startswith("sendmail: ")
    assert err.count("\n") == 1
    assert spool.rows() == []


def test_closed_standard_input_is_an_error_of_io(spool: Spool) -> None:
    command = " ".join([*spool.command("sendmail", "a@x"), "<&-"])
    done = subprocess.run(["sh", "-c", command], env=spool.environment, capture_output=True, text=True)
    assert done.returncode == 74
    assert "standard input can't be read" in done.stderr
    assert spool.rows() == []


def test_a_config_that_is_closed_to_the_caller_is_not_allowed(spool: Spool) -> None:
    spool.config.chmod(0)
    assert stat.S_IMODE(spool.config.stat().st_mode) == 0
    user = {"user": NOBODY, "group": NOBODY, "extra_groups": []} if os.geteuid() == 0 else {}
    command = spool.command("sendmail", "a@x")
    done = subprocess.run(command, input=MAIL, env=spool.environment, capture_output=True, cwd="/", **user)  # type: ignore[call-overload]
    assert done.returncode == 77
    assert str(spool.config) in done.stderr.decode()


def test_a_mistake_in_the_config_is_named(spool: Spool, call: Call) -> None:
    spool.configure('max_size = "big"\n')
    status, _, err = call("sendmail", "a@x", text=MAIL)
    assert status == 78
    assert f"{spool.config}: spool.max_size" in err


def test_a_database_that_is_none_is_an_error_of_io_and_stays(spool: Spool, call: Call) -> None:
    spool.database.parent.mkdir(parents=True)
    spool.database.write_bytes(b"this was something else" * 100)
    status, _, err = call("sendmail", "a@x", text=MAIL)
    assert status == 74
    assert str(spool.database) in err
    assert spool.database.read_bytes() == b"this was something else" * 100


def test_a_spool_of_a_newer_version_is_not_touched(spool: Spool, call: Call) -> None:
    assert call("sendmail", "a@x", text=MAIL).status == 0
    with sqlite3.connect(spool.database) as database:
        database.execute("UPDATE mail_meta SET value = 999 WHERE name = 'schema'")
    database.close()
    status, _, err = call("sendmail", "a@x", text=MAIL)
    assert status == 78
    assert "999" in err


def test_the_queue_is_json_for_programs(spool: Spool, call: Call) -> None:
    assert call("sendmail", "-f", ME, "a@x", text=MAIL).status == 0
    found = json.loads(call("smtp-spool", "list", "--json").out)
    assert found["version"] == 1
    assert [(row["sender"], row["address"], row["state"]) for row in found["recipients"]] == [(ME, "a@x", "queued")]
