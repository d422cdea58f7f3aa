"""What a test of hazards has in its hand: a relay that it holds up, and a small disk that it fills."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from tests.system.harness import INSIDE
from tests.system.mail_servers import Relay, friendly, wait_until


class Held:
    """A relay that answers lines with `verb` only when the test lets it. It knows no recipient in whom `refuses` stands."""

    def __init__(self, verb: str, refuses: str = "nobody at all") -> None:
        self.reached = self.over = False
        self._verb = verb
        self._refuses = refuses
        self._relay = Relay(self._answer)
        self.port = self._relay.port
        self.bodies = self._relay.bodies

    def close(self) -> None:
        """Ends its thread."""
        self.over = True
        self._relay.close()

    def _answer(self, line: str) -> str:
        if line.startswith("RCPT") and self._refuses in line:
            return "550 5.1.1 no such user"
        if line.startswith(self._verb) and not self.over:
            self.reached = True
            wait_until(lambda: self.over, "the test goes on")
        return friendly(line)


class Disk:
    """A small file system, which the test fills and frees. `size` is as for tmpfs(5)."""

    def __init__(self, path: Path, size: str) -> None:
        """Mounts it over the folder `path`; skips the test where that can't be done."""
        if os.geteuid() != 0 or INSIDE not in os.environ:
            pytest.skip("needs root in namespaces of the suite's own, to mount")
        self.path = path
        path.mkdir(parents=True, exist_ok=True)
        subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size},mode=700", "tmpfs", str(path)], check=True)

    def fill(self, left_bytes: int = 0) -> None:
        """Takes all room but so many bytes."""
        with (self.path / "filler").open("wb", buffering=0) as file:
            size_bytes = 1 << 20
            while size_bytes:
                try:
                    file.write(bytes(size_bytes))
                except OSError:
                    size_bytes //= 2
            os.truncate(file.fileno(), file.tell() - left_bytes)

    def free(self) -> None:
        """Gives it back."""
        (self.path / "filler").unlink()

    def mount_again(self, how: str) -> None:
        """`ro` or `rw`."""
        subprocess.run(["mount", "-o", f"remount,{how}", str(self.path)], check=True)

    def close(self) -> None:
        """Takes it away; nobody may use it any more."""
        subprocess.run(["umount", str(self.path)], check=True)
