"""The ways in beside sendmail: rows in mail_outbox inside an application's own transaction, `add`, `send`, `preview`."""

from __future__ import annotations

import email
import json
import os
import pwd
import random
import re
import select
import signal
import sqlite3
import subprocess
import sys
import threading
import time
from base64 import b64encode
from collections.abc import Iterator
from contextlib import closing
from datetime import UTC, datetime
from email.message import EmailMessage
from email.policy import default
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from tests.system.fault_relay import Fault, FaultRelay, says
from tests.system.mail_servers import DEADLINE_S, Relay, Spool, end, friendly, subjects, wait_until
from tests.system.test_mail_callers import php
from workers.mail.config import Config
from workers.mail.load import load
from workers.spool import dots
from workers.spool.accept import open_spool
from workers.spool.notices import Notices
from workers.spool.sweep import sweep

ROWS = 500
KILLS = 8
DATA = {
    "sitename": "Bücher & Co <b>",
    "siteaddr": "https://books.example/",
    "addr": "https://books.example/c?a=1&b=2",
    "username": "Zoë",
    "curtime": "2026-11-22 10:00",
}


class OwnFile(Spool):
    """A spool that lives in an application's own database."""

    def settings(self) -> Config:
        """The whole config."""
        return load(str(self.config))


class Application:
    """An application with a table of its own in a SQLite file, which is the spool's database too."""

    def __init__(self, folder: Path) -> None:
        self.spool = OwnFile(folder)
        self.spool.database = folder / "app.db"
        self.configure("")
        with closing(open_spool(self.spool.settings())):
            pass  # as `smtp-spool run` does it before the application's first mail
        self.database = sqlite3.connect(self.spool.database, isolation_level=None)
        self.database.execute("CREATE TABLE purchase (id INTEGER PRIMARY KEY, what TEXT)")

    def configure(self, settings: str) -> None:
        """Writes mail.toml."""
        self.spool.configure(f'database = "app.db"\ndomain = "host.example"\n{settings}')

    def through(self, port: int) -> None:
        """Makes the relay at this port the way out."""
        self.configure(f'[relay]\nhost = "localhost"\nport = {port}\ntls = "none"\n')

    def insert(self, **columns: Any) -> int:
        """Puts a row into mail_outbox; its id."""
        columns = {"recipient": "a@x", **columns}
        names, places = ", ".join(columns), ", ".join(f":{name}" for name in columns)
        return int(self.database.execute(f"INSERT INTO mail_outbox ({names}) VALUES ({places})", columns).lastrowid or 0)

    def mail(self, subject: str, **columns: Any) -> int:
        """Puts a plain mail into mail_outbox; its id."""
        return self.insert(subject=subject, body_text="body", **columns)

    def states(self) -> dict[int, tuple[str | None, str | None]]:
        """(state, error) of each row by its id."""
        rows = self.database.execute("SELECT id, state, error FROM mail_outbox")
        return {row: (state, error) for row, state, error in rows}

    def wait(self, row: int, state: str) -> None:
        """Waits until a row has this state."""
        wait_until(lambda: self.states()[row][0] == state, f"row {row} is {state}")


@pytest.fixture
def app(tmp_path: Path) -> Iterator[Application]:
    made = Application(tmp_path)
    yield made
    made.database.close()
    made.spool.close()


@pytest.fixture
def spool(tmp_path: Path) -> Iterator[Spool]:
    made = Spool(tmp_path, 'domain = "host.example"\n')
    yield made
    made.close()


def parsed(text: str) -> EmailMessage:
    mail = email.message_from_string(text, policy=default)
    assert isinstance(mail, EmailMessage)
    return mail


def part(mail: EmailMessage, kind: str) -> str:
    found = mail.get_body((kind,))
    assert found is not None
    return str(found.get_content())


def call(spool: Spool, *words: str, text: str = "") -> subprocess.CompletedProcess[str]:
    """Runs a command to its end."""
    return subprocess.run(spool.command(*words), input=text, text=True, capture_output=True, env=spool.environment)


# mail_outbox: a transaction of the application's own


