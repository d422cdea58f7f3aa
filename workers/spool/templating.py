"""Templated mail: a template is a folder with subject.txt, body.html, body.txt and the pictures that the page shows.

The subject is a file of its own and not a block of the page: there it would be escaped as HTML, stand in the page as
well, and be missing from a mail that is text only. A template may use files of its own folder, then of the templates
folder around it (a layout, a footer), and nothing outside. Whether data is escaped hangs on the file that rendering
began with, so a .txt that a page includes is escaped too.
"""

from __future__ import annotations

import os
import re
from functools import lru_cache, partial
from hashlib import sha256
from html import unescape
from typing import TYPE_CHECKING, Any, NamedTuple
from urllib.parse import unquote

from workers.spool.compose import Image, Rendered, one_line, text_of

if TYPE_CHECKING:
    from collections.abc import Callable

    from jinja2.sandbox import SandboxedEnvironment

SAMPLES = os.path.join(os.path.dirname(os.path.realpath(__file__)), "templates")
NAME = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9_.-]*")
MAX_FILE_BYTES = 5 * 1024**2  # of a picture, and of a file with text
SUBTYPES = {".png": "png", ".jpg": "jpeg", ".jpeg": "jpeg", ".gif": "gif", ".webp": "webp"}
# Comments are left alone, except those that Outlook reads.
TAG = re.compile(r"""<!--(?!\[if\b).*?(?:-->|\Z)|<img(?=[\s/])((?:[^<>"']|"[^"]*"|'[^']*')*)>""", re.IGNORECASE | re.DOTALL)
ATTRIBUTE = re.compile(r"""([^\s"'>/=]+)(?:\s*=\s*("[^"]*"|'[^']*'|[^\s"'>]+))?""")
ELSEWHERE = re.compile(r"[a-z][a-z0-9+.-]*:|//|#|$", re.IGNORECASE)


class TemplateError(ValueError):
    """A template that can't be rendered; the text names template, file and line, says what is wrong and what to do."""


class _Refusal(Exception):
    """A file that a template may not have; the text says why."""


class _Place(NamedTuple):
    """A template: its name, its folder, and the templates folder around it; both are real paths."""

    name: str
    folder: str
    root: str

    def has(self, file: str) -> bool:
        return os.path.lexists(os.path.join(self.folder, file))

    def has_body(self) -> bool:
        return self.has("body.html") or self.has("body.txt")

    def error(self, file: str, line: int | None, what: str) -> TemplateError:
        where = os.path.join(self.folder, file) + (f", line {line}" if line else "")
        return TemplateError(f"template {self.name!r}: {where}: {what}")


def render(folder: str, name: str, data: dict[str, Any]) -> Rendered:
    """The mail that template `name` makes of `data`; it is looked for in `folder` first, then among the samples.

    A null in the data prints as nothing, a missing value is an error. Without a body.txt the text is made from the
    page. Raises TemplateError.
    """
    place = _found(folder, name)
    if not isinstance(data, dict) or not all(isinstance(key, str) for key in data):
        raise TemplateError(f'template {name!r}: the data is no JSON object; give it as {{"username": "Ann"}}')
    subject = _filled(place, "subject.txt", data)
    if not one_line(subject):
        raise place.error("subject.txt", None, "the subject came out empty; let it have at least one word")
    html, images = None, list[Image]()
    if place.has("body.html"):
        html, images = _with_images(place, _filled(place, "body.html", data))
    if place.has("body.txt"):
        return Rendered(subject, html, _filled(place, "body.txt", data), images)
    try:
        return Rendered(subject, html, text_of(html or ""), images)
    except ValueError as error:
        raise place.error("body.html", None, str(error)) from None


def listed(folder: str) -> list[str]:
    """The names of the templates in `folder`, which may be missing, and of the samples. Raises TemplateError."""
    try:
        own = os.listdir(folder)
    except FileNotFoundError:
        own = []
    except OSError as error:
        raise TemplateError(f"templates folder {folder}: {error.strerror}; make it a folder that this user can read") from None
    places = [_place(root, name) for root, names in ((folder, own), (SAMPLES, os.listdir(SAMPLES))) for name in names]
    return sorted({place.name for place in places if NAME.fullmatch(place.name) and place.has_body()})


def _place(root: str, name: str) -> _Place:
    return _Place(name, os.path.realpath(os.path.join(root, name)), os.path.realpath(root))


def _found(folder: str, name: str) -> _Place:
    if not NAME.fullmatch(name):
        raise TemplateError(f"template {name[:60]!r}: a name has letters, digits, - _ and . only, and no dot in front")
    place = next((place for place in (_place(folder, name), _place(SAMPLES, name)) if os.path.isdir(place.folder)), None)
    if place is None:
        path, known = os.path.join(folder, name), ", ".join(listed(folder))
        raise TemplateError(f"template {name!r}: there is no folder {path}; make it, or use one of: {known}")
    if not _lies_in(place.root, place.folder):
        raise place.error("", None, f"is a link that leads out of {place.root}; put the folder itself there")
    if not place.has_body():
        raise place.error("", None, "has neither body.html nor body.txt; write one of them")
    if not place.has("subject.txt"):
        raise place.error("subject.txt", None, "is missing; write the subject of the mail into it, in one line")
    return place


def _filled(place: _Place, file: str, data: dict[str, Any]) -> str:
    environment = _environment(place, file.endswith(".html"))
    try:
        return environment.get_template(file).render(data)
    except Exception as error:  # a template is a program: it may raise anything
        raise _explained(place, file, error) from None


