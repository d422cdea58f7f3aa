"""The log's files: that they can't be written is said once, and stops nothing."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest

from workers.imap.log import Log, unwritable

ONLY = "log lines go to standard output only"


def said(capfd: pytest.CaptureFixture[str]) -> list[str]:
    return [line.partition("] ")[2] for line in capfd.readouterr().out.splitlines()]


def test_a_folder_that_can_not_be_made_is_said_once(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "file").touch()
    folder = str(tmp_path / "file" / "log")
    log = Log(folder)
    for number in range(3):
        log.complain(f"line {number}", 7)
    assert said(capfd) == ["line 0 [7]", f"log {folder}: Not a directory; {ONLY}", "line 1 [7]", "line 2 [7]"]


def test_another_reason_and_another_day_are_said_again(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    now = time.localtime()
    day = 1
    monkeypatch.setattr(time, "localtime", lambda *_: time.struct_time((2026, 11, day, *now[3:])))
    folder = tmp_path / "log"
    for kind in ("info", "error"):
        (folder / f"20261101-{kind}.log").mkdir(parents=True)
    log = Log(str(folder))
    log.complain("one")
    log.complain("two")  # both files fail, each for a reason of its own
    reasons = [f"log {folder}/20261101-{kind}.log: Is a directory; {ONLY}" for kind in ("info", "error")]
    assert said(capfd) == ["one", *reasons, "two"]
    log.move(str(tmp_path / "log" / "20261101-info.log" / "deeper"))
    log.say("three")
    assert said(capfd) == ["three"]
    assert (folder / "20261101-info.log" / "deeper" / "20261101-info.log").read_text().endswith("three\n")
    day = 2
    log.move(str(folder))
    (folder / "20261102-info.log").mkdir()
    log.say("four")
    assert said(capfd) == ["four", f"log {folder}/20261102-info.log: Is a directory; {ONLY}"]


def test_a_full_disk_is_said_and_then_it_goes_on(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    log = Log(str(tmp_path))
    write = os.write

    def full(fd: int, data: bytes) -> int:
        if fd > 2:
            raise OSError(28, "No space left on device")
        return write(fd, data)

    monkeypatch.setattr(os, "write", full)
    log.say("one")
    log.say("two")
    monkeypatch.undo()
    log.say("three")
    assert said(capfd) == ["one", f"log {tmp_path}: No space left on device; {ONLY}", "two", "three"]
    (file,) = tmp_path.iterdir()
    assert file.read_text().splitlines()[-1].endswith("three")


def test_what_is_tried_leaves_nothing_behind(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    assert unwritable(str(tmp_path / "a" / "b")) == ""
    assert unwritable(str(tmp_path)) == ""
    assert unwritable(str(tmp_path / "file")).endswith("Not a directory")
    assert unwritable("/proc/nope") == "/proc/nope: No such file or directory"
    os.symlink(tmp_path / "nothing", tmp_path / "dangling")
    assert "dangling" in unwritable(str(tmp_path / "dangling"))
    assert sorted(os.listdir(tmp_path)) == ["dangling", "file"]
    today = tmp_path / f"{time.strftime('%Y%m%d')}-info.log"
    today.mkdir()
    assert unwritable(str(tmp_path)) == f"{today}: Is a directory"
