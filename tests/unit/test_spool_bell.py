"""The bell between enqueuers and the sender."""

from __future__ import annotations

import select
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import posix_ipc
import pytest

from workers.spool.bell import Bell, bell_name, ring


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


def test_the_queue_goes_with_the_sender_and_one_left_behind_is_taken_over(database: str) -> None:
    killed = Bell(database)
    ring(database)
    successor = Bell(database)
    assert rung(successor)
    successor.close()
    with pytest.raises(posix_ipc.ExistentialError):
        posix_ipc.MessageQueue(bell_name(database))
    killed.close()


def test_a_queue_that_was_taken_away_is_made_anew(bell: Bell, database: str) -> None:
    posix_ipc.unlink_message_queue(bell_name(database))
    bell.hush()
    ring(database)
    assert rung(bell)


def test_without_message_queues_the_sender_looks_more_often_and_says_so(database: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any, **__: Any) -> None:
        raise posix_ipc.Error("no message queues")

    monkeypatch.setattr(posix_ipc, "MessageQueue", refuse)
    bell = Bell(database)
    assert (bell.fd, bell.slow_poll_s, bell.problem) == (None, 1.0, "no message queues")
    bell.hush()
    bell.close()
    ring(database)


def test_each_database_has_its_own_bell(database: str, tmp_path: Path) -> None:
    other = tmp_path / "other.db"
    other.touch()
    name = bell_name(database)
    assert name != bell_name(str(other))
    (tmp_path / "spool.db").rename(tmp_path / "moved.db")
    assert name == bell_name(str(tmp_path / "moved.db")), "it follows the file"
