"""A spool and other users: whose config is obeyed, who may enqueue, and to whom the files belong."""

from __future__ import annotations

import grp
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.system.harness import need_reach
from tests.system.mail_commands import good, run
from tests.system.mail_keeper import Keeper
from tests.system.mail_servers import Spool, wait_until
from workers.mail.config import Config
from workers.store.bell import bell_name

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="needs root to become several users")
NOBODY, NO_NAME = 65534, 4711  # a user of passwd, and one that it does not know, as in many containers
GROUP = "mail"
NOT_ALLOWED, CONFIG = 77, 78
RING = "import posix_ipc, sys; posix_ipc.MessageQueue(sys.argv[1], write=True, read=False).close()"


class SharedSpool(Spool):
    """Its database lies in a folder of its own beside mail.toml."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.database = folder / "shared" / "spool.db"

    def settings(self) -> Config:
        config = super().settings()
        config.database = str(self.database)
        return config


@pytest.fixture
def spool() -> Iterator[Spool]:
    """Root's, in a folder that everyone can reach."""
    need_reach(NO_NAME)
    folder = Path(tempfile.mkdtemp(prefix="semguard-"))
    folder.chmod(0o755)
    made = SharedSpool(folder)
    yield made
    made.close()
    shutil.rmtree(folder)


@pytest.fixture
def keeper() -> Iterator[Keeper]:
    made = Keeper()
    yield made
    made.close()


def configure(spool: Spool, group: bool, keeper: Keeper | None = None) -> None:
    """mail.toml with or without a group, and with the relay."""
    relay = f'[relay]\nhost = "localhost"\nport = {keeper.port}\ntls = "none"\n' if keeper else ""
    spool.configure(f'database = "shared/spool.db"\n{f"group = {GROUP!r}" if group else ""}\n{relay}'.replace("'", '"'))


def user(uid: int, *, member: bool = False) -> dict[str, Any]:
    """The arguments of Popen for a user, a member of GROUP or not."""
    return {"user": uid, "group": uid, "extra_groups": [grp.getgrnam(GROUP).gr_gid] if member else []}


def check_shared(spool: Spool) -> None:
    """Folder and files are open to the group and to nobody else."""
    gid = grp.getgrnam(GROUP).gr_gid
    files = list(spool.database.parent.glob("spool.db*"))
    files = [file for file in files if "dots" not in file.name]
    assert {file.name for file in files} == {"spool.db", "spool.db-wal", "spool.db-shm"}
    assert {(file.stat().st_gid, file.stat().st_mode & 0o7777) for file in files} == {(gid, 0o660)}
    facts = spool.database.parent.stat()
    assert (facts.st_gid, facts.st_mode & 0o7777) == (gid, 0o2770)


def test_a_config_of_somebody_else_or_open_to_all_is_refused_with_the_remedy(spool: Spool) -> None:
    configure(spool, group=False)
    os.chown(spool.config, NOBODY, -1)
    for uid in (0, NO_NAME):
        for words in (["sendmail", "a@x"], ["add"], ["list"], ["run", "--drain"], ["check"]):
            status, _, complaint = run(spool, *words, **user(uid))
            assert status == CONFIG
            assert complaint.endswith(f"{spool.config}: belongs to user id {NOBODY}; it must belong to you or to root\n")
    os.chown(spool.config, 0, -1)
    spool.config.chmod(0o666)
    status, _, complaint = run(spool, "sendmail", "a@x")
    assert status == CONFIG
    assert complaint.endswith(f"take that away: chmod o-w {spool.config}\n")
    assert not spool.database.exists()


def test_a_config_that_can_not_be_read_is_said(spool: Spool) -> None:
    configure(spool, group=False)
    spool.config.chmod(0o600)
    status, _, complaint = run(spool, "sendmail", "a@x", **user(NOBODY))
    assert status == NOT_ALLOWED
    assert f"{spool.config}: Permission denied; this user may not read the mail config" in complaint
    spool.environment["MAIL_CONFIG"] = str(spool.folder / "none.toml")
    status, _, complaint = run(spool, "sendmail", "a@x")
    assert status == CONFIG
    assert "none.toml: No such file or directory; name an existing file" in complaint


@pytest.mark.parametrize("uid", [NOBODY, NO_NAME])
def test_an_ordinary_user_has_a_spool_of_his_own(spool: Spool, uid: int) -> None:
    own = spool.folder / "own"
    own.mkdir()
    (own / "mail.toml").write_text('[spool]\nstate = "state"\ndomain = "here.example"\n')
    for path in (own, own / "mail.toml"):
        os.chown(path, uid, uid)
    spool.environment["MAIL_CONFIG"] = str(own / "mail.toml")
    assert run(spool, "sendmail", "a@x", **user(uid))[0] == 0
    assert run(spool, "run", "--drain", **user(uid))[0] == 0
    (mail,) = (own / "state" / "mail" / "delivered" / "new").iterdir()
    assert f"Return-Path: <{'nobody' if uid == NOBODY else 'uid4711'}@here.example>" in mail.read_text()
    assert {path.stat().st_uid for path in own.rglob("*")} == {uid}
    assert not [path for path in own.glob("state/**/*") if path.stat().st_mode & 0o077]


