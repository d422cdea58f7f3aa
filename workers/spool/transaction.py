"""One SMTP mail transaction: MAIL, RCPT for each, DATA, the body, the final dot (RFC 5321 3.3).

smtplib's own sendmail() can't be used: it can't say whether the dot went out.
"""

from __future__ import annotations

import sqlite3
from typing import TYPE_CHECKING, Protocol

from workers.spool.delivery import LOST, Step, Verdict, closes, judge, troubles_relay
from workers.spool.log import plain
from workers.spool.message import stuffed
from workers.spool.outlet import Report

if TYPE_CHECKING:
    from collections.abc import Callable

    from workers.spool.store import Mail, Recipient

ENVELOPE_S = 300.0  # these four: RFC 5321 4.5.3.2
DATA_S = 120.0
BLOCK_S = 180.0
DOT_S = 600.0
BLOCK_BYTES = 65536


class Client(Protocol):
    """What a transaction needs of a connection; the calls raise OSError when it breaks or the time is over."""

    def docmd(self, cmd: str, args: str = "", /) -> tuple[int, bytes]:
        """Sends a command and returns its answer."""

    def send(self, s: bytes, /) -> None:
        """Sends bytes as they are."""

    def getreply(self) -> tuple[int, bytes]:
        """Waits for an answer."""

    def has_extn(self, opt: str, /) -> bool:
        """Whether the relay offers an extension."""

    def within(self, limit_s: float, /) -> None:
        """Limits each wait."""


class Transaction:
    """The attempt to hand one mail to a relay. `run` once."""

    def __init__(self, client: Client, mail: Mail, note: Callable[[list[Recipient]], None], *, reused: bool) -> None:
        self._client = client
        self._mail = mail
        self._note = note
        self._reused = reused
        self._step = Step.MAIL
        self._waiting = list(mail.recipients)  # those without a result so far
        self._report = Report()
        self._keep = True

    def run(self) -> tuple[Report, bool]:
        """A result for each recipient, and whether the connection is still of use."""
        try:
            if self._envelope():
                self._content()
        except OSError as error:
            self._end(LOST, f"connection lost at {self._step.value}: {plain(str(error))}")
        except sqlite3.Error as error:
            self._give_up(f"the spool can't be written: {error}")
        return self._report, self._keep

    def _envelope(self) -> bool:
        """MAIL and RCPT; whether a recipient was accepted."""
        self._client.within(ENVELOPE_S)
        code, words = self._say("MAIL", f"FROM:<{self._mail.sender}>{self._options()}")
        if not 200 <= code < 300:
            self._end(code, answer(code, words))
            return False
        self._step = Step.RCPT
        accepted = 0
        for recipient in self._mail.recipients:
            code, words = self._say("RCPT", f"TO:<{recipient.address}>")
            if closes(code):
                self._end(code, answer(code, words))
                return False
            if 200 <= code < 300:
                accepted += 1
                continue
            self._result([recipient], judge(Step.RCPT, code, accepted=accepted), answer(code, words))
            if troubles_relay(Step.RCPT, code):
                self._report.trouble = answer(code, words)
        if not accepted:
            self._reset()
        return bool(accepted)

    def _say(self, command: str, argument: str) -> tuple[int, bytes]:
        try:
            return self._client.docmd(command, argument)
        except ValueError:  # smtplib sends no line end inside a command and nothing but ASCII
            return 553, b"not sent: this address can't stand in a command"

    def _content(self) -> None:
        """DATA, the body, the note, and the dot, behind which nothing can be taken back."""
        self._step = Step.DATA
        self._client.within(DATA_S)
        code, words = self._client.docmd("DATA")
        if code != 354:
            self._end(code, answer(code, words))
            if self._keep:
                self._reset()
            return
        self._client.within(BLOCK_S)
        body = stuffed(self._mail.body)
        for start in range(0, len(body), BLOCK_BYTES):
            self._client.send(body[start : start + BLOCK_BYTES])
        self._note(self._waiting)
        self._step = Step.DOT
        self._client.within(DOT_S)
        self._client.send(b".\r\n")
        code, words = self._client.getreply()
        self._end(code, answer(code, words))

    def _options(self) -> str:
        """The parameters of MAIL that the relay knows: SIZE (RFC 1870), BODY=8BITMIME (RFC 6152)."""
        options = f" SIZE={len(self._mail.body)}" if self._client.has_extn("size") else ""
        if self._client.has_extn("8bitmime") and not self._mail.body.isascii():
            options += " BODY=8BITMIME"
        return options

    def _end(self, code: int, text: str) -> None:
        """The whole rest shares the fate of this answer."""
        self._result(self._waiting, judge(self._step, code, reused=self._reused), text)
        if troubles_relay(self._step, code, reused=self._reused):
            self._report.trouble = text
        if closes(code):
            self._keep = False

    def _give_up(self, text: str) -> None:
        """Before the dot: nothing was handed over, so it is tried again later."""
        self._keep = False
        self._report.trouble = text
        self._result(self._waiting, Verdict.RELAY, text)

    def _result(self, recipients: list[Recipient], verdict: Verdict, text: str) -> None:
        self._report.results += [(recipient, verdict, text) for recipient in recipients]
        done = set(map(id, recipients))
        self._waiting = [recipient for recipient in self._waiting if id(recipient) not in done]

    def _reset(self) -> None:
        """Clears the envelope for the next mail; a connection that breaks here has done its work."""
        try:
            code, _ = self._client.docmd("RSET")
            self._keep = code == 250
        except OSError:
            self._keep = False


def answer(code: int, words: bytes) -> str:
    """`250 2.0.0 Ok`: an answer as one line."""
    return plain(f"{code} {words.decode('utf-8', 'replace')}")
