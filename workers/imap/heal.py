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
    item = identity_item(session)
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


def has_other_marks(row: Row, facts: Facts) -> bool:
    """Whether date or identity, where both sides know them, say that this UID is another message now."""
    if facts.identity and row.identity and facts.identity != row.identity:
        return True
    return facts.date is not None and row.date != 0 and unix(facts.date) not in (0, row.date)


def mark_anew(session: Session, box: Box, books: Books, folder: Folder, doubtful: list[tuple[Row, Facts]]) -> set[int]:
    """Gives messages that have other marks on the server now these, and their flags; the UIDs of those that are the same.

    They are when size and header are: a server that lost its index, or makes dates up, must not have all downloaded again.
    `doubtful` are our rows with what the server tells. Raises Trouble, Declined, StoreError, OSError.
    """
    sizes = _sizes(session, [row.uid for row, _ in doubtful])
    alike = [(row, facts) for row, facts in doubtful if sizes.get(row.uid) == row.size_bytes]
    theirs = _header_digests(session, [row.uid for row, _ in alike])
    changes: list[tuple[int, str, bytes | None, int, int, int]] = []
    for was, facts in alike:
        if was.uid not in theirs or theirs[was.uid] != _our_digest(box, (folder.epoch, was.uid), was):
            continue
        date, flags = unix(facts.date) or was.date, flag_text(facts.flags)
        old = name_of(folder.epoch, (was.uid, was.size_bytes, was.date, was.flags))
        new = name_of(folder.epoch, (was.uid, was.size_bytes, date, flags))
        if box.rename(old, new):
            os.utime(os.path.join(box.cur, new), (date, date), follow_symlinks=False)
            changes.append((date, flags, facts.identity, folder.id, folder.epoch, was.uid))
    if changes:
        books.do(lambda transaction: transaction.many("books.mark_anew", changes))
    return {change[-1] for change in changes}


def _sizes(session: Session, uids: list[int]) -> dict[int, int]:
    found: dict[int, int] = {}
    rest = sets.of(sorted(uids))
    while rest:
        part, rest = sets.take(rest, WINDOW)
        there = session.facts(b"UID FETCH " + sets.text(part) + b" (UID RFC822.SIZE)")
        found |= {each.uid: each.size_bytes for each in there if each.size_bytes >= 0}
    return found


def _from_epoch(session: Session, box: Box, books: Books, folder: Folder, there: dict[int, Facts], old: Old) -> list[int]:
    """Gives messages of an earlier epoch their new names; the UIDs served."""
    pairs = plan.pair(  # by identity not alone: with some servers it is a number that begins anew with the account
        [(each.uid, (each.identity, *_shape(each))) for each in there.values() if each.identity],
        [(key, (row.identity, row.size_bytes, row.date)) for key, row in old.items() if row.identity],
    )
    pairs += _by_header(session, box, there, old, pairs)
    rows, gone = [], []
    for uid, key in pairs:
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


def _by_header(
    session: Session, box: Box, there: dict[int, Facts], old: Old, paired: list[tuple[int, tuple[int, int]]]
) -> list[tuple[int, tuple[int, int]]]:
    """Pairs (uid there, key here) of the same size, date and header, where no other message has all three."""
    done, used = {uid for uid, _ in paired}, {key for _, key in paired}
    shapes = {(row.size_bytes, row.date) for key, row in old.items() if key not in used}
    asked = {uid: shape for uid, each in there.items() if uid not in done and (shape := _shape(each)) in shapes}
    theirs = _header_digests(session, list(asked))
    wanted = set(asked.values())
    like = {key: row for key, row in old.items() if key not in used and (row.size_bytes, row.date) in wanted}
    ours = {key: digest for key, row in like.items() if (digest := _our_digest(box, key, row)) is not None}
    return plan.pair(
        [(uid, (asked[uid], digest)) for uid, digest in theirs.items()],
        [(key, ((like[key].size_bytes, like[key].date), digest)) for key, digest in ours.items()],
    )


def _shape(facts: Facts) -> tuple[int, int]:
    return facts.size_bytes, unix(facts.date)


def _from_folders(box: Box, books: Books, folder: Folder, account: int, there: dict[int, Facts]) -> list[int]:
    """Links messages that lie in another folder under the same identity of the server's; the UIDs served."""
    wanted = [each for each in there.values() if each.identity]
    twins = books.same_identity(account, [(unix(each.date), each.identity) for each in wanted])
    rows = []
    for each, twin in zip(wanted, twins, strict=True):
        if twin is None:
            continue
        path, was = twin
        if was.size_bytes != each.size_bytes:
            continue
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


def _our_digest(box: Box, key: tuple[int, int], row: Row) -> bytes | None:
    """The digest of the header of a message here; None when its file is gone. Raises OSError."""
    path = box.find(name_of(key[0], (row.uid, row.size_bytes, row.date, row.flags)))
    if path is None:
        return None
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
    return ours.digest()


def identity_item(session: Session) -> bytes:
    """What FETCH asks for the server's own name of a message by; b"" where there is none."""
    if session.can("X-GM-EXT-1"):
        return b" X-GM-MSGID"
    return b" EMAILID" if session.can("OBJECTID") else b""
