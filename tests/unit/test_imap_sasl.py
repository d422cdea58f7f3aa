"""Logins by SASL against good, broken and hostile servers; and what a server's words may show of a secret."""

from __future__ import annotations

import hashlib
import hmac
from base64 import b64encode
from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from workers.imap.sasl import Mechanism, SaslError, Unusable, choose, hide, mechanism
from workers.imap.scram import prepared, server_first

NONCE = b"rOprNGfwEbeRWgbNEkqO"  # RFC 7677 3
SERVER_FIRST = b"r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0,s=W22ZaJ0SNY7soEsUEjb6gQ==,i=4096"
SERVER_FINAL = b"v=6rriTRBi23WpRR/wtup+mMhUZUn/dB5nLTJRsjl95G4="
NAMES = (b"PLAIN", b"LOGIN", b"XOAUTH2", b"OAUTHBEARER", b"SCRAM-SHA-256")


def made(name: bytes, user: str = "alice", secret: str = "pencil") -> Mechanism:
    return mechanism(name, user, secret, host="imap.example.org", port=993)


def scram(user: str = "user", secret: str = "pencil") -> Mechanism:
    found = mechanism(b"SCRAM-SHA-256", user, secret, host="h", port=993, nonce=NONCE)
    found.start()
    return found


def test_plain_says_all_at_once() -> None:
    plain = made(b"PLAIN", "jörg", "pä ss")
    assert not plain.finished()
    assert plain.start() == b"\0j\xc3\xb6rg\0p\xc3\xa4 ss"
    assert plain.finished()
    with pytest.raises(SaslError, match="more than PLAIN"):
        plain.answer(b"Password:")


@pytest.mark.parametrize(("user", "secret"), [("a\0b", "c"), ("a", "b\0c"), ("a\ud800", "b"), ("a", "\udcff")])
def test_plain_sends_no_word_that_would_be_read_as_another(user: str, secret: str) -> None:
    with pytest.raises(Unusable):
        made(b"PLAIN", user, secret)


@pytest.mark.parametrize(
    ("first", "second"),
    [
        (b"Username:", b"Password:"),
        (b"User Name\0", b"Password\0"),
        (b"", b""),
        (b"Benutzer", b"Kennwort"),
        (b"USERNAME", b"Password for user alice"),
    ],
)
def test_login_answers_each_question(first: bytes, second: bytes) -> None:
    login = made(b"LOGIN")
    assert login.start() is None
    assert login.answer(first) == b"alice"
    assert not login.finished()
    assert login.answer(second) == b"pencil"
    assert login.finished()
    with pytest.raises(SaslError, match="more than"):
        login.answer(b"Password:")


def test_login_gives_no_password_to_a_question_for_the_user() -> None:
    login = made(b"LOGIN")
    with pytest.raises(SaslError, match="before the user"):
        login.answer(b"Password:")
    login = made(b"LOGIN")
    login.answer(b"Username:")
    with pytest.raises(SaslError, match="user twice"):
        login.answer(b"Username:")
    assert not login.finished()


def test_xoauth2_ends_an_error_with_an_empty_line() -> None:
    token = made(b"XOAUTH2", "a@example.org", "ya29.vF9")
    assert token.start() == b"user=a@example.org\1auth=Bearer ya29.vF9\1\1"
    assert token.finished()
    assert token.answer(b'{"status":"400","schemes":"Bearer","scope":"https://mail.google.com/"}') == b""
    assert token.status == "400"
    assert not token.finished()
    with pytest.raises(SaslError, match="own error"):
        token.answer(b"{}")


def test_oauthbearer_as_in_rfc_7628() -> None:
    token = mechanism(b"OAUTHBEARER", "user@example.com", "vF9dft4q", host="server.example.com", port=143)
    assert token.start() == b"n,a=user@example.com,\1host=server.example.com\1port=143\1auth=Bearer vF9dft4q\1\1"
    assert token.answer(b'{"status":"invalid_token","scope":"example_scope"}') == b"\1"
    assert token.status == "invalid_token"
    assert not token.finished()


def test_oauthbearer_escapes_what_would_end_the_user() -> None:
    assert (made(b"OAUTHBEARER", "a=b,c", "t").start() or b"").startswith(b"n,a=a=3Db=2Cc,\1")


