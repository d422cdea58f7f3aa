"""Fixtures of the tests of imap-sync; a test module imports those that it uses."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

pytest.register_assert_rewrite("tests.system.imap_syncer")  # so that a failed comparison says what differs

from tests.system.imap_fault_server import FaultServer  # noqa: E402 - behind it, or it is too late
from tests.system.imap_servers import Dovecot  # noqa: E402
from tests.system.imap_syncer import Syncer  # noqa: E402


@pytest.fixture
def syncer(tmp_path: Path) -> Iterator[Syncer]:
    """An imap-sync of the test's own, without accounts."""
    made = Syncer(tmp_path)
    made.write()
    yield made
    made.close()


@pytest.fixture
def new_dovecot() -> Iterator[Callable[..., Dovecot]]:
    """Makes Dovecots; at the end each is ended and removed."""
    made: list[Dovecot] = []

    def make(**options: object) -> Dovecot:
        made.append(Dovecot(**options))  # type: ignore[arg-type]
        return made[-1]

    yield make
    for each in made:
        each.close()


@pytest.fixture
def new_fault_server() -> Iterator[Callable[..., FaultServer]]:
    """Makes hostile servers; at the end each is ended."""
    made: list[FaultServer] = []

    def make(*faults: object, **options: object) -> FaultServer:
        made.append(FaultServer(faults, **options))  # type: ignore[arg-type]
        return made[-1]

    yield make
    for each in made:
        each.close()
