"""Sets of other programs on our keys, and other programs' hands on our sets: said in plain words, and nobody is signalled."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.system.harness import Folder, need_reach, wait_until
from tests.system.sets import ipcrm, key_of, living_stranger, sets, stranger

CHWIND_KEY = 342345


@pytest.fixture
def foreign() -> Iterator[list[int]]:
    """Keys of sets that are not guard's: still there after its end (so it is named before `folder`), and then removed."""
    keys: list[int] = []
    yield keys
    there = sets()
    ipcrm(*keys)
    assert set(keys) <= set(there), "guard removed a set that is not its own"


SHAPES = {
    "one semaphore": ("1", "600"),
    "one semaphore, set": ("1", "644", 1),
    "two semaphores": ("2", "600"),
    "two semaphores, set": ("2", "600", 1),
    "two semaphores, both set": ("2", "666", 0, 7),
    "three semaphores": ("3", "600"),
    "three semaphores, set": ("3", "600", 1, 2, 3),
}


@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
def test_a_line_whose_key_is_another_program_s_is_broken_and_its_remedy_works(
    foreign: list[int], folder: Folder, shape: tuple[str | int, ...]
) -> None:
    folder.workers(3)
    foreign.append(key_of(folder, "w1"))
    stranger("make", foreign[0], *shape)
    folder.guard()
    wait_until(lambda: folder.rows().get("w1", {}).get("state") == "broken", "w1 is broken")
    folder.wait_up(2)
    problem = folder.rows()["w1"]["problem"]
    assert "belongs to another program" in problem or "carries another program's mark" in problem
    remedy = re.search(r"key=(0x[0-9a-f]+)", problem)
    assert remedy
    assert folder.instances() == Counter({"w0": 1, "w2": 1})
    before = folder.pids()
    folder.write_list("name=w0 ./w", f"name=w1 {remedy[0]} ./w", "name=w2 ./w")
    folder.wait_up(3)
    assert int(remedy[1], 16) in sets()
    assert {**folder.pids(), "w1": None} == before
    assert folder.run("stop").returncode == 0


@pytest.mark.skipif(os.geteuid() != 0, reason="needs a second user")
def test_a_set_of_another_user_on_the_key_of_a_line_breaks_that_line_only(foreign: list[int], folder: Folder) -> None:
    need_reach(4711)
    folder.workers(2)
    foreign.append(key_of(folder, "w0"))
    stranger("make", foreign[0], 2, "600", user=4711, group=4711)
    folder.guard()
    wait_until(lambda: folder.rows().get("w0", {}).get("state") == "broken", "w0 is broken")
    folder.wait_up(1)
    assert "key=" in folder.rows()["w0"]["problem"]


@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
def test_another_program_s_set_on_guard_s_own_key_is_said_in_plain_words(
    foreign: list[int], folder: Folder, shape: tuple[str | int, ...]
) -> None:
    folder.workers(1)
    foreign.append(key_of(folder))
    stranger("make", foreign[0], *shape)
    assert folder.guard().wait(60) == 5
    assert f"{foreign[0]:#010x}" in folder.log()
    assert "belongs to another program" in folder.log()
    assert "give guard another key with --key N" in folder.log()
    assert not folder.instances()


# SETVAL


def goes_on(folder: Folder, before: dict[str, int | None]) -> None:
    """A second guard leaves; the primary holds its semaphore; the one that follows it adopts all."""
    assert folder.guard().wait(60) == 1
    wait_until(lambda: folder.status()["guard"]["standby"], "a standby")
    guard = folder.status()["guard"]["pid"]
    assert Path(f"/proc/{guard}/cmdline").read_text().startswith("guard: primary")
    os.kill(guard, signal.SIGKILL)
    wait_until(lambda: folder.status()["guard"]["pid"] not in (None, guard), "another is primary")
    folder.wait_up()
    assert folder.pids() == before
    assert folder.instances() == Counter(dict.fromkeys(before, 1))
    assert not folder.twins()


