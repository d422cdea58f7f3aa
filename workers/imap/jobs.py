"""What the worker's threads do: one job at a time on a connection that they are handed, blocking, and never for ever."""

from __future__ import annotations

import time

from workers.imap import schedule
from workers.imap.account import Found, clear_strays, look
from workers.imap.excuses import enough_for_now, is_throttling
from workers.imap.folder import FolderPass, Outcome
from workers.imap.greet import open_connection
from workers.imap.keys import stamp
from workers.imap.session import Session
from workers.imap.stream import READ_BYTES
from workers.imap.trouble import DISK, SERVER, Declined, Lost, Trouble
from workers.store.database import BUSY, CONSTRAINT, FULL, StoreError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from workers.imap.archive import Root
    from workers.imap.books import Books, Folder
    from workers.imap.keys import Keys, Stamp
    from workers.imap.limits import Limits
    from workers.imap.member import Member, Task
    from workers.imap.outbox import Posted
    from workers.mail.config import Config

LOOK, FOLDER, WATCH, SEND = "look", "folder", "watch", "send"
SLICE_S = 60.0  # then a pass of a folder lets others have the thread and the connection


class Env:
    """What all jobs share."""

    def __init__(self, root: Root, books: Books, keys: Keys, limits: Limits, *, push: bool, config: Config | None = None) -> None:
        self.root = root
        self.books = books
        self.keys = keys
        self.limits = limits
        self.push = push  # whether connections are to tell of news later on
        self.config = config  # where the spool is; None when there is no outbox


class Job:
    """One piece of work for an account, and what became of it."""

    def __init__(self, kind: str, member: Member, folder: Folder | None = None, task: Task | None = None) -> None:
        self.kind = kind
        self.member = member
        self.folder = folder
        self.full = task is not None and task.full
        self.is_pushed = task is not None and task.priority == schedule.PUSHED
        self.asked = member.asked  # the pass that it is part of
        self.watched: Folder | None = None  # the folder that IDLE is to watch
        self.session: Session | None = None
        self.opens = False  # it opens a connection
        self.shown: Stamp | None = None  # of the password file as it was read for that
        self.connected = False  # that is logged in
        self.found: Found | None = None
        self.outcome: Outcome | None = None
        self.posted: Posted | None = None
        self.error: Trouble | StoreError | None = None
        self.bug: BaseException | None = None
        self.started = time.monotonic()
        self.thread = 0
        self.begun = False  # a thread has it

    def where(self) -> str:
        """Account, folder and command, for those who ask what hangs."""
        doing = self.session.connection.doing if self.session is not None else "connect"
        return " ".join(each for each in (self.member.account.name, self.folder.path if self.folder else "", doing) if each)


def perform(job: Job, env: Env, buffer: bytearray) -> None:
    """Does the job. Whatever happens is told in it; a connection that can't be used any more is closed and gone from it."""
    job.started, job.begun = time.monotonic(), True
    try:
        if job.session is None:
            job.session = _open(job, env, buffer)
        job.session.connection.lend(buffer)
        job.session.end_rest()
        KINDS[job.kind](job, env)
    except Declined as declined:
        passing = is_throttling(declined.code, str(declined))
        job.error = enough_for_now(declined) if passing else Trouble(SERVER, str(declined))
    except StoreError as error:
        if error.kind in (FULL, BUSY):  # as a full disk: what was not written is fetched again
            job.error = Trouble(DISK, str(error))
        elif error.kind == CONSTRAINT:  # what this server says does not fit together: no other account's harm
            job.error = Trouble(SERVER, f"what the server tells can't be written down: {error}")
        else:
            job.error = error
        _close(job)
    except Trouble as error:
        job.error = error
    except OSError as error:
        job.error = Trouble(DISK, f"{error.filename or env.root.path}: {error.strerror or error}")
        _close(job)
    except BaseException as error:
        job.bug = error
        _close(job)
    if isinstance(job.error, Lost) or (isinstance(job.error, Trouble) and job.error.kind not in (SERVER, DISK)):
        _close(job)
    if job.session is not None:
        job.session.connection.lend(None)


def _close(job: Job) -> None:
    if job.session is not None:
        job.session.close(politely=False)
        job.session = None


def _open(job: Job, env: Env, buffer: bytearray) -> Session:
    member = job.member
    session = Session(member.demoted)
    job.session, job.shown = None, stamp(member.account)
    connection = open_connection(
        member.account, env.limits, session.hear, buffer, lambda: env.keys.fetch(member.account), member.debug
    )
    session.connection = connection
    job.session, job.connected = session, True
    connection.debug = member.debug  # it may have changed meanwhile
    session.prepare()
    return session


def _look(job: Job, env: Env) -> None:
    session = _session(job)
    if lack := env.root.lack():
        raise Trouble(DISK, f"{lack}; goes on when there is space")
    if env.push:
        session.notify()
    session.heard_of.clear()
    session.folders_changed = False
    session.looked = True
    member = job.member
    known = list(member.folders.values())
    job.found = look(session, env.root, env.books, member.account, member.key, known, int(env.limits.folders))
    if not member.looked_at:
        job.found.said += [(text, 0) for text in clear_strays(env.root, member.account, job.found.folders.values())]


def _folder(job: Job, env: Env) -> None:
    session, folder, member = _session(job), job.folder, job.member
    assert folder is not None  # noqa: S101 - of its kind
    if lack := env.root.lack():
        raise Trouble(DISK, f"{lack}; goes on when there is space")
    box = env.root.box(member.account.name, folder.path)
    until = 0.0

    def enough() -> bool:  # its time begins with the first fetch, so that each pass gets on
        nonlocal until
        until = until or time.monotonic() + SLICE_S
        return time.monotonic() > until

    the_pass = FolderPass(session, box, env.books, folder, member.key, member.caution(folder))
    job.outcome = the_pass.outcome
    the_pass.run(full=job.full, enough=enough, most_bytes=env.limits.message_bytes)


def _watch(job: Job, _: Env) -> None:
    """Makes the connection ready to tell of news: with IDLE, the folder that matters most has to be open."""
    session, folder = _session(job), job.watched
    if session.watch() == "idle" and folder is not None and session.selected != folder.name:
        state = session.examine(folder.listed, None)[0]
        session.selected = folder.name
        session.news = not folder.seen().is_same(state.key(), "condstore" if state.modseq else "plain") and bool(state.messages)


def _send(job: Job, env: Env) -> None:
    """The outbox; its modules and the spool's are imported by those who have one."""
    from workers.imap.outbox import OutboxPass

    folder, post, member = job.folder, job.member.post, job.member
    assert folder is not None and post is not None and env.config is not None  # noqa: S101, PT018 - of its kind
    the_pass = OutboxPass(_session(job), env.books, env.config, (member.account.name, member.key), folder, post.sent)
    job.posted = the_pass.posted
    the_pass.run()


def _session(job: Job) -> Session:
    assert job.session is not None  # noqa: S101 - perform opened it
    return job.session


KINDS: dict[str, Callable[[Job, Env], None]] = {LOOK: _look, FOLDER: _folder, WATCH: _watch, SEND: _send}
BUFFER_BYTES = READ_BYTES
