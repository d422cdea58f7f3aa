"""Folder names: modified UTF-7, what people read, the component on disk, and the lists of the config."""

from __future__ import annotations

import os
import sys
import unicodedata

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from workers.imap.names import LONGEST_BYTES, canonical, decode, encode, folder_path, is_inbox, matches, shown

DELIMITERS = [b"/", b".", b"\\", b"~", b"%", b"&", b"A", b"\0", b"-", None, b"", b"::", b"\xff"]

texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=40)
tricky = st.text(st.sampled_from("&-,./%~+ AacurINBOXx0\0\n\u00a0\u202eé日😀\u200b\\"), max_size=12)
wild = st.one_of(
    st.binary(max_size=30),
    st.lists(
        st.sampled_from([b"&", b"-", b"AA", b"AOk", b"%26", b"%", b"/", b".", b"~", b"\xc2\xa0", b" ", b"a", b"I"]), max_size=8
    ).map(b"".join),
    st.one_of(texts, tricky).map(encode),
    st.sampled_from([b"cur", b"new", b"tmp", b"..", b".", b"", b"INBOX", b"inbox", b"../../etc/passwd", b"%63ur", b"&AGM-ur"]),
)


@pytest.mark.parametrize(
    ("raw", "text"),
    [
        (b"INBOX", "INBOX"),
        (b"", ""),
        (b"~peter/mail/&U,BTFw-/&ZeVnLIqe-", "~peter/mail/台北/日本語"),  # RFC 3501 5.1.3
        (b"Entw&APw-rfe", "Entwürfe"),
        (b"&-", "&"),
        (b"&-AA", "&AA"),
        (b"R&-D", "R&D"),
        (b"a&-&AOk-&-", "a&é&"),
        (b"&2D3eAA-", "😀"),
        (b"&AAo-", "\n"),
        (b"a+b,c-d", "a+b,c-d"),
        (b'"\\{5}*%', '"\\{5}*%'),
    ],
)
def test_valid_names_are_decoded_and_encoded(raw: bytes, text: str) -> None:
    assert decode(raw) == text
    assert encode(text) == raw


@pytest.mark.parametrize(
    "raw",
    [
        b"&",
        b"&AA",
        b"&AA-",
        b"&A-",
        b"&Jjo!",  # RFC 3501: no shift back
        b"&U,BTFw-&ZeVnLIqe-",  # RFC 3501: a superfluous shift
        b"&AGE-",  # an "a"
        b"&ACY-",  # an "&"
        b"&AOkAYQ-",  # an "a" behind an accent
        b"&AOl-",  # padding bits
        b"&2D0-",  # half of a pair
        b"&3gA-",
        b"&3gDYPQ-",  # the halves the wrong way round
        b"&AOk=-",
        b"&AO/-",
        b"&AO k-",
        b"&AOkA-",
        b"&!!!!-",
        b"Entw\xc3\xbcrfe",
        b"\xff",
        b"a\nb",
        b"a\0b",
        b"\x7f",
        b"&AOk-\r",
    ],
)
def test_what_is_no_modified_utf_7_is_not_decoded(raw: bytes) -> None:
    assert decode(raw) is None


@given(st.one_of(texts, tricky))
def test_every_text_survives_the_round_trip(text: str) -> None:
    raw = encode(text)
    assert decode(raw) == text
    assert all(0x20 <= byte <= 0x7E for byte in raw)


@given(wild)
def test_a_text_has_one_name_only(raw: bytes) -> None:
    text = decode(raw)
    assert text is None or encode(text) == raw


def test_half_of_a_pair_can_not_be_encoded() -> None:
    with pytest.raises(UnicodeEncodeError):
        encode("a\ud83d")


def test_a_long_name_of_many_shifts_takes_no_time() -> None:
    text = "éa" * 200_000
    assert decode(encode(text)) == text


@pytest.mark.parametrize(
    ("raw", "words"),
    [
        (b"Entw&APw-rfe", "Entwürfe"),
        (b"Entw\xc3\xbcrfe", "Entwürfe"),  # a broken server, still readable
        (b"a\xffb", "a\\xffb"),
        (b"&AA", "&AA"),
        (b"a\x1b[31m\r\nb", "a\\x1b[31m\\x0d\\x0ab"),
        (encode("evil\u202etxt\u200b"), "evil\\u202etxt\\u200b"),
        (encode("\U000e0041"), "\\U000e0041"),
        (b"a b~%.", "a b~%."),
    ],
)
def test_people_see_every_sign(raw: bytes, words: str) -> None:
    assert shown(raw) == words


@given(wild)
def test_what_people_see_is_one_line(raw: bytes) -> None:
    words = shown(raw)
    assert words.splitlines() in ([], [words])
    assert not any(unicodedata.category(sign) in ("Cc", "Cf", "Cs", "Zl", "Zp") for sign in words)


def test_only_the_five_letters_are_inbox() -> None:
    assert all(is_inbox(raw) for raw in (b"INBOX", b"inbox", b"iNbOx"))
    assert not any(is_inbox(raw) for raw in (b"INBOX ", b"INBOX/a", b"INBO", b"", b"&AEk-NBOX", "\u0131nbox".encode()))


