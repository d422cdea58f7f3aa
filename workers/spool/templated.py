"""`send` and `preview`: mail from a template, queued or only looked at."""

from __future__ import annotations

import sys
import time
from typing import TYPE_CHECKING, Any

from workers.mail.errors import DATA, IO, USAGE, Refused
from workers.spool import compose, entry, templating
from workers.spool.intake import date
from workers.spool.sendmail import store

if TYPE_CHECKING:
    from workers.mail.config import Config
    from workers.spool.commandline import Words


def send(config: Config, words: Words) -> int:
    """Queues one mail from a template; its id. Raises Refused."""
    if not words.values.get("--to"):
        raise Refused(USAGE, "--to ADDRESS is missing; it may stand more than once")
    fields: dict[str, Any] = {"template": _template(words), "to": words.values["--to"], "data": _data(words)}
    for option in ("--from", "--priority", "--send-at", "--expires", "--identifier"):
        if (value := words.one(option)) is not None:
            fields[option[2:].replace("-", "_")] = int(value) if option == "--priority" and value.isdigit() else value
    now = time.time()
    try:
        mail = entry.mail(config, fields, now)
    except entry.EntryError as error:
        raise Refused(DATA, str(error)) from None
    return store(config, [mail], now)[0]


def preview(config: Config, words: Words) -> str:
    """What the template makes of the data: subject and text, with --html the page, with --raw the whole message."""
    try:
        rendered = templating.render(config.templates, _template(words), _data(words))
    except templating.TemplateError as error:
        raise Refused(DATA, str(error)) from None
    if "--html" in words.flags:
        return rendered.html or ""
    if "--raw" in words.flags:
        sender, to = f"preview@{config.domain}", [f"nobody@{config.domain}"]
        message = compose.compose(
            rendered,
            sender=sender,
            name=None,
            reply_to=None,
            to=to,
            message_id=f"<preview@{config.domain}>",
            date=date(time.time()),
            extra={},
        )
        return message.replace(b"\r\n", b"\n").decode("utf-8", "replace")
    images = "".join(f"image {image.name}\n" for image in rendered.images)
    return f"Subject: {rendered.subject}\n\n{rendered.text}\n{images}"


def _template(words: Words) -> str:
    if len(words.operands) != 1:
        raise Refused(USAGE, "needs the name of one template; smtp-spool check shows where they lie")
    return words.operands[0]


def _data(words: Words) -> dict[str, Any]:
    text = words.one("--data")
    if text is None:
        return {}
    if text == "-":
        try:
            text = sys.stdin.read()
        except OSError as error:
            raise Refused(IO, f"standard input can't be read: {error.strerror}") from None
    try:
        return entry.read(text)
    except entry.EntryError as error:
        raise Refused(USAGE, f"--data: {error}") from None
