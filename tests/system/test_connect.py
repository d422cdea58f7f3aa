"""The connect phase against a scripted relay: each step refused, silent, cut, slow or endless; TLS; every login."""

from __future__ import annotations

import asyncio
import base64
import gc
import hashlib
import hmac
import json
import select
import socket
import ssl
import subprocess
import threading
from collections.abc import Callable, Coroutine, Iterator
from pathlib import Path
from typing import Any, TypeVar, cast

import pytest

from workers.mail.config import Relay
from workers.mail.tokens import expiry
from workers.spool.connect import Limits, Ready, Trouble, connect
from workers.spool.delivery import LOST, Step
from workers.spool.login import TokenCache, is_private, without

Value = TypeVar("Value")
Answer = bytes | str | list[Any] | Callable[[str], "Answer"]  # sent, a word below, parts to send or call, or who is asked
SILENCE, CUT, DRIP, ENDLESS = "silence", "cut", "drip", "endless"
SHORT_S = 0.3
SECRET = "pässword  s3cret"  # also letters outside ASCII, and two spaces, which a log line would fold
OFFER = b"250-relay\r\n250-SIZE 1000\r\n250-STARTTLS\r\n250 AUTH PLAIN XOAUTH2\r\n"
STEPS = {"greeting": Step.CONNECT, "EHLO": Step.EHLO, "STARTTLS": Step.STARTTLS, "AUTH": Step.AUTH}


class Server:
    """A relay in threads of the test, one for each connection; `answers` by verb, "greeting", and "more" for other lines."""

    def __init__(self, answers: dict[str, Answer], tls: ssl.SSLContext | None, at_once: bool, host: str) -> None:
        self.answers: dict[str, Answer] = {"greeting": b"220 hi\r\n", "EHLO": OFFER, "HELO": b"250 hi\r\n", **answers}
        self.heard: list[str] = []
        self.secured: list[bool] = []  # for each connection, whether TLS was reached
        self._tls, self._at_once = tls, at_once
        self._listener = socket.create_server((host, 0))
        self.port: int = self._listener.getsockname()[1]
        self._stop = threading.Event()
        self._open: list[list[socket.socket]] = []  # for each connection, also those that TLS took the place of
        self._threads = [threading.Thread(target=self._accept)]
        self._threads[0].start()

    def close(self) -> None:
        """Ends all threads."""
        self._stop.set()
        self._listener.shutdown(socket.SHUT_RDWR)
        self._threads[0].join()
        for sock in (each for sockets in self._open for each in sockets):
            try:
                socket.socket.shutdown(sock, socket.SHUT_RDWR)
            except OSError:
                continue
        for thread in self._threads[1:]:
            thread.join()
        self._listener.close()

    def _accept(self) -> None:
        while not self._stop.is_set():
            try:
                sock, _ = self._listener.accept()
            except OSError:
                return
            self._open.append([sock])
            self._threads.append(threading.Thread(target=self._serve, args=(sock, len(self.secured))))
            self.secured.append(False)
            self._threads[-1].start()

    def _serve(self, sock: socket.socket, number: int) -> None:
        try:
            if self._at_once and self.answers["greeting"] is not SILENCE:
                sock = self._secure(sock, number)
            if self._give(sock, self.answers["greeting"], ""):
                self._talk(sock, number)
        except OSError:
            pass  # the client went away, as most tests want it
        finally:
            for each in self._open[number]:
                each.close()

    def _talk(self, sock: socket.socket, number: int) -> None:
        rest = b""
        while data := sock.recv(65536):
            *lines, rest = (rest + data).split(b"\n")
            for raw in lines:
                line = raw.decode("utf-8", "replace").rstrip("\r")
                self.heard.append(line)
                verb = line.partition(" ")[0].upper()
                answer = self.answers.get(verb, self.answers.get("more", b"502 unknown\r\n"))
                if not self._give(sock, answer, line):
                    return
                if verb == "STARTTLS" and isinstance(answer, bytes) and answer.startswith(b"220") and self._tls:
                    sock = self._secure(sock, number)

    def _secure(self, sock: socket.socket, number: int) -> socket.socket:
        assert self._tls is not None
        secured = self._tls.wrap_socket(sock, server_side=True)
        self._open[number].append(secured)
        self.secured[number] = True
        return secured

    def _give(self, sock: socket.socket, answer: Answer, line: str) -> bool:
        while callable(answer):
            answer = answer(line)
        if isinstance(answer, bytes):
            sock.sendall(answer)
        elif isinstance(answer, list):
            for part in answer:
                sock.sendall(part) if isinstance(part, bytes) else part()
        elif answer == ENDLESS:
            sock.sendall(b"250-" + b"x" * 1_000_000 + b"\r\n250 y\r\n")
        elif answer == DRIP:
            while not self._stop.wait(SHORT_S / 10):
                sock.sendall(b"2")
        elif answer == SILENCE:
            self._stop.wait()
        return isinstance(answer, (bytes, list)) or answer == ENDLESS


