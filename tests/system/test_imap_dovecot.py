"""imap-sync against a real Dovecot, with each of the extensions that it can use switched off, and all of them."""

from __future__ import annotations

import itertools
import random
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.system.imap_fixtures import new_dovecot, syncer
from tests.system.imap_servers import SWITCHES, Dovecot
from tests.system.imap_syncer import Syncer
from tests.system.imap_user import MailUser
from tests.system.mail_servers import wait_until

__all__ = ["new_dovecot", "syncer"]

VARIANTS = [(), *((name,) for name in SWITCHES), SWITCHES]
NUMBERS = itertools.count(1)
NESTED = ("Archive/2013/Q1", "Archive/2013/Q2", "INBOX/Deep/er")
MODIFIED = ("Entw&APw-rfe", "&U,BTFw-/&ZeVnLIqe-", "R&-D", "&2D3eAA-", "a &Jjo-! b")  # RFC 3501 5.1.3
ODD = ('q"uote', "back\\slash", "percent%", "cur", "new", "tmp", ".removed", "-x", "a b", "inbox2", "{3}", "(x)", "[y]")
ALL_FLAGS = ("\\Seen", "\\Flagged", "\\Answered", "\\Draft", "\\Deleted", "$Forwarded", "NonJunk", "x-1")


@pytest.fixture(scope="module", params=VARIANTS, ids=lambda off: "all off" if off == SWITCHES else "".join(off) or "all on")
def off(request: pytest.FixtureRequest) -> tuple[str, ...]:
    """What the server does not offer."""
    found: tuple[str, ...] = request.param
    return found


@pytest.fixture(scope="module")
def dovecot(off: tuple[str, ...]) -> Iterator[Dovecot]:
    made = Dovecot(off=off)
    yield made
    made.close()


@pytest.fixture
def user(dovecot: Dovecot, syncer: Syncer) -> MailUser:
    """A user of the test's own, with an account."""
    made = dovecot.user(f"user{next(NUMBERS)}")
    syncer.account(made, dovecot.port)
    return made


def mail(subject: str, body: bytes = b"hello\r\n") -> bytes:
    return f"From: a@example.org\r\nSubject: {subject}\r\nMessage-ID: <{subject}@x>\r\n\r\n".encode() + body


def contents() -> list[bytes]:
    """Messages of many kinds."""
    chance = random.Random(1)
    kinds = [
        mail("plain"),
        mail("no body", b""),
        mail("8-bit", "Grüße, 日本語\r\n".encode()),
        mail("every byte", bytes(each for each in range(1, 256) if each not in b"\r\n") * 40 + b"\r\n"),
        mail("looks like IMAP", b")\r\ns1 OK done\r\n* 1 EXPUNGE\r\n{10}\r\n+ go\r\n"),
        mail("from", b"From me\r\n>From you\r\n.\r\n..\r\n"),
        mail("no end of line", b"x"),
        mail("a long line", b"y" * 100_000 + b"\r\n"),
        mail("large", chance.randbytes(3_000_000).replace(b"\0", b"0").replace(b"\r", b"1").replace(b"\n", b"\r\n")),
        b"\r\n",
        b"no header at all\r\n",
        b"Subject: only a header\r\n",
    ]
    return kinds + [mail(f"many {number}", b"z" * chance.randrange(5000)) for number in range(300)]


def test_the_first_pass_copies_everything(syncer: Syncer, user: MailUser) -> None:
    user.fill("INBOX", contents(), date=1_300_000_000)
    for place, flag in enumerate(ALL_FLAGS, 1):
        user.flag("INBOX", str(place), flag)
    user.flag("INBOX", "20:25", " ".join(ALL_FLAGS))
    for number, folder in enumerate((*NESTED, *MODIFIED, *ODD)):
        user.create(folder)
        user.append(folder, mail(f"in folder {number}"), ["\\Seen"], 86400 * number)
    user.create("empty")
    syncer.sync()
    syncer.assert_mirrors(user)
    syncer.verify()


def test_a_pass_with_nothing_new_touches_nothing(syncer: Syncer, user: MailUser) -> None:
    user.fill("INBOX", [mail(f"m{number}") for number in range(50)])
    user.create("other")
    syncer.sync()
    before = state_of(syncer.root)
    syncer.sync()
    assert state_of(syncer.root) == before
    syncer.verify()


def state_of(root: Path) -> set[tuple[str, int, int]]:
    return {(str(path), path.stat().st_ino, path.stat().st_ctime_ns) for path in root.rglob("*") if path.is_file()}


