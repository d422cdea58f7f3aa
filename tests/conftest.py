"""As root, the whole suite runs inside IPC, PID and mount namespaces of its own, under a small init that reaps.

So no test can touch, or be touched by, anything outside; and at the end that init proves that nothing is left:
no semaphore set, no message queue, no process. As an ordinary user the tests run where they are.

Most system tests wait: for a server's pause, for a disk, for a death to be noticed. So the whole suite, called without
paths, runs in parts side by side, each in namespaces of its own and with its own proof.
"""

from __future__ import annotations

import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path

import pytest

INSIDE = "SEMGUARD_TESTS_INSIDE"
UNSHARE = ["unshare", "--ipc", "--pid", "--mount-proc", "--fork", "--kill-child"]
TESTS = Path(__file__).parent
OWN_PARTS = {
    "imap's many accounts": "test_imap_many.py",
    "imap's worker": "test_imap_running.py",
    "imap's faults": "test_imap_faults.py",
}
MAIL = ("test_mail_", "test_connect", "test_smtp_spool")


@pytest.hookimpl(tryfirst=True)
def pytest_cmdline_main(config: pytest.Config) -> int | None:
    """Starts the same pytest again inside the namespaces and hands its exit status on."""
    if INSIDE in os.environ or os.geteuid() != 0 or config.option.collectonly or config.option.help:
        return None
    if subprocess.run([*UNSHARE, "true"], capture_output=True, check=False).returncode:
        return None
    capture = config.pluginmanager.getplugin("capturemanager")
    if capture is not None:
        capture.suspend_global_capture(in_=True)
    arguments = [str(word) for word in config.invocation_params.args]
    if config.args_source is pytest.Config.ArgsSource.TESTPATHS:
        return _run_parts(arguments, config.invocation_params.dir)
    return subprocess.run(_command(arguments), env=_environment(), cwd=config.invocation_params.dir, check=False).returncode


def _run_parts(arguments: list[str], folder: Path) -> int:
    """The parts of the suite side by side; what each has said is shown when it has ended. The worst exit status."""

    def run(name: str, paths: list[str]) -> tuple[str, subprocess.CompletedProcess[bytes]]:
        command = _command([*arguments, *paths])
        return name, subprocess.run(
            command, env=_environment(), cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, check=False
        )

    parts = _parts()
    print(f"{len(parts)} parts run side by side: {', '.join(parts)}; each is shown when it has ended", flush=True)
    worst = 0
    with ThreadPoolExecutor(len(parts)) as pool:
        for future in as_completed([pool.submit(run, name, paths) for name, paths in parts.items()]):
            name, done = future.result()
            print(f"\n{name}:", flush=True)
            sys.stdout.buffer.write(done.stdout)
            sys.stdout.buffer.flush()
            if done.returncode != pytest.ExitCode.NO_TESTS_COLLECTED:
                worst = max(worst, abs(done.returncode))
    return worst


def _parts() -> dict[str, list[str]]:
    """The test files of each part, the longest ones first; what has no part of its own is guard's."""
    parts: dict[str, list[str]] = {name: [] for name in (*OWN_PARTS, "imap", "mail", "guard", "units")}
    for path in sorted((TESTS / "system").glob("test_*.py")):
        parts[_part(path.name)].append(str(path))
    parts["units"] += [str(TESTS / "unit"), str(TESTS / "contract")]
    return parts


def _part(name: str) -> str:
    for part, file in OWN_PARTS.items():
        if name == file:
            return part
    return "imap" if name.startswith("test_imap_") else "mail" if name.startswith(MAIL) else "guard"


def _command(arguments: list[str]) -> list[str]:
    return [*UNSHARE, sys.executable, str(TESTS / "init.py"), sys.executable, "-m", "pytest", *arguments]


def _environment() -> dict[str, str]:
    return {**os.environ, INSIDE: "1"}
