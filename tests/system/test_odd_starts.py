"""However guard was started, and whatever becomes of its output, its clock and its own process: scripts are as DESIGN says."""

from __future__ import annotations

import os
import resource
import signal
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import psutil
import pytest

from tests.system.harness import FAULTY, GUARD, Folder, wait_until

ALL_IGNORED = "import os, signal, sys; [signal.signal(n, signal.SIG_IGN) for n in (1, 2, 3, 10, 12, 13, 15, 17)]; "
MASKED = "signal.pthread_sigmask(signal.SIG_BLOCK, {10, 14, 15, 40}); "
LIBC_OWN = 0b11 << 31  # signals 32 and 33 belong to libc, nobody else can reach them
EXEC = "os.execv(sys.argv[1], sys.argv[1:])"


def status_of(pid: int, field: str) -> str:
    """One line of /proc/PID/status."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(line.split()[1] for line in lines if line.startswith(field))


def environment(pid: int) -> dict[str, str]:
    return psutil.Process(pid).environ()


def the_pid(folder: Folder) -> int:
    """The pid of w0, once it runs for sure (past its exec)."""
    wait_until(lambda: ["START", "w0"] in [line[:2] for line in folder.journal()], "w0 runs")
    pid = dict(folder.processes(leaders=True))["w0"]
    wait_until(lambda: Path(f"/proc/{pid}/comm").read_text() == "sleep\n", "w0 sleeps")
    return pid


WORKER = '#!/bin/sh\necho "START $GUARD_NAME $$" >> journal\nexec sleep 1000000\n'


@pytest.mark.parametrize("how", ["nohup", "ignored", "masked"])
def test_scripts_get_default_signals_whatever_guard_inherited(folder: Folder, how: str) -> None:
    folder.script("q", WORKER)
    folder.write_list("name=w0 ./q")
    prefix = {
        "nohup": ["nohup"],
        "ignored": [sys.executable, "-c", ALL_IGNORED + EXEC],
        "masked": [sys.executable, "-c", "import os, signal, sys; " + MASKED + EXEC],
    }[how]
    with (folder.path / "guard.log").open("ab") as log:
        command = [*prefix, GUARD]
        folder.guards.append(subprocess.Popen(command, cwd=folder.path, stdin=subprocess.DEVNULL, stdout=log, stderr=log))
    folder.wait_up()
    pid = the_pid(folder)
    for field in ("SigIgn", "SigBlk", "SigCgt"):
        assert int(status_of(pid, field), 16) & ~LIBC_OWN == 0, field
    assert os.getsid(pid) == pid
    assert folder.run("stop").returncode == 0


def test_scripts_get_three_descriptors_and_the_limit_that_guard_had(folder: Folder) -> None:
    folder.script("q", WORKER)
    folder.write_list("name=w0 ./q")
    reader, writer = os.pipe()
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)

    def careless() -> None:
        resource.setrlimit(resource.RLIMIT_NOFILE, (333, hard))
        os.dup2(writer, 10)
        os.set_inheritable(10, True)

    folder.guard(preexec_fn=careless, close_fds=False)
    os.close(reader)
    os.close(writer)
    folder.wait_up()
    pid = the_pid(folder)
    assert {int(name) for name in os.listdir(f"/proc/{pid}/fd")} == {0, 1, 2}
    assert os.readlink(f"/proc/{pid}/fd/0") == "/dev/null"
    assert {os.readlink(f"/proc/{pid}/fd/{fd}") for fd in (1, 2)} == {str(folder.path / "guard.log")}
    assert resource.prlimit(pid, resource.RLIMIT_NOFILE) == (333, hard)


def test_the_environment_is_the_same_from_cron_and_from_a_shell(folder: Folder) -> None:
    folder.script("q", WORKER)
    folder.write_list("name=w0 COLOUR=blue ./q")
    seen = []
    cron = {"PATH": "/usr/bin:/bin", "HOME": "/", "LOGNAME": "nobody", "SHELL": "/bin/sh"}
    shell = {
        **os.environ,
        "LC_ALL": "C",
        "TZ": "Asia/Tokyo",
        "HOME": "/var",
        "MAIL": "x",
        "PATH": os.environ["PATH"],
        "GUARD_NAME": "y",
    }
    for start in (cron, shell):
        folder.guard(env=start)
        folder.wait_up()
        seen.append(environment(the_pid(folder)))
        assert folder.run("stop").returncode == 0
        (folder.path / "journal").unlink()
        assert folder.run("start", env=shell).returncode == 0
        folder.wait_up()
        seen.append(environment(the_pid(folder)))
        assert folder.run("stop").returncode == 0
        (folder.path / "journal").unlink()
        (folder.path / ".guard" / "wishes.json").unlink()
    for one in seen:
        one.pop("PWD", None)  # what a shell adds
        one.pop("OLDPWD", None)
        one.pop("_", None)
        one.pop("SHLVL", None)
    assert seen[0] == seen[1] == seen[2] == seen[3]
    names = {"HOME", "USER", "LOGNAME", "SHELL", "PATH", "LANG", "COLOUR", "GUARD_NAME", "GUARD_KEY"}
    assert names <= set(seen[0]) <= names | {"NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID"}
    assert seen[0]["LANG"] == "C.UTF-8"
    assert seen[0]["PATH"].startswith("/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin:")


# output


def piped(folder: Folder, stdout: int) -> subprocess.Popen[bytes]:
    return folder.guard(stdout=stdout, stderr=stdout)


def test_a_pipe_whose_reader_dies_ends_neither_guard_nor_scripts(folder: Folder) -> None:
    folder.workers(2, "retry=0")
    reader, writer = os.pipe()
    guard = piped(folder, writer)
    os.close(writer)
    folder.wait_up()
    os.close(reader)
    before = folder.pids()
    os.kill(before["w0"] or 0, signal.SIGKILL)
    own = folder.path / ".guard" / "guard.log"
    wait_until(lambda: own.exists() and "w0[" in own.read_text() and "died: signal KILL" in own.read_text(), "guard's own log")
    folder.wait_up()
    assert guard.poll() is None
    assert folder.pids()["w1"] == before["w1"]
    for name in ("w0", "w1"):
        assert os.readlink(f"/proc/{folder.pids()[name]}/fd/1") == str(own)
    assert folder.run("stop").returncode == 0


def test_a_pipe_that_is_full_and_never_read_does_not_block_guard(folder: Folder) -> None:
    folder.workers(2, "retry=0")
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    try:
        while True:
            os.write(writer, bytes(4096))
    except BlockingIOError:
        os.set_blocking(writer, True)
    guard = piped(folder, writer)
    os.close(writer)
    folder.wait_up()
    before = folder.pids()["w0"]
    os.kill(before or 0, signal.SIGKILL)
    wait_until(lambda: folder.pids()["w0"] not in (None, before), "w0 runs again")
    assert "died: signal KILL" in (folder.path / ".guard" / "guard.log").read_text()
    assert folder.run("stop").returncode == 0
    assert guard.wait(60) == 0
    os.close(reader)


# the clock, the hung primary, another PID namespace


def faulty_status(folder: Folder, fault: str) -> str:
    command = [sys.executable, FAULTY, fault, "status"]
    return subprocess.run(command, cwd=folder.path, capture_output=True, text=True).stdout


@pytest.mark.parametrize("shift", [86400, -86400])
def test_a_clock_that_is_set_by_a_day_restarts_nothing(folder: Folder, shift: int) -> None:
    folder.write_list("name=w0 ./w", "name=w1 retry=0 ./w", "name=w2 retry=1h ./no-such-file")
    folder.faulty(f"clock:{shift}")
    wait_until(lambda: len(folder.pids()) == 3 and folder.rows()["w2"]["state"] == "broken", "w2 is broken")
    folder.wait_up(2)
    before, calm = folder.pids(), faulty_status(folder, f"clock:{shift}")
    (folder.path / "clock-is-set").touch()
    assert folder.run("reload").returncode in (0, 1)
    os.kill(before["w1"] or 0, signal.SIGKILL)
    wait_until(lambda: folder.pids()["w1"] not in (None, before["w1"]), "w1 runs again")
    shifted = faulty_status(folder, f"clock:{shift}")
    (folder.path / "clock-is-set").unlink()
    assert folder.run("reload").returncode in (0, 1)
    rows = folder.rows()
    assert rows["w0"]["pid"] == before["w0"]
    assert [line.split() for line in folder.log().splitlines()].count(["w0"]) == 0
    assert folder.log().count("w0[") == 1
    assert folder.log().count("w2 can't start") == 1
    assert "in 59m" in calm
    assert "in 59m" in shifted
    assert "23h" not in shifted
    assert "1d" not in shifted


def test_a_primary_that_hangs_is_replaced_by_the_next_cron_line(folder: Folder) -> None:
    folder.workers(3)
    hung = folder.up()
    before, guard = folder.pids(), folder.status()["guard"]
    os.kill(guard["pid"], signal.SIGSTOP)
    cron = folder.faulty("ping:3")
    assert cron.wait(60) == 1
    assert hung.wait(60) == -signal.SIGKILL
    wait_until(lambda: folder.status()["guard"]["pid"] == guard["standby"], "the standby is primary")
    folder.wait_up()
    assert folder.pids() == before
    assert folder.instances() == Counter(dict.fromkeys(before, 1))
    assert f"guard[{guard['pid']}] gave no sign of life for 3 s: killed, another takes over" in folder.log()


def test_a_primary_that_pauses_only_is_left_alone(folder: Folder) -> None:
    folder.workers(1)
    primary = folder.up()
    before = folder.status()
    os.kill(primary.pid, signal.SIGSTOP)
    cron = folder.guard()
    wait_until(lambda: _waits_in_semop(cron.pid), "the other guard waits for an answer")
    os.kill(primary.pid, signal.SIGCONT)
    assert cron.wait(60) == 1
    after = folder.status()
    assert (after["guard"], [row["pid"] for row in after["scripts"]]) == (
        before["guard"],
        [row["pid"] for row in before["scripts"]],
    )
    assert "no sign of life" not in folder.log()


def _waits_in_semop(pid: int) -> bool:
    return Path(f"/proc/{pid}/wchan").read_text().startswith(("__do_semtimedop", "do_semtimedop"))


@pytest.mark.skipif(os.geteuid() != 0, reason="a PID namespace needs root")
def test_a_guard_in_another_pid_namespace_starts_no_twin(folder: Folder) -> None:
    names = folder.workers(2)
    folder.up()
    before = folder.pids()
    done: Any = subprocess.run(
        ["unshare", "--pid", "--fork", "--kill-child", "--mount-proc", GUARD],
        cwd=folder.path,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 1
    assert folder.pids() == before
    assert folder.instances() == Counter(dict.fromkeys(names, 1))
    assert len(folder.journal()) == 2
