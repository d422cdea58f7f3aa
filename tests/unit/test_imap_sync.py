"""`sync`: what it does with a damaged state database, and what it says of an account that is not in step."""

from __future__ import annotations

from pathlib import Path

import pytest

from workers.imap import sync as module
from workers.imap.books import open_state
from workers.imap.sync import sync
from workers.mail.config import Config
from workers.mail.errors import IO, OK, Refused
from workers.mail.imap_config import Account
from workers.store.database import CORRUPT, OTHER, UNFIT, StoreError


@pytest.fixture
def config(tmp_path: Path) -> Config:
    made = Config(str(tmp_path / "mail.toml"), str(tmp_path))
    made.imap.accounts = [Account(name="alice", host="imap.example.org")]
    (tmp_path / "mail").mkdir()
    open_state(made.imap.state).close()
    return made


def set_aside(config: Config) -> int:
    return len(list(Path(config.imap.state).parent.glob("imap.db.damaged-*")))


@pytest.mark.parametrize("kind", [CORRUPT, UNFIT])
def test_a_database_that_proves_damaged_is_set_aside_once(config: Config, monkeypatch: pytest.MonkeyPatch, kind: str) -> None:
    passes = []

    def one_pass(*_: object) -> int:
        passes.append(1)
        if len(passes) == 1:
            raise StoreError(kind, "no such column: x")
        return OK

    monkeypatch.setattr(module, "_pass", one_pass)
    assert sync(config, []) == OK
    assert (len(passes), set_aside(config)) == (2, 1)


def test_a_new_one_that_is_no_better_ends_it(config: Config, monkeypatch: pytest.MonkeyPatch) -> None:
    def one_pass(*_: object) -> int:
        assert set_aside(config) < 2
        open_state(config.imap.state).close()
        raise StoreError(CORRUPT, "malformed")

    monkeypatch.setattr(module, "_pass", one_pass)
    with pytest.raises(Refused, match="is damaged") as raised:
        sync(config, [])
    assert (raised.value.status, set_aside(config)) == (IO, 1)


def test_another_error_sets_nothing_aside(config: Config, monkeypatch: pytest.MonkeyPatch) -> None:
    def one_pass(*_: object) -> int:
        raise StoreError(OTHER, "no memory")

    monkeypatch.setattr(module, "_pass", one_pass)
    with pytest.raises(Refused, match="no memory"):
        sync(config, [])
    assert set_aside(config) == 0


@pytest.mark.parametrize(
    ("problem", "poison", "said"),
    [
        ("", 0, ""),
        ("login: NO failed.", 0, "bob: login: NO failed; imap-sync why bob\n"),
        ("", 1, "bob: 1 message could not be fetched; imap-sync why bob\n"),
        ("a\r\nb", 2, "bob: a b; 2 messages could not be fetched; imap-sync why bob\n"),
    ],
)
def test_an_account_that_is_not_in_step_is_told(capsys: pytest.CaptureFixture[str], problem: str, poison: int, said: str) -> None:
    module._complain("bob", problem, poison)
    assert capsys.readouterr() == ("", said)
