"""Names of message files, flags and dates."""

from __future__ import annotations

import datetime
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from workers.imap import letters
from workers.imap.letters import file_name, flag_text, flags_of, parse, stamp, unix
from workers.imap.sets import MOST_UID

SYSTEM = ["\\Answered", "\\Deleted", "\\Draft", "\\Flagged", "\\Seen"]
uint = st.integers(0, MOST_UID)
words = st.lists(st.sampled_from([*SYSTEM, "\\SEEN", "$Forwarded", "kw", "KW", "\\*"])).map(
    lambda each: " ".join(sorted(set(each)))
)


@given(uint, uint, st.integers(0, 10**12), st.integers(-(10**10), 10**11), words)
def test_a_name_tells_what_it_was_made_of(epoch: int, uid: int, size: int, date: int, flags: str) -> None:
    found = parse(file_name(epoch, uid, size, date, flags))
    assert found is not None
    assert (found.epoch, found.uid, found.size_bytes, found.date) == (epoch, uid, size, date)
    assert flags_of(found.letters) == " ".join(sorted({each for each in SYSTEM if each.lower() in flags.lower().split(" ")}))


def test_a_name_as_it_is_for_ever() -> None:
    assert file_name(7, 12, 345, 1389565725, "\\Draft \\Seen kw") == "1389565725.V7U12.imap-sync,S=345:2,DS"
    assert file_name(1, 2, 0, -5, "") == "-5.V1U2.imap-sync,S=0:2,"


def test_letters_that_another_program_wrote_are_no_part_of_the_name() -> None:
    found = parse("5.V1U2.imap-sync,S=3:2,aFPS,T")
    assert found is not None
    assert (found.letters, flags_of(found.letters)) == ("aFPS,T", "\\Deleted \\Flagged \\Seen")


HOSTILE = [
    "", ":2,", "5.V1U2.imap-sync,S=3", "5.V1U2.imap-sync,S=3:1,S", "05.V1U2.imap-sync,S=3:2,", "5.V01U2.imap-sync,S=3:2,",
    "5.V1U2.imap-sync,S=+3:2,", "5.V1U2.imap-sync,S= 3:2,", "5.V1U2.imap-sync,S=3,W=4:2,", "5.V1U2U3.imap-sync,S=3:2,",
    "5.V1.V1U2.imap-sync,S=3:2,", "--5.V1U2.imap-sync,S=3:2,", "-0.V1U2.imap-sync,S=3:2,", "5.V-1U2.imap-sync,S=3:2,",
    "5.V٣U2.imap-sync,S=3:2,", "5.V1U²" + ".imap-sync,S=3:2,", "5.VU.imap-sync,S=:2,", f"5.V{'9' * 5000}U2.imap-sync,S=3:2,",
    "5.V1U2.imap-sync,S=3\n:2,", "\udcff.V1U2.imap-sync,S=3:2,", "x5.V1U2.imap-sync,S=3:2,", "1389565725.M1P2.host:2,S",
    "5.V1_0U2.imap-sync,S=3:2,", "5.V4294967296U2.imap-sync,S=3:2,", "5.V1U4294967296.imap-sync,S=3:2,",
]  # fmt: skip


@pytest.mark.parametrize("name", HOSTILE)
def test_other_names_are_none_of_ours(name: str) -> None:
    assert parse(name) is None


@given(st.text())
def test_whatever_a_name_is_it_is_read_or_left_alone(name: str) -> None:
    found = parse(name)
    assert found is None or name.startswith(file_name(found.epoch, found.uid, found.size_bytes, found.date, ""))


def test_flags_are_written_in_one_way() -> None:
    assert flag_text((b"\\SEEN", b"kw", b"\\seen", b"\\Flagged", b"KW")) == "KW \\Flagged \\Seen kw"
    assert flag_text(()) == flag_text(None) == ""
    assert flag_text((b"\xff", "ü".encode())) == flag_text(("ü".encode(), b"\xff"))
    flag_text((b"\xff",)).encode()  # as the database takes it


@given(st.lists(st.binary(min_size=1).filter(lambda each: b" " not in each)))
def test_flags_of_any_bytes_can_be_stored_and_give_letters(flags: list[bytes]) -> None:
    text = flag_text(tuple(flags))
    text.encode()
    assert set(letters.letters(text)) <= set("DFRST")


@given(words)
def test_letters_and_flags_mean_the_same(flags: str) -> None:
    found = letters.letters(flag_text(tuple(each.encode() for each in flags.split())))
    assert found == "".join(sorted(set(found)))
    assert letters.letters(flags_of(found)) == found


@pytest.mark.parametrize(
    ("date", "seconds"),
    [
        (b"17-Jul-1996 02:44:25 -0700", 837596665),
        (b" 1-Jan-1970 00:00:00 +0000", 0),
        (b"1-jan-1970 00:00:01 +0000", 1),
        (b"01-JAN-1970 01:00:00 +0030", 1800),
        (b"31-Dec-1969 23:59:59 +0000", -1),
        (b"29-Feb-2000 12:00:00 +1400", 951775200),
        (b"12-Jan-2014 22:28:05 +0000", 1389565685),
    ],
)
def test_dates_of_servers(date: bytes, seconds: int) -> None:
    assert unix(date) == seconds


@pytest.mark.parametrize(
    "date",
    [
        None, b"", b"x", b"17-Jul-1996 02:44:25", b"17-Foo-1996 02:44:25 +0000", b"31-Feb-1996 02:44:25 +0000",
        b"17-Jul-0000 02:44:25 +0000", b"17-Jul-99999 02:44:25 +0000", b"17-Jul-1996 02:44 +0000", b"17/Jul/1996 02:44:25 +0000",
        b"17-Jul-1996 02:44:25 +", b"17-Jul-1996 02:44:25 GMT", b"\xff-Jul-1996 02:44:25 +0000", b"17-Jul-1996 a:b:c +0000",
        b"1" * 5000 + b"-Jul-1996 02:44:25 +0000",
    ],
)  # fmt: skip
def test_a_date_that_can_not_be_read_is_none(date: bytes | None) -> None:
    assert unix(date) == 0


@given(st.datetimes(datetime.datetime(1900, 1, 1), datetime.datetime(2200, 1, 1)), st.integers(-14 * 60, 14 * 60))
def test_every_date_in_every_zone(when: datetime.datetime, minutes: int) -> None:
    when = when.replace(microsecond=0, tzinfo=datetime.timezone(datetime.timedelta(minutes=minutes)))
    month = next(name for name, number in letters.MONTHS.items() if number == when.month).title().decode()
    sign, (hours, rest) = "-" if minutes < 0 else "+", divmod(abs(minutes), 60)
    text = f"{when.day:2d}-{month}-{when.year:04d} {when:%H:%M:%S} {sign}{hours:02d}{rest:02d}"
    assert unix(text.encode()) == int(when.timestamp())


def test_a_stamp_is_this_hosts_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TZ", "Europe/Warsaw")
    time.tzset()
    try:
        assert stamp(1389562085) == "2014-01-12 22:28:05"
    finally:
        monkeypatch.undo()
        time.tzset()
