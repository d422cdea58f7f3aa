"""`sendmail -bs`: the server's side of SMTP (RFC 5321) on standard input and output, for the program that started it.

Line ends: the FIRST line of the peer decides whether it speaks CRLF or, as local programs may, bare LF; from then on
only that form ends a command and only a dot between two line ends of that form ends the message. Were both taken,
text inside a message could end it and go on as commands (SMTP smuggling). Answers always end in CRLF.

There is no time limit: an application may keep its mailer open for hours, and its death ends the input. What did not
reach its final dot is not queued. Cheap imports only, since a web page may wait for this.
"""

from __future__ import annotations

import os

from workers.mail.addresses import AddressError, check_address
from workers.mail.errors import DATA, IO, NOT_ALLOWED, OK, USAGE, Refused

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

CHUNK_BYTES = 1 << 16
LINE_BYTES = 4096  # of a command with its line end; RFC 5321 4.5.3.1.4 asks for 512 at least
ANSWER_BYTES = 510  # and CRLF, RFC 5321 4.5.3.1.5
MOST_RECIPIENTS = 10_000
SPARE_BYTES = 8  # in the buffer around a message that is just not too big: line end, dot, line end
REFUSALS = {USAGE: "554 5.5.4", DATA: "554 5.6.0", NOT_ALLOWED: "550 5.7.1"}
ANSWERS = {
    **dict.fromkeys(("NOOP", "RSET"), "250 2.0.0 Ok"),
    "HELP": "214 2.0.0 HELO EHLO MAIL RCPT DATA RSET NOOP VRFY HELP QUIT",
    "VRFY": "252 2.5.2 not looked up; RCPT takes it when it is well-formed",
    **dict.fromkeys(("STARTTLS", "AUTH", "EXPN", "ETRN", "BDAT"), "502 5.5.1 not offered here"),
}


def serve(fd_in: int, fd_out: int, accept: Callable[[str, list[str], bytes], str], *, host: str, max_size_bytes: int) -> int:
    """Holds one SMTP conversation and returns the exit status: 65 when it broke off inside a mail, else 0.

    `accept` as for Session. Raises Refused (74) when input or output fails; mail answered with 250 is queued even so.
    """
    session = Session(accept, host=host, max_size_bytes=max_size_bytes)
    _write(fd_out, _answer(f"220 {host} ESMTP smtp-spool"))
    while session.status is None:
        try:
            chunk = os.read(fd_in, CHUNK_BYTES)
        except OSError as error:
            raise Refused(IO, f"standard input can't be read: {error.strerror}") from None
        _write(fd_out, session.feed(chunk) if chunk else session.end())
    return session.status


