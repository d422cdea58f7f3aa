"""What a relay may do wrong, and what must become of the mail: a table of faults, each against a sender of its own.

The cases of the table wait for different things most of their time, so they run a few at once; each has its folder,
its spool, its relay and its sender. All end by `--drain`: what is found then is final until the next try is due.
"""

from __future__ import annotations

import hashlib
import random
import ssl
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from tests.system.fault_relay import CUT, PIPELINING, SILENCE, STALL, Fault, FaultRelay, Reply, Talk, always, dripping, says
from tests.system.mail_servers import Spool, free_port, wait_until
from tests.system.test_smtp_spool import certificate
from workers.mail.config import load
from workers.spool.accept import Submission, accept, open_spool

AT_ONCE = 6
SENDER = "s@example.org"
LIMITS = "SEMGUARD_MAIL_LIMITS"
MEGABYTE = Reply(b"x" * 1_000_000)
GARBAGE = Reply(b"\x00\xff\x16\x03HTTP/1.1 400 Bad Request\r\n\r\n")
ENDLESS = Reply(b"250-and so on\r\n" * 70_000)


class Case(NamedTuple):
    """A mail (or `mails`, each to `to` recipients) meets faults. Expected: the state of each recipient in order,
    words in the log, the exit status of the drain, how often the mail came to each (once where it is sent), and how
    many attempts are counted as unknown. `short` is the step whose time limit is a second."""

    words: str
    faults: Sequence[Fault]
    states: Sequence[str]
    log: str = ""
    status: int = 0
    came: Sequence[int] | None = None
    unknowns: int = 0
    to: int = 1
    mails: int = 1
    short: str = ""
    tls: str = "none"
    user: str = ""
    spool: str = ""
    size_bytes: int = 0
    extensions: Sequence[str] = PIPELINING
    also: Callable[[Run], object] | None = None


class Queued(NamedTuple):
    """What was accepted: a mail and its recipients."""

    id: int
    message_id: str
    digest: str
    recipients: tuple[str, ...]


class Run(NamedTuple):
    """What came of a case. Times are Unix seconds."""

    queued: list[Queued]
    rows: list[dict[str, Any]]
    relay: FaultRelay
    log: str
    status: int
    started_at: float
    ended_at: float


def at(step: str, reply: Reply | str, times: int = 1_000_000, when: Callable[[Talk, str], bool] = always) -> list[Fault]:
    return [Fault(step, says(reply) if isinstance(reply, str) else reply, times, when)]


def about(part: str) -> Callable[[Talk, str], bool]:
    return lambda _talk, line: part in line


