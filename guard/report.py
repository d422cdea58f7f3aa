"""`guard status`: a table for people (rich on a terminal, plain columns in a pipe), JSON for programs."""

from __future__ import annotations

import sys

from guard.options import Misuse
from guard.place import Place
from guard.survey import Row, Survey, survey
from guard.words import duration_words, exit_words, printable

_COLOURS = {"running": "green", "resting": "green", "waiting": "yellow", "stopping": "yellow", "stopped": "dim", "broken": "red"}
_COLUMNS = ("name", "state", "pid", "up", "restarts", "last exit", "next try", "memory", "cpu", "note")


def status(place: Place, key: int | None, names: list[str], *, as_json: bool) -> int:
    """Prints it; returns 0 all up, 1 some not up, 3 guard is not running. Raises NoPlace, Misuse."""
    found = look(place, key, names)
    if as_json:
        sys.stdout.write(found.json() + "\n")
    elif sys.stdout.isatty():
        _rich(found)
    else:
        sys.stdout.write("\n".join(_plain(found)) + "\n")
    sys.stdout.flush()
    return found.exit_status


def look(place: Place, key: int | None, names: list[str]) -> Survey:
    """The status, narrowed to some scripts. Raises NoPlace when there never was a guard here, Misuse for a wrong name."""
    found = survey(place.state(create=False), place.list_absolute, key)
    if names:
        known = {str(row["name"]) for row in found.scripts}
        for name in names:
            if name not in known and name not in {base(other) for other in known}:
                raise Misuse(f"{name}: no such script; there are {', '.join(sorted(known)) or 'none'}")
        found.scripts = [row for row in found.scripts if row["name"] in names or base(str(row["name"])) in names]
    return found


def base(name: str) -> str:
    """The name without the number of a copy."""
    head, hash_, number = name.rpartition("#")
    return head if hash_ and number.isdigit() else name


def _headline(found: Survey) -> str:
    if not found.guarded:
        return "guard is not running: nothing is respawned. Start it with `guard start`, or wait for cron"
    guard = found.guard
    standby = f", standby {guard['standby']}" if guard["standby"] else ", no standby"
    return f"guard is running, pid {guard['pid'] or '(in another PID namespace)'}{standby}, list {found.list_path}"


def _cells(row: Row) -> tuple[str, ...]:
    import calendar
    import time

    now = time.time()

    def seconds(stamp: object) -> float:
        return calendar.timegm(time.strptime(str(stamp), "%Y-%m-%dT%H:%M:%SZ")) if stamp else 0.0

    state = f"{row['state']} (adopted)" if row["adopted"] else str(row["state"])
    last = row["last_exit"]
    memory, cpu = row["memory"], row["cpu"]
    return (
        printable(str(row["name"])),
        state,
        str(row["pid"] or ""),
        duration_words(max(0.0, now - seconds(row["since"]))) if row["since"] else "",
        str(row["restarts"]),
        exit_words(last) if isinstance(last, int) else "",
        f"in {duration_words(max(0.0, seconds(row['next_try']) - now))}" if row["next_try"] else "",
        f"{memory / 2**20:.0f} MiB" if isinstance(memory, int) else "",
        f"{cpu * 100:.0f} %" if isinstance(cpu, float) else "",
        printable(str(row["problem"] or "")),
    )


def _plain(found: Survey) -> list[str]:
    table = [_COLUMNS, *(_cells(row) for row in found.scripts)]
    widths = [max(len(line[column]) for line in table) for column in range(len(_COLUMNS))]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip() for line in table]
    return [_headline(found), "", *lines]


def _rich(found: Survey) -> None:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    cells = [_cells(row) for row in found.scripts]
    shown = [n for n, _ in enumerate(_COLUMNS) if n < 2 or any(line[n] for line in cells)]
    table = Table(box=None, pad_edge=False, header_style="bold")
    for number in shown:
        table.add_column(_COLUMNS[number], overflow="fold", no_wrap=number not in (0, len(_COLUMNS) - 1))
    for row, line in zip(found.scripts, cells, strict=True):
        style = _COLOURS.get(str(row["state"]), "")
        table.add_row(*(Text(line[n], style=style if n == 1 else "") for n in shown))
    console = Console(highlight=False)
    console.print(Text(_headline(found), style="" if found.guarded else "bold red"), soft_wrap=True)
    console.print(table)
