"""PURE: what an answer means for the recipient, the connection and the relay, and when the next try is due.

5xx fails a mail only where it speaks of the mail. At connect, EHLO, STARTTLS and AUTH it speaks of the relay or the
account, and so do 530, 534, 535 and 538 anywhere: mail waits then, and none is failed for a wrong password.
"""

from __future__ import annotations

import re
from enum import Enum

LOST = 0  # in place of a reply code: the connection broke or the time was over
FIRST_RETRY_S = 5.0
LAST_RETRY_S = 3600.0
RELAY_CODES = frozenset((530, 534, 535, 538))  # RFC 4954 6, RFC 3207 4
TOO_MANY_RECIPIENTS = frozenset((452, 552))  # RFC 5321 4.5.3.1.10
MAILBOX_FULL = re.compile(r"[45]\.2\.2\b")  # RFC 3463 3.3
LAST_CHANCE_S = 60.0
WORDS_OF_TIME = re.compile(
    r"\b(?:again|retry|wait|after|within|in|for)\b[^.;\d]{0,40}?(\d{1,6})\s*(s|sec|second|m|min|minute|h|hour)s?\b", re.IGNORECASE
)
CLOCK = re.compile(r"\b(?:again|retry|wait|after|within|in|for)\b[^.;\d]{0,40}?(\d{1,2}):([0-5]\d):([0-5]\d)\b", re.IGNORECASE)
UNITS_S = {"s": 1, "m": 60, "h": 3600}


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


BEFORE_MAIL = (Step.CONNECT, Step.EHLO, Step.STARTTLS, Step.AUTH)


class Verdict(Enum):
    """What becomes of one recipient after an attempt."""

    SENT = "sent"
    DEFERRED = "deferred"
    FAILED = "failed"
    AGAIN = "again"  # at once, in another transaction; no fault of anyone
    RELAY = "relay"  # the relay's trouble: due as soon as it answers, not counted against the mail
    EXPIRED = "expired"  # its time is over
    UNKNOWN = "unknown"  # cut off behind the final dot: the relay may have it (RFC 1047)


class Effect(Enum):
    """What an answer to a mail means for its relay."""

    NONE = "none"
    CUT = "cut"  # the connection broke: trouble when it happens again and again
    CROWDED = "crowded"  # 421: fewer connections
    REFUSED = "refused"  # the account or the relay's policy: the breaker opens


def judge(step: Step, code: int, text: str = "", *, reused: bool = False, accepted: int = 0) -> Verdict:
    """The verdict on a recipient whose transaction ended at `step` with `code` and `text` (RFC 5321 4.2.1).

    `reused`: the connection has carried a mail before; `accepted`: recipients taken before this one.
    """
    if step is Step.DOT and not is_final(code):
        return Verdict.UNKNOWN
    if code in RELAY_CODES or step in BEFORE_MAIL:
        return Verdict.RELAY
    if code in (LOST, 421) and step is Step.MAIL and reused:
        return Verdict.AGAIN  # a relay closes what was idle for long; a fresh connection tells
    if step is Step.RCPT and code in TOO_MANY_RECIPIENTS and not MAILBOX_FULL.match(text):
        return Verdict.AGAIN if accepted else Verdict.DEFERRED
    if step is Step.DOT and 200 <= code < 300:
        return Verdict.SENT
    if 500 <= code < 600:
        return Verdict.FAILED
    return Verdict.DEFERRED


def effect(step: Step, code: int, *, reused: bool = False) -> Effect:
    """What the answer means for the relay, whatever it means for the mail."""
    if code in RELAY_CODES:
        return Effect.REFUSED
    if step is Step.MAIL and reused and code in (LOST, 421):
        return Effect.NONE
    if code == 421:
        return Effect.CROWDED
    return Effect.NONE if is_final(code) or (code == 354 and step is Step.DATA) else Effect.CUT


def closes(code: int) -> bool:
    """Whether the connection is of no more use after this answer."""
    return code == 421 or not is_final(code)


def is_final(code: int) -> bool:
    """Whether this says yes or no; anything else (also a 354 in the wrong place) is no conversation any more."""
    return 200 <= code < 300 or 400 <= code < 600


def again_in_s(text: str) -> float | None:
    """The pause that an answer such as `451 greylisted, try again in 120 seconds` asks for, at most an hour."""
    if (clock := CLOCK.search(text)) is not None:
        return min(float(int(clock[1]) * 3600 + int(clock[2]) * 60 + int(clock[3])), LAST_RETRY_S)
    found = WORDS_OF_TIME.search(text)
    if found is None:
        return None
    return min(float(int(found[1]) * UNITS_S[found[2][0].lower()]), LAST_RETRY_S)


def retry_pause_s(failures: int, chance: float) -> float:
    """Seconds until the next try after so many failures: 5 s doubling to 1 h, less up to a fifth by `chance` (0 to 1)."""
    pause_s = min(FIRST_RETRY_S * 2.0 ** min(failures - 1, 20), LAST_RETRY_S)
    return pause_s * (1.0 - 0.2 * chance)


def outcome(
    verdict: Verdict, failures: int, now: float, expires_at: float, chance: float, asked_s: float | None = None
) -> tuple[str, int, float]:
    """(state, failures, due_at) of a recipient after `verdict`; times are Unix seconds.

    `failures` counts what went wrong with this mail before; `asked_s` is the pause that the relay asked for. A mail
    past its age gets no other try, and one before it gets its last try in the last minute. One that may have arrived
    (UNKNOWN) is due at once, but not again and again.
    """
    if verdict in (Verdict.SENT, Verdict.FAILED, Verdict.EXPIRED):
        return verdict.value, failures, now
    if verdict is Verdict.AGAIN:
        return "queued", failures, 0.0
    if verdict is Verdict.RELAY:
        return "deferred", failures, now
    if now >= expires_at - LAST_CHANCE_S and failures:
        return "expired", failures, now
    failures += 1
    if verdict is Verdict.UNKNOWN and failures == 1:
        return "unknown", failures, now
    pause_s = retry_pause_s(failures, chance) if asked_s is None else asked_s
    return verdict.value, failures, max(now + 1.0, min(now + pause_s, expires_at - LAST_CHANCE_S / 2))
