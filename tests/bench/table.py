"""Figures as rows, rows as a Markdown table: absolute values, the ratio to a peer, whether the mark is met."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field

COLUMNS = ("guard", "runit", "supervisord", "python")


@dataclass(frozen=True, slots=True)
class Mark:
    """guard's value is to be at most `limit`, or `limit` times that of the peer `of`."""

    limit: float
    of: str | None = None


@dataclass(frozen=True, slots=True)
class Row:
    """One figure of all peers. `runs`: how often each was measured."""

    what: str
    unit: str
    values: dict[str, float]
    mark: Mark | None = None
    runs: dict[str, int] = field(default_factory=dict)

    @property
    def ratio(self) -> float | None:
        """guard's value divided by that of the peer that the mark names, else by runit's, else by bare Python's."""
        other = next((name for name in (self.mark.of if self.mark else None, "runit", "python") if name in self.values), None)
        return self.values["guard"] / self.values[other] if other and self.values[other] else None

    @property
    def met(self) -> bool | None:
        """None without a mark."""
        if self.mark is None:
            return None
        return self.values["guard"] <= self.mark.limit * (self.values[self.mark.of] if self.mark.of else 1.0)

    def as_json(self) -> dict[str, object]:
        """For programs."""
        return {**asdict(self), "ratio": self.ratio, "met": self.met}


def markdown(rows: list[Row]) -> str:
    """The whole table."""
    head = ["figure", *COLUMNS, "ratio", "mark", "met", "runs"]
    lines = [head, ["---", *["--:"] * 5, *["---"] * 3], *(_cells(row) for row in rows)]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def _cells(row: Row) -> list[str]:
    values = [_number(row.values[name]) if name in row.values else "" for name in COLUMNS]
    ratio = f"{row.ratio:.2f}" if row.ratio is not None else ""
    mark = "" if row.mark is None else f"≤ {_number(row.mark.limit)}" + (f" of {row.mark.of}'s" if row.mark.of else "")
    met = {None: "", True: "yes", False: "**no**"}[row.met]
    runs = sorted(set(row.runs.values()))
    return [f"{row.what}, {row.unit}", *values, ratio, mark, met, "/".join(map(str, runs))]


def _number(value: float) -> str:
    return f"{value:.0f}" if value == int(value) and value < 1e6 else f"{value:.3g}"


def percentile(values: list[float], share: float) -> float:
    """The smallest value that so large a share of them does not exceed."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(len(ordered) * share))]
