"""The main thread: waits for news, for the clock and for its threads, and hands out what is to be done. It never blocks.

A connection at rest tells of news; whoever has work for its account takes it out, works with it, and puts it back. So a
message is fetched on the connection that told of it, and an account at rest has one.
"""

from __future__ import annotations

import math
import random
import time

from workers.imap import schedule
from workers.imap.account import has_moved
from workers.imap.crew import Crew
from workers.imap.hosts import Host
from workers.imap.hub import Hub
from workers.imap.jobs import FOLDER, LOOK, SEND, WATCH, Env, Job
from workers.imap.keys import stamp
from workers.imap.member import Member
from workers.imap.names import matches
from workers.imap.post import OUTBOX, SpoolWatch
from workers.imap.results import Results
from workers.imap.trouble import AUTH, NETWORK, SECRET, Trouble
from workers.mail.words import seconds

TYPE_CHECKING = False
if TYPE_CHECKING:
    from workers.imap.books import Folder
    from workers.imap.log import Log
    from workers.imap.member import Task
    from workers.imap.session import Session
    from workers.mail.imap_config import Account, Imap

JUMP_S = 20.0
STAGGER_S = 10.0
ACCOUNTS_A_SECOND = 20.0  # that come back together
ALONE_S = 1.0  # a job that lasts longer may be joined by one on a second connection
END_S = 5.0
SOON_S = 30.0
HOLLOW = 3  # news in a row that were none
JUMPED = "the clock has jumped"


