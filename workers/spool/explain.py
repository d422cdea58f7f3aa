"""`show`, `why` and `stats`: what is known of a mail, what it waits for, and how the whole stands."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

from workers.mail.errors import DATA, Refused
from workers.mail.words import plain, seconds, when
from workers.spool.claims import NEVER
from workers.spool.listing import COLUMNS, read
from workers.store.leases import boot_time, is_dead, myself, owners

if TYPE_CHECKING:
    from workers.mail.config import Config
    from workers.store.sqlite import SqliteDatabase

HEADER_BYTES = 16384
OPEN = ("queued", "sending", "deferred", "held", "unknown")
STATES = (*OPEN, "sent", "failed", "expired", "cancelled")


def show(config: Config, mail_id: int) -> dict[str, Any]:
    """A mail with its recipients and the header of its message. Raises Refused(65) when there is none."""

    def ask(spool: SqliteDatabase) -> dict[str, Any] | None:
        rows = spool.run("admin.message", (mail_id,))
        if not rows:
            return None
        names = ("id", "sender", "message_id", "size_bytes", "created_at", "expires_at", "identifier", "bounce_of", "warned")
        found: dict[str, Any] = dict(zip(names, rows[0], strict=True))
        found["recipients"] = _recipients(spool, mail_id)
        body = spool.run("sender.body_part", (mail_id, 0))
        text = bytes(body[0][0][:HEADER_BYTES]) if body else b""
        found["header"] = text.partition(b"\r\n\r\n")[0].decode("utf-8", "replace").replace("\r\n", "\n") if body else None
        return found

    found = read(config, None, ask)
    if found is None:
        raise Refused(DATA, f"mail {mail_id}: not in the spool (any more); smtp-spool list --all shows what is")
    return found


def show_text(found: dict[str, Any], now: float) -> str:
    """What `show` prints for people."""
    age_s = max(0.0, now - found["created_at"])
    lines = [
        f"mail {found['id']} from <{found['sender']}>, {found['size_bytes']} bytes, {seconds(age_s)} old",
        f"Message-ID {found['message_id']}",
    ]
    if found["identifier"] is not None:
        lines.append(f"identifier {plain(found['identifier'])}")
    if found["bounce_of"] is not None:
        lines.append(f"a report about mail {found['bounce_of']}")
    for row in found["recipients"]:
        lines.append(
            f"  {plain(row['address'])}: {row['state']} by {row['lane']}, {row['attempts']} tries; {plain(row['answer'])}"
        )
    header = found["header"]
    lines += ["", *(plain(line) for line in header.split("\n"))] if header is not None else ["", "its body is gone"]
    return "\n".join(lines) + "\n"


def why(config: Config, mail_id: int) -> list[dict[str, Any]]:
    """For each recipient of a mail: its state, what it waits for (`reason`) and until when (`until`, Unix seconds or
    None). Raises Refused(65) when there is no such mail."""

    def ask(spool: SqliteDatabase) -> list[dict[str, Any]]:
        troubles = {row[0]: (row[1], row[2]) for row in spool.run("admin.lane_troubles")}
        at_work = senders(spool)
        return [_reason(spool, row, troubles.get(row["lane"]), at_work) for row in _recipients(spool, mail_id)]

    nothing: list[dict[str, Any]] = []
    found = read(config, nothing, ask)
    if not found:
        raise Refused(DATA, f"mail {mail_id}: not in the spool (any more); smtp-spool list --all shows what is")
    return found


def why_text(found: list[dict[str, Any]]) -> str:
    """What `why` prints for people."""
    return "".join(f"{plain(row['address'])}: {row['state']}: {row['reason']}\n" for row in found)


def stats(config: Config) -> dict[str, Any]:
    """The books: recipients by state, those of mails that are gone too; see `smtp-spool stats --help`."""

    def ask(spool: SqliteDatabase) -> dict[str, Any]:
        now = time.time()
        counts = dict.fromkeys(STATES, 0)
        unknowns = 0
        for state, number, events, _ in spool.run("admin.states"):
            counts[state] += number
            unknowns += events
        for state, number in spool.run("admin.gone"):
            if state == "unknowns":
                unknowns += number
            else:
                counts[state] += number
        oldest = spool.run("admin.oldest")[0][0]
        troubles = {row[0]: {"problem": row[1], "until": row[2]} for row in spool.run("admin.lane_troubles")}
        waiting = {row[0]: {"waiting": row[1], "due": row[2]} for row in spool.run("admin.waiting", {"now": now})}
        return {
            "version": 1,
            "accepted": sum(counts.values()),
            "recipients": counts,
            "open": sum(counts[state] for state in OPEN),
            "unknown_events": unknowns,
            "sent_last_hour": spool.run("admin.sent_since", (now - 3600,))[0][0],
            "oldest_s": None if oldest is None else max(0.0, now - oldest),
            "lanes": {
                lane: {**waiting.get(lane, {"waiting": 0, "due": 0}), **troubles.get(lane, {})} for lane in {*waiting, *troubles}
            },
            "senders": senders(spool),
        }

    empty = {"version": 1, "accepted": 0, "recipients": dict.fromkeys(STATES, 0), "open": 0, "unknown_events": 0}
    return read(config, {**empty, "sent_last_hour": 0, "oldest_s": None, "lanes": {}, "senders": []}, ask)


def stats_text(found: dict[str, Any]) -> str:
    """What `stats` prints for people."""
    lines = [f"accepted   {found['accepted']} recipients"]
    lines += [f"{state:<10} {number}" for state, number in found["recipients"].items() if number or state == "sent"]
    lines.append(f"possible duplicates (unknown events)  {found['unknown_events']}")
    lines.append(f"sent in the last hour  {found['sent_last_hour']}")
    if found["oldest_s"] is not None:
        lines.append(f"oldest that waits      {seconds(found['oldest_s'])}")
    for lane, facts in sorted(found["lanes"].items()):
        trouble = f"; {plain(facts['problem'])}" if "problem" in facts else ""
        lines.append(f"{lane}: {facts['waiting']} wait, {facts['due']} of them due{trouble}")
    at_work = ", ".join(str(pid) for pid in found["senders"])
    lines.append(f"senders at work: {at_work}" if at_work else "no sender is at work: start guard, or smtp-spool run")
    return "\n".join(lines) + "\n"


def senders(spool: SqliteDatabase) -> list[int]:
    """The pids of the senders at work on the spool."""
    watcher, now = myself(), boot_time()
    alive = []
    for owner in owners(spool):
        owner.expires_at = max(owner.expires_at, now)  # one at rest does not renew its lease
        if not is_dead(owner, watcher, now):
            alive.append(owner.pid)
    return alive


def _recipients(spool: SqliteDatabase, mail_id: int) -> list[dict[str, Any]]:
    return [dict(zip(COLUMNS, row, strict=True)) for row in spool.run("admin.recipients_of", (mail_id,))]


def _reason(spool: SqliteDatabase, row: dict[str, Any], trouble: tuple[str, float] | None, at_work: list[int]) -> dict[str, Any]:
    now = time.time()
    until: float | None = None
    state = row["state"]
    last = f"; the last answer was: {row['answer']}" if row["answer"] else ""
    if state in ("sent", "failed", "expired", "cancelled"):
        reason = row["answer"] or "by hand"
        if state in ("failed", "expired"):
            reason += "; smtp-spool retry tries it again"
    elif state == "held" or row["due_at"] >= NEVER:
        reason = f"waits for a person: smtp-spool release {row['mail_id']}, or cancel{last}"
    elif state == "sending":
        reason = "is being sent now"
    elif not at_work:
        reason = f"no sender is at work: start guard, or smtp-spool run{last}"
    elif trouble is not None:
        until = trouble[1]
        reason = f"{row['lane']} is in trouble: {trouble[0]}; next try {when(until - now)}"
    elif row["due_at"] > now:
        until = row["due_at"]
        what = "waits for its time" if state == "queued" else f"next try after {row['attempts']} failed"
        reason = f"{what}, {when(until - now)}{last}"
    else:
        key = {"lane": row["lane"], "now": now, "priority": row["priority"], "id": row["id"]}
        reason = f"is due; {spool.run('admin.ahead', key)[0][0]} others of {row['lane']} go before it{last}"
    return {"address": row["address"], "state": state, "reason": plain(reason), "until": until}
