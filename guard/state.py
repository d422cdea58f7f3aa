"""The state folder `.guard/` (0700): records of processes, the accepted list, wishes. Written on events only.

    guard        who is primary and standby
    list         the last accepted List.txt, as JSON, one script a line
    wishes.json  what `guard stop`, `start` and `restart` asked for
    run/KEY      a script's record: its process, written by itself before exec, and what guard knows of it

A record is preallocated and overwritten in place, so that a full disk stops no birth. Everything is reached through
one descriptor of the folder, which is also guard's second lock (flock): a renamed folder stays ours.
"""

from __future__ import annotations

import binascii
import fcntl
import os
import stat

from guard.kin import Kin, identify

TYPE_CHECKING = False  # typing's would cost its import, and collections.abc costs 2 ms
if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

IDENTITY_BYTES = 80
RECORD_BYTES = 4096
GUARD_RECORD = "guard"
STANDBY_RECORD = "standby"
_FLAGS = os.O_CLOEXEC | os.O_NOFOLLOW


def boot_id() -> str:
    """Changes with each boot: what an earlier boot recorded says nothing."""
    with open("/proc/sys/kernel/random/boot_id", encoding="ascii") as file:
        return file.read().strip()


class Record:
    """`kin`: the recorded process if it is of this boot and folder, alive or not. `notes`: guard's own, as text."""

    __slots__ = ("kin", "notes")

    def __init__(self, kin: Kin | None, notes: Mapping[str, str]) -> None:
        self.kin, self.notes = kin, notes

    @property
    def alive(self) -> Kin | None:
        """The recorded process if it still lives."""
        return self.kin if self.kin and identify(self.kin.pid) == self.kin else None


