"""What an error of the store means for the exit status of a command (sysexits.h)."""

from __future__ import annotations

from workers.mail.errors import CONFIG, IO, NOT_ALLOWED, TRY_AGAIN, Refused
from workers.store.database import BUSY, CORRUPT, DENIED, FULL, NEWER, StoreError

STATUSES = {BUSY: TRY_AGAIN, FULL: TRY_AGAIN, DENIED: NOT_ALLOWED, NEWER: CONFIG, CORRUPT: IO}


def store_refused(error: StoreError) -> Refused:
    """The exception that ends a command with the status for this error."""
    return Refused(STATUSES.get(error.kind, IO), str(error))
