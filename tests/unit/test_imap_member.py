"""An account: what is done next, and when it rests."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import cast

import pytest

from workers.imap.books import Books
from workers.imap.jobs import Job
from workers.imap.member import DISK_S, Member
from workers.imap.schedule import HIGH, LOW, NORMAL, PUSHED, REST, SEND
from workers.imap.trouble import AUTH, DISK, SECRET, SERVER, TLS, Lost, Trouble
from workers.mail.imap_config import Account, Imap

FAR = 1e12
LOOK = 0


@pytest.fixture
def books(tmp_path: Path) -> Iterator[Books]:
    opened = Books(str(tmp_path / "imap.db"))
    yield opened
    opened.close()


@pytest.fixture
def member(books: Books, tmp_path: Path) -> Member:
    return made(books, tmp_path)


def made(books: Books, tmp_path: Path) -> Member:
    account = Account(name="me@x", host="h")
    account.password_file = str(tmp_path / "password")
    return Member(account, Imap(str(tmp_path)), *books.accounts(["me@x"])["me@x"], lambda *_: None)


def runs(member: Member, folder: int) -> None:
    member.running[folder] = cast(Job, None)


def chosen(member: Member, now: float = 1.0) -> int | None:
    found = member.next_task(now)
    return None if found is None else found[2]


def test_at_first_it_looks_and_then_there_is_nothing(member: Member) -> None:
    assert member.next_task(1.0) == (HIGH, 0.0, LOOK)
    member.visit = cast(Job, object())
    assert member.next_task(1.0) is None
    member.visit, member.look_at = None, FAR
    assert member.next_task(1.0) is None
    assert member.is_in_step
    member.ask(1)
    assert (chosen(member), member.is_in_step) == (LOOK, False)


def test_the_most_urgent_is_first_and_of_equals_the_older(member: Member) -> None:
    member.look_at = FAR
    for folder, priority in ((1, REST), (2, LOW), (3, NORMAL), (4, HIGH), (5, NORMAL), (6, SEND), (7, PUSHED)):
        member.want(folder, priority)
        member.tasks[folder].since = 100.0 - folder
    order = []
    while (first := chosen(member)) is not None:
        order.append(first)
        del member.tasks[first]
    assert order == [6, 7, 4, 5, 3, 2, 1]


def test_what_was_pushed_goes_before_a_look_and_all_else_behind_it(member: Member) -> None:
    for priority in (HIGH, NORMAL, LOW, REST):
        member.want(1, priority)
        assert chosen(member) == LOOK
        member.tasks.clear()
    for priority in (PUSHED, SEND):
        member.want(1, priority)
        assert chosen(member) == 1
        member.tasks.clear()


def test_a_look_is_alone(member: Member) -> None:
    runs(member, 3)
    member.want(1, NORMAL)
    assert chosen(member) is None
    member.want(2, PUSHED)
    assert chosen(member) == 2
    member.running.clear()
    del member.tasks[2]
    assert chosen(member) == LOOK


def test_a_folder_is_in_one_thread(member: Member) -> None:
    member.look_at = FAR
    member.want(1, PUSHED)
    member.want(2, LOW)
    runs(member, 1)
    assert chosen(member) == 2
    runs(member, 2)
    assert chosen(member) is None
    assert not member.is_in_step
    member.running.clear()
    assert chosen(member) == 1


def test_two_wishes_for_a_folder_are_one(member: Member) -> None:
    member.want(1, NORMAL)
    since = member.tasks[1].since
    member.want(1, LOW, full=True)
    assert (member.tasks[1].priority, member.tasks[1].full, member.tasks[1].since) == (NORMAL, True, since)
    member.want(1, PUSHED)
    assert (member.tasks[1].priority, member.tasks[1].full) == (PUSHED, True)
    assert len(member.tasks) == 1


def test_it_rests_after_a_trouble_and_then_goes_on(member: Member) -> None:
    member.want(1, SEND)
    pause_s = member.rests(Lost("gone"), 100.0, 0.0)
    assert (member.kind, member.problem, member.failures) == ("network", "gone", 1)
    assert chosen(member, 100.0) is None
    assert chosen(member, 100.0 + pause_s - 0.01) is None
    assert chosen(member, 100.0 + pause_s) == 1
    member.well()
    assert (member.kind, member.problem, member.failures, member.until) == ("", "", 0, 0.0)
    assert chosen(member, 100.0) == 1


def test_each_failure_rests_longer_until_it_was_well(member: Member) -> None:
    pauses = [member.rests(Lost("gone"), 0.0, 0.5) for _ in range(20)]
    assert pauses == sorted(pauses)
    assert (pauses[0], pauses[-1]) == (1.5, 900.0)
    member.token_refused = True
    member.well()
    assert not member.token_refused
    assert member.rests(Lost("gone"), 0.0, 0.5) == 1.5


@pytest.mark.parametrize("kind", [AUTH, TLS, SECRET])
def test_what_a_person_has_to_mend_rests_for_long(member: Member, kind: str) -> None:
    member.imap.auth_pause_s = 1234.0
    assert member.rests(Trouble(kind, "no"), 0.0, 0.0) == 1234.0
    assert member.rests(Trouble(kind, "no"), 0.0, 1.0) == 1234.0


def test_a_full_disk_is_looked_at_each_minute(member: Member) -> None:
    assert max(member.rests(Trouble(DISK, "full"), 0.0, 1.0) for _ in range(20)) == DISK_S


def test_the_server_may_ask_for_more_patience(member: Member) -> None:
    assert member.rests(Trouble(SERVER, "throttled", 300.0), 0.0, 0.5) == 300.0
    for _ in range(20):
        member.rests(Trouble(SERVER, "busy"), 0.0, 0.5)
    assert member.rests(Trouble(SERVER, "throttled", 300.0), 0.0, 0.5) == 900.0


def test_a_new_password_is_noticed(member: Member, tmp_path: Path) -> None:
    from workers.imap.keys import stamp

    member.rests(Trouble(AUTH, "wrong"), 0.0, 0.0)
    assert member.secret_stamp == stamp(member.account)
    (tmp_path / "password").write_text("better")
    assert member.secret_stamp != stamp(member.account)


def test_presence_is_what_the_database_says_until_it_ends(books: Books, tmp_path: Path) -> None:
    member = made(books, tmp_path)
    assert not member.is_present
    books.run("present", (time.time() + 1000, "me@x"))
    assert made(books, tmp_path).is_present
    books.run("present", (time.time() - 1, "me@x"))
    assert not made(books, tmp_path).is_present


def test_connections_are_limited_by_the_account_or_by_all(member: Member) -> None:
    assert member.most_connections == member.imap.per_user
    member.account.per_user = 2
    assert member.most_connections == 2


def test_a_new_member_knows_its_folders_and_what_was_asked_of_it(books: Books, tmp_path: Path) -> None:
    first = made(books, tmp_path)
    books.run("add_folder", (first.key, b"INBOX", b"/", "INBOX", None))
    books.run("ask", ("me@x",))
    books.run("demote", ("NOTIFY QRESYNC", first.key))
    second = made(books, tmp_path)
    assert [each.path for each in second.folders.values()] == ["INBOX"]
    assert (second.key, second.asked, second.answered) == (first.key, 1, 0)
    assert second.demoted == {"NOTIFY", "QRESYNC"}


def test_what_is_known_of_failed_fetches_stays_with_the_folder(books: Books, tmp_path: Path) -> None:
    member = made(books, tmp_path)
    for name in (b"a", b"b"):
        books.run("add_folder", (member.key, name, b"/", name.decode(), None))
    one, other = books.folders(member.key)
    assert member.caution(one) is member.caution(books.folders(member.key)[0])
    assert member.caution(one) is not member.caution(other)


def test_debug_lines_carry_the_accounts_id(books: Books, tmp_path: Path) -> None:
    lines: list[tuple[str, int]] = []
    account = Account(name="me@x", host="h")
    account.id, account.log_level = 4711, "debug"
    row, folders = books.accounts(["me@x"])["me@x"]
    member = Member(account, Imap(str(tmp_path)), row, folders, lambda text, number: lines.append((text, number)))
    assert member.debug is not None
    member.debug("> NOOP")
    assert lines == [("> NOOP", 4711)]
    account.log_level = None
    assert Member(account, Imap(str(tmp_path)), row, folders, lambda *_: None).debug is None


def test_work_for_a_folder_that_is_gone_is_over(member: Member) -> None:
    member.look_at = FAR
    member.want(7, HIGH)
    member.want(-1, SEND)
    member.owed = {7}
    member.folder_problems[7] = "no"
    member.take_folders({})
    assert (chosen(member), member.owed, member.folder_problems) == (-1, set(), {})
