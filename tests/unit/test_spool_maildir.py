"""Delivery into a Maildir: whole files, once each."""

from __future__ import annotations

import os
from pathlib import Path

from workers.spool.delivery import Verdict
from workers.spool.maildir import MaildirOutlet, file_name
from workers.spool.outlet import Report
from workers.spool.store import Mail, Recipient


def deliver(folder: Path, attempts: int = 1, *addresses: str) -> tuple[Mail, Report]:
    recipients = [Recipient(number, address, attempts, 0) for number, address in enumerate(addresses or ("a@x",))]
    mail = Mail(7, ("s@x", 1700000000.25, 0.0, b"Subject: x\r\n\r\n.\r\n"), recipients)
    outlet = MaildirOutlet(str(folder))
    outlet.open()
    return mail, outlet.deliver(mail, lambda recipients: None)


def verdicts(report: Report) -> list[Verdict]:
    return [verdict for _, verdict, _ in report.results]


def test_each_recipient_gets_a_file_with_its_trace(tmp_path: Path) -> None:
    _, report = deliver(tmp_path / "m", 1, "a@x", "b@x")
    assert verdicts(report) == [Verdict.SENT, Verdict.SENT]
    texts = sorted(path.read_bytes() for path in (tmp_path / "m" / "new").iterdir())
    assert texts == [b"Return-Path: <s@x>\nDelivered-To: %s\nSubject: x\n\n.\n" % name for name in (b"a@x", b"b@x")]
    assert list((tmp_path / "m" / "tmp").iterdir()) == []


def test_what_was_delivered_before_a_crash_is_known_by_its_name(tmp_path: Path) -> None:
    mail, _ = deliver(tmp_path, 1)
    name = file_name(mail, mail.recipients[0])
    assert name == "1700000000.M250000Q7R0.smtp-spool"
    os.rename(tmp_path / "new" / name, tmp_path / "cur" / f"{name}:2,S")
    assert verdicts(deliver(tmp_path, 2)[1]) == [Verdict.SENT]
    assert list((tmp_path / "new").iterdir()) == []


def test_a_half_written_file_of_a_crash_is_written_again(tmp_path: Path) -> None:
    mail, _ = deliver(tmp_path, 1)
    name = file_name(mail, mail.recipients[0])
    os.rename(tmp_path / "new" / name, tmp_path / "tmp" / name)
    assert verdicts(deliver(tmp_path, 2)[1]) == [Verdict.SENT]
    assert [path.name for path in (tmp_path / "new").iterdir()] == [name]
    assert list((tmp_path / "tmp").iterdir()) == []


def test_a_maildir_that_cannot_be_written_fails_nobody(tmp_path: Path) -> None:
    outlet = MaildirOutlet(str(tmp_path))
    outlet.open()
    (tmp_path / "tmp").rmdir()
    mail = Mail(7, ("s@x", 1.0, 0.0, b""), [Recipient(1, "a@x", 1, 0)])
    report = outlet.deliver(mail, lambda recipients: None)
    assert verdicts(report) == [Verdict.RELAY]
    assert report.trouble is not None
