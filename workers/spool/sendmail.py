"""Accepts one message: reads it, checks it, stores it durably, rings the bell. Exit 0 means that it is on disk."""

from __future__ import annotations

import os
import pwd
import time

from workers.mail.addresses import AddressError, check_address, expand_recipients, split_addresses
from workers.mail.errors import DATA, IO, USAGE, Refused
from workers.spool import message
from workers.spool.accept import Submission, accept, open_spool

TYPE_CHECKING = False
if TYPE_CHECKING:
    from workers.mail.config import Config
    from workers.spool.arguments import Arguments

CHUNK_BYTES = 1 << 16


def submit(arguments: Arguments, config: Config) -> int:
    """Queues the message on standard input and returns its id. Raises Refused with the exit status."""
    if not arguments.recipients and not arguments.from_header:
        raise Refused(USAGE, "no recipient; name one, or use -t to take them from To, Cc and Bcc")
    host = config.domain
    try:
        sender = _sender(arguments.sender, host)
        recipients = [part for word in arguments.recipients for part in _listed(word)]
        envelope = expand_recipients(recipients, config.aliases, host)  # a wrong address is said before reading
        raw = read_message(config.max_size_bytes, ignore_dots=arguments.ignore_dots)
        fields, body = message.split(message.normalise(raw))
        if arguments.from_header:
            named = [part for value in message.recipient_fields(fields) for part in split_addresses(value)]
            envelope = list(dict.fromkeys(envelope + expand_recipients(named, config.aliases, host)))
    except AddressError as error:
        raise Refused(DATA, str(error)) from None
    if not envelope:
        raise Refused(USAGE if not arguments.from_header else DATA, "no recipient in To, Cc or Bcc")
    now = time.time()
    missing = _missing(sender, arguments.full_name, host, now)
    text = message.finish(fields, body, missing)
    if len(text) > config.max_size_bytes:
        raise _too_big(config.max_size_bytes)
    lanes = [config.lane(sender, address) for address in envelope]
    message_id = message.message_id(fields, missing["Message-ID"])
    return _store(config, Submission(sender, envelope, lanes, message_id, text, now + config.max_age_s), now)


def read_message(most_bytes: int, *, ignore_dots: bool, fd: int = 0) -> bytes:
    """What stands on `fd`, to its end or, without `ignore_dots`, to a line with a single dot. Raises Refused."""
    raw = bytearray()
    while True:
        try:
            chunk = os.read(fd, CHUNK_BYTES)
        except OSError as error:
            raise Refused(IO, f"standard input can't be read: {error.strerror}") from None
        if not chunk:
            return bytes(raw)
        looked = max(0, len(raw) - 3)
        raw += chunk
        if not ignore_dots and (end := message.end_at_dot(raw, looked)) >= 0:
            return bytes(raw[:end])
        if len(raw) > most_bytes:
            raise _too_big(most_bytes)


def _store(config: Config, mail: Submission, now: float) -> int:
    from workers.spool.refusal import store_refused
    from workers.store.bell import ring
    from workers.store.database import StoreError

    try:
        spool = open_spool(config)
        (mail_id,) = spool.transact(lambda transaction: accept(transaction, [mail], now))
    except StoreError as error:
        raise store_refused(error) from None
    ring(config.database)
    return mail_id


def _sender(given: str | None, host: str) -> str:
    if given == "":
        return ""  # the null sender, RFC 5321 4.5.5
    if given is not None:
        named = _listed(given)
        if len(named) != 1:
            raise AddressError(f"sender {given!r}: needs to be one address")
        return check_address(named[0] if "@" in named[0] else f"{named[0]}@{host}")
    try:
        name = pwd.getpwuid(os.getuid()).pw_name
    except KeyError:
        name = f"uid{os.getuid()}"
    return check_address(f"{name}@{host}")


def _listed(word: str) -> list[str]:
    if any(sign in word for sign in "\r\n\0"):
        raise AddressError(f"address {word!r}: a line end or NUL is not allowed")
    return split_addresses(word)


def _missing(sender: str, full_name: str | None, host: str, now: float) -> dict[str, str]:
    """The fields that a message gets when it lacks them (RFC 6409 8)."""
    local = time.localtime(now)
    unique = f"{int(now * 1000):x}.{os.getpid():x}.{os.urandom(8).hex()}"
    return {
        "From": message.from_value(sender or f"MAILER-DAEMON@{host}", full_name or ""),
        "Message-ID": f"<{unique}@{host}>",
        "Date": message.date_value(tuple(local), local.tm_gmtoff or 0),
    }


def _too_big(most_bytes: int) -> Refused:
    return Refused(DATA, f"the message is bigger than spool.max_size = {most_bytes} bytes")
