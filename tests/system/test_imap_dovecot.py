"""imap-sync against a real Dovecot, with each of the extensions that it can use switched off, and all of them."""

from __future__ import annotations

import itertools
import random
import re
import socket
import threading
import time
import zlib
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from tests.system.imap_fixtures import new_dovecot, syncer
from tests.system.imap_servers import SWITCHES, Dovecot
from tests.system.imap_syncer import Syncer
from tests.system.imap_user import MailUser
from tests.system.mail_servers import wait_until
from workers.imap.connection import Connection
from workers.imap.limits import Limits
from workers.imap.session import Session
from workers.imap.stream import connect

__all__ = ["new_dovecot", "syncer"]

VARIANTS = [(), *((name,) for name in SWITCHES), SWITCHES]
NUMBERS = itertools.count(1)
NESTED = ("Archive/2013/Q1", "Archive/2013/Q2", "INBOX/Deep/er")
MODIFIED = ("Entw&APw-rfe", "&U,BTFw-/&ZeVnLIqe-", "R&-D", "&2D3eAA-", "a &Jjo-! b")  # RFC 3501 5.1.3
ODD = ('q"uote', "back\\slash", "percent%", "cur", "new", "tmp", ".removed", "-x", "a b", "inbox2", "{3}", "(x)", "[y]")
SELDOM = 'recent = { present = "6h", absent = "6h" }\nfull = { present = "6h", absent = "6h" }'  # so that only push brings news
SLOW_BYTES_S = 2e6
PIECE_BYTES = 1 << 14
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


class SlowWay:
    """A way of SLOW_BYTES_S from a server to its clients. `said` is what each client has sent, in the order they came."""

    def __init__(self, port: int) -> None:
        self.said: list[bytearray] = []
        self._target = port
        self._open: list[socket.socket] = []
        self._threads: list[threading.Thread] = []
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self._start(self._accept)

    def close(self) -> None:
        """Ends all connections."""
        for each in (self._listener, *self._open):
            with suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)
        for thread in list(self._threads):
            thread.join()
        for each in (self._listener, *self._open):
            each.close()

    def _start(self, act: Callable[..., None], *words: object) -> None:
        self._threads.append(threading.Thread(target=act, args=words))
        self._threads[-1].start()

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                near = self._listener.accept()[0]
                far = socket.create_connection(("127.0.0.1", self._target))
                self._open += [near, far]
                self.said.append(bytearray())
                self._start(self._carry, near, far, self.said[-1])
                self._start(self._carry, far, near, None)

    def _carry(self, source: socket.socket, target: socket.socket, said: bytearray | None) -> None:
        with suppress(OSError):
            while data := source.recv(PIECE_BYTES):
                if said is None:
                    time.sleep(len(data) / SLOW_BYTES_S)
                else:
                    said += data
                target.sendall(data)
        for each in (source, target):
            with suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)


@pytest.fixture
def new_way() -> Iterator[Callable[[int], SlowWay]]:
    """Makes slow ways; at the end each is closed."""
    made: list[SlowWay] = []

    def make(port: int) -> SlowWay:
        made.append(SlowWay(port))
        return made[-1]

    yield make
    for each in made:
        each.close()


@pytest.mark.parametrize(("tls", "without"), [("none", ()), ("none", ("NOTIFY",)), ("tls", ()), ("tls", ("NOTIFY", "IDLE"))])
def test_a_slow_way_is_packed_and_news_come_packed_too(
    syncer: Syncer,
    new_dovecot: Callable[..., Dovecot],
    new_way: Callable[[int], SlowWay],
    tls: str,
    without: tuple[str, ...],
) -> None:
    dovecot = new_dovecot(off=without)
    user = dovecot.user("far")
    way = new_way(dovecot.tls_port if tls == "tls" else dovecot.port)
    chance = random.Random(2)
    user.fill("INBOX", [mail(f"m{number}", b"two words " * 100 + chance.randbytes(200).hex().encode()) for number in range(2200)])
    user.create("other")
    user.fill("other", [*contents(), mail("a bomb", b"z" * 20_000_000 + b"\r\n")])
    trust = f'ca_file = "{dovecot.ca}"\n' if tls == "tls" else ""
    syncer.settings = SELDOM if "IDLE" not in without else SELDOM.replace("6h", "1s")
    syncer.account(user, way.port, f'{trust}log_level = "debug"\nper_user = 1', tls=tls)
    worker = syncer.start()
    wait_until(lambda: holds(syncer, user, list(range(1, 2201))), "INBOX is copied")
    wait_until(lambda: len(syncer.files(user.name, "other")) == 313, "the other folder is copied")
    packs = re.search(r"> (s\d+) COMPRESS DEFLATE", syncer.logged())
    assert packs is not None
    _, _, behind = syncer.logged().partition(f"< {packs[1]} OK")
    assert behind
    if "IDLE" not in without:
        wait_until(lambda: " IDLE" in syncer.logged().partition(f"< {packs[1]} OK")[2], "it rests")
    user.append("INBOX", mail("pushed"), ["\\Flagged"])
    wait_until(lambda: holds(syncer, user, list(range(1, 2202))), "new mail is there", 30)
    user.expunge("INBOX", "2")
    wait_until(lambda: holds(syncer, user, [1, *range(3, 2202)]), "the expunge is followed", 30)
    assert syncer.stop(worker) == 0
    syncer.assert_mirrors(user)
    if "IDLE" not in without:
        assert len(way.said) == 1  # and the connection was never lost
    if tls == "none":
        assert b" IDLE\r\n" in unpacked(way.said[0])
        assert b"DONE\r\n" in unpacked(way.said[0])
    syncer.verify()


def unpacked(said: bytearray) -> bytes:
    """What a client has said behind its wish to pack, which must be all packed."""
    _, found, packed = bytes(said).partition(b"COMPRESS DEFLATE\r\n")
    assert found
    return zlib.decompressobj(-15).decompress(packed)


def session_of(user: MailUser, port: int) -> Session:
    """A session that is logged in and may use all that the server has."""
    session = Session()
    connection = session.connection = Connection(connect("127.0.0.1", port, 10), Limits(), session.hear)
    connection.greeting()
    connection.command(f'LOGIN {user.name} "{user.password}"'.encode())
    found: list[bytes] = []
    connection.command(b"CAPABILITY", take=lambda response: found.extend(response.values))
    connection.capabilities = frozenset(found)
    session.prepare()
    return session


def test_what_is_told_of_the_folder_before_is_not_taken_for_the_next_ones(user: MailUser, dovecot: Dovecot) -> None:
    for folder in ("A", "B"):
        user.create(folder)
        user.fill(folder, [mail(f"{folder}{number}") for number in range(3)])
    session = session_of(user, dovecot.port)
    session.notify()
    state = session.examine(b"B", None)[0]
    for _ in range(3):
        session.examine(b"A", None)
        user.flag("A", "2", "\\Seen")
        time.sleep(0.2)
        assert session.examine(b"B", (state.epoch, state.modseq))[1:] == ([], [])
        user.flag("A", "2", "\\Seen", "-FLAGS")
    session.close(politely=True)


def test_brackets_in_names(syncer: Syncer, user: MailUser) -> None:
    for number, folder in enumerate(("a[b", "a]b", "a", "BODY[x", "c[d e]f")):
        user.create(folder)
        user.append(folder, mail(f"m{number}"), ["\\Seen"], 86400 * number)
    syncer.sync()
    syncer.assert_mirrors(user)
    user.append("a[b", mail("later"))
    user.append("a", mail("later"))
    syncer.sync()
    syncer.assert_mirrors(user)
    syncer.verify()
