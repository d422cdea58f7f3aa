"""Makes a connection to a relay ready for mail: TCP, TLS, greeting, EHLO, STARTTLS, AUTH.

aiosmtplib carries the conversation. Its own `connect` has one time limit for the connection and the greeting, and it
keeps the transport for itself; so the transport is made here and lent to it, and nothing of it stays behind.
"""

from __future__ import annotations

import asyncio
import hashlib
import os
import socket
import ssl
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, NamedTuple

from aiosmtplib import SMTP, SMTPAuthenticationError, SMTPException, SMTPHeloError, SMTPResponseException

from workers.mail.secrets import SecretError
from workers.mail.tls import tls_context
from workers.mail.words import plain, seconds
from workers.spool.delivery import LOST, Step, again_in_s
from workers.spool.login import Conversation, NoMechanism, TokenCache, fetch, is_private, log_in, without

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from workers.mail.config import Relay

NEXT_ADDRESS_S = 0.25  # RFC 8305 5: a host's dead IPv6 must not use up the time of its living IPv4


class Limits(NamedTuple):
    """How long each step may take in all, in seconds (RFC 5321 4.5.3.2); `connect_s` is TCP, and TLS from the start."""

    connect_s: float = 30.0
    greeting_s: float = 300.0
    ehlo_s: float = 300.0
    starttls_s: float = 300.0
    auth_s: float = 300.0


class Trouble(Exception):
    """No connection: no mail is to blame. `code` is 0 (LOST) when no answer says why; `text` is one line without secrets.

    `kind`: "down" is worth a try again in seconds; "refused" (relay) and "account" (login) wait for `auth_pause`.
    `retry_s`: what the answer names as a pause, at most an hour.
    """

    def __init__(self, step: Step, code: int, text: str, kind: str, retry_s: float | None = None) -> None:
        super().__init__(text)
        self.step = step
        self.code = code
        self.text = text
        self.kind = kind
        self.retry_s = retry_s


class Ready:
    """A connection ready for mail.

    Reading is paused, so that nothing gets lost until `hand_over`, which is `set_protocol` and `resume_reading`.
    `extensions`: what EHLO told, lower-case keyword to parameters; empty after HELO.
    """

    __slots__ = ("extensions", "peer", "secure", "transport")

    def __init__(self, transport: asyncio.Transport, extensions: dict[str, str], peer: str, secure: bool) -> None:
        self.transport = transport
        self.extensions = extensions
        self.peer = peer
        self.secure = secure

    def hand_over(self, protocol: asyncio.Protocol) -> None:
        """From now on the connection is `protocol`'s."""
        self.transport.set_protocol(protocol)
        self.transport.resume_reading()


LIMITS = Limits()
TOKENS = TokenCache()


async def connect(
    relay: Relay, helo: str, *, fresh_token: bool = False, limits: Limits = LIMITS, tokens: TokenCache = TOKENS
) -> Ready:
    """Connects, secures and logs in. Raises Trouble.

    A refused token is replaced by a fresh one once. `fresh_token`: no token is used that was fetched before.
    """
    context = None if relay.tls == "none" else _context(relay)
    if fresh_token:
        tokens.forget(relay)
    while True:
        try:
            return await _session(relay, helo, context, limits, tokens)
        except Trouble as trouble:
            if relay.tls == "opportunistic" and context is not None and trouble.step is Step.STARTTLS:
                context = None
            # with LOST nothing was refused: no token to be had, or no mechanism for it
            elif relay.token_command is not None and not fresh_token and trouble.kind == "account" and trouble.code != LOST:
                fresh_token = True
            else:
                raise


async def _session(relay: Relay, helo: str, context: ssl.SSLContext | None, limits: Limits, tokens: TokenCache) -> Ready:
    loop = asyncio.get_running_loop()
    at_once = context if relay.tls == "tls" else None
    async with _step(relay, Step.CONNECT, limits.connect_s):
        transport, talk = await loop.create_connection(
            lambda: Conversation(loop), relay.host, relay.port, ssl=at_once, happy_eyeballs_delay=NEXT_ADDRESS_S
        )
    try:
        smtp = SMTP(local_hostname=helo, timeout=None)  # the limits are those of _step
        smtp.protocol, smtp.transport = talk, transport
        if at_once is not None:
            _check_pin(relay, transport, Step.CONNECT)
        async with _step(relay, Step.CONNECT, limits.greeting_s):
            greeting = await talk.read_response()
            if greeting.code != 220:
                raise SMTPResponseException(greeting.code, greeting.message)
        await _greet(smtp, relay, limits)
        secure = at_once is not None or (context is not None and await _secured(smtp, talk, relay, context, limits))
        if relay.user is not None:
            await _log_in(smtp, talk, relay, secure, limits, tokens)
        async with _step(relay, Step.AUTH if relay.user is not None else Step.EHLO, limits.ehlo_s):
            return Ready(talk.given_up(), dict(smtp.esmtp_extensions), _peer(relay), secure)
    except BaseException:
        transport.abort()
        raise


async def _greet(smtp: SMTP, relay: Relay, limits: Limits) -> None:
    async with _step(relay, Step.EHLO, limits.ehlo_s):
        try:
            await smtp.ehlo()
        except SMTPHeloError as error:
            if error.code not in (500, 502, 504):  # RFC 5321 3.2: HELO for a server that does not know EHLO
                raise
            await smtp.helo()


