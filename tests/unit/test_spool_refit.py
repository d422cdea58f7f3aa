"""A message made to fit a relay: what offends is re-encoded without losing anything, and nothing else changes."""

from __future__ import annotations

import email
import itertools
from base64 import b64encode
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from workers.spool.message import normalise
from workers.spool.refit import CannotRefit, needs, refit

if TYPE_CHECKING:
    from collections.abc import Callable

TOP = b"From: a@b\r\nSubject: s\r\n"
MIXED = TOP + b'MIME-Version: 1.0\r\nContent-Type: multipart/mixed; boundary="=_b"\r\n'
LONG = b"word " * 400
UMLAUTS = "Grüße\r\n".encode()


def multipart(*parts: bytes, head: bytes = MIXED) -> bytes:
    return head + b"\r\n" + b"".join(b"--=_b\r\n" + part + b"\r\n" for part in parts) + b"--=_b--\r\n"


def leaves(message: bytes) -> list[tuple[str, object]]:
    """Type and decoded content of each leaf, as the standard library reads it."""
    parts = email.message_from_bytes(message).walk()
    return [(part.get_content_type(), part.get_payload(decode=True)) for part in parts if not part.is_multipart()]


def longest(message: bytes) -> int:
    return max(map(len, message.split(b"\r\n")))


def lines(words: st.SearchStrategy[bytes]) -> st.SearchStrategy[bytes]:
    line = st.builds(lambda word, times: word * times, words, st.sampled_from([1, 1, 1, 30, 500]))
    return st.lists(line, max_size=5).map(b"\r\n".join)


def joined(data: bytes) -> bytes:
    return data.replace(b"\r", b"").replace(b"\n", b"\r\n")


ASCII_LINES = lines(st.text(st.characters(min_codepoint=32, max_codepoint=126), max_size=20).map(str.encode))
UTF8_LINES = lines(st.text(st.characters(exclude_characters="\r\n", exclude_categories=["Cs"]), max_size=20).map(str.encode))
BINARY = lines(st.binary(max_size=40).map(joined))
LABELS = st.sampled_from([b"", b"Content-Transfer-Encoding: 8bit\r\n", b"content-transfer-encoding:Binary\r\n"])
PLAIN = st.builds(lambda label, body: label + b"\r\n" + body, LABELS, UTF8_LINES)
TEXTS = st.builds(
    lambda kind, label, body: b"Content-Type: " + kind + b"\r\n" + label + b"\r\n" + body,
    st.sampled_from([b"text/plain; charset=utf-8", b'TEXT/html;\r\n\tcharset="utf-8"', b"text/x-odd (comment)"]),
    LABELS,
    ASCII_LINES | UTF8_LINES | BINARY,
)
BINARIES = st.builds(
    lambda label, body: b"Content-Type: application/pdf\r\n" + label + b"\r\n" + body, LABELS, ASCII_LINES | BINARY
)
ONE_LINE_BASE64 = st.binary(max_size=3000).map(
    lambda data: b"Content-Type: image/png\r\nContent-Transfer-Encoding: base64\r\n\r\n" + b64encode(data)
)
LONG_QUOTED = st.lists(
    st.sampled_from([b"=3D", b"=0A", b"=0D", b"=C3=BC", b"\xfc", b"a b ", b"x" * 999, b"=\r\n"]), max_size=20
).map(lambda words: b"Content-Type: text/plain\r\nContent-Transfer-Encoding: quoted-printable\r\n\r\n" + b"".join(words) + b".")
HEADERS = st.sampled_from([b"", b"X-Long: " + LONG + b"end\r\n", b"X-Wide: " + b"x" * 3000 + b"\r\n", b"MIME-Version: 1.0\r\n"])
counter = itertools.count()


def nest(children: st.SearchStrategy[bytes]) -> st.SearchStrategy[bytes]:
    def tied(kind: bytes, quote: bytes, label: bytes, parts: list[bytes], around: bytes) -> bytes:
        mark = b"=_Part.%d" % next(counter)  # no two alike, as senders make them
        head = b"Content-Type: multipart/" + kind + b";\r\n boundary=" + quote + mark + quote + b"\r\n" + label + b"\r\n"
        return (
            head
            + around
            + b"".join(b"--" + mark + b"\r\n" + part + b"\r\n" for part in parts)
            + b"--"
            + mark
            + b"--\r\n"
            + around
        )

    inner = st.lists(children, min_size=1, max_size=3)
    around = st.sampled_from([b"", b"preamble\r\n", LONG + b"\r\n", UMLAUTS])
    ties = st.builds(tied, st.sampled_from([b"mixed", b"alternative"]), st.sampled_from([b"", b'"']), LABELS, inner, around)
    enclosed = st.builds(lambda head, part: b"Content-Type: message/rfc822\r\n\r\n" + TOP + head + part, HEADERS, children)
    return ties | enclosed


