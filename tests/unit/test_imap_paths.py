"""Each folder of an account has a path of its own, whatever delimiters the server tells, and keeps its messages under it."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.unit.imap_copy import Process
from tests.unit.imap_session import FakeSession
from tests.unit.imap_world import QRESYNC, Mailbox, Server
from workers.imap.account import clear_strays, look
from workers.imap.answers import Listed
from workers.imap.archive import REMOVED
from workers.imap.folder import Outcome
from workers.imap.names import folder_path, loosely

PLACE = folder_path(b"a/b", b"/")  # and that of `a.b` with "."


class World:
    """A server whose folders have delimiters of their own ("/" unless told), in the order in which it lists them."""

    def __init__(self, home: Path, *, identities: bool = False) -> None:
        self.home = home
        self.server = Server(QRESYNC, identities=identities)
        self.delimiters: dict[bytes, bytes] = {}
        self.process = Process(str(home), self.server)
        self.account = home / "mail" / "me@x"

    def fill(self, name: bytes, delimiter: bytes = b"/", *, count: int = 3, epoch: int = 100) -> Mailbox:
        """A folder with messages. All have the same UIDVALIDITY unless told: only their paths keep them apart."""
        box = self.server.create(name)
        box.epoch, self.delimiters[name] = epoch, delimiter
        for _ in range(count):
            box.add(self.server.message(0))
        return box

    def rename(self, old: bytes, new: bytes, delimiter: bytes) -> Mailbox:
        self.server.boxes[new] = self.server.boxes.pop(old)
        self.delimiters[new] = delimiter
        return self.server.boxes[new]

    def look(self, *, first: bool = True) -> list[str]:
        """What a look did, and the search for strays behind the first one."""
        process = self.process
        session = Delimited(self, process)
        found = look(session, process.root, process.books, process.account, process.key, list(process.folders.values()), 100)
        process.folders = found.folders
        strays = clear_strays(process.root, process.account, found.folders.values()) if first else []
        return [text for text, _ in found.said] + strays

    def sync(self) -> int:
        """A look and a pass of each folder; how many bytes of content came."""
        before = self.server.sent_bytes
        self.look()
        for folder in self.process.folders.values():
            outcome = self.process.bring(Delimited(self, self.process), folder, full=True)
            assert isinstance(outcome, Outcome)
        return self.server.sent_bytes - before

    def lose_database(self) -> None:
        self.process.close()
        for path in self.home.glob("imap.db*"):
            path.unlink()
        self.process = Process(str(self.home), self.server)

    def paths(self) -> dict[bytes, str]:
        return {each.name: each.path for each in self.process.books.folders(self.process.key)}

    def assert_copied(self) -> None:
        """Each folder's files are the messages of its own, and there are no others."""
        paths = self.paths()
        assert set(paths) == set(self.server.boxes)
        assert {each.name for each in self.account.iterdir()} - {REMOVED} == set(paths.values())
        for name, box in self.server.boxes.items():
            contents = sorted(each.read_bytes() for each in (self.account / paths[name] / "cur").iterdir())
            assert contents == sorted(each.content for each in box.messages.values()), name


class Delimited(FakeSession):
    """A connection that lists folders with the world's delimiters."""

    def __init__(self, world: World, process: Process) -> None:
        super().__init__(world.server, process.fate.step)
        self._world = world

    def folders(self, most: int) -> list[Listed]:
        known = self._world.delimiters
        return [Listed(each.name, known.get(each.name, b"/"), each.attributes) for each in super().folders(most)]


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    made = World(tmp_path)
    yield made
    made.process.close()


def test_another_delimiter_with_the_same_messages_is_the_same_folder(world: World) -> None:
    world.fill(b"a.b", b".")
    world.sync()
    world.rename(b"a.b", b"a/b", b"/")
    assert world.look() == ["folder a.b is now a/b"]
    assert world.sync() == 0
    assert world.paths() == {b"INBOX": "INBOX", b"a/b": PLACE}
    world.assert_copied()
    assert not (world.account / REMOVED).exists()


def test_another_delimiter_and_new_mail_meanwhile_brings_that_mail_alone(world: World) -> None:
    box = world.fill(b"a.b", b".")
    world.sync()
    world.rename(b"a.b", b"a/b", b"/")
    box.add(world.server.message(0))
    assert world.sync() == len(box.messages[4].content)
    world.assert_copied()
    assert not (world.account / REMOVED).exists()


def test_another_delimiter_and_another_uidvalidity_are_matched_by_content(world: World) -> None:
    box = world.fill(b"a.b", b".")
    world.sync()
    world.rename(b"a.b", b"a/b", b"/").renumber(7, [each.copy() for each in box.messages.values()], 2)
    assert world.sync() == 0
    assert world.paths() == {b"INBOX": "INBOX", b"a/b": PLACE}
    world.assert_copied()


def test_another_folder_in_the_place_of_one_that_is_gone_takes_nothing_from_it(world: World) -> None:
    world.fill(b"a.b", b".")
    world.sync()
    del world.server.boxes[b"a.b"]
    world.fill(b"a/b")
    world.sync()
    assert world.paths()[b"a/b"] == PLACE
    world.assert_copied()
    assert len(list((world.account / REMOVED / PLACE / "cur").iterdir())) == 3


