"""Postfix in a folder of its own: main.cf and master.cf, queue and data folder, no port but one of loopback while it is filled.

Its queue is filled with the queue manager left out of master.cf, so that what is measured later starts where ours starts:
with all mails durably queued and no sender running.
"""

from __future__ import annotations

import os
import signal
import socket
import subprocess
from pathlib import Path

from tests.bench import world
from tests.bench.mail_world import (
    ENVIRONMENT,
    OTHER_CORES,
    SENDER_CORE,
    family,
    find,
    finish,
    free_port,
    launch,
    listens,
    python,
    until,
)

FILL_LIMIT_S = 1800.0
FILL_CONNECTIONS = 20
LONG_AGO_S = (
    1e9  # of a file's change: all of Postfix waits seconds for a main.cf that changed just now, as if still being written
)
QUEUES = ("maildrop", "incoming", "active", "deferred")

# Its own defaults, apart from what keeps it in its folder and away from DNS; each saves it work rather than adding some.
MAIN = """compatibility_level = 3.6
queue_directory = {folder}/queue
data_directory = {folder}/data
maillog_file_prefixes = {folder}
maillog_file = {folder}/maillog
myhostname = bench.example.org
mydestination =
alias_maps =
alias_database =
local_recipient_maps =
relayhost = [127.0.0.1]:{relay}
mynetworks = 127.0.0.0/8
smtpd_relay_restrictions = permit_mynetworks, reject
smtpd_peername_lookup = no
smtp_dns_support_level = disabled
smtp_host_lookup = native
inet_interfaces = loopback-only
inet_protocols = ipv4
in_flow_delay = {flow}
"""
ALWAYS = """pickup unix n - n 60 1 pickup
cleanup unix n - n - 0 cleanup
rewrite unix - - n - - trivial-rewrite
bounce unix - - n - 0 bounce
defer unix - - n - 0 bounce
trace unix - - n - 0 bounce
smtp unix - - n - - smtp
error unix - - n - - error
retry unix - - n - - error
anvil unix - - n - 1 anvil
scache unix - - n - 1 scache
tlsmgr unix - - n 1000? 1 tlsmgr
proxymap unix - - n - - proxymap
postlog unix-dgram n - n - 1 postlogd
"""
MANAGER = "qmgr unix n - n 300 1 qmgr\n"


class Postfix:
    """An instance whose relay is at `port` of 127.0.0.1. Needs root, and a folder that its user may pass through."""

    def __init__(self, folder: Path, port: int) -> None:
        folder.mkdir()
        folder.chmod(0o755)
        self.folder = folder
        self.log = folder / "log"
        self.config = folder / "config"
        self.port = free_port()
        self.pid = 0
        for name in ("config", "queue", "data"):
            (folder / name).mkdir(mode=0o755)
        os.chown(folder / "data", *_owner())
        self._master = Path(_setting("daemon_directory")) / "master"
        self._relay = port
        self.configure(listening=False, sending=False)
        subprocess.run([find("postfix"), "-c", self.config, "check"], env=ENVIRONMENT, check=True, capture_output=True)

    def through(self, port: int) -> None:
        """Makes the server at `port` the relay."""
        self._relay = port

    def configure(self, *, listening: bool, sending: bool) -> None:
        """Writes main.cf and master.cf. Without the queue manager nobody hands out what slows down who fills too fast."""
        main = MAIN.format(folder=self.folder, relay=self._relay, flow="1s" if sending else "0")
        server = f"127.0.0.1:{self.port} inet n - n - - smtpd\n" if listening else ""
        for name, text in (("main.cf", main), ("master.cf", server + ALWAYS + (MANAGER if sending else ""))):
            (self.config / name).write_text(text)
            os.utime(self.config / name, (LONG_AGO_S, LONG_AGO_S))

    def fill(self, count: int, size_bytes: int) -> None:
        """Queues mails 0 to `count` by SMTP; nobody sends meanwhile."""
        self.start(OTHER_CORES, listening=True, sending=False)
        words = ("aiosmtplib", self.port, count, size_bytes, FILL_CONNECTIONS)
        status, _ = finish(launch(python("mail_clients", *words), self.log, OTHER_CORES), FILL_LIMIT_S)
        self.stop()
        if status or self.waiting() != count:
            raise AssertionError(f"Postfix took {self.waiting()} of {count} mails: {self.log.read_text()[-500:]}")

    def start(self, cores: set[int], *, listening: bool, sending: bool) -> int:
        """Starts the master process; returns its pid."""
        self.configure(listening=listening, sending=sending)
        self.pid = launch([str(self._master), "-c", str(self.config)], self.log, cores)
        if listening:
            until(lambda: listens(self.port), "Postfix listens")
        return self.pid

    def drain(self) -> int:
        """Starts what sends the queue, on the sender's core."""
        pid = self.start(SENDER_CORE, listening=False, sending=True)
        until(self._kick, "Postfix's queue manager can be woken")
        return pid

    def _kick(self) -> bool:
        """Wakes the queue manager as postkick(1) does: by itself the master lets one to two seconds pass first."""
        with socket.socket(socket.AF_UNIX) as waker:
            if waker.connect_ex(str(self.folder / "queue" / "public" / "qmgr")):
                return False
            waker.sendall(b"W")
            return True

    def sendmail(self, *words: str) -> list[str]:
        """The command line of its sendmail."""
        return [find("sendmail"), "-C", str(self.config), "-i", *words]

    def processes(self) -> list[int]:
        """All that belong to it now."""
        return family(self.pid)

    def waiting(self) -> int:
        """How many mails its queues hold."""
        return sum(len(names) for queue in QUEUES for _, _, names in os.walk(self.folder / "queue" / queue))

    def stop(self) -> None:
        """Asks the master to end, which ends all others; kills what is left."""
        if self.pid:
            os.kill(self.pid, signal.SIGTERM)
            world.gone(family(self.pid), 10)
            self.kill()

    def kill(self) -> None:
        """SIGKILL to all its processes, as a crash would."""
        if self.pid:
            world.kill_tree(self.pid)
            self.pid = 0

    def close(self) -> None:
        """Ends it."""
        self.kill()


def _owner() -> tuple[int, int]:
    """User and group that Postfix runs as."""
    import pwd

    entry = pwd.getpwnam(_setting("mail_owner"))
    return entry.pw_uid, entry.pw_gid


def _setting(name: str) -> str:
    """What the installed Postfix was built with."""
    return subprocess.run([find("postconf"), "-dh", name], text=True, capture_output=True, check=True).stdout.strip()
