"""A full disk, a state folder that is read-only, deleted, moved or full of garbage: scripts go on, none runs twice."""

from __future__ import annotations

import os
import random
import re
import shutil
import signal
import subprocess
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest

from tests.system.harness import Folder, wait_until

needs_mounts = pytest.mark.skipif(os.geteuid() != 0, reason="mounts need root")
QUIET = "#!/bin/sh\nexec sleep 1000000\n"  # has no file open


def running(folder: Folder, *names: str) -> None:
    """Waits until exactly these run, once each."""
    wait_until(lambda: folder.instances() == Counter(names), f"{names} run: {folder.instances()}")


def guards(folder: Folder) -> list[int]:
    """Primary and standby, by their titles: records may be unwritable."""
    found = psutil.process_iter(["cmdline"])
    lines = ((process.pid, " ".join(process.info["cmdline"] or ())) for process in found)
    return [pid for pid, line in lines if re.match("guard: (primary|standby) ", line) and str(folder.path) in line]


def all_killed(folder: Folder) -> None:
    """Primary and standby are killed; the scripts go on unguarded."""
    both = guards(folder)
    assert len(both) == 2
    for number in (signal.SIGSTOP, signal.SIGKILL):  # the one can't take over while the other is killed
        for pid in both:
            os.kill(pid, number)
    wait_until(lambda: folder.run("status").returncode == 3, "no guard is left")


def killed(folder: Folder) -> None:
    """The primary is killed; the next one adopts: all scripts keep their pids."""
    before = Counter(folder.processes(leaders=True))
    guard = folder.status()["guard"]["pid"]
    os.kill(guard, signal.SIGKILL)
    wait_until(lambda: folder.status()["guard"]["pid"] not in (None, guard), "another is primary")
    wait_until(lambda: len(guards(folder)) == 2, "a standby")
    assert folder.guard().wait(60) == 1
    assert Counter(folder.processes(leaders=True)) == before