class Certificates:
    """Self-signed ones made for this run: `good` for 127.0.0.1, `other` for another host, and the client's."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        names = {"good": "DNS:localhost,IP:127.0.0.1", "other": "DNS:other.example", "client": "DNS:client.example"}
        for name, allowed in names.items():
            command = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "2"]
            files = ["-keyout", self.key(name), "-out", self.path(name)]
            subprocess.run(
                [*command, *files, "-subj", f"/CN={name}", "-addext", f"subjectAltName={allowed}"], check=True, stderr=-3
            )

    def path(self, name: str) -> str:
        return str(self.folder / f"{name}.pem")

    def key(self, name: str) -> str:
        return str(self.folder / f"{name}.key")

    def server(self, name: str) -> ssl.SSLContext:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(self.path(name), self.key(name))
        return context

    def pin(self, name: str) -> str:
        return hashlib.sha256(ssl.PEM_cert_to_DER_cert(Path(self.path(name)).read_text())).hexdigest()


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    return Certificates(tmp_path_factory.mktemp("certificates"))


@pytest.fixture
def serve() -> Iterator[Callable[..., Server]]:
    made: list[Server] = []

    def make(
        answers: dict[str, Answer] | None = None,
        tls: ssl.SSLContext | None = None,
        *,
        at_once: bool = False,
        host: str = "127.0.0.1",
    ) -> Server:
        made.append(Server(answers or {}, tls, at_once, host))
        return made[-1]

    yield make
    for each in made:
        each.close()


Serve = Callable[..., Server]


def relay_to(server: Server | int, **more: Any) -> Relay:
    """The Relay of a [relay] section, `tls` being none unless given."""
    relay = Relay(host="127.0.0.1", port=server if isinstance(server, int) else server.port, tls="none")
    for name, value in more.items():
        setattr(relay, name, value)
    return relay


def with_password(folder: Path, secret: str = SECRET) -> dict[str, str]:
    """The keys of a Relay that logs in as `me`."""
    path = folder / "password"
    path.write_text(secret + "\n")
    path.chmod(0o600)
    return {"user": "me", "password_file": str(path)}


def with_tokens(folder: Path, *tokens: str) -> dict[str, str]:
    """The keys of a Relay whose token command gives these one after another; each run leaves a line in `runs`."""
    (folder / "tokens").write_text("".join(token + "\n" for token in tokens))
    script = folder / "token"
    script.write_text(f'#!/bin/sh\ncd {folder}; echo run >>runs; sed -n "$(grep -c . runs)p" tokens\n')
    script.chmod(0o700)
    return {"user": "me", "token_command": str(script)}


def runs(folder: Path) -> int:
    return len((folder / "runs").read_text().splitlines())


def run(work: Coroutine[Any, Any, Value]) -> Value:
    """The result of `work` on a loop of its own, which must have nothing to complain about, now or when objects die."""
    complaints: list[dict[str, Any]] = []

    async def watched() -> Value:
        asyncio.get_running_loop().set_exception_handler(lambda _, context: complaints.append(context))
        try:
            return await work
        finally:
            await asyncio.sleep(0)
            gc.collect()

    try:
        return asyncio.run(watched())
    finally:
        gc.collect()
        assert complaints == []


async def connected(relay: Relay, limits: Limits | None = None, tokens: TokenCache | None = None, **more: Any) -> Ready:
    """A connection that is made and closed again."""
    ready = await connect(relay, "client.example", limits=limits or Limits(), tokens=tokens or TokenCache(), **more)
    ready.transport.abort()
    return ready


def ready(relay: Relay, **more: Any) -> Ready:
    return run(connected(relay, **more))


def trouble(relay: Relay, **more: Any) -> Trouble:
    with pytest.raises(Trouble) as caught:
        ready(relay, **more)
    assert caught.value.text == str(caught.value)
    assert "\n" not in caught.value.text
    return caught.value


def said(found: Trouble) -> tuple[Step, int, str]:
    return found.step, found.code, found.kind


def short(step: str) -> Limits:
    """The usual limits but for one."""
    return Limits()._replace(**{f"{step.lower()}_s": SHORT_S})


def stumbling(serve: Serve, step: str, answer: Answer, certificates: Certificates, folder: Path) -> Relay:
    """A Relay whose server behaves until `step`."""
    server = serve({"AUTH": b"235 welcome\r\n", "STARTTLS": b"220 go\r\n", step: answer}, certificates.server("good"))
    tls = {"tls": "starttls", "ca_file": certificates.path("good")} if step == "STARTTLS" else {}
    return relay_to(server, **tls, **with_password(folder))


@pytest.mark.parametrize("step", STEPS)
def test_a_temporary_refusal_is_worth_another_try_soon(
    serve: Serve, step: str, certificates: Certificates, tmp_path: Path
) -> None:
    words = b"451-4.7.1 busy,\r\n451 try again in 2 minutes\r\n"
    found = trouble(stumbling(serve, step, words, certificates, tmp_path))
    assert said(found) == (STEPS[step], 451, "down")
    assert found.retry_s == 120
    assert "451 4.7.1 busy, try again in 2 minutes" in found.text


@pytest.mark.parametrize("step", STEPS)
def test_a_421_is_down_and_not_refused(serve: Serve, step: str, certificates: Certificates, tmp_path: Path) -> None:
    found = trouble(stumbling(serve, step, b"421 too many connections\r\n", certificates, tmp_path))
    assert said(found) == (STEPS[step], 421, "down")
    assert found.retry_s is None


@pytest.mark.parametrize("step", STEPS)
def test_a_lasting_refusal_names_relay_or_account(serve: Serve, step: str, certificates: Certificates, tmp_path: Path) -> None:
    found = trouble(stumbling(serve, step, b"554 no\x1b[31m service\r\n", certificates, tmp_path))
    assert said(found) == (STEPS[step], 554, "account" if step == "AUTH" else "refused")
    assert "no?[31m service" in found.text


@pytest.mark.parametrize("answer", [SILENCE, DRIP])
@pytest.mark.parametrize("step", STEPS)
def test_a_silent_or_slow_relay_is_left_at_the_limit_of_the_step(
    serve: Serve, step: str, answer: str, certificates: Certificates, tmp_path: Path
) -> None:
    found = trouble(stumbling(serve, step, answer, certificates, tmp_path), limits=short(step))
    assert said(found) == (STEPS[step], LOST, "down")
    assert f"no answer at {STEPS[step].value} within 0.30 s" in found.text


@pytest.mark.parametrize("answer", [CUT, ENDLESS, b"hello\r\n", b"2", b"999 what\r\n", b"199 what\r\n", b"354 what\r\n"])
@pytest.mark.parametrize("step", STEPS)
def test_a_cut_or_a_babbling_relay_is_down(
    serve: Serve, step: str, answer: Answer, certificates: Certificates, tmp_path: Path
) -> None:
    limits = short(step) if answer == b"2" else Limits()
    found = trouble(stumbling(serve, step, answer, certificates, tmp_path), limits=limits)
    assert said(found) == (STEPS[step], LOST, "down")
    assert len(found.text) < 500


def test_nobody_listening_is_down() -> None:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    found = trouble(relay_to(port))
    assert said(found) == (Step.CONNECT, LOST, "down")
    assert found.text == f"relay 127.0.0.1:{port}: no connection at connect: Connection refused"


@pytest.mark.parametrize("host", ["no-such-host.invalid", "a" * 70 + ".invalid"])
def test_a_name_without_address_is_down(host: str) -> None:
    assert said(trouble(relay_to(25, host=host))) == (Step.CONNECT, LOST, "down")


def test_a_handshake_that_never_ends_is_left_at_the_limit(serve: Serve, certificates: Certificates) -> None:
    server = serve({"greeting": SILENCE}, certificates.server("good"), at_once=True)
    relay = relay_to(server, tls="tls", ca_file=certificates.path("good"))
    assert said(trouble(relay, limits=short("connect"))) == (Step.CONNECT, LOST, "down")


def test_a_relay_without_ehlo_is_greeted_with_helo(serve: Serve) -> None:
    server = serve({"EHLO": b"502 what\r\n"})
    assert ready(relay_to(server)).extensions == {}
    assert server.heard == ["EHLO client.example", "HELO client.example"]


def test_ready_tells_what_ehlo_told(serve: Serve) -> None:
    server = serve()
    found = ready(relay_to(server))
    assert found.extensions["size"] == "1000"
    assert "starttls" in found.extensions
    assert (found.peer, found.secure) == (f"127.0.0.1:{server.port}", False)


def test_a_host_whose_ipv6_does_not_answer_is_reached_by_ipv4(serve: Serve) -> None:
    assert ready(relay_to(serve(), host="localhost")).secure is False


@pytest.mark.parametrize("step", ["greeting", "EHLO", "AUTH"])
def test_words_out_of_turn_are_a_broken_conversation(serve: Serve, step: str, certificates: Certificates, tmp_path: Path) -> None:
    answer = {"greeting": b"220 hi\r\n250 x\r\n", "EHLO": OFFER + b"235 x\r\n", "AUTH": b"235 in\r\n250 x\r\n"}[step]
    found = trouble(stumbling(serve, step, answer, certificates, tmp_path))
    assert (found.code, found.kind) == (LOST, "down")
    assert "spoke before it was asked" in found.text


def test_starttls_is_used_before_any_password(serve: Serve, certificates: Certificates, tmp_path: Path) -> None:
    server = serve({"STARTTLS": b"220 go\r\n", "AUTH": b"235 in\r\n"}, certificates.server("good"))
    found = ready(relay_to(server, tls="starttls", ca_file=certificates.path("good"), **with_password(tmp_path)))
    assert found.secure
    verbs = [line.partition(" ")[0] for line in server.heard]
    assert verbs == ["EHLO", "STARTTLS", "EHLO", "AUTH"]


def test_words_behind_the_answer_to_starttls_never_count_as_secured(serve: Serve, certificates: Certificates) -> None:
    server = serve({"STARTTLS": b"220 go\r\n250-evil\r\n250 AUTH PLAIN\r\n"}, certificates.server("good"))
    found = trouble(relay_to(server, tls="starttls", ca_file=certificates.path("good")))
    assert said(found) == (Step.STARTTLS, LOST, "refused")
    assert server.heard == ["EHLO client.example", "STARTTLS"]


def test_starttls_that_is_not_offered_is_a_refusal(serve: Serve) -> None:
    server = serve({"EHLO": b"250 relay\r\n"})
    assert said(trouble(relay_to(server, tls="starttls"))) == (Step.STARTTLS, LOST, "refused")
    assert server.heard == ["EHLO client.example"]


@pytest.mark.parametrize(
    ("server_has", "trusted", "words"),
    [("good", None, "self-signed"), ("good", "other", "self-signed"), ("other", "other", "IP address mismatch")],
)
@pytest.mark.parametrize("tls", ["tls", "starttls"])
def test_a_certificate_of_nobody_or_of_another_host_is_refused_unspoken_to(
    serve: Serve, certificates: Certificates, tmp_path: Path, tls: str, server_has: str, trusted: str | None, words: str
) -> None:
    server = serve({"STARTTLS": b"220 go\r\n"}, certificates.server(server_has), at_once=tls == "tls")
    ca_file = certificates.path(trusted) if trusted else None
    found = trouble(relay_to(server, tls=tls, ca_file=ca_file, **with_password(tmp_path)))
    assert said(found) == (Step.CONNECT if tls == "tls" else Step.STARTTLS, LOST, "refused")
    assert words in found.text
    assert server.heard == ([] if tls == "tls" else ["EHLO client.example", "STARTTLS"])


@pytest.mark.parametrize("tls", ["tls", "starttls"])
def test_a_pinned_certificate_needs_no_authority_and_no_name(serve: Serve, certificates: Certificates, tls: str) -> None:
    server = serve({"STARTTLS": b"220 go\r\n"}, certificates.server("other"), at_once=tls == "tls")
    assert ready(relay_to(server, tls=tls, fingerprint=certificates.pin("other"))).secure


@pytest.mark.parametrize("tls", ["tls", "starttls"])
def test_another_certificate_than_the_pinned_one_hears_nothing(
    serve: Serve, certificates: Certificates, tmp_path: Path, tls: str
) -> None:
    server = serve({"STARTTLS": b"220 go\r\n"}, certificates.server("good"), at_once=tls == "tls")
    relay = relay_to(server, tls=tls, fingerprint=certificates.pin("other"), ca_file=certificates.path("good"))
    found = trouble(relay)
    assert said(found) == (Step.CONNECT if tls == "tls" else Step.STARTTLS, LOST, "refused")
    assert f"sha256:{certificates.pin('good')}" in found.text
    assert server.heard == ([] if tls == "tls" else ["EHLO client.example", "STARTTLS"])


def test_a_relay_that_speaks_no_tls_at_the_tls_port_is_refused(serve: Serve) -> None:
    assert said(trouble(relay_to(serve(), tls="tls"))) == (Step.CONNECT, LOST, "refused")


@pytest.mark.parametrize("missing", ["ca_file", "cert_file"])
def test_a_certificate_file_that_can_not_be_used_is_named(tmp_path: Path, missing: str) -> None:
    found = trouble(relay_to(25, tls="tls", **{missing: str(tmp_path / "none.pem")}))
    assert said(found) == (Step.CONNECT, LOST, "refused")
    assert "none.pem: No such file" in found.text
    (tmp_path / "none.pem").write_text("nothing")
    assert "none.pem" in trouble(relay_to(25, tls="tls", **{missing: str(tmp_path / "none.pem")})).text


def test_a_changed_ca_file_counts_at_once(serve: Serve, certificates: Certificates, tmp_path: Path) -> None:
    server = serve({}, certificates.server("good"), at_once=True)
    bundle = tmp_path / "ca.pem"
    bundle.write_bytes(Path(certificates.path("other")).read_bytes())
    assert trouble(relay_to(server, tls="tls", ca_file=str(bundle))).kind == "refused"
    bundle.write_bytes(Path(certificates.path("good")).read_bytes())
    assert ready(relay_to(server, tls="tls", ca_file=str(bundle))).secure


def test_a_relay_gets_the_client_certificate_it_asks_for(serve: Serve, certificates: Certificates) -> None:
    asking = certificates.server("good")
    asking.verify_mode = ssl.CERT_REQUIRED
    asking.load_verify_locations(certificates.path("client"))
    server = serve({}, asking, at_once=True)
    trusted = {"tls": "tls", "ca_file": certificates.path("good")}
    shown = {"cert_file": certificates.path("client"), "key_file": certificates.key("client")}
    assert ready(relay_to(server, **trusted, **shown)).secure
    found = trouble(relay_to(server, **trusted))
    assert said(found) == (Step.CONNECT, LOST, "refused")
    assert "certificate required" in found.text.lower()


@pytest.mark.parametrize("starttls", [b"502 no\r\n", b"454 not now\r\n", CUT, b"220 go\r\n", b"220 go\r\nnot TLS\r\n"])
def test_opportunistic_goes_on_without_tls_when_it_fails(serve: Serve, certificates: Certificates, starttls: Answer) -> None:
    server = serve({"STARTTLS": starttls}, certificates.server("other"))
    found = ready(relay_to(server, tls="opportunistic", ca_file=certificates.path("good")))
    assert not found.secure
    assert server.heard == ["EHLO client.example", "STARTTLS", "EHLO client.example"]


def test_opportunistic_keeps_a_connection_that_offers_no_tls(serve: Serve) -> None:
    server = serve({"EHLO": b"250 relay\r\n"})
    assert not ready(relay_to(server, tls="opportunistic")).secure
    assert len(server.secured) == 1


def test_opportunistic_is_verified_tls_when_it_can_be_had(serve: Serve, certificates: Certificates) -> None:
    server = serve({"STARTTLS": b"220 go\r\n"}, certificates.server("good"))
    assert ready(relay_to(server, tls="opportunistic", ca_file=certificates.path("good"))).secure
    assert server.secured == [True]


def test_opportunistic_does_not_hide_a_refusal_that_has_nothing_to_do_with_tls(serve: Serve) -> None:
    server = serve({"EHLO": b"550 not you\r\n"})
    assert said(trouble(relay_to(server, tls="opportunistic"))) == (Step.EHLO, 550, "refused")
    assert len(server.secured) == 1


@pytest.mark.parametrize(
    ("address", "private"),
    [
        *[(each, True) for each in ("127.0.0.1", "127.9.9.9", "::1", "::ffff:127.0.0.1")],
        *[(each, False) for each in ("192.0.2.1", "fe80::1%lo", "::ffff:192.0.2.1", "2001:db8::1", None)],
    ],
)
def test_a_secret_goes_over_tls_or_stays_on_this_host(address: str | None, private: bool) -> None:
    assert is_private(False, address) is private
    assert is_private(True, address)


@pytest.mark.parametrize("tls", ["opportunistic", "none"])
def test_no_password_leaves_this_host_in_clear(serve: Serve, tmp_path: Path, tls: str) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect(("192.0.2.254", 9))  # sends nothing, but picks the address that would be used
        except OSError:
            pytest.skip("this machine has no address but loopback")
        address = probe.getsockname()[0]
    server = serve({"STARTTLS": b"454 not now\r\n", "AUTH": b"235 in\r\n"}, host=address)
    relay = relay_to(server, host=address, tls=tls, **with_password(tmp_path))
    assert said(trouble(relay)) == (Step.AUTH, LOST, "account")
    assert not any(line.startswith("AUTH") for line in server.heard)


def plain(text: str) -> str:
    return base64.b64encode(text.encode()).decode()


class Login:
    """The server's side of each mechanism; `heard` are the mechanisms tried."""

    def __init__(self, offers: str, secret: str = SECRET, user: str = "me") -> None:
        self.heard: list[str] = []
        self._user, self._secret = user, secret
        self._rest: list[Callable[[str], bytes]] = []
        self.answers: dict[str, Answer] = {
            "EHLO": f"250-relay\r\n250 AUTH {offers}\r\n".encode(),
            "AUTH": self._begin,
            "more": self._go_on,
        }

    def _begin(self, line: str) -> bytes:
        _, name, *first = line.split()
        self.heard.append(name)
        if name == "PLAIN":
            return self._judge(first == [plain(f"\0{self._user}\0{self._secret}")])
        if name == "LOGIN":
            assert first == []
            self._rest = [self._user_name, lambda word: self._judge(self._named and word == plain(self._secret))]
            return b"334 VXNlcm5hbWU6\r\n"
        if name == "CRAM-MD5":
            digest = hmac.new(self._secret.encode(), b"<1.2@relay>", "md5").hexdigest()
            self._rest = [lambda word: self._judge(word == plain(f"{self._user} {digest}"))]
            return b"334 " + plain("<1.2@relay>").encode() + b"\r\n"
        bearer = {"XOAUTH2": f"user={self._user}\1", "OAUTHBEARER": f"n,a={self._user},\1host=127.0.0.1\1port=PORT\1"}[name]
        sent = base64.b64decode(first[0]).decode()
        wanted = bearer.replace("PORT", sent.partition("port=")[2].partition("\1")[0]) + f"auth=Bearer {self._secret}\1\1"
        self._rest = [
            lambda word: b"535 5.7.8 no\r\n" if word == {"XOAUTH2": "", "OAUTHBEARER": "AQ=="}[name] else b"501 what\r\n"
        ]
        return b"235 in\r\n" if sent == wanted else b"334 " + plain(json.dumps({"status": "400"})).encode() + b"\r\n"

    def _go_on(self, line: str) -> bytes:
        return self._rest.pop(0)(line)

    def _user_name(self, word: str) -> bytes:
        self._named = word == plain(self._user)
        return b"334 UGFzc3dvcmQ6\r\n"

    def _judge(self, good: bool) -> bytes:
        return b"235 in\r\n" if good else b"535 5.7.8 no\r\n"


