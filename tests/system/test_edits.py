"""P5 and DESIGN 5, "Edits are live": however List.txt is saved, and whatever it says, what did not change goes on."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.system.harness import Folder, wait_until

BEFORE = ("name=same ./w", "name=changed ./w", "name=vanished ./w", "name=last retry=0 ./w")
AFTER = ("name=new ./w", "name=same ./w", "COLOUR=blue name=changed ./w", "name=last retry=0 ./w")

# Ends only when it is let: until then a renamed line has to wait.
SLOW = """#!/bin/sh
exec 9>>locks/slow
flock -n 9 || echo "TWIN $GUARD_NAME $$" >> journal
trap 'while [ ! -e release ]; do sleep 0.01; done; exit 0' TERM
sleep 1000000 &
echo "START $GUARD_NAME $$" >> journal
while :; do wait; sleep 1000000 & done
"""


def text(lines: tuple[str, ...]) -> str:
    """A List.txt."""
    return "".join(f"{line}\n" for line in lines)


def runs(folder: Folder, *names: str) -> dict[str, int | None]:
    """Waits until exactly these scripts are there and run, and have left their trace; their pids."""

    def ready() -> bool:
        pids = folder.pids()
        return set(pids) == set(names) and all(pid and folder.settled(pid) for pid in pids.values())

    wait_until(ready, f"exactly {names} run", 40)
    return folder.pids()


def started(folder: Folder, *names: str) -> None:
    """Waits for the trace of these scripts: from then on they heed TERM."""
    wait_until(lambda: set(names) <= {name for kind, name, _ in folder.journal() if kind == "START"}, f"{names} started")


def looked(folder: Folder) -> None:
    """guard has looked at List.txt: it does so before it answers another guard."""
    assert folder.run().returncode == 1


# ways to save a file


def by_pieces(file: Path, after: tuple[str, ...]) -> None:
    """In place, over two seconds, through one open file."""
    data = text(after).encode()
    step = len(data) // 8 + 1
    with file.open("wb", buffering=0) as open_file:
        for start in range(0, len(data), step):
            open_file.write(data[start : start + step])
            threading.Event().wait(0.25)  # what is tested, not a wait for something


def by_rename(file: Path, after: tuple[str, ...]) -> None:
    """A new file renamed over it."""
    draft = file.with_name(".draft")
    draft.write_text(text(after))
    draft.rename(file)


def by_sed(file: Path, after: tuple[str, ...]) -> None:
    """`sed -i`."""
    assert after == AFTER
    changes = [r"1i name=new ./w", r"s/^name=changed/COLOUR=blue name=changed/", r"/vanished/d"]
    subprocess.run(["sed", "-i", *(word for change in changes for word in ("-e", change)), file], check=True)


def by_vim(file: Path, after: tuple[str, ...]) -> None:
    """The old file becomes the backup List.txt~, a new one is written."""
    draft = file.with_name(".draft")
    draft.write_text(text(after))
    vim = shutil.which("vim")
    if vim is None:
        file.rename(file.with_name("List.txt~"))
        file.write_text(text(after))
        return
    way = "set backup backupskip= backupcopy=no backupdir=. swapfile directory=."
    commands = [way, "%d", "0read .draft", "wq"]
    words = [word for command in commands for word in ("-c", command)]
    subprocess.run([vim, "-u", "NONE", "-es", *words, file.name], cwd=file.parent, check=True)
    assert file.with_name("List.txt~").exists()


def by_nano(file: Path, after: tuple[str, ...]) -> None:
    """In place: truncated, then written."""
    fd = os.open(file, os.O_WRONLY | os.O_TRUNC)
    for line in after:
        os.write(fd, f"{line}\n".encode())
    os.close(fd)


def by_copy(file: Path, after: tuple[str, ...]) -> None:
    """`cp new List.txt`."""
    draft = file.with_name(".draft")
    draft.write_text(text(after))
    subprocess.run(["cp", draft, file], check=True)


def by_git(file: Path, after: tuple[str, ...]) -> None:
    """`git checkout` of another version."""
    if shutil.which("git") is None:
        pytest.skip("git is missing; Debian has it in the package git")

    def git(*words: str) -> None:
        who = ["-c", "user.name=a", "-c", "user.email=a@example.org"]
        subprocess.run(["git", *who, *words], cwd=file.parent, check=True, capture_output=True)

    before = file.read_text()
    git("init", "-q", "-b", "before")
    git("add", "List.txt")
    git("commit", "-q", "-m", "before")
    git("checkout", "-q", "-b", "after")
    by_rename(file, after)
    git("commit", "-q", "-a", "-m", "after")
    by_rename(file, tuple(before.splitlines()))
    git("checkout", "-q", "--", "List.txt")
    git("checkout", "-q", "before")
    assert file.read_text() == before
    git("checkout", "-q", "after")


def by_return(file: Path, after: tuple[str, ...]) -> None:
    """Deleted, and there again."""
    file.unlink()
    file.write_text(text(after))


WAYS = (by_pieces, by_rename, by_sed, by_vim, by_nano, by_copy, by_git, by_return)


@pytest.mark.parametrize("save", WAYS)
def test_however_it_is_saved_only_what_changed_is_touched(folder: Folder, save: Callable[[Path, tuple[str, ...]], None]) -> None:
    folder.write_list(*BEFORE)
    folder.up()
    before = folder.pids()
    save(folder.path / "List.txt", AFTER)
    wait_until(lambda: folder.pids().get("changed") not in (None, before["changed"]), "the changed line runs anew")
    after = runs(folder, "new", "same", "changed", "last")
    assert (after["same"], after["last"]) == (before["same"], before["last"])
    wait_until(lambda: ["START", "changed", str(folder.pids()["changed"])] in folder.journal(), "its trace")
    starts = [name for kind, name, _ in folder.journal() if kind == "START"]
    assert sorted(set(starts)) == ["changed", "last", "new", "same", "vanished"]
    assert starts.count("same") == starts.count("last") == 1
    assert not folder.twins()
    assert "mistake" not in folder.log()


def test_a_line_that_is_appended_starts_and_touches_nothing_else(folder: Folder) -> None:
    names = folder.workers(3)
    folder.up()
    before = folder.pids()
    for number in range(3):
        with (folder.path / "List.txt").open("a") as file:
            file.write(f"name=new{number} ./w\n")
        names.append(f"new{number}")
        after = runs(folder, *names)
        assert {name: after[name] for name in before} == before
    assert len(folder.journal()) == 6


def test_a_file_that_is_open_for_writing_is_not_taken_however_often_guard_looks(folder: Folder) -> None:
    folder.write_list(*BEFORE)
    folder.up()
    before = folder.pids()
    with (folder.path / "List.txt").open("w") as file:
        for line in BEFORE:
            file.write(line[:10])
            file.flush()
            looked(folder)
            file.write(line[10:] + "\n")
        file.write("name=new ./w\n")
    after = runs(folder, *before, "new")
    assert {name: after[name] for name in before} == before
    assert "mistake" not in folder.log()


# what may change


def test_a_changed_retry_keeps_the_pid_and_is_in_force(folder: Folder) -> None:
    folder.write_list("name=w0 retry=0 ./w", "name=w1 ./w")
    folder.up()
    before = folder.pids()
    folder.write_list("name=w0 retry=7190s ./w", "name=w1 ./w", "name=marker ./w")
    after = runs(folder, "w0", "w1", "marker")
    assert {name: after[name] for name in before} == before
    assert after["w0"]
    os.kill(after["w0"], signal.SIGKILL)
    folder.logged(f"w0[{after['w0']}] died: signal KILL after")
    folder.logged("next try in 1h 59m")
    assert folder.rows()["w0"]["state"] == "waiting"
    assert folder.pids()["w1"] == before["w1"]


@pytest.mark.parametrize("line", ["name=w1 ./w again", "COLOUR=blue name=w1 ./w", "cwd=locks name=w1 sleep 1000000"])
def test_a_changed_command_restarts_only_that_one(folder: Folder, line: str) -> None:
    folder.workers(3)
    folder.up()
    before = folder.pids()
    folder.write_list("name=w0 ./w", line, "name=w2 ./w")
    wait_until(lambda: folder.pids()["w1"] not in (None, before["w1"]), "w1 runs anew")
    assert folder.pids() | {"w1": None} == before | {"w1": None}
    assert folder.rows()["w1"]["restarts"] == 1


@pytest.mark.parametrize(("more", "fewer"), [(5, 2), (3, 1)])
def test_changing_copies_touches_only_the_highest(folder: Folder, more: int, fewer: int) -> None:
    def names(count: int) -> list[str]:
        return ["w", *(f"w#{number}" for number in range(2, count + 1))]

    folder.write_list("copies=2 ./w", "name=other ./w")
    folder.up(count=3)
    before = folder.pids()
    folder.write_list(f"copies={more} ./w", "name=other ./w")
    grown = runs(folder, *names(more), "other")
    assert {name: grown[name] for name in before} == before
    folder.write_list(f"copies={fewer} ./w", "name=other ./w")
    shrunk = runs(folder, *names(fewer), "other")
    assert shrunk == {name: grown[name] for name in shrunk}
    assert len(folder.journal()) == more + 1


def _slow(folder: Folder, name: str) -> str:
    folder.script("slow", SLOW)
    return f"name={name} stop=20s ./slow"


def _waits(folder: Folder, name: str, other: str) -> None:
    wait_until(lambda: folder.rows().get(name, {}).get("problem") == f"waits for {other}", f"{name} waits for {other}")


def _takes_turns(folder: Folder) -> None:
    """The new name starts when the old one is gone, and the rest of the list does not wait for that."""
    _waits(folder, "new", "old")
    wait_until(lambda: folder.pids()["marker"], "the rest of the list is in force")
    assert folder.instances() == {"old": 1, "marker": 1}
    (folder.path / "release").touch()
    runs(folder, "new", "marker")
    started(folder, "new")
    assert not folder.twins()


def test_a_renamed_line_of_the_same_file_waits_until_the_old_one_is_gone(folder: Folder) -> None:
    folder.write_list(_slow(folder, "old"))
    folder.up()
    started(folder, "old")
    folder.write_list(_slow(folder, "new"), "name=marker ./w")
    _takes_turns(folder)


def test_a_line_that_was_renamed_while_no_guard_ran_waits_too(folder: Folder) -> None:
    folder.write_list(_slow(folder, "old"))
    folder.up()
    started(folder, "old")
    end_both(folder)
    folder.write_list(_slow(folder, "new"), "name=marker ./w")
    folder.guard()
    _takes_turns(folder)


def test_a_line_that_was_renamed_beside_a_mistake_waits_until_that_is_mended(folder: Folder) -> None:
    folder.write_list(_slow(folder, "old"))
    folder.up()
    started(folder, "old")
    folder.write_list(_slow(folder, "new"), "colour=red ./w", "name=marker ./w")
    _waits(folder, "new", "old")
    wait_until(lambda: folder.pids()["marker"], "the rest of the list is in force")
    assert folder.instances() == {"old": 1, "marker": 1}
    (folder.path / "release").touch()
    folder.write_list(_slow(folder, "new"), "name=marker ./w")
    runs(folder, "new", "marker")
    started(folder, "new")
    assert not folder.twins()


def test_all_copies_of_a_renamed_line_wait_for_all_that_are_going(folder: Folder) -> None:
    folder.script("slow", SLOW.replace("locks/slow", '"locks/${GUARD_NAME#*#}"'))
    folder.write_list("name=old copies=2 stop=20s ./slow")
    folder.up()
    before = folder.pids()
    started(folder, "old", "old#2")
    folder.write_list("name=new ./slow", "name=marker ./w")
    wait_until(lambda: folder.pids().get("marker"), "the list is in force")
    second = before["old#2"]
    assert second
    os.kill(second, signal.SIGKILL)
    wait_until(lambda: "old#2" not in folder.rows(), "one of them is gone")
    _waits(folder, "new", "old")
    assert folder.instances() == {"old": 1, "marker": 1}
    (folder.path / "release").touch()
    runs(folder, "new", "marker")
    started(folder, "new")


def test_a_renamed_line_starts_when_the_old_one_comes_back_into_the_list(folder: Folder) -> None:
    folder.write_list(_slow(folder, "old"))
    folder.up()
    started(folder, "old")
    folder.write_list(_slow(folder, "new"))
    _waits(folder, "new", "old")
    folder.write_list(_slow(folder, "old"), _slow(folder, "new"))
    (folder.path / "release").touch()
    runs(folder, "old", "new")
    started(folder, "new")
    wait_until(lambda: ["START", "old", str(folder.pids()["old"])] in folder.journal(), "old started again")


# mistakes


LONG = b"x" * 1_000_000
MISTAKES = (
    (b"sh -c 'oops", "no closing quotation"),
    (b"colour=red ./w", "colour=: is no option"),
    (b"retry=soon ./w", "retry=soon: is not understood"),
    (b"name=same ./w", "line 1 has this name already"),
    (b"name=caf\xe9 ./w", "is not UTF-8"),
    (b"./w a\0b", "the line holds a NUL byte"),
    (b"./w " + LONG, "the line has 1000004 bytes"),
)


@pytest.mark.parametrize(("bad", "words"), MISTAKES, ids=[words for _, words in MISTAKES])
def test_while_a_line_is_bad_nothing_is_stopped_and_the_mistake_is_told_once(folder: Folder, bad: bytes, words: str) -> None:
    folder.write_list("name=same ./w", "name=changed ./w", "name=vanished ./w")
    folder.up()
    before = folder.pids()
    shutil.copy(folder.path / "w", folder.path / "other")
    rest = b"COLOUR=blue name=changed ./w\nname=new ./other\n"
    (folder.path / "List.txt").write_bytes(b"name=same ./w\n\n" + bad + b"\n" + rest)
    after = runs(folder, *before, "new")
    assert {name: after[name] for name in before} == before
    looked(folder)
    (folder.path / "List.txt").touch()
    looked(folder)
    assert folder.log().count("mistake in List.txt:3: ") == folder.log().count("mistake") == 1
    assert words in folder.log()
    (folder.path / "List.txt").write_bytes(b"name=same ./w\n\n" + rest)
    wait_until(lambda: folder.pids()["changed"] not in (None, before["changed"]), "the mended list is in force")
    mended = runs(folder, "same", "changed", "new")
    assert (mended["same"], mended["new"]) == (before["same"], after["new"])
    assert folder.log().count("mistake") == 1


@pytest.mark.parametrize(
    "write",
    [
        pytest.param(lambda lines: "\r\n".join(lines).encode() + b"\r\n", id="CRLF"),
        pytest.param(lambda lines: b"\xef\xbb\xbf" + "\n".join(lines).encode(), id="BOM, and no newline at the end"),
        pytest.param(lambda lines: b"\xef\xbb\xbf# \xc3\xa9\r\n\r\n" + "\r\n".join(lines).encode(), id="both"),
    ],
)
def test_other_line_ends_and_a_byte_order_mark_change_nothing(folder: Folder, write: Callable[[list[str]], bytes]) -> None:
    lines = ["name=w0 ./w", "COLOUR=blue name=w1 ./w 'a b'"]
    folder.write_list(*lines)
    folder.up()
    before = folder.pids()
    (folder.path / "List.txt").write_bytes(write([*lines, "name=marker ./w"]))
    after = runs(folder, *before, "marker")
    assert {name: after[name] for name in before} == before
    assert "mistake" not in folder.log()


# no list at all


def _empty(file: Path) -> None:
    file.write_text("")


def _comments_only(file: Path) -> None:
    file.write_text("# nothing\n\nTZ=UTC\n")


def _folder_instead(file: Path) -> None:
    file.unlink()
    file.mkdir()


GONE = [(Path.unlink, "is missing"), (_empty, "lists no script"), (_comments_only, "lists no script")]
GONE += [(_folder_instead, "can't be read")]


@pytest.mark.parametrize(("take_away", "words"), GONE)
def test_no_list_changes_nothing_and_is_said_once(folder: Folder, take_away: Callable[[Path], None], words: str) -> None:
    folder.workers(3, "retry=0")
    folder.up()
    before, file = folder.pids(), folder.path / "List.txt"
    take_away(file)
    folder.logged(f"List.txt {words}")
    looked(folder)
    looked(folder)
    assert folder.pids() == before
    assert before["w0"]
    os.kill(before["w0"], signal.SIGKILL)
    wait_until(lambda: folder.pids()["w0"] not in (None, before["w0"]), "a script that dies is respawned as ever")
    if file.is_dir():
        file.rmdir()
    folder.write_list(*(f"name={name} retry=0 ./w" for name in (*before, "marker")))
    after = runs(folder, *before, "marker")
    assert (after["w1"], after["w2"]) == (before["w1"], before["w2"])
    assert folder.log().count("everything goes on as it is") == 1


def end_both(folder: Folder) -> None:
    """KILLs guard and standby."""
    guard = folder.status()["guard"]
    os.kill(guard["standby"], signal.SIGSTOP)  # so that it can't take over in between
    os.kill(guard["pid"], signal.SIGKILL)
    os.kill(guard["standby"], signal.SIGKILL)
    wait_until(lambda: folder.run("status").returncode == 3, "no guard is left")


@pytest.mark.parametrize("bad", [None, "", "sh -c 'oops\n", "name=w0 colour=red ./w\nname=w1 ./w\nname=marker ./other\n"])
def test_a_fresh_primary_without_a_good_list_serves_the_accepted_one(folder: Folder, bad: str | None) -> None:
    folder.workers(3, "retry=0")
    folder.up()
    before, file = folder.pids(), folder.path / "List.txt"
    end_both(folder)
    assert before["w1"]
    os.kill(before["w1"], signal.SIGKILL)
    shutil.copy(folder.path / "w", folder.path / "other")
    file.unlink() if bad is None else file.write_text(bad)
    folder.guard()
    marker = {"marker"} if bad and "marker" in bad else set()
    after = runs(folder, *before, *marker)
    assert (after["w0"], after["w2"]) == (before["w0"], before["w2"])
    assert after["w1"] != before["w1"]
    folder.logged("everything goes on as it is" if not bad else "nothing is stopped for it")
    assert not folder.twins()
    folder.write_list("name=w0 retry=0 ./w", "name=w2 retry=0 ./w")
    assert runs(folder, "w0", "w2") == {"w0": before["w0"], "w2": before["w2"]}


# where the kernel tells less


def test_where_inotify_sees_nothing_a_slow_stat_takes_the_edit(folder: Folder) -> None:
    folder.workers(2)
    folder.faulty("blind:1")
    folder.wait_up()
    before = folder.pids()
    folder.write_list("name=w0 ./w", "name=new ./w")
    assert runs(folder, "w0", "new")["w0"] == before["w0"]
    (folder.path / "List.txt").unlink()
    folder.logged("is missing")
    assert folder.pids()["w0"] == before["w0"]


def test_where_no_lease_can_be_had_a_half_written_file_waits_until_it_stands_still(folder: Folder) -> None:
    folder.workers(4)
    folder.faulty("nolease")
    folder.wait_up()  # the first start, too, takes the list when it stands still
    before, whole = folder.pids(), text((*(f"name=w{number} ./w" for number in range(4)), "name=marker ./w"))
    with (folder.path / "List.txt").open("w") as file:
        file.write(whole[:20])
        file.flush()
        looked(folder)
        looked(folder)  # that it looks again is no sign that the file stands still
        file.write(whole[20:])
    after = runs(folder, *before, "marker")
    assert {name: after[name] for name in before} == before
    assert "mistake" not in folder.log()


def test_a_first_start_while_the_list_is_being_written_waits_for_it(folder: Folder) -> None:
    with (folder.path / "List.txt").open("w") as file:
        file.write("name=w0 ./w\n")
        file.flush()
        guard = folder.guard()
        folder.logged("is primary")
        file.write("name=w1 ./w\n")
    runs(folder, "w0", "w1")
    assert guard.poll() is None


def test_a_list_that_is_a_symlink_is_followed_to_where_it_stands(folder: Folder) -> None:
    (folder.path / "etc").mkdir()
    target = folder.path / "etc" / "scripts.list"
    target.write_text("name=w0 ./w\nname=w1 ./w\n")
    (folder.path / "List.txt").symlink_to("etc/scripts.list")
    folder.up()
    before = folder.pids()
    draft = target.with_name("draft")
    draft.write_text("name=w0 ./w\nname=new ./w\n")
    draft.rename(target)  # the target is replaced
    assert runs(folder, "w0", "new")["w0"] == before["w0"]
    with target.open("a") as file:
        file.write("name=more ./w\n")
    assert runs(folder, "w0", "new", "more")["w0"] == before["w0"]
    other = folder.path / "other.list"
    other.write_text("name=w0 ./w\nname=other ./w\n")
    link = folder.path / "link"
    link.symlink_to("other.list")
    link.rename(folder.path / "List.txt")  # the link itself
    assert runs(folder, "w0", "other")["w0"] == before["w0"]
    with other.open("a") as file:
        file.write("name=last ./w\n")
    assert runs(folder, "w0", "other", "last")["w0"] == before["w0"]
