"""`add`: JSON lines in, one JSON line out for each, with the id or the error. Many lines share a transaction; a line
that stands alone in the pipe does not wait for another.
"""

from __future__ import annotations

import json
import os
import select
import sys
import time
from typing import TYPE_CHECKING

from workers.mail.errors import DATA, IO, OK, Refused
from workers.spool import entry
from workers.spool.accept import accept, open_spool
from workers.spool.refusal import store_refused
from workers.store.bell import ring
from workers.store.database import StoreError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from workers.mail.config import Config
    from workers.spool.accept import Submission
    from workers.store.sqlite import SqliteDatabase

CHUNK_BYTES = 1 << 18
MOST_LINES = 500
MOST_BYTES = 8 * 1024**2  # of mail in one transaction


def add(config: Config, fd: int = 0) -> int:
    """Queues what stands on `fd`; 0, or 65 when some lines were refused. Raises Refused when the store fails: what
    was answered with an id is on disk."""
    status = OK
    try:
        spool = open_spool(config)
        for lines in batches(fd, config.max_size_bytes):
            answers = _queued(config, spool, lines)
            if any("error" in answer for answer in answers):
                status = DATA
            sys.stdout.write("".join(json.dumps(answer) + "\n" for answer in answers))
            sys.stdout.flush()
        spool.close()
    except StoreError as error:
        raise store_refused(error) from None
    return status


def batches(fd: int, max_size_bytes: int) -> Iterator[list[bytes]]:
    """The lines of a pipe or file in groups that are worth a transaction. Raises Refused for a line that never ends."""
    pieces: list[bytes] = []  # of a line that is not over
    waiting_bytes = 0
    lines: list[bytes] = []
    size_bytes = 0
    poll = select.poll()
    poll.register(fd, select.POLLIN)
    while True:
        if lines and (len(lines) >= MOST_LINES or size_bytes >= MOST_BYTES or not poll.poll(0)):
            yield lines
            lines, size_bytes = [], 0
        try:
            chunk = os.read(fd, CHUNK_BYTES)
        except OSError as error:
            raise Refused(IO, f"standard input can't be read: {error.strerror}") from None
        first, end, others = chunk.partition(b"\n")
        pieces.append(first)
        waiting_bytes += len(first)
        if chunk and not end:
            if waiting_bytes > 2 * max_size_bytes + CHUNK_BYTES:
                raise Refused(
                    DATA, f"a line of more than {waiting_bytes} bytes; a mail may have {max_size_bytes} (spool.max_size)"
                )
            continue
        whole = [b"".join(pieces), *others.split(b"\n")]
        pieces = [whole.pop()] if end else []
        waiting_bytes = sum(map(len, pieces))
        lines += [line for line in whole if line.strip()]
        size_bytes += len(chunk)
        if not chunk:
            break
    if lines:
        yield lines


def _queued(config: Config, spool: SqliteDatabase, lines: list[bytes]) -> list[dict[str, object]]:
    now = time.time()
    answers: list[dict[str, object]] = []
    mails: list[Submission] = []
    places: list[int] = []
    for line in lines:
        try:
            mails.append(entry.mail(config, entry.read(line), now))
        except entry.EntryError as error:
            answers.append({"error": str(error)})
        else:
            places.append(len(answers))
            answers.append({})
    if mails:
        ids = spool.transact(lambda transaction: accept(transaction, mails, now))
        ring(config.database)
        for place, mail_id in zip(places, ids, strict=True):
            answers[place] = {"id": mail_id}
    return answers