@pytest.mark.parametrize(
    ("challenge", "status"),
    [
        (b"", ""),
        (b"\xff\xfe\0", ""),
        (b"[" * 5000, ""),
        (b'{"a":' * 1500, ""),
        (b"[1]", ""),
        (b"null", ""),
        (b'{"status":null}', ""),
        (b'{"status":["x"]}', ""),
        (b'{"status":401}', "401"),
        (b'{"status":"' + b"x" * 9000 + b'"}', ""),
        (b'{"status":"' + b"x" * 5000 + b'"}', "x" * 100),
        (b'{"status":"a\\u001b[2Jb\\n\\u202e"}', "a?[2Jb??"),
        (b'{"status":' + b"9" * 5000 + b"}", ""),
    ],
)
def test_no_error_of_a_token_server_does_harm(challenge: bytes, status: str) -> None:
    for name, last in ((b"XOAUTH2", b""), (b"OAUTHBEARER", b"\1")):
        token = made(name)
        token.start()
        assert token.answer(challenge) == last
        assert token.status == status
        assert not token.finished()


@pytest.mark.parametrize("secret", ["", "a b", "a\1b", "a\r\nb", "tökén"])
@pytest.mark.parametrize("name", [b"XOAUTH2", b"OAUTHBEARER"])
def test_a_token_that_is_none_is_not_sent(name: bytes, secret: str) -> None:
    with pytest.raises(Unusable) as caught:
        made(name, "alice", secret)
    assert not secret or secret not in str(caught.value)
    with pytest.raises(Unusable):
        made(name, "al\1ice", "token")


def test_scram_as_in_rfc_7677() -> None:
    found = mechanism(b"SCRAM-SHA-256", "user", "pencil", host="h", port=993, nonce=NONCE)
    assert found.start() == b"n,,n=user,r=rOprNGfwEbeRWgbNEkqO"
    assert found.answer(SERVER_FIRST) == (
        b"c=biws,r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0,p=dHzbZapWIk4jUhN+Ute9ytag9zjfMHgsqmmiz7AndVQ="
    )
    assert not found.finished()
    assert found.answer(SERVER_FINAL) == b""
    assert found.finished()
    with pytest.raises(SaslError, match="more than SCRAM-SHA-256"):
        found.answer(b"")


def test_scram_takes_extensions_behind_what_it_knows() -> None:
    found = scram()
    found.answer(SERVER_FIRST + b",x=later")
    assert not found.finished()
    # the extension is part of what both sign, so the signature of the plain exchange proves nothing now
    with pytest.raises(SaslError, match="does not prove"):
        found.answer(SERVER_FINAL)


@pytest.mark.parametrize(
    "final",
    [
        b"",
        b"v=",
        b"v",
        b"v=6rriTRBi23WpRR/wtup+mMhUZUn/dB5nLTJRsjl95H4=",
        b"v=" + b64encode(b"\0" * 32),
        b"v=6rriTRBi23WpRR/wtup+mMhUZUn/dB5nLTJRsjl95G4",
        b"v=6rriTRBi23WpRR/wtup+mMhUZUn/dB5nLTJRsjl95G4=\n",
        b"v=\xff\xfe",
        b"x=1," + SERVER_FINAL,
        b"V" + SERVER_FINAL[1:],
        SERVER_FIRST,
        b"v=" + b"A" * 9000,
    ],
)
def test_a_server_that_does_not_prove_itself_is_refused(final: bytes) -> None:
    found = scram()
    found.answer(SERVER_FIRST)
    with pytest.raises(SaslError):
        found.answer(final)
    assert not found.finished()
    with pytest.raises(SaslError):
        found.answer(SERVER_FINAL)
    assert not found.finished()


def test_a_server_with_another_password_is_refused() -> None:
    found = scram(secret="crayon")
    found.answer(SERVER_FIRST)
    with pytest.raises(SaslError, match="does not prove"):
        found.answer(SERVER_FINAL)


@pytest.mark.parametrize("error", [b"e=", b"e=,v=", b"e=other-error"])
def test_after_an_error_at_once_nothing_proves_the_server(error: bytes) -> None:
    found = scram()
    assert found.answer(error) == b""
    for more in (b"v=", SERVER_FIRST, SERVER_FINAL):
        with pytest.raises(SaslError):
            found.answer(more)
        assert not found.finished()


def test_the_error_of_scram_is_kept_and_the_refusal_may_follow() -> None:
    found = scram()
    found.answer(SERVER_FIRST)
    assert found.answer(b"e=invalid-proof\x1b") == b""
    assert found.status == "invalid-proof?"
    assert not found.finished()


@pytest.mark.parametrize(
    "challenge",
    [
        b"",
        b"r=",
        SERVER_FINAL,
        b"m=ext," + SERVER_FIRST,
        b"r=" + NONCE + b",s=W22ZaJ0SNY7soEsUEjb6gQ==,i=4096",  # nothing of its own
        SERVER_FIRST.replace(b"rOpr", b"rOpR"),
        SERVER_FIRST.replace(b"rOpr", b"x"),
        SERVER_FIRST.replace(b"k0,", b"k0 ,"),
        SERVER_FIRST.replace(b"k0,", b"k0\xff,"),
        SERVER_FIRST.replace(b"s=W22ZaJ0SNY7soEsUEjb6gQ==", b"s="),
        SERVER_FIRST.replace(b"6gQ==", b"6gQ"),
        SERVER_FIRST.replace(b"6gQ==", b"6g!=="),
        SERVER_FIRST.replace(b",i=4096", b""),
        b"i=4096," + SERVER_FIRST,
        b"r=" + b"x" * 10000,
        b"\xff" * 100,
    ],
)
def test_a_first_challenge_against_the_rules_is_refused(challenge: bytes) -> None:
    found = scram()
    with pytest.raises(SaslError):
        found.answer(challenge)
    assert not found.finished()