PARTS = st.recursive(PLAIN | TEXTS | BINARIES | ONE_LINE_BASE64 | LONG_QUOTED, nest, max_leaves=6)
MESSAGES = st.builds(lambda head, part: normalise(TOP + head + part + b"\r\n"), HEADERS, PARTS)


@given(MESSAGES, st.booleans())
def test_a_refitted_message_fits_and_says_the_same(message: bytes, eight_bit: bool) -> None:
    fitted = refit(message, eight_bit=eight_bit)
    assert longest(fitted) <= 998
    assert eight_bit or fitted.isascii()
    assert leaves(fitted) == leaves(message)
    assert refit(fitted, eight_bit=eight_bit) is fitted


@given(
    st.lists(
        st.sampled_from(
            [
                b"--b\r\n",
                b"--b--\r\n",
                b"--b",
                b"\r\n",
                b" ",
                b"x" * 999,
                b"=",
                b"a: b\r\n",
                b"\xff",
                b"\r\n\r\n",
                b"Content-Type: multipart/mixed; boundary=b\r\n",
                b"Content-Type: message/rfc822\r\n",
                b"Content-Type:;\r\n",
                b"Content-Transfer-Encoding: base64\r\n",
                b"Content-Transfer-Encoding: quoted-printable\r\n",
                b"\t" * 1100,
                b"Content-Type: multipart/signed; boundary=b\r\n",
                b"Content-Transfer-Encoding:\r\n",
            ]
        )
    ).map(b"".join)
)
def test_broken_mime_is_no_reason_for_an_error(raw: bytes) -> None:
    message = normalise(raw)
    assert longest(refit(message, eight_bit=True)) <= 998
    try:
        fitted = refit(message, eight_bit=False)
    except CannotRefit:
        assert b"multipart/signed" in message
    else:
        assert longest(fitted) <= 998
        assert fitted.endswith(b"\r\n") or not message


@given(st.binary())
def test_only_what_is_needed_is_called_a_need(raw: bytes) -> None:
    message = normalise(raw)
    long, high = needs(message)
    assert long == (longest(message) > 998)
    assert high == any(byte > 127 for byte in message)


@pytest.mark.parametrize(("length", "long"), [(997, False), (998, False), (999, True), (1000, True), (5000, True)])
@pytest.mark.parametrize("before", [b"", b"x" * 998 + b"\r\n", b"\r\n" * 600])
@pytest.mark.parametrize("after", [b"", b"\r\n", b"\r\ny\r\n"])
def test_a_line_may_have_998_octets(length: int, long: bool, before: bytes, after: bytes) -> None:
    assert needs(before + b"x" * length + after) == (long, False)


@pytest.mark.parametrize("message", [b"", TOP + b"\r\nbody\r\n", multipart(b"\r\n" + b"x" * 998)])
@pytest.mark.parametrize("eight_bit", [True, False])
def test_a_message_that_fits_is_the_same_object(message: bytes, eight_bit: bool) -> None:
    assert refit(message, eight_bit=eight_bit) is message


def test_eight_bit_is_no_offence_where_8bitmime_is_offered() -> None:
    message = TOP + b"\r\n" + UMLAUTS
    assert refit(message, eight_bit=True) is message


def test_text_without_mime_becomes_quoted_printable_and_says_utf_8() -> None:
    fitted = refit(TOP + b"\r\n" + UMLAUTS, eight_bit=False)
    assert fitted == (
        TOP + b"Content-Type: text/plain; charset=utf-8\r\nContent-Transfer-Encoding: quoted-printable\r\n"
        b"MIME-Version: 1.0\r\n\r\nGr=C3=BC=C3=9Fe\r\n"
    )


@pytest.mark.parametrize(("kind", "body"), [(b"", b"Gr\xfc\xdfe\r\n"), (b"Content-Type: text/plain\r\n", UMLAUTS)])
def test_a_charset_is_never_guessed(kind: bytes, body: bytes) -> None:
    fitted = refit(TOP + kind + b"\r\n" + body, eight_bit=False)
    assert b"charset" not in fitted
    assert fitted.isascii()
    assert leaves(fitted) == [("text/plain", body)]


