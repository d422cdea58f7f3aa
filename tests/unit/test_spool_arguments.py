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
            "-bm -O DeliveryMode=b -N never -R hdrs -V id -X log -L tag -C cf -h 5 -p SMTP -d0 -q30m u",
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


def test_bp_lists() -> None:
    assert parse(["-bp"]).list_queue
    assert parse(["-b", "p"]).list_queue


@pytest.mark.parametrize("words", [["-f"], ["-z"], ["-bs"], ["-bd"], ["-bi"], ["-b", "v"], ["-b?"], ["--config", "x"]])
def test_what_makes_no_sense_is_said(words: list[str]) -> None:
    with pytest.raises(UsageError):
        parse(words)
