"""README says what the code does: options, commands, exit statuses, and the command that CI runs."""

from __future__ import annotations

import re
from pathlib import Path

from guard import run
from guard.lint import FIRST_LIST
from guard.options import COMMANDS, USAGE
from guard.place import NO_STATE
from guard.scripts import _OPTIONS, parse
from guard.survey import UP

ROOT = Path(__file__).resolve().parents[2]
README = (ROOT / "README.md").read_text()


def test_each_option_of_a_line_is_explained() -> None:
    table = README.split("| option | meaning | default |")[1].split("\n\n")[0]
    assert set(re.findall(r"`([a-z]+)=", table)) - {"at"} == set(_OPTIONS)


def test_each_option_of_a_line_is_in_the_list_that_init_writes() -> None:
    assert set(re.findall(r"\b([a-z]+)=", FIRST_LIST)) == set(_OPTIONS)


def test_each_command_is_shown() -> None:
    for command in filter(None, COMMANDS):
        assert f"guard {command}" in README, command


def test_each_exit_status_is_explained() -> None:
    sentence = README.split("Exit status of `guard` itself:")[1].split("\n\n")[0]
    statuses = (run.DONE, run.RUNNING, run.NO_SEMAPHORE, run.NO_LIST, run.NO_SCRIPT, run.FOREIGN, NO_STATE, USAGE, run.BROKEN)
    assert [int(number) for number in re.findall(r"(?:^|[\s,])(\d+) [a-z]", sentence)] == list(statuses)


def test_each_state_is_explained() -> None:
    sentence = README.split("\nStates: ")[1].split("\n\n")[0]
    assert set(UP) - {"resting"} < set(re.findall(r"`([a-z]+)`", sentence))


def test_ci_runs_the_command_that_readme_gives() -> None:
    command = "python3 -m venv .venv && .venv/bin/pip install -q -e '.[test]' && .venv/bin/python -m pytest"
    assert command in README.splitlines()
    assert command in (ROOT / ".ci/run").read_text().splitlines()


def test_the_lists_of_this_repository_have_no_mistakes() -> None:
    assert parse((ROOT / "List.txt").read_bytes()).mistakes == ()
    assert parse(FIRST_LIST.encode()).mistakes == ()


def test_the_crontab_line_is_the_same_everywhere() -> None:
    line = "*/5 * * * *  cd /srv/app && .venv/bin/guard >> guard.log 2>&1"
    assert line in README
    assert line in (ROOT / "crontab.example").read_text()
