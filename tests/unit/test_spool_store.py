"""The spool's database: claims, results, recovery."""

from __future__ import annotations

import sqlite3
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest

from workers.mail.errors import Refused
from workers.spool.store import MOST_RECIPIENTS, Mail, Settled, Store, store_refused


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    opened = Store(str(tmp_path / "mail" / "spool.db"))
    yield opened
    opened.close()


def add(store: Store, *recipients: str, now: float = 100.0) -> int:
    return store.accept("s@x", recipients or ("a@x",), "<id>", b"body\r\n", now, 1000.0)


def settle(store: Store, mail: Mail, state: str, *, due_at: float = 0.0, now: float = 200.0) -> None:
    store.settle(mail.id, [Settled(recipient, state, 1, due_at, "words") for recipient in mail.recipients], now)


def states(store: Store) -> list[tuple[str, str, int]]:
    return [(row["address"], row["state"], row["unknowns"]) for row in store.recipients(sent_too=True)]


def claimed(store: Store, now: float, boot_id: str = "boot") -> Mail:
    mail = store.claim(boot_id, now)
    assert mail is not None
    return mail


def test_what_was_accepted_is_claimed_whole_and_once(store: Store) -> None:
    mail_id = add(store, "a@x", "b@x")
    mail = claimed(store, 100.0)
    assert (mail.id, mail.sender, mail.body, mail.created_at, mail.expires_at) == (mail_id, "s@x", b"body\r\n", 100.0, 1100.0)
    assert [(recipient.address, recipient.attempts) for recipient in mail.recipients] == [("a@x", 1), ("b@x", 1)]
    assert store.claim("boot", 100.0) is None
    assert store.count_unsent() == 2


def test_a_claim_takes_no_more_recipients_than_any_relay_must(store: Store) -> None:
    add(store, *(f"{number}@x" for number in range(MOST_RECIPIENTS + 1)))
    assert len(claimed(store, 100.0).recipients) == MOST_RECIPIENTS
    assert len(claimed(store, 100.0).recipients) == 1


def test_a_deferred_one_waits_and_fresh_mail_overtakes_it(store: Store) -> None:
    first = add(store)
    settle(store, claimed(store, 100.0), "deferred", due_at=150.0)
    assert store.claim("boot", 149.0) is None
    assert store.next_due_at() == 150.0
    second = add(store, now=151.0)
    assert [claimed(store, 160.0).id, claimed(store, 160.0).id] == [second, first]


def test_a_time_due_that_no_rule_gives_is_due_now(store: Store) -> None:
    add(store)
    settle(store, claimed(store, 100.0), "deferred", due_at=99_999.0)
    assert claimed(store, 100.0).recipients[0].attempts == 2


def test_a_body_goes_when_all_are_sent_and_stays_for_a_failed_one(store: Store, tmp_path: Path) -> None:
    add(store)
    settle(store, claimed(store, 100.0), "sent")
    add(store)
    settle(store, claimed(store, 100.0), "failed")
    assert states(store) == [("a@x", "sent", 0), ("a@x", "failed", 0)]
    assert store.count_unsent() == 0
    other = sqlite3.connect(tmp_path / "mail" / "spool.db")
    assert other.execute("SELECT mail_id FROM mail_body").fetchall() == [(2,)]
    other.close()


def test_a_claim_before_the_dot_is_due_again_after_the_senders_death(store: Store) -> None:
    add(store)
    claimed(store, 100.0)
    assert store.recover("boot", 200.0) == (0, 1)
    assert states(store) == [("a@x", "deferred", 0)]
    assert claimed(store, 200.0).recipients[0].attempts == 2


def test_a_claim_past_the_dot_is_unknown_and_counted(store: Store) -> None:
    add(store)
    store.note_past_dot(claimed(store, 100.0).recipients)
    assert store.recover("boot", 200.0) == (1, 0)
    assert states(store) == [("a@x", "unknown", 1)]
    again = claimed(store, 200.0)
    assert store.recover("boot", 300.0) == (0, 1), "the new claim has not reached its dot"
    settle(store, again, "sent")
    assert states(store) == [("a@x", "sent", 1)]


def test_after_a_reboot_every_claim_counts_as_past_the_dot(store: Store) -> None:
    add(store)
    claimed(store, 100.0, "boot before")
    assert store.recover("boot", 200.0) == (1, 0)


def test_only_what_is_past_its_age_expires(store: Store) -> None:
    add(store, now=100.0)
    add(store, now=500.0)
    assert store.expire("relay is down", 1200.0) == [(1, "a@x")]
    assert [row["state"] for row in store.recipients(sent_too=True)] == ["expired", "queued"]
    assert store.expire("relay is down", 1200.0) == []


def test_a_transaction_that_fails_leaves_nothing(store: Store) -> None:
    with pytest.raises(sqlite3.Error):
        store.accept("s@x", ["a@x", None], "<id>", b"body", 1.0, 1.0)  # type: ignore[list-item]
    assert store.recipients(sent_too=True) == []
    assert add(store) == 1


def test_the_database_is_for_its_owner_only_and_durable(store: Store, tmp_path: Path) -> None:
    add(store)
    assert stat.S_IMODE((tmp_path / "mail").stat().st_mode) == 0o700
    for path in (tmp_path / "mail").iterdir():
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
    other = sqlite3.connect(tmp_path / "mail" / "spool.db")
    assert other.execute("PRAGMA journal_mode").fetchone() == ("wal",)
    assert other.execute("PRAGMA user_version").fetchone() == (1,)
    other.close()
    assert store._db.execute("PRAGMA synchronous").fetchone() == (2,)


def test_synchronous_is_full_again_after_a_note(store: Store) -> None:
    add(store)
    store.note_past_dot(claimed(store, 100.0).recipients)
    assert store._db.execute("PRAGMA synchronous").fetchone() == (2,)


def test_a_newer_schema_is_refused_with_both_numbers(store: Store, tmp_path: Path) -> None:
    other = sqlite3.connect(tmp_path / "mail" / "spool.db")
    other.execute("PRAGMA user_version=7")
    other.close()
    with pytest.raises(Refused, match=r"schema 7.* 1"):
        Store(str(tmp_path / "mail" / "spool.db"))


@pytest.mark.parametrize(("code", "status"), [(5, 75), (261, 75), (13, 75), (10, 74), (778, 74), (11, 74), (8, 77), (14, 77)])
def test_errors_of_sqlite_become_exit_statuses(code: int, status: int) -> None:
    error = sqlite3.OperationalError("words")
    error.sqlite_errorcode = code
    refused = store_refused("/spool.db", error)
    assert refused.status == status
    assert "/spool.db" in str(refused)
