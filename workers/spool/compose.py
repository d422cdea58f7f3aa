"""PURE: a mail from its parts: subject, HTML, text and images become one RFC 5322 message; text is made from HTML.

The header is encoded here and the body by the email package, which (in 3.11) would encode the long address of a
List-Unsubscribe too, and so break it. Data may hold anything and ends no header line. Same parts and Message-ID: same bytes.
"""

from __future__ import annotations

import re
from email.header import Header
from email.message import MIMEPart
from email.policy import SMTP
from hashlib import sha256
from html.parser import HTMLParser
from itertools import count, repeat
from typing import TYPE_CHECKING, NamedTuple
from unicodedata import east_asian_width

from workers.mail.addresses import check_address

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

POLICY = SMTP.clone(cte_type="7bit")  # passes a relay without 8BITMIME too
FOLD_AT = 76  # RFC 2047 2: a line with an encoded word has 76 signs at most
LONGEST_WORD = 900  # a line has 998 octets at most (RFC 5322 2.1.1); a longer word is encoded, and so split
OWN_FIELDS = frozenset(("from", "to", "cc", "bcc", "reply-to", "subject", "date", "message-id", "mime-version", "return-path"))
BREAKS = re.compile(r"[\t\n\v\f\r\x1c-\x1e\x85\u2028\u2029 ]+")  # all that some reader takes for a line's end, and blanks
BAD = {**dict.fromkeys([*range(32), *range(127, 160)]), 9: "\t", 10: "\n", **dict.fromkeys(range(0xD800, 0xE000), "\ufffd")}
WRAP_AT = 72
SKIPPED = frozenset(("script", "style", "title", "template", "svg"))
VOID = frozenset(("br", "hr", "img", "input", "link", "meta"))
PARAGRAPHS = frozenset(("p", "table", "blockquote", "pre", "h1", "h2", "h3", "h4", "h5", "h6", "ul", "ol", "dl", "hr"))
LINES = frozenset(("div", "tr", "li", "dt", "dd", "caption", "section", "article", "header", "footer", "main", "form"))
NO_ADDRESS = frozenset(("javascript", "vbscript", "data", "cid"))
WIDE = "\u2e80-\ua4cf\uac00-\ud7a3\uf900-\ufaff\ufe30-\ufe4f\uff00-\uffef"  # scripts without blanks between words
CLOSING = "\u3001\u3002\u3009\u300b\u300d\u300f\u3011\uff01\uff09\uff0c\uff0e\uff1a\uff1b\uff1f"  # begins no line
LINK = rf"(?:<[a-z][a-z0-9+.-]*:[^\s>]+>|[a-z][a-z0-9+.-]*://\S+)[^\s{WIDE}]*"
PIECES = re.compile(rf"(\s*)({LINK}|[{WIDE}][{CLOSING}]*|[^\s{WIDE}]+)", re.IGNORECASE)  # a line may break between two


class Image(NamedTuple):
    """A picture of the type image/`subtype` that the HTML shows as `cid:<cid>`."""

    cid: str
    name: str
    subtype: str
    data: bytes


class Rendered:
    """The parts of a mail, free of control characters; the subject is one line."""

    __slots__ = ("html", "images", "subject", "text")

    def __init__(self, subject: str, html: str | None, text: str, images: Sequence[Image] = ()) -> None:
        self.subject = one_line(subject)
        self.html = None if html is None else clean(html)
        self.text = clean(text)
        self.images = list(images)


def clean(text: str) -> str:
    """`text` with LF at each line's end, without control characters but LF and TAB, and such as UTF-8 can hold."""
    return re.sub("\r\n?|\x85", "\n", text).translate(BAD)


def one_line(text: str) -> str:
    """`text` as it may stand in a header field: line ends, tabs and blanks in a row are one space."""
    return re.sub(" +", " ", clean(BREAKS.sub(" ", text))).strip()


