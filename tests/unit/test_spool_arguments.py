"""sendmail's command line, as PHP, cron, git and mail(1) write it."""

from __future__ import annotations

import pytest

from workers.spool.arguments import UsageError, parse


@pytest.mark.parametrize(
    ("line", "sender", "name", "from_header", "ignore_dots", "recipients"),
    [
        ("-t -i", None, None, True, True, []),
        ("-ti", None, None, True, True, []),
        ("-oi -f a@b -- c@d e@f", "a@b", None, False, True, ["c@d", "e@f"]),
        ("-fa@b c@d", "a@b", None, False, False, ["c@d"]),
        ("-f <> c@d", "", None, False, False, ["c@d"]),
        ("-r a@b c@d", "a@b", None, False, False, ["c@d"]),
        ("-FCronDaemon -i -B8BITMIME -oem user", None, "CronDaemon", False, True, ["user"]),
        ("-F Name -oem -oi user", None, "Name", False, True, ["user"]),
        (
            "-bm -O DeliveryMode=b -N never -R hdrs -V id -X log -D dbg -MrSMTP -L tag -C cf -h 5 -p SMTP -d0 -q30m u",
            None,
            None,
            False,
            False,
            ["u"],
        ),
        ("-q -v -m -n -em u", None, None, False, False, ["u"]),
        ("-q u -t", None, None, False, False, ["u", "-t"]),
    ],
)
def test_classic_command_lines(
    line: str, sender: str | None, name: str | None, from_header: bool, ignore_dots: bool, recipients: list[str]
) -> None:
    found = parse(line.split())
    assert (found.sender, found.full_name) == (sender, name)
    assert (found.from_header, found.ignore_dots, found.recipients) == (from_header, ignore_dots, recipients)


def test_an_empty_sender_is_the_null_sender() -> None:
    assert parse(["-f", "", "a@b"]).sender == ""


def modes(line: str, name: str = "sendmail") -> list[str]:
    found = parse(line.split(), name)
    return [mode for mode in ("list_queue", "speak_smtp", "rebuild_aliases", "flush") if getattr(found, mode)]


@pytest.mark.parametrize(
    ("line", "mode"),
    [
        ("-bp", "list_queue"),
        ("-b p", "list_queue"),
        ("-bp -q", "list_queue"),
        ("-bs", "speak_smtp"),
        ("-b s", "speak_smtp"),
        ("-bs -i", "speak_smtp"),
        ("-i -t -f a@b -bs", "speak_smtp"),
        ("-tibs", "speak_smtp"),
        ("-q -bs", "speak_smtp"),
        ("-bi", "rebuild_aliases"),
        ("-I", "rebuild_aliases"),
        ("-bi -v", "rebuild_aliases"),
        ("-q", "flush"),
        ("-qf", "flush"),
        ("-q30m", "flush"),
        ("-v -q", "flush"),
        ("-bm -qRexample.org --", "flush"),
    ],
)
def test_modes(line: str, mode: str) -> None:
    assert modes(line) == [mode]


@pytest.mark.parametrize("line", ["", "-bm", "u", "-q u", "-q30m -- u", "-q -t", "-d0", "-bs -bm u", "-bi -bm u", "-oq"])
def test_what_sends_a_message(line: str) -> None:
    assert modes(line) == []


@pytest.mark.parametrize(
    ("name", "line", "found"),
    [
        ("mailq", "", ["list_queue"]),
        ("mailq", "-v", ["list_queue"]),
        ("newaliases", "", ["rebuild_aliases"]),
        ("newaliases", "-bp", ["list_queue"]),
        ("newaliases", "-oA/etc/aliases", ["rebuild_aliases"]),
        ("mailq", "-bm", []),
        ("sendmail", "", []),
        ("hotwayd", "", []),
    ],
)
def test_the_name_of_the_program_is_a_mode_that_options_change(name: str, line: str, found: list[str]) -> None:
    assert modes(line, name) == found


def test_bs_takes_no_recipient() -> None:
    with pytest.raises(UsageError, match=r"-bs takes no recipient \(a@b\)"):
        parse(["-bs", "a@b"])


@pytest.mark.parametrize(
    "words",
    [
        *(["-f"], ["-z"], ["-iz"], ["-s"], ["-b", "v"], ["-b?"], ["-b"], ["--config", "x"]),
        *(["-bd"], ["-bD"], ["-bh"], ["-bH"], ["-bt"], ["-bP"], ["-ba"], ["-bsx"], ["-bmp"], ["-b", ""]),
    ],
)
def test_what_makes_no_sense_is_said(words: list[str]) -> None:
    with pytest.raises(UsageError):
        parse(words)