def test_a_commit_sends_and_a_rollback_does_not(app: Application) -> None:
    app.spool.start()
    for what, last in (("first", "ROLLBACK"), ("second", "COMMIT")):
        app.database.execute("BEGIN IMMEDIATE")
        app.database.execute("INSERT INTO purchase (what) VALUES (?)", (what,))
        app.mail(what)
        app.database.execute(last)
    wait_until(lambda: bool(app.spool.delivered()), "it is sent before any slow poll", 20.0)
    app.wait(1, "sent")
    assert app.database.execute("SELECT what FROM purchase").fetchall() == [("second",)]
    assert subjects(app.spool.delivered()) == ["second"]


def test_an_application_that_dies_in_its_transaction_sends_nothing(app: Application) -> None:
    app.spool.start()
    code = (
        "import sqlite3, sys; database = sqlite3.connect(sys.argv[1])\n"
        "database.execute(\"INSERT INTO purchase (what) VALUES ('x')\")\n"
        "database.execute(\"INSERT INTO mail_outbox (recipient, subject, body_text) VALUES ('a@x', 'lost', 'b')\")\n"
        "print('inserted', flush=True); sys.stdin.read()"
    )
    command = [sys.executable, "-c", code, str(app.spool.database)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as killed:
        assert killed.stdout is not None
        assert killed.stdout.readline() == b"inserted\n"
        end(killed)
    app.wait(app.mail("after"), "sent")
    assert app.database.execute("SELECT count(*) FROM purchase").fetchone() == (0,)
    assert subjects(app.spool.delivered()) == ["after"]


PDO = """
$database = new PDO("sqlite:" . $argv[1], options: [PDO::ATTR_ERRMODE => PDO::ERRMODE_EXCEPTION]);
foreach (["rollBack", "commit"] as $end) {
    $database->beginTransaction();
    $database->prepare("INSERT INTO purchase (what) VALUES (?)")->execute([$end]);
    $mail = $database->prepare("INSERT INTO mail_outbox (template, recipient, data) VALUES (?, ?, ?)");
    $mail->execute(["confirm-address", "Zo\\u{eb} <zoe@x>", $argv[2]]);
    $database->$end();
}
"""


def test_php_puts_mail_into_its_own_transaction_by_pdo(app: Application) -> None:
    modules = subprocess.run([php(), "-m"], capture_output=True, text=True).stdout
    if "pdo_sqlite" not in modules:
        reason = "PHP's pdo_sqlite is missing; Debian has it in the package php-sqlite3"
        if os.environ.get("CI") == "true":
            pytest.fail(reason)
        pytest.skip(reason)
    app.spool.start()
    command = [php(), "-r", PDO, "--", str(app.spool.database), json.dumps(DATA)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    app.wait(1, "sent")
    assert app.database.execute("SELECT what FROM purchase").fetchall() == [("commit",)]
    (mail,) = app.spool.delivered()
    assert parsed(mail)["To"] == "zoe@x"


# mail_outbox: what a row can say


@pytest.mark.parametrize(
    ("template", "subject", "link"),
    [
        ("confirm-address", "Confirm your email address for Bücher & Co <b>", "Confirm my address"),
        ("recover-password", "Set a new password for Bücher & Co <b>", "Set a new password"),
    ],
)
def test_a_row_names_a_template(app: Application, template: str, subject: str, link: str) -> None:
    app.insert(template=template, data=json.dumps(DATA), sender="shop@books.example", recipient="a@x, Bob <b@x>")
    assert app.spool.drain() == 0
    assert app.states() == {1: ("sent", None)}
    mails = app.spool.delivered()
    assert sorted(re.findall("Delivered-To: (.*)", "".join(mails))) == ["a@x", "b@x"]
    mail = parsed(mails[0])
    assert (mail["Subject"], mail["From"], mail["To"]) == (subject, "shop@books.example", "a@x, b@x")
    assert mail["Return-Path"] == "<shop@books.example>"
    assert "Hello Zoë," in part(mail, "plain")
    assert DATA["addr"] in part(mail, "plain")
    html = part(mail, "html")
    assert re.search(rf'<a href="https://books.example/c\?a=1&amp;b=2"[^>]*>{link}</a>', html)
    assert "Bücher &amp; Co &lt;b&gt;" in html
    assert "Co <b>" not in html


def test_a_row_brings_its_own_text_or_page_or_both(app: Application) -> None:
    app.insert(subject="Grüße", body_text="Hallo Zoë\n")
    app.insert(subject="page", body_html="<p>Hallo <b>Zoë</b></p>")
    app.insert(subject="both", body_text="text", body_html="<p>page</p>")
    assert app.spool.drain() == 0
    mails = {mail["Subject"]: mail for mail in map(parsed, app.spool.delivered())}
    assert part(mails["Grüße"], "plain") == "Hallo Zoë\n"
    assert mails["Grüße"].get_body(("html",)) is None
    assert part(mails["page"], "plain").strip() == "Hallo Zoë"
    assert "<b>Zoë</b>" in part(mails["page"], "html")
    assert part(mails["both"], "plain").strip() == "text"
    assert "<p>page</p>" in part(mails["both"], "html")


def test_rows_go_by_their_priority(app: Application) -> None:
    relay = Relay(friendly)
    try:
        app.through(relay.port)
        app.database.execute("BEGIN")
        for subject, priority in (("bulk", 9), ("plain", None), ("named", "now"), ("first", 0)):
            app.mail(subject, priority=priority)
        app.database.execute("COMMIT")
        assert app.spool.drain() == 0
        assert [subjects([body])[0] for body in relay.bodies] == ["named", "first", "plain", "bulk"]
    finally:
        relay.close()


def test_a_row_waits_for_its_time(app: Application) -> None:
    soon = time.time() + 1.5
    later, at_soon = app.mail("later", send_at=soon + 3600), app.mail("soon", send_at=soon)
    sender = app.spool.start()
    app.wait(app.mail("now"), "sent")
    app.wait(at_soon, "sent")
    assert time.time() >= soon
    assert app.states()[later] == ("queued", None)
    assert subjects(app.spool.delivered()) == ["now", "soon"]
    assert app.spool.stop(sender) == 0


def test_a_row_that_expires_is_not_sent(app: Application) -> None:
    app.mail("late", send_at=time.time() - 10, expires=time.time() + 3600)
    sender = app.spool.start()
    app.wait(1, "sent")
    app.spool.stop(sender)
    app.through(1)
    row = app.mail("too late", expires=time.time() + 3600)
    assert app.spool.drain() == 75
    app.database.execute("UPDATE mail_message SET expires_at = 1 WHERE id = 2")
    app.configure("")
    assert app.spool.drain() == 0
    assert app.states()[row][0] == "expired"
    assert "time was over" in (app.states()[row][1] or "")
    assert "too late" not in subjects(app.spool.delivered())


def test_the_same_identifier_is_queued_once(app: Application) -> None:
    app.mail("one", identifier="order 7")
    app.mail("two", identifier="order 7")
    assert app.spool.drain() == 0
    assert subjects(app.spool.delivered()) == ["one"]
    assert app.states() == {1: ("sent", None), 2: ("sent", None)}


def test_a_row_with_the_identifier_of_a_mail_that_is_sent_is_sent_too(app: Application) -> None:
    app.mail("one", identifier="order 7")
    assert app.spool.drain() == 0
    app.mail("two", identifier="order 7")
    assert app.spool.drain() == 0
    assert subjects(app.spool.delivered()) == ["one"]
    assert app.states() == {1: ("sent", None), 2: ("sent", None)}


# mail_outbox: rows that are wrong

WRONG: dict[str, tuple[dict[str, Any], str]] = {
    "no address": ({"recipient": "nobody at all"}, "is no domain name|quotes are needed"),
    "an empty address": ({"recipient": ""}, "to: needs an address"),
    "a line end in the address": ({"recipient": "a@x\nBcc: b@x"}, "line end"),
    "a wrong sender": ({"sender": "a@x, b@x"}, "from: needs one address"),
    "nothing to say": ({"subject": "x", "body_text": None}, "needs text or html"),
    "no such template": ({"subject": None, "body_text": None, "template": "no-such"}, "there is no folder"),
    "a template outside": ({"subject": None, "body_text": None, "template": "../etc"}, "a name has letters"),
    "a value missing": ({"subject": None, "body_text": None, "template": "confirm-address", "data": "{}"}, "sitename"),
    "data that is no JSON": ({"subject": None, "body_text": None, "template": "confirm-address", "data": "{'a'"}, "not JSON"),
    "data that is a list": ({"subject": None, "body_text": None, "template": "confirm-address", "data": "[]"}, "JSON object"),
    "template and text": ({"template": "confirm-address"}, "needs one of"),
    "a priority of 10": ({"priority": 10}, "priority: needs a number"),
    "a time in words": ({"send_at": "tomorrow"}, "send_at: needs Unix seconds"),
    "a time that is over": ({"expires": 1.0}, "expires: needs to be in the future"),
    "an empty identifier": ({"identifier": ""}, "identifier: needs text"),
    "bytes that are no text": ({"body_text": b"\xff\xfe"}, "text: "),
}


def test_wrong_rows_are_told_of_and_hold_up_no_other(app: Application) -> None:
    for columns, _ in WRONG.values():
        app.insert(**{"subject": "x", "body_text": "x", **columns})
        app.mail("good")
    sender = app.spool.start()
    app.wait(len(WRONG) * 2, "sent")
    app.wait(1, "failed")
    states = app.states()
    for row, (columns, pattern) in zip(range(1, len(WRONG) * 2, 2), WRONG.values(), strict=True):
        state, error = states[row]
        assert (state, bool(re.search(pattern, error or ""))) == ("failed", True), (columns, error)
        assert states[row + 1] == ("sent", None)
        assert f"mail_outbox row {row}: " in app.spool.logged()
    assert subjects(app.spool.delivered()) == ["good"] * len(WRONG)
    assert app.spool.stop(sender) == 0


POISON = {
    "text that is not UTF-8": "INSERT INTO mail_outbox (recipient, subject, body_text) VALUES ('a@x', CAST(x'fc' AS TEXT), 'b')",
    "data that is nested without end": "INSERT INTO mail_outbox (recipient, template, data) "
    "VALUES ('a@x', 'confirm-address', replace(hex(zeroblob(50000)), '00', '['))",
}


@pytest.mark.parametrize("statement", POISON.values(), ids=POISON)
def test_a_row_that_can_not_even_be_read_holds_up_no_other(app: Application, statement: str) -> None:
    app.database.execute(statement)
    app.mail("good")
    assert app.spool.drain() == 0
    assert [state for state, _ in app.states().values()] == ["failed", "sent"]
    assert app.states()[1][1]


def test_drain_takes_the_rows_behind_many_wrong_ones_too(app: Application) -> None:
    app.database.execute("BEGIN")
    for _ in range(120):
        app.insert(recipient="nobody at all", subject="x", body_text="x")
    good = app.mail("good")
    app.database.execute("COMMIT")
    assert app.spool.drain() == 0
    assert app.states()[good] == ("sent", None)


def test_a_row_that_its_application_takes_back_in_time_is_not_sent(app: Application) -> None:
    app.database.execute("DELETE FROM mail_outbox WHERE id = ?", (app.mail("taken back"),))
    app.database.execute("UPDATE mail_outbox SET recipient = 'b@x' WHERE id = ?", (app.mail("changed"),))
    assert app.spool.drain() == 0
    (mail,) = app.spool.delivered()
    assert "Delivered-To: b@x\n" in mail


# mail_outbox: the state follows the mail


def test_a_row_says_what_became_of_its_mail(app: Application) -> None:
    refuses = [
        Fault("RCPT", says("550 5.1.1 no such user"), when=lambda _, line: "bad@" in line),
        Fault("RCPT", says("450 4.2.0 full"), when=lambda _, line: "later@" in line),
    ]
    relay = FaultRelay(refuses)
    try:
        app.through(relay.port)
        good, bad, later, mixed = (app.mail("x", recipient=each) for each in ("good@x", "bad@x", "later@x", "good@x, bad@x"))
        assert app.spool.drain() == 0
        states = app.states()
        assert states[good] == ("sent", None)
        assert states[bad][0] == states[mixed][0] == "failed"
        assert "550 5.1.1 no such user" in (states[bad][1] or "")
        assert states[later][0] == "queued"
        assert "450 4.2.0 full" in (states[later][1] or "")
        relay.faults.clear()
        assert call(app.spool, "retry", "--state", "deferred").stdout == "1 recipients\n"
        assert app.spool.drain() == 0
        assert app.states()[later] == ("sent", None)
    finally:
        relay.close()


@pytest.mark.parametrize(("command", "state"), [("cancel", "cancelled"), ("hold", "queued")])
def test_a_row_follows_what_is_done_by_hand(app: Application, command: str, state: str) -> None:
    app.through(1)
    app.mail("x")
    assert app.spool.drain() == 75
    assert call(app.spool, command, "--all").returncode == 0
    assert app.states()[1][0] == state


def test_a_row_follows_a_mail_that_expires_while_its_relay_is_down(app: Application) -> None:
    app.through(1)
    app.mail("x")
    assert app.spool.drain() == 75
    app.database.execute("UPDATE mail_message SET expires_at = 1")
    config = app.spool.settings()
    each_minute = partial(sweep, notices=Notices(config), shut={"relay": "no connection"}, hold=False, now=time.time())
    with closing(open_spool(config)) as store:
        assert "expired: no connection" in "".join(store.transact(each_minute))
    assert app.states() == {1: ("expired", "no connection")}


def test_a_row_follows_a_mail_whose_sender_died_with_the_answer_in_hand(app: Application) -> None:
    reached, locked = threading.Event(), threading.Event()

    def answer(line: str) -> str:
        if line == "." and not reached.is_set():
            reached.set()
            locked.wait(DEADLINE_S)
        return friendly(line)

    def noted() -> bool:
        notes = [note for path in app.spool.folder.glob("app.db-dots-*") for note in dots.read(str(path)) or []]
        return any(note.answer for note in notes)

    relay = Relay(answer)
    try:
        app.through(relay.port)
        app.mail("x")
        sender = app.spool.start()
        assert reached.wait(DEADLINE_S)
        app.database.execute("BEGIN IMMEDIATE")  # the application is at work, so the sender's commit has to wait
        locked.set()
        wait_until(noted, "the sender has noted the answer")
        end(sender)
        app.database.execute("ROLLBACK")
        assert app.spool.drain() == 0
        assert len(relay.bodies) == 1
        assert app.spool.states() == ["sent"]
        assert app.states()[1][0] == "sent"
    finally:
        locked.set()
        relay.close()


def test_senders_killed_while_they_take_rows_make_exactly_one_mail_of_each(app: Application) -> None:
    tags = [f"tag{number:04d}" for number in range(ROWS)]
    app.database.execute("BEGIN")
    for tag in tags:
        app.mail(tag)
    app.database.execute("COMMIT")

    def taken() -> int:
        return int(app.database.execute("SELECT count(*) FROM mail_outbox WHERE state IS NOT NULL").fetchone()[0])

    for threshold in sorted(random.sample(range(ROWS), KILLS)):
        sender = app.spool.start()
        wait_until(lambda least=threshold: taken() >= least, "rows are taken")  # type: ignore[misc]
        time.sleep(random.uniform(0, 0.02))  # a random moment, not a wait for something
        sender.send_signal(signal.SIGKILL)
        sender.wait()
    sender = app.spool.start()
    wait_until(lambda: {state for state, _ in app.states().values()} == {"sent"}, "all rows are sent")
    assert app.spool.stop(sender) == 0
    found = app.database.execute("SELECT count(DISTINCT mail_id), (SELECT count(*) FROM mail_message) FROM mail_outbox")
    assert found.fetchone() == (ROWS, ROWS)
    assert subjects(app.spool.delivered()) == tags


# add


def added(spool: Spool, *entries: Any) -> tuple[int, list[dict[str, Any]]]:
    """Hands entries (or lines as they are) to one `add`; its status and its answers."""
    lines = [each if isinstance(each, str) else json.dumps(each) for each in entries]
    done = call(spool, "add", text="".join(f"{line}\n" for line in lines))
    assert "Traceback" not in done.stderr, done.stderr
    return done.returncode, [json.loads(line) for line in done.stdout.splitlines()]


def test_add_knows_all_fields(spool: Spool) -> None:
    raw = "Subject: ä\r\n\r\n.\r\nbody ä\r\n".encode("latin-1")
    soon, later = time.time() + 100, int(time.time()) + 200
    in_words = datetime.fromtimestamp(later, UTC).isoformat().replace("+00:00", "Z")
    entries = [
        {"from": "s@x", "to": "a@x", "message": "Subject: text\n\nbody\n"},
        {"from": "", "to": ["a@x", "Bob <b@x>, c@x"], "message_base64": b64encode(raw).decode()},
        {"from": "s", "to": "a@x", "template": "confirm-address", "data": DATA, "priority": "bulk"},
        {"from": "s@x", "to": "a@x", "subject": "page", "html": "<p>x</p>", "priority": 3, "send_at": soon, "expires": later},
        {"from": "s@x", "to": "a@x", "subject": "text", "text": "x", "send_at": "10m", "identifier": "i"},
        {"to": "root", "message": "x", "expires": in_words, "priority": "now"},
    ]
    assert added(spool, *entries) == (0, [{"id": number} for number in range(1, 7)])
    rows = spool.rows()
    caller = pwd.getpwuid(os.geteuid()).pw_name
    assert [(row["mail_id"], row["sender"], row["address"], row["priority"]) for row in rows] == [
        (1, "s@x", "a@x", 5),
        (2, "", "a@x", 5),
        (2, "", "b@x", 5),
        (2, "", "c@x", 5),
        (3, "s@host.example", "a@x", 9),
        (4, "s@x", "a@x", 3),
        (5, "s@x", "a@x", 5),
        (6, f"{caller}@host.example", "root@host.example", 0),
    ]
    assert (rows[5]["due_at"], rows[5]["expires_at"]) == (soon, later)
    assert rows[6]["due_at"] == rows[6]["created_at"] + 600
    assert rows[7]["expires_at"] == later
    assert spool.drain() == 0
    assert spool.states() == ["sent"] * 5 + ["queued"] * 2 + ["sent"]
    files = [path.read_bytes() for path in (spool.folder / "state/mail/delivered/new").iterdir()]
    assert sum(text.endswith(b"\n\n.\nbody \xe4\n") for text in files) == 3


def test_add_answers_in_order_and_names_each_mistake(spool: Spool) -> None:
    good = {"to": "a@x", "subject": "s", "text": "t"}
    wrong: list[tuple[Any, str]] = [
        ("no json", "not JSON"),
        ("[]", "needs to be a JSON object"),
        ({"message": "x"}, "to: needs an address"),
        ({**good, "to": 5}, "to: needs an address"),
        ({**good, "to": "a@"}, "local@domain"),
        ({**good, "to": ["a@x\r\nRCPT TO:<b@x>"]}, "line end"),
        ({**good, "cc": "a@x"}, "cc: unknown; known are data, expires, from"),
        ({**good, "message": "x"}, "needs one of"),
        ({"to": "a@x", "message_base64": "&&&"}, "message_base64: "),
        ({"to": "a@x", "template": "confirm-address", "data": {}}, "sitename"),
        ({**good, "priority": True}, "priority: needs a number"),
        ({**good, "send_at": "soon"}, "send_at: needs Unix seconds"),
        ({**good, "send_at": "0001-01-01T00:00:00"}, "send_at: needs Unix seconds"),
        ({**good, "send_at": "2h", "expires": "1h"}, "expires: needs to be in the future, and behind send_at"),
        ({**good, "identifier": "x" * 201}, "identifier: needs text of 1 to 200"),
        ({**good, "from": "a@x b@x"}, "address"),
    ]
    entries = [each for entry, _ in wrong for each in (entry, good)]
    status, answers = added(spool, *entries)
    assert status == 65
    assert len(answers) == len(entries)
    for (entry, words), answer in zip(wrong, answers[::2], strict=True):
        assert words in answer.get("error", ""), (str(entry)[:80], answer)
    assert answers[1::2] == [{"id": number + 1} for number in range(len(wrong))]
    assert len(spool.rows()) == len(wrong)


@pytest.mark.parametrize(
    "line",
    ["[" * 100_000, json.dumps({"to": "a@x", "subject": "s", "text": "t", "identifier": "\ud800"})],
    ids=["JSON that is nested without end", "an identifier that is no text"],
)
def test_add_answers_what_stands_beside_an_odd_line(spool: Spool, line: str) -> None:
    good = {"to": "a@x", "subject": "s", "text": "t"}
    status, answers = added(spool, good, line, good)
    assert status == 65
    assert [sorted(answer) for answer in answers] == [["id"], ["error"], ["id"]]


def test_add_queues_an_identifier_once(spool: Spool) -> None:
    one, other = ({"to": "a@x", "subject": name, "text": "t", "identifier": name} for name in ("one", "other"))
    assert added(spool, one, other, one) == (0, [{"id": 1}, {"id": 2}, {"id": 1}])
    assert added(spool, {**one, "subject": "changed"}) == (0, [{"id": 1}])
    assert spool.drain() == 0
    assert added(spool, one) == (0, [{"id": 1}])
    assert spool.drain() == 0
    assert subjects(spool.delivered()) == ["one", "other"]


def test_add_takes_a_batch_at_once_and_a_last_line_without_an_end(spool: Spool) -> None:
    entries = [json.dumps({"to": "a@x", "subject": f"tag{number:04d}", "text": "t"}) for number in range(1200)]
    done = call(spool, "add", text="\n\n".join(entries))
    assert done.returncode == 0
    assert [json.loads(line) for line in done.stdout.splitlines()] == [{"id": number} for number in range(1, 1201)]
    assert spool.states() == ["queued"] * 1200


def test_add_answers_a_line_while_its_input_stays_open(spool: Spool) -> None:
    command = spool.command("add")
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=spool.environment) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        try:
            for number in range(1, 4):
                line = json.dumps({"to": "a@x", "subject": f"tag{number}", "text": "t"}).encode() + b"\n"
                process.stdin.write(line[:20])
                process.stdin.flush()
                process.stdin.write(line[20:])
                process.stdin.flush()
                assert select.select([process.stdout], [], [], DEADLINE_S)[0], "no answer while the input is open"
                assert json.loads(os.read(process.stdout.fileno(), 1000)) == {"id": number}
                assert len(spool.rows()) == number
            process.stdin.close()
            assert process.wait(DEADLINE_S) == 0
        finally:
            end(process)


# send and preview


def test_send_queues_a_mail_from_a_template_of_its_own(spool: Spool) -> None:
    own = spool.folder / "templates" / "hello"
    own.mkdir(parents=True)
    (own / "subject.txt").write_text("Hello {{ name }}\n")
    (own / "body.html").write_text('<p>Hello {{ name }}</p><img src="logo.png" alt="logo">')
    (own / "logo.png").write_bytes(b"\x89PNG\r\n\x1a\n....")
    data = json.dumps({"name": "Zoë <z>"})
    words = ["--to", "a@x", "--to", "b@x", "--from", "s@x", "--priority", "bulk", "--expires", "1h", "--identifier", "i"]
    assert call(spool, "send", "hello", *words, "--data", data).stdout == "1\n"
    assert call(spool, "send", "hello", *words, "--data", "-", text=data).stdout == "1\n"
    assert [(row["sender"], row["address"], row["priority"]) for row in spool.rows()] == [("s@x", "a@x", 9), ("s@x", "b@x", 9)]
    assert spool.drain() == 0
    mail = parsed(spool.delivered()[0])
    assert mail["Subject"] == "Hello Zoë <z>"
    html = part(mail, "html")
    assert "<p>Hello Zoë &lt;z&gt;</p>" in html
    (image,) = [each for each in mail.walk() if each.get_content_type() == "image/png"]
    assert f'src="cid:{image["Content-ID"].strip("<>")}"' in html
    assert image.get_payload(decode=True) == b"\x89PNG\r\n\x1a\n...."


def test_preview_shows_what_send_would_and_sends_nothing(spool: Spool) -> None:
    words = ["preview", "recover-password", "--data", json.dumps(DATA)]
    text, html, raw = (call(spool, *words, *more).stdout for more in ([], ["--html"], ["--raw"]))
    assert text.startswith("Subject: Set a new password for Bücher & Co <b>\n\n")
    assert DATA["addr"] in text
    assert html.lstrip().startswith("<!DOCTYPE html>")
    mail = parsed(raw)
    assert mail["Subject"] == "Set a new password for Bücher & Co <b>"
    assert part(mail, "html").strip() == html.strip()
    assert spool.rows() == []


@pytest.mark.parametrize(
    ("words", "status", "says_so"),
    [
        (["send", "confirm-address"], 64, "--to ADDRESS is missing"),
        (["send", "--to", "a@x"], 64, "needs the name of one template"),
        (["send", "confirm-address", "--to", "a@x"], 65, "sitename"),
        (["send", "confirm-address", "--to", "a@", "--data", json.dumps(DATA)], 65, "local@domain"),
        (["send", "confirm-address", "--to", "a@x", "--data", "{"], 64, "--data: not JSON"),
        (["preview", "no-such"], 65, "there is no folder"),
        (["preview", "confirm-address", "--data", "[1]"], 64, "JSON object"),
    ],
)
def test_a_wrong_send_or_preview_is_refused(spool: Spool, words: list[str], status: int, says_so: str) -> None:
    done = call(spool, *words)
    assert (done.returncode, done.stdout) == (status, "")
    assert says_so in done.stderr
    assert done.stderr.count("\n") == 1
    assert spool.rows() == []
