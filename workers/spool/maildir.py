"""The way out without a relay: each recipient's copy goes into one Maildir (maildir(5)).

A file's name is made of the mail's time and the ids of mail and recipient, so a copy that was delivered just before
a crash is known by its name and not delivered twice.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from workers.spool.delivery import Verdict
from workers.spool.durable import make_folder, sync_folder, sync_upwards
from workers.spool.outlet import Report, Trouble

if TYPE_CHECKING:
    from collections.abc import Callable

    from workers.spool.store import Mail, Recipient


class MaildirOutlet:
    """Delivers into the Maildir at `folder`."""

    def __init__(self, folder: str) -> None:
        self.name = f"Maildir {folder}"
        self._folder = folder

    def open(self) -> None:
        """Makes the folders where they are missing. Raises Trouble."""
        try:
            if not self._is_ready():
                for name in ("tmp", "new", "cur"):
                    make_folder(os.path.join(self._folder, name))
                sync_upwards(self._folder)
        except OSError as error:
            raise Trouble(f"{self.name}: {error.strerror}") from None

    def deliver(self, mail: Mail, note_past_dot: Callable[[list[Recipient]], None]) -> Report:  # noqa: ARG002 - names tell
        """Writes one file a recipient; each is synced, and so is the folder, before it counts as sent."""
        report = Report()
        for recipient in mail.recipients:
            name = file_name(mail, recipient)
            try:
                if recipient.attempts == 1 or not self._has(name):
                    self._write(name, trace(mail.sender, recipient.address) + mail.body.replace(b"\r\n", b"\n"))
                sync_folder(os.path.join(self._folder, "new"))
                report.results.append((recipient, Verdict.SENT, f"in Maildir as {name}"))
            except OSError as error:
                report.trouble = error.strerror or str(error)
                report.results.append((recipient, Verdict.RELAY, report.trouble))
        return report

    def close(self) -> None:
        """Nothing is held open."""

    def cut(self) -> None:
        """Nothing here waits for anyone."""

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
