"""Maildirs on disk: how a message gets in, is found, renamed, removed; and the sync that many threads share."""

from __future__ import annotations

import errno
import os
import threading
from collections.abc import Iterator
from hashlib import blake2b
from pathlib import Path

import pytest

from tests.system.mail_held import Disk
from workers.imap import archive, syncing
from workers.imap.archive import Box, Incoming, Locked, Root, name_of, prune_removed
from workers.imap.letters import file_name
from workers.imap.syncing import Syncer, sync_each

A = file_name(7, 1, 5, 1000, "")
B = file_name(7, 2, 5, 1000, "\\Seen")


@pytest.fixture
def root(tmp_path: Path) -> Iterator[Root]:
    opened = Root(str(tmp_path / "mail"))
    yield opened
    opened.close()


@pytest.fixture
def box(root: Root) -> Box:
    made = root.box("me@x", "INBOX")
    made.make()
    return made


def put(box: Box, name: str, content: bytes = b"hello") -> str:
    incoming = box.incoming()
    incoming.write(content)
    incoming.finish(1000)
    box.publish([(incoming.path, name)])
    return os.path.join(box.cur, name)


def content(path: str) -> bytes:
    with open(path, "rb") as file:
        return file.read()


def removed(root: Root, path: str = "INBOX") -> list[str]:
    folder = os.path.join(root.path, "me@x", ".removed", path, "cur")
    return sorted(os.listdir(folder)) if os.path.isdir(folder) else []


def test_folders_and_files_are_for_their_owner_alone(root: Root, box: Box) -> None:
    path = put(box, A)
    assert os.stat(path).st_mode & 0o7777 == 0o600
    for folder in (root.path, box.account, box.path, box.cur, box.tmp, os.path.join(box.path, "new")):
        assert os.stat(folder).st_mode & 0o7777 == 0o700


def test_one_process_has_a_root(root: Root) -> None:
    root.lock()
    other = Root(root.path)
    try:
        with pytest.raises(Locked, match="another imap-sync"):
            other.lock()
        root.close()
        other.lock()
    finally:
        root._fd = os.dup(other._fd)
        other.close()


def test_a_message_is_synced_before_it_is_in_cur(root: Root, box: Box, monkeypatch: pytest.MonkeyPatch) -> None:
    done: list[str] = []
    rename = os.rename

    def renamed(source: str, target: str) -> None:
        done.append("rename")
        rename(source, target)

    monkeypatch.setattr(root.syncer, "sync", lambda paths: done.append(f"sync {len(paths)}"))
    monkeypatch.setattr(archive, "sync_folder", lambda path: done.append(f"folder {os.path.basename(path)}"))
    monkeypatch.setattr(os, "rename", renamed)
    files = []
    for name in (A, B):
        incoming = box.incoming()
        incoming.write(b"hello")
        incoming.finish(0)
        files.append((incoming.path, name))
    box.publish(files)
    assert done == ["sync 2", "rename", "rename", "folder cur"]
    assert box.names() == {A, B}
    assert os.listdir(box.tmp) == []


