"""What one pass of a folder asks for and mends: flags that were missed, dates, UIDs that were given again."""

from __future__ import annotations

import os
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from tests.unit.imap_copy import Copy
from tests.unit.imap_faults import KILL, SLICE, patch
from tests.unit.imap_session import FakeSession
from tests.unit.imap_world import CONDSTORE, FLAGS, PLAIN, QRESYNC, Mailbox, Server, internal_date
from workers.imap.letters import unix

TIERS = (QRESYNC, CONDSTORE, PLAIN)
WHOLE = (0, KILL, False, False, 0)  # a pass that is neither cut nor full


@pytest.fixture(autouse=True)
def small_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    patch(monkeypatch)


class Scene:
    """A server with mail in INBOX, and its copy."""

    def __init__(self, home: Path, tier: str, number: int, *, identities: bool = False) -> None:
        self.home = home
        self.server = Server(tier, identities=identities)
        self.box: Mailbox = self.server.boxes[b"INBOX"]
        self.add(number)
        self.copy = Copy(str(home), self.server)
        self.copy.disturbed(WHOLE, {})
        self.copy.disturbed(WHOLE, {})

    def add(self, number: int) -> None:
        for _ in range(number):
            self.box.add(self.server.message(0))

    def full(self, *, daily: bool) -> None:
        self.copy.disturbed((0, KILL, True, False, 16 if daily else 0), {})

    def dates(self) -> list[int]:
        """Of the rows."""
        with closing(sqlite3.connect(self.home / "imap.db")) as database:
            return [date for (date,) in database.execute("SELECT date FROM imap_message ORDER BY uid")]


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[bytes]:
    """What FETCHes without bodies ask for."""
    found: list[bytes] = []
    facts = FakeSession.facts

    def noted(session: FakeSession, words: bytes) -> Any:
        found.append(words)
        return facts(session, words)

    monkeypatch.setattr(FakeSession, "facts", noted)
    return found


@pytest.mark.parametrize("full", [False, True])
@pytest.mark.parametrize("tier", TIERS)
def test_flags_of_what_a_cut_pass_has_brought_are_not_lost(tier: str, full: bool, tmp_path: Path) -> None:
    scene = Scene(tmp_path, tier, 3)
    scene.add(20)
    scene.copy.disturbed((0, SLICE, False, False, 0), {})
    held = sorted(uid for _, _, uid in scene.copy.messages())
    assert 5 <= held[-1] < 23
    scene.box.flag(5, (b"\\Seen", b"read"))
    scene.copy.disturbed((0, KILL, full, False, 0), {})
    scene.copy.check()
    scene.copy.die()


@pytest.mark.parametrize("tier", TIERS)
def test_the_daily_full_pass_mends_flags_that_nothing_tells_of(tier: str, tmp_path: Path) -> None:
    scene = Scene(tmp_path, tier, 9)
    scene.box.messages[4].flags = (b"\\Flagged", b"unheard")  # without a MODSEQ
    scene.full(daily=True)
    scene.copy.check()
    scene.copy.die()


@pytest.mark.parametrize("tier", [QRESYNC, CONDSTORE])
def test_other_full_passes_do_not_read_all_flags(tier: str, tmp_path: Path, asked: list[bytes]) -> None:
    scene = Scene(tmp_path, tier, 9)
    scene.full(daily=True)
    assert any(b"INTERNALDATE" in words for words in asked)
    asked.clear()
    scene.full(daily=False)
    scene.copy.disturbed(WHOLE, {})
    assert asked == []
    scene.copy.die()


@pytest.mark.parametrize("tier", TIERS)
def test_messages_whose_dates_have_changed_are_not_downloaded_again(tier: str, tmp_path: Path) -> None:
    scene = Scene(tmp_path, tier, 9)
    scene.server.sent_uids.clear()
    for uid, each in scene.box.messages.items():
        each.date = internal_date(3000 + uid)
        each.flags = FLAGS[uid % len(FLAGS)]
    scene.full(daily=True)
    scene.copy.check()
    assert scene.dates() == [unix(internal_date(3000 + uid)) for uid in range(1, 10)]
    assert sorted(os.stat(path).st_mtime for path in scene.copy.files()) == scene.dates()
    assert scene.server.sent_uids == []
    assert scene.copy.removed() == set()
    scene.copy.die()