@pytest.mark.parametrize("mechanism", ["PLAIN", "LOGIN", "CRAM-MD5"])
def test_a_password_logs_in_by_each_mechanism_right_or_wrong(serve: Serve, tmp_path: Path, mechanism: str) -> None:
    login = Login(mechanism)
    server = serve(login.answers)
    assert ready(relay_to(server, **with_password(tmp_path))).extensions["auth"] == mechanism
    found = trouble(relay_to(server, **with_password(tmp_path, "wrong")))
    assert said(found) == (Step.AUTH, 535, "account")
    assert "login refused: 535 5.7.8 no" in found.text
    assert login.heard == [mechanism] * 2


@pytest.mark.parametrize("mechanism", ["XOAUTH2", "OAUTHBEARER"])
def test_a_token_logs_in_by_each_mechanism_right_or_wrong(serve: Serve, tmp_path: Path, mechanism: str) -> None:
    server = serve(Login(mechanism, "t0ken").answers)
    assert ready(relay_to(server, **with_tokens(tmp_path, "t0ken", "wrong", "wrong too")))
    found = trouble(relay_to(server, **with_tokens(tmp_path, "-", "wrong", "wrong too")))
    assert said(found) == (Step.AUTH, 535, "account")
    assert runs(tmp_path) == 3


