"""Where the mails go: Debian's smtp-sink, which counts or keeps them, and our own relay that tells when they came."""

from __future__ import annotations

import os
import re
from pathlib import Path
from types import TracebackType
from typing import Self

from tests.bench import world
from tests.bench.mail_world import OTHER_CORES, find, free_port, launch, listens, python, until

COUNTERS = re.compile(rb"mesg=(\d+)")
TAIL_BYTES = 200
RECIPIENT = re.compile(r"^X-Rcpt-Args: <([^>]*)>", re.MULTILINE)


class Server:
    """A program that listens on `port` and writes to `out`. Leave it by `with`."""

    def __init__(self, folder: Path, name: str) -> None:
        self.port = free_port()
        self.out = folder / f"{name}-{self.port}.out"
        self.log = folder / f"{name}-{self.port}.log"
        self.pid = 0

    def __enter__(self) -> Self:
        self.pid = launch(self.command(), self.log, OTHER_CORES, stdout=self.out)
        until(lambda: listens(self.port), f"{self.command()[0]} listens")
        return self

    def __exit__(self, _kind: type[BaseException] | None, _error: BaseException | None, _trace: TracebackType | None) -> None:
        world.kill_tree(self.pid)

    def command(self) -> list[str]:
        """What starts it."""
        raise NotImplementedError


class Sink(Server):
    """smtp-sink(1), which counts; with `keep` it also writes each mail into a file of that folder."""

    def __init__(self, folder: Path, keep: Path | None = None) -> None:
        super().__init__(folder, "sink")
        self.keep = keep

    def command(self) -> list[str]:
        user = ["-u", "root"] if os.geteuid() == 0 else []
        keep = ["-d", f"{self.keep}/mail."] if self.keep else []
        return [find("smtp-sink"), "-c", *user, *keep, f"127.0.0.1:{self.port}", "512"]

    def count(self) -> int:
        """How many mails have come so far, duplicates too."""
        with self.out.open("rb") as file:
            file.seek(max(0, file.seek(0, os.SEEK_END) - TAIL_BYTES))
            found = COUNTERS.findall(file.read())
        return int(found[-1]) if found else 0

    def recipients(self) -> list[str]:
        """The recipient of each mail that was kept whole, as often as it came."""
        assert self.keep is not None, "only a sink that keeps mails knows"
        texts = (path.read_text() for path in self.keep.iterdir())
        return [found.group(1) for text in texts if (found := RECIPIENT.search(text))]

    def connections(self) -> int:
        """How many connections it has now (proc(5): /proc/net/tcp, state 01 is ESTABLISHED)."""
        lines = Path("/proc/net/tcp").read_text().splitlines()[1:]
        fields = [line.split() for line in lines]
        return sum(words[1].endswith(f":{self.port:04X}") and words[3] == "01" for words in fields)


class Recorder(Server):
    """mail_recorder.py."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder, "recorder")

    def command(self) -> list[str]:
        return python("mail_recorder", self.port)

    def moments(self) -> list[tuple[int, int]]:
        """When MAIL and the final dot of each mail came, in nanoseconds of the monotonic clock."""
        whole = self.out.read_text().rpartition("\n")[0]
        pairs = (line.split() for line in whole.splitlines())
        return [(int(mail), int(dot)) for mail, dot in pairs]


class Distance(Server):
    """mail_delay.py in front of another server."""

    def __init__(self, folder: Path, target: int, round_trip_ms: float) -> None:
        super().__init__(folder, "distance")
        self._target = target
        self._round_trip_ms = round_trip_ms

    def command(self) -> list[str]:
        return python("mail_delay", self.port, self._target, self._round_trip_ms)
