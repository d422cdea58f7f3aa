"""Messages with all that is odd in mail, and what has to leave for each: the corpus of test_mail_bytes.py."""

from __future__ import annotations

import re
from typing import NamedTuple

PART_BYTES = 256 * 1024  # a body is stored in parts of that size
ALL_THERE = b"From: s@x\nMessage-ID: <1@x>\nDate: Mon, 23 Nov 2026 00:00:00 +0000\n"
SMUGGLED = b"\n.\r\nMAIL FROM:<evil@x>\r\n\r.\r\r\n.\rRCPT TO:<evil@x>\n\r\n.\n\n..\n"
SIGNED_HEADER = b'MIME-Version: 1.0\nContent-Type: multipart/signed; boundary=b; protocol="application/pgp-signature"\n'
SIGNED = (
    b"--b\nContent-Type: text/plain\n\n.From here \ntrailing blanks  \t\n%s\n\n--b\n"
    b"Content-Type: application/pgp-signature\n\n-----BEGIN-----\n\n--b--\n"
)


def wire(raw: bytes) -> bytes:
    """Bare CR as a space, each line's end as CRLF, one at the end of all."""
    text = re.sub(rb"\r\n|\r|\n", lambda sign: b" " if sign[0] == b"\r" else b"\r\n", raw)
    return text if text.endswith(b"\r\n") or not text else text + b"\r\n"


class Case(NamedTuple):
    """A message as it is handed in: header and body. `sent_header` and `sent_body` are what has to leave, without what
    is added, where that is more than their lines' ends; with `raw` it is handed in as something else than their sum."""

    words: str
    header: bytes = b"Subject: x\n"
    body: bytes = b"body\n"
    raw: bytes | None = None
    sent_header: bytes | None = None
    sent_body: bytes | None = None

    @property
    def given(self) -> bytes:
        return self.header + b"\n" + self.body if self.raw is None else self.raw

    @property
    def parts(self) -> tuple[bytes, bytes]:
        """Header and body as they have to leave."""
        header = wire(self.header) if self.sent_header is None else self.sent_header
        return header, wire(self.body) if self.sent_body is None else self.sent_body


def cut(piece: bytes, at: int) -> bytes:
    """A body behind ALL_THERE that has `piece` where the first stored part ends: `at` of its octets belong to that part."""
    head = len(wire(ALL_THERE)) + 2
    lines, rest = divmod(PART_BYTES - at - head - 1, 78)
    body = (b"y" * 76 + b"\n") * lines + b"z" * (rest + 1) + piece + b"end\n"
    assert wire(body)[PART_BYTES - head :] == (wire(piece) + b"end\r\n")[at:]
    return body


