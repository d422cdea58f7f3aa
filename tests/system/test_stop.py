"""P4: stop means stopped, and it stays so."""

from __future__ import annotations

import os
import signal
import subprocess
from collections import Counter
from pathlib import Path

import pytest

from tests.system.harness import GUARD, INSIDE, Folder, wait_until

# One of each kind that other supervisors leave behind.
FAMILY = {
    "deaf": 'trap "" TERM\necho up >> up\nwhile :; do sleep 1000000; done\n',
    "grandchild": "sleep 1000001 &\necho up >> up\nexec sleep 1000002\n",
    "detached": "setsid sh -c 'trap \"\" TERM; while :; do sleep 1000003; done' &\necho up >> up\nexec sleep 1000004\n",
    "daemon": "setsid sleep 1000005 </dev/null >/dev/null 2>&1 &\necho up >> up\nexit 0\n",
}


@pytest.fixture
def family(folder: Folder) -> Folder:
    """A folder whose scripts all leave something behind, running."""
    for name, text in FAMILY.items():
        folder.script(name, f"#!/bin/sh\n{text}")
    folder.write_list(*(f"stop=500ms ./{name}" for name in FAMILY))
    folder.guard()
    wait_until(lambda: Counter(_lines(folder.path / "up"))["up"] == len(FAMILY), "the family is up")
    wait_until(lambda: folder.rows()["daemon"]["problem"], "the daemonizing one is noticed")
    assert len(set(folder.processes())) >= 6
    return folder


def test_guard_stop_leaves_nothing_of_any_tree(family: Folder) -> None:
    assert family.run("stop").returncode == 0
    assert not list(family.processes())
    assert family.run("status").returncode == 3


def test_guard_stop_leaves_nothing_of_adopted_trees_either(family: Folder) -> None:
    os.kill(family.status()["guard"]["pid"], signal.SIGKILL)
    family.logged("took over")
    assert family.run("stop").returncode == 0
    assert not list(family.processes())


def test_guard_stop_without_a_guard_ends_what_still_runs(family: Folder) -> None:
    kill_guards(family)
    assert family.run("stop").returncode == 0
    assert not list(family.processes())


def test_term_to_guard_ends_all_and_the_next_cron_line_starts_all(family: Folder) -> None:
    family.guards[0].send_signal(signal.SIGTERM)
    assert family.guards[0].wait(30) == 0
    assert not list(family.processes())
    family.guard()
    wait_until(lambda: all(row["state"] == "running" for row in family.rows().values()), "all run again")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_guard_ends_with_its_standby(folder: Folder, number: signal.Signals) -> None:
    folder.workers(2)
    guard = folder.up()
    standby = folder.status()["guard"]["standby"]
    guard.send_signal(number)
    assert guard.wait(30) == 0
    assert not Path(f"/proc/{standby}/cmdline").exists() or not Path(f"/proc/{standby}/cmdline").read_bytes()
    assert "took over" not in folder.log()


def test_a_stop_outlives_cron_and_reboot_until_start(folder: Folder) -> None:
    folder.workers(3)
    folder.up()
    assert folder.run("stop").returncode == 0
    for _ in range(3):
        assert folder.guard().wait(30) == 0
    with another_boot(folder):
        assert folder.guard().wait(30) == 0
        assert not list(folder.processes())
        assert [row["state"] for row in folder.rows().values()] == ["stopped"] * 3
        assert folder.run("start").returncode == 0
        folder.wait_up()
        assert folder.run("stop").returncode == 0


def test_after_a_reboot_old_records_mean_nothing(folder: Folder) -> None:
    """The pid of an earlier boot may belong to anybody now."""
    folder.workers(1)
    folder.up()
    kill_guards(folder)
    stranger = subprocess.Popen(["sleep", "1000000"])
    try:
        for _, pid in list(folder.processes()):
            os.kill(pid, signal.SIGKILL)
        record = next(file for file in (folder.path / ".guard/run").iterdir())
        words = record.read_bytes()[:80].split()
        start = Path(f"/proc/{stranger.pid}/stat").read_text().rpartition(")")[2].split()[19]
        with record.open("r+b") as file:
            file.write(f"{stranger.pid} {start} {words[2].decode()}".ljust(79).encode() + b"\n")
        with another_boot(folder):
            folder.up()
            assert folder.pids()["w0"] != stranger.pid
            assert not folder.rows()["w0"]["adopted"]
            assert folder.run("stop").returncode == 0
        assert stranger.poll() is None
    finally:
        stranger.kill()
        stranger.wait()


def test_stop_and_restart_of_a_name_touch_that_one_only(folder: Folder) -> None:
    folder.write_list("name=a ./w", "name=b copies=2 ./w", "name=c ./w")
    folder.up()
    before = folder.pids()
    assert folder.run("stop", "a").returncode == 0
    rows = folder.rows()
    assert (rows["a"]["state"], rows["a"]["pid"]) == ("stopped", None)
    assert folder.run("restart", "b").returncode == 0
    after = folder.pids()
    assert after["b"] not in (None, before["b"])
    assert after["b#2"] not in (None, before["b#2"])
    assert folder.run("restart", "b#2").returncode == 0
    assert folder.pids() | {"b#2": 0} == after | {"b#2": 0}
    assert after["c"] == before["c"]
    assert folder.run("status").returncode == 1
    assert folder.run("start", "a").returncode == 0
    assert folder.pids()["a"] is not None
    assert folder.run("status").returncode == 0
    assert not folder.twins()


