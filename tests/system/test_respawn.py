"""P3: no dead end. What dies is tried for ever, ever more slowly up to its cap, and the others do not notice."""

from __future__ import annotations

import calendar
import os
import re
import signal
import time
from itertools import pairwise
from typing import Any

import pytest

from tests.system.harness import Folder, wait_until
from tests.system.test_stop import kill_guards

STARTS = '#!/bin/sh\necho "$(date +%s.%N)" >> "starts.$GUARD_NAME"\n'


def starts(folder: Folder, name: str) -> list[float]:
    """When a script was started so far."""
    file = folder.path / f"starts.{name}"
    return [float(line) for line in file.read_text().split()] if file.exists() else []


def test_a_script_that_exits_at_once_is_tried_ever_more_slowly_up_to_its_cap(folder: Folder) -> None:
    folder.script("dies", f"{STARTS}exit 3\n")
    folder.write_list("name=dies retry=100ms..800ms ./dies", "name=w0 ./w")
    folder.guard()
    wait_until(lambda: folder.rows().get("w0", {}).get("pid"), "the other runs")
    other = folder.pids()["w0"]
    wait_until(lambda: len(starts(folder, "dies")) >= 8, "eight tries")
    pauses = [later - earlier for earlier, later in pairwise(starts(folder, "dies"))]
    floors = [0.1, 0.18, 0.36, 0.72, 0.72, 0.72, 0.72]  # MIN·2ⁿ up to MAX, less a tenth of jitter
    assert all(pause >= floor for pause, floor in zip(pauses, floors, strict=False)), pauses
    assert folder.pids()["w0"] == other

    def waiting() -> dict[str, Any] | None:
        row = folder.rows()["dies"]
        return row if row["state"] == "waiting" else None

    row = wait_until(waiting, "it waits")
    assert row["last_exit"] == 3
    assert row["restarts"] >= 7
    assert calendar.timegm(time.strptime(row["next_try"], "%Y-%m-%dT%H:%M:%SZ")) <= time.time() + 1
    assert folder.run("status").returncode == 1


def test_the_pause_is_remembered_by_the_next_guard(folder: Folder) -> None:
    folder.script("dies", f"{STARTS}exit 3\n")
    folder.write_list("name=dies retry=10s..60s ./dies", "name=w0 ./w")
    folder.guard()
    folder.logged("dies[", 2)
    next_try = wait_until(lambda: folder.rows()["dies"]["next_try"], "it waits")
    os.kill(folder.status()["guard"]["pid"], signal.SIGKILL)
    folder.logged("w0", 2)
    row = folder.rows()["dies"]
    assert abs(_seconds(row["next_try"]) - _seconds(next_try)) <= 1
    assert len(starts(folder, "dies")) == 1


def test_a_script_that_ends_with_0_is_not_slowed_down(folder: Folder) -> None:
    folder.script("ends", f"{STARTS}exit 0\n")
    folder.write_list("name=ends retry=100ms..60s ./ends")
    folder.guard()
    wait_until(lambda: len(starts(folder, "ends")) >= 10, "ten runs (doubling from 0.1 s would take 51 s)", 40)
    assert folder.rows()["ends"]["last_exit"] == 0


def test_retry_0_respawns_at_once(folder: Folder) -> None:
    folder.workers(1, "retry=0")
    folder.up()
    seen = set()
    for _ in range(20):
        pid = wait_until(lambda: next((p for n, p in folder.processes(leaders=True) if p not in seen), None), "it runs")
        seen.add(pid)
        os.kill(pid, signal.SIGKILL)
    wait_until(lambda: (folder.pids()["w0"] or 0) not in (0, *seen), "it runs again")
    assert not folder.twins()


