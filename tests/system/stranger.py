"""Another program's doings with semaphore sets, as a process of its own: `stranger.py WHAT KEY …`.

make KEY SIZE MODE [VALUE…]   makes a set, with SETVAL for each value
set KEY NUMBER VALUE          SETVAL on one of a set that is there

With `stay` as the last word it says "done" and lives until its standard input ends.
"""

from __future__ import annotations

import sys

from guard.libc import call

IPC_CREAT, IPC_EXCL, SETVAL = 0o1000, 0o2000, 16


def setval(identifier: int, number: int, value: int) -> None:
    """SETVAL, which also clears what SEM_UNDO would give back."""
    call("semctl", identifier, number, SETVAL, value)


def main(what: str, key: int, *words: str) -> None:
    """Does one thing."""
    if what == "make":
        identifier = call("semget", key - (key >> 31 << 32), int(words[0]), IPC_CREAT | IPC_EXCL | int(words[1], 8))
        for number, value in enumerate(words[2:]):
            setval(identifier, number, int(value))
    else:
        setval(call("semget", key - (key >> 31 << 32), 0, 0), int(words[0]), int(words[1]))


if __name__ == "__main__":
    stays = sys.argv[-1] == "stay"
    main(sys.argv[1], int(sys.argv[2], 0), *sys.argv[3 : len(sys.argv) - stays])
    if stays:
        sys.stdout.write("done\n")
        sys.stdout.flush()
        sys.stdin.read()
