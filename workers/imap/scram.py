"""PURE: the words of SCRAM: user and password as it wants them (RFC 4013), and what a server's challenge says (RFC 5802 7)."""

from __future__ import annotations

from binascii import Error as Base64Error
from binascii import a2b_base64

LEAST_ROUNDS, MOST_ROUNDS = 4096, 1_000_000  # RFC 7677 4; a million take about a second


def prepared(text: str) -> str:
    """SASLprep (RFC 4013) of a query string. Raises ValueError when it is not allowed, or nothing is left."""
    if text.isascii() and text.isprintable() and text:
        return text
    import stringprep as tables
    from unicodedata import ucd_3_2_0

    mapped = "".join(" " if tables.in_table_c12(sign) else sign for sign in text if not tables.in_table_b1(sign))
    done = ucd_3_2_0.normalize("NFKC", mapped)
    banned = (
        tables.in_table_c12, tables.in_table_c21_c22, tables.in_table_c3, tables.in_table_c4, tables.in_table_c5,
        tables.in_table_c6, tables.in_table_c7, tables.in_table_c8, tables.in_table_c9,
    )  # fmt: skip
    if not done or any(is_in(sign) for sign in done for is_in in banned):
        raise ValueError("user or password is empty or holds a character that SASLprep bans (RFC 4013 2.3)")
    if any(map(tables.in_table_d1, done)) and (
        any(map(tables.in_table_d2, done)) or not (tables.in_table_d1(done[0]) and tables.in_table_d1(done[-1]))
    ):
        raise ValueError("user or password mixes directions in a way that SASLprep bans (RFC 3454 6)")
    return done


def server_first(first: bytes, nonce: bytes) -> tuple[bytes, bytes, int]:
    """Nonce, salt and rounds (RFC 5802 7). Raises ValueError."""
    words = first.split(b",")
    if words[0].startswith(b"m="):
        raise ValueError("the server wants an extension that is not known")
    if [word[:2] for word in words[:3]] != [b"r=", b"s=", b"i="]:
        raise ValueError("a challenge that is none of SCRAM")
    both, salt, rounds = words[0][2:], unbase64(words[1][2:]), words[2][2:]
    if not both.startswith(nonce) or len(both) == len(nonce) or any(not 0x21 <= sign <= 0x7E for sign in both):
        raise ValueError("the server's nonce does not go on from ours")
    if not salt:
        raise ValueError("the server sends no salt")
    if not rounds.isdigit() or rounds.startswith(b"0") or len(rounds) > 9:
        raise ValueError("the number of rounds is no number")
    if not LEAST_ROUNDS <= int(rounds) <= MOST_ROUNDS:
        raise ValueError(f"the server asks for {int(rounds)} rounds; allowed are {LEAST_ROUNDS} to {MOST_ROUNDS}")
    return both, salt, int(rounds)


def unbase64(coded: bytes) -> bytes:
    """The bytes that strict base64 stands for. Raises ValueError."""
    try:
        return a2b_base64(coded, strict_mode=True)
    except Base64Error:
        raise ValueError("what should be base64 is none") from None
