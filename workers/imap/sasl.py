"""Logins by SASL, sans-IO: what to send first, and what to answer. Everything here is bare bytes; the caller does base64.

PLAIN (RFC 4616), LOGIN (draft-murchison-sasl-login-00), XOAUTH2 (Google), OAUTHBEARER (RFC 7628), SCRAM-SHA-256
(RFC 5802, RFC 7677). No text of an error holds a secret.
"""

from __future__ import annotations

from binascii import b2a_base64

from workers.imap.hiding import hide
from workers.imap.scram import prepared, server_first, unbase64

__all__ = ["Mechanism", "SaslError", "Unusable", "choose", "hide", "mechanism"]

WITH_TOKEN = (b"OAUTHBEARER", b"XOAUTH2")
WITH_PASSWORD = (b"SCRAM-SHA-256", b"PLAIN", b"LOGIN")
LOGIN_COMMAND = b""
MOST_CHALLENGE_BYTES = 8192
MOST_STATUS = 100
NONCE_BYTES = 24


class SaslError(Exception):
    """The login can't go on: the server broke the rules of the mechanism, or did not prove itself."""


class Unusable(SaslError):
    """This user or secret can't be sent by this mechanism. Nothing was sent; another mechanism may do."""


class Mechanism:
    """One login. `start` is called once, then `answer` for each challenge, and at the server's OK `finished`.

    `status` is what the server gave as the reason before its refusal, for people; "" for nothing.
    """

    name = b""

    def __init__(self) -> None:
        self.status = ""
        self._done = False

    def start(self) -> bytes | None:
        """What the client says first; None when the server does."""
        return None

    def answer(self, challenge: bytes) -> bytes:
        """What to say to a challenge. Raises SaslError."""
        raise SaslError(f"the server asks for more than {self.name.decode()} has ({len(challenge)} bytes)")

    def finished(self) -> bool:
        """Whether an OK of the server may be believed now."""
        return self._done


class Plain(Mechanism):
    """User and password at once."""

    name = b"PLAIN"

    def __init__(self, user: str, secret: str) -> None:
        super().__init__()
        if "\0" in user + secret:
            raise Unusable("PLAIN can't send a NUL in user or password")
        self._said = b"\0" + _octets(user) + b"\0" + _octets(secret)

    def start(self) -> bytes:
        """The only message."""
        self._done = True
        return self._said


class Login(Mechanism):
    """User, then password, each on its own question. A question that is plainly for the other one gets nothing."""

    name = b"LOGIN"

    def __init__(self, user: str, secret: str) -> None:
        super().__init__()
        self._words = [_octets(user), _octets(secret)]

    def answer(self, challenge: bytes) -> bytes:
        """The user, then the password. Raises SaslError."""
        if not self._words:
            raise SaslError("the server asks for more than user and password")
        asked = challenge[:MOST_CHALLENGE_BYTES].lower()
        is_user, is_password = b"user" in asked, b"pass" in asked
        if is_password and not is_user and len(self._words) == 2:
            raise SaslError("the server asks for the password before the user")
        if is_user and not is_password and len(self._words) == 1:
            raise SaslError("the server asks for the user twice")
        word = self._words.pop(0)
        self._done = not self._words
        return word


class WithToken(Mechanism):
    """An OAuth access token; an error comes as a challenge, which is answered so that the refusal follows."""

    def __init__(self, name: bytes, said: str, last: bytes) -> None:
        super().__init__()
        self.name = name
        self._said = _octets(said)
        self._last = last
        self._was_refused = False

    def start(self) -> bytes:
        """User and token."""
        self._done = True
        return self._said

    def answer(self, challenge: bytes) -> bytes:
        """What ends the exchange after an error (RFC 7628 3.2.3); its reason is kept in `status`. Raises SaslError."""
        self._done = False
        if self._was_refused:
            raise SaslError("the server goes on after its own error")
        self._was_refused = True
        self.status = _status(challenge)
        return self._last


