"""The outbox against real Dovecot and smtp-sink: what is saved there is sent once, whatever happens, and is then in Sent."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.system.imap_fixtures import new_dovecot, syncer
from tests.system.imap_servers import Dovecot
from tests.system.imap_syncer import Syncer
from tests.system.imap_user import MailUser
from tests.system.mail_servers import Sink, Spool, end, subjects, wait_until

__all__ = ["new_dovecot", "syncer"]

KILLS = 30
LETTERS = 40
SEED = os.environ.get("SEMGUARD_SEED")
OUTBOX = 'outbox = "To send"\nsent = "Sent/Of mine"'
SENT = "Sent/Of mine"
SWITCHED_OFF = [(), ("MOVE",), ("MOVE", "UIDPLUS"), ("NOTIFY",), ("NOTIFY", "CONDSTORE", "QRESYNC", "MOVE", "UIDPLUS", "ESEARCH")]


def letter(tag: str, to: str = "bob@example.org", more: str = "Bcc: eve@example.org\r\n") -> bytes:
    """A mail with a blind recipient."""
    head = f"From: Alice <alice@example.org>\r\nTo: {to}\r\n{more}Subject: {tag}\r\nMessage-ID: <{tag}@example.org>\r\n"
    return f"{head}Date: Mon, 1 Jun 2026 10:00:00 +0000\r\n\r\nbody of {tag}\r\n".encode()


class Post:
    """Both workers, a Dovecot, the user alice with an outbox, and smtp-sink as the relay."""

    def __init__(self, syncer: Syncer, spool: Spool, sink: Sink, dovecot: Dovecot, outbox: str = OUTBOX) -> None:
        self.syncer = syncer
        self.spool = spool
        self.sink = sink
        self.dovecot = dovecot
        self.user: MailUser = dovecot.user("alice")
        self.user.create("To send")
        syncer.settings = f'[relay]\nhost = "127.0.0.1"\nport = {sink.port}\ntls = "none"\n'
        syncer.account(self.user, dovecot.port, outbox)
        self.syncing: subprocess.Popen[bytes] | None = None
        self.sending: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Starts both workers."""
        self.start_sync()
        self.start_send()

    def start_sync(self) -> None:
        """Starts imap-sync."""
        self.syncing = self.syncer.start()

    def start_send(self) -> None:
        """Starts the spool's sender."""
        self.sending = self.spool.start()

    def wait_in_step(self) -> None:
        """Until the account is in step and the server pushes its news."""
        wait_until(lambda: "0 new messages" in self.syncer.logged(), "the worker has begun", 30)
        query = "SELECT state FROM imap_account"
        wait_until(lambda: self.syncer.rows(query) == [("in step",)], "the account is in step", 30)

    def queued(self) -> list[int]:
        """The numbers of all mails that the spool took for the account."""
        return sorted({row["mail_id"] for row in self.spool.rows()})

    def sent(self) -> list[str]:
        """The subjects in the sent folder, sorted; none while there is no such folder."""
        return tags(self.user, SENT) if SENT in self.user.folders() else []

    def waiting(self) -> list[str]:
        """The subjects of what lies in the outbox and is not marked as deleted."""
        return tags(self.user, "To send")


def tags(user: MailUser, folder: str) -> list[str]:
    """The subjects of what lies in a folder and is not marked as deleted, sorted."""
    found = user.contents(folder).values()
    return subjects([message.content.decode() for message in found if "\\Deleted" not in message.flags])


@pytest.fixture
def sink(tmp_path: Path) -> Iterator[Sink]:
    made = Sink(tmp_path / "sink")
    yield made
    made.close()


@pytest.fixture
def new_post(syncer: Syncer, spool: Spool, sink: Sink, new_dovecot: Callable[..., Dovecot]) -> Callable[..., Post]:
    """Makes the world of a test; the arguments are Dovecot's, or `outbox`."""

    def make(outbox: str = OUTBOX, **options: object) -> Post:
        return Post(syncer, spool, sink, new_dovecot(**options), outbox)

    return make