class Session:
    """The conversation without its reading and writing.

    `accept(sender, recipients, raw)` queues a message durably and returns its id, or raises Refused. The addresses
    are checked, may be bare names, and a sender of "" is the null sender; `raw` has the peer's line ends, no dots added.
    """

    def __init__(self, accept: Callable[[str, list[str], bytes], str], *, host: str, max_size_bytes: int) -> None:
        self.status: int | None = None  # the exit status, once the conversation is over
        self._accept = accept
        self._host = host
        self._most_bytes = max_size_bytes
        self._size_refusal = f"552 5.3.4 the message is bigger than spool.max_size = {max_size_bytes} bytes"
        self._buffer = bytearray()
        self._eol = b""  # the peer's line end, known with its first line
        self._overlong = self._greeted = False  # the start of this line was dropped; HELO was said
        self._sender: str | None = None
        self._recipients: list[str] = []
        self._in_content = False
        self._seen = self._dots = 0  # of the content in the buffer: bytes looked through, added dots in them
        self._too_big = False

    def feed(self, data: bytes) -> bytes:
        """Takes the next bytes of the peer, cut anywhere, and returns the answers to the commands they complete."""
        self._buffer += data
        answers = b""
        while self.status is None and (answer := self._content() if self._in_content else self._command()):
            answers += answer
        return answers

    def end(self) -> bytes:
        """Takes the end of the input and returns the last answer, when one is due; `status` is set then."""
        self.status = OK if self._sender is None else DATA
        return b"" if self._sender is None else _answer("421 4.4.2 the input ended inside a mail, which was not queued")

    def _command(self) -> bytes:
        """The answer to the first line of the buffer; nothing while it is not whole."""
        end = self._buffer.find(b"\n") + 1
        if not end:
            if len(self._buffer) > LINE_BYTES:
                self._overlong = True
                del self._buffer[:-1]  # a CR in the end still tells how the line ends
            return b""
        line = bytes(self._buffer[:end])
        del self._buffer[:end]
        self._eol = self._eol or (b"\r\n" if line.endswith(b"\r\n") else b"\n")
        if self._overlong or end > LINE_BYTES:
            self._overlong = False
            return _answer(f"500 5.5.2 a command has {LINE_BYTES} octets at most")
        text = line[: -len(self._eol)].decode("utf-8", "replace")
        if not line.endswith(self._eol) or any(ord(sign) < 32 or sign in "\x7f\ufffd" for sign in text):
            if not line.endswith(self._eol):  # what follows may be hidden in it: no command is read from there
                self.status = DATA
                return _answer("421 4.7.0 lines end as the first one did, in CRLF or in LF; closing")
            ends = "CRLF" if self._eol == b"\r\n" else "LF"
            return _answer(f"500 5.5.2 a command is UTF-8 without control characters and, as the first was, ended by {ends}")
        verb, _, argument = text.rstrip().partition(" ")
        return self._run(verb.upper(), argument.strip())

    def _run(self, verb: str, argument: str) -> bytes:
        if verb in ("HELO", "EHLO"):
            return self._hello(verb, argument)
        if step := {"MAIL": self._mail, "RCPT": self._rcpt, "DATA": self._data}.get(verb):
            return _answer(step(argument))
        if verb == "RSET":
            self._reset()
        if verb == "QUIT":
            self.status = OK
            return _answer(f"221 2.0.0 {self._host} closes")
        if ":" in verb:  # a script that hears no refusal goes on with its message: nothing in it is a command
            self.status = DATA
            return _answer("421 4.7.0 a header field in place of a command; closing")
        return _answer(ANSWERS.get(verb, "500 5.5.2 unknown command; HELP lists them"))

    def _hello(self, verb: str, argument: str) -> bytes:
        if not argument:
            return _answer(f"501 {verb} needs your host's name")
        self._reset()
        self._greeted = True
        offers = ["PIPELINING", f"SIZE {self._most_bytes}", "8BITMIME", "SMTPUTF8", "ENHANCEDSTATUSCODES"]
        lines = [self._host, *offers] if verb == "EHLO" else [self._host]
        return b"".join(_answer(f"250-{line}") for line in lines[:-1]) + _answer(f"250 {lines[-1]}")

    def _mail(self, argument: str) -> str:
        if not self._greeted:
            return "503 5.5.1 HELO or EHLO comes first"
        if self._sender is not None:
            return "503 5.5.1 the sender is given already; RSET starts anew"
        address, parameters = _path(argument, "FROM:")
        if address is None:
            return "501 5.5.4 expected is MAIL FROM:<address>"
        for refusal in filter(None, map(self._refusal, parameters)):
            return refusal
        try:
            self._sender = self._checked(address) if address else ""  # the null sender, RFC 5321 4.5.5
        except AddressError as error:
            return f"501 5.1.7 {error}"
        return "250 2.1.0 Ok"

    def _refusal(self, parameter: str) -> str:
        """What is wrong with a parameter of MAIL (RFC 1870, 6152, 6531), or nothing."""
        name, _, value = parameter.upper().partition("=")
        if name == "SIZE" and value.isascii() and value.isdigit():
            return self._size_refusal if int(value) > self._most_bytes else ""
        if parameter.upper() in ("BODY=7BIT", "BODY=8BITMIME", "SMTPUTF8"):
            return ""  # what the message needs is looked at when it is sent on
        return f"501 5.5.4 {parameter}: wrong value" if name in ("SIZE", "BODY") else f"555 5.5.4 {parameter}: unknown"

    def _rcpt(self, argument: str) -> str:
        if self._sender is None:
            return "503 5.5.1 MAIL comes first"
        address, parameters = _path(argument, "TO:")
        if address is None:
            return "501 5.5.4 expected is RCPT TO:<address>"
        if parameters:
            return f"555 5.5.4 {parameters[0]}: unknown"
        if len(self._recipients) >= MOST_RECIPIENTS:
            return f"452 4.5.3 a mail has {MOST_RECIPIENTS} recipients at most; send the rest in another"
        try:
            self._recipients.append(self._checked(address))
        except AddressError as error:
            return f"553 5.1.3 {error}"
        return "250 2.1.5 Ok"

    def _checked(self, address: str) -> str:
        """The address as it goes into an envelope; a bare name stays one, for whoever knows the aliases."""
        full = check_address(address if "@" in address else f"{address}@{self._host}")
        return full if "@" in address else address

    def _data(self, argument: str) -> str:
        if argument:
            return "501 5.5.4 DATA stands alone"
        if not self._recipients:
            return "503 5.5.1 MAIL and a RCPT that was taken come first"
        self._in_content, self._too_big = True, False
        self._buffer[:0] = self._eol  # so that a dot in the first line is found as in all others
        self._seen = self._dots = 0
        return "354 end with a dot on a line of its own"

    def _content(self) -> bytes:
        """Hands the message over and gives the answer to it; nothing while its end is not there."""
        line_end, end = self._eol, self._eol + b"." + self._eol
        at = self._buffer.find(end, max(0, self._seen - len(end) + 1))
        if at < 0:
            self._dots += self._buffer.count(line_end + b".", max(0, self._seen - len(line_end)))
            self._too_big = self._too_big or len(self._buffer) - self._dots > self._most_bytes + SPARE_BYTES
            if self._too_big:
                del self._buffer[: 1 - len(end)]
            self._seen = len(self._buffer)
            return b""
        content, self._buffer = self._buffer, self._buffer[at + len(end) :]
        del content[at + len(line_end) :]
        content = content.replace(line_end + b".", line_end)
        del content[: len(line_end)]
        sender, recipients = self._sender or "", self._recipients
        self._reset()
        if self._too_big or len(content) > self._most_bytes:
            return _answer(self._size_refusal)
        try:
            return _answer(f"250 2.0.0 Ok: queued as {self._accept(sender, recipients, bytes(content))}")
        except Refused as refused:
            return _answer(f"{REFUSALS.get(refused.status, '451 4.3.0')} {refused}")

    def _reset(self) -> None:
        self._sender, self._recipients, self._in_content = None, [], False


