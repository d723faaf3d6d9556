"""Telling an event by an alert's channel: one attempt, within a limit of time.

Guarantee: only addresses that the host policy lets through are connected to, no redirect is followed, and no URL,
key, password or answer is in an error.
"""

from __future__ import annotations

import contextlib
import http.client
import os
import smtplib
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from synqx_dagster.alerts.messages import (
    AlertEvent,
    Untold,
    encode_payload,
    mail_of,
    payload_of,
    sign,
    slack_payload_of,
)
from synqx_dagster.connectors.network import Endpoint, open_socket, resolve_allowed
from synqx_dagster.errors import AlertDeliveryError, ConfigurationError, HostRefusedError, RetryableError
from synqx_dagster.model import Alert, HostPolicy
from synqx_dagster.model.alert import EmailChannel, find_url_problem

#: Each wait for the network takes as long at most.
TIMEOUT_SECONDS = 8.0

#: A whole exchange takes so many times as long at most, with a server that sends a byte now and then.
_WHOLE = 2.0

_USER_AGENT = "SynqX"

GetSecret = Callable[[str], str | None]


def deliver(
    alert: Alert,
    event: AlertEvent,
    untold: Untold,
    get_secret: GetSecret,
    *,
    host_policy: HostPolicy | None = None,
    timeout_seconds: float = TIMEOUT_SECONDS,
) -> None:
    """Tell one event.

    Args:
        get_secret: The text of a secret field of the alert, by its path.
        host_policy: Which hosts may be reached; left out, what the environment says.

    Raises:
        AlertDeliveryError: It was not taken, or nobody knows; the same call may succeed later.
        SealedError: A secret is in a sealed vault; nothing was sent.
        ConfigurationError: A secret cannot be read, or the channel cannot be used as it is.
        HostRefusedError: The policy forbids the host.
    """
    policy = host_policy if host_policy is not None else HostPolicy.from_environment(os.environ)
    if alert.webhook is not None:
        body = encode_payload(payload_of(alert.name, event, untold))
        headers = {"X-SynqX-Event-Id": _header(event.event_id)}
        key = get_secret("webhook.signing_key")
        if key is not None:
            stamp = str(int(time.time()))
            headers |= {"X-SynqX-Timestamp": stamp, "X-SynqX-Signature": f"sha256={sign(key, stamp, body)}"}
        url = get_secret("webhook.url") or ""
        _post(alert.name, url, body, headers, alert.webhook.ca_file, policy, timeout_seconds)
    elif alert.slack is not None:
        body = encode_payload(slack_payload_of(alert.name, event, untold))
        _post(alert.name, get_secret("slack.url") or "", body, {}, alert.slack.ca_file, policy, timeout_seconds)
    elif alert.email is not None:
        _mail(alert, alert.email, event, untold, get_secret("email.password"), policy, timeout_seconds)


def _header(text: str) -> str:
    return "".join(character if " " <= character <= "~" else "?" for character in text)[:512]


# --- HTTP -----------------------------------------------------------------------------------------------------------


def _post(
    alert: str,
    url: str,
    body: bytes,
    headers: Mapping[str, str],
    ca_file: str | None,
    policy: HostPolicy,
    timeout_seconds: float,
) -> None:
    problem = find_url_problem(url)
    if problem is not None:
        raise ConfigurationError(f"alert {alert!r}: the URL cannot be called: {problem}")
    parts = urlsplit(url)
    host = parts.hostname or ""
    is_tls = parts.scheme == "https"
    port = parts.port or (443 if is_tls else 80)
    path = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
    # Without a port where it goes without saying: not every server takes its own name with one.
    name = f"[{host}]" if ":" in host else host
    target = name if parts.port is None else f"{name}:{parts.port}"
    context = _context(alert, ca_file) if is_tls else None
    endpoint = _locate(alert, host, port, policy, timeout_seconds)
    with _explained(alert, f"the webhook at {host}"):
        connection = http.client.HTTPConnection(host, port)
        connection.sock = open_socket(endpoint, timeout_seconds=timeout_seconds)
        with contextlib.closing(connection), _cut_off(lambda: connection.sock, timeout_seconds * _WHOLE):
            if context is not None:
                connection.sock = context.wrap_socket(
                    connection.sock, server_hostname=host, do_handshake_on_connect=False
                )
            connection.sock.settimeout(timeout_seconds)
            if isinstance(connection.sock, ssl.SSLSocket):
                connection.sock.do_handshake()
            connection.request(
                "POST",
                path,
                body,
                {
                    "Host": target,
                    "Content-Type": "application/json",
                    "User-Agent": _USER_AGENT,
                    "Connection": "close",
                    **headers,
                },
            )
            status = connection.getresponse().status
    if not 200 <= status < 300:
        hint = "a redirect is not followed: give the URL that it leads to" if 300 <= status < 400 else None
        raise AlertDeliveryError(f"alert {alert!r}: the webhook at {host} answered {status}", hint=hint, status=status)


# --- mail -----------------------------------------------------------------------------------------------------------


