"""P1 and P2: whoever is killed, whenever, scripts go on, and none runs twice."""

from __future__ import annotations

import os
import random
import signal
import threading
import time
from collections import Counter

import psutil
import pytest

from guard.birth import STEPS
from tests.system.harness import Folder, alive, wait_until

TWENTY = 20


def test_scripts_keep_their_pids_when_the_primary_is_killed(folder: Folder) -> None:
    folder.workers(TWENTY)
    folder.up()
    before, guard = folder.pids(), folder.status()["guard"]
    os.kill(guard["pid"], signal.SIGKILL)
    wait_until(lambda: folder.status()["guard"]["pid"] == guard["standby"], "the standby is primary")
    folder.wait_up()
    assert folder.pids() == before
    assert folder.status()["guard"]["standby"] not in (None, guard["standby"])
    assert folder.instances() == Counter(dict.fromkeys(before, 1))


def test_a_killed_standby_is_replaced(folder: Folder) -> None:
    folder.workers(TWENTY)
    folder.up()
    before, guard = folder.pids(), folder.status()["guard"]
    os.kill(guard["standby"], signal.SIGKILL)
    wait_until(lambda: folder.status()["guard"]["standby"] not in (None, guard["standby"]), "a new standby")
    assert folder.status()["guard"]["pid"] == guard["pid"]
    assert folder.pids() == before


def test_the_next_guard_adopts_all_when_both_are_killed(folder: Folder) -> None:
    folder.workers(TWENTY)
    folder.up()
    before, guard = folder.pids(), folder.status()["guard"]
    os.kill(guard["standby"], signal.SIGSTOP)  # so that it can't take over in between
    os.kill(guard["pid"], signal.SIGKILL)
    os.kill(guard["standby"], signal.SIGKILL)
    wait_until(lambda: folder.run("status").returncode == 3, "no guard is left")
    assert all(alive(pid) for pid in before.values() if pid)
    folder.up()
    rows = folder.rows()
    assert {name: row["pid"] for name, row in rows.items()} == before
    assert all(row["adopted"] for row in rows.values())
    assert folder.instances() == Counter(dict.fromkeys(before, 1))


def test_an_adopted_script_that_dies_is_respawned(folder: Folder) -> None:
    folder.workers(2, "retry=0")
    folder.up()
    os.kill(folder.status()["guard"]["pid"], signal.SIGKILL)
    folder.logged("adopted", 2)
    pid = folder.pids()["w0"]
    assert pid
    os.kill(pid, signal.SIGKILL)
    wait_until(lambda: folder.pids()["w0"] not in (None, pid), "w0 runs again")
    row = folder.rows()["w0"]
    assert (row["adopted"], row["restarts"]) == (False, 1)
    assert "exit status unknown" in folder.log()
    assert not folder.twins()


def test_of_fifty_guards_started_at_once_one_stays(folder: Folder) -> None:
    names = folder.workers(TWENTY)
    guards = [folder.guard() for _ in range(50)]
    folder.wait_up()
    wait_until(lambda: sum(guard.poll() is not None for guard in guards) == 49, "49 have left")
    assert sorted(guard.returncode for guard in guards if guard.poll() is not None) == [1] * 49
    assert folder.instances() == Counter(dict.fromkeys(names, 1))
    assert len(folder.journal()) == TWENTY


@pytest.mark.parametrize("birth", ["birth", "spareless"])
@pytest.mark.parametrize("step", STEPS)
def test_a_primary_killed_during_a_birth_neither_doubles_nor_loses_a_script(folder: Folder, step: str, birth: str) -> None:
    names = folder.workers(5)
    folder.faulty(f"{birth}:{step}")
    wait_until((folder.path / "fault-done").exists, "the fault happened")
    folder.wait_up()
    assert folder.log().count("took over") == 1
    wait_until(lambda: folder.instances() == Counter(names), "each runs once, past its exec")
    assert not folder.twins()


@pytest.mark.parametrize("step", STEPS)
def test_the_same_without_a_standby_and_with_the_next_cron_line(folder: Folder, step: str) -> None:
    names = folder.workers(5)
    guard = folder.faulty(f"birth:{step}", "--no-standby")
    assert guard.wait(30) == -signal.SIGKILL
    folder.up()
    wait_until(lambda: folder.instances() == Counter(names), "each runs once, past its exec")
    assert not folder.twins()


def _names() -> list[str]:
    return [f"w{number}" for number in range(TWENTY)]


class Sampler(threading.Thread):
    """Counts from outside how many instances of each script run, as fast as it can."""

    def __init__(self, folder: Folder) -> None:
        super().__init__(daemon=True)
        self._folder, self._over = folder, threading.Event()
        self.most: Counter[str] = Counter()
        self.samples = 0
        self.down_s = dict.fromkeys(_names(), 0.0)

    def run(self) -> None:
        """Samples until `stop`."""
        before = time.monotonic()
        while not self._over.is_set():
            found = self._folder.instances()
            now = time.monotonic()
            self.most |= found
            for name in self.down_s:
                if not found[name]:
                    self.down_s[name] += now - before
            before, self.samples = now, self.samples + 1

    def stop(self) -> None:
        """Ends the sampling."""
        self._over.set()
        self.join()


def test_thirty_seconds_of_random_kills_never_double_a_script(folder: Folder) -> None:
    """One SIGKILL each 200 ms over guard, standby and scripts, and a cron line each second."""
    names = folder.workers(TWENTY, "retry=0")
    folder.up()
    sampler = Sampler(folder)
    sampler.start()
    choice = random.Random(os.environ.get("SEMGUARD_SEED"))
    end, next_cron, kills = time.monotonic() + 30, 0.0, Counter[str]()
    while time.monotonic() < end:
        if time.monotonic() >= next_cron:
            next_cron = time.monotonic() + 1
            folder.guard()
        for kind, pid in choice.sample(_victims(folder), 1):
            try:
                os.kill(pid, signal.SIGKILL)
                kills[kind] += 1
            except ProcessLookupError:
                kills["gone already"] += 1
        threading.Event().wait(0.2)
    sampler.stop()
    folder.guard()
    folder.wait_up()
    down = sum(sampler.down_s.values()) / (30 * TWENTY)
    print(f"kills {dict(kills)}, samples {sampler.samples}, most {max(sampler.most.values())}, down {down:.2%}")
    assert not folder.twins()
    assert max(sampler.most.values()) == 1
    assert folder.instances() == Counter(dict.fromkeys(names, 1))
    assert down <= 0.01
    assert folder.run("stop").returncode == 0
    assert not list(folder.processes())


def _victims(folder: Folder) -> list[tuple[str, int]]:
    """All of guard's processes and all scripts; the parents of the half-born among them."""
    found = list(folder.processes(leaders=True))
    for process in psutil.process_iter(["cmdline"]):
        line = " ".join(process.info["cmdline"] or ())
        if line.startswith("guard: ") and str(folder.path) in line:
            found.append(("guard", process.pid))
    return [(("guard" if kind == "guard" else "script"), pid) for kind, pid in found]
