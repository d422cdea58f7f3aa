"""guard as an ordinary user, and root in an ordinary user's folder."""

from __future__ import annotations

import json
import os
import shutil
import signal
import tempfile
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.system.harness import GUARD, Folder, need_reach, wait_until
from tests.system.sets import ipcrm, key_of, sets, stranger

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="needs root to become several users")
NOBODY, NO_NAME = 65534, 4711  # a user of passwd, and one that it does not know, as in many containers


class UserFolder(Folder):
    """A folder that belongs to a user; all commands are that user's unless said otherwise."""

    def __init__(self, path: Path, uid: int) -> None:
        self.uid = uid
        super().__init__(path)
        self.own()

    def own(self) -> None:
        """Everything in the folder becomes the user's, but for the state folder."""
        for file in (self.path, *self.path.rglob("*")):
            if ".guard" not in file.parts:
                os.chown(file, self.uid, self.uid)

    def script(self, name: str, text: str) -> Path:
        file = super().script(name, text)
        os.chown(file, self.uid, self.uid)
        return file

    def write_list(self, *lines: str) -> None:
        super().write_list(*lines)
        os.chown(self.path / "List.txt", self.uid, self.uid)

    def run(self, *arguments: str, **changes: Any) -> Any:
        return super().run(*arguments, **({"user": self.uid, "group": self.uid, "extra_groups": []} | changes))

    def guard(self, *options: str, **popen: Any) -> Any:
        return super().guard(*options, **({"user": self.uid, "group": self.uid, "extra_groups": []} | popen))

    def limited(self, processes: int) -> None:
        """Starts guard for a user who may have so many processes (getrlimit(2), RLIMIT_NPROC)."""
        user = {"user": self.uid, "group": self.uid, "extra_groups": []}
        self._start(["prlimit", f"--nproc={processes}", GUARD], user)

    def running(self) -> set[str]:
        """The scripts that run, seen from outside: no command of this user could be started."""
        return {name for name, _ in self.processes(leaders=True)}


ROOT = {"user": 0, "group": 0}


@pytest.fixture(params=[NOBODY, NO_NAME], ids=["nobody", "without a name"])
def theirs(request: pytest.FixtureRequest) -> Iterator[UserFolder]:
    """A folder of an ordinary user, who can reach it and guard."""
    need_reach(request.param)
    top = Path(tempfile.mkdtemp(prefix="semguard-"))
    top.chmod(0o755)
    folder = UserFolder(top / "app", request.param)
    yield folder
    folder.close()
    shutil.rmtree(top)


def owners(folder: Folder) -> set[int]:
    """To whom the state folder, everything in it, and all processes belong."""
    state = folder.path / ".guard"
    files = {file.stat().st_uid for file in (state, *state.rglob("*"))}
    guard = folder.status()["guard"]
    pids = [guard["pid"], guard["standby"], *(pid for _, pid in folder.processes())]
    return files | {Path(f"/proc/{pid}").stat().st_uid for pid in pids}


def test_guard_works_wholly_for_an_ordinary_user(theirs: UserFolder) -> None:
    names = theirs.workers(3, "retry=0")
    theirs.up()
    assert owners(theirs) == {theirs.uid}
    before = theirs.pids()
    guard = theirs.status()["guard"]["pid"]
    os.kill(guard, signal.SIGKILL)
    wait_until(lambda: theirs.status()["guard"]["pid"] not in (None, guard), "the standby is primary")
    theirs.wait_up()
    assert theirs.pids() == before
    os.kill(before["w0"] or 0, signal.SIGKILL)
    wait_until(lambda: theirs.pids()["w0"] not in (None, before["w0"]), "w0 runs again")
    assert theirs.run("restart", "w1").returncode == 0
    assert theirs.pids()["w1"] != before["w1"]
    assert theirs.guard().wait(60) == 1
    assert theirs.instances() == Counter(dict.fromkeys(names, 1))
    assert theirs.run("stop").returncode == 0
    assert not list(theirs.processes())


def test_the_sets_of_an_ordinary_user_look_like_root_s_and_go_on_working_for_him(theirs: UserFolder) -> None:
    theirs.workers(2, "retry=0")
    theirs.up()
    keys = [key_of(theirs), key_of(theirs, "w0"), key_of(theirs, "w1")]
    there = sets()
    assert {(there[key]["uid"], there[key]["cuid"], there[key]["perms"] % 1000) for key in keys} == {(0, theirs.uid, 600)}
    before = theirs.pids()["w0"]
    os.kill(before or 0, signal.SIGKILL)
    wait_until(lambda: theirs.pids()["w0"] not in (None, before), "semop works: w0 runs again")
    assert theirs.run("stop").returncode == 0
    assert not set(keys) & set(sets()), "removal works"


