"""One place, one guard: whatever is renamed, replaced, linked, copied or made anew around it."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
from collections.abc import Callable
from typing import Any

from tests.system.harness import Folder, alive, wait_until

NewFolder = Callable[..., Folder]


def runs(folder: Folder, *names: str) -> dict[str, int | None]:
    """Waits until exactly these scripts are there and run; their pids."""
    wait_until(lambda: set(folder.pids()) == set(names) and all(folder.pids().values()), f"exactly {names} run", 40)
    return folder.pids()


def kill(pid: int | None) -> None:
    """KILLs a script."""
    assert pid
    os.kill(pid, signal.SIGKILL)


def respawned(folder: Folder, name: str) -> int:
    """KILLs a script and waits until it runs again; its new pid."""
    before = folder.pids()[name]
    kill(before)
    pid: int = wait_until(lambda: folder.pids()[name] not in (None, before) and folder.pids()[name], f"{name} runs again")
    return pid


def guards(folder: Folder, **settings: Any) -> tuple[int, int]:
    """Primary and standby, as status tells them."""
    found = folder.status()["guard"]
    return found["pid"], found["standby"]


# a script's file


def test_a_script_replaced_by_mv_goes_on_and_the_next_start_runs_the_new_file(folder: Folder) -> None:
    folder.workers(2, "retry=0")
    folder.up()
    before = folder.pids()
    draft = folder.script("draft", (folder.path / "w").read_text().replace("START", "NEW"))
    draft.rename(folder.path / "w")
    folder.write_list("name=w0 retry=0 ./w", "name=w1 retry=0 ./w", "name=marker ./w")
    after = runs(folder, "w0", "w1", "marker")
    assert {name: after[name] for name in before} == before
    pid = respawned(folder, "w0")
    wait_until(lambda: ["NEW", "w0", str(pid)] in folder.journal(), "the new file runs")
    assert folder.pids()["w1"] == before["w1"]
    assert folder.instances() == {"w0": 1, "w1": 1, "marker": 1}
    assert not folder.twins()


def test_a_script_whose_file_is_gone_goes_on_and_starts_again_when_the_file_is_back(folder: Folder) -> None:
    folder.workers(2, "retry=0")
    folder.up()
    before = folder.pids()
    (folder.path / "w").rename(folder.path / "away")
    kill(before["w0"])
    folder.logged("w0 can't start: ./w: no such file")
    assert folder.pids()["w1"] == before["w1"]
    (folder.path / "away").rename(folder.path / "w")
    wait_until(lambda: folder.pids()["w0"], "w0 runs again")
    assert not folder.twins()


# the directory renamed


def test_a_renamed_directory_keeps_its_guard_and_its_scripts(folder: Folder) -> None:
    folder.workers(2, "retry=0")
    folder.up()
    before, both = folder.pids(), guards(folder)
    folder.path = folder.path.rename(folder.path.with_name("moved"))
    folder.write_list("name=w0 retry=0 ./w", "name=w1 retry=0 ./w", "name=new ./w")
    after = runs(folder, "w0", "w1", "new")
    assert {name: after[name] for name in before} == before
    assert guards(folder) == both
    assert folder.guard().wait(30) == 1
    respawned(folder, "w0")
    assert folder.instances() == {"w0": 1, "w1": 1, "new": 1}
    assert not folder.twins()


def test_in_a_renamed_directory_the_standby_takes_over_and_a_later_guard_adopts(folder: Folder) -> None:
    folder.workers(2, "retry=0")
    folder.up()
    before, (primary, standby) = folder.pids(), guards(folder)
    folder.path = folder.path.rename(folder.path.with_name("moved"))
    os.kill(primary, signal.SIGKILL)
    wait_until(lambda: guards(folder)[0] == standby, "the standby is primary")
    folder.wait_up()
    primary, standby = guards(folder)
    os.kill(standby, signal.SIGSTOP)
    os.kill(primary, signal.SIGKILL)
    os.kill(standby, signal.SIGKILL)
    folder.path = folder.path.rename(folder.path.with_name("again"))
    folder.up()
    assert folder.pids() == before
    assert folder.instances() == {"w0": 1, "w1": 1}


def test_a_directory_whose_parent_is_renamed_goes_on(new_folder: NewFolder) -> None:
    folder = new_folder("parent/app")
    folder.workers(2)
    folder.up()
    before = folder.pids()
    folder.path.parent.rename(folder.path.parent.with_name("other"))
    folder.path = folder.path.parent.with_name("other") / "app"
    folder.write_list("name=w0 ./w", "name=w1 ./w", "name=new ./w")
    after = runs(folder, "w0", "w1", "new")
    assert {name: after[name] for name in before} == before
    assert folder.guard().wait(30) == 1


# symlinks


def test_through_a_symlink_and_through_its_real_path_it_is_one_guard(folder: Folder) -> None:
    folder.workers(2)
    link = folder.path.with_name("link")
    link.symlink_to(folder.path)
    folder.up()
    both = guards(folder)
    assert folder.guard(cwd=link).wait(30) == 1
    assert folder.guard("--list", str(link / "List.txt")).wait(30) == 1
    assert folder.guard(cwd="/", env={**os.environ, "GUARD_LIST": str(link / "List.txt")}).wait(30) == 1
    here, there = folder.run("status"), folder.run("status", cwd=link)
    assert _columns(here.stdout) == _columns(there.stdout)
    assert here.returncode == there.returncode == 0
    assert folder.run("stop", "w0", cwd=link).returncode == 0
    assert folder.rows()["w0"]["state"] == "stopped"
    assert guards(folder) == both


def _columns(table: str) -> list[list[str]]:
    """Name, state and pid of each script."""
    return [line.split()[:3] for line in table.splitlines()[2:]]


def test_a_guard_started_through_a_symlink_is_found_through_the_real_path(folder: Folder) -> None:
    folder.workers(2)
    link = folder.path.with_name("link")
    link.symlink_to(folder.path)
    folder.guard(cwd=link)
    folder.wait_up()
    assert folder.guard().wait(30) == 1
    link.unlink()
    folder.write_list("name=w0 ./w", "name=new ./w")
    runs(folder, "w0", "new")


def test_a_state_folder_reached_through_a_symlink_is_one_place(folder: Folder) -> None:
    folder.workers(2)
    (folder.path / "state").mkdir()
    (folder.path / "alias").symlink_to("state")
    folder.options = ("--state", "state")
    folder.up()
    before = folder.pids()
    folder.options = ("--state", "alias")
    assert folder.guard().wait(30) == 1
    assert folder.pids() == before
    assert folder.run("status").returncode == 0


class Releases:
    """A folder with `releases/41`, `releases/42`, `current`, and a guard that follows `current`."""

    def __init__(self, folder: Folder) -> None:
        self.folder = folder
        folder.options = ("--list", "current/List.txt", "--state", "state")
        for release in ("41", "42"):
            here = folder.path / "releases" / release
            (here / "locks").mkdir(parents=True)
            shutil.copy(folder.path / "w", here / "w")
        self.list("41", "name=same retry=0 ./w", "name=old ./w")
        self.list("42", "name=same retry=0 ./w", "name=new ./w")
        (folder.path / "current").symlink_to("releases/41")

    def list(self, release: str, *lines: str) -> None:
        """Writes a release's list."""
        draft = self.folder.path / "releases" / release / ".draft"
        draft.write_text("".join(f"{line}\n" for line in lines))
        draft.rename(draft.with_name("List.txt"))

    def switch(self, release: str) -> None:
        """`ln -s releases/42 next && mv -T next current`."""
        following = self.folder.path / "next"
        following.symlink_to(f"releases/{release}")
        following.rename(self.folder.path / "current")

    def cwd(self, name: str) -> str:
        """Where a script runs."""
        return os.path.basename(os.readlink(f"/proc/{self.folder.pids()[name]}/cwd"))


