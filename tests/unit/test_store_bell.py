"""The bell between enqueuers and the sender."""

from __future__ import annotations

import os
import select
import stat
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import posix_ipc
import pytest

from tests.unit.store_world import as_root, user
from workers.store.bell import Bell, bell_name, ring

OWNER, MEMBER, GROUP = 4711, 4712, 4800


@pytest.fixture
def database(tmp_path: Path) -> str:
    path = tmp_path / "spool.db"
    path.touch()
    return str(path)


@pytest.fixture
def bell(database: str) -> Iterator[Bell]:
    made = Bell(database)
    assert made.problem == ""
    yield made
    made.close()


def rung(bell: Bell) -> bool:
    assert bell.fd is not None
    return bool(select.select([bell.fd], [], [], 0)[0])


def refuse(*_: Any, **__: Any) -> None:
    raise posix_ipc.Error("no message queues")


def test_a_ring_is_seen_on_the_descriptor_until_it_is_hushed(bell: Bell, database: str) -> None:
    assert not rung(bell)
    ring(database)
    assert rung(bell)
    bell.hush()
    assert not rung(bell)
    bell.hush()


def test_ringing_twice_costs_nothing(bell: Bell, database: str) -> None:
    ring(database)
    ring(database)
    bell.hush()
    assert not rung(bell)


def test_ringing_without_a_sender_makes_nothing(database: str) -> None:
    ring(database)
    with pytest.raises(posix_ipc.ExistentialError):
        posix_ipc.MessageQueue(bell_name(database))


def test_ringing_for_a_database_that_is_not_there_does_no_harm(tmp_path: Path) -> None:
    missing = str(tmp_path / "missing.db")
    ring(missing)
    bell = Bell(missing)
    assert bell.fd is None
    assert "No such file" in bell.problem


def test_the_queue_goes_with_the_sender_and_one_left_behind_is_taken_over(database: str) -> None:
    killed = Bell(database)
    ring(database)
    successor = Bell(database)
    assert rung(successor)
    successor.close()
    with pytest.raises(posix_ipc.ExistentialError):
        posix_ipc.MessageQueue(bell_name(database))
    killed.close()
    killed.close()


def test_nothing_is_made_anew_while_the_queue_is_there(bell: Bell, database: str) -> None:
    fd = bell.fd
    assert not bell.check()
    ring(database)
    assert not bell.check()
    assert bell.fd == fd
    assert rung(bell)


def test_a_queue_that_was_taken_away_is_made_anew(bell: Bell, database: str) -> None:
    posix_ipc.unlink_message_queue(bell_name(database))
    ring(database)
    assert not rung(bell), "nobody hears that"
    assert bell.check()
    ring(database)
    assert rung(bell)
    assert not bell.check()


def test_a_queue_that_another_sender_made_meanwhile_is_shared_with_it(bell: Bell, database: str) -> None:
    posix_ipc.unlink_message_queue(bell_name(database))
    other = Bell(database)
    assert bell.check()
    ring(database)
    assert rung(bell)
    assert rung(other)
    bell.hush()
    other.hush()
    other.close()
    assert bell.check(), "its end is seen as well"


def test_a_queue_that_can_not_be_made_anew_is_done_without(bell: Bell, database: str, monkeypatch: pytest.MonkeyPatch) -> None:
    posix_ipc.unlink_message_queue(bell_name(database))
    monkeypatch.setattr(posix_ipc, "MessageQueue", refuse)
    assert bell.check(), "the descriptor has changed"
    assert (bell.fd, bell.problem) == (None, "no message queues")
    assert not bell.check()
    bell.hush()


def test_without_message_queues_the_sender_looks_more_often_and_says_so(database: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(posix_ipc, "MessageQueue", refuse)
    bell = Bell(database)
    assert (bell.fd, bell.problem) == (None, "no message queues")
    bell.hush()
    assert not bell.check()
    bell.close()
    ring(database)


def test_each_database_has_its_own_bell(database: str, tmp_path: Path) -> None:
    other = tmp_path / "other.db"
    other.touch()
    name = bell_name(database)
    assert name != bell_name(str(other))
    (tmp_path / "spool.db").rename(tmp_path / "moved.db")
    assert name == bell_name(str(tmp_path / "moved.db")), "it follows the file"


def test_a_bell_is_for_its_owner_alone(bell: Bell) -> None:
    assert bell.fd is not None
    assert stat.S_IMODE(os.fstat(bell.fd).st_mode) == 0o600


@as_root
def test_a_shared_bell_is_rung_by_the_group_and_by_nobody_else() -> None:
    with tempfile.NamedTemporaryFile() as file:
        os.chmod(file.name, 0o644)
        with user(OWNER, [GROUP]):
            bell = Bell(file.name, GROUP)
        assert bell.fd is not None
        facts = os.fstat(bell.fd)
        assert (facts.st_uid, facts.st_gid, stat.S_IMODE(facts.st_mode)) == (OWNER, GROUP, 0o660)
        with user(MEMBER):
            ring(file.name)
        assert not rung(bell)
        with user(MEMBER, [GROUP]):
            ring(file.name)
        assert rung(bell)
        bell.close()