@pytest.mark.parametrize("uid", [NOBODY, NO_NAME])
@pytest.mark.parametrize("there", [False, True], ids=["no spool yet", "a spool"])
def test_without_a_group_others_may_not_enqueue(spool: Spool, uid: int, there: bool) -> None:
    configure(spool, group=False)
    if there:
        good(spool, "sendmail", "a@x")
    for words in (["sendmail", "a@x"], ["add"], ["list"], ["hold", "--all"], ["run", "--drain"]):
        status, written, complaint = run(spool, *words, given=b'{"to": "a@x", "text": "b"}', **user(uid, member=True))
        if there or words[0] in ("sendmail", "add", "run"):
            assert status == NOT_ALLOWED
            assert "this user may not use the spool" in complaint
        assert "id" not in written
    assert len(spool.rows()) == int(there)


def test_who_may_not_enqueue_is_told_of_the_group(spool: Spool) -> None:
    configure(spool, group=False)
    good(spool, "sendmail", "a@x")
    assert "group" in run(spool, "sendmail", "a@x", **user(NOBODY))[2]


@pytest.mark.parametrize("uid", [NOBODY, NO_NAME])
def test_members_of_the_group_enqueue_and_the_sender_sees_it(spool: Spool, keeper: Keeper, uid: int) -> None:
    configure(spool, group=True, keeper=keeper)
    sender = spool.start()
    wait_until(lambda: spool.database.exists() and spool.has_bell(), "the sender is at work")
    check = [sys.executable, "-c", RING, bell_name(str(spool.database))]
    assert subprocess.run(check, **user(uid, member=True)).returncode == 0
    assert subprocess.run(check, stderr=subprocess.DEVNULL, **user(uid)).returncode == 1
    for words in (["sendmail", "a@x"], ["add"]):
        assert run(spool, *words, given=b'{"to": "a@x", "text": "b"}', **user(uid, member=True))[0] == 0
        assert run(spool, *words, given=b'{"to": "a@x", "text": "b"}', **user(uid))[0] == NOT_ALLOWED
    wait_until(lambda: spool.states() == ["sent", "sent"], "both are sent")
    check_shared(spool)
    assert spool.stop(sender) == 0
    assert len(keeper.taken) == 2


def test_files_that_a_member_makes_are_open_to_all_others(spool: Spool) -> None:
    configure(spool, group=True)
    good(spool, "sendmail", "a@x")
    assert spool.drain() == 0
    assert not spool.database.with_name("spool.db-wal").exists(), "the last one has left"
    for uid in (NO_NAME, NOBODY, NO_NAME + 1):
        assert run(spool, "sendmail", "a@x", **user(uid, member=True))[0] == 0
        check_shared(spool)
    good(spool, "sendmail", "a@x")
    assert spool.drain() == 0
    for file in spool.database.parent.iterdir():
        file.unlink() if file.is_file() else None
    for uid in (NO_NAME, NOBODY):
        assert run(spool, "sendmail", "a@x", **user(uid, member=True))[0] == 0
        check_shared(spool)
    good(spool, "sendmail", "a@x")
    assert spool.drain() == 0
    assert spool.states() == ["sent"] * 3


def test_the_group_reaches_the_usual_place_too(spool: Spool) -> None:
    spool.configure(f'group = "{GROUP}"\n')
    good(spool, "sendmail", "a@x")
    assert run(spool, "sendmail", "a@x", **user(NOBODY, member=True))[0] == 0


def test_a_group_that_is_set_later_opens_the_spool(spool: Spool) -> None:
    configure(spool, group=False)
    good(spool, "sendmail", "a@x")
    configure(spool, group=True)
    good(spool, "sendmail", "a@x")
    assert run(spool, "sendmail", "a@x", **user(NOBODY, member=True))[0] == 0
    check_shared(spool)


def test_a_folder_without_write_permission_is_said(spool: Spool) -> None:
    own = spool.folder / "own"
    own.mkdir()
    os.chown(own, NOBODY, NOBODY)
    spool.configure('database = "own/mail/spool.db"\n')
    assert run(spool, "sendmail", "a@x", **user(NOBODY))[0] == 0
    for path in (own / "mail", *(own / "mail").iterdir()):
        path.chmod(path.stat().st_mode & ~0o222)
    status, _, complaint = run(spool, "sendmail", "a@x", **user(NOBODY))
    assert status == NOT_ALLOWED
    assert "its folder is read-only" in complaint
