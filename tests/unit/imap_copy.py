"""The local side of the convergence tests: the lives of a worker, accidents, and what must hold."""

from __future__ import annotations

import os
import sqlite3
import time
from contextlib import closing, suppress

from tests.unit.imap_faults import KILL, SLICE, Disk, Fate, FragileBooks, InlineThread, Killed
from tests.unit.imap_session import FakeSession
from tests.unit.imap_world import Server
from workers.imap import archive
from workers.imap.account import clear_strays, has_moved, look
from workers.imap.archive import REMOVED, Root, name_of
from workers.imap.books import Folder, Row
from workers.imap.download import Caution
from workers.imap.folder import FolderPass, Outcome
from workers.imap.letters import flag_text, parse, unix
from workers.imap.names import folder_path
from workers.imap.trouble import Declined, Trouble
from workers.mail.imap_config import Account
from workers.store.database import StoreError
from workers.store.durable import sync_folder

NAME = "me@x"


class Process:
    """One life of the worker, for one account. Its disk is the module global `os` of the archive: one process at a time."""

    def __init__(self, home: str, server: Server) -> None:
        self.server = server
        self.fate = Fate()
        self.disk = Disk(self.fate)
        for name, value in (("os", self.disk), ("sync_folder", self.disk.sync_folder)):
            setattr(archive, name, value)
        self.root = Root(os.path.join(home, "mail"))
        self.root.syncer.sync = self.disk.sync  # type: ignore[method-assign]
        self.books = FragileBooks(os.path.join(home, "imap.db"), self.fate)
        self.account = Account(name=NAME, host="h")
        row, folders = self.books.accounts([NAME])[NAME]
        self.key: int = row[0]
        self.folders: dict[int, Folder] = {each.id: each for each in folders}
        self.looked = False
        self.cautions: dict[int, Caution] = {}
        self.daily = False  # whether a full pass is the first of its day
        self.commands = -1  # that fetch messages, before others want their turn; -1 is any number

    def session(self, races: dict[int, tuple[str, int, int, int]] | None = None, style: int = 0) -> FakeSession:
        """A new connection."""
        session = FakeSession(self.server, self.fate.step, style=style)
        session.races = dict(races or {})
        return session

    def run(self, session: FakeSession, *, full: bool) -> list[Outcome]:
        """A look and a pass of each folder that has moved. Raises what they raise, but for a folder that is gone."""
        found = look(session, self.root, self.books, self.account, self.key, list(self.folders.values()), 100)
        self.folders = found.folders
        if not self.looked:
            clear_strays(self.root, self.account, found.folders.values())
            self.looked = True
        wanted = [
            each
            for each in found.folders.values()
            if full or not each.clean or has_moved(each, found.states.get(each.id), session)
        ]
        return [outcome for each in wanted if (outcome := self.bring(session, each, full=full)) is not None]

    def push(self, session: FakeSession, *, full: bool) -> list[Outcome]:
        """Passes of the folders that are known, without a look."""
        known = list(self.folders.values())
        return [outcome for each in known if (outcome := self.bring(session, each, full=full)) is not None]

    def bring(self, session: FakeSession, each: Folder, *, full: bool) -> Outcome | None:
        """A pass of a folder; None when the server says No."""
        box = self.root.box(NAME, each.path)
        caution = self.cautions.setdefault(each.id, Caution())
        each.full_at = 0.0 if self.daily else time.time()
        try:
            return FolderPass(session, box, self.books, each, self.key, caution).run(
                full=full, enough=self._enough, most_bytes=1e9
            )
        except Declined:
            return None

    def _enough(self) -> bool:
        self.commands -= self.commands > 0
        return self.commands == 0

    def close(self) -> None:
        """Its end."""
        self.books.close()
        self.root.close()
        for name, value in (("os", os), ("sync_folder", sync_folder)):
            setattr(archive, name, value)


