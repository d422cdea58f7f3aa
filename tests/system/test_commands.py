"""What a person at the keyboard, cron and a health check see: words, exit statuses, the log."""

from __future__ import annotations

import json
import os
import pty
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from guard.options import COMMANDS
from tests.system.harness import GUARD, Folder, wait_until

LINE = re.compile(r"^\d{4}-\d\d-\d\d \d\d:\d\d:\d\d guard\[\d+\] \S.*$")


def test_a_second_guard_says_nothing_and_exits_1(folder: Folder) -> None:
    folder.workers(1)
    folder.up()
    done = folder.run()
    assert (done.returncode, done.stdout, done.stderr) == (1, "", "")


def test_on_a_terminal_the_second_guard_says_so(folder: Folder) -> None:
    folder.workers(1)
    folder.up()
    output = on_a_terminal(folder, [GUARD])
    assert "guard is already running, pid" in output


@pytest.mark.parametrize(
    ("content", "status", "text"),
    [
        (None, 3, "guard init"),
        ("", 3, "lists no script"),
        ("# nothing\n", 3, "lists no script"),
        ("'\n", 3, "List.txt:1: no closing quotation"),
        ("./no\nneither\n", 4, "none of the scripts of"),
    ],
)
def test_a_first_start_with_nothing_to_run_is_told_at_once(folder: Folder, content: str | None, status: int, text: str) -> None:
    if content is not None:
        (folder.path / "List.txt").write_text(content)
    done = folder.run()
    assert done.returncode == status
    assert text in done.stderr


def test_a_folder_that_cannot_hold_state_is_exit_6(folder: Folder) -> None:
    folder.workers(1)
    (folder.path / ".guard").write_text("a file")
    done = folder.run()
    assert done.returncode == 6
    assert "--state DIR" in done.stderr
    (folder.path / ".guard").unlink()


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (["stat"], "did you mean `guard status`?"),
        (["frobnicate"], "commands are status start stop"),
        (["--frob"], "--frob: not an option of `guard`"),
        (["status", "--frob"], "not an option of `guard status`"),
        (["--list"], "--list needs a value: --list FILE"),
        (["status", "--json=yes"], "--json takes no value"),
        (["--key", "zero"], "--key zero: not a semaphore key"),
        (["stop", "--timeout", "soon"], "--timeout soon: not a time"),
        (["check", "a", "b"], "b: one word too many"),
    ],
)
def test_misuse_is_exit_64_and_says_what_to_write(folder: Folder, arguments: list[str], text: str) -> None:
    folder.workers(1)
    folder.up()
    done = folder.run(*arguments)
    assert done.returncode == 64
    assert text in done.stderr


def test_each_command_has_its_help(folder: Folder) -> None:
    text = subprocess.run([GUARD, "--help"], capture_output=True, text=True, check=True).stdout
    for command in filter(None, COMMANDS):
        assert f"\n  {command} " in text
        own = subprocess.run([GUARD, command, "--help"], capture_output=True, text=True, check=True).stdout
        assert own.startswith(f"usage: guard {command} ")
        assert all(option in own for option in COMMANDS[command][2])
    assert subprocess.run([GUARD, "--version"], capture_output=True, text=True, check=True).stdout == "semguard 0.1.0\n"


def test_status_json_has_the_documented_shape(folder: Folder) -> None:
    folder.write_list("name=w0 ./w", 'name="q\\"\\\\ü" ./w')
    folder.up()
    done = folder.run("status", "--json")
    found = json.loads(done.stdout)
    assert done.returncode == 0
    assert (found["version"], found["list"]) == (1, str(folder.path / "List.txt"))
    assert set(found["guard"]) == {"state", "pid", "standby", "since", "key"}
    expected = {"name", "state", "pid", "adopted", "since", "restarts", "last_exit", "next_try", "memory", "cpu"}
    expected |= {"status", "key", "line", "problem"}
    assert [set(row) for row in found["scripts"]] == [expected] * 2
    assert [row["name"] for row in found["scripts"]] == ["w0", 'q"\\ü']
    assert [row["line"] for row in found["scripts"]] == [1, 2]
    row = found["scripts"][0]
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ", row["since"])
    assert row["memory"] > 0
    held = subprocess.run(["ipcs", "-s"], capture_output=True, text=True, check=True).stdout
    assert row["key"] in held
    assert found["guard"]["key"] in held


def test_status_in_a_pipe_is_plain_and_on_a_terminal_a_table(folder: Folder) -> None:
    folder.workers(1)
    folder.up()
    plain = folder.run("status").stdout
    assert "\x1b" not in plain
    assert plain.splitlines()[0].startswith("guard is running, pid ")
    assert plain.splitlines()[2].split()[:3] == ["name", "state", "pid"]
    assert plain.splitlines()[3].split()[:2] == ["w0", "running"]
    assert "\x1b" in on_a_terminal(folder, [GUARD, "status"])


@pytest.mark.parametrize("arguments", [["status"], ["status", "--json"], ["--help"], ["plan", "List.txt"]])
def test_output_that_cannot_be_written_is_told_in_one_line(folder: Folder, arguments: list[str]) -> None:
    folder.workers(1)
    folder.up()
    command = shlex.join([GUARD, *arguments])
    for where, why in (("> /dev/full", "No space left on device"), (">&-", "Bad file descriptor")):
        done = subprocess.run(["sh", "-c", f"{command} {where}"], cwd=folder.path, capture_output=True, text=True, check=False)
        assert (done.returncode, done.stderr) == (74, f"guard: can't write to standard output: {why}\n")
    quiet = subprocess.run(["sh", "-c", f"{command} | true"], cwd=folder.path, capture_output=True, text=True, check=False)
    assert quiet.stderr == ""


