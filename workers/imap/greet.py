"""From nothing to a connection that is logged in: connect, greeting, TLS, login. No secret goes where it can be read."""

from __future__ import annotations

import os
import time
from binascii import a2b_base64, b2a_base64

from workers.imap import sasl
from workers.imap.connection import Arg, Connection
from workers.imap.excuses import backoff_s, is_refusal
from workers.imap.hiding import hide
from workers.imap.limits import Limits
from workers.imap.stream import connect
from workers.imap.trouble import AUTH, NETWORK, NO_LOGIN, SECRET, SERVER, TLS, Declined, Lost, Trouble
from workers.imap.wire import Response, quoted
from workers.mail.secrets import SecretError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from workers.imap.connection import Take
    from workers.mail.imap_config import Account

LOGIN_S = 180.0  # from the greeting to the end of the login, however slowly it is said
ABOUT_MECHANISM = frozenset((b"CANNOT",))


def open_connection(
    account: Account,
    limits: Limits,
    heard: Take,
    buffer: bytearray,
    secret: Callable[[], str],
    debug: Callable[[str], None] | None,
) -> Connection:
    """A connection that is logged in; its capabilities are those after the login. Raises Trouble."""
    stream = connect(account.host, account.port, limits.connect_s)
    connection = Connection(stream, limits, heard, debug)
    connection.lend(buffer)
    connection.deadline = time.monotonic() + LOGIN_S
    try:
        if account.tls == "tls":
            _start_tls(account, connection, limits)
        greeting = _greeting(connection)
        known = _announced(greeting)
        connection.capabilities = known or _asked(connection)
        if account.tls in ("starttls", "opportunistic"):
            _upgrade(account, connection, limits, logged_in=greeting.kind == b"PREAUTH")
        if greeting.kind != b"PREAUTH":
            try:
                _log_in(account, connection, secret)
            except Trouble as trouble:
                trouble.of_account = True
                raise
    except Declined as declined:
        connection.close()
        raise Trouble(SERVER, str(declined)) from None
    except BaseException:
        connection.close()
        raise
    connection.deadline = None
    return connection


def _greeting(connection: Connection) -> Response:
    """The first words of the server, when they are a welcome. Raises Trouble."""
    try:
        greeting = connection.greeting()
    except Lost as lost:
        if lost.silent and not connection.stream.is_tls:
            raise Lost(f"{lost}: does it wait for TLS? See port and tls in mail.toml", silent=True) from None
        raise
    if greeting.kind == b"BYE":
        raise Trouble(NETWORK, f"it takes no connection: {connection.shown(greeting.text)}", backoff_s(greeting.text))
    if greeting.tag != b"*" or greeting.kind not in (b"OK", b"PREAUTH"):
        said = connection.shown(b" ".join((greeting.tag, greeting.kind, greeting.text)))
        raise Trouble(SERVER, f"it greets with {said}: is that an IMAP port? See host, port and tls in mail.toml")
    return greeting


def _start_tls(account: Account, connection: Connection, limits: Limits) -> None:
    from workers.mail.tls import tls_context

    files = (account.ca_file, account.cert_file, account.key_file)
    try:
        facts = [os.stat(path) for path in files if path is not None]
        stamps = tuple((each.st_ino, each.st_size, each.st_mtime_ns) for each in facts)
        context = tls_context(account.fingerprint is not None, *files, stamps)
    except OSError as error:
        named = " or ".join(path for path in files if path is not None)
        raise Trouble(TLS, f"can't use {named}: {error.strerror or error}") from None
    connection.stream.start_tls(context, account.host, limits.connect_s)
    if account.fingerprint is not None:
        import hashlib

        found = hashlib.sha256(connection.stream.certificate()).hexdigest()
        if found != account.fingerprint:
            raise Trouble(TLS, f"the certificate is sha256:{found}, not the fingerprint in mail.toml")


def _upgrade(account: Account, connection: Connection, limits: Limits, *, logged_in: bool) -> None:
    """STARTTLS (RFC 3501 6.2.1); what the server said before counts no more."""
    if logged_in or b"STARTTLS" not in connection.capabilities:
        if account.tls == "starttls":
            what = "it greets as logged in already" if logged_in else "the server offers no STARTTLS"
            raise Trouble(TLS, f'{what}, so somebody may be in between; tls = "starttls" goes no further')
        return
    connection.command(b"STARTTLS")
    if not connection.is_quiet():
        raise Trouble(TLS, "it spoke behind its answer to STARTTLS: somebody may be in between")
    _start_tls(account, connection, limits)
    connection.capabilities = _asked(connection)


