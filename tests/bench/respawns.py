"""Figure 2: how soon a killed script is back, alone and with all others at once."""

from __future__ import annotations

import contextlib
import os
import signal
import time
from itertools import cycle, islice
from statistics import median

from tests.bench.peers import PEERS, Bench, Peer, Supervisord
from tests.bench.table import Mark, Row, percentile

OLD_ENOUGH_S = 1.2  # runsv makes a script wait that ran for less than a second
BATCH = 10


def respawns(bench: Bench) -> list[Row]:
    """All figures on respawn; everywhere the peers take turns."""
    return [*_one_by_one(bench, 10), *_one_by_one(bench, 100), _all_at_once(bench, 200)]


def _one_by_one(bench: Bench, count: int) -> list[Row]:
    """All peers are up side by side and asleep, so that each batch of kills sees the same machine."""
    kills = bench.times(150, 50)
    taken: dict[str, list[float]] = {peer.name: [] for peer in PEERS}
    with contextlib.ExitStack() as stack:
        running = [stack.enter_context(peer(bench, count)) for peer in PEERS]
        for peer in running:
            peer.up()
        victims = {peer.name: cycle(sorted(peer.births.living)) for peer in running}
        time.sleep(OLD_ENOUGH_S)
        for _ in range(0, kills, BATCH):
            start = time.monotonic()
            for peer in running:
                batch = 1 if isinstance(peer, Supervisord) else BATCH  # a second each
                taken[peer.name] += [peer.kill(name) for name in islice(victims[peer.name], batch)]
            time.sleep(max(0.0, start + OLD_ENOUGH_S - time.monotonic()))
    runs = {name: len(times) for name, times in taken.items()}
    rows = []
    for share in (0.5, 0.99):
        values = {name: percentile(times, share) * 1000 for name, times in taken.items()}
        mark = Mark(1, "runit") if share == 0.5 else None
        rows.append(Row(f"respawn after SIGKILL, {count} scripts, p{share * 100:.0f}", "ms", values, mark, runs))
    return rows


def _all_at_once(bench: Bench, count: int) -> Row:
    taken: dict[str, list[float]] = {peer.name: [] for peer in PEERS}
    runs = bench.times(5, 3)
    for _ in range(runs):
        for peer in PEERS:
            with peer(bench, count) as running:
                running.up()
                time.sleep(OLD_ENOUGH_S)
                taken[peer.name].append(_kill_all(running))
    values = {name: median(times) for name, times in taken.items()}
    return Row(f"{count} of {count} killed at once, all back", "s", values, Mark(1, "runit"), dict.fromkeys(taken, runs))


def _kill_all(peer: Peer) -> float:
    """Seconds from the first kill until the last script is back."""
    victims = [birth.pid for birth in peer.births.living.values()]
    start = time.monotonic_ns()
    for pid in victims:
        os.kill(pid, signal.SIGKILL)
    return (max(birth.moment for birth in peer.births.wait(len(victims))) - start) / 1e9
