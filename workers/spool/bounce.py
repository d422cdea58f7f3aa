"""PURE: what a sender is told when a mail can't be delivered, or not yet: a delivery status notification.

Three parts (RFC 6522): words for a person, fields for a program (RFC 3464), the header of the original. All is ASCII
in lines of 998 octets at most, so that each relay takes it as it is and a signature lasts; only a sender that is not
ASCII itself stands in To as UTF-8 (RFC 6532). Nothing that a server or an original says can end a line or a part.

The third part is text/rfc822-headers for any header, quoted-printable when it is not plain (RFC 6522 4 allows that):
mail clients show text in place, and bounce readers know this type; message/global-headers is known to few.
"""

from __future__ import annotations

import re
from binascii import a2b_base64, a2b_qp, b2a_qp
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import count
from textwrap import fill, wrap

from workers.spool import message

BOUNCES_PER_HOUR = 20  # to one sender: a program that sends to dead addresses must not fill its own mailbox
MOST_SIGNS = 2000  # of what a server said; no honest answer is longer
MOST_SUBJECT_SIGNS = 80
MOST_LINE_BYTES = 998  # RFC 5322 2.1.1
FOLD_AT = 900  # late, as many bounce readers take a field for one line
PLAIN = bytes([9, *range(32, 127)])
REPLY = re.compile(r"([45])[0-9][0-9](?:[ -]#?(\1\.[0-9]{1,3}\.[0-9]{1,3})(?!\.?[0-9]))?(?![0-9])")
SAID = re.compile(r"[2-5][0-9][0-9]\b")  # a server did; anything else is no reply and of no type smtp, RFC 3464 2.3.6
NAME = re.compile(r"[A-Za-z0-9._-]{1,60}")  # in a boundary of 70 signs (RFC 2046 5.1.1) and a Message-ID
ENCODED_WORD = re.compile(r"=\?(utf-8|us-ascii|iso-8859-15?|windows-1252)(?:\*[\w-]+)?\?([bq])\?([^? ]*)\?=", re.IGNORECASE)
REASONS = {  # RFC 3463 3, in words for people
    "5.1.1": "There is no such mailbox. Please check the address for a typing mistake.",
    "5.1.2": "There is no such domain. Please check what stands behind the @ for a typing mistake.",
    "5.2.2": "The mailbox is full. Its owner has to make room first.",
    "5.3.4": "The message is too large for the mail server. Fewer or smaller attachments may help.",
    "5.6.7": "The mail server can't handle this address, as it has letters that are not plain Latin.",
    "5.7": "The mail server's rules forbid this message; it may look like unwanted mail to it.",
    "4.2.2": "The mailbox is full. Its owner has to make room first.",
    "4.4.1": "The mail server did not answer.",
    "5": "The mail server refused the message.",
    "4": "The mail server could not take the message.",
}


@dataclass(frozen=True, slots=True)
class Failure:
    """What became of one recipient; times are Unix seconds, and `retry_until` is for the action "delayed" only."""

    address: str
    action: str  # "failed" | "delayed", RFC 3464 2.3.3
    status: str  # RFC 3463, such as "5.1.1"
    answer: str  # the server's last words, or ours when there are none; may hold anything
    remote: str | None  # the host that was asked
    attempts: int
    last_attempt_at: float | None
    retry_until: float | None


@dataclass(frozen=True, slots=True)
class Original:
    """The mail that a report is about."""

    sender: str  # of the envelope
    message_id: str  # with its angle brackets; anything else is left out
    created_at: float  # Unix seconds
    size_bytes: int
    header: bytes  # its fields with CRLF, without the body; may be cut anywhere
    mail_id: str  # its number in the spool


def status_of(answer: str, otherwise: str) -> str:
    """The status (RFC 3463) in `550 5.1.1 no such user`; by the reply code alone 5.0.0 or 4.0.0; else `otherwise`."""
    found = REPLY.match(answer)  # with a status of the same class only, RFC 2034 4
    return (found[2] or f"{found[1]}.0.0") if found else otherwise


def may_bounce(sender: str, header: bytes, sent_last_hour: int) -> str | None:  # noqa: ARG001 - see below
    """None when a report may go to `sender`, else the reason why not. `sent_last_hour`: reports to it in that time.

    `header` is that of the original and has no say: its Auto-Submitted (RFC 3834) stops those who answer, but a
    program that sends by itself wants to hear of dead addresses. Loops end at the null sender (RFC 5321 6.1).
    """
    if sender in ("", "<>"):
        return "the null sender gets no reports: the mail may be a report itself"
    if (sender.rpartition("@")[0] or sender).lower() == "mailer-daemon":
        return f"{sender} is a mail system: it would only answer with another report"
    if sent_last_hour >= BOUNCES_PER_HOUR:
        return f"{sender} got {sent_last_hour} reports in the last hour; {BOUNCES_PER_HOUR} are allowed"
    return None


