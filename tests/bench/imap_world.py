"""What the IMAP figures share: one Dovecot, its mailboxes (each filled once, when it is first needed), fresh folders."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

from tests.bench.imap_clients import Copier, Mbsync, Ours
from tests.bench.imap_dovecot import Dovecot
from tests.bench.imap_letters import letters, sizes
from tests.bench.imap_speaker import Speaker
from tests.bench.imap_table import MBSYNC, OURS
from tests.bench.mail_sinks import Server
from tests.bench.mail_world import python
from tests.bench.peers import Bench

MEGA = 1e6
FOLDERS = ("INBOX", "Work", "Archive")
EACH = 10
SMALL_ACCOUNTS = tuple(f"a{number}" for number in range(200))
ACCOUNTS = ("big", "few", "many", "far", "push", "plain", "huge", *SMALL_ACCOUNTS)


@dataclass(frozen=True, slots=True)
class Mailbox:
    """An account of the server: its messages in all folders together, and their bytes."""

    user: str
    count: int
    size_bytes: int


class ImapWorld:
    """Leave it by `with`; the folder stays until the bench ends, since deleting files slows the making of others."""

    def __init__(self, bench: Bench) -> None:
        self.bench = bench
        self._folder = bench.folder / "imap"
        self._folder.mkdir()
        self._folder.chmod(0o711)
        self.dovecot = Dovecot(self._folder / "dovecot", ACCOUNTS)
        self._known: dict[str, Mailbox] = {}
        self._fresh = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, _kind: type[BaseException] | None, _error: BaseException | None, _trace: TracebackType | None) -> None:
        self.dovecot.close()

    def folder(self) -> Path:
        """A path that has not been used yet."""
        self._fresh += 1
        return self._folder / f"f{self._fresh}"

    def big(self) -> Mailbox:
        """31,468 messages of 583 MB in all, also when the bench is to be quick: filling takes two seconds."""
        return self.mailbox("big", lambda: sizes(31_468))

    def mailbox(self, user: str, wanted: Callable[[], list[int]], folders: Sequence[str] = ("INBOX",)) -> Mailbox:
        """This one of ACCOUNTS; the first time it is filled, with messages of these sizes in each folder."""
        if user not in self._known:
            each = wanted()
            with Speaker(self.dovecot.port, user) as speaker:
                for folder in folders:
                    if folder != "INBOX":
                        speaker.ask(f"CREATE {folder}")
                    speaker.append(folder, letters(each))
                    # the server's own index and cache are warm for all
                    speaker.ask(f"EXAMINE {folder}", "UID FETCH 1:* (FLAGS INTERNALDATE RFC822.SIZE BODY.PEEK[])")
            self._known[user] = Mailbox(user, len(each) * len(folders), sum(each) * len(folders))
        return self._known[user]

    def small_accounts(self) -> list[Mailbox]:
        """Two hundred accounts of three folders with ten messages."""
        names = SMALL_ACCOUNTS[: self.bench.times(len(SMALL_ACCOUNTS), 20)]
        return [self.mailbox(name, lambda: sizes(EACH), FOLDERS) for name in names]

    def speaker(self, mailbox: Mailbox) -> Speaker:
        """Somebody else at this account."""
        return Speaker(self.dovecot.port, mailbox.user)

    def copier(self, name: str, users: Sequence[str], port: int) -> Copier:
        """One of the two in a fresh folder."""
        kinds: dict[str, type[Copier]] = {OURS: Ours, MBSYNC: Mbsync}
        return kinds[name](self.folder(), users, port)

    def tap(self) -> Tap:
        """A proxy in front of the server."""
        return Tap(self._folder, self.dovecot.port)


class Tap(Server):
    """imap_tap.py in front of another server."""

    def __init__(self, folder: Path, target: int) -> None:
        super().__init__(folder, "tap")
        self._target = target

    def command(self) -> list[str]:
        return python("imap_tap", self.port, self._target)

    def passed_bytes(self) -> int:
        """What has passed so far, both ways."""
        return sum(size for _, _, size, _ in self._pieces())

    def notice_ns(self, after_ns: int) -> int:
        """When the server first told of a change after this moment (monotonic clock). Raises AssertionError."""
        found = next((ns for ns, side, _, news in self._pieces() if side == "s" and news and ns > after_ns), None)
        if found is None:
            raise AssertionError("the server has told of no change")
        return found

    def _pieces(self) -> list[tuple[int, str, int, bool]]:
        whole = self.out.read_text().rpartition("\n")[0]
        words = (line.split() for line in whole.splitlines())
        return [(int(ns), side, int(size), news == "1") for ns, side, size, news in words]


def at_rest(seconds: float) -> None:
    """Nothing to do, as it is before what is measured; what was written before is on disk then (see Copier.sync)."""
    os.sync()
    time.sleep(seconds)
