"""Figure 5: from the end of an edit until it has taken effect, without a command where the peer needs none."""

from __future__ import annotations

import contextlib
import time
from statistics import median

from tests.bench import world
from tests.bench.births import Late
from tests.bench.peers import PEERS, Bench, Peer
from tests.bench.table import Mark, Row

PAUSE_S = 1.2
LIMIT_S = 30.0


def edits(bench: Bench) -> list[Row]:
    """A script added, then removed, again and again, among 100. runit looks every 5 s, supervisord has to be told."""
    runs = bench.times(11, 3)
    added: dict[str, list[float]] = {peer.name: [] for peer in PEERS}
    removed: dict[str, list[float]] = {peer.name: [] for peer in PEERS}
    with contextlib.ExitStack() as stack:
        running = [stack.enter_context(peer(bench, 100)) for peer in PEERS]
        for peer in running:
            peer.up()
        time.sleep(PAUSE_S)
        for number in range(runs):
            for peer in running if number < bench.times(5, 1) else running[:1]:
                added[peer.name].append(_add(peer, f"extra{number}"))
                time.sleep(PAUSE_S)
                removed[peer.name].append(_remove(peer, f"extra{number}"))
                time.sleep(PAUSE_S)
    rows = []
    for what, taken in (("a line appended", added), ("a line removed by rename", removed)):
        values = {name: median(times) for name, times in taken.items()}
        counts = {name: len(times) for name, times in taken.items()}
        rows.append(Row(f"{what} among 100 takes effect", "s", values, Mark(0.15), counts))
    return rows


def _add(peer: Peer, name: str) -> float:
    start = time.monotonic_ns()
    peer.add(name)
    return (peer.births.wait(1, LIMIT_S)[0].moment - start) / 1e9


def _remove(peer: Peer, name: str) -> float:
    pid = peer.births.living[name].pid
    start = time.monotonic_ns()
    peer.remove(name)
    if not world.gone([pid], LIMIT_S):
        raise Late(f"{peer.name}: {name} goes on after its line was removed")
    return (time.monotonic_ns() - start) / 1e9
