"""The sender at work: in what order and how fast, what it tells senders and supervisors, and what changes under its feet."""

from __future__ import annotations

import base64
import email
import fcntl
import json
import os
import re
import signal
import socket
import sqlite3
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from email.message import EmailMessage
from email.policy import default
from pathlib import Path
from typing import Any, NamedTuple

import dkim
import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa

from tests.system.fault_relay import SILENCE, Fault, FaultRelay, Talk, says
from tests.system.mail_servers import DEADLINE_S, ROOT, Spool, free_port, wait_until
from workers.spool.lane import AHEAD
from workers.spool.relay import LIMITS

HOUR_S = 3600.0


class Arrived(NamedTuple):
    """A mail that the relay has taken; `at` is of the monotonic clock, in seconds."""

    subject: str
    sender: str
    recipients: list[str]
    message: bytes
    at: float
    talk: int


class Keeper(FaultRelay):
    """A relay that keeps what it takes. With `stops_at` the mail of that number is not answered before `go_on`."""

    def __init__(self, faults: Sequence[Fault] = (), *, stops_at: int = -1, **more: Any) -> None:
        self.mails: list[Arrived] = []
        self.stops_at = stops_at
        self.stopped = threading.Event()
        self._go_on = threading.Event()
        super().__init__(faults, **more)

    def take(self, talk: Talk, message: bytes) -> None:
        """Of FaultRelay."""
        super().take(talk, message)
        found = re.search(rb"^Subject: (.*)\r$", message, re.M)
        subject = found[1].decode() if found else ""
        self.mails.append(Arrived(subject, talk.sender or "", list(talk.recipients), message, time.monotonic(), talk.number))
        if len(self.mails) - 1 == self.stops_at:
            self.stopped.set()
            self._go_on.wait(DEADLINE_S)

    def go_on(self) -> None:
        """Answers at last."""
        self._go_on.set()

    def close(self) -> None:
        """Of FaultRelay."""
        self.go_on()
        super().close()

    def subjects(self) -> list[str]:
        """In the order in which they came."""
        return [mail.subject for mail in self.mails]

    def reports(self) -> list[EmailMessage]:
        """What came from the null sender."""
        parsed = [email.message_from_bytes(mail.message, policy=default) for mail in self.mails if mail.sender == ""]
        return [mail for mail in parsed if isinstance(mail, EmailMessage)]


NewRelay = Callable[..., Keeper]


@pytest.fixture
def new_relay(spool: Spool) -> Iterator[NewRelay]:
    made: list[Keeper] = []

    def make(faults: Sequence[Fault] = (), *, relay: str = "", spool_keys: str = "", **more: Any) -> Keeper:
        made.append(Keeper(faults, **more))
        spool.lane = "relay"
        spool.configure(spool_keys + section("relay", made[-1].port, relay))
        return made[-1]

    yield make
    for each in made:
        each.close()


def section(name: str, port: int, more: str = "") -> str:
    return f'[{name}]\nhost = "localhost"\nport = {port}\ntls = "none"\n{more}\n'


def add(spool: Spool, *entries: dict[str, Any]) -> list[int]:
    """Queues mails by `add`, all in one transaction; their ids."""
    text = "".join(json.dumps({"from": "s@x", "to": "a@x", "text": "t", **entry}) + "\n" for entry in entries)
    done = subprocess.run(spool.command("add"), input=text, text=True, capture_output=True, env=spool.environment)
    assert done.returncode == 0, done.stdout + done.stderr
    return [json.loads(line)["id"] for line in done.stdout.splitlines()]


def ask(spool: Spool, *words: str) -> subprocess.CompletedProcess[str]:
    """Runs a command."""
    return subprocess.run(spool.command(*words), stdin=subprocess.DEVNULL, text=True, capture_output=True, env=spool.environment)


def change(spool: Spool, statement: str) -> None:
    """Changes the store behind the sender's back, mostly to make something old."""
    with closing(sqlite3.connect(spool.database, isolation_level=None)) as database:
        database.execute(statement)


def reconfigure(spool: Spool, settings: str) -> None:
    """Writes mail.toml by rename: a sender at work never sees half of it."""
    draft = spool.folder / "draft.toml"
    draft.write_text(f'[spool]\nstate = "state"\n{settings}')
    draft.replace(spool.config)


def wait_all(spool: Spool, *states: str) -> None:
    wait_until(lambda: set(spool.states()) == set(states), f"all are {states}")


# Order


