"""What lies in one folder on disk, as the names of its files tell it: eight bytes a message, so that a million fit."""

from __future__ import annotations

import os
import stat
from array import array
from zlib import crc32

from workers.imap.letters import parse

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

BUCKET_BITS = 12  # of a UID: those of one bucket are sorted together
LETTERS = "DFRST"
LETTER_BITS = 6
ODD = 1 << len(LETTERS)  # letters that imap-sync does not write, or not in this order
HASH_MASK = (1 << 26) - 1
OURS = "imap-sync."  # begins the names in tmp


class File:
    """A message file: a hash of its name without letters, and bits for these."""

    __slots__ = ("bits", "hash")

    def __init__(self, found: int, bits: int) -> None:
        self.hash = found
        self.bits = bits


class Shelf:
    """A folder's Maildir, read once, without a change to it. Raises OSError; a folder that is not there is empty.

    `wrong_size`, `others` (of another UIDVALIDITY) and, when `each` has come to its end, `twice` are UIDs; `foreign` are
    files that imap-sync did not make, `left_over` what it has left in tmp.
    """

    def __init__(self, path: str, epoch: int, *, running: bool) -> None:
        """`running`: a worker may have files in tmp."""
        self.cur = os.path.join(path, "cur")
        self.wrong_size: list[int] = []
        self.others = array("Q")
        self.twice: list[int] = []
        self.foreign: set[str] = set()
        self._epoch = epoch
        self._buckets: dict[int, array[int]] = {}
        self._read_cur(epoch)
        self.foreign |= {f"new/{name}" for name in _names(os.path.join(path, "new"))}
        left = (name for name in _names(os.path.join(path, "tmp")) if name.startswith(OURS))
        self.left_over = {f"tmp/{name}" for name in left if not (running and _lives(name))}

    def each(self) -> Iterator[tuple[int, File]]:
        """The messages by UID."""
        last = 0
        for number in sorted(self._buckets):
            for packed in sorted(self._buckets[number]):
                uid = packed >> 32
                if uid == last:
                    self.twice.append(uid)
                    continue
                last = uid
                yield uid, File(packed >> LETTER_BITS & HASH_MASK, packed & (1 << LETTER_BITS) - 1)

    def count(self, uids: set[int]) -> dict[int, int]:
        """How many files some messages have now: one that got another name while the folder was read may have been passed by."""
        found = dict.fromkeys(uids, 0)
        for name in _names(self.cur):
            each = parse(name)
            if each is not None and each.epoch == self._epoch and each.uid in found and f"cur/{name}" not in self.foreign:
                found[each.uid] += 1
        return found

    def path(self, base: str, file: File) -> str:
        """Where a message lies whose name without letters is `base`."""
        letters = "".join(letter for place, letter in enumerate(LETTERS) if file.bits >> place & 1)
        return os.path.join(self.cur, f"{base}:2,{letters}")

    def _read_cur(self, epoch: int) -> None:
        try:
            entries = os.scandir(self.cur)
        except FileNotFoundError:
            return
        with entries:
            for entry in entries:
                try:
                    facts = entry.stat(follow_symlinks=False)
                except FileNotFoundError:
                    continue  # another name by now, or gone
                found = parse(entry.name) if stat.S_ISREG(facts.st_mode) else None
                if found is None:
                    self.foreign.add(f"cur/{entry.name}")
                elif found.epoch != epoch:
                    self.others.append(found.uid)
                else:
                    if facts.st_size != found.size_bytes:
                        self.wrong_size.append(found.uid)
                    low = hash_of(entry.name.partition(":2,")[0]) << LETTER_BITS | bits(found.letters)
                    self._buckets.setdefault(found.uid >> BUCKET_BITS, array("Q")).append(found.uid << 32 | low)


def hash_of(base: str) -> int:
    """Of a name without letters."""
    return crc32(base.encode("utf-8", "surrogateescape")) & HASH_MASK


def bits(letters: str) -> int:
    """A bit for each letter, and one more when they are not as imap-sync writes them."""
    found = sum(1 << place for place, letter in enumerate(LETTERS) if letter in letters)
    return found if "".join(letter for letter in LETTERS if letter in letters) == letters else found | ODD


def _names(path: str) -> list[str]:
    try:
        return os.listdir(path)
    except FileNotFoundError:
        return []


def _lives(name: str) -> bool:
    """Whether the process that made a file of tmp (`imap-sync.PID.…`) is there."""
    pid = name.removeprefix(OURS).partition(".")[0]
    return pid.isdigit() and os.path.exists(f"/proc/{pid}")
