"""Figure 1: from the command until all scripts are up."""

from __future__ import annotations

from statistics import median

from tests.bench.peers import PEERS, Bench, FreshRunit, Guard, Peer, Runit, Supervisord
from tests.bench.table import Mark, Row


def starts(bench: Bench) -> list[Row]:
    """Each run in a fresh folder; the peers take turns."""
    return [
        _starts("all of 10 scripts up", PEERS, bench, 10, bench.times(11, 5), Mark(0.15)),
        _starts("all of 1000 scripts up", (Guard, FreshRunit, Supervisord), bench, 1000, bench.times(5, 1), Mark(0.7, "runit")),
        _starts("the same with services older than a second", (Guard, Runit), bench, 1000, bench.times(5, 1), None),
    ]


def _starts(what: str, peers: tuple[type[Peer], ...], bench: Bench, count: int, runs: int, mark: Mark | None) -> Row:
    taken: dict[str, list[float]] = {peer.name: [] for peer in peers}
    for _ in range(runs):
        for peer in peers:
            with peer(bench, count) as running:
                taken[peer.name].append(running.up())
    values = {name: median(times) for name, times in taken.items()}
    return Row(what, "s", values, mark, {name: len(times) for name, times in taken.items()})
