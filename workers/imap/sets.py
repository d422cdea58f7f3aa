"""PURE: sets of UIDs as sorted lists of ranges `(first, last)` that neither touch nor overlap.

A mailbox of a million messages is often one range, so nothing here expands one that a server has sent.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

Range = tuple[int, int]
Ranges = list[Range]

MOST_UID = 4294967295  # RFC 3501 9, nz-number
SET_BYTES = 1000  # of one command's set: RFC 7162 and old servers ask for short lines


def parse(text: bytes) -> Ranges:
    """The ranges of `1:3,5` in any order. Raises ValueError."""
    if not text:
        return []
    found = []
    for part in text.split(b","):
        first, colon, last = part.partition(b":")
        if not first.isdigit() or (colon and not last.isdigit()) or len(first) > 10 or len(last) > 10:
            raise ValueError("not a set of numbers")
        low, high = int(first), int(last) if colon else int(first)
        if min(low, high) == 0 or max(low, high) > MOST_UID:
            raise ValueError("not a set of UIDs")
        found.append((low, high) if low <= high else (high, low))
    return merged(found)


def merged(ranges: Iterable[Range]) -> Ranges:
    """The same numbers as sorted ranges that neither touch nor overlap."""
    found: Ranges = []
    for low, high in sorted(ranges):
        if found and low <= found[-1][1] + 1:
            if high > found[-1][1]:
                found[-1] = (found[-1][0], high)
        else:
            found.append((low, high))
    return found


def of(numbers: Iterable[int]) -> Ranges:
    """The ranges of sorted numbers."""
    found: Ranges = []
    low = high = -1
    for number in numbers:
        if number == high + 1 and high >= 0:
            high = number
        elif number != high:
            if high >= 0:
                found.append((low, high))
            low = high = number
    if high >= 0:
        found.append((low, high))
    return found


def minus(left: Ranges, right: Ranges) -> Ranges:
    """What is in `left` and not in `right`."""
    found: Ranges = []
    at = 0
    for low, high in left:
        while at < len(right) and right[at][1] < low:
            at += 1
        start, look = low, at
        while look < len(right) and right[look][0] <= high:
            if right[look][0] > start:
                found.append((start, right[look][0] - 1))
            start = max(start, right[look][1] + 1)
            look += 1
        if start <= high:
            found.append((start, high))
    return found


def both(left: Ranges, right: Ranges) -> Ranges:
    """What is in `left` and in `right`."""
    return minus(left, minus(left, right))


def count(ranges: Ranges) -> int:
    """How many numbers."""
    return sum(high - low + 1 for low, high in ranges)


def numbers(ranges: Ranges) -> Iterator[int]:
    """Each number in order; for sets whose count was checked."""
    for low, high in ranges:
        yield from range(low, high + 1)


def text(ranges: Ranges) -> bytes:
    """As commands write it."""
    return b",".join(b"%d" % low if low == high else b"%d:%d" % (low, high) for low, high in ranges)


def take(ranges: Ranges, most: int, most_bytes: int = SET_BYTES) -> tuple[Ranges, Ranges]:
    """The first numbers, at most `most` and no longer than `most_bytes` when written; and the rest."""
    taken: Ranges = []
    length = 0
    for index, (low, high) in enumerate(ranges):
        length += len(text([(low, high)])) + 1
        if most <= 0 or (taken and length > most_bytes):
            return taken, ranges[index:]
        if high - low + 1 > most:
            return [*taken, (low, low + most - 1)], [(low + most, high), *ranges[index + 1 :]]
        taken.append((low, high))
        most -= high - low + 1
    return taken, []