@pytest.mark.parametrize("value", [0, 1])
@pytest.mark.parametrize("which", ["", "w0"])
def test_a_stranger_that_sets_a_held_semaphore_and_ends_doubles_nothing(folder: Folder, which: str, value: int) -> None:
    folder.workers(2, "retry=0")
    folder.up()
    before = folder.pids()
    stranger("set", key_of(folder, which), 0, value)
    goes_on(folder, before)
    os.kill(before["w0"] or 0, signal.SIGKILL)
    wait_until(lambda: folder.pids()["w0"] not in (None, before["w0"]), "w0 runs again")
    goes_on(folder, folder.pids())


@pytest.mark.parametrize("value", [0, 1])
def test_a_living_stranger_that_sets_guard_s_semaphore_is_left_alone(folder: Folder, value: int) -> None:
    folder.workers(2, "retry=0")
    folder.up()
    before = folder.pids()
    with living_stranger("set", key_of(folder), 0, value):
        assert folder.guard().wait(60) == 1
        folder.logged("guard's semaphore was set by another process (SETVAL)")
        goes_on(folder, before)


@pytest.mark.parametrize("value", [0, 1])
def test_a_living_stranger_that_sets_a_running_script_s_semaphore_is_left_alone(folder: Folder, value: int) -> None:
    folder.workers(2, "retry=0")
    folder.up()
    before = folder.pids()
    with living_stranger("set", key_of(folder, "w0"), 0, value):
        goes_on(folder, before)
        assert "its semaphore is not held" in folder.rows()["w0"]["problem"]
        os.kill(before["w0"] or 0, signal.SIGKILL)
        wait_until(lambda: folder.rows()["w0"]["pid"] != before["w0"], "w0 is gone")
    wait_until(lambda: folder.pids()["w0"] not in (None, before["w0"]), "w0 runs again")
    assert folder.rows()["w0"]["problem"] is None
    goes_on(folder, folder.pids())


def free_script(folder: Folder) -> None:
    """Its set is there, and free."""
    folder.write_list("name=w0 retry=0..200ms ./w", "name=w1 ./w")
    folder.up()
    assert folder.run("stop", "w0").returncode == 0


def test_a_free_semaphore_that_a_stranger_set_before_it_ended_is_made_anew(folder: Folder) -> None:
    free_script(folder)
    stranger("set", key_of(folder, "w0"), 0, 1)
    assert folder.run("start", "w0").returncode == 0
    wait_until(lambda: folder.instances() == Counter({"w0": 1, "w1": 1}), "both run")
    assert "was set by process" in folder.log()


def test_a_free_semaphore_that_a_living_stranger_set_is_named_with_its_remedy(folder: Folder) -> None:
    free_script(folder)
    key = key_of(folder, "w0")
    with living_stranger("set", key, 0, 1) as process:
        folder.run("start", "w0", "--timeout", "0s")
        wait_until(lambda: folder.rows()["w0"]["state"] == "broken", "w0 is broken")
        assert f"held by process {process.pid}, which is not this script" in folder.rows()["w0"]["problem"]
        assert f"ipcrm -S {key:#010x}" in folder.rows()["w0"]["problem"]
        ipcrm(key)
        wait_until(lambda: folder.instances() == Counter({"w0": 1, "w1": 1}), "both run")
    assert not folder.twins()


def test_a_free_semaphore_is_free_again_once_the_stranger_that_set_it_has_ended(folder: Folder) -> None:
    free_script(folder)
    with living_stranger("set", key_of(folder, "w0"), 0, 1):
        folder.run("start", "w0", "--timeout", "0s")
        wait_until(lambda: folder.rows()["w0"]["state"] == "broken", "w0 is broken")
    wait_until(lambda: folder.instances() == Counter({"w0": 1, "w1": 1}), "both run")
    assert not folder.twins()


