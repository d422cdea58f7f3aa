"""What a relay may do wrong, and what must become of the mail: a table of faults, each against a sender of its own.

The cases of the table wait for different things most of their time, so they run a few at once; each has its folder,
its spool, its relay and its sender. All end by `--drain`: what is found then is final until the next try is due.
"""

from __future__ import annotations

import hashlib
import random
import re
import socket
import ssl
import subprocess
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
from workers.mail.load import load
from workers.spool.accept import Submission, accept, open_spool

AT_ONCE = 6
LONGEST_S = 60.0
SHORT_S = 2
SENDER = "s@example.org"
LIMITS = "SEMGUARD_MAIL_LIMITS"
MEGABYTE = Reply(b"x" * 1_000_000)
GARBAGE = Reply(b"\x00\xff\x16\x03HTTP/1.1 400 Bad Request\r\n\r\n")
ENDLESS = Reply(b"250-and so on\r\n" * 70_000)


class Case(NamedTuple):
    """A mail (or `mails`, each to `to` recipients) meets faults. Expected: the state of each recipient in order,
    words in the log (a pattern), the exit status of the drain, how often the mail came to each (once where it is sent), and how
    many attempts are counted as unknown. `tls` is that of mail.toml, "starttls" with a login, or "wrong": a login at a host
    that its certificate does not name. `short` is the step whose time limit is SHORT_S. Without `drains` the sender
    goes on until the states are there, also by a later try."""

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
    spool: str = ""
    relay: str = ""  # more settings of it
    size_bytes: int = 0
    extensions: Sequence[str] = PIPELINING
    drains: bool = True
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


def asks_once(run: Run) -> None:
    assert [talk.said("MAIL") for talk in run.relay.talks] == [1]


def says_nothing(run: Run) -> None:
    assert [talk.lines for talk in run.relay.talks] == [[]]


def keeps_to_turns(run: Run) -> None:
    assert [talk.ahead for talk in run.relay.talks] == [0]


def waits_120_s(run: Run) -> None:
    assert run.started_at + 120 <= run.rows[0]["due_at"] <= run.ended_at + 120


def goes_in_two_halves(run: Run) -> None:
    halves = Counter(arrival.transaction for arrival in run.relay.arrivals)
    assert sorted(halves.values()) == [50, 50]


def next_was_begun(run: Run) -> None:
    """The second mail lost its envelope behind the first one's dot: that is nobody's failure."""
    assert run.relay.talks[0].said("MAIL") == 2
    assert "mail 2 to r0@example.net deferred" not in run.log


def one_connection(run: Run) -> None:
    assert [talk.said("QUIT") for talk in run.relay.talks] == [1]


def one_after_another(run: Run) -> None:
    one_connection(run)
    assert run.relay.talks[0].ahead > 0


def fifty_in(talk: Talk, _line: str) -> bool:
    return len(talk.recipients) >= 50


def second_rcpt(talk: Talk, _line: str) -> bool:
    return len(talk.recipients) == 1


QUEUED, DEFERRED, FAILED, SENT = ["queued"], ["deferred"], ["failed"], ["sent"]
HALF_HOUR = "next try in 30 min"
SOON = r"next try in \d\.\d\d s"
ONLY_HELO = ("",)