def test_parts_that_do_not_offend_stay_byte_for_byte() -> None:
    odd = b"content-TYPE:text/plain ;  charset = us-ascii\r\nX-Odd  : \t kept  \r\n\r\n  trailing  \r\n=C3 raw"
    binary = b"Content-Type: application/x\r\n\r\n" + b"\xff" * 9
    fitted = refit(multipart(odd, binary, odd), eight_bit=False)
    encoded = b"Content-Type: application/x\r\nContent-Transfer-Encoding: base64\r\n\r\n" + b64encode(b"\xff" * 9)
    assert fitted == multipart(odd, encoded, odd)


def test_a_transfer_encoding_is_replaced_where_it_stands_and_there_is_one() -> None:
    head = b"Content-Transfer-Encoding: 8bit\r\nContent-Type: text/plain\r\nContent-Transfer-Encoding: binary\r\n"
    fitted = refit(multipart(head + b"\r\n\xfc"), eight_bit=False)
    assert fitted == multipart(b"Content-Transfer-Encoding: quoted-printable\r\nContent-Type: text/plain\r\n\r\n=FC")


@pytest.mark.parametrize(("eight_bit", "label"), [(False, b"7bit"), (True, b"8bit")])
def test_a_multipart_no_longer_claims_to_be_binary(eight_bit: bool, label: bytes) -> None:
    head = MIXED + b"Content-Transfer-Encoding: binary\r\n"
    fitted = refit(multipart(b"\r\n\xfc", b"\r\n" + LONG, head=head), eight_bit=eight_bit)
    assert fitted.startswith(MIXED + b"Content-Transfer-Encoding: " + label + b"\r\n\r\n--=_b\r\n")


def test_an_enclosed_message_is_not_encoded_but_its_parts_are() -> None:
    inner = b"Content-Type: message/rfc822\r\nContent-Transfer-Encoding: 8bit\r\n\r\nSubject: inner\r\n"
    fitted = refit(multipart(inner + b"Content-Type: text/plain\r\n\r\n\xfc"), eight_bit=False)
    assert fitted == multipart(
        inner.replace(b"8bit", b"7bit") + b"Content-Type: text/plain\r\nContent-Transfer-Encoding: quoted-printable\r\n"
        b"MIME-Version: 1.0\r\n\r\n=FC"
    )


def test_a_part_of_a_digest_is_a_message() -> None:
    head = MIXED.replace(b"mixed", b"digest")
    fitted = refit(multipart(b"\r\nSubject: inner\r\nContent-Type: text/plain\r\n\r\n\xfc", head=head), eight_bit=False)
    assert b"--=_b\r\n\r\nSubject: inner\r\n" in fitted
    assert fitted.isascii()


def test_long_lines_outside_the_parts_are_folded_and_their_eight_bit_is_dropped() -> None:
    message = multipart(b"\r\nbody").replace(b"--=_b\r\n", b"p" * 1000 + b"\r\n--=_b\r\n", 1) + b"\xfc\r\n"
    fitted = refit(message, eight_bit=False)
    assert fitted == message.replace(b"p" * 1000, b"p" * 998 + b"\r\n pp").replace(b"\xfc", b"?")


SIGNED = MIXED.replace(b"mixed", b"signed; protocol=x")


def test_long_lines_of_a_signed_message_are_folded_as_postfix_does() -> None:
    part = b"Content-Type: text/plain\r\n\r\n"
    fitted = refit(multipart(part + b"x" * 3000, b"\r\nsignature", head=SIGNED), eight_bit=True)
    folded = b"x" * 998 + b"\r\n " + b"x" * 997 + b"\r\n " + b"x" * 997 + b"\r\n " + b"x" * 8
    assert fitted == multipart(part + folded, b"\r\nsignature", head=SIGNED)


def test_eight_bit_in_a_signed_message_fails_with_the_reason() -> None:
    nested = multipart(b"\r\n\xfc", head=b"Content-Type: multipart/mixed; boundary==_c\r\n")
    for message in (multipart(b"\r\n\xfc", head=SIGNED), multipart(nested, head=SIGNED), SIGNED + b"\r\n\xfc\r\n"):
        with pytest.raises(CannotRefit, match=r"no 8BITMIME.*multipart/signed.*encode it before signing"):
            refit(message, eight_bit=False)
        assert refit(message, eight_bit=True) is message


