"""What a relay gets is what was handed in, byte for byte but for what the contract names, whoever hands in at once."""

from __future__ import annotations

import email
import json
import random
import re
import resource
import subprocess
from base64 import b64encode
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from email.message import Message
from pathlib import Path

import pytest

from tests.system.mail_corpus import EIGHT_BIT, LONG, SAME, SIGNED, SIGNED_HEADER, Case, wire
from tests.system.mail_keeper import TAKES_ALL, Keeper, Taken
from tests.system.mail_servers import Spool

MAILS = 2000
ENQUEUERS = 8
BY_SENDMAIL = 40  # of an enqueuer's mails; each takes a process, so most go by `add`
BARE = ("SIZE 100000000",)  # a relay without 8BITMIME and PIPELINING
WAYS = ("sendmail", "message_base64", "message", "-bs")
MISSING = {"From": rb"From: \S+@\S+\r\n", "Message-ID": rb"Message-ID: <\S+@\S+>\r\n", "Date": rb"Date: \w{3}, [^\r\n]+\r\n"}


def address(case: Case, way: str) -> str:
    """The recipient of a case that is handed in by one of WAYS."""
    return f"{case.words}.{way.strip('-')}@example.org"


def run(spool: Spool, words: Sequence[str], given: bytes) -> bytes:
    """Runs a command to its good end; what it wrote."""
    done = subprocess.run(spool.command(*words), input=given, capture_output=True, env=spool.environment)
    assert done.returncode == 0, (words, done.stdout, done.stderr)
    return done.stdout


def hand_in(spool: Spool, cases: Sequence[Case]) -> None:
    """Queues each case by each of WAYS that can take it: one process for all but sendmail's."""
    lines, talk = [], [b"EHLO x\n"]
    for case in cases:
        run(spool, ["sendmail", "-i", "-f", "s@example.org", address(case, "sendmail")], case.given)
        texts = {"message_base64": b64encode(case.given).decode()}
        if b"\xe9" not in case.given:
            texts["message"] = case.given.decode()
        lines += [json.dumps({"to": address(case, way), "from": "s@example.org", way: text}) for way, text in texts.items()]
        content = re.sub(rb"(?m)^\.", b"..", case.given)
        content += b"" if content.endswith(b"\n") or not content else b"\n"
        if case.given.endswith(b"\r"):
            continue  # with a line end behind it, it would be no bare one
        talk.append(f"MAIL FROM:<s@example.org>\nRCPT TO:<{address(case, '-bs')}>\nDATA\n".encode() + content + b".\n")
    assert run(spool, ["add"], "\n".join(lines).encode()).count(b'{"id":') == len(lines)
    assert run(spool, ["sendmail", "-bs"], b"".join([*talk, b"QUIT\n"])).count(b"queued as") == len(talk) - 1


Arrived = dict[str, Taken]


def carried(folder: Path, cases: Sequence[Case], extensions: Sequence[str]) -> Arrived:
    """What comes of each recipient's copy of the cases at a relay with these extensions."""
    keeper, spool = Keeper(extensions), Spool(folder)
    try:
        spool.through(keeper.port)
        hand_in(spool, cases)
        assert spool.drain() == 0
        assert keeper.wrongs == []
        assert Counter(recipient for recipient, _ in keeper.copies()) == Counter(row["address"] for row in spool.rows())
        return dict(keeper.copies())
    finally:
        spool.close()
        keeper.close()


