"""List.txt: everything it may say, and what is said about everything else."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from guard.scripts import (
    COPIES_LIMIT,
    LATER,
    LINE_LIMIT_BYTES,
    OWN_LINE_ONLY,
    SIGNALS,
    Mistake,
    Script,
    duration_s,
    name_of,
    parse,
)


def listed(text: str | bytes) -> tuple[Script, ...]:
    listing = parse(text if isinstance(text, bytes) else text.encode())
    assert listing.mistakes == ()
    return listing.scripts


def only(text: str) -> Script:
    (script,) = listed(text)
    return script


def names(text: str) -> list[str]:
    return [script.name for script in listed(text)]


def mistakes(text: str | bytes) -> tuple[Mistake, ...]:
    return parse(text if isinstance(text, bytes) else text.encode()).mistakes


def mistake(text: str | bytes) -> Mistake:
    (found,) = mistakes(text)
    return found


# What a list may say


def test_a_plain_list_of_file_names_works_unchanged() -> None:
    first, second = listed("workers/smtp_spool.py\nworkers/imap_sync.py\n")
    assert first == Script("workers/smtp_spool.py", ("workers/smtp_spool.py",), base="workers/smtp_spool.py", line=1)
    assert (second.name, second.line) == ("workers/imap_sync.py", 2)


def test_the_defaults_are_those_of_the_manual() -> None:
    script = only("a")
    assert (script.retry_min_s, script.retry_max_s, script.stable_s, script.stop_s) == (1.0, 30.0, 60.0, 10.0)
    assert (script.signal, script.copy, script.after, script.key, script.cwd, script.env_file) == (15, 1, None, None, None, None)


def test_blank_lines_and_comments_count_as_lines_and_are_no_scripts() -> None:
    (script,) = listed("\n# one\n   # two\n \t \na\n")
    assert script.line == 5


def test_a_comment_may_hold_quotes() -> None:
    assert names("# don't\na") == ["a"]


def test_an_empty_text_lists_nothing_and_is_no_mistake() -> None:
    for text in (b"", b"\n\n", b"# only a comment", b"\xef\xbb\xbf"):
        assert listed(text) == ()


def test_a_byte_order_mark_and_carriage_returns_are_dropped() -> None:
    assert [script.argv for script in listed(b"\xef\xbb\xbfa b\r\nc\r\n")] == [("a", "b"), ("c",)]


def test_the_last_line_needs_no_line_end() -> None:
    assert names("a\nb") == ["a", "b"]


@pytest.mark.parametrize(
    ("line", "argv"),
    [
        ("bin/a --x   y", ("bin/a", "--x", "y")),
        ("bin/a\t--x", ("bin/a", "--x")),
        ("bin/a 'one word'", ("bin/a", "one word")),
        ('bin/a "one word"', ("bin/a", "one word")),
        ("bin/a one\\ word", ("bin/a", "one word")),
        ("bin/a ''", ("bin/a", "")),
        ("'bin/with space' x", ("bin/with space", "x")),
        ("bin/a $HOME `x` *.txt > y | z; w", ("bin/a", "$HOME", "`x`", "*.txt", ">", "y", "|", "z;", "w")),
        ("bin/a --x=1 Y=2 z=3", ("bin/a", "--x=1", "Y=2", "z=3")),
        ("bin/zażółć", ("bin/zażółć",)),
        ("bin/a '#'", ("bin/a", "#")),
        ("bin/a color#1", ("bin/a", "color#1")),
    ],
)
def test_a_command_is_split_as_by_a_shell_but_none_runs_it(line: str, argv: tuple[str, ...]) -> None:
    assert only(line).argv == argv


@pytest.mark.parametrize(
    ("line", "env"),
    [
        ("TZ=UTC a", {"TZ": "UTC"}),
        ("A=1 B=2 a", {"A": "1", "B": "2"}),
        ("A=1 A=2 a", {"A": "2"}),
        ("A= a", {"A": ""}),
        ("A='b c' a", {"A": "b c"}),
        ('"A=b c" a', {"A": "b c"}),
        ("A=b=c a", {"A": "b=c"}),
        ("A_1=x _B=y a", {"A_1": "x", "_B": "y"}),
        ("retry=5s A=1 stop=1s B=2 a", {"A": "1", "B": "2"}),
    ],
)
def test_upper_case_in_front_sets_the_environment(line: str, env: dict[str, str]) -> None:
    assert dict(only(line).env) == env


@pytest.mark.parametrize(
    ("option", "low", "high"),
    [
        ("retry=1s..30s", 1, 30),
        ("retry=5s", 5, 5),
        ("retry=0", 0, 0),
        ("retry=0..1m", 0, 60),
        ("retry=500ms..2h", 0.5, 7200),
        ("retry=2", 2, 2),
        ("retry=1.5s..2.5s", 1.5, 2.5),
        ("retry=5s..5s", 5, 5),
    ],
)
def test_retry_is_a_range_or_a_fixed_pause(option: str, low: float, high: float) -> None:
    script = only(f"{option} a")
    assert (script.retry_min_s, script.retry_max_s) == (low, high)


def test_every_option_of_this_version_is_known() -> None:
    text = "stable=2m stop=3s signal=INT name=pdf cwd=sub env=pdf.env after=db key=0x5eed0001 bin/pdf\nname=db bin/db"
    script = listed(text)[0]
    assert (script.stable_s, script.stop_s, script.signal) == (120.0, 3.0, 2)
    assert (script.name, script.base, script.argv) == ("pdf", "pdf", ("bin/pdf",))
    assert (script.cwd, script.env_file, script.after, script.key) == ("sub", "pdf.env", "db", 0x5EED0001)


@pytest.mark.parametrize("spelling", ["{}", "SIG{}"])
@pytest.mark.parametrize("name", SIGNALS)
def test_a_signal_is_known_with_and_without_sig_in_any_case(name: str, spelling: str) -> None:
    import signal

    assert only(f"signal={spelling.format(name)} a").signal == getattr(signal, f"SIG{name}")
    assert only(f"signal={spelling.format(name).lower()} a").signal == SIGNALS[name]


@pytest.mark.parametrize(("text", "key"), [("342345", 342345), ("0x53949", 342345), ("0xFFFFFFFF", 2**32 - 1)])
def test_a_key_may_be_decimal_or_hexadecimal(text: str, key: int) -> None:
    assert only(f"key={text} a").key == key


def test_copies_are_scripts_of_their_own_with_numbered_names() -> None:
    pdf, second, third = listed("copies=3 retry=5s name=pdf bin/pdf")
    assert [script.name for script in (pdf, second, third)] == ["pdf", "pdf#2", "pdf#3"]
    assert [script.copy for script in (pdf, second, third)] == [1, 2, 3]
    assert {script.base for script in (pdf, second, third)} == {"pdf"}
    assert {(script.line, script.retry_min_s, script.argv) for script in (pdf, second, third)} == {(1, 5.0, ("bin/pdf",))}


def test_a_line_of_settings_holds_for_all_lines_below_it() -> None:
    a, b, c = listed("a\nretry=5s TZ=UTC\nb\nretry=9s LANG=C c")
    assert (a.retry_max_s, a.env) == (30.0, ())
    assert (b.retry_max_s, dict(b.env)) == (5.0, {"TZ": "UTC"})
    assert (c.retry_max_s, dict(c.env)) == (9.0, {"TZ": "UTC", "LANG": "C"})


def test_later_settings_replace_the_earlier_of_the_same_name_only() -> None:
    a, b = listed("retry=5s stop=1s A=1 B=1\na\nretry=7s A=2\nb")
    assert (a.retry_max_s, a.stop_s, dict(a.env)) == (5.0, 1.0, {"A": "1", "B": "1"})
    assert (b.retry_max_s, b.stop_s, dict(b.env)) == (7.0, 1.0, {"A": "2", "B": "1"})


# Names


@pytest.mark.parametrize(
    ("line", "name"),
    [
        ("workers/smtp_spool.py", "workers/smtp_spool.py"),
        ("./workers//x.py", "workers/x.py"),
        ("a/../b/./c", "b/c"),
        ("../x", "../x"),
        ("../../x/../y", "../../y"),
        ("/usr/bin/../local/x", "/usr/local/x"),
        ("php cli/import.php --all", "cli/import.php"),
        ("/usr/bin/php8.2 -q cli/import.php", "cli/import.php"),
        ("python3 -u x.py y.py", "x.py"),
        ("python3.11 ./x.py", "x.py"),
        ("python3 -m package", "package"),
        ("/usr/bin/env python3 x.py", "x.py"),
        ("/usr/bin/env A=1 python3 x.py", "x.py"),
        ("bash -c 'sleep 5'", "sleep 5"),
        ("node18 --inspect x.js", "x.js"),
        ("python3", "python3"),
        ("sh -x", "sh"),
        ("sleep 5", "sleep"),
        ("A=1 retry=5s x", "x"),
        ("pythonic x", "pythonic"),
    ],
)
def test_the_name_is_the_first_word_that_is_neither_interpreter_nor_its_option(line: str, name: str) -> None:
    assert names(line) == [name]
    assert only(line).file == name


def test_a_given_name_does_not_hide_which_file_runs() -> None:
    assert only("name=importer php ./cli/import.php").file == "cli/import.php"


def test_a_taken_name_is_a_mistake_of_the_later_line_and_the_remedy_is_a_name() -> None:
    listing = parse(b"x --one\n\nx --two")
    assert [script.argv for script in listing.scripts] == [("x", "--one")]
    assert listing.mistakes == (Mistake(3, "x", "line 1 has this name already", "give this one another with name="),)


def test_the_running_line_keeps_its_name_even_when_it_stands_below() -> None:
    running = {"x": only("x --two")}
    listing = parse(b"x --one\n\nx --two", running)
    assert [(script.argv, script.line) for script in listing.scripts] == [(("x", "--two"), 3)]
    assert [(found.line, found.text) for found in listing.mistakes] == [(1, "line 3 has this name already")]


def test_a_running_script_that_is_neither_of_both_decides_nothing() -> None:
    listing = parse(b"x --one\nx --two", {"x": only("x --three")})
    assert [script.argv for script in listing.scripts] == [("x", "--one")]


def test_a_running_line_keeps_the_names_of_all_its_copies() -> None:
    running = {script.name: script for script in listed("copies=3 name=x bin/x")}
    for intruder in ("name=x bin/y", "name=x copies=3 bin/y", "name=x copies=5 bin/y", "name=x#2 bin/y"):
        listing = parse(f"{intruder}\ncopies=3 name=x bin/x".encode(), running)
        assert {script.name: script.argv for script in listing.scripts} == dict.fromkeys(("x", "x#2", "x#3"), ("bin/x",)), (
            intruder
        )
        assert {found.line for found in listing.mistakes} == {1}


def test_a_line_whose_copies_collide_is_not_taken_in_part() -> None:
    listing = parse(b"name=x#2 bin/y\ncopies=3 name=x bin/x")
    assert [script.name for script in listing.scripts] == ["x#2"]
    assert [found.line for found in listing.mistakes] == [2]


def test_two_spellings_of_one_path_are_one_name() -> None:
    assert "already" in mistake("bin/x\n./bin//x").text


# What changes a process


@pytest.mark.parametrize("other", ["x --new", "A=1 x", "cwd=sub x", "env=x.env x", "key=5 x"])
def test_what_the_process_sees_is_a_difference(other: str) -> None:
    assert only(other).seen != only("x").seen


@pytest.mark.parametrize(
    "other",
    ["  x", "'x'", "\n\nx", "retry=5s x", "stable=5s x", "stop=5s x", "signal=INT x", "retry=5s\nx"],
)
def test_what_only_guard_sees_is_none(other: str) -> None:
    assert only(other).seen == only("x").seen


def test_more_copies_do_not_change_the_first() -> None:
    assert listed("copies=2 x")[0].seen == only("x").seen


def test_the_order_of_the_environment_is_no_difference() -> None:
    assert only("A=1 B=2 x").seen == only("B=2 A=1 x").seen
    assert only("B=2\nA=1 x").seen == only("A=1 B=2 x").seen


# Mistakes


@pytest.mark.parametrize(
    ("line", "word", "text", "remedy"),
    [
        ("retry=soon a", "retry=soon", "is not understood", "write a pause or a range, as retry=5s or retry=1s..10m"),
        ("retry=10s..1s a", "retry=10s..1s", "is not understood", "retry=1s..10m"),
        ("retry= a", "retry=", "is not understood", "retry=5s"),
        ("retry=1s.. a", "retry=1s..", "is not understood", "retry=5s"),
        ("retry=..1s a", "retry=..1s", "is not understood", "retry=5s"),
        ("retry=-1s a", "retry=-1s", "is not understood", "retry=5s"),
        ("retry=nan a", "retry=nan", "is not understood", "retry=5s"),
        ("retry=inf a", "retry=inf", "is not understood", "retry=5s"),
        ("stable=5x a", "stable=5x", "is not understood", "write a time, as stable=60s"),
        ("stop=never a", "stop=never", "is not understood", "write a time, as stop=10s"),
        ("signal=FOO a", "signal=FOO", "is not understood", "write one of HUP INT"),
        ("copies=0 a", "copies=0", "is not understood", f"a number from 1 to {COPIES_LIMIT}"),
        ("copies=1001 a", "copies=1001", "is not understood", f"a number from 1 to {COPIES_LIMIT}"),
        ("copies=many a", "copies=many", "is not understood", f"a number from 1 to {COPIES_LIMIT}"),
        ("key=0 a", "key=0", "is not understood", "write a semaphore key"),
        ("key=0x100000000 a", "key=0x100000000", "is not understood", "write a semaphore key"),
        ("key=mine a", "key=mine", "is not understood", "write a semaphore key"),
        ("name= a", "name=", "is not understood", "write a name"),
        ("name=-x a", "-x", "can't be a script's name", "name="),
        ("cwd= a", "cwd=", "is not understood", "write a folder"),
        ("env= a", "env=", "is not understood", "NAME=value"),
        ("after=db a", "after=db", "no line has this name", "guard status"),
        ("after=a a", "after=a", "waits for itself", "take one of these after= out"),
        ("retry=1s retry=2s a", "retry=2s", "is set twice on this line", "keep one of them"),
        ("copies=2 key=5 a", "key=", "one key can't serve several copies", "leave key= out"),
        ("colour=red a", "colour=", "is no option", "environment variables in lower case go into a file: env=FILE"),
        ("http_proxy=http://x a", "http_proxy=", "is no option", "env=FILE"),
        ("colour= a", "colour=", "is no option", "known are name retry stable stop signal copies after key cwd env"),
        ("a # nightly", "#", "a comment behind a command would be handed to it", "give the comment a line of its own"),
        ("a 'b c' # nightly", "#", "a comment behind a command would be handed to it", "give the comment a line of its own"),
        ("a 'b", "", "no closing quotation", "close the quotation"),
        ("a don't", "", "no closing quotation", "put a backslash before a quote that is meant"),
        ("a b\\", "", "no escaped character", "backslash"),
        ("''", "", "can't be a script's name", "name="),
        ("php ''", "", "can't be a script's name", "name="),
        ("-x", "-x", "can't be a script's name", "name="),
    ],
)
def test_a_mistake_names_its_line_its_word_and_a_remedy(line: str, word: str, text: str, remedy: str) -> None:
    listing = parse(f"good\n\n{line}\nfine".encode())
    assert [script.name for script in listing.scripts] == ["good", "fine"]
    (found,) = listing.mistakes
    assert (found.line, found.word) == (3, word)
    assert text in found.text
    assert remedy in found.remedy


@pytest.mark.parametrize("option", LATER)
def test_an_option_of_a_later_version_is_a_mistake_that_says_so(option: str) -> None:
    found = mistake(f"{option}=1 a")
    assert (found.word, found.text) == (f"{option}=", "is not yet known in this version")


@pytest.mark.parametrize("option", OWN_LINE_ONLY)
def test_what_belongs_to_one_command_can_be_no_setting(option: str) -> None:
    found = mistake(f"{option}=5\na")
    assert (found.line, found.word, found.text) == (1, f"{option}=", "belongs to one command")
    assert [script.name for script in parse(f"{option}=5\na".encode()).scripts] == ["a"]


def test_a_mistake_reads_as_line_word_text_and_remedy() -> None:
    assert str(Mistake(3, "retry=x", "is not understood", "write a time")) == "3: retry=x: is not understood; write a time"
    assert str(Mistake(3, "", "the line holds a NUL byte", "remove it")) == "3: the line holds a NUL byte; remove it"


def test_a_nul_byte_is_a_mistake_of_its_line_only() -> None:
    listing = parse(b"a\nb\0c\nd")
    assert [script.name for script in listing.scripts] == ["a", "d"]
    assert [(found.line, found.text) for found in listing.mistakes] == [(2, "the line holds a NUL byte")]


def test_latin_1_is_a_mistake_that_shows_the_place() -> None:
    found = mistake("a\nbin/Käse\n".encode("latin-1"))
    assert (found.line, found.word, found.text) == (2, "bin/Käse", "is not UTF-8")
    assert "UTF-8" in found.remedy


def test_utf_16_is_refused_line_by_line_and_nothing_is_taken_from_it() -> None:
    listing = parse("bin/a\nbin/b\n".encode("utf-16"))
    assert listing.scripts == ()
    assert len(listing.mistakes) >= 2


def test_a_line_of_a_megabyte_is_refused_in_few_words() -> None:
    listing = parse(b"a\n" + b"x" * 1_000_000 + b"\nb")
    assert [script.name for script in listing.scripts] == ["a", "b"]
    (found,) = listing.mistakes
    assert found.line == 2
    assert "1000000 bytes" in found.text
    assert len(str(found)) < 200
    assert names("x" * LINE_LIMIT_BYTES) == ["x" * LINE_LIMIT_BYTES]
    assert mistake("x" * (LINE_LIMIT_BYTES + 1)).line == 1


def test_a_long_word_of_a_mistake_is_cut() -> None:
    assert len(mistake(f"retry={'9' * 5000}x a").word) <= 60


def test_mistakes_come_in_the_order_of_the_file() -> None:
    found = mistakes("after=none a\nretry=x b\nc\nc\nsignal=x d")
    assert [each.line for each in found] == [1, 2, 4, 5]


def test_a_bad_line_of_settings_does_not_spoil_the_lines_below() -> None:
    listing = parse(b"retry=5s\nretry=x stop=1s\na")
    assert [(script.retry_max_s, script.stop_s) for script in listing.scripts] == [(5.0, 10.0)]


# after=


def test_after_may_name_a_line_below() -> None:
    assert names("after=b a\nb") == ["a", "b"]


def test_a_circle_of_after_is_a_mistake_of_each_of_its_lines_and_shows_the_circle() -> None:
    listing = parse(b"after=c a\nafter=a b\nafter=b c\nd")
    assert [script.name for script in listing.scripts] == ["d"]
    assert [found.line for found in listing.mistakes] == [1, 2, 3]
    assert "a after c after b after a" in listing.mistakes[0].text


def test_an_unknown_after_takes_out_all_copies() -> None:
    listing = parse(b"after=db copies=3 a\nb")
    assert [script.name for script in listing.scripts] == ["b"]
    assert len(listing.mistakes) == 1


@pytest.mark.parametrize(
    "text",
    [
        "after=b a\nafter=none b",
        "after=b a\nafter=c b\nretry=x c",
        "after=x a\nafter=y x\nafter=x y",
        "after=b a\nafter=c b\nafter=d c\nafter=none d",
    ],
)
def test_what_comes_after_a_line_that_is_not_taken_is_not_taken_either(text: str) -> None:
    """Else it would start without the one that it needs."""
    listing = parse(text.encode())
    assert listing.scripts == ()
    assert len(listing.mistakes) == len(text.splitlines())


# For any text


@given(st.binary())
def test_any_bytes_are_understood_or_refused(data: bytes) -> None:
    check_sane(data)


ODD_WORDS = (
    "a",
    "bin/a",
    "./a",
    "php",
    "-q",
    "''",
    "'",
    '"',
    "\\",
    "#",
    "=",
    "A=1",
    "Foo=1",
    "_=1",
    "=x",
    "x=",
    "ä",
    "\0",
    "\u2028",
)
SETTINGS = ("key=7", "copies=3", "name=a", "name=b", "name=a#2", "after=a", "after=b", "retry=1s..5s", "retry=x", "memory=5")
WORDS = st.sampled_from(ODD_WORDS + SETTINGS)


@given(st.lists(st.lists(WORDS, max_size=5).map(" ".join), max_size=6).map("\n".join))
def test_any_words_are_understood_or_refused(text: str) -> None:
    check_sane(text.encode())


def check_sane(data: bytes) -> None:
    listing = parse(data)
    assert parse(data) == listing
    running = {script.name: script for script in listing.scripts}
    assert parse(data, running) == listing, "what was taken is taken again"
    assert len(running) == len(listing.scripts)
    lines = data.count(b"\n") + 1
    bases = {script.base for script in listing.scripts}
    for script in listing.scripts:
        assert script.name
        assert script.name.isprintable()
        assert script.argv
        assert 1 <= script.line <= lines
        assert 0 <= script.retry_min_s <= script.retry_max_s
        assert script.after is None or script.after in bases
    for found in listing.mistakes:
        assert 1 <= found.line <= lines
        assert found.text
        assert found.remedy
    assert [found.line for found in listing.mistakes] == sorted(found.line for found in listing.mistakes)


PLAIN = st.text(
    st.characters(codec="utf-8", exclude_categories=["Cc", "Zs", "Zl", "Zp", "Cf", "Co", "Cn"]), min_size=1, max_size=20
)


@given(st.lists(PLAIN.filter(lambda word: word[0] not in "#-" and not set(word) & set("'\"\\=")), max_size=8))
def test_a_list_of_plain_file_names_comes_back_as_it_was(words: list[str]) -> None:
    words = list({name_of((word,)): word for word in words}.values())
    scripts = listed("\n".join(words))
    assert [script.argv for script in scripts] == [(word,) for word in words]
    assert [script.name for script in scripts] == [name_of((word,)) for word in words]


@given(st.text())
def test_a_duration_is_finite_and_not_negative_or_refused(text: str) -> None:
    try:
        seconds = duration_s(text)
    except (ValueError, KeyError):
        return
    assert 0 <= seconds < float("inf")


@pytest.mark.parametrize(
    ("text", "seconds"), [("500ms", 0.5), ("5s", 5), ("5", 5), ("0", 0), ("1.5m", 90), ("10m", 600), ("1h", 3600), ("2d", 172800)]
)
def test_a_duration_has_these_units(text: str, seconds: float) -> None:
    assert duration_s(text) == seconds


@pytest.mark.parametrize("text", ["", "s", "5x", "5S", "-1s", "nan", "inf", "1s2", "5 h 3", "99999d"])
def test_what_is_no_duration_raises_value_error(text: str) -> None:
    with pytest.raises(ValueError):  # noqa: PT011 - its text is not for people
        duration_s(text)
