"""Leases: who may hold claims on rows, and who is dead and holds them no more.

An owner is a row: host, boot, PID namespace, pid and start time, and until when its lease lasts. A claim is a number
made of the owner's id and a count of its own; it is the fencing number: each later write about a claimed row names
it, so that one who lost its lease changes nothing. Renewing touches the owner's row only, however much it holds.

A dead owner of this host and PID namespace is known at once by pid and start time; any other one by its lease, whose
end is told by CLOCK_BOOTTIME, which neither a wrong clock nor a suspend can move.
"""

from __future__ import annotations

import os
import time

TYPE_CHECKING = False
if TYPE_CHECKING:
    from workers.store.database import Transaction

LEASE_S = 60.0
RENEW_S = 15.0
COUNT_BITS = 32


class Owner:
    """One worker in the eyes of the others; slots as in the table. `expires_at` is CLOCK_BOOTTIME, in seconds."""

    __slots__ = ("boot_id", "expires_at", "host", "id", "pid", "pid_space", "started")

    def __init__(self, id_: int, host: str, boot_id: str, pid_space: int, pid: int, started: int, expires_at: float) -> None:
        self.id = id_
        self.host = host
        self.boot_id = boot_id
        self.pid_space = pid_space
        self.pid = pid
        self.started = started
        self.expires_at = expires_at

    def claims(self) -> tuple[int, int]:
        """The lowest and the highest number that a claim of this owner can have."""
        return self.id << COUNT_BITS, ((self.id + 1) << COUNT_BITS) - 1


class LeaseLost(Exception):
    """Another worker has taken this one for dead: what it claimed is no longer its own."""


class Lease:
    """This process's own lease. It is renewed by claims, and while something is claimed, so that rest costs no write."""

    def __init__(self) -> None:
        self.owner = myself()
        self._count = 0

    def register(self, transaction: Transaction) -> int:
        """Writes this process down as an owner and returns the owner's id. What it needs beside it, such as a file
        of notes, is to be made before the first claim."""
        owner = self.owner
        expires_at = boot_time() + LEASE_S
        row = (owner.host, owner.boot_id, owner.pid_space, owner.pid, owner.started, expires_at)
        owner_id: int = transaction.run("owner.register", row)[0][0]

        def done() -> None:
            owner.id, owner.expires_at = owner_id, expires_at
            self._count = 0

        transaction.on_commit(done)
        return owner_id

    def number(self, transaction: Transaction) -> int:
        """The number for a claim, inside the transaction that claims. Raises LeaseLost."""
        if self.due():
            self.renew(transaction)
        elif not transaction.run("owner.find", (self.owner.id,)):
            self.owner.expires_at = 0.0
            raise LeaseLost
        self._count += 1
        return (self.owner.id << COUNT_BITS) + self._count

    def renew(self, transaction: Transaction) -> None:
        """Makes it last longer, unless it is lost. Raises LeaseLost."""
        expires_at = boot_time() + LEASE_S
        if not transaction.run("owner.renew", (expires_at, self.owner.id)):
            self.owner.expires_at = 0.0
            raise LeaseLost
        transaction.on_commit(lambda: setattr(self.owner, "expires_at", expires_at))

    def lasts(self, margin_s: float = 1.0) -> bool:
        """Whether the lease surely holds for `margin_s` more; asked before a step that can't be taken back."""
        return boot_time() + margin_s < self.owner.expires_at

    def due(self) -> bool:
        """Whether it is time to renew."""
        return boot_time() > self.owner.expires_at - LEASE_S + RENEW_S


def owners(transaction: Transaction) -> list[Owner]:
    """All owners that are written down, dead ones too."""
    return [Owner(*row) for row in transaction.run("owner.all")]


def is_dead(owner: Owner, watcher: Owner, now: float) -> bool:
    """Whether `owner` holds its claims no more, as `watcher` sees it at CLOCK_BOOTTIME `now`."""
    if owner.boot_id != watcher.boot_id:
        return True  # SQLite is never shared between hosts, so that was this host before it was started again
    if owner.pid_space == watcher.pid_space and owner.started and _is_gone(owner):
        return True
    return owner.expires_at < now


def _is_gone(owner: Owner) -> bool:
    found = started(owner.pid)
    if found is not None:
        return found != owner.started
    try:
        os.kill(owner.pid, 0)
    except PermissionError:
        return False  # there is one, and /proc hides it from us (hidepid=): its lease tells
    except OSError:
        return True
    return True  # a zombie


def is_running(owner: Owner, watcher: Owner) -> bool:
    """Whether the owner's process is seen to run; one at rest does so with a lease that is over."""
    same = owner.boot_id == watcher.boot_id and owner.pid_space == watcher.pid_space
    return same and started(owner.pid) == owner.started


def myself() -> Owner:
    """This process as an owner without an id."""
    pid = os.getpid()
    with open("/proc/sys/kernel/random/boot_id", encoding="ascii") as file:
        boot_id = file.read().strip()
    return Owner(0, os.uname().nodename, boot_id, os.stat("/proc/self/ns/pid").st_ino, pid, started(pid) or 0, 0.0)


def started(pid: int) -> int | None:
    """When the process began, in clock ticks after boot (proc(5)); None when it is gone or a zombie."""
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            fields = file.read().rpartition(b") ")[2].split()
    except OSError:
        return None
    return None if fields[0] in (b"Z", b"X") else int(fields[19])


def boot_time() -> float:
    """Seconds since boot, suspend included; no clock setting moves it."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)