def _announced(response: Response) -> frozenset[bytes]:
    """The capabilities in `[CAPABILITY …]` of a greeting or an OK; none when it has none."""
    if response.code[:1] != [b"CAPABILITY"]:
        return frozenset()
    return frozenset(each.upper() for each in response.code[1:] if isinstance(each, bytes))


def _asked(connection: Connection) -> frozenset[bytes]:
    found: set[bytes] = set()

    def take(response: Response) -> None:
        if response.kind == b"CAPABILITY":
            found.update(each.upper() for each in response.values if isinstance(each, bytes))

    connection.command(b"CAPABILITY", take=take)
    return frozenset(found)


def _log_in(account: Account, connection: Connection, fetch: Callable[[], str]) -> None:
    """Logs in with the first mechanism that does; a refused secret is not tried with a second one."""
    secure = connection.stream.is_tls or _is_loopback(connection.stream.peer())
    if not secure:
        raise Trouble(TLS, "the way to the server can be listened to: no secret goes there; set tls")
    names = sasl.choose(
        connection.capabilities,
        with_token=account.token_command is not None,
        secure=secure,
        allow_login_command=b"LOGINDISABLED" not in connection.capabilities,
    )
    if not names:
        offered = b" ".join(sorted(each for each in connection.capabilities if each.startswith(b"AUTH="))).decode(
            "ascii", "replace"
        )
        what = "password" if account.token_command is None else "token: neither OAUTHBEARER nor XOAUTH2"
        raise Trouble(AUTH, f"{NO_LOGIN}{what} ({offered or 'no AUTH= at all'})")
    try:
        secret = fetch()
    except SecretError as error:
        raise Trouble(SECRET, str(error)) from None
    connection.hide = lambda words: hide(words, [secret])
    for index, name in enumerate(names):
        try:
            done = (
                _login_command(connection, account.user, secret) if not name else _authenticate(connection, name, account, secret)
            )
        except Declined as declined:
            may_go_on = declined.kind == b"BAD" or declined.code in ABOUT_MECHANISM
            if may_go_on and index + 1 < len(names):
                continue
            raise _judged(declined) from None
        except sasl.Unusable as error:
            if index + 1 < len(names):
                continue
            raise Trouble(AUTH, f"{name.decode()}: {error}") from None
        except sasl.SaslError as error:
            raise Trouble(AUTH, f"{name.decode()}: {error}") from None
        connection.capabilities = _announced(done) or _asked(connection)
        return


def _judged(declined: Declined) -> Trouble:
    text = str(declined)
    return Trouble(AUTH if is_refusal(declined.code, text) else NETWORK, text, backoff_s(text))


def _login_command(connection: Connection, user: str, secret: str) -> Response:
    words: list[bytes | Arg] = [b"LOGIN "]
    for index, each in enumerate((user, secret)):
        octets = each.encode()
        plain = quoted(octets)
        words += [b" "] if index else []
        words.append(Arg(octets) if plain is None else plain)
    return connection.command(*words, secret=True)


def _authenticate(connection: Connection, name: bytes, account: Account, secret: str) -> Response:
    """AUTHENTICATE (RFC 3501 6.2.2), with the first words beside it where SASL-IR is offered (RFC 4959)."""
    mechanism = sasl.mechanism(name, account.user, secret, host=account.host, port=account.port)
    first = mechanism.start()
    at_once = first is not None and b"SASL-IR" in connection.capabilities
    words = (
        b"AUTHENTICATE " + name + (b" " + (b2a_base64(first, newline=False) or b"=") if at_once and first is not None else b"")
    )
    tag = connection.send(words, secret=True)
    waiting = None if at_once else first
    while True:
        asked = connection.wait_for_go_on(tag)
        if connection.is_over(tag):
            break
        if waiting is not None:
            said, waiting = waiting, None
        else:
            said = _answer(connection, mechanism, asked.text)
        connection.write(b2a_base64(said, newline=False) + b"\r\n")
    try:
        done = connection.wait(tag)
    except Declined as declined:
        raise Declined(
            declined.kind, declined.code, f"{declined} ({mechanism.status})" if mechanism.status else str(declined)
        ) from None
    if not mechanism.finished():
        raise sasl.SaslError("it says OK before the login is at its end")
    return done


def _answer(connection: Connection, mechanism: sasl.Mechanism, asked: bytes) -> bytes:
    try:
        return mechanism.answer(a2b_base64(asked, strict_mode=True))
    except sasl.SaslError:
        connection.write(b"*\r\n")
        raise
    except ValueError:
        raise Lost("login: a challenge that is no base64") from None


def _is_loopback(peer: str) -> bool:
    return peer.removeprefix("::ffff:").startswith("127.") or peer == "::1"
