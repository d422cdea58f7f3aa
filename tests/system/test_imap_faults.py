"""imap-sync against a hostile server: the rest arrives, it ends, memory stays flat, nothing is written outside the archive."""

from __future__ import annotations

import json
import sqlite3
import ssl
import time
from collections.abc import Callable, Iterable, Sequence
from contextlib import closing
from pathlib import Path
from typing import NamedTuple

import pytest

from tests.system.imap_fault_server import BASIC, BYE, CUT, FOR_EVER, MODERN, SILENCE, Fault, FaultServer, Reply, no
from tests.system.imap_fixtures import new_fault_server, syncer
from tests.system.imap_servers import make_certificates
from tests.system.imap_store import Box, Command
from tests.system.imap_syncer import Syncer, messages
from tests.system.imap_user import PASSWORD, MailUser
from tests.system.mail_servers import wait_until

__all__ = ["new_fault_server", "syncer"]

NewServer = Callable[..., FaultServer]
IN_STEP, PERSON, LATER = 0, 1, 75
LIMITS = "stall=2 command=4 connect=2"
MOST_KIB = 45 << 10
BLOCK = b"x" * 65536
INBOX = 5
VERBS = ("LIST", "EXAMINE", "UID FETCH")  # each client that copies mail says these


def of(uid: int) -> Callable[[Command], bool]:
    """The condition of a fault at BODY: of this message of INBOX only."""
    return lambda command: command.words == [str(uid).encode(), b"INBOX"]


def at_login(reply: Reply, times: int = FOR_EVER) -> list[Fault]:
    """The fault at whichever way the client logs in."""
    return [Fault("LOGIN", reply, times), Fault("AUTHENTICATE", reply, times)]


class Case(NamedTuple):
    """`status`: how the faulty pass may end; `missing`: messages of INBOX that it need not bring (None: anything goes);
    `says`: a word of what it then says, in lower case."""

    name: str
    faults: Sequence[Fault]
    status: tuple[int, ...]
    missing: Iterable[int] | None = ()
    says: str = ""


