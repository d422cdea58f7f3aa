"""Puts a DKIM signature on a message (RFC 6376), with dkimpy, after the last change to its bytes.

dkimpy is shown the fields to be signed and the body, not the whole header: it refuses `Name :` (RFC 5322 4.5) in any
field, and such a mail would never leave.
"""

from __future__ import annotations

import binascii
import os
import re
from typing import TYPE_CHECKING

from workers.mail.addresses import AddressError, check_address, split_addresses
from workers.spool.message import field_name, field_value, split

if TYPE_CHECKING:
    from workers.mail.config import Dkim

# Where one stands in the message, it is signed once more than it occurs: so no second one, which readers might show
# instead, can be put on top of it (RFC 6376 8.15).
OVERSIGNED = (b"from", b"to", b"subject", b"date", b"message-id", b"mime-version", b"content-type")
# Signed as they are: RFC 6376 5.4.1, and for one-click unsubscription RFC 8058 4.
THREAD = (b"reply-to", b"cc", b"in-reply-to", b"references", b"content-transfer-encoding")
LISTS = (b"list-id", b"list-unsubscribe", b"list-unsubscribe-post")
SIGNED = frozenset((*OVERSIGNED, *THREAD, *LISTS))
ED25519_BYTES = 32


class SigningError(Exception):
    """The message can't be signed; the text says why and what to do, without the key."""


def signing_domain(message: bytes, address: str) -> str:
    """The domain that signs, in A-labels: that of the identity's `address`, or for "*" that of the first From address.

    Raises SigningError.
    """
    source = f"identity {address}"
    try:
        if address == "*":
            source = "the From field"
            values = [field_value(field) for field in split(message)[0] if field_name(field) == b"from"]
            address = next(iter(split_addresses(values[0] if values else "")), "")
        _, at, domain = address.rpartition("@")
        if not at or not domain or domain.startswith("["):
            raise SigningError(f"{source}: {address!r} has no domain that could sign; DKIM needs one")
        return check_address(f"x@{domain}").rpartition("@")[2].lower()
    except AddressError as error:
        raise SigningError(f"{source}: {error}") from None


def sign(message: bytes, dkim: Dkim, domain: str) -> bytes:
    """The message with a DKIM-Signature field on top: relaxed/relaxed, RSA or Ed25519 with SHA-256 (RFC 8463).

    `message` is normalised (CRLF), `domain` in A-labels. The key file holds RSA as PEM (PKCS#1 or PKCS#8, no passphrase)
    or the base64 of an Ed25519 key's 32 octets, as dkimpy's dknewkey writes them. Raises SigningError.
    """
    try:
        import dkim as dkimpy
    except ImportError:
        raise SigningError("a DKIM signature needs dkimpy: pip install 'semguard[dkim]'") from None
    key, algorithm = _key(dkim.key_file)
    fields, body = split(message)
    values = [(field_name(field), field.partition(b":")[2]) for field in fields]
    chosen = [(name, value) for name, value in values if name in SIGNED]
    names = [name for name, _ in chosen]
    if b"from" not in names:
        raise SigningError("the message has no From field, without which nothing can be signed (RFC 6376 5.4); add one")
    extra = [name for name in OVERSIGNED if name in names]
    body = re.sub(rb"[ \t]{2,}", b" ", body)  # the same under relaxed; dkimpy takes quadratic time for long blanks
    shown = b"".join([*(name + b":" + value for name, value in chosen), b"\r\n", body])
    try:
        signature: bytes = dkimpy.sign(
            shown,
            dkim.selector.encode("ascii"),
            domain.encode("ascii"),
            key,
            canonicalize=(b"relaxed", b"relaxed"),
            signature_algorithm=algorithm,
            include_headers=names + extra,
        )
    except UnicodeEncodeError:
        raise SigningError(f"dkim: selector {dkim.selector!r} and domain {domain!r} have to be ASCII (A-labels)") from None
    except dkimpy.NaClNotFoundError:
        raise SigningError(f"{dkim.key_file}: an Ed25519 key needs pynacl: pip install pynacl; or use an RSA key") from None
    except (dkimpy.DKIMException, ValueError, AssertionError):  # all that a broken key leads to
        raise _bad_key(dkim.key_file) from None
    return signature + message


def _key(path: str) -> tuple[bytes, bytes]:
    """The private key as dkimpy takes it, and the algorithm it is for. Read at each mail, so a new key needs no restart."""
    try:
        with open(path, "rb") as file:
            facts = os.fstat(file.fileno())
            if facts.st_mode & 0o007:
                raise SigningError(f"{path}: others can read the key; take that away: chmod o= {path}")
            if facts.st_uid not in (0, os.geteuid()):
                raise SigningError(f"{path}: belongs to user id {facts.st_uid}; it must belong to you or to root")
            key = file.read(65536).replace(b"\r\n", b"\n").strip()
    except OSError as error:
        raise SigningError(
            f"{path}: {error.strerror}; name the key's file in mail.toml: dkim = {{ selector, key_file }}"
        ) from None
    if b"-----BEGIN" in key:
        return key, b"rsa-sha256"
    try:
        if len(binascii.a2b_base64(key, strict_mode=True)) == ED25519_BYTES:
            return key, b"ed25519-sha256"
    except binascii.Error:
        pass
    raise _bad_key(path)


def _bad_key(path: str) -> SigningError:
    return SigningError(
        f"{path}: holds neither an RSA key (PEM, no passphrase) nor an Ed25519 key (base64 of 32 octets, as "
        "`dknewkey --ktype ed25519` writes it); make one: openssl genrsa -out KEY 2048"
    )
