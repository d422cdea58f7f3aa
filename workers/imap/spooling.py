"""The spool as imap-sync uses it: letters go in, and it is asked what became of them. Opened when it is needed first."""

from __future__ import annotations

import time

from workers.imap.letter_out import Unsendable
from workers.imap.trouble import SERVER, Trouble
from workers.mail.errors import Refused
from workers.spool.accept import accept, open_spool
from workers.spool.intake import finished, too_big
from workers.store.bell import ring
from workers.store.database import StoreError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from workers.imap.letter_out import Letter
    from workers.mail.config import Config
    from workers.spool.accept import Submission
    from workers.store.sqlite import SqliteDatabase

NOW = "now"  # of the priorities in mail.toml: a person waits for it


class Spooling:
    """One connection to the spool, for one thread. Its errors are trouble of the folder, and not of imap-sync's own books.

    Raises Trouble.
    """

    def __init__(self, config: Config) -> None:
        self._config = config
        self._database: SqliteDatabase | None = None

    def close(self) -> None:
        """Ends the connection."""
        if self._database is not None:
            self._database.close()
            self._database = None

    def changes(self) -> int:
        """A number that differs from the last one when somebody has written into the spool."""
        try:
            return self._open().changes()
        except (StoreError, OSError) as error:
            raise _trouble(error) from None

    def is_open(self, identifier: str) -> bool:
        """Whether a letter is not yet at its end for all its recipients; one that is gone from the spool is."""
        return bool(self._run("is_open", identifier))

    def may_be_lost(self, identifier: str, seq: int) -> bool:
        """Whether a letter that is not there may have been, for mails with numbers above `seq` are gone."""
        if self._run("with_identifier", identifier, file="enqueue"):
            return False
        last: int = self.last_mail_id()
        return last < seq or int(self._run("held_since", seq)[0][0]) < last - seq

    def last_before(self, identifier: str) -> int:
        """The highest number of a mail before the one that has, or is to get, this identifier."""
        rows = self._run("with_identifier", identifier, file="enqueue")
        return int(rows[0][0]) - 1 if rows else self.last_mail_id()

    def last_mail_id(self) -> int:
        """The highest number that a mail ever had."""
        return int(self._run("last_mail_id", file="enqueue")[0][0])

    def submission(self, letter: Letter, identifier: str) -> Submission:
        """The mail as the spool takes it. Raises Unsendable."""
        now = time.time()
        try:
            mail = finished(self._config, letter.sender, letter.envelope, letter.fields, letter.body, now)
        except Refused as error:
            raise Unsendable(str(error)) from None
        mail.priority = self._config.priorities.get(NOW, 0)
        mail.identifier = identifier
        return mail

    def too_big(self) -> str:
        """Why a message over the limit is not sent."""
        return str(too_big(self._config.max_size_bytes))

    def queue(self, mail: Submission) -> int:
        """Puts a mail on disk and wakes the sender; its number, or that of the one that was queued under its identifier."""
        try:
            (mail_id,) = self._open().transact(lambda transaction: accept(transaction, [mail], time.time()))
        except (StoreError, OSError) as error:
            raise _trouble(error) from None
        ring(self._config.database)
        return mail_id

    def _run(self, name: str, *values: object, file: str = "outgoing") -> list[tuple[Any, ...]]:
        try:
            return self._open().run(f"{file}.{name}", values)
        except (StoreError, OSError) as error:
            raise _trouble(error) from None

    def _open(self) -> SqliteDatabase:
        if self._database is None:
            self._database = open_spool(self._config)
        return self._database


def _trouble(error: Exception) -> Trouble:
    return Trouble(SERVER, f"the spool: {error}")
