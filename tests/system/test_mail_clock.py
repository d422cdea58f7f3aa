"""The clock was wrong when rows were written: a day ahead or back. The clock itself is the host's, so rows are changed."""

from __future__ import annotations

import time
from collections.abc import Callable

import pytest

from tests.system.mail_commands import add, change, good
from tests.system.mail_servers import Relay, Spool, friendly, wait_until

DAY_S = 86400.0


MakeRelay = Callable[[Callable[[str], str | None]], Relay]


def test_a_clock_that_was_a_day_ahead_or_back_leaves_nothing_stuck_and_ends_nothing(spool: Spool, relay: MakeRelay) -> None:
    made = relay(friendly)
    add(spool, *({"to": f"{state}.{when}@x"} for state in ("queued", "deferred", "unknown") for when in ("ahead", "back")))
    move = f"{DAY_S} * CASE mail_id % 2 WHEN 1 THEN 1 ELSE -1 END"
    change(
        spool,
        "UPDATE mail_recipient SET state = substr(address, 1, instr(address, '.') - 1), failures = 3, attempts = 3",
        f"UPDATE mail_message SET created_at = created_at + {move.replace('mail_id', 'id')}",
        f"UPDATE mail_message SET expires_at = expires_at + {move.replace('mail_id', 'id')}",
        f"UPDATE mail_recipient SET due_at = updated_at + {move} WHERE state <> 'queued'",
        f"UPDATE mail_recipient SET updated_at = updated_at + {move}",
        f"INSERT INTO mail_lane (lane, problem, until, since) VALUES ('relay', 'old', {time.time() + DAY_S}, 0)",
    )
    assert "-" not in good(spool, "list").replace("next try", "")
    sender = spool.start()
    wait_until(lambda: set(spool.states()) == {"sent"}, "all are sent")
    assert spool.stop(sender) == 0
    assert len(made.bodies) == 6
    assert not any("Delivery" in text for text in made.bodies)


@pytest.mark.parametrize("command", [["show", "1"], ["stats"]], ids=" ".join)
def test_no_age_is_below_zero(spool: Spool, command: list[str]) -> None:
    add(spool, {"to": "a@x"})
    change(spool, f"UPDATE mail_message SET created_at = created_at + {DAY_S}")
    assert "-86" not in good(spool, *command)


def test_a_time_to_send_at_is_kept_though_it_is_far(spool: Spool, relay: MakeRelay) -> None:
    relay(friendly)
    add(spool, {"to": "later@x", "send_at": "2d"}, {"to": "now@x"})
    assert spool.drain() == 0
    assert [row["state"] for row in spool.rows()] == ["queued", "sent"]


def test_no_mail_expires_before_its_time(spool: Spool, relay: MakeRelay) -> None:
    relay(lambda line: "451 4.2.0 full, try again in 3000 seconds" if line.startswith("RCPT") else friendly(line))
    add(spool, {"to": "over@x"}, {"to": "back@x"}, {"to": "ahead@x"}, {"to": "short@x", "expires": "1h"})
    change(
        spool,
        f"UPDATE mail_message SET expires_at = created_at + {DAY_S / 24} WHERE id < 4",
        f"UPDATE mail_message SET created_at = created_at - {DAY_S}, expires_at = expires_at - {DAY_S} WHERE id = 1",
        f"UPDATE mail_message SET created_at = created_at - {DAY_S}, expires_at = expires_at + {DAY_S} WHERE id = 2",
        f"UPDATE mail_message SET created_at = created_at + {DAY_S}, expires_at = expires_at + {DAY_S} WHERE id = 3",
    )
    assert spool.drain() == 0
    found = {row["address"]: row["state"] for row in spool.rows() if row["address"].endswith("@x")}
    assert found == {"over@x": "expired", "back@x": "deferred", "ahead@x": "deferred", "short@x": "deferred"}
