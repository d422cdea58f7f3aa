"""TLS settings, one for all connections of a kind."""

from __future__ import annotations

import ssl
from functools import lru_cache


@lru_cache(maxsize=64)  # to make one takes 10 ms and more
def tls_context(
    pinned: bool, ca_file: str | None, cert_file: str | None, key_file: str | None, _stamps: tuple[object, ...]
) -> ssl.SSLContext:
    """TLS 1.2 or later, verified; when `pinned` only by the caller. Files are PEM. Raises OSError for a bad one."""
    context = ssl.create_default_context(cafile=ca_file)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    if pinned:  # the pin says more than any authority
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    if cert_file is not None:
        context.load_cert_chain(cert_file, key_file, password="")  # without one, OpenSSL asks on a terminal
    return context