def test_low_priority_numbers_go_first_and_equal_ones_by_age(spool: Spool, new_relay: NewRelay) -> None:
    relay = new_relay(relay="connections = 1", stops_at=0)
    spool.queue(["first"])
    spool.start()
    assert relay.stopped.wait(DEADLINE_S)
    kinds: list[Any] = ["bulk", 7, "normal", None, 1, "now"]
    add(spool, *({"subject": f"{kind} {number:02d}", "priority": kind} for number in range(5) for kind in kinds))
    relay.go_on()
    wait_all(spool, "sent")
    plain = sorted(f"{kind} {number:02d}" for number in range(5) for kind in ("normal", None))
    came = relay.subjects()
    assert came[:11] == ["first", *(f"{kind} {number:02d}" for kind in ("now", 1) for number in range(5))]
    assert came[11:21] == sorted(plain, key=lambda tag: (tag[-2:], kinds.index("normal") if "normal" in tag else 3))
    assert came[21:] == [f"{kind} {number:02d}" for kind in (7, "bulk") for number in range(5)]


def test_an_urgent_mail_overtakes_all_that_is_not_claimed(spool: Spool, new_relay: NewRelay) -> None:
    relay = new_relay(relay="connections = 1", stops_at=20)
    add(spool, *({"subject": f"bulk {number:02d}", "priority": "bulk"} for number in range(80)))
    spool.start()
    assert relay.stopped.wait(DEADLINE_S)
    add(spool, {"subject": "urgent", "priority": 0})
    relay.go_on()
    wait_all(spool, "sent")
    came = relay.subjects()
    assert came.index("urgent") <= 21 + 2 * AHEAD
    came.remove("urgent")
    assert came == sorted(came)


def test_a_fresh_mail_overtakes_deferred_ones_but_no_priority(spool: Spool, new_relay: NewRelay) -> None:
    relay = new_relay([Fault("RCPT", says("450 4.2.0 later"), 2)], relay="connections = 1")
    add(spool, {"subject": "old"}, {"subject": "old and first", "priority": 0})
    assert spool.drain() == 0
    assert spool.states() == ["deferred", "deferred"]
    change(spool, "UPDATE mail_recipient SET due_at = 1")
    add(spool, {"subject": "fresh"}, {"subject": "fresh bulk", "priority": 9})
    assert spool.drain() == 0
    assert relay.subjects() == ["old and first", "fresh", "old", "fresh bulk"]


def test_a_mail_waits_for_its_time_and_is_sent_then(spool: Spool, new_relay: NewRelay) -> None:
    relay = new_relay()
    soon = time.time() + 1.5
    add(spool, {"subject": "later", "send_at": "1h"}, {"subject": "soon", "send_at": soon}, {"subject": "now"})
    spool.start()
    wait_until(lambda: relay.subjects() == ["now", "soon"], "both are sent")
    assert time.time() >= soon
    wait_until(lambda: spool.states() == ["queued", "sent", "sent"], "that is written")


# What becomes old


def test_a_mail_that_expired_before_it_was_sent_is_told_of(spool: Spool, new_relay: NewRelay) -> None:
    relay = new_relay()
    add(spool, {"subject": "late", "expires": "1h"}, {"subject": "in time", "expires": "1h"})
    change(spool, "UPDATE mail_message SET expires_at = 1 WHERE id = 1")
    assert spool.drain() == 0
    assert spool.states() == ["expired", "sent", "sent"]
    assert sorted(relay.subjects()) == ["Your message could not be delivered", "in time"]
    fields = delivery_fields(relay.reports()[0])
    assert (fields[1]["Final-Recipient"], fields[1]["Action"], fields[1]["Status"]) == ("rfc822; a@x", "failed", "4.4.7")


def test_max_age_ends_the_tries(spool: Spool, new_relay: NewRelay) -> None:
    relay = new_relay(
        [Fault("RCPT", says("450 4.2.0 later"), when=lambda _, line: "<a@x>" in line)], spool_keys='max_age = "30s"\n'
    )
    add(spool, {"subject": "x"})
    assert spool.drain() == 0
    assert spool.states() == ["deferred"]  # the first try is never the last
    change(spool, "UPDATE mail_recipient SET due_at = 1")
    assert spool.drain() == 0
    assert spool.states() == ["expired", "sent"]
    fields = delivery_fields(relay.reports()[0])
    assert (fields[1]["Status"], fields[1]["Diagnostic-Code"]) == ("4.2.0", "smtp; 450 4.2.0 later")


def test_a_sender_is_warned_of_a_delay_once(spool: Spool, new_relay: NewRelay) -> None:
    relay = new_relay([Fault("RCPT", says("450 4.2.0 later"), when=lambda _, line: "<a@x>" in line)])
    add(spool, {"subject": "x"})
    for _ in range(3):
        assert spool.drain() == 0
        change(spool, f"UPDATE mail_message SET created_at = {time.time() - 5 * HOUR_S}")
        change(spool, "UPDATE mail_recipient SET due_at = 1 WHERE state = 'deferred'")
    assert spool.states() == ["deferred", "sent"]
    (warning,) = relay.reports()
    assert warning["Subject"] == "Your message is delayed"
    fields = delivery_fields(warning)
    assert (fields[1]["Action"], fields[1]["Status"]) == ("delayed", "4.2.0")
    assert fields[1]["Will-Retry-Until"]


