"""Who may write about a claim: its owner, once, while the lease holds."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

import pytest

from tests.contract.engines import Engine
from tests.contract.mails import addresses, mail, new_lease, queue, recipients, states, take, write
from workers.spool.recovery import leave, recover
from workers.store.leases import LEASE_S, RENEW_S, LeaseLost, boot_time, owners

if TYPE_CHECKING:
    from workers.store.database import Database


def age_leases(engine: Engine) -> None:
    """Nobody has renewed for long."""
    engine.look("UPDATE mail_owner SET expires_at = 1")


def test_a_final_state_is_written_once_and_never_claimed_again(engine: Engine, database: Database) -> None:
    lease = new_lease(database)
    queue(database, mail("a@x", "b@x"))
    mails = take(database, lease)
    ids = {each.id for each in recipients(mails)}
    assert write(database, mails, "sent") == ids
    assert write(database, mails, "failed") == set()
    assert states(engine) == {"a@x": ("sent", 0), "b@x": ("sent", 0)}
    assert take(database, lease) == []


def test_a_late_writer_changes_nothing(engine: Engine, database: Database) -> None:
    queue(database, mail("a@x"))
    late, successor = new_lease(database), new_lease(database)
    mails = take(database, late)
    age_leases(engine)
    database.transact(successor.renew)
    freed = database.transact(partial(recover, path=engine.notes, watcher=successor.owner, hold=False))
    assert freed.owners == [late.owner.id]
    assert write(database, mails, "sent") == set()
    assert states(engine)["a@x"] == ("unknown", 1), "freed, and waiting"
    theirs = take(database, successor)
    assert write(database, mails, "sent") == set()
    assert states(engine)["a@x"] == ("sending", 1), "claimed by the other one"
    assert len(write(database, theirs, "failed")) == 1
    assert write(database, mails, "sent") == set()
    assert states(engine)["a@x"] == ("failed", 1)


def test_of_several_results_only_those_of_claims_that_hold_are_written(engine: Engine, database: Database) -> None:
    queue(database, mail("lost@x"))
    late, successor = new_lease(database), new_lease(database)
    mails = take(database, late)
    age_leases(engine)
    database.transact(successor.renew)
    database.transact(partial(recover, path=engine.notes, watcher=successor.owner, hold=True))
    queue(database, mail("kept@x"))
    kept = take(database, successor)
    assert write(database, mails + kept, "sent") == {each.id for each in recipients(kept)}
    assert states(engine) == {"lost@x": ("unknown", 1), "kept@x": ("sent", 0)}


def test_a_claim_of_the_same_owner_made_earlier_does_not_hold_any_more(engine: Engine, database: Database) -> None:
    lease = new_lease(database)
    queue(database, mail("a@x"))
    first = take(database, lease)
    write(database, first, "deferred")
    second = take(database, lease)
    assert second[0].claim > first[0].claim
    assert write(database, first, "sent") == set()
    assert states(engine)["a@x"] == ("sending", 0)


def test_a_lease_lasts_and_is_renewed_by_a_claim_when_it_is_time(engine: Engine, database: Database) -> None:
    lease = new_lease(database)
    registered = lease.owner.expires_at
    assert 0 < boot_time() + LEASE_S - registered < 5
    take(database, lease)
    assert lease.owner.expires_at == registered, "not yet time"
    for age_s, due in ((RENEW_S - 1, False), (RENEW_S + 1, True)):
        lease.owner.expires_at = boot_time() + LEASE_S - age_s
        assert lease.due() is due
    queue(database, mail("a@x"))
    take(database, lease)
    assert lease.owner.expires_at >= registered
    assert database.transact(owners)[0].expires_at == lease.owner.expires_at
    assert not lease.due()


def test_a_lease_that_was_taken_over_is_lost_and_claims_nothing(engine: Engine, database: Database) -> None:
    lease, successor = new_lease(database), new_lease(database)
    queue(database, mail("held@x"))
    take(database, lease)
    engine.look(f"UPDATE mail_owner SET expires_at = 1 WHERE id = {lease.owner.id}")
    database.transact(partial(recover, path=engine.notes, watcher=successor.owner, hold=True))
    queue(database, mail("a@x"))
    with pytest.raises(LeaseLost):
        take(database, lease)
    assert states(engine)["a@x"] == ("queued", 0)
    assert not lease.lasts()
    with pytest.raises(LeaseLost):
        database.transact(lease.renew)
    database.transact(lease.register)
    assert lease.owner.id > successor.owner.id
    assert addresses(take(database, lease)) == ["a@x"]


def test_an_owner_at_rest_keeps_its_place_however_old_its_lease(engine: Engine, database: Database) -> None:
    lease, watcher = new_lease(database), new_lease(database)
    age_leases(engine)
    found = database.transact(partial(recover, path=engine.notes, watcher=watcher.owner, hold=False))
    assert found.owners == []
    lease.owner.expires_at = 1.0  # as it knows itself
    queue(database, mail("a@x"))
    assert addresses(take(database, lease)) == ["a@x"]
    assert lease.lasts()


def test_the_numbers_of_claims_grow_and_are_their_owners(database: Database) -> None:
    lease, other = new_lease(database), new_lease(database)
    numbers = [database.transact(lease.number) for _ in range(3)]
    low, high = lease.owner.claims()
    assert low < numbers[0] < numbers[1] < numbers[2] < high
    assert database.transact(other.number) > high


def test_a_renewal_that_was_rolled_back_does_not_count(database: Database) -> None:
    lease = new_lease(database)
    lease.owner.expires_at = boot_time() - 1

    def work(transaction: object) -> None:
        lease.renew(transaction)  # type: ignore[arg-type]
        raise ZeroDivisionError  # as a full disk does

    with pytest.raises(ZeroDivisionError):
        database.transact(work)
    assert not lease.lasts(), "others may take this owner for dead, so no final dot may go out"


def test_an_owner_that_holds_nothing_leaves_and_one_that_holds_something_stays(database: Database) -> None:
    lease = new_lease(database)
    queue(database, mail("a@x"))
    mails = take(database, lease)
    database.transact(partial(leave, owner=lease.owner))
    assert [owner.id for owner in database.transact(owners)] == [lease.owner.id]
    write(database, mails, "sent")
    database.transact(partial(leave, owner=lease.owner))
    assert database.transact(owners) == []
