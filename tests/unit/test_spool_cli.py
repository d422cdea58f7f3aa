"""The commands that start nothing: what they take, refuse and show."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from guard import __version__
from workers.mail.words import when
from workers.spool.cli import main
from workers.spool.log import event

Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def run(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Iterator[Run]:
    """Runs a command with a text as standard input; gives exit status, stdout and stderr."""
    (tmp_path / "mail.toml").write_text('[spool]\nstate = "state"\nmax_size = "2K"\n[aliases]\nroot = "ops@x"\n')
    monkeypatch.setenv("MAIL_CONFIG", str(tmp_path / "mail.toml"))
    stdin, umask = os.dup(0), os.umask(0o077)

    def run_it(*words: str, text: str = "Subject: s\n\nbody\n") -> tuple[int, str, str]:
        (tmp_path / "text").write_text(text)
        fd = os.open(tmp_path / "text", os.O_RDONLY)
        os.dup2(fd, 0)
        os.close(fd)
        status = main(list(words))
        out = capsys.readouterr()
        return status, out.out, out.err

    yield run_it
    os.dup2(stdin, 0)
    os.close(stdin)
    os.umask(umask)


def queued(run: Run) -> list[str]:
    _, out, _ = run("smtp-spool", "list", "--json")
    return [row["address"] for row in json.loads(out)["recipients"]]


@pytest.mark.parametrize(
    ("words", "text", "status", "said"),
    [
        ([], "x\n", 64, "no recipient"),
        (["-z", "a@x"], "x\n", 64, "unknown option -z"),
        (["-bs", "a@x"], "x\n", 64, "recipient"),
        (["-bd"], "x\n", 64, "is not here"),
        (["a@x\r\nDATA"], "x\n", 65, "line end"),
        (["-f", "a@x>\n", "b@x"], "x\n", 65, "line end"),
        (["-f", "a@x, b@x", "b@x"], "x\n", 65, "one address"),
        (["-t"], "Subject: x\n\nTo: a@x\n", 65, "no recipient in To"),
        (["-t"], 'To: "open <a@x>\n\n', 65, "left open"),
        (["a@x"], "x" * 3000, 65, "max_size"),
        (["a@x"], "\n" * 1500, 65, "max_size"),
    ],
)
def test_what_sendmail_refuses(run: Run, tmp_path: Path, words: list[str], text: str, status: int, said: str) -> None:
    found, out, err = run("smtp-spool", "sendmail", *words, text=text)
    assert (found, out) == (status, "")
    assert said in err
    assert not (tmp_path / "state").exists()


@pytest.mark.parametrize("command", [["sendmail", "a@x"], ["run"], ["list"], ["count"]])
def test_a_mistake_in_the_config_is_78_for_every_command(run: Run, tmp_path: Path, command: list[str]) -> None:
    (tmp_path / "mail.toml").write_text("[spool]\ncolour = 1\n")
    status, out, err = run("smtp-spool", *command)
    assert (status, out) == (78, "")
    assert "spool.colour" in err


@pytest.mark.parametrize(
    "words", [[], ["dance"], ["--colour"], ["--config"], ["list", "--colour"], ["count", "x"], ["run", "--config"]]
)
def test_what_is_no_command_is_64(run: Run, words: list[str]) -> None:
    status, out, err = run("smtp-spool", *words)
    assert (status, out) == (64, "")
    assert "known are" in err or "--help" in err


@pytest.mark.parametrize(
    "words", [["--help"], ["sendmail", "--help"], ["run", "--help"], ["list", "--help"], ["count", "--help"]]
)
def test_every_command_explains_itself(run: Run, words: list[str]) -> None:
    status, out, err = run("smtp-spool", *words)
    assert (status, err) == (0, "")
    assert out.startswith("usage: smtp-spool")
    assert max(map(len, out.splitlines())) <= 120


def test_help_and_version(run: Run) -> None:
    assert run("smtp-spool", "help") == run("smtp-spool", "--help")
    assert run("smtp-spool", "--version") == run("smtp-spool", "-V") == (0, f"semguard {__version__}\n", "")


def test_an_empty_queue_is_shown_without_making_one(run: Run, tmp_path: Path) -> None:
    assert run("smtp-spool", "list") == (0, "Nothing is queued.\n", "")
    assert run("smtp-spool", "count") == (0, "0\n", "")
    assert run("mailq")[0] == 0
    assert not (tmp_path / "state").exists()


def test_the_queue_is_shown(run: Run) -> None:
    assert run("smtp-spool", "sendmail", "a@x", "root") == (0, "", "")
    assert run("smtp-spool", "count") == (0, "2\n", "")
    assert queued(run) == ["a@x", "ops@x"]
    _, table, _ = run("sendmail", "-bp")
    assert [line.split()[0] for line in table.splitlines()] == ["mail", "1", "1"]
    assert run("mailq")[1].count("queued") == 2


def test_recipients_of_the_header_join_those_of_the_command_line(run: Run) -> None:
    text = "To: Ann <a@x>,\n b@x\nCc: root\nBcc: c@x\n\nTo: not@x\n"
    assert run("/usr/sbin/sendmail", "-ti", "d@x, a@x", text=text) == (0, "", "")
    assert queued(run) == ["d@x", "a@x", "b@x", "ops@x", "c@x"]


def test_config_may_be_named_before_or_behind_the_command(run: Run, tmp_path: Path) -> None:
    (tmp_path / "other.toml").write_text('[spool]\nstate = "other"\n')
    other = str(tmp_path / "other.toml")
    assert run("smtp-spool", "--config", other, "sendmail", "a@x")[0] == 0
    assert run("smtp-spool", "count", f"--config={other}")[1] == "1\n"
    assert run("smtp-spool", "count", "--config", other)[1] == "1\n"
    assert run("smtp-spool", "count")[1] == "0\n"


@pytest.mark.parametrize(("span_s", "words"), [(-1, "now"), (0, "now"), (0.004, "now"), (0.5, "in 0.50 s"), (300, "in 5 min")])
def test_what_is_due_is_due_now(span_s: float, words: str) -> None:
    assert when(span_s) == words
    assert event(1, "a@x", "deferred", "deferred", "450 later", span_s).endswith(f"450 later; next try {words}")
