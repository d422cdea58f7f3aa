"""Whatever stands in addresses, names, subjects, data and identifiers: it stays what it is, or is refused by name."""

from __future__ import annotations

import email
import email.policy
from collections import Counter
from collections.abc import Iterator
from typing import Any

import pytest

from tests.system.mail_commands import add, good, run
from tests.system.mail_keeper import Keeper
from tests.system.mail_servers import Spool

ENDS = {"CRLF": "\r\n", "LF": "\n", "CR": "\r", "NUL": "\0", "VT": "\v", "NEL": "\x85", "LS": "\u2028", "ESC": "\x1b"}
MANY = 10_000
HOST = "here.example.org"
FIELDS = {
    "from",
    "to",
    "subject",
    "date",
    "message-id",
    "auto-submitted",
    "mime-version",
    "content-type",
    "content-transfer-encoding",
}


@pytest.fixture
def keeper(spool: Spool) -> Iterator[Keeper]:
    made = Keeper()
    spool.configure(f'domain = "{HOST}"\n[relay]\nhost = "localhost"\nport = {made.port}\ntls = "none"\n')
    yield made
    made.close()


def envelope(keeper: Keeper) -> Counter[str]:
    """To whom mail has come."""
    assert keeper.wrongs == []
    return Counter(recipient for recipient, _ in keeper.copies())


def tricks(end: str) -> list[str]:
    """Addresses with a line end inside; where only some readers take it for one, it may stand in the name of a group."""
    found = [f'"a{end}b"@x', f"a{end}@x", f"a@{end}x", f"a@{end}.x"]
    return (
        [*found, f"a@x{end}RCPT TO:<evil@x>", f"{end}a@x", f"a@x{end}", f"Ann <a@x>{end}"] if end.strip("\r\n\0") == "" else found
    )


@pytest.mark.parametrize("end", ENDS.values(), ids=ENDS)
def test_a_line_end_in_an_address_is_refused_by_add(spool: Spool, end: str) -> None:
    entries = [{"to": trick} for trick in tricks(end)] + [{"to": ["b@x", trick]} for trick in tricks(end)]
    entries += [{"to": "b@x", "from": trick} for trick in tricks(end)]
    for entry, answer in zip(entries, add(spool, *entries), strict=True):
        assert "address " in answer.get("error", ""), entry
        assert answer["error"].isprintable()
    assert spool.rows() == []


@pytest.mark.parametrize("end", [end for end in ENDS.values() if end != "\0"], ids=[name for name in ENDS if name != "NUL"])
def test_a_line_end_in_an_address_is_refused_by_sendmail(spool: Spool, end: str) -> None:
    for trick in tricks(end):
        for words in ([trick], ["b@x", trick], ["--", trick], ["-f", trick, "b@x"], [f"-r{trick}", "b@x"], ["-t", trick]):
            status, _, complaint = run(spool, "sendmail", *words)
            assert status == 65, (words, complaint)
            assert complaint.rstrip("\n").isprintable()
    assert spool.rows() == []


def test_a_nul_in_the_address_of_a_header_is_refused(spool: Spool) -> None:
    for field in (b"To: a\0@x", b'Cc: "a\0b"@x', b"Bcc: b@x, a@x\0", b"Resent-To: \0a@x"):
        status, _, complaint = run(spool, "sendmail", "-t", given=field + b"\n\nbody\n")
        assert status == 65
        assert "not allowed" in complaint
    assert spool.rows() == []


@pytest.mark.parametrize("end", [end for end in ENDS.values() if end != "\r\n"], ids=list(ENDS)[1:])
def test_a_line_end_in_a_command_of_bs_begins_no_other_command(spool: Spool, end: str) -> None:
    talk = f"EHLO x\r\nMAIL FROM:<s@x>\r\nRCPT TO:<b@x>\r\nRCPT TO:<a@x>{end}RCPT TO:<evil@x>\r\nDATA\r\n"
    talk += f"Subject: x\r\n\r\n.{end}MAIL FROM:<evil@x>{end}.\n\r\n.\r\nQUIT\r\n"
    status, answers, _ = run(spool, "sendmail", "-bs", given=talk.encode())
    if end == "\n":  # a session with CRLF ends at a bare LF
        assert status == 65
        assert answers.splitlines()[-1].startswith("421 ")
        assert spool.rows() == []
    else:
        assert status == 0
        assert [row["address"] for row in spool.rows()] == ["b@x"]


