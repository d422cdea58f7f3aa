"""Parts of the connect phase: words in turn, and the login, whose secret no person gets to read.

aiosmtplib's own `login` is not used: it tries every mechanism with a refused password, which locks accounts, and its
LOGIN sends the password in the place of the user name to servers that take no first answer beside the command.
"""

from __future__ import annotations

import asyncio
import re
import time
from base64 import b64encode
from copy import copy
from ipaddress import ip_address
from typing import TYPE_CHECKING

from aiosmtplib import SMTPAuthenticationError, SMTPException, SMTPServerDisconnected
from aiosmtplib.auth import auth_login_encode, auth_plain_encode, auth_xoauth2_encode
from aiosmtplib.protocol import SMTPProtocol

from workers.mail.secrets import SecretError, password
from workers.mail.tokens import NEAR_END_S, TOKEN_AGE_S, expiry

if TYPE_CHECKING:
    from collections.abc import Callable

    from aiosmtplib import SMTP

    from workers.mail.config import Relay

WITH_TOKEN = ("xoauth2", "oauthbearer")
OVER_TLS = ("plain", "login", "cram-md5")
IN_CLEAR = ("cram-md5", "plain", "login")  # on this host only, and still the one that does not show the password first
ABOUT_MECHANISM = frozenset((500, 501, 502, 504, 534, 538))  # RFC 4954 6: another mechanism may do
MOST_HEARD_BYTES = 65536  # more than aiosmtplib takes for one answer


class NoMechanism(Exception):
    """The relay offers no login that this kind of secret is good for; nothing was sent."""


class Conversation(SMTPProtocol):
    """Notices words that nobody asked for: aiosmtplib would take them for the answer to the next command, or drop them."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        super().__init__(loop)
        self._heard = bytearray()  # since the last command

    def data_received(self, data: bytes) -> None:
        if len(self._heard) <= MOST_HEARD_BYTES:
            self._heard += data
        super().data_received(data)

    def write(self, data: bytes) -> None:
        self.check_turn()
        self._heard.clear()
        super().write(data)

    def check_turn(self) -> None:
        """Raises SMTPException unless exactly one answer came since the last command (RFC 5321 4.2.1)."""
        *lines, rest = bytes(self._heard).split(b"\n")
        if not lines or rest or lines[-1][3:4] == b"-" or any(line[3:4] != b"-" for line in lines[:-1]):
            raise SMTPException("it spoke before it was asked")

    def given_up(self) -> asyncio.Transport:
        """The transport, paused, for another protocol. Raises SMTPException when it is of no use any more."""
        if not isinstance(self.transport, asyncio.Transport) or self.transport.is_closing():
            raise SMTPServerDisconnected("closed by the relay")
        self.check_turn()
        self.transport.pause_reading()
        return self.transport


class TokenCache:
    """OAuth access tokens, kept for all connections of one event loop: one run of a command serves all that wait."""

    def __init__(self, now: Callable[[], float] = time.time) -> None:
        self._now = now
        self._kept: dict[tuple[str | None, str | None], tuple[str, float]] = {}  # the token and when it is asked for again
        self._locks: dict[tuple[str | None, str | None], asyncio.Lock] = {}

    async def get(self, relay: Relay) -> str:
        """The token for this relay's user, from `token_command` when none is kept or its end is near. Raises SecretError."""
        key = (relay.user, relay.token_command)
        async with self._locks.setdefault(key, asyncio.Lock()):
            token, ends_at = self._kept.get(key, ("", 0.0))
            if not token or self._now() >= ends_at:
                token = await asyncio.to_thread(_fetched_token, relay)
                self._kept[key] = (token, (expiry(token) or self._now() + TOKEN_AGE_S + NEAR_END_S) - NEAR_END_S)
            return token

    def forget(self, relay: Relay, token: str | None = None) -> None:
        """The next `get` asks anew, unless another connection has already got something else than `token`."""
        key = (relay.user, relay.token_command)
        if token is None or self._kept.get(key, ("", 0.0))[0] == token:
            self._kept.pop(key, None)


def is_private(secure: bool, address: str | None) -> bool:
    """PURE. Whether a secret may be sent: over TLS, or without leaving this host."""
    if secure or address is None:
        return secure
    peer = ip_address(address.partition("%")[0])
    return (getattr(peer, "ipv4_mapped", None) or peer).is_loopback