CASES = [
    # 4xx and 5xx. Up to AUTH they speak of the relay or the account, and no mail is to blame.
    Case("421 as greeting: the mail waits, uncharged", at("CONNECT", "421 busy"), QUEUED, "421 busy; " + SOON, 75),
    Case("554 as greeting: the relay refuses us, so the breaker opens", at("CONNECT", "554 no"), QUEUED, HALF_HOUR, 75),
    Case("451 at EHLO: the relay is asked again soon", at("EHLO", "451 later"), QUEUED, "451 later; " + SOON, 75),
    Case("550 at EHLO: the breaker opens", at("EHLO", "550 not you"), QUEUED, HALF_HOUR, 75),
    Case("502 at EHLO: HELO does", at("EHLO", "502 what?"), SENT),
    Case(
        "454 at STARTTLS: asked again soon, nothing goes in clear",
        at("STARTTLS", "454 no TLS"),
        QUEUED,
        "454 no TLS; " + SOON,
        75,
        tls="starttls",
    ),
    Case("554 at STARTTLS: the breaker opens", at("STARTTLS", "554 no TLS"), QUEUED, HALF_HOUR, 75, tls="starttls"),
    Case("554 at STARTTLS that only may be: goes on in clear", at("STARTTLS", "554 no TLS"), SENT, tls="opportunistic"),
    Case("454 at AUTH: only put off, no breaker", at("AUTH", "454 4.7.0 later"), QUEUED, SOON, 75, tls="starttls"),
    Case("535 at AUTH: the breaker opens", at("AUTH", "535 5.7.8 wrong"), QUEUED, HALF_HOUR, 75, tls="starttls"),
    Case("451 at MAIL defers", at("MAIL", "451 later"), DEFERRED, "deferred: 451 later; next try in"),
    Case("550 at MAIL fails and is told to the sender", at("MAIL", "550 no", when=about("<s@")), FAILED, "failed: 550 no"),
    Case(
        "530 at MAIL: the account's trouble, no mail's",
        at("MAIL", "530 5.7.0 log in"),
        DEFERRED + QUEUED * 19,
        HALF_HOUR,
        75,
        mails=20,
        also=asks_once,
    ),
    Case(
        "451 at RCPT of one of three defers that one only",
        at("RCPT", "451 x", when=about("r1@")),
        ["sent", "deferred", "sent"],
        to=3,
    ),
    Case(
        "550 at RCPT of one of three fails that one only",
        at("RCPT", "550 x", when=about("r1@")),
        ["sent", "failed", "sent"],
        to=3,
    ),
    Case("451 at each RCPT defers all", at("RCPT", "451 x"), DEFERRED * 3, to=3),
    Case("550 at each RCPT fails all", at("RCPT", "550 x", when=about("<r")), FAILED * 3, to=3),
    Case("421 at the second RCPT defers all three", at("RCPT", "421 x", when=second_rcpt), DEFERRED * 3, "421 x", to=3),
    Case("451 at DATA defers all", at("DATA", "451 later"), DEFERRED * 2, to=2),
    Case("554 at DATA fails all", at("DATA", "554 no", 1), FAILED * 2, to=2),
    Case("451 behind the dot defers all", at("DOT", "451 later"), DEFERRED * 2, to=2),
    Case("554 behind the dot fails all", at("DOT", "554 spam", 1), FAILED * 2, "failed: 554 spam", to=2),
    Case(
        "500 at RSET: the next mail goes over a fresh connection",
        at("RCPT", "450 x", 1) + at("RSET", "500 x"),
        ["deferred", "sent"],
        mails=2,
    ),
    # Silence is ended by the limit of its step.
    Case("silence as greeting", at("CONNECT", SILENCE), QUEUED, "no answer at connect within 2.00 s", 75, short="greeting"),
    Case("silence at EHLO", at("EHLO", SILENCE), QUEUED, "no answer at EHLO within 2.00 s", 75, short="ehlo"),
    Case("silence at STARTTLS", at("STARTTLS", SILENCE), QUEUED, "no answer at STARTTLS", 75, short="starttls", tls="starttls"),
    Case("silence in the handshake", at("TLS", SILENCE), QUEUED, "no answer at STARTTLS", 75, short="starttls", tls="starttls"),
    Case("silence in place of TLS", at("TLS", SILENCE), QUEUED, "no answer at connect", 75, short="connect", tls="tls"),
    Case("silence at AUTH", at("AUTH", SILENCE), QUEUED, "no answer at AUTH within 2.00 s", 75, short="auth", tls="starttls"),
    Case("silence at MAIL defers", at("MAIL", SILENCE), DEFERRED, "lost at MAIL: no answer within 2 s", short="envelope"),
    Case(
        "silence at RCPT defers all",
        at("RCPT", SILENCE, when=second_rcpt),
        DEFERRED * 2,
        "lost at RCPT: no answer",
        to=2,
        short="envelope",
    ),
    Case("silence at DATA defers", at("DATA", SILENCE), DEFERRED, "lost at DATA: no answer within 2 s", short="data"),
    Case(
        "a relay that stops reading in the body",
        at("BODY", STALL),
        DEFERRED,
        "lost at DATA: no answer",
        short="block",
        size_bytes=9 << 20,
    ),
    Case("silence behind the dot: sent again, once", at("DOT", SILENCE, 1), SENT, "no answer", came=[2], unknowns=1, short="dot"),
    Case("silence at QUIT takes nothing back", at("QUIT", SILENCE), SENT),
    # Cut: before the dot nothing was sent, behind it nobody knows.
    Case("cut as greeting", at("CONNECT", CUT), QUEUED, "no connection at connect", 75),
    Case("cut at EHLO", at("EHLO", CUT), QUEUED, "no connection at EHLO", 75),
    Case("cut at STARTTLS", at("STARTTLS", CUT), QUEUED, "no connection at STARTTLS", 75, tls="starttls"),
    Case("cut in the handshake", at("TLS", CUT), QUEUED, "no connection at STARTTLS: .*" + SOON, 75, tls="starttls"),
    Case(
        "closed in the handshake",
        at("TLS", Reply(then="bye")),
        QUEUED,
        "no connection at STARTTLS: .*" + SOON,
        75,
        tls="starttls",
    ),
    Case("cut at AUTH", at("AUTH", CUT), QUEUED, "no connection at AUTH", 75, tls="starttls"),
    Case("cut at MAIL defers", at("MAIL", CUT), DEFERRED, "lost at MAIL"),
    Case(
        "cut at MAIL twice is the relay's trouble, the third waits", at("MAIL", CUT), [*DEFERRED * 2, "queued"], SOON, 75, mails=3
    ),
    Case("cut at RCPT defers all", at("RCPT", CUT, when=second_rcpt), DEFERRED * 3, "connection lost at", to=3),
    Case("cut at DATA defers", at("DATA", CUT), DEFERRED, "connection lost at"),
    Case("cut in the body: not sent", at("BODY", CUT), DEFERRED, "lost at DATA", size_bytes=9 << 20),
    Case("cut behind the dot: unknown once, then sent again", at("DOT", CUT, 1), SENT, "unknown: ", came=[2], unknowns=1),
    Case("closed behind the dot: as if it were cut", at("DOT", Reply(then="bye"), 1), SENT, "unknown: ", came=[2], unknowns=1),
    Case(
        "cut behind the dot, and unknown is held",
        at("DOT", CUT, 1),
        ["unknown"],
        "held",
        came=[1],
        unknowns=1,
        spool='unknown = "hold"',
    ),
    Case("cut at QUIT", at("QUIT", CUT), SENT, also=asks_once),
    # What is no SMTP.
    Case(
        "a byte a second as greeting", at("CONNECT", dripping("220 hello")), QUEUED, "no answer at connect", 75, short="greeting"
    ),
    Case("a byte a second at MAIL", at("MAIL", dripping("250 fine")), DEFERRED, "no answer within 2 s", short="envelope"),
    Case(
        "a byte a second behind the dot", at("DOT", dripping("250 ok"), 1), SENT, "no answer", came=[2], unknowns=1, short="dot"
    ),
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
    Case("a certificate for another host: the breaker opens", [], QUEUED, HALF_HOUR, 75, tls="wrong", also=says_nothing),
    # What a healthy relay says.
    Case(
        "greylisted: the second try gets through",
        at("RCPT", "451 4.7.1 greylisted", 2),
        SENT * 2,
        "451 4.7.1 greylisted",
        to=2,
        drains=False,
    ),
    Case(
        "450 with 120 seconds: tried again then",
        at("RCPT", "450 try again in 120 seconds"),
        DEFERRED,
        "in 2 min",
        also=waits_120_s,
    ),
    Case(
        "452 after 50 recipients: the rest at once",
        at("RCPT", "452 x", when=fifty_in),
        SENT * 100,
        to=100,
        also=goes_in_two_halves,
    ),
    Case("552 after 50 recipients: as 452", at("RCPT", "552 x", when=fifty_in), SENT * 100, to=100, also=goes_in_two_halves),
    Case(
        "421 at the dot, the next mail's envelope behind it",
        at("DOT", "421 x", 1),
        ["deferred", "sent"],
        "421 x",
        mails=2,
        also=next_was_begun,
    ),
    Case("cut at the dot, the next mail's envelope behind it", at("DOT", CUT, 1), SENT * 2, came=[2, 1], unknowns=1, mails=2),
    Case(
        "closed at the dot, the next mail's envelope behind it",
        at("DOT", Reply(then="bye"), 1),
        SENT * 2,
        came=[2, 1],
        unknowns=1,
        mails=2,
        also=next_was_begun,
    ),
    Case("no PIPELINING: never a word out of turn", [], SENT * 4, to=2, mails=2, extensions=ONLY_HELO, also=keeps_to_turns),
    Case(
        "354 although nobody is left: nothing is sent",
        at("RCPT", "450 x", 1) + at("DATA", "354 go"),
        ["deferred", "sent"],
        mails=2,
        also=one_connection,
    ),
    Case(
        "five mails in a row over one connection", [], SENT * 10, to=2, mails=5, relay="connections = 1", also=one_after_another
    ),
]


