"""Connections at rest: one selector waits for the news of all servers, and nothing is ever fetched here."""

from __future__ import annotations

import os
import selectors
import time

from workers.imap.trouble import Declined, Lost

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from workers.imap.member import Member
    from workers.imap.session import Session

RENEW_S = 540.0
RENEW_SOON_S = 240.0  # for hosts that cut earlier
SOON_CUT = (".aol.com", ".yahoo.com", ".yahoo.co.jp", ".mail.ru", ".163.com", ".126.com", ".qq.com")
CUTS = 3  # that show that a host is such a one
DEAF_S = 30.0
BUFFER_BYTES = 1 << 16


class Hub:
    """Touched by the main thread alone. `news` and `lost` are called with the connection still at rest."""

    def __init__(self, news: Callable[[Member, Session], None], lost: Callable[[Member, Session, str], None]) -> None:
        self._news = news
        self._lost = lost
        self._selector = selectors.DefaultSelector()
        self._wake, self.wake_fd = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        self._selector.register(self._wake, selectors.EVENT_READ, None)
        self._buffer = bytearray(BUFFER_BYTES)
        self._cuts: dict[str, int] = {}  # connections of a host that ended at rest before they were renewed

    def listen(self, fd: int) -> None:
        """Wakes also when `fd` is readable."""
        self._selector.register(fd, selectors.EVENT_READ, None)

    def ignore(self, fd: int) -> None:
        """Wakes for `fd` no more."""
        self._selector.unregister(fd)

    def wait(self, most_s: float) -> None:
        """Waits for news, a wake-up or the time, and passes news on."""
        for key, _ in self._selector.select(max(0.0, most_s)):
            if key.data is not None:
                if key.data[1].at_rest:  # not closed by what came before it
                    self._hear(*key.data)
            elif key.fd == self._wake:
                _drain(self._wake)

    def rest(self, member: Member, session: Session) -> None:
        """Puts a connection to rest."""
        member.sessions.append(session)
        self._selector.register(session.connection.stream.fileno(), selectors.EVENT_READ, (member, session))
        try:
            session.start_rest()
        except Lost as lost:
            self._lost(member, session, str(lost))
            return
        if session.connection.stream.has_more:  # of which the selector knows nothing
            self._hear(member, session)
        elif session.has_news():
            self._news(member, session)

    def take(self, member: Member, session: Session) -> None:
        """Takes a connection out; whoever has it now ends its rest."""
        member.sessions.remove(session)
        self._selector.unregister(session.connection.stream.fileno())

    def tick(self, member: Member) -> None:
        """Renews what has been at rest for long, and gives up what does not answer."""
        now = time.monotonic()
        host = member.account.host
        renew_s = RENEW_SOON_S if host.endswith(SOON_CUT) or self._cuts.get(host, 0) >= CUTS else RENEW_S
        for session in list(member.sessions):
            if session.is_deaf(DEAF_S):
                self._lost(member, session, "it does not answer any more")
            elif now - session.rested_at > renew_s:
                try:
                    session.renew()
                except Lost as lost:
                    self._lost(member, session, str(lost))

    def close(self) -> None:
        """Waits no more. The wake-up pipe stays: a thread that is late may still write to it, and never to another file."""
        self._selector.close()

    def _hear(self, member: Member, session: Session) -> None:
        connection = session.connection
        connection.lend(self._buffer)
        try:
            connection.read_now()
            session.keep_resting()
        except (Lost, Declined) as error:
            if time.monotonic() - session.rested_at < RENEW_S and "closed" in str(error):
                self._cuts[member.account.host] = self._cuts.get(member.account.host, 0) + 1
            self._lost(member, session, str(error))
            return
        finally:
            connection.lend(None)
        if session.has_news():
            self._news(member, session)


def _drain(fd: int) -> None:
    try:
        while os.read(fd, 4096):
            pass
    except BlockingIOError:
        return