@pytest.mark.parametrize("off", SWITCHED_OFF, ids=["all", "no MOVE", "no UIDPLUS", "no NOTIFY", "plain"])
def test_what_is_saved_in_the_outbox_is_sent_and_then_in_sent(new_post: Callable[..., Post], off: tuple[str, ...]) -> None:
    post = new_post(off=off)
    post.start()
    post.wait_in_step()
    content = letter("one")
    post.user.append("To send", content, ["\\Seen"])
    saved = time.monotonic()
    wait_until(lambda: len(post.queued()) == 1, "it is queued", 10)
    assert time.monotonic() - saved < 3.0  # within a second of the push; the rest is for a busy machine
    wait_until(lambda: post.sent() == ["one"], "it is in the sent folder", 20)
    wait_until(lambda: post.waiting() == [], "and no longer in the outbox, which without MOVE is a step of its own", 20)
    (mail,) = post.sink.mails()
    assert "Bcc" not in mail
    assert {"X-Rcpt-Args: <bob@example.org>", "X-Rcpt-Args: <eve@example.org>"} <= set(mail.splitlines())
    assert "X-Mail-Args: <alice@example.org>" in mail
    (kept,) = post.user.contents(SENT).values()
    assert kept.content == content
    lying = post.user.contents("To send")
    assert len(lying) == ("MOVE" in off and "UIDPLUS" in off)  # there it is marked only
    assert all("\\Deleted" in each.flags for each in lying.values())
    wait_until(lambda: SENT in post.syncer.paths("alice"), "the archive has the sent folder", 20)
    post.syncer.sync()
    post.syncer.assert_mirrors(post.user)


def test_only_the_outbox_is_ever_opened_to_be_changed(new_post: Callable[..., Post]) -> None:
    post = new_post(f'{OUTBOX}\nlog_level = "debug"')
    post.user.append("INBOX", letter("other"))
    post.start()
    post.user.append("To send", letter("one"))
    wait_until(lambda: post.sent() == ["one"], "it is sent", 30)
    lines = [line.rpartition(" [")[0].partition("] > s") for line in post.syncer.logged().splitlines()]
    said = [line.partition(" ")[2] for _, found, line in lines if found]
    assert {line for line in said if line.startswith("SELECT")} == {'SELECT "To send"'}
    assert not [line for line in said if line.startswith(("CLOSE", "EXPUNGE", "STORE", "APPEND", "DELETE", "RENAME"))]
    assert list(post.user.contents("INBOX")) == [1]


def test_drafts_and_deleted_ones_stay_and_are_not_sent_until_they_are_none(new_post: Callable[..., Post]) -> None:
    post = new_post()
    post.user.append("To send", letter("draft"), ["\\Draft"])
    post.user.append("To send", letter("gone"), ["\\Deleted"])
    post.start()
    post.user.append("To send", letter("one"))
    wait_until(lambda: post.sent() == ["one"], "the third is sent", 30)
    assert len(post.user.contents("To send")) == 2
    assert len(post.queued()) == 1
    post.user.flag("To send", "1", "\\Draft", "-FLAGS")
    wait_until(lambda: post.sent() == ["draft", "one"], "the draft is none any more", 30)
    assert list(post.user.contents("To send")) == [2]


BAD = {
    "nobody": b"From: alice@example.org\r\nSubject: nobody\r\n\r\nx\r\n",
    "bad": letter("bad", "bob@example.org, no address at all <@>, x y@example.org"),
    "senderless": b"To: bob@example.org\r\nSubject: senderless\r\n\r\nx\r\n",
    "big": letter("big") + b"x" * 998 + b"\r\n" + b"y" * 70_000,
}


def test_what_cannot_be_sent_stays_is_told_once_and_holds_up_nothing(new_post: Callable[..., Post]) -> None:
    post = new_post()
    post.syncer.config.write_text(post.syncer.config.read_text().replace("[spool]", '[spool]\nmax_size = "60K"'))
    post.start()
    for content in BAD.values():
        post.user.append("To send", content)
    post.user.append("To send", letter("good"))
    wait_until(lambda: post.sent() == ["good"], "the good one is sent", 30)
    post.user.append("To send", letter("another"))  # one more pass over the bad ones
    wait_until(lambda: post.sent() == ["another", "good"], "another one is sent", 30)
    assert post.waiting() == sorted(BAD)
    told = [line for line in post.syncer.logged().splitlines() if "is not sent" in line]
    assert len(told) == len(BAD)
    reasons = [str(why) for (why,) in post.syncer.rows("SELECT why FROM imap_outbox WHERE why <> '' ORDER BY uid")]
    for part, why in zip(["no recipient", "address", "no sender", "max_size"], reasons, strict=True):
        assert part in why
    explained = post.syncer.run("why", "alice").stdout
    assert explained.count("of To send is not sent") == len(BAD)
    post.syncer.sync(status=1)
    assert problem(post) == ("waiting", "4 messages of To send can't be sent: no recipient in To, Cc or Bcc")
    post.user.flag("To send", "1", "\\Deleted")
    post.user.expunge("To send", "2:4")
    wait_until(lambda: post.syncer.rows("SELECT * FROM imap_outbox WHERE uid > 1") == [], "what is gone is forgotten", 30)
    post.syncer.sync()
    assert problem(post) == ("in step", "")


