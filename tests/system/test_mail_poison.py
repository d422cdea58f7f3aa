"""What can't be read is refused by itself: it ends no process, and nothing beside it waits for a person."""

from __future__ import annotations

import json
import sqlite3
from collections import Counter
from collections.abc import Iterator
from typing import Any

import pytest

from tests.system.mail_commands import good, run
from tests.system.mail_keeper import Keeper
from tests.system.mail_servers import Spool


@pytest.fixture
def keeper(spool: Spool) -> Iterator[Keeper]:
    made = Keeper()
    spool.through(made.port)
    yield made
    made.close()


LATIN_ID = b"Message-ID: <caf\xe9@x>\nSubject: x\n\nbody\n"


def test_a_message_id_with_bytes_that_are_no_utf8_is_no_reason_to_refuse(spool: Spool, keeper: Keeper) -> None:
    good(spool, "sendmail", "a@x", given=LATIN_ID)
    assert spool.drain() == 0
    assert keeper.taken[0].text.startswith(b"Message-ID: <caf\xe9@x>\r\n")


POISON = [
    b'{"to": "a@x", "text": "b", "identifier": "\\ud800"}',
    b"[" * 100_000,
    b'{"to": ' + b"[" * 100_000,
    b'{"to": "a@x", "message": "\\ud800"}\0',
    b'{"to": "\\ud800@x", "text": "b"}',
    b'{"to": "a@x", "text": "b", "send_at": 1e400}',
    b'{"to": "a@x", "text": "b", "send_at": "999999999999999w"}',
    b'{"to": "a@x", "text": "b", "priority": ' + b"9" * 5000 + b"}",
    b"\xff\xfe",
    b'"',
    b"null",
]


@pytest.mark.parametrize("line", POISON, ids=range(len(POISON)))
def test_a_bad_line_of_add_holds_up_no_other(spool: Spool, line: bytes) -> None:
    fine = b'{"to": "good@x", "text": "b"}\n'
    status, answers, _ = run(spool, "add", given=fine + line + b"\n" + fine)
    assert [list(json.loads(answer)) for answer in answers.splitlines()] == [["id"], ["error"], ["id"]]
    assert status == 65
    assert [row["address"] for row in spool.rows()] == ["good@x"] * 2


OUTBOX = "INSERT INTO mail_outbox (recipient, subject, body_text, template, data) VALUES (?, cast(? AS TEXT), 'b', ?, ?)"
ROWS = {
    "latin-1": ("a@x", b"caf\xe9", None, None),
    "latin-1 as a blob": (b"caf\xe9@x", b"x", None, None),
    "deep": ("a@x", None, "word", "[" * 100_000),
    "line end": ("a@x\r\nRCPT TO:<evil@x>", b"x", None, None),
    "no json": ("a@x", None, "word", "{"),
    "no object": ("a@x", None, "word", "5"),
}


@pytest.mark.parametrize("row", ROWS.values(), ids=ROWS)
def test_a_bad_row_of_the_outbox_holds_up_no_other_and_says_why(spool: Spool, keeper: Keeper, row: tuple[Any, ...]) -> None:
    good(spool, "update-schema")
    good(spool, "sendmail", "first@x")
    database = sqlite3.connect(spool.database)
    database.execute(OUTBOX, row)
    database.execute(OUTBOX, ("good@x", b"x", None, None))
    database.commit()
    assert spool.drain() == 0
    assert Counter(recipient for recipient, _ in keeper.copies()) == {"first@x": 1, "good@x": 1}
    bad, other = database.execute("SELECT state, error FROM mail_outbox ORDER BY id").fetchall()
    database.close()
    assert other == ("sent", None)
    assert bad[0] == "failed"
    assert bad[1]
