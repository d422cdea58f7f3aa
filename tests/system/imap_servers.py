"""Debian's Dovecot for the system tests: a private one on loopback, with its own folder, ports, users and certificate."""

from __future__ import annotations

import datetime
import ipaddress
import os
import shutil
import signal
import socket
import subprocess
import tempfile
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

import psutil
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from tests.system.imap_user import PASSWORD, MailUser
from tests.system.mail_servers import free_port, wait_until

FIRST_UID = 20_000  # each user has one of its own: the kernel's inotify instances (128) are counted by uid
EXTENSIONS = (
    *("SASL-IR", "LOGIN-REFERRALS", "ID", "ENABLE", "IDLE", "SORT", "MULTIAPPEND", "UNSELECT", "CHILDREN", "NAMESPACE"),
    *("UIDPLUS", "LIST-EXTENDED", "CONDSTORE", "QRESYNC", "ESEARCH", "ESORT", "SEARCHRES", "WITHIN", "LIST-STATUS", "BINARY"),
    *("MOVE", "STATUS=SIZE", "LITERAL+", "NOTIFY", "COMPRESS=DEFLATE"),
)
SWITCHES = ("CONDSTORE", "QRESYNC", "ESEARCH", "LIST-STATUS", "NOTIFY", "IDLE", "COMPRESS")

CONFIG = """\
base_dir = {folder}/run
state_dir = {folder}/state
log_path = {folder}/log
listen = 127.0.0.1
protocols = imap
default_process_limit = 2000
default_client_limit = 10000
default_vsz_limit = 1G
auth_mechanisms = plain login scram-sha-256
auth_failure_delay = 0
disable_plaintext_auth = {disable_plaintext_auth}
login_trusted_networks = {login_trusted_networks}
ssl = yes
ssl_cert = <{folder}/cert.pem
ssl_key = <{folder}/key.pem
imap_capability = {capability}
mail_location = {mail_location}
mail_fsync = never
mail_plugins = {mail_plugins}
mailbox_idle_check_interval = {idle_check}
{settings}
service imap {{
  process_limit = 2000
}}
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
service stats {{
  unix_listener stats-writer {{
    mode = 0666
  }}
}}
protocol imap {{
  mail_max_userip_connections = {userip_connections}
  mail_plugins = $mail_plugins {imap_plugins}
}}
namespace inbox {{
  inbox = yes
  separator = {separator}
}}
passdb {{
  driver = passwd-file
  args = {folder}/auth/%n
}}
userdb {{
  driver = passwd-file
  args = {folder}/auth/%n
}}
"""