async def fetch(relay: Relay, tokens: TokenCache) -> str:
    """The token, or the password as it is now in its file or command. Raises SecretError."""
    if relay.token_command is not None:
        return await tokens.get(relay)
    return await asyncio.to_thread(password, relay)


async def log_in(smtp: SMTP, relay: Relay, secret: str, *, secure: bool) -> None:
    """Logs in on a connection that has said EHLO (RFC 4954).

    Raises SMTPAuthenticationError with the answer, NoMechanism, or what aiosmtplib raises for a lost connection.
    """
    known = WITH_TOKEN if relay.token_command is not None else OVER_TLS if secure else IN_CLEAR
    offered = smtp.server_auth_methods
    refusal: SMTPAuthenticationError | None = None
    for name in known:
        if name not in offered:
            continue
        try:
            await _try(name, smtp, relay, secret)
            return
        except SMTPAuthenticationError as error:
            # a relay that keeps hashed passwords can't do CRAM-MD5 and refuses it also for the right one
            if error.code not in ABOUT_MECHANISM and not (name == "cram-md5" and error.code == 535):
                raise
            refusal = error
        except SMTPServerDisconnected:
            if refusal is None:
                raise
            break  # it hung up on a refused login: that is no broken line, which would be tried again in seconds
    if refusal is not None:
        raise refusal
    needed, got = ", ".join(known).upper(), ", ".join(offered).upper() or "no login at all"
    raise NoMechanism(f"it offers {got}; needed is one of {needed}")


async def _try(name: str, smtp: SMTP, relay: Relay, secret: str) -> None:
    user = relay.user or ""
    if name == "login":
        await _login(smtp, user, secret)
    elif name == "oauthbearer":
        await _oauthbearer(smtp, relay, secret)
    elif name == "plain":
        await smtp.auth_plain(user, secret)
    elif name == "cram-md5":
        await smtp.auth_crammd5(user, secret)
    else:
        await smtp.auth_xoauth2(user, secret)


async def _login(smtp: SMTP, user: str, secret: str) -> None:
    """LOGIN (draft-murchison-sasl-login-00), each word on its own question."""
    answer = await smtp.execute_command(b"AUTH", b"LOGIN")
    for word in auth_login_encode(user, secret):
        if answer.code != 334:
            break
        answer = await smtp.execute_command(word)
    if answer.code != 235:
        raise SMTPAuthenticationError(answer.code, answer.message)


async def _oauthbearer(smtp: SMTP, relay: Relay, token: str) -> None:
    """OAUTHBEARER (RFC 7628 3.1); an error comes as a challenge, which is answered so that the refusal follows (3.2.3)."""
    answer = await smtp.execute_command(b"AUTH", b"OAUTHBEARER", _bearer(relay, token))
    if answer.code == 334:
        answer = await smtp.execute_command(b"AQ==")
    if answer.code != 235:
        raise SMTPAuthenticationError(answer.code, answer.message)


def _bearer(relay: Relay, token: str) -> bytes:
    user = (relay.user or "").replace("=", "=3D").replace(",", "=2C")  # RFC 5801 4
    return b64encode(f"n,a={user},\1host={relay.host}\1port={relay.port}\1auth=Bearer {token}\1\1".encode())


def _fetched_token(relay: Relay) -> str:
    """The first line that `token_command` writes."""
    asked = copy(relay)
    asked.password_file, asked.password_command = None, relay.token_command
    try:
        return password(asked)
    except SecretError as error:
        raise SecretError(str(error).replace("password_command", "token_command")) from None


def without(words: str, relay: Relay, secret: str) -> str:
    """A relay's words without the secret, should it have sent it back, plain or as SMTP carries it, whole or cut off."""
    if not secret:
        return words
    user = relay.user or ""
    coded = [
        b64encode(secret.encode()),
        auth_plain_encode(user, secret),
        auth_xoauth2_encode(user, secret),
        _bearer(relay, secret),
    ]
    forms = [form.decode().rstrip("=") for form in coded]
    for form in sorted([secret, *forms], key=len, reverse=True):
        words = re.sub(r"\s*".join(map(re.escape, form)), "***", words)  # also when lines break it
    for form in forms:
        words = re.sub(re.escape(form[:8]) + "[A-Za-z0-9+/=]*", "***", words)
    return words