def ended(spool: Spool, case: Case) -> int:
    """Runs the case's sender to its end; the exit status."""
    if case.drains:
        sender = spool.start("--drain")
        try:
            return sender.wait(LONGEST_S)
        except subprocess.TimeoutExpired:
            pytest.fail(f"the sender does not come to its end; it said last: {spool.logged()[-500:]}")
    sender = spool.start()
    wait_until(lambda: spool.states() == list(case.states), "the states are there", LONGEST_S)
    return spool.stop(sender)


def carry_out(case: Case, folder: Path, tls: ssl.SSLContext, authority: str) -> Run:
    """Queues, drains and looks what came of it."""
    first = case.tls in ("tls", "wrong")
    logs_in = case.tls in ("starttls", "wrong")
    relay = FaultRelay(
        case.faults,
        extensions=case.extensions,
        passwords={"me": "secret"} if logs_in else None,
        tls=None if case.tls == "none" else tls,
        tls_first=first,
    )
    spool = Spool(folder, case.spool)
    try:
        settings = f'{case.spool}\n[relay]\nhost = "{"127.0.0.1" if case.tls == "wrong" else "localhost"}"\nport = {relay.port}\n'
        settings += f'tls = "{"tls" if first else case.tls}"\n{case.relay}\n'
        if case.tls != "none":
            settings += f'ca_file = "{authority}"\n'
        if logs_in:
            (folder / "pw").write_text("secret\n")
            (folder / "pw").chmod(0o600)
            settings += 'user = "me"\npassword_file = "pw"\n'
        spool.configure(settings)
        if case.short:
            spool.environment[LIMITS] = f"{case.short}={SHORT_S}"
        queued = queue(spool, [f"r{number}@example.net" for number in range(case.to)], case.mails, size_bytes=case.size_bytes)
        started_at = time.time()
        status = ended(spool, case)
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
    assert re.search(case.log, run.log), run.log
    assert run.status == case.status
    assert sum(row["unknowns"] for row in run.rows) == case.unknowns
    if set(case.states) == {"queued"}:
        assert {row["attempts"] for row in run.rows} == {0}, "trouble of the relay was charged to a mail"
        assert len(run.relay.talks) == 1, "it hammers"
    if case.also is not None:
        case.also(run)


