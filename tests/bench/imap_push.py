"""A running worker: how soon after the server's notice a change is on disk.

The notice is the first piece from the server that tells of a change (imap_tap.py, between the worker and Dovecot, notes when
it came, before handing it on); "on disk" is the moment at which inotify tells of the last rename into or out of the folder's
`cur`. Dovecot itself waits 0.5 s before it tells, so the time since the change is given too, without a mark.
"""

from __future__ import annotations

import random
import time
from collections.abc import Iterable
from statistics import median

from tests.bench.imap_clients import Mbsync, Ours
from tests.bench.imap_letters import letters, sizes
from tests.bench.imap_speaker import Speaker
from tests.bench.imap_table import MBSYNC, OURS, ImapRow
from tests.bench.imap_watch import Event, Watch
from tests.bench.imap_world import ImapWorld, Tap, at_rest
from tests.bench.mail_table import MailMark
from tests.bench.table import percentile

MOST_MS = 50.0
SMALL_BYTES = 640
FLAGGED = 20
EXPUNGED = 10
REST_S = 1.5  # Dovecot's own half second is over
LIMIT_S = 60.0
WARM_UP = 2


def push(mail: ImapWorld) -> list[ImapRow]:
    """One new mail after the other."""
    box = mail.mailbox("push", lambda: sizes(200))
    times = mail.bench.times(30, 5)
    from_notice: list[float] = []
    from_start: list[float] = []
    with mail.tap() as tap:
        ours = Ours(mail.folder(), [box.user], tap.port)
        try:
            ours.start()
            with mail.speaker(box) as speaker, Watch(ours.inbox()) as watch:
                for letter in letters(sizes(times + WARM_UP)):
                    at_rest(REST_S)
                    watch.forget()
                    started_ns = time.monotonic_ns()
                    speaker.append("INBOX", [letter])
                    events = watch.wait(lambda seen: any(event.came for event in seen), "a new file", LIMIT_S)
                    came_ns = next(event.ns for event in events if event.came)
                    from_notice.append((came_ns - tap.notice_ns(started_ns)) / 1e6)
                    from_start.append((came_ns - started_ns) / 1e6)
        finally:
            ours.close()
    noted, all_in_all = from_notice[WARM_UP:], from_start[WARM_UP:]
    what = f"new mail, {times} of them: the server's notice → file"
    return [
        ImapRow(f"{what}, p50", "ms", {OURS: median(noted)}, times, MailMark(plus=MOST_MS)),
        ImapRow(f"{what}, p95", "ms", {OURS: percentile(noted, 0.95)}, times),
        ImapRow("APPEND → file, p50 (Dovecot waits 500 of it)", "ms", {OURS: median(all_in_all)}, times),
    ]


def resync(mail: ImapWorld) -> list[ImapRow]:
    """Few changes among very many messages; mbsync makes a whole pass for the same changes."""
    count, runs = mail.bench.times(100_000, 5000), mail.bench.times(5, 2)
    box = mail.mailbox("many", lambda: [SMALL_BYTES] * count)
    theirs = Mbsync(mail.folder(), [box.user], mail.dovecot.port, durable=False)  # only to have the copy sooner
    theirs.sync()
    theirs.durable = True
    theirs.through(mail.dovecot.port)
    uids = _shuffled(count)
    taken: list[tuple[float, float, float]] = []
    with mail.tap() as tap:
        ours = Ours(mail.folder(), [box.user], tap.port)
        try:
            ours.start()
            ours.expect(box.count, box.size_bytes)
            with mail.speaker(box) as speaker, Watch(ours.inbox()) as watch:
                speaker.ask("SELECT INBOX")
                for _ in range(runs + 1):
                    near = _change(speaker, watch, tap, uids)
                    taken.append((*near, theirs.sync().wall_s * 1000))
        finally:
            ours.close()
    left = count - EXPUNGED * (runs + 1)
    theirs.expect(left, left * SMALL_BYTES)
    noted, whole, other = (median(column) for column in zip(*taken[1:], strict=True))
    what = f"{count} messages, {FLAGGED} flag changes and {EXPUNGED} expunges"
    return [
        ImapRow(
            f"{what}: the server's notice → all on disk (mbsync: a pass)",
            "ms",
            {OURS: noted, MBSYNC: other},
            runs,
            MailMark(plus=MOST_MS),
        ),
        ImapRow("the same from the first change on (Dovecot waits 500 of it)", "ms", {OURS: whole}, runs),
    ]


def _change(speaker: Speaker, watch: Watch, tap: Tap, uids: list[int]) -> tuple[float, float]:
    """Milliseconds until all of it is on disk, from the notice and from the first change on; uses up some of `uids`."""
    flagged, expunged = [uids.pop() for _ in range(FLAGGED)], [uids.pop() for _ in range(EXPUNGED)]
    at_rest(REST_S)
    watch.forget()
    started_ns = time.monotonic_ns()
    speaker.ask(
        rf"UID STORE {_listed(flagged)} +FLAGS.SILENT (\Flagged)",
        rf"UID STORE {_listed(expunged)} +FLAGS.SILENT (\Deleted)",
        f"UID EXPUNGE {_listed(expunged)}",
    )
    events = watch.wait(lambda seen: _settled(seen, flagged, expunged) > 0, "all changes", LIMIT_S)
    settled_ns = _settled(events, flagged, expunged)
    return (settled_ns - tap.notice_ns(started_ns)) / 1e6, (settled_ns - started_ns) / 1e6


def _settled(events: list[Event], flagged: Iterable[int], expunged: Iterable[int]) -> int:
    """When all flagged ones had come under a name with F and all expunged ones had gone for good; 0 while they have not."""
    last: dict[int, Event] = {}
    for event in events:
        last[_uid(event.name)] = event
    done = [last[uid].ns for uid in flagged if uid in last and last[uid].came and "F" in last[uid].name.rpartition(",")[2]]
    gone = [last[uid].ns for uid in expunged if uid in last and not last[uid].came]
    return max([*done, *gone]) if len(done) == FLAGGED and len(gone) == EXPUNGED else 0


def _uid(name: str) -> int:
    """`<date>.V<epoch>U<uid>.imap-sync,…`: the UID; 0 for other names."""
    text = name.partition("U")[2].partition(".")[0]
    return int(text) if text.isdigit() else 0


def _shuffled(count: int) -> list[int]:
    """The UIDs of a mailbox that was filled once, far from each other."""
    uids = list(range(1, count + 1))
    random.Random(count).shuffle(uids)
    return uids


def _listed(uids: list[int]) -> str:
    return ",".join(map(str, uids))
