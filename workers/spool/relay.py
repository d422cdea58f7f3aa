"""The way out through an SMTP relay: connects, secures, logs in, and keeps the connection for further mails.

The mail transaction itself is in transaction.py.
"""

from __future__ import annotations

import smtplib
import socket
import ssl
from base64 import b64encode
from contextlib import suppress
from ipaddress import ip_address
from typing import TYPE_CHECKING

from workers.mail.secrets import SecretError, password
from workers.spool.delivery import Step
from workers.spool.log import plain
from workers.spool.outlet import Report, Trouble
from workers.spool.transaction import Transaction

if TYPE_CHECKING:
    from collections.abc import Callable

    from workers.mail.config import Relay
    from workers.spool.store import Mail, Recipient

CONNECT_S = 30.0
COMMAND_S = 300.0  # greeting, EHLO, MAIL, RCPT: RFC 5321 4.5.3.2
QUIT_S = 2.0  # with the grace of stop.py still under the time after which guard kills
MAILS_PER_CONNECTION = 100


class RelayOutlet:
    """One connection to one relay, made when it is needed."""

    def __init__(self, relay: Relay, local_name: str) -> None:
        self.name = f"relay {relay.host}:{relay.port}"
        self._relay = relay
        self._local_name = local_name
        self._client: _Client | None = None
        self._mails = 0

    def open(self) -> None:
        """Connects and logs in, unless it is; a connection that has carried its share is renewed. Raises Trouble."""
        if self._client is not None and self._mails < MAILS_PER_CONNECTION:
            return
        self.close()
        try:
            self._client = self._connected(starttls=self._relay.tls in ("starttls", "opportunistic"))
        except _TlsFailed as error:
            if self._relay.tls != "opportunistic":
                raise Trouble(f"{self.name}: {error}") from None
            self._client = self._connected(starttls=False)
        self._mails = 0

    def deliver(self, mail: Mail, note_past_dot: Callable[[list[Recipient]], None]) -> Report:
        """One mail transaction on the open connection."""
        assert self._client is not None, "deliver() comes after open()"  # noqa: S101
        report, keep = Transaction(self._client, mail, note_past_dot, reused=self._mails > 0).run()
        self._mails += 1
        if not keep:
            self._client.close()
            self._client = None
        return report

    def close(self) -> None:
        """Says QUIT and closes. Never raises."""
        client, self._client = self._client, None
        if client is None:
            return
        try:
            client.within(QUIT_S)
            client.quit()
        except OSError:
            client.close()

    def cut(self) -> None:
        """Shuts the socket: whoever waits on it sees the connection as lost."""
        if self._client is not None:
            self._client.cut()

    def _connected(self, *, starttls: bool) -> _Client:
        context = ssl.create_default_context() if starttls or self._relay.tls == "tls" else None
        client = _Client(self._local_name, context if self._relay.tls == "tls" else None)
        try:
            code, words = client.connect(self._relay.host, self._relay.port)
            self._expect(Step.CONNECT, code == 220, code, words)
            self._greet(client)
            if starttls and context is not None:
                self._secure(client, context)
            if self._relay.user is not None:
                self._log_in(client, self._relay.user)
        except (_TlsFailed, Trouble):
            client.close()
            raise
        except ssl.SSLError as error:
            client.close()
            raise Trouble(f"{self.name}: TLS failed: {plain(str(error))}") from None
        except OSError as error:
            client.close()
            raise Trouble(f"{self.name}: {plain(str(error))}") from None
        return client

    def _greet(self, client: _Client) -> None:
        code, words = client.ehlo()
        if code in (500, 502, 504):  # RFC 5321 3.2: HELO for a server that does not know EHLO
            code, words = client.helo()
        self._expect(Step.EHLO, code == 250, code, words)

    def _secure(self, client: _Client, context: ssl.SSLContext) -> None:
        if not client.has_extn("starttls"):
            raise _TlsFailed("the relay offers no STARTTLS")
        try:
            code, words = client.starttls(context=context)
        except OSError as error:
            raise _TlsFailed(f"TLS failed: {plain(str(error))}") from None
        if code != 220:
            raise _TlsFailed(f"STARTTLS refused: {code} {plain(words)}")
        self._greet(client)

    def _log_in(self, client: _Client, user: str) -> None:
        if not client.is_private():
            raise Trouble(f"{self.name}: no password without TLS; set relay.tls to tls or starttls")
        try:
            secret = password(self._relay)
        except SecretError as error:
            raise Trouble(f"{self.name}: {error}") from None
        try:
            client.login(user, secret)
        except smtplib.SMTPAuthenticationError as error:
            words = _without(plain(error.smtp_error), user, secret)
            raise Trouble(f"{self.name}: login refused: {error.smtp_code} {words}") from None
        except ValueError:  # its own text would tell a letter of the password
            raise Trouble(f"{self.name}: login failed: user or password has a letter that is not ASCII") from None
        except smtplib.SMTPException as error:
            words = _without(plain(str(error)), user, secret)
            raise Trouble(f"{self.name}: login failed: {words}") from None

    def _expect(self, step: Step, good: bool, code: int, words: bytes) -> None:
        if not good:
            raise Trouble(f"{self.name}: refused at {step.value}: {code} {plain(words)}")


class _TlsFailed(Exception):
    """STARTTLS was not to be had; under `opportunistic` mail goes on without it."""


class _Client(smtplib.SMTP):
    """smtplib's client with TLS from the start where wanted, and a time limit for each step."""

    def __init__(self, local_name: str, context: ssl.SSLContext | None) -> None:
        self._context = context
        super().__init__(local_hostname=local_name, timeout=CONNECT_S)

    def _get_socket(self, host: str, port: int, timeout: float) -> socket.socket:
        self._host = host  # smtplib sets it in its constructor only, and starttls checks the certificate against it
        plain_socket = socket.create_connection((host, port), timeout)
        try:
            # the final dot goes out by itself and must not wait for an acknowledgement of the body
            plain_socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            ready = plain_socket if self._context is None else self._context.wrap_socket(plain_socket, server_hostname=host)
            ready.settimeout(COMMAND_S)
        except BaseException:
            plain_socket.close()
            raise
        return ready

    def within(self, limit_s: float) -> None:
        """From now on each wait for the relay lasts at most so long."""
        if self.sock is not None:
            self.sock.settimeout(limit_s)

    def is_private(self) -> bool:
        """Whether a password may be sent: over TLS, or without leaving this host."""
        if isinstance(self.sock, ssl.SSLSocket):
            return True
        assert self.sock is not None, "asked on an open connection"  # noqa: S101
        address = ip_address(self.sock.getpeername()[0].partition("%")[0])
        mapped = getattr(address, "ipv4_mapped", None)
        return (mapped or address).is_loopback

    def cut(self) -> None:
        """Shuts the connection under whoever waits on it."""
        if self.sock is not None:
            with suppress(OSError):  # it is gone already
                socket.socket.shutdown(self.sock, socket.SHUT_RDWR)  # not SSLSocket's, which drops the TLS state in use


def _without(words: str, user: str, secret: str) -> str:
    """A relay's words without the secret, should it have sent it back, plain or as SMTP carries it."""
    forms = [secret, b64encode(secret.encode()).decode(), b64encode(f"\0{user}\0{secret}".encode()).decode()]
    for form in forms:
        words = words.replace(form, "***")
    return words
