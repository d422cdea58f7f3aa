"""The past-dot note: a file of the sender's own, that tells after SIGKILL which mails may have arrived.

Before a mail's final dot goes out its claim is written into a slot of this file, and its answer when that has come.
The file is mapped: a note costs no system call, and the page cache outlives the process. Nothing is synced, since after
a reboot every claim counts as past the dot. A slot's first byte is written last, so that no half note is ever read.
It is free again when the results are committed.
"""

from __future__ import annotations

import mmap
import os
import struct
from contextlib import suppress
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

SLOT_BYTES = 4096
SLOTS = 64  # the file grows by so many
MOST_RECIPIENTS = 500  # in one transaction, so that a slot holds them
HEAD = struct.Struct("=BxHIq")  # state, recipients, bytes of the answer, claim
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
        self._maps: list[mmap.mmap] = []
        self._free: list[int] = []
        try:
            self._grow()
        except OSError:
            self.close()
            raise

    def past(self, claim: int, recipients: Sequence[int]) -> int:
        """Notes that the final dot is about to go out; the number of the slot."""
        if not self._free:
            self._grow()
        slot = self._free.pop()
        self._write(slot, HEAD.pack(PAST, len(recipients), 0, claim) + _ids(recipients))
        return slot

    def answered(self, slot: int, claim: int, recipients: Sequence[int], answer: str) -> None:
        """Notes that the relay has taken it, and with what words."""
        ids = _ids(recipients)
        words = answer.encode("utf-8", "replace")[: SLOT_BYTES - HEAD.size - len(ids)]
        self._write(slot, HEAD.pack(ANSWERED, len(recipients), len(words), claim) + ids + words)

    def free(self, slot: int) -> None:
        """The results are committed: the slot may be used again."""
        part, place = self._place(slot)
        part[place] = FREE
        self._free.append(slot)

    def forget(self) -> None:
        """Takes the file away: nothing that is noted here counts any more. Late notes do no harm."""
        with suppress(FileNotFoundError):
            os.unlink(self.path)

    def close(self) -> None:
        """Takes the file away and lets go of it."""
        for part in self._maps:
            part.close()
        os.close(self._fd)
        self.forget()

    def _write(self, slot: int, note: bytes) -> None:
        part, place = self._place(slot)
        if part[place] == FREE:
            part[place + 1 : place + len(note)] = note[1:]
        else:  # only words are added behind what stands there
            part[place + HEAD.size : place + len(note)] = note[HEAD.size :]
            part[place + 1 : place + HEAD.size] = note[1 : HEAD.size]
        part[place] = note[0]

    def _place(self, slot: int) -> tuple[mmap.mmap, int]:
        return self._maps[slot // SLOTS], slot % SLOTS * SLOT_BYTES

    def _grow(self) -> None:
        """Makes the file longer by written pages: a full disk is met here, and not by a signal behind the dot."""
        start = len(self._maps) * SLOTS
        size_bytes = SLOTS * SLOT_BYTES
        if os.pwrite(self._fd, bytes(size_bytes), start * SLOT_BYTES) != size_bytes:
            raise OSError(28, os.strerror(28), self.path)
        self._maps.append(mmap.mmap(self._fd, size_bytes, offset=start * SLOT_BYTES))
        self._free += range(start, start + SLOTS)


def path_of(database: str, owner_id: int) -> str:
    """Where the notes of an owner lie."""
    return f"{database}-dots-{owner_id}"


def read(path: str) -> list[Note] | None:
    """The notes of a dead sender; None when they can't be read."""
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
    except OSError:
        return None


def _ids(recipients: Sequence[int]) -> bytes:
    return struct.pack(f"={len(recipients)}q", *recipients)
