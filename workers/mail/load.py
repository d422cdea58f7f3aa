"""Finds mail.toml, checks it, and gives it as values; with no file at all, the defaults.

Never a file in the current folder: every caller of a user finds the same spool, and nobody else's file is obeyed.
Nothing heavy is imported unless a file exists: each sendmail call passes here.
"""

from __future__ import annotations

import errno
import os
import pwd
import stat

from workers.mail.config import Config
from workers.mail.errors import CONFIG, NOT_ALLOWED, Refused

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

SYSTEM_FILE = "/etc/semguard/mail.toml"
ROOT_STATE = "/var/lib/semguard"


def load(explicit: str | None = None) -> Config:
    """The config in force: `explicit`, else $MAIL_CONFIG, else the user's file, else /etc's, else defaults.

    Raises Refused(78) naming file, key and what is allowed; Refused(77) for a file that this user can't read.
    """
    return _load(find(explicit, os.environ.get("MAIL_CONFIG"), _home()), explicit)


def load_again(config: Config) -> Config:
    """The config that one at work with `config` has to take: never defaults or a lesser file because its own is gone.

    Raises Refused as `load` does, and for a file that is gone: `config` stays in force.
    """
    found = find_again(config)
    if found is not None and found == config.path and not os.path.lexists(found):
        raise Refused(CONFIG, f"{found}: is gone; put it back (an empty file means: no config)")
    return _load(found, config.asked_for)


def stamp(path: str | None) -> tuple[str, int, int, int] | None:
    """What changes when a file does; None when there is none."""
    if path is None:
        return None
    try:
        facts = os.stat(path)
    except OSError:
        return (path, 0, 0, 0)
    return path, facts.st_ino, facts.st_mtime_ns, facts.st_size


def find_again(config: Config) -> str | None:
    """The path of the file to be read now in place of `config`'s: its own, also when that is gone, or a greater one."""
    found = find(config.asked_for, os.environ.get("MAIL_CONFIG"), _home())
    return config.path if config.path is not None and found in (None, SYSTEM_FILE) else found


def _load(path: str | None, explicit: str | None) -> Config:
    seen = stamp(path)  # before it is read, so that a change behind it is one
    config = _loaded(path)
    config.asked_for, config.stamp = explicit, seen
    return config


def _loaded(path: str | None) -> Config:
    home = _home()
    state = ROOT_STATE if os.geteuid() == 0 else home and os.path.join(home, ".local", "state", "semguard")
    if path is None:
        if not state:
            why = f"user id {os.geteuid()} has no home in passwd"
            raise Refused(CONFIG, f"{why}: name a config with --config or $MAIL_CONFIG, and in it spool.state")
        return Config(None, state)
    from workers.mail.schema import configure
    from workers.mail.values import expand_all

    names: set[str] = set()
    parsed = _parse(path, _read(path))
    try:
        table = expand_all("", parsed, os.environ, names)
    except ValueError as error:
        raise Refused(CONFIG, f"{path}: {error}") from None
    config = configure(path, state, table, frozenset(names))
    if "routes" in table or "identity" in table:
        from workers.mail.routes import read_routes  # most files have none

        read_routes(config, path, table, frozenset(names))
    if "imap" in table:
        from workers.mail.imap_schema import read_imap

        read_imap(config, path, table, frozenset(names))
    return config


def find(explicit: str | None, named: str | None, home: str | None) -> str | None:
    """The path of the config file, or None. A file asked for by name must exist, the usual places may be empty."""
    for path in (explicit, named):
        if path:
            return os.path.abspath(path)
    for path in ((home and os.path.join(home, ".config", "semguard", "mail.toml")), SYSTEM_FILE):
        if path and os.path.lexists(path):
            return path
    return None


def _home() -> str | None:
    """The home that passwd names; None for a user id without one, as containers have it."""
    try:
        return pwd.getpwuid(os.geteuid()).pw_dir or None
    except KeyError:
        return None


def _read(path: str) -> bytes:
    """The file's bytes, if its owner may be trusted; judged on the open file, so that none is slipped in between."""
    no_file = Refused(CONFIG, f"{path}: is no file; put the config there, or name another with --config or $MAIL_CONFIG")
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOCTTY | os.O_NONBLOCK)
    except PermissionError as error:
        raise Refused(NOT_ALLOWED, f"{path}: {error.strerror}; this user may not read the mail config") from None
    except OSError as error:
        if error.errno == errno.ENXIO:  # a socket
            raise no_file from None
        raise Refused(CONFIG, f"{path}: {error.strerror}; name an existing file with --config or $MAIL_CONFIG") from None
    facts = os.fstat(fd)
    if not stat.S_ISREG(facts.st_mode):
        os.close(fd)
        raise no_file
    with open(fd, "rb") as file:
        if facts.st_uid not in (0, os.geteuid()):
            raise Refused(CONFIG, f"{path}: belongs to user id {facts.st_uid}; it must belong to you or to root")
        if facts.st_mode & 0o002:
            raise Refused(CONFIG, f"{path}: anyone may write to it; take that away: chmod o-w {path}")
        try:
            return file.read()
        except OSError as error:
            raise Refused(CONFIG, f"{path}: {error.strerror}") from None


def _parse(path: str, text: bytes) -> dict[str, Any]:
    from workers.mail.plain_toml import parse

    try:
        words = text.decode("utf-8")
    except UnicodeDecodeError as error:
        raise Refused(CONFIG, f"{path}: byte {error.start} is not UTF-8") from None
    table = parse(words)
    if table is not None:
        return table
    import tomllib

    try:
        return tomllib.loads(words)
    except tomllib.TOMLDecodeError as error:
        raise Refused(CONFIG, f"{path}: not TOML: {error}") from None
