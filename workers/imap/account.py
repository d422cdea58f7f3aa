"""One account's folders in step with the server's: new, renamed, gone; and which of them have moved."""

from __future__ import annotations

import os
import time
from collections import Counter

from workers.imap import names, sets
from workers.imap.books import Folder
from workers.imap.folder import distrust, tier_of
from workers.imap.letters import unix
from workers.imap.trouble import SERVER, Declined, Trouble
from workers.mail.words import counted

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
    in_hand = {(folder.id, folder.path): folder for folder in known}  # which folders there are, and where, the database says
    ours = {row.name: in_hand.get((row.id, row.path), row) for row in books.folders(key)}
    vanished = [folder for name, folder in ours.items() if name not in listed]
    unknown = [each for name, each in listed.items() if name not in ours]
    renamed = _pair(session, books, unknown, vanished)
    there = {each.name for each in everything}
    kept: list[Folder] = []
    if session.unread_folders:  # each of them may be one that seems to be gone
        unread = counted(session.unread_folders, "folder")
        found.said.append((f"{unread} of the server's list can't be read: not copied, and none is taken for gone", 0))
        kept, vanished = vanished, []
        found.folders = {folder.id: folder for folder in kept}
    for gone in vanished:  # before others come, that may want their paths
        why = "is not copied any more" if gone.name in there else "is gone from the server"
        _remove(root, books, account, gone, why, found)
    places = _Places(root, account, [*kept, *(ours[name] for name in listed if name in ours), *renamed.values()], unknown)
    for name, each in listed.items():
        folder = ours.get(name)
        if folder is None:
            folder = _rename(root, books, account, renamed.get(name), each, places, found) or _new(books, key, each, places)
        folder.delimiter = each.delimiter
        if folder.mailbox_id and each.mailbox_id and folder.mailbox_id != each.mailbox_id:
            distrust(books, folder)  # another one under its name: with its UIDVALIDITY, too, UIDs may be other messages
        folder.mailbox_id = each.mailbox_id or folder.mailbox_id
        folder.listed = each.said
        folder.clean = folder.synced_at > 0 and root.box(account.name, folder.path).is_as_left(folder.mtime_ns)
        found.folders[folder.id] = folder
        if each.state is not None:
            found.states[folder.id] = each.state
    found.due = {row[0] for row in books.run("poison_due", (key, time.time()))}
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


class _Places:
    """Which path on disk each folder of an account has: none has that of another, whatever delimiters the server tells."""

    def __init__(self, root: Root, account: Account, folders: list[Folder], unknown: list[Listed]) -> None:
        """`folders` have their paths; `unknown` are those that will want some, or others."""
        self._root = root
        self._account = account.name
        self._taken: dict[str, set[str]] = {}  # by what they look like to a file system that knows no case
        for folder in folders:
            self._of_its_look(folder.path).add(folder.path)
        self._wishes = Counter(_path(each) for each in unknown if not self._is_on_disk(_path(each, hashed=True)))

    def give(self, each: Listed, old: str | None = None) -> str:
        """The path for a folder, which had `old`. Raises OSError.

        With the same list it is the same one again, also when the database is lost: two that come together and want one
        path both do without it, and what lies under a hash of a name is of that name alone.
        """
        path, hashed = _path(each), _path(each, hashed=True)
        if old is not None:
            self.take_back(old)
        if old != path and (self._is_on_disk(hashed) or self._wishes[path] > 1 or self._is_taken(path)):
            path = hashed
            self._root.box(self._account, path).make()  # so that the next database, too, tells by it whose it is
        self._of_its_look(path).add(path)
        return path

    def take_back(self, path: str) -> None:
        """No folder has this path any more."""
        self._of_its_look(path).discard(path)

    def _of_its_look(self, path: str) -> set[str]:
        return self._taken.setdefault(names.loosely(path), set())

    def _is_on_disk(self, path: str) -> bool:
        return os.path.isdir(self._root.box(self._account, path).cur)

    def _is_taken(self, path: str) -> bool:
        """Whether another folder has it, also under a name that the file system takes for the same."""
        alike = self._of_its_look(path)
        for other in alike - {path}:
            box = self._root.box(self._account, other)
            box.make()
            if self._is_on_disk(path) and os.path.samefile(box.cur, self._root.box(self._account, path).cur):
                return True
        return path in alike


def _path(each: Listed, *, hashed: bool = False) -> str:
    return names.folder_path(each.name, each.delimiter, hashed=hashed)


def _new(books: Books, key: int, each: Listed, places: _Places) -> Folder:
    path = places.give(each)
    number = books.run("add_folder", (key, each.name, each.delimiter, path, each.mailbox_id))[0][0]
    return Folder((number, each.name, each.delimiter, path, 0, 0, 0, 0, 0, each.mailbox_id, 0.0, 0.0, 0, 0, 0))


def _pair(session: Session, books: Books, unknown: list[Listed], vanished: list[Folder]) -> dict[bytes, Folder]:
    """The vanished folders that go on under new names, by these; they are taken out of `vanished`."""
    pairs: dict[bytes, Folder] = {}
    for each in unknown:
        path = _path(each)
        for folder in vanished:
            if _is_same(session, books, folder, each, path):
                pairs[each.name] = folder
                vanished.remove(folder)
                break
    by_path = {folder.path: folder for folder in vanished}
    for each in unknown:
        old = by_path.get(_path(each)) if each.name not in pairs else None
        if old is not None and each.state is not None and 0 < each.state.epoch != old.epoch > 0:
            # Only the delimiter is another, and with it all UIDs: what is here is matched by its content, as ever after that.
            pairs[each.name] = old
            vanished.remove(by_path.pop(old.path))
    return pairs


def _rename(
    root: Root, books: Books, account: Account, folder: Folder | None, each: Listed, places: _Places, found: Found
) -> Folder | None:
    """Gives a folder its new name, here too. None for none, and where something lies in its way: it is removed then."""
    if folder is None:
        return None
    old, path = folder.path, places.give(each, folder.path)
    try:
        if path != old:
            root.box(account.name, path).drop_empty()
            root.box(account.name, old).move(path)
    except OSError:
        places.take_back(path)
        _remove(root, books, account, folder, f"can't be moved to {path}, where something lies", found)
        return None
    books.run("rename_folder", (each.name, each.delimiter, path, folder.id))
    folder.name, folder.path, folder.modseq, folder.clean = each.name, path, 0, False
    found.said.append((f"folder {old} is now {path if path != old else names.shown(each.name)}", folder.id))
    return folder


def _is_same(session: Session, books: Books, folder: Folder, each: Listed, path: str) -> bool:
    """Whether this is surely the vanished folder, by its id or its messages; its path would be `path`."""
    if folder.mailbox_id and each.mailbox_id:
        return folder.mailbox_id == each.mailbox_id
    state = each.state
    if state is None or not folder.epoch or not folder.held or state.epoch != folder.epoch:
        return False
    if folder.path != path and (state.uidnext, state.messages) != (folder.uidnext, folder.messages):
        return False  # mail may have come meanwhile, but only where nothing else than the delimiter is another
    return _has_our_messages(session, books, folder, each)


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
