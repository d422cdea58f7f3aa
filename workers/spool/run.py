"""The `run` command: puts the sender together from its parts, and takes them apart again."""

from __future__ import annotations

import os
import sqlite3
from typing import TYPE_CHECKING

from workers.mail.errors import NOT_ALLOWED, TRY_AGAIN, Refused
from workers.spool.bell import Bell
from workers.spool.log import line
from workers.spool.sender import Sender, lock
from workers.spool.stop import Stop
from workers.spool.store import Store, store_refused

if TYPE_CHECKING:
    from workers.mail.config import Config
    from workers.spool.outlet import Outlet


def run(config: Config, *, drain: bool) -> int:
    """Sends until asked to stop or, with `drain`, until nothing is due; the exit status. Raises Refused."""
    try:
        return _run(config, drain=drain)
    except sqlite3.Error as error:
        raise store_refused(config.database, error) from None
    except PermissionError as error:
        raise Refused(NOT_ALLOWED, f"{error.filename}: {error.strerror}; this user may not use the spool") from None
    except OSError as error:
        raise Refused(TRY_AGAIN, f"{error.filename or config.database}: {error.strerror}") from None


def _run(config: Config, *, drain: bool) -> int:
    outlet = _outlet(config)
    stop = Stop(outlet.cut)
    store = Store(config.database)
    held = lock(config.database)
    bell = Bell(config.database)
    try:
        line(f"started: spool {config.database}, config {config.path or 'none'}, mail goes to {outlet.name}")
        if bell.problem:
            line(f"no message queue here ({bell.problem}): new mail is seen within {bell.slow_poll_s:.0f} s")
        status = Sender(store, outlet, bell, stop).run(drain=drain)
        line("ended")
        return status
    finally:
        outlet.close()
        bell.close()
        store.close()
        os.close(held)


def _outlet(config: Config) -> Outlet:
    if config.relay is None:
        from workers.spool.maildir import MaildirOutlet

        return MaildirOutlet(config.delivered)
    from workers.spool.relay import RelayOutlet

    return RelayOutlet(config.relay, os.uname().nodename)