def bounce(original: Original, failures: list[Failure], *, host: str, now: float, unique: str) -> bytes:
    """The whole message, with CRLF, that tells of recipients given up. It goes out with the null sender.

    `unique` (1 to 60 of letters, digits, `.`, `_`, `-`) becomes the Message-ID `<unique@host>`. Raises ValueError
    for another `unique`, a null sender (RFC 5321 6.1), or when there are no failures.
    """
    return _report("Your message could not be delivered", original, failures, host, now, unique)


def delay_warning(original: Original, failures: list[Failure], *, host: str, now: float, unique: str) -> bytes:
    """The whole message that tells of recipients not reached so far. As `bounce`."""
    return _report("Your message is delayed", original, failures, host, now, unique)


def _report(subject: str, original: Original, failures: list[Failure], host: str, now: float, unique: str) -> bytes:
    if not failures or original.sender in ("", "<>"):
        raise ValueError(f"mail {original.mail_id}: a report needs a sender to go to and a recipient to tell of")
    if not NAME.fullmatch(unique):
        raise ValueError(f"unique {unique!r}: 1 to 60 of letters, digits, dot, underscore and dash are allowed")
    parts = [
        _text("plain; charset=utf-8", _words(original, failures, host).encode("utf-8", "replace")),
        b"Content-Type: message/delivery-status\r\n\r\n" + _fields(original, failures, host),
    ]
    if header := original.header.strip(b"\r\n"):
        parts.append(_text("rfc822-headers" if header.isascii() else "rfc822-headers; charset=utf-8", header + b"\r\n"))
    boundary = next(name for n in count() if (name := f"=_{unique}_{n}").encode() not in b"".join(parts))
    known = re.fullmatch(r"<[!-;=?-~]{1,900}>", original.message_id)
    head = [
        "From: " + message.from_value(f"MAILER-DAEMON@{host}", "Mail Delivery System"),
        f"To: {_one_line(original.sender)}",
        f"Subject: {subject}",
        f"Date: {_date(now)}",
        f"Message-ID: <{unique}@{host}>",
        *([f"In-Reply-To: {known[0]}", f"References: {known[0]}"] if known else []),
        "Auto-Submitted: auto-replied",  # RFC 3834 5
        "MIME-Version: 1.0",
        f'Content-Type: multipart/report; report-type=delivery-status;\r\n boundary="{boundary}"\r\n',
    ]
    limit = f"\r\n--{boundary}".encode()
    return "\r\n".join(head).encode("utf-8", "replace") + b"".join(limit + b"\r\n" + part for part in parts) + limit + b"--\r\n"


def _words(original: Original, failures: list[Failure], host: str) -> str:
    """The part for people, with CRLF."""
    subject = _subject(original.header)
    which = f'Your message "{subject}"' if subject else "Your message"
    outcome = "has not been delivered yet to"
    advice = "You need not do anything. Please do not send the message again: it might arrive twice."
    if any(failure.action == "failed" for failure in failures):
        outcome = "could not be delivered to"
        advice = "Please correct what is named above and send the message again, or reach the person in another way."
    blocks = [
        _filled(f"This is the mail system of {host}."),
        _filled(f"{which} ({-(-original.size_bytes // 1000):,} kB) of {_day(original.created_at)} {outcome}:"),
        *(_about(failure) for failure in failures),
        _filled(f"{advice} This is about no other recipients of the message than those named here."),
        _filled(f"Nobody reads answers to this. If you need help, give this number to those who run {host}: {original.mail_id}"),
    ]
    return "\n\n".join(blocks).replace("\n", "\r\n") + "\r\n"


def _about(failure: Failure) -> str:
    """What a person is told of one recipient."""
    status = failure.status
    reason = REASONS.get(status) or REASONS.get(status.rpartition(".")[0]) or REASONS.get(status[:1], "")
    blocks = [f"  {_one_line(failure.address)}", _filled(reason, "    ")]
    if answer := _one_line(failure.answer):
        server = f"The mail server {_one_line(failure.remote or '')}".strip()
        who = f"{server} said:" if SAID.match(answer) else "What happened:"
        blocks += [_filled(who, "    "), _filled(answer, " " * 8)]
    last = f", the last on {_day(failure.last_attempt_at)}" if failure.last_attempt_at is not None else ""
    if failure.action == "failed":
        then = "It will not be tried again" + (": the time for it is over." if status.startswith("4") else ".")
    else:
        until = f" until {_day(failure.retry_until)}" if failure.retry_until is not None else ""
        then = f"It will be tried again{until}. If that fails too, you will get another message."
    blocks.append(_filled(f"Attempts so far: {failure.attempts}{last}. {then}", "    "))
    return "\n\n".join(block for block in blocks if block)


