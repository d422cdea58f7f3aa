"""PURE: numbers as people read them, and text that is safe for a terminal."""

from __future__ import annotations

SIGNAL_NAMES = {1: "HUP", 2: "INT", 3: "QUIT", 4: "ILL", 6: "ABRT", 7: "BUS", 8: "FPE", 9: "KILL", 10: "USR1", 11: "SEGV"}
SIGNAL_NAMES |= {12: "USR2", 13: "PIPE", 14: "ALRM", 15: "TERM", 24: "XCPU", 25: "XFSZ", 31: "SYS"}


def printable(text: str) -> str:
    """Text for one line of a terminal: control characters become escapes."""
    return text if text.isprintable() else "".join(c if c.isprintable() else repr(c)[1:-1] for c in text)


def exit_words(status: int | None) -> str:
    """An exit status as waitstatus_to_exitcode gives it, in words."""
    if status is None:
        return "exit status unknown (it was adopted)"
    return f"exit {status}" if status >= 0 else f"signal {SIGNAL_NAMES.get(-status, -status)}"


def duration_words(seconds: float) -> str:
    """3h 2m, 5m 1s, 12 s, 0.25 s: two units are enough."""
    seconds = max(0.0, seconds)
    if seconds < 9.95:
        return f"{round(seconds, 2):.2g} s"
    if seconds < 60:
        return f"{seconds:.0f} s"
    parts: list[str] = []
    left = int(seconds)
    for unit, size in (("d", 86400), ("h", 3600), ("m", 60), ("s", 1)):
        if left >= size or parts:
            parts.append(f"{left // size}{unit}")
            left %= size
    return " ".join(parts[:2])
