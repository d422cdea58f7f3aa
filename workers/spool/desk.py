"""What stands between a lane, its connections and the sender, so that none of them knows the others' insides."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Coroutine, Iterable, Mapping
    from typing import Any

    from workers.spool.attempt import Attempt
    from workers.spool.claims import Mail
    from workers.spool.content import Work
    from workers.spool.gate import Gate


class Terms:
    """How a lane may be used: from the settings of its relay."""

    __slots__ = ("connections", "mails", "password_file", "pause_s", "rate", "recipients")

    def __init__(
        self,
        connections: int,
        mails: int,
        recipients: int,
        rate: float | None,
        pause_s: float,
        password_file: str | None = None,
    ) -> None:
        self.connections = connections
        self.mails = mails  # on a connection
        self.recipients = recipients  # of a mail in one transaction
        self.rate = rate  # mails a second
        self.pause_s = pause_s  # of the breaker
        self.password_file = password_file  # a change of it closes the breaker


class Named(Protocol):
    """A lane in the eyes of the sender."""

    name: str
    title: str
    due: bool
    gate: Gate


class Desk(Protocol):
    """What a lane needs of the sender."""

    def past_dot(self, attempt: Attempt) -> bool:
        """Notes that the final dot is about to go out, if the claim surely holds."""

    def taken(self, attempt: Attempt, answer: str) -> None:
        """Notes that the relay has taken the mail."""

    def parts(self, attempt: Attempt) -> Iterable[bytes]:
        """The message in parts. Raises StoreError."""

    def work(self, mail: Mail, extensions: Mapping[str, str]) -> Work | None:
        """What is to be done to a mail before a relay with these extensions gets it; None: nothing."""

    async def prepare(self, attempt: Attempt, work: Work) -> bool:
        """Does it; False when it could not be done, and the attempt has its results."""

    def report(self, lane: Named, attempt: Attempt) -> None:
        """Takes the results of an attempt."""

    def hungry(self) -> None:
        """The lane wants mail."""

    def said(self, lane: Named, text: str) -> None:
        """A line about the lane for the log; its trouble may have changed."""

    def start(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        """Runs it beside the rest."""