def _filled(text: str, margin: str = "") -> str:
    return fill(text, 72, initial_indent=margin, subsequent_indent=margin, break_long_words=False, break_on_hyphens=False)


def _fields(original: Original, failures: list[Failure], host: str) -> bytes:
    """The part for programs: fields on the mail, and behind an empty line those on each recipient (RFC 3464 2)."""
    top = {"Reporting-MTA": f"dns; {host}", "Arrival-Date": _date(original.created_at), "X-Semguard-Queue-ID": original.mail_id}
    groups = [top, *(_recipient(failure) for failure in failures)]
    return b"\r\n".join(b"".join(_field(*item) for item in group.items()) for group in groups)


def _recipient(failure: Failure) -> dict[str, str]:
    fields = {"Final-Recipient": _typed(_one_line(failure.address)), "Action": failure.action, "Status": failure.status}
    if failure.remote:
        fields["Remote-MTA"] = f"dns; {failure.remote}"
    if answer := _one_line(failure.answer):
        fields["Diagnostic-Code"] = f"{'smtp' if SAID.match(answer) else 'x-semguard'}; {answer}"
    if failure.last_attempt_at is not None:
        fields["Last-Attempt-Date"] = _date(failure.last_attempt_at)
    if failure.action == "delayed" and failure.retry_until is not None:
        fields["Will-Retry-Until"] = _date(failure.retry_until)
    return fields


def _field(name: str, value: str) -> bytes:
    """A field in ASCII, folded when it must be."""
    text = "".join(sign if sign.isascii() else f"\\x{{{ord(sign):X}}}" for sign in _one_line(value))
    return "\r\n ".join(wrap(f"{name}: {text}", FOLD_AT, break_on_hyphens=False)).encode() + b"\r\n"


def _typed(address: str) -> str:
    """An address with its type, in the 7-bit form when it is not ASCII (utf-8-addr-xtext, RFC 6533 3)."""
    if address.isascii():
        return f"rfc822; {address}"
    signs = (sign if "!" <= sign <= "~" and sign not in "+=\\" else f"\\x{{{ord(sign):X}}}" for sign in address)
    return f"utf-8; {''.join(signs)}"


def _text(kind: str, text: bytes) -> bytes:
    """The rest of a text part: 7bit when it is so, else quoted-printable (RFC 2045 6.7), which gives back each byte."""
    encoding = "7bit"
    lines = text.split(b"\r\n")
    if any(len(line) > MOST_LINE_BYTES or line.translate(None, PLAIN) for line in lines):
        encoding = "quoted-printable"
        lines = [b2a_qp(line, istext=False).replace(b"\n", b"\r\n") for line in lines]
    return f"Content-Type: text/{kind}\r\nContent-Transfer-Encoding: {encoding}\r\n\r\n".encode() + b"\r\n".join(lines)


def _subject(header: bytes) -> str:
    """The original's Subject as people read it (RFC 2047), or nothing when it has none or in a rare charset."""
    fields, _ = message.split(header.strip(b"\r\n") + b"\r\n")
    value = next((message.field_value(field) for field in fields if message.field_name(field) == b"subject"), "")
    value = re.sub(r"\?=\s+=\?", "?==?", value)  # space between encoded words is none, RFC 2047 6.2
    try:
        text = _one_line(ENCODED_WORD.sub(_decoded, value), MOST_SUBJECT_SIGNS)
    except ValueError:
        return ""
    return "" if "=?" in text else text


def _decoded(word: re.Match[str]) -> str:
    signs = a2b_base64(word[3]) if word[2] in "bB" else a2b_qp(word[3], header=True)
    return signs.decode(word[1], "replace")


def _one_line(text: str, most_signs: int = MOST_SIGNS) -> str:
    """`text` without line ends and control characters, and not endless."""
    text = " ".join(text.split())
    text = "".join(sign if sign.isprintable() else "?" for sign in text[: most_signs + 1])
    return text if len(text) <= most_signs else text[:most_signs] + "..."


def _date(at: float) -> str:
    return message.date_value(tuple(datetime.fromtimestamp(at, UTC).timetuple()), 0)


def _day(at: float) -> str:
    return _date(at).replace("+0000", "UTC")
