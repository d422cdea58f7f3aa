"""How long a server may take, and how much it may send."""

from __future__ import annotations

import os

CONNECT_S = 30.0
STALL_S = 60.0  # without a single byte, while an answer is due
COMMAND_S = 300.0  # for an answer, and more of it by what has come
LEAST_RATE = 1000.0  # bytes in a second that give an answer more time
MESSAGE_BYTES = 512 << 20  # Exchange takes 150 MB, Gmail 50
FOLDERS = 20000
ENVIRONMENT = "SEMGUARD_IMAP_LIMITS"  # for tests: "stall=2 command=5 connect=3"


class Limits:
    """The times in force, in seconds."""

    __slots__ = ("command_s", "connect_s", "folders", "message_bytes", "stall_s")

    def __init__(self) -> None:
        self.connect_s = CONNECT_S
        self.stall_s = STALL_S
        self.command_s = COMMAND_S
        self.message_bytes = float(MESSAGE_BYTES)
        self.folders = float(FOLDERS)
        names = {"connect": "connect_s", "stall": "stall_s", "command": "command_s", "message": "message_bytes"}
        for word in os.environ.get(ENVIRONMENT, "").split():
            name, _, value = word.partition("=")
            setattr(self, names[name], float(value))
