"""Paces connections to a host: few at once, and when it is down one account asks for all. Times are given to it."""

from __future__ import annotations

from workers.imap.schedule import PROBE_S, backoff_s

AT_ONCE = 8  # logins on the way


class Host:
    """One host and port. Times are monotonic seconds."""

    def __init__(self) -> None:
        self.connections = 0
        self.opening = 0
        self._failures = 0
        self._until = 0.0

    @property
    def is_down(self) -> bool:
        """Whether it did not answer the last time."""
        return self._failures > 0

    def may_open(self, now: float, most: int | None) -> bool:
        """Whether a connection may be opened now."""
        if most is not None and self.connections >= most:
            return False
        if self._failures:
            return self.opening == 0 and now >= self._until
        return self.opening < AT_ONCE

    def next_at(self) -> float:
        """When it may be asked again."""
        return self._until if self._failures else 0.0

    def hurry(self) -> None:
        """It may be asked again now: somebody knows more than we."""
        self._until = 0.0

    def opens(self) -> None:
        """A connection is on its way."""
        self.connections += 1
        self.opening += 1

    def opened(self) -> bool:
        """It answered; whether it was down before."""
        self.opening -= 1
        was_down, self._failures = self.is_down, 0
        return was_down

    def failed(self, now: float, jitter: float, *, unreachable: bool) -> None:
        """A connection did not come to be; `unreachable`: for a reason that all accounts share."""
        self.opening -= 1
        if unreachable:
            self._failures += 1
            self._until = now + min(PROBE_S, backoff_s(self._failures, jitter))
        else:
            self._failures = 0

    def closed(self) -> None:
        """A connection is no more."""
        self.connections -= 1
