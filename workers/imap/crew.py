"""The threads that do the jobs, and who looks whether one of them hangs."""

from __future__ import annotations

import os
import queue
import threading
import time

from workers.imap.jobs import BUFFER_BYTES, perform
from workers.imap.log import name_thread

TYPE_CHECKING = False
if TYPE_CHECKING:
    from workers.imap.jobs import Env, Job

EXTRA = 2  # for what is to be sent
STACK_BYTES = 512 << 10


class Crew:
    """At most `threads` of them, made as they are needed. `wake_fd` is written to when a job is done."""

    def __init__(self, threads: int, env: Env, wake_fd: int) -> None:
        self.threads = threads
        self.done: queue.SimpleQueue[Job] = queue.SimpleQueue()
        self._jobs: queue.SimpleQueue[Job | None] = queue.SimpleQueue()
        self._env = env
        self._wake_fd = wake_fd
        self._made: list[threading.Thread] = []
        self._busy: dict[int, Job] = {}
        threading.stack_size(STACK_BYTES)

    @property
    def busy(self) -> list[Job]:
        """The jobs in hand."""
        return list(self._busy.values())

    def has_room(self, *, urgent: bool = False) -> bool:
        """Whether one more job would be begun at once."""
        return len(self._busy) < self.threads + (EXTRA if urgent else 0)

    def start(self, job: Job) -> None:
        """Gives a job to a thread."""
        self._busy[id(job)] = job
        job.started = time.monotonic()
        if len(self._busy) > len(self._made) and len(self._made) < self.threads + EXTRA:
            number = len(self._made) + 1
            thread = threading.Thread(target=self._run, args=(number,), name=f"t{number}", daemon=True)
            self._made.append(thread)
            thread.start()
        self._jobs.put(job)

    def collect(self) -> list[Job]:
        """The jobs that are done."""
        found = []
        while not self.done.empty():
            job = self.done.get()
            self._busy.pop(id(job), None)
            found.append(job)
        return found

    def stuck(self, limit_s: float) -> list[Job]:
        """Jobs in which nothing has moved for so long, though each wait in them has a limit of its own."""
        now = time.monotonic()
        found = []
        for job in self._busy.values():
            if not job.begun:
                continue
            since = max(job.started, job.session.connection.moved_at) if job.session is not None else job.started
            if now - since > limit_s:
                found.append(job)
        return found

    def end(self, limit_s: float) -> None:
        """Ends the threads: what they wait for is cut off; what they write comes to its end."""
        for job in self.busy:
            if job.session is not None:
                job.session.connection.stream.shut()
        for _ in self._made:
            self._jobs.put(None)
        until = time.monotonic() + limit_s
        for thread in self._made:
            thread.join(max(0.0, until - time.monotonic()))

    def _run(self, number: int) -> None:
        name_thread(number)
        buffer = bytearray(BUFFER_BYTES)
        while (job := self._jobs.get()) is not None:
            job.thread = number
            perform(job, self._env, buffer)
            self.done.put(job)
            os.write(self._wake_fd, b"\0")