ANY = (IN_STEP, PERSON, LATER)
FAILS = (PERSON, LATER)
CASES = [
    Case("reset at once", [Fault("CONNECT", CUT)], (LATER,), None),
    Case("closed at once", [Fault("CONNECT", Reply(b"", "bye"))], (LATER,), None),
    Case("BYE as greeting", [Fault("CONNECT", BYE)], (LATER,), None, "going down"),
    Case("no IMAP", [Fault("CONNECT", Reply(b"220 mail.example.org ESMTP\r\n", "hang"))], FAILS, None),
    Case("an endless greeting", [Fault("CONNECT", Reply(BLOCK, "flood"))], FAILS, None),
    Case("a literal of 10 GB as greeting", [Fault("CONNECT", Reply(b"* OK {10737418240}\r\n" + BLOCK, "flood"))], FAILS, None),
    Case("wrong password", at_login(no("[AUTHENTICATIONFAILED] no")), (PERSON,), None, "authenticationfailed"),
    Case("refused without a code", at_login(no("wrong")), (PERSON,), None),
    *(
        Case(f"{text} at login", at_login(no(text)), (LATER,), None)
        for text in (
            "[ALERT] Too many simultaneous connections",
            "[UNAVAILABLE] later",
            "[LIMIT] Too many",
            "[INUSE] locked",
            "[SERVERBUG] oh",
            "[ALERT] Maximum number of connections from user+IP exceeded",
        )
    ),
    Case("BYE at login", at_login(BYE), (LATER,), None),
    Case("too many, then room", at_login(no("[LIMIT] x"), 1), (IN_STEP, LATER), None),
    *(Case(f"BYE at {verb}", [Fault(verb, BYE)], FAILS, None) for verb in VERBS),
    *(Case(f"BYE once at {verb}", [Fault(verb, BYE, 1)], (IN_STEP, LATER), None) for verb in VERBS),
    *(Case(f"cut at {verb}", [Fault(verb, CUT)], FAILS, None) for verb in VERBS),
    *(Case(f"cut once at {verb}", [Fault(verb, CUT, 1)], (IN_STEP, LATER), None) for verb in VERBS),
    *(Case(f"NO to {verb}", [Fault(verb, no("[SERVERBUG] no"))], FAILS, None) for verb in ("LIST", "EXAMINE")),
    *(Case(f"BAD to {verb}", [Fault(verb, Reply(b"TAG BAD no\r\n"))], FAILS, None) for verb in ("LIST", "EXAMINE")),
    *(Case(f"an endless line at {verb}", [Fault(verb, Reply(b"* OK " + BLOCK, "flood"))], FAILS, None) for verb in VERBS),
    *(Case(f"10 GB at {verb}", [Fault(verb, Reply(b"* X {10737418240}\r\n" + BLOCK, "flood"))], FAILS, None) for verb in VERBS),
    *(Case(f"nesting at {verb}", [Fault(verb, Reply(b"* X " + b"(" * 200_000 + b"\r\n", "on"))], ANY, None) for verb in VERBS),
    *(Case(f"a million digits at {verb}", [Fault(verb, Reply(b"* " + b"9" * 900_000 + b" EXISTS\r\n", "on"))], ANY, None)
      for verb in VERBS),
    Case("ends in a literal", [Fault("BODY", Reply(b"{1000}\r\nSubj", "cut"), FOR_EVER, of(3))], (PERSON,), [3]),
    Case("ends once in a literal", [Fault("BODY", Reply(b"{1000}\r\nSubj", "cut"), 1, of(3))], ANY, [3]),
    Case("ends before a literal", [Fault("BODY", CUT, FOR_EVER, of(3))], (PERSON,), [3]),
    Case("ends in the first literal", [Fault("BODY", Reply(b"{1000}\r\nSubj", "cut"), FOR_EVER, of(1))], (PERSON,), [1]),
    Case("ends in the last literal", [Fault("BODY", Reply(b"{1000}\r\nSubj", "cut"), FOR_EVER, of(5))], (PERSON,), [5]),
    Case("two messages end it", [Fault("BODY", CUT, FOR_EVER, of(2)), Fault("BODY", CUT, FOR_EVER, of(4))], (PERSON,), [2, 4]),
    Case("silence in a literal", [Fault("BODY", Reply(b"{1000}\r\nSubj", "hang"), FOR_EVER, of(3))], (PERSON,), [3]),
    Case("10 GB as a message", [Fault("BODY", Reply(b"{10737418240}\r\n" + BLOCK, "flood"), FOR_EVER, of(3))], FAILS, [3]),
    Case("an endless line as a message", [Fault("BODY", Reply(b'"' + BLOCK, "flood"), FOR_EVER, of(3))], FAILS, [3]),
    Case("NIL as a message", [Fault("BODY", Reply(b"NIL"), FOR_EVER, of(3))], ANY, [3]),
    Case("no message", [Fault("BODY", Reply(b"{0}\r\n"), FOR_EVER, of(3))], ANY, [3]),
    Case("a list as message", [Fault("BODY", Reply(b"(a b)"), FOR_EVER, of(3))], ANY, [3]),
    Case("NO to the fetch of one", [Fault("UID FETCH", no("[SERVERBUG] can't read"), FOR_EVER, lambda command: asks(command, 3))],
         (PERSON,), [3]),
    Case("BAD to the fetch of one", [Fault("UID FETCH", Reply(b"TAG BAD x\r\n"), FOR_EVER, lambda command: asks(command, 3))],
         (PERSON,), [3]),
    Case("BYE to the fetch of one", [Fault("UID FETCH", BYE, FOR_EVER, lambda command: asks(command, 3))], (PERSON,), [3]),
    Case("an unknown tag", [Fault("UID FETCH", Reply(b"x99 OK done\r\n", "on"))], ANY, None),
    Case("a go-on unasked", [Fault("UID FETCH", Reply(b"+ go on\r\n", "on"))], ANY, None),
    Case("UIDs that are none", [Fault("UID FETCH", Reply(b"* 1 FETCH (UID 0 FLAGS ())\r\n* 1 FETCH (UID 4294967296 FLAGS ())\r\n"
                                      b"* 2 FETCH (UID -1 FLAGS ())\r\n* 2 FETCH (UID 1x FLAGS ())\r\n", "on"))], ANY),
    Case("messages that nobody asked for", [Fault("UID FETCH", Reply(b"* 9 FETCH (UID 99 BODY[] {5}\r\nhello)\r\n", "on"))], ANY),
    Case("fetches without sense", [Fault("UID FETCH", Reply(b"* 1 FETCH\r\n* 1 FETCH NIL\r\n* 1 FETCH ()\r\n* 1 FETCH (UID)\r\n",
                                                           "on"))], ANY),
    Case("lists without sense", [Fault("LIST", Reply(b'* LIST\r\n* LIST ()\r\n* LIST () NIL\r\n* LIST NIL NIL NIL\r\n'
                                             b'* LIST () "/" ""\r\n', "on"))], ANY),
    Case("states without sense", [Fault("LIST", Reply(b"* STATUS\r\n* STATUS INBOX\r\n* STATUS INBOX (X)\r\n"
                                              b"* STATUS x (UIDNEXT -1)\r\n", "on"))], ANY),
]  # fmt: skip


def asks(command: Command, uid: int) -> bool:
    """Whether a UID FETCH asks for the content of this message of INBOX, alone or among others."""
    if "BODY" not in command.text.upper() or "[]" not in command.text:
        return False
    box = Box()
    for _ in range(INBOX):
        box.append(b"")
    word = command.words[0]
    assert isinstance(word, bytes)
    return any(mail.uid == uid for _, mail in box.chosen(word.decode()))


def fill(server: FaultServer) -> None:
    """Five messages in INBOX and two in another folder."""
    server.boxes[b"Other"] = Box(7)
    for number in range(INBOX):
        server.inbox.append(f"Subject: inbox {number}\r\n\r\nhello\r\n".encode(), ["\\Seen", "kw"], 1_200_000_000 + number)
    for number in range(2):
        server.boxes[b"Other"].append(f"Subject: other {number}\r\n\r\nhello\r\n".encode())


@pytest.fixture
def server(new_fault_server: NewServer, syncer: Syncer) -> FaultServer:
    """A server with a few messages, without faults yet, and an account there."""
    made = new_fault_server()
    fill(made)
    syncer.environment["SEMGUARD_IMAP_LIMITS"] = LIMITS
    syncer.account("alice", made.port)
    return made