@pytest.fixture
def new_relay() -> Iterator[Callable[..., FaultRelay]]:
    made: list[FaultRelay] = []

    def make(*words: Any, **more: Any) -> FaultRelay:
        made.append(FaultRelay(*words, **more))
        return made[-1]

    yield make
    for each in made:
        each.close()


NewRelay = Callable[..., FaultRelay]


def run_of(spool: Spool, relay: FaultRelay, queued: list[Queued], started_at: float = 0.0) -> Run:
    return Run(queued, spool.rows(), relay, spool.logged(), 0, started_at, time.time())


def wait_sent(spool: Spool, relay: FaultRelay, count: int) -> None:
    """Waits until the relay has so many and the spool knows. The relay is asked first: that costs it no time."""
    wait_until(lambda: len(relay.arrivals) >= count, "all arrive", LONGEST_S)
    wait_until(lambda: spool.states().count("sent") >= count, "all are sent", LONGEST_S)


def section(name: str, port: int, more: str = "") -> str:
    return f'[{name}]\nhost = "localhost"\nport = {port}\ntls = "none"\n{more}\n'


def test_a_relay_that_takes_three_connections_gets_three_and_all_mail(spool: Spool, new_relay: NewRelay) -> None:
    """Its answer to QUIT takes a while, so that a connection that leaves is still one of the three."""
    faults = at("CONNECT", "421 4.7.0 too many connections", when=lambda talk, _: talk.open > 3)
    faults += at("QUIT", Reply(b"221 bye\r\n", pause_s=0.02))
    relay = new_relay(faults, answer_s=0.02)
    spool.configure(section("relay", relay.port, "mails_per_connection = 40"))
    queued = queue(spool, ["a@example.net"], mails=300)
    sender = spool.start()
    wait_sent(spool, relay, 300)
    assert spool.stop(sender) == 0
    run = run_of(spool, relay, queued)
    check_ledger(run)
    assert {row["attempts"] for row in run.rows} == {1}
    refused = [talk.after for talk in relay.talks if talk.open > 3]
    assert refused, "it never tried a fourth connection"
    assert len(refused) <= 5, f"it goes on to try: {len(refused)} times"
    assert relay.most_open <= 8
    assert "next try" not in run.log


