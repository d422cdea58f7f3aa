"""`python -m tests.bench [--quick] [--only NAME] [--json FILE]`: measures, prints the table; 1 when a mark is missed."""

from __future__ import annotations

import argparse
import json
import os
import platform
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from types import FrameType

from tests.bench import world
from tests.bench.births import make_sleeper, raise_limits
from tests.bench.commands import commands
from tests.bench.edits import edits
from tests.bench.imap_figures import ALL_IMAP, IMAP_FIGURES, imap_figures, imap_lacking, measure_imap
from tests.bench.imap_table import ImapRow, imap_markdown
from tests.bench.mail_figures import ALL_MAIL, MAIL_FIGURES, lacking, mail_figures, measure
from tests.bench.mail_table import MailRow, mail_markdown
from tests.bench.peers import BIN, Bench
from tests.bench.respawns import respawns
from tests.bench.rest import memory, rest
from tests.bench.starts import starts
from tests.bench.table import Row, markdown
from tests.bench.takeover import takeover

FIGURES: dict[str, Callable[[Bench], list[Row]]] = {
    "starts": starts,
    "commands": commands,
    "memory": memory,
    "respawns": respawns,
    "takeover": takeover,
    "edits": edits,
    "rest": rest,
}
ABOUT_NAMES = (
    "mail: all mail figures; imap: all IMAP figures. imap-first: a first copy of 31,468 messages; imap-noop: a pass with nothing "
    "new, time and bytes; imap-resync: 30 changes among 100,000 messages in a running worker; imap-accounts: 200 accounts, first "
    "pass and the next; imap-far: a first copy over 30 ms; imap-push: new mail to file; imap-memory: one account, a message of "
    "64 MiB, 200 idle accounts with TLS."
)


def main() -> int:
    """Measures what was asked for."""
    options = _options()
    wanted = options.only or [*FIGURES, ALL_MAIL, ALL_IMAP]
    mail_wanted, imap_wanted = mail_figures(wanted), imap_figures(wanted)
    if missing := _missing(wanted, bool(mail_wanted), bool(imap_wanted)):
        sys.stderr.write("\n".join([*missing, ""]))
        return 2
    signal.signal(signal.SIGTERM, _leave)
    raise_limits()
    world.become_subreaper()
    folder = Path(tempfile.mkdtemp(prefix="guard-bench-"))
    rows: list[Row] = []
    mail_rows: list[MailRow] = []
    imap_rows: list[ImapRow] = []
    try:
        sleeper, about = make_sleeper(folder)
        bench = Bench(folder, sleeper, options.quick)
        for name in (name for name in wanted if name in FIGURES):
            start = time.monotonic()
            rows += FIGURES[name](bench)
            sys.stderr.write(f"{name}: measured in {time.monotonic() - start:.0f} s\n")
        measure(bench, mail_wanted, mail_rows, sys.stderr.write)
        measure_imap(bench, imap_wanted, imap_rows, sys.stderr.write)
    finally:
        world.kill_all()
        shutil.rmtree(folder, ignore_errors=True)
        _tell(rows, mail_rows, imap_rows, options.json)
    print(f"\n{about}; {_machine()}")
    return int(any(row.met is False for row in _all(rows, mail_rows, imap_rows)))


def _options() -> argparse.Namespace:
    about = "guard, smtp-spool and imap-sync beside their peers"
    parser = argparse.ArgumentParser(prog="python -m tests.bench", description=about, epilog=ABOUT_NAMES)
    parser.add_argument("--quick", action="store_true", help="fewer runs: some minutes less, rougher figures")
    known = [*FIGURES, ALL_MAIL, *MAIL_FIGURES, ALL_IMAP, *IMAP_FIGURES]
    parser.add_argument("--only", action="append", choices=known, metavar="NAME", help=f"one of {', '.join(known)}")
    parser.add_argument("--json", metavar="FILE", help="also write the figures there")
    return parser.parse_args()


def _missing(wanted: list[str], mail: bool, imap: bool) -> list[str]:
    """What the wanted figures lack here, a line for each kind."""
    found = [f"the mail figures need {lacking()}"] * bool(mail and lacking())
    found += [f"the IMAP figures need {imap_lacking()}"] * bool(imap and imap_lacking())
    alone = not all(path.exists() for path in (BIN / "guard", BIN / "supervisord")) or not shutil.which("runsvdir")
    if alone and any(name in FIGURES for name in wanted):
        found.append("needs guard and supervisord beside this Python (pip install -e '.[bench]'), and the package runit")
    return found


def _all(rows: list[Row], mail_rows: list[MailRow], imap_rows: list[ImapRow]) -> list[Row | MailRow | ImapRow]:
    return [*rows, *mail_rows, *imap_rows]


def _tell(rows: list[Row], mail_rows: list[MailRow], imap_rows: list[ImapRow], path: str | None) -> None:
    """What there is, also after a failure."""
    tables = [markdown(rows)] * bool(rows) + [mail_markdown(mail_rows)] * bool(mail_rows)
    tables += [imap_markdown(imap_rows)] * bool(imap_rows)
    sys.stdout.write("\n\n".join(tables) + "\n")
    if path:
        figures = [row.as_json() for row in _all(rows, mail_rows, imap_rows)]
        Path(path).write_text(json.dumps(figures, indent=1) + "\n")


def _machine() -> str:
    load = ", ".join(f"{number:.1f}" for number in os.getloadavg())
    return f"Linux {platform.release()}, {os.cpu_count()} cores, Python {platform.python_version()}, load {load}"


def _leave(_number: int, _frame: FrameType | None) -> None:
    raise SystemExit(143)


sys.exit(main())