def test_a_switch_of_current_brings_the_new_list_under_the_same_guard(folder: Folder) -> None:
    releases = Releases(folder)
    folder.up()
    before, both = folder.pids(), guards(folder)
    releases.switch("42")
    assert runs(folder, "same", "new")["same"] == before["same"]
    assert (releases.cwd("same"), releases.cwd("new")) == ("41", "42")
    assert folder.guard().wait(30) == 1
    releases.list("42", "name=same retry=0 ./w", "name=newer ./w")
    assert runs(folder, "same", "newer")["same"] == before["same"]
    respawned(folder, "same")
    assert releases.cwd("same") == "42"
    shutil.rmtree(folder.path / "releases" / "41")
    releases.list("42", "name=same retry=0 ./w", "name=last ./w")
    runs(folder, "same", "last")
    assert guards(folder) == both


def test_a_current_that_is_missing_for_a_while_changes_nothing(folder: Folder) -> None:
    releases = Releases(folder)
    folder.up()
    before = folder.pids()
    (folder.path / "current").unlink()
    folder.logged("is missing")
    (folder.path / "current").symlink_to("releases/42")
    assert runs(folder, "same", "new")["same"] == before["same"]
    assert releases.cwd("new") == "42"


def test_a_standby_follows_current_as_its_primary_did(folder: Folder) -> None:
    releases = Releases(folder)
    folder.up()
    before, (primary, standby) = folder.pids(), guards(folder)
    releases.switch("42")
    runs(folder, "same", "new")
    os.kill(primary, signal.SIGKILL)
    wait_until(lambda: guards(folder)[0] == standby, "the standby is primary")
    folder.wait_up()
    releases.list("42", "name=same retry=0 ./w", "name=newer ./w")
    assert runs(folder, "same", "newer")["same"] == before["same"]
    assert releases.cwd("newer") == "42"


# copies and namesakes


