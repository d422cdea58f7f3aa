"""The `run` command: puts the sender together from its parts, and takes them apart again."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import time
from functools import partial
from typing import TYPE_CHECKING

from workers.mail.config import MAILDIR
from workers.mail.notify import Notifier
from workers.spool.accept import open_spool
from workers.spool.desk import Terms
from workers.spool.lane import Lane
from workers.spool.log import line
from workers.spool.notices import Notices
from workers.spool.refusal import store_refused
from workers.spool.sender import RELOAD, Sender
from workers.spool.upkeep import Upkeep
from workers.store.bell import Bell
from workers.store.database import StoreError
from workers.store.leases import Lease
from workers.store.writer import Writer

if TYPE_CHECKING:
    from workers.mail.config import Config, Relay
    from workers.spool.link import Link
    from workers.spool.outlet import Carrier


def run(config: Config, *, drain: bool) -> int:
    """Sends until asked to stop or, with `drain`, until nothing is due; the exit status. Raises Refused."""
    try:
        status = asyncio.run(_run(config, drain=drain))
        if status == RELOAD:  # the same process goes on, so that guard sees no death
            os.execv(sys.executable, [sys.executable, *sys.orig_argv[1:]])
        return status
    except StoreError as error:
        raise store_refused(error) from None


async def _run(config: Config, *, drain: bool) -> int:
    started = time.time()
    database = open_spool(config)
    writer = Writer(partial(open_spool, config))
    bell = Bell(config.database, database.group)
    notices, notifier = Notices(config), Notifier()
    try:
        sender = Sender(config, database, writer, Lease(), notices)
        sender.lanes = {name: _lane(relay, config, sender) for name, relay in config.relays().items()}
        sender.lanes[MAILDIR] = _maildir(config, sender)
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, sender.asked_to_end)
        names = [lane.title for name, lane in sender.lanes.items() if name != MAILDIR or config.relay is None]
        line(f"started: spool {config.database}, config {config.path or 'none'}, mail goes to {', '.join(names)}")
        Upkeep(sender, database, writer, bell, notices, notifier).start()
        status = await sender.run(drain=drain)
        if status != RELOAD:  # at that word a supervisor would wait for the end, and then kill
            notifier.say("STOPPING=1")
        line(f"ended: {sender.sent} sent in {time.time() - started:.0f} s")
        return status
    finally:
        notifier.close()
        bell.close()
        writer.close()
        database.close()


def _lane(relay: Relay, config: Config, sender: Sender) -> Lane:
    terms = Terms(
        relay.connections,
        relay.mails_per_connection,
        relay.recipients,
        relay.rate,
        relay.auth_pause_s,
        relay.password_file,
    )
    return Lane(relay.name, f"relay {relay.host}:{relay.port}", terms, partial(_connect, relay, config), sender)


async def _connect(relay: Relay, config: Config, link: Link) -> Carrier:
    from workers.spool.relay import open_relay

    return await open_relay(relay, config.helo, link)


def _maildir(config: Config, sender: Sender) -> Lane:
    from workers.spool.maildir import MaildirCarrier

    terms = Terms(1, 1000000, 100, None, 60.0)

    async def connect(link: Link) -> Carrier:
        carrier = MaildirCarrier(config.delivered, link)
        await carrier.open()
        return carrier

    return Lane(MAILDIR, f"Maildir {config.delivered}", terms, connect, sender)
