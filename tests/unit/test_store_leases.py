"""Who is dead and who is not, by every field of an owner, and what a lease knows of itself."""

from __future__ import annotations

import os
import subprocess
import sys
from typing import Any

import pytest

from workers.store.leases import COUNT_BITS, LEASE_S, RENEW_S, Lease, Owner, boot_time, is_dead, is_running, myself, started

NOW = 5000.0
HERE = Owner(1, "host", "boot", 77, os.getpid(), started(os.getpid()) or 0, NOW + 60)


def owner(**changes: Any) -> Owner:
    """A living owner, the same as this process but for the changes."""
    made = Owner(2, HERE.host, HERE.boot_id, HERE.pid_space, HERE.pid, HERE.started, NOW + 1)
    for name, value in changes.items():
        setattr(made, name, value)
    return made


def gone_pid() -> int:
    """The pid of a process that has ended and is reaped."""
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    return process.pid


@pytest.mark.parametrize(
    ("changes", "dead"),
    [
        ({}, False),
        ({"id": 99}, False),
        ({"host": "renamed since"}, False),
        ({"boot_id": "the one before"}, True),
        ({"boot_id": "the one before", "pid_space": 78, "expires_at": NOW + 60}, True),
        ({"started": HERE.started + 1}, True),
        ({"started": HERE.started + 1, "pid_space": 78}, False),
        ({"pid_space": 78}, False),
        ({"pid_space": 78, "expires_at": NOW - 1}, True),
        ({"expires_at": NOW}, False),
        ({"expires_at": NOW - 0.001}, True),
    ],
)
def test_an_owner_is_dead_by_its_boot_its_process_or_its_lease(changes: dict[str, Any], dead: bool) -> None:
    assert is_dead(owner(**changes), HERE, NOW) is dead


def test_an_owner_whose_process_is_gone_is_dead_in_its_own_pid_namespace_only() -> None:
    pid = gone_pid()
    assert is_dead(owner(pid=pid), HERE, NOW)
    assert not is_dead(owner(pid=pid, pid_space=78), HERE, NOW)


def test_an_owner_that_could_not_read_its_start_time_is_judged_by_its_lease() -> None:
    """Where /proc belongs to another PID namespace, a process doesn't find itself there, and nor does the watcher."""
    unread = owner(pid=gone_pid(), started=0)
    assert not is_dead(unread, HERE, NOW)
    assert is_dead(unread, HERE, NOW + 2)


def test_the_start_time_is_that_of_proc_and_no_two_processes_share_pid_and_start() -> None:
    with open("/proc/self/stat", encoding="ascii") as file:
        assert started(os.getpid()) == int(file.read().rpartition(")")[2].split()[19])
    assert started(1) is not None
    assert started(1) != started(os.getpid())


def test_a_gone_process_and_a_zombie_have_no_start_time() -> None:
    assert started(gone_pid()) is None
    process = subprocess.Popen([sys.executable, "-c", ""])
    try:
        os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
        assert os.path.exists(f"/proc/{process.pid}/stat"), "it is a zombie"
        assert started(process.pid) is None
    finally:
        process.wait()


def test_a_name_that_looks_like_the_end_of_a_name_does_not_deceive() -> None:
    code = "open('/proc/self/comm', 'w').write('x) Z 1 2'); print('named', flush=True); input()"
    process = subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    try:
        assert process.stdout is not None
        assert process.stdout.readline() == b"named\n"
        found = started(process.pid)
        assert found is not None
        assert found >= (started(os.getpid()) or 0)
    finally:
        process.communicate(b"\n")


def test_this_process_as_an_owner_is_told_by_five_facts() -> None:
    one, other = myself(), myself()
    facts = ("host", "boot_id", "pid_space", "pid", "started")
    assert [getattr(one, name) for name in facts] == [getattr(other, name) for name in facts]
    assert (one.pid, one.started, one.host) == (os.getpid(), started(os.getpid()), os.uname().nodename)
    assert len(one.boot_id) == 36
    one.expires_at = boot_time() + 1
    assert not is_dead(one, other, boot_time())


def test_the_clock_is_that_of_the_time_since_boot() -> None:
    before = boot_time()
    with open("/proc/uptime", encoding="ascii") as file:
        uptime_s = float(file.read().split()[0])
    assert before - 0.02 <= uptime_s <= boot_time()


def test_the_claims_of_an_owner_are_its_own() -> None:
    assert owner(id=3).claims() == (3 << COUNT_BITS, (4 << COUNT_BITS) - 1)
    assert owner(id=3).claims()[1] + 1 == owner(id=4).claims()[0]


@pytest.mark.parametrize(
    ("changes", "running"),
    [
        ({}, True),
        ({"expires_at": NOW - 999}, True),
        ({"boot_id": "the one before"}, False),
        ({"pid_space": 78}, False),
        ({"started": HERE.started + 1}, False),
    ],
)
def test_an_owner_is_seen_to_run_here_whatever_its_lease_says(changes: dict[str, Any], running: bool) -> None:
    assert is_running(owner(**changes), HERE) is running


def test_an_owner_whose_process_is_gone_is_not_seen_to_run() -> None:
    assert not is_running(owner(pid=gone_pid()), HERE)


def test_a_lease_lasts_while_its_end_is_further_than_the_margin() -> None:
    lease = Lease()
    assert not lease.lasts(), "before it is written down"
    assert lease.due()
    lease.owner.expires_at = boot_time() + 10
    assert lease.lasts()
    assert lease.lasts(9)
    assert not lease.lasts(10)
    lease.owner.expires_at = boot_time() + 0.9
    assert not lease.lasts()


def test_a_lease_is_due_for_renewal_long_before_its_end() -> None:
    lease = Lease()
    lease.owner.expires_at = boot_time() + LEASE_S
    assert not lease.due()
    lease.owner.expires_at = boot_time() + LEASE_S - RENEW_S
    assert lease.due()
    assert lease.lasts(), "it can be missed twice and still hold"
    assert LEASE_S > 3 * RENEW_S