class State:
    """An open state folder. Raises OSError where the folder can't be used.

    `boot` stands for this boot and this very folder: what an earlier boot recorded says nothing here, nor does what was
    copied from a folder whose guard is running.
    """

    def __init__(self, path: str, *, create: bool) -> None:
        self.path = path
        if create:
            _make(path)
        self.fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        self.boot = self._boot()
        self._name = os.path.basename(os.path.realpath(path))
        around = os.stat("..", dir_fd=self.fd)  # asked once: the keys stay the same when this folder is moved or deleted
        self._place = around.st_dev, around.st_ino
        if create:
            _make("run", self.fd)

    def place(self) -> tuple[int, int]:
        """Device and inode of the folder that holds this one: what keys are made of."""
        return self._place

    def name(self) -> str:
        """The folder's own name, also where it was reached through a symlink."""
        return self._name

    def lock(self, *, wait: bool) -> bool:
        """The second lock: held until every copy of the descriptor is closed, in children too. False: not now."""
        try:
            fcntl.flock(self.fd, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        except BlockingIOError:
            return False
        return True

    def reopened(self) -> State:
        """The same folder through a descriptor of one's own: a lock taken on it is not shared over fork."""
        other = State.__new__(State)
        vars(other).update(vars(self))
        other.fd = os.open(f"/proc/self/fd/{self.fd}", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        return other

    def lost(self) -> bool:
        """Whether the folder was deleted, or moved away from where commands look for it."""
        try:
            there = os.stat(self.path)
        except OSError:
            return True
        here = os.fstat(self.fd)
        return (there.st_dev, there.st_ino) != (here.st_dev, here.st_ino)

    def deleted(self) -> bool:
        """Whether the folder is gone for good, and with it what could be found through it."""
        return os.fstat(self.fd).st_nlink == 0

    def renew(self) -> bool:
        """Makes a lost folder anew under the old descriptor's number and locks it. False: another guard has it.

        Raises OSError.
        """
        fresh = State(self.path, create=True)
        try:
            locked = fresh.lock(wait=False)
            if locked:
                os.dup2(fresh.fd, self.fd, inheritable=False)
                self.boot = fresh.boot
            return locked
        finally:
            os.close(fresh.fd)

    # records

    def open_record(self, name: str) -> int:
        """A descriptor of a record, made and preallocated if it is new. Raises OSError."""
        fd = os.open(name, os.O_RDWR | os.O_CREAT | _FLAGS, 0o600, dir_fd=self.fd)
        try:
            if os.fstat(fd).st_size < RECORD_BYTES:
                _allocate(fd)
        except OSError:
            os.close(fd)
            raise
        return fd

    def identity(self, kin: tuple[int, int]) -> bytes:
        """A process as records hold it."""
        return (b"%d %d %b" % (*kin, self.boot.encode())).ljust(IDENTITY_BYTES - 1) + b"\n"

    def write_notes(self, fd: int, notes: Mapping[str, str]) -> None:
        """guard's part of a record, in one write, with a checksum for readers that come in between."""
        body = "".join(f"{name}={value[:1500]}\n" for name, value in notes.items()).encode(errors="replace")
        room = RECORD_BYTES - IDENTITY_BYTES - 32
        body = body if len(body) <= room else body[: body.rfind(b"\n", 0, room) + 1]
        os.pwrite(fd, b"%d %08x\n%s" % (len(body), binascii.crc32(body), body), IDENTITY_BYTES)

    def read_record(self, name: str) -> Record | None:
        """A record, None when there is none that can be read."""
        try:
            fd = os.open(name, os.O_RDONLY | _FLAGS, dir_fd=self.fd)
        except OSError:
            return None
        try:
            data = os.pread(fd, RECORD_BYTES, 0)
        finally:
            os.close(fd)
        return Record(self._kin(data[:IDENTITY_BYTES]), _notes(data[IDENTITY_BYTES:]))

    def records(self) -> Iterator[tuple[int, Record]]:
        """All script records of this boot and folder, with their keys."""
        for key, record in self._records():
            if record.kin or record.notes.get("boot") == self.boot:
                yield key, record

    def strange_records(self) -> list[int]:
        """The keys of records that an earlier boot left here, or that were copied here from another folder."""
        return [key for key, record in self._records() if not record.kin and record.notes.get("boot") != self.boot]

    def _records(self) -> Iterator[tuple[int, Record]]:
        try:
            names = os.listdir(f"/proc/self/fd/{self.fd}/run")
        except OSError:
            return
        for name in names:
            record = self.read_record(f"run/{name}") if len(name) == 8 and not name.strip("0123456789abcdef") else None
            if record:
                yield int(name, 16), record

    def remove(self, name: str) -> None:
        """Removes a file of the folder, if it is there and can be removed."""
        try:
            os.unlink(name, dir_fd=self.fd)
        except OSError:
            return

    # whole files

    def read(self, name: str) -> str | None:
        """A file's text, None when there is none. Raises OSError."""
        try:
            fd = os.open(name, os.O_RDONLY | _FLAGS, dir_fd=self.fd)
        except FileNotFoundError:
            return None
        with open(fd, encoding="utf-8", errors="replace") as file:
            return file.read()

    def replace(self, name: str, text: str) -> None:
        """Writes a file whole or not at all, on disk when this returns. Raises OSError."""
        draft = f"{name}.{os.getpid()}"
        fd = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | _FLAGS, 0o600, dir_fd=self.fd)
        try:
            with open(fd, "w", encoding="utf-8") as file:
                file.write(text)
                file.flush()
                os.fsync(fd)
            os.rename(draft, name, src_dir_fd=self.fd, dst_dir_fd=self.fd)
            os.fsync(self.fd)
        except OSError:
            self.remove(draft)
            raise

    def set_aside(self, name: str) -> None:
        """Keeps a file that can't be read for people to look at, out of the way."""
        try:
            os.rename(name, f"{name}.unreadable", src_dir_fd=self.fd, dst_dir_fd=self.fd)
        except OSError:
            return

    def _boot(self) -> str:
        here = os.fstat(self.fd)
        return f"{boot_id()}.{binascii.crc32(b'%d:%d' % (here.st_dev, here.st_ino)):08x}"

    def _kin(self, data: bytes) -> Kin | None:
        words = data.decode("ascii", "replace").split()
        if len(words) != 3 or words[2] != self.boot or not (words[0].isdigit() and words[1].isdigit()):
            return None
        return Kin(int(words[0]), int(words[1]))


def record_name(key: int) -> str:
    """Where a script's record lies."""
    return f"run/{key:08x}"


def _notes(data: bytes) -> dict[str, str]:
    head, _, body = data.partition(b"\n")
    words = head.split()
    if len(words) != 2 or not words[0].isdigit() or b"%08x" % binascii.crc32(body[: int(words[0])]) != words[1]:
        return {}
    lines = body[: int(words[0])].decode(errors="replace").splitlines()
    return {name: value for name, _, value in (line.partition("=") for line in lines)}


def _make(path: str, dir_fd: int | None = None) -> None:
    try:
        os.mkdir(path, 0o700, dir_fd=dir_fd)
    except FileExistsError:
        if not stat.S_ISDIR(os.stat(path, dir_fd=dir_fd).st_mode):
            raise


def _allocate(fd: int) -> None:
    try:
        os.posix_fallocate(fd, 0, RECORD_BYTES)
    except OSError as error:
        if not error.errno or os.pwrite(fd, bytes(RECORD_BYTES), 0) != RECORD_BYTES:
            raise
