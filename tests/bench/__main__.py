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


def main() -> int:
    """Measures what was asked for."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench", description="guard and smtp-spool beside their peers")
    parser.add_argument("--quick", action="store_true", help="fewer runs: some minutes less, rougher figures")
    known = [*FIGURES, ALL_MAIL, *MAIL_FIGURES]
    parser.add_argument("--only", action="append", choices=known, metavar="NAME", help=f"one of {', '.join(known)}")
    parser.add_argument("--json", metavar="FILE", help="also write the figures there")
    options = parser.parse_args()
    wanted = options.only or [*FIGURES, ALL_MAIL]
    mail_wanted = mail_figures(wanted)
    if mail_wanted and lacking():
        sys.stderr.write(f"the mail figures need {lacking()}\n")
        return 2
    missing = [path for path in (BIN / "guard", BIN / "supervisord") if not path.exists()]
    if any(name in FIGURES for name in wanted) and (missing or not shutil.which("runsvdir")):
        sys.stderr.write("needs guard and supervisord beside this Python (pip install -e '.[bench]'), and the package runit\n")
        return 2
    signal.signal(signal.SIGTERM, _leave)
    raise_limits()
    world.become_subreaper()
    folder = Path(tempfile.mkdtemp(prefix="guard-bench-"))
    rows: list[Row] = []
    mail_rows: list[MailRow] = []
    try:
        sleeper, about = make_sleeper(folder)
        bench = Bench(folder, sleeper, options.quick)
        for name in (name for name in wanted if name in FIGURES):
            start = time.monotonic()
            rows += FIGURES[name](bench)
            sys.stderr.write(f"{name}: measured in {time.monotonic() - start:.0f} s\n")
        measure(bench, mail_wanted, mail_rows, sys.stderr.write)
    finally:
        world.kill_all()
        shutil.rmtree(folder, ignore_errors=True)
        _tell(rows, mail_rows, options.json)
    print(f"\n{about}; {_machine()}")
    return int(any(met is False for met in [*(row.met for row in rows), *(row.met for row in mail_rows)]))


def _tell(rows: list[Row], mail_rows: list[MailRow], path: str | None) -> None:
    """What there is, also after a failure."""
    tables = [markdown(rows)] * bool(rows) + [mail_markdown(mail_rows)] * bool(mail_rows)
    sys.stdout.write("\n\n".join(tables) + "\n")
    if path:
        figures = [row.as_json() for row in rows] + [row.as_json() for row in mail_rows]
        Path(path).write_text(json.dumps(figures, indent=1) + "\n")


def _machine() -> str:
    load = ", ".join(f"{number:.1f}" for number in os.getloadavg())
    return f"Linux {platform.release()}, {os.cpu_count()} cores, Python {platform.python_version()}, load {load}"


def _leave(_number: int, _frame: FrameType | None) -> None:
    raise SystemExit(143)


sys.exit(main())
