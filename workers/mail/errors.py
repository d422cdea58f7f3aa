"""The exit statuses of the mail commands, and the exception that carries one to the command line."""

from __future__ import annotations

OK = 0
USAGE = 64  # EX_USAGE of sysexits.h, and so on
DATA = 65
SOFTWARE = 70
IO = 74
TRY_AGAIN = 75
NOT_ALLOWED = 77
CONFIG = 78


class Refused(Exception):
    """A command that ends with `status` (sysexits.h); the text says what is wrong, where, and what to do."""

    def __init__(self, status: int, text: str) -> None:
        super().__init__(text)
        self.status = status
