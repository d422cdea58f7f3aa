"""`add`, the way in for many mails at once, beside what SQLite itself takes for the same rows in the same commits."""

from __future__ import annotations

import sqlite3
import struct
import time
from pathlib import Path
from statistics import median

from tests.bench.mail_drain import SIZE_BYTES
from tests.bench.mail_ours import Ours
from tests.bench.mail_table import OURS, MailRow
from tests.bench.mail_world import SENDER_CORE, finish, folder_for_all, free_port, launch, python
from tests.bench.peers import Bench

LIMIT_S = 300.0
WAL_HEADER_BYTES = 32
FRAME_HEADER_BYTES = 24


def add(bench: Bench) -> list[MailRow]:
    """Mails a second, from the start of the command to its end; sqlite3: only the inserts."""
    folder = folder_for_all(bench.folder / "add")
    count, runs = bench.times(20_000, 5000), bench.times(3, 1)
    batch = count / _commits(Ours(folder / "counted", free_port()), count)
    ours, bare = [], []
    for number in range(runs):
        spool = Ours(folder / f"spool{number}", free_port())
        ours.append(count / _add(spool, count))
        empty = Ours(folder / f"empty{number}", free_port())
        empty.make()
        out = folder / f"bare{number}"
        words = (spool.database, empty.database, max(1, round(batch)))
        status, _ = finish(launch(python("mail_bare", *words), folder / "log", SENDER_CORE, stdout=out), LIMIT_S)
        if status:
            raise AssertionError(f"mail_bare ended with {status}: {(folder / 'log').read_text()[-500:]}")
        bare.append(count / float(out.read_text()))
    what = f"`add` of {count} mails of 4 kB, {batch:.0f} a commit (sqlite3: executemany of the same rows, nothing else)"
    return [MailRow(what, "mails/s", {OURS: median(ours), "sqlite3": median(bare)}, runs)]


def _add(spool: Ours, count: int) -> float:
    """Seconds that it took."""
    lines = spool.lines(count, SIZE_BYTES)
    started = time.monotonic()
    status, _ = finish(launch(spool.command("add"), spool.log, SENDER_CORE, lines, spool.folder / "ids"), LIMIT_S)
    span_s = time.monotonic() - started
    lines.unlink()
    if status or spool.waiting() != count:
        raise AssertionError(f"add ended with {status}, {spool.waiting()} of {count} queued: {spool.log.read_text()[-500:]}")
    return span_s


def _commits(spool: Ours, count: int) -> int:
    """In how many commits `add` writes so many mails, read from a WAL that an open reader keeps from starting over."""
    spool.make()
    reader = sqlite3.connect(spool.database, isolation_level=None)
    reader.execute("BEGIN")
    reader.execute("SELECT count(*) FROM sqlite_master").fetchone()
    before = commits_in(Path(f"{spool.database}-wal"))
    _add(spool, count)
    found = commits_in(Path(f"{spool.database}-wal")) - before
    reader.close()
    return max(1, found)


def commits_in(wal: Path) -> int:
    """Frames of a WAL that end a transaction: their header's second word is not 0 (sqlite.org/fileformat2.html, 4.1)."""
    if not wal.exists() or wal.stat().st_size < WAL_HEADER_BYTES:
        return 0
    with wal.open("rb") as file:
        page_bytes = struct.unpack(">I", file.read(WAL_HEADER_BYTES)[8:12])[0]
        found = 0
        while len(header := file.read(FRAME_HEADER_BYTES)) == FRAME_HEADER_BYTES:
            found += struct.unpack(">I", header[4:8])[0] != 0
            file.seek(page_bytes, 1)
    return found
