"""Where a guard lives: its List.txt, its state folder, and whose they are."""

from __future__ import annotations

import os

from guard.state import State

LIST_NAME = "List.txt"
STATE_NAME = ".guard"


NO_STATE = 6  # exit status: the state folder can't be used


class NoPlace(Exception):
    """There is no guard to speak of here; the text says why and what to do. `status`: the command's exit status."""

    def __init__(self, text: str, status: int) -> None:
        super().__init__(text)
        self.status = status


class Place:
    """The paths as this process uses them.

    Without `--state` it works inside of List.txt's folder with relative paths, so that a renamed folder stays the same
    place. With `--state` the list is followed by its path, so that `current -> releases/43` is seen.
    """

    __slots__ = ("follow", "list_path", "state_path")

    def __init__(self, list_option: str | None, state_option: str | None) -> None:
        named = os.path.abspath(list_option or os.environ.get("GUARD_LIST") or LIST_NAME)
        folder = os.path.dirname(named)
        self.follow = state_option is not None
        self.state_path = os.path.abspath(state_option) if state_option is not None else STATE_NAME
        self.list_path = named if self.follow else os.path.basename(named)
        try:
            os.chdir(folder)
        except OSError as error:
            raise NoPlace(f"{folder}: {error.strerror}; name the list with --list FILE", 3) from None

    @property
    def list_absolute(self) -> str:
        """For people."""
        return os.path.abspath(self.list_path)

    def become_owner(self, *, as_root: bool) -> None:
        """As root: turns into the user whom the state folder belongs to, so that nothing is left that he can't touch.

        Raises NoPlace.
        """
        if os.geteuid() != 0:
            return
        try:
            state = os.stat(self.state_path)
        except OSError:
            folder = os.path.dirname(os.path.abspath(self.state_path))
            owner = os.stat(folder).st_uid if os.path.isdir(folder) else 0
            if owner and not as_root:
                user, sudo = _name(owner), f"sudo -u '{_name(owner)}' guard"
                text = f"{folder} belongs to {user}: run guard as {user} ({sudo}), or all of it as root: --as-root"
                raise NoPlace(text, 64) from None
            return
        if state.st_uid:
            _become(state.st_uid, state.st_gid)

    def state(self, *, create: bool) -> State:
        """The state folder. Raises NoPlace."""
        try:
            return State(self.state_path, create=create)
        except FileNotFoundError:
            if create:
                raise NoPlace(
                    f"{self.state_path}: the folder it should stand in does not exist; make it first", NO_STATE
                ) from None
            text = (
                f"no guard was ever started for {self.list_absolute}; start one with `guard start`, or name another with --list"
            )
            raise NoPlace(text if os.path.exists(self.list_path) else no_list(self.list_absolute), 3) from None
        except OSError as error:
            path = os.path.abspath(self.state_path)
            try:
                owner = os.stat(path).st_uid
            except OSError:
                owner = os.geteuid()
            if owner != os.geteuid():
                text = f"{path} belongs to {_name(owner)}: run guard as {_name(owner)}, or for yourself with another --state DIR"
                raise NoPlace(text, NO_STATE) from None
            raise NoPlace(
                f"{path}: {error.strerror}; guard needs to write there, or to another folder: --state DIR", NO_STATE
            ) from None


def no_list(path: str) -> str:
    """What to say when there is no list."""
    return f"{path} does not exist; `guard init` writes a first one, --list FILE or GUARD_LIST name another"


def _name(uid: int) -> str:
    """A user's name; `#uid`, which sudo takes as well, where passwd has none."""
    import pwd

    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return f"#{uid}"


def _become(uid: int, gid: int) -> None:
    import pwd

    try:
        user = pwd.getpwuid(uid)
    except KeyError:
        os.setgroups([])
    else:
        os.initgroups(user.pw_name, user.pw_gid)
        gid = user.pw_gid
    os.setgid(gid)
    os.setuid(uid)
