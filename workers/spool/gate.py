"""PURE: whether a relay may be asked now, how many connections it gets, and how fast mail goes to it.

Times are seconds of any clock that only goes forward.
"""

from __future__ import annotations

FIRST_PROBE_S = 5.0
LAST_PROBE_S = 60.0
CUTS = 2  # so many connections in a row that break before they carried a mail are trouble of the relay
WINDOW_MAILS = 3  # for each connection, before the next step
BUSY = 0.65  # of the time at work, and more connections only make mails wait for us
PAYS = 0.2  # of what a step could bring at best, it has to bring
AGAIN_S = 2.0  # after one that did not, until the next
FORGIVEN_S = 300.0  # after so long a limit that the relay has shown is tried again, by one more


class Gate:
    """Probed after 5 s, doubling to 60 s, while a relay is down; a breaker holds an account for longer. The first
    real answer opens it again."""

    def __init__(self) -> None:
        self.problem = ""
        self._failures = 0
        self._cuts = 0
        self._until = 0.0

    def left_s(self, now: float) -> float:
        """How long to wait before the next try; 0 when there is no need to."""
        return max(0.0, self._until - now)

    def is_shut(self) -> bool:
        """Whether the relay is in trouble: when the pause is over, one connection tries first."""
        return self._failures > 0

    def down(self, problem: str, now: float, asked_s: float | None = None) -> float:
        """Notes that the relay can't be reached or asked for a pause; returns the seconds until the next probe."""
        self._failures += 1
        pause_s = min(FIRST_PROBE_S * 2.0 ** min(self._failures - 1, 20), LAST_PROBE_S)
        return self._shut(problem, now, pause_s if asked_s is None else asked_s)

    def refused(self, problem: str, now: float, pause_s: float) -> float:
        """Notes that account or relay refuse us as such: the breaker opens for `pause_s`."""
        self._failures += 1
        return self._shut(problem, now, pause_s)

    def cut(self, problem: str, now: float) -> float | None:
        """Notes that a connection broke in the middle; the pause when that has happened too often."""
        self._cuts += 1
        return self.down(problem, now) if self._cuts >= CUTS else None

    def answered(self) -> bool:
        """Notes that a mail came to its end there; True when that ends a time of trouble."""
        was_shut = self.is_shut()
        self.open()
        return was_shut

    def open(self) -> None:
        """Forgets the trouble: somebody asked for it, or what caused it has changed."""
        self.problem = ""
        self._failures = self._cuts = 0
        self._until = 0.0

    def _shut(self, problem: str, now: float, pause_s: float) -> float:
        self.problem = problem
        self._until = now + pause_s
        return pause_s


class Growth:
    """How many connections a relay gets: one at first, more while mail waits, we have time, and each step pays.

    What is in flight is what a crash can double, so that more of it has to bring something. A relay near by, where our
    own work takes most of the time, keeps one or two; a far one gets all; one that can't do more at once does not get
    them.
    """

    def __init__(self, most: int) -> None:
        self.most = most
        self.allowed = 1
        self._shown = most  # the limit that the relay has shown
        self._shown_at = 0.0
        self._before: tuple[int, float] | None = None  # connections and mails a second before the last step
        self._again_at = 0.0
        self._rate = 0.0  # of the last window
        self._mails = 0
        self._connections = 0
        self._since = 0.0
        self._since_cpu = 0.0

    def limit(self, now: float) -> int:
        """The number of connections that may be open."""
        if self._shown < self.most and now - self._shown_at > FORGIVEN_S:
            self._shown += 1
            self._shown_at = now
        return max(1, min(self.allowed, self._shown, self.most))

    def carried(self, now: float, cpu_s: float, connections: int, *, waiting: bool) -> None:
        """Notes a mail that came to its end while so many connections were open and others did or did not wait;
        `cpu_s` is the time that this process has worked so far."""
        if not waiting or connections < self.allowed or connections != self._connections:
            self._begin(now, cpu_s, connections if waiting else 0)
            return
        self._mails += 1
        span_s = now - self._since
        if self._mails < WINDOW_MAILS * connections or span_s <= 0:
            return
        rate, busy = self._mails / span_s, (cpu_s - self._since_cpu) / span_s
        self._rate = rate
        self._begin(now, cpu_s, connections)
        if self._before is not None and rate < self._before[1] * (1 + PAYS * (connections / self._before[0] - 1)):
            self.allowed, self._before = self._before[0], None
            self._again_at = now + AGAIN_S
        elif busy < BUSY and now >= self._again_at:
            self._before = connections, rate
            self.allowed = min(self.most, 2 * connections)

    def slow(self) -> None:
        """Nothing has come to its end for a while and mail waits: waiting is what more connections can share."""
        if self._before is None:
            self._before = self.allowed, self._rate
        self.allowed = min(self.most, self.allowed + 1)

    def crowded(self, now: float, connections: int) -> None:
        """The relay has said 421 while so many were open: it takes fewer."""
        self._shown = max(1, min(self._shown, connections - 1))
        self._shown_at = now

    def idle(self) -> None:
        """The queue ran empty: the next load starts small again."""
        self.allowed = 1
        self._before = None
        self._connections = 0

    def _begin(self, now: float, cpu_s: float, connections: int) -> None:
        self._since, self._since_cpu, self._mails, self._connections = now, cpu_s, 0, connections


class Rate:
    """At most so many mails a second, evenly; None is no limit."""

    def __init__(self, per_s: float | None) -> None:
        self._pause_s = 0.0 if per_s is None else 1.0 / per_s
        self._next = 0.0

    def left_s(self, now: float) -> float:
        """How long until the next mail may go."""
        return max(0.0, self._next - now)

    def take(self, now: float) -> None:
        """Notes that one goes now."""
        self._next = max(now, self._next) + self._pause_s
