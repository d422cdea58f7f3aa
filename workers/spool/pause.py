"""PURE: the pause of a way out in trouble: probed after 5 s, doubling to 60 s, closed by the first real answer."""

from __future__ import annotations

from workers.spool.delivery import probe_pause_s


class Pause:
    """Times are seconds of any clock that only goes forward."""

    def __init__(self) -> None:
        self._failures = 0
        self._until = 0.0

    def left_s(self, now: float) -> float:
        """How long to wait before the next probe; 0 when there is no need to."""
        return max(0.0, self._until - now)

    def trouble(self, now: float) -> float:
        """Notes trouble and returns the seconds until the next probe."""
        self._failures += 1
        pause_s = probe_pause_s(self._failures)
        self._until = now + pause_s
        return pause_s

    def answered(self) -> bool:
        """Notes that a transaction came to its end; True when that ends a time of trouble."""
        was_in_trouble = self._failures > 0
        self._failures = 0
        self._until = 0.0
        return was_in_trouble