def test_prune_takes_what_is_over_for_long_and_keeps_the_books(spool: Spool, new_relay: NewRelay) -> None:
    new_relay([Fault("RCPT", says("450 4.2.0 later"), when=lambda _, line: "<later@x>" in line)], spool_keys='keep_sent = "1h"\n')
    add(
        spool,
        {"subject": "old"},
        {"subject": "new"},
        {"subject": "waits", "to": "later@x"},
        {"subject": "half", "to": ["a@x", "later@x"]},
    )
    assert spool.drain() == 0
    change(spool, f"UPDATE mail_message SET created_at = created_at - {2 * HOUR_S} WHERE id <> 2")
    change(spool, f"UPDATE mail_recipient SET updated_at = updated_at - {2 * HOUR_S} WHERE mail_id <> 2")
    assert ask(spool, "prune").stdout == "1 mails\n"
    assert [(row["mail_id"], row["state"]) for row in spool.rows()] == [
        (2, "sent"),
        (3, "deferred"),
        (4, "sent"),
        (4, "deferred"),
    ]
    with closing(sqlite3.connect(spool.database)) as database:
        assert database.execute("SELECT DISTINCT mail_id FROM mail_body ORDER BY mail_id").fetchall() == [(2,), (3,), (4,)]
    books = json.loads(ask(spool, "stats", "--json").stdout)
    assert (books["accepted"], books["recipients"]["sent"], books["open"]) == (5, 3, 2)


# Bounces


def delivery_fields(report: EmailMessage) -> list[dict[str, str]]:
    """The groups of fields of a DSN: of the mail, then of each recipient (RFC 3464 2)."""
    assert report.get_content_type() == "multipart/report"
    assert report.get_param("report-type") == "delivery-status"
    kinds = [part.get_content_type() for part in report.iter_parts()]
    assert kinds == ["text/plain", "message/delivery-status", "text/rfc822-headers"]
    status = list(report.iter_parts())[1]
    return [dict(group.items()) for group in status.get_payload() if isinstance(group, EmailMessage)]


NO_USER = [Fault("RCPT", says("550 5.1.1 no such user"), when=lambda _, line: "<bad" in line)]


def test_a_bounce_tells_what_failed_and_of_what_mail(spool: Spool, new_relay: NewRelay) -> None:
    relay = new_relay(NO_USER)
    text = "Subject: =?utf-8?Q?Gr=C3=BC=C3=9Fe?=\nMessage-ID: <7@x>\n\nbody\n"
    assert spool.sendmail("-f", "s@x", "bad@x", "good@x", "bad2@x", text=text).returncode == 0
    assert spool.drain() == 0
    assert spool.states() == ["failed", "sent", "failed", "sent"]
    (report,) = relay.reports()
    assert relay.mails[-1].recipients == ["s@x"]
    assert (report["To"], report["Auto-Submitted"], report["In-Reply-To"]) == ("s@x", "auto-replied", "<7@x>")
    top, *recipients = delivery_fields(report)
    assert top["Reporting-MTA"].startswith("dns; ")
    assert [(fields["Final-Recipient"], fields["Action"], fields["Status"]) for fields in recipients] == [
        ("rfc822; bad@x", "failed", "5.1.1"),
        ("rfc822; bad2@x", "failed", "5.1.1"),
    ]
    assert recipients[0]["Diagnostic-Code"] == "smtp; 550 5.1.1 no such user"
    words, _, header = report.iter_parts()
    assert "Grüße" in words.get_content()
    assert "good@x" not in words.get_content()
    assert "Message-ID: <7@x>" in header.get_content()
    assert "body" not in header.get_content()


def test_a_bounce_does_not_bounce_and_nobody_is_told_of_a_null_sender(spool: Spool, new_relay: NewRelay) -> None:
    relay = new_relay(NO_USER)
    assert spool.sendmail("-f", "bad@x", "bad2@x").returncode == 0
    assert spool.sendmail("-f", "<>", "bad3@x").returncode == 0
    assert spool.drain() == 0
    assert [(row["sender"], row["address"], row["state"]) for row in spool.rows()] == [
        ("bad@x", "bad2@x", "failed"),
        ("", "bad3@x", "failed"),
        ("", "bad@x", "failed"),
    ]
    assert relay.mails == []


