"""A Dovecot of the bench's own on 127.0.0.1: every account has a uid of its own, COMPRESS is not offered.

The mail lies in mdbox with CRLF: few files, so that neither filling nor deleting it slows the file system for the clients.
"""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Sequence
from pathlib import Path

from tests.bench import world
from tests.bench.mail_world import OTHER_CORES, find, free_port, launch, listens, until

FIRST_UID = 20_000  # the kernel counts inotify instances (128) by uid
PASSWORD = "secret"
HOST = "127.0.0.1"
END_S = 10.0
CONFIG = """\
base_dir = {folder}/run
state_dir = {folder}/state
log_path = {folder}/log
listen = 127.0.0.1
protocols = imap
default_process_limit = 2000
default_client_limit = 10000
auth_cache_size = 1M
auth_mechanisms = plain login
disable_plaintext_auth = no
ssl = yes
ssl_cert = <{folder}/cert.pem
ssl_key = <{folder}/key.pem
mail_location = mdbox:~/mail
mail_save_crlf = yes
mail_fsync = never
mail_max_userip_connections = 100
service imap-login {{
  service_count = 0
  process_min_avail = 1
  inet_listener imap {{
    port = {port}
  }}
  inet_listener imaps {{
    port = {tls_port}
  }}
}}
service imap {{
  process_limit = 2000
}}
service stats {{
  unix_listener stats-writer {{
    mode = 0666
  }}
}}
namespace inbox {{
  inbox = yes
  separator = /
}}
passdb {{
  driver = passwd-file
  args = {folder}/users
}}
userdb {{
  driver = passwd-file
  args = {folder}/users
}}
"""


class Dovecot:
    """All its accounts are known from the start: Dovecot looks at the file of users once a second at most.

    `port` is without TLS, `tls_port` with TLS from the start; `cert` is the certificate, which vouches for itself.
    """

    def __init__(self, folder: Path, users: Sequence[str]) -> None:
        folder.mkdir()
        folder.chmod(0o711)  # the accounts' uids pass through
        self.folder = folder
        self.cert = folder / "cert.pem"
        self.port = free_port()
        self.tls_port = free_port()
        (folder / "users").write_text("".join(_line(folder, user, FIRST_UID + number) for number, user in enumerate(users)))
        (folder / "users").chmod(0o644)
        _certify(folder)
        config = folder / "conf"
        config.write_text(CONFIG.format(folder=folder, port=self.port, tls_port=self.tls_port))
        self._pid = launch([find("dovecot"), "-F", "-c", str(config)], folder / "out", OTHER_CORES)
        until(lambda: listens(self.port) and listens(self.tls_port), "Dovecot listens")

    def close(self) -> None:
        """Ends it; its folder stays."""
        os.kill(self._pid, signal.SIGTERM)
        world.gone([self._pid], END_S)
        world.kill_tree(self._pid)


def _line(folder: Path, user: str, uid: int) -> str:
    """Makes the home of an account without mail; its line of the passwd-file."""
    home = folder / f"home-{user}"
    home.mkdir(0o700)
    os.chown(home, uid, uid)
    return f"{user}:{{PLAIN}}{PASSWORD}:{uid}:{uid}::{home}::\n"


def _certify(folder: Path) -> None:
    words = f"req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 30 -subj /CN={HOST}"
    files = ["-addext", f"subjectAltName=IP:{HOST}", "-keyout", str(folder / "key.pem"), "-out", str(folder / "cert.pem")]
    subprocess.run([find("openssl"), *words.split(), *files], check=True, capture_output=True)