class Dovecot:
    """A Dovecot of the test's own. `off` are names of SWITCHES that it does not offer.

    Its folder lies directly in /tmp: pytest's own folders may be entered by root only, and the paths of sockets are short.
    `port` is for plain and STARTTLS, `tls_port` for TLS from the start; `ca` is the file with the authority of its
    certificate, which is good for localhost and 127.0.0.1. The log is in `folder / "log"`.
    """

    def __init__(
        self,
        *,
        off: Sequence[str] = (),
        mail_location: str = "sdbox:~/mail",
        separator: str = "/",
        userip_connections: int = 0,
        disable_plaintext_auth: str = "no",
        login_trusted_networks: str = "",
        idle_check: str = "1 s",
        settings: str = "",
    ) -> None:
        self._program = _program()
        self.folder = Path(tempfile.mkdtemp(prefix="dovecot-", dir="/tmp"))
        self.folder.chmod(0o711)
        self.ca = self.folder / "ca.pem"
        self.port = free_port()
        self.tls_port = free_port()
        self.users: dict[str, MailUser] = {}
        offered = [word for word in EXTENSIONS if word.partition("=")[0] not in off]
        (self.folder / "auth").mkdir(0o755)  # a file each: a file that changed twice within a second is not read again
        (self.folder / "homes").mkdir(0o711)
        make_certificates(self.folder)
        config = CONFIG.format(
            folder=self.folder,
            port=self.port,
            tls_port=self.tls_port,
            capability=" ".join(["IMAP4rev1", *offered]),
            mail_location=mail_location,
            separator=separator,
            mail_plugins="zlib",
            imap_plugins="" if "COMPRESS" in off else "imap_zlib",
            userip_connections=userip_connections,
            disable_plaintext_auth=disable_plaintext_auth,
            login_trusted_networks=login_trusted_networks,
            idle_check=idle_check,
            settings=settings,
        )
        (self.folder / "conf").write_text(config)
        self.start()

    def start(self) -> None:
        """Starts it and returns when it answers."""
        command = [self._program, "-F", "-c", str(self.folder / "conf")]
        with (self.folder / "out").open("ab") as out:
            self.process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=out, stderr=out, start_new_session=True)
        wait_until(self._answers, "Dovecot answers", 30)

    def stop(self) -> None:
        """Ends it with all its processes and connections, at once: it waits for its children else; the mail stays."""
        for user in self.users.values():
            user.close()
        with suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)  # all of its session
        self.process.wait()
        wait_until(lambda: not _group_lives(self.process.pid), "all of Dovecot has ended", 30)

    def close(self) -> None:
        """Ends it and removes all that it had."""
        self.stop()
        shutil.rmtree(self.folder)

    def user(self, name: str, password: str = PASSWORD) -> MailUser:
        """The user of this name, made when there is none."""
        if name not in self.users:
            uid = FIRST_UID + len(self.users)
            home = self.folder / "homes" / name
            home.mkdir(0o700)
            os.chown(home, uid, uid)
            (self.folder / "auth" / name).write_text(f"{name}:{{PLAIN}}{password}:{uid}:{uid}::{home}::\n")
            self.users[name] = MailUser(name, self.port, password)
        return self.users[name]

    def admin(self, *words: str) -> str:
        """What a doveadm command says. Fails the test when it fails."""
        command = ["doveadm", "-c", str(self.folder / "conf"), *words]
        done = subprocess.run(command, capture_output=True, text=True)
        assert done.returncode == 0, (words, done.stderr)
        return done.stdout

    def change_uidvalidity(self, user: str, folder: str, value: int) -> None:
        """Gives a folder another UIDVALIDITY; its messages and their UIDs stay."""
        self.users[user].close()  # an open folder keeps its value
        self.admin("mailbox", "update", "-u", user, "--uid-validity", str(value), folder)

    def kick(self, user: str) -> None:
        """Ends all connections of a user."""
        self.admin("kick", user)

    def log(self) -> str:
        """What it logged so far."""
        return (self.folder / "log").read_text()

    def _answers(self) -> bool:
        assert self.process.poll() is None, (self.folder / "out").read_text()
        try:
            with socket.create_connection(("127.0.0.1", self.port), 5) as probe:
                return probe.recv(4) == b"* OK"
        except OSError:
            return False


def _program() -> str:
    program = shutil.which("dovecot", path=f"{os.environ.get('PATH', '')}:/usr/sbin")
    if program is not None and os.geteuid() == 0:
        return program
    reason = "Dovecot runs as root only" if program else "dovecot is missing; Debian has it in the package dovecot-imapd"
    if os.environ.get("CI") == "true":
        pytest.fail(reason)
    pytest.skip(reason)


def _group_lives(group: int) -> bool:
    """Whether a process of the group runs; one that has ended and waits for pid 1 to notice does not."""
    for process in psutil.process_iter(["status"]):
        with suppress(ProcessLookupError):
            if process.info["status"] != psutil.STATUS_ZOMBIE and os.getpgid(process.pid) == group:
                return True
    return False


def make_certificates(folder: Path, names: Sequence[str] = ("localhost",)) -> None:
    """ca.pem, and cert.pem with key.pem signed by it for these names and 127.0.0.1."""
    authority_key = ec.generate_private_key(ec.SECP256R1())
    authority = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "authority of the tests")])
    key = ec.generate_private_key(ec.SECP256R1())
    start = datetime.datetime.now(datetime.UTC) - datetime.timedelta(days=1)

    def builder(subject: x509.Name, public: ec.EllipticCurvePublicKey) -> x509.CertificateBuilder:
        made = x509.CertificateBuilder().subject_name(subject).issuer_name(authority).public_key(public)
        made = made.serial_number(x509.random_serial_number())
        return made.not_valid_before(start).not_valid_after(start + datetime.timedelta(days=30))

    usage = x509.KeyUsage(True, False, False, False, False, True, True, False, False)
    root = builder(authority, authority_key.public_key()).add_extension(x509.BasicConstraints(True, None), True)
    root = root.add_extension(usage, True)
    others: list[x509.GeneralName] = [x509.DNSName(name) for name in names]
    others.append(x509.IPAddress(ipaddress.ip_address("127.0.0.1")))
    leaf = builder(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, names[0])]), key.public_key())
    leaf = leaf.add_extension(x509.SubjectAlternativeName(others), False)
    pem = serialization.Encoding.PEM
    (folder / "ca.pem").write_bytes(root.sign(authority_key, hashes.SHA256()).public_bytes(pem))
    (folder / "cert.pem").write_bytes(leaf.sign(authority_key, hashes.SHA256()).public_bytes(pem))
    (folder / "key.pem").touch(0o600)
    (folder / "key.pem").write_bytes(key.private_bytes(pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()))
