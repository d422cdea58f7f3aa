"""Scripts that close, hide, unshare, detach or fork whatever they can: seen, adopted, never doubled, stopped to the last."""

from __future__ import annotations

import os
import signal
import sys
from collections import Counter
from pathlib import Path

import psutil
import pytest

from tests.system.harness import Folder, wait_until

CLOSED = f"""#!{sys.executable}
import os, time
os.closerange(0, 256)
open("ready", "w").close()
time.sleep(1000000)
"""
RENAMED = f"""#!{sys.executable}
import setproctitle, time
setproctitle.setproctitle("something quite different" + " " * 4000)
open("ready", "w").close()
time.sleep(1000000)
"""
ZOMBIE = f"""#!{sys.executable}
import os, time
if os.fork() == 0:
    os._exit(0)
open("ready", "w").close()
time.sleep(1000000)
"""
UNSHARED = """#!/bin/sh
exec unshare --ipc sh -c 'touch ready; exec sleep 1000000'
"""
ODD = {"closed": CLOSED, "renamed": RENAMED, "zombie": ZOMBIE, "unshared": UNSHARED}


def one(folder: Folder, pid: int) -> None:
    """The script is this one process, says status, and the kernel."""
    folder.wait_up(1)
    row = folder.rows()["odd"]
    assert (row["state"], row["pid"]) == ("running", pid)
    assert leaders(folder) == [pid]


def leaders(folder: Folder) -> list[int]:
    """Every leader of a session in the folder but guard, whatever it did to its title and environment."""
    found = []
    for process in psutil.process_iter(["cmdline"]):
        try:
            here = process.cwd() == str(folder.path) and process.status() != psutil.STATUS_ZOMBIE
            if here and os.getsid(process.pid) == process.pid and not " ".join(process.info["cmdline"]).startswith("guard: "):
                found.append(process.pid)
        except (psutil.Error, OSError):
            continue
    return found


@pytest.mark.parametrize("kind", ODD)
def test_an_odd_script_is_seen_adopted_and_never_doubled(folder: Folder, kind: str) -> None:
    if kind == "unshared" and os.geteuid() != 0:
        pytest.skip("an IPC namespace needs root")
    folder.script("odd", ODD[kind])
    folder.write_list("retry=0 ./odd")
    folder.up()
    wait_until((folder.path / "ready").exists, "it is as odd as it gets")
    pid = folder.pids()["odd"]
    assert pid
    one(folder, pid)
    problem = folder.rows()["odd"]["problem"]
    assert ("unshare -i" in problem) if kind == "unshared" else problem is None
    for _ in range(2):
        guard = folder.status()["guard"]["pid"]
        os.kill(guard, signal.SIGKILL)
        wait_until(lambda: folder.status()["guard"]["pid"] not in (None, guard), "another is primary")  # noqa: B023
        one(folder, pid)
        assert folder.guard().wait(60) == 1
    assert folder.rows()["odd"]["adopted"]
    assert "odd[" + str(pid) + "] died" not in folder.log()
    os.kill(pid, signal.SIGKILL)
    wait_until(lambda: folder.pids()["odd"] not in (None, pid), "it runs again")
    assert folder.run("stop").returncode == 0
    assert not psutil.pid_exists(pid)


FORKER = f"""#!{sys.executable}
import os, signal, time
signal.signal(signal.SIGTERM, signal.SIG_IGN)
deadline = time.monotonic() + 60
open("ready", "w").close()
while time.monotonic() < deadline:
    pid = os.fork()
    if pid:
        if os.getpid() == os.getsid(0) and os.environ["GUARD_NAME"] and not os.path.exists("child"):
            open("child", "w").close()
            while True:
                signal.pause()
        os._exit(0)
    os.setsid()
"""


def test_a_fast_forker_that_detaches_is_stopped_to_the_last(folder: Folder) -> None:
    folder.script("odd", FORKER)
    folder.write_list("stop=200ms ./odd")
    folder.up()
    wait_until((folder.path / "child").exists, "it forks")
    assert folder.run("stop").returncode == 0
    assert not list(folder.processes())


LEAVER = """#!/bin/sh
trap '' TERM
setsid sh -c 'trap "" TERM; echo $$ > left; exec sleep 1000000' &
while [ ! -s left ]; do sleep 0.01; done
echo "START $GUARD_NAME $$" >> journal
wait
"""


@pytest.mark.parametrize("adopted", [False, True])
def test_a_respawn_waits_until_what_detached_itself_is_gone(folder: Folder, adopted: bool) -> None:
    folder.script("odd", LEAVER)
    folder.write_list("retry=0 stop=1h ./odd")
    folder.up()
    wait_until(folder.journal, "it has left something")
    left = int((folder.path / "left").read_text())
    if adopted:
        guard = folder.status()["guard"]["pid"]
        os.kill(guard, signal.SIGKILL)
        wait_until(lambda: folder.status()["guard"]["pid"] not in (None, guard), "another is primary")
        folder.wait_up()
    os.kill(folder.pids()["odd"] or 0, signal.SIGKILL)
    folder.logged("ending what it left behind")
    assert folder.run("reload").returncode == 0  # guard has had a turn since
    assert folder.rows()["odd"]["state"] == "stopping"
    assert Counter(line[0] for line in folder.journal()) == Counter(START=1)
    assert Path(f"/proc/{left}").exists()
    (folder.path / "left").unlink()
    os.kill(left, signal.SIGKILL)
    wait_until(lambda: len(folder.journal()) == 2, "it runs again")
    folder.wait_up()
    folder.run("stop", "--timeout", "0s")
    for _, pid in folder.processes():  # they take no TERM, and the list gives them an hour
        os.kill(pid, signal.SIGKILL)
    assert folder.run("stop").returncode == 0
