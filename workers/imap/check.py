"""`check`: the config in force, then one login for each account, and what its server offers. Nothing is copied."""

from __future__ import annotations

import sys
from contextlib import suppress

from workers.imap import names
from workers.imap.account import UNSELECTABLE, wanted
from workers.imap.folder import tier_of
from workers.imap.limits import Limits
from workers.imap.log import OUTPUT_ONLY, unwritable
from workers.imap.session import declined
from workers.imap.trouble import NETWORK, OUTBOX, SECRET, Declined, Trouble, undotted
from workers.imap.visit import is_running, log_in, no_accounts, no_worker, what_to_do
from workers.mail.errors import OK, TRY_AGAIN
from workers.mail.words import plain

TYPE_CHECKING = False
if TYPE_CHECKING:
    from workers.imap.session import Session
    from workers.mail.config import Config
    from workers.mail.imap_config import Account, Imap

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
    _say(f"log      {imap.log or 'standard output only'}, level {imap.log_level}{_log_trouble(imap)}")
    running = is_running(imap)
    _say(f"worker   {'runs' if running else no_worker(imap)}")
    if not imap.accounts:
        _say(no_accounts(config))
    kinds = [_account(config, account, running=running) for account in imap.accounts]
    if any(kind not in ("", NETWORK) for kind in kinds):
        return PERSON
    return TRY_AGAIN if any(kinds) else OK


def _log_trouble(imap: Imap) -> str:
    why = unwritable(imap.log) if imap.log is not None else ""
    return f"; can't be written ({why}): {OUTPUT_ONLY}; put that folder or imap.log in mail.toml right" if why else ""


def _account(config: Config, account: Account, *, running: bool) -> str:
    """Logs in and tells of it; the kind of its trouble, "" for none."""

    def remedy(kind: str, text: str) -> str:
        """What to do about it, behind a text that does not say so itself."""
        if "mail.toml" in text or (kind == SECRET and ("chmod" in text or "must belong" in text)):
            return ""
        place = f'[[imap.accounts]] name = "{account.name}" in {config.path}'
        words = what_to_do(config.imap, account, (kind, text), place, running=running, again="then: imap-sync check")
        return f"; {words[0].lower()}{words[1:]}"

    where = f"{account.name}: {account.host}:{account.port}"
    if not account.enabled:
        _say(f"{account.name}: disabled (enabled = false)")
        return ""
    try:
        session = log_in(account)
    except Trouble as trouble:
        _say(f"{where}: {undotted(plain(str(trouble)))}{remedy(trouble.kind, str(trouble))}")
        return trouble.kind
    try:
        offers, kind = _offers(session, account)
        _say(f"{where} answers, {offers}{remedy(kind, offers) if kind else ''}")
    except Trouble as trouble:
        text = undotted(plain(str(trouble)))
        _say(f"{where} answers, logged in as {account.user}, but: {text}{remedy(trouble.kind, text)}")
        return trouble.kind
    finally:
        with suppress(Trouble):
            session.close(politely=True)
    return kind


def _offers(session: Session, account: Account) -> tuple[str, str]:
    """What the server can, in words, and OUTBOX when it has no folder of that name. Raises Trouble."""
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
    kind = ""
    for name, use in ((account.outbox, "its outbox"), (account.sent, "for sent mail: made when it is needed")):
        if name is not None and not any(names.is_named(name, each.name, each.delimiter) for each in there):
            push += f"; it has no folder {plain(name)} ({use})"
            kind = OUTBOX if name == account.outbox else kind
    folders = f"{len(taken)} of {len(there)} folders are copied"
    return f"{tls}, logged in as {account.user}; {TIERS[tier_of(session)]}; {push}; {folders}", kind


def _say(text: str) -> None:
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()
