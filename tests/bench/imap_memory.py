"""Memory: a pass over one account, the same with a 64 MiB message, and two hundred accounts at rest with TLS."""

from __future__ import annotations

from pathlib import Path
from statistics import median

from tests.bench import world
from tests.bench.imap_clients import Ours, Ran
from tests.bench.imap_letters import sizes
from tests.bench.imap_passes import BOTH, MOST_MB
from tests.bench.imap_table import OURS, ImapRow
from tests.bench.imap_world import MEGA, ImapWorld, at_rest
from tests.bench.mail_table import MailMark
from tests.bench.mail_world import family, peak_bytes, shared_bytes

HUGE_BYTES = 64 << 20
FLAT_MB = 2.0
MOST_IDLE_MB = 45.0
ORDINARY = 500
REST_S = 5.0


def memory(mail: ImapWorld) -> list[ImapRow]:
    """All of it."""
    return [*_passes(mail), *_at_rest(mail)]


def _passes(mail: ImapWorld) -> list[ImapRow]:
    runs = mail.bench.times(3, 1)
    plain = mail.mailbox("plain", lambda: sizes(ORDINARY))
    huge = mail.mailbox("huge", lambda: [*sizes(ORDINARY), HUGE_BYTES])
    taken: dict[tuple[str, str], list[Ran]] = {}
    for _ in range(runs):
        for box in (plain, huge):
            for name in BOTH:
                copier = mail.copier(name, [box.user], mail.dovecot.port)
                taken.setdefault((box.user, name), []).append(copier.sync(private=True))
                copier.expect(box.count, box.size_bytes)

    def middle(user: str, which: str) -> dict[str, float]:
        return {name: median(getattr(ran, which) for ran in taken[user, name]) / MEGA for name in BOTH}

    small, large = middle("plain", "peak_bytes"), middle("huge", "peak_bytes")
    most = MailMark(plus=MOST_MB)
    return [
        ImapRow(f"first copy of {ORDINARY} messages: peak memory (VmHWM)", "MB", small, runs, most),
        ImapRow("the same, private (USS), highest seen", "MB", middle("plain", "private_bytes"), runs),
        ImapRow("with a message of 64 MiB among them: peak memory (VmHWM)", "MB", large, runs, most),
        ImapRow("the same, private (USS), highest seen", "MB", middle("huge", "private_bytes"), runs),
        ImapRow("what the 64 MiB add", "MB", {name: large[name] - small[name] for name in BOTH}, runs, MailMark(plus=FLAT_MB)),
    ]


def _at_rest(mail: ImapWorld) -> list[ImapRow]:
    """A worker that was started on a copy in step and has settled."""
    boxes = mail.small_accounts()
    users = [box.user for box in boxes]
    count, size_bytes = sum(box.count for box in boxes), sum(box.size_bytes for box in boxes)
    ours = Ours(mail.folder(), users, mail.dovecot.tls_port, mail.dovecot.cert)
    ours.sync()
    ours.expect(count, size_bytes)
    try:
        ours.start()
        at_rest(REST_S)
        living = family(ours.pid)
        figures = {
            "highest since the start (VmHWM)": peak_bytes(living),
            "at rest (RSS)": sum(_resident_bytes(pid) for pid in living),
            "at rest, shared pages divided (PSS)": shared_bytes(living),
            "at rest, private (USS)": world.private_bytes(living),
        }
    finally:
        ours.close()
    what = f"{len(users)} idle accounts with TLS"
    marks = [MailMark(plus=MOST_IDLE_MB)] * 2 + [None] * 2
    return [
        ImapRow(f"{what}: memory {label}", "MB", {OURS: figure / MEGA}, 1, mark)
        for (label, figure), mark in zip(figures.items(), marks, strict=True)
    ]


def _resident_bytes(pid: int) -> int:
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return sum(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmRSS:"))