def test_a_set_of_another_user_is_said_to_be_another_user_s(theirs: UserFolder) -> None:
    theirs.workers(2)
    key, own = key_of(theirs, "w0"), key_of(theirs)
    stranger("make", key, 2, "600")
    stranger("make", own, 4, "600")
    try:
        assert theirs.guard().wait(60) == 5
        assert f"semaphore set {own:#010x} belongs to another user; give guard another key with --key N" in theirs.log()
        ipcrm(own)
        theirs.guard()
        wait_until(lambda: theirs.rows().get("w0", {}).get("state") == "broken", "w0 is broken")
        theirs.wait_up(1)
        problem = theirs.rows()["w0"]["problem"]
        assert "belongs to another user; give the line a key of its own, as key=" in problem
        theirs.write_list("name=w0 " + problem.rpartition("as ")[2] + " ./w", "name=w1 ./w")
        theirs.wait_up(2)
        assert theirs.run("stop").returncode == 0
    finally:
        assert key in sets()
        ipcrm(key, own)


def test_root_becomes_the_user_to_whom_the_state_folder_belongs(theirs: UserFolder) -> None:
    names = theirs.workers(2)
    theirs.up()
    assert theirs.run("stop").returncode == 0
    assert theirs.run("start", **ROOT).returncode == 0
    theirs.wait_up()
    assert owners(theirs) == {theirs.uid}
    assert {row["cuid"] for key, row in sets().items() if key in (key_of(theirs), key_of(theirs, "w0"))} == {theirs.uid}
    assert theirs.guard().wait(60) == 1
    assert theirs.guard(**ROOT).wait(60) == 1
    assert theirs.instances() == Counter(dict.fromkeys(names, 1))
    assert theirs.run("status").returncode == 0
    assert theirs.run("stop").returncode == 0


def test_a_guard_that_root_runs_from_cron_is_that_user_s(theirs: UserFolder) -> None:
    theirs.workers(1)
    theirs.up()
    before = theirs.pids()
    guard = theirs.status()["guard"]
    os.kill(guard["standby"], signal.SIGSTOP)
    for pid in (guard["pid"], guard["standby"]):
        os.kill(pid, signal.SIGKILL)
    wait_until(lambda: theirs.run("status").returncode == 3, "no guard is left")
    theirs.guard(**ROOT)
    theirs.wait_up()
    assert theirs.pids() == before
    assert owners(theirs) == {theirs.uid}


def test_root_is_refused_where_a_user_never_ran_guard(theirs: UserFolder) -> None:
    theirs.workers(1)
    done = theirs.run(**ROOT)
    assert done.returncode == 64
    assert "run guard as " in done.stderr
    assert "--as-root" in done.stderr
    assert not (theirs.path / ".guard").exists()


def test_as_root_runs_as_root_and_tells_the_user(theirs: UserFolder) -> None:
    theirs.workers(1)
    theirs.guard("--as-root", **ROOT)

    def up() -> bool:
        done = theirs.run("status", "--json", **ROOT)
        return bool(done.stdout and (found := json.loads(done.stdout))["guard"]["standby"] and found["scripts"][0]["pid"])

    wait_until(up, "it runs as root")
    for command in ("status", "stop", "restart"):
        done = theirs.run(command)
        assert done.returncode == 6
        assert "belongs to root" in done.stderr
    assert theirs.guard().wait(60) == 6
    assert theirs.instances() == Counter({"w0": 1})
    assert theirs.run("stop", **ROOT).returncode == 0
    shutil.rmtree(theirs.path / ".guard")


def test_a_limit_of_processes_is_said_and_scripts_start_when_there_is_room(theirs: UserFolder) -> None:
    """Four processes are guard's own. Root has no such limit, hence an ordinary user."""
    names = [f"s{number}" for number in range(8)]
    theirs.write_list(*(f"name={name} retry=0.2..0.2 sleep 1000000" for name in names))
    theirs.limited(8)
    theirs.logged("too many processes or too little memory")
    running = wait_until(lambda: len(found := theirs.running()) >= 3 and found, "some run")
    assert len(running) <= 5
    theirs.write_list(*(f"name={name} retry=0.2..0.2 sleep 1000000" for name in names if name not in running))
    wait_until(lambda: len(theirs.running() - running) >= 3, "others have taken their places")
