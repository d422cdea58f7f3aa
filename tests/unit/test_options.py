"""The command line: what each command takes, and what is said to those who mistype."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from guard import __version__
from guard.options import COMMANDS, Help, Misuse, Options, parse


def misuse(*words: str) -> str:
    with pytest.raises(Misuse) as caught:
        parse(list(words))
    return str(caught.value)


def helped(*words: str) -> str:
    with pytest.raises(Help) as caught:
        parse(list(words))
    return str(caught.value)


def outcome(*words: str) -> str:
    """The command that was understood, or what is said instead."""
    try:
        options = parse(list(words))
    except (Misuse, Help) as told:
        return str(told) or "nothing was said"
    assert set(options.given) <= set(COMMANDS[options.command][2])
    return options.command


def test_no_words_mean_run_here() -> None:
    options = parse([])
    assert (options.command, options.words, options.given) == ("", [], {})


@pytest.mark.parametrize("command", [name for name in COMMANDS if name])
def test_each_command_is_known_by_its_first_word(command: str) -> None:
    assert parse([command]).command == command


@pytest.mark.parametrize("words", [["--list", "my.txt"], ["--list=my.txt"]])
def test_a_value_may_follow_or_be_joined(words: list[str]) -> None:
    assert parse(["status", *words, "mail"]).given == {"--list": "my.txt"}
    assert parse(["status", *words, "mail"]).words == ["mail"]


def test_a_value_may_hold_an_equals_sign() -> None:
    assert parse(["--list=a=b"]).given == {"--list": "a=b"}


def test_an_option_without_a_value_is_there_or_not() -> None:
    assert parse(["--no-standby"]).has("--no-standby")
    assert not parse([]).has("--no-standby")


def test_the_last_of_two_equal_options_counts() -> None:
    assert parse(["--list", "a", "--list", "b"]).given == {"--list": "b"}


def test_names_are_taken_in_order_and_options_may_stand_between() -> None:
    options = parse(["stop", "b", "--timeout", "5s", "a"])
    assert (options.words, options.given) == (["b", "a"], {"--timeout": "5s"})


@pytest.mark.parametrize("command", ["check", "plan"])
def test_one_file_and_no_more(command: str) -> None:
    assert parse([command, "new.txt"]).words == ["new.txt"]
    assert misuse(command, "new.txt", "old.txt") == f"old.txt: one word too many for `guard {command}`"


@pytest.mark.parametrize("command", ["reload", "init"])
def test_a_command_without_names_refuses_them(command: str) -> None:
    assert "one word too many" in misuse(command, "mail")


def test_an_unknown_command_is_told_the_nearest_or_all() -> None:
    assert misuse("statsu") == "statsu: no such command; did you mean `guard status`?"
    assert misuse("restrat") == "restrat: no such command; did you mean `guard restart`?"
    for name in COMMANDS:
        assert name in misuse("frobnicate")


def test_a_command_behind_an_option_is_understood_or_the_order_is_told() -> None:
    """Not "no such command; did you mean" the very same."""
    assert outcome("--list", "my.txt", "status") in ("status", "status: a command stands first: guard status --list my.txt")


def test_an_unknown_option_points_to_the_help_of_its_command() -> None:
    assert misuse("status", "--josn") == "--josn: not an option of `guard status`; `guard status --help` lists them"
    assert misuse("--josn") == "--josn: not an option of `guard`; `guard --help` lists them"


def test_an_option_of_another_command_is_unknown_here() -> None:
    assert "not an option of `guard check`" in misuse("check", "--json")


def test_a_missing_value_and_one_too_many_are_told() -> None:
    assert misuse("--list") == "--list needs a value: --list FILE"
    assert misuse("status", "--json=yes") == "--json takes no value"


@pytest.mark.parametrize(("text", "number"), [("342345", 342345), ("0x53949", 342345), ("0xffffffff", 2**32 - 1), ("1", 1)])
def test_a_key_is_a_number_of_32_bits(text: str, number: int) -> None:
    assert parse(["--key", text]).number("--key") == number


@pytest.mark.parametrize("text", ["0", "-1", "key", "", "0x100000000", "1.5"])
def test_what_is_no_key_is_refused_with_an_example(text: str) -> None:
    with pytest.raises(Misuse, match="not a semaphore key; write one as 342345"):
        parse([f"--key={text}"]).number("--key")


def test_no_key_is_none() -> None:
    assert Options("").number("--key") is None


@pytest.mark.parametrize("flag", ["-h", "--help"])
@pytest.mark.parametrize("command", COMMANDS)
def test_help_names_every_option_of_the_command(command: str, flag: str) -> None:
    text = helped(*([command] if command else []), flag)
    assert text.startswith("usage: guard")
    assert f"guard {command}".strip() in text
    for name, (value, about) in COMMANDS[command][2].items():
        assert f"{name} {value}".strip() in text
        assert about in text
    assert COMMANDS[command][1] in text
    assert all(len(line) <= 130 for line in text.splitlines())


def test_the_help_of_guard_names_every_command_and_exit_status() -> None:
    text = helped("--help")
    for name, (_, about, _) in COMMANDS.items():
        assert name in text
        assert about in text
    for status in ("0 stopped", "1 already", "2 no sem", "3 no usable", "4 none", "5 guard's own key", "64 usage"):
        assert status in text
    assert "*/5 * * * *" in text


@pytest.mark.parametrize("flag", ["-V", "--version"])
def test_the_version_is_told(flag: str) -> None:
    assert helped(flag) == helped("status", flag) == f"semguard {__version__}"


@given(st.lists(st.one_of(st.text(), st.sampled_from([*COMMANDS, "--list", "--key", "--json", "-h", "--", "-"]))))
def test_any_words_are_understood_or_refused_in_words(words: list[str]) -> None:
    assert outcome(*words) != "nothing was said"
