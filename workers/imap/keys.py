"""The secrets of accounts: passwords as they are now, tokens kept until they end or are refused."""

from __future__ import annotations

import os
import threading
import time

from workers.mail.secrets import password, token
from workers.mail.tokens import NEAR_END_S, TOKEN_AGE_S, expiry

TYPE_CHECKING = False
if TYPE_CHECKING:
    from workers.mail.imap_config import Account

    Stamp = tuple[int, int, int, int]


class Keys:
    """Shared by all threads; each account's command is run by one of them at a time."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._locks: dict[str, threading.Lock] = {}
        self._tokens: dict[str, tuple[str, float]] = {}  # the token and when it is asked for again

    def fetch(self, account: Account) -> str:
        """The account's secret. Raises SecretError."""
        if account.token_command is None:
            return password(account)
        with self._lock:
            own = self._locks.setdefault(account.name, threading.Lock())
        with own:
            kept, ends_at = self._tokens.get(account.name, ("", 0.0))
            if not kept or time.time() >= ends_at:
                kept = token(account)
                self._tokens[account.name] = (kept, (expiry(kept) or time.time() + TOKEN_AGE_S + NEAR_END_S) - NEAR_END_S)
            return kept

    def forget(self, account: Account) -> None:
        """The next `fetch` asks anew."""
        self._tokens.pop(account.name, None)


def stamp(account: Account) -> Stamp | None:
    """What changes when the password file does, its mode and owner too."""
    try:
        facts = os.stat(account.password_file) if account.password_file is not None else None
    except OSError:
        return (0, 0, 0, 0)
    return None if facts is None else (facts.st_ino, facts.st_size, facts.st_mtime_ns, facts.st_ctime_ns)