def test_in_clear_the_password_is_not_shown_first_and_over_tls_a_refused_one_is_not_tried_again(
    serve: Serve, certificates: Certificates, tmp_path: Path
) -> None:
    clear, covered = Login("PLAIN LOGIN CRAM-MD5"), Login("PLAIN LOGIN CRAM-MD5")
    assert ready(relay_to(serve(clear.answers), **with_password(tmp_path)))
    server = serve(covered.answers, certificates.server("good"), at_once=True)
    trusted = {"tls": "tls", "ca_file": certificates.path("good")}
    assert trouble(relay_to(server, **trusted, **with_password(tmp_path, "wrong"))).kind == "account"
    assert (clear.heard, covered.heard) == (["CRAM-MD5"], ["PLAIN"])


@pytest.mark.parametrize("refusal", [b"504 5.5.4 not that\r\n", b"535 hashed passwords\r\n"])
def test_a_mechanism_that_is_offered_and_does_not_work_is_passed_over(serve: Serve, tmp_path: Path, refusal: bytes) -> None:
    login = Login("PLAIN CRAM-MD5")
    begin = cast(Callable[[str], bytes], login.answers["AUTH"])
    server = serve({**login.answers, "AUTH": lambda line: refusal if line.endswith("CRAM-MD5") else begin(line)})
    assert ready(relay_to(server, **with_password(tmp_path)))
    assert login.heard == ["PLAIN"]


