"""The bell: a POSIX message queue of depth one by which an enqueuer wakes the sender (mq_overview(7)).

Only the sender makes the queue: one made by another user's enqueuer would be closed to it, and a queue that nobody
listens to would be left behind. A lost ring loses nothing: the sender looks by itself, only later.
"""

from __future__ import annotations

import os

import posix_ipc


def bell_name(database: str) -> str:
    """The queue's name: it follows the database file, not its path. Raises OSError when there is none."""
    facts = os.stat(database)
    return f"/semguard-mail-{facts.st_dev:x}-{facts.st_ino:x}"


def ring(database: str) -> None:
    """Wakes the sender if one sleeps. Never fails: the mail is on disk, and the sender's slow poll finds it."""
    try:
        queue = posix_ipc.MessageQueue(bell_name(database), write=True, read=False)
    except (posix_ipc.Error, OSError):
        return  # nobody listens, or not to this user
    try:
        queue.send(b"", timeout=0)
    except (posix_ipc.Error, OSError):
        pass  # it has been rung already
    finally:
        queue.close()


class Bell:
    """The sender's end. `fd` becomes readable when the bell was rung; None when there is no bell here."""

    def __init__(self, database: str, group: int | None = None) -> None:
        """`group` is the id of the group that may ring besides this user."""
        self._database = database
        self._group = group
        self._queue: posix_ipc.MessageQueue | None = None
        self.problem = ""
        self.open()

    @property
    def fd(self) -> int | None:
        """What to wait on: on Linux a message queue is a descriptor that poll knows."""
        return None if self._queue is None else int(self._queue.mqd)

    def open(self) -> None:
        """Makes the queue, or takes over the one that a killed sender left."""
        try:
            self._queue = posix_ipc.MessageQueue(
                bell_name(self._database), posix_ipc.O_CREAT, mode=0o600, max_messages=1, max_message_size=1, write=False
            )
            if self._group is not None:
                os.fchown(self._queue.mqd, -1, self._group)
                os.fchmod(self._queue.mqd, 0o660)
            self.problem = ""
        except (posix_ipc.Error, OSError) as error:
            self._queue = None
            self.problem = str(error)

    def hush(self) -> bool:
        """Takes the ring out, so that the next one is heard; to be called before looking for mail. Whether it was rung."""
        if self._queue is None or not self._queue.current_messages:
            return False
        try:
            self._queue.receive(timeout=0)
        except posix_ipc.BusyError:
            return False  # another sender has taken it out
        return True

    def check(self) -> bool:
        """Makes the queue anew when somebody took it away, as logind's RemoveIPC does; True when `fd` has changed."""
        if self._queue is None or os.fstat(self._queue.mqd).st_nlink > 0:
            return False
        self._queue.close()
        self.open()
        return True

    def close(self) -> None:
        """Takes the queue away."""
        if self._queue is None:
            return
        from contextlib import suppress

        with suppress(posix_ipc.ExistentialError):  # taken away by someone else
            self._queue.unlink()
        self._queue.close()
        self._queue = None
