"""Semaphore sets that vanish, can't be had, or do not do what they promise: no twin, no dead end."""

from __future__ import annotations

import os
import signal
import subprocess
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.system.harness import Folder, wait_until
from tests.system.sets import ipcrm, key_of, sets

LIMITS = Path("/proc/sys/kernel/sem")


def whole(folder: Folder, pids: dict[str, int | None]) -> None:
    """Guard holds its semaphore, has a standby, and every script is the one process that it was."""

    def so() -> bool:
        guard = folder.status()["guard"]
        return (
            bool(guard["standby"])
            and folder.pids() == pids
            and key_of(folder) in sets()
            and _title(guard["pid"]) == "guard: primary"
        )

    wait_until(so, f"guard is whole again: {folder.status()}\n{folder.log()[-2000:]}")
    assert folder.instances() == Counter(dict.fromkeys(pids, 1))
    assert not folder.twins()


def goes_on(folder: Folder, name: str) -> None:
    """A killed script is respawned, and a killed primary is followed by one that adopts: nothing came to a dead end."""
    before = folder.pids()
    os.kill(before[name] or 0, signal.SIGKILL)
    wait_until(lambda: folder.pids()[name] not in (None, before[name]), f"{name} runs again")
    folder.wait_up()
    pids, guard = folder.pids(), folder.status()["guard"]["pid"]
    os.kill(guard, signal.SIGKILL)
    wait_until(lambda: folder.status()["guard"]["pid"] not in (None, guard), "another is primary")
    folder.wait_up()
    whole(folder, pids)


def _title(pid: int | None) -> str:
    try:
        return Path(f"/proc/{pid}/cmdline").read_text()[: len("guard: primary")]
    except OSError:
        return ""


@pytest.mark.parametrize("which", ["", "w0", "w2"])
def test_a_set_removed_while_cron_starts_guards_doubles_nothing(folder: Folder, which: str) -> None:
    folder.workers(3, "retry=0")
    primary = folder.up()
    before = folder.pids()
    crons = []
    for _ in range(4):
        crons += [folder.guard() for _ in range(4)]
        ipcrm(key_of(folder, which))
    wait_until(lambda: all(cron.poll() is not None for cron in crons), "the others have left")
    assert {cron.returncode for cron in crons} == {1}
    assert primary.poll() is None
    if which:
        assert "its semaphore is not held" in folder.rows()[which]["problem"]
    whole(folder, before)
    goes_on(folder, which or "w1")
    log = folder.log()
    assert "RemoveIPC" in log
    assert "loginctl enable-linger" in log
    assert folder.rows()[which or "w1"]["problem"] is None


def test_a_killed_script_whose_set_was_removed_is_respawned_with_a_new_set(folder: Folder) -> None:
    folder.workers(1, "retry=0")
    folder.up()
    before = folder.pids()["w0"]
    ipcrm(key_of(folder, "w0"))
    os.kill(before or 0, signal.SIGKILL)
    wait_until(lambda: folder.pids()["w0"] not in (None, before), "w0 runs again")
    assert key_of(folder, "w0") in sets()
    assert folder.rows()["w0"]["problem"] is None
    folder.logged("w0: its semaphore set was removed")
    assert "enable-linger" in folder.log()


def all_keys(folder: Folder) -> list[int]:
    return [key_of(folder), *(key_of(folder, name) for name in folder.pids())]


def test_remove_ipc_takes_all_sets_at_once(folder: Folder) -> None:
    folder.workers(3, "retry=0")
    folder.up()
    before = folder.pids()
    ipcrm(*all_keys(folder))
    folder.logged("RemoveIPC")
    cron = folder.guard()
    assert cron.wait(60) == 1
    whole(folder, before)
    goes_on(folder, "w1")


def test_remove_ipc_and_a_killed_primary_in_the_same_moment(folder: Folder) -> None:
    folder.workers(3, "retry=0")
    folder.up()
    for _ in range(3):
        before, guard = folder.pids(), folder.status()["guard"]["pid"]
        keys = all_keys(folder)
        removal = subprocess.Popen(["ipcrm", *(word for key in keys for word in ("-S", f"{key:#x}"))], stderr=subprocess.DEVNULL)
        os.kill(guard, signal.SIGKILL)
        removal.wait()
        folder.guard()
        wait_until(lambda: folder.status()["guard"]["pid"] not in (None, guard), "another is primary")  # noqa: B023
        folder.wait_up()
        whole(folder, before)
    goes_on(folder, "w1")