def test_a_folder_that_comes_later_gets_another_path(world: World) -> None:
    world.fill(b"a.b", b".")
    world.sync()
    world.fill(b"a/b")
    world.sync()
    assert world.paths() == {b"INBOX": "INBOX", b"a.b": PLACE, b"a/b": folder_path(b"a/b", b"/", hashed=True)}
    world.assert_copied()


@pytest.mark.parametrize("turned", [False, True])
@pytest.mark.parametrize("passed", [False, True])
def test_two_delimiters_in_one_list_and_a_lost_database(world: World, *, turned: bool, passed: bool) -> None:
    world.fill(b"a.b", b".")
    world.sync()
    world.fill(b"a/b")
    world.look()
    if passed:
        world.sync()
    world.lose_database()
    if turned:
        world.server.boxes = dict(reversed(world.server.boxes.items()))
    before = world.paths()
    came = world.sync()
    assert before == {}
    assert came == (0 if passed else sum(len(each.content) for each in world.server.boxes[b"a/b"].messages.values()))
    assert world.paths()[b"a.b"] == PLACE
    world.assert_copied()
    assert not (world.account / REMOVED).exists()


@pytest.mark.parametrize("turned", [False, True])
def test_two_that_come_together_do_both_without_the_path(world: World, *, turned: bool) -> None:
    world.fill(b"a.b", b".")
    world.fill(b"a/b")
    world.sync()
    before = world.paths()
    assert PLACE not in before.values()
    world.lose_database()
    if turned:
        world.server.boxes = dict(reversed(world.server.boxes.items()))
    assert world.sync() == 0
    assert world.paths() == before
    world.assert_copied()


def test_folders_that_swap_their_paths_keep_their_messages(world: World) -> None:
    world.fill(b"a.b", b".", count=3)
    world.fill(b"c.d", b".", count=4)
    world.sync()
    world.rename(b"a.b", b"c/d", b"/")
    world.rename(b"c.d", b"a/b", b"/")
    assert world.sync() == 0
    world.assert_copied()
    assert not (world.account / REMOVED).exists()


def test_a_folder_that_is_excluded_makes_room(world: World) -> None:
    world.fill(b"a.b", b".")
    world.sync()
    world.process.account.folders = ["*", "!a.b"]
    world.delimiters[b"a.b"] = b"~"  # else both are called a/b in the config
    world.fill(b"a/b")
    world.sync()
    assert world.paths() == {b"INBOX": "INBOX", b"a/b": PLACE}


def test_a_name_that_stays_keeps_its_path_under_another_delimiter(world: World) -> None:
    world.fill(b"a.b", b".")
    world.sync()
    world.delimiters[b"a.b"] = b"/"
    world.fill(b"a/b")
    world.sync()
    assert world.paths()[b"a.b"] == PLACE
    assert [each.delimiter for each in world.process.folders.values() if each.name == b"a.b"] == [b"/"]
    world.assert_copied()


def test_what_lies_in_the_way_of_a_rename_leaves_the_path_to_the_new_folder(world: World) -> None:
    world.fill(b"a")
    world.sync()
    taken = world.account / "b" / "cur"
    taken.mkdir(parents=True)
    (taken / "1.foreign").touch()
    world.rename(b"a", b"b", b"/")
    assert world.look() == ["folder a can't be moved to b, where something lies: 3 messages moved to .removed"]
    assert world.paths()[b"b"] == "b"


def test_a_file_system_that_knows_no_case_gets_two_paths(world: World) -> None:
    world.fill(b"Sent")
    world.sync()
    os.symlink("Sent", world.account / "sent")  # so does it look there
    world.fill(b"sent")
    world.look(first=False)
    assert world.paths()[b"sent"] == folder_path(b"sent", b"/", hashed=True)
    os.unlink(world.account / "sent")
    world.sync()
    world.assert_copied()


def test_case_alone_makes_two_paths_elsewhere(world: World) -> None:
    world.fill(b"Sent")
    world.fill(b"sent")
    world.sync()
    assert world.paths() == {b"INBOX": "INBOX", b"Sent": "Sent", b"sent": "sent"}
    world.assert_copied()


@pytest.mark.parametrize(
    ("raw", "delimiter"), [(b"cur", b"/"), (b".removed", b"/"), (b"", b"/"), (b"x" * 400, b"/"), (b"\xff", None)]
)
def test_a_hashed_path_is_a_path_and_nobody_elses(raw: bytes, delimiter: bytes | None) -> None:
    path = folder_path(raw, delimiter, hashed=True)
    assert path[0] not in ".-~ /"
    assert len(path.encode()) <= 180
    assert path.count("~") == 1
    others = [
        folder_path(raw + b"x", delimiter, hashed=True),
        folder_path(path.encode(), delimiter),
        folder_path(b"x" + raw, None),
    ]
    assert path not in others


def test_what_a_file_system_may_take_for_one() -> None:
    assert loosely("Entwu\u0308rfe") == loosely("ENTW\u00dcRFE")
    assert loosely("a") != loosely("b")
