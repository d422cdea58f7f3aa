"""Claims: no recipient twice, each rank in its turn, nothing before its time; and who may write about a claim."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import TYPE_CHECKING

import pytest

from tests.contract.children import Child
from tests.contract.engines import Engine
from tests.contract.mails import LANE, NOW, addresses, mail, new_lease, queue, recipients, states, tagged, take, text_of
from workers.spool.accept import Submission
from workers.spool.claims import NEVER, SMALL_BYTES, Mail, Result, body_parts, next_due_at, ranks, settle
from workers.spool.recovery import leave, recover
from workers.store.leases import LEASE_S, RENEW_S, LeaseLost, boot_time, owners

if TYPE_CHECKING:
    from workers.store.database import Database

Start = Callable[..., Child]


@pytest.fixture
def database(engine: Engine) -> Iterator[Database]:
    opened = engine.connect()
    yield opened
    opened.close()


def wanted(address: str, priority: int = 5, send_at: float = 0.0) -> Submission:
    one = mail(address)
    one.priority = priority
    one.send_at = send_at
    return one


def write(database: Database, mails: list[Mail], state: str, due_at: float = 0.0) -> set[int]:
    """Settles all recipients of the mails; the ids that could be written."""
    results = [Result(each, one, state, 1, 0, due_at, "451 later") for one in mails for each in one.recipients]
    return database.transact(lambda transaction: settle(transaction, results, NOW))


def age_leases(engine: Engine) -> None:
    """Nobody has renewed for long."""
    engine.look("UPDATE mail_owner SET expires_at = 1")


def test_several_claimers_at_a_time_take_each_recipient_once(engine: Engine, start: Start, database: Database) -> None:
    queue(database, *(tagged(f"{number}-0") for number in range(150)))
    children = [start("claim_all", most, per_mail) for most, per_mail in ((1, 1), (4, 2), (7, 100), (7, 2))]
    assert {child.hear() for child in children} == {"ready"}
    for child in children:
        child.say()
    claimed = [tuple(pair) for child in children for batch in child.hear_all() for pair in batch]
    rows = engine.look("SELECT id FROM mail_recipient")
    assert sorted(claimed) == sorted((id_, 1) for (id_,) in rows)
    assert len(rows) == 450
    numbers = engine.look("SELECT DISTINCT claim FROM mail_recipient WHERE state = 'sending'")
    assert {claim >> 32 for (claim,) in numbers} <= {id_ for (id_,) in engine.look("SELECT id FROM mail_owner")}


def test_a_claimed_mail_comes_with_its_envelope_and_its_body(database: Database) -> None:
    queue(database, *(tagged(f"a-{number}") for number in range(4)))
    mails = take(database, new_lease(database), per_mail=2)
    assert [len(each.recipients) for each in mails] == [2, 1] * 4
    for place, each in enumerate(mails):
        text = text_of(f"a-{place // 2}")
        assert (each.sender, each.created_at, each.expires_at) == ("s@example.org", NOW, NOW + 1e6)
        assert (each.size_bytes, each.body) == (len(text), text if len(text) <= SMALL_BYTES else None)
        assert b"".join(body_parts(database, each)) == text  # type: ignore[arg-type]


def test_each_rank_comes_in_its_turn_priority_then_fresh_before_deferred_then_age(database: Database) -> None:
    lease = new_lease(database)
    for priority in (9, 0, 5):
        queue(database, wanted(f"deferred {priority}", priority), wanted(f"deferred later {priority}", priority))
    for each in take(database, lease):
        write(database, [each], "deferred", due_at=20.0 if "later" in each.recipients[0].address else 10.0)
    for priority in (5, 9, 0):
        queue(database, wanted(f"fresh {priority}", priority), wanted(f"fresh after {priority}", priority))
    turn = [f"{what} {priority}" for priority in (0, 5, 9) for what in ("fresh", "fresh after", "deferred", "deferred later")]
    assert database.transact(partial(ranks, lane=LANE)) == [(n, state) for n in (0, 5, 9) for state in ("queued", "deferred")]
    assert addresses(take(database, lease, 3)) == turn[:3], "one claim goes over several ranks"
    assert [addresses(take(database, lease, 1)) for _ in turn[3:]] == [[address] for address in turn[3:]]
    assert take(database, lease) == []


def test_nothing_is_claimed_before_its_time(database: Database) -> None:
    lease = new_lease(database)
    queue(database, wanted("early", send_at=NOW + 5), wanted("late", send_at=NOW + 9), wanted("urgent and late", 0, NOW + 8))
    assert take(database, lease, now=NOW + 4.9) == []
    assert database.transact(partial(next_due_at, lane=LANE)) == NOW + 5
    assert addresses(take(database, lease, now=NOW + 5)) == ["early"]
    assert database.transact(partial(next_due_at, lane=LANE)) == NOW + 8
    assert addresses(take(database, lease, now=NOW + 9)) == ["urgent and late", "late"]
    assert database.transact(partial(next_due_at, lane=LANE)) is None


def test_what_waits_for_a_person_is_never_due(database: Database) -> None:
    lease = new_lease(database)
    queue(database, mail("a@x"))
    write(database, take(database, lease), "unknown", due_at=NEVER)
    assert take(database, lease, now=8e15) == []
    assert database.transact(partial(next_due_at, lane=LANE)) is None


def test_a_claim_takes_from_its_lane_only(database: Database) -> None:
    lease = new_lease(database)
    queue(database, mail("a@x", lane="route:x"), mail("b@x", lane="relay"), mail("c@x", lane="route:x"))
    assert addresses(take(database, lease, lane="route:x")) == ["a@x", "c@x"]
    assert addresses(take(database, lease, lane="relay")) == ["b@x"]
    assert database.run("sender.lanes") == []


def test_attempts_are_counted_by_the_claim_and_failures_by_the_result(database: Database) -> None:
    lease = new_lease(database)
    queue(database, mail("a@x"))
    for number in range(3):
        mails = take(database, lease)
        assert [(each.attempts, each.failures) for each in recipients(mails)] == [(number + 1, min(number, 1))]
        write(database, mails, "deferred")


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
    engine.look(f"UPDATE mail_owner SET expires_at = 1 WHERE id = {lease.owner.id}")
    database.transact(partial(recover, path=engine.notes, watcher=successor.owner, hold=False))
    queue(database, mail("a@x"))
    lease.owner.expires_at = boot_time() - 1  # it stood still for so long
    with pytest.raises(LeaseLost):
        take(database, lease)
    assert states(engine)["a@x"] == ("queued", 0)
    assert not lease.lasts()
    with pytest.raises(LeaseLost):
        database.transact(lease.renew)
    database.transact(lease.register)
    assert addresses(take(database, lease)) == ["a@x"]


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
