"""What the commands beside the worker share: the state database as it is, an account by name, a connection of their own."""

from __future__ import annotations

import fcntl
import os
import pwd
from contextlib import contextmanager

from workers.imap.books import DAMAGED, open_beside
from workers.imap.trouble import AUTH, DISK, NETWORK, NO_LOGIN, OUTBOX, SECRET, SERVER, TLS
from workers.mail.errors import CONFIG, IO, NOT_ALLOWED, USAGE, Refused
from workers.mail.load import SYSTEM_FILE
from workers.spool.refusal import store_refused
from workers.store.database import StoreError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

    from workers.imap.session import Session
    from workers.mail.config import Config
    from workers.mail.imap_config import Account, Imap
    from workers.store.sqlite import SqliteDatabase

OTHER_USER = "run it as the user who keeps the copies"
MOVED = 1_000_000_000  # beyond all that people give and databases count up to


def no_worker(imap: Imap) -> str:
    """For a root where none is at work. The places follow the user, so one of another user is not seen from here."""
    try:
        user = pwd.getpwuid(os.geteuid()).pw_name
    except KeyError:
        user = str(os.geteuid())
    return f"no worker runs for user {user} (copies in {imap.root}); start guard, or imap-sync run"


def no_accounts(config: Config) -> str:
    """For a config without accounts: where they belong."""
    return f"no accounts: add [[imap.accounts]] with name, host and password_file to {config_path(config)}"


def config_path(config: Config) -> str:
    """The file of the config, else the one that would be read if it were there."""
    if config.path is not None or os.geteuid() == 0:
        return config.path or SYSTEM_FILE
    return os.path.join(pwd.getpwuid(os.geteuid()).pw_dir, ".config", "semguard", "mail.toml")


@contextmanager
def state(imap: Imap) -> Iterator[SqliteDatabase | None]:
    """The state database, or None when there is none yet: looking makes nothing. Raises Refused."""
    database = None
    try:
        if _has_state(imap):
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
    """What an error of the file system means for a command; `path` is imap.root, where it was at work."""
    what = f"{error.filename or path}: {error.strerror}"
    if isinstance(error, (FileExistsError, NotADirectoryError)) and not os.path.isdir(path):
        return Refused(CONFIG, f"{path}: is no folder; imap.root in mail.toml has to be a folder")
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
        raise os_refused(error, imap.root) from None
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


def what_to_do(imap: Imap, account: Account, trouble: tuple[str, str], where: str, *, running: bool, again: str) -> str:
    """What a person can do about a trouble (kind, text), without a full stop. `again`: the command that tries once more.

    Of a secret it names the key alone: a command may hold one.
    """
    kind, text = trouble
    by_itself = "It is tried again by itself" if running else "The next sync or run tries it again"
    secret = next(
        key for key in ("password_file", "password_command", "token_command") if getattr(account, key) or key == "token_command"
    )
    if kind == AUTH and text.startswith(NO_LOGIN):
        if account.token_command is not None:
            return f"It takes no tokens: put password_file or password_command in the place of token_command at {where}; {again}"
        return f"See tls, or put token_command in the place of {secret} at {where}, if it wants a token; {again}"
    if kind == AUTH:
        source = f"{secret} = {account.password_file}" if account.password_file else secret
        return f"Put user ({account.user}) or the secret right ({source}) at {where}; {again}"
    if kind == SECRET and account.password_file is not None and not os.path.lexists(account.password_file):
        return f"Write the password into {account.password_file}, mode 0600; {again}"
    if kind == SECRET:
        return f"No password or token could be had: see {secret} at {where}; {again}"
    if kind == TLS:
        keys = "tls, host, ca_file, fingerprint" + (", cert_file, key_file" if account.cert_file else "")
        return f"The connection would not be safe: see {keys} at {where}; {again}"
    if kind == OUTBOX:
        return f"Make that folder on the server, or put outbox right at {where}; {again}"
    if kind == DISK:
        goes_on = "it goes on by itself" if running else again
        return f"Make space for {imap.root} (df -h, df -i), and let it be written to; {goes_on}"
    if kind == NETWORK:
        keys = f'host ({account.host}), port ({account.port}) and tls ("{account.tls}")'
        return f"{by_itself}; if that lasts, see {keys} at {where}"
    if kind == SERVER:
        return f"{by_itself}, at each look; the words above are the server's, so its administrator knows more"
    return by_itself


def _has_state(imap: Imap) -> bool:
    try:
        os.stat(imap.state)
    except (FileNotFoundError, NotADirectoryError):
        return False
    except OSError as error:
        raise os_refused(error, imap.root) from None
    return True
