"""The copy on disk: an account's folders as Maildirs (maildir(5)).

A message is written into tmp, synced, renamed into cur, the folder synced; only then the database hears of it. So what
lies in cur is whole, and a file that the database does not know is known by its name.
"""

from __future__ import annotations

import fcntl
import os
import time
from contextlib import suppress

from workers.imap.letters import file_name, parse
from workers.imap.syncing import Syncer
from workers.store.durable import make_folder, sync_folder, sync_upwards

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable

REMOVED = ".removed"
OURS = "imap-sync."  # what names in tmp begin with
DIGEST_BYTES = 16
LOOK_S = 0.05  # flock(2) knows no time to wait at most
FREE_BYTES = 8 << 20  # what is left for the database
FREE_FILES = 100


class Locked(Exception):
    """Another worker has this root."""


class Root:
    """The folder of all accounts. One process at a time writes into it; the kernel keeps that lock."""

    def __init__(self, path: str) -> None:
        self.path = path
        make_folder(path)
        sync_upwards(path)
        self._fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        self.syncer = Syncer(self._fd)

    def lock(self, most_s: float = 0.0) -> None:
        """Takes the root for this process, waiting at most so long. Raises Locked."""
        until = time.monotonic() + most_s
        while True:
            try:
                fcntl.flock(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
                return
            except BlockingIOError:
                if time.monotonic() >= until:
                    raise Locked(f"{self.path}: another imap-sync works here") from None
            time.sleep(LOOK_S)

    def lack(self) -> str:
        """What there is too little of for anything more to be fetched; "" when there is enough."""
        facts = os.fstatvfs(self._fd)
        if facts.f_bavail * facts.f_frsize < FREE_BYTES:
            return f"less than {FREE_BYTES >> 20} MiB free on {self.path}"
        if facts.f_files > 0 and facts.f_favail < FREE_FILES:  # some file systems count none
            return f"less than {FREE_FILES} files free on {self.path}"
        return ""

    def box(self, account: str, path: str) -> Box:
        """The Maildir of a folder; made when it is missing. Raises OSError."""
        return Box(self, os.path.join(self.path, account), path)

    def close(self) -> None:
        """Gives the lock back."""
        os.close(self._fd)


class Incoming:
    """A message on its way into tmp: takes its bytes as they come."""

    __slots__ = ("_fd", "_hash", "path", "size_bytes")

    def __init__(self, path: str) -> None:
        self.path = path
        self.size_bytes = 0
        self._fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        import hashlib

        self._hash = hashlib.blake2b(digest_size=DIGEST_BYTES)

    def write(self, part: memoryview | bytes) -> None:
        """More of it. Raises OSError."""
        self._hash.update(part)
        self.size_bytes += len(part)
        done = os.write(self._fd, part)
        while done < len(part):
            done += os.write(self._fd, memoryview(part)[done:])

    def finish(self, date: int) -> bytes:
        """It is whole; its digest. The file gets the message's time, as mail readers show it."""
        if date > 0:
            os.utime(self._fd, (date, date))
        self.close()
        return self._hash.digest()

    def close(self) -> None:
        """No more comes."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def drop(self) -> None:
        """It is not wanted, or not whole."""
        self.close()
        try:
            os.unlink(self.path)
        except FileNotFoundError:
            return


class Box:
    """One folder's Maildir."""

    def __init__(self, root: Root, account: str, path: str) -> None:
        """`account` is the account's folder, `path` one component below it."""
        self._root = root
        self.account = account
        self.path = os.path.join(account, path)
        self.cur = os.path.join(self.path, "cur")
        self.tmp = os.path.join(self.path, "tmp")
        self._removed = os.path.join(account, REMOVED, path)
        self._count = 0

    def make(self) -> None:
        """Makes the folders that are missing. Raises OSError."""
        if not all(os.path.isdir(os.path.join(self.path, name)) for name in ("cur", "new", "tmp")):
            for name in ("tmp", "new", "cur"):
                make_folder(os.path.join(self.path, name))
            sync_folder(self.path)
            sync_folder(self.account)
            sync_folder(self._root.path)

    def clear_tmp(self) -> None:
        """Takes away what one that died here has left."""
        for name in os.listdir(self.tmp):
            if name.startswith(OURS):
                os.unlink(os.path.join(self.tmp, name))

    def is_as_left(self, mtime_ns: int) -> bool:
        """Whether cur is as it was at `mtime_ns`, and nothing of ours lies in tmp."""
        try:
            return self.mtime_ns() == mtime_ns and not any(name.startswith(OURS) for name in os.listdir(self.tmp))
        except OSError:
            return False

    def incoming(self) -> Incoming:
        """A new message in tmp. Raises OSError."""
        self._count += 1
        return Incoming(os.path.join(self.tmp, f"{OURS}{os.getpid()}.{id(self):x}.{self._count}"))

    def publish(self, files: list[tuple[str, str]]) -> None:
        """Makes files of tmp (or of another folder, to be linked) messages of cur: synced, renamed, the folder synced.

        `files` are pairs of a path and a name in cur. Raises OSError, and then those not yet renamed are still in tmp.
        """
        fresh = [path for path, _ in files if path.startswith(self.tmp)]
        if fresh:
            self._root.syncer.sync(fresh)
        for path, name in files:
            if path.startswith(self.tmp):
                os.rename(path, os.path.join(self.cur, name))
        sync_folder(self.cur)

    def link(self, source: str, name: str) -> bool:
        """Gives a message of another folder a second name here; False where that can't be done."""
        target = os.path.join(self.tmp, f"{OURS}{os.getpid()}.link")
        try:
            if os.path.lexists(target):
                os.unlink(target)
            os.link(source, target, follow_symlinks=False)
            os.rename(target, os.path.join(self.cur, name))
            if os.path.lexists(target):  # both names were of one file already: rename(2) does nothing then
                os.unlink(target)
        except OSError:
            return False
        return True

    def mtime_ns(self) -> int:
        """Changes with each file that comes, goes, or changes its name."""
        facts = os.stat(self.cur)
        return facts.st_mtime_ns ^ facts.st_ino

    def names(self) -> set[str]:
        """The names in cur. Ours that a mail reader has put into new come back first."""
        new = os.path.join(self.path, "new")
        for name in os.listdir(new) if os.path.isdir(new) else ():
            if parse(name if ":2," in name else f"{name}:2,") is not None:
                os.rename(os.path.join(new, name), os.path.join(self.cur, name if ":2," in name else f"{name}:2,"))
        return set(os.listdir(self.cur))

    def find(self, name: str) -> str | None:
        """The path of a message, also when another program has changed the letters of its name; None when it is not here."""
        path = os.path.join(self.cur, name)
        if os.path.lexists(path):
            return path
        base = name.partition(":2,")[0]
        for folder in (self.cur, os.path.join(self.path, "new")):
            for each in os.listdir(folder):
                if each == base or each.startswith(f"{base}:"):
                    return os.path.join(folder, each)
        return None

    def rename(self, old: str, new: str) -> bool:
        """Gives a message its new name; False when it is not here."""
        try:
            os.rename(os.path.join(self.cur, old), os.path.join(self.cur, new))
        except FileNotFoundError:
            path = self.find(old)
            if path is None:
                return os.path.lexists(os.path.join(self.cur, new))
            os.rename(path, os.path.join(self.cur, new))
        return True

    def remove(self, names: Iterable[str]) -> int:
        """Moves messages that the server has no more to `.removed`; how many were here. Their time there begins now."""
        target = os.path.join(self._removed, "cur")
        done = 0
        for name in names:
            path = self.find(name)
            if path is None:
                continue
            if not done:
                self._make_removed()
            try:
                os.rename(path, os.path.join(target, name))
            except FileNotFoundError:  # the pruner took the folder away, since it was empty
                self._make_removed()
                os.rename(path, os.path.join(target, name))
            if os.path.lexists(path):  # both were names of one file: rename(2) does nothing then
                os.unlink(path)
            done += 1
        if done:
            sync_folder(target)
            sync_folder(self.cur)
        return done

    def _make_removed(self) -> None:
        for each in ("tmp", "new", "cur"):
            make_folder(os.path.join(self._removed, each))

    def remove_all(self) -> int:
        """Moves the whole folder to `.removed`; how many messages it had."""
        done = self.remove([name for name in self.names() if parse(name) is not None]) if os.path.isdir(self.cur) else 0
        if os.path.isdir(self.tmp):
            self.clear_tmp()
        self.drop_empty()
        return done

    def drop_empty(self) -> None:
        """Takes the folders away, if nothing of anybody is in them."""
        for path in (self.cur, os.path.join(self.path, "new"), self.tmp, self.path):
            try:
                os.rmdir(path)
            except OSError:
                return

    def move(self, path: str) -> None:
        """Renames the folder on disk, unless one that died here did so already. Raises OSError."""
        if os.path.isdir(self.path):
            os.rename(self.path, os.path.join(self.account, path))
            sync_folder(self.account)


def name_of(epoch: int, row: tuple[int, int, int, str]) -> str:
    """The file name of a row (uid, size, date, flags)."""
    return file_name(epoch, row[0], row[1], row[2], row[3])


def prune_removed(account: str, keep_s: float) -> int:
    """Deletes what was removed longer ago than `keep_s`; how many files. The time of a removal is the file's ctime."""
    top = os.path.join(account, REMOVED)
    before = time.time() - keep_s
    done = 0
    for folder, _, files in os.walk(top, topdown=False):
        for name in files:
            path = os.path.join(folder, name)
            if os.lstat(path).st_ctime < before:
                os.unlink(path)
                done += 1
        if folder != top:
            _drop_if_empty(folder)
    return done


def _drop_if_empty(folder: str) -> None:
    if os.path.basename(folder) not in ("cur", "new", "tmp") and not any(files for _, _, files in os.walk(folder)):
        with suppress(OSError):  # something has come meanwhile
            for name in ("cur", "new", "tmp"):
                if os.path.isdir(os.path.join(folder, name)):
                    os.rmdir(os.path.join(folder, name))
            os.rmdir(folder)
