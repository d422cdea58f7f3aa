"""A relay on loopback that misbehaves as told: the fault server of the tests of the mail sender.

It reads commands from its own buffer, and not by aiosmtpd's SMTP class: a cut behind the dot, a byte a second, a megabyte
in place of an answer and silence in the middle of a body are nothing that a proper server has a place for. Many
connections at once, PIPELINING (RFC 2920) and STARTTLS (RFC 3207) it does properly.
"""

from __future__ import annotations

import asyncio
import hashlib
import re
import socket
import ssl
import struct
import threading
from base64 import b64decode
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from typing import NamedTuple

FOR_EVER = 1_000_000
CHUNK_BYTES = 1 << 16
RECEIVE_BYTES = 1 << 16  # of the kernel's buffer: small, so that a relay that stops reading is noticed
PIPELINING = ("PIPELINING", "SIZE 60000000", "8BITMIME", "ENHANCEDSTATUSCODES")


class Reply(NamedTuple):
    """What is sent, `pause_s` before each byte of it, and what follows: "" (goes on), "bye" (closes in order),
    "cut" (resets the connection), "hang" (never says a word again) or "stall" (nor reads one)."""

    data: bytes = b""
    then: str = ""
    pause_s: float = 0.0


CUT = Reply(then="cut")
SILENCE = Reply(then="hang")
STALL = Reply(then="stall")


def says(text: str) -> Reply:
    """An answer of one line, or of several with `\\n` between; behind a 421 the connection is closed."""
    return Reply(text.replace("\n", "\r\n").encode() + b"\r\n", "bye" if text.startswith("421") else "")


def dripping(text: str) -> Reply:
    """The answer, a byte a second."""
    return Reply(text.encode() + b"\r\n", "", 1.0)


class Talk:
    """One connection. `lines` is all that was said, `C: ` by the client and `S: ` by the relay, bodies not.

    `open` is how many connections there were when it came, itself too, and `after` how many mails had been taken.
    `ahead` counts commands that came before the answer to the one before them. `sender` and `recipients` are those of
    the transaction in hand, as far as they were accepted.
    """

    def __init__(self, number: int, open_: int, after: int) -> None:
        self.number = number
        self.open = open_
        self.after = after
        self.lines: list[str] = []
        self.ahead = 0
        self.user = ""
        self.sender: str | None = None
        self.recipients: list[str] = []

    def said(self, verb: str) -> int:
        """How often the client has said such a command."""
        return sum(line.startswith(f"C: {verb}") for line in self.lines)


def always(_talk: Talk, _line: str) -> bool:
    """The condition of a fault that knows none."""
    return True


class Fault(NamedTuple):
    """What the relay does at a step in place of the proper answer: `times` times, where `when(talk, line)` holds.

    Steps are CONNECT, TLS (the handshake), BODY (when the first part of it has come), DOT, and the commands.
    """

    step: str
    reply: Reply
    times: int = FOR_EVER
    when: Callable[[Talk, str], bool] = always


class Arrival(NamedTuple):
    """One recipient of one mail that the relay has taken, whether or not it could say so."""

    recipient: str
    message_id: str
    digest: str  # SHA-256 of the message without dot-stuffing
    transaction: int
    talk: int


