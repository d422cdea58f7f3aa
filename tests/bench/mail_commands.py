"""The sendmail command, which mail() of PHP, cron and a hundred programs call: how long it takes until it is on disk."""

from __future__ import annotations

import sys
import time
from pathlib import Path
from statistics import median

from tests.bench.mail_drain import SIZE_BYTES
from tests.bench.mail_ours import Ours
from tests.bench.mail_postfix import Postfix
from tests.bench.mail_table import OURS, POSTFIX, MailMark, MailRow
from tests.bench.mail_world import SENDER_CORE, finish, folder_for_all, free_port, launch, mail, recipient
from tests.bench.peers import Bench

LIMIT_S = 60.0
WARM_UP = 3


def commands(bench: Bench) -> list[MailRow]:
    """In turns, all on one core; nobody sends meanwhile, so that nothing but the commands runs there."""
    folder = folder_for_all(bench.folder / "sendmail")
    text = folder / "mail"
    text.write_text(mail(0, SIZE_BYTES))
    ours, postfix = Ours(folder / "ours", free_port()), Postfix(folder / "postfix", free_port())
    postfix.configure(listening=False, sending=True)
    wanted = {
        OURS: ours.command("sendmail", "-i", recipient(0)),
        POSTFIX: postfix.sendmail(recipient(0)),
        "Python": [sys.executable, "-c", "pass"],
        "sqlite3": [sys.executable, "-c", "import sqlite3"],
    }
    calls = bench.times(100, 25)
    taken: dict[str, list[float]] = {name: [] for name in wanted}
    for number in range(calls + WARM_UP):
        for name, argv in wanted.items():
            span_ms = timed(argv, text, folder / "log") * 1000
            if number >= WARM_UP:
                taken[name].append(span_ms)
    values = {name: median(times) for name, times in taken.items()}
    if ours.waiting() != calls + WARM_UP:
        raise AssertionError(f"{calls + WARM_UP} calls of sendmail, but {ours.waiting()} mails are queued")
    what = "`sendmail`, p50 (Python: `python -c pass`; sqlite3: `python -c 'import sqlite3'`)"
    return [MailRow(what, "ms", values, calls, MailMark(1.0, "sqlite3", 10.0))]


def timed(argv: list[str], stdin: Path, log: Path) -> float:
    """Seconds that a command took. Raises AssertionError when it failed."""
    start = time.monotonic_ns()
    status, _ = finish(launch(argv, log, SENDER_CORE, stdin=stdin), LIMIT_S)
    span_s = (time.monotonic_ns() - start) / 1e9
    if status:
        raise AssertionError(f"{argv} ended with {status}: {log.read_text()[-500:]}")
    return span_s