def test_a_stopped_name_stays_stopped_over_the_death_of_guard(folder: Folder) -> None:
    folder.workers(2)
    folder.up()
    assert folder.run("stop", "w0").returncode == 0
    os.kill(folder.status()["guard"]["pid"], signal.SIGKILL)
    folder.wait_up(1)
    assert folder.rows()["w0"]["state"] == "stopped"
    kill_guards(folder)
    folder.up(count=1)
    assert folder.rows()["w0"]["state"] == "stopped"


def test_stop_of_a_name_without_a_guard_ends_that_one_and_leaves_the_others(folder: Folder) -> None:
    folder.workers(3)
    folder.up()
    before = folder.pids()
    kill_guards(folder)
    assert folder.run("stop", "w1").returncode == 0
    assert folder.instances() == Counter(["w0", "w2"])
    folder.up(count=2)
    assert folder.pids() == {**before, "w1": None}


def test_a_name_started_after_a_stop_of_all_comes_alone(folder: Folder) -> None:
    folder.workers(3)
    folder.up()
    folder.run("stop")
    assert folder.run("start", "w1").returncode == 0
    assert {name: row["state"] for name, row in folder.rows().items()} == {"w0": "stopped", "w1": "running", "w2": "stopped"}
    assert folder.run("start").returncode == 0
    assert [row["state"] for row in folder.rows().values()] == ["running"] * 3


def test_guard_killed_in_the_middle_of_a_stop_finishes_it(folder: Folder) -> None:
    folder.script("deaf", '#!/bin/sh\ntrap "" TERM\necho up >> up\nwhile :; do sleep 1000000; done\n')
    folder.write_list("stop=3s ./deaf")
    folder.guard()
    wait_until((folder.path / "up").exists, "it is up")
    stop = subprocess.Popen([GUARD, "stop"], cwd=folder.path)
    folder.logged("told to end")
    os.kill(folder.status()["guard"]["pid"], signal.SIGKILL)
    assert stop.wait(60) == 0
    assert not list(folder.processes())


def test_scripts_end_in_the_reverse_order_of_after(folder: Folder) -> None:
    text = "#!/bin/sh\ntrap 'echo \"$GUARD_NAME\" >> ended; exit' TERM\necho up >> up\nwhile :; do sleep 0.05; done\n"
    folder.script("slow", text)
    folder.write_list("name=base ./slow", "name=middle after=base ./slow", "name=top after=middle ./slow")
    folder.up()
    wait_until(lambda: len(_lines(folder.path / "up")) == 3, "each has its trap")
    assert folder.run("stop").returncode == 0
    assert _lines(folder.path / "ended") == ["top", "middle", "base"]


def test_start_without_a_guard_launches_one_that_outlives_the_command(folder: Folder) -> None:
    folder.workers(2)
    assert folder.run("start").returncode == 0
    found = folder.status()
    assert found["guard"]["state"] == "running"
    assert os.getsid(found["guard"]["pid"]) != os.getsid(0)
    environment = Path(f"/proc/{found['guard']['pid']}/environ").read_bytes()
    assert b"GUARD_" not in environment


def test_a_first_start_is_done_when_its_scripts_run_and_not_before(folder: Folder) -> None:
    folder.write_list(*(f"name=w{number} ./w" for number in range(20)), "name=bad ./missing")
    done = folder.run("start", "--timeout", "2s")
    assert done.returncode == 1
    assert "bad is broken: ./missing: no such file" in done.stderr
    assert "w1" not in done.stderr
    assert [row["state"] for row in folder.rows().values()] == ["running"] * 20 + ["broken"]


@pytest.mark.parametrize(
    ("lines", "status", "text"),
    [
        (None, 3, "List.txt does not exist; `guard init` writes a first one"),
        (["./missing"], 4, "line 1: ./missing: no such file"),
        (["sleep 1 'x"], 3, "List.txt:1: no closing quotation"),
    ],
    ids=["no list", "no script", "a mistake"],
)
def test_a_start_whose_guard_ends_at_once_says_why(folder: Folder, lines: list[str] | None, status: int, text: str) -> None:
    if lines is not None:
        folder.write_list(*lines)
    done = folder.run("start")
    assert done.returncode == status, done.stderr
    assert text in done.stderr
    assert f"the guard that was started has ended, exit status {status}" in done.stderr


def test_a_wrong_name_is_named_and_changes_nothing(folder: Folder) -> None:
    folder.workers(1)
    folder.up()
    for command in ("stop", "restart", "start", "status"):
        done = folder.run(command, "nobody")
        assert done.returncode == 64
        assert "nobody: no such script; there are w0" in done.stderr
    assert not (folder.path / ".guard/wishes.json").exists()


def kill_guards(folder: Folder) -> None:
    """Ends primary and standby without giving either the time to act."""
    guard = folder.status()["guard"]
    os.kill(guard["standby"], signal.SIGSTOP)
    os.kill(guard["pid"], signal.SIGKILL)
    os.kill(guard["standby"], signal.SIGKILL)
    wait_until(lambda: folder.status()["guard"]["pid"] is None, "guard is gone")


class another_boot:  # noqa: N801 - reads as a sentence in `with`
    """Everything that guard can tell a reboot by: another boot id, and no semaphores."""

    def __init__(self, folder: Folder) -> None:
        if INSIDE not in os.environ:
            pytest.skip("a boot id can be simulated in a mount namespace only: run the tests as root")
        self._file = folder.path / "boot_id"

    def __enter__(self) -> None:
        self._file.write_text("11111111-2222-3333-4444-555555555555\n")
        subprocess.run(["mount", "--bind", self._file, "/proc/sys/kernel/random/boot_id"], check=True)

    def __exit__(self, *_: object) -> None:
        subprocess.run(["umount", "/proc/sys/kernel/random/boot_id"], check=True)


def _lines(file: Path) -> list[str]:
    return file.read_text().split() if file.exists() else []
