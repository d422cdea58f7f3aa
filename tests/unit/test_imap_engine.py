"""The main thread: what follows from what its threads bring back. The threads are the test; all else is the worker's own."""

from __future__ import annotations

import socket
import sqlite3
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from workers.imap.account import Found
from workers.imap.answers import State
from workers.imap.archive import Root
from workers.imap.books import Books, Folder
from workers.imap.engine import HOLLOW, Engine
from workers.imap.folder import Outcome
from workers.imap.jobs import FOLDER, LOOK, WATCH, Env, Job
from workers.imap.keys import Keys, stamp
from workers.imap.limits import Limits
from workers.imap.log import Log
from workers.imap.member import Member
from workers.imap.reports import Reports
from workers.imap.trouble import AUTH, NETWORK, SERVER, Lost, Trouble
from workers.mail.imap_config import Account, Imap


class Stream:
    """A descriptor that a selector takes."""

    has_more = False

    def __init__(self) -> None:
        self.ours, self.theirs = socket.socketpair()

    def fileno(self) -> int:
        return self.ours.fileno()

    def shut(self) -> None:
        self.theirs.close()


class Connection:
    """What is at rest, or in a job."""

    def __init__(self) -> None:
        self.stream = Stream()
        self.debug: object = None
        self.moved_at = 0.0
        self.doing = "NOOP"


class Session:
    """A session that tells of everything by NOTIFY, or has to watch a folder by IDLE."""

    def __init__(self, watching: str = "notify") -> None:
        self.watching = watching
        self.connection = Connection()
        self.selected: bytes | None = None
        self.is_watched = self.looked = self.at_rest = self.news = self.folders_changed = False
        self.rested_at = 0.0
        self.heard_of: dict[bytes, object] = {}
        self.now = State()

    def can(self, _: str) -> bool:
        return False

    def has_news(self) -> bool:
        return False

    def was_flagged(self) -> bool:
        return False

    def is_deaf(self, _: float) -> bool:
        return False

    def start_rest(self) -> None:
        self.at_rest, self.rested_at = True, time.monotonic()

    def renew(self) -> None:
        return

    def close(self, *, politely: bool) -> None:
        self.connection.stream.ours.close()
        self.connection.stream.theirs.close()


class Crew:
    """Threads that do nothing until the test says what came of a job."""

    def __init__(self, threads: int) -> None:
        self.threads = threads
        self.busy: list[Job] = []
        self.ended: list[Job] = []

    def has_room(self, *, urgent: bool = False) -> bool:
        return len(self.busy) < self.threads + 2 * urgent

    def start(self, job: Job) -> None:
        job.started = time.monotonic()
        self.busy.append(job)

    def collect(self) -> list[Job]:
        done, self.ended = self.ended, []
        return done

    def stuck(self, _: float) -> list[Job]:
        return []

    def end(self, _: float) -> None:
        return


class Rig:
    """An engine, its reports, and the hands of its threads."""

    def __init__(self, folder: Path, *accounts: Account, threads: int = 4, push: bool = True) -> None:
        self.imap = Imap(str(folder))
        self.imap.threads = threads
        self.imap.accounts = list(accounts)
        self.database = folder / "imap.db"
        self.books = Books(str(self.database))
        self.root = Root(str(folder / "archive"))
        self.engine = Engine(self.imap, Env(self.root, self.books, Keys(), Limits(), push=push), Log(None))
        self.crew = Crew(threads)
        self.engine.crew = self.crew  # type: ignore[assignment]
        self.reports = Reports(self.engine, None)
        self.engine.add(self.imap.accounts)

    def member(self, name: str = "a") -> Member:
        return self.engine.members[name]

    def step(self) -> None:
        self.engine.step(0.0)
        self.reports.answer()

    def job(self, kind: str, name: str = "a") -> Job:
        """The job that has to be in hand."""
        (found,) = [each for each in self.crew.busy if each.kind == kind and each.member.account.name == name]
        return found

    def jobs(self, name: str = "a") -> list[str]:
        return [each.kind for each in self.crew.busy if each.member.account.name == name]

    def end(self, job: Job, error: Trouble | None = None, *, session: object = None) -> None:
        """What came of a job."""
        if job.opens and (error is None or session is not None):
            job.connected = True
        if error is None and job.session is None:
            job.session = session or Session()  # type: ignore[assignment]
        elif error is not None and error.kind not in (SERVER,):
            if job.session is not None:
                job.session.close(politely=False)
            job.session = None
        job.error = error
        if job.kind == FOLDER and error is None and job.folder is not None:
            job.outcome = Outcome()
            job.folder.synced_at = time.time()
        self.crew.busy.remove(job)
        self.crew.ended.append(job)
        self.step()

    def looked(self, *folders: int, name: str = "a", session: object = None) -> None:
        """A look has found folders of these numbers."""
        job = self.job(LOOK, name)
        job.found = Found()
        job.found.folders = {number: folder(number) for number in folders}
        self.end(job, session=session)

    def written(self, name: str = "a") -> tuple[Any, ...]:
        """State, kind, asked and done, as commands see them."""
        self.books.run("account", (name,))  # behind all that was handed in before
        database = sqlite3.connect(self.database)
        try:
            query = "SELECT state, kind, asked, done FROM imap_account WHERE name = ?"
            return tuple(database.execute(query, (name,)).fetchone())
        finally:
            database.close()

    def ask(self, name: str = "a") -> None:
        """As `imap-sync sync` does, heard of by the worker."""
        number = self.books.run("ask", (name,))[0][0]
        self.reports.wishes(self.member(name), 0.0, 0.0, number)

    def close(self) -> None:
        for job in self.crew.busy:
            if job.session is not None:
                job.session.close(politely=False)
        self.engine.close()
        self.books.close()
        self.root.close()