@pytest.fixture(scope="module", params=[TAKES_ALL, BARE], ids=["at a relay with all", "at a bare relay"])
def same(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Arrived:
    """What came of SAME."""
    return carried(tmp_path_factory.mktemp("same"), SAME, request.param)


@pytest.fixture(scope="module")
def eight_bit(tmp_path_factory: pytest.TempPathFactory) -> Arrived:
    """What came of EIGHT_BIT with 8BITMIME."""
    return carried(tmp_path_factory.mktemp("eight"), EIGHT_BIT, TAKES_ALL)


@pytest.fixture(scope="module")
def encoded(tmp_path_factory: pytest.TempPathFactory) -> Arrived:
    """What came of EIGHT_BIT and LONG at a relay without 8BITMIME."""
    return carried(tmp_path_factory.mktemp("encoded"), [*EIGHT_BIT, *LONG], BARE)


@pytest.fixture
def keeper(spool: Spool) -> Iterator[Keeper]:
    made = Keeper()
    spool.through(made.port)
    yield made
    made.close()


def copies(arrived: Arrived, case: Case) -> list[Taken]:
    """The copies of a case, by all the ways that took it."""
    return [arrived[address(case, way)] for way in WAYS if address(case, way) in arrived]


def check_same(case: Case, text: bytes) -> None:
    """The message is what has to leave, with the fields that it lacks at the end of its header."""
    header, body = case.parts
    there = {line.partition(b":")[0].rstrip().lower().decode() for line in header.split(b"\r\n")}
    added = b"".join(pattern for name, pattern in MISSING.items() if name.lower() not in there)
    assert text[: len(header)] == header
    assert text[len(text) - len(body) :] == body
    assert re.fullmatch(added + rb"\r\n", text[len(header) : len(text) - len(body)])


def leaves(text: bytes) -> list[tuple[str, object]]:
    """Type and content of each leaf part of a message, decoded."""
    parts: list[Message] = [part for part in email.message_from_bytes(text).walk() if not part.is_multipart()]
    return [(part.get_content_type(), part.get_payload(decode=True)) for part in parts]


@pytest.mark.parametrize("case", SAME, ids=[case.words for case in SAME])
def test_a_message_leaves_as_it_came(same: Arrived, case: Case) -> None:
    found = copies(same, case)
    assert len(found) >= 3
    for mail in found:
        check_same(case, mail.text)


@pytest.mark.parametrize("case", EIGHT_BIT, ids=[case.words for case in EIGHT_BIT])
def test_eight_bit_leaves_as_it_came_and_is_announced(eight_bit: Arrived, case: Case) -> None:
    for mail in copies(eight_bit, case):
        check_same(case, mail.text)
        assert "BODY=8BITMIME" in mail.options.split()


@pytest.mark.parametrize("case", [*EIGHT_BIT, *LONG], ids=[case.words for case in [*EIGHT_BIT, *LONG]])
def test_what_the_relay_cannot_take_means_the_same_when_it_is_encoded(encoded: Arrived, case: Case) -> None:
    header, body = case.parts
    for mail in copies(encoded, case):
        assert mail.text.isascii()
        assert "8BITMIME" not in mail.options
        sent_header, _, sent_body = mail.text.partition(b"\r\n\r\n")
        if case.header.startswith(b"X-Long:"):
            assert sent_body == body
            unfolded = sent_header.replace(b"\r\n ", b"" if case.words.endswith("without-blanks") else b" ")
            assert unfolded.startswith(header.removesuffix(b"\r\n"))
        elif case.header == SIGNED_HEADER:
            assert sent_body.replace(b"\r\n ", b"") == body
        else:
            assert leaves(mail.text) == leaves(header + b"\r\n" + body)


def test_eight_bit_that_is_signed_fails_at_a_relay_without_8bitmime_and_that_is_told(spool: Spool) -> None:
    bare = Keeper(BARE)
    try:
        spool.through(bare.port)
        run(spool, ["sendmail", "-f", "s@example.org", "a@example.org"], SIGNED_HEADER + b"\n" + SIGNED % b"caf\xe9")
        assert spool.drain() == 0
        assert spool.states() == ["failed", "sent"]
        assert "encode it before signing" in spool.rows()[0]["answer"]
        assert [(mail.sender, mail.recipients) for mail in bare.taken] == [("", ("s@example.org",))]
    finally:
        bare.close()


def text_of(tag: str) -> bytes:
    """A message of its own for each tag: dots, lone CR and LF, 8-bit, some of several parts; whole with all its fields."""
    chance = random.Random(tag)
    signs = [b".", b"\n", b"\r", b"\r\n", b"\n.\n", b"a", b" ", b"\0", b"\xe9", tag.encode()]
    body = b"".join(chance.choices(signs, k=chance.randrange(200))) + (b"x" * 900 + b"\n") * (600 * (chance.random() < 0.01))
    return f"Subject: {tag}\nFrom: s@x\nDate: x\nMessage-ID: <{tag}@x>\n\n".encode() + body


def recipients_of(tag: str) -> list[str]:
    """One to four, some of whom get many of the mails."""
    chance = random.Random(f"to {tag}")
    return [f"u{number}@example.org" for number in chance.sample(range(40), chance.randrange(4))] + [f"only-{tag}@example.org"]


def enqueue(spool: Spool, tags: Sequence[str]) -> None:
    """Hands in BY_SENDMAIL of them by sendmail, half of those with -t and all recipients in Bcc, and the rest by `add`."""
    for number, tag in enumerate(tags[:BY_SENDMAIL]):
        if number % 2:
            run(spool, ["sendmail", "-i", *recipients_of(tag)], text_of(tag))
        else:
            run(spool, ["sendmail", "-ti"], f"Bcc: {', '.join(recipients_of(tag))}\n".encode() + text_of(tag))
    given = [(recipients_of(tag), b64encode(text_of(tag)).decode()) for tag in tags[BY_SENDMAIL:]]
    lines = [json.dumps({"to": recipients, "message_base64": text}) for recipients, text in given]
    assert run(spool, ["add"], "\n".join(lines).encode()).count(b'{"id":') == len(lines)


def test_enqueuers_at_once_send_each_mail_whole_to_its_own_recipients(spool: Spool, keeper: Keeper) -> None:
    tags = [f"tag{number}" for number in range(MAILS)]
    sender = spool.start()
    with ThreadPoolExecutor(ENQUEUERS) as pool:
        list(pool.map(lambda first: enqueue(spool, tags[first::ENQUEUERS]), range(ENQUEUERS)))
    assert spool.stop(sender) == 0
    assert spool.drain() == 0
    assert keeper.wrongs == []
    came = Counter((mail.text.partition(b"\r\n")[0].decode()[9:], recipient) for recipient, mail in keeper.copies())
    assert came == Counter((tag, recipient) for tag in tags for recipient in recipients_of(tag))
    expected = {f"Subject: {tag}".encode(): wire(text_of(tag)) for tag in tags}
    assert all(mail.text == expected[mail.text.partition(b"\r\n")[0]] for mail in keeper.taken)


def test_a_mail_of_25_megabytes_is_whole(spool: Spool, keeper: Keeper) -> None:
    case = Case("big", body=b"".join(b".%d " % line + b"x" * (line % 90) + b"\n" for line in range(500_000)))
    assert len(case.body) > 25 << 20
    run(spool, ["sendmail", "-i", "a@example.org"], case.given)
    assert spool.drain() == 0
    assert keeper.wrongs == []
    check_same(case, keeper.taken[0].text)


SHAPES: dict[str, Callable[[int], bytes]] = {
    "folded": lambda size: b"X-Long: a" + b"\n y" * (size // 3) + b"\n\n",
    "fields": lambda size: b"X-A: y\n" * (size // 7) + b"\n",
    "removed fields": lambda size: b"Bcc: y\n" * (size // 7) + b"\n",
    "blanks": lambda size: b"X-Long: " + b" " * size + b"\n\n",
    "one word": lambda size: b"X-Long: " + b"y" * size + b"\n\n",
    "bare CR": lambda size: b"X-Long: " + b"\r" * size + b"\n\n",
    "Message-ID": lambda size: b"Message-ID: <" + b"y" * size + b"@x>\n\n",
    "parameters": lambda size: b"Content-Type: text/plain" + b";a=b" * (size // 4) + b"\n\n" + b"y" * 999 + b"\n",
    "one parameter": lambda size: b"Content-Type: text/plain;" + b" " * size + b'"\n\n' + b"y" * 999 + b"\n",
    "no header": lambda size: b"y" * size,
    "one recipient": lambda size: b"To: <" + b"y" * size + b">\n\n",
    "comments": lambda size: b"To: a@example.org " + b"(" * (size // 2) + b")" * (size // 2) + b"\n\n",
    "groups": lambda size: b"To: a@example.org, " + b"y:;" * (size // 3) + b"\n\n",
    "brackets": lambda size: b"To: a@example.org, " + b"<>," * (size // 3) + b"\n\n",
}


def is_bounded(folder: Path, words: Sequence[str], small: bytes, large: bytes, *, sends: bool = True) -> bool:
    """Whether queueing `large`, four times as big as `small`, and sending it takes about four times the work. Over
    start-up, work that grows with the square would take sixteen times as much."""
    took_s = []
    for name, given in (("small", small), ("large", large)):
        (folder / name).mkdir()
        spool = Spool(folder / name)
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        done = subprocess.run(spool.command(*words), input=given, capture_output=True, env=spool.environment)
        assert not sends or spool.drain() == 0
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        took_s.append(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)
        assert done.returncode in (0, 65), done.stderr
        assert len(done.stderr) < 1000, "the whole message as part of an error"
        spool.close()
    return took_s[1] < 8 * took_s[0]


@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
def test_the_work_for_a_long_header_grows_with_its_length_only(tmp_path: Path, shape: Callable[[int], bytes]) -> None:
    assert is_bounded(tmp_path, ["sendmail", "-t", "-i", "a@example.org"], shape(1 << 19), shape(1 << 21))


def test_the_work_for_a_long_line_of_add_grows_with_its_length_only(tmp_path: Path) -> None:
    text = "Subject: x\n\n" + ("y" * 76 + "\n") * 80_000
    small, large = (json.dumps({"to": "a@x", "message": text * times}).encode() for times in (1, 4))
    assert is_bounded(tmp_path, ["add"], small, large, sends=False)