def test_names_subjects_data_and_identifiers_begin_no_field(spool: Spool, keeper: Keeper) -> None:
    folder = spool.folder / "templates" / "word"
    folder.mkdir(parents=True)
    (folder / "subject.txt").write_text("{{ word }}")
    (folder / "body.txt").write_text("{{ word }}\n")
    (folder / "body.html").write_text("<p>{{ word }}</p>\n")
    entries: list[dict[str, Any]] = []
    for end in ENDS.values():
        word = f"a{end}X-Evil: 1{end}{end}.{end}{{{{ 7 * 7 }}}}<b>{end}"
        if "\0" not in word:
            good(spool, "sendmail", "-F", word, "a@x")
        entries += [{"to": "a@x", "subject": word, "text": word}]
        entries += [{"to": "a@x", "template": "word", "data": {"word": word, word: word}}]
        assert add(spool, {"to": "a@x", "identifier": word})[0]["error"].startswith("identifier: ")
    ids = [answer["id"] for answer in add(spool, *entries)]
    for id_ in ids:
        shown = good(spool, "show", str(id_))
        assert not {ord(sign) for sign in shown} & {*range(10), *range(11, 32), 0x85, 0x2028}
    assert spool.drain() == 0
    assert envelope(keeper) == {"a@x": len(entries) + len(ENDS) - 1}
    for mail in keeper.taken:
        message = email.message_from_bytes(mail.text, policy=email.policy.SMTP)
        assert message.defects == []
        assert "X-Evil" not in message
        assert {name.lower() for name in message} <= FIELDS
        assert all(part.get_content_type() in ("text/plain", "text/html") for part in message.walk() if not part.is_multipart())
        assert "49" not in str(message["subject"])
        page = message.get_body(("html",))
        assert page is None or "<b>" not in page.get_content()


@pytest.mark.parametrize("word", ["-oQ/tmp", "-X{0}/log", "-C{0}/other.toml", "-oA{0}/aliases", "-d0-99.9", "-v"])
def test_an_option_of_other_sendmails_touches_nothing(spool: Spool, word: str) -> None:
    before = sorted(path.name for path in spool.folder.iterdir())
    good(spool, "sendmail", word.format(spool.folder), "a@x")
    assert sorted(path.name for path in spool.folder.iterdir()) == sorted([*before, "state"])
    assert [row["address"] for row in spool.rows()] == ["a@x"]


@pytest.mark.parametrize("words", [["--", "-oQ/tmp"], ["a@x", "-oQ/tmp"], ["a@x", "-f", "evil@x"], ["--", "-f evil@x"],
    ["--", "-f@x"], ["-f", "-oQ/tmp@x", "a@x"], ["a@x", "--", "b@x"], ["-t"]], ids=" ".join)  # fmt: skip
def test_a_recipient_that_looks_like_an_option_is_refused(spool: Spool, words: list[str]) -> None:
    status, _, complaint = run(spool, "sendmail", *words, given=b"To: a@x, -oQ/tmp@x\n\nbody\n")
    assert status == 65
    assert "starts with a dash" in complaint
    assert "starts with a dash" in add(spool, {"to": ["a@x", "-oQ/tmp@x"]})[0]["error"]
    assert spool.rows() == []


ODD = {
    '"a b"@example.org': ['"a b"@example.org'],
    '"a,b;c"@example.org, d@example.org': ['"a,b;c"@example.org', "d@example.org"],
    '"a@b"@example.org': ['"a@b"@example.org'],
    '"a\\"b>c"@example.org': ['"a\\"b>c"@example.org'],
    '"-oQ/tmp"@example.org': ['"-oQ/tmp"@example.org'],
    '"a" (a@c, <d@e>) <a@example.org>': ["a@example.org"],
    "<@one.example,@two.example:a@example.org>": ["a@example.org"],
    "@one.example:a@example.org": ["a@example.org"],
    'Team: a@example.org, "B, C" <b@example.org>;': ["a@example.org", "b@example.org"],
    "a@[192.0.2.1], root": ["a@[192.0.2.1]", f"root@{HOST}"],
    "a@bücher.example": ["a@xn--bcher-kva.example"],
    f"{'l' * 64}@{'d' * 63}.{'d' * 63}.{'d' * 60}": [f"{'l' * 64}@{'d' * 63}.{'d' * 63}.{'d' * 60}"],
}


