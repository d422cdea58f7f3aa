"""PURE: addresses of the envelope: what may stand in one, what a bare name means, and those in a header field.

Own code and not email.utils: that import alone costs each `sendmail -t` more than Python's start.
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

MOST_SHOWN = 60
MAX_LOCAL_BYTES = 64  # RFC 5321 4.5.3.1.1
MAX_DOMAIN_BYTES = 255  # RFC 5321 4.5.3.1.2
MAX_ADDRESS_BYTES = 254  # a path is 256 octets with its angle brackets, RFC 5321 4.5.3.1.3
ATOM = frozenset("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789!#$%&'*+-/=?^_`{|}~.")
DOMAIN = frozenset("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_.")
LINE_ENDS = "\u2028\u2029"  # not control characters, yet many programs end a line there
LITERAL = frozenset("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789:.-")


class AddressError(ValueError):
    """An address that can't stand in an envelope; the text names it and says why."""


def check_address(text: str) -> str:
    """`local@domain` as it may stand between the angle brackets of MAIL and RCPT (RFC 5321 4.1.2, RFC 6531 3.3).

    A non-ASCII domain comes back as A-labels; a non-ASCII local part stays, see needs_smtputf8. Raises AddressError.
    """
    if any(sign < " " or "\x7f" <= sign <= "\x9f" or sign in LINE_ENDS for sign in text):
        raise AddressError(f"address {shown(text)}: a control character (such as CR, LF or NUL) is not allowed")
    local, at, domain = text.rpartition("@")
    if not at or not local or not domain:
        raise AddressError(f"address {shown(text)}: needs the form local@domain")
    if local.startswith("-"):
        raise AddressError(f"address {shown(text)}: starts with a dash; options stand before the recipients")
    if not (_is_quoted(local) or all(sign in ATOM or (sign > "\x7f" and not sign.isspace()) for sign in local)):
        raise AddressError(f"address {shown(text)}: quotes are needed around {shown(local)}")
    try:
        local_bytes = len(local.encode())
        domain = check_domain(domain)
    except UnicodeEncodeError:  # bytes of the command line or a header that are not UTF-8 come as surrogates
        raise AddressError(f"address {shown(text)}: is not valid UTF-8") from None
    except AddressError as error:
        raise AddressError(f"address {shown(text)}: {error}") from None
    if local_bytes > MAX_LOCAL_BYTES or local_bytes + len(domain) >= MAX_ADDRESS_BYTES:
        raise AddressError(f"address {shown(text)}: too long; {MAX_LOCAL_BYTES} octets before the @, {MAX_ADDRESS_BYTES} in all")
    return f"{local}@{domain}"


def check_domain(text: str) -> str:
    """A domain name or address literal such as [192.0.2.1], with A-labels for what is not ASCII. Raises AddressError."""
    domain = text
    if len(domain) > MAX_DOMAIN_BYTES:  # before the conversion, whose time grows with the square of the length
        raise AddressError(f"{shown(text)} is too long for a domain name: {MAX_DOMAIN_BYTES} octets")
    if not domain.isascii():
        try:
            domain = domain.encode("idna").decode("ascii")
        except UnicodeError:
            domain = ""
    if domain[:1] == "[" and domain[-1] == "]" and LITERAL.issuperset(domain[1:-1]):
        return domain
    if not domain or not DOMAIN.issuperset(domain) or domain[0] in ".-" or ".." in domain:
        raise AddressError(f"{shown(text)} is no domain name")
    return domain


def needs_smtputf8(address: str) -> bool:
    """Whether only a relay with SMTPUTF8 (RFC 6531) can take the address: its local part is not ASCII."""
    return not address.rpartition("@")[0].isascii()


def shown(text: str) -> str:
    """An address for an error: quoted, and not endless."""
    return repr(text) if len(text) <= MOST_SHOWN else f"{text[:MOST_SHOWN]!r}…"


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
        raise AddressError(f"address list {shown(text)}: a bracket is left open")
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
        raise AddressError(f"address list {shown(text)}: a quote or comment is left open")


def _keep(found: list[str], plain: str, angle: str | None) -> None:
    address = (plain if angle is None else angle).strip()
    if address.startswith("@"):  # obsolete source route <@a,@b:c@d>, RFC 5322 4.4
        address = address.rpartition(":")[2]
    if address:
        found.append(address)


def _is_quoted(local: str) -> bool:
    if len(local) < 3 or local[0] != '"' or local[-1] != '"':
        return False
    escaped = False
    for sign in local[1:-1]:
        if sign == '"' and not escaped:
            return False
        escaped = sign == "\\" and not escaped
    return not escaped
