"""What a mail is made into for its relay: re-encoded where the relay can't take it as it is, and signed.

A small message is worked on in a thread. A big one goes through a process of its own, file to file, so that the
sender's memory does not grow with it.
"""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
import tempfile
from typing import TYPE_CHECKING

from workers.mail.config import Dkim
from workers.spool.refit import CannotRefit, refit
from workers.spool.signing import SigningError, sign, signing_domain

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from workers.mail.config import Identity
    from workers.spool.claims import Mail

BIG_BYTES = 1024 * 1024
BLOCK_BYTES = 256 * 1024
BAD_CONTENT = 65
BAD_KEY = 75


class NotFit(Exception):
    """The message can't be made into what the relay takes; `final` when it never can."""

    def __init__(self, text: str, *, final: bool) -> None:
        super().__init__(text)
        self.final = final


class Work:
    """What is to be done to a message. `eight_bit`: the relay takes 8-bit content."""

    __slots__ = ("address", "dkim", "eight_bit", "refit")

    def __init__(self, mail: Mail, identity: Identity | None, *, eight_bit: bool) -> None:
        self.refit = mail.long_lines or (mail.eight_bit and not eight_bit)
        self.eight_bit = eight_bit
        self.dkim = identity.dkim if identity is not None else None
        self.address = identity.address if identity is not None else ""

    def needed(self) -> bool:
        """Whether there is anything to do."""
        return self.refit or self.dkim is not None


class Content:
    """The finished message, in memory or in a file that nobody else sees. May be read more than once."""

    def __init__(self, text: bytes | None, file: int | None = None) -> None:
        self._text = text
        self._file = file
        self.size_bytes = len(text) if text is not None else os.fstat(file or 0).st_size

    def parts(self) -> Iterator[bytes]:
        """The message, part by part."""
        if self._text is not None:
            yield self._text
            return
        at = 0
        while block := os.pread(self._file or 0, BLOCK_BYTES, at):
            yield block
            at += len(block)

    def close(self) -> None:
        """Gives back the room on disk."""
        if self._file is not None:
            os.close(self._file)
            self._file = None


async def made(work: Work, size_bytes: int, parts: Iterable[bytes], folder: str) -> Content:
    """The message as it goes to the relay. Raises NotFit, OSError, StoreError."""
    if size_bytes <= BIG_BYTES:
        return Content(await asyncio.to_thread(apply, work, b"".join(parts)))
    return await _by_process(work, parts, folder)


def apply(work: Work, text: bytes) -> bytes:
    """Does the work on a whole message. Raises NotFit."""
    try:
        if work.refit:
            text = refit(text, eight_bit=work.eight_bit)
        if work.dkim is not None:
            text = sign(text, work.dkim, signing_domain(text, work.address))
    except CannotRefit as error:
        raise NotFit(str(error), final=True) from None
    except SigningError as error:
        raise NotFit(str(error), final=False) from None
    return text


async def _by_process(work: Work, parts: Iterable[bytes], folder: str) -> Content:
    with tempfile.TemporaryFile(dir=folder) as source, tempfile.TemporaryFile(dir=folder) as target:
        for part in parts:
            source.write(part)
        source.flush()
        source.seek(0)
        dkim = None if work.dkim is None else (work.dkim.selector, work.dkim.key_file)
        what = json.dumps({"refit": work.refit, "eight_bit": work.eight_bit, "dkim": dkim, "address": work.address})
        root = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
        code = f"import sys; sys.path.insert(0, {root!r}); from workers.spool.content import main; sys.exit(main())"
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-c", code, what, stdin=source, stdout=target, stderr=subprocess.PIPE
        )
        _, words = await process.communicate()
        text = words.decode("utf-8", "replace").strip()
        if process.returncode != 0:
            raise NotFit(text or f"the process for it ended with {process.returncode}", final=process.returncode == BAD_CONTENT)
        return Content(None, os.dup(target.fileno()))


def main() -> int:
    """The process for a big message: standard input to standard output, the work as JSON in the first argument."""
    given = json.loads(sys.argv[1])
    work = Work.__new__(Work)
    work.refit, work.eight_bit, work.address = given["refit"], given["eight_bit"], given["address"]
    work.dkim = None if given["dkim"] is None else Dkim(*given["dkim"])
    try:
        sys.stdout.buffer.write(apply(work, sys.stdin.buffer.read()))
        sys.stdout.buffer.flush()
    except NotFit as error:
        print(error, file=sys.stderr)
        return BAD_CONTENT if error.final else BAD_KEY
    return 0