class FaultRelay:
    """Serves 127.0.0.1 in a thread with an event loop of its own, until `close`.

    `passwords` by user are for AUTH PLAIN; `answer_s` is how long the answer to a final dot takes, as over a long way;
    `tls` is for STARTTLS, or for all from the start with `tls_first`.
    """

    def __init__(
        self,
        faults: Sequence[Fault] = (),
        *,
        port: int = 0,
        extensions: Sequence[str] = PIPELINING,
        passwords: Mapping[str, str] | None = None,
        tls: ssl.SSLContext | None = None,
        tls_first: bool = False,
        answer_s: float = 0.0,
    ) -> None:
        self.faults = list(faults)
        self.extensions = extensions
        self.passwords = passwords
        self.tls = tls
        self.tls_first = tls_first
        self.answer_s = answer_s
        self.arrivals: list[Arrival] = []
        self.talks: list[Talk] = []
        self.open = 0
        self.most_open = 0
        self.transactions = 0
        self._met = [0] * len(self.faults)
        self._listener = socket.socket(proto=socket.IPPROTO_TCP)  # only so asyncio sends small answers at once
        self._listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self._listener.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, RECEIVE_BYTES)
        self._listener.bind(("127.0.0.1", port))
        self._listener.listen(128)
        self.port: int = self._listener.getsockname()[1]
        self._loop = asyncio.new_event_loop()
        self.closing = asyncio.Event()
        self._tasks: set[asyncio.Task[None]] = set()
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def close(self) -> None:
        """Resets all connections and ends the thread."""
        self._loop.call_soon_threadsafe(self.closing.set)
        self._thread.join()

    def reply(self, step: str, talk: Talk, line: str) -> Reply | None:
        """The fault that is due at this step, counted; None for the proper answer."""
        for position, fault in enumerate(self.faults):
            if fault.step == step and self._met[position] < fault.times and fault.when(talk, line):
                self._met[position] += 1
                return fault.reply
        return None

    def take(self, talk: Talk, message: bytes) -> None:
        """Notes what has arrived; what came for nobody, under an empty address."""
        found = re.search(rb"^Message-ID: *(\S+)\r$", message.partition(b"\r\n\r\n")[0] + b"\r\n", re.I | re.M)
        message_id = found[1].decode() if found else ""
        digest = hashlib.sha256(message).hexdigest()
        self.transactions += 1
        self.arrivals += [Arrival(each, message_id, digest, self.transactions, talk.number) for each in talk.recipients or [""]]

    def _run(self) -> None:
        with asyncio.Runner(loop_factory=lambda: self._loop) as runner:
            runner.run(self._serve())

    async def _serve(self) -> None:
        server = await asyncio.start_server(self._enter, sock=self._listener)
        async with server:
            await self.closing.wait()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _enter(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        self.open += 1
        self.most_open = max(self.most_open, self.open)
        talk = Talk(len(self.talks), self.open, self.transactions)
        self.talks.append(talk)
        try:
            with suppress(OSError, asyncio.IncompleteReadError):
                await Server(self, talk, reader, writer).serve()
        finally:
            self.open -= 1
            writer.transport.abort()
            with suppress(OSError):
                await writer.wait_closed()
            self._tasks.discard(task)


class Over(OSError):
    """The conversation has come to its end."""


class Server:
    """The relay's side of one connection."""

    def __init__(self, relay: FaultRelay, talk: Talk, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._relay = relay
        self._talk = talk
        self._reader = reader
        self._writer = writer
        self._buffer = bytearray()

    async def serve(self) -> None:
        """Answers until one side ends it. Raises OSError."""
        if self._relay.tls_first:
            await self._secure()
        await self._answer("CONNECT", "", "220 fault.test ESMTP")
        while True:
            line = await self._line()
            self._talk.lines.append(f"C: {line}")
            self._talk.ahead += bool(self._buffer)
            verb = line.partition(" ")[0].upper()
            code = await self._answer(verb, line, self._friendly(verb, line))
            await self._done(verb, line, code)

    def _friendly(self, verb: str, line: str) -> str:
        if verb == "EHLO":
            offers = [*self._relay.extensions]
            secure = self._writer.get_extra_info("ssl_object") is not None
            offers += ["STARTTLS"] * (self._relay.tls is not None and not secure)
            offers += ["AUTH PLAIN"] * (self._relay.passwords is not None)
            words = ["fault.test", *offers]
            return "\n".join([f"250-{word}" for word in words[:-1]] + [f"250 {words[-1]}"])
        if verb == "AUTH":
            _, self._talk.user, password = b64decode(line.split()[2]).decode().split("\0")
            good = (self._relay.passwords or {}).get(self._talk.user) == password
            return "235 2.7.0 welcome" if good else "535 5.7.8 wrong password"
        if verb == "DATA":
            return "354 go on" if self._talk.recipients else "554 5.5.1 no valid recipients"
        return {"QUIT": "221 2.0.0 bye", "STARTTLS": "220 2.0.0 go on"}.get(verb, "250 2.0.0 Ok")

    async def _done(self, verb: str, line: str, code: str) -> None:
        """What an answer changes."""
        talk = self._talk
        if verb == "QUIT":
            raise Over
        if verb == "STARTTLS" and code == "220":
            await self._secure()
        elif verb in ("EHLO", "HELO", "RSET"):
            talk.sender, talk.recipients = None, []
        elif verb == "MAIL" and code == "250":
            talk.sender, talk.recipients = line[11:].partition(">")[0], []
        elif verb == "RCPT" and code == "250" and talk.sender is not None:
            talk.recipients.append(line[9:].partition(">")[0])
        elif verb == "DATA" and code == "354":
            await self._data()

    async def _data(self) -> None:
        message = await self._body()
        self._talk.ahead += bool(self._buffer)
        if self._relay.answer_s:
            await asyncio.sleep(self._relay.answer_s)
        reply = self._relay.reply("DOT", self._talk, ".") or says("250 2.0.0 taken")
        if reply.data[:1] not in (b"4", b"5"):  # whatever else it says, it has the mail (RFC 1047)
            self._relay.take(self._talk, message)
        self._talk.sender, self._talk.recipients = None, []
        await self._send(reply)

    async def _body(self) -> bytes:
        """The message up to the dot alone on its line (RFC 5321 4.1.1.4), without dot-stuffing."""
        text = bytearray(b"\r\n") + self._buffer
        looked = 0
        while (end := text.find(b"\r\n.\r\n", looked)) < 0:
            looked = max(0, len(text) - 4)
            text += await self._more()
            reply = self._relay.reply("BODY", self._talk, "")
            if reply is not None:
                await self._send(reply)
        self._buffer = text[end + 5 :]
        return bytes(text[: end + 2]).replace(b"\r\n..", b"\r\n.")[2:]

    async def _answer(self, step: str, line: str, friendly: str) -> str:
        """Answers and returns the code that was sent. Raises Over."""
        reply = self._relay.reply(step, self._talk, line) or says(friendly)
        await self._send(reply)
        return reply.data[:3].decode("latin-1")

    async def _send(self, reply: Reply) -> None:
        if reply.data:
            self._talk.lines.append(f"S: {reply.data[:200].decode('latin-1').rstrip()}")
        if reply.pause_s:
            for byte in reply.data:
                await asyncio.sleep(reply.pause_s)
                await self._write(bytes([byte]))
        else:
            await self._write(reply.data)
        if reply.then == "cut":
            linger = struct.pack("ii", 1, 0)
            self._writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
            raise Over
        if reply.then == "stall":
            await self._relay.closing.wait()
        if reply.then:
            await self._end(hangs=reply.then == "hang")

    async def _write(self, data: bytes) -> None:
        self._writer.write(data)
        await self._writer.drain()

    async def _end(self, *, hangs: bool) -> None:
        """Waits until the client goes. What it still sends is read, else the kernel would reset the connection and
        the last answer could be lost on its way."""
        if not hangs and self._writer.can_write_eof():
            self._writer.write_eof()
        rest = self._buffer
        try:
            while data := await self._reader.read(CHUNK_BYTES):
                rest += data
        finally:
            self._talk.lines += [f"C: {line.decode('latin-1')}" for line in rest.splitlines()]
        raise Over

    async def _secure(self) -> None:
        """The handshake; nothing that came before it in clear counts."""
        reply = self._relay.reply("TLS", self._talk, "")
        if reply is not None:
            await self._send(reply)
        assert self._relay.tls is not None
        self._buffer.clear()
        await self._writer.start_tls(self._relay.tls)

    async def _line(self) -> str:
        while (end := self._buffer.find(b"\r\n")) < 0:
            self._buffer += await self._more()
        line = self._buffer[:end].decode("utf-8", "replace")
        del self._buffer[: end + 2]
        return line

    async def _more(self) -> bytes:
        data = await self._reader.read(CHUNK_BYTES)
        if not data:
            raise Over
        return data
