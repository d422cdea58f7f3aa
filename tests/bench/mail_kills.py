"""The sender is killed again and again under load: what is lost, what comes twice, and whether that was counted."""

from __future__ import annotations

import random
import time
from collections import Counter
from dataclasses import dataclass, field

from tests.bench.mail_drain import SIZE_BYTES
from tests.bench.mail_ours import Ours
from tests.bench.mail_postfix import Postfix
from tests.bench.mail_sinks import Sink
from tests.bench.mail_table import OURS, POSTFIX, MailMark, MailRow
from tests.bench.mail_world import folder_for_all, holds_within, recipient, until
from tests.bench.peers import Bench

LONGEST_LIFE_S = 0.2  # after the first mail of each life
LIMIT_S = 120.0


@dataclass(slots=True)
class Damage:
    """After so many kills: connections in use at each, recipients without a mail, and extra mails by recipient."""

    kills: int = 0
    connections: int = 0
    lost: int = 0
    extra: Counter[str] = field(default_factory=Counter)
    uncounted: int | None = None


def kills(bench: Bench) -> list[MailRow]:
    """SIGKILL to all processes of the sender at random moments while it sends; then it may finish."""
    times, count = bench.times(20, 8), bench.times(8000, 2500)
    folder = folder_for_all(bench.folder / "kills")
    damage = {}
    for name, make in ((OURS, Ours), (POSTFIX, Postfix)):
        keep = folder_for_all(folder / f"kept-{name}")
        with Sink(folder, keep) as sink:
            peer = make(folder / name, sink.port)
            peer.fill(count, SIZE_BYTES)
            try:
                damage[name] = _torment(peer, sink, times, count)
            finally:
                peer.close()
    return _rows(damage)


def _rows(damage: dict[str, Damage]) -> list[MailRow]:
    doubled = {name: float(sum(found.extra.values())) for name, found in damage.items()}
    number = {name: found.kills for name, found in damage.items()}
    used = {name: max(1, found.connections) for name, found in damage.items()}
    runs = number[OURS]
    how = ", ".join(f"{name} {times} times" for name, times in number.items())
    lost = {name: float(found.lost) for name, found in damage.items()}
    a_kill = {name: times / max(1, number[name]) for name, times in doubled.items()}
    a_connection = {name: times / used[name] for name, times in doubled.items()}
    rows = [
        MailRow(f"SIGKILL under load ({how}): lost", "mails", lost, runs, MailMark(plus=0)),
        MailRow("SIGKILL under load: duplicates", "mails", doubled, runs),
        MailRow("SIGKILL under load: duplicates a kill (aim: 0.6)", "mails", a_kill, runs),
        MailRow("SIGKILL under load: duplicates for each connection in use", "mails", a_connection, runs, MailMark(plus=1)),
    ]
    uncounted = damage[OURS].uncounted
    if uncounted is not None:
        what = "SIGKILL under load: duplicates that it did not count"
        rows.append(MailRow(what, "mails", {OURS: float(uncounted)}, runs, MailMark(plus=0)))
    return rows


def _torment(peer: Ours | Postfix, sink: Sink, times: int, count: int) -> Damage:
    damage = Damage()
    chance = random.Random(times)
    while damage.kills < times and sink.count() < count:
        before = sink.count()
        peer.drain()
        until(lambda known=before: sink.count() > known, "mails come again after a kill", LIMIT_S)  # type: ignore[misc]
        time.sleep(chance.uniform(0, LONGEST_LIFE_S))
        if sink.count() >= count:
            break
        damage.connections += sink.connections()
        peer.kill()
        damage.kills += 1
    peer.kill()
    peer.drain()
    holds_within(lambda: peer.waiting() == 0, LIMIT_S)
    peer.kill()
    came = Counter(sink.recipients())
    damage.lost = sum(recipient(number) not in came for number in range(count))
    damage.extra = Counter({address: number - 1 for address, number in came.items() if number > 1})
    if isinstance(peer, Ours):
        known = peer.uncertain()
        if known is not None:
            damage.uncounted = sum(max(0, number - known.get(address, 0)) for address, number in damage.extra.items())
    return damage