def changes(user: MailUser) -> Iterator[tuple[str, *tuple[Callable[[], object], ...]]]:
    """What happens to an account, one thing after the other."""
    yield "new mail", lambda: user.fill("INBOX", [mail(f"new {number}") for number in range(10)])
    yield "one more", lambda: user.append("INBOX", mail("one more"), ["\\Seen", "kw"])
    yield "flags set", lambda: user.flag("INBOX", "1:5", "\\Seen \\Flagged")
    yield "flags taken", lambda: user.flag("INBOX", "3:9", "\\Seen", "-FLAGS")
    yield "flags replaced", lambda: user.flag("INBOX", "2,8,12", "\\Answered \\Draft", "FLAGS")
    yield "marked as deleted", lambda: user.flag("INBOX", "12", "\\Deleted")
    yield "keywords", lambda: user.flag("INBOX", "4:6", "$Forwarded Work x.y")
    yield "keyword taken", lambda: user.flag("INBOX", "5", "Work", "-FLAGS")
    yield "expunge", lambda: user.expunge("INBOX", "1,7:9,30")
    yield "the last is expunged", lambda: user.expunge("INBOX", str(user.next_uid("INBOX") - 1))
    yield "expunge and new", lambda: user.expunge("INBOX", "10"), lambda: user.append("INBOX", mail("as many as before"))
    yield "folder", lambda: user.create("Work")
    yield "move", lambda: user.move("INBOX", "11,13:15", "Work")
    yield "copy", lambda: user.copy("INBOX", "16:18", "Work")
    yield "nested folder", lambda: user.create("Work/a/b"), lambda: user.move("Work", "1", "Work/a/b")
    yield "folder renamed", lambda: user.rename("Work/a/b", "Work/a/c")
    yield "parent renamed", lambda: user.rename("Work", "&ZeVnLIqe-")
    yield "moved back", lambda: user.move("&ZeVnLIqe-", "2:3", "INBOX")
    yield (
        "renamed to another's old name",
        lambda: user.create("Work"),
        lambda: user.rename("Work", "Play"),
        lambda: user.create("Work"),
    )
    yield (
        "two change places",
        lambda: user.rename("Play", "x"),
        lambda: user.rename("Work", "Play"),
        lambda: user.rename("x", "Work"),
    )
    yield "INBOX renamed", lambda: user.rename("INBOX", "Old inbox")
    yield "new mail in INBOX", lambda: user.append("inBOX", mail("new inbox"))
    yield "folder deleted", lambda: user.delete("&ZeVnLIqe-/a/c")
    yield (
        "made again",
        lambda: user.delete("Old inbox"),
        lambda: user.create("Old inbox"),
        lambda: user.append("Old inbox", mail("again")),
    )
    yield "emptied", lambda: user.expunge("INBOX", "1:*")


def test_each_change_is_followed(syncer: Syncer, user: MailUser) -> None:
    user.fill("INBOX", [mail(f"m{number}") for number in range(30)], ["\\Seen", "old"])
    syncer.sync()
    syncer.assert_mirrors(user)
    for what, *acts in changes(user):
        for act in acts:
            act()
        syncer.sync()
        try:
            syncer.assert_mirrors(user)
        except AssertionError as error:
            raise AssertionError(f"after: {what}") from error
    syncer.verify()


def test_changes_between_two_passes_are_followed_together(syncer: Syncer, user: MailUser) -> None:
    user.fill("INBOX", [mail(f"m{number}") for number in range(30)], ["\\Seen", "old"])
    syncer.sync()
    for _, *acts in changes(user):
        for act in acts:
            act()
    syncer.sync()
    syncer.assert_mirrors(user)
    syncer.verify()


def test_what_the_server_removes_is_kept_aside(syncer: Syncer, user: MailUser) -> None:
    user.fill("INBOX", [mail(f"m{number}") for number in range(5)])
    user.create("gone")
    user.append("gone", mail("in a folder that goes"))
    syncer.sync()
    expected = sorted([user.contents("INBOX")[2].content, user.contents("gone")[1].content])
    user.expunge("INBOX", "2")
    user.delete("gone")
    syncer.sync()
    assert sorted(file.path.read_bytes() for file in syncer.removed(user.name)) == expected
    syncer.assert_mirrors(user)
    syncer.verify()


@pytest.mark.parametrize("name", ["inbox", "INBOX", "iNbOx"])
def test_inbox_has_no_case(syncer: Syncer, user: MailUser, dovecot: Dovecot, name: str) -> None:
    user.append(name, mail("x"))
    user.create("inbox2")
    syncer.account(user, dovecot.port, f'folders = ["{name}"]')
    syncer.sync()
    syncer.assert_mirrors(user, ["INBOX"])
    user.append("INBOX", mail("y"))
    syncer.sync()
    syncer.assert_mirrors(user, ["INBOX"])


def test_a_running_worker_follows(syncer: Syncer, user: MailUser, off: tuple[str, ...]) -> None:
    if "NOTIFY" in off or "IDLE" in off:
        syncer.settings = 'recent = { present = "1s", absent = "1s" }\nfull = { present = "2s", absent = "2s" }'
        syncer.write()
    user.fill("INBOX", [mail(f"m{number}") for number in range(5)])
    syncer.start()
    wait_until(lambda: holds(syncer, user, [1, 2, 3, 4, 5]), "the first pass is done", 30)
    user.append("INBOX", mail("pushed"), ["\\Flagged"])
    wait_until(lambda: holds(syncer, user, [1, 2, 3, 4, 5, 6]), "new mail is there", 30)
    user.expunge("INBOX", "2")
    wait_until(lambda: holds(syncer, user, [1, 3, 4, 5, 6]), "the expunge is followed", 30)
    user.flag("INBOX", "3", "\\Seen")
    wait_until(lambda: syncer.files(user.name, "INBOX")[3].letters == "S", "the flag is followed", 30)
    syncer.verify()


def holds(syncer: Syncer, user: MailUser, uids: list[int]) -> bool:
    """Whether these are the messages of the copied INBOX."""
    if not syncer.database.exists() or not syncer.rows("SELECT 1 FROM sqlite_master WHERE name = 'imap_folder'"):
        return False
    return "INBOX" in syncer.paths(user.name) and sorted(syncer.files(user.name, "INBOX")) == uids