class Copy:
    """What is on disk, over the lives of processes."""

    def __init__(self, home: str, server: Server) -> None:
        self.home = home
        self.server = server
        self.process: Process | None = None
        self.ever: set[bytes] = set()  # content that was in a folder, and that no accident has taken

    def live(self) -> Process:
        """The process; a new one when there is none."""
        if self.process is None:
            self.process = Process(self.home, self.server)
        return self.process

    def die(self) -> None:
        """Without a word: what it had in hand is gone with it."""
        if self.process is not None:
            self.process.fate.dead = True
            self.process.close()
            self.process = None

    def disturbed(self, how: tuple[int, str, bool, bool, int], races: dict[int, tuple[str, int, int, int]]) -> None:
        """A pass that is cut at a step, by the end of the process or a fault."""
        at, kind, full, pushed, style = how
        process = self.live()
        process.fate.set(0 if kind == SLICE else at, kind)
        process.commands = 2 + at % 3 if kind == SLICE else -1
        before = self.messages()
        session = process.session(races, style)
        InlineThread.lazy = bool(style & 8)
        process.daily = bool(style & 16)
        try:
            with suppress(Trouble, StoreError, OSError):
                (process.push if pushed and process.folders else process.run)(session, full=full)
        except Killed:
            self.die()
        assert not process.disk.torn, "renamed before it was synced"
        process.fate.set(0, KILL)
        process.commands = -1
        self.note(before)

    def note(self, before: dict[tuple[str, int, int], bytes]) -> None:
        """What was on disk before a pass, and is on the server, is on disk; what is gone from there is in .removed."""
        now = self.messages()
        there = {
            (process_path(name), box.epoch, uid): each.content
            for name, box in self.server.boxes.items()
            for uid, each in box.messages.items()
        }
        for key, content in before.items():
            if there.get(key) == content:
                assert now.get(key) == content or content in self.removed(), f"lost: {key}"
        self.ever |= set(now.values())
        kept = set(now.values()) | self.removed()
        assert self.ever <= kept, f"gone without a trace: {self.ever - kept}"

    def files(self) -> list[str]:
        """All message files of the account, of .removed too; anything elsewhere is a mistake."""
        found = []
        for top, _, names in os.walk(self.home):
            for name in names:
                path = os.path.join(top, name)
                if top == self.home:
                    assert name.startswith("imap.db"), path
                else:
                    assert path.startswith(os.path.join(self.home, "mail", NAME) + os.sep), path
                    found.append(path)
        return found

    def messages(self) -> dict[tuple[str, int, int], bytes]:
        """The content of all messages in folders, by folder, epoch and UID."""
        found = {}
        for path in self.files():
            where = os.path.relpath(path, os.path.join(self.home, "mail", NAME)).split(os.sep)
            if where[0] != REMOVED and where[1] in ("cur", "new"):
                name = parse(where[2] if ":2," in where[2] else f"{where[2]}:2,")
                assert name is not None, path
                key = where[0], name.epoch, name.uid
                assert key not in found, f"doubled: {path}"
                found[key] = content_of(path)
        return found

    def removed(self) -> set[bytes]:
        """What is in .removed."""
        mark = os.sep + REMOVED + os.sep
        return {content_of(path) for path in self.files() if mark in path}

    def accident(self, what: str, first: int) -> None:
        """Something happens to our files, the process living or not."""
        current = sorted(
            path for path in self.files() if f"{os.sep}{REMOVED}{os.sep}" not in path and f"{os.sep}cur{os.sep}" in path
        )
        path = current[first % len(current)] if current else ""
        if what == "delete" and path:
            content = content_of(path)
            os.unlink(path)
            if content not in set(self.messages().values()) | self.removed():
                self.ever.discard(content)
        elif what == "letters" and path:
            os.rename(path, path.partition(":2,")[0] + (":2,", ":2,FS", ":2,aT")[first % 3])
        elif what == "new" and path:
            name = os.path.basename(path)
            base = name.partition(":2,")[0] if first % 2 else name
            os.rename(path, os.path.join(os.path.dirname(os.path.dirname(path)), "new", base))
        elif what == "tmp" and path:
            self.die()  # only one that died leaves something
            tmp = os.path.join(os.path.dirname(os.path.dirname(path)), "tmp", f"imap-sync.1.{first}")
            with open(tmp, "wb") as file:
                file.write(b"half")
        elif what in ("forget", "garbage", "rows", "row"):
            self.die()
            self._spoil_books(what, first)
        elif what == "restart":
            self.die()

    def _spoil_books(self, what: str, first: int) -> None:
        path = os.path.join(self.home, "imap.db")
        if not os.path.exists(path):
            return
        if what in ("forget", "garbage"):
            for suffix in ("-wal", "-shm", ""):
                if os.path.exists(path + suffix):
                    os.unlink(path + suffix)
            if what == "garbage":
                with open(path, "wb") as file:
                    file.write(b"no database at all, but long enough to look like one\n" * 100)
            return
        some = f" WHERE uid % 3 = {first % 3}" if what == "row" else ""
        with closing(sqlite3.connect(path)) as database, suppress(sqlite3.DatabaseError):
            database.execute(f"DELETE FROM imap_message{some}")
            database.commit()

    def converge(self, *, full: bool = True) -> None:
        """Undisturbed passes, `full`: everything compared; then all is equal, and there is nothing more to do."""
        contradictions = 0
        process = self.live()
        process.daily = full
        for _ in range(2):
            before = self.messages()
            for each in process.run(process.session(), full=full):
                contradictions += bool(each.contradiction)
            self.note(before)
        assert contradictions < 2  # the server never lies here; what came in an earlier pass unannounced may look like it, once
        self.check()
        for whole in (False, True):
            for session in (process.session(), process.session()):
                for each in process.run(session, full=whole) + process.push(session, full=whole):
                    assert (each.fetched, each.flagged, each.expunged, each.healed) == (0, 0, 0, 0)
                    assert not each.more
                    assert not each.contradiction
        self.check()

    def check(self) -> None:
        """Files and rows are what the server has, in content, letters and flags; nothing else lies about."""
        process = self.live()
        wanted: dict[str, bytes] = {}
        rows: set[tuple[str, int, int, str]] = set()
        for name, box in self.server.boxes.items():
            path = process_path(name)
            for uid, each in box.messages.items():
                flags = flag_text(each.flags)
                rows.add((path, box.epoch, uid, flags))
                shape = (uid, len(each.content), unix(each.date), flags)
                wanted[os.path.join(path, "cur", name_of(box.epoch, shape))] = each.content
        account = os.path.join(self.home, "mail", NAME)
        found = {os.path.relpath(path, account): content_of(path) for path in self.files()}
        assert {path: each for path, each in found.items() if not path.startswith(REMOVED)} == wanted
        mine: list[tuple[str, int, int, str]] = []
        for each_folder in process.books.folders(process.key):
            held: list[tuple[int, Row]] = list(process.books.each(each_folder))
            mine += [(each_folder.path, epoch, row.uid, row.flags) for epoch, row in held]
            assert each_folder.held == len(held)
            assert process.books.poison(each_folder) == {}
        assert sorted(mine) == sorted(rows)
        folders = {each for each in os.listdir(account) if each != REMOVED} if os.path.isdir(account) else set()
        assert folders == {process_path(name) for name in self.server.boxes}


def process_path(name: bytes) -> str:
    """The folder on disk."""
    return folder_path(name, b"/")


def content_of(path: str) -> bytes:
    """Of a file."""
    with open(path, "rb") as file:
        return file.read()