def test_a_line_that_cannot_run_is_broken_says_why_and_runs_when_mended(folder: Folder) -> None:
    folder.write_list("retry=200ms..500ms ./missing.sh", "retry=200ms..500ms notexecutable.xyz", "name=w0 ./w")
    (folder.path / "notexecutable.xyz").write_text("x")
    folder.guard()
    wait_until(lambda: len(folder.rows()) == 3 and folder.rows()["w0"]["pid"], "the good one runs")
    rows = folder.rows()
    assert rows["missing.sh"]["state"] == "broken"
    assert rows["missing.sh"]["problem"] == "./missing.sh: no such file; put it there, or correct the line"
    assert "chmod +x" in rows["notexecutable.xyz"]["problem"]
    folder.script("missing.sh", "#!/bin/sh\nexec sleep 1000000\n")
    wait_until(lambda: folder.rows()["missing.sh"]["state"] == "running", "it runs as soon as it is there")
    assert folder.rows()["missing.sh"]["problem"] is None


def test_an_interpreter_that_is_missing_is_said_and_not_counted_as_an_exit(folder: Folder) -> None:
    folder.script("bad", "#!/no/such/interpreter\n")
    folder.write_list("./bad", "name=w0 ./w")
    folder.guard()
    folder.logged("bad can't start: can't exec: No such file or directory")
    assert folder.rows()["bad"]["last_exit"] is None


def test_a_file_without_a_first_line_is_run_by_the_shell(folder: Folder) -> None:
    folder.script("plain", "exec sleep 1000000\n")
    folder.write_list("./plain", "py.py", "name=path sleep 1000000")
    (folder.path / "py.py").write_text("import time\ntime.sleep(1e6)\n")
    folder.up()
    assert all(row["state"] == "running" for row in folder.rows().values())


def test_after_holds_back_the_first_start(folder: Folder) -> None:
    folder.write_list("name=second after=first ./w", "name=first retry=300ms ./first")
    folder.guard()
    wait_until(lambda: folder.rows().get("second", {}).get("problem") == "waits for first", "it waits and says so")
    folder.script("first", (folder.path / "w").read_text())
    folder.wait_up()
    assert folder.log().index("first[") < folder.log().index("second[")


def test_a_script_is_running_from_its_exec_on_and_not_before(folder: Folder) -> None:
    folder.workers(3)  # one born by the spare, the others without
    (folder.path / "halt").touch()
    folder.faulty("halted:exec")
    wait_until(lambda: len(list(folder.path.glob("halted.*"))) == 3, "their births have come to their exec")
    assert {(row["state"], row["pid"]) for row in folder.rows().values()} == {("waiting", None)}
    assert folder.run("status").returncode == 1
    (folder.path / "halt").unlink()
    folder.wait_up()


@pytest.mark.parametrize("fault", [None, "nochildren"])
def test_a_leftover_in_the_way_of_a_respawn_is_ended_first(folder: Folder, fault: str | None) -> None:
    folder.script("parent", "#!/bin/sh\nsetsid sleep 1000007 &\necho $! >> children\nexec sleep 1000000\n")
    folder.write_list("retry=0 ./parent")
    folder.faulty(fault) if fault else folder.guard()
    folder.wait_up()
    for adopted in (False, True):
        child = int((folder.path / "children").read_text().split()[-1])
        if adopted:
            kill_guards(folder)
            folder.up()
        pid = folder.pids()["parent"]
        assert pid
        if adopted:  # until then its end is news to nobody, and what it left is met before the next start
            wait_until(lambda: f"parent[{pid}] adopted" in folder.log(), "the new primary knows it")  # noqa: B023
        os.kill(pid, signal.SIGKILL)
        wait_until(lambda: folder.pids()["parent"] not in (None, pid), "it runs again")  # noqa: B023 - called in this round
        assert re.search(rf"parent\[{pid}\] died: .*; ending what it left behind", folder.log())
        assert child not in [found for _, found in folder.processes()]


def _seconds(stamp: str) -> int:
    return calendar.timegm(time.strptime(stamp, "%Y-%m-%dT%H:%M:%SZ"))
