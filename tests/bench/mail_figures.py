"""The mail half of the bench: its figures by name, and what they need."""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Callable, Iterable

from tests.bench.mail_add import add
from tests.bench.mail_backlog import backlog
from tests.bench.mail_commands import commands
from tests.bench.mail_drain import drain, far
from tests.bench.mail_idle import idle
from tests.bench.mail_kills import kills
from tests.bench.mail_table import MailRow
from tests.bench.peers import BIN, Bench

MAIL_FIGURES: dict[str, Callable[[Bench], list[MailRow]]] = {
    "mail-drain": drain,
    "mail-far": far,
    "mail-sendmail": commands,
    "mail-idle": idle,
    "mail-backlog": backlog,
    "mail-add": add,
    "mail-kills": kills,
}
ALL_MAIL = "mail"


def mail_figures(names: Iterable[str]) -> list[str]:
    """The mail figures among these names; `mail` means all of them."""
    wanted = list(names)
    return [name for name in MAIL_FIGURES if name in wanted or ALL_MAIL in wanted]


def lacking() -> str:
    """What is missing here for the mail figures; empty when nothing is."""
    path = f"{os.environ.get('PATH', os.defpath)}:/usr/sbin:/sbin"
    programs = [name for name in ("postfix", "smtp-sink") if shutil.which(name, path=path) is None]
    missing = [f"the program {name} (Debian: package postfix)" for name in programs]
    if not (BIN / "smtp-spool").exists():
        missing.append("smtp-spool beside this Python (pip install -e .)")
    try:
        import aiosmtplib  # noqa: F401 - only whether it is there
    except ImportError:
        missing.append("aiosmtplib (pip install aiosmtplib)")
    if os.geteuid() != 0:
        missing.append("root: Postfix starts as nobody else")
    return ", ".join(missing)


def measure(bench: Bench, names: list[str], rows: list[MailRow], tell: Callable[[str], object]) -> None:
    """Appends the rows of these figures to `rows`, one figure after the other."""
    bench.folder.chmod(0o711)  # Postfix's own user passes through it
    for name in names:
        start = time.monotonic()
        rows += MAIL_FIGURES[name](bench)
        tell(f"{name}: measured in {time.monotonic() - start:.0f} s\n")
