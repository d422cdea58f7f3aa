"""`check`: the config, then each relay: connect, TLS, login. Nothing is sent."""

from __future__ import annotations

import asyncio
import os
import sys
from typing import TYPE_CHECKING

from workers.mail.errors import OK, TRY_AGAIN
from workers.spool.listing import unsent
from workers.spool.outlet import Trouble
from workers.spool.relay import open_relay

if TYPE_CHECKING:
    from collections.abc import Iterable

    from workers.mail.config import Config, Relay
    from workers.spool.attempt import Attempt


def check(config: Config) -> int:
    """Prints what is in force and how each relay answers; 0, or 75 when one does not. Raises Refused."""
    _say(f"config     {config.path or 'none: defaults'}")
    _say(f"spool      {config.database}, {unsent(config)} recipients to be sent to")
    _say(f"domain     {config.domain}, greets as {config.helo}")
    _say(f"templates  {config.templates}{'' if os.path.isdir(config.templates) else ' (missing: the samples only)'}")
    if config.relay is None:
        _say(f"maildir    {config.delivered}: no [relay], so mail goes there unless a route or identity names one")
    return asyncio.run(_relays(config))


async def _relays(config: Config) -> int:
    status = OK
    for name, relay in config.relays().items():
        try:
            await _try(relay, config.helo)
        except Trouble as trouble:
            _say(f"{name}: {trouble}")
            status = TRY_AGAIN
        else:
            login = f", logged in as {relay.user}" if relay.user is not None else ""
            _say(f"{name}: {relay.host}:{relay.port} answers, tls {relay.tls}{login}")
    return status


async def _try(relay: Relay, helo: str) -> None:
    carrier = await open_relay(relay, helo, _Nothing())
    await carrier.close()


class _Nothing:
    """A guard for a connection that carries no mail."""

    def past_dot(self, attempt: Attempt) -> bool:  # noqa: ARG002 - of Guard
        """Never: nothing is sent."""
        return False

    def taken(self, attempt: Attempt, answer: str) -> None:
        """Never called."""

    def parts(self, attempt: Attempt) -> Iterable[bytes]:  # noqa: ARG002 - of Guard
        """Nothing."""
        return ()

    def next(self) -> Attempt | None:
        """Nothing."""
        return None


def _say(text: str) -> None:
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()
