"""What the spool's tests share: a loop whose clock only jumps, and a relay inside this process."""

from __future__ import annotations

import asyncio
import selectors
from collections.abc import Coroutine, Iterable, Mapping
from typing import Any, TypeVar

from workers.spool.attempt import Attempt
from workers.spool.claims import Mail, Recipient
from workers.spool.transaction import Courier, Limits
from workers.spool.wire import Wire
from workers.store.database import StoreError

Result = TypeVar("Result")
CUT = "cut"  # in place of an answer: the relay closes the connection
SILENT = "silent"  # in place of an answer: none, and none from then on
TAKEN_CUT = "taken, cut"  # the relay takes the mail, but closes before it can say so
ALL = {"pipelining": "", "8bitmime": "", "size": "1000000", "smtputf8": ""}


class _Jump(selectors.SelectSelector):
    """Waits no time at all: it puts the clock forward instead, and each turn by a little."""

    now = 0.0

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        if timeout is None:
            raise AssertionError("everything waits, and nothing will ever happen")
        self.now += max(1e-7, timeout)
        return super().select(0)


class JumpingLoop(asyncio.SelectorEventLoop):
    """An event loop whose seconds pass at once. It is of no use with threads or sockets."""

    def __init__(self) -> None:
        self.jump = _Jump()
        super().__init__(self.jump)

    def time(self) -> float:
        return self.jump.now


def run(work: Coroutine[Any, Any, Result]) -> Result:
    """Runs `work` in a jumping loop."""
    with asyncio.Runner(loop_factory=JumpingLoop) as runner:
        return runner.run(work)


def a_mail(
    number: int = 1,
    *addresses: str,
    body: bytes | None = b"x\r\n",
    sender: str | None = None,
    eight_bit: bool = False,
    expires_at: float = 9e9,
) -> Mail:
    """A claimed mail whose sender, unless given, and recipients' ids follow from its number."""
    found = [Recipient(number * 1000 + at, address, 1, 0) for at, address in enumerate(addresses or (f"r{number}@x",))]
    size_bytes = 0 if body is None else len(body)
    row = (number, f"s{number}@x" if sender is None else sender, size_bytes, eight_bit, False, 0.0, expires_at, body)
    return Mail(number << 8, row, found)


class Taken:
    """A mail that the relay said yes to."""

    def __init__(self, sender: str, recipients: list[str], body: bytes) -> None:
        self.sender = sender
        self.recipients = recipients
        self.body = body


