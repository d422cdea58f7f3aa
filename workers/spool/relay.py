"""The way out through an SMTP relay: a connection made ready by connect.py, and the courier on it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from workers.spool import connect
from workers.spool.outlet import Trouble
from workers.spool.transaction import Courier, Limits
from workers.spool.wire import Wire

if TYPE_CHECKING:
    from workers.mail.config import Relay
    from workers.spool.transaction import Guard


async def open_relay(relay: Relay, helo: str, guard: Guard) -> Courier:
    """Connects, secures, logs in. Raises Trouble."""
    try:
        ready = await connect.connect(relay, helo)
    except connect.Trouble as trouble:
        raise Trouble(trouble.text, refused=trouble.kind != "down", pause_s=trouble.retry_s) from None
    wire = Wire(ready.transport)
    ready.hand_over(wire)
    return Courier(wire, ready.extensions, guard, Limits())
