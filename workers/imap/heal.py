"""Messages that need no download, since their content is here: of an epoch before (UIDVALIDITY), or in another folder."""

from __future__ import annotations

import hashlib
import os

from workers.imap import plan, sets
from workers.imap.archive import name_of
from workers.imap.books import Row
from workers.imap.letters import flag_text, unix
from workers.imap.wire import Literal

TYPE_CHECKING = False
if TYPE_CHECKING:
    from workers.imap.answers import Facts
    from workers.imap.archive import Box
    from workers.imap.books import Books, Folder
    from workers.imap.session import Session
    from workers.imap.sets import Ranges
    from workers.imap.wire import Write

    Old = dict[tuple[int, int], Row]  # of earlier epochs, by (epoch, uid)

WINDOW = 2000
HEADERS = 200
HEAD_BYTES = 1 << 16


def from_here(session: Session, box: Box, books: Books, folder: Folder, account: int, missing: Ranges) -> tuple[Ranges, int]:
    """Serves what it can of `missing` from what lies here; what is left of it, and how many were served.

    Raises Trouble, Declined, StoreError, OSError.
    """
    old = books.old(folder)
    item = _identity_item(session)
    if not old and not item:
        return missing, 0
    served = 0
    rest = missing
    while rest:
        part, rest = sets.take(rest, WINDOW)
        words = b" (UID FLAGS RFC822.SIZE INTERNALDATE%s)" % item
        there = {each.uid: each for each in session.facts(b"UID FETCH " + sets.text(part) + words) if each.size_bytes >= 0}
        done = _from_epoch(session, box, books, folder, there, old) if old else []
        if item:
            for uid in done:
                there.pop(uid, None)
            done += _from_folders(box, books, folder, account, there)
        served += len(done)
        missing = sets.minus(missing, sets.of(sorted(done)))
    return missing, served


def drop_old(box: Box, books: Books, folder: Folder) -> int:
    """What is left of earlier epochs is nowhere on the server: it goes to `.removed`; how many. Raises StoreError, OSError."""
    old = books.old(folder)
    if old:
        box.remove(name_of(epoch, (row.uid, row.size_bytes, row.date, row.flags)) for (epoch, _), row in old.items())
        books.drop(folder, list(old))
    return len(old)


def _from_epoch(session: Session, box: Box, books: Books, folder: Folder, there: dict[int, Facts], old: Old) -> list[int]:
    """Gives messages of an earlier epoch their new names; the UIDs served."""
    shapes = [(each.uid, each.size_bytes, unix(each.date), each.identity) for each in there.values()]
    mine = [(epoch, uid, row.size_bytes, row.date, row.identity) for (epoch, uid), row in old.items()]
    pairs = plan.pair(shapes, mine)
    unsure = [(uid, key) for uid, key in pairs if not there[uid].identity or there[uid].identity != old[key].identity]
    digests = _header_digests(session, [uid for uid, _ in unsure])
    wrong = {uid for uid, key in unsure if not _same_header(box, key, old[key], digests.get(uid))}
    rows, gone = [], []
    for uid, key in pairs:
        if uid in wrong:
            continue
        was = old[key]
        row = Row(uid, was.size_bytes, was.date, flag_text(there[uid].flags), was.digest, there[uid].identity)
        new = name_of(folder.epoch, (row.uid, row.size_bytes, row.date, row.flags))
        if box.rename(name_of(key[0], (was.uid, was.size_bytes, was.date, was.flags)), new):
            rows.append(row)
            gone.append(key)
    if rows:
        books.add(folder, rows, gone)
        for key in gone:
            del old[key]
    return [row.uid for row in rows]


def _from_folders(box: Box, books: Books, folder: Folder, account: int, there: dict[int, Facts]) -> list[int]:
    """Links messages that lie in another folder under the same identity of the server's; the UIDs served."""
    wanted = [each for each in there.values() if each.identity]
    twins = books.same_identity(account, [(unix(each.date), each.identity) for each in wanted])
    rows = []
    for each, twin in zip(wanted, twins, strict=True):
        if twin is None:
            continue
        path, was = twin
        row = Row(each.uid, was.size_bytes, was.date, flag_text(each.flags), was.digest, each.identity)
        name = name_of(folder.epoch, (row.uid, row.size_bytes, row.date, row.flags))
        if box.link(os.path.join(box.account, path), name):
            rows.append(row)
    if rows:
        box.publish([])
        books.add(folder, rows)
    return [row.uid for row in rows]


def _header_digests(session: Session, uids: list[int]) -> dict[int, bytes]:
    """The digest of each message's header, as the server has it."""
    found: dict[int, bytes] = {}
    hashes: dict[Write, hashlib.blake2b] = {}

    def open_literal(head: bytes, _: int) -> Write | None:
        if not head.rstrip().upper().endswith(b"BODY[HEADER]"):
            return None
        digest = hashlib.blake2b()
        write: Write = digest.update
        hashes[write] = digest
        return write

    def take(facts: Facts) -> None:
        if isinstance(facts.header, Literal):
            found[facts.uid] = hashes.pop(facts.header.write).digest()
        elif facts.header is not None:
            found[facts.uid] = hashlib.blake2b(facts.header).digest()

    def parts() -> list[tuple[bytes, Ranges]]:
        rest = sets.of(sorted(uids))
        made = []
        while rest:
            part, rest = sets.take(rest, HEADERS)
            made.append((b"(UID BODY.PEEK[HEADER])", part))
        return made

    session.messages(parts(), open_literal, take, lambda _: None)
    return found


def _same_header(box: Box, key: tuple[int, int], row: Row, digest: bytes | None) -> bool:
    path = box.find(name_of(key[0], (row.uid, row.size_bytes, row.date, row.flags)))
    if path is None or digest is None:
        return False
    ours = hashlib.blake2b()
    tail = b""
    with open(path, "rb") as file:
        while chunk := file.read(HEAD_BYTES):
            end = (tail + chunk).find(b"\r\n\r\n")
            if end >= 0:
                ours.update(chunk[: end + 4 - len(tail)])
                break
            ours.update(chunk)
            tail = chunk[-3:]
    return ours.digest() == digest


def _identity_item(session: Session) -> bytes:
    if session.can("X-GM-EXT-1"):
        return b" X-GM-MSGID"
    return b" EMAILID" if session.can("OBJECTID") else b""