def test_an_odd_address_is_the_same_by_each_way(spool: Spool, keeper: Keeper) -> None:
    for number, given in enumerate(ODD):
        sender = f"s{number}@x"
        good(spool, "sendmail", "-f", sender, given)
        good(spool, "sendmail", "-f", sender, "-t", given=f"To: {given}\n\nbody\n".encode())
    add(spool, *({"from": f"s{number}@x", "to": given} for number, given in enumerate(ODD)))
    assert spool.drain() == 0
    assert keeper.wrongs == []
    came = Counter((mail.sender, recipient) for recipient, mail in keeper.copies())
    assert came == {(f"s{number}@x", recipient): 3 for number, sent in enumerate(ODD.values()) for recipient in sent}


TOO_LONG = [
    f"{'l' * 65}@x",
    f"{'l' * 64}@{'d' * 190}",
    f"{'a' * 100_000}@x",
    f'"{"a " * 50_000}"@x',
    f"{'(' * 5000}a@x",
    f"a@{'d.' * 5000}x",
    f"a@{'ü' * 5000}",
    "a b@x" * 20_000,
    f"{'a' * 100_000}\x1b@x",
]


@pytest.mark.parametrize("given", TOO_LONG, ids=lambda given: given[:5])
def test_an_address_that_is_too_long_is_refused_in_few_words(spool: Spool, given: str) -> None:
    text = f"To: b@x, {given}\n\nbody\n".encode()
    complaints = []
    for words in (["sendmail", given], ["sendmail", "-f", given, "a@x"], ["sendmail", "-t"]):
        status, _, complaint = run(spool, *words, given=text)
        assert status == 65
        complaints.append(complaint)
    complaints += [answer["error"] for answer in add(spool, {"to": given}, {"to": "a@x", "from": given})]
    assert spool.rows() == []
    assert max(map(len, complaints)) < 500


@pytest.mark.parametrize("way", ["by -t", "by arguments", "by add"])
def test_ten_thousand_recipients_of_one_mail_get_it_once(spool: Spool, keeper: Keeper, way: str) -> None:
    names = [f"recipient-number-{number}@example.org" for number in range(MANY)]
    if way == "by -t":
        good(spool, "sendmail", "-t", given=("Subject: x\nBcc: " + ",\n ".join(names) + "\n\nbody\n").encode())
    elif way == "by arguments":
        good(spool, "sendmail", "--", *names)
    else:
        assert "id" in add(spool, {"to": names})[0]
    assert spool.drain() == 0
    assert envelope(keeper) == dict.fromkeys(names, 1)
    assert len({mail.text for mail in keeper.taken}) == 1


def test_smtputf8_is_missed_by_the_recipient_who_needs_it_only(spool: Spool) -> None:
    bare = Keeper(("PIPELINING", "8BITMIME"))
    try:
        spool.through(bare.port)
        good(spool, "sendmail", "-f", "s@x", "grüße@x", "a@bücher.example")
        good(spool, "sendmail", "-f", "ü@x", "b@x")
        assert spool.drain() == 0
        found = {row["address"]: (row["state"], row["answer"]) for row in spool.rows()}
        assert found["a@xn--bcher-kva.example"][0] == "sent"
        assert {found[name][0] for name in ("grüße@x", "b@x")} == {"failed"}
        assert {"no SMTPUTF8" in found[name][1] for name in ("grüße@x", "b@x")} == {True}
        assert envelope(bare) == {"a@xn--bcher-kva.example": 1, "s@x": 1}
        assert all("SMTPUTF8" not in mail.options for mail in bare.taken)
    finally:
        bare.close()


def test_smtputf8_is_asked_for_where_it_is_offered(spool: Spool, keeper: Keeper) -> None:
    good(spool, "sendmail", "-f", "s@x", "grüße@x")
    good(spool, "sendmail", "-f", "s@x", "a@x")
    assert spool.drain() == 0
    assert {mail.recipients: "SMTPUTF8" in mail.options for mail in keeper.taken} == {("grüße@x",): True, ("a@x",): False}
