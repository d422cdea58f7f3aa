"""PURE: OAuth access tokens: how long one is good for."""

from __future__ import annotations

import json
from base64 import urlsafe_b64decode

TOKEN_AGE_S = 2700.0  # for a token that does not tell its end
NEAR_END_S = 120.0  # so long before its end it is asked for again


def expiry(token: str) -> float | None:
    """The `exp` of a JSON Web Token in Unix seconds (RFC 7519 4.1.4); None for any other token. Proves nothing."""
    parts = token.split(".")
    if len(parts) != 3:
        return None
    try:
        claims = json.loads(urlsafe_b64decode(parts[1] + "=" * (-len(parts[1]) % 4)))
    except ValueError:
        return None
    ends_at = claims.get("exp") if isinstance(claims, dict) else None
    return float(ends_at) if isinstance(ends_at, (int, float)) and 1 < ends_at < 1e12 else None