@lru_cache(maxsize=64)
def _environment(place: _Place, escape: bool) -> SandboxedEnvironment:
    """Keeps what was compiled; a file that changed is compiled again."""
    try:
        from jinja2 import FunctionLoader, StrictUndefined
        from jinja2.sandbox import SandboxedEnvironment
    except ImportError:
        raise TemplateError(f"template {place.name!r}: Jinja2 is missing: pip install 'semguard[templates]'") from None
    return SandboxedEnvironment(
        loader=FunctionLoader(partial(_load, place)),
        autoescape=escape,
        undefined=StrictUndefined,
        finalize=lambda value: "" if value is None else value,
        trim_blocks=True,
        lstrip_blocks=True,
    )


def _load(place: _Place, file: str) -> tuple[str, str, Callable[[], bool]] | None:
    """For jinja2.FunctionLoader: source, path, and whether both still hold; None when there is no such file."""
    if (path := _find(place, file)) is None:
        return None
    stamp = _stamp(path)
    try:
        source = _read(path).decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise _Refusal(f"byte {error.start} of {file!r} is not UTF-8; save the file as UTF-8") from None
    return source, path, lambda: _find(place, file) == path and _stamp(path) == stamp


def _find(place: _Place, file: str) -> str | None:
    """The real path of a file that is named in a template. Raises _Refusal for one outside of the templates folder."""
    for folder in (place.folder, place.root):
        path = _real(folder, file)
        if not _lies_in(place.root, path):
            raise _Refusal(f"{file!r} leads out of {place.root}; use files in there only")
        if os.path.isfile(path):
            return path
    return None


def _real(folder: str, file: str) -> str:
    try:
        return os.path.realpath(os.path.join(folder, file))
    except ValueError:  # a NUL, or half of a surrogate pair: no path at all
        return ""


def _lies_in(folder: str, path: str) -> bool:
    return path.startswith(folder.rstrip("/") + "/")


def _stamp(path: str) -> tuple[int, int, int]:
    facts = os.stat(path)
    return facts.st_mtime_ns, facts.st_ino, facts.st_size


def _read(path: str) -> bytes:
    try:
        with open(path, "rb") as file:
            content = file.read(MAX_FILE_BYTES + 1)
    except OSError as error:
        raise _Refusal(f"{os.path.basename(path)!r}: {error.strerror}; let this user read it") from None
    if len(content) > MAX_FILE_BYTES:
        raise _Refusal(f"{os.path.basename(path)!r} is larger than {MAX_FILE_BYTES // 1024**2} MiB; make it smaller")
    return content


def _explained(place: _Place, file: str, error: Exception) -> TemplateError:
    """Says in which file and line it went wrong: Jinja2 gives a template's frames their own (`__jinja_exception__`)."""
    from jinja2 import TemplateNotFound, TemplateSyntaxError, UndefinedError

    path, line, step = file, None, error.__traceback__
    while step is not None:
        if "__jinja_exception__" in step.tb_frame.f_globals:
            path, line = step.tb_frame.f_code.co_filename, step.tb_lineno
        step = step.tb_next
    what = f"{type(error).__name__}: {error}; mend the template"
    if isinstance(error, _Refusal):
        what = str(error)
    elif isinstance(error, TemplateSyntaxError):
        path, line, what = error.filename or path, error.lineno, f"{error.message}; mend the template"
    elif isinstance(error, TemplateNotFound):
        what = f"there is no file {error.name!r} in {place.folder} or {place.root}; make it, or mend the name"
    elif isinstance(error, UndefinedError):
        what = f"{error.message}; give it in the data, or write {{{{ … | default('') }}}}"
    return place.error(path, line, what)


def _with_images(place: _Place, html: str) -> tuple[str, list[Image]]:
    """The page with `cid:` in place of each picture in the template's folder, and these pictures, each once."""
    images: dict[str, Image] = {}

    def changed(tag: re.Match[str]) -> str:
        source = next((part for part in ATTRIBUTE.finditer(tag[1] or "") if part[1].lower() == "src" and part[2]), None)
        url = unescape(source[2].strip("\"'")).strip() if source else ""
        if source is None or ELSEWHERE.match(url):
            return tag[0]
        try:
            image = _image(place, url)
        except _Refusal as refusal:
            raise place.error("body.html", _line_of(place, url), f"picture {refusal}") from None
        images[image.cid] = image
        return f'<img{tag[1][: source.start(2)]}"cid:{image.cid}"{tag[1][source.end(2) :]}>'

    return TAG.sub(changed, html), list(images.values())


def _image(place: _Place, url: str) -> Image:
    file = unquote(re.split("[?#]", url)[0])
    path = _real(place.folder, file)
    subtype = SUBTYPES.get(os.path.splitext(path)[1].lower())
    if not _lies_in(place.folder, path):
        raise _Refusal(f"{url!r} leads out of {place.folder}; put the picture into that folder, or give an https: address")
    if subtype is None:
        raise _Refusal(f"{url!r} is of a kind that mail programs don't show; use one of: {' '.join(SUBTYPES)}")
    if not os.path.isfile(path):
        raise _Refusal(f"{url!r} is not in {place.folder}; put it there, or mend the name")
    content = _read(path)
    return Image(f"{sha256(content).hexdigest()[:32]}@inline", os.path.basename(path), subtype, content)


def _line_of(place: _Place, url: str) -> int | None:
    """The line of body.html where `url` stands literally; None when data or another file brought it."""
    lines = _read(os.path.join(place.folder, "body.html")).decode("utf-8", "replace").split("\n")
    return next((number for number, line in enumerate(lines, 1) if url in line), None)
