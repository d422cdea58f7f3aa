"""Fixtures of the contract suite."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

import pytest

from tests.contract.children import Child
from tests.contract.engines import Engine, engine

if TYPE_CHECKING:
    from workers.store.database import Database

__all__ = ["database", "engine", "start"]


@pytest.fixture
def database(engine: Engine) -> Iterator[Database]:
    """A connection of this process."""
    opened = engine.connect()
    yield opened
    opened.close()


@pytest.fixture
def start(engine: Engine) -> Iterator[Callable[..., Child]]:
    """Starts children that work on the engine's store; at the end each is ended and reaped."""
    children: list[Child] = []

    def begin(work: str, *words: object) -> Child:
        children.append(Child(engine, work, *words))
        return children[-1]

    yield begin
    for child in children:
        child.close()
