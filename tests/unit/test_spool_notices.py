"""Reports to senders: queued with the result they tell of, once, and to nobody who must not have one."""

from __future__ import annotations

import email
import email.policy
from collections.abc import Iterator
from email.message import EmailMessage
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from workers.mail.config import Config, Relay
from workers.spool import claims
from workers.spool.accept import Submission, accept, open_spool
from workers.spool.bounce import BOUNCES_PER_HOUR
from workers.spool.claims import Mail, Result
from workers.spool.notices import Notices
from workers.store.database import StoreError
from workers.store.leases import Lease
from workers.store.sqlite import SqliteDatabase

if TYPE_CHECKING:
    from workers.store.database import Transaction

HOUR_S = 3600.0
NOW = 1_700_000_000.0


class Box:
    """A spool whose mail is claimed, and what becomes of it written as the sender does."""

    def __init__(self, folder: Path) -> None:
        self.config = Config(None, str(folder))
        self.config.relay = Relay(host="smtp.example.org", port=25, tls="none")
        self.config.domain = "box.test"
        self.database: SqliteDatabase = open_spool(self.config)
        self.lease = Lease()
        self.database.transact(self.lease.register)
        self.notices = Notices(self.config)

    def queue(self, *addresses: str, sender: str = "s@x", at: float = NOW, text: bytes = b"Subject: Hi\r\n\r\nbody\r\n") -> None:
        mail = Submission(sender, list(addresses), ["relay"] * len(addresses), "<id@x>", text, at + 5 * 86400.0)
        self.database.transact(lambda transaction: accept(transaction, [mail], at))

    def claim(self, now: float = NOW) -> list[Mail]:
        return self.database.transact(lambda transaction: claims.claim(transaction, self.lease, "relay", 500, 500, now))

    def write(self, states: dict[str, tuple[str, str]], now: float = NOW, *, fail: bool = False) -> int:
        """Claims what is due and writes (state, answer) by address; the number of reports."""
        mails = self.claim(now)
        results = [
            Result(each, mail, "relay", states[each.address][0], 1, 0, now, states[each.address][1])
            for mail in mails
            for each in mail.recipients
            if each.address in states
        ]

        def work(transaction: Transaction) -> int:
            written = claims.settle(transaction, results, now)
            told = self.notices.write(transaction, [result for result in results if result.id in written], now)
            if fail:
                raise StoreError("full", "no room")
            return told

        return self.database.transact(work)

    def reports(self) -> list[tuple[str, str, EmailMessage]]:
        """(recipient, envelope sender, message) of each report that is queued."""
        rows: list[tuple[Any, ...]] = self.database._db.execute(
            "SELECT address, sender, body FROM mail_recipient JOIN mail_message ON mail_message.id = mail_recipient.mail_id "
            "JOIN mail_body ON mail_body.mail_id = mail_message.id WHERE bounce_of IS NOT NULL ORDER BY mail_message.id"
        ).fetchall()
        parser = email.policy.default
        return [(row[0], row[1], email.message_from_bytes(row[2], policy=parser)) for row in rows]

    def states(self) -> list[str]:
        return [row[0] for row in self.database._db.execute("SELECT state FROM mail_recipient ORDER BY id").fetchall()]


@pytest.fixture
def box(tmp_path: Path) -> Iterator[Box]:
    made = Box(tmp_path)
    yield made
    made.database.close()


def fields(report: EmailMessage) -> list[dict[str, str]]:
    """The groups of fields for programs: of the mail, and of each recipient."""
    part = report.get_payload(1)
    return [dict(group.items()) for group in part.get_payload()]  # type: ignore[union-attr]


def test_one_report_tells_the_sender_of_all_that_failed_and_of_no_other(box: Box) -> None:
    box.queue("bad@x", "worse@x", "good@x", "later@x")
    told = box.write(
        {
            "bad@x": ("failed", "550 5.1.1 no such user"),
            "worse@x": ("failed", "554 nonsense"),
            "good@x": ("sent", "250 ok"),
            "later@x": ("deferred", "451 later"),
        }
    )
    ((recipient, sender, report),) = box.reports()
    assert (told, recipient, sender) == (1, "s@x", "")
    _, first, second = fields(report)
    assert (first["Final-Recipient"], first["Action"], first["Status"]) == ("rfc822; bad@x", "failed", "5.1.1")
    assert (second["Final-Recipient"], second["Status"]) == ("rfc822; worse@x", "5.0.0")
    assert first["Remote-MTA"] == "dns; smtp.example.org"
    assert "Subject: Hi" in report.get_payload(2).as_string()  # type: ignore[union-attr]
    assert "body" not in report.get_payload(2).as_string()  # type: ignore[union-attr]


def test_a_report_is_written_with_the_result_or_not_at_all(box: Box) -> None:
    box.queue("bad@x")
    with pytest.raises(StoreError):
        box.write({"bad@x": ("failed", "550 no")}, fail=True)
    assert box.reports() == []
    assert box.states() == ["sending"]