@pytest.mark.parametrize(
    ("raw", "delimiter", "known_as"),
    [
        (b"inbox", b"/", b"INBOX"),
        (b"Inbox", None, b"INBOX"),
        (b"Inbox/Sub", b"/", b"INBOX/Sub"),
        (b"Inbox/inbox", b"/", b"INBOX/inbox"),
        (b"Inbox/Sub", b".", b"Inbox/Sub"),
        (b"Inbox/Sub", None, b"Inbox/Sub"),
        (b"Inbox", b"", b"INBOX"),
        (b"Inboxes", b"e", b"INBOXes"),
        (b"Inboxes", b"/", b"Inboxes"),
        (b"drafts/INBOX", b"/", b"drafts/INBOX"),
        (b"Drafts", b"/", b"Drafts"),
    ],
)
def test_inbox_alone_has_no_case(raw: bytes, delimiter: bytes | None, known_as: bytes) -> None:
    assert canonical(raw, delimiter) == known_as


@pytest.mark.parametrize(
    ("raw", "delimiter", "path"),
    [
        (b"INBOX", b"/", "INBOX"),
        (b"inbox", b"/", "INBOX"),
        (b"Archive/2024", b"/", "Archive.2024"),
        (b"Archive.2024", b".", "Archive.2024"),
        (b"Archive.2024", b"/", "Archive%2E2024"),
        (b"Archive/2024", b".", "Archive%2F2024"),
        (b"Archive/2024", None, "Archive%2F2024"),
        (b"Entw&APw-rfe", b"/", "Entwürfe"),
        (b"&-AA", b"/", "&AA"),
        (b"&AA", b"/", "%=%26AA"),
        (b"a/&AA/b", b"/", "%=a.%26AA.b"),
        (b"Entw\xc3\xbcrfe", b"/", "%=Entw%C3%BCrfe"),
        (b"\xc2\xa0", b"/", "%=%C2%A0"),
        (b"&AKA-", b"/", "%C2%A0"),
        (b"", b"/", "%-"),
        (b"/a", b"/", "%-.a"),
        (b"a/", b"/", "a.%-"),
        (b"..", b"/", "%2E%2E"),
        (b".removed", b"/", "%2Eremoved"),
        (b".removed", b".", "%-.removed"),
        (b"../../etc/passwd", b"/", "%2E%2E.%2E%2E.etc.passwd"),
        (b"~root", b"/", "%7Eroot"),
        (b"100%", b"/", "100%25"),
        (b"a ", b"/", "a%20"),
        (b" a b", b"/", "%20a b"),
        (b" ", b"/", "%20"),
        (b"-rf", b"/", "%2Drf"),
        (b"-", b"/", "%2D"),
        (b"cur", b"/", "%63ur"),
        (b"new", b"/", "%6Eew"),
        (b"tmp", None, "%74mp"),
        (b"cur/new", b"/", "cur.new"),
        (b"Cur", b"/", "Cur"),
        (encode("a\nb\0"), b"/", "a%0Ab%00"),
        (encode("x\u202ey"), b"/", "x%E2%80%AEy"),
    ],
)
def test_a_folder_is_one_component(raw: bytes, delimiter: bytes | None, path: str) -> None:
    assert folder_path(raw, delimiter) == path


@given(wild, st.sampled_from(DELIMITERS))
@example(b"a" * 400, b"/")
@example(encode("é" * 300), b"/")
@example(b"/" * 300, b"/")
def test_a_component_is_safe_as_a_path(raw: bytes, delimiter: bytes | None) -> None:
    path = folder_path(raw, delimiter)
    assert os.path.dirname(os.path.normpath(os.path.join("/root/account", path))) == "/root/account"
    assert os.path.basename(os.path.normpath(os.path.join("/root/account", path))) == path
    assert path[0] not in ".-~ "
    assert path[-1] != " "
    assert path not in ("cur", "new", "tmp")
    assert len(path.encode()) <= LONGEST_BYTES
    assert not any(unicodedata.category(sign) in ("Cc", "Cf", "Cs", "Zl", "Zp") for sign in path)


@given(st.lists(wild, min_size=2, max_size=12), st.sampled_from(DELIMITERS))
@example([b"&-AA", b"&AA", b"%26AA", b"%=%26AA", b"&ACY-AA"], b"/")
@example([b"a/b", b"a.b", b"a%2Eb", b"a%2Fb", b"a//b", b"a/./b"], b"/")
@example([b"", b"/", b"//", b".", b"%-", b"%-.%-", b"&AAA-", b"\0"], b"/")
@example([b"cur", b"%63ur", b"&AGM-ur", b"\x63ur"], b"/")
@example([b"\xc2\xa0", b"&AKA-", b"%C2%A0", b"%=%C2%A0", b"\xa0"], b"/")
@example([b"a\n", b"&AAo-", b"a&AAo-", b"a%0A"], None)
def test_two_folders_never_share_a_component(names: list[bytes], delimiter: bytes | None) -> None:
    folders = {canonical(name, delimiter) for name in names}
    assert len({folder_path(name, delimiter) for name in folders}) == len(folders)
    assert {folder_path(name, delimiter) for name in names} == {folder_path(name, delimiter) for name in folders}


