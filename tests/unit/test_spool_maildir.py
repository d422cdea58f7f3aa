"""Delivery into a Maildir: whole files, once each."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Iterable
from pathlib import Path

import pytest

from workers.spool.attempt import Attempt
from workers.spool.claims import Mail, Recipient
from workers.spool.delivery import Effect, Verdict
from workers.spool.maildir import MaildirCarrier, file_name
from workers.spool.outlet import Trouble


class Parts:
    """A guard of whom only the message is asked."""

    def past_dot(self, attempt: Attempt) -> bool:
        raise AssertionError("a Maildir has no dot")

    def taken(self, attempt: Attempt, answer: str) -> None:
        raise AssertionError("a Maildir has no answer")

    def parts(self, attempt: Attempt) -> Iterable[bytes]:
        return [b"Subject: x\r", b"\n\r\n.\r\n"]

    def next(self) -> Attempt | None:
        raise AssertionError("one mail at a time")


def a_mail(*addresses: str, attempts: int = 1) -> Mail:
    recipients = [Recipient(number, address, attempts, 0) for number, address in enumerate(addresses or ("a@x",))]
    return Mail(1, (7, "s@x", 20, False, False, 1700000000.25, 9e9, None), recipients)


def deliver(folder: Path, mail: Mail, *, before: str = "") -> tuple[Attempt, MaildirCarrier]:
    """Opens the Maildir, takes away `before`, and delivers."""

    async def work() -> tuple[Attempt, MaildirCarrier]:
        carrier = MaildirCarrier(str(folder), Parts())
        await carrier.open()
        if before:
            (folder / before).rmdir()
        attempt, following = await carrier.deliver(Attempt(mail))
        assert following is None
        return attempt, carrier

    return asyncio.run(work())


def verdicts(attempt: Attempt) -> list[Verdict]:
    assert attempt.waiting == []
    return [verdict for _, verdict, _, _ in attempt.results]


def test_each_recipient_gets_a_file_with_its_trace(tmp_path: Path) -> None:
    attempt, carrier = deliver(tmp_path / "m", a_mail("a@x", "b@x"))
    assert verdicts(attempt) == [Verdict.SENT, Verdict.SENT]
    texts = sorted(path.read_bytes() for path in (tmp_path / "m" / "new").iterdir())
    assert texts == [b"Return-Path: <s@x>\nDelivered-To: %s\nSubject: x\n\n.\n" % name for name in (b"a@x", b"b@x")]
    assert list((tmp_path / "m" / "tmp").iterdir()) == []
    assert {path.stat().st_mode & 0o777 for path in (tmp_path / "m" / "new").iterdir()} == {0o600}
    assert (carrier.lost, carrier.is_stale()) == (None, False)


def test_what_was_delivered_before_a_crash_is_known_by_its_name(tmp_path: Path) -> None:
    mail = a_mail("a@x", "b@x")
    deliver(tmp_path, mail)
    seen, fresh = (file_name(mail, recipient) for recipient in mail.recipients)
    assert seen == "1700000000.M250000Q7R0.smtp-spool"
    os.rename(tmp_path / "new" / seen, tmp_path / "cur" / f"{seen}:2,S")
    assert verdicts(deliver(tmp_path, a_mail("a@x", "b@x", attempts=2))[0]) == [Verdict.SENT] * 2
    assert [path.name for path in (tmp_path / "new").iterdir()] == [fresh]


def test_a_half_written_file_of_a_crash_is_written_again(tmp_path: Path) -> None:
    mail = a_mail()
    deliver(tmp_path, mail)
    name = file_name(mail, mail.recipients[0])
    os.rename(tmp_path / "new" / name, tmp_path / "tmp" / name)
    (tmp_path / "tmp" / name).write_bytes(b"Subj")
    assert verdicts(deliver(tmp_path, a_mail(attempts=2))[0]) == [Verdict.SENT]
    assert (tmp_path / "new" / name).read_bytes().endswith(b"\n\n.\n")
    assert list((tmp_path / "tmp").iterdir()) == []


@pytest.mark.parametrize("missing", ["tmp", "new"])
def test_a_maildir_that_cannot_be_written_fails_nobody(tmp_path: Path, missing: str) -> None:
    attempt, carrier = deliver(tmp_path, a_mail("a@x", "b@x"), before=missing)
    assert verdicts(attempt) == [Verdict.RELAY, Verdict.RELAY]
    assert attempt.effect is Effect.CUT
    assert attempt.trouble
    assert carrier.lost == "No such file or directory"
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == [], "nothing half-written stays"


def test_a_maildir_that_cannot_be_made_is_trouble_that_names_it(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    carrier = MaildirCarrier(str(tmp_path / "file" / "m"), Parts())
    with pytest.raises(Trouble, match="file") as caught:
        asyncio.run(carrier.open())
    assert not caught.value.refused
