"""As root, the whole suite runs inside IPC, PID and mount namespaces of its own, under a small init that reaps.

So no test can touch, or be touched by, anything outside; and at the end that init proves that nothing is left:
no semaphore set, no message queue, no process. As an ordinary user the tests run where they are.
"""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

INSIDE = "SEMGUARD_TESTS_INSIDE"


@pytest.hookimpl(tryfirst=True)
def pytest_cmdline_main(config: pytest.Config) -> int | None:
    """Starts the same pytest again inside the namespaces and hands its exit status on."""
    if INSIDE in os.environ or os.geteuid() != 0 or config.option.collectonly or config.option.help:
        return None
    unshare = ["unshare", "--ipc", "--pid", "--mount-proc", "--fork", "--kill-child"]
    if subprocess.run([*unshare, "true"], capture_output=True, check=False).returncode:
        return None
    capture = config.pluginmanager.getplugin("capturemanager")
    if capture is not None:
        capture.suspend_global_capture(in_=True)
    init = os.path.join(os.path.dirname(__file__), "init.py")
    arguments = [str(word) for word in config.invocation_params.args]
    command = [*unshare, sys.executable, init, sys.executable, "-m", "pytest", *arguments]
    return subprocess.run(command, env={**os.environ, INSIDE: "1"}, cwd=config.invocation_params.dir, check=False).returncode