def _path(argument: str, keyword: str) -> tuple[str | None, list[str]]:
    """Address and parameters behind `keyword` (RFC 5321 4.1.2); no address when the form is wrong.

    As with sendmail, the angle brackets may be missing. A source route is dropped (RFC 5321 4.1.1.3).
    """
    text = argument[len(keyword) :].lstrip()
    if argument[: len(keyword)].upper() != keyword or not text:
        return None, []
    if text[0] != "<":
        return text.split()[0], text.split()[1:]
    quoted = escaped = False
    for at, sign in enumerate(text):
        if sign == ">" and not quoted:
            address = text[1:at]
            return (address.partition(":")[2] if address.startswith("@") else address), text[at + 1 :].split()
        if sign == '"' and not escaped:
            quoted = not quoted
        escaped = sign == "\\" and not escaped
    return None, []


def _answer(text: str) -> bytes:
    """One line of an answer: no control characters in it, ASCII, not too long."""
    plain = "".join(sign if sign.isprintable() else "?" for sign in text)
    return plain.encode("ascii", "backslashreplace")[:ANSWER_BYTES] + b"\r\n"


def _write(fd: int, data: bytes) -> None:
    rest = memoryview(data)
    try:
        while rest:
            rest = rest[os.write(fd, rest) :]
    except OSError as error:
        raise Refused(IO, f"an answer can't be written: {error.strerror}; what was answered with 250 is queued") from None
