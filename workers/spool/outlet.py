"""What the sender asks of a way out, be it a relay or a Maildir."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Callable

    from workers.spool.delivery import Verdict
    from workers.spool.store import Mail, Recipient


class Trouble(Exception):
    """The way out itself is in trouble; no mail is to blame."""


class Report:
    """The end of an attempt: a verdict and the answer for each recipient; `trouble` when the way out needs a pause."""

    def __init__(self) -> None:
        self.results: list[tuple[Recipient, Verdict, str]] = []
        self.trouble: str | None = None


class Outlet(Protocol):
    """A way out for mail. One attempt at a time."""

    name: str

    def open(self) -> None:
        """Makes ready for `deliver`; nothing when it is already. Raises Trouble."""

    def deliver(self, mail: Mail, note_past_dot: Callable[[list[Recipient]], None]) -> Report:
        """One attempt. `note_past_dot` is called before the step that can't be taken back."""

    def close(self) -> None:
        """Ends it in order. Never raises."""

    def cut(self) -> None:
        """Breaks off what hangs; safe in a signal handler."""
