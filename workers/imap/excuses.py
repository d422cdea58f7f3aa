"""PURE: what a server's NO means: that user or secret is wrong, or that it has had enough for now (RFC 5530 3)."""

from __future__ import annotations

from workers.imap.trouble import NETWORK, Trouble

TYPE_CHECKING = False
if TYPE_CHECKING:
    from workers.imap.trouble import Declined

REFUSED = frozenset((b"AUTHENTICATIONFAILED", b"AUTHORIZATIONFAILED", b"EXPIRED", b"CONTACTADMIN", b"NOPERM"))
PASSING = frozenset((b"UNAVAILABLE", b"LIMIT", b"INUSE", b"SERVERBUG", b"OVERQUOTA", b"THROTTLED", b"PRIVACYREQUIRED"))
SOON_OVER = (
    "too many",
    "maximum number",
    "limit",
    "try again",
    "temporar",
    "unavailable",
    "timed out",
    "timeout",
    "busy",
    "internal error",
    "overload",
    "throttl",
    "bandwidth",
)
ENOUGH = frozenset((b"UNAVAILABLE", b"LIMIT", b"INUSE", b"OVERQUOTA", b"THROTTLED"))  # SERVERBUG may be about one message
THROTTLING = ("throttl", "bandwidth", "too many", "backoff time", "try again later", "rate limit")


def is_refusal(code: bytes, text: str) -> bool:
    """PURE. Whether a NO to a login is about user and secret: "too many connections" is not (RFC 5530 3)."""
    if code in REFUSED:
        return True
    words = text.lower()
    return code not in PASSING and not any(each in words for each in SOON_OVER)


def backoff_s(text: bytes | str) -> float | None:
    """PURE. The pause that a server asks for: `Suggested Backoff Time: 299 milliseconds` of Exchange; None for none."""
    words = (text.decode("utf-8", "replace") if isinstance(text, bytes) else text).lower()
    _, found, rest = words.partition("backoff time:")
    digits = rest.split()[0] if found and rest.split() else ""
    return min(3600.0, int(digits) / 1000) if digits.isdigit() and len(digits) < 12 else None


def is_throttling(code: bytes, text: str) -> bool:
    """Whether a NO or BAD, not to a login, says that it may be asked again later: nothing is wrong with what was asked."""
    words = text.lower()
    return code in ENOUGH or any(each in words for each in THROTTLING)


def enough_for_now(declined: Declined) -> Trouble:
    """The trouble of an account whose server has had enough."""
    trouble = Trouble(NETWORK, str(declined), backoff_s(str(declined)))
    trouble.of_account = True
    return trouble