def test_a_date_that_is_none_says_nothing(tmp_path: Path) -> None:
    scene = Scene(tmp_path, PLAIN, 3)
    dates = scene.dates()
    scene.server.sent_uids.clear()
    scene.box.messages[2].date = b"yesterday"
    scene.full(daily=True)
    assert (scene.dates(), scene.server.sent_uids) == (dates, [])
    scene.copy.die()


@pytest.mark.parametrize("identities", [False, True])
@pytest.mark.parametrize("tier", TIERS)
def test_uids_that_a_restored_server_gives_again_are_seen(tier: str, identities: bool, tmp_path: Path) -> None:
    scene = Scene(tmp_path, tier, 10, identities=identities)
    lost = {scene.box.messages[uid].content for uid in (9, 10)}
    scene.box.restore(2, 0, FLAGS[3])
    assert scene.box.uidnext == 9
    scene.add(5)  # before we look again
    scene.server.sent_uids.clear()
    if tier == PLAIN:  # where nothing tells of it, the day's full pass does
        scene.full(daily=True)
    else:
        scene.copy.disturbed(WHOLE, {})
    scene.copy.check()
    assert scene.copy.removed() == lost
    assert sorted(scene.server.sent_uids) == [9, 10, 11, 12, 13]
    scene.copy.die()


@pytest.mark.parametrize("tier", TIERS)
def test_a_uidnext_that_goes_back_is_seen_at_once(tier: str, tmp_path: Path) -> None:
    scene = Scene(tmp_path, tier, 10)
    scene.box.restore(4, 0, FLAGS[3])
    scene.add(3)
    scene.copy.disturbed(WHOLE, {})
    scene.copy.check()
    scene.copy.die()


@pytest.mark.parametrize("tier", TIERS)
def test_a_pass_cut_while_it_replaces_messages_is_gone_on_with(tier: str, tmp_path: Path) -> None:
    for at in range(1, 90, 2):
        home = tmp_path / str(at)
        home.mkdir()
        scene = Scene(home, tier, 10)
        scene.box.restore(6, 0, FLAGS[3])
        scene.add(7)
        scene.copy.disturbed((at, KILL, tier == PLAIN, False, 16), {})
        scene.add(1)
        for _ in range(2):
            scene.copy.disturbed((0, KILL, tier == PLAIN, False, 16), {})
        scene.copy.check()
        scene.copy.die()


@pytest.mark.parametrize("tier", TIERS)
def test_an_account_made_anew_whose_identities_begin_anew_is_downloaded(tier: str, tmp_path: Path) -> None:
    scene = Scene(tmp_path, tier, 6, identities=True)
    old = {each.content for each in scene.box.messages.values()}
    scene.server.apply(("reborn", 0, 6, 0))
    scene.copy.disturbed(WHOLE, {})
    scene.copy.check()
    assert scene.copy.removed() == old
    scene.copy.die()


@pytest.mark.parametrize("event", ["swap", "remake"])
@pytest.mark.parametrize("tier", TIERS)
def test_another_folder_under_the_same_name_is_seen_by_its_mailboxid(tier: str, event: str, tmp_path: Path) -> None:
    scene = Scene(tmp_path, tier, 6, identities=True)
    scene.server.apply(("make", 0, 0, 6))
    scene.copy.disturbed(WHOLE, {})
    epochs = {name: box.epoch for name, box in scene.server.boxes.items()}
    scene.server.apply((event, 0, 1 if event == "swap" else 6, 1))
    assert {name: box.epoch for name, box in scene.server.boxes.items()} == epochs
    scene.copy.disturbed(WHOLE, {})
    scene.copy.check()
    scene.copy.die()


@pytest.mark.parametrize("tier", TIERS)
def test_a_uid_that_is_given_again_during_the_pass_is_another_message(tier: str, tmp_path: Path) -> None:
    for at in range(4, 14):  # from EXAMINE on
        home = tmp_path / str(at)
        home.mkdir()
        scene = Scene(home, tier, 3)
        scene.box.restore(1, 0, FLAGS[3])
        scene.copy.disturbed(WHOLE, {at: ("append", 0, 0, 0)})
        scene.copy.disturbed(WHOLE, {})
        scene.copy.check()
        scene.copy.die()