def test_a_sync_that_fails_leaves_all_in_tmp(root: Root, box: Box, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(_: list[str]) -> None:
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(root.syncer, "sync", fail)
    incoming = box.incoming()
    incoming.write(b"hello")
    incoming.finish(0)
    with pytest.raises(OSError, match="Input/output"):
        box.publish([(incoming.path, A)])
    assert (box.names(), os.path.exists(incoming.path)) == (set(), True)
    incoming.drop()
    incoming.drop()
    assert os.listdir(box.tmp) == []


def test_an_incoming_message_has_its_digest_size_and_time(box: Box) -> None:
    incoming = box.incoming()
    incoming.write(memoryview(b"hel"))
    incoming.write(b"")
    incoming.write(b"lo")
    assert incoming.finish(86400) == blake2b(b"hello", digest_size=16).digest()
    assert incoming.size_bytes == 5
    assert os.stat(incoming.path).st_mtime == 86400
    incoming.close()


def test_a_short_write_goes_on(box: Box, monkeypatch: pytest.MonkeyPatch) -> None:
    write = os.write
    monkeypatch.setattr(os, "write", lambda fd, data: write(fd, bytes(data[:2])))
    assert content(put(box, A, b"abcdefg")) == b"abcdefg"


def test_an_incoming_message_follows_no_link(box: Box, tmp_path: Path) -> None:
    os.symlink(tmp_path / "elsewhere", os.path.join(box.tmp, "x"))
    with pytest.raises(FileExistsError):
        Incoming(os.path.join(box.tmp, "x"))
    assert not (tmp_path / "elsewhere").exists()


def test_messages_at_the_same_time_have_their_own_files(root: Root, box: Box) -> None:
    twin = root.box("me@x", "INBOX")
    many = [box.incoming(), box.incoming(), twin.incoming()]
    assert len({each.path for each in many}) == 3
    for each in many:
        each.drop()


def test_a_link_is_a_second_name_for_one_content(root: Root, box: Box) -> None:
    other = root.box("me@x", "Sent")
    other.make()
    path = put(box, A)
    assert other.link(path, B)
    assert os.path.samefile(path, os.path.join(other.cur, B))
    assert other.link(path, B)  # once more, as after a crash
    assert (os.listdir(other.cur), os.listdir(other.tmp)) == ([B], [])
    assert os.stat(path).st_nlink == 2


def test_a_link_that_can_not_be_made_is_said(root: Root, box: Box) -> None:
    assert not box.link(os.path.join(box.cur, "nothing"), A)
    with open(os.path.join(box.tmp, f"imap-sync.{os.getpid()}.link"), "wb"):
        pass  # left by one that died here, under the same number
    assert box.link(put(box, B), A)
    assert (box.names(), os.listdir(box.tmp)) == ({A, B}, [])


def test_a_message_is_found_whatever_became_of_its_letters(box: Box) -> None:
    path = put(box, A)
    assert box.find(A) == path
    renamed = f"{path}FS"
    os.rename(path, renamed)
    assert box.find(A) == renamed
    new = os.path.join(box.path, "new", A.partition(":")[0])
    os.rename(renamed, new)
    assert box.find(A) == new
    assert box.find(B) is None
    assert box.find(file_name(7, 11, 5, 1000, "")) is None


def test_names_brings_ours_back_from_new_and_leaves_others(box: Box) -> None:
    os.rename(put(box, A), os.path.join(box.path, "new", A.partition(":")[0]))
    os.rename(put(box, B), os.path.join(box.path, "new", B))
    for folder in ("new", "cur"):
        with open(os.path.join(box.path, folder, f"1.foreign.{folder}"), "wb"):
            pass
    assert box.names() == {A, B, "1.foreign.cur"}
    assert os.listdir(os.path.join(box.path, "new")) == ["1.foreign.new"]


def test_a_rename_knows_whether_the_message_is_here(box: Box) -> None:
    put(box, A)
    assert box.rename(A, B)
    assert box.rename(A, B)  # done before
    os.rename(os.path.join(box.cur, B), os.path.join(box.cur, f"{B}T"))
    assert box.rename(B, A)
    assert box.names() == {A}
    assert not box.rename(B, file_name(7, 3, 5, 1000, ""))


def test_what_changes_in_cur_changes_its_time(box: Box) -> None:
    before = box.mtime_ns()
    os.utime(box.cur, ns=(1, 1))
    assert box.mtime_ns() != before
    os.utime(box.cur, ns=(2, 2))
    assert box.mtime_ns() == 2 ^ os.stat(box.cur).st_ino


def test_tmp_is_cleared_of_ours_alone(box: Box) -> None:
    box.incoming().close()
    with open(os.path.join(box.tmp, "1.of-another-program"), "wb"):
        pass
    box.clear_tmp()
    assert os.listdir(box.tmp) == ["1.of-another-program"]


def test_removed_messages_lie_in_removed(root: Root, box: Box) -> None:
    put(box, A)
    put(box, B, b"other")
    assert box.remove([A, file_name(9, 9, 9, 9, "")]) == 1
    assert (box.names(), removed(root)) == ({B}, [A])
    assert box.remove([]) == 0
    os.rename(os.path.join(box.cur, B), os.path.join(box.cur, f"{B}T"))
    assert box.remove([B]) == 1
    assert removed(root) == sorted([A, B])
    assert content(os.path.join(root.path, "me@x", ".removed", "INBOX", "cur", B)) == b"other"


def test_one_content_under_two_names_is_removed_twice(root: Root, box: Box) -> None:
    path = put(box, A)
    assert box.remove([A]) == 1
    kept = os.path.join(root.path, "me@x", ".removed", "INBOX", "cur", A)
    os.link(kept, path)  # it came back as a link, and goes again: rename(2) of a file onto itself does nothing
    assert box.remove([A]) == 1
    assert (box.names(), removed(root)) == (set(), [A])


def test_a_folder_that_is_gone_leaves_only_what_is_in_removed(root: Root, box: Box) -> None:
    put(box, A)
    put(box, B)
    assert box.remove_all() == 2
    assert removed(root) == sorted([A, B])
    assert not os.path.exists(box.path)
    assert box.remove_all() == 0


def test_a_folder_with_something_of_others_stays(root: Root, box: Box) -> None:
    put(box, A)
    foreign = os.path.join(box.path, "new", "1.foreign")
    with open(foreign, "wb"):
        pass
    box.remove_all()
    assert os.path.exists(foreign)
    assert removed(root) == [A]


def test_a_folder_moves_with_its_messages(root: Root, box: Box) -> None:
    put(box, A)
    box.move("Old")
    assert not os.path.exists(box.path)
    assert root.box("me@x", "Old").names() == {A}


def test_removed_messages_are_kept_for_a_time(root: Root, box: Box) -> None:
    put(box, A)
    box.remove([A])
    account = os.path.join(root.path, "me@x")
    assert prune_removed(account, 3600) == 0
    assert removed(root) == [A]
    assert prune_removed(account, -3600) == 1
    assert os.listdir(os.path.join(account, ".removed")) == []
    assert prune_removed(account, -3600) == 0
    assert prune_removed(os.path.join(root.path, "nobody"), -3600) == 0


def test_a_box_never_touches_removed_by_a_folders_name(root: Root) -> None:
    other = root.box("me@x", "%2Eremoved")
    other.make()
    assert not os.path.exists(os.path.join(root.path, "me@x", ".removed"))


def test_a_disk_that_is_full_is_noticed_before_the_end(root: Root, monkeypatch: pytest.MonkeyPatch) -> None:
    facts = os.fstatvfs(root._fd)

    def with_space(blocks: int, files: int) -> bool:
        values = list(facts)
        values[4], values[5], values[7] = blocks, 10**6, files
        monkeypatch.setattr(os, "fstatvfs", lambda _: os.statvfs_result(values))
        return bool(root.lack())

    enough = archive.FREE_BYTES // facts.f_frsize + 1
    assert not with_space(enough, 1000)
    assert root.lack() == ""
    assert with_space(enough - 2, 1000)
    assert root.lack() == f"less than 8 MiB free on {root.path}"
    assert with_space(enough, 99)
    assert root.lack() == f"less than 100 files free on {root.path}"


def test_a_name_is_made_of_a_row() -> None:
    assert name_of(7, (2, 5, 1000, "\\Seen kw")) == B


class Slow:
    """A syncfs that waits until it is let go; what it returns is set."""

    def __init__(self) -> None:
        self.calls = 0
        self.entered = threading.Semaphore(0)
        self.go = threading.Semaphore(0)
        self.failing: set[int] = set()

    def __call__(self, _: int) -> int:
        self.calls += 1
        number = self.calls
        self.entered.release()
        assert self.go.acquire(timeout=20)
        if number in self.failing:
            import ctypes

            ctypes.set_errno(errno.EIO)
            return -1
        return 0


@pytest.fixture
def slow(tmp_path: Path) -> Iterator[tuple[Syncer, Slow]]:
    fd = os.open(tmp_path, os.O_RDONLY)
    syncer, call = Syncer(fd), Slow()
    syncer._each_until, syncer._syncfs = 0.0, call
    yield syncer, call
    os.close(fd)


def start(syncer: Syncer, number: int, ended: list[str], name: str | None = None) -> list[threading.Thread]:
    def work() -> None:
        try:
            syncer.sync([])
            ended.append("well")
        except OSError as error:
            ended.append(str(error.errno))

    threads = [threading.Thread(target=work, name=name) for _ in range(number)]
    for each in threads:
        each.start()
    return threads


def wait_for(syncer: Syncer, number: int) -> None:
    """Until so many threads wait for the one that runs."""
    while True:
        with syncer._lock:
            if len(syncer._lock._waiters) >= number:  # type: ignore[attr-defined]
                return


@pytest.mark.parametrize("failing", [set(), {1}, {2}, {1, 2}])
def test_all_that_wait_share_one_sync_and_its_error(slow: tuple[Syncer, Slow], failing: set[int]) -> None:
    syncer, call = slow
    call.failing = failing
    first: list[str] = []
    others: list[str] = []
    threads = start(syncer, 1, first)
    assert call.entered.acquire(timeout=20)
    threads += start(syncer, 5, others)
    wait_for(syncer, 5)
    call.go.release()
    call.go.release()
    for each in threads:
        each.join()
    assert call.calls == 2  # what came while the first ran may have been passed by it
    assert first == [str(errno.EIO) if 1 in failing else "well"]
    assert others == [str(errno.EIO) if 2 in failing else "well"] * 5


def test_after_an_error_a_later_sync_is_judged_by_itself(slow: tuple[Syncer, Slow]) -> None:
    syncer, call = slow
    call.failing = {1}
    for _ in range(4):
        call.go.release()
    with pytest.raises(OSError, match="Input/output"):
        syncer.sync([])
    for _ in range(3):
        syncer.sync([])
    assert call.calls == 4


class Late(threading.Condition):
    """A lock for which the thread `late` wakes when it is let go, long after it was told."""

    def __init__(self) -> None:
        super().__init__()
        self.go = threading.Event()

    def wait(self, timeout: float | None = None) -> bool:
        found = super().wait(timeout)
        if threading.current_thread().name == "late":
            self.release()
            assert self.go.wait(20)
            self.acquire()
        return found


def test_who_wakes_late_hears_of_its_own_sync(slow: tuple[Syncer, Slow]) -> None:
    syncer, call = slow
    syncer._lock = late = Late()
    call.failing = {2}
    first: list[str] = []
    ended: list[str] = []
    threads = start(syncer, 1, first)
    assert call.entered.acquire(timeout=20)
    threads += start(syncer, 1, ended, name="late")
    wait_for(syncer, 1)
    threads += start(syncer, 1, first)
    wait_for(syncer, 2)
    for _ in range(4):
        call.go.release()
    for each in (threads[0], threads[2]):
        each.join()
    for _ in range(2):
        syncer.sync([])
    assert (call.calls, first, ended) == (4, ["well", str(errno.EIO)], [])
    late.go.set()
    threads[1].join()
    assert ended == [str(errno.EIO)]


def test_a_sync_that_is_cut_off_is_no_sync_for_those_that_wait(
    slow: tuple[Syncer, Slow], monkeypatch: pytest.MonkeyPatch
) -> None:
    syncer, _ = slow
    ended: list[str] = []
    calls: list[int] = []

    def cut_off() -> None:
        calls.append(1)
        if len(calls) == 2:
            wait_for(syncer, 1)
            raise KeyboardInterrupt

    monkeypatch.setattr(syncer, "_call", cut_off)
    syncer.sync([])
    syncer._running = True  # so that one waits for the run that is cut off
    threads = start(syncer, 1, ended)
    wait_for(syncer, 1)
    syncer._running = False
    with pytest.raises(KeyboardInterrupt):
        syncer.sync([])
    for each in threads:
        each.join()
    assert ended == [str(errno.EINTR)]


def test_files_of_another_file_system_are_synced_by_themselves(
    root: Root, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = tmp_path / "other"
    calls: list[int] = []
    synced: list[str] = []

    def syncfs(fd: int) -> int:
        calls.append(fd)
        return 0

    monkeypatch.setattr(root.syncer, "_syncfs", syncfs)
    monkeypatch.setattr(syncing, "sync_each", synced.extend)
    disk = Disk(other, "1M")
    try:
        os.symlink(other, os.path.join(root.path, "linked"))
        os.mkdir(os.path.join(root.path, "here"))
        for account, where in (("linked", synced), ("here", calls)):
            box = root.box(account, "INBOX")
            box.make()
            before = len(where)
            put(box, A)
            assert len(where) == before + 1, account
        assert (len(calls), len(synced)) == (1, 1)
    finally:
        disk.close()


def test_a_slow_sync_gives_way_to_files_synced_one_by_one(
    slow: tuple[Syncer, Slow], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    syncer, call = slow
    synced: list[str] = []
    monkeypatch.setattr(syncing, "SLOW_S", -1.0)
    monkeypatch.setattr(syncing, "sync_each", synced.extend)
    call.go.release()
    x, y, z = (str(tmp_path / name) for name in "xyz")
    syncer.sync([x])
    assert (call.calls, synced) == (1, [])
    syncer.sync([y])
    assert (call.calls, synced) == (1, [y])
    syncer._each_until = 0.0
    call.go.release()
    syncer.sync([z])
    assert (call.calls, synced) == (2, [y])


@pytest.mark.parametrize(("release", "honest"), [("5.7.0", False), ("5.8.0-rc1", True), ("6.1.0-amd64", True), ("4.19.1", False)])
def test_old_kernels_hide_errors_so_each_file_is_synced(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, release: str, honest: bool
) -> None:
    uname = os.uname()
    monkeypatch.setattr(os, "uname", lambda: os.uname_result((uname[0], uname[1], release, uname[3], uname[4])))
    fd = os.open(tmp_path, os.O_RDONLY)
    syncer = Syncer(fd)
    os.close(fd)
    assert (syncer._syncfs is not None) is honest
    if not honest:
        with pytest.raises(FileNotFoundError):
            syncer.sync([str(tmp_path / "nothing")])


def test_the_real_thing_syncs(root: Root, tmp_path: Path) -> None:
    (tmp_path / "x").write_bytes(b"x")
    root.syncer.sync([str(tmp_path / "x")])
    sync_each([])
    sync_each([str(tmp_path / "x")] * 20)


def test_an_error_of_any_file_is_told(tmp_path: Path) -> None:
    (tmp_path / "x").write_bytes(b"x")
    for at in (0, 7, 19):
        paths = [str(tmp_path / "x")] * 20
        paths[at] = str(tmp_path / "nothing")
        with pytest.raises(FileNotFoundError):
            sync_each(paths)


def test_a_sync_of_a_bad_descriptor_is_an_error(tmp_path: Path) -> None:
    fd = os.open(tmp_path, os.O_RDONLY)
    syncer = Syncer(fd)
    os.close(fd)
    if syncer._syncfs is not None:
        with pytest.raises(OSError, match="Bad file descriptor"):
            syncer.sync([])
