"""One mail on its way, and what has come of it so far."""

from __future__ import annotations

from typing import TYPE_CHECKING

from workers.spool.delivery import Effect

if TYPE_CHECKING:
    from collections.abc import Iterable

    from workers.spool.claims import Mail, Recipient
    from workers.spool.content import Content
    from workers.spool.delivery import Verdict
    from workers.spool.dots import Dots


class Attempt:
    """One mail on its way over a connection, and what came of it. `content` is what is sent, when it is not the body
    as it is stored."""

    __slots__ = ("begun", "content", "effect", "mail", "most_recipients", "note", "results", "trouble", "waiting")

    def __init__(self, mail: Mail) -> None:
        self.mail = mail
        self.content: Content | None = None
        self.waiting: list[Recipient] = list(mail.recipients)  # those without a result so far
        self.results: list[tuple[Recipient, Verdict, str, float | None]] = []
        self.effect = Effect.NONE
        self.trouble = ""
        self.most_recipients: int | None = None  # more than these the relay did not take at once
        self.begun = False  # its envelope is under way
        self.note: tuple[Dots, int] | None = None  # where it is noted that the final dot is out

    def settle(self, recipients: Iterable[Recipient], verdict: Verdict, text: str, asked_s: float | None = None) -> None:
        """The result of some; each recipient gets one."""
        done = list(recipients)
        self.results += [(recipient, verdict, text, asked_s) for recipient in done]
        if len(done) == len(self.waiting):
            self.waiting = []
        else:
            gone = set(map(id, done))
            self.waiting = [recipient for recipient in self.waiting if id(recipient) not in gone]
