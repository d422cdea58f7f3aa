"""What the worker tells: of each account in the state database, of itself to its supervisor; and what is asked of it."""

from __future__ import annotations

import time
from functools import partial

from workers.imap.post import UNSENT
from workers.imap.trouble import OUTBOX, SERVER
from workers.mail.words import counted, plain, seconds

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from workers.imap.engine import Engine
    from workers.imap.member import Member
    from workers.mail.notify import Notifier
    from workers.store.database import Transaction
    from workers.store.group import Waiting

STUCK_S = 420.0  # all waits for a server have limits below it
CUT_OFF_S = 60.0  # behind which even a connection that was cut off hangs: then a supervisor has to end it


class Reports:
    """Of an engine's members."""

    def __init__(self, engine: Engine, notifier: Notifier | None) -> None:
        self._engine = engine
        self._notifier = notifier
        self._beat_at = 0.0
        self._cut: set[int] = set()
        self._posted: list[tuple[Waiting[object], Callable[[], None]]] = []  # what is not yet written, and how it is told again
        self.owes_answers = False  # one to a command whose account is not served here could not be written

    def greet(self, member: Member) -> list[str]:
        """What there is to say of an account that is taken on."""
        account = member.account
        lines = []
        if account.tls == "none":
            lines.append(f"account {account.name}: no TLS to {account.host}; it logs in on this host only")
        return lines

    def wishes(self, member: Member, present_until: float, debug_until: float, asked: int) -> None:
        """What commands want: its user is here, its log shall tell more, a pass shall be made."""
        if present_until > member.present_until and not member.is_present:
            member.look_at = 0.0
        member.present_until = present_until
        if debug_until != member.debug_until:
            member.debug_until = debug_until
            member.set_debug()
        if asked > member.asked:
            self._engine.ask(member, asked)

    def unknown(self, key: int, asked: int) -> None:
        """Tells a command that waits for an account that is not served here."""
        problem = "the worker that runs does not serve it: its mail.toml is another one, or has enabled = false"
        row = ("none", "waiting", SERVER, problem, 0.0, 0.0, key)

        def work(transaction: Transaction) -> None:
            transaction.run("books.account_state", row)
            transaction.run("books.answered", (asked, key))

        self._post(work, self._owe)

    def answer(self) -> None:
        """Tells a command that waits for a pass that it is done, or can't be."""
        for member in self._engine.members.values():
            if member.asked > member.answered:
                is_down = self._engine.is_down(member) and member.kind and member.unreached_at > member.asked_at
                resting = is_down or member.until > time.monotonic()
                if resting or (member.looked == member.asked and not member.owed):
                    self._write([member])
                    before, member.answered = member.answered, member.asked
                    row = (member.answered, member.key)
                    self._post(partial(_write_answered, row=row), partial(setattr, member, "answered", before))

    def tick(self) -> None:
        """Writes down what has changed, looks for what hangs, and tells the supervisor."""
        for member in self._engine.members.values():
            if member.debug_until and member.debug_until < time.time() and member.debug is not None:
                member.set_debug()
        self._look_at_posted()
        self._write(self._engine.members.values())
        hopeless = self._look_for_stuck()
        notifier = self._notifier
        if notifier is None or not notifier.wanted:
            return
        now = time.monotonic()
        if notifier.watchdog_s and not hopeless and now - self._beat_at >= min(notifier.watchdog_s, 60.0) * 0.9:
            self._beat_at = now
            notifier.say("WATCHDOG=1")
        notifier.status(self.status())

    def status(self) -> str:
        """How it goes, in a line."""
        members = list(self._engine.members.values())
        if not members:
            return "no accounts in mail.toml"
        good = sum(member.is_in_step and not member.kind for member in members)
        parts = [f"{counted(len(members), 'account')}, {good} in step"]
        parts += [f"{sum(bool(member.kind) for member in members)} resting"] if any(member.kind for member in members) else []
        busy = sorted(self._engine.crew.busy, key=lambda job: job.started)
        if busy:
            parts.append(f"{plain(busy[0].where())} since {seconds(time.monotonic() - busy[0].started)}")
        return "; ".join(parts)

    def last(self) -> None:
        """Before the end: what was told of accounts holds no more."""
        for member in self._engine.members.values():
            member.mode = "none"
        self._write(self._engine.members.values())

    def _look_for_stuck(self) -> bool:
        """Cuts connections off in which nothing moves; whether one hangs all the same."""
        stuck = self._engine.crew.stuck(STUCK_S)
        hopeless = bool(self._engine.crew.stuck(STUCK_S + CUT_OFF_S))
        for job in stuck:
            if id(job) not in self._cut:
                self._cut.add(id(job))
                self._engine.log.complain(f"nothing moves in {job.where()}: the connection is cut off", job.member.id)
                if job.session is not None:
                    job.session.connection.stream.shut()
        self._cut &= {id(job) for job in self._engine.crew.busy}
        return hopeless

    def _write(self, members: Iterable[Member]) -> None:
        """Writes down how accounts stand, where that has changed; nothing waits for it, and nothing hangs on it."""
        rows = {member: row for member in members if (row := _standing(member)) is not None}
        if rows:
            self._post(lambda transaction: transaction.many("books.account_state", rows.values()), partial(_untold, list(rows)))

    def _post(self, work: Callable[[Transaction], object], again: Callable[[], None]) -> None:
        self._posted.append((self._engine.env.books.post(work), again))

    def _look_at_posted(self) -> None:
        """What could not be written, as while another program holds the database, is told again."""
        still = []
        for waiter, again in self._posted:
            failed = waiter.has_failed()
            if failed is None:
                still.append((waiter, again))
            elif failed:
                again()
        self._posted = still

    def _owe(self) -> None:
        self.owes_answers = True


def _write_answered(transaction: Transaction, row: tuple[int, int]) -> None:
    transaction.run("books.answered", row)


def _untold(members: list[Member]) -> None:
    for member in members:
        member.told = ()


def _standing(member: Member) -> tuple[object, ...] | None:
    """The row of an account: mode, state, kind, problem, until, synced_at, key; None when it is as it was told."""
    now = time.monotonic()
    rests_until = member.until if member.until > now else 0.0
    in_step = member.is_in_step
    if rests_until:
        state = "paused"
    elif in_step:
        state = "in step" if not member.kind and not member.folder_problems else "waiting"
    else:
        state = "syncing" if member.running or member.looking else "waiting"
    number, first = next(iter(member.folder_problems.items()), (0, ""))
    problem = member.problem or first
    kind = member.kind or (OUTBOX if number == UNSENT else SERVER if problem else "")
    told = (member.mode, state, kind, problem, rests_until, member.synced_at)
    if told == member.told:
        return None
    member.told = told
    until = time.time() + rests_until - now if rests_until else 0.0
    return (member.mode, state, kind, problem, until, member.synced_at, member.key)
