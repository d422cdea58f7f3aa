"""Senders without a queue: `python -m tests.bench.mail_clients aiosmtplib|smtplib PORT COUNT SIZE CONNECTIONS`.

They hand over mails made in memory, one after the other on each connection, and keep nothing. The floor of what an SMTP
library costs, and the way in which Postfix's queue is filled.
"""

from __future__ import annotations

import asyncio
import smtplib
import sys
from collections.abc import Iterator

from tests.bench.mail_world import DOMAIN, mail, recipient

SENDER = f"s@{DOMAIN}"


async def many(port: int, count: int, size_bytes: int, connections: int) -> None:
    """aiosmtplib, several connections, which share the mails. Raises what it raises."""
    numbers = iter(range(count))
    await asyncio.gather(*(_one(port, numbers, size_bytes) for _ in range(connections)))


async def _one(port: int, numbers: Iterator[int], size_bytes: int) -> None:
    import aiosmtplib  # not at the top: else the start of the smtplib loop would pay for it

    async with aiosmtplib.SMTP(hostname="127.0.0.1", port=port, use_tls=False, start_tls=False, timeout=60) as client:
        for number in numbers:
            await client.sendmail(SENDER, [recipient(number)], mail(number, size_bytes).encode())


def plain(port: int, count: int, size_bytes: int) -> None:
    """smtplib, one connection."""
    with smtplib.SMTP("127.0.0.1", port, timeout=60) as client:
        for number in range(count):
            client.sendmail(SENDER, [recipient(number)], mail(number, size_bytes).encode())


if __name__ == "__main__":
    port_, count_, size_, connections_ = map(int, sys.argv[2:6])
    if sys.argv[1] == "smtplib":
        plain(port_, count_, size_)
    else:
        asyncio.run(many(port_, count_, size_, connections_))
