"""The first whole path: mail handed to a guarded worker arrives, whoever is killed in between."""

from __future__ import annotations

import os
import random
import re
import signal
import subprocess
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from tests.system.harness import BIN, Folder, wait_until
from tests.system.mail_servers import ROOT, Sink

MAILS = 60
KILLS = 10


@pytest.fixture
def sink(tmp_path: Path) -> Iterator[Sink]:
    """Postfix's smtp-sink as the relay."""
    made = Sink(tmp_path / "sink")
    yield made
    made.close()


@pytest.fixture
def mail(folder: Folder) -> Folder:
    """A folder whose List.txt names the worker as README's does, with a spool of its own."""
    (folder.path / "workers").symlink_to(ROOT / "workers")
    (folder.path / "mail.toml").write_text('[spool]\nstate = "mail-state"\n')
    folder.write_list(f"retry=0 MAIL_CONFIG={folder.path}/mail.toml workers/smtp_spool.py")
    return folder


def sendmail(folder: Folder, subject: str) -> None:
    """Hands in one mail; accepted means exit 0."""
    subprocess.run(
        [BIN / "smtp-spool", "sendmail", "-f", "a@example.org", "b@example.net"],
        input=f"Subject: {subject}\n\nbody\n",
        text=True,
        check=True,
        env={**os.environ, "MAIL_CONFIG": f"{folder.path}/mail.toml"},
    )


def test_without_a_config_for_a_relay_mail_arrives_in_the_maildir(mail: Folder) -> None:
    mail.up()
    sendmail(mail, "hello")
    arrived = mail.path / "mail-state/mail/delivered/new"
    wait_until(lambda: arrived.is_dir() and list(arrived.iterdir()), "the mail is in the Maildir")
    assert "Subject: hello" in next(arrived.iterdir()).read_text()


def test_mail_sent_during_ten_kills_of_guard_and_worker_arrives(mail: Folder, sink: Sink) -> None:
    (mail.path / "mail.toml").write_text(
        f'[spool]\nstate = "mail-state"\n[relay]\nhost = "localhost"\nport = {sink.port}\ntls = "none"\n'
    )
    mail.up()
    chance = random.Random(os.environ.get("SEMGUARD_SEED"))
    killed: Counter[str] = Counter()
    for number in range(MAILS):
        if number % (MAILS // KILLS) == 3:
            kind = chance.choice(("worker", "guard", "standby", "worker"))
            killed[kind] += kill(mail, kind)
            mail.guard()  # cron's next line
        sendmail(mail, f"mail {number}")
    expected = {f"mail {number}" for number in range(MAILS)}
    wait_until(lambda: set(sink.tags()) >= expected, f"all mails at the relay, after kills {dict(killed)}", 120)
    tags = sink.tags()
    assert set(tags) == expected
    assert len(tags) - len(expected) <= killed["worker"], "more than one duplicate a kill of the sender"
    assert sum(killed.values()) == KILLS
    assert mail.instances() == Counter(["workers/smtp_spool.py"])


def kill(folder: Folder, kind: str) -> int:
    """SIGKILLs the worker, the primary or the standby, whichever there is; how many."""

    def victim() -> int | None:
        if kind == "worker":
            return next((pid for _, pid in folder.processes(leaders=True)), None)
        title = "guard: primary" if kind == "guard" else "guard: standby"
        for process in psutil.process_iter(["cmdline"]):
            line = " ".join(process.info["cmdline"] or ())
            if re.match(title, line) and str(folder.path) in line:
                return int(process.pid)
        return None

    os.kill(wait_until(victim, f"a {kind} to kill"), signal.SIGKILL)
    return 1
