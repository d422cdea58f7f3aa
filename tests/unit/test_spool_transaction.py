"""One mail transaction against a relay that answers from a list."""

from __future__ import annotations

import sqlite3

from workers.spool.delivery import Verdict
from workers.spool.store import Mail, Recipient
from workers.spool.transaction import Transaction


class Script:
    """A relay that gives the listed answers; `None` is a lost connection."""

    def __init__(self, *answers: int | None, extensions: tuple[str, ...] = ()) -> None:
        self.answers = list(answers)
        self.extensions = extensions
        self.heard: list[bytes] = []

    def docmd(self, cmd: str, args: str = "", /) -> tuple[int, bytes]:
        line = f"{cmd} {args}".strip()
        if not line.isascii():
            raise ValueError("not ASCII")
        self.heard.append(line.encode())
        return self.getreply()

    def send(self, s: bytes, /) -> None:
        self.heard.append(s)

    def getreply(self) -> tuple[int, bytes]:
        code = self.answers.pop(0)
        if code is None:
            raise ConnectionResetError("gone")
        return code, b"words"

    def has_extn(self, opt: str, /) -> bool:
        return opt in self.extensions

    def within(self, limit_s: float, /) -> None:
        assert limit_s > 0


def attempt(
    relay: Script, *addresses: str, body: bytes = b".x\r\n", reused: bool = False, full: bool = False
) -> tuple[dict[str, Verdict], str | None, bool]:
    recipients = [Recipient(number, address, 1, 0) for number, address in enumerate(addresses)]
    mail = Mail(1, ("s@x", 0.0, 1000.0, body), recipients)

    def note(noted: list[Recipient]) -> None:
        if full:
            raise sqlite3.OperationalError("database or disk is full")
        relay.heard.append(b"NOTE " + b" ".join(recipient.address.encode() for recipient in noted))

    report, keep = Transaction(relay, mail, note, reused=reused).run()
    assert relay.answers == []
    return {recipient.address: verdict for recipient, verdict, _ in report.results}, report.trouble, keep


def test_a_mail_is_noted_before_its_final_dot() -> None:
    relay = Script(250, 250, 354, 250)
    assert attempt(relay, "a@b") == ({"a@b": Verdict.SENT}, None, True)
    assert relay.heard == [b"MAIL FROM:<s@x>", b"RCPT TO:<a@b>", b"DATA", b"..x\r\n", b"NOTE a@b", b".\r\n"]


def test_extensions_are_used_where_offered() -> None:
    relay = Script(250, 250, 354, 250, extensions=("size", "8bitmime"))
    attempt(relay, "a@b", body="ä\r\n".encode())
    assert relay.heard[0] == b"MAIL FROM:<s@x> SIZE=4 BODY=8BITMIME"


def test_a_bad_recipient_does_not_hold_up_the_others() -> None:
    relay = Script(250, 550, 250, 450, 354, 250)
    assert attempt(relay, "bad@x", "good@x", "later@x") == (
        {"bad@x": Verdict.FAILED, "good@x": Verdict.SENT, "later@x": Verdict.DEFERRED},
        None,
        True,
    )
    assert b"NOTE good@x" in relay.heard


def test_an_address_that_cannot_be_said_fails_alone() -> None:
    relay = Script(250, 250, 354, 250)
    assert attempt(relay, "ä@x", "good@x")[0] == {"ä@x": Verdict.FAILED, "good@x": Verdict.SENT}


def test_without_an_accepted_recipient_there_is_no_data() -> None:
    relay = Script(250, 550, 450, 250)
    assert attempt(relay, "a@x", "b@x") == ({"a@x": Verdict.FAILED, "b@x": Verdict.DEFERRED}, None, True)
    assert relay.heard[-1] == b"RSET"


def test_a_reset_that_fails_only_ends_the_connection() -> None:
    assert attempt(Script(250, 550, None), "a@x") == ({"a@x": Verdict.FAILED}, None, False)


def test_a_refused_sender_fails_all() -> None:
    assert attempt(Script(553), "a@x", "b@x") == ({"a@x": Verdict.FAILED, "b@x": Verdict.FAILED}, None, True)


def test_a_login_wanted_at_mail_fails_nobody() -> None:
    verdicts, trouble, _ = attempt(Script(530), "a@x")
    assert verdicts == {"a@x": Verdict.RELAY}
    assert trouble == "530 words"


def test_data_refused_defers_or_fails_the_accepted() -> None:
    assert attempt(Script(250, 250, 451, 250), "a@x") == ({"a@x": Verdict.DEFERRED}, None, True)
    assert attempt(Script(250, 250, 554, 250), "a@x") == ({"a@x": Verdict.FAILED}, None, True)


def test_a_wrong_yes_to_data_ends_the_connection_and_sends_nothing() -> None:
    relay = Script(250, 250, 250, 250)
    assert attempt(relay, "a@x")[0] == {"a@x": Verdict.DEFERRED}
    assert b".\r\n" not in relay.heard


def test_what_was_answered_before_the_connection_broke_counts() -> None:
    verdicts, trouble, keep = attempt(Script(250, 550, 250, None), "bad@x", "a@x", "b@x")
    assert verdicts == {"bad@x": Verdict.FAILED, "a@x": Verdict.DEFERRED, "b@x": Verdict.DEFERRED}
    assert trouble is not None
    assert not keep


def test_421_in_the_middle_defers_the_rest_and_pauses_the_relay() -> None:
    verdicts, trouble, keep = attempt(Script(250, 250, 421), "a@x", "b@x")
    assert verdicts == {"a@x": Verdict.DEFERRED, "b@x": Verdict.DEFERRED}
    assert trouble == "421 words"
    assert not keep


def test_a_connection_lost_behind_the_dot_leaves_unknown() -> None:
    verdicts, trouble, keep = attempt(Script(250, 250, 354, None), "a@x")
    assert verdicts == {"a@x": Verdict.UNKNOWN}
    assert trouble is not None
    assert not keep


def test_a_dropped_idle_connection_is_no_trouble() -> None:
    assert attempt(Script(None), "a@x", reused=True) == ({"a@x": Verdict.AGAIN}, None, False)
    assert attempt(Script(421), "a@x", reused=True) == ({"a@x": Verdict.AGAIN}, None, False)


def test_a_note_that_cannot_be_written_holds_the_dot_back() -> None:
    relay = Script(250, 250, 354)
    verdicts, trouble, keep = attempt(relay, "a@x", full=True)
    assert verdicts == {"a@x": Verdict.RELAY}
    assert trouble is not None
    assert "full" in trouble
    assert not keep
    assert b".\r\n" not in relay.heard


def test_too_many_recipients_leave_the_rest_for_another_transaction() -> None:
    verdicts, trouble, keep = attempt(Script(250, 250, 452, 354, 250), "a@x", "b@x")
    assert verdicts == {"a@x": Verdict.SENT, "b@x": Verdict.AGAIN}
    assert (trouble, keep) == (None, True)