def test_a_storm_of_failures_gives_each_sender_twenty_bounces_an_hour(spool: Spool, new_relay: NewRelay) -> None:
    relay = new_relay(NO_USER)
    add(spool, *({"subject": "x", "to": "bad@x", "from": sender} for _ in range(30) for sender in ("s@x", "t@x")))
    assert spool.drain() == 0
    assert Counter(mail.recipients[0] for mail in relay.mails) == {"s@x": 20, "t@x": 20}
    assert spool.states().count("failed") == 60
    change(spool, f"UPDATE mail_message SET created_at = created_at - {2 * HOUR_S}")
    add(spool, {"subject": "x", "to": "bad@x"})
    assert spool.drain() == 0
    assert len(relay.reports()) == 41


# Ways


def test_an_alias_is_a_local_name_for_others(spool: Spool, new_relay: NewRelay) -> None:
    relay = new_relay(relay='[aliases]\nroot = ["ops@example.org", "ann@example.org"]\nops = "ops@example.org"\n')
    assert spool.sendmail("root", "OPS", "b@x").returncode == 0
    assert spool.drain() == 0
    assert [mail.recipients for mail in relay.mails] == [["ops@example.org", "ann@example.org", "b@x"]]


def test_a_route_beats_an_identity_beats_the_relay(spool: Spool, new_relay: NewRelay) -> None:
    routed, own, other = new_relay(passwords={"app": "pw"}), new_relay(), new_relay()
    (spool.folder / "pw").write_text("pw\n")
    (spool.folder / "pw").chmod(0o600)
    settings = section("relay", other.port) + section('identity."app@x"', own.port)
    settings += section('routes."Route.Example"', routed.port, 'user = "app"\npassword_file = "pw"')
    spool.configure(settings + '[identity."*"]\nname = "The App"\nreply_to = "help@x"\n')
    senders = ["app@x", "App@X", "else@x"]
    add(spool, *({"subject": sender, "from": sender, "to": ["a@y", "a@route.example"]} for sender in senders))
    assert spool.drain() == 0
    assert sorted((mail.subject, *mail.recipients) for mail in routed.mails) == sorted(
        (each, "a@route.example") for each in senders
    )
    assert sorted((mail.subject, *mail.recipients) for mail in own.mails) == [("App@X", "a@y"), ("app@x", "a@y")]
    assert [(mail.subject, *mail.recipients) for mail in other.mails] == [("else@x", "a@y")]
    assert {talk.user for talk in routed.talks} == {"app"}
    assert b'From: "The App" <else@x>\r\nReply-To: help@x\r\n' in other.mails[0].message
    assert b"From: app@x\r\n" in b"".join(mail.message for mail in own.mails)


def test_a_signed_mail_verifies_at_its_relay(spool: Spool, new_relay: NewRelay) -> None:
    key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    pem = (serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    (spool.folder / "dkim.pem").write_bytes(key.private_bytes(*pem))
    (spool.folder / "dkim.pem").chmod(0o600)
    public = key.public_key().public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)
    records = {b"mail2024._domainkey.example.org.": b"v=DKIM1; k=rsa; p=" + base64.b64encode(public)}
    signs = '[identity."app@example.org"]\ndkim = { selector = "mail2024", key_file = "dkim.pem" }\n'
    relay = new_relay(relay=signs, extensions=["SIZE 60000000"])  # no 8BITMIME: it is re-encoded, then signed
    text = "Subject: dots\nFrom: App <app@example.org>\nTo: a@x\n\n.\n..\nGrüße\n" + "long " * 400 + "\n\n\n"
    assert spool.sendmail("-i", "-f", "app@example.org", "a@x", text=text).returncode == 0
    assert spool.sendmail("-i", "-f", "other@example.org", "a@x", text=text).returncode == 0
    assert spool.drain() == 0
    signed, plain = (mail.message for mail in sorted(relay.mails, key=lambda mail: mail.sender))
    assert dkim.verify(signed, dnsfunc=lambda name, timeout=5: records.get(name))
    assert not dkim.verify(signed.replace(b"long", b"short", 1), dnsfunc=lambda name, timeout=5: records.get(name))
    assert signed.isascii()
    assert b"DKIM-Signature" not in plain
    assert signed.endswith(plain.partition(b"\r\n\r\n")[2])


# Limits of a relay


def test_a_rate_is_kept(spool: Spool, new_relay: NewRelay) -> None:
    spans: list[float] = []
    for relay in (new_relay(), new_relay(relay='rate = "20/s"')):
        spool.configure(section("relay", relay.port, 'rate = "20/s"' if spans else ""))
        spool.queue([f"tag{number}" for number in range(30)])
        assert spool.drain() == 0
        assert len(relay.mails) == 30
        spans.append(relay.mails[-1].at - relay.mails[0].at)
    assert spans[1] > 0.7 * 29 / 20
    assert spans[1] > 2 * spans[0]


