"""DKIM signatures, checked by dkimpy's own verification with a DNS of our own."""

from __future__ import annotations

import base64
import os
import sys
from typing import TYPE_CHECKING

import dkim
import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from workers.mail.config import Dkim
from workers.spool.message import field_value, split
from workers.spool.signing import SigningError, sign, signing_domain

if TYPE_CHECKING:
    from pathlib import Path

KEY = rsa.generate_private_key(public_exponent=65537, key_size=2048)
PKCS1 = KEY.private_bytes(
    serialization.Encoding.PEM, serialization.PrivateFormat.TraditionalOpenSSL, serialization.NoEncryption()
)
PKCS8 = KEY.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
HEAD = b"From: Ann <ann@Example.org>\r\nTo: b@x\r\nSubject: a  long\r\n\tsubject\r\nDate: today\r\nX-Other: o\r\n"
MESSAGE = HEAD + b"\r\nbody  with \r\n\r\nlines\r\n\r\n"


def stored(folder: Path, key: bytes = PKCS8, mode: int = 0o600) -> Dkim:
    path = folder / "dkim.pem"
    path.write_bytes(key)
    path.chmod(mode)
    return Dkim("sel", str(path))


def verified(message: bytes) -> bool:
    public = KEY.public_key().public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)
    record = b"v=DKIM1; k=rsa; p=" + base64.b64encode(public)
    return bool(dkim.verify(message, dnsfunc=lambda name, timeout=5: record if name == b"sel._domainkey.example.org." else None))


@pytest.mark.parametrize("key", [PKCS1, PKCS8, b"a comment\r\n" + PKCS8.replace(b"\n", b"\r\n")])
def test_a_signed_message_verifies_and_is_otherwise_unchanged(tmp_path: Path, key: bytes) -> None:
    signed = sign(MESSAGE, stored(tmp_path, key), "example.org")
    assert signed.endswith(b"\r\n" + MESSAGE)
    assert signed.startswith(b"DKIM-Signature: ")
    assert b"\n" not in signed.replace(b"\r\n", b"")
    assert max(map(len, signed.split(b"\r\n"))) <= 78
    assert b"c=relaxed/relaxed" in signed
    assert verified(signed)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        (b"lines", b"words"),
        (b"To: b@x", b"To: c@x"),
        (b"From: ", b"From: Eve <eve@x>\r\nFrom: "),
        (b"Subject: ", b"Subject: other\r\nSubject: "),
        (b"Date: ", b"Date: never\r\nDate: "),
    ],
)
def test_what_was_changed_on_the_way_fails_verification(tmp_path: Path, old: bytes, new: bytes) -> None:
    signed = sign(MESSAGE, stored(tmp_path), "example.org")
    head, body = signed[: -len(MESSAGE)], signed[-len(MESSAGE) :]
    assert verified(head + body)
    assert not verified(head + body.replace(old, new, 1))


@pytest.mark.parametrize(
    ("old", "new"),
    [
        (b"X-Other: o\r\n", b""),
        (b"X-Other: o\r\n", b"X-Other: p\r\nReceived: by y\r\nCc: new@x\r\n"),
        (b"body  with \r\n", b"body with\r\n"),
        (b"a  long\r\n\tsubject", b"a long subject"),
    ],
)
def test_what_relays_do_to_a_message_does_no_harm(tmp_path: Path, old: bytes, new: bytes) -> None:
    assert verified(sign(MESSAGE, stored(tmp_path), "example.org").replace(old, new, 1))


def test_fields_that_matter_are_signed_and_the_chief_ones_once_more(tmp_path: Path) -> None:
    message = (
        b"MIME-Version: 1.0\r\nContent-Type: text/plain\r\nMessage-ID: <1@x>\r\nCc: c@x\r\nList-Unsubscribe: <u>\r\n" + MESSAGE
    )
    tags = field_value(split(sign(message, stored(tmp_path), "example.org"))[0][0]).replace(" ", "").split(";")
    names = next(tag for tag in tags if tag.startswith("h=")).removeprefix("h=").split(":")
    twice = ["content-type", "date", "from", "message-id", "mime-version", "subject", "to"]
    assert sorted(names) == sorted([*twice, *twice, "cc", "list-unsubscribe"])


def test_odd_and_eight_bit_headers_do_not_stop_a_signature(tmp_path: Path) -> None:
    message = b"X-Odd   : kept\r\nX-High: \xe4\r\n" + MESSAGE.replace(b"Ann", b"J\xc3\xbcrgen")
    signed = sign(message, stored(tmp_path), "example.org")
    assert signed.endswith(message)
    assert verified(signed.replace(b"X-Odd   :", b"X-Odd:"))


def test_a_body_may_be_empty(tmp_path: Path) -> None:
    assert verified(sign(HEAD + b"\r\n", stored(tmp_path), "example.org"))


def test_a_message_without_from_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SigningError, match="no From field"):
        sign(b"Subject: s\r\n\r\nFrom: body\r\n", stored(tmp_path), "example.org")