def test_a_signed_part_is_left_alone_while_another_is_encoded() -> None:
    signed = b"Content-Type: multipart/signed; boundary=_s\r\n\r\n--_s\r\n\r\nbody =\r\n--_s\r\n\r\nsig\r\n--_s--"
    fitted = refit(multipart(signed, b"\r\n\xfc"), eight_bit=False)
    assert fitted == multipart(signed, b"Content-Transfer-Encoding: quoted-printable\r\n\r\n=FC")


def test_a_long_header_line_is_folded_so_that_unfolding_gives_it_back() -> None:
    field = b"Subject: " + LONG + b"end"
    fitted = refit(TOP + field + b"\r\n\r\nbody\r\n", eight_bit=True)
    assert fitted.replace(b"\r\n ", b" ") == TOP + field + b"\r\n\r\nbody\r\n"
    assert longest(fitted) <= 998
    assert fitted.endswith(b"\r\n\r\nbody\r\n")


@pytest.mark.parametrize(
    ("line", "folded"),
    [
        (b"X: " + b"x" * 1500, b"X:\r\n " + b"x" * 997 + b"\r\n " + b"x" * 503),
        (b"X: " + b"x" * 995 + b"\ty", b"X: " + b"x" * 995 + b"\r\n\ty"),
        (b"X: y" + b" " * 1500, b"X: y"),
        (b"X: y" + b" " * 1500 + b"z", b"X: y" + b" " * 994 + b"\r\n" + b" " * 506 + b"z"),
        (b"X: y" + b" " * 2500 + b"z", b"X: y" + b" " * 994 + b"\r\n" + b" " * 998 + b"\r\n" + b" " * 509 + b"z"),
    ],
)
def test_header_lines_are_folded_at_white_space_where_there_is_some(line: bytes, folded: bytes) -> None:
    fitted = refit(line + b"\r\n\r\nbody\r\n", eight_bit=True)
    assert longest(fitted) <= 998
    assert fitted == folded + b"\r\n\r\nbody\r\n"


def test_eight_bit_in_headers_leaves_as_it_came() -> None:
    head = 'From: "Jürgen" <j@x>\r\nSubject: Grüße\r\n'.encode()
    assert refit(head + b"\r\nbody\r\n", eight_bit=False) == head + b"\r\nbody\r\n"


def test_the_rest_of_a_cut_line_never_looks_like_a_delimiter() -> None:
    for before in range(60, 90):
        parts = [b"\r\n\xfc" + b"x" * before + b"--b", b"\r\n" + b"x" * before + b"--b" * 400]
        message = (
            TOP + b"Content-Type: multipart/mixed; boundary=b\r\n\r\n--b\r\n" + b"\r\n--b\r\n".join(parts) + b"\r\n--b--\r\n"
        )
        assert leaves(refit(message, eight_bit=False)) == leaves(message)


QUOTED = b"Content-Type: text/plain\r\nContent-Transfer-Encoding: quoted-printable\r\n\r\n"


@pytest.mark.parametrize("ending", [b"", b"=", b"=\r\n", b"=20", b"=0A=0D", b"=0D=0A", b"=0D=0A="])
@pytest.mark.parametrize("body", [b"=C3=BC=0A=0D a " * 200, b"\xc3\xbc =3D=0A\r\n.\r\n"])
def test_what_is_quoted_already_is_quoted_once(body: bytes, ending: bytes) -> None:
    for message in (TOP + QUOTED + body + ending + b"\r\n", multipart(QUOTED + body + ending)):
        fitted = refit(message, eight_bit=False)
        assert fitted.endswith(b"\r\n")
        assert longest(fitted) <= 78
        assert fitted.count(b"Content-Transfer-Encoding: quoted-printable\r\n") == 1
        assert leaves(fitted) == leaves(message)


@pytest.mark.parametrize("kind", [b"image/png", b"text/plain", b"message/rfc822"])
def test_base64_is_only_wrapped(kind: bytes) -> None:
    head = b"Content-Type: " + kind + b"\r\nContent-Transfer-Encoding: Base64\r\n\r\n"
    data = b64encode(b"From: x\r\n\r\n" + bytes(1000))
    wrapped = b"".join(data[at : at + 76] + b"\r\n" for at in range(0, len(data), 76))
    assert refit(multipart(head + data), eight_bit=False) == multipart(head + wrapped.removesuffix(b"\r\n"))
    assert refit(multipart(head + b"\xe4 " + data + b"\r\n!"), eight_bit=False) == multipart(head + wrapped.removesuffix(b"\r\n"))


