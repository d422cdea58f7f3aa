"""`check`: the config in force, then one login for each account, and what its server offers. Nothing is copied."""

from __future__ import annotations

import sys
from contextlib import suppress

from workers.imap import names
from workers.imap.account import UNSELECTABLE, wanted
from workers.imap.folder import tier_of
from workers.imap.limits import Limits
from workers.imap.session import declined
from workers.imap.trouble import NETWORK, Declined, Trouble
from workers.imap.visit import NO_ACCOUNTS, NO_WORKER, is_running, log_in
from workers.mail.errors import OK, TRY_AGAIN
from workers.mail.words import plain

TYPE_CHECKING = False
if TYPE_CHECKING:
    from workers.imap.session import Session
    from workers.mail.config import Config
    from workers.mail.imap_config import Account

PERSON = 1
TIERS = {
    "qresync": "tells what has changed and what is gone (QRESYNC)",
    "condstore": "tells what has changed (CONDSTORE)",
    "plain": "tells no changes: flags are read again",
}


def check(config: Config) -> int:
    """Prints what is in force and how each server answers; 0, 75 when one can't be reached, 1 when a person is needed."""
    imap = config.imap
    _say(f"config   {config.path or 'none: defaults'}")
    _say(f"copies   {imap.root}")
    _say(f"state    {imap.state}")
    _say(f"log      {imap.log or 'standard output only'}, level {imap.log_level}")
    _say(f"worker   {'runs' if is_running(imap) else NO_WORKER}")
    if not imap.accounts:
        _say(f"{NO_ACCOUNTS} {config.path or '~/.config/semguard/mail.toml'}")
    kinds = [_account(account) for account in imap.accounts]
    if any(kind not in ("", NETWORK) for kind in kinds):
        return PERSON
    return TRY_AGAIN if any(kinds) else OK


def _account(account: Account) -> str:
    """Logs in and tells of it; the kind of its trouble, "" for none."""
    where = f"{account.name}: {account.host}:{account.port}"
    if not account.enabled:
        _say(f"{account.name}: disabled (enabled = false)")
        return ""
    try:
        session = log_in(account)
    except Trouble as trouble:
        _say(f"{where}: {plain(str(trouble))}")
        return trouble.kind
    try:
        _say(f"{where} answers, {_offers(session, account)}")
    except Trouble as trouble:
        _say(f"{where} answers, logged in as {account.user}, but: {plain(str(trouble))}")
        return trouble.kind
    finally:
        with suppress(Trouble):
            session.close(politely=True)
    return ""


def _offers(session: Session, account: Account) -> str:
    """What the server can, in words. Raises Trouble."""
    tls = "with TLS" if session.connection.stream.is_tls else "WITHOUT TLS"
    push = "tells of news in all folders (NOTIFY)" if session.can("NOTIFY") else "tells of news in one folder (IDLE)"
    if not session.can("NOTIFY") and not session.can("IDLE"):
        push = "tells of no news: is asked by the clock"
    try:
        everything = session.folders(int(Limits().folders))
    except Declined as error:
        raise declined(error) from None
    taken = wanted(everything, account)
    there = [each for each in everything if not each.attributes & UNSELECTABLE]
    for name in (account.outbox, account.sent):
        if name is not None and not any(names.is_named(name, each.name, each.delimiter) for each in there):
            push += f"; it has no folder {plain(name)}"
    folders = f"{len(taken)} of {len(there)} folders are copied"
    return f"{tls}, logged in as {account.user}; {TIERS[tier_of(session)]}; {push}; {folders}"


def _say(text: str) -> None:
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()
