"""Figure 6: guard's primary is killed, and at once one of its scripts: how soon is that script back?

So the time holds everything: the standby wakes, gets the second lock, adopts, notices the death, respawns.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time

from tests.bench.births import Late
from tests.bench.peers import Bench, Guard
from tests.bench.table import Mark, Row, percentile

SCRIPTS = 10
SETTLE_S = 0.15


def takeover(bench: Bench) -> list[Row]:
    """No peer has a standby."""
    taken: list[float] = []
    with Guard(bench, SCRIPTS) as guard:
        guard.up()
        before = dict.fromkeys(guard.births.living, 0)
        for number in range(bench.times(100, 50)):
            primary = _primary(guard)
            before = {name: birth.pid for name, birth in guard.births.living.items()}
            victim = f"s{number % SCRIPTS}"
            start = time.monotonic_ns()
            os.kill(primary, signal.SIGKILL)
            os.kill(before[victim], signal.SIGKILL)
            taken.append((guard.births.wait(1)[0].moment - start) / 1e6)
            doubled = [name for name, birth in guard.births.living.items() if name != victim and birth.pid != before[name]]
            if doubled:
                raise AssertionError(f"started though they ran: {doubled}")
    runs = {"guard": len(taken)}
    rows = [Row("primary and a script killed: script back, p50", "ms", {"guard": percentile(taken, 0.5)}, None, runs)]
    return [*rows, Row("the same, p99", "ms", {"guard": percentile(taken, 0.99)}, Mark(100), runs)]


def _primary(guard: Guard) -> int:
    """The primary's pid, once it has a standby again."""
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline:
        time.sleep(SETTLE_S)
        found = subprocess.run(guard.command("status", "--json"), env=guard.env, stdout=subprocess.PIPE).stdout
        status = json.loads(found or "{}").get("guard", {})
        if status.get("standby"):
            return int(status["pid"])
    raise Late("guard has no standby after 30 s")