@given(st.binary(max_size=3), st.binary(max_size=3), st.sampled_from(DELIMITERS))
def test_names_that_differ_behind_the_cut_differ_on_disk(left: bytes, right: bytes, delimiter: bytes | None) -> None:
    names = {canonical(b"x" * 300 + end, delimiter) for end in (left, right)}
    assert len({folder_path(name, delimiter) for name in names}) == len(names)


def test_a_long_name_is_cut_between_signs_and_ends_in_a_hash() -> None:
    for text in ("é" * 200, "a" + "é" * 200, "日" * 200, "." * 200, "\U000e0041" * 90):
        path = folder_path(encode(text), None)
        kept, _, digest = path.partition("~")
        assert len(digest) == 32
        assert set(digest) <= set("0123456789abcdef")
        assert 147 - 12 < len(kept.encode()) <= 147
        assert len(kept.replace("%2E", ".").replace("%F3%A0%81%81", "\U000e0041").rstrip(text)) == 0


def test_a_name_just_short_enough_is_not_cut_and_one_more_sign_is() -> None:
    assert folder_path(b"a" * LONGEST_BYTES, b"/") == "a" * LONGEST_BYTES
    cut = folder_path(b"a" * (LONGEST_BYTES + 1), b"/")
    assert (len(cut), cut.count("~")) == (LONGEST_BYTES, 1)
    # what looks like a cut name is none
    assert folder_path(cut.encode(), b"/") != cut


def test_every_sign_that_shows_nothing_is_escaped() -> None:
    for code in range(sys.maxunicode + 1):
        sign = chr(code)
        if unicodedata.category(sign) in ("Cc", "Cf", "Zl", "Zp", "Zs") and sign != " ":
            assert shown(encode("a" + sign + "a")).startswith("a\\"), hex(code)
            assert folder_path(encode("a" + sign + "a"), None).startswith("a%"), hex(code)


@pytest.mark.parametrize(
    ("patterns", "raw", "delimiter", "taken"),
    [
        (["*"], b"Archive/2024", b"/", True),
        (["*"], b"", None, True),
        ([], b"INBOX", b"/", False),
        (["*", "!Spam"], b"Spam", b"/", False),
        (["*", "!Spam"], b"Spam/old", b"/", True),
        (["*", "!Spam", "!Spam/*"], b"Spam/old", b"/", False),
        (["*", "!Spam*", "Spam/keep"], b"Spam/keep", b"/", True),
        (["!Spam", "*"], b"Spam", b"/", True),
        (["!Spam"], b"Other", b"/", False),
        (["Archive/*"], b"Archive.2024.01", b".", True),
        (["Archive/*"], b"Archive", b".", False),
        (["Archive.*"], b"Archive.2024", b".", False),
        (["Archive.*"], b"Archive.2024", b"/", True),
        (["inbox"], b"INBOX", b"/", True),
        (["INBOX"], b"Inbox", b"/", True),
        (["Inbox/*"], b"iNBOX.Sub", b".", True),
        (["*", "!inbox*"], b"INBOX.Sub", b".", False),
        (["inbox2"], b"INBOX2", b"/", False),
        (["Inboxes"], b"Inboxes", b"/", True),
        (["spam"], b"Spam", b"/", False),
        (["Entwürfe"], b"Entw&APw-rfe", b"/", True),
        (["Entwu\u0308rfe"], b"Entw&APw-rfe", b"/", True),
        (["Entwürfe"], encode("Entwu\u0308rfe"), b"/", True),
        (["Entwürfe"], b"Entw\xc3\xbcrfe", b"/", True),
        (["a\\xffb"], b"a\xffb", b"/", True),
        (["a*b*c"], b"a-b-b-c", b"/", True),
        (["a*b*c"], b"a-c-b", b"/", False),
        (["a*a"], b"a", b"/", False),
        (["*a*a*"], b"xaxax", b"/", True),
        (["*a*a*"], b"xax", b"/", False),
        (["a*ab*b"], b"aab", b"/", False),
        (["**"], b"anything", b"/", True),
        (["!!Spam", "*"], b"!Spam", b"/", True),
        (["*", "!!Spam"], b"!Spam", b"/", False),
    ],
)
def test_lists_of_the_config(patterns: list[str], raw: bytes, delimiter: bytes | None, taken: bool) -> None:
    assert matches(patterns, raw, delimiter) is taken


@given(texts.filter(lambda text: "*" not in text and not text.startswith("!")))
def test_a_name_written_out_takes_its_own_folder(text: str) -> None:
    assert matches([text], encode(text), b"/")
    assert not matches([text + "x"], encode(text), b"/")


def test_a_pattern_of_many_stars_takes_no_time() -> None:
    assert not matches(["*a" * 500 + "b"], b"a" * 5000, b"/")
