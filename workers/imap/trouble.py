"""What can go wrong with an account, by what it means for the next try."""

from __future__ import annotations

NETWORK = "network"  # the server or the way to it: tried again soon, ever more slowly
AUTH = "auth"  # the server refused user and secret: rests for auth_pause, or until the secret changes
TLS = "tls"  # the connection would not be safe: as AUTH, since a person has to act
SECRET = "secret"  # noqa: S105 - no password or token could be had
DISK = "disk"  # no space, or a file system that can't be written
SERVER = "server"  # it answers, but not as the protocol asks


OUTBOX = "outbox"  # letters that can't be sent, or no such folder: a person has to act; the copies are in step

NO_LOGIN = "it offers no login with a "  # so begins the text where user and secret were not even shown


def undotted(text: str) -> str:
    """A server's words with something behind them: without their own full stop."""
    return text.rstrip(" .")


class Trouble(Exception):
    """An account can't be brought in step now. The text names the server's words, and never a secret.

    `retry_s` is how long the server asked to wait, in seconds; None when it did not.
    """

    def __init__(self, kind: str, text: str, retry_s: float | None = None) -> None:
        super().__init__(text)
        self.kind = kind
        self.retry_s = retry_s
        self.of_account = False  # said to this user, so that it says nothing about the host


class Lost(Trouble):
    """The connection is gone, or can't be followed any more; `silent`: the server said nothing in time."""

    def __init__(self, text: str, *, silent: bool = False) -> None:
        super().__init__(NETWORK, text)
        self.silent = silent


class Declined(Exception):
    """The server said NO or BAD to a command; `code` is the first word in brackets, in upper case, or b""."""

    def __init__(self, kind: bytes, code: bytes, text: str) -> None:
        super().__init__(text)
        self.kind = kind
        self.code = code
