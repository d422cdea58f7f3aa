"""Notices edits of List.txt: an inotify descriptor for guard's own selector (inotify(7)).

Folders are watched, not the file, so that a file replaced by rename is seen; and of a path with symlinks each folder
that holds one, so that `current -> releases/43` is seen. Where inotify sees nothing (network file systems): a slow stat.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import struct

from guard.libc import call

POLL_S = 5.0
_EVENT = struct.Struct("iIII")  # struct inotify_event: wd, mask, cookie, length of the name behind it
_NONBLOCK_CLOEXEC = os.O_NONBLOCK | os.O_CLOEXEC
_CLOSE_WRITE, _MOVED_FROM, _MOVED_TO, _CREATE, _DELETE, _ATTRIB = 0x8, 0x40, 0x80, 0x100, 0x200, 0x4
_DELETE_SELF, _MOVE_SELF, _OVERFLOW, _ONLYDIR = 0x400, 0x800, 0x4000, 0x1000000
_FOLDER = _CLOSE_WRITE | _MOVED_FROM | _MOVED_TO | _CREATE | _DELETE | _DELETE_SELF | _MOVE_SELF | _ONLYDIR
_REMOTE = ("nfs", "nfs4", "cifs", "smb3", "9p", "ceph", "glusterfs", "afs", "lustre", "gfs2", "ocfs2", "vboxsf")


class Watch:
    """`fd` is readable when something near a watched path changed; None where the kernel gives no inotify."""

    def __init__(self) -> None:
        self._names: set[bytes] = set()
        self._watched: set[int] = set()
        try:
            self.fd: int | None = call("inotify_init1", _NONBLOCK_CLOEXEC)
        except OSError:
            self.fd = None

    def follow(self, *paths: str) -> bool:
        """Watches all on which these paths hang, instead of what was before. False: not all of it can be seen."""
        self._names, before, self._watched = set(), self._watched, set()
        seen = True
        for path in paths:
            for folder, name in _hooks(path):
                self._names.add(os.fsencode(name))
                seen = self._add(folder) and not _remote(folder) and seen
        for watched in before - self._watched:
            with contextlib.suppress(OSError):  # the kernel drops a deleted folder itself
                call("inotify_rm_watch", self.fd, watched)
        return seen

    def changed(self) -> bool:
        """Whether one of the names was touched since the last call."""
        found = False
        with contextlib.suppress(BlockingIOError):
            while self.fd is not None and (data := os.read(self.fd, 65536)):
                while data:
                    _, mask, _, length = _EVENT.unpack_from(data)
                    name = data[_EVENT.size : _EVENT.size + length].rstrip(b"\0")
                    found = found or name in self._names or bool(mask & (_OVERFLOW | _DELETE_SELF | _MOVE_SELF))
                    data = data[_EVENT.size + length :]
        return found

    def close(self) -> None:
        """Gives the descriptor back."""
        if self.fd is not None:
            os.close(self.fd)

    def _add(self, folder: str) -> bool:
        if self.fd is None:
            return False
        try:
            self._watched.add(call("inotify_add_watch", self.fd, os.fsencode(folder), _FOLDER))
        except OSError:
            return False
        return True


def _hooks(path: str) -> list[tuple[str, str]]:
    """Folder and name of each symlink on the way to `path`, and of the file itself, or of what is missing of its way."""
    found: list[tuple[str, str]] = []
    for _ in range(40):  # the kernel's own limit of symlinks in a path (path_resolution(7))
        link = _first_link(path)
        if link is None:
            break
        folder, name, path = link
        found.append((folder, name))
    folder, name = os.path.split(path)
    while folder and not os.path.isdir(folder):
        folder, name = os.path.split(folder)
    return [*found, (folder or ".", name)]


def _first_link(path: str) -> tuple[str, str, str] | None:
    """Folder and name of the first symlink in `path`, and the path with it resolved."""
    parts = path.split("/")
    for count in range(1, len(parts) + 1):
        prefix = "/".join(parts[:count]) or "/"
        if os.path.islink(prefix):
            folder = os.path.dirname(prefix) or "."
            return folder, parts[count - 1], os.path.join(folder, os.readlink(prefix), *parts[count:])
    return None


def _remote(folder: str) -> bool:
    """Whether a folder lies on a file system that other machines change without inotify (proc(5), mountinfo)."""
    try:
        device = os.stat(folder).st_dev
        with open("/proc/self/mountinfo", encoding="utf-8", errors="replace") as lines:
            kinds = [
                line.partition(" - ")[2].split(" ", 1)[0]
                for line in lines
                if line.split(" ", 3)[2] == f"{os.major(device)}:{os.minor(device)}"
            ]
    except OSError:
        return False
    return any(kind in _REMOTE or kind.startswith("fuse") for kind in kinds)


class Busy(Exception):
    """Somebody has the file open for writing."""


def read_closed(path: str) -> tuple[bytes, bool]:
    """The file's content, taken while nobody has it open for writing, and whether that is certain.

    A read lease can be had only then (fcntl(2), F_SETLEASE); it is given back at once.
    Not certain where no lease can be had: not our file, or a file system without leases. Raises Busy, OSError.
    """
    with open(path, "rb") as file:
        try:
            fcntl.fcntl(file, fcntl.F_SETLEASE, fcntl.F_RDLCK)
        except BlockingIOError:
            raise Busy from None
        except OSError:
            return file.read(), False
        try:
            return file.read(), True
        finally:
            fcntl.fcntl(file, fcntl.F_SETLEASE, fcntl.F_UNLCK)
