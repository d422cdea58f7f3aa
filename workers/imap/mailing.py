"""What follows from a look at an account with an outbox, and from a pass of that: work, lines in the log, another try."""

from __future__ import annotations

import random
import time

from workers.imap import schedule
from workers.imap.account import has_moved
from workers.imap.jobs import SEND, WATCH
from workers.imap.post import OUTBOX, UNSENT
from workers.imap.trouble import SERVER, Lost, undotted
from workers.mail.words import counted, plain, seconds

TYPE_CHECKING = False
if TYPE_CHECKING:
    from workers.imap.jobs import Job
    from workers.imap.log import Log
    from workers.imap.member import Member
    from workers.imap.outbox import Posted
    from workers.imap.post import Post
    from workers.imap.trouble import Trouble

EAR_RETRY_S = 600.0
WHEN_NEXT = "with the next sync or run"  # of a process that ends after one pass


def looked(job: Job, log: Log) -> None:
    """A look has found the outbox, or not: it is opened unless nothing has changed in it."""
    member, found, session = job.member, job.found, job.session
    post = member.post
    if post is None or found is None or session is None:
        return
    is_new = post.take(found)
    if post.folder is None or found.outbox is None:
        if not post.is_missed:
            text = f"has no folder {member.account.outbox}: nothing is sent from there"
            log.complain(f"account {member.account.name}: {text}", member.id)
            member.folder_problems[UNSENT] = text
            member.folder_problems.pop(OUTBOX, None)
            post.retry_at = 0.0
        post.is_missed = True
        return
    if post.is_missed:
        member.folder_problems.pop(UNSENT, None)
    post.is_missed = False
    if is_new or has_moved(post.folder, found.outbox.state, session):
        member.want(OUTBOX, schedule.SEND)


def posted(job: Job, done: Posted, log: Log) -> None:
    """Tells what a pass of the outbox did, whether or not it came to its end."""
    member, post, folder, session = job.member, job.member.post, job.folder, job.session
    if post is None or folder is None:
        return
    ids = _ids(member, post)
    for uid, mail_id, recipients in done.queued:
        whom = counted(recipients, "recipient")
        log.say(f"message {uid} of {folder.path} is mail {mail_id} of the spool, for {whom}", *ids, thread=job.thread)
    for uid in done.known:
        log.say(f"message {uid} of {folder.path} was sent before: not sent again", *ids, thread=job.thread)
    for uid, why in done.refused:
        log.complain(f"message {uid} of {folder.path} is not sent: {why}", *ids, thread=job.thread)
    if done.moved:
        log.say(f"moved {done.moved} sent messages from {folder.path} to {member.account.sent}", *ids, thread=job.thread)
        _copy(member, post)
    if done.made_sent:
        member.look_at = 0.0
    if job.error is None:
        post.went_well(done.open)
        member.folder_problems.pop(OUTBOX, None)
        member.folder_problems.pop(UNSENT, None)
        if done.unsent:
            member.folder_problems[UNSENT] = _unsent(done.unsent, member.account.outbox or "")
        told = session is not None and session.news and session.now.messages != folder.messages
        if told or not folder.clean:
            member.want(OUTBOX, schedule.SEND)


def _unsent(letters: list[tuple[int, str]], outbox: str) -> str:
    """What there is to say of letters that can't be sent: how many, and why the first one."""
    return f"{counted(len(letters), 'message')} of {outbox} can't be sent: {plain(letters[0][1])}"


def failed(job: Job, trouble: Trouble, log: Log, *, lasts: bool) -> bool:
    """Takes a trouble that is not the account's; False for one that is. `lasts`: whether this process is there to try again."""
    member, post = job.member, job.member.post
    if post is None:
        return False
    now = time.monotonic()
    if job.kind == WATCH and job.opens:  # it can do without a second connection that listens
        post.ear_at = now + EAR_RETRY_S
        log.say(f"account {member.account.name}: {trouble}; the outbox is looked at with all the others", member.id)
        return True
    if isinstance(trouble, Lost) and post.folder is not None:
        member.want(OUTBOX, schedule.SEND)  # what has happened meanwhile was told to nobody
    if job.folder is not post.folder or job.kind != SEND:
        return False
    if trouble.kind != SERVER:
        member.want(OUTBOX, schedule.SEND)  # when the account rests no more
        return False
    post.went_wrong(now, random.random())
    text = str(trouble)
    if member.folder_problems.get(OUTBOX) != text:
        member.folder_problems[OUTBOX] = text
        following = f"in {seconds(max(1.0, post.retry_at - now))}" if lasts else WHEN_NEXT
        line = f"outbox {member.account.outbox}: {undotted(text)}; next try {following}"
        log.complain(line, *_ids(member, post), thread=job.thread)
    return True


def _copy(member: Member, post: Post) -> None:
    """What was moved is moved in the archive too, though a server need not tell us what we did."""
    for folder in member.folders.values():
        if folder.listed in (post.sent, post.folder.name if post.folder is not None else b""):
            member.want(folder.id, schedule.PUSHED)


def _ids(member: Member, post: Post) -> tuple[int, ...]:
    return (member.id,) if post.archived is None else (member.id, post.archived)
