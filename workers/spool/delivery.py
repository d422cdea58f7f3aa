"""PURE: what an answer means for the recipient and for the relay, and when the next try is due.

5xx fails a mail only where it speaks of the mail. At connect, EHLO, STARTTLS and AUTH it speaks of the relay or the
account, and so do 530, 534, 535 and 538 anywhere: mail waits then, and none is failed for a wrong password.
"""

from __future__ import annotations

from enum import Enum

LOST = 0  # in place of a reply code: the connection broke or the time was over
FIRST_RETRY_S = 5.0
LAST_RETRY_S = 3600.0
FIRST_PROBE_S = 5.0
LAST_PROBE_S = 60.0
RELAY_CODES = frozenset((530, 534, 535, 538))  # RFC 4954 6, RFC 3207 4
TOO_MANY_RECIPIENTS = frozenset((452, 552))  # RFC 5321 4.5.3.1.10


class Step(Enum):
    """Where in the conversation an answer came."""

    CONNECT = "connect"
    EHLO = "EHLO"
    STARTTLS = "STARTTLS"
    AUTH = "AUTH"
    MAIL = "MAIL"
    RCPT = "RCPT"
    DATA = "DATA"
    DOT = "the final dot"


class Verdict(Enum):
    """What becomes of one recipient after an attempt."""

    SENT = "sent"
    DEFERRED = "deferred"
    FAILED = "failed"
    AGAIN = "again"  # at once, in another transaction; no fault of anyone
    RELAY = "relay"  # the relay's trouble: due as soon as it answers, not counted against the mail
    UNKNOWN = "unknown"  # cut off behind the final dot: the relay may have it (RFC 1047)


def judge(step: Step, code: int, *, reused: bool = False, accepted: int = 0) -> Verdict:
    """The verdict on a recipient whose transaction ended at `step` with `code` (RFC 5321 4.2.1).

    `reused`: the connection has carried a mail before; `accepted`: recipients taken before this one.
    """
    if step is Step.DOT and not is_final(code):
        return Verdict.UNKNOWN
    if code in RELAY_CODES or step in (Step.CONNECT, Step.EHLO, Step.STARTTLS, Step.AUTH):
        return Verdict.RELAY
    if code in (LOST, 421) and step is Step.MAIL and reused:
        return Verdict.AGAIN  # a relay closes what was idle for long; a fresh connection tells
    if step is Step.RCPT and code in TOO_MANY_RECIPIENTS:
        return Verdict.AGAIN if accepted else Verdict.DEFERRED
    if step is Step.DOT and 200 <= code < 300:
        return Verdict.SENT
    if 500 <= code < 600:
        return Verdict.FAILED
    return Verdict.DEFERRED


def troubles_relay(step: Step, code: int, *, reused: bool = False) -> bool:
    """Whether the relay gets a pause after this, so that a queue full of mail does not hammer it."""
    verdict = judge(step, code, reused=reused)
    return verdict is Verdict.RELAY or (code in (LOST, 421) and verdict is not Verdict.AGAIN)


def closes(code: int) -> bool:
    """Whether the connection is of no more use after this answer."""
    return code == 421 or not is_final(code)


def is_final(code: int) -> bool:
    """Whether this says yes or no; anything else (also a 354 in the wrong place) is no conversation any more."""
    return 200 <= code < 300 or 400 <= code < 600


def retry_pause_s(failures: int, chance: float) -> float:
    """Seconds until the next try after so many failures: 5 s doubling to 1 h, less up to a fifth by `chance` (0 to 1)."""
    pause_s = min(FIRST_RETRY_S * 2.0 ** min(failures - 1, 20), LAST_RETRY_S)
    return pause_s * (1.0 - 0.2 * chance)


def probe_pause_s(failures: int) -> float:
    """Seconds until a relay that was in trouble so many times in a row is tried again: 5 s doubling to 60 s."""
    return min(FIRST_PROBE_S * 2.0 ** min(failures - 1, 20), LAST_PROBE_S)


def outcome(verdict: Verdict, failures: int, now: float, expires_at: float, chance: float) -> tuple[str, int, float]:
    """(state, failures, due_at) of a recipient after `verdict`; times are Unix seconds.

    `failures` counts what went wrong with this mail before. A mail past its age gets no other try, and one before
    it gets its last try when the age is reached.
    """
    if verdict in (Verdict.SENT, Verdict.FAILED):
        return verdict.value, failures, now
    if verdict is Verdict.AGAIN:
        return "queued", failures, now
    if now >= expires_at:
        return "expired", failures, now
    if verdict is Verdict.RELAY:
        return "deferred", failures, now
    failures += 1
    return verdict.value, failures, min(now + retry_pause_s(failures, chance), expires_at)
