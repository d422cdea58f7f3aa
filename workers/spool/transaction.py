"""Mail transactions over one connection: MAIL, RCPT for each, DATA, the body, the final dot (RFC 5321 3.3).

Where the relay offers PIPELINING the envelope is one write, and the next mail's envelope goes out together with the
final dot (RFC 2920 3.1): one round trip a mail.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

from workers.mail.addresses import needs_smtputf8
from workers.mail.words import plain
from workers.spool.delivery import LOST, Effect, Step, Verdict, again_in_s, closes, effect, judge

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from workers.spool.attempt import Attempt
    from workers.spool.claims import Recipient
    from workers.spool.wire import Wire

BLOCK_BYTES = 65536
QUIT_S = 2.0


class Limits:
    """Seconds that each step may last (RFC 5321 4.5.3.2)."""

    def __init__(self, envelope_s: float = 300.0, data_s: float = 120.0, block_s: float = 180.0, dot_s: float = 600.0) -> None:
        self.envelope_s = envelope_s
        self.data_s = data_s
        self.block_s = block_s
        self.dot_s = dot_s


class Guard(Protocol):
    """What a transaction asks before and behind the step that can't be taken back."""

    def past_dot(self, attempt: Attempt) -> bool:
        """Notes that the dot is about to go out; False when it must not: the claim does not surely hold any more."""

    def taken(self, attempt: Attempt, answer: str) -> None:
        """Notes that the relay has taken the mail."""

    def parts(self, attempt: Attempt) -> Iterable[bytes]:
        """The message in parts. Raises StoreError."""

    def next(self) -> Attempt | None:
        """The mail that may follow at once on this connection."""


