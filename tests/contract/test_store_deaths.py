"""What a dead owner had claimed is free at once, and what a living one has is its own."""

from __future__ import annotations

import os
import random
import time
from collections import Counter
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING

import pytest

from tests.contract.children import ANSWERED, NEITHER, PAST, Child
from tests.contract.engines import Engine
from tests.contract.mails import NOW, addresses, mail, new_lease, queue, states, tagged, take
from tests.unit.store_world import as_root, user
from workers.spool.claims import NEVER
from workers.spool.dots import path_of
from workers.spool.recovery import Recovered, recover
from workers.store.leases import myself, owners

if TYPE_CHECKING:
    from workers.store.database import Database

Start = Callable[..., Child]
NOBODY = 65534
ALL = {"past": ("unknown", 1), "answered": ("sent", 0), "neither": ("deferred", 0)}


@pytest.fixture
def claimer(database: Database, start: Start) -> Child:
    """A process that has claimed three mails: one is past its final dot, one is answered, one is neither."""
    queue(database, *(mail(sender.partition("@")[0], sender=sender) for sender in (PAST, ANSWERED, NEITHER)))
    return start("claim_and_wait")


def free(engine: Engine, database: Database, *, hold: bool = False) -> Recovered:
    return database.transact(partial(recover, path=engine.notes, watcher=myself(), hold=hold))


def counts(found: Recovered) -> tuple[list[int], int, int, int]:
    return found.owners, found.unknown, found.sent, found.unsent


def test_a_killed_owners_claims_are_free_at_once_each_by_its_note(engine: Engine, database: Database, claimer: Child) -> None:
    owner_id, claimed = claimer.hear()
    assert claimed == 3
    claimer.kill()
    assert counts(free(engine, database)) == ([owner_id], 1, 1, 1)
    assert states(engine) == ALL
    assert database.transact(owners) == []
    rows = engine.look("SELECT address, failures, answer FROM mail_recipient WHERE state <> 'sent' ORDER BY address")
    assert [(address, failures) for address, failures, _ in rows] == [("neither", 0), ("past", 1)]
    assert all("the sender ended" in answer for _, _, answer in rows)
    assert addresses(take(database, new_lease(database))) == ["neither", "past"], "both are due now"


def test_what_is_unknown_can_be_held_for_a_person(engine: Engine, database: Database, claimer: Child) -> None:
    claimer.hear()
    claimer.kill()
    assert free(engine, database, hold=True).held
    assert states(engine) == ALL
    assert engine.look("SELECT due_at FROM mail_recipient WHERE state = 'unknown'") == [(NEVER,)]
    assert addresses(take(database, new_lease(database))) == ["neither"]


def test_without_its_notes_every_claim_of_a_dead_owner_is_unknown(engine: Engine, database: Database, claimer: Child) -> None:
    owner_id, _ = claimer.hear()
    claimer.kill()
    os.unlink(path_of(engine.notes, owner_id))
    assert counts(free(engine, database)) == ([owner_id], 3, 0, 0)
    assert states(engine) == dict.fromkeys(ALL, ("unknown", 1))


@as_root
def test_notes_that_can_not_be_read_count_as_none(engine: Engine, database: Database, claimer: Child) -> None:
    """As when root has run a sender on a user's spool: its notes are root's, and the user's sender comes after it."""
    owner_id, _ = claimer.hear()
    claimer.kill()
    with user(NOBODY):
        assert counts(free(engine, database)) == ([owner_id], 3, 0, 0)
    assert states(engine) == dict.fromkeys(ALL, ("unknown", 1))


def test_after_a_reboot_every_claim_is_unknown_whatever_the_notes_say(engine: Engine, database: Database, claimer: Child) -> None:
    owner_id, _ = claimer.hear()
    engine.look("UPDATE mail_owner SET boot_id = 'the boot before'")
    assert counts(free(engine, database)) == ([owner_id], 3, 0, 0)
    assert states(engine) == dict.fromkeys(ALL, ("unknown", 1))
    assert claimer.ask("settle") == []


