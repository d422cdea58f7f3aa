"""Figures of the IMAP half as rows, and these as a Markdown table: ours beside mbsync.

PURE: values in, text out.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass

from tests.bench.mail_table import MailMark, number

OURS = "imap-sync"
MBSYNC = "mbsync"
COLUMNS = (OURS, MBSYNC)


@dataclass(frozen=True, slots=True)
class ImapRow:
    """One figure of those who have it. `runs`: of how many measurements it is the median."""

    what: str
    unit: str
    values: dict[str, float]
    runs: int
    mark: MailMark | None = None

    @property
    def ratio(self) -> float | None:
        """Our value divided by mbsync's."""
        both = OURS in self.values and self.values.get(MBSYNC)
        return self.values[OURS] / self.values[MBSYNC] if both else None

    @property
    def met(self) -> bool | None:
        """None without a mark."""
        if self.mark is None:
            return None
        limit = self.mark.plus + (self.mark.factor * self.values[self.mark.of] if self.mark.of else 0.0)
        return self.values[OURS] >= limit if self.mark.more else self.values[OURS] <= limit

    def as_json(self) -> dict[str, object]:
        """For programs."""
        return {**asdict(self), "ratio": self.ratio, "met": self.met}


def imap_markdown(rows: list[ImapRow]) -> str:
    """The whole table."""
    head = ["figure", *COLUMNS, "ratio", "mark", "met", "runs"]
    lines = [head, ["---", *["--:"] * (len(COLUMNS) + 1), *["---"] * 3], *(_cells(row) for row in rows)]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def _cells(row: ImapRow) -> list[str]:
    values = [number(row.values[name]) if name in row.values else "" for name in COLUMNS]
    ratio = f"{row.ratio:.2f}" if row.ratio is not None else ""
    mark = row.mark.text() if row.mark else ""
    met = {None: "", True: "yes", False: "**no**"}[row.met]
    return [f"{row.what}, {row.unit}", *values, ratio, mark, met, str(row.runs)]
