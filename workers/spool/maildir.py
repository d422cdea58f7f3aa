"""The way out without a relay: each recipient's copy goes into one Maildir (maildir(5)).

A file's name is made of the mail's time and the ids of mail and recipient, so a copy that was delivered just before
a crash is known by its name and not delivered twice.
"""

from __future__ import annotations

import asyncio
import os
from types import MappingProxyType
from typing import TYPE_CHECKING

from workers.spool.delivery import Effect, Verdict
from workers.spool.outlet import Trouble
from workers.store.durable import make_folder, sync_folder, sync_upwards

if TYPE_CHECKING:
    from collections.abc import Mapping

    from workers.spool.attempt import Attempt
    from workers.spool.claims import Mail, Recipient
from workers.spool.transaction import Guard


class MaildirCarrier:
    """Delivers into the Maildir at `folder`; the disk is waited for in a thread."""

    lost: str | None = None
    extensions: Mapping[str, str] = MappingProxyType({"8bitmime": "", "smtputf8": ""})

    def __init__(self, folder: str, guard: Guard) -> None:
        self.carried = 0
        self._folder = folder
        self._guard = guard

    async def open(self) -> None:
        """Makes the folders where they are missing. Raises Trouble."""
        try:
            await asyncio.to_thread(self._make_ready)
        except OSError as error:
            raise Trouble(f"{error.filename or self._folder}: {error.strerror}") from None

    def is_stale(self) -> bool:
        """Never: a folder says nothing unasked."""
        return False

    async def deliver(self, attempt: Attempt) -> tuple[Attempt, Attempt | None]:
        """Writes one file a recipient; each is synced, and so is the folder, before it counts as sent."""
        body = b"".join(self._guard.parts(attempt)).replace(b"\r\n", b"\n")
        try:
            names = await asyncio.to_thread(self._write_all, attempt, body)
        except OSError as error:
            self.lost = error.strerror or str(error)
            attempt.settle(attempt.waiting, Verdict.RELAY, self.lost)
            attempt.effect, attempt.trouble = Effect.CUT, self.lost
        else:
            for recipient, name in zip(list(attempt.waiting), names, strict=True):
                attempt.settle([recipient], Verdict.SENT, f"in Maildir as {name}")
        self.carried += 1
        return attempt, None

    def expire(self, now: float) -> None:
        """Nothing here waits for anyone."""

    def cut(self, why: str) -> None:
        """A file that is being written comes to its end."""

    async def close(self) -> None:
        """Nothing is held open."""

    def _make_ready(self) -> None:
        if not self._is_ready():
            for name in ("tmp", "new", "cur"):
                make_folder(os.path.join(self._folder, name))
            sync_upwards(self._folder)

    def _write_all(self, attempt: Attempt, body: bytes) -> list[str]:
        mail = attempt.mail
        names = [file_name(mail, recipient) for recipient in attempt.waiting]
        for name, recipient in zip(names, attempt.waiting, strict=True):
            if recipient.attempts == 1 or not self._has(name):
                self._write(name, trace(mail.sender, recipient.address) + body)
        sync_folder(os.path.join(self._folder, "new"))
        return names

    def _is_ready(self) -> bool:
        return all(os.path.isdir(os.path.join(self._folder, name)) for name in ("tmp", "new", "cur"))

    def _has(self, name: str) -> bool:
        """Whether it lies in new, or, seen by a mail reader, in cur with flags behind its name."""
        if os.path.exists(os.path.join(self._folder, "new", name)):
            return True
        return any(seen.partition(":")[0] == name for seen in os.listdir(os.path.join(self._folder, "cur")))

    def _write(self, name: str, text: bytes) -> None:
        tmp = os.path.join(self._folder, "tmp", name)
        fd = os.open(tmp, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
        try:
            with open(fd, "wb") as file:
                file.write(text)
                file.flush()
                os.fsync(fd)
            os.rename(tmp, os.path.join(self._folder, "new", name))
        except OSError:
            os.unlink(tmp)  # a full disk is not made fuller
            raise


def file_name(mail: Mail, recipient: Recipient) -> str:
    """The same for each attempt; the time keeps a spool that was made anew from meeting an older one's names."""
    seconds, microseconds = divmod(round(mail.created_at * 1e6), 1_000_000)
    return f"{seconds}.M{microseconds}Q{mail.id}R{recipient.id}.smtp-spool"


def trace(sender: str, address: str) -> bytes:
    """The lines that final delivery puts on top (RFC 5321 4.4; Delivered-To as Postfix's local(8) writes it)."""
    return f"Return-Path: <{sender}>\nDelivered-To: {address}\n".encode()