def folder(number: int) -> Folder:
    name = f"f{number}".encode()
    return Folder((number, name, b"/", name.decode(), 0, 0, 0, 0, 0, None, 0.0, 0.0, 0, 0, 0))


def account(name: str, host: str = "h", **more: object) -> Account:
    made = Account(name=name, host=host)
    for key, value in more.items():
        setattr(made, key, value)
    return made


NewRig = Callable[..., Rig]


@pytest.fixture
def new_rig(tmp_path: Path) -> Iterator[NewRig]:
    made: list[Rig] = []

    def make(*accounts: Account, **more: Any) -> Rig:
        made.append(Rig(tmp_path, *(accounts or (account("a"),)), **more))
        return made[-1]

    yield make
    for each in made:
        each.close()


def test_a_wish_that_comes_during_a_look_has_a_look_of_its_own(new_rig: NewRig) -> None:
    rig = new_rig()
    rig.step()
    rig.ask()
    rig.looked()
    assert rig.written()[2:] == (1, 0)
    rig.step()
    rig.looked()
    assert rig.written()[2:] == (1, 1)


def test_news_of_folders_during_a_look_has_a_look_of_its_own(new_rig: NewRig) -> None:
    rig = new_rig()
    rig.step()
    rig.member().look_at = 0.0
    rig.looked()
    rig.step()
    assert rig.jobs() == [LOOK]


def test_a_wish_from_before_the_worker_began_is_not_answered_before_a_look(tmp_path: Path, new_rig: NewRig) -> None:
    books = Books(str(tmp_path / "imap.db"))
    books.accounts(["a"])
    books.run("ask", ("a",))
    books.close()
    rig = new_rig()
    rig.step()
    assert rig.written()[2:] == (1, 0)
    rig.looked(1)
    assert rig.written()[2:] == (1, 0)  # its folder is not yet in step
    rig.step()
    rig.end(rig.job(FOLDER))
    assert rig.written()[2:] == (1, 1)


def test_folders_of_a_host_that_is_down_hold_no_other_account_up(new_rig: NewRig) -> None:
    rig = new_rig(account("a", "down"), account("b", "up"), threads=1)
    rig.imap.tasks_per_thread = 2
    rig.member("b").look_at = time.monotonic() + 3600
    rig.step()
    rig.looked(1, 2, 3, 4)
    rig.step()
    rig.end(rig.job(FOLDER), Lost("gone"))
    rig.step()
    rig.end(rig.job(FOLDER), Trouble(NETWORK, "can't connect"))
    assert len(rig.member("a").tasks) >= 2
    rig.member("b").look_at = 0.0
    rig.step()
    assert rig.jobs("b") == [LOOK]


def test_a_refused_password_is_not_shown_again_when_another_job_ends_well(new_rig: NewRig) -> None:
    rig = new_rig()
    rig.step()
    rig.looked(1, 2, 3)
    rig.step()
    first = rig.job(FOLDER)
    first.started -= 10  # so long that a second connection may join
    rig.step()
    (second,) = [job for job in rig.crew.busy if job is not first]
    rig.end(second, Trouble(AUTH, "refused"))
    rig.end(first)
    rig.step()
    assert rig.crew.busy == []
    assert (rig.member().kind, rig.member().until > time.monotonic() + 60) == (AUTH, True)


def test_a_folder_that_can_not_be_watched_rests_no_account(new_rig: NewRig) -> None:
    rig = new_rig()
    rig.step()
    rig.looked(session=Session(""))
    rig.step()
    rig.end(rig.job(WATCH), Trouble(SERVER, "NO such mailbox"))
    rig.step()
    member = rig.member()
    assert (member.kind, member.until, member.mode, rig.crew.busy) == ("", 0.0, "poll", [])
    assert member.look_at > time.monotonic() + 60