@pytest.mark.parametrize(
    "rounds", [b"", b"0", b"1", b"4095", b"1000001", b"9" * 9, b"9" * 5000, b"-4096", b"04096", b"4096.0", b"+4096", b"\xb2"]
)
def test_too_few_and_too_many_rounds_are_refused(rounds: bytes) -> None:
    with pytest.raises(SaslError, match="rounds"):
        scram().answer(SERVER_FIRST.replace(b"i=4096", b"i=" + rounds))


def test_the_least_and_the_most_rounds_are_read() -> None:
    for rounds in (4096, 1_000_000):
        assert server_first(SERVER_FIRST.replace(b"4096", b"%d" % rounds), NONCE)[2] == rounds


@given(st.lists(st.binary(max_size=60), max_size=4), st.sampled_from(NAMES))
def test_no_challenge_raises_anything_else_or_proves_scram(challenges: list[bytes], name: bytes) -> None:
    found = made(name)
    found.start()
    for challenge in challenges:
        with suppress(SaslError):
            found.answer(challenge)
    assert not (name == b"SCRAM-SHA-256" and found.finished())


@given(st.text(st.characters(codec="utf-8"), min_size=1, max_size=10), st.binary(min_size=1, max_size=20))
def test_scram_agrees_with_a_server_of_our_own(secret: str, salt: bytes) -> None:
    """The server's side written down on its own (RFC 5802 3)."""
    try:
        found = mechanism(b"SCRAM-SHA-256", "a,b=c", secret, host="h", port=1)
    except Unusable:
        return
    first = found.start()
    assert first is not None
    bare = first.removeprefix(b"n,,")
    assert bare.startswith(b"n=a=2Cb=3Dc,r=")
    challenge = bare.partition(b"r=")[2] + b"server"
    challenge = b"r=" + challenge + b",s=" + b64encode(salt) + b",i=4096"
    final, _, proof = found.answer(challenge).rpartition(b",p=")
    salted = hashlib.pbkdf2_hmac("sha256", prepared(secret).encode(), salt, 4096)
    client = hmac.new(salted, b"Client Key", "sha256").digest()
    signed = bare + b"," + challenge + b"," + final
    mask = hmac.new(hashlib.sha256(client).digest(), signed, "sha256").digest()
    assert proof == b64encode(bytes(a ^ b for a, b in zip(client, mask, strict=True)))
    server = hmac.new(hmac.new(salted, b"Server Key", "sha256").digest(), signed, "sha256").digest()
    found.answer(b"v=" + b64encode(server))
    assert found.finished()


def test_each_login_has_its_own_nonce() -> None:
    starts = {made(b"SCRAM-SHA-256").start() for _ in range(20)}
    assert len(starts) == 20
    assert all(start is not None and len(start) > 30 and start.count(b",") == 3 for start in starts)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("user", "user"),
        ("USER", "USER"),
        ("I\u00adX", "IX"),  # RFC 4013 3
        ("\u00aa", "a"),
        ("\u2168", "IX"),
        ("a\u00a0b", "a b"),
        ("e\u0301", "é"),
        ("\u0627a\u0628".replace("a", "1"), "\u06271\u0628"),
    ],
)
def test_saslprep(text: str, words: str) -> None:
    assert prepared(text) == words


@pytest.mark.parametrize("text", ["", "\u0007", "\u00ad", "\u06271", "\u0627a\u0628", "a\u0000", "\ue000", "\ud800", "a\u200e"])
def test_saslprep_bans(text: str) -> None:
    with pytest.raises(ValueError, match="SASLprep"):
        prepared(text)
    with pytest.raises(Unusable):
        made(b"SCRAM-SHA-256", "alice", text)


def test_an_unknown_mechanism_is_unusable() -> None:
    with pytest.raises(Unusable):
        made(b"CRAM-MD5")


ALL = frozenset((b"IMAP4REV1", *(b"AUTH=" + name for name in NAMES)))