class Scram(Mechanism):
    """SCRAM-SHA-256 without channel binding: the password is not sent, and the server has to prove that it knows it."""

    name = b"SCRAM-SHA-256"

    def __init__(self, user: str, secret: str, nonce: bytes) -> None:
        super().__init__()
        try:
            name = prepared(user).replace("=", "=3D").replace(",", "=2C")
            self._secret = prepared(secret).encode()
        except ValueError as error:
            raise Unusable(str(error)) from None
        self._nonce = nonce
        self._bare = b"n=" + name.encode() + b",r=" + nonce
        self._step = 0
        self._proof_due = b""  # of the server

    def start(self) -> bytes:
        """client-first-message."""
        return b"n,," + self._bare

    def answer(self, challenge: bytes) -> bytes:
        """client-final-message, then nothing more than an empty line. Raises SaslError."""
        self._step += 1
        if len(challenge) > MOST_CHALLENGE_BYTES:
            raise SaslError(f"a challenge of {len(challenge)} bytes")
        if self._step > 2:
            return super().answer(challenge)
        if challenge.startswith(b"e="):
            self._step = 2  # nothing that comes now can prove anything
            self.status = _plain(challenge[2:].partition(b",")[0].decode("utf-8", "replace"))
            return b""
        try:
            return self._prove(challenge) if self._step == 1 else self._check(challenge)
        except ValueError as error:
            raise SaslError(str(error)) from None

    def _prove(self, first: bytes) -> bytes:
        import hashlib
        import hmac

        nonce, salt, rounds = server_first(first, self._nonce)
        salted = hashlib.pbkdf2_hmac("sha256", self._secret, salt, rounds)
        self._secret = b""
        key = hmac.digest(salted, b"Client Key", "sha256")
        final = b"c=biws,r=" + nonce  # biws is `n,,`
        signed = self._bare + b"," + first + b"," + final
        mask = hmac.digest(hashlib.sha256(key).digest(), signed, "sha256")
        self._proof_due = hmac.digest(hmac.digest(salted, b"Server Key", "sha256"), signed, "sha256")
        proof = bytes(a ^ b for a, b in zip(key, mask, strict=True))
        return final + b",p=" + b2a_base64(proof, newline=False)

    def _check(self, final: bytes) -> bytes:
        from hmac import compare_digest

        word = final.partition(b",")[0]
        if not word.startswith(b"v=") or not compare_digest(unbase64(word[2:]), self._proof_due):
            raise SaslError("the server does not prove that it knows the password: it may be another one")
        self._done = True
        return b""


def mechanism(name: bytes, user: str, secret: str, *, host: str, port: int, nonce: bytes | None = None) -> Mechanism:
    """The mechanism of this name; `nonce` (printable, without a comma) is for tests. Raises Unusable."""
    if name == b"PLAIN":
        return Plain(user, secret)
    if name == b"LOGIN":
        return Login(user, secret)
    if name == b"SCRAM-SHA-256":
        from os import urandom

        return Scram(user, secret, nonce or b2a_base64(urandom(NONCE_BYTES), newline=False))
    if not secret or not secret.isascii() or not secret.isprintable() or " " in secret:
        raise Unusable("a token is printable ASCII without spaces (RFC 6750 2.1)")
    if "\1" in user:
        raise Unusable("a control character in the user")
    if name == b"XOAUTH2":
        return WithToken(name, f"user={user}\1auth=Bearer {secret}\1\1", b"")
    if name == b"OAUTHBEARER":
        shown = user.replace("=", "=3D").replace(",", "=2C")  # RFC 5801 4
        return WithToken(name, f"n,a={shown},\1host={host}\1port={port}\1auth=Bearer {secret}\1\1", b"\1")
    raise Unusable("no such mechanism")


def choose(offered: frozenset[bytes], *, with_token: bool, secure: bool, allow_login_command: bool) -> list[bytes]:
    """The mechanisms to try, best first, of those in a server's capabilities; b"" is the command LOGIN.

    `secure`: over TLS or within this host. Otherwise only what does not show the password is left.
    """
    words = frozenset(word.upper() for word in offered)
    names = [name for name in (WITH_TOKEN if with_token else WITH_PASSWORD) if b"AUTH=" + name in words]
    if not secure:
        return [name for name in names if name == b"SCRAM-SHA-256"]
    if not with_token and allow_login_command and b"LOGINDISABLED" not in words:
        names.append(LOGIN_COMMAND)
    return names


def _octets(text: str) -> bytes:
    try:
        return text.encode()
    except UnicodeEncodeError:
        raise Unusable("user or password is no Unicode text") from None


def _status(challenge: bytes) -> str:
    """`status` of the error (RFC 7628 3.2.2), or "" when there is none to be read."""
    import json

    try:
        error = json.loads(challenge[: MOST_CHALLENGE_BYTES + 1]) if len(challenge) <= MOST_CHALLENGE_BYTES else None
    except (ValueError, RecursionError):
        return ""
    status = error.get("status") if isinstance(error, dict) else None
    return _plain(str(status)) if isinstance(status, (str, int)) else ""


def _plain(text: str) -> str:
    return "".join(sign if " " <= sign <= "~" else "?" for sign in text[:MOST_STATUS])