def _apart(one: Folder, other: Folder) -> None:
    """Each has a guard and scripts of its own; what is done to one is not felt by the other."""
    ours, theirs = one.pids(), other.pids()
    assert not set(ours.values()) & set(theirs.values())
    assert not set(guards(one)) & set(guards(other))
    respawned(one, "w0")
    assert other.pids() == theirs
    assert one.run("restart", "w1").returncode == 0
    assert other.pids() == theirs
    both = guards(other)
    assert one.run("stop").returncode == 0
    assert (other.pids(), guards(other)) == (theirs, both)
    assert all(alive(pid) for pid in theirs.values() if pid)
    respawned(other, "w0")
    assert not one.twins()
    assert not other.twins()


def _copy(folder: Folder, new_folder: NewFolder) -> Folder:
    there = folder.path.with_name("copy")
    subprocess.run(["cp", "-a", folder.path, there], check=True)
    (there / "journal").unlink(missing_ok=True)
    return new_folder("copy")


def test_a_directory_copied_while_it_runs_is_another_place(folder: Folder, new_folder: NewFolder) -> None:
    folder.workers(3, "retry=0")
    folder.up()
    before, both = folder.pids(), guards(folder)
    copy = _copy(folder, new_folder)
    assert copy.run("status").returncode == 3
    copy.up()
    assert (folder.pids(), guards(folder)) == (before, both)
    assert folder.instances() == copy.instances() == {"w0": 1, "w1": 1, "w2": 1}
    _apart(copy, folder)


def test_a_stop_in_a_copy_without_a_guard_stops_nothing_of_the_original(folder: Folder, new_folder: NewFolder) -> None:
    folder.workers(2)
    folder.up()
    before, both = folder.pids(), guards(folder)
    copy = _copy(folder, new_folder)
    assert copy.run("stop").returncode == 0
    assert (folder.pids(), guards(folder)) == (before, both)
    assert folder.instances() == {"w0": 1, "w1": 1}


def test_a_copied_state_folder_under_another_name_is_another_place(folder: Folder, new_folder: NewFolder) -> None:
    folder.workers(2, "retry=0")
    folder.up()
    before, both = folder.pids(), guards(folder)
    subprocess.run(["cp", "-a", folder.path / ".guard", folder.path / "other"], check=True)
    folder.write_list("name=w0 retry=0 ./w", "name=w1 retry=0 ./w", "name=marker ./w")
    after = runs(folder, "w0", "w1", "marker")
    assert {name: after[name] for name in before} == before
    done = folder.run("stop", "--state", "other")
    assert done.returncode == 0
    assert (folder.pids(), guards(folder)) == (after, both)


def test_two_directories_of_one_name_are_two_places(new_folder: NewFolder) -> None:
    one, other = new_folder("a/app"), new_folder("b/app")
    for folder in (one, other):
        folder.workers(2, "retry=0")
        folder.up()
    _apart(one, other)


def test_directories_that_change_their_names_with_each_other_keep_their_guards(new_folder: NewFolder) -> None:
    one, other = new_folder("one"), new_folder("other")
    one.workers(2, "retry=0")
    other.workers(3, "retry=0")
    one.up()
    other.up()
    ours, theirs = one.pids(), other.pids()
    between = one.path.rename(one.path.with_name("between"))
    one.path, other.path = other.path, other.path.rename(one.path)
    between.rename(one.path)
    assert (one.pids(), other.pids()) == (ours, theirs)
    assert one.guard().wait(30) == other.guard().wait(30) == 1
    _apart(one, other)


# removed and made anew


def test_a_directory_made_anew_under_the_old_name_has_keys_of_its_own(folder: Folder, new_folder: NewFolder) -> None:
    """The old guard goes on with what it had until it is told to end, and leaves nothing then."""
    folder.workers(2, "retry=0")
    old = folder.up()
    before, rows, guard = folder.pids(), folder.rows(), folder.status()["guard"]
    subprocess.run(["rm", "-rf", folder.path], check=True)
    anew = new_folder()
    anew.workers(2, "retry=0")
    anew.up()
    assert anew.status()["guard"]["key"] != guard["key"]
    assert not {row["key"] for row in anew.rows().values()} & {row["key"] for row in rows.values()}
    assert not set(anew.pids().values()) & set(before.values())
    assert all(alive(pid) for pid in before.values() if pid)
    theirs = anew.pids()
    folder.guards.remove(old)
    old.terminate()
    old.wait(60)
    wait_until(lambda: not any(alive(pid) for pid in before.values() if pid), "the old scripts are stopped")
    assert not alive(guard["standby"])
    assert anew.pids() == theirs


def test_a_removed_state_folder_is_made_anew_and_nothing_runs_twice(folder: Folder) -> None:
    folder.workers(2, "retry=0")
    folder.up()
    before, (primary, _) = folder.pids(), guards(folder)
    shutil.rmtree(folder.path / ".guard")
    folder.logged("was removed or moved: made anew")
    folder.wait_up()
    assert folder.pids() == before
    assert folder.guard().wait(30) == 1
    standby = guards(folder)[1]
    os.kill(primary, signal.SIGKILL)
    wait_until(lambda: guards(folder)[0] == standby, "the standby is primary")
    folder.wait_up()
    assert folder.pids() == before
    assert folder.instances() == {"w0": 1, "w1": 1}