SAME = [
    Case("dots", body=b".\n..\n...\n.a\na.\n\n.\n.. \n .\n"),
    Case("dot-first-and-last", ALL_THERE, b".\n."),
    Case("dot-at-the-end-of-a-long-line", body=b"." + b"x" * 997 + b"\n" + b"x" * 997 + b".\n"),
    Case("part-ends-behind-cr", ALL_THERE, cut(b"\n.\n", 1)),
    Case("part-ends-behind-lf", ALL_THERE, cut(b"\n.\n", 2)),
    Case("part-ends-behind-dot", ALL_THERE, cut(b"\n.\n", 3)),
    Case("part-ends-behind-dot-cr", ALL_THERE, cut(b"\n.\n.\n", 4)),
    Case("bare-cr", b"Subject: a\rBcc: evil@x\n", b"a\rb\r\rc\r\r\n\n\rd\r"),
    Case("bare-lf-among-crlf", b"Subject: x\r\nX-A: y\n", b"a\r\nb\nc\r\n\nd\n\r\n"),
    Case("smuggling", body=SMUGGLED),
    Case("nul", b"Subject: a\0b\n", b"\0\n\0\0.\n.\0\n\x1a\x04\n"),
    Case("no-final-newline", body=b"last line"),
    Case("empty-body", body=b""),
    Case("only-empty-lines", body=b"\n\n\n"),
    Case("empty-message", b"", b"", raw=b""),
    Case("header-only", b"Subject: x\nX-A: y\n", b"", raw=b"Subject: x\nX-A: y"),
    Case("body-only", b"", b"hello\nSubject: no\n", raw=b"hello\nSubject: no\n"),
    Case("empty-line-first", b"", b"Subject: no\n"),
    Case("blank-first", b"", b" Subject: no\n", raw=b" Subject: no\n"),
    Case("header-that-ends-without-an-empty-line", b"Subject: x\n", b"no field\nTo: a\n", raw=b"Subject: x\nno field\nTo: a\n"),
    Case("mbox", raw=b"From s@x Mon Nov 23 00:00:00 2026\nSubject: x\n\nbody\n"),
    Case("from-inside", body=b"From me to you\n\nFrom s@x Mon Nov 23 00:00:00 2026\n>From\n"),
    Case("folded", b"Subject: a\n b\n\t c \nX-A:\n b\nReferences: <a@x>\n\t<b@x>\n"),
    Case("duplicates", b"Subject: a\nSubject: b\nTo: a@x\nTo: b@x\nMessage-ID: <a@x>\nMessage-ID: <b@x>\nX-A: c\nX-A: c\n"),
    Case("odd-fields", b"X-Empty:\nX-Blank: \nx-case : y\nX:Y\n!#$%&'*+-^_`{|}~: z\nfrom: me@x\nDATE: y\nmessage-id:<1@x>\n"),
    Case(
        "removed",
        b"BCC: a@x,\n b@x\nSubject: x\nResent-Bcc : c@x\nX-Bcc: stays\nreturn-path: <a@x>\nContent-Length: 5\nBcc:\n",
        sent_header=b"Subject: x\r\nX-Bcc: stays\r\n",
    ),
    Case("utf-8-header", "Subject: grüße 📧\nX-A: ü\n".encode()),
    Case("998", body=b"x" * 998 + b"\n" + b"y" * 998 + b"\n"),
    Case("998-at-the-end", ALL_THERE, b"x" * 998),
    Case("998-in-the-header", b"X-Long: " + b"x" * 990 + b"\n"),
    Case("signed", SIGNED_HEADER, SIGNED % b"x"),
    Case("header-of-1-mb-folded", b"X-Long: a\n" + b" " + b"y" * 70 + b"\n" + (b"\t" + b"y" * 70 + b"\n") * 14_600),
    Case("header-of-1-mb-in-fields", b"".join(b"X-%d: y\n" % number for number in range(80_000))),
]  # fmt: skip
LATIN = bytes(range(160, 256)) * 3 + b"\n.caf\xe9\n"
LATIN_PART = b"MIME-Version: 1.0\nContent-Type: text/plain; charset=iso-8859-1\nContent-Transfer-Encoding: 8bit\n"
EIGHT_BIT = [
    Case("latin-1", LATIN_PART, LATIN),
    Case("utf-8", b"Subject: x\n", "grüße\n.📧\n".encode()),
    Case("field-name-not-ascii", b"Subject: x\n", "X-Ü: y\n".encode(), raw="Subject: x\nX-Ü: y\n".encode()),
    Case("binary", LATIN_PART.replace(b"text/plain; charset=iso-8859-1", b"application/octet-stream"), LATIN),
    Case("multipart", b"MIME-Version: 1.0\nContent-Type: multipart/mixed; boundary=b\n",
         b"--b\n" + LATIN_PART + b"\n" + LATIN + b"\n--b\nContent-Type: text/plain\n\n.7 bit \n--b--\n"),
]  # fmt: skip
LONG = [
    Case("999", body=b"x" * 998 + b"\n" + b"y" * 999 + b"\n"),
    Case("999-with-its-dot", body=b"." + b"x" * 998 + b"\n"),
    Case("999-without-an-end", body=b"y" * 999),
    Case("999-behind-bare-crs", body=b"x\r" * 1500 + b"\n.\n"),
    Case("one-line-of-2-mb", body=b".=From " * 300_000),
    Case("999-in-the-header", b"X-Long: " + b"x" * 991 + b"\n"),
    Case("header-of-1-mb-with-blanks", b"X-Long:" + b" yyyyyyy" * 131_072 + b"\n"),
    Case("header-of-1-mb-without-blanks", b"X-Long:" + b"y" * (1 << 20) + b"\n"),
    Case("long-line-in-a-part", b"MIME-Version: 1.0\nContent-Type: multipart/mixed; boundary=b\n",
         b"--b\nContent-Type: application/x\n\n" + b"x" * 3000 + b"\n\n--b\n\n.as it is \n=\n--b--\n"),
    Case("long-line-that-is-signed", SIGNED_HEADER, SIGNED % (b"x" * 3000)),
]  # fmt: skip
