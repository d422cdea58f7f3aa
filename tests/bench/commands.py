"""Figures 7 and 8: the commands that health checks and cron run all day, against a bare start of the same Python."""

from __future__ import annotations

import sys
import time
from statistics import median

from tests.bench import world
from tests.bench.peers import Bench, Guard
from tests.bench.table import Mark, Row

ALREADY_RUNNING = 1


def commands(bench: Bench) -> list[Row]:
    """In pairs: a command, then bare Python."""
    pairs = bench.times(51, 21)
    with Guard(bench, 100) as guard:
        guard.up()
        time.sleep(1)
        status = _pairs(guard, ["status", "--json"], 0, pairs)
        again = _pairs(guard, [], ALREADY_RUNNING, pairs)
    runs = {"guard": pairs, "python": pairs}
    return [
        Row("`guard status --json`, 100 scripts", "ms", status, Mark(2, "python"), runs),
        Row("`guard` while guard runs (cron's case)", "ms", again, None, runs),
    ]


def _pairs(guard: Guard, words: list[str], status: int, pairs: int) -> dict[str, float]:
    bare = [sys.executable, "-c", "pass"]
    taken: dict[str, list[float]] = {"guard": [], "python": []}
    for _ in range(pairs):
        for name, argv, expected in (("guard", guard.command(*words), status), ("python", bare, 0)):
            start = time.monotonic_ns()
            ended = world.run(argv, guard.log, guard.env)
            taken[name].append((time.monotonic_ns() - start) / 1e6)
            if ended != expected:
                raise AssertionError(f"{argv} ended with {ended}, not {expected}")
    return {name: median(times) for name, times in taken.items()}
