"""The way out through an SMTP relay: a connection made ready by connect.py, and the courier on it."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from workers.spool import connect
from workers.spool.outlet import Trouble
from workers.spool.transaction import Courier, Limits
from workers.spool.wire import Wire

if TYPE_CHECKING:
    from workers.mail.config import Relay
    from workers.spool.transaction import Guard


LIMITS = "SEMGUARD_MAIL_LIMITS"  # such as `dot=5,auth=1`: steps that last shorter, so that tests need not wait


async def open_relay(relay: Relay, helo: str, guard: Guard) -> Courier:
    """Connects, secures, logs in. Raises Trouble."""
    connect_limits, mail_limits = limits(os.environ.get(LIMITS, ""))
    try:
        ready = await connect.connect(relay, helo, limits=connect_limits)
    except connect.Trouble as trouble:
        raise Trouble(trouble.text, refused=trouble.kind != "down", pause_s=trouble.retry_s) from None
    wire = Wire(ready.transport)
    ready.hand_over(wire)
    return Courier(wire, ready.extensions, guard, mail_limits)


def limits(text: str) -> tuple[connect.Limits, Limits]:
    """The time limits of all steps, with those that `text` names (`STEP=SECONDS,…`) in place of the standard's."""
    given = {name: float(value) for name, _, value in (part.partition("=") for part in text.split(",") if part)}
    before = {f"{name}_s": given[name] for name in ("connect", "greeting", "ehlo", "starttls", "auth") if name in given}
    mail = {f"{name}_s": given[name] for name in ("envelope", "data", "block", "dot") if name in given}
    return connect.LIMITS._replace(**before), Limits(**mail)
