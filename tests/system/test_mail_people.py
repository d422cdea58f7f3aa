"""What people do to the queue and what they are told: commands by id, state and address, the books, and the real reason."""

from __future__ import annotations

import json
import time
from collections.abc import Callable

import pytest

from tests.system.mail_commands import add, change, good, run
from tests.system.mail_servers import Relay, Spool, free_port, friendly, wait_until

STATES = ("queued", "sending", "sent", "deferred", "held", "failed", "expired", "cancelled", "unknown")
EFFECTS = {  # command: the states that it takes, and what becomes of them
    "retry": ({"deferred", "unknown", "failed", "expired"}, "queued"),
    "hold": ({"queued", "deferred", "unknown"}, "held"),
    "release": ({"held", "unknown"}, "queued"),
    "cancel": ({"queued", "deferred", "held", "unknown"}, "cancelled"),
    "delete": ({*STATES} - {"sending"}, None),
}


MakeRelay = Callable[[Callable[[str], str | None]], Relay]


def one_of_each(spool: Spool) -> dict[str, str]:
    """A mail in each state, to STATE@example.org; the ids by state. Nobody sends."""
    answers = add(spool, *({"to": f"{state}@example.org"} for state in STATES))
    change(spool, "UPDATE mail_recipient SET state = substr(address, 1, instr(address, '@') - 1), unknowns = (mail_id = 9) * 2")
    return {state: str(answer["id"]) for state, answer in zip(STATES, answers, strict=True)}


def now(spool: Spool) -> dict[str, str]:
    """The states by the state that they were made as."""
    return {row["address"].partition("@")[0]: row["state"] for row in spool.rows()}


def after(command: str, reached: set[str]) -> dict[str, str]:
    """What `now` is when a command has reached these."""
    taken, state = EFFECTS[command]
    found = {each: state if each in taken & reached else each for each in STATES}
    return {each: become for each, become in found.items() if become is not None}


def check_books(spool: Spool, accepted: int, unknown_events: int = 0) -> dict[str, int]:
    """The recipients by state as the books have them, gone ones too."""
    found = json.loads(good(spool, "stats", "--json"))
    assert found["accepted"] == accepted == sum(found["recipients"].values())
    assert found["open"] == sum(found["recipients"][state] for state in ("queued", "sending", "deferred", "held", "unknown"))
    assert found["unknown_events"] == unknown_events
    recipients: dict[str, int] = found["recipients"]
    return recipients


@pytest.mark.parametrize("command", EFFECTS)
@pytest.mark.parametrize("way", ["by id", "by all ids", "by address", "by state", "all", "by address and state"])
def test_a_command_reaches_what_was_chosen_and_nothing_else(spool: Spool, command: str, way: str) -> None:
    ids = one_of_each(spool)
    taken = sorted(EFFECTS[command][0])
    one = taken[len(way) % len(taken)]
    words, reached = {
        "by id": ([ids[one]], {one}),
        "by all ids": ([*ids.values()], {*STATES}),
        "by address": (["--to", f"{one}@EXAMPLE.org", "--to", "sending@example.org"], {one}),
        "by state": (["--state", taken[0], f"--state={taken[-1]}"], {taken[0], taken[-1]}),
        "all": (["--all"], {*STATES}),
        "by address and state": (["--to", f"{taken[0]}@example.org", "--state", taken[-1]], set()),
    }[way]
    assert good(spool, command, *words).split()[0] == str(len(reached & EFFECTS[command][0]))
    assert now(spool) == after(command, reached)
    check_books(spool, len(STATES), unknown_events=2)


@pytest.mark.parametrize("command", EFFECTS)
def test_what_makes_no_sense_is_refused_and_nothing_is_changed(spool: Spool, command: str) -> None:
    one_of_each(spool)
    for words in (
        [],
        ["--state", "sending"],
        ["--state", "lost"],
        ["x"],
        ["1x"],
        ["-1"],
        ["--to"],
        ["--everything"],
        ["9" * 30],
        ["²"],
    ):
        status, _, complaint = run(spool, command, *words)
        assert status == 64, words
        assert "Nothing" not in complaint
        assert len(complaint.splitlines()) == 1
    assert good(spool, command, "4711").split()[0] == "0"
    assert now(spool) == {state: state for state in STATES}


def test_deleted_and_pruned_mail_stays_in_the_books(spool: Spool) -> None:
    spool.configure('keep_sent = "1d"\n')
    one_of_each(spool)
    add(spool, {"to": ["new@example.org", "newer@example.org"]})
    change(spool, "UPDATE mail_recipient SET state = 'sent' WHERE address LIKE 'new%'")
    change(spool, "UPDATE mail_message SET created_at = created_at - 100000 WHERE id <= 9")
    change(spool, "UPDATE mail_recipient SET updated_at = updated_at - 100000 WHERE mail_id <= 9")
    before = check_books(spool, len(STATES) + 2, unknown_events=2)
    assert good(spool, "prune") == "4 mails\n"
    assert set(now(spool)) == {*STATES, "new", "newer"} - {"sent", "failed", "expired", "cancelled"}
    assert check_books(spool, len(STATES) + 2, unknown_events=2) == before
    assert good(spool, "delete", "--all") == "5 mails\n"
    assert set(now(spool)) == {"sending"}
    gone = {"queued": 0, "deferred": 0, "held": 0, "unknown": 0, "cancelled": 5}
    assert check_books(spool, len(STATES) + 2, unknown_events=2) == before | gone
    assert good(spool, "count") == "1\n"


