"""Those who are told: a web server that keeps what it is sent, and a mail server, both on this machine."""

from __future__ import annotations

import socket
import ssl
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from synqx_dagster_tests.certificates import Authority


@dataclass
class Received:
    """One call of a webhook."""

    path: str
    headers: dict[str, str]
    body: bytes


@dataclass
class WebReceiver:
    """A web server on loopback. ``answers`` are the next statuses, then 200 for ever."""

    port: int
    scheme: str = "http"
    received: list[Received] = field(default_factory=list)
    answers: list[int] = field(default_factory=list)

    def url(self, path: str = "/hook/canary-token") -> str:
        """Where it is called."""
        return f"{self.scheme}://127.0.0.1:{self.port}{path}"


def _serve(receiver: WebReceiver, context: ssl.SSLContext | None) -> ThreadingHTTPServer:
    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            receiver.received.append(Received(self.path, dict(self.headers), body))
            status = receiver.answers.pop(0) if receiver.answers else 200
            self.send_response(status)
            if 300 <= status < 400:
                self.send_header("Location", receiver.url("/elsewhere"))
            self.end_headers()
            self.wfile.write(b"canary-answer")

        def log_message(self, format: str, *args: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    if context is not None:
        server.socket = context.wrap_socket(server.socket, server_side=True)
    receiver.port = server.server_address[1]
    threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()
    return server


@pytest.fixture
def web_receiver() -> Iterator[WebReceiver]:
    """A web server without TLS."""
    receiver = WebReceiver(0)
    server = _serve(receiver, None)
    yield receiver
    server.shutdown()
    server.server_close()


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    """Signs the certificates of this test's servers."""
    directory = tmp_path / "certificates"
    directory.mkdir()
    return Authority(directory, "receivers")


def _server_context(authority: Authority) -> ssl.SSLContext:
    files = authority.issue("receiver", names=("127.0.0.1", "localhost"))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(files.certificate, files.key)
    return context


@pytest.fixture
def tls_receiver(authority: Authority) -> Iterator[WebReceiver]:
    """A web server with a certificate from `authority`."""
    receiver = WebReceiver(0, scheme="https")
    server = _serve(receiver, _server_context(authority))
    yield receiver
    server.shutdown()
    server.server_close()


# --- mail -------------------------------------------------------------------------------------------------------


@dataclass
class MailReceiver:
    """A mail server on loopback; ``refused`` are the recipients that it does not take, ``farewell`` its last answer."""

    port: int
    mails: list[Any] = field(default_factory=list)
    logins: list[str] = field(default_factory=list)
    refused: set[str] = field(default_factory=set)
    farewell: str = "221 Bye"

    async def handle_RCPT(  # noqa: N802 - the name that the server calls
        self, server: Any, session: Any, envelope: Any, address: str, options: list[str]
    ) -> str:
        if address in self.refused:
            return "550 canary-answer"
        envelope.rcpt_tos.append(address)
        return "250 OK"

    async def handle_DATA(self, server: Any, session: Any, envelope: Any) -> str:  # noqa: N802
        self.mails.append(envelope)
        return "250 OK"

    async def handle_QUIT(self, server: Any, session: Any, envelope: Any) -> str:  # noqa: N802
        return self.farewell

    def authenticate(self, server: Any, session: Any, envelope: Any, mechanism: str, data: Any) -> Any:
        from aiosmtpd.smtp import AuthResult

        self.logins.append(data.login.decode())
        return AuthResult(success=data.password == b"canary-password")


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.fixture
def mail_receiver(authority: Authority) -> Iterator[MailReceiver]:
    """A mail server that asks for STARTTLS and a login (any name, ``canary-password``) before it takes anything."""
    from aiosmtpd.controller import Controller

    receiver = MailReceiver(_free_port())
    controller = Controller(
        receiver,
        hostname="127.0.0.1",
        port=receiver.port,
        tls_context=_server_context(authority),
        require_starttls=True,
        auth_required=True,
        authenticator=receiver.authenticate,
    )
    controller.start()
    yield receiver
    controller.stop()


@pytest.fixture
def plain_mail_receiver() -> Iterator[MailReceiver]:
    """A mail server without TLS and without logins."""
    from aiosmtpd.controller import Controller

    receiver = MailReceiver(_free_port())
    controller = Controller(receiver, hostname="127.0.0.1", port=receiver.port)
    controller.start()
    yield receiver
    controller.stop()


@pytest.fixture
def implicit_mail_receiver(authority: Authority) -> Iterator[MailReceiver]:
    """A mail server that speaks TLS from the first byte."""
    from aiosmtpd.controller import Controller

    receiver = MailReceiver(_free_port())
    controller = Controller(receiver, hostname="127.0.0.1", port=receiver.port, ssl_context=_server_context(authority))
    controller.start()
    yield receiver
    controller.stop()