@pytest.mark.parametrize("mode", [0o604, 0o602, 0o601, 0o666])
def test_a_key_that_others_can_read_is_refused(tmp_path: Path, mode: int) -> None:
    key = stored(tmp_path, mode=mode)
    with pytest.raises(SigningError) as caught:
        sign(MESSAGE, key, "example.org")
    assert str(caught.value) == f"{key.key_file}: others can read the key; take that away: chmod o= {key.key_file}"


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a file away")
def test_a_key_of_another_user_is_refused(tmp_path: Path) -> None:
    key = stored(tmp_path)
    os.chown(key.key_file, 12345, -1)
    with pytest.raises(SigningError, match="belongs to user id 12345; it must belong to you or to root"):
        sign(MESSAGE, key, "example.org")


def test_a_missing_key_is_named(tmp_path: Path) -> None:
    with pytest.raises(SigningError, match=r"none.pem: No such file or directory; name the key's file in mail.toml"):
        sign(MESSAGE, Dkim("sel", str(tmp_path / "none.pem")), "example.org")


def pem(der: bytes) -> bytes:
    return b"-----BEGIN PRIVATE KEY-----\n" + base64.encodebytes(der) + b"-----END PRIVATE KEY-----\n"


BAD_KEYS = {
    "a NULL with content": pem(bytes.fromhex("300d 020100 3006 060100 050100 0400")),
    "empty": b"",
    "words": b"no key at all\n",
    "short base64": base64.b64encode(b"x" * 31),
    "cut": PKCS8[: len(PKCS8) // 2] + b"\n-----END PRIVATE KEY-----\n",
    "no end": PKCS8[:200],
    "no base64": b"-----BEGIN PRIVATE KEY-----\nAAAAA\n-----END PRIVATE KEY-----\n",
    "zeros": b"-----BEGIN RSA PRIVATE KEY-----\nMBsCAQACAQACAQACAQACAQACAQACAQACAQACAQA=\n-----END RSA PRIVATE KEY-----\n",
    "public": KEY.public_key().public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo),
    "passphrase": KEY.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.BestAvailableEncryption(b"secret")
    ),
    "Ed25519 as PEM": Ed25519PrivateKey.generate().private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    ),
}


@pytest.mark.parametrize("key", BAD_KEYS.values(), ids=BAD_KEYS)
def test_a_file_that_is_no_key_is_named_with_what_is_allowed(tmp_path: Path, key: bytes) -> None:
    with pytest.raises(SigningError, match=r"dkim.pem: holds neither an RSA key .* nor an Ed25519 key .* openssl genrsa"):
        sign(MESSAGE, stored(tmp_path, key), "example.org")


def test_an_ed25519_key_signs_or_says_what_is_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    private = Ed25519PrivateKey.generate()
    key = stored(tmp_path, base64.b64encode(private.private_bytes_raw()) + b"\n")
    if hasattr(dkim, "nacl"):
        record = b"v=DKIM1; k=ed25519; p=" + base64.b64encode(private.public_key().public_bytes_raw())
        signed = sign(MESSAGE, key, "example.org")
        assert b"a=ed25519-sha256" in signed
        assert dkim.verify(signed, dnsfunc=lambda name, timeout=5: record)
        assert not dkim.verify(signed.replace(b"lines", b"words"), dnsfunc=lambda name, timeout=5: record)
        monkeypatch.delattr(dkim, "nacl")
    with pytest.raises(SigningError, match=r"dkim.pem: an Ed25519 key needs pynacl: pip install pynacl"):
        sign(MESSAGE, key, "example.org")


def test_without_dkimpy_it_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "dkim", None)
    with pytest.raises(SigningError, match=r"pip install 'semguard\[dkim\]'"):
        sign(MESSAGE, stored(tmp_path), "example.org")


@pytest.mark.parametrize(("selector", "domain"), [("säl", "example.org"), ("sel", "exämple.org")])
def test_selector_and_domain_have_to_be_ascii(tmp_path: Path, selector: str, domain: str) -> None:
    with pytest.raises(SigningError, match="have to be ASCII"):
        sign(MESSAGE, Dkim(selector, stored(tmp_path).key_file), domain)


@pytest.mark.parametrize(
    ("value", "address", "domain"),
    [
        (b"Ann <ann@Example.org>", "*", "example.org"),
        (b'"x@y.net, z" <a@b.org>, c@d.org', "*", "b.org"),
        (b"Ann <ann@example.org>", "app@exämple.net", "xn--exmple-cua.net"),
        ("a@exämple.net".encode(), "*", "xn--exmple-cua.net"),
    ],
)
def test_the_domain_is_that_of_the_identity_or_of_from(value: bytes, address: str, domain: str) -> None:
    assert signing_domain(b"From: " + value + b"\r\n\r\n", address) == domain


@pytest.mark.parametrize(
    "head",
    [
        b"",
        b"Subject: From: a@b\r\n",
        b"From: root\r\n",
        b"From: a@\r\n",
        b"From: <a@b c>\r\n",
        b"From: a@[1.2.3.4]\r\n",
        b'From: "a\r\n',
    ],
)
def test_without_a_domain_nothing_can_sign(head: bytes) -> None:
    with pytest.raises(SigningError, match=r"^the From field: "):
        signing_domain(head + b"\r\n", "*")
