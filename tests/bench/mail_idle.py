"""Nothing to do, then one mail: how long until the relay has it. The relay notes its own times on the common clock."""

from __future__ import annotations

import smtplib
import time
from collections.abc import Callable
from statistics import median

from tests.bench.mail_commands import timed
from tests.bench.mail_drain import SIZE_BYTES
from tests.bench.mail_ours import Ours
from tests.bench.mail_postfix import Postfix
from tests.bench.mail_sinks import Recorder
from tests.bench.mail_table import OURS, POSTFIX, MailMark, MailRow
from tests.bench.mail_world import DOMAIN, SENDER_CORE, folder_for_all, mail, recipient, until
from tests.bench.peers import Bench

REST_S = 0.3
LIMIT_S = 60.0
WARM_UP = 2


def idle(bench: Bench) -> list[MailRow]:
    """Three views of the same way: from the promise that it is on disk, from sendmail's end, from sendmail's start."""
    folder = folder_for_all(bench.folder / "idle")
    times = bench.times(30, 10)
    text = folder / "mail"
    text.write_text(mail(0, SIZE_BYTES))

    def by_command(argv: list[str]) -> tuple[int, int]:
        started = time.monotonic_ns()
        return started, started + int(timed(argv, text, folder / "log") * 1e9)

    with Recorder(folder) as near, Recorder(folder) as theirs:
        ours, postfix = Ours(folder / "ours", near.port), Postfix(folder / "postfix", theirs.port)
        command, sendmail = ours.command("sendmail", "-i", recipient(0)), postfix.sendmail(recipient(0))
        try:
            ours.start()
            postfix.start(SENDER_CORE, listening=True, sending=True)
            committed = {
                OURS: _delays(near, times, lambda: (ours.commit(SIZE_BYTES),))[0],
                POSTFIX: _delays(theirs, times, lambda: (_by_smtp(postfix.port),))[0],
            }
            spans = {
                OURS: _delays(near, times, lambda: by_command(command)),
                POSTFIX: _delays(theirs, times, lambda: by_command(sendmail)),
            }
        finally:
            ours.close()
            postfix.kill()
    from_end, from_start = ({name: span[place] for name, span in spans.items()} for place in (1, 0))
    no_slower = MailMark(1.0, POSTFIX)
    return [
        MailRow("idle, committed → relay has it, p50 (Postfix: from the answer to the dot)", "ms", committed, times, no_slower),
        MailRow("idle, end of `sendmail` → relay has it, p50", "ms", from_end, times, no_slower),
        MailRow("idle, start of `sendmail` → relay has it, p50", "ms", from_start, times),
    ]


def _delays(relay: Recorder, times: int, queue: Callable[[], tuple[int, ...]]) -> list[float]:
    """Milliseconds at p50 from each moment that `queue` tells (monotonic nanoseconds) to the mail's final dot at the relay."""
    taken: list[tuple[float, ...]] = []
    for _ in range(times + WARM_UP):
        time.sleep(REST_S)  # idle is what is measured
        before = len(relay.moments())
        moments = queue()
        until(lambda known=before: len(relay.moments()) > known, "the relay has the mail", LIMIT_S)  # type: ignore[misc]
        _, dot_ns = relay.moments()[before]
        taken.append(tuple((dot_ns - moment) / 1e6 for moment in moments))
    return [median(column) for column in zip(*taken[WARM_UP:], strict=True)]


def _by_smtp(port: int) -> int:
    """Hands a mail over by SMTP; the moment of the answer to the final dot, by which Postfix vouches for it."""
    with smtplib.SMTP("127.0.0.1", port) as client:
        client.ehlo()
        client.mail(f"s@{DOMAIN}")
        client.rcpt(recipient(0))
        code, _ = client.data(mail(0, SIZE_BYTES))
        moment = time.monotonic_ns()
    if code != 250:
        raise AssertionError(f"Postfix did not take the mail: {code}")
    return moment
