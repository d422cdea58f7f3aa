"""Random histories of a server, of accidents and of processes cut off anywhere: the copy always becomes the server's."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.unit.imap_copy import Copy
from tests.unit.imap_faults import KILL, LOST, SLICE, patch
from tests.unit.imap_world import CONDSTORE, PLAIN, QRESYNC, Server

EXAMPLES = int(os.environ.get("SEMGUARD_HISTORIES", "40"))
MEMORY = "/dev/shm" if os.path.isdir("/dev/shm") else None
TIERS = (QRESYNC, CONDSTORE, PLAIN)

START = [("many", 0, 4, 0), ("make", 0, 0, 3), ("append", 0, 1, 2), ("append", 0, 0, 1), ("append", 0, 0, 1)]

few = st.integers(0, 7)
CHANGES = (
    *("append", "many", "many", "flag", "flag", "read", "expunge", "move", "copy"),
    *("make", "rename", "drop", "anew", "other", "reborn", "back", "refill"),
)
OTHERS = ("swap", "remake")  # other folders with equal UIDVALIDITYs: only MAILBOXID and EMAILID tell
ACCIDENTS = ("delete", "letters", "new", "tmp", "forget", "garbage", "rows", "row", "restart")
Histories = st.SearchStrategy[list[tuple[str, Any]]]


def histories(outages: tuple[str, ...], accidents: tuple[str, ...]) -> Histories:
    """What happens on the server, to our files and to our passes; `outages` not while we are connected."""
    server_events = st.tuples(st.sampled_from((*CHANGES, *outages)), few, few, few)
    races = st.tuples(st.sampled_from(CHANGES), few, few, few)
    passes = st.tuples(
        st.tuples(
            st.one_of(st.just(0), st.integers(1, 40), st.integers(1, 200)),
            st.sampled_from([KILL, KILL, LOST, SLICE, SLICE]),
            st.booleans(),
            st.booleans(),
            st.integers(0, 31),
        ),
        st.dictionaries(st.integers(1, 20), races, max_size=2),
    ).map(lambda each: ("pass", each))
    events = server_events.map(lambda each: ("server", each))
    harms = st.tuples(st.sampled_from(accidents), few).map(lambda each: ("accident", each))
    single = st.one_of(events, passes, passes, harms).map(lambda each: [each])
    parts = st.lists(st.one_of(single, single, single, arrivals()), min_size=1, max_size=14)
    return parts.map(lambda found: [each for part in found for each in part])


def arrivals() -> Histories:
    """Many messages come, a pass is cut while it fetches them, and what it brought is read: by chance that is rare."""
    cut = st.tuples(st.integers(1, 60), st.sampled_from([KILL, LOST, SLICE]), st.just(False), st.booleans(), st.integers(0, 15))
    return st.tuples(few, few, cut, few, few).map(
        lambda each: [
            ("server", ("many", each[0], each[1], 0)),
            ("pass", (each[2], {})),
            ("server", ("read", each[0], each[3], each[4])),
        ]
    )


@pytest.fixture(scope="module", autouse=True)
def small_batches() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as changed:
        patch(changed)
        yield


def play(server: Server, history: list[tuple[str, Any]], *, full: bool = True) -> None:
    """The history, and then it must converge."""
    with tempfile.TemporaryDirectory(dir=MEMORY) as home:
        for each in START:
            server.apply(each)
        copy = Copy(home, server)
        try:
            for kind, what in history:
                if kind == "server":
                    server.apply(what)
                elif kind == "accident":
                    copy.accident(*what)
                else:
                    copy.disturbed(*what)
            copy.converge(full=full)
        finally:
            copy.die()


@pytest.mark.parametrize("identities", [False, True])
@pytest.mark.parametrize("tier", TIERS)
def test_every_history_converges(tier: str, identities: bool) -> None:
    @settings(max_examples=EXAMPLES, deadline=None, suppress_health_check=list(HealthCheck), database=None)
    @given(histories(("restore", *(OTHERS if identities else ())), ACCIDENTS))
    def run(history: list[tuple[str, Any]]) -> None:
        play(Server(tier, identities=identities), history)

    run()


@pytest.mark.parametrize("identities", [False, True])
@pytest.mark.parametrize("tier", TIERS)
def test_every_history_without_accidents_converges_without_comparing_everything(tier: str, identities: bool) -> None:
    outages = OTHERS if identities else ()
    if tier != PLAIN:  # without MODSEQ nothing need tell of it
        outages = ("restore", *outages)

    @settings(max_examples=EXAMPLES, deadline=None, suppress_health_check=list(HealthCheck), database=None)
    @given(histories(outages, ("restart", "tmp")))
    def run(history: list[tuple[str, Any]]) -> None:
        play(Server(tier, identities=identities), history, full=False)

    run()


@pytest.mark.parametrize("tier", TIERS)
def test_flags_that_changed_while_there_was_no_database_are_read_again(tier: str, tmp_path: Path) -> None:
    server = Server(tier, identities=False)
    for uid in range(1, 4):
        server.boxes[b"INBOX"].add(server.message(0))
        server.boxes[b"INBOX"].flag(uid, (b"kw",))
    copy = Copy(str(tmp_path), server)
    copy.disturbed((0, KILL, False, False, 0), {})
    copy.accident("forget", 0)
    server.boxes[b"INBOX"].flag(2, (b"\\Seen", b"other"))
    server.sent_bytes = 0
    copy.converge()
    copy.die()
    assert server.sent_bytes == 0


@pytest.mark.parametrize("identities", [False, True])
@pytest.mark.parametrize("tier", TIERS)
def test_another_uidvalidity_with_the_same_messages_downloads_nothing_unambiguous(
    tier: str, identities: bool, tmp_path: Path
) -> None:
    server = Server(tier, identities=identities)
    box = server.boxes[b"INBOX"]
    for _ in range(12):
        box.add(server.message(0))
    for _ in range(3):  # of one size and date: their headers tell them apart
        box.add(server.message(1))
    twin = server.message(0)
    for _ in range(2):  # of one size, date and header
        box.add(twin.copy())
    copy = Copy(str(tmp_path), server)
    copy.converge()
    assert sorted(server.sent_uids) == list(range(1, 18))
    server.sent_uids.clear()
    server._anew(b"INBOX", box, 2, 0)
    box.flag(5, (b"kw", b"\\Answered"))
    copy.converge()
    copy.die()
    ambiguous = [] if identities else sorted(box.messages)[-2:]
    assert sorted(server.sent_uids) == ambiguous


@pytest.mark.parametrize("tier", TIERS)
def test_another_uidvalidity_with_other_messages_downloads_them_and_keeps_the_old_ones(tier: str, tmp_path: Path) -> None:
    server = Server(tier, identities=False)
    box = server.boxes[b"INBOX"]
    old = [server.message(1) for _ in range(4)]
    for each in old:
        box.add(each)
    copy = Copy(str(tmp_path), server)
    copy.converge()
    server.sent_uids.clear()
    server._other(b"INBOX", box, 4, 1)  # of the same sizes and dates
    copy.converge()
    assert sorted(server.sent_uids) == sorted(box.messages)
    assert copy.removed() == {each.content for each in old}
    copy.die()


def test_a_server_that_comes_back_empty_leaves_all_in_removed(tmp_path: Path) -> None:
    server = Server(QRESYNC, identities=False)
    for _ in range(5):
        server.boxes[b"INBOX"].add(server.message(0))
    contents = {each.content for each in server.boxes[b"INBOX"].messages.values()}
    copy = Copy(str(tmp_path), server)
    copy.converge()
    server._other(b"INBOX", server.boxes[b"INBOX"], 0, 0)
    copy.converge()
    assert copy.removed() == contents
    copy.die()


@pytest.mark.parametrize("kind", [KILL, LOST])
@pytest.mark.parametrize("tier", TIERS)
def test_a_first_pass_cut_at_every_step_gets_on(tier: str, kind: str) -> None:
    """Cut at step 1, 2, 3, … one after the other, over one copy: nothing is lost, and it comes to an end."""
    with tempfile.TemporaryDirectory(dir=MEMORY) as home:
        server = Server(tier, identities=False)
        for number in range(9):
            server.boxes[b"INBOX"].add(server.message(number % 3, server.message(0)))
        copy = Copy(home, server)
        try:
            for at in range(1, 160):
                copy.disturbed((at, kind, False, False, at % 16), {})
            assert len(copy.messages()) == 9
            copy.converge()
        finally:
            copy.die()


def test_a_first_number_of_rows_that_is_too_low_proves_nothing() -> None:
    """Killed behind rows that the folder's own count did not have yet: the old ones must not pass for all."""
    history: list[tuple[str, Any]] = [
        *[("server", ("append", 1, 0, 0))] * 2,
        ("server", ("many", 0, 1, 0)),
        *[("pass", ((0, "kill", False, False, 0), {}))] * 3,
        ("server", ("move", 1, 0, 0)),
        ("server", ("refill", 0, 0, 1)),
        ("pass", ((55, "kill", False, True, 1), {})),
    ]
    play(Server("condstore", identities=True), history, full=False)