def text(message_id: str, size_bytes: int = 0) -> bytes:
    """A message with dots in all places where they matter."""
    head = f"From: <{SENDER}>\r\nMessage-ID: {message_id}\r\nSubject: x\r\n\r\n"
    body = b".\r\n..\r\nbody\r\n.\r\n\r\n.begins with a dot\r\nends with one.\r\n"
    line = b".%s\r\n" % (b"x" * 60)
    return head.encode() + body + line * (size_bytes // len(line)) + b".\r\n"


def queue(spool: Spool, recipients: Sequence[str], mails: int = 1, sender: str = SENDER, size_bytes: int = 0) -> list[Queued]:
    """Accepts mails as sendmail does, by the lanes of mail.toml."""
    lane = load(str(spool.config)).lane
    now = time.time()
    made, queued = [], []
    for _ in range(mails):
        message_id = f"<{random.getrandbits(64):x}@test>"
        message = text(message_id, size_bytes)
        lanes = [lane(sender, recipient) for recipient in recipients]
        made.append(Submission(sender, list(recipients), lanes, message_id, message, now + 1e6))
        queued.append((message_id, hashlib.sha256(message).hexdigest(), tuple(recipients)))
    store = open_spool(spool.settings())
    ids = store.transact(lambda transaction: accept(transaction, made, now))
    store.close()
    return [Queued(id_, *each) for id_, each in zip(ids, queued, strict=True)]


def check_ledger(run: Run, came: Sequence[int] | None = None) -> list[str]:
    """Each accepted recipient has one state and got the mail as often as it should, whole; returns the states.

    `came`: how often; without it, once where it is sent and never where it is not.
    """
    accepted = [(mail.id, recipient) for mail in run.queued for recipient in mail.recipients]
    ours = [row for row in run.rows if row["sender"] != ""]
    assert [(row["mail_id"], row["address"]) for row in ours] == accepted
    digests = {mail.message_id: mail.digest for mail in run.queued}
    arrivals = [arrival for arrival in run.relay.arrivals if arrival.message_id in digests]
    assert {arrival.digest for arrival in arrivals} <= set(digests.values())
    assert all(arrival.digest == digests[arrival.message_id] for arrival in arrivals), "a body was changed on its way"
    times = Counter((arrival.message_id, arrival.recipient) for arrival in arrivals)
    states = [row["state"] for row in ours]
    expected = came if came is not None else [int(state == "sent") for state in states]
    assert [times.pop((row["message_id"], row["address"]), 0) for row in ours] == list(expected)
    assert not times, "mail came to somebody whom it was not for"
    failed = {row["mail_id"] for row in ours if row["state"] == "failed"}
    assert {row["address"] for row in run.rows if row["sender"] == ""} == ({SENDER} if failed else set())
    return states


def nobody_hammers(run: Run) -> None:
    assert len(run.relay.talks) == 1


def keeps_to_turns(run: Run) -> None:
    assert [talk.ahead for talk in run.relay.talks] == [0]


def waits_120_s(run: Run) -> None:
    assert run.started_at + 120 <= run.rows[0]["due_at"] <= run.ended_at + 120


def goes_in_two_halves(run: Run) -> None:
    halves = Counter(arrival.transaction for arrival in run.relay.arrivals)
    assert sorted(halves.values()) == [50, 50]


def is_not_said_anew(run: Run) -> None:
    """The second mail lost its envelope behind the first one's dot: that is nobody's failure."""
    assert [row["answer"][:3] for row in run.rows[1:]] == ["250"]
    assert "RCPT" not in run.log


def one_connection(run: Run) -> None:
    assert [talk.said("QUIT") for talk in run.relay.talks] == [1]


def fifty_in(talk: Talk, _line: str) -> bool:
    return len(talk.recipients) >= 50


def second_rcpt(talk: Talk, _line: str) -> bool:
    return len(talk.recipients) == 1


QUEUED, DEFERRED, FAILED, SENT = ["queued"], ["deferred"], ["failed"], ["sent"]
HALF_HOUR = "next try in 30 min"
ONLY_HELO = ("",)
HANDSHAKE = {"tls": "starttls", "user": "me"}

CASES = [
    # 4xx and 5xx. Up to AUTH they speak of the relay or the account, and no mail is to blame.
    Case("421 as greeting: the mail waits, uncharged", at("CONNECT", "421 busy"), QUEUED, "421 busy; next try in 5.00 s", 75),
    Case("554 as greeting: the relay refuses us, so the breaker opens", at("CONNECT", "554 no"), QUEUED, HALF_HOUR, 75),
    Case("451 at EHLO: the relay is asked again soon", at("EHLO", "451 later"), QUEUED, "451 later; next try in 5.00 s", 75),
    Case("550 at EHLO: the breaker opens", at("EHLO", "550 not you"), QUEUED, HALF_HOUR, 75),
    Case("502 at EHLO: HELO does", at("EHLO", "502 what?"), SENT),
    Case("454 at STARTTLS: asked again soon, nothing goes in clear", at("STARTTLS", "454 no TLS"), QUEUED, "5.00 s", 75, **HANDSHAKE),
    Case("554 at STARTTLS: the breaker opens", at("STARTTLS", "554 no TLS"), QUEUED, HALF_HOUR, 75, **HANDSHAKE),
    Case("454 at AUTH: only put off, no breaker", at("AUTH", "454 4.7.0 later"), QUEUED, "next try in 5.00 s", 75, **HANDSHAKE),
    Case("535 at AUTH: the breaker opens", at("AUTH", "535 5.7.8 wrong"), QUEUED, HALF_HOUR, 75, **HANDSHAKE),
    Case("451 at MAIL defers", at("MAIL", "451 later"), DEFERRED, "deferred: 451 later; next try in"),
    Case("550 at MAIL fails and is told to the sender", at("MAIL", "550 no", when=about("<s@")), FAILED, "failed: 550 no"),
    Case("530 at MAIL: the account's trouble, no mail's", at("MAIL", "530 5.7.0 log in"), DEFERRED, HALF_HOUR, 75),
    Case("451 at RCPT of one of three defers that one only", at("RCPT", "451 x", when=about("r1@")), ["sent", "deferred", "sent"], to=3),
    Case("550 at RCPT of one of three fails that one only", at("RCPT", "550 x", when=about("r1@")), ["sent", "failed", "sent"], to=3),
    Case("451 at each RCPT defers all", at("RCPT", "451 x"), DEFERRED * 3, to=3),
    Case("550 at each RCPT fails all", at("RCPT", "550 x", when=about("<r")), FAILED * 3, to=3),
    Case("421 at the second RCPT defers all three", at("RCPT", "421 x", when=second_rcpt), DEFERRED * 3, "421 x", to=3),
    Case("451 at DATA defers all", at("DATA", "451 later"), DEFERRED * 2, to=2),
    Case("554 at DATA fails all", at("DATA", "554 no", 1), FAILED * 2, to=2),
    Case("451 behind the dot defers all", at("DOT", "451 later"), DEFERRED * 2, to=2),
    Case("554 behind the dot fails all", at("DOT", "554 spam", 1), FAILED * 2, "failed: 554 spam", to=2),
    Case("500 at RSET: the next mail goes over a fresh connection", at("RCPT", "450 x", 1) + at("RSET", "500 x"), ["deferred", "sent"], mails=2),
    # Silence is ended by the limit of its step.
    Case("silence as greeting", at("CONNECT", SILENCE), QUEUED, "no answer at connect within 1.00 s", 75, short="greeting"),
    Case("silence at EHLO", at("EHLO", SILENCE), QUEUED, "no answer at EHLO within 1.00 s", 75, short="ehlo"),
    Case("silence at STARTTLS", at("STARTTLS", SILENCE), QUEUED, "no answer at STARTTLS", 75, short="starttls", **HANDSHAKE),
    Case("silence in the handshake", at("TLS", SILENCE), QUEUED, "no answer at STARTTLS", 75, short="starttls", **HANDSHAKE),
    Case("silence in place of TLS", at("TLS", SILENCE), QUEUED, "no answer at connect", 75, short="connect", tls="tls"),
    Case("silence at AUTH", at("AUTH", SILENCE), QUEUED, "no answer at AUTH within 1.00 s", 75, short="auth", **HANDSHAKE),
    Case("silence at MAIL defers", at("MAIL", SILENCE), DEFERRED, "lost at MAIL: no answer within 1 s", short="envelope"),
    Case("silence at RCPT defers all", at("RCPT", SILENCE, when=second_rcpt), DEFERRED * 2, "lost at RCPT: no answer", to=2, short="envelope"),
    Case("silence at DATA defers", at("DATA", SILENCE), DEFERRED, "lost at DATA: no answer within 1 s", short="data"),
    Case("a relay that stops reading in the body", at("BODY", STALL), DEFERRED, "lost at DATA: no answer", short="block", size_bytes=9 << 20),
    Case("silence behind the dot: sent again, once", at("DOT", SILENCE, 1), SENT, "no answer", came=[2], unknowns=1, short="dot"),
    Case("silence at QUIT holds nobody up", at("QUIT", SILENCE), SENT),
    # Cut: before the dot nothing was sent, behind it nobody knows.
    Case("cut as greeting", at("CONNECT", CUT), QUEUED, "no connection at connect", 75),
    Case("cut at EHLO", at("EHLO", CUT), QUEUED, "no connection at EHLO", 75),
    Case("cut at STARTTLS", at("STARTTLS", CUT), QUEUED, "no connection at STARTTLS", 75, **HANDSHAKE),
    Case("cut in the handshake", at("TLS", CUT), QUEUED, "relay localhost:", 75, **HANDSHAKE),
    Case("cut at AUTH", at("AUTH", CUT), QUEUED, "no connection at AUTH", 75, **HANDSHAKE),
    Case("cut at MAIL defers", at("MAIL", CUT), DEFERRED, "lost at MAIL"),
    Case("cut at MAIL twice is the relay's trouble, the third waits", at("MAIL", CUT), [*DEFERRED * 2, "queued"], "5.00 s", 75, mails=3),
    Case("cut at RCPT defers all", at("RCPT", CUT, when=second_rcpt), DEFERRED * 3, "lost at RCPT", to=3),
    Case("cut at DATA defers", at("DATA", CUT), DEFERRED, "lost at DATA"),
    Case("cut in the body: not sent", at("BODY", CUT), DEFERRED, "lost at DATA", size_bytes=9 << 20),
    Case("cut behind the dot: unknown once, then sent again", at("DOT", CUT, 1), SENT, "unknown: ", came=[2], unknowns=1),
    Case("closed behind the dot: as if it were cut", at("DOT", Reply(then="bye"), 1), SENT, "unknown: ", came=[2], unknowns=1),
    Case("cut behind the dot, and unknown is held", at("DOT", CUT, 1), ["unknown"], "held", came=[1], unknowns=1, spool='unknown = "hold"'),
    Case("cut at QUIT", at("QUIT", CUT), SENT, also=nobody_hammers),
    # What is no SMTP.
    Case("a byte a second as greeting", at("CONNECT", dripping("220 hello")), QUEUED, "no answer at connect", 75, short="greeting"),
    Case("a byte a second at MAIL", at("MAIL", dripping("250 fine")), DEFERRED, "no answer within 1 s", short="envelope"),
    Case("a byte a second behind the dot", at("DOT", dripping("250 ok"), 1), SENT, "no answer", came=[2], unknowns=1, short="dot"),
    Case("a megabyte as greeting", at("CONNECT", MEGABYTE), QUEUED, "not understood at connect", 75),
    Case("a megabyte at EHLO", at("EHLO", MEGABYTE), QUEUED, "not understood at EHLO", 75),
    Case("a megabyte at MAIL", at("MAIL", MEGABYTE), DEFERRED, "a reply of more than 65536 bytes"),
    Case("a reply of endless lines at RCPT", at("RCPT", ENDLESS), DEFERRED, "a reply of more than 65536 bytes"),
    Case("a megabyte behind the dot", at("DOT", MEGABYTE, 1), SENT, "more than 65536 bytes", came=[2], unknowns=1),
    Case("garbage as greeting", at("CONNECT", GARBAGE), QUEUED, "not understood at connect", 75),
    Case("garbage at EHLO", at("EHLO", GARBAGE), QUEUED, "not understood at EHLO", 75),
    Case("garbage at MAIL", at("MAIL", GARBAGE), DEFERRED, "not an SMTP reply"),
    Case("garbage behind the dot", at("DOT", GARBAGE, 1), SENT, "not an SMTP reply", came=[2], unknowns=1),
    Case("354 behind the dot says neither yes nor no", at("DOT", "354 more?", 1), SENT, "unknown: 354", came=[2], unknowns=1),
    Case("a certificate for another host: the breaker opens", [], QUEUED, HALF_HOUR, 75, tls="wrong", also=nobody_hammers),
    # What a healthy relay says.
    Case("450 with 120 seconds: tried again then", at("RCPT", "450 try again in 120 seconds"), DEFERRED, "in 2 min", also=waits_120_s),
    Case("452 after 50 recipients: the rest at once", at("RCPT", "452 x", when=fifty_in), SENT * 100, to=100, also=goes_in_two_halves),
    Case("552 after 50 recipients: as 452", at("RCPT", "552 x", when=fifty_in), SENT * 100, to=100, also=goes_in_two_halves),
    Case("421 at the dot, the next mail's envelope behind it", at("DOT", "421 x", 1), ["deferred", "sent"], "421 x", mails=2, also=is_not_said_anew),
    Case("cut at the dot, the next mail's envelope behind it", at("DOT", CUT, 1), SENT * 2, came=[2, 1], unknowns=1, mails=2),
    Case("no PIPELINING: never a word out of turn", [], SENT * 4, to=2, mails=2, extensions=ONLY_HELO, also=keeps_to_turns),
    Case("354 although nobody is left: nothing is sent", at("RCPT", "450 x", 1) + at("DATA", "354 go"), ["deferred", "sent"], mails=2, also=one_connection),
    Case("five mails in a row over one connection", [], SENT * 10, to=2, mails=5, also=one_connection),
]  # fmt: skip


def carry_out(case: Case, folder: Path, tls: ssl.SSLContext, authority: str) -> Run:
    """Queues, drains and looks what came of it."""
    first = case.tls in ("tls", "wrong")
    relay = FaultRelay(
        case.faults,
        extensions=case.extensions,
        passwords={"me": "secret"} if case.user else None,
        tls=None if case.tls == "none" else tls,
        tls_first=first,
    )
    spool = Spool(folder, case.spool)
    try:
        settings = f'{case.spool}\n[relay]\nhost = "{"127.0.0.1" if case.tls == "wrong" else "localhost"}"\nport = {relay.port}\n'
        settings += f'tls = "{"tls" if first else case.tls}"\n'
        if case.tls != "none":
            settings += f'ca_file = "{authority}"\n'
        if case.user:
            (folder / "pw").write_text("secret\n")
            (folder / "pw").chmod(0o600)
            settings += f'user = "{case.user}"\npassword_file = "pw"\n'
        spool.configure(settings)
        if case.short:
            spool.environment[LIMITS] = f"{case.short}=1"
        queued = queue(spool, [f"r{number}@example.net" for number in range(case.to)], case.mails, size_bytes=case.size_bytes)
        started_at = time.time()
        status = spool.drain()
        return Run(queued, spool.rows(), relay, spool.logged(), status, started_at, time.time())
    finally:
        spool.close()
        relay.close()


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> tuple[ssl.SSLContext, str]:
    """A server's TLS for localhost, and the file that vouches for it."""
    folder = tmp_path_factory.mktemp("tls")
    return certificate(folder), str(folder / "cert.pem")


@pytest.fixture(scope="module")
def runs(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, authority: tuple[ssl.SSLContext, str]
) -> Iterator[dict[str, Future[Run]]]:
    """Runs the cases that were asked for, a few at once."""
    found = [getattr(item, "callspec", None) for item in request.session.items]
    cases = [spec.params["case"] for spec in found if spec is not None and isinstance(spec.params.get("case"), Case)]
    with ThreadPoolExecutor(AT_ONCE) as pool:
        yield {case.words: pool.submit(carry_out, case, tmp_path_factory.mktemp("case"), *authority) for case in cases}
        pool.shutdown(cancel_futures=True)


@pytest.mark.parametrize("case", CASES, ids=[case.words for case in CASES])
def test_a_fault_of_the_relay(case: Case, runs: dict[str, Future[Run]]) -> None:
    run = runs[case.words].result()
    assert check_ledger(run, case.came) == list(case.states), run.log
    assert case.log in run.log
    assert run.status == case.status
    assert sum(row["unknowns"] for row in run.rows) == case.unknowns
    if case.also is not None:
        case.also(run)
