"""Fixtures of the contract suite."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest

from tests.contract.children import Child
from tests.contract.engines import Engine, engine

__all__ = ["engine", "start"]


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
