"""What `ps` shows of a guard."""

from __future__ import annotations


def title(text: str) -> None:
    """Sets it.

    Only setproctitle's C module is loaded: the package around it imports logging, that threading, and threading's hook
    after fork costs each birth 0.4 ms (140 page faults), beside 10 ms at start.
    """
    from importlib.machinery import PathFinder

    package = PathFinder.find_spec("setproctitle")
    spec = PathFinder.find_spec("_setproctitle", package.submodule_search_locations if package else None)
    if spec and spec.loader and (module := spec.loader.create_module(spec)):
        spec.loader.exec_module(module)
        module.setproctitle(text)
