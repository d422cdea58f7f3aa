"""The past-dot note: a file of the sender's own, that tells after SIGKILL which mails may have arrived.

Before a mail's final dot goes out its claim is written into a slot of this file, and its answer when that has come.
The page cache outlives the process, so no sync is needed; after a reboot every claim counts as past the dot, file or
no file. A slot is one page, written by one pwrite(2), which a signal can't cut in two. It is free again when the
results are committed.
"""

from __future__ import annotations

import os
import struct
from contextlib import suppress
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

SLOT_BYTES = 4096
MOST_RECIPIENTS = 500  # in one transaction, so that a slot holds them
HEAD = struct.Struct("=HHIq")  # state, recipients, bytes of the answer, claim
FREE, PAST, ANSWERED = 0, 1, 2


class Note:
    """What a slot of a dead sender says. `answer` is empty while none had come."""

    __slots__ = ("answer", "claim", "recipients")

    def __init__(self, claim: int, recipients: frozenset[int], answer: str) -> None:
        self.claim = claim
        self.recipients = recipients
        self.answer = answer


class Dots:
    """The notes of one sender. Raises OSError when the file can't be made or made longer."""

    def __init__(self, path: str) -> None:
        self.path = path
        self._fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
        self._free: list[int] = []
        self._slots = 0

    def past(self, claim: int, recipients: Sequence[int]) -> int:
        """Notes that the final dot is about to go out; the number of the slot."""
        slot = self._free.pop() if self._free else self._grow()
        os.pwrite(self._fd, HEAD.pack(PAST, len(recipients), 0, claim) + _ids(recipients), slot * SLOT_BYTES)
        return slot

    def answered(self, slot: int, claim: int, recipients: Sequence[int], answer: str) -> None:
        """Notes that the relay has taken it, and with what words."""
        ids = _ids(recipients)
        words = answer.encode("utf-8", "replace")[: SLOT_BYTES - HEAD.size - len(ids)]
        os.pwrite(self._fd, HEAD.pack(ANSWERED, len(recipients), len(words), claim) + ids + words, slot * SLOT_BYTES)

    def free(self, slot: int) -> None:
        """The results are committed: the slot may be used again."""
        os.pwrite(self._fd, HEAD.pack(FREE, 0, 0, 0), slot * SLOT_BYTES)
        self._free.append(slot)

    def close(self) -> None:
        """Takes the file away: nothing is claimed any more."""
        os.close(self._fd)
        with suppress(FileNotFoundError):
            os.unlink(self.path)

    def _grow(self) -> int:
        os.posix_fallocate(self._fd, self._slots * SLOT_BYTES, SLOT_BYTES)  # a full disk is met here, not behind the dot
        self._slots += 1
        return self._slots - 1


def path_of(database: str, owner_id: int) -> str:
    """Where the notes of an owner lie."""
    return f"{database}-dots-{owner_id}"


def read(path: str) -> list[Note] | None:
    """The notes of a dead sender; None when there is no such file."""
    try:
        with open(path, "rb") as file:
            found = []
            while len(page := file.read(SLOT_BYTES)) == SLOT_BYTES:
                state, count, size_bytes, claim = HEAD.unpack_from(page)
                if state in (PAST, ANSWERED) and count <= MOST_RECIPIENTS:
                    end = HEAD.size + 8 * count
                    ids = struct.unpack_from(f"={count}q", page, HEAD.size)
                    words = page[end : end + size_bytes].decode("utf-8", "replace") if state == ANSWERED else ""
                    found.append(Note(claim, frozenset(ids), words))
            return found
    except FileNotFoundError:
        return None


def _ids(recipients: Sequence[int]) -> bytes:
    return struct.pack(f"={len(recipients)}q", *recipients)