def assert_inside(syncer: Syncer) -> None:
    """There is nothing in the test's folder but what belongs there."""
    known = ("mail.toml", "alice.pw", "imap.", "imap.log", "archive", "state", "peak", "cert.pem", "key.pem", "ca.pem")
    others = [path.name for path in syncer.folder.iterdir() if not path.name.startswith(known)]
    assert others == []
    assert syncer.left_over() == []


def assert_copied(syncer: Syncer, server: FaultServer, missing: Iterable[int] = ()) -> None:
    """Everything is here byte for byte, but perhaps the missing of INBOX; none of these is here in another shape."""
    for name, box in server.boxes.items():
        files = syncer.files("alice", name.decode("latin-1"))
        allowed = set(missing) if name == b"INBOX" else set()
        assert set(box.mails) - allowed <= set(files) <= set(box.mails), name
        for uid in set(files) - allowed:
            assert files[uid].path.read_bytes() == box.mails[uid].content, (name, uid)


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_a_fault_stops_nothing_but_what_it_hits(syncer: Syncer, server: FaultServer, case: Case) -> None:
    server.faults = list(case.faults)
    done = syncer.run("sync", deadline_s=60)
    said = done.stdout + done.stderr
    assert done.returncode in case.status, said
    assert "Traceback" not in said
    assert case.says in said.lower()
    assert syncer.peak_kib() < MOST_KIB
    if case.missing is not None:
        assert_copied(syncer, server, case.missing)
        if done.returncode == PERSON:
            assert poison(syncer) == sorted(case.missing)
    assert_inside(syncer)


def poison(syncer: Syncer) -> list[int]:
    """The UIDs that `status` names."""
    (account,) = json.loads(syncer.run("status", "--json").stdout)["accounts"]
    return sorted(each["uid"] for each in account["poison"])


HEALED = [case for case in CASES if case.missing is None or list(case.missing)]


@pytest.mark.parametrize("case", HEALED, ids=lambda case: case.name)
def test_a_fault_that_has_gone_leaves_no_trace(syncer: Syncer, server: FaultServer, case: Case) -> None:
    server.faults = list(case.faults)
    syncer.run("sync", deadline_s=60)
    server.faults = []
    server.cut()
    if case.missing is None:
        syncer.sync()
    else:  # poison is tried again by and by, and `verify` says until then what is missing
        forget_poison(syncer)
        syncer.sync()
    assert_copied(syncer, server)
    assert poison(syncer) == []
    syncer.verify()


def forget_poison(syncer: Syncer) -> None:
    """As if the time of the next try had come."""
    with closing(sqlite3.connect(syncer.database)) as database, database:
        database.execute("UPDATE imap_poison SET next_try = 0")


def test_silence_at_each_command_and_a_byte_a_second_hold_up_nobody_else(syncer: Syncer, new_fault_server: NewServer) -> None:
    slow = Reply(b"* OK a slow server is still a server\r\n", "on", 1.0)
    faults = [
        *(Fault(step, SILENCE) for step in ("CONNECT", "CAPABILITY", "LOGIN", "AUTHENTICATE", *VERBS, "UID SEARCH", "STATUS")),
        *(Fault(step, slow) for step in ("CONNECT", "LOGIN", "AUTHENTICATE", *VERBS)),
        Fault("BODY", Reply(b"{100}\r\n" + b"x" * 100, "on", 1.0)),
        Fault("LOGOUT", SILENCE),
    ]
    syncer.environment["SEMGUARD_IMAP_LIMITS"] = LIMITS
    servers = [new_fault_server(fault) for fault in faults]
    for number, server in enumerate(servers):
        fill(server)
        syncer.account(f"slow{number}", server.port, 'user = "alice"')
    good = new_fault_server()
    fill(good)
    syncer.account("alice", good.port)
    start = time.monotonic()
    process = syncer.start("sync")
    folder = syncer.root / "alice" / "INBOX" / "cur"
    wait_until(lambda: len(messages(folder)) == INBOX, "the good account is in step", 20)
    assert process.wait(90) in (PERSON, LATER)
    took_s = time.monotonic() - start
    assert took_s < 60
    assert_copied(syncer, good)
    assert syncer.left_over() == []


@pytest.mark.parametrize("capabilities", [("IMAP4rev1",), BASIC, MODERN], ids=["bare", "basic", "modern"])
def test_what_the_server_says_in_between_harms_nothing(
    syncer: Syncer, new_fault_server: NewServer, capabilities: Sequence[str]
) -> None:
    chatter = (
        b"* OK [ALERT] maintenance tonight\r\n* OK still here\r\n* NO a warning\r\n* BAD a complaint\r\n"
        b"* FLAGS (\\Seen)\r\n* 1 FETCH (FLAGS (\\Flagged))\r\n* 5 EXISTS\r\n* 0 RECENT\r\n"
        b'* XUNKNOWN (a (b) {3}\r\n(\r\n) NIL\r\n* SEARCH\r\n* LIST () "/" INBOX\r\n* OK [X-NEW "]"] hm\r\n'
    )
    server = new_fault_server(capabilities=capabilities, chatter=chatter)
    fill(server)
    del server.boxes[b"Other"]  # EXISTS is the truth about INBOX
    syncer.account("alice", server.port)
    syncer.sync()
    assert_copied(syncer, server)
    server.inbox.append(b"Subject: new\r\n\r\nx\r\n")
    server.inbox.flag(1, ["\\Flagged"])
    server.inbox.expunge(2)
    syncer.sync()
    assert_copied(syncer, server)
    syncer.verify()


