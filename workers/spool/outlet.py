"""What a lane asks of a way out, be it a connection to a relay or a Maildir."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Mapping

    from workers.spool.attempt import Attempt


class Trouble(Exception):
    """The way out itself is in trouble; no mail is to blame. `pause_s` is what it asked for, `refused` means that it
    wants us not, as against not now."""

    def __init__(self, text: str, *, refused: bool = False, pause_s: float | None = None) -> None:
        super().__init__(text)
        self.refused = refused
        self.pause_s = pause_s


class Carrier(Protocol):
    """An open way out. One mail at a time."""

    carried: int  # mails so far
    extensions: Mapping[str, str]  # what the relay offers, in lower case

    @property
    def lost(self) -> str | None:
        """Why it is of no more use; None while it is."""

    def is_stale(self) -> bool:
        """Whether no mail should be begun on it."""

    async def deliver(self, attempt: Attempt) -> tuple[Attempt, Attempt | None]:
        """Brings one mail to its end, and tells which one has been begun behind it. Raises StoreError."""

    def expire(self, now: float) -> None:
        """Breaks off a step that lasts too long, by the event loop's clock."""

    def cut(self, why: str) -> None:
        """Breaks off what is in hand."""

    async def close(self) -> None:
        """Ends it in order. Never raises."""