def test_a_relay_that_hangs_up_on_a_refused_login_still_refused_it(serve: Serve, tmp_path: Path) -> None:
    login = Login("PLAIN CRAM-MD5")
    server = serve({**login.answers, "AUTH": lambda line: b"535 no\r\n" if line.endswith("CRAM-MD5") else CUT})
    assert said(trouble(relay_to(server, **with_password(tmp_path)))) == (Step.AUTH, 535, "account")


@pytest.mark.parametrize("offers", [b"250 relay\r\n", b"250-relay\r\n250 AUTH GSSAPI\r\n"])
def test_a_relay_without_a_fitting_login_gets_no_secret(serve: Serve, tmp_path: Path, offers: bytes) -> None:
    server = serve({"EHLO": offers})
    found = trouble(relay_to(server, **with_password(tmp_path)))
    assert said(found) == (Step.AUTH, LOST, "account")
    assert "needed is one of CRAM-MD5, PLAIN, LOGIN" in found.text
    assert server.heard == ["EHLO client.example"]


def test_a_password_that_can_not_be_had_is_trouble_of_the_account(serve: Serve, tmp_path: Path) -> None:
    found = trouble(relay_to(serve(), user="me", password_file=str(tmp_path / "none")))
    assert said(found) == (Step.AUTH, LOST, "account")
    assert "none: No such file" in found.text
    found = trouble(relay_to(serve(), user="me", token_command="false"))
    assert said(found) == (Step.AUTH, LOST, "account")
    assert "token_command ended with status 1" in found.text


