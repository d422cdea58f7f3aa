"""The commands of smtp-spool as tests call them, to their end."""

from __future__ import annotations

import json
import sqlite3
import subprocess
from contextlib import closing
from typing import Any

from tests.system.mail_servers import Spool

TEXT = b"Subject: x\n\nbody\n"


def run(spool: Spool, *words: str, given: bytes = TEXT, **popen: Any) -> tuple[int, str, str]:
    """Runs a command: exit status, what it wrote, what it complained of. A traceback is no answer."""
    done = subprocess.run(spool.command(*words), input=given, capture_output=True, env=spool.environment, **popen)
    complaint = done.stderr.decode("utf-8", "surrogateescape")
    assert "Traceback" not in complaint, complaint[-800:]
    return done.returncode, done.stdout.decode("utf-8", "surrogateescape"), complaint


def good(spool: Spool, *words: str, given: bytes = TEXT) -> str:
    """Runs a command to its good end; what it wrote."""
    status, written, complaint = run(spool, *words, given=given)
    assert status == 0, (words, complaint)
    return written


def add(spool: Spool, *entries: dict[str, Any]) -> list[dict[str, Any]]:
    """The answers of `add` to entries, which have a text unless they have content of their own."""
    lines = [{"text": "body"} | entry if entry.keys().isdisjoint(("template", "message")) else entry for entry in entries]
    status, answers, _ = run(spool, "add", given="\n".join(map(json.dumps, lines)).encode())
    found = [json.loads(line) for line in answers.splitlines()]
    assert len(found) == len(entries)
    assert status == (65 if any("error" in answer for answer in found) else 0)
    return found


def change(spool: Spool, *statements: str) -> None:
    """Writes into the database by hand."""
    with closing(sqlite3.connect(spool.database)) as database:
        for statement in statements:
            database.execute(statement)
        database.commit()