def compose(
    rendered: Rendered,
    *,
    sender: str,
    name: str | None,
    reply_to: str | None,
    to: Sequence[str],
    message_id: str,
    date: str,
    extra: Mapping[str, str],
) -> bytes:
    """The message, its lines ended by CRLF and none over 998 octets (RFC 5322, RFC 2045-2047, RFC 2387).

    `sender`, `reply_to` and `to` are bare addresses, `name` stands before the sender's; `message_id` has its angle
    brackets, `date` is a finished value; `extra` are further fields. Raises AddressError; ValueError for `extra`.
    """
    fields = {"From": _mailbox(name or "", check_address(sender)), "Reply-To": reply_to and check_address(reply_to)}
    fields["To"] = ",\r\n ".join(check_address(address) for address in to)
    for key in extra:
        if not re.fullmatch("[!-9;-~]{1,70}", key) or key.lower() in OWN_FIELDS or key.lower().startswith("content-"):
            raise ValueError(f"extra header field {key[:70]!r}: is no field's name (RFC 5322 2.2), or made from the mail itself")
    plain = {"Subject": rendered.subject, "Date": date, "Message-ID": message_id, **extra, "MIME-Version": "1.0"}
    fields |= {key: _folded(key, value) for key, value in plain.items()}
    # UTF-8 can be in an address only (RFC 6532), and check_address decides whether it may.
    return "".join(f"{key}: {value}\r\n" for key, value in fields.items() if value).encode() + _body(rendered, message_id)


def _mailbox(name: str, address: str) -> str:
    """`"name" <address>` (RFC 5322 3.4); a name that is long or not ASCII is encoded."""
    if not (name := one_line(name)):
        return address
    if not name.isascii() or len(name) > FOLD_AT // 2 or "=?" in name:
        return Header(name, "utf-8", FOLD_AT, "From").encode(linesep="\r\n") + f"\r\n <{address}>"
    escaped = name.replace("\\", "\\\\").replace('"', '\\"')
    return f'"{escaped}" <{address}>'


def _folded(name: str, value: str) -> str:
    """An unstructured value: ASCII as it is, folded at blanks; anything else as encoded words (RFC 2047)."""
    value = one_line(value)
    words = value.split(" ")
    if not value.isascii() or "=?" in value or max(map(len, words)) > LONGEST_WORD:
        return Header(value, "utf-8", FOLD_AT, name).encode(linesep="\r\n")
    lines = [f"{name}: {words[0]}"]
    for word in words[1:]:
        if len(lines[-1]) + 1 + len(word) > FOLD_AT:
            lines.append("")
        lines[-1] += f" {word}"
    return "\r\n".join(lines)[len(name) + 2 :]


def _body(rendered: Rendered, message_id: str) -> bytes:
    """alternative(text, related(html, images)), or what of it is needed. The boundaries hash what they must not be in."""
    seed = sha256("\0".join((message_id, rendered.text, rendered.html or "")).encode("utf-8", "replace")).hexdigest()[:32]
    root = MIMEPart(policy=POLICY)
    root.set_content(rendered.text)
    if rendered.html is not None:
        root.make_alternative(boundary=f"=_a{seed}")
        page = MIMEPart(policy=POLICY)
        page.set_content(rendered.html, subtype="html")
        if rendered.images:
            page.make_related(boundary=f"=_r{seed}")
            page.set_param("type", "text/html")
        for image in rendered.images:
            cid, name = f"<{image.cid}>", one_line(image.name)
            page.add_related(image.data, "image", image.subtype, cid=cid, filename=name, disposition="inline")
        root.attach(page)
    return root.as_bytes()


def text_of(html: str) -> str:
    """A page as plain text: lines up to 72 columns, links as `text <URL>` and never broken, cells of a row with ` | `.

    What the page hides (scripts, styles, `display:none`) is left out. Raises ValueError for markup beyond reading.
    """
    reader = _Reader()
    try:
        reader.feed(html)
        reader.close()
    except AssertionError as error:  # html.parser's answer to an unknown `<![…`
        raise ValueError(f"{error} in line {reader.getpos()[0]} of the page; mend it, or write a body.txt") from None
    reader.end_block()
    return "\n".join(reader.lines) + "\n"


