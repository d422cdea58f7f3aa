"""The small interface of a store's engine. A second engine joins by a class that keeps it and by its own .sql files.

Everything above it speaks in named statements inside transactions: `database.transact(work)` runs
`work(transaction)`, and what it returns for is committed and synced.
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence
    from typing import Any, Protocol, TypeVar

    Result = TypeVar("Result")
    Values = Sequence[Any] | Mapping[str, Any]

    class Transaction(Protocol):
        """Statements by `FILE.NAME`, inside one transaction. Each may raise StoreError."""

        def run(self, name: str, values: Values = ()) -> list[tuple[Any, ...]]:
            """Runs a statement and returns its rows."""

        def many(self, name: str, rows: Iterable[Values]) -> None:
            """Runs a statement once for each row of values."""

        def on_commit(self, work: Callable[[], None]) -> None:
            """Runs `work` when the transaction is committed, and never when it is not."""

    class Database(Protocol):
        """One connection to the store, used by one thread."""

        def transact(self, work: Callable[[Transaction], Result]) -> Result:
            """Runs `work` in one transaction and returns what it returned, committed and synced. Raises StoreError."""

        def run(self, name: str, values: Values = ()) -> list[tuple[Any, ...]]:
            """Runs one reading statement outside a transaction. Raises StoreError."""

        def close(self) -> None:
            """Closes the connection."""


BUSY = "busy"
FULL = "full"
DENIED = "denied"
CORRUPT = "corrupt"
NEWER = "newer"
CONSTRAINT = "constraint"  # the values contradict what the table allows: no other work is harmed
UNFIT = "unfit"  # the tables are not those that the statements are about
OTHER = "other"


class StoreError(Exception):
    """The store could not do it, and nothing of it is written. `kind` is one of the words above; the text is for people."""

    def __init__(self, kind: str, text: str) -> None:
        super().__init__(text)
        self.kind = kind
