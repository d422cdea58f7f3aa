"""From the fields of `add`'s JSON or of a mail_outbox row to what is queued."""

from __future__ import annotations

import binascii
import json
from base64 import b64decode
from contextlib import suppress
from datetime import datetime
from typing import TYPE_CHECKING, Any

from workers.mail.addresses import AddressError, check_address, expand_recipients, split_addresses
from workers.mail.config import NORMAL
from workers.mail.errors import Refused
from workers.mail.values import duration_s
from workers.spool.intake import date, submission, unique
from workers.spool.sendmail import caller

if TYPE_CHECKING:
    from workers.mail.config import Config
    from workers.spool.accept import Submission

LAST_MOMENT = 4102444800.0  # the year 2100, in Unix seconds
MOST_HTML_SIGNS = 200_000  # that a text part is made of: html.parser takes very long for what is not HTML
CONTENT = ("message", "message_base64", "template", "data", "subject", "text", "html")
FIELDS = frozenset(("from", "to", *CONTENT, "priority", "send_at", "expires", "identifier"))


class EntryError(Exception):
    """An entry that can't become a mail; the text says which field, and what it needs."""


def read(line: bytes | str) -> dict[str, Any]:
    """The fields of one JSON line. Raises EntryError."""
    try:
        found = json.loads(line)
    except RecursionError:
        raise EntryError("JSON that is nested too deep") from None
    except ValueError as error:
        raise EntryError(f"not JSON: {error}") from None
    if not isinstance(found, dict):
        raise EntryError('needs to be a JSON object such as {"to": ["ann@example.org"], "message": "…"}')
    return found


def mail(config: Config, fields: dict[str, Any], now: float) -> Submission:
    """The mail that the fields describe; see `smtp-spool add --help`. Raises EntryError."""
    unknown = fields.keys() - FIELDS
    if unknown:
        raise EntryError(f"{', '.join(sorted(unknown))}: unknown; known are {', '.join(sorted(FIELDS))}")
    try:
        envelope = expand_recipients(_addresses(fields.get("to")), config.aliases, config.domain)
        sender = _sender(config, fields.get("from"))
        if not envelope:
            raise EntryError("to: needs an address or a list of them")
        found = submission(config, sender, envelope, _message(config, fields, sender, envelope, now), now)
    except (AddressError, Refused) as error:
        raise EntryError(str(error)) from None
    found.priority = priority(config, fields.get("priority"))
    found.send_at = moment("send_at", fields.get("send_at"), now) or 0.0
    expires = moment("expires", fields.get("expires"), now)
    if expires is not None:
        if expires <= max(now, found.send_at):
            raise EntryError("expires: needs to be in the future, and behind send_at")
        found.expires_at = expires
    elif found.send_at:
        found.expires_at = found.send_at + config.max_age_s
    found.identifier = _identifier(fields.get("identifier"))
    return found


def priority(config: Config, value: Any) -> int:
    """0 to 9 from a number or a name of [spool] priorities. Raises EntryError."""
    if value is None:
        return config.priorities[NORMAL]
    if isinstance(value, str) and value in config.priorities:
        return config.priorities[value]
    if type(value) is int and 0 <= value <= 9:
        return value
    raise EntryError(f"priority: needs a number from 0 (first) to 9 (last), or one of {', '.join(config.priorities)}")


def moment(name: str, value: Any, now: float) -> float | None:
    """Unix seconds from a number, from `2026-11-22T10:00:00Z`, or from a span such as `"5m"` from now. Raises EntryError."""
    if value is None:
        return None
    found: float | None = None
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        found = value
    elif isinstance(value, str):
        with suppress(ValueError, OverflowError):
            found = datetime.fromisoformat(value).timestamp()
        with suppress(ValueError):
            found = now + duration_s(value)
    if found is not None and 0 <= found <= LAST_MOMENT:
        return float(found)
    raise EntryError(
        f'{name}: needs Unix seconds, a time such as "2026-11-22T10:00:00Z" or a span such as "5m", before the year 2100'
    )


def _sender(config: Config, value: Any) -> str:
    if value is None:
        return caller(config.domain)
    if value == "":
        return ""
    named = _addresses(value)
    if len(named) != 1:
        raise EntryError("from: needs one address")
    return check_address(named[0] if "@" in named[0] else f"{named[0]}@{config.domain}")


def _addresses(value: Any) -> list[str]:
    texts = [value] if isinstance(value, str) else value
    if not isinstance(texts, list) or not all(isinstance(text, str) for text in texts):
        raise EntryError("to: needs an address or a list of them")
    for text in texts:
        if any(sign in text for sign in "\r\n\0"):
            raise EntryError(f"address {text!r}: a line end or NUL is not allowed")
    return [address for text in texts for address in split_addresses(text)]


def _message(config: Config, fields: dict[str, Any], sender: str, envelope: list[str], now: float) -> bytes:
    given = [name for name in ("message", "message_base64", "template") if fields.get(name) is not None]
    parts = [name for name in ("subject", "text", "html") if fields.get(name) is not None]
    if len(given) + bool(parts) != 1 or ("data" in fields and given != ["template"]):
        raise EntryError("needs one of message, message_base64, template (with data), or subject with text or html")
    if given and not isinstance(fields[given[0]], str):
        raise EntryError(f"{given[0]}: needs text")
    if given == ["message"]:
        return str(fields["message"]).encode("utf-8", "surrogatepass")
    if given == ["message_base64"]:
        try:
            return b64decode(fields["message_base64"], validate=True)
        except (binascii.Error, ValueError) as error:
            raise EntryError(f"message_base64: {error}") from None
    return composed(config, fields, sender, envelope, now)


def composed(config: Config, fields: dict[str, Any], sender: str, envelope: list[str], now: float) -> bytes:
    """The message made from a template, or from subject, text and html. Raises EntryError."""
    from workers.spool import compose, templating

    try:
        if fields.get("template") is not None:
            data = fields.get("data", {})
            if not isinstance(data, dict):
                raise EntryError('data: needs a JSON object such as {"username": "Ann"}')
            if not isinstance(fields["template"], str):
                raise EntryError("template: needs the name of a template")
            rendered = templating.render(config.templates, fields["template"], data)
        else:
            for name in ("subject", "text", "html"):
                if not isinstance(fields.get(name, ""), (str, type(None))):
                    raise EntryError(f"{name}: needs text")
            if not (fields.get("text") or fields.get("html")):
                raise EntryError("needs text or html beside the subject")
            html = fields.get("html")
            if len(html or "") > MOST_HTML_SIGNS and not fields.get("text"):
                raise EntryError(f"html: needs a text beside it when it has more than {MOST_HTML_SIGNS} signs")
            text = fields.get("text") or compose.text_of(html or "")
            rendered = compose.Rendered(fields.get("subject") or "", html, text)
        identity = config.identity(sender)
        return compose.compose(
            rendered,
            sender=sender or f"MAILER-DAEMON@{config.domain}",
            name=identity.name if identity else None,
            reply_to=identity.reply_to if identity else None,
            to=envelope,
            message_id=f"<{unique(now)}@{config.domain}>",
            date=date(now),
            extra={"Auto-Submitted": "auto-generated"},  # RFC 3834 5
        )
    except AddressError:
        raise
    except ValueError as error:  # TemplateError is one
        raise EntryError(str(error)) from None


def _identifier(value: Any) -> str | None:
    if value is None:
        return None
    if not isinstance(value, str) or not 0 < len(value) <= 200 or not value.isprintable():
        raise EntryError("identifier: needs text of 1 to 200 signs that can be printed")
    return value