def test_a_connection_carries_so_many_mails(spool: Spool, new_relay: NewRelay) -> None:
    relay = new_relay(relay="mails_per_connection = 3")
    spool.queue([f"tag{number}" for number in range(20)])
    assert spool.drain() == 0
    carried = Counter(mail.talk for mail in relay.mails)
    assert sum(carried.values()) == 20
    assert max(carried.values()) == 3
    assert len(relay.talks) >= 7
    assert all(talk.said("QUIT") == 1 for talk in relay.talks)


def test_connections_grow_while_mail_waits_up_to_their_number(spool: Spool, new_relay: NewRelay) -> None:
    relay = new_relay(relay="connections = 3", answer_s=0.02)
    spool.queue([f"tag{number}" for number in range(200)])
    assert spool.drain() == 0
    assert relay.most_open == 3
    assert sorted(relay.subjects()) == sorted(f"tag{number}" for number in range(200))


def test_a_transaction_has_so_many_recipients(spool: Spool, new_relay: NewRelay) -> None:
    relay = new_relay(relay="recipients = 3")
    recipients = [f"r{number}@x" for number in range(8)]
    add(spool, {"subject": "x", "to": recipients})
    assert spool.drain() == 0
    assert sorted(len(mail.recipients) for mail in relay.mails) == [2, 3, 3]
    assert sorted(recipient for mail in relay.mails for recipient in mail.recipients) == recipients


# A config that changes


def test_a_changed_config_is_taken_by_the_same_process(spool: Spool, new_relay: NewRelay) -> None:
    before, after = new_relay(), new_relay()
    spool.configure(section("relay", before.port))
    sender = spool.start()
    spool.queue(["one"])
    wait_until(lambda: before.subjects() == ["one"], "the old relay has it")
    reconfigure(spool, section("relay", after.port))
    wait_until(lambda: spool.logged().count(f"smtp-spool[{sender.pid}] started: ") == 2, "it has begun anew")
    spool.queue(["two"])
    wait_until(lambda: after.subjects() == ["two"], "the new relay has it")
    assert before.subjects() == ["one"]
    assert spool.stop(sender) == 0
    assert spool.states() == ["sent", "sent"]


def test_a_config_that_changes_while_a_sender_starts_is_taken(spool: Spool, new_relay: NewRelay) -> None:
    before, after = new_relay(), new_relay()
    spool.configure(section("relay", before.port))
    spool.database.parent.mkdir(parents=True)
    lock = os.open(spool.database.parent, os.O_RDONLY)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX)  # who makes the first spool waits for this, with the config already read
        sender = spool.start()
        waits = re.compile(rf"-> FLOCK .* {sender.pid} ")
        wait_until(lambda: bool(waits.search(Path("/proc/locks").read_text())), "it waits for the lock")
        reconfigure(spool, section("relay", after.port))
    finally:
        os.close(lock)
    wait_until(lambda: "the config has changed" in spool.logged(), "the change is seen", 20.0)
    wait_until(lambda: spool.logged().count("started: ") == 2, "it has begun anew")
    spool.queue(["x"])
    wait_until(lambda: after.subjects() == ["x"], "the new relay has it")
    assert spool.stop(sender) == 0


@pytest.mark.parametrize("wrong", ["[relay", '[relay]\nhost = "x"\nprot = 25'], ids=["no TOML", "a wrong key"])
def test_a_broken_config_leaves_the_old_one_in_force_and_says_so(spool: Spool, new_relay: NewRelay, wrong: str) -> None:
    relay = new_relay()
    good = spool.folder / "good.toml"
    good.write_text(spool.config.read_text())
    spool.queue(["before"])
    sender = spool.start()
    wait_all(spool, "sent")
    reconfigure(spool, wrong)
    wait_until(lambda: "the config before stays in force" in spool.logged(), "the mistake is told")
    assert f"{spool.config}: " in spool.logged()
    assert ask(spool, "--config", str(good), "sendmail", "-f", "s@x", "a@x").returncode == 0
    wait_until(lambda: len(relay.mails) == 2, "the old relay has it")
    good.replace(spool.config)
    wait_until(lambda: "good again, and as before" in spool.logged(), "a good one is taken again")
    reconfigure(spool, section("relay", relay.port, "connections = 2"))
    wait_until(lambda: spool.logged().count("started: ") == 2, "and one that is other, by beginning anew")
    assert spool.stop(sender) == 0


