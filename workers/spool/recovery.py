"""Takes over what a dead sender had claimed: its past-dot notes tell which mails may have arrived."""

from __future__ import annotations

import os
import time
from contextlib import suppress
from typing import TYPE_CHECKING

from workers.spool import claims, dots
from workers.spool.claims import NEVER
from workers.store.leases import boot_time, is_dead, is_running, owners

if TYPE_CHECKING:
    from collections.abc import Iterator

    from workers.spool.claims import Row
    from workers.store.database import Transaction
    from workers.store.leases import Owner


class Recovered:
    """What was found: numbers of recipients by what became of them, and the ids of the dead."""

    def __init__(self) -> None:
        self.owners: list[int] = []
        self.unknown = 0
        self.sent = 0
        self.unsent = 0
        self.held = False

    def lines(self) -> Iterator[str]:
        """What is said in the log."""
        if self.unknown:
            what = "they are held" if self.held else "they are sent again"
            yield f"{self.unknown} recipients of a sender that died behind the final dot: state unknown, {what}"
        if self.sent:
            yield f"{self.sent} recipients were sent to by a sender that died before it could write that down"
        if self.unsent:
            yield f"{self.unsent} recipients of a sender that died before the final dot are sent again"


def recover(transaction: Transaction, *, path: str, watcher: Owner, hold: bool) -> Recovered:
    """Frees the claims of all dead owners, inside one transaction. `path` is the database's."""
    found = Recovered()
    found.held = hold
    now = time.time()
    for owner in owners(transaction):
        if owner.id == watcher.id or not is_dead(owner, watcher, boot_time()):
            continue
        held = [mail_id for _, mail_id, _, _ in claims.claimed(transaction, owner)]
        if not held and is_running(owner, watcher):
            continue  # it is at rest
        notes = dots.read(dots.path_of(path, owner.id)) if owner.boot_id == watcher.boot_id else None
        claims.write(transaction, list(_rows(transaction, owner, notes, found, now)), now)
        claims.follow(transaction, held)
        transaction.run("owner.forget", (owner.id,))
        found.owners.append(owner.id)
    return found


def leave(transaction: Transaction, *, owner: Owner) -> bool:
    """The clean end of an owner that holds nothing any more; else False, and its row stays for those who recover."""
    if claims.claimed(transaction, owner):
        return False
    transaction.run("owner.forget", (owner.id,))
    return True


def forget_notes(path: str, ids: list[int]) -> None:
    """Takes away the notes of owners that are recovered."""
    for owner_id in ids:
        with suppress(OSError):
            os.unlink(dots.path_of(path, owner_id))


def _rows(transaction: Transaction, owner: Owner, notes: list[dots.Note] | None, found: Recovered, now: float) -> Iterator[Row]:
    """What becomes of all that the owner held. Without its notes each claim counts as past the dot."""
    by_claim = {(note.claim, recipient): note for note in notes or () for recipient in note.recipients}
    for id_, _, claim, failures in claims.claimed(transaction, owner):
        note = by_claim.get((claim, id_))
        if notes is not None and note is None:
            found.unsent += 1
            # Deferred, due now: should a mail be what ended the sender, fresh mail is tried before it.
            yield (id_, claim, "deferred", failures, 0, now, "the sender ended before the final dot")
        elif note is not None and note.answer:
            found.sent += 1
            yield (id_, claim, "sent", failures, 0, now, note.answer)
        else:
            found.unknown += 1
            due_at = NEVER if found.held else now
            yield (id_, claim, "unknown", failures + 1, 1, due_at, "the sender ended behind the final dot")
