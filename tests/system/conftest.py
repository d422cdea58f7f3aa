"""Fixtures of the system tests."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.system.harness import Folder
from tests.system.mail_servers import Relay, Spool


@pytest.fixture
def new_folder(tmp_path: Path) -> Iterator[Callable[..., Folder]]:
    """Makes folders with guards; at the end each is stopped and shown to leave nothing."""
    made: list[Folder] = []

    def make(name: str = "app") -> Folder:
        made.append(Folder(tmp_path / name))
        return made[-1]

    yield make
    for folder in made:
        folder.close()


@pytest.fixture
def folder(new_folder: Callable[..., Folder]) -> Folder:
    """One folder with a guard."""
    return new_folder()


@pytest.fixture(autouse=True)
def no_semaphores_left() -> Iterator[None]:
    """Each test removes what it made: the sets of this IPC namespace are as before."""
    before = _sets()
    yield
    assert _sets() <= before, "semaphore sets left behind"


def _sets() -> set[str]:
    uid = str(os.getuid())
    with open("/proc/sysvipc/sem", encoding="ascii") as file:
        rows = [line.split() for line in file.read().splitlines()[1:]]
    return {row[0] for row in rows if uid in (row[4], row[6])}


@pytest.fixture
def spool(tmp_path: Path) -> Iterator[Spool]:
    """A spool of the test's own; its senders are ended with it."""
    made = Spool(tmp_path)
    yield made
    made.close()


@pytest.fixture
def relay(spool: Spool) -> Iterator[Callable[[Callable[[str], str | None]], Relay]]:
    """Makes relays with answers of the test's choice, each the spool's way out from then on."""
    made: list[Relay] = []

    def make(answer: Callable[[str], str | None]) -> Relay:
        made.append(Relay(answer))
        spool.through(made[-1].port)
        return made[-1]

    yield make
    for each in made:
        each.close()
