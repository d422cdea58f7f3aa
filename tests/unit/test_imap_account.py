"""Folders that are new, renamed, gone: only what is surely the same folder is taken for it."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.unit.imap_copy import Process
from tests.unit.imap_session import FakeSession
from tests.unit.imap_world import CONDSTORE, PLAIN, QRESYNC, Server, internal_date
from workers.imap.account import Found, clear_strays, has_moved, look
from workers.imap.answers import Listed
from workers.imap.archive import REMOVED
from workers.imap.trouble import Lost, Trouble


class World:
    """A server with INBOX and `a`, both in step here."""

    def __init__(self, home: str, *, identities: bool = False, tier: str = QRESYNC) -> None:
        self.server = Server(tier, identities=identities)
        self.server.create(b"a")
        for box in self.server.boxes.values():
            for _ in range(3):
                box.add(self.server.message(0))
        self.process = Process(home, self.server)
        self.process.run(self.process.session(), full=False)
        self.server.sent_bytes = 0
        self.account = os.path.join(home, "mail", "me@x")

    def look(self, session: FakeSession | None = None) -> Found:
        process = self.process
        known = list(process.folders.values())
        found = look(session or process.session(), process.root, process.books, process.account, process.key, known, 100)
        process.folders = found.folders
        return found

    def on_disk(self) -> dict[str, int]:
        return {name: len(os.listdir(os.path.join(self.account, name, "cur"))) for name in self.folders()}

    def folders(self) -> list[str]:
        return sorted(name for name in os.listdir(self.account) if name != REMOVED)

    def removed(self, name: str) -> int:
        path = os.path.join(self.account, REMOVED, name, "cur")
        return len(os.listdir(path)) if os.path.isdir(path) else 0

    def rename(self) -> None:
        self.server.boxes[b"b"] = self.server.boxes.pop(b"a")


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    made = World(str(tmp_path))
    yield made
    made.process.close()


@pytest.fixture
def known_by_id(tmp_path: Path) -> Iterator[World]:
    made = World(str(tmp_path), identities=True)
    yield made
    made.process.close()


def test_a_look_tells_states_and_moves_nothing(world: World) -> None:
    before = world.process.folders
    found = world.look()
    assert found.said == []
    assert {key: id(each) for key, each in found.folders.items()} == {key: id(each) for key, each in before.items()}
    assert {found.folders[key].name: each.messages for key, each in found.states.items()} == {b"INBOX": 3, b"a": 3}


def test_a_renamed_folder_keeps_its_messages_and_its_id(world: World) -> None:
    (old,) = [each for each in world.process.folders.values() if each.name == b"a"]
    world.rename()
    found = world.look()
    assert found.folders[old.id].name == b"b"
    assert (world.on_disk(), world.removed("a")) == ({"INBOX": 3, "b": 3}, 0)
    assert found.said == [("folder a is now b", old.id)]
    world.process.run(world.process.session(), full=True)
    assert (world.on_disk(), world.server.sent_bytes) == ({"INBOX": 3, "b": 3}, 0)
    assert [each.path for each in world.process.books.folders(world.process.key)] == ["INBOX", "b"]


def test_the_same_numbers_with_other_messages_are_another_folder(world: World) -> None:
    box = world.server.boxes.pop(b"a")
    other = world.server.create(b"b")
    other.epoch = box.epoch
    for _ in range(3):
        other.add(world.server.message(0))
    assert (other.uidnext, len(other.messages)) == (box.uidnext, len(box.messages))
    world.look()
    assert (world.folders(), world.removed("a")) == (["INBOX"], 3)
    world.process.run(world.process.session(), full=False)
    assert world.on_disk() == {"INBOX": 3, "b": 3}
    assert world.server.sent_bytes > 0


@pytest.mark.parametrize("what", ["size", "date", "first", "last"])
def test_each_probed_message_has_to_match(world: World, what: str) -> None:
    world.rename()
    box = world.server.boxes[b"b"]
    message = box.messages[1 if what == "first" else 3]
    if what == "date":
        message.date = internal_date(50)
    else:
        message.content += b"x"
    assert [text for text, _ in world.look().said] == ["folder a is gone from the server: 3 messages moved to .removed"]


@pytest.mark.parametrize("change", ["epoch", "uidnext", "messages"])
def test_other_numbers_are_another_folder(world: World, change: str) -> None:
    world.rename()
    box = world.server.boxes[b"b"]
    if change == "epoch":
        box.epoch += 1
    elif change == "uidnext":
        box.uidnext += 1
    else:
        del box.messages[2]
    world.look()
    assert (world.folders(), world.removed("a")) == (["INBOX"], 3)


def test_two_folders_that_are_alike_are_told_apart_by_their_messages(world: World) -> None:
    a, c = world.server.boxes[b"a"], world.server.create(b"c")
    c.epoch = a.epoch
    for _ in range(3):
        c.add(world.server.message(0))
    world.process.run(world.process.session(), full=False)
    world.server.sent_bytes = 0
    world.server.boxes[b"x"], world.server.boxes[b"y"] = world.server.boxes.pop(b"c"), world.server.boxes.pop(b"a")
    found = world.look()
    assert sorted(text for text, _ in found.said) == ["folder a is now y", "folder c is now x"]
    world.process.run(world.process.session(), full=True)
    assert (world.server.sent_bytes, world.on_disk()) == (0, {"INBOX": 3, "x": 3, "y": 3})


def test_an_empty_folder_is_nobodys(world: World) -> None:
    world.server.create(b"e")
    world.process.run(world.process.session(), full=False)
    world.server.boxes[b"f"] = world.server.boxes.pop(b"e")
    assert "folder e is gone from the server: 0 messages moved to .removed" in [text for text, _ in world.look().said]


def test_a_mailbox_id_is_proof_enough_and_another_one_is_disproof(known_by_id: World) -> None:
    world = known_by_id
    world.rename()
    world.server.boxes[b"b"].add(world.server.message(0))  # the numbers do not meet any more
    assert [text for text, _ in world.look().said] == ["folder a is now b"]
    world.server.boxes[b"c"] = world.server.boxes.pop(b"b")
    world.server.boxes[b"c"].identity = b"another"
    assert [text for text, _ in world.look().said] == ["folder b is gone from the server: 3 messages moved to .removed"]


def test_a_place_that_is_taken_is_not_overwritten(world: World) -> None:
    taken = os.path.join(world.account, "b", "cur")
    os.makedirs(taken)
    with open(os.path.join(taken, "1.foreign"), "wb"):
        pass
    world.rename()
    world.look()
    assert os.listdir(taken) == ["1.foreign"]
    assert world.removed("a") == 3


def test_a_deleted_folder_goes_to_removed_with_its_rows(world: World) -> None:
    (gone,) = [each for each in world.process.folders.values() if each.name == b"a"]
    del world.server.boxes[b"a"]
    found = world.look()
    assert gone.id not in found.folders
    assert (world.folders(), world.removed("a")) == (["INBOX"], 3)
    assert list(world.process.books.each(gone)) == []
    assert [each.name for each in world.process.books.folders(world.process.key)] == [b"INBOX"]


def test_a_folder_left_out_by_the_config_goes_to_removed_and_says_why(world: World) -> None:
    world.process.account.folders = ["*", "!a"]
    assert [text for text, _ in world.look().said] == ["folder a is not copied any more: 3 messages moved to .removed"]


def test_a_server_that_lists_nothing_is_not_believed(world: World) -> None:
    class Silent(FakeSession):
        def folders(self, most: int) -> list[Listed]:
            return []

    with pytest.raises(Trouble, match="no folder at all"):
        world.look(Silent(world.server, lambda _: None))
    assert world.on_disk() == {"INBOX": 3, "a": 3}


def test_a_look_that_failed_in_between_is_made_again(world: World) -> None:
    world.server.create(b"b")
    world.server.create(b"c")
    world.process.fate.set(4, "lost")
    with pytest.raises(Exception, match="no space"):
        world.look()
    world.process.fate.set(0, "lost")
    assert sorted(each.name for each in world.look().folders.values()) == [b"INBOX", b"a", b"b", b"c"]


def test_a_connection_lost_while_probing_renames_nothing(world: World) -> None:
    world.rename()

    class Dying(FakeSession):
        def facts(self, words: bytes) -> list[object]:  # type: ignore[override]
            raise Lost("gone")

    with pytest.raises(Lost):
        world.look(Dying(world.server, lambda _: None))
    assert world.on_disk() == {"INBOX": 3, "a": 3}
    assert [text for text, _ in world.look().said] == ["folder a is now b"]


def test_what_can_not_be_opened_is_no_folder(world: World) -> None:
    assert b"[x]" not in [each.name for each in world.look().folders.values()]


def test_a_list_that_can_not_be_read_in_full_takes_no_folder_away(world: World) -> None:
    before = world.look().folders
    del world.server.boxes[b"a"]
    session = world.process.session()
    session.unread_folders = 1
    found = world.look(session)
    assert found.folders.keys() == before.keys()
    assert ("INBOX" in world.folders(), "a" in world.folders(), world.removed("a")) == (True, True, 0)
    assert any("can't be read" in text for text, _ in found.said)
    assert len(world.look().folders) == len(before) - 1


def test_strays_on_disk_go_to_removed(world: World) -> None:
    stray = os.path.join(world.account, "Stray")
    for name in ("cur", "new", "tmp"):
        os.makedirs(os.path.join(stray, name))
    with open(os.path.join(stray, "cur", "5.V1U2.imap-sync,S=3:2,"), "wb"):
        pass
    os.makedirs(os.path.join(world.account, "no-maildir"))
    said = clear_strays(world.process.root, world.process.account, world.look().folders.values())
    assert len(said) == 1
    assert (world.folders(), world.removed("Stray")) == (["INBOX", "a", "no-maildir"], 1)


@pytest.mark.parametrize("tier", [QRESYNC, CONDSTORE, PLAIN])
def test_a_folder_is_opened_unless_its_state_proves_that_it_need_not_be(tier: str, tmp_path: Path) -> None:
    world = World(str(tmp_path), tier=tier)
    try:
        found = world.look()
        session = world.process.session()
        for key, folder in found.folders.items():
            assert has_moved(folder, found.states[key], session) is (tier == PLAIN)
            assert has_moved(folder, None, session)
        world.server.boxes[b"a"].flag(1, (b"kw",))
        found = world.look()
        moved = [folder.name for key, folder in found.folders.items() if has_moved(folder, found.states[key], session)]
        assert moved == ([b"INBOX", b"a"] if tier == PLAIN else [b"a"])
    finally:
        world.process.close()