async def _secured(smtp: SMTP, talk: Conversation, relay: Relay, context: ssl.SSLContext, limits: Limits) -> bool:
    """STARTTLS and a new EHLO (RFC 3207 4.2); False where it is not offered and need not be."""
    if not smtp.supports_extension("starttls"):
        if relay.tls == "opportunistic":
            return False
        raise _trouble(relay, Step.STARTTLS, "it offers no STARTTLS; is relay.tls or relay.port wrong?", "refused")
    async with _step(relay, Step.STARTTLS, limits.starttls_s):
        await smtp.starttls(server_hostname=relay.host, tls_context=context, timeout=limits.starttls_s)
    try:
        talk.check_turn()
    except SMTPException as error:  # words that came in clear, for the time when they would look secured
        raise _trouble(relay, Step.STARTTLS, f"TLS refused: {error.message}", "refused") from None
    _check_pin(relay, smtp.transport, Step.STARTTLS)
    await _greet(smtp, relay, limits)
    return True


async def _log_in(smtp: SMTP, talk: Conversation, relay: Relay, secure: bool, limits: Limits, tokens: TokenCache) -> None:
    address = talk.transport.get_extra_info("peername") if talk.transport is not None else None
    if not is_private(secure, address[0] if address else None):
        # also under opportunistic: without a login the relay would refuse mail for good
        raise _trouble(relay, Step.AUTH, "no password without TLS; set tls to tls or starttls, or take user away", "account")
    try:
        secret = await fetch(relay, tokens)
    except SecretError as error:
        raise _trouble(relay, Step.AUTH, str(error), "account") from None
    async with _step(relay, Step.AUTH, limits.auth_s, secret):
        try:
            await log_in(smtp, relay, secret, secure=secure)
        except SMTPAuthenticationError as error:
            if error.code >= 500:
                tokens.forget(relay, secret)
            raise
        except NoMechanism as error:
            raise _trouble(relay, Step.AUTH, f"login impossible: {error}", "account") from None


@asynccontextmanager
async def _step(relay: Relay, step: Step, limit_s: float, secret: str = "") -> AsyncIterator[None]:
    """Limits a step and makes whatever goes wrong in it a Trouble."""
    try:
        async with asyncio.timeout(limit_s):
            yield
    except SMTPResponseException as error:
        raise _answered(relay, step, error, secret) from None
    except (OSError, SMTPException, UnicodeError) as error:
        raise _lost(relay, step, error, limit_s) from None


def _answered(relay: Relay, step: Step, error: SMTPResponseException, secret: str) -> Trouble:
    words = without(error.message, relay, secret)
    if not 400 <= error.code < 600:  # also what is no SMTP at all, or endless
        code = f"{error.code} " if error.code > 0 else ""
        return _trouble(relay, step, f"not understood at {step.value}: {code}{words}", "down")
    kind = "down" if error.code < 500 else "account" if step is Step.AUTH else "refused"
    what = "login refused" if step is Step.AUTH else f"refused at {step.value}"
    return _trouble(relay, step, f"{what}: {error.code} {words}", kind, error.code, again_in_s(words))


def _lost(relay: Relay, step: Step, error: Exception, limit_s: float) -> Trouble:
    failed = next((each for each in (error, error.__cause__) if isinstance(each, ssl.SSLError)), None)
    if failed is not None:  # TLS 1.3 tells only after the handshake that a client certificate is not good
        step = Step.CONNECT if relay.tls == "tls" else Step.STARTTLS
        return _trouble(relay, step, f"TLS failed: {_reason(failed)}", "refused")
    if isinstance(error, TimeoutError) and error.errno is None:
        return _trouble(relay, step, f"no answer at {step.value} within {seconds(limit_s)}", "down")
    return _trouble(relay, step, f"no connection at {step.value}: {_reason(error)}", "down")


def _reason(error: Exception) -> str:
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"{error.verify_message}; is relay.host right, or is ca_file or fingerprint needed?"
    if isinstance(error, OSError) and error.errno and not isinstance(error, (ssl.SSLError, socket.gaierror)):
        return os.strerror(error.errno)  # asyncio's text speaks of "Connect call failed"
    return (error.strerror if isinstance(error, OSError) else None) or str(error) or type(error).__name__


def _trouble(relay: Relay, step: Step, text: str, kind: str, code: int = LOST, retry_s: float | None = None) -> Trouble:
    return Trouble(step, code, f"relay {_peer(relay)}: {plain(text)}", kind, retry_s)


def _peer(relay: Relay) -> str:
    return f"[{relay.host}]:{relay.port}" if ":" in relay.host else f"{relay.host}:{relay.port}"


def _check_pin(relay: Relay, transport: asyncio.BaseTransport | None, step: Step) -> None:
    """Before anything is said: the certificate of a relay with a fingerprint is this one or none."""
    if relay.fingerprint is None:
        return
    tls = transport.get_extra_info("ssl_object") if transport is not None else None
    certificate = tls.getpeercert(binary_form=True) if tls is not None else None
    found = hashlib.sha256(certificate or b"").hexdigest()
    if found != relay.fingerprint:
        raise _trouble(relay, step, f"TLS failed: the certificate is sha256:{found}, not the fingerprint in mail.toml", "refused")


def _context(relay: Relay) -> ssl.SSLContext:
    """The relay's TLS settings; made again when one of its files has changed."""
    files = (relay.ca_file, relay.cert_file, relay.key_file)
    named = [path for path in files if path is not None]
    try:
        facts = map(os.stat, named)
        stamps = tuple((each.st_ino, each.st_size, each.st_mtime_ns) for each in facts)
        return tls_context(relay.fingerprint is not None, *files, stamps)
    except OSError as error:
        raise _trouble(relay, Step.CONNECT, f"can't use {' or '.join(named)}: {_reason(error)}", "refused") from None
