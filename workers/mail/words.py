"""PURE: what servers said and how long things take, in words for people."""

from __future__ import annotations

MOST_SIGNS = 300


def plain(text: bytes | str) -> str:
    """A server's words fit for a log line: one line, no control characters, not endless."""
    words = text.decode("utf-8", "replace") if isinstance(text, bytes) else text
    words = " ".join(words.split())
    words = "".join(sign if sign.isprintable() else "?" for sign in words)
    return words if len(words) <= MOST_SIGNS else words[:MOST_SIGNS] + "…"


def when(span_s: float) -> str:
    """How far off something is: `in 40 s`, `in 5 min`, `now`."""
    return f"in {seconds(span_s)}" if span_s >= 0.005 else "now"  # less would be told as 0.00 s


def counted(count: int, thing: str) -> str:
    """`1 message`, `2 messages`."""
    return f"{count} {thing}" if count == 1 else f"{count} {thing}s"


def seconds(span_s: float) -> str:
    """A span for people: `0.12 s`, `40 s`, `5 min`, `2 h`."""
    if span_s < 10:
        return f"{span_s:.2f} s"
    if span_s < 100:
        return f"{span_s:.0f} s"
    return f"{span_s / 60:.0f} min" if span_s < 5400 else f"{span_s / 3600:.1f} h"
