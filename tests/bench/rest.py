"""Figures 3 and 4: what the supervisors' own processes cost: memory, and wake-ups while nothing happens."""

from __future__ import annotations

import contextlib
import time

from tests.bench import world
from tests.bench.peers import PEERS, Bench, Peer
from tests.bench.table import Mark, Row

SETTLE_S = 3.0
MIB = 1 << 20


def memory(bench: Bench) -> list[Row]:
    """Private memory of all of a supervisor's processes, one peer after the other."""
    rows = []
    for count, limit in ((10, 10.0), (1000, 14.0)):
        values, processes = {}, {}
        for peer in PEERS:
            with peer(bench, count - 1) as running:  # the edit brings the last one; runsvdir takes no more than 1000
                running.up()
                _live_a_little(running)
                own = running.processes()
                values[peer.name], processes[peer.name] = world.private_bytes(own) / MIB, len(own)
        text = ", ".join(f"{name} {number}" for name, number in processes.items())
        rows.append(Row(f"private memory, {count} scripts (processes: {text})", "MiB", values, Mark(limit)))
    return rows


def rest(bench: Bench) -> list[Row]:
    """Context switches and CPU time of all of a supervisor's processes, all peers in the same minute."""
    seconds = bench.times(60, 5)
    with contextlib.ExitStack() as stack:
        running = [stack.enter_context(peer(bench, 100)) for peer in PEERS]
        for peer in running:
            peer.up()
        for peer in running:
            _live_a_little(peer)
        time.sleep(SETTLE_S)
        own = {peer.name: peer.processes() for peer in running}
        before = {name: world.effort(pids) for name, pids in own.items()}
        time.sleep(seconds)
        after = {name: world.effort(pids) for name, pids in own.items()}
    switches = {name: float(after[name].switches - before[name].switches) for name in own}
    cpu = {name: (after[name].cpu_ns - before[name].cpu_ns) / 1e6 for name in own}
    what = f"at rest for {seconds} s with 100 scripts"
    return [Row(f"{what}: wake-ups", "number", switches, Mark(0)), Row(f"{what}: CPU time", "ms", cpu, Mark(0))]


def _live_a_little(peer: Peer) -> None:
    """The state in which a supervisor is met: up for a while, one edit and one respawn behind it."""
    time.sleep(SETTLE_S)
    peer.add("extra")
    peer.births.wait(1)
    time.sleep(SETTLE_S / 2)
    peer.kill("s0")
    time.sleep(SETTLE_S)