def test_a_result_that_no_longer_counts_is_not_told(box: Box) -> None:
    box.queue("bad@x")
    (mail,) = box.claim()
    result = Result(mail.recipients[0], mail, "relay", "failed", 1, 0, NOW, "550 no")
    box.database._db.execute("UPDATE mail_recipient SET claim = claim + 1")

    def work(transaction: Transaction) -> int:
        written = claims.settle(transaction, [result], NOW)
        return box.notices.write(transaction, [each for each in [result] if each.id in written], NOW)

    assert box.database.transact(work) == 0
    assert box.reports() == []


@pytest.mark.parametrize("sender", ["", "MAILER-DAEMON@box.test"])
def test_nobody_is_told_about_a_report(box: Box, sender: str) -> None:
    box.queue("bad@x", sender=sender)
    assert box.write({"bad@x": ("failed", "550 no")}) == 0
    assert box.reports() == []


def test_a_report_that_fails_makes_no_other_one(box: Box) -> None:
    box.queue("bad@x")
    assert box.write({"bad@x": ("failed", "550 no")}) == 1
    assert box.write({"s@x": ("failed", "550 no such sender")}) == 0
    assert len(box.reports()) == 1


def test_a_sender_gets_so_many_reports_an_hour_and_others_are_not_held_up(box: Box) -> None:
    for number in range(BOUNCES_PER_HOUR + 5):
        box.queue(f"bad{number}@x")
    box.queue("bad@x", sender="other@x")
    states = {f"bad{number}@x": ("failed", "550 no") for number in range(BOUNCES_PER_HOUR + 5)} | {"bad@x": ("failed", "550 no")}
    assert box.write(states) == BOUNCES_PER_HOUR + 1
    told = [recipient for recipient, _, _ in box.reports()]
    assert (told.count("s@x"), told.count("other@x")) == (BOUNCES_PER_HOUR, 1)
    box.queue("late@x", at=NOW + HOUR_S + 1)
    assert box.write({"late@x": ("failed", "550 no")}, NOW + HOUR_S + 1) == 1


def test_an_expired_one_is_told_with_the_last_words(box: Box) -> None:
    box.queue("a@x", "b@x")
    box.write({"a@x": ("expired", "451 4.3.0 try later"), "b@x": ("expired", "no answer from the relay")})
    ((_, _, report),) = box.reports()
    assert [group["Status"] for group in fields(report)[1:]] == ["4.3.0", "4.4.7"]
    assert {group["Action"] for group in fields(report)[1:]} == {"failed"}


def test_a_delay_is_told_once_for_a_mail_and_not_before_its_time(box: Box) -> None:
    box.queue("a@x", "b@x")
    after = box.config.warn_after_s
    assert after is not None
    assert box.write({"a@x": ("deferred", "451 later"), "b@x": ("deferred", "451 later")}, NOW + after - 1) == 0
    assert box.write({"a@x": ("deferred", "451 later")}, NOW + after + 1) == 1
    assert box.write({"a@x": ("deferred", "451 later")}, NOW + after + 2) == 0
    ((recipient, sender, report),) = box.reports()
    assert (recipient, sender) == ("s@x", "")
    assert fields(report)[1]["Action"] == "delayed"
    assert "Will-Retry-Until" in fields(report)[1]


def test_a_failure_behind_a_warning_is_told_too(box: Box) -> None:
    box.queue("a@x")
    assert box.write({"a@x": ("deferred", "451 later")}, NOW + 5 * HOUR_S) == 1
    assert box.write({"a@x": ("failed", "550 no")}, NOW + 6 * HOUR_S) == 1
    assert [fields(report)[1]["Action"] for _, _, report in box.reports()] == ["delayed", "failed"]


def test_without_a_time_for_it_no_delay_is_told(box: Box) -> None:
    box.config.warn_after_s = None
    box.notices = Notices(box.config)
    box.queue("a@x")
    assert box.write({"a@x": ("deferred", "451 later")}, NOW + 4 * 86400.0) == 0


def test_nothing_but_trouble_is_told(box: Box) -> None:
    box.queue("a@x", "b@x", "c@x")
    states = {"a@x": ("sent", "250"), "b@x": ("queued", "452"), "c@x": ("unknown", "cut")}
    assert box.write(states, NOW + 86400.0) == 0
    assert box.reports() == []


def test_a_sender_that_is_no_address_stops_nothing(box: Box) -> None:
    box.queue("a@x", sender="no address")
    box.queue("b@x")
    assert box.write({"a@x": ("failed", "550 no"), "b@x": ("failed", "550 no")}) == 1
    assert box.states() == ["failed", "failed", "queued"]


def test_a_header_longer_than_is_read_is_cut_and_told(box: Box) -> None:
    box.queue(
        "a@x", text=b"Subject: Hi\r\n" + b"X-Long: " + b"y" * 900 + b"\r\n" * 1 + b"X-More: z\r\n" * 20_000 + b"\r\nbody\r\n"
    )
    assert box.write({"a@x": ("failed", "550 no")}) == 1
    assert len(box.reports()) == 1