def test_a_full_terminal_table_is_told_too(folder: Folder) -> None:
    folder.workers(1)
    folder.up()
    code = "import sys; sys.stdout.isatty = lambda: True; from guard.cli import main; sys.exit(main(['status']))"
    with open("/dev/full", "w", encoding="utf-8") as full:
        done = subprocess.run([sys.executable, "-c", code], cwd=folder.path, stdout=full, stderr=subprocess.PIPE, text=True)
    assert (done.returncode, done.stderr) == (74, "guard: can't write to standard output: No space left on device\n")


def test_status_before_any_guard_says_how_to_begin(folder: Folder) -> None:
    done = folder.run("status")
    assert done.returncode == 3
    assert "`guard init`" in done.stderr
    folder.workers(1)
    assert "`guard start`" in folder.run("status").stderr
    assert not (folder.path / ".guard").exists()


def test_each_event_is_one_whole_line_also_under_fifty_writers(folder: Folder) -> None:
    folder.script("noisy", f"#!/bin/sh\nfor n in 1 2 3 4 5 6 7 8 9; do echo {'x' * 300}; done\nexit 1\n")
    folder.write_list("retry=10ms..50ms copies=50 name=n ./noisy")
    folder.guard()
    wait_until(lambda: folder.log().count("died: exit 1") > 200, "two hundred deaths")
    folder.run("stop")
    strange = [line for line in folder.log().splitlines() if not LINE.match(line) and line != "x" * 300]
    assert strange == []


def test_check_names_each_mistake_and_what_could_not_start(folder: Folder) -> None:
    (folder.path / "List.txt").write_bytes(b"name=w0 ./w\nretry=abc ./w\nmemory=1G ./w\n./missing\n")
    done = folder.run("check")
    assert done.returncode == 1
    assert [line.split(":")[1] for line in done.stdout.splitlines()] == ["2", "3", "4"]
    assert "write a pause or a range, as retry=5s or retry=1s..10m" in done.stdout
    assert "is not yet known in this version" in done.stdout
    folder.workers(1)
    assert (folder.run("check").returncode, folder.run("check").stdout) == (0, "")
    assert folder.run("check", "no/such/file").returncode == 1


def test_plan_tells_what_a_save_would_do_and_does_nothing(folder: Folder) -> None:
    folder.write_list("name=a ./w", "name=b ./w", "name=c ./w")
    folder.up()
    before = folder.pids()
    (folder.path / "next").write_text("name=a retry=9s ./w\nname=b ./w again\nname=d ./w\n")
    done = folder.run("plan", "next")
    assert done.returncode == 0
    assert done.stdout.split("\n")[:4] == ["start    d", "stop     c", "restart  b: command changed", "keep     1 as they are"]
    assert folder.pids() == before
    (folder.path / "next").write_text("name=a ./w\n'\n")
    done = folder.run("plan", "next")
    assert done.returncode == 1
    assert "nothing is stopped" in done.stdout


def test_init_writes_a_list_that_has_no_mistakes_and_never_over_one(tmp_path: Path) -> None:
    def init() -> subprocess.CompletedProcess[str]:
        return subprocess.run([GUARD, "init"], cwd=tmp_path, capture_output=True, text=True, check=False)

    done = init()
    assert done.returncode == 0
    assert f"*/5 * * * *  cd {tmp_path} && {GUARD} >> guard.log 2>&1" in done.stdout
    text = (tmp_path / "List.txt").read_text()
    (tmp_path / "List.txt").write_text(text + "mine\n")
    assert init().returncode == 1
    assert (tmp_path / "List.txt").read_text().endswith("mine\n")


def test_reload_reads_the_list_and_reports_its_mistakes(folder: Folder) -> None:
    folder.workers(1)
    assert folder.run("reload").returncode == 6 or folder.run("reload").returncode == 3
    folder.up()
    assert folder.run("reload").returncode == 0
    (folder.path / "List.txt").write_text("name=w0 ./w\nname=w1 nothing=1 ./w\n")
    done = folder.run("reload")
    assert done.returncode == 1
    assert "List.txt:2: nothing=: is no option" in done.stdout
    assert "mistake in List.txt:2" in folder.log()


def test_guard_shows_in_ps_what_it_is(folder: Folder) -> None:
    folder.workers(1)
    folder.up()
    listed = subprocess.run(["ps", "-ww", "-eo", "args"], capture_output=True, text=True, check=True).stdout.splitlines()
    assert f"guard: primary {folder.path}/List.txt" in listed
    assert f"guard: standby {folder.path}" in listed


def test_a_command_that_waits_in_vain_exits_1_and_says_where_it_is(folder: Folder) -> None:
    folder.script("deaf", '#!/bin/sh\ntrap "" TERM\necho up > up\nwhile :; do sleep 1000000; done\n')
    folder.write_list("stop=3s ./deaf")
    folder.guard()
    wait_until((folder.path / "up").exists, "it is up")
    done = folder.run("stop", "--timeout", "100ms")
    assert done.returncode == 1
    assert "deaf is stopping" in done.stderr
    assert folder.run("stop").returncode == 0


def on_a_terminal(folder: Folder, command: list[str]) -> str:
    """What a command prints on a terminal."""
    leader, follower = pty.openpty()
    environment = {**os.environ, "TERM": "xterm-256color"}
    process = subprocess.Popen(command, cwd=folder.path, stdin=follower, stdout=follower, stderr=follower, env=environment)
    os.close(follower)
    output = b""
    while True:
        try:
            chunk = os.read(leader, 4096)
        except OSError:  # EIO: the last writer is gone
            break
        if not chunk:
            break
        output += chunk
    os.close(leader)
    process.wait(30)
    return output.decode()