class _Reader(HTMLParser):
    """Collects a block's words until it ends, then wraps them into `lines`."""

    def __init__(self) -> None:
        super().__init__()
        self.lines: list[str] = []
        self._words = self._mark = ""  # of the block; _mark stands before an item's first line
        self._gap = self._new_cell = False  # _gap: an empty line is due before the next block
        self._lists: list[tuple[str, Iterator[str]]] = []  # those open: indent, and the marks of their items
        self._skipped, self._depth = "", 0  # the hidden element, and how deep in elements of its name
        self._link: list[str] = []  # that is open: its address, and the texts inside it

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        facts = {name: value or "" for name, value in attrs}
        if self._depth:
            self._depth += tag == self._skipped
        elif tag in SKIPPED or "hidden" in facts or re.search(r"(?i)display\s*:\s*none", facts.get("style", "")):
            self._skipped, self._depth = tag, int(tag not in VOID)
        elif tag == "br":
            self._words += "\n"
        elif tag == "img":
            self.handle_data(facts.get("alt", ""))
        elif tag == "a":
            self._end_link()
            self._link = [facts.get("href", "")]
        elif tag in ("td", "th"):
            self._new_cell = bool(self._words.strip())
        elif tag in PARAGRAPHS or tag in LINES:
            self.end_block(gap=tag in PARAGRAPHS and not self._lists)
            if tag in ("ul", "ol"):
                self._lists.append(("  ", repeat("- ")) if tag == "ul" else ("   ", (f"{number}. " for number in count(1))))
            elif tag == "li":
                self._mark = next(self._lists[-1][1]) if self._lists else "- "

    def handle_endtag(self, tag: str) -> None:
        if self._depth:
            self._depth -= tag == self._skipped
        elif tag == "a":
            self._end_link()
        elif tag in PARAGRAPHS or tag in LINES:
            self.end_block(underline={"h1": "=", "h2": "-"}.get(tag, ""))
            if tag in ("ul", "ol"):
                del self._lists[-1:]
            self._gap |= tag in PARAGRAPHS and not self._lists

    def handle_data(self, data: str) -> None:
        if self._depth:
            return
        if self._new_cell and data.strip():
            self._words, self._new_cell = self._words.rstrip() + " | ", False
        self._words += BREAKS.sub(" ", data)
        if self._link:
            self._link.append(data)

    def _end_link(self) -> None:
        if self._link:
            url, label = re.sub(r"[\t\r\n]", "", self._link[0]).strip(), "".join(self._link[1:]).strip()
            url = url.replace(" ", "%20").replace("<", "%3C").replace(">", "%3E")  # one word, RFC 3986 Appendix C
            scheme, colon, rest = url.partition(":")
            if colon and scheme.lower() not in NO_ADDRESS and label not in (url, rest.lstrip("/")):
                self.handle_data(f" <{url}>")
        self._link = []

    def end_block(self, *, gap: bool = False, underline: str = "") -> None:
        """Wraps what there is into lines; `gap`: an empty line parts it from what comes."""
        words = self._words.replace("\xa0", " ").strip()
        if words:
            if self._gap and self.lines:
                self.lines.append("")
            indent = "".join(indent for indent, _ in self._lists)
            first = indent[: -len(self._mark) or None] + self._mark
            found = [line for part in words.split("\n") for line in _wrapped(part, WRAP_AT - len(indent))]
            self.lines += [((indent if at else first) + line).rstrip() for at, line in enumerate(found)]
            if underline:
                self.lines.append(indent + underline * max(map(_columns, found)))
            self._mark, self._gap = "", False
        self._words, self._new_cell = "", False
        self._gap |= gap


def _columns(text: str) -> int:
    return sum(2 if east_asian_width(sign) in "WF" else 1 for sign in text)


def _wrapped(text: str, room: int) -> list[str]:
    lines = [""]
    for blank, piece in PIECES.findall(text):
        joint = " " if blank and lines[-1] else ""
        if lines[-1] and _columns(lines[-1] + joint + piece) > room:
            lines.append(piece)
        else:
            lines[-1] += joint + piece
    return lines