class _Smtp(smtplib.SMTP):
    """An SMTP client over a socket that goes where it was allowed to go, and for so long at most."""

    def __init__(self, endpoint: Endpoint, context: ssl.SSLContext | None, timeout_seconds: float) -> None:
        self._endpoint = endpoint
        self._context = context
        self._first: socket.socket | None = None
        self._limit = contextlib.ExitStack()
        # STARTTLS replaces the socket.
        self._limit.enter_context(_cut_off(lambda: self.sock or self._first, timeout_seconds * _WHOLE))
        try:
            # Connects; and the name is what the certificate must be for.
            super().__init__(endpoint.host, endpoint.port, timeout=timeout_seconds)
        except BaseException:
            self._limit.close()
            raise

    def _get_socket(self, host: str, port: int, timeout: float) -> socket.socket:
        stream = self._first = open_socket(self._endpoint, timeout_seconds=timeout)
        if self._context is not None:
            wrapped = self._context.wrap_socket(stream, server_hostname=host, do_handshake_on_connect=False)
            stream = self._first = wrapped
            try:
                wrapped.settimeout(timeout)
                wrapped.do_handshake()
            except BaseException:
                wrapped.close()
                raise
        stream.settimeout(timeout)
        return stream

    def close(self) -> None:
        """Close the connection."""
        self._limit.close()
        super().close()


def _mail(
    alert: Alert,
    channel: EmailChannel,
    event: AlertEvent,
    untold: Untold,
    password: str | None,
    policy: HostPolicy,
    timeout_seconds: float,
) -> None:
    message = mail_of(alert.name, event, untold, sender=channel.sender, recipients=channel.recipients)
    context = _context(alert.name, channel.ca_file) if channel.tls != "none" else None
    endpoint = _locate(alert.name, channel.host, channel.port, policy, timeout_seconds)
    with (
        _explained(alert.name, f"the mail server {channel.host}"),
        contextlib.closing(_Smtp(endpoint, context if channel.tls == "implicit" else None, timeout_seconds)) as client,
    ):
        if channel.tls == "starttls":
            # Raises where the server has none: nothing goes out in the clear instead.
            client.starttls(context=context)
        if channel.username is not None and password is not None:
            try:
                client.login(channel.username, password)
            except smtplib.SMTPServerDisconnected:
                # Some hang up where others answer.
                raise smtplib.SMTPAuthenticationError(535, b"") from None
        refused = client.send_message(message, channel.sender, list(channel.recipients))
        # It has been taken: however the farewell goes, to send it again would give it to them twice.
        with contextlib.suppress(OSError, smtplib.SMTPException):
            client.quit()
    if refused:
        # The others have it; to send it again would give it to them twice.
        raise AlertDeliveryError(
            f"alert {alert.name!r}: the mail server {channel.host} refused {len(refused)} of the recipients",
            delivered=True,
        )


# --- both -----------------------------------------------------------------------------------------------------------


def _locate(alert: str, host: str, port: int, policy: HostPolicy, timeout_seconds: float) -> Endpoint:
    try:
        return Endpoint(host, port, resolve_allowed(alert, host, port, policy, timeout_seconds=timeout_seconds))
    except HostRefusedError as exc:
        raise HostRefusedError(_reworded(alert, exc.message), hint=exc.hint) from None
    except RetryableError as exc:
        raise AlertDeliveryError(_reworded(alert, exc.message), hint=exc.hint) from None


def _reworded(alert: str, message: str) -> str:
    return f"alert {alert!r}: " + message.removeprefix(f"connection {alert!r}: ")


def _context(alert: str, ca_file: str | None) -> ssl.SSLContext:
    try:
        return ssl.create_default_context(cafile=str(Path(ca_file).expanduser()) if ca_file is not None else None)
    except (OSError, ssl.SSLError):
        raise ConfigurationError(
            f"alert {alert!r}: the file {ca_file} cannot be read as certificates", hint="it must be PEM"
        ) from None


@contextlib.contextmanager
def _cut_off(get_stream: Callable[[], socket.socket | None], seconds: float) -> Iterator[None]:
    """End an exchange that takes longer, whatever the other side sends meanwhile."""

    def cut() -> None:
        stream = get_stream()
        if stream is not None:
            with contextlib.suppress(OSError):
                # Not SSLSocket.shutdown(), which takes away the state that another thread is reading with.
                socket.socket.shutdown(stream, socket.SHUT_RDWR)

    timer = threading.Timer(seconds, cut)
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()


@contextlib.contextmanager
def _explained(alert: str, what: str) -> Iterator[None]:
    """What the network and the server do, in words that repeat nothing of what was sent or answered."""
    facts: dict[str, Any] = {}
    try:
        yield
        return
    except ssl.SSLCertVerificationError as exc:
        reason, hint = f"its certificate is not trusted ({exc.verify_message})", "ca_file names who is to be trusted"
    except ssl.SSLError:
        reason, hint = "TLS failed", "does the port speak TLS?"
    except smtplib.SMTPAuthenticationError as exc:
        reason, hint, facts = "it refused the user name or the password", None, {"status": exc.smtp_code}
    except smtplib.SMTPNotSupportedError:
        reason, hint = "it lacks what the alert asks for (STARTTLS, or a login)", "check tls, username and port"
    except smtplib.SMTPResponseException as exc:
        reason, hint, facts = f"it answered {exc.smtp_code}", None, {"status": exc.smtp_code}
    except smtplib.SMTPRecipientsRefused:
        reason, hint = "it refused every recipient", None
    except TimeoutError:
        reason, hint = "it did not answer in time", None
    except ConnectionRefusedError:
        reason, hint = "it refused the connection", "does it run, and on this port?"
    except (OSError, http.client.HTTPException, smtplib.SMTPException, UnicodeError) as exc:
        reason, hint = f"the connection failed ({type(exc).__name__})", None
    # Without the cause, which may hold an answer.
    raise AlertDeliveryError(f"alert {alert!r}: {what} was not reached: {reason}", hint=hint, **facts) from None
