"""PURE: what differs between a folder and its copy, and the words for it."""

from __future__ import annotations

from workers.imap import sets
from workers.mail.words import counted, plain

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable

    from workers.imap.sets import Ranges

MOST_DETAILS = 20000  # that are kept; messages beyond differ in the same way each time
SHOWN = 5  # UIDs and names of a kind
KINDS = {  # of messages
    "missing": "missing",
    "poison": "that the server can't give",
    "extra": "here and not on the server",
    "twice": "here twice",
    "epoch": "of another UIDVALIDITY",
    "size": "of another size than in the name",
    "content": "with other content",
    "letters": "with other flags in the name",
    "flags": "with other flags in the state database",
    "row": "with another size or date in the state database",
    "other": "that are others on the server",
    "no row": "not in the state database",
    "row only": "only in the state database",
    "untold": "of which the server tells nothing",
}
OTHERS = {  # of names
    "closed": "can't be compared",
    "foreign": "files that nobody knows",
    "left over": "files left over in tmp",
    "old rows": "not cleared up",
    "not copied": "folders that are not copied",
    "vanished": "folders that the server has no more, or that mail.toml leaves out",
}


class Report:
    """What differs in a folder, or in an account's list of folders: UIDs and names by kind. `why`: of poison messages."""

    __slots__ = ("_details", "messages", "names", "uids", "why")

    def __init__(self) -> None:
        self.messages = 0
        self.uids: dict[str, Ranges] = {}
        self.names: dict[str, set[str]] = {}
        self.why: dict[int, str] = {}
        self._details: dict[tuple[str, int], int] = {}

    def note(self, kind: str, uid: int, *detail: object) -> None:
        """A message that differs, and in what; many come in the order of their UIDs."""
        if detail and len(self._details) < MOST_DETAILS:
            self._details[kind, uid] = hash(detail)
        found = self.uids.setdefault(kind, [])
        if found and found[-1][1] + 1 == uid:
            found[-1] = (found[-1][0], uid)
        elif not found or found[-1][1] < uid:
            found.append((uid, uid))
        else:
            self.uids[kind] = sets.merged([*found, (uid, uid)])

    def add(self, kind: str, uids: Iterable[int]) -> None:
        """Messages that differ, in any order."""
        found = sets.merged([*self.uids.get(kind, []), *sets.of(sorted(uids))])
        if found:
            self.uids[kind] = found

    def count(self) -> int:
        """In how many ways messages and names differ."""
        return sum(sets.count(each) for each in self.uids.values()) + sum(map(len, self.names.values()))

    def differences(self) -> int:
        """How many messages and names differ, each counted once; one of another UIDVALIDITY is another message."""
        uids = sets.merged(part for kind, parts in self.uids.items() if kind != "epoch" for part in parts)
        return sets.count(uids) + sets.count(self.uids.get("epoch", [])) + sum(map(len, self.names.values()))

    def both(self, other: Report) -> Report:
        """What differs in both looks, and in the same way; the number of messages is of this one."""
        found = Report()
        found.messages, found.why = self.messages, self.why
        changed: dict[str, list[int]] = {}
        for key, detail in self._details.items():
            if other._details.get(key, detail) != detail:
                changed.setdefault(key[0], []).append(key[1])
        for kind, uids in self.uids.items():
            if kept := sets.minus(sets.both(uids, other.uids.get(kind, [])), sets.of(sorted(changed.get(kind, ())))):
                found.uids[kind] = kept
        for kind, names in self.names.items():
            if same := names & other.names.get(kind, set()):
                found.names[kind] = same
        return found

    def told(self) -> str:
        """In words: `5000 messages, all here`, or what differs with the first few UIDs."""
        head = counted(self.messages, "message")
        parts = [head] if not self.names.get("closed") else []
        for kind, words in KINDS.items():
            if uids := self.uids.get(kind):
                parts.append(f"{sets.count(uids)} {words} (UID {_first(uids)})")
        for kind, words in OTHERS.items():
            if names := sorted(self.names.get(kind, ())):
                parts.append(f"{f'{len(names)} ' if len(names) > 1 else ''}{words}: {_some(names)}")
        for uid, why in list(self.why.items())[:SHOWN]:
            parts.append(f"message {uid}: {plain(why)}")
        return "; ".join(parts) if self.count() else f"{head}, all here"


def _first(uids: Ranges) -> str:
    part, rest = sets.take(uids, SHOWN)
    found = []
    for low, high in part:
        found += [str(uid) for uid in range(low, high + 1)]
    return ", ".join(found) + (", …" if rest else "")


def _some(names: list[str]) -> str:
    return ", ".join(plain(name) for name in names[:SHOWN]) + (", …" if len(names) > SHOWN else "")