def free_guard(folder: Folder) -> None:
    """Guard's set is there, and free: it was killed, and nobody came after it."""
    guard = folder.guard("--no-standby")
    wait_until(lambda: len(folder.pids()) == 2 and all(folder.pids().values()), "all run")
    guard.kill()
    guard.wait()


def test_guard_s_free_semaphore_that_a_stranger_set_before_it_ended_is_made_anew(folder: Folder) -> None:
    folder.workers(2)
    free_guard(folder)
    before = folder.pids()
    stranger("set", key_of(folder), 0, 1)
    folder.up()
    assert "which is no guard: made anew" in folder.log()
    goes_on(folder, before)


def test_guard_s_free_semaphore_that_a_living_stranger_set_is_made_anew(folder: Folder) -> None:
    folder.workers(2)
    free_guard(folder)
    before = folder.pids()
    with living_stranger("set", key_of(folder), 0, 1):
        folder.faulty("ping:1")
        folder.wait_up()
        assert "which is no guard: made anew" in folder.log()
        goes_on(folder, before)


# the guard that this one grew from


@pytest.fixture(scope="module")
def chwind(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The C++ guard of 2015, as far as its locking goes."""
    compiler = shutil.which("g++")
    if compiler is None:
        if os.environ.get("CI") == "true":
            pytest.fail("no g++")
        pytest.skip("no g++")
    program = tmp_path_factory.mktemp("chwind") / "guard"
    source = Path(__file__).with_name("chwind_guard.cpp")
    subprocess.run([compiler, "-o", program, source], check=True)
    return str(program)


def test_while_the_chwind_guard_runs_this_one_does_not(foreign: list[int], folder: Folder, chwind: str) -> None:
    folder.workers(1)
    foreign.append(CHWIND_KEY)
    with subprocess.Popen([chwind], stdout=subprocess.PIPE) as other:
        assert other.stdout
        assert b"pid" in other.stdout.readline()
        assert folder.guard("--key", str(CHWIND_KEY)).wait(60) == 1
        assert not folder.instances()
        assert other.poll() is None
        other.kill()
    folder.options = ("--key", str(CHWIND_KEY))
    folder.up()
    assert folder.instances() == Counter({"w0": 1})
    assert subprocess.run([chwind], stdout=subprocess.DEVNULL).returncode == 1


def test_while_this_guard_runs_the_chwind_guard_does_not(foreign: list[int], folder: Folder, chwind: str) -> None:
    folder.workers(1)
    foreign.append(CHWIND_KEY)
    folder.options = ("--key", str(CHWIND_KEY))
    folder.up()
    assert subprocess.run([chwind], stdout=subprocess.DEVNULL).returncode == 1
    guard = folder.status()["guard"]["pid"]
    os.kill(guard, signal.SIGKILL)
    wait_until(lambda: folder.status()["guard"]["pid"] not in (None, guard), "the standby is primary")
    assert subprocess.run([chwind], stdout=subprocess.DEVNULL).returncode == 1
    folder.wait_up()
    assert folder.guard().wait(60) == 1
    assert folder.run("stop").returncode == 0
    with subprocess.Popen([chwind], stdout=subprocess.PIPE) as other:
        assert other.stdout
        assert b"pid" in other.stdout.readline()
        other.kill()


def test_a_removed_set_of_the_chwind_guard_s_key_is_made_anew(foreign: list[int], folder: Folder, chwind: str) -> None:
    folder.workers(1)
    foreign.append(CHWIND_KEY)
    stranger("make", CHWIND_KEY, 1, "644")
    folder.options = ("--key", str(CHWIND_KEY))
    folder.up()
    before = folder.pids()
    ipcrm(CHWIND_KEY)
    folder.logged("RemoveIPC")
    assert subprocess.run([chwind], stdout=subprocess.DEVNULL).returncode == 1
    goes_on(folder, before)