class Courier:
    """Carries one mail after another over a connection. `extensions` is what EHLO offered, in lower case."""

    def __init__(self, wire: Wire, extensions: Mapping[str, str], guard: Guard, limits: Limits) -> None:
        self.carried = 0
        self._wire = wire
        self.extensions = extensions
        self._pipelining = "pipelining" in extensions
        self._guard = guard
        self._limits = limits

    @property
    def lost(self) -> str | None:
        """Why the connection is of no more use; None while it is."""
        return self._wire.lost

    def is_stale(self) -> bool:
        """Whether no mail should be begun on it: it is lost, or the relay has said something unasked."""
        return self._wire.is_stale()

    def expire(self, now: float) -> None:
        """Ends the connection when the step in hand is over time."""
        self._wire.expire(now)

    def cut(self, why: str) -> None:
        """Breaks off what is in hand."""
        self._wire.fail(why)

    async def close(self) -> None:
        """Says QUIT and closes. Never raises."""
        if self._wire.lost is None:
            self._wire.write(b"QUIT\r\n")
            await self._wire.replies(1, QUIT_S)
            self._wire.fail("closed")

    async def deliver(self, attempt: Attempt) -> tuple[Attempt, Attempt | None]:
        """Brings one mail to its end; returns it, and the next one when its envelope is already under way.

        The one returned as second must be handed in next. Raises StoreError when the body can't be read: the
        connection is closed then, and nothing was handed over.
        """
        reused = self.carried > 0
        if self._pipelining and not attempt.begun:
            self._begin(attempt)
        ready = await self._envelope(attempt, reused=reused)
        following = await self._content(attempt) if ready else await self._reset(attempt)
        self.carried += 1
        return attempt, following

    def _begin(self, attempt: Attempt) -> None:
        """Sends the whole envelope at once."""
        attempt.begun = True
        commands = self._commands(attempt)
        if commands:
            self._wire.write(b"".join(commands))

    def _commands(self, attempt: Attempt) -> list[bytes]:
        """MAIL, each RCPT, DATA; none when no recipient can be told to this relay."""
        if "smtputf8" not in self.extensions:
            why = "553 5.6.7 this relay takes no address with such letters before the @ (no SMTPUTF8)"
            if needs_smtputf8(attempt.mail.sender):
                attempt.settle(attempt.waiting, Verdict.FAILED, why)
            attempt.settle([each for each in attempt.waiting if needs_smtputf8(each.address)], Verdict.FAILED, why)
        if not attempt.waiting:
            return []
        mail = attempt.mail
        rcpts = [f"RCPT TO:<{recipient.address}>\r\n".encode() for recipient in attempt.waiting]
        return [f"MAIL FROM:<{mail.sender}>{self._options(attempt)}\r\n".encode(), *rcpts, b"DATA\r\n"]

    def _options(self, attempt: Attempt) -> str:
        """The parameters of MAIL that the relay knows: SIZE (RFC 1870), BODY (RFC 6152), SMTPUTF8 (RFC 6531)."""
        mail = attempt.mail
        size_bytes = mail.size_bytes if attempt.content is None else attempt.content.size_bytes
        options = f" SIZE={size_bytes}" if "size" in self.extensions else ""
        if "8bitmime" in self.extensions and mail.eight_bit:
            options += " BODY=8BITMIME"
        if needs_smtputf8(mail.sender) or any(needs_smtputf8(each.address) for each in attempt.waiting):
            options += " SMTPUTF8"
        return options

    async def _envelope(self, attempt: Attempt, *, reused: bool) -> bool:
        """Whether the relay waits for the body now."""
        limit_s = self._limits.envelope_s
        if self._pipelining:
            if not attempt.waiting:
                return False
            rcpts = list(attempt.waiting)
            replies = await self._wire.replies(len(rcpts) + 1, limit_s)
            replies += await self._wire.replies(1, self._limits.data_s)
            return await self._judged(attempt, rcpts, replies, reused=reused)
        commands = self._commands(attempt)
        rcpts = list(attempt.waiting)
        replies = []
        for command in commands[:-1]:
            replies += await self._say(command, limit_s)
            if len(replies) < 2 and (not replies or not 200 <= replies[0][0] < 300):
                break
            if self._wire.lost is not None or closes(replies[-1][0]):
                break
        if len(replies) == len(rcpts) + 1 and any(200 <= code < 300 for code, _ in replies[1:]):
            replies += await self._say(commands[-1], self._limits.data_s)
        return await self._judged(attempt, rcpts, replies, reused=reused)

    async def _say(self, command: bytes, limit_s: float) -> list[tuple[int, str]]:
        self._wire.write(command)
        return await self._wire.replies(1, limit_s)

    async def _judged(self, attempt: Attempt, rcpts: list[Recipient], replies: list[tuple[int, str]], *, reused: bool) -> bool:
        """Gives each refused recipient its result; whether DATA was answered with 354 and somebody is left."""
        if not attempt.waiting and not replies:
            return False
        code, text = replies[0] if replies else (LOST, self._lost())
        if not 200 <= code < 300:
            self._end(attempt, Step.MAIL, code, text, reused=reused)
            return await self._left(replies, len(rcpts) + 1)
        accepted = 0
        for position, recipient in enumerate(rcpts, 1):
            code, text = replies[position] if position < len(replies) else (LOST, self._lost())
            if closes(code):
                self._end(attempt, Step.RCPT, code, text)
                return False
            if 200 <= code < 300:
                accepted += 1
                continue
            words = answer(code, text)
            verdict = judge(Step.RCPT, code, text, accepted=accepted)
            if verdict is Verdict.AGAIN:
                attempt.most_recipients = accepted
            if effect(Step.RCPT, code) is not Effect.NONE:
                attempt.effect, attempt.trouble = effect(Step.RCPT, code), words
            attempt.settle([recipient], verdict, words, again_in_s(text))
        if not accepted:
            return await self._left(replies, len(rcpts) + 1)
        code, text = replies[-1] if len(replies) == len(rcpts) + 2 else (LOST, self._lost())
        if code != 354:
            self._end(attempt, Step.DATA, code, text)
            return False
        return True

    async def _left(self, replies: list[tuple[int, str]], position: int) -> bool:
        """Answers a DATA that was taken although no recipient is left, as RFC 2920 3.1 asks: with the dot alone."""
        if len(replies) > position and replies[position][0] == 354:
            await self._say(b".\r\n", self._limits.dot_s)
        return False

    async def _content(self, attempt: Attempt) -> Attempt | None:
        """The body, the note, and the dot, behind which nothing can be taken back."""
        last = await self._body(attempt)
        if self._wire.is_stale():
            await self._interrupted(attempt)
            return None
        following = self._guard.next()
        if not self._guard.past_dot(attempt):
            self._wire.fail("the lease of the claim is over")
            attempt.settle(attempt.waiting, Verdict.RELAY, "not sent: the lease of the claim was over")
            return following
        self._wire.write(last + b".\r\n")
        if following is not None and self._pipelining:
            self._begin(following)
        replies = await self._wire.replies(1, self._limits.dot_s)
        code, text = replies[0] if replies else (LOST, self._lost())
        if 200 <= code < 300:
            self._guard.taken(attempt, answer(code, text))
        self._end(attempt, Step.DOT, code, text)
        return following

    async def _interrupted(self, attempt: Attempt) -> None:
        """The connection broke, or the relay has answered before the message was over: a no is a no, a yes is none."""
        replies = [] if self._wire.lost is not None else await self._wire.replies(1, self._limits.data_s)
        code, text = replies[0] if replies and replies[0][0] >= 400 else (LOST, self._lost())
        self._end(attempt, Step.DATA, code, text)
        self._wire.fail("the relay answered in the middle of a message")

    async def _body(self, attempt: Attempt) -> bytes:
        """Sends the body but for its last part, which goes out with the dot."""
        parts = attempt.content.parts() if attempt.content is not None else self._guard.parts(attempt)
        waiting, end = b"", b"\r\n"
        try:
            for part in parts:
                if waiting:
                    self._wire.write(waiting)
                    await self._wire.drain(self._limits.block_s)
                text = part
                waiting = stuffed(text, end)
                end = (end + text)[-2:]
                while len(waiting) > BLOCK_BYTES:
                    self._wire.write(waiting[:BLOCK_BYTES])
                    waiting = waiting[BLOCK_BYTES:]
                    await self._wire.drain(self._limits.block_s)
                if self._wire.lost is not None:
                    break
        except BaseException:
            self._wire.fail("the message can't be read")
            raise
        return waiting

    async def _reset(self, attempt: Attempt) -> Attempt | None:
        """Clears the envelope for the next mail; a connection that breaks here has done its work."""
        if self._wire.lost is None and attempt.results:
            replies = await self._say(b"RSET\r\n", self._limits.envelope_s)
            if not replies or replies[0][0] != 250:
                self._wire.fail("RSET was refused")
        return None

    def _end(self, attempt: Attempt, step: Step, code: int, text: str, *, reused: bool = False) -> None:
        """The whole rest shares the fate of this answer."""
        words = answer(code, text) if code else f"connection lost at {step.value}: {text}"
        attempt.settle(attempt.waiting, judge(step, code, reused=reused), words, again_in_s(text) if code else None)
        found = effect(step, code, reused=reused)
        if found is not Effect.NONE:
            attempt.effect, attempt.trouble = found, words
        if closes(code) and not (step is Step.DATA and code == 354):
            self._wire.fail(words)

    def _lost(self) -> str:
        return plain(self._wire.lost or "no answer")


def stuffed(text: bytes, before: bytes) -> bytes:
    """The part of a message with the dot at a line's start doubled (RFC 5321 4.5.2); `before` are the two bytes before it."""
    done = text.replace(b"\r\n.", b"\r\n..")
    if (before == b"\r\n" and text[:1] == b".") or (before[1:] == b"\r" and text[:2] == b"\n."):
        at = text.index(b".")
        done = done[:at] + b"." + done[at:]
    return done


def answer(code: int, text: str) -> str:
    """`250 2.0.0 Ok`: an answer as one line."""
    return plain(f"{code} {text}")
