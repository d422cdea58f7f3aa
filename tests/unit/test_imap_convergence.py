"""Random histories of a server, of accidents and of processes cut off anywhere: the copy always becomes the server's."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.unit import imap_copy
from tests.unit.imap_copy import KILL, LOST, Copy
from tests.unit.imap_world import CONDSTORE, PLAIN, QRESYNC, Server

EXAMPLES = int(os.environ.get("SEMGUARD_HISTORIES", "60"))
TIERS = (QRESYNC, CONDSTORE, PLAIN)

few = st.integers(0, 7)
server_events = st.tuples(
    st.sampled_from(["append", "many", "many", "flag", "flag", "expunge", "move", "copy", "make", "rename", "drop", "anew", "other", "back", "refill"]),
    few, few, few,
)  # fmt: skip
passes = st.tuples(
    st.tuples(
        st.one_of(st.just(0), st.integers(1, 40), st.integers(1, 200)),
        st.sampled_from([KILL, KILL, LOST]),
        st.booleans(),
        st.booleans(),
        st.integers(0, 15),
    ),
    st.dictionaries(st.integers(1, 20), server_events, max_size=2),
)
accidents = st.tuples(st.sampled_from(["delete", "letters", "new", "tmp", "forget", "garbage", "rows", "row", "restart"]), few)
histories = st.lists(
    st.one_of(
        server_events.map(lambda each: ("server", each)),
        passes.map(lambda each: ("pass", each)),
        passes.map(lambda each: ("pass", each)),
        accidents.map(lambda each: ("accident", each)),
    ),
    min_size=1,
    max_size=14,
)


@pytest.fixture(scope="module", autouse=True)
def small_batches() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        imap_copy.patch(patch)
        yield


def play(server: Server, history: list[tuple[str, Any]]) -> None:
    """The history, and then it must converge."""
    with tempfile.TemporaryDirectory() as home:
        copy = Copy(home, server)
        try:
            for kind, what in history:
                if kind == "server":
                    server.apply(what)
                elif kind == "accident":
                    copy.accident(*what)
                else:
                    copy.disturbed(*what)
            copy.converge()
        finally:
            copy.die()


@pytest.mark.parametrize("identities", [False, True])
@pytest.mark.parametrize("tier", TIERS)
def test_every_history_converges(tier: str, identities: bool) -> None:
    @settings(max_examples=EXAMPLES, deadline=None, suppress_health_check=list(HealthCheck), database=None)
    @given(histories)
    def run(history: list[tuple[str, Any]]) -> None:
        play(Server(tier, identities=identities), history)

    run()
