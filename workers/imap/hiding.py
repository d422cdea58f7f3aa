"""PURE: a server's words for people, without a secret that it may have sent back, as it is or as a login carries it."""

from __future__ import annotations

from binascii import b2a_base64

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable

LEAST_SIGNS = 4  # that count as a piece of a secret where the words break off
CUT_CODED = 8  # and in base64 anywhere
BASE64_SIGNS = frozenset("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/=")


def hide(words: str, secrets: Iterable[str]) -> str:
    """A server's words with "***" in the place of each secret: plain, quoted, or within base64, whole or cut off."""
    for secret in secrets:
        if secret:
            words = _hidden(words, secret)
    return words


def _hidden(words: str, secret: str) -> str:
    # Blanks do not count, so that line breaks hide nothing, nor does case; `where` leads back.
    where = [at for at, sign in enumerate(words) if not sign.isspace()]
    text = "".join(_low(words[at]) for at in where)
    spans: list[tuple[int, int]] = []
    quoted = secret.replace("\\", "\\\\").replace('"', '\\"')
    for plain in {"".join(_low(sign) for sign in form if not sign.isspace()) for form in (secret, quoted)}:
        for start, length in _found(text, plain, LEAST_SIGNS):
            end = where[start + length - 1] + 1
            if length == len(plain) or not words[end:].strip(" .…\"'\r\n"):
                spans.append((where[start], end))
    for core in _cores(secret):
        for start, length in _found(text, core.lower(), LEAST_SIGNS):
            end = where[start + length - 1] + 1
            if length < min(len(core), CUT_CODED) and words[end : end + 1] in BASE64_SIGNS:
                continue
            first = where[start]
            while first and words[first - 1] in BASE64_SIGNS:
                first -= 1
            while end < len(words) and words[end] in BASE64_SIGNS:
                end += 1
            spans.append((first, end))
    return _masked(words, spans)


def _low(sign: str) -> str:
    low = sign.lower()
    return low if len(low) == 1 else sign


def _cores(secret: str) -> set[str]:
    """The base64 signs that depend on the secret alone, wherever among the groups of three it begins."""
    octets = secret.encode("utf-8", "replace")
    found = set()
    for shift in range(3):
        coded = b2a_base64(b"\0" * shift + octets, newline=False).decode()
        known = (8 * (shift + len(octets))) // 6
        found.add(coded[-(-8 * shift // 6) : known])
    return {core for core in found if len(core) >= LEAST_SIGNS - 1}


def _found(text: str, form: str, least: int) -> list[tuple[int, int]]:
    """Where `form`, or at least so many signs of its beginning, stands in `text`; and how many signs."""
    found = []
    head = form[:least]
    at = text.find(head) if head else -1
    while at >= 0:
        length = len(head)
        while length < len(form) and text[at + length : at + length + 1] == form[length]:
            length += 1
        found.append((at, length))
        at = text.find(head, at + 1)
    return found


def _masked(words: str, spans: list[tuple[int, int]]) -> str:
    kept, at = "", 0
    for start, end in sorted(spans):
        if end <= at:
            continue
        if start >= at:
            kept += words[at:start] + "***"
        at = end
    return kept + words[at:]
