"""Figures of the mail half as rows, and these as a Markdown table: ours beside Postfix and beside bare building blocks.

PURE: values in, text out.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, field

OURS = "smtp-spool"
POSTFIX = "Postfix"
COLUMNS = (OURS, POSTFIX, "aiosmtplib", "smtplib", "Python", "sqlite3")


@dataclass(frozen=True, slots=True)
class MailMark:
    """Our value is to be at most `factor` times that of the peer `of`, plus `plus`; without `of` at most `plus`.

    `more` turns it round, for figures where more is better.
    """

    factor: float = 0.0
    of: str | None = None
    plus: float = 0.0
    more: bool = False

    def text(self) -> str:
        """As it stands in the table."""
        parts = [f"{number(self.factor)} of {self.of}'s"] if self.of else []
        parts += [number(self.plus)] if self.plus or not self.of else []
        return f"{'≥' if self.more else '≤'} {' + '.join(parts)}"


@dataclass(frozen=True, slots=True)
class MailRow:
    """One figure of all who have it. `runs`: of how many measurements it is the median."""

    what: str
    unit: str
    values: dict[str, float]
    runs: int
    mark: MailMark | None = None
    notes: dict[str, str] = field(default_factory=dict)

    @property
    def ratio(self) -> float | None:
        """Our value divided by that of the peer that the mark names, else Postfix's, else that of bare sqlite3."""
        wanted = (self.mark.of if self.mark else None, POSTFIX, "sqlite3")
        other = next((name for name in wanted if name in self.values), None)
        return self.values[OURS] / self.values[other] if other and self.values[other] and OURS in self.values else None

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


def mail_markdown(rows: list[MailRow]) -> str:
    """The whole table."""
    head = ["figure", *COLUMNS, "ratio", "mark", "met", "runs"]
    lines = [head, ["---", *["--:"] * (len(COLUMNS) + 1), *["---"] * 3], *(_cells(row) for row in rows)]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def _cells(row: MailRow) -> list[str]:
    values = [number(row.values[name]) + _note(row, name) if name in row.values else "" for name in COLUMNS]
    ratio = f"{row.ratio:.2f}" if row.ratio is not None else ""
    mark = row.mark.text() if row.mark else ""
    met = {None: "", True: "yes", False: "**no**"}[row.met]
    return [f"{row.what}, {row.unit}", *values, ratio, mark, met, str(row.runs)]


def _note(row: MailRow, name: str) -> str:
    return f" ({row.notes[name]})" if name in row.notes else ""


def number(value: float) -> str:
    """Three digits, or all of a whole number."""
    return f"{value:.0f}" if value == int(value) or abs(value) >= 1000 else f"{value:.3g}"
