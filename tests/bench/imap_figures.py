"""The IMAP half of the bench: its figures by name, and what they need."""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Callable, Iterable

from tests.bench.imap_memory import memory
from tests.bench.imap_passes import accounts, far, first, noop
from tests.bench.imap_push import push, resync
from tests.bench.imap_table import ImapRow
from tests.bench.imap_world import ImapWorld
from tests.bench.peers import BIN, Bench

IMAP_FIGURES: dict[str, Callable[[ImapWorld], list[ImapRow]]] = {
    "imap-first": first,
    "imap-noop": noop,
    "imap-resync": resync,
    "imap-accounts": accounts,
    "imap-far": far,
    "imap-push": push,
    "imap-memory": memory,
}
ALL_IMAP = "imap"


def imap_figures(names: Iterable[str]) -> list[str]:
    """The IMAP figures among these names; `imap` means all of them."""
    wanted = list(names)
    return [name for name in IMAP_FIGURES if name in wanted or ALL_IMAP in wanted]


def imap_lacking() -> str:
    """What is missing here for the IMAP figures; empty when nothing is."""
    path = f"{os.environ.get('PATH', os.defpath)}:/usr/sbin:/sbin"
    packages = {"dovecot": "dovecot-imapd", "mbsync": "isync", "openssl": "openssl"}
    missing = [
        f"the program {name} (Debian: package {package})"
        for name, package in packages.items()
        if shutil.which(name, path=path) is None
    ]
    if not (BIN / "imap-sync").exists():
        missing.append("imap-sync beside this Python (pip install -e .)")
    if os.geteuid() != 0:
        missing.append("root: Dovecot starts as nobody else")
    return ", ".join(missing)


def measure_imap(bench: Bench, names: list[str], rows: list[ImapRow], tell: Callable[[str], object]) -> None:
    """Appends the rows of these figures to `rows`, one figure after the other on the same server."""
    if not names:
        return
    bench.folder.chmod(0o711)  # the server's own users pass through it
    with ImapWorld(bench) as mail:
        for name in names:
            start = time.monotonic()
            rows += IMAP_FIGURES[name](mail)
            tell(f"{name}: measured in {time.monotonic() - start:.0f} s\n")
