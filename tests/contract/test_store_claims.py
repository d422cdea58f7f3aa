"""Claims: no recipient twice, each rank in its turn, nothing before its time."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING

from tests.contract.children import Child
from tests.contract.engines import Engine
from tests.contract.mails import LANE, NOW, addresses, mail, new_lease, queue, recipients, tagged, take, text_of, write
from workers.spool.accept import Submission
from workers.spool.claims import NEVER, RELANED, SMALL_BYTES, Mail, body_parts, next_due_at, ranks, relane

if TYPE_CHECKING:
    from workers.store.database import Database

Start = Callable[..., Child]


ROW = ("id", "sender", "size_bytes", "eight_bit", "long_lines", "created_at", "expires_at", "body")


def wanted(address: str, priority: int = 5, send_at: float = 0.0) -> Submission:
    one = mail(address)
    one.priority = priority
    one.send_at = send_at
    return one


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


def test_the_recipients_of_a_mail_are_claimed_together_as_far_as_they_go_into_one(database: Database) -> None:
    lease = new_lease(database)
    queue(database, mail("a@x", "b@x", "c@x"), mail("d@x", "e@x"), mail("f@x"))
    assert addresses(take(database, lease, 1)) == ["a@x", "b@x", "c@x"]
    assert addresses(take(database, lease, 1, per_mail=1)) == ["d@x"]
    assert [addresses([each]) for each in take(database, lease, 2)] == [["e@x"], ["f@x"]]


def test_a_recipient_that_waits_is_not_claimed_with_the_rest_of_its_mail(database: Database) -> None:
    lease = new_lease(database)
    queue(database, mail("a@x", "b@x"))
    [both] = take(database, lease)
    later = Mail(both.claim, [getattr(both, name) for name in ROW], both.recipients[1:])
    both.recipients.pop()
    write(database, [both], "deferred", due_at=NOW)
    write(database, [later], "deferred", due_at=NOW + 100)
    assert addresses(take(database, lease, now=NOW + 99)) == ["a@x"]
    assert addresses(take(database, lease, now=NOW + 100)) == ["b@x"]


def test_a_claim_takes_from_its_lane_only(database: Database) -> None:
    lease = new_lease(database)
    queue(database, mail("a@x", lane="route:x"), mail("b@x", lane="relay"), mail("c@x", lane="route:x"))
    assert addresses(take(database, lease, lane="route:x")) == ["a@x", "c@x"]
    assert addresses(take(database, lease, lane="relay")) == ["b@x"]
    assert database.run("sender.lanes") == []


def test_waiting_rows_of_a_lane_find_their_way_anew_and_claimed_ones_stay(engine: Engine, database: Database) -> None:
    lease = new_lease(database)
    queue(database, mail("claimed@x", lane="old"))
    claimed = take(database, lease, lane="old")
    queue(database, *(mail(f"{number}@x", sender=f"s{number}@x", lane="old") for number in range(RELANED + 5)))

    def lane_of(sender: str, address: str) -> str:
        assert sender == f"s{address}"
        return "old" if address == "7@x" else "new"

    after, rounds = 0, 0
    while after := database.transact(partial(relane, name="old", after=after, lane_of=lane_of)):
        rounds += 1
    assert rounds == 2, "so many rows are not one transaction"
    assert addresses(take(database, lease, lane="old")) == ["7@x"]
    assert len(take(database, lease, 2 * RELANED, lane="new")) == RELANED + 4
    assert write(database, claimed, "sent")
    assert engine.look("SELECT lane FROM mail_recipient WHERE address = 'claimed@x'") == [("old",)]


def test_attempts_are_counted_by_the_claim_and_failures_by_the_result(database: Database) -> None:
    lease = new_lease(database)
    queue(database, mail("a@x"))
    for number in range(3):
        mails = take(database, lease)
        assert [(each.attempts, each.failures) for each in recipients(mails)] == [(number + 1, min(number, 1))]
        write(database, mails, "deferred")
