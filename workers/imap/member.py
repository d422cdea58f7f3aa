"""An account in the worker's eyes: its connections, what is to be done for it, and why it rests."""

from __future__ import annotations

import time

from workers.imap import schedule
from workers.imap.download import Caution
from workers.imap.keys import stamp
from workers.imap.post import Post
from workers.imap.trouble import AUTH, DISK, SECRET, TLS

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from workers.imap.books import Folder
    from workers.imap.jobs import Job
    from workers.imap.keys import Stamp
    from workers.imap.session import Session
    from workers.imap.trouble import Trouble
    from workers.mail.imap_config import Account, Imap


DISK_S = 60.0  # between two looks for space


class Task:
    """A folder that is to be brought in step: how urgent, since when, and whether everything is compared."""

    __slots__ = ("full", "priority", "since")

    def __init__(self, priority: int, *, full: bool) -> None:
        self.priority = priority
        self.full = full
        self.since = time.monotonic()


class Member:
    """All of it is touched by the main thread alone, but for `caution` and `debug`, which jobs use."""

    def __init__(
        self, account: Account, imap: Imap, row: tuple[Any, ...], folders: list[Folder], debug: Callable[[str, int], None]
    ) -> None:
        """`row` and `folders` as Books.accounts gives them."""
        self.account = account
        self.imap = imap
        self.key: int = row[0]
        self.demoted = frozenset(row[1].split())
        self.present_until: float = row[2]
        self.debug_until: float = row[3]
        self.asked: int = row[4]
        self.answered: int = row[5] if row[5] < row[4] else row[4]
        self.looked = self.answered  # the pass of the last look
        self.looked_at = 0.0  # Unix seconds
        self.owed: set[int] = set()  # folders that the look of that pass wanted, and that are not done
        self.id = account.id if account.id is not None else self.key
        self.folders: dict[int, Folder] = {folder.id: folder for folder in folders}
        self.tasks: dict[int, Task] = {}
        self.look_at = 0.0  # monotonic: when the folders are looked at next
        self.visit: Job | None = None  # the look, or the watch, that is in hand
        self.running: dict[int, Job] = {}  # folders in threads
        self.fresh: list[Session] = []  # back from a job, and not yet at rest
        self.sessions: list[Session] = []  # at rest
        self.connections = 0
        self.until = 0.0  # monotonic: rests until then
        self.rested_at = 0.0  # monotonic: when that began
        self.asked_at = self.unreached_at = 0.0  # monotonic: the last wish of a command; the last try of its host that failed
        self.failures = 0
        self.kind = ""
        self.problem = ""
        self.secret_stamp = stamp(account)
        self.synced_at = 0.0
        self.mode = "none"
        self.told: tuple[object, ...] = ()
        self.losses = 0  # connections lost in a row in passes of folders
        self.cuts = 0  # connections in a row that ended soon after they were put to rest
        self.token_refused = False
        self.contradictions: set[str] = set()  # extensions with which the server contradicted itself once
        self.folder_problems: dict[int, str] = {}
        self.hollow: dict[int, int] = {}  # folders of which news came that were none, and how often in a row
        self.post = Post(account) if account.outbox is not None else None
        self._cautions: dict[int, Caution] = {}
        self._say = debug
        self._level = account.log_level or imap.log_level
        self.debug: Callable[[str], None] | None = None
        self.set_debug()

    @property
    def is_present(self) -> bool:
        """Whether its user is here."""
        return self.present_until > time.time()

    @property
    def looking(self) -> bool:
        """Whether a thread does what has to be alone."""
        return self.visit is not None

    @property
    def most_connections(self) -> int:
        """How many connections it may have."""
        return self.account.per_user or self.imap.per_user

    @property
    def is_in_step(self) -> bool:
        """Whether nothing is to be done now."""
        return not self.tasks and not self.running and not self.looking and self.look_at > time.monotonic()

    def set_debug(self) -> None:
        """Takes the level of the log that is in force for it."""
        on = self._level == "debug" or self.debug_until > time.time()
        self.debug = self._debug_line if on else None
        for session in (*self.sessions, *self.fresh):
            session.connection.debug = self.debug
        for job in (*self.running.values(), self.visit):
            if job is not None and job.session is not None:
                job.session.connection.debug = self.debug

    def _debug_line(self, text: str) -> None:
        self._say(text, self.id)

    def caution(self, folder: Folder) -> Caution:
        """What is known of a folder's failed fetches."""
        return self._cautions.setdefault(folder.id, Caution())

    def ask(self, number: int) -> None:
        """A pass is wanted now, the one of this number."""
        self.asked, self.asked_at = number, time.monotonic()
        self.look_at = self.until = 0.0

    def want(self, folder: int, priority: int, *, full: bool = False) -> None:
        """A folder is to be brought in step; the more urgent of two wishes counts."""
        task = self.tasks.get(folder)
        if task is None:
            self.tasks[folder] = Task(priority, full=full)
            return
        task.priority = min(task.priority, priority)
        task.full |= full

    def take_folders(self, folders: dict[int, Folder]) -> None:
        """The folders as they are now; what was to be done for others is over."""
        self.folders = folders
        for number in [each for each in self.tasks if each > 0 and each not in folders]:
            del self.tasks[number]
            self.owed.discard(number)
        for number in [each for each in self.folder_problems if each > 0 and each not in folders]:
            del self.folder_problems[number]

    def next_task(self, now: float, *, looks: bool = True) -> tuple[int, float, int] | None:
        """The most urgent thing to do: priority, since when, and a folder or 0 for a look; None when there is nothing to do."""
        if self.until > now or self.looking:
            return None
        free = [(task.priority, task.since, folder) for folder, task in self.tasks.items() if folder not in self.running]
        first = min(free) if free else None
        if self.look_at > now or (first is not None and (not looks or first[0] <= schedule.PUSHED)):
            return first
        return None if self.running else (schedule.HIGH, self.look_at, 0)  # a look may rename folders, so it is alone

    def rests(
        self, trouble: Trouble, now: float, jitter: float, *, shown: Stamp | None = None, unreachable: bool = False
    ) -> float:
        """Takes a trouble down; how long it rests.

        `shown`: the stamp of the secret that the server saw, when it saw one. `unreachable`: the host did not answer, and is
        asked as often as ever.
        """
        self.failures += 1
        self.kind, self.problem = trouble.kind, str(trouble)
        if trouble.kind in (AUTH, TLS, SECRET):
            pause = self.imap.auth_pause_s
        else:
            pause = max(schedule.backoff_s(self.failures, jitter), trouble.retry_s or 0.0)
            if trouble.kind == DISK:
                pause = min(pause, DISK_S)
            elif unreachable:
                pause = min(pause, max(schedule.PROBE_S, trouble.retry_s or 0.0))
        self.secret_stamp = shown or stamp(self.account)
        self.until, self.rested_at = now + pause, now
        return pause

    def well(self) -> None:
        """It was reached."""
        self.failures = 0
        self.token_refused = False
        self.kind = self.problem = ""
        self.until = 0.0