@pytest.mark.parametrize("capabilities", [("IMAP4rev1",), BASIC, MODERN], ids=["bare", "basic", "modern"])
def test_the_server_without_faults_is_mirrored(syncer: Syncer, new_fault_server: NewServer, capabilities: Sequence[str]) -> None:
    server = new_fault_server(capabilities=capabilities)
    fill(server)
    user = MailUser("alice", server.port)
    syncer.account(user, server.port)
    syncer.sync()
    syncer.assert_mirrors(user)
    server.inbox.flag(1, ["\\Draft", "new"])
    server.inbox.expunge(4)
    server.inbox.append(b"Subject: six\r\n\r\nx\r\n")
    del server.boxes[b"Other"]
    syncer.sync()
    syncer.assert_mirrors(user)
    syncer.verify()
    user.close()


def test_a_message_that_goes_while_it_is_fetched_is_no_poison(syncer: Syncer, server: FaultServer) -> None:
    def go(command: Command) -> None:
        if command.verb == "UID FETCH" and asks(command, 3) and 3 in server.inbox.mails:
            server.faults = [Fault("BODY", Reply(b"NIL"), 1, of(3))]
            gone.append(server.inbox.mails[3])
        elif gone and 3 in server.inbox.mails and command.verb != "UID FETCH":
            server.inbox.expunge(3)

    gone: list[object] = []
    server.before = go
    done = syncer.run("sync")
    assert done.returncode in (IN_STEP, LATER), done.stdout
    server.before = None
    if 3 in server.inbox.mails:
        server.inbox.expunge(3)
    assert gone
    syncer.sync()
    assert_copied(syncer, server)
    assert poison(syncer) == []


EVIL = (
    b"../../etc/x", b"/etc/passwd", b"..", b".", b"...", b"cur", b"new", b"tmp", b".removed", b"a/../../b", b"a//b", b"/", b"a/",
    b"line\nfeed", b"c\rr", b"crlf\r\ns1 OK done", b"z" * 1000, b"q\"b\\", b"\x80\xff\xfe",
    b"&", b"&AAAA-", b"&!!-", b"&AC8-..&AC8-x",
    b"&AGE-", b"INBOX/x", b"inbox/y", b"con", b"a:b", b"~", b"~root", b"-rf", b" ", b"a ", b".hidden", b"%2F", b"a%", b"*", b"?",
    "é".encode(), "e\u0301".encode(), b"Inboxx", b"\x1b[31m", b"()", b"{5}", b"NIL", b"cur/cur", b"INBOX/cur",
    b"\\", b"..\\..\\x",
)  # fmt: skip


@pytest.mark.parametrize("capabilities", [BASIC, MODERN], ids=["basic", "modern"])
def test_names_of_folders_lead_nowhere(syncer: Syncer, new_fault_server: NewServer, capabilities: Sequence[str]) -> None:
    server = new_fault_server(capabilities=capabilities)
    for number, name in enumerate(EVIL):
        server.boxes[name] = Box(number + 1)
        server.boxes[name].append(f"Subject: {number}\r\n\r\n".encode() + name.hex().encode() + b"\r\n")
    syncer.account("alice", server.port)
    outside = listing(Path("/etc")), listing(syncer.folder.parent)
    done = syncer.run("sync", deadline_s=60)
    assert done.returncode in (IN_STEP, PERSON), done.stdout + done.stderr
    assert (listing(Path("/etc")), listing(syncer.folder.parent)) == outside
    assert_inside(syncer)
    found = sorted(path.read_bytes() for path in syncer.root.rglob("cur/*") if path.is_file())
    assert found == sorted(mail.content for box in server.boxes.values() for mail in box.mails.values())
    depth = {len(path.relative_to(syncer.root).parts) for path in syncer.root.rglob("*") if path.is_file()}
    assert depth <= {4, 1}  # account/folder/cur/message; the lock
    assert "\x1b" not in done.stdout + done.stderr
    syncer.sync()
    syncer.verify()