@pytest.mark.parametrize("becomes", ["nothing", "folder", "fifo"])
def test_a_config_that_is_gone_for_seconds_changes_nothing(spool: Spool, new_relay: NewRelay, becomes: str) -> None:
    relay = new_relay()
    away = spool.folder / "away.toml"
    sender = spool.start()
    wait_until(lambda: "started: " in spool.logged(), "it is at work")
    spool.config.rename(away)
    if becomes == "folder":
        spool.config.mkdir()
    elif becomes == "fifo":
        os.mkfifo(spool.config)
    said = f"{spool.config}: is {'gone' if becomes == 'nothing' else 'no file'}; "
    wait_until(lambda: said in spool.logged(), "it is told")
    assert "; the config before stays in force" in spool.logged()
    spool.environment["MAIL_CONFIG"] = str(away)
    add(spool, {"subject": "meanwhile"})
    wait_until(lambda: relay.subjects() == ["meanwhile"], "the relay has it")
    if becomes == "folder":
        spool.config.rmdir()
    away.replace(spool.config)
    wait_until(lambda: "good again, and as before" in spool.logged(), "it is back")
    assert spool.logged().count("stays in force") == spool.logged().count("started: ") == 1
    assert not spool.delivered()
    assert spool.stop(sender) == 0


def test_what_changes_for_imap_sync_alone_does_not_touch_the_sender(spool: Spool, new_relay: NewRelay) -> None:
    relay = new_relay()
    sender = spool.start()
    wait_until(lambda: "started: " in spool.logged(), "it is at work")
    reconfigure(spool, section("relay", relay.port) + '[[imap.accounts]]\nname = "a"\nhost = "h"\nenabled = false\n')
    time.sleep(3.5)  # two ticks and more
    assert "the config" not in spool.logged()
    reconfigure(spool, section("relay", relay.port, "connections = 2"))
    wait_until(lambda: spool.logged().count("started: ") == 2, "a change that it uses is taken")
    assert spool.stop(sender) == 0