def problem(post: Post) -> tuple[str, str]:
    """State and problem of the account, as `status` tells them."""
    (account,) = json.loads(post.syncer.run("status", "--json").stdout)["accounts"]
    return account["state"], account["problem"]


def test_one_pass_tells_of_what_cannot_be_sent_each_time_until_it_is_gone(new_post: Callable[..., Post]) -> None:
    post = new_post()
    post.user.append("To send", BAD["nobody"])
    for _ in range(2):
        post.syncer.sync(status=1)
        assert problem(post) == ("waiting", "1 message of To send can't be sent: no recipient in To, Cc or Bcc")
        assert post.syncer.rows("SELECT kind, synced_at > 0 FROM imap_account") == [("outbox", 1)]  # the copy is in step
        assert "can't be sent: no recipient in To, Cc or Bcc" in post.syncer.run("status").stdout
    post.user.expunge("To send", "1")
    post.syncer.sync()
    assert problem(post) == ("in step", "")


def test_an_outbox_that_the_server_lacks_is_a_problem_until_it_is_there(new_post: Callable[..., Post]) -> None:
    post = new_post('outbox = "Out"')
    post.syncer.sync(status=1)
    assert problem(post) == ("waiting", "has no folder Out: nothing is sent from there")
    explained = post.syncer.run("why", "alice").stdout
    assert "has no folder Out: nothing is sent from there" in explained
    assert "Make that folder on the server, or put outbox right at [[imap.accounts]]" in explained
    assert "it has no folder Out" in post.syncer.run("check").stdout
    post.start_sync()
    wait_until(lambda: post.syncer.rows("SELECT mode, kind FROM imap_account") == [("notify", "outbox")], "it is told", 30)
    post.syncer.sync(status=1)
    post.user.create("Out")
    post.syncer.sync()
    assert problem(post) == ("in step", "")


def test_a_mail_that_fails_is_moved_too_and_one_that_waits_is_not(
    new_post: Callable[..., Post], relay: Callable[..., object]
) -> None:
    post = new_post()
    made = relay(lambda line: {"R": "550 no", "M": "250 ok"}.get(line[:1], "250 ok") if "deferred" not in line else "450 later")
    post.syncer.settings = f'[relay]\nhost = "127.0.0.1"\nport = {made.port}\ntls = "none"\n'  # type: ignore[attr-defined]
    post.syncer.write()
    post.start()
    post.user.append("To send", letter("waits", "deferred@example.org", ""))
    post.user.append("To send", letter("fails", "refused@example.org", ""))
    wait_until(lambda: post.sent() == ["fails"], "the failed one is moved", 30)
    assert post.waiting() == ["waits"]


def test_the_same_message_twice_is_one_letter(new_post: Callable[..., Post]) -> None:
    """The same Message-ID with the same content is the same mail, on purpose or not: sent once. Other content is another."""
    post = new_post()
    post.user.append("To send", letter("same"))
    post.user.append("To send", letter("same"))
    post.user.append("To send", letter("same") + b"PS\r\n")
    post.start()
    wait_until(lambda: post.waiting() == [], "all are gone from the outbox", 30)
    assert Counter(post.sink.tags()) == {"same": 2}
    assert post.sent() == ["same"] * 3
    post.user.append("To send", letter("same"))  # also long afterwards
    wait_until(lambda: post.sent() == ["same"] * 4, "it is moved again", 30)
    assert Counter(post.sink.tags()) == {"same": 2}
    wait_until(lambda: "was sent before" in post.syncer.logged(), "it is told", 10)


@pytest.mark.parametrize("off", [(), ("MOVE", "UIDPLUS")], ids=["all", "no MOVE"])
def test_a_new_uidvalidity_sends_nothing_again(new_post: Callable[..., Post], off: tuple[str, ...]) -> None:
    post = new_post(off=off)
    names = [f"m{number}" for number in range(5)]
    for name in names:
        post.user.append("To send", letter(name))
    post.user.append("To send", letter("done"), ["\\Draft"])
    post.start_sync()
    wait_until(lambda: len(post.queued()) == 5, "all are queued", 30)
    post.dovecot.change_uidvalidity("alice", "To send", 4711)
    post.dovecot.stop()
    post.dovecot.start()
    wait_until(lambda: post.syncer.rows("SELECT count(*) FROM imap_outbox WHERE epoch = 4711") == [(5,)], "they are known", 60)
    assert len(post.queued()) == 5
    post.start_send()
    wait_until(lambda: post.sent() == names, "all are sent", 30)
    post.dovecot.change_uidvalidity("alice", "To send", 4712)
    post.syncer.sync()
    assert Counter(post.sink.tags()) == Counter(names)
    assert post.sent() == names
    assert post.waiting() == ["done"]


