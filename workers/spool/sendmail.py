"""sendmail: reads one message, checks it, stores it durably, rings the bell. Exit 0 means that it is on disk."""

from __future__ import annotations

import os
import pwd
import time

from workers.mail.addresses import AddressError, check_address, expand_recipients, split_addresses
from workers.mail.errors import DATA, IO, USAGE, Refused
from workers.spool import message
from workers.spool.accept import Submission, accept, open_spool
from workers.spool.intake import finished, submission, too_big

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
    return store(config, [finished(config, sender, envelope, fields, body, now, arguments.full_name)], now)[0]


def serve(config: Config) -> int:
    """`-bs`: speaks SMTP on standard input and output; the exit status. Raises Refused."""
    from workers.spool.session import serve as speak

    def take(sender: str, recipients: list[str], raw: bytes) -> str:
        now = time.time()
        try:
            envelope = expand_recipients(recipients, config.aliases, config.domain)
            checked = sender and _sender(sender, config.domain)
        except AddressError as error:
            raise Refused(DATA, str(error)) from None
        return str(store(config, [submission(config, checked, envelope, raw, now)], now)[0])

    return speak(0, 1, take, host=config.domain, max_size_bytes=config.max_size_bytes)


def store(config: Config, mails: list[Submission], now: float) -> list[int]:
    """Puts the mails on disk and wakes the sender; their ids. Raises Refused."""
    from workers.spool.refusal import store_refused
    from workers.store.bell import ring
    from workers.store.database import StoreError

    try:
        spool = open_spool(config)
        ids = spool.transact(lambda transaction: accept(transaction, mails, now))
    except StoreError as error:
        raise store_refused(error) from None
    ring(config.database)
    return ids


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
            raise too_big(most_bytes)


def caller(host: str) -> str:
    """The address of the user who calls. Raises AddressError."""
    try:
        name = pwd.getpwuid(os.getuid()).pw_name
    except KeyError:
        name = f"uid{os.getuid()}"
    return check_address(f"{name}@{host}")


def _sender(given: str | None, host: str) -> str:
    if given == "":
        return ""  # the null sender, RFC 5321 4.5.5
    if given is None:
        return caller(host)
    named = _listed(given)
    if len(named) != 1:
        raise AddressError(f"sender {given!r}: needs to be one address")
    return check_address(named[0] if "@" in named[0] else f"{named[0]}@{host}")


def _listed(word: str) -> list[str]:
    if any(sign in word for sign in "\r\n\0"):
        raise AddressError(f"address {word!r}: a line end or NUL is not allowed")
    return split_addresses(word)