class Engine:
    """Keeps accounts in step. Raises what ends the process: StoreError."""

    def __init__(self, imap: Imap, env: Env, log: Log) -> None:
        self.imap = imap
        self.env = env
        self.log = log
        self.members: dict[str, Member] = {}
        self.hub = Hub(self._take_news, self._lost_at_rest)
        self.crew = Crew(imap.threads, env, self.hub.wake_fd)
        self._results = Results(self)
        self._spool_watch = SpoolWatch(env)
        self._hosts: dict[tuple[str, int], Host] = {}
        self._sleep_s = time.clock_gettime(time.CLOCK_BOOTTIME) - time.monotonic()

    def add(self, accounts: list[Account]) -> list[Member]:
        """Takes accounts on. Raises StoreError."""
        known = self.env.books.accounts([account.name for account in accounts])
        added = [Member(account, self.imap, *known[account.name], self.log.trace) for account in accounts]
        self.members.update((member.account.name, member) for member in added)
        return added

    def drop(self, name: str) -> None:
        """Lets an account go; a job in hand comes to its end."""
        member = self.members.pop(name)
        for job in self.crew.busy:
            if job.member is member and job.session is not None:
                job.session.connection.stream.shut()
        for session in [*member.sessions, *member.fresh]:
            self.close_session(member, session, politely=True)

    def step(self, most_s: float) -> None:
        """Hands out what is due, waits for something to happen, at most so long, and takes what has come."""
        self._dispatch()
        self.hub.wait(min(most_s, self._pause()))
        for job in self.crew.collect():
            self._done(job)

    def tick(self) -> None:
        """What the clock asks for, about once a second."""
        sleep_s = time.clock_gettime(time.CLOCK_BOOTTIME) - time.monotonic()
        jumped_s, self._sleep_s = sleep_s - self._sleep_s, sleep_s
        if jumped_s > JUMP_S:
            self._reconnect_all(jumped_s)
        for member in self.members.values():
            if member.kind in (AUTH, SECRET) and stamp(member.account) != member.secret_stamp:
                self.log.say(f"account {member.account.name}: its password has changed", member.id)
                member.well()
                member.look_at = 0.0
            self.hub.tick(member)
            self._open_ear(member)
        self._spool_watch.tick(self.members.values())

    def close(self) -> None:
        """Ends threads and connections."""
        self.crew.end(END_S)
        for job in self.crew.collect():
            if job.session is not None:
                job.session.close(politely=True)
        for name in list(self.members):
            self.drop(name)
        self._spool_watch.close()
        self.hub.close()

    def close_session(self, member: Member, session: Session, *, politely: bool) -> None:
        """Ends a connection, wherever it is, and counts it out."""
        if session in member.sessions:
            self.hub.take(member, session)
        elif session in member.fresh:
            member.fresh.remove(session)
        session.at_rest = False
        session.close(politely=politely)
        self._count_out(member)

    def is_down(self, member: Member) -> bool:
        """Whether the account's host does not answer, and another account or a later moment has to find out when it does."""
        return self._host(member).is_down and not member.connections

    def ask(self, member: Member, number: int) -> None:
        """A command wants a pass: what was known of its host and of its troubles holds no more."""
        member.ask(number)
        self._host(member).hurry()

    # what is due

    def _pause(self) -> float:
        """Until something is due that nothing else tells of."""
        now = time.monotonic()
        until = now + 3600.0
        for member in self.members.values():
            if member.until > now:
                until = min(until, member.until)
            elif not member.looking and not member.tasks and member.look_at > now:
                until = min(until, member.look_at)
            elif member.sessions and self.crew.has_room() and (task := member.next_task(now)) is not None and task[2]:
                return 0.0  # news that a connection has brought when it was put to rest
            elif member.running or not member.connections:
                joins = max((job.started + ALONE_S for job in member.running.values()), default=0.0)
                until = min([until, *(at for at in (joins, self._host(member).next_at()) if at > now)])
        return max(0.0, until - now)

    def _dispatch(self) -> None:
        """Gives the threads what is most urgent; what has no work then is put to rest."""
        now = time.monotonic()
        able = [member for member in self.members.values() if member.until <= now and not self.is_down(member)]
        full = sum(len(member.tasks) for member in able) >= self.imap.threads * self.imap.tasks_per_thread
        leaving = {job.member.key for job in self.crew.busy if self.members.get(job.member.account.name) is not job.member}
        wishes = [
            (*task, member)
            for member in self.members.values()
            if member.key not in leaving and (task := member.next_task(now, looks=not full)) is not None
        ]
        wishes.sort(key=lambda wish: wish[:2])
        for priority, _, folder, member in wishes:
            if not folder and full:
                continue  # what was found already is done first
            if self.crew.has_room(urgent=priority == schedule.SEND):
                self._start(member, folder, now)
        for member in list(self.members.values()):
            while member.fresh:
                session = member.fresh.pop()
                self._rest(member, session)

    def _start(self, member: Member, folder: int, now: float) -> None:
        """The most urgent work of a member, and more of it while there are threads and connections."""
        following: tuple[int, float, int] | None = (schedule.SEND, 0.0, folder)
        while following is not None and self.crew.has_room(urgent=following[0] == schedule.SEND):
            number = following[2]
            task = member.tasks.get(number)
            if number == OUTBOX and (member.post is None or member.post.folder is None):
                del member.tasks[number]  # it is not there any more
                member.owed.discard(number)
                following = member.next_task(now)
                continue
            job = self._job(member, number, task)
            if not self._equip(job, now):
                return
            if task is None:
                member.visit, member.look_at = job, math.inf  # what is wanted from now on is another look
            else:
                del member.tasks[number]
                member.running[number] = job
            self.crew.start(job)
            following = member.next_task(now)

    def _job(self, member: Member, number: int, task: Task | None) -> Job:
        if task is None:
            return Job(LOOK, member)
        if number == OUTBOX and member.post is not None:
            return Job(SEND, member, member.post.folder, task)
        return Job(FOLDER, member, member.folders[number], task)

    def _equip(self, job: Job, now: float) -> bool:
        """Gives a job a connection that has nothing to do, or leave to open one; False when it has to wait."""
        member = job.member
        free = [*member.fresh, *member.sessions]
        if free:
            name = job.folder.name if job.folder is not None else None
            session = next((each for each in free if each.selected == name), free[0])
            if session in member.fresh:
                member.fresh.remove(session)
            else:
                self.hub.take(member, session)
            session.is_watched = False
            job.session = session
            return True
        host = self._host(member)
        if any(now - each.started < ALONE_S for each in member.running.values()):
            return False  # small folders are done sooner than a login
        if member.connections >= member.most_connections:
            return False
        if self.imap.per_host is not None and host.connections >= self.imap.per_host:
            self._make_room(host)
        if not host.may_open(now, self.imap.per_host):
            return False
        host.opens()
        member.connections += 1
        job.opens = True
        return True

    def _make_room(self, host: Host) -> None:
        """Of a host that takes no more connections, ends the one that has been at rest for longest: its timers go on."""
        resting = [(each.rested_at, id(each), member, each) for member in self.members.values() for each in member.sessions]
        there = [each for each in resting if self._host(each[2]) is host]
        if there:
            _, _, member, session = min(there)
            member.mode = "poll"
            self.close_session(member, session, politely=True)

    # what came of it

    def _done(self, job: Job) -> None:
        """A thread has come back with a job."""
        member = job.member
        if job.folder is not None and member.running.get(job.folder.id) is job:
            del member.running[job.folder.id]
        else:
            member.visit = None
        self._count(job)
        session = job.session
        if session is not None:
            member.fresh.append(session)
        if self.members.get(member.account.name) is member:
            self._results.take(job)
        elif session is not None:
            self.close_session(member, session, politely=True)

    def _count(self, job: Job) -> None:
        """Keeps the numbers of connections; a host that answers again is told to all its accounts."""
        host = self._host(job.member)
        if job.opens and job.connected:
            if host.opened():
                account = job.member.account
                self.log.say(f"{account.host}:{account.port} answers again", thread=job.thread)
                for each in self.members.values():
                    if each.kind == NETWORK and self._host(each) is host:
                        each.until = 0.0
                        if not each.failures:  # it was only told of another's
                            each.well()
        elif job.opens:
            if not job.member.sessions:
                job.member.mode = "none"
            shared = isinstance(job.error, Trouble) and job.error.kind == NETWORK and not job.error.of_account
            host.failed(time.monotonic(), random.random(), unreachable=shared)
            if shared and isinstance(job.error, Trouble):
                self._tell_all(job.member, job.error)
        if job.session is None:
            self._count_out(job.member)

    def _count_out(self, member: Member) -> None:
        """A connection is no more. Without any nothing tells of news; an account that lives by timers needs none."""
        self._host(member).closed()
        member.connections -= 1
        if not member.connections and member.mode != "poll":
            member.mode = "none"

    def _tell_all(self, asker: Member, trouble: Trouble) -> None:
        """A host that is down is so for all its accounts, of which one asks at a time."""
        for member in self.members.values():
            if self._host(member) is not self._host(asker) or member.connections:
                continue
            member.unreached_at = time.monotonic()
            if member is not asker and not member.kind:
                member.kind, member.problem, member.mode = trouble.kind, str(trouble), "none"

    # connections at rest

    def _rest(self, member: Member, session: Session) -> None:
        """Puts a connection where news are heard; one that is not needed for that is closed."""
        busy = bool(member.tasks or member.running or member.looking)
        heard = any(each.watching for each in member.sessions)
        first = self._unheard(member, session.selected) if heard else self._watched(member)
        if not self.env.push or (heard and first is None):
            if busy:
                self.hub.rest(member, session)
            else:
                self.close_session(member, session, politely=True)
            return
        selected = first is not None and session.selected == first.name
        if session.watching == "notify" or (session.watching == "idle" and selected) or (busy and not session.is_watched):
            self._keep(member, session)
        elif session.is_watched:
            member.mode = "poll"
            self.close_session(member, session, politely=True)
        else:
            job = Job(WATCH, member)
            job.watched, job.session, session.is_watched = first, session, True
            member.visit = job
            self.crew.start(job)

    def _keep(self, member: Member, session: Session) -> None:
        """One connection of an account rests; others that have nothing to do are closed."""
        if session.watching:
            member.mode = session.watching
            for other in [each for each in member.sessions if not each.watching]:
                self.close_session(member, other, politely=True)
        self.hub.rest(member, session)

    def _watched(self, member: Member) -> Folder | None:
        """The folder that IDLE watches: INBOX, else the first of the high ones."""
        high = [each for each in member.folders.values() if matches(member.account.high, each.name, each.delimiter)]
        return min(high, key=lambda each: (each.name != b"INBOX", each.id), default=None)

    def _unheard(self, member: Member, selected: bytes | None) -> Folder | None:
        """The folder that IDLE has to watch besides, `selected` rather than another: an outbox needs a connection of its own."""
        if member.post is None or any(each.watching == "notify" for each in member.sessions):
            return None
        heard = {each.selected for each in member.sessions if each.watching}
        wished = [each for each in (self._watched(member), member.post.folder) if each is not None and each.name not in heard]
        return min(wished, key=lambda each: each.name != selected, default=None)

    def _open_ear(self, member: Member) -> None:
        """Opens the connection that listens to the outbox, when only that is missing."""
        post, now = member.post, time.monotonic()
        if post is None or not self.env.push or member.mode != "idle" or not member.is_in_step or post.ear_at > now:
            return
        folder = self._unheard(member, None) if member.sessions else None
        host = self._host(member)
        if folder is None or member.until > now or member.connections >= member.most_connections:
            return
        if self.crew.has_room() and host.may_open(now, self.imap.per_host):
            host.opens()
            member.connections += 1
            job = Job(WATCH, member)
            job.watched, job.opens, member.visit = folder, True, job
            self.crew.start(job)

    def _take_news(self, member: Member, session: Session) -> None:
        """What the server told of on a connection at rest becomes work."""
        by_name = {folder.name: folder for folder in member.folders.values()}
        if session.folders_changed:
            member.look_at = 0.0
        if session.news and session.selected in by_name:
            self._take_pushed(member, by_name[session.selected], session)
        outbox = member.post.folder if member.post is not None else None
        if session.news and outbox is not None and session.selected == outbox.name:
            member.want(OUTBOX, schedule.SEND)
        for name, state in session.heard_of.items():
            folder = by_name.get(name)
            if outbox is not None and name == outbox.name and has_moved(outbox, state, session):
                member.want(OUTBOX, schedule.SEND)
            if folder is None and outbox is not None and name == outbox.name:
                continue
            if folder is None:
                member.look_at = 0.0
            elif has_moved(folder, state, session):
                member.want(folder.id, schedule.PUSHED)
        session.heard_of.clear()
        session.news = session.folders_changed = False

    def _take_pushed(self, member: Member, folder: Folder, session: Session) -> None:
        """News of the open folder. A server that tells the same again and again is asked ever more seldom, but for new mail."""
        hollow = member.hollow.get(folder.id, 0)
        if hollow < HOLLOW or session.now.messages != folder.messages:
            member.want(folder.id, schedule.PUSHED)
        else:
            pause_s = schedule.backoff_s(hollow - HOLLOW + 2, random.random())
            member.look_at = min(member.look_at, time.monotonic() + pause_s)

    def _lost_at_rest(self, member: Member, session: Session, why: str) -> None:
        """A connection at rest has ended: a new one is made soon, though not those of all accounts in one moment."""
        if member.debug is not None:
            member.debug(f"connection at rest: {why}")
        soon = time.monotonic() - session.rested_at < SOON_S and why != JUMPED
        member.cuts = member.cuts + 1 if soon else 0
        self.close_session(member, session, politely=False)
        pause_s = self._stagger_s()
        if member.cuts > 1:  # a server that lets log in and then hangs up is not asked as fast as it can
            pause_s += schedule.backoff_s(member.cuts, random.random())
        member.look_at = min(member.look_at, time.monotonic() + pause_s)

    def _reconnect_all(self, jumped_s: float) -> None:
        """The machine has slept: the servers have not, and no connection is what it seems."""
        self.log.say(f"the clock has jumped by {seconds(jumped_s)}: all connections are made anew")
        for member in self.members.values():
            for session in list(member.sessions):
                self._lost_at_rest(member, session, JUMPED)
            if member.kind == NETWORK:
                member.until = 0.0
            member.look_at = min(member.look_at, time.monotonic() + self._stagger_s())  # its timers stood still
        for job in self.crew.busy:
            if job.session is not None:
                job.session.connection.stream.shut()

    def _stagger_s(self) -> float:
        return random.uniform(0.0, min(STAGGER_S, len(self.members) / ACCOUNTS_A_SECOND))

    def _host(self, member: Member) -> Host:
        return self._hosts.setdefault((member.account.host, member.account.port), Host())