def test_a_pruned_spool_and_a_lost_one_send_nothing_again(new_post: Callable[..., Post]) -> None:
    post = new_post()
    post.user.append("To send", letter("one"))
    post.syncer.sync()
    assert len(post.queued()) == 1
    assert post.spool.drain() == 0
    row = post.spool.rows()[0]
    subprocess.run(post.spool.command("delete", str(row["mail_id"])), env=post.spool.environment, check=True)
    post.dovecot.change_uidvalidity("alice", "To send", 99)
    post.syncer.sync()
    assert (post.sent(), post.waiting(), post.queued()) == (["one"], [], [])
    assert post.sink.tags() == ["one"]


def test_a_lost_state_database_sends_nothing_again(new_post: Callable[..., Post]) -> None:
    post = new_post()
    post.user.append("To send", letter("one"))
    post.syncer.sync()
    for path in post.syncer.folder.glob("imap.db*"):
        path.unlink()
    post.syncer.sync()
    assert len(post.queued()) == 1
    assert post.spool.drain() == 0
    post.syncer.sync()
    assert (post.sent(), post.waiting(), post.sink.tags()) == (["one"], [], ["one"])


def test_a_spool_that_cannot_be_opened_is_told_and_tried_again(new_post: Callable[..., Post]) -> None:
    post = new_post()
    post.user.append("INBOX", letter("other"))
    post.user.append("To send", letter("one"))
    database = post.spool.database
    database.parent.mkdir(parents=True, exist_ok=True)
    database.mkdir()
    post.start_sync()
    wait_until(lambda: "outbox To send: the spool:" in post.syncer.logged(), "it is told", 30)
    wait_until(lambda: "INBOX" in post.syncer.paths("alice"), "the rest goes on", 30)
    database.rmdir()
    wait_until(lambda: len(post.queued()) == 1, "it is queued all the same", 90)


def test_an_account_without_an_outbox_touches_neither_the_spool_nor_its_code(new_post: Callable[..., Post]) -> None:
    post = new_post("")
    post.user.append("To send", letter("one"))
    post.syncer.sync()
    assert not post.spool.database.exists()
    post.syncer.assert_mirrors(post.user)


@pytest.mark.parametrize("off", [(), ("MOVE", "UIDPLUS")], ids=["MOVE", "no MOVE"])
def test_workers_that_are_killed_send_each_once(new_post: Callable[..., Post], off: tuple[str, ...]) -> None:
    """The spool may send a mail twice whose sender is killed behind the final dot (RFC 1047); it counts these, and so do we."""
    post = new_post(off=off)
    chance = random.Random(SEED)
    names = [f"m{number:02d}" for number in range(LETTERS)]
    unsaved = list(names)
    post.start()
    kills = 0
    while kills < KILLS or unsaved:
        for _ in range(chance.randrange(4)):
            if unsaved:
                post.user.append("To send", letter(unsaved.pop(0)))
        if kills % 10 == 5:
            post.dovecot.change_uidvalidity("alice", "To send", 5000 + kills)
        time.sleep(chance.uniform(0, 0.7))  # a random moment, not a wait for something
        which = chance.choice([post.syncing, post.sending])
        assert which is not None
        assert which.poll() is None, post.syncer.logged()[-2000:]
        which.send_signal(signal.SIGKILL)
        end(which)
        kills += 1
        if which is post.syncing:
            post.start_sync()
        else:
            post.start_send()
    wait_until(lambda: post.waiting() == [] and len(post.sent()) >= LETTERS, "all are sent", 120)
    assert post.sent() == names
    assert len(post.queued()) == LETTERS
    possible = sum(row["unknowns"] for row in post.spool.rows())
    arrived = Counter(post.sink.tags())
    assert sorted(arrived) == names
    assert sum(arrived.values()) <= LETTERS + possible
    print(f"{kills} kills, {LETTERS} letters: each queued once and once in Sent; the relay had {sum(arrived.values())}")