class FakeRelay(asyncio.Transport):
    """Answers each command by the next of `answers`: a code, a whole reply, CUT, TAKEN_CUT, SILENT, or None for what is right.

    It keeps the order of RFC 5321 whatever it is told to say: RCPT and DATA before MAIL get 503. Behind 421 it closes.
    """

    def __init__(self, answers: Iterable[int | str | None] = (), *, pipelining: bool = True) -> None:
        super().__init__()
        self.answers = list(answers)
        self.writes: list[bytes] = []
        self.commands: list[str] = []
        self.events: list[str] = []
        self.taken: list[Taken] = []
        self.bodies: list[bytes] = []  # each ended by a dot, taken or not
        self.hasty = False  # a command came before its turn
        self.closed = False
        self.jam_at: int | None = None  # takes no more after so many bytes
        self.wire: Wire | None = None
        self._pipelining = pipelining
        self._heard = b""
        self._out: list[bytes] = []
        self._sender: str | None = None
        self._recipients: list[str] = []
        self._in_data = self._silent = False
        self._loop = asyncio.get_running_loop()

    def write(self, data: bytes | bytearray | memoryview) -> None:
        assert not isinstance(data, memoryview)
        if self.closed:
            return
        self.hasty |= bool(self._out) and not self._pipelining
        self.writes.append(bytes(data))
        self.events.append("write")
        self._heard += data
        if self.jam_at is not None and sum(map(len, self.writes)) > self.jam_at and self.wire is not None:
            self.wire.pause_writing()
        while self._step():
            self.hasty |= len(self._out) > 1 and not self._pipelining

    def abort(self) -> None:
        self._out.clear()
        self._hang_up()

    def is_closing(self) -> bool:
        return self.closed

    def say(self, reply: str) -> None:
        """Sends a reply that nobody asked for."""
        assert self.wire is not None
        self.wire.data_received(reply.encode() + b"\r\n")

    def _step(self) -> bool:
        if self.closed:
            return False
        if self._in_data:
            return self._body()
        line, end, rest = self._heard.partition(b"\r\n")
        if not end:
            return False
        self._heard = rest
        self._command(line.decode())
        return True

    def _body(self) -> bool:
        text, end, rest = (b"\r\n" + self._heard).partition(b"\r\n.\r\n")
        if not end:
            return False
        self._heard, self._in_data = rest, False
        self.commands.append(".")
        self.events.append("dot")
        body = (text + b"\r\n").replace(b"\r\n.", b"\r\n")[2:]
        self.bodies.append(body)
        code = self._answer(250 if self._recipients else 554)
        if 200 <= code < 300:
            self.taken.append(Taken(self._sender or "", self._recipients, body))
        self._sender, self._recipients = None, []
        return True

    def _command(self, line: str) -> None:
        verb = line.split(" ", maxsplit=1)[0]
        self.commands.append(line)
        address = line.partition("<")[2].partition(">")[0]
        if verb == "MAIL" and self._sender is None:
            if 200 <= self._answer(250) < 300:
                self._sender, self._recipients = address, []
        elif verb == "RCPT" and self._sender is not None:
            if 200 <= self._answer(250) < 300:
                self._recipients.append(address)
        elif verb == "DATA" and self._sender is not None:
            self._in_data = self._answer(354 if self._recipients else 554) == 354
        elif verb == "RSET":
            self._answer(250)
            self._sender, self._recipients = None, []
        elif verb == "QUIT":
            self._answer(221)
        else:
            if self.answers:
                self.answers.pop(0)
            self._reply("503 5.5.1 bad sequence of commands")

    def _answer(self, right: int) -> int:
        """Says the next answer; its code, or 0 for none."""
        given = self.answers.pop(0) if self.answers else None
        if given == SILENT or self._silent:
            self._silent = True
            return 0
        if given in (CUT, TAKEN_CUT):
            self._hang_up()
            return right if given == TAKEN_CUT else 0
        text = f"{right} words" if given is None else given if isinstance(given, str) else f"{given} words"
        self._reply(text)
        if text.startswith("421"):
            self._hang_up()
        return int(text[:3]) if text[:3].isdigit() else 0

    def _hang_up(self) -> None:
        if not self.closed:
            self.closed = True
            self._loop.call_soon(self._gone)

    def _reply(self, text: str) -> None:
        if self._silent:
            return
        self._out.append(text.encode() + b"\r\n")
        self._loop.call_soon(self._flush)

    def _flush(self) -> None:
        if self._out and self.wire is not None:
            self.wire.data_received(self._out.pop(0))

    def _gone(self) -> None:
        if self.wire is not None:
            self.wire.connection_lost(None)


class Watch:
    """A guard that says yes, keeps the mails that follow, and writes into the relay's list of events."""

    def __init__(self, relay: FakeRelay, following: Iterable[Attempt] = (), *, holds: bool = True) -> None:
        self.relay = relay
        self.following = list(following)
        self.holds = holds
        self.noted: list[Attempt] = []
        self.told: list[Attempt] = []
        self.split: dict[int, list[bytes]] = {}
        self.fault: StoreError | None = None

    def past_dot(self, attempt: Attempt) -> bool:
        self.relay.events.append("note")
        self.noted.append(attempt)
        return self.holds

    def taken(self, attempt: Attempt, answer: str) -> None:
        self.relay.events.append("taken")
        self.told.append(attempt)

    def parts(self, attempt: Attempt) -> Iterable[bytes]:
        if attempt.mail.body is not None:
            yield attempt.mail.body
            return
        yield from self.split[attempt.mail.id]
        if self.fault is not None:
            raise self.fault

    def next(self) -> Attempt | None:
        return self.following.pop(0) if self.following else None


def courier(relay: FakeRelay, watch: Watch, extensions: Mapping[str, str] = ALL, limits: Limits | None = None) -> Courier:
    """A courier with its wire to the relay."""
    relay.wire = Wire(relay)
    return Courier(relay.wire, extensions, watch, limits or Limits())
