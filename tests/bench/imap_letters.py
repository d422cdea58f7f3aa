"""The messages that the accounts are filled with: the same ones in each run, in sizes as people's mail has them."""

from __future__ import annotations

import base64
import functools
import random
from collections.abc import Iterator

SEED_BYTES = 583_000_000 / 31_468  # a message of the seed's log, on average
SIGMA = 1.3  # log-normal: half of all below 8 kB, one of a hundred above 150 kB
LEAST_BYTES = 600
LINE_BYTES = 78
POOL_LINES = 60_000


def sizes(count: int, mean_bytes: float = SEED_BYTES) -> list[int]:
    """Log-normal sizes in bytes that add up to `count` times the mean, but for rounding."""
    chance = random.Random(count)
    raw = [chance.lognormvariate(0, SIGMA) for _ in range(count)]
    factor = (mean_bytes - LEAST_BYTES) * count / sum(raw)
    return [LEAST_BYTES + int(factor * number) for number in raw]


def letters(wanted: list[int]) -> Iterator[bytes]:
    """Messages with CRLF of exactly these sizes, at least LEAST_BYTES each."""
    chance = random.Random(len(wanted))
    for number, size in enumerate(wanted):
        yield _letter(number, size, chance)


def _letter(number: int, size: int, chance: random.Random) -> bytes:
    head = (
        f"Return-Path: <s{number % 97}@example.net>\r\nReceived: from mx.example.net by mx.example.org; "
        f"Mon, 12 Jan 2026 10:00:00 +0000\r\nFrom: Sender {number % 97} <s{number % 97}@example.net>\r\nTo: u@example.org\r\n"
        f"Subject: letter {number}\r\nMessage-ID: <{number}.{size}@example.net>\r\nDate: Mon, 12 Jan 2026 10:00:00 +0000\r\n"
        "MIME-Version: 1.0\r\nContent-Type: text/plain; charset=us-ascii\r\n\r\n"
    ).encode()
    left = size - len(head)
    parts = [head]
    while left > 0:
        start = chance.randrange(POOL_LINES) * LINE_BYTES
        part = _pool()[start : start + left]
        parts.append(part)
        left -= len(part)
    whole = b"".join(parts)[: size - 2].rstrip(b"\r\n")
    return whole + b"x" * (size - 2 - len(whole)) + b"\r\n"


@functools.cache
def _pool() -> bytes:
    """Lines as they stand in an attachment, some megabytes."""
    text = base64.b64encode(random.Random(0).randbytes((LINE_BYTES - 2) // 4 * 3 * POOL_LINES))
    width = LINE_BYTES - 2
    return b"".join(text[place : place + width] + b"\r\n" for place in range(0, len(text), width))
