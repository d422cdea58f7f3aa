"""What follows from a job that is done: the next work, a line in the log, or a rest."""

from __future__ import annotations

import random
import time
import traceback

from workers.imap import mailing, plan, schedule
from workers.imap.account import has_moved
from workers.imap.folder import tier_of
from workers.imap.jobs import FOLDER, LOOK, SEND, WATCH
from workers.imap.names import matches
from workers.imap.trouble import AUTH, NETWORK, NO_LOGIN, SERVER, Lost, Trouble, undotted
from workers.mail.words import when

TYPE_CHECKING = False
if TYPE_CHECKING:
    from workers.imap.books import Folder
    from workers.imap.engine import Engine
    from workers.imap.folder import Outcome
    from workers.imap.jobs import Job
    from workers.imap.member import Member
    from workers.imap.session import Session

AT_ONCE_AGAIN = 16  # connections lost one after another in passes that get on all the same
SILENT = 4  # for how many of them a silence counts: it costs the time of as many


class Results:
    """Of an engine's jobs."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._log = engine.log

    def take(self, job: Job) -> None:
        """A job of a member that is still served. Raises StoreError."""
        if job.bug is not None:
            text = "".join(traceback.format_exception(job.bug)).strip().replace("\n", " | ")
            self._log.complain(f"account {job.member.account.name}: a mistake of imap-sync's own: {text}", job.member.id)
            job.error = Trouble(SERVER, f"a mistake of imap-sync's own: {job.bug!r}")
        if job.error is not None and not isinstance(job.error, Trouble):
            raise job.error
        if job.folder is not None and not (isinstance(job.error, Trouble) and job.error.kind != SERVER):
            job.member.owed.discard(job.folder.id)
        if job.outcome is not None:
            self._passed(job, job.outcome)
        if job.posted is not None:
            mailing.posted(job, job.posted, self._log)
        if job.error is not None:
            self._trouble(job, job.error)
        elif job.kind == LOOK:
            self._looked(job)
        elif job.kind == FOLDER:
            job.member.losses = 0
            _reached(job)
        elif job.kind == SEND:
            _reached(job)
        elif job.kind == WATCH and job.session is not None and not job.session.looked:
            job.member.look_at = 0.0  # what came before this connection told of news, nobody has told
        member = job.member
        failed = member.kind or any(number > 0 for number in member.folder_problems)  # the outbox is no part of the copy
        if job.error is None and job.kind != WATCH and member.is_in_step and not failed:
            member.synced_at = time.time()

    def _looked(self, job: Job) -> None:
        """Which folders have to be opened, and how urgently."""
        member, found, session = job.member, job.found, job.session
        if found is None or session is None:
            return
        member.take_folders(found.folders)
        mailing.looked(job, self._log)
        for text, folder_id in found.said:
            self._log.say(text, member.id, folder_id, thread=job.thread)
        imap, now, name = self._engine.imap, time.time(), member.account.name
        whole = job.asked > member.answered and tier_of(session) == plan.PLAIN
        for folder in member.folders.values():
            high = matches(member.account.high, folder.name, folder.delimiter)
            low = not high and matches(member.account.low, folder.name, folder.delimiter)
            full = whole or schedule.is_full_due(folder, imap, now, name, high=high, present=member.is_present)
            moved = not folder.clean or folder.id in found.due or has_moved(folder, found.states.get(folder.id), session)
            if full or (moved and (not low or job.asked > member.answered or not folder.synced_at)):
                priority = schedule.HIGH if high else schedule.LOW if low else schedule.NORMAL
                member.want(folder.id, priority, full=full and folder.synced_at > 0)
            elif high:
                self._log.say("received 0 new messages in 0s", member.id, folder.id, thread=job.thread)
        if not member.tasks:
            _reached(job)  # else it is, when the first folder is in step
        if job.asked > member.looked:
            member.owed = set(member.tasks)
        member.looked, member.looked_at = job.asked, now
        pause_s = schedule.recent_s(imap, present=member.is_present)
        member.look_at = min(member.look_at, time.monotonic() + pause_s * random.uniform(0.9, 1.1))

    def _passed(self, job: Job, outcome: Outcome) -> None:
        """The line of a pass, and what is left to do."""
        member, folder, session = job.member, job.folder, job.session
        if folder is None:
            return
        if job.error is None:
            self._log.say(told(outcome, time.monotonic() - outcome.started), member.id, folder.id, thread=job.thread)
            member.folder_problems.pop(folder.id, None)
            if outcome.fetched or outcome.flagged or outcome.expunged or outcome.more:
                member.hollow.pop(folder.id, None)
            elif job.is_pushed:
                member.hollow[folder.id] = member.hollow.get(folder.id, 0) + 1
            if outcome.more:
                member.want(folder.id, schedule.REST, full=job.full)
                member.owed.add(folder.id)
            elif session is not None and _has_news(session, outcome, folder):
                member.want(folder.id, schedule.PUSHED)
        for uid, why in outcome.poison:
            text = f"message {uid} of folder {folder.path} is left out and tried again later: {why}"
            self._log.complain(text, member.id, folder.id, thread=job.thread)
        if outcome.contradiction and outcome.contradiction not in member.demoted:
            self._demote(member, outcome.contradiction)
            if session is not None:
                self._engine.close_session(member, session, politely=True)

    def _demote(self, member: Member, extension: str) -> None:
        if extension not in member.contradictions:  # once may be mail that came and went at that moment
            member.contradictions.add(extension)
            return
        member.demoted |= {extension}
        row = (" ".join(sorted(member.demoted)), member.key)
        self._engine.env.books.post(lambda transaction: transaction.run("books.demote", row))
        name = member.account.name
        self._log.complain(f"account {name}: the server contradicts itself with {extension}: not used any more", member.id)

    def _trouble(self, job: Job, trouble: Trouble) -> None:
        """Something went wrong: with this folder, with the account, or with the way."""
        member, folder = job.member, job.folder
        ids = (member.id,) if folder is None or folder.id < 0 else (member.id, folder.id)
        name, said = member.account.name, undotted(str(trouble))
        if trouble.kind == SERVER and folder is not None and (job.connected or not job.opens):
            _reached(job)  # it answers, though not as we like
        if mailing.failed(job, trouble, self._log, lasts=self._engine.env.push):
            return
        if job.kind == WATCH and trouble.kind == SERVER and job.session is not None:  # it is good for all else
            if member.mode != "poll":
                self._log.complain(f"account {name}: can't watch for news: {said}; looks by timers", *ids, thread=job.thread)
            return
        if folder is not None and self._is_of_folder(job, folder, trouble):
            return
        was_shown = trouble.kind == AUTH and not str(trouble).startswith(NO_LOGIN)
        if was_shown and member.account.token_command is not None and not member.token_refused:
            member.token_refused = True  # one more try, with a token that is surely new
            self._engine.env.keys.forget(member.account)
            self._log.say(f"account {name}: {said}; asks for a new token", *ids, thread=job.thread)
            member.look_at = 0.0
            return
        before = (member.kind, member.problem)
        now = time.monotonic()
        unreachable = job.opens and not job.connected and trouble.kind == NETWORK and not trouble.of_account
        pause_s = member.rests(trouble, now, random.random(), shown=job.shown, unreachable=unreachable)
        member.look_at = min(member.look_at, member.until)
        if (member.kind, member.problem) != before:
            following = when(pause_s) if self._engine.env.push else mailing.WHEN_NEXT
            line = f"account {name}: {said}; next try {following}"
            self._log.complain(line, *ids, thread=job.thread)

    def _is_of_folder(self, job: Job, folder: Folder, trouble: Trouble) -> bool:
        """Takes what went wrong with a folder; whether the account need not rest for it."""
        member, said = job.member, undotted(str(trouble))
        ids = (member.id,) if folder.id < 0 else (member.id, folder.id)
        if trouble.kind == SERVER:
            self._log.complain(f"folder {folder.path}: {said}; tried again at the next look", *ids, thread=job.thread)
            member.folder_problems[folder.id] = str(trouble)
            return True
        if job.kind == FOLDER:
            member.want(folder.id, schedule.REST, full=job.full)
        gets_on = job.outcome is not None and (job.outcome.fetched or job.outcome.blames)
        if isinstance(trouble, Lost) and member.losses < AT_ONCE_AGAIN and (gets_on or not (job.opens or member.losses)):
            member.losses += SILENT if trouble.silent else 1
            self._log.say(f"connection lost: {said}; goes on with a new one", *ids, thread=job.thread)
            return True
        return False


def _reached(job: Job) -> None:
    """The server did what it was asked; that ends no rest which another job has brought since this one began."""
    if job.started >= job.member.rested_at:
        job.member.well()


def _has_news(session: Session, outcome: Outcome, folder: Folder) -> bool:
    """Whether something came during a pass. A server that only says so, and has as many messages, is not asked for ever."""
    changed = outcome.fetched or outcome.flagged or outcome.expunged
    return session.was_flagged() or (session.news and bool(changed or session.now.messages != folder.messages))


def told(outcome: Outcome, span_s: float) -> str:
    """The line of one pass of a folder, as its readers know it."""
    numbers = ((outcome.flagged, "with other flags"), (outcome.expunged, "gone"), (outcome.healed, "known already"))
    more = [f"{number} {what}" for number, what in numbers if number]
    return ", ".join([f"received {outcome.fetched} new messages in {span_s:.0f}s", *more])