def test_news_that_are_none_again_and_again_are_asked_for_ever_more_seldom(new_rig: NewRig) -> None:
    rig = new_rig()
    rig.step()
    session = Session()
    session.selected = b"f1"
    rig.looked(1, session=session)
    rig.step()
    rig.end(rig.job(FOLDER))

    def tell() -> list[str]:
        session.news = True
        rig.engine.hub._news(rig.member(), session)  # type: ignore[arg-type]
        rig.step()
        return rig.jobs()

    for _ in range(HOLLOW):
        assert tell() == [FOLDER]
        rig.end(rig.job(FOLDER))
        rig.step()
    assert tell() == []
    assert 1.0 < rig.member().look_at - time.monotonic() < 10.0
    session.now.messages = 1  # new mail
    assert tell() == [FOLDER]


def test_a_bad_folder_proves_that_the_server_was_reached(new_rig: NewRig) -> None:
    rig = new_rig()
    rig.step()
    rig.looked(1)
    rig.step()
    rig.end(rig.job(FOLDER), Trouble(NETWORK, "can't connect"))
    assert rig.member().kind == NETWORK
    rig.member().until = rig.member().look_at = 0.0
    rig.step()
    if LOOK in rig.jobs():
        rig.looked(1)
        rig.step()
    rig.end(rig.job(FOLDER), Trouble(SERVER, "NO"))
    assert (rig.member().kind, rig.member().failures, rig.member().folder_problems) == ("", 0, {1: "NO"})


def test_a_host_that_is_back_is_so_for_accounts_that_were_only_told(new_rig: NewRig) -> None:
    rig = new_rig(account("a"), account("b"))
    rig.member("b").look_at = time.monotonic() + 3600
    rig.step()
    rig.end(rig.job(LOOK), Trouble(NETWORK, "can't connect"))
    assert rig.member("b").kind == NETWORK
    rig.ask()
    rig.step()
    rig.looked()
    assert rig.member("b").kind == ""


def test_a_host_that_was_down_is_asked_before_a_wish_is_answered(new_rig: NewRig) -> None:
    rig = new_rig()
    rig.step()
    rig.end(rig.job(LOOK), Trouble(NETWORK, "can't connect"))
    rig.ask()
    rig.step()
    assert rig.written()[2:] == (1, 0)
    rig.end(rig.job(LOOK), Trouble(NETWORK, "can't connect"))
    assert rig.written()[2:] == (1, 1)


def test_a_password_that_was_mended_while_the_old_one_was_refused_is_noticed(new_rig: NewRig, tmp_path: Path) -> None:
    secret = tmp_path / "pw"
    secret.write_text("old")
    rig = new_rig(account("a", password_file=str(secret)))
    rig.step()
    job = rig.job(LOOK)
    job.shown = stamp(rig.member().account)
    secret.write_text("mended")
    rig.end(job, Trouble(AUTH, "refused"))
    assert rig.member().until > time.monotonic()
    rig.engine.tick()
    rig.step()
    assert rig.jobs() == [LOOK]


def test_an_answer_that_could_not_be_written_is_given_again(new_rig: NewRig) -> None:
    rig = new_rig()
    rig.step()
    rig.ask()
    rig.looked()
    database = sqlite3.connect(rig.database)
    database.executescript("CREATE TRIGGER held BEFORE UPDATE ON imap_account BEGIN SELECT RAISE(FAIL, 'held'); END")
    rig.step()
    rig.looked()
    assert rig.written()[2:] == (1, 0)
    database.executescript("DROP TRIGGER held")
    database.close()
    rig.reports.tick()
    rig.step()
    assert rig.written() == ("in step", "", 1, 1)


def test_the_log_level_of_a_look_in_hand_changes(new_rig: NewRig) -> None:
    rig = new_rig()
    rig.step()
    job = rig.job(LOOK)
    job.session = Session()  # type: ignore[assignment]
    rig.reports.wishes(rig.member(), 0.0, time.time() + 60, 0)
    assert job.session is not None
    assert job.session.connection.debug is not None


def test_after_a_sleep_every_account_is_looked_at_soon(new_rig: NewRig, monkeypatch: pytest.MonkeyPatch) -> None:
    rig = new_rig(account("a"), account("b"))
    for name in ("a", "b"):
        rig.member(name).look_at = time.monotonic() + 3600
    real = time.clock_gettime
    monkeypatch.setattr(time, "clock_gettime", lambda clock: real(clock) + 3600)
    rig.engine.tick()
    assert all(rig.member(name).look_at < time.monotonic() + 15 for name in ("a", "b"))