def test_remove_ipc_and_a_killed_primary_need_no_cron_line(folder: Folder) -> None:
    folder.workers(3, "retry=0")
    folder.up()
    before, guard = folder.pids(), folder.status()["guard"]
    os.kill(guard["pid"], signal.SIGSTOP)  # so that it dies before it can make its set anew
    ipcrm(*all_keys(folder))
    os.kill(guard["pid"], signal.SIGKILL)
    wait_until(lambda: folder.status()["guard"]["pid"] == guard["standby"], "the standby is primary")
    folder.wait_up()
    whole(folder, before)


def test_remove_ipc_without_a_standby_is_noticed_at_the_next_event(folder: Folder) -> None:
    folder.workers(2, "retry=0")
    guard = folder.guard("--no-standby")
    wait_until(lambda: set(folder.instances()) == {"w0", "w1"}, "all run")
    wait_until(lambda: all(row["state"] == "running" for row in folder.rows().values()), "all are running")
    before = folder.pids()
    ipcrm(*all_keys(folder))
    cron = folder.guard("--no-standby")
    assert cron.wait(60) == 1
    os.kill(before["w0"] or 0, signal.SIGKILL)
    wait_until(lambda: folder.pids()["w0"] not in (None, before["w0"]), "w0 runs again")
    folder.logged("RemoveIPC")
    assert guard.poll() is None
    assert folder.pids()["w1"] == before["w1"]
    wait_until(lambda: folder.status()["guard"]["pid"] == guard.pid, "guard holds its semaphore")
    assert folder.instances() == Counter({"w0": 1, "w1": 1})


@pytest.fixture
def limits() -> Iterator[Path]:
    """The limits of this IPC namespace, put back afterwards."""
    if os.geteuid() != 0:
        pytest.skip("kernel.sem can be changed by root in an IPC namespace of its own only")
    before = LIMITS.read_text()
    yield LIMITS
    LIMITS.write_text(before)


def at_most(count: int) -> None:
    """No more than so many sets."""
    LIMITS.write_text(" ".join([*LIMITS.read_text().split()[:3], str(count)]))


def test_a_line_without_a_semaphore_says_so_and_runs_when_there_is_room(folder: Folder, limits: Path) -> None:
    folder.workers(3, "retry=0..200ms")
    at_most(len(sets()) + 3)
    folder.guard()
    wait_until(lambda: folder.rows().get("w2", {}).get("state") == "broken", "the last line is broken")
    row = folder.rows()["w2"]
    assert "no System V semaphores are left (this is not about disk space)" in row["problem"]
    assert "ipcs -s" in row["problem"]
    folder.wait_up(2)
    assert folder.instances() == Counter({"w0": 1, "w1": 1})
    at_most(32000)
    folder.wait_up(3)
    assert folder.rows()["w2"]["problem"] is None


def test_guard_without_a_semaphore_of_its_own_says_so(folder: Folder, limits: Path) -> None:
    folder.workers(1)
    at_most(len(sets()))
    assert folder.guard().wait(60) == 2
    assert "no System V semaphores are left (this is not about disk space)" in folder.log()
    assert not folder.instances()
    at_most(32000)
    folder.up()


def test_guard_whose_set_can_not_be_made_anew_goes_on_and_makes_it_later(folder: Folder, limits: Path) -> None:
    folder.workers(2, "retry=0")
    folder.up()
    before = folder.pids()
    at_most(len(sets()) - 1)
    ipcrm(key_of(folder))
    os.kill(before["w0"] or 0, signal.SIGKILL)
    wait_until(lambda: folder.pids()["w0"] not in (None, before["w0"]), "w0 runs again")
    assert key_of(folder) not in sets()
    at_most(32000)
    folder.logged("RemoveIPC")
    whole(folder, folder.pids())
    assert folder.pids()["w1"] == before["w1"]


def test_guard_refuses_where_sem_undo_does_nothing(folder: Folder) -> None:
    folder.workers(2)
    before = sets()
    assert folder.faulty("undo").wait(60) == 2
    assert "SEM_UNDO does nothing on this system" in folder.log()
    assert "nothing could be kept from running twice" in folder.log()
    assert sets() == before
    assert not folder.journal()