def test_mail_that_is_being_sent_is_not_touched_and_arrives(spool: Spool, relay: MakeRelay) -> None:
    reached: list[str] = []
    over: list[bool] = []

    def answer(line: str) -> str:
        if line == ".":
            reached.append(line)
            wait_until(lambda: bool(over), "the test goes on")
        return friendly(line)

    made = relay(answer)
    down = f'tls = "none"\n[routes."down"]\nhost = "localhost"\nport = {free_port()}\n'
    spool.through(made.port, down)
    first, later = (answer["id"] for answer in add(spool, {"to": ["a@x", "b@x", "c@down"]}, {"to": "d@x", "send_at": "1d"}))
    sender = spool.start()
    wait_until(lambda: bool(reached), "it is at its dot")
    assert good(spool, "delete", str(first)) == "0 mails\n"
    assert good(spool, "delete", "--to", "c@down") == "0 mails\n"
    for command in ("hold", "release", "hold", "cancel"):
        assert good(spool, command, str(first)) == "1 recipients\n"
    assert why(spool, first) == [("sending", "is being sent now")] * 2 + [("cancelled", "by hand")]
    assert good(spool, "delete", "--all") == "1 mails\n"
    assert run(spool, "why", str(later))[0] == 65
    over.append(True)
    wait_until(lambda: spool.states() == ["sent", "sent", "cancelled"], "it is sent")
    assert spool.stop(sender) == 0
    assert len(made.bodies) == 1
    check_books(spool, 4)


def why(spool: Spool, mail_id: int | str = 1) -> list[tuple[str, str]]:
    """State and reason of each recipient."""
    found = json.loads(good(spool, "why", str(mail_id), "--json"))["recipients"]
    text = good(spool, "why", str(mail_id))
    assert all(f"{row['address']}: {row['state']}: " in text for row in found)
    assert all(row["until"] is None or row["until"] > time.time() - 3600 for row in found)
    return [(row["state"], row["reason"]) for row in found]


def reason(spool: Spool, mail_id: int | str = 1) -> str:
    """The one recipient's."""
    (found,) = why(spool, mail_id)
    return found[1]


def test_why_names_a_missing_sender_a_person_and_a_time(spool: Spool, relay: MakeRelay) -> None:
    relay(friendly)
    add(spool, {"to": "a@x", "send_at": "1d"}, {"to": "b@x"}, {"to": "c@x"})
    good(spool, "hold", "2")
    assert "no sender is at work: start guard, or smtp-spool run" in reason(spool)
    assert "waits for a person: smtp-spool release 2" in reason(spool, 2)
    sender = spool.start()
    wait_until(lambda: "sent" in spool.states(), "it is at work")
    assert reason(spool).startswith("waits for its time, in 24.0 h")
    assert "waits for a person: smtp-spool release 2" in reason(spool, 2)
    assert reason(spool, 3).startswith("250 2.0.0 Ok")
    good(spool, "cancel", "1", "2")
    assert reason(spool, 2) == "by hand"
    sender.kill()
    sender.wait()
    add(spool, {"to": "d@x"})
    assert "no sender is at work" in reason(spool, 4)


def test_why_names_a_relay_that_is_down_and_one_that_answers_again(spool: Spool, relay: MakeRelay) -> None:
    spool.through(free_port())
    add(spool, {"to": "a@x"})
    sender = spool.start()
    wait_until(lambda: "Connection refused; next try in" in spool.logged(), "it is missed")
    wait_until(lambda: "relay is in trouble: " in reason(spool), "it is told")
    assert "Connection refused; next try" in reason(spool)
    assert "Connection refused" in good(spool, "stats")
    assert spool.stop(sender) == 0


def refuses(line: str) -> str:
    """A relay that does not know the account."""
    if line.upper().startswith("EHLO"):
        return "250-test\r\n250 AUTH PLAIN"
    return "535 5.7.8 who are you" if line.startswith("AUTH") else friendly(line)


def test_why_names_the_breaker(spool: Spool, relay: MakeRelay) -> None:
    made = relay(refuses)
    (spool.folder / "pw").write_text("secret\n")
    (spool.folder / "pw").chmod(0o600)
    spool.through(made.port, 'tls = "none"\nuser = "me"\npassword_file = "pw"\n')
    add(spool, {"to": "a@x"})
    sender = spool.start()
    wait_until(lambda: "535 5.7.8 who are you" in reason(spool), "it is told")
    assert "relay is in trouble: " in reason(spool)
    assert "next try in 30 min" in reason(spool)
    assert spool.stop(sender) == 0


def test_why_names_the_answer_and_the_time_of_a_deferred_one(spool: Spool, relay: MakeRelay) -> None:
    relay(lambda line: "451 4.2.0 greylisted, try again in 3000 seconds" if line.startswith("RCPT") else friendly(line))
    add(spool, {"to": "a@x"})
    sender = spool.start()
    wait_until(lambda: spool.states() == ["deferred"], "it is deferred")
    assert "next try after 1 failed, in 50 min" in reason(spool)
    assert "the last answer was: 451 4.2.0 greylisted" in reason(spool)
    assert spool.stop(sender) == 0


def test_why_forgets_a_trouble_that_is_over(spool: Spool, relay: MakeRelay) -> None:
    spool.through(free_port())
    add(spool, {"to": "a@x"})
    assert spool.drain() == 75
    relay(lambda line: "451 4.2.0 full, try again in 3000 seconds" if line == "RCPT TO:<b@x>" else friendly(line))
    sender = spool.start()
    wait_until(lambda: spool.states() == ["sent"], "the relay is back")
    add(spool, {"to": "b@x"})
    wait_until(lambda: spool.states() == ["sent", "deferred"], "another one is deferred")
    found, stats = reason(spool, 2), good(spool, "stats")
    assert spool.stop(sender) == 0
    assert found.startswith("next try after 1 failed")
    assert "refused" not in stats
