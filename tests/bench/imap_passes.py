"""Whole passes, one process each: the first copy near and far, nothing new, and two hundred accounts at once."""

from __future__ import annotations

from statistics import median

from tests.bench.imap_clients import Copier, Mbsync, Ours, Ran
from tests.bench.imap_letters import sizes
from tests.bench.imap_table import MBSYNC, OURS, ImapRow
from tests.bench.imap_world import EACH, FOLDERS, MEGA, ImapWorld, Mailbox, at_rest
from tests.bench.mail_sinks import Distance
from tests.bench.mail_table import MailMark

MOST_MB = 30.0
MOST_BYTES = 5000.0
ROUND_TRIP_MS = 30.0
REST_S = 2.0  # mbsync sleeps a second over a Maildir that changed in the second of its look at it
BOTH = (OURS, MBSYNC)


def first(mail: ImapWorld) -> list[ImapRow]:
    """A whole mailbox into an empty folder, from process start to process end."""
    box = mail.mailbox("few", lambda: sizes(3000)) if mail.bench.quick else mail.big()
    runs = mail.bench.times(3, 1)
    taken = _first_passes(mail, box, mail.dovecot.port, runs)
    what = f"first copy of {box.count} messages, {box.size_bytes / MEGA:.0f} MB, durable"
    rates = {name: box.count / median(ran.wall_s for ran in rans) for name, rans in taken.items()}
    return [
        ImapRow(what, "messages/s", rates, runs, MailMark(3.0, MBSYNC, more=True)),
        ImapRow("CPU time of it per 1,000 messages", "s", _middle(taken, "cpu_s", box.count / 1000), runs),
        ImapRow("its peak memory (VmHWM)", "MB", _middle(taken, "peak_bytes", MEGA), runs, MailMark(plus=MOST_MB)),
    ]


def far(mail: ImapWorld) -> list[ImapRow]:
    """The server is 30 ms away."""
    count, runs = mail.bench.times(2000, 300), mail.bench.times(3, 1)
    box = mail.mailbox("far", lambda: sizes(count))
    folder = mail.folder()
    folder.mkdir()
    with Distance(folder, mail.dovecot.port, ROUND_TRIP_MS) as distance:
        taken = _first_passes(mail, box, distance.port, runs)
    what = f"first copy of {box.count} messages, {box.size_bytes / MEGA:.0f} MB, over a {ROUND_TRIP_MS:.0f} ms round trip"
    rates = {name: box.count / median(ran.wall_s for ran in rans) for name, rans in taken.items()}
    return [ImapRow(what, "messages/s", rates, runs, MailMark(3.0, MBSYNC, more=True))]


def noop(mail: ImapWorld) -> list[ImapRow]:
    """Nothing has changed since the pass before. What passes the wire is counted by a proxy, in a pass of its own."""
    box, runs = mail.big(), mail.bench.times(5, 3)
    port = mail.dovecot.port
    copiers: dict[str, Copier] = {
        OURS: Ours(mail.folder(), [box.user], port),
        MBSYNC: Mbsync(mail.folder(), [box.user], port, durable=False),  # only to have the copy sooner
    }
    for copier in copiers.values():
        copier.sync()
        copier.expect(box.count, box.size_bytes)
        if isinstance(copier, Mbsync):
            copier.durable = True
            copier.through(port)
    at_rest(REST_S)
    taken: dict[str, list[Ran]] = {name: [] for name in copiers}
    for _ in range(runs):
        for name, copier in copiers.items():
            taken[name].append(copier.sync())
    passed = {name: _passed(mail, copier) for name, copier in copiers.items()}
    what = f"nothing new among {box.count} messages: one pass"
    return [
        ImapRow(what, "s", _middle(taken, "wall_s"), runs, MailMark(1.0, MBSYNC)),
        ImapRow("CPU time of it", "s", _middle(taken, "cpu_s"), runs),
        ImapRow("it on the wire, both ways, with login", "bytes", passed, 1, MailMark(plus=MOST_BYTES)),
    ]


def accounts(mail: ImapWorld) -> list[ImapRow]:
    """Many small accounts: the first pass, and at once the next one."""
    boxes = mail.small_accounts()
    users = [box.user for box in boxes]
    count, size_bytes = sum(box.count for box in boxes), sum(box.size_bytes for box in boxes)
    runs = mail.bench.times(3, 1)
    begun: dict[str, list[Ran]] = {name: [] for name in BOTH}
    again: dict[str, list[Ran]] = {name: [] for name in BOTH}
    for _ in range(runs):
        for name in BOTH:
            copier = mail.copier(name, users, mail.dovecot.port)
            begun[name].append(copier.sync())
            copier.expect(count, size_bytes)
            at_rest(REST_S)
            again[name].append(copier.sync())
    what = f"{len(users)} accounts of {len(FOLDERS)} folders with {EACH} messages"
    no_slower = MailMark(1.0, MBSYNC)
    return [
        ImapRow(f"{what}: first pass", "s", _middle(begun, "wall_s"), runs, no_slower),
        ImapRow("CPU time of it", "s", _middle(begun, "cpu_s"), runs),
        ImapRow(f"{what}: nothing new", "s", _middle(again, "wall_s"), runs, no_slower),
        ImapRow("CPU time of it", "s", _middle(again, "cpu_s"), runs),
        ImapRow("peak memory of the first pass (VmHWM)", "MB", _middle(begun, "peak_bytes", MEGA), runs),
    ]


def _first_passes(mail: ImapWorld, box: Mailbox, port: int, runs: int) -> dict[str, list[Ran]]:
    """Both take turns, each time in a fresh folder."""
    taken: dict[str, list[Ran]] = {name: [] for name in BOTH}
    for _ in range(runs):
        for name in BOTH:
            copier = mail.copier(name, [box.user], port)
            taken[name].append(copier.sync())
            copier.expect(box.count, box.size_bytes)
    return taken


def _passed(mail: ImapWorld, copier: Copier) -> float:
    """Bytes of one pass in which nothing is new; the pass before has told the copier of the other port."""
    with mail.tap() as tap:
        copier.through(tap.port)
        copier.sync()
        before = tap.passed_bytes()
        copier.sync()
        return tap.passed_bytes() - before


def _middle(taken: dict[str, list[Ran]], name: str, unit: float = 1.0) -> dict[str, float]:
    return {who: median(getattr(ran, name) for ran in rans) / unit for who, rans in taken.items()}
