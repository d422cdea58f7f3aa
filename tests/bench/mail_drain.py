"""How fast a queue of mails reaches the relay, near and 20 ms away, and what a mail costs in CPU time."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from statistics import median

from tests.bench import world
from tests.bench.mail_ours import Ours
from tests.bench.mail_postfix import Postfix
from tests.bench.mail_sinks import Distance, Sink
from tests.bench.mail_table import OURS, POSTFIX, MailMark, MailRow
from tests.bench.mail_world import LOOK_S, SENDER_CORE, cpu_s, family, finish, folder_for_all, holds_within, launch, python
from tests.bench.peers import Bench

SIZE_BYTES = 4096
ROUND_TRIP_MS = 20.0
MOST_CONNECTIONS = 20
CHOICES = (1, 5, 10, MOST_CONNECTIONS)
END_LIMIT_S = 30.0
LOST_SECONDS = 1e-9


@dataclass(frozen=True, slots=True)
class Race:
    """What is to be sent, through which port to which sink, and after how long the rest is given up."""

    sink: Sink
    port: int
    count: int
    limit_s: float


@dataclass(frozen=True, slots=True)
class Drained:
    """Mails a second from the start of the process and from its first mail on; CPU seconds per 1,000 mails."""

    rate: float
    rate_once_up: float
    cpu_s: float


def drain(bench: Bench) -> list[MailRow]:
    """The relay is next door."""
    count = bench.times(5000, 1000)
    taken = _runs(bench, count, bench.times(60, 20), 0.0)
    what = f"drain of {count} mails of 4 kB (aiosmtplib: best of {', '.join(map(str, CHOICES))} connections)"
    runs = bench.times(3, 1)
    return [
        MailRow(f"{what}, from process start", "mails/s", _middle(taken, "rate"), runs, MailMark(2.5, POSTFIX, more=True)),
        MailRow("the same from the first mail at the relay on", "mails/s", _middle(taken, "rate_once_up"), runs),
        MailRow("CPU time of it per 1,000 mails, with all child processes", "s", _middle(taken, "cpu_s"), runs),
    ]


def far(bench: Bench) -> list[MailRow]:
    """The relay is a round trip of 20 ms away; slow ones are stopped early and judged by what came until then."""
    count = bench.times(5000, 500)
    taken = _runs(bench, count, bench.times(45, 8), ROUND_TRIP_MS)
    what = f"drain of {count} mails of 4 kB over a {ROUND_TRIP_MS:.0f} ms round trip, at most {MOST_CONNECTIONS} connections"
    runs = bench.times(3, 1)
    return [
        MailRow(f"{what}, from process start", "mails/s", _middle(taken, "rate"), runs, MailMark(1.5, POSTFIX, more=True)),
        MailRow("the same from the first mail at the relay on", "mails/s", _middle(taken, "rate_once_up"), runs),
    ]


def _middle(taken: dict[str, list[Drained]], name: str) -> dict[str, float]:
    return {who: median(getattr(drained, name) for drained in results) for who, results in taken.items()}


def _runs(bench: Bench, count: int, limit_s: float, round_trip_ms: float) -> dict[str, list[Drained]]:
    """All senders take turns, each with a fresh sink."""
    taken: dict[str, list[Drained]] = {}
    connections = 0
    for number in range(bench.times(3, 1)):
        for name, send in (("ours", _ours), ("postfix", _postfix), ("clients", None)):
            folder = folder_for_all(bench.folder / f"drain{round_trip_ms:.0f}-{name}{number}")
            if send is not None:
                who = OURS if name == "ours" else POSTFIX
                taken.setdefault(who, []).append(_race(folder, count, limit_s, round_trip_ms, send))
                continue
            connections = connections or _best(folder, max(200, count // 10), limit_s, round_trip_ms)
            for who, number_of in (("aiosmtplib", connections), ("smtplib", 1)):
                taken.setdefault(who, []).append(_race(folder, count, limit_s, round_trip_ms, _client(who, number_of)))
    return taken


def _race(folder: Path, count: int, limit_s: float, round_trip_ms: float, send: Callable[[Path, Race], Drained]) -> Drained:
    with Sink(folder) as sink:
        if not round_trip_ms:
            return send(folder, Race(sink, sink.port, count, limit_s))
        with Distance(folder, sink.port, round_trip_ms) as distance:
            return send(folder, Race(sink, distance.port, count, limit_s))


def _best(folder: Path, count: int, limit_s: float, round_trip_ms: float) -> int:
    """With how many connections aiosmtplib is fastest here."""
    rates = {
        number: _race(folder, count, limit_s, round_trip_ms, _client("aiosmtplib", number)).rate_once_up for number in CHOICES
    }
    return max(rates, key=rates.__getitem__)


def _ours(folder: Path, race: Race) -> Drained:
    spool = Ours(folder / "ours", race.port)
    spool.fill(race.count, SIZE_BYTES)
    try:
        return _watch(race, spool.drain)
    finally:
        spool.close()


def _client(kind: str, connections: int) -> Callable[[Path, Race], Drained]:
    def send(folder: Path, race: Race) -> Drained:
        words = (kind, race.port, race.count, SIZE_BYTES, connections)
        return _watch(race, lambda: launch(python("mail_clients", *words), folder / "log", SENDER_CORE))

    return send


def _postfix(folder: Path, race: Race) -> Drained:
    postfix = Postfix(folder / "postfix", race.port)
    postfix.fill(race.count, SIZE_BYTES)
    try:
        return _watch(race, postfix.drain, lambda: postfix.waiting() == 0)
    finally:
        postfix.kill()


def _watch(race: Race, start: Callable[[], int], empty: Callable[[], bool] | None = None) -> Drained:
    """Starts a sender and follows the sink's counter. One that ends by itself is waited for; `empty` tells for others."""
    started = time.monotonic()
    pid = start()
    holds_within(lambda: race.sink.count() > 0 or world.gone([pid], 0), race.limit_s)
    first, before = time.monotonic(), race.sink.count()
    while (came := race.sink.count()) < race.count and time.monotonic() < started + race.limit_s:
        if world.gone([pid], 0) and race.sink.count() < race.count:
            raise AssertionError(f"a sender ended after {race.sink.count()} of {race.count} mails")
        time.sleep(LOOK_S)
    ended = time.monotonic()
    if came < race.count or empty is not None:
        if empty is not None and came >= race.count:
            holds_within(empty, END_LIMIT_S)
        used = cpu_s(family(pid))
        world.kill_tree(pid)
    else:
        used = finish(pid, END_LIMIT_S)[1]
    once_up = (came - before) / max(ended - first, LOST_SECONDS)
    return Drained(came / (ended - started), once_up, used / max(came, 1) * 1000)
