"""One account's folders in step with the server's: new, renamed, gone; and which of them have moved."""

from __future__ import annotations

import os
import time

from workers.imap import names, sets
from workers.imap.books import Folder
from workers.imap.folder import tier_of
from workers.imap.letters import unix
from workers.imap.trouble import SERVER, Declined, Trouble

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable

    from workers.imap.answers import Listed, State
    from workers.imap.archive import Root
    from workers.imap.books import Books
    from workers.imap.session import Session
    from workers.mail.imap_config import Account
    from workers.store.database import Transaction

PROBES = 5
UNSELECTABLE = frozenset((b"\\NOSELECT", b"\\NONEXISTENT"))


class Found:
    """A look at an account: its folders as they are now, by id, and the server's states of them; what was done, for the log."""

    def __init__(self) -> None:
        self.folders: dict[int, Folder] = {}
        self.states: dict[int, State] = {}
        self.due: set[int] = set()  # folders with messages that the server could not give, and that are asked for again now
        self.said: list[tuple[str, int]] = []
        self.outbox: Listed | None = None
        self.sent: bytes | None = None  # the folder for what is sent, when it is there


def look(
    session: Session, root: Root, books: Books, account: Account, key: int, known: Iterable[Folder], most_folders: int
) -> Found:
    """Lists the server's folders and brings ours in step with the list; `known` are those in hand.

    Raises Trouble, Declined, StoreError, OSError.
    """
    everything = session.folders(most_folders)
    listed = wanted(everything, account)
    found = Found()
    _find_outbox(everything, account, found)
    session.states({id(each): each for each in (*listed.values(), found.outbox) if each is not None}.values())
    if not everything:
        raise Trouble(SERVER, "the server lists no folder at all, though INBOX is always there")
    in_hand = {folder.id: folder for folder in known}  # which folders there are, the database says
    ours = {row.name: in_hand.get(row.id, row) for row in books.folders(key)}
    vanished = [folder for name, folder in ours.items() if name not in listed]
    for name, each in listed.items():
        folder = ours.get(name)
        if folder is None:
            folder = _renamed(session, root, books, account, each, vanished, found) or _new(books, key, each)
        folder.mailbox_id = each.mailbox_id or folder.mailbox_id
        folder.listed = each.said
        folder.clean = folder.synced_at > 0 and root.box(account.name, folder.path).is_as_left(folder.mtime_ns)
        found.folders[folder.id] = folder
        if each.state is not None:
            found.states[folder.id] = each.state
    found.due = {row[0] for row in books.run("poison_due", (key, time.time()))}
    there = {each.name for each in everything}
    for folder in vanished:
        why = "is not copied any more" if folder.name in there else "is gone from the server"
        _remove(root, books, account, folder, why, found)
    return found


def _find_outbox(everything: list[Listed], account: Account, found: Found) -> None:
    """The folders whose names the config gives; INBOX is never the outbox."""
    for each in everything if account.outbox is not None else ():
        if each.attributes & UNSELECTABLE:
            continue
        if names.is_named(account.outbox or "", each.name, each.delimiter) and not names.is_inbox(each.name):
            found.outbox = each
        elif names.is_named(account.sent or "", each.name, each.delimiter):
            found.sent = each.said


def clear_strays(root: Root, account: Account, folders: Iterable[Folder]) -> list[str]:
    """Folders on disk that are none of the account's, as after a lost database, go to `.removed`; what was done."""
    known = {folder.path for folder in folders}
    top = os.path.join(root.path, account.name)
    said = []
    for name in sorted(os.listdir(top)) if os.path.isdir(top) else ():
        if name not in known and not name.startswith(".") and os.path.isdir(os.path.join(top, name, "cur")):
            number = root.box(account.name, name).remove_all()
            if number:
                said.append(f"folder {name} on disk is none of the server's: {number} messages moved to .removed")
    return said


