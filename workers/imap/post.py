"""The outbox of an account in the main thread's eyes: which folder it is, what is not sent yet, and when to look again."""

from __future__ import annotations

import time

from workers.imap import names, schedule
from workers.imap.books import Folder
from workers.imap.trouble import Trouble

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable

    from workers.imap.account import Found
    from workers.imap.jobs import Env
    from workers.imap.member import Member
    from workers.imap.spooling import Spooling
    from workers.mail.imap_config import Account

OUTBOX = -1  # in place of a folder's id, among tasks
UNSENT = -2  # in place of a folder's id, among problems: what a person has to put right, or nothing is sent
MOST_RETRY_S = 60.0


class Outbox(Folder):
    """The folder as the last pass of the outbox has seen it: not the one of the archive, which may leave it out."""

    __slots__ = ()

    def __init__(self, name: bytes, delimiter: bytes | None) -> None:
        self.id = OUTBOX
        self.name = self.listed = name  # as the server writes it
        self.delimiter = delimiter
        self.path = names.folder_path(name, delimiter)
        self.epoch = self.uidnext = self.modseq = self.messages = self.held = 0
        self.clean = False


class Post:
    """Of an account that has an outbox. `folder` is None while the server has none of that name."""

    __slots__ = ("_account", "_failures", "archived", "ear_at", "folder", "is_missed", "is_unchecked", "open", "retry_at", "sent")

    def __init__(self, account: Account) -> None:
        self._account = account
        self.folder: Outbox | None = None
        self.archived: int | None = None  # the id that the archive has for it
        self.sent = b""
        self.open: frozenset[str] = frozenset()  # identifiers of letters in the spool
        self.is_unchecked = False  # the spool was not asked about them yet
        self.is_missed = False  # that it is missing was told
        self.retry_at = 0.0  # monotonic; 0: nothing failed
        self.ear_at = 0.0  # monotonic: when a second connection may be opened to listen to it
        self._failures = 0

    def take(self, found: Found) -> bool:
        """Takes the names that a look has found; whether the outbox has to be opened, as far as it is known to be another."""
        listed = found.outbox
        self.sent = found.sent or (names.raw_name(self._account.sent or "", listed.delimiter) if listed is not None else b"")
        if listed is None or listed.said == self.sent:
            self.folder = None
            return False
        self.archived = next((each.id for each in found.folders.values() if each.name == listed.name), None)
        if self.folder is not None and self.folder.name == listed.said:
            return False
        self.folder = Outbox(listed.said, listed.delimiter)
        return True

    def went_well(self, still_open: frozenset[str]) -> None:
        """A pass has come to its end."""
        self.retry_at, self._failures = 0.0, 0
        self.open, self.is_unchecked = still_open, bool(still_open)

    def went_wrong(self, now: float, jitter: float) -> None:
        """A pass has failed: another one follows, ever later."""
        self._failures += 1
        self.retry_at = now + min(MOST_RETRY_S, schedule.backoff_s(self._failures, jitter))


class SpoolWatch:
    """Looks, about once a second, whether letters that are open came to their end. Without any it does nothing at all."""

    def __init__(self, env: Env) -> None:
        self._env = env
        self._spooling: Spooling | None = None
        self._database = ""
        self._changes = -1

    def tick(self, members: Iterable[Member]) -> None:
        """Gives work to the accounts for which there is some."""
        now = time.monotonic()
        waiting = []
        for member in members:
            post = member.post
            if post is None or post.folder is None or OUTBOX in member.tasks or OUTBOX in member.running:
                continue
            if post.retry_at:
                if now >= post.retry_at:
                    member.want(OUTBOX, schedule.SEND)
            elif post.open:
                waiting.append(member)
        if not waiting:
            self.close()
        else:
            try:
                self._look(waiting)
            except Trouble:  # a pass of the outbox meets it too, and tells
                self.close()
                for member in waiting:
                    member.want(OUTBOX, schedule.SEND)

    def close(self) -> None:
        """Lets the spool go."""
        if self._spooling is not None:
            self._spooling.close()
            self._spooling = None

    def _look(self, waiting: list[Member]) -> None:
        config = self._env.config
        if config is None:
            return
        if self._database != config.database:
            self.close()
        if self._spooling is None:
            from workers.imap.spooling import Spooling

            self._spooling, self._database, self._changes = Spooling(config), config.database, -1
        changes = self._spooling.changes()
        for member in waiting:
            post = member.post
            if post is None or (changes == self._changes and not post.is_unchecked):
                continue
            post.is_unchecked = False
            if not all(self._spooling.is_open(each) for each in post.open):
                member.want(OUTBOX, schedule.SEND)
        self._changes = changes
