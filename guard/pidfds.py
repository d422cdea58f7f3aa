"""Processes that are not guard's children, watched for their end: a pidfd tells it for a stranger as for a child."""

from __future__ import annotations

import os
import selectors
from collections.abc import Iterable
from dataclasses import dataclass

LEFTOVERS_WATCHED = 64  # of one script at a time: a look at the rest follows when these are gone


@dataclass(frozen=True, slots=True)
class Ended:
    """A watched process is gone: a script's own (`pid`), or something that it left (None)."""

    name: str
    pid: int | None


class Pidfds:
    """Shares the loop's selector."""

    def __init__(self, selector: selectors.BaseSelector) -> None:
        self._selector = selector
        self._watched: dict[int, Ended] = {}

    def watch_process(self, name: str, pid: int) -> None:
        """Watches a script's own process, adopted."""
        self._add(pid, Ended(name, pid))

    def watch_leftovers(self, name: str, pids: Iterable[int]) -> None:
        """Watches what a script left behind, unless some of it is being watched already."""
        news = Ended(name, None)
        if news not in self._watched.values():
            for pid in list(pids)[:LEFTOVERS_WATCHED]:
                self._add(pid, news)

    def take(self, fd: int) -> Ended | None:
        """What a readable descriptor tells; it is watched no longer. None when it is none of these."""
        news = self._watched.pop(fd, None)
        if news is not None:
            self._selector.unregister(fd)
            os.close(fd)
        return news

    def close(self) -> None:
        """Gives all descriptors back."""
        for fd in self._watched:
            os.close(fd)

    def _add(self, pid: int, news: Ended) -> None:
        try:
            fd = os.pidfd_open(pid)
        except OSError:
            fd, writer = os.pipe2(os.O_CLOEXEC)  # it is gone already: a pipe without a writer is readable at once
            os.close(writer)
        self._watched[fd] = news
        self._selector.register(fd, selectors.EVENT_READ)
