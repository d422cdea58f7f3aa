"""PURE: addresses of the envelope: what may stand in one, what a bare name means, and those in a header field.

Own code and not email.utils: that import alone costs each `sendmail -t` more than Python's start.
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

MAX_LOCAL_BYTES = 64  # RFC 5321 4.5.3.1.1
MAX_DOMAIN_BYTES = 255  # RFC 5321 4.5.3.1.2
MAX_ADDRESS_BYTES = 254  # a path is 256 octets with its angle brackets, RFC 5321 4.5.3.1.3
ATOM = frozenset("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789!#$%&'*+-/=?^_`{|}~.")
DOMAIN = frozenset("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_.")
LITERAL = frozenset("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789:.-")


class AddressError(ValueError):
    """An address that can't stand in an envelope; the text names it and says why."""


def check_address(text: str) -> str:
    """`local@domain` as it may stand between the angle brackets of MAIL and RCPT (RFC 5321 4.1.2).

    A non-ASCII domain comes back as A-labels. Raises AddressError.
    """
    if any(ord(sign) < 32 or ord(sign) == 127 for sign in text):
        raise AddressError(f"address {text!r}: a control character (such as CR, LF or NUL) is not allowed")
    local, at, domain = text.rpartition("@")
    if not at or not local or not domain:
        raise AddressError(f"address {text!r}: needs the form local@domain")
    if local.startswith("-"):
        raise AddressError(f"address {text!r}: starts with a dash; options stand before the recipients")
    if not (_is_quoted(local) or all(sign in ATOM for sign in local)):
        why = "quotes are needed around" if local.isascii() else "this version can't send (no SMTPUTF8)"
        raise AddressError(f"address {text!r}: {why} {local!r}")
    domain = _domain(text, domain)
    if len(local) > MAX_LOCAL_BYTES or len(domain) > MAX_DOMAIN_BYTES or len(local) + len(domain) >= MAX_ADDRESS_BYTES:
        raise AddressError(f"address {text[:60]!r}…: too long; {MAX_LOCAL_BYTES} octets before the @, {MAX_ADDRESS_BYTES} in all")
    return f"{local}@{domain}"


def expand_recipient(text: str, aliases: Mapping[str, list[str]], host: str) -> list[str]:
    """The envelope addresses of one recipient: an alias for a bare name, else name@host. Raises AddressError."""
    if "@" in text:
        return [check_address(text)]
    return aliases.get(text.lower()) or [check_address(f"{text}@{host}")]


def expand_recipients(texts: Iterable[str], aliases: Mapping[str, list[str]], host: str) -> list[str]:
    """The envelope addresses of all, each once, in order. Raises AddressError."""
    found = {address: None for text in texts for address in expand_recipient(text, aliases, host)}
    return list(found)


def split_addresses(text: str) -> list[str]:
    """The addresses of a list such as `Ann <a@b>, "C, D" <c@d>, team: e@f;` (RFC 5322 3.4), names dropped.

    They are not checked here. Raises AddressError for an open quote, comment or bracket.
    """
    found: list[str] = []
    plain, angle, in_angle = "", None, False  # what stands outside the brackets, and inside
    for sign, special in _signs(text):
        if special and sign == "<" and angle is None:
            in_angle, angle = True, ""
        elif special and sign == ">" and in_angle:
            in_angle = False
        elif in_angle:
            angle = (angle or "") + sign
        elif special and sign in ",;":
            _keep(found, plain, angle)
            plain, angle = "", None
        elif special and sign == ":" and "[" not in plain:
            plain = ""  # that was the name of a group
        else:
            plain += sign
    if in_angle:
        raise AddressError(f"address list {text[:60]!r}: a bracket is left open")
    _keep(found, plain, angle)
    return found


def _signs(text: str) -> Iterator[tuple[str, bool]]:
    """Each sign outside comments, and whether it may have a meaning: inside quotes none has (RFC 5322 3.2)."""
    quoted = escaped = False
    depth = 0
    for sign in text:
        was_quoted = quoted
        if escaped:
            escaped = False
        elif sign == "\\" and (quoted or depth):
            escaped = True
        elif sign == '"' and not depth:
            quoted = not quoted
        elif sign == "(" and not quoted:
            depth += 1
        elif sign == ")" and depth:
            depth -= 1
            continue
        if not depth:
            yield sign, not (quoted or was_quoted)
    if quoted or depth:
        raise AddressError(f"address list {text[:60]!r}: a quote or comment is left open")


def _keep(found: list[str], plain: str, angle: str | None) -> None:
    address = (plain if angle is None else angle).strip()
    if address.startswith("@"):  # obsolete source route <@a,@b:c@d>, RFC 5322 4.4
        address = address.rpartition(":")[2]
    if address:
        found.append(address)


def _is_quoted(local: str) -> bool:
    if len(local) < 3 or local[0] != '"' or local[-1] != '"' or not local.isascii():
        return False
    escaped = False
    for sign in local[1:-1]:
        if sign == '"' and not escaped:
            return False
        escaped = sign == "\\" and not escaped
    return not escaped


def _domain(address: str, domain: str) -> str:
    if not domain.isascii():
        try:
            domain = domain.encode("idna").decode("ascii")
        except UnicodeError:
            raise AddressError(f"address {address!r}: {domain!r} is no domain name") from None
    if domain[0] == "[" and domain[-1] == "]" and all(sign in LITERAL for sign in domain[1:-1]):
        return domain
    if not all(sign in DOMAIN for sign in domain) or domain[0] in ".-" or ".." in domain:
        raise AddressError(f"address {address!r}: {domain!r} is no domain name")
    return domain