def test_a_header_without_the_empty_line_gets_it_when_a_field_is_added() -> None:
    fitted = refit(multipart(b"Content-Type: text/plain\r\nno field \xfc"), eight_bit=False)
    assert fitted == multipart(b"Content-Type: text/plain\r\nContent-Transfer-Encoding: quoted-printable\r\n\r\nno field =FC")


def test_delimiters_may_end_in_blanks_and_the_closing_one_is_the_last() -> None:
    message = MIXED + b"\r\n--=_b \t\r\n\r\n\xfc\r\n--=_bc\r\n x --=_b\r\n--=_b--  \r\n--=_b\r\n\r\n\xfc\r\n"
    fitted = refit(message, eight_bit=False)
    part = b"Content-Transfer-Encoding: quoted-printable\r\n\r\n=FC\r\n--=3D_bc\r\n x --=3D_b\r\n"
    assert fitted == MIXED + b"\r\n--=_b \t\r\n" + part + b"--=_b--  \r\n--=_b\r\n\r\n?\r\n"


def test_long_delimiters_lose_their_blanks() -> None:
    message = multipart(b"\r\nbody")
    assert refit(message.replace(b"--=_b\r\n", b"--=_b" + b" " * 2000 + b"\r\n"), eight_bit=True) == message


@pytest.mark.parametrize("mark", [b"b" * 1200, b"\xfc"])
def test_a_boundary_that_can_never_be_sent_is_none(mark: bytes) -> None:
    message = (
        TOP + b"Content-Type: multipart/mixed; boundary=" + mark + b"\r\n\r\n--" + mark + b"\r\n\r\nx\r\n--" + mark + b"--\r\n"
    )
    fitted = refit(message, eight_bit=False)
    assert longest(fitted) <= 998
    assert fitted.partition(b"\r\n\r\n")[2].isascii()


def _bare(words: bytes) -> bytes:
    return TOP + b"Content-Type: multipart/mixed" + words + b"\r\n\r\n--b\r\n\r\n\xfc\r\n--b--\r\n"


@pytest.mark.parametrize("words", [b"", b"; boundary=", b'; boundary="c"', b"; boundary=" + b"b" * 950, b'; name="; boundary=b"'])
def test_a_multipart_without_its_delimiters_is_one_text(words: bytes) -> None:
    fitted = refit(_bare(words), eight_bit=False)
    assert fitted.endswith(b"\r\n\r\n--b\r\n\r\n=FC\r\n--b--\r\n")
    assert b"Content-Transfer-Encoding: quoted-printable\r\n" in fitted


@pytest.mark.parametrize(
    "words", [b";boundary=b", b'; name="; boundary=x" ; BOUNDARY = "b"', b';\r\n\tboundary="\\b"', b"; boundary=b ; a=b"]
)
def test_a_boundary_is_found_in_each_way_to_write_it(words: bytes) -> None:
    fitted = refit(_bare(words), eight_bit=False)
    assert b"--b\r\nContent-Type: text/plain; charset=utf-8\r\n" not in fitted
    assert b"\r\n\r\n--b\r\nContent-Transfer-Encoding: quoted-printable\r\n\r\n=FC\r\n--b--\r\n" in fitted


def test_an_unterminated_multipart_has_its_last_part_to_the_end() -> None:
    message = multipart(b"\r\none", b"\r\n\xfc").removesuffix(b"--=_b--\r\n")
    fitted = refit(message, eight_bit=False)
    assert fitted == message.replace(b"--=_b\r\n\r\n\xfc", b"--=_b\r\nContent-Transfer-Encoding: quoted-printable\r\n\r\n=FC")


@pytest.mark.parametrize(
    "wrap",
    [
        lambda part: b"Content-Type: message/rfc822\r\n\r\n" + part,
        lambda part: b"Content-Type: multipart/mixed; boundary==_%d\r\n\r\n--=_%d\r\n" % (len(part), len(part)) + part,
    ],
)
def test_absurd_nesting_is_one_text_and_no_error(wrap: Callable[[bytes], bytes]) -> None:
    part = b"\r\n\xfc\r\n"
    for _ in range(3000):
        part = wrap(part)
    fitted = refit(TOP + part, eight_bit=False)
    assert fitted.isascii()
    assert fitted.count(b"Content-Type: ") == 3000
    assert fitted.count(b"Content-Transfer-Encoding: quoted-printable") == 1