def test_a_config_that_appears_where_there_was_none_is_taken(spool: Spool, new_relay: NewRelay) -> None:
    """With a home and a /var/lib of its own, by a mount namespace: passwd names the home, so no variable can."""
    home, lib = spool.folder / "home", spool.folder / "lib"
    (home / ".config" / "semguard").mkdir(parents=True)
    (lib / "semguard").mkdir(parents=True)
    (spool.folder / "state").symlink_to(lib / "semguard")
    for path in (str(ROOT), sys.prefix, sys.base_prefix):
        if path.startswith(("/root/", "/var/lib/")):
            pytest.skip(f"{path} would be hidden by the mounts of this test")
    apart = ["unshare", "--mount", *([] if os.geteuid() == 0 else ["--user", "--map-root-user"])]
    if subprocess.run([*apart, "mount", "--bind", home, "/root"], capture_output=True).returncode:
        pytest.skip("mounts are not allowed here")
    script = 'mount --bind "$1" /root && mount --bind "$2" /var/lib && shift 2 && exec "$@"'
    command = [*apart, "sh", "-c", script, "sh", str(home), str(lib), sys.executable, "workers/smtp_spool.py"]
    environment = {name: value for name, value in spool.environment.items() if name not in ("MAIL_CONFIG", "PYTHONPATH")}
    with spool.log.open("ab") as log:
        sender = subprocess.Popen(command, cwd=ROOT, env=environment, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
    spool.senders.append(sender)
    wait_until(lambda: "config none" in spool.logged(), "it is at work without a config")
    spool.queue(["one"])
    wait_until(lambda: len(spool.delivered()) == 1, "mail goes into the Maildir")
    relay = new_relay()  # the one that enqueuers know by $MAIL_CONFIG
    (home / "draft").write_text(section("relay", relay.port))
    (home / "draft").rename(home / ".config" / "semguard" / "mail.toml")
    wait_until(lambda: "config /root/.config/semguard/mail.toml" in spool.logged(), "the config is taken")
    spool.queue(["two"])
    wait_until(lambda: relay.subjects() == ["two"], "mail goes to the relay")
    assert sender.poll() is None
    assert spool.logged().count(f"smtp-spool[{sender.pid}] started: ") == 2
    assert spool.stop(sender) == 0


# Several senders


def test_two_senders_share_a_spool_and_either_may_end(spool: Spool, new_relay: NewRelay) -> None:
    relay = new_relay()
    first, second = spool.start(), spool.start()
    pids = {first.pid, second.pid}
    wait_until(lambda: set(json.loads(ask(spool, "stats", "--json").stdout)["senders"]) == pids, "both are in the books")
    tags = [f"tag{number:03d}" for number in range(100)]
    spool.queue(tags[:99])
    wait_all(spool, "sent")
    assert spool.stop(first) == 0
    assert spool.sendmail("a@x", text="Subject: tag099\n\n").returncode == 0
    wait_all(spool, "sent")
    assert sorted(relay.subjects()) == tags
    wait_until(spool.has_bell, "the bell that the first took away is there again")
    assert spool.stop(second) == 0
    assert not spool.has_bell()


def test_a_sender_that_stood_still_changes_nothing_when_another_has_taken_over(spool: Spool, new_relay: NewRelay) -> None:
    relay = new_relay([Fault("MAIL", SILENCE, 1)])
    spool.environment[LIMITS] = "envelope=1"
    recipients = ["a@x", "b@x", "c@x"]
    add(spool, {"subject": "x", "to": recipients})
    first = spool.start()
    wait_until(lambda: bool(relay.talks) and relay.talks[0].said("MAIL") == 1, "the first holds claims")
    first.send_signal(signal.SIGSTOP)
    try:
        wait_until(lambda: Path(f"/proc/{first.pid}/stat").read_text().rpartition(")")[2].split()[0] == "T", "it stands still")
        assert set(spool.states()) == {"sending"}
        change(spool, f"UPDATE mail_owner SET expires_at = 1 WHERE pid = {first.pid}")
        second = spool.start()
        wait_all(spool, "sent")
        assert "3 recipients of a sender that died before the final dot are sent again" in spool.logged()
        before = spool.rows()
    finally:
        first.send_signal(signal.SIGCONT)
    late = f"smtp-spool[{first.pid}] 3 results came too late"
    wait_until(lambda: late in spool.logged(), "the first has tried to write what it knows")
    assert f"smtp-spool[{first.pid}] mail 1 to" not in spool.logged()
    assert spool.rows() == before
    assert [mail.recipients for mail in relay.mails] == [recipients]
    assert spool.stop(first) == 0
    assert spool.stop(second) == 0
    assert spool.rows() == before


# Trouble, and how it is told


def test_a_changed_password_file_closes_the_breaker(spool: Spool, new_relay: NewRelay) -> None:
    relay = new_relay(passwords={"me": "right"}, relay='user = "me"\npassword_file = "pw"\n')
    (spool.folder / "pw").write_text("guess\n")
    (spool.folder / "pw").chmod(0o600)
    spool.queue(["x"])
    sender = spool.start()
    wait_until(lambda: "next try in 30 min" in spool.logged(), "the breaker is open")
    assert "relay is in trouble: " in ask(spool, "why", "1").stdout
    (spool.folder / "pw").write_text("right\n")
    wait_all(spool, "sent")
    assert "its credentials have changed" in spool.logged()
    assert [talk.said("AUTH") for talk in relay.talks] == [1, 1]
    assert spool.stop(sender) == 0


def test_check_connects_and_logs_in_and_sends_nothing(spool: Spool, new_relay: NewRelay) -> None:
    login = 'user = "me"\npassword_file = "pw"\n'
    relay = new_relay(passwords={"me": "right"}, relay=login)
    (spool.folder / "pw").write_text("right\n")
    (spool.folder / "pw").chmod(0o600)
    spool.queue(["x"])
    done = ask(spool, "check")
    assert done.returncode == 0, done.stdout
    assert f"config     {spool.config}\nspool      {spool.database}, 1 recipients to be sent to\n" in done.stdout
    assert f"relay: localhost:{relay.port} answers, tls none, logged in as me\n" in done.stdout
    dead = free_port()
    spool.configure(
        section("relay", relay.port, login) + section('routes."dead.example"', dead) + section('routes."z.example"', relay.port)
    )
    done = ask(spool, "check")
    assert done.returncode == 75
    assert f"route:dead.example: relay localhost:{dead}: no connection at connect: Connection refused\n" in done.stdout
    assert f"route:z.example: localhost:{relay.port} answers" in done.stdout
    (spool.folder / "pw").write_text("guess\n")
    done = ask(spool, "check")
    assert done.returncode == 75
    assert "535 5.7.8 wrong password" in done.stdout
    assert sum(talk.said("MAIL") for talk in relay.talks) == 0
    spool.configure("[relay]\n")
    assert ask(spool, "check").returncode == 78


def test_a_config_without_a_relay_is_checked_too(spool: Spool) -> None:
    done = ask(spool, "check")
    assert done.returncode == 0
    assert f"maildir    {spool.folder}/state/mail/delivered: no [relay]" in done.stdout


def test_drain_says_by_its_status_how_it_went(spool: Spool, new_relay: NewRelay) -> None:
    relay = new_relay([Fault("RCPT", says("450 4.2.0 later"), when=lambda _, line: "<later@x>" in line)])
    assert spool.drain() == 0  # no spool yet
    add(spool, {"subject": "x"}, {"subject": "y", "to": "later@x"}, {"subject": "z", "send_at": "1h"})
    assert spool.drain() == 0  # what is left is not due
    assert spool.states() == ["sent", "deferred", "queued"]
    assert relay.subjects() == ["x"]
    spool.configure(section("relay", free_port()))
    add(spool, {"subject": "x"})
    assert spool.drain() == 75
    assert "Connection refused" in spool.logged()
    assert spool.start("--dran").wait(DEADLINE_S) == 64
    spool.configure("[relay]\n")
    assert spool.drain() == 78


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_asked_to_end_it_finishes_what_is_in_hand_and_gives_back_the_rest(
    spool: Spool, new_relay: NewRelay, number: signal.Signals
) -> None:
    relay = new_relay(relay="connections = 2", stops_at=5)
    tags = [f"tag{each:02d}" for each in range(40)]
    spool.queue(tags)
    sender = spool.start()
    assert relay.stopped.wait(DEADLINE_S)
    sender.send_signal(number)
    wait_until(lambda: spool.states().count("queued") >= 25, "the rest is given back")
    relay.go_on()
    assert sender.wait(DEADLINE_S) == 0
    assert spool.states().count("sent") == len(relay.mails) < 40
    assert set(spool.states()) == {"sent", "queued"}
    assert f"ended: {len(relay.mails)} sent" in spool.logged()
    assert not list(spool.database.parent.glob("*dots*"))
    assert spool.drain() == 0
    assert sorted(relay.subjects()) == tags


def test_asked_to_end_while_it_is_about_to_begin_anew_it_ends(spool: Spool, new_relay: NewRelay) -> None:
    relay = new_relay(stops_at=0)
    spool.queue(["x"])
    sender = spool.start()
    assert relay.stopped.wait(DEADLINE_S)
    reconfigure(spool, section("relay", relay.port, "connections = 1"))
    wait_until(lambda: "begins anew with it" in spool.logged(), "it takes the change, and has a mail in hand")
    sender.send_signal(signal.SIGTERM)
    relay.go_on()
    try:
        assert sender.wait(20.0) == 0
    except subprocess.TimeoutExpired:
        pytest.fail("it has begun anew, and does not know that it was asked to end")
    assert spool.states() == ["sent"]


# A supervisor


class Supervisor:
    """The socket of sd_notify(3)."""

    def __init__(self, spool: Spool, address: str) -> None:
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.socket.bind("\0" + address[1:] if address.startswith("@") else address)
        self.socket.settimeout(DEADLINE_S)
        self.said: list[str] = []
        spool.environment |= {"NOTIFY_SOCKET": address, "WATCHDOG_USEC": "200000"}

    def hear(self, pattern: str) -> str:
        """The next assignment of this pattern; those before it are kept in `said`."""
        while True:
            for line in self.socket.recv(65536).decode().split("\n"):
                self.said.append(line)
                if re.fullmatch(pattern, line):
                    return line


@pytest.fixture(params=["path", "abstract"])
def supervisor(request: pytest.FixtureRequest, spool: Spool) -> Iterator[Supervisor]:
    address = str(spool.folder / "notify") if request.param == "path" else f"@semguard-test-{os.getpid()}"
    made = Supervisor(spool, address)
    yield made
    made.socket.close()


def test_a_supervisor_hears_how_it_goes(spool: Spool, new_relay: NewRelay, supervisor: Supervisor) -> None:
    new_relay([Fault("RCPT", says("450 4.2.0 later"), when=lambda _, line: "<later@x>" in line)])
    add(spool, {"subject": "x", "to": "later@x"})
    sender = spool.start()
    supervisor.hear("READY=1")
    for _ in range(3):
        supervisor.hear("WATCHDOG=1")
    assert supervisor.hear("STATUS=.*").startswith("STATUS=1 to be sent to, ")
    assert "STOPPING=1" not in supervisor.said
    assert spool.stop(sender) == 0
    supervisor.hear("STOPPING=1")
    assert supervisor.said[0] == "READY=1"
    assert supervisor.said.count("READY=1") == 1


def test_a_supervisor_that_went_away_stops_no_mail(spool: Spool, new_relay: NewRelay, supervisor: Supervisor) -> None:
    relay = new_relay()
    sender = spool.start()
    supervisor.hear("READY=1")
    supervisor.socket.close()
    spool.queue(["x"])
    wait_until(lambda: relay.subjects() == ["x"], "it is sent")
    assert spool.stop(sender) == 0


def test_a_supervisor_is_not_told_of_an_end_when_the_config_is_read_anew(spool: Spool, supervisor: Supervisor) -> None:
    sender = spool.start()
    supervisor.hear("READY=1")
    reconfigure(spool, 'max_age = "2d"\n')
    supervisor.hear("READY=1")  # STOPPING=1 before it would have systemd wait for the end, and then kill
    assert "STOPPING=1" not in supervisor.said
    assert spool.stop(sender) == 0


def test_watchdog_words_are_for_the_process_that_they_are_meant_for(
    spool: Spool, new_relay: NewRelay, supervisor: Supervisor
) -> None:
    relay = new_relay()
    spool.environment["WATCHDOG_PID"] = "1"
    spool.queue(["x"])
    sender = spool.start()
    supervisor.hear("STATUS=.*")
    assert relay.subjects() == ["x"]
    assert "WATCHDOG=1" not in supervisor.said
    assert spool.stop(sender) == 0