def listing(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_a_name_with_nul_is_left_alone_and_the_rest_arrives(syncer: Syncer, server: FaultServer) -> None:
    server.boxes[b"a\0b"] = Box(3)
    server.boxes[b"a\0b"].append(b"Subject: never\r\n\r\n")
    done = syncer.run("sync")
    assert done.returncode in ANY
    assert "Traceback" not in done.stderr
    del server.boxes[b"a\0b"]
    assert_copied(syncer, server)
    assert_inside(syncer)


def test_a_million_folders_are_too_many_but_no_harm(syncer: Syncer, server: FaultServer) -> None:
    def names() -> Iterable[bytes]:
        for start in range(0, 1_000_000, 1000):
            yield b"".join(b'* LIST () "/" "folder %d"\r\n' % number for number in range(start, start + 1000))

    server.faults = [Fault("LIST", Reply(names, "on"))]
    done = syncer.run("sync", deadline_s=60)
    assert done.returncode in FAILS
    assert "folders" in done.stdout + done.stderr
    assert syncer.peak_kib() < MOST_KIB
    assert_inside(syncer)
    server.faults = []
    syncer.sync()
    assert_copied(syncer, server)


@pytest.mark.parametrize("size", [0, 1, 10_000_000, 4_294_967_295, 10**30])
def test_a_wrong_size_is_not_believed(syncer: Syncer, server: FaultServer, size: int) -> None:
    server.inbox.mails[2].size = size
    syncer.sync()
    assert_copied(syncer, server)
    syncer.sync()
    syncer.verify()


@pytest.mark.parametrize("date", ['"garbage"', "NIL", '"31-Dec-9999 23:59:59 +0000"', '"00-Jan-0000 00:00:00 +0000"',
                                  '" 1-Jan-1890 00:00:00 -9999"', '""', "(a)", '"31-Feb-2014 25:61:61 +0000"',
                                  '" 1-Jan-99999999999 00:00:00 +0000"', '" 1-Jan-2000 9999999999999999999999:00:00 +0000"',
                                  '" 1-Jan-2000 -5:00:00 +0000"'])  # fmt: skip
def test_a_date_that_is_none_holds_up_nothing(syncer: Syncer, server: FaultServer, date: str) -> None:
    setattr(server.inbox.mails[2], "internaldate", lambda: date)  # noqa: B010 - a method
    syncer.sync()
    assert_copied(syncer, server)
    syncer.sync()
    syncer.verify()


@pytest.mark.parametrize("flags", [["../../x"], ["a" * 10_000], [f"k{number}" for number in range(3000)], ["\\Odd", "\\*"],
                                   ["\\seen", "\\FLAGGED"], ["é"], ["a'b;--"], ["\\Seen", "\\Seen"]])  # fmt: skip
def test_odd_flags_are_kept_and_harm_nothing(syncer: Syncer, server: FaultServer, flags: list[str]) -> None:
    server.inbox.flag(2, flags)
    syncer.sync()
    assert_copied(syncer, server)
    letters = {"\\seen": "S", "\\flagged": "F"}
    expected = "".join(sorted({letters[flag.lower()] for flag in flags if flag.lower() in letters}))
    assert syncer.files("alice", "INBOX")[2].letters == expected
    syncer.sync()
    syncer.verify()


@pytest.mark.parametrize("value", [2**32, 2**63, 10**19, 10**30])
@pytest.mark.parametrize("name", ["epoch", "next_uid", "modseq"])
def test_a_number_that_is_too_large_harms_nobody_else(syncer: Syncer, server: FaultServer, name: str, value: int) -> None:
    setattr(server.boxes[b"Other"], name, value)
    done = syncer.run("sync")
    assert "Traceback" not in done.stderr
    assert done.returncode in ANY
    assert len(syncer.files("alice", "INBOX")) == INBOX
    setattr(server.boxes[b"Other"], name, 8)
    syncer.sync()
    assert_copied(syncer, server)
    syncer.verify()


def test_an_epoch_that_never_stays_ends_and_doubles_nothing(syncer: Syncer, server: FaultServer) -> None:
    def change(command: Command) -> None:
        if command.verb == "EXAMINE" and command.words[0] == b"INBOX":
            server.inbox.epoch += 1

    server.before = change
    for _ in range(3):
        done = syncer.run("sync", deadline_s=60)
        assert done.returncode in ANY
        assert len(server.commands) < 1000
        files = messages(syncer.root / "alice" / "INBOX" / "cur")
        assert len({file.path.read_bytes() for file in files}) == len(files) <= INBOX
        server.commands.clear()
    assert len(syncer.files("alice", "Other")) == 2
    server.before = None
    syncer.sync()
    assert_copied(syncer, server)
    syncer.verify()


def test_a_modseq_that_goes_back_hides_no_change(syncer: Syncer, server: FaultServer) -> None:
    server.inbox.modseq = 1_000_000
    server.inbox.flag(1, ["\\Seen"])
    syncer.sync()
    server.inbox.modseq = 10
    for mail in server.inbox.mails.values():
        mail.modseq = 5
    server.inbox.mails[2].flags = {"\\Flagged", "back"}
    del server.inbox.mails[3]
    server.inbox.append(b"Subject: after\r\n\r\nx\r\n")
    syncer.sync()
    assert_copied(syncer, server)
    assert syncer.files("alice", "INBOX")[2].letters == "F"
    assert syncer.flags("alice", "INBOX")[2] == {"\\Flagged", "back"}
    syncer.verify()


def test_an_empty_answer_to_a_search_removes_nothing(syncer: Syncer, server: FaultServer) -> None:
    syncer.sync()
    lie = Reply(b'* SEARCH\r\n* ESEARCH (TAG "%TAG%") UID\r\nTAG OK done\r\n')
    server.faults = [Fault("UID SEARCH", lie)]
    server.inbox.append(b"Subject: new\r\n\r\nx\r\n")
    server.inbox.modseq += 5
    done = syncer.run("sync")
    assert done.returncode in ANY
    assert set(range(1, INBOX + 1)) <= set(syncer.files("alice", "INBOX"))
    server.faults = []
    syncer.sync()
    assert_copied(syncer, server)


def test_vanished_that_is_a_lie_loses_nothing(syncer: Syncer, server: FaultServer) -> None:
    syncer.sync()
    server.inbox.append(b"Subject: new\r\n\r\nx\r\n")
    server.inbox.gone.append((server.inbox.modseq, 2))
    server.inbox.gone.append((server.inbox.modseq, 3))
    for _ in range(2):
        syncer.run("sync")
    assert_copied(syncer, server)
    syncer.verify()


def test_a_server_that_lost_everything_is_followed_and_the_copy_kept(syncer: Syncer, server: FaultServer) -> None:
    syncer.sync()
    kept = sorted(mail.content for box in server.boxes.values() for mail in box.mails.values())
    for name in server.boxes:
        server.boxes[name] = Box(server.boxes[name].epoch + 100)
    done = syncer.run("sync")
    assert done.returncode == 0, done.stdout
    assert sorted(file.path.read_bytes() for file in syncer.removed("alice")) == kept
    assert_copied(syncer, server)
    assert f"{INBOX} gone" in done.stdout


def context(folder: Path) -> ssl.SSLContext:
    make_certificates(folder)
    made = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    made.load_cert_chain(folder / "cert.pem", folder / "key.pem")
    return made


def secret_was_said(server: FaultServer) -> bool:
    said = "".join(command.text for command in server.commands)
    return PASSWORD in said or "LOGIN" in said or "AUTHENTICATE" in said


def test_starttls_that_is_stripped_is_said_and_no_secret_goes_out(syncer: Syncer, server: FaultServer) -> None:
    syncer.account("alice", server.port, tls="starttls")
    said = syncer.sync(status=PERSON)
    assert "STARTTLS" in said
    assert not secret_was_said(server)


def test_starttls_that_is_refused_is_said_and_no_secret_goes_out(syncer: Syncer, new_fault_server: NewServer) -> None:
    server = new_fault_server(Fault("STARTTLS", no("not today")), tls=context(syncer.folder))
    syncer.account("alice", server.port, 'ca_file = "ca.pem"', tls="starttls")
    done = syncer.run("sync")
    assert done.returncode in FAILS
    assert not secret_was_said(server)


@pytest.mark.parametrize("tls", ["tls", "starttls"])
def test_tls_works_and_a_wrong_certificate_is_said(syncer: Syncer, new_fault_server: NewServer, tls: str) -> None:
    server = new_fault_server(tls=context(syncer.folder), tls_first=tls == "tls")
    fill(server)
    syncer.account("alice", server.port, tls=tls)
    said = syncer.sync(status=PERSON)
    assert "certificate" in said
    assert not secret_was_said(server)
    syncer.account("alice", server.port, 'ca_file = "ca.pem"', tls=tls)
    syncer.sync()
    assert_copied(syncer, server)


def test_what_comes_in_clear_before_starttls_is_not_taken(syncer: Syncer, new_fault_server: NewServer) -> None:
    server = new_fault_server(tls=context(syncer.folder))
    server.injected = b"* CAPABILITY IMAP4rev1 AUTH=EVIL\r\n* BYE x\r\ns2 OK [CAPABILITY IMAP4rev1 AUTH=EVIL] done\r\n"
    fill(server)
    syncer.environment["SEMGUARD_IMAP_LIMITS"] = LIMITS
    syncer.account("alice", server.port, 'ca_file = "ca.pem"', tls="starttls")
    done = syncer.run("sync")
    if done.returncode == IN_STEP:
        assert_copied(syncer, server)
    else:
        assert not secret_was_said(server)


def test_a_refused_password_is_said_once_and_others_do_not_notice(
    syncer: Syncer, server: FaultServer, new_fault_server: NewServer
) -> None:
    bad = new_fault_server(passwords={"bob": "another"})
    syncer.account("bob", bad.port)
    said = syncer.sync(status=PERSON)
    assert "bob" in said
    assert "correct horse" not in said
    assert_copied(syncer, server)
    tries = len([command for command in bad.commands if command.verb in ("LOGIN", "AUTHENTICATE")])
    assert tries == 1
    syncer.run("sync")
    assert len([command for command in bad.commands if command.verb in ("LOGIN", "AUTHENTICATE")]) <= tries + 1


def test_a_token_that_is_refused_is_asked_for_again(syncer: Syncer, new_fault_server: NewServer) -> None:
    server = new_fault_server(capabilities=[*MODERN, "AUTH=XOAUTH2", "AUTH=OAUTHBEARER"], passwords={"alice": "token-2"})
    fill(server)
    counter = syncer.folder / "state.count"
    script = syncer.folder / "state.sh"
    script.write_text(f"echo x >> {counter}\necho token-$(wc -l < {counter})\n")
    syncer.account("alice", server.port, f'token_command = "sh {script}"')
    syncer.sync()
    assert counter.read_text().count("x") == 2
    assert_copied(syncer, server)


def test_connections_stay_within_the_cap(syncer: Syncer, new_fault_server: NewServer) -> None:
    server = new_fault_server()
    for number in range(40):
        server.boxes[f"f{number}".encode()] = Box(number + 1)
        for each in range(20):
            server.boxes[f"f{number}".encode()].append(f"Subject: {number}.{each}\r\n\r\n".encode() + b"x" * 20_000)
    syncer.settings = "per_user = 2"
    syncer.account("alice", server.port)
    syncer.sync()
    assert_copied(syncer, server)
    assert server.most_open <= 2


def test_nothing_on_the_server_is_changed(syncer: Syncer, server: FaultServer) -> None:
    syncer.sync()
    server.inbox.expunge(1)
    syncer.sync()
    syncer.verify()
    allowed = {"CAPABILITY", "LOGIN", "AUTHENTICATE", "ENABLE", "ID", "NAMESPACE", "LIST", "STATUS", "EXAMINE", "UNSELECT",
               "NOOP",
               "UID FETCH", "UID SEARCH", "IDLE", "LOGOUT"}  # fmt: skip
    assert {command.verb for command in server.commands} <= allowed
    assert not any("BODY[" in command.text.upper() for command in server.said("UID FETCH"))


def lists(*names: tuple[str, str]) -> Fault:
    """The fault by which these folders (name, delimiter) are listed before all others."""
    lines = "".join(f'* LIST () "{delimiter}" "{name}"\r\n' for name, delimiter in names)
    return Fault("LIST", Reply(lines.encode(), "on"))


@pytest.mark.parametrize("epoch", [7, 8], ids=["same UIDVALIDITY", "another UIDVALIDITY"])
@pytest.mark.parametrize("changes", [False, True], ids=["same mail", "other mail"])
def test_another_delimiter_ends_no_worker_and_loses_nothing(
    syncer: Syncer, server: FaultServer, *, epoch: int, changes: bool
) -> None:
    server.separator = "."
    for name in (b"INBOX.Work", b"INBOX.Work.old"):
        server.boxes[name] = Box(7)
        for number in range(3):
            server.boxes[name].append(b"Subject: %s %d\r\n\r\nhello\r\n" % (name, number), date=1_200_000_000 + number)
    syncer.sync()
    process = syncer.start()
    wait_until(lambda: len(server.said("IDLE")) > 0, "the worker waits for news", 20)
    with server.lock:
        server.separator = "/"
        for name in (b"INBOX.Work", b"INBOX.Work.old"):
            box = server.boxes[name.replace(b".", b"/")] = server.boxes.pop(name)
            box.epoch = epoch
            if changes:
                box.append(b"Subject: late\r\n\r\nhello\r\n")
                box.expunge(1)
    server.cut()
    syncer.sync()
    assert_copied(syncer, server)
    syncer.verify()
    assert process.poll() is None
    assert syncer.stop(process) == 0
    assert sorted(path.name for path in syncer.paths("alice").values()) == ["INBOX", "INBOX.Work", "INBOX.Work.old", "Other"]
    assert "Traceback" not in syncer.logged()


@pytest.mark.parametrize("together", [False, True], ids=["one later", "together"])
def test_two_delimiters_in_one_list_are_two_folders(syncer: Syncer, server: FaultServer, *, together: bool) -> None:
    if not together:
        syncer.sync()
    for number, name in enumerate((b"a.b", b"a/b", b"x.y", b"x/y")):
        server.boxes[name] = Box(7)  # the UIDVALIDITY and the UIDs do not tell them apart
        server.boxes[name].append(b"Subject: %s\r\n\r\nhello\r\n" % name)
        if number == 0 and not together:
            server.faults = [lists(("a.b", "."))]
            syncer.sync()
    server.faults = [lists(("a.b", "."), ("x.y", "."))]
    process = syncer.start()
    wait_until(lambda: "started:" in syncer.logged(), "the worker has the archive")
    syncer.sync()
    assert_copied(syncer, server)
    assert syncer.stop(process) == 0
    syncer.verify()
    before = {path.stat().st_ino for path in syncer.root.glob("alice/*/cur/*")}
    for path in syncer.folder.glob("imap.db*"):
        path.unlink()
    server.faults = [lists(("x.y", "."), ("x/y", "/"), ("a/b", "/"), ("a.b", "."))]
    syncer.sync()
    assert_copied(syncer, server)
    assert {path.stat().st_ino for path in syncer.root.glob("alice/*/cur/*")} == before
    assert syncer.removed("alice") == []
    syncer.verify()


@pytest.mark.parametrize(
    "lie",
    [b'* SEARCH\r\n* ESEARCH (TAG "%TAG%") UID\r\n', b"* ESEARCH (((\r\n", b"", b'* ESEARCH (TAG "%TAG%") UID ALL 1\r\n',
     b'* ESEARCH (TAG "%TAG%") UID ALL 1:4294967296\r\n'],
    ids=["empty", "not understood", "nothing", "too few", "no UIDs"],
)  # fmt: skip
def test_nothing_is_proved_by_an_answer_that_is_none(syncer: Syncer, server: FaultServer, lie: bytes) -> None:
    syncer.sync()
    server.faults = [Fault("UID SEARCH", Reply(lie + b"TAG OK done\r\n"))]
    for path in (syncer.root / "alice" / "INBOX" / "cur").iterdir():
        path.unlink()
    done = syncer.run("verify")
    assert done.returncode == PERSON, done.stdout
    assert "all here" not in done.stdout
    assert all(f"alice {name}: " in done.stdout for name in ("INBOX", "Other"))


@pytest.mark.parametrize("epoch", [2**32, 2**40])
def test_a_uidvalidity_that_can_be_none_is_said_and_nothing_is_copied_under_it(
    syncer: Syncer, server: FaultServer, epoch: int
) -> None:
    server.boxes[b"Other"].epoch = epoch
    said = syncer.sync(status=PERSON)
    assert f"folder Other: EXAMINE: the server gives the UIDVALIDITY {epoch}, which can be none" in said
    assert len(syncer.files("alice", "INBOX")) == INBOX
    assert syncer.files("alice", "Other") == {}
    assert syncer.run("verify").returncode == PERSON
    server.boxes[b"Other"].epoch = 2**32 - 1
    syncer.sync()
    assert_copied(syncer, server)
    syncer.verify()


@pytest.mark.parametrize("capabilities", [BASIC, MODERN], ids=["basic", "modern"])
def test_a_folder_of_more_gaps_than_a_line_holds_is_read(
    syncer: Syncer, server: FaultServer, capabilities: Sequence[str]
) -> None:
    server.capabilities = list(capabilities)
    gaps = 150_000
    uids = [4_000_000_000 + 2 * number for number in range(gaps)]
    named = f'* ESEARCH (TAG "%TAG%") UID ALL {",".join(map(str, uids))}\r\nTAG OK done\r\n'
    if "ESEARCH" not in capabilities:
        named = f"* SEARCH {' '.join(map(str, uids))}\r\nTAG OK done\r\n"
    server.faults = [
        Fault(
            "EXAMINE", Reply(f"* {gaps} EXISTS\r\n* OK [UIDVALIDITY 7] x\r\n* OK [UIDNEXT 4100000000] x\r\nTAG OK x\r\n".encode())
        ),
        Fault("UID SEARCH", Reply(named.encode())),
        Fault("UID FETCH", Reply(b"TAG OK none\r\n")),
    ]
    del server.boxes[b"Other"]
    done = syncer.run("verify", deadline_s=60)
    assert f"{gaps} missing" in done.stdout, done.stdout + done.stderr


def test_a_date_that_has_changed_is_a_difference(syncer: Syncer, server: FaultServer) -> None:
    syncer.sync()
    server.inbox.mails[3].date += 3600
    done = syncer.run("verify")
    assert done.returncode == PERSON
    assert "(UID 3)" in done.stdout
    server.inbox.mails[3].date -= 3600
    syncer.verify()


def test_flags_that_change_in_a_pass_are_there_soon(syncer: Syncer, server: FaultServer) -> None:
    """The server tells of them while another message is fetched, and never again."""
    server.capabilities = ["IMAP4rev1", "IDLE"]
    syncer.settings = 'recent = { present = "6h", absent = "6h" }\nfull = { present = "6h", absent = "6h" }'
    syncer.account("alice", server.port)
    syncer.sync()

    def flag(command: Command) -> None:
        if command.verb == "UID FETCH" and command.words[0] == b"6" and not told:
            told.append(command)
            server.inbox.flag(2, ["\\Flagged"])
            server.faults = [Fault("UID FETCH", Reply(b"* 2 FETCH (FLAGS (\\Flagged))\r\n", "on"), 1)]

    told: list[Command] = []
    server.before = flag
    server.inbox.append(b"Subject: new\r\n\r\nx\r\n")
    process = syncer.start()
    wait_until(lambda: bool(told), "the new one is fetched", 20)
    wait_until(lambda: syncer.files("alice", "INBOX")[2].letters == "F", "the flag is there", 20)
    time.sleep(1.0)
    count = len(server.commands)
    time.sleep(1.0)
    assert len(server.commands) == count  # and it rests
    assert syncer.stop(process) == 0


def test_a_server_that_tells_flags_again_and_again_is_not_asked_for_ever(syncer: Syncer, new_fault_server: NewServer) -> None:
    chatter = Reply(b"* 1 FETCH (UID 1 FLAGS (\\Flagged))\r\n* 2 FETCH (FLAGS (x))\r\n", "on")
    for capabilities in (("IMAP4rev1", "IDLE"), MODERN):
        server = new_fault_server(
            *[Fault(verb, chatter) for verb in ("EXAMINE", "UID FETCH", "UID SEARCH")], capabilities=capabilities
        )
        fill(server)
        syncer.account("alice", server.port)
        process = syncer.start()
        wait_until(lambda server=server: len(server.said("IDLE")) > 0, "it rests", 20)  # type: ignore[misc]
        time.sleep(3.0)
        assert len(server.said("EXAMINE")) < 12
        assert syncer.stop(process) == 0
        syncer.sync()


@pytest.mark.parametrize("kind", [b"ESEARCH (TAG x) UID ALL ", b"SEARCH ", b"VANISHED (EARLIER) ", b"VANISHED "])
@pytest.mark.parametrize("verb", ["EXAMINE", "UID SEARCH"])
def test_a_set_without_end_costs_no_memory(syncer: Syncer, server: FaultServer, kind: bytes, verb: str) -> None:
    def flood() -> Iterable[bytes]:
        yield b"* " + kind + b"1"
        for start in range(3, 10_000_000, 20_000):
            yield b"".join(b",%d" % uid for uid in range(start, start + 20_000, 2))

    syncer.sync()
    server.inbox.append(b"Subject: new\r\n\r\nx\r\n")
    server.faults = [Fault(verb, Reply(flood, "cut"))]
    done = syncer.run("sync", deadline_s=60)
    assert done.returncode in ANY
    assert syncer.peak_kib() < MOST_KIB
    server.faults = []
    syncer.sync()
    assert_copied(syncer, server)