def test_a_changed_password_counts_at_once(serve: Serve, tmp_path: Path) -> None:
    server = serve(Login("PLAIN").answers)
    assert trouble(relay_to(server, **with_password(tmp_path, "old"))).code == 535
    assert ready(relay_to(server, **with_password(tmp_path)))


@pytest.mark.parametrize("mechanism", ["PLAIN", "LOGIN", "XOAUTH2", "OAUTHBEARER"])
def test_a_secret_that_the_relay_sends_back_is_told_to_nobody(serve: Serve, tmp_path: Path, mechanism: str) -> None:
    def echo(line: str) -> bytes:
        if line == "AUTH LOGIN" or line == plain("me"):
            return b"334 go\r\n"
        words = line.rpartition(" ")[2]
        text = f"535-no: {line}\r\n535-{secret}; {words[: len(words) // 2]}\r\n535 {words[:20]}\r\n"
        return text.encode()

    secret = SECRET if mechanism in ("PLAIN", "LOGIN") else "t0ken-of-some-length"
    server = serve({"EHLO": f"250-relay\r\n250 AUTH {mechanism}\r\n".encode(), "AUTH": echo, "more": echo})
    keys = with_password(tmp_path) if secret == SECRET else with_tokens(tmp_path, secret, secret)
    found = trouble(relay_to(server, **keys))
    sent = next(line.split()[-1] for line in reversed(server.heard) if line)
    for form in (secret, " ".join(secret.split()), plain(secret), sent, sent[: len(sent) // 2]):
        assert form.rstrip("=") not in found.text
    assert found.text.count("***") >= 3


def test_a_secret_is_found_over_the_end_of_a_line() -> None:
    relay = relay_to(25, user="me")
    coded = plain("\0me\0" + SECRET)
    words = f"no: {coded[:20]}\n{coded[20:]} {SECRET[:5]}\n{SECRET[5:]} so"
    assert without(words, relay, SECRET) == "no: *** *** so"


def test_a_token_is_kept_for_the_next_connection_until_one_is_refused(serve: Serve, tmp_path: Path) -> None:
    server = serve(Login("XOAUTH2", "second").answers)
    relay = relay_to(server, **with_tokens(tmp_path, "first", "second", "third"))
    tokens = TokenCache()
    for _ in range(3):
        ready(relay, tokens=tokens)
    assert runs(tmp_path) == 2


def test_a_token_that_is_asked_for_fresh_is_fetched_once(serve: Serve, tmp_path: Path) -> None:
    server = serve(Login("XOAUTH2", "right").answers)
    relay = relay_to(server, **with_tokens(tmp_path, "right", "wrong", "right"))
    tokens = TokenCache()
    ready(relay, tokens=tokens)
    assert trouble(relay, tokens=tokens, fresh_token=True).code == 535
    assert runs(tmp_path) == 2


def test_a_temporary_refusal_of_a_token_keeps_it(serve: Serve, tmp_path: Path) -> None:
    server = serve({"AUTH": b"454 4.7.0 not now, retry in 1 hour\r\n"})
    relay = relay_to(server, **with_tokens(tmp_path, "first", "second"))
    tokens = TokenCache()
    for _ in range(2):
        found = trouble(relay, tokens=tokens)
        assert said(found) == (Step.AUTH, 454, "down")
        assert found.retry_s == 3600
    assert runs(tmp_path) == 1


def test_many_connections_share_one_run_of_the_token_command(serve: Serve, tmp_path: Path) -> None:
    right = plain("user=me\1auth=Bearer second\1\1")
    server = serve({"AUTH": lambda line: b"235 in\r\n" if line.endswith(right) else b"535 no\r\n"})
    relay = relay_to(server, **with_tokens(tmp_path, "first", "second", "third"))

    async def all_at_once() -> list[Ready]:
        tokens = TokenCache()
        return await asyncio.gather(*(connected(relay, tokens=tokens) for _ in range(10)))

    assert len(run(all_at_once())) == 10
    assert runs(tmp_path) == 2


def test_a_late_refusal_of_an_old_token_does_not_drop_the_new_one(tmp_path: Path) -> None:
    relay = relay_to(25, **with_tokens(tmp_path, "first", "second", "third"))
    tokens = TokenCache()

    async def asked() -> list[str]:
        found = []
        for _ in range(3):
            found.append(await tokens.get(relay))
            tokens.forget(relay, "first")
        return found

    assert run(asked()) == ["first", "second", "second"]


def jwt(claims: str) -> str:
    return f"e30.{base64.urlsafe_b64encode(claims.encode()).decode().rstrip('=')}.x"


@pytest.mark.parametrize(
    ("token", "ends_at"),
    [
        (jwt('{"exp": 1700000000}'), 1.7e9),
        *[(jwt(each), None) for each in ("{}", "[1]", "{", '{"exp": "soon"}', '{"exp": NaN}', '{"exp": 1e999}')],
        *[(each, None) for each in ("ya29.a.b", "opaque", "a.b.c.d", "a.\u00e4.c")],
    ],
)
def test_the_end_of_a_token_is_read_where_it_is_told(token: str, ends_at: float | None) -> None:
    assert expiry(token) == ends_at


@pytest.mark.parametrize(("told", "lasts_s"), [(True, 3600 - 120), (False, 2700)])
def test_a_token_is_fetched_again_near_its_end(tmp_path: Path, told: bool, lasts_s: float) -> None:
    clock = [1.7e9]
    first = jwt(f'{{"exp": {clock[0] + 3600}}}') if told else "opaque"
    relay = relay_to(25, **with_tokens(tmp_path, first, "next"))
    tokens = TokenCache(lambda: clock[0])

    async def asked() -> list[str]:
        found = [await tokens.get(relay)]
        for clock[0] in (1.7e9 + lasts_s - 1, 1.7e9 + lasts_s):
            found.append(await tokens.get(relay))
        return found

    assert run(asked()) == [first, first, "next"]


class Raw(asyncio.Protocol):
    """Collects what comes."""

    def __init__(self) -> None:
        self.lines: asyncio.Queue[bytes] = asyncio.Queue()
        self.lost: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def data_received(self, data: bytes) -> None:
        self.lines.put_nowait(data)

    def connection_lost(self, exc: Exception | None) -> None:
        self.lost.set_result(None)


@pytest.mark.parametrize("tls", ["none", "tls", "starttls"])
def test_another_protocol_goes_on_with_the_connection(serve: Serve, certificates: Certificates, tls: str) -> None:
    answers: dict[str, Answer] = {"STARTTLS": b"220 go\r\n", "NOOP": b"250 mine\r\n", "QUIT": CUT}
    server = serve(answers, certificates.server("good"), at_once=tls == "tls")

    async def talk() -> bytes:
        made = await connect(relay_to(server, tls=tls, ca_file=certificates.path("good")), "client.example")
        raw = Raw()
        made.hand_over(raw)
        gc.collect()
        made.transport.write(b"NOOP\r\n")
        found = await raw.lines.get()
        made.transport.write(b"QUIT\r\n")
        await raw.lost
        return found

    assert run(talk()) == b"250 mine\r\n"


@pytest.mark.parametrize("tls", ["none", "tls"])
def test_nothing_is_lost_between_the_login_and_the_hand_over(serve: Serve, certificates: Certificates, tls: str) -> None:
    go = threading.Event()
    offer = [b"250 relay\r\n", lambda: go.wait(60), b"421 bye\r\n"]
    server = serve({"EHLO": offer}, certificates.server("good"), at_once=tls == "tls")

    async def talk() -> bytes:
        made = await connect(relay_to(server, tls=tls, ca_file=certificates.path("good")), "client.example")
        go.set()
        async with asyncio.timeout(60):
            while not _words_wait(made.transport):
                await asyncio.sleep(0)
            await asyncio.sleep(0)  # another turn, in which the loop would take them
            raw = Raw()
            made.hand_over(raw)
            found = await raw.lines.get()
        made.transport.abort()
        await raw.lost
        return found

    assert run(talk()) == b"421 bye\r\n"


def _words_wait(transport: Any) -> bool:
    """Whether something has come that nobody has read; under TLS it is waiting in asyncio."""
    if transport.get_extra_info("sslcontext") is not None:
        return cast(bool, transport.get_read_buffer_size() > 0)
    return bool(select.select([transport.get_extra_info("socket").fileno()], [], [], 0)[0])


def test_a_connect_that_is_called_off_leaves_nothing_open(serve: Serve) -> None:
    reached = threading.Event()

    def hold(line: str) -> Answer:
        reached.set()
        return SILENCE

    server = serve({"EHLO": hold})

    async def called_off() -> None:
        task = asyncio.create_task(connected(relay_to(server)))
        await asyncio.to_thread(reached.wait)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    run(called_off())
