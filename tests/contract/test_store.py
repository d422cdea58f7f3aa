"""Accepted = committed and synced, whole or not at all, however many accept and whoever is killed."""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING

import pytest

from tests.contract.children import Child
from tests.contract.engines import Engine
from tests.contract.mails import NOW, SIZES_BYTES, mail, queue, states, tagged, text_of, whole_mails
from workers.spool.accept import PART_BYTES, Submission, accept
from workers.store.database import CONSTRAINT, OTHER, StoreError

if TYPE_CHECKING:
    from workers.store.database import Transaction

Start = Callable[..., Child]
ENQUEUERS = 8
ROUNDS = 6


def test_an_accepted_mail_is_there_with_all_its_parts_and_recipients(engine: Engine) -> None:
    database = engine.connect()
    ids = queue(database, *(tagged(f"a-{number}") for number in range(len(SIZES_BYTES))))
    database.close()
    assert whole_mails(engine) == {id_: f"a-{number}" for number, id_ in enumerate(ids)}
    counts = dict(engine.look("SELECT mail_id, count(*) FROM mail_body GROUP BY mail_id"))
    assert [counts[id_] for id_ in ids] == [1, 1, 1, 3]
    assert len(text_of("a-2")) == PART_BYTES, "the biggest that is one part"
    assert set(states(engine).values()) == {("queued", 0)}


def test_a_transaction_that_fails_leaves_nothing_and_the_next_one_works(engine: Engine) -> None:
    database = engine.connect()
    bad = tagged("bad-0")
    bad.recipients[2] = None  # type: ignore[call-overload]
    with pytest.raises(StoreError) as raised:
        queue(database, tagged("good-0"), bad)
    assert raised.value.kind == CONSTRAINT
    assert whole_mails(engine) == {}
    ids = queue(database, tagged("good-0"))
    database.close()
    assert list(whole_mails(engine)) == ids


def test_a_work_that_raises_leaves_nothing_and_its_error_comes_through(engine: Engine) -> None:
    def work(transaction: Transaction) -> None:
        accept(transaction, [tagged("a-0")], NOW)
        raise ZeroDivisionError

    database = engine.connect()
    with pytest.raises(ZeroDivisionError):
        database.transact(work)
    database.close()
    assert whole_mails(engine) == {}


def test_what_waits_for_the_commit_is_done_behind_it_and_never_without_it(engine: Engine) -> None:
    done: list[tuple[str, int]] = []

    def work(transaction: Transaction, name: str, *, fails: bool) -> None:
        accept(transaction, [tagged(f"{name}-0")], NOW)
        transaction.on_commit(lambda: done.append((name, len(whole_mails(engine)))))
        if fails:
            raise ZeroDivisionError

    database = engine.connect()
    with pytest.raises(ZeroDivisionError):
        database.transact(partial(work, name="rolled back", fails=True))
    database.transact(partial(work, name="first", fails=False))
    database.transact(partial(work, name="second", fails=False))
    database.close()
    assert done == [("first", 1), ("second", 2)]


def test_nobody_sees_a_mail_before_it_is_committed(engine: Engine) -> None:
    def work(transaction: Transaction) -> int:
        accept(transaction, [tagged("a-3")], NOW)
        return len(whole_mails(engine))

    database = engine.connect()
    assert database.transact(work) == 0
    database.close()
    assert len(whole_mails(engine)) == 1


def test_what_was_reported_is_whole_after_sigkill_at_random_moments(engine: Engine, start: Start) -> None:
    engine.connect().close()
    reported: dict[int, str] = {}
    killed = 0
    for number in range(ROUNDS):
        children = [start("accept_for_ever", f"{number}.{each}") for each in range(3)]
        for child in children:
            for _ in range(random.randint(1, 12)):
                id_, tag = child.hear()
                reported[id_] = tag
            time.sleep(random.random() / 100)  # so that it is killed anywhere, and not always right behind a report
            child.kill()
            killed += 1
        for child in children:
            reported.update(child.hear_all())
    found = whole_mails(engine)
    assert reported.items() <= found.items()
    assert len(found) - len(reported) <= killed, "each may have been killed between its commit and its report"


def test_a_mail_that_could_not_be_synced_is_not_accepted(engine: Engine, start: Start) -> None:
    if "sync" not in engine.faults:
        pytest.skip("this engine's syncs can't be made to fail here")
    child = start("accept_without_sync", "a")
    id_, tag = child.hear()
    assert child.hear() == OTHER
    assert child.hear() is None
    found = whole_mails(engine)
    assert found.pop(id_) == tag
    assert set(found.values()) <= {"a-1"}, "an error leaves it whole or not at all"
    database = engine.connect()
    [later] = queue(database, tagged("b-0"))
    database.close()
    assert whole_mails(engine)[later] == "b-0", "it goes on by itself when syncs succeed again"


def test_eight_enqueuers_at_a_time_lose_and_mix_nothing(engine: Engine, start: Start) -> None:
    children = [start("accept_some", each, 25) for each in range(ENQUEUERS)]
    assert {child.hear() for child in children} == {"ready"}
    for child in children:
        child.say()
    reported = [(id_, tag) for child in children for id_, tag in child.hear_all()]
    assert len(reported) == ENQUEUERS * 25
    assert dict(reported) == whole_mails(engine)


def test_ids_grow_and_none_is_given_twice_even_when_the_last_mail_is_gone(engine: Engine) -> None:
    database = engine.connect()
    first, second = queue(database, mail("a@x"), mail("b@x"))
    for table, column in (("mail_recipient", "mail_id"), ("mail_body", "mail_id"), ("mail_message", "id")):
        engine.look(f"DELETE FROM {table} WHERE {column} = {second}")
    [third] = queue(database, mail("c@x"))
    database.close()
    assert first < second < third


def test_an_identifier_is_queued_once_in_one_transaction_and_in_several(engine: Engine) -> None:
    def named(address: str, identifier: str | None) -> Submission:
        one = mail(address)
        one.identifier = identifier
        return one

    database = engine.connect()
    before = queue(database, named("a@x", "one"), named("b@x", "one"), named("c@x", None), named("d@x", None))
    after = queue(database, named("e@x", "two"), named("f@x", "one"), named("g@x", "two"))
    database.close()
    assert before[0] == before[1] == after[1]
    assert after[0] == after[2]
    assert len({*before, *after}) == 4
    assert set(states(engine)) == {"a@x", "c@x", "d@x", "e@x"}


def test_an_identifier_is_queued_once_by_eight_enqueuers_at_a_time(engine: Engine, start: Start) -> None:
    children = [start("accept_identifiers", each, 20) for each in range(ENQUEUERS)]
    assert {child.hear() for child in children} == {"ready"}
    for child in children:
        child.say()
    told: dict[int, set[int]] = {}
    for child in children:
        lines = child.hear_all()
        assert len(lines) == 20
        for number, id_ in lines:
            told.setdefault(number, set()).add(id_)
    rows = engine.look("SELECT identifier, id FROM mail_message")
    assert sorted(rows) == sorted((f"once {number}", id_) for number, ids in told.items() for id_ in ids)
    assert len(rows) == 20
    assert len(states(engine)) == 20
