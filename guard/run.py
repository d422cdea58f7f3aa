"""`guard` without a command: becomes the primary, or finds that there is one, and says how it went as an exit status."""

from __future__ import annotations

import os
import sys
import time

from guard.instance import AlreadyRunning, Instance
from guard.libc import PR_SET_CHILD_SUBREAPER, prctl
from guard.log import Log, complain, is_pipe
from guard.place import NoPlace, Place, no_list
from guard.semaphore import Foreign, Unusable
from guard.signals import Signals
from guard.state import State

TYPE_CHECKING = False
if TYPE_CHECKING:
    from guard.lists import ListFile

DONE, RUNNING, NO_SEMAPHORE, NO_LIST, NO_SCRIPT, FOREIGN, BROKEN = 0, 1, 2, 3, 4, 5, 70
OWN_LOG = "guard.log"  # in the state folder: where scripts write when guard's output is a pipe
STEADY_S = 60.0  # a primary that breaks down (a bug) before does not get its standby to break down after it


def run(place: Place, key: int | None, *, standby: bool, only: frozenset[str] | None = None) -> int:
    """Returns the exit status. `only`: ends these scripts as a wish says, starts nothing, and leaves.

    Raises NoPlace.
    """
    state = place.state(create=True)
    log = Log(lambda: _own_log(state))
    signals = Signals()  # before the semaphore: from then on HUP may come
    instance = Instance(state, key, log, with_standby=standby and only is None)
    try:
        instance.enter()
        if only is None:
            _require_scripts(place, state)
    except AlreadyRunning as running:
        if sys.stderr.isatty():
            complain(f"{running}; `guard status` shows what it does")
        return RUNNING
    except Foreign as error:
        complain(f"{error}; give guard another key with --key N")
        return FOREIGN
    except Unusable as error:
        complain(str(error))
        return NO_SEMAPHORE
    except NoPlace:
        instance.leave(remove=True)
        raise
    return _supervise(place, instance, signals, log, only)


def _supervise(place: Place, instance: Instance, signals: Signals, log: Log, only: frozenset[str] | None) -> int:
    """The life of a primary, and of the standby that becomes the next one in this very function."""
    from guard.forkserver import ForkServer, raise_limit
    from guard.supervisor import Supervisor
    from guard.upkeep import Deposed, TookOver

    _close_on_exec()
    nofile = raise_limit()
    output = _own_log(instance.state) if is_pipe(1) or is_pipe(2) else None
    while True:
        prctl(PR_SET_CHILD_SUBREAPER, 1)  # not inherited over fork
        since = time.monotonic()
        server = ForkServer(instance.state, nofile, output)
        supervisor = Supervisor(_list_file(place), instance, signals, server, log, only)
        try:
            return supervisor.run()
        except TookOver:
            supervisor.close()
            signals = Signals()
            log.say("took over: the primary is gone")
        except Deposed:
            log.say("another guard is primary: this one leaves, the scripts go on")
            instance.leave(remove=False)
            return RUNNING
        except Exception:
            import traceback

            for line in traceback.format_exc().splitlines():
                log.say(line)
            log.say("this is a bug in guard: it ends, the scripts go on, the standby or cron starts it again")
            if time.monotonic() - since < STEADY_S:
                instance.leave(remove=False)
            return BROKEN


def _require_scripts(place: Place, state: State) -> None:
    """A first start with nothing to run is a mistake to be told at once. Raises NoPlace."""
    from guard.command import CannotRun, command
    from guard.lists import read_accepted
    from guard.wishes import read_or_set_aside

    if read_accepted(state)[0] or read_or_set_aside(state)[0].all_stopped or any(record.alive for _, record in state.records()):
        return
    look = _list_file(place).look({})
    scripts = look.listing.scripts if look.listing else ()
    if look.again_s is not None:
        return  # somebody may be writing it
    if not scripts:
        if not os.path.exists(place.list_path):
            raise NoPlace(no_list(place.list_absolute), NO_LIST)
        for mistake in look.listing.mistakes if look.listing else ():
            complain(f"{place.list_path}:{mistake}")
        raise NoPlace(f"{place.list_absolute} lists no script that could run", NO_LIST)
    problems = []
    for script in scripts:
        try:
            command(script, 0)
        except CannotRun as problem:
            problems.append(f"line {script.line}: {problem}")
        else:
            return
    raise NoPlace(f"none of the scripts of {place.list_absolute} exists: {problems[0]}", NO_SCRIPT)


def _list_file(place: Place) -> ListFile:
    from guard.lists import ListFile

    return ListFile(place.list_path, place.state_path, follow=place.follow)


def _own_log(state: State) -> int:
    return os.open(OWN_LOG, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600, dir_fd=state.fd)


def _close_on_exec() -> None:
    """What a careless parent left open (a shell's fd 10, cron's pipes) is none of the scripts' business."""
    for name in os.listdir("/proc/self/fd"):
        if int(name) > 2:
            try:
                os.set_inheritable(int(name), False)
            except OSError:
                continue  # the descriptor of this very listing