def has_moved(folder: Folder, state: State | None, session: Session) -> bool:
    """Whether a folder has to be opened: unless its state proves that nothing has changed."""
    return state is None or not folder.seen().is_same(state.key(), tier_of(session))


def wanted(listed: list[Listed], account: Account) -> dict[bytes, Listed]:
    """The folders that can be opened and that the config takes. INBOX is one, in whatever case it comes."""
    found: dict[bytes, Listed] = {}
    for each in listed:
        each.name = names.canonical(each.name, each.delimiter)
        if not each.attributes & UNSELECTABLE and names.matches(account.folders, each.name, each.delimiter):
            found.setdefault(each.name, each)
    return found


def _new(books: Books, key: int, each: Listed) -> Folder:
    path = names.folder_path(each.name, each.delimiter)
    values = (key, each.name, each.delimiter, path, each.mailbox_id)
    row = (
        books.run("add_folder", values)[0][0],
        each.name,
        each.delimiter,
        path,
        0,
        0,
        0,
        0,
        0,
        each.mailbox_id,
        0.0,
        0.0,
        0,
        0,
        0,
    )
    return Folder(row)


def _renamed(
    session: Session, root: Root, books: Books, account: Account, each: Listed, vanished: list[Folder], found: Found
) -> Folder | None:
    """The vanished folder that goes on under this name, if there surely is one; renamed here too."""
    for folder in vanished:
        if not _is_same_folder(folder, each):
            continue
        if not (folder.mailbox_id and folder.mailbox_id == each.mailbox_id) and not _has_our_messages(
            session, books, folder, each
        ):
            continue
        path = names.folder_path(each.name, each.delimiter)
        old = folder.path
        try:
            root.box(account.name, path).drop_empty()
            root.box(account.name, folder.path).move(path)
        except OSError:
            continue  # something lies there already: then it is a new folder, and messages are fetched
        books.run("rename_folder", (each.name, path, folder.id))
        vanished.remove(folder)
        folder.name, folder.path, folder.modseq, folder.clean = each.name, path, 0, False
        found.said.append((f"folder {old} is now {path}", folder.id))
        return folder
    return None


def _is_same_folder(folder: Folder, each: Listed) -> bool:
    if folder.mailbox_id and each.mailbox_id:
        return folder.mailbox_id == each.mailbox_id
    state = each.state
    if state is None or not folder.epoch or not folder.held:
        return False
    return (state.epoch, state.uidnext, state.messages) == (folder.epoch, folder.uidnext, folder.messages)


def _has_our_messages(session: Session, books: Books, folder: Folder, each: Listed) -> bool:
    """Whether the first and last messages have the sizes and dates of ours: numbers alone may meet by chance."""
    ours = books.uids(folder)
    if not ours:
        return False
    uids = [*sets.numbers(sets.take(ours, PROBES)[0]), ours[-1][1]]
    try:
        session.examine(each.said, None)
        there = session.facts(b"UID FETCH " + sets.text(sets.of(sorted(set(uids)))) + b" (UID RFC822.SIZE INTERNALDATE)")
    except Declined:
        return False
    shapes = {facts.uid: (facts.size_bytes, unix(facts.date)) for facts in there}
    rows = [row for uid in set(uids) for row in books.rows(folder, uid, uid)]
    return all(shapes.get(row.uid) == (row.size_bytes, row.date) for row in rows)


def _remove(root: Root, books: Books, account: Account, folder: Folder, why: str, found: Found) -> None:
    """The folder is to be here no more: its messages go to `.removed`."""
    number = root.box(account.name, folder.path).remove_all()

    def work(transaction: Transaction) -> None:
        transaction.run("books.delete_messages", (folder.id,))
        transaction.run("books.delete_poison", (folder.id,))
        transaction.run("books.delete_folder", (folder.id,))

    books.do(work)
    found.said.append((f"folder {folder.path} {why}: {number} messages moved to .removed", folder.id))