def test_a_note_counts_for_its_own_claim_only(engine: Engine, database: Database, claimer: Child) -> None:
    claimer.hear()
    engine.look("UPDATE mail_recipient SET claim = claim + 1")
    claimer.kill()
    free(engine, database)
    assert states(engine) == dict.fromkeys(ALL, ("deferred", 0))


def test_a_living_owner_is_not_robbed(engine: Engine, database: Database, claimer: Child) -> None:
    claimer.hear()
    assert counts(free(engine, database)) == ([], 0, 0, 0)
    claimer.stop()
    assert counts(free(engine, database)) == ([], 0, 0, 0), "a stopped one whose lease lasts"
    claimer.go_on()
    assert states(engine) == dict.fromkeys(ALL, ("sending", 0))
    assert claimer.ask("renew") == "renewed"
    assert len(claimer.ask("settle")) == 3
    assert states(engine) == dict.fromkeys(ALL, ("sent", 0))


def test_a_stopped_owner_whose_lease_is_over_is_taken_over_and_changes_nothing_when_it_goes_on(
    engine: Engine, database: Database, claimer: Child
) -> None:
    owner_id, _ = claimer.hear()
    claimer.stop()
    engine.look("UPDATE mail_owner SET expires_at = 1")
    assert counts(free(engine, database)) == ([owner_id], 1, 1, 1)
    again = take(database, new_lease(database))
    assert addresses(again) == ["neither", "past"]
    claimer.go_on()
    assert claimer.ask("settle") == []
    assert claimer.ask("renew") == "lost"
    queue(database, mail("new"))
    assert claimer.ask("claim") == "lost"
    after = {"past": ("sending", 1), "answered": ("sent", 0), "neither": ("sending", 0), "new": ("queued", 0)}
    assert states(engine) == after


def test_an_owner_of_another_pid_namespace_is_judged_by_its_lease_alone(
    engine: Engine, database: Database, claimer: Child
) -> None:
    owner_id, _ = claimer.hear()
    engine.look("UPDATE mail_owner SET pid_space = pid_space + 1")
    claimer.kill()
    assert counts(free(engine, database)) == ([], 0, 0, 0), "its pid says nothing here"
    engine.look("UPDATE mail_owner SET expires_at = 1")
    assert free(engine, database).owners == [owner_id]


def test_a_reused_pid_does_not_keep_a_dead_owner_alive(engine: Engine, database: Database, claimer: Child) -> None:
    owner_id, _ = claimer.hear()
    claimer.kill()
    engine.look(f"UPDATE mail_owner SET pid = {os.getpid()}")
    assert free(engine, database).owners == [owner_id]


def test_of_many_that_recover_at_a_time_one_does_it_and_counts_once(
    engine: Engine, database: Database, claimer: Child, start: Start
) -> None:
    owner_id, _ = claimer.hear()
    children = [start("recover_once") for _ in range(4)]
    assert {child.hear() for child in children} == {"ready"}
    claimer.kill()
    for child in children:
        child.say()
    assert sorted(child.hear() for child in children) == [[[], 0, 0, 0]] * 3 + [[[owner_id], 1, 1, 1]]
    assert states(engine) == ALL


def test_senders_killed_at_random_moments_lose_nothing_and_what_they_wrote_down_stays(
    engine: Engine, database: Database, start: Start
) -> None:
    queue(database, *(tagged(f"{number}-0") for number in range(200)), now=NOW)
    written: Counter[int] = Counter()
    for _ in range(5):
        children = [start("send_for_ever") for _ in range(2)]
        for child in children:
            for _ in range(random.randint(1, 8)):
                written.update(child.hear() or ())
            time.sleep(random.random() / 100)  # so that it is killed anywhere in its work
            child.kill()
        for child in children:
            for ids in child.hear_all():
                written.update(ids)
        free(engine, database)
        assert engine.look("SELECT count(*) FROM mail_recipient WHERE state = 'sending'") == [(0,)]
    last = start("send_for_ever")
    for ids in last.hear_all():
        written.update(ids)
    rows = engine.look("SELECT id, state FROM mail_recipient")
    assert {state for _, state in rows} == {"sent"}
    assert len(rows) == 600
    assert set(written.values()) == {1}, "nobody could write twice about a claim"