def test_a_relay_that_is_back_gets_all_that_waits(spool: Spool, new_relay: NewRelay) -> None:
    port = free_port()
    spool.configure(section("relay", port))
    queued = queue(spool, ["a@example.net", "b@example.net"], mails=50)
    sender = spool.start()
    wait_until(lambda: "Connection refused; next try in" in spool.logged(), "the relay is missed")
    assert set(spool.states()) == {"queued"}
    relay = new_relay(port=port)
    wait_sent(spool, relay, 100)
    assert spool.stop(sender) == 0
    run = run_of(spool, relay, queued)
    check_ledger(run)
    assert {row["attempts"] for row in run.rows} == {1}
    assert run.log.count("answers again") == 1


def test_a_wrong_password_parks_its_account_and_no_other(spool: Spool, new_relay: NewRelay) -> None:
    relay = new_relay(passwords={"ua": "right", "ub": "right"})
    settings = ""
    for name, word in (("a", "guess"), ("b", "right")):
        (spool.folder / name).write_text(f"{word}\n")
        (spool.folder / name).chmod(0o600)
        settings += section(f'identity."{name}@example.org"', relay.port, f'user = "u{name}"\npassword_file = "{name}"')
    spool.configure(settings)
    senders = ["a@example.org", "b@example.org"]
    queued = [mail for sender in senders for mail in queue(spool, ["r@example.net"], 20, sender)]
    sender = spool.start()
    for more in ([], senders):  # what comes later neither wakes the parked account
        queued += [mail for each in more for mail in queue(spool, ["r@example.net"], 20, each)]
        count = len(queued) // 2
        wait_sent(spool, relay, count)
    wait_until(lambda: HALF_HOUR in spool.logged(), "A is parked")
    assert spool.stop(sender) == 0
    run = run_of(spool, relay, queued)
    assert {(row["sender"], row["state"]) for row in run.rows} == {("a@example.org", "queued"), ("b@example.org", "sent")}
    check_ledger(run)
    assert [talk.user for talk in relay.talks].count("ua") == 1
    assert "wrong password" in run.log


def test_a_dead_route_holds_up_no_other(spool: Spool, new_relay: NewRelay) -> None:
    relay = new_relay()
    routes = {"dead.example": free_port(), "live.example": relay.port}
    spool.configure("".join(section(f'routes."{domain}"', port) for domain, port in routes.items()))
    queued = queue(spool, [f"r@{domain}" for domain in routes], mails=100)
    sender = spool.start()
    wait_sent(spool, relay, 100)
    wait_until(lambda: "Connection refused; next try in" in spool.logged(), "the dead route is missed")
    assert spool.stop(sender) == 0
    run = run_of(spool, relay, queued)
    assert check_ledger(run) == ["queued", "sent"] * 100
    assert {row["attempts"] for row in run.rows if row["state"] == "queued"} == {0}


def test_ten_thousand_recipients_get_a_mail_once_by_hundreds(spool: Spool, new_relay: NewRelay) -> None:
    relay = new_relay()
    spool.configure(section("relay", relay.port))
    queued = queue(spool, [f"r{number}@example.net" for number in range(10_000)])
    assert spool.start("--drain").wait(LONGEST_S) == 0
    assert set(check_ledger(run_of(spool, relay, queued))) == {"sent"}
    assert relay.transactions <= 120, "more than a few were not full"


def test_a_mail_of_25_megabytes_streams(spool: Spool, new_relay: NewRelay) -> None:
    relay = new_relay()
    spool.configure(section("relay", relay.port))
    queued = queue(spool, ["a@example.net"], size_bytes=25 << 20)
    sender = spool.start()
    wait_sent(spool, relay, 1)
    status = Path(f"/proc/{sender.pid}/status").read_text()
    peak_kib = int(next(line for line in status.splitlines() if line.startswith("VmHWM")).split()[1])
    assert spool.stop(sender) == 0
    check_ledger(run_of(spool, relay, queued))
    assert peak_kib < 60 * 1024


def test_a_host_that_does_not_even_connect_is_given_up_in_time(spool: Spool) -> None:
    with socket.create_server(("127.0.0.1", 0), backlog=0) as deaf:
        port = deaf.getsockname()[1]
        fillers = [socket.socket() for _ in range(3)]  # nobody takes these from the queue, so the kernel answers no more
        for each in fillers:
            each.setblocking(False)
            each.connect_ex(("127.0.0.1", port))
        spool.configure(section("relay", port))
        spool.environment[LIMITS] = f"connect={SHORT_S}"
        queue(spool, ["a@example.net"])
        assert spool.start("--drain").wait(LONGEST_S) == 75
        for each in fillers:
            each.close()
    assert re.search("no answer at connect within 2.00 s; " + SOON, spool.logged())
    assert spool.states() == ["queued"]