def respawned(folder: Folder, name: str) -> None:
    """A killed script runs again."""
    before = dict(folder.processes(leaders=True))[name]
    os.kill(before, signal.SIGKILL)
    wait_until(lambda: dict(folder.processes(leaders=True)).get(name) not in (None, before), f"{name} runs again")


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of its own for the folder, of two megabytes."""
    path = tmp_path / "disk"
    path.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=2m", "semguard", path], check=True)
    yield path
    subprocess.run(["umount", "--lazy", path], check=True)


def fill(path: Path) -> Path:
    """A file that takes all the room there is."""
    file = path / "filling"
    with file.open("ab", buffering=0) as filling:
        for size in (1 << 20, 1 << 12, 1):
            try:
                while True:
                    filling.write(bytes(size))
            except OSError:
                continue
    return file


@needs_mounts
def test_a_full_disk_stops_neither_births_nor_adoption(small_disk: Path, new_folder: Callable[..., Folder]) -> None:
    folder = new_folder(str(small_disk / "app"))
    folder.script("q", QUIET)
    folder.write_list(*(f"name={name} retry=0 ./q" for name in ("w0", "w1", "w2")))
    folder.up()
    folder.run("stop", "w2")
    assert folder.run("start", "w2").returncode == 0
    for record in (folder.path / ".guard" / "run").iterdir():
        if b"name=w2" in record.read_bytes():
            record.unlink()
    filling = fill(small_disk)
    for name in ("w0", "w2"):
        respawned(folder, name)
    killed(folder)
    respawned(folder, "w1")
    killed(folder)
    for command in ("stop", "restart"):
        done = folder.run(command, "w0")
        assert done.returncode == 6
        assert "No space left on device; nothing was changed" in done.stderr
    running(folder, "w0", "w1", "w2")
    filling.unlink()
    before = dict(folder.processes(leaders=True))
    assert folder.run("reload").returncode == 0
    folder.wait_up(3)
    assert folder.pids() == before
    assert folder.run("stop", "w0").returncode == 0
    running(folder, "w1", "w2")


@needs_mounts
def test_a_read_only_file_system_stops_neither_births_nor_adoption(
    small_disk: Path, tmp_path: Path, new_folder: Callable[..., Folder]
) -> None:
    folder = new_folder(str(small_disk / "app"))
    folder.script("q", QUIET)
    folder.write_list(*(f"name={name} retry=0 ./q" for name in ("w0", "w1")))
    (folder.path / "guard.log").symlink_to(tmp_path / "guard.log")
    folder.up()
    subprocess.run(["mount", "-o", "remount,ro", small_disk], check=True)
    respawned(folder, "w0")
    killed(folder)
    respawned(folder, "w1")
    done = folder.run("stop", "w0")
    assert done.returncode == 6
    assert "Read-only file system; nothing was changed" in done.stderr
    running(folder, "w0", "w1")
    all_killed(folder)
    before = Counter(folder.processes(leaders=True))
    folder.guard()
    wait_until(lambda: folder.status()["guard"]["pid"], "guard runs")
    respawned(folder, "w1")
    assert dict(before)[("w0", dict(folder.processes(leaders=True))["w0"])] == 1
    subprocess.run(["mount", "-o", "remount,rw", small_disk], check=True)
    assert folder.run("reload").returncode == 0
    folder.wait_up(2)


def deleted(state: Path) -> None:
    """All of it is gone."""
    shutil.rmtree(state)


def moved(state: Path) -> None:
    """It has another name."""
    state.rename(state.with_name("elsewhere"))


def moved_far(state: Path) -> None:
    """It lies in another folder."""
    (state.parent.parent / "far").mkdir()
    state.rename(state.parent.parent / "far" / ".guard")


LOSSES = (deleted, moved, moved_far)


@pytest.mark.parametrize("lose", LOSSES)
def test_a_state_folder_that_is_taken_away_is_made_anew(folder: Folder, lose: Callable[[Path], None]) -> None:
    folder.workers(2, "retry=0")
    folder.up()
    before = folder.pids()
    lose(folder.path / ".guard")
    assert folder.guard().wait(60) == 1
    folder.logged("was removed or moved: made anew")
    folder.wait_up(2)
    assert folder.pids() == before
    killed(folder)
    respawned(folder, "w0")
    folder.wait_up(2)
    assert folder.run("stop", "w1").returncode == 0
    assert not folder.twins()


@pytest.mark.parametrize("standby", [True, False])
@pytest.mark.parametrize("lose", LOSSES)
def test_the_same_with_a_primary_killed_right_after(folder: Folder, lose: Callable[[Path], None], standby: bool) -> None:
    folder.workers(2, "retry=0")
    if standby:
        folder.up()
    else:
        folder.guard("--no-standby")
        wait_until(lambda: len(folder.pids()) == 2 and all(folder.pids().values()), "all run")
    before, guard = folder.pids(), folder.status()["guard"]["pid"]
    os.kill(guard, signal.SIGSTOP)  # so that it can't make the folder anew first
    lose(folder.path / ".guard")
    os.kill(guard, signal.SIGKILL)
    folder.guard()
    wait_until(lambda: folder.status()["guard"]["pid"] not in (None, guard), "another is primary")
    folder.wait_up(2)
    assert folder.pids() == before
    running(folder, "w0", "w1")
    killed(folder)
    respawned(folder, "w1")
    assert not folder.twins()


@pytest.mark.parametrize("alive", [True, False])
@pytest.mark.parametrize("garbage", ["noise", "nothing", "braces"])
def test_garbage_in_the_state_folder_is_never_a_reason_to_refuse(folder: Folder, garbage: str, alive: bool) -> None:
    folder.workers(2, "retry=0")
    folder.up()
    assert folder.run("stop", "w1").returncode == 0
    assert folder.run("start", "w1").returncode == 0
    before = Counter(folder.processes(leaders=True))
    if not alive:
        all_killed(folder)
    noise = {"noise": random.Random(7).randbytes(4096), "nothing": b"", "braces": b'{"version": 1, "scripts": [[]]}'}[garbage]
    state = folder.path / ".guard"
    for file in (*state.glob("*"), *state.glob("run/*")):
        if file.is_file():
            file.write_bytes(noise)
    if alive:
        killed(folder)
    else:
        folder.guard()
        wait_until(lambda: folder.status()["guard"]["standby"], "guard runs")
    folder.wait_up(2)
    assert Counter(folder.processes(leaders=True)) == before
    assert {file.name for file in state.glob("*.unreadable")} == {"list.unreadable", "wishes.json.unreadable"}
    assert folder.log().count("set aside as") == 2
    for name in ("w0", "w1"):
        respawned(folder, name)
    assert folder.run("stop").returncode == 0
    assert not folder.twins()


def test_a_guard_whose_own_record_is_garbage_can_be_stopped(folder: Folder) -> None:
    folder.workers(1)
    folder.up()
    (folder.path / ".guard" / "guard").write_bytes(random.Random(7).randbytes(4096))
    assert folder.run("stop").returncode == 0
    assert not folder.instances()