@pytest.mark.parametrize(
    ("offered", "with_token", "secure", "allow", "names"),
    [
        (ALL, False, True, True, [b"SCRAM-SHA-256", b"PLAIN", b"LOGIN", b""]),
        (ALL, False, True, False, [b"SCRAM-SHA-256", b"PLAIN", b"LOGIN"]),
        (ALL | {b"LOGINDISABLED"}, False, True, True, [b"SCRAM-SHA-256", b"PLAIN", b"LOGIN"]),
        (ALL, True, True, True, [b"OAUTHBEARER", b"XOAUTH2"]),
        (ALL, False, False, True, [b"SCRAM-SHA-256"]),
        (ALL, True, False, True, []),
        (frozenset((b"auth=plain", b"LoginDisabled")), False, True, True, [b"PLAIN"]),
        (frozenset((b"IMAP4REV1",)), False, True, True, [b""]),
        (frozenset((b"IMAP4REV1",)), False, False, True, []),
        (frozenset((b"AUTH=XOAUTH2", b"AUTH=PLAIN")), True, True, True, [b"XOAUTH2"]),
        (frozenset((b"AUTH=SCRAM-SHA-256-PLUS", b"AUTH=CRAM-MD5")), False, True, False, []),
        (frozenset(), True, True, True, []),
    ],
)
def test_the_choice(offered: frozenset[bytes], with_token: bool, secure: bool, allow: bool, names: list[bytes]) -> None:
    assert choose(offered, with_token=with_token, secure=secure, allow_login_command=allow) == names


def test_what_is_chosen_can_be_made() -> None:
    for with_token in (True, False):
        for name in choose(ALL, with_token=with_token, secure=True, allow_login_command=False):
            assert made(name).name == name


SECRET = 'Tr0ub4dor & "3\\x'


def coded(text: str) -> str:
    return b64encode(text.encode()).decode()


@pytest.mark.parametrize("user", ["", "a", "al", "bob", "alice"])
def test_a_secret_is_hidden_in_every_place_of_base64(user: str) -> None:
    for form in (
        coded(SECRET),
        coded(f"\0{user}\0{SECRET}"),
        coded(f"user={user}\1auth=Bearer {SECRET}\1\1"),
        coded(user + SECRET),
    ):
        assert hide(f"BAD what is {form}?", [SECRET]) == "BAD what is ***?"
        broken = "\r\n ".join(form[at : at + 7] for at in range(0, len(form), 7))
        seen = hide(f"BAD {broken}", [SECRET])
        assert not any(piece in seen for piece in (coded(SECRET)[4:12], form[-12:-4]))


@pytest.mark.parametrize(
    ("words", "secret", "left"),
    [
        ("bad hunter22.", "hunter22", "bad ***."),
        ("bad HUNTER22.", "hunter22", "bad ***."),
        ("hunter22hunter22", "hunter22", "******"),
        ("bad hun\r\n ter22.", "hunter22", "bad ***."),
        ('bad "Tr0ub4dor & \\"3\\\\x" x', SECRET, 'bad "***" x'),
        ("bad password: hunter2", "hunter22", "bad password: ***"),
        ('cut "hunt..."', "hunter22", 'cut "***..."'),
        ("the hunt is on", "hunter22", "the hunt is on"),
        ("nothing to see", "hunter22", "nothing to see"),
        ("nothing to see", "", "nothing to see"),
        ("a b", "b", "a ***"),
        ("pässwörd", "PÄSSwörd", "***"),
        ("İx hunter22", "hunter22", "İx ***"),
    ],
)
def test_a_secret_is_hidden_as_it_is(words: str, secret: str, left: str) -> None:
    assert hide(words, [secret]) == left


@pytest.mark.parametrize("keep", range(12, 30))
def test_a_secret_is_hidden_where_the_base64_is_cut_off(keep: int) -> None:
    cut = coded("\0bob\0hunter22hunter22")[:keep]
    assert hide(f"BAD {cut}", ["hunter22hunter22"]) == "BAD ***"
    assert hide(f"BAD {cut}... more", ["hunter22hunter22"]) == "BAD ***... more"


def test_several_secrets_are_hidden() -> None:
    assert hide("one two three", ["one", "three"]) == "*** two ***"


@given(
    st.text(min_size=5, max_size=40).filter(lambda text: text.strip() and "*" not in text),
    st.text(max_size=20),
    st.text(max_size=20),
)
def test_no_words_show_a_secret(secret: str, before: str, after: str) -> None:
    assert secret not in hide(before + secret + after, [secret])


@given(st.binary(min_size=6, max_size=60), st.binary(max_size=9), st.binary(max_size=9))
def test_no_base64_shows_a_secret(octets: bytes, before: bytes, after: bytes) -> None:
    secret = octets.hex()
    blob = b64encode(before + secret.encode() + after).decode()
    assert hide(blob, [secret]) == "***"


def test_long_words_of_a_hostile_server_take_no_time() -> None:
    secret = "abcdefgh" * 20
    hide(("YWJj" * 20_000) + " abcd" * 20_000, [secret])
