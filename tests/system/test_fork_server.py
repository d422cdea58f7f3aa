"""guard's fork server and the spare that it keeps: killed, stopped or out of processes, no script is doubled or lost."""

from __future__ import annotations

import contextlib
import os
import resource
import signal
from collections import Counter

import psutil
import pytest

from tests.system.harness import Folder, wait_until

KINDS = ("fork server", "spare")


def guards(folder: Folder) -> dict[str, int]:
    """guard's processes by their titles, but for the primary."""
    found = psutil.process_iter(["cmdline"])
    lines = ((process.pid, " ".join(process.info["cmdline"] or ()).rstrip()) for process in found)
    return {kind: pid for pid, line in lines for kind in (*KINDS, "standby") if line == f"guard: {kind} {folder.path}"}


def complete(folder: Folder) -> dict[str, int]:
    """Waits until a server and a spare are there."""
    found: dict[str, int] = wait_until(lambda: len(found := guards(folder)) == 3 and found, "standby, fork server and spare")
    return found


def respawned(folder: Folder, name: str) -> int:
    """SIGKILLs a script and waits until it runs again."""
    pid = folder.pids()[name]
    assert pid
    os.kill(pid, signal.SIGKILL)
    new: int = wait_until(lambda: (new := folder.pids()[name]) != pid and new, f"{name} runs again\n{folder.log()[-2000:]}")
    return new


def test_scripts_are_children_of_the_primary_in_sessions_of_their_own(folder: Folder) -> None:
    folder.workers(12, "retry=0")
    folder.up()
    complete(folder)
    respawned(folder, "w0")
    primary = folder.status()["guard"]["pid"]
    for name, pid in folder.pids().items():
        assert pid, name
        assert (psutil.Process(pid).ppid(), os.getsid(pid), os.getpgid(pid)) == (primary, pid, pid), name


@pytest.mark.parametrize(
    "number", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT, signal.SIGSTOP], ids=lambda number: number.name
)
@pytest.mark.parametrize("kinds", [("fork server",), ("spare",), KINDS], ids=" and ".join)
def test_births_go_on_whatever_is_done_to_server_and_spare(folder: Folder, kinds: tuple[str, ...], number: int) -> None:
    names = folder.workers(5, "retry=0")
    folder.up()
    before, own = folder.pids(), complete(folder)
    for kind in kinds:
        with contextlib.suppress(ProcessLookupError):  # the spare ends with its server
            os.kill(own[kind], number)
    respawned(folder, "w0")
    respawned(folder, "w1")
    after = folder.pids()
    assert {name: after[name] for name in ("w2", "w3", "w4")} == {name: before[name] for name in ("w2", "w3", "w4")}
    assert folder.instances() == Counter(names)
    assert not folder.twins()
    complete(folder)


def test_a_spare_ends_with_its_server(folder: Folder) -> None:
    folder.workers(1, "retry=0")
    folder.up()
    own = complete(folder)
    os.kill(own["fork server"], signal.SIGKILL)
    wait_until(lambda: not psutil.pid_exists(own["spare"]), "the spare is gone")
    folder.logged("the fork server ended")
    respawned(folder, "w0")
    assert not set(complete(folder).values()) & {own["fork server"], own["spare"]}


def test_nothing_of_guard_is_left_when_the_primary_is_killed_alone(folder: Folder) -> None:
    folder.workers(2)
    guard = folder.guard("--no-standby")
    wait_until(lambda: folder.instances() == {"w0": 1, "w1": 1}, "both run")
    own = wait_until(lambda: len(found := guards(folder)) == 2 and found, "fork server and spare")
    guard.kill()
    wait_until(lambda: not any(psutil.pid_exists(pid) for pid in own.values()), "server and spare are gone")
    assert folder.instances() == {"w0": 1, "w1": 1}


@pytest.mark.parametrize("fault", ["serverless", "stuck"])
def test_a_server_lost_with_births_on_the_way_loses_and_doubles_none(folder: Folder, fault: str) -> None:
    names = folder.workers(40, "retry=0")
    folder.faulty(fault)
    wait_until((folder.path / "fault-done").exists, "the fault happened")
    folder.wait_up()
    wait_until(lambda: folder.instances() == Counter(names), "each runs once, past its exec")
    assert not folder.twins()
    respawned(folder, "w0")
    assert folder.run("stop").returncode == 0
    assert not folder.instances()


def test_an_environment_too_long_for_the_spare_is_handed_on_whole(folder: Folder) -> None:
    """More than a pipe takes at once; a line may have 100,000 bytes."""
    value = "x" * 90_000
    folder.script("long", '#!/bin/sh\nprintf %s "$LONG" > "$OUT"\nexec sleep 1000000\n')
    folder.write_list(*(f"name=n{number} LONG={value}{number} OUT=out{number} ./long" for number in range(12)))
    folder.up()
    written = {folder.path / f"out{number}": f"{value}{number}" for number in range(12)}
    wait_until(lambda: all(file.exists() and file.read_text() == text for file, text in written.items()), "all of it")


def test_guard_goes_on_when_all_low_descriptors_are_in_use(folder: Folder) -> None:
    folder.workers(2, "retry=0")
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    many = [os.open(os.devnull, os.O_RDONLY) for _ in range(1100)]  # as many as pidfds of adopted scripts would be
    try:
        folder.guard(pass_fds=many)
    finally:
        for fd in many:
            os.close(fd)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    folder.wait_up()
    before = folder.pids()["w0"]
    assert before
    os.kill(before, signal.SIGKILL)
    wait_until(lambda: folder.pids()["w0"] not in (None, before), "it runs again")
    (folder.path / ".guard").rename(folder.path / "moved")  # then the standby is ended and another one made
    folder.logged("made anew")
    folder.wait_up()
    assert "took over" not in folder.log()
    assert "Traceback" not in folder.log()
