"""What the commands beside the worker share: the state database as it is, an account by name, a connection of their own."""

from __future__ import annotations

import fcntl
import os
from contextlib import contextmanager

from workers.imap.books import DAMAGED, open_beside
from workers.mail.errors import IO, NOT_ALLOWED, USAGE, Refused
from workers.spool.refusal import store_refused
from workers.store.database import StoreError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

    from workers.imap.session import Session
    from workers.mail.imap_config import Account, Imap
    from workers.store.sqlite import SqliteDatabase

NO_WORKER = "no worker runs: start guard, or imap-sync run"
NO_ACCOUNTS = "no accounts: add [[imap.accounts]] with name, host and password_file to"


OTHER_USER = "run it as the user who keeps the copies"
MOVED = 1_000_000_000  # beyond all that people give and databases count up to


@contextmanager
def state(imap: Imap) -> Iterator[SqliteDatabase | None]:
    """The state database, or None when there is none yet: looking makes nothing. Raises Refused."""
    database = None
    try:
        if _exists(imap.state):
            database = open_beside(imap.state)
        yield database
    except StoreError as error:
        raise state_refused(imap, error) from None
    finally:
        if database is not None:
            database.close()


def state_refused(imap: Imap, error: StoreError) -> Refused:
    """What an error of the state database means for a command."""
    if error.kind in DAMAGED:
        who = "restart the worker, which" if is_running(imap) else "the next imap-sync sync or run"
        return Refused(IO, f"{imap.state}: is damaged; {who} sets it aside and makes it anew from the files and the servers")
    return store_refused(error)


def number_of(account: Account, key: int, imap: Imap) -> int:
    """The account's number in log and JSON: its `id`, else its key in the state database, moved where that is another's `id`."""
    if account.id is not None:
        return account.id
    taken = {each.id for each in imap.accounts}
    while key in taken:
        key += MOVED
    return key


def os_refused(error: OSError, path: str) -> Refused:
    """What an error of the file system means for a command; `path` is where it was at work."""
    what = f"{error.filename or path}: {error.strerror}"
    if isinstance(error, PermissionError):
        return Refused(NOT_ALLOWED, f"{what}; {OTHER_USER}")
    return Refused(IO, what)


def is_running(imap: Imap) -> bool:
    """Whether a worker, or a `sync`, has the root. A shared lock, so that two who look don't take each other for one."""
    try:
        fd = os.open(imap.root, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except FileNotFoundError:
        return False
    except OSError as error:
        raise Refused(NOT_ALLOWED, f"{imap.root}: {error.strerror}; {OTHER_USER}") from None
    try:
        fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(fd)
    return False


def named(imap: Imap, name: str) -> Account:
    """The account of this name. Raises Refused that names the known ones."""
    for account in imap.accounts:
        if account.name == name:
            return account
    known = ", ".join(account.name for account in imap.accounts) or "none: add [[imap.accounts]] to mail.toml"
    raise Refused(USAGE, f"no account {name}; known are {known}")


def only(imap: Imap, operands: list[str], command: str) -> Account:
    """The one account that a command is about. Raises Refused."""
    if len(operands) != 1:
        raise Refused(USAGE, f"{command} needs the name of one account; imap-sync status shows them")
    return named(imap, operands[0])


def log_in(account: Account, without: frozenset[str] = frozenset()) -> Session:
    """A connection of the command's own; `without` as in Session. Raises Trouble."""
    from workers.imap.greet import open_connection
    from workers.imap.keys import Keys
    from workers.imap.limits import Limits
    from workers.imap.session import Session
    from workers.imap.stream import READ_BYTES

    session, keys, buffer = Session(without), Keys(), bytearray(READ_BYTES)
    session.connection = open_connection(account, Limits(), session.hear, buffer, lambda: keys.fetch(account), None)
    try:
        session.prepare()
    except BaseException:
        session.close(politely=False)
        raise
    return session


def _exists(path: str) -> bool:
    try:
        os.stat(path)
    except (FileNotFoundError, NotADirectoryError):
        return False
    except OSError as error:
        raise Refused(NOT_ALLOWED, f"{path}: {error.strerror}; {OTHER_USER}") from None
    return True
