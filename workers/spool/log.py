"""The sender's log: one line an event on stdout, each whole, by one write."""

from __future__ import annotations

import os
import time
from contextlib import suppress

from workers.mail.words import plain, when


def line(text: str) -> None:
    """Writes `2026-11-22 10:00:00 smtp-spool[71] text`, or several such lines. A log that can't be written stops no mail."""
    stamp = time.strftime("%Y-%m-%d %H:%M:%S")
    with suppress(OSError):
        head = f"{stamp} smtp-spool[{os.getpid()}] "
        os.write(1, "".join(f"{head}{each}\n" for each in text.split("\n")).encode("utf-8", "replace"))


def event(mail_id: int, address: str, state: str, verdict: str, answer: str, wait_s: float) -> str:
    """The line of one result: what became of a recipient, what the relay said, and when it is tried again."""
    head = f"mail {mail_id} to {plain(address)}"
    if state in ("sent", "failed", "expired"):
        return f"{head} {state}: {answer}"
    if verdict == "relay":
        return f"{head} deferred until that is over: {answer}"
    if state == "queued":
        return f"{head} goes again at once: {answer}"
    if wait_s > 1e9:
        return f"{head} {state}: {answer}; held, see smtp-spool release"
    return f"{head} {state}: {answer}; next try {when(wait_s)}"
