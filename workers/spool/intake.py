"""From a raw message and an envelope to what is queued: each way in passes here. Nothing heavy is imported."""

from __future__ import annotations

import os
import time

from workers.mail.errors import DATA, Refused
from workers.spool import message
from workers.spool.accept import Submission

TYPE_CHECKING = False
if TYPE_CHECKING:
    from workers.mail.config import Config


def submission(
    config: Config, sender: str, envelope: list[str], raw: bytes, now: float, full_name: str | None = None
) -> Submission:
    """The mail as it is stored; `sender` and `envelope` are checked addresses. Raises Refused(65) when it is too big."""
    fields, body = message.split(message.normalise(raw))
    return finished(config, sender, envelope, fields, body, now, full_name)


def finished(
    config: Config, sender: str, envelope: list[str], fields: list[bytes], body: bytes, now: float, full_name: str | None = None
) -> Submission:
    """As `submission`, for a message that is split already."""
    missing = _missing(sender, full_name, config.domain, now)
    text = message.finish(fields, body, missing)
    if len(text) > config.max_size_bytes:
        raise too_big(config.max_size_bytes)
    lanes = [config.lane(sender, address) for address in envelope]
    message_id = message.message_id(fields, missing["Message-ID"])
    return Submission(sender, envelope, lanes, message_id, text, now + config.max_age_s)


def too_big(most_bytes: int) -> Refused:
    """What is said of a message over the limit."""
    return Refused(DATA, f"the message is bigger than spool.max_size = {most_bytes} bytes")


def unique(now: float) -> str:
    """The left part of a Message-ID: never the same twice."""
    return f"{int(now * 1000):x}.{os.getpid():x}.{os.urandom(8).hex()}"


def date(now: float) -> str:
    """A Date field's value in this host's time zone."""
    local = time.localtime(now)
    return message.date_value(tuple(local), local.tm_gmtoff or 0)


def _missing(sender: str, full_name: str | None, host: str, now: float) -> dict[str, str]:
    """The fields that a message gets when it lacks them (RFC 6409 8)."""
    return {
        "From": message.from_value(sender or f"MAILER-DAEMON@{host}", full_name or ""),
        "Message-ID": f"<{unique(now)}@{host}>",
        "Date": date(now),
    }
