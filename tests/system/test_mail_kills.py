"""Everybody is killed at random under load: what was accepted arrives, and each possible duplicate is in the books."""

from __future__ import annotations

import hashlib
import json
import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import psutil
import pytest

from tests.system.mail_servers import Spool, end, wait_until
from workers.spool import explain

MAILS = 20_000
ADDERS = 8
SENDER_KILLS = 50
LINES = 250  # handed to one `add`
SEED = os.environ.get("SEMGUARD_SEED")


class Record:
    """The recorder and what it has taken."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / "record"
        command = [sys.executable, str(Path(__file__).with_name("recorder.py")), str(self.path)]
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE)
        assert self.process.stdout is not None
        self.port = int(self.process.stdout.readline())

    def size(self) -> int:
        """Grows with each mail."""
        return self.path.stat().st_size

    def lines(self) -> list[list[str]]:
        """(tag, hash, recipient…) of each mail."""
        return [line.split(" ") for line in self.path.read_text().splitlines()]

    def close(self) -> None:
        """Ends the process."""
        end(self.process)
        assert self.process.stdout is not None
        self.process.stdout.close()


@pytest.fixture
def record(tmp_path: Path) -> Iterator[Record]:
    made = Record(tmp_path)
    yield made
    made.close()


def body(tag: str) -> str:
    """A body of its own for each mail, some of them with several parts on the wire."""
    return f"{tag} " + f".{tag}\n" * (1 + int(tag) % 97) + ("x" * 900 + "\n") * (400 if int(tag) % 501 == 0 else 0) + "end\n"


def recipient(tag: str) -> str:
    return f"u{tag}@example.org"


class Adders:
    """Hands in all mails from several processes at once, some of which are killed; `accepted` are those answered for."""

    def __init__(self, spool: Spool, chance: random.Random) -> None:
        self.accepted: set[str] = set()
        self.kills = 0
        self._spool = spool
        self._chance = chance
        self._lock = threading.Lock()
        tags = [f"{number:05d}" for number in range(MAILS)]
        self._parts = [tags[start : start + LINES] for start in range(0, MAILS, LINES)]
        self._threads = [threading.Thread(target=self._work) for _ in range(ADDERS)]
        for thread in self._threads:
            thread.start()

    def alive(self) -> bool:
        """Whether some are still at work."""
        return any(thread.is_alive() for thread in self._threads)

    def join(self) -> None:
        """Waits for the last."""
        for thread in self._threads:
            thread.join()

    def _work(self) -> None:
        while True:
            with self._lock:
                if not self._parts:
                    return
                tags = self._parts.pop()
                dies = self._chance.random() < 0.3
            self._add(tags, dies=dies)

    def _add(self, tags: list[str], *, dies: bool) -> None:
        process = subprocess.Popen(
            self._spool.command("add"), stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=self._spool.environment
        )
        assert process.stdin is not None
        assert process.stdout is not None
        answers: list[bytes] = []
        reader = threading.Thread(target=lambda: answers.extend(process.stdout or ()))
        reader.start()
        fatal = self._chance.randrange(len(tags)) if dies else -1
        try:
            for place, tag in enumerate(tags):
                text = f"Subject: {tag}\nFrom: s@example.org\n\n{body(tag)}"
                entry = {"from": "s@example.org", "to": recipient(tag), "message": text, "identifier": tag}
                process.stdin.write(json.dumps(entry).encode() + b"\n")
                if place % 20 == 19:
                    process.stdin.flush()
                if place == fatal:
                    process.stdin.flush()
                    process.kill()
        except BrokenPipeError:
            assert dies
        finally:
            with suppress(BrokenPipeError):  # closed it is all the same
                process.stdin.close()
        status = process.wait()
        reader.join()
        process.stdout.close()
        done = [tag for tag, line in zip(tags, answers, strict=False) if "id" in json.loads(line)]
        with self._lock:
            self.accepted.update(done)
            if status == -signal.SIGKILL:
                self.kills += 1
                rest = tags[len(done) :]
                if rest:
                    self._parts.append(rest)
            else:
                assert done == tags, f"add ended with {status}"


def connections(sender: subprocess.Popen[bytes], port: int) -> int:
    """How many connections to the relay a sender has open now."""
    try:
        found = psutil.Process(sender.pid).net_connections("tcp")
    except psutil.Error:
        return 0
    return sum(bool(each.raddr) and each.raddr.port == port for each in found)


@pytest.mark.parametrize("unknown", ["resend", "hold"])
def test_nothing_is_lost_and_each_duplicate_is_counted(spool: Spool, record: Record, unknown: str) -> None:
    spool.configure(f'unknown = "{unknown}"\n[relay]\nhost = "127.0.0.1"\nport = {record.port}\ntls = "none"\n')
    chance = random.Random(SEED)
    adders = Adders(spool, chance)
    in_use = kills = 0
    sender = spool.start()
    wait_until(record.path.exists, "the recorder is at work")
    try:
        while kills < SENDER_KILLS:
            size = record.size()
            wait_until(lambda least=size: record.size() > least or not adders.alive(), "mail arrives")  # type: ignore[misc]
            time.sleep(chance.uniform(0, 0.25))  # a random moment, not a wait for something
            in_use += connections(sender, record.port)
            sender.send_signal(signal.SIGKILL)
            sender.wait()
            kills += 1
            sender = spool.start()
    finally:
        adders.join()
    end(sender)
    assert spool.drain() == 0

    came = record.lines()
    tags = Counter(line[0] for line in came)
    doubled = sum(tags.values()) - len(tags)
    found = explain.stats(spool.settings())
    held = found["recipients"]["unknown"]
    print(f"{kills} kills of senders, {adders.kills} of adders, {doubled} duplicates = {doubled / kills:.2f} a kill,", end=" ")
    print(f"{found['unknown_events']} unknown, {in_use} connections in use; books: {found}")
    for tag, digest, *recipients in came:
        assert recipients == [recipient(tag)]
        assert digest == hashlib.sha256(body(tag).replace("\n", "\r\n").encode()).hexdigest(), f"mail {tag} is not whole"
    assert adders.accepted == {f"{number:05d}" for number in range(MAILS)}
    assert found["accepted"] == MAILS == sum(found["recipients"].values())
    assert found["recipients"]["sent"] == MAILS - held
    assert doubled <= found["unknown_events"] <= in_use
    if unknown == "hold":
        assert doubled == 0
        assert held == found["unknown_events"]
        assert len(tags) >= MAILS - held
    else:
        assert held == 0
        assert len(tags) == MAILS
