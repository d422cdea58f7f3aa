"""A day's mail waits already: what the sender's memory is and how soon it sends the first."""

from __future__ import annotations

import time
from dataclasses import dataclass
from statistics import median

from tests.bench.mail_drain import END_LIMIT_S
from tests.bench.mail_ours import Ours
from tests.bench.mail_postfix import Postfix
from tests.bench.mail_sinks import Sink
from tests.bench.mail_table import OURS, POSTFIX, MailMark, MailRow
from tests.bench.mail_world import folder_for_all, peak_bytes, shared_bytes, until
from tests.bench.peers import Bench

SIZE_BYTES = 1024
MOST_MB = 40.0
SENDING_S = 3.0  # so long it may grow before its peak is read
SAMPLE_S = 0.1


@dataclass(frozen=True, slots=True)
class Started:
    """Milliseconds to the first mail; memory in MB, of the largest sizes since the start and with shared pages divided."""

    first_ms: float
    resident_mb: float
    shared_mb: float


def backlog(bench: Bench) -> list[MailRow]:
    """Started thrice on the same queue, which shrinks by little."""
    folder = folder_for_all(bench.folder / "backlog")
    count, runs = bench.times(100_000, 5000), bench.times(3, 1)
    taken: dict[str, list[Started]] = {OURS: [], POSTFIX: []}
    with Sink(folder) as sink:
        peers: dict[str, Ours | Postfix] = {
            OURS: Ours(folder / "ours", sink.port),
            POSTFIX: Postfix(folder / "postfix", sink.port),
        }
        for name, peer in peers.items():
            peer.fill(count, SIZE_BYTES)
            try:
                for _ in range(runs):
                    taken[name].append(_start(peer, sink))
            finally:
                peer.close()
    first, resident, shared = (
        {name: median(getattr(start, which) for start in starts) for name, starts in taken.items()}
        for which in ("first_ms", "resident_mb", "shared_mb")
    )
    what = f"{count} mails of 1 kB queued: "
    ours = {OURS: resident[OURS]}  # Postfix's many processes share most of what they have resident, a sum would be unfair
    return [
        MailRow(f"{what}peak memory of the sender (VmHWM)", "MB", ours, runs, MailMark(plus=MOST_MB)),
        MailRow(f"{what}memory of all its processes, shared pages divided (PSS), highest seen", "MB", shared, runs),
        MailRow(f"{what}process start → first mail at the relay", "ms", first, runs),
    ]


def _start(peer: Ours | Postfix, sink: Sink) -> Started:
    """Starts it and lets it send for some seconds."""
    before, started = sink.count(), time.monotonic()
    peer.drain()
    until(lambda: sink.count() > before, "the first mail of a full queue", END_LIMIT_S)
    first_ms = (time.monotonic() - started) * 1000
    resident = shared = 0
    while time.monotonic() < started + SENDING_S:
        living = peer.processes()
        resident, shared = max(resident, peak_bytes(living)), max(shared, shared_bytes(living))
        time.sleep(SAMPLE_S)
    peer.kill()
    return Started(first_ms, resident / 1e6, shared / 1e6)
