"""Folders and files that are still there after a power cut."""

from __future__ import annotations

import os


def make_folder(path: str) -> None:
    """Makes the folder and those above it that are missing, mode 0700; not yet synced. Raises OSError."""
    missing = []
    while not os.path.isdir(path):
        missing.append(path)
        path = os.path.dirname(path)
    for name in reversed(missing):
        try:
            os.mkdir(name, 0o700)
        except FileExistsError:
            if not os.path.isdir(name):
                raise


def sync_folder(path: str) -> None:
    """Puts the folder's names on disk. Raises OSError."""
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def sync_upwards(path: str) -> None:
    """Syncs the folder and those above it: any of them may be new, made by us or by one that died here."""
    while True:
        try:
            sync_folder(path)
        except PermissionError:
            return  # not ours, so none of us made something in it
        above = os.path.dirname(path)
        if above == path:
            return
        path = above
