"""Fetches an export over HTTP: through SynqX's checked addresses, verified TLS and SSH tunnels, onto a disk.

Guarantee: nothing but the configured host is asked, redirects are not followed, and a body that is cut off is an error.
"""

from __future__ import annotations

import base64
import http.client
import urllib.parse
from typing import IO

from synqx_dagster.connectors.network import locate, open_socket
from synqx_dagster.connectors.protocol import ConnectionConfig
from synqx_dagster.connectors.tls import choose_tls, make_context
from synqx_dagster.errors import ConnectionFailedError, DatabaseError, RetryableError, SynqxError

CHUNK_BYTES = 1024 * 1024
DEFAULT_TIMEOUT_SECONDS = 30.0
DEFAULT_MAX_BYTES = 2 * 1024**3


def scheme_of(config: ConnectionConfig) -> str:
    """``https``, or ``http`` where the connection turns TLS off."""
    return "http" if choose_tls(config).mode in ("disable", "prefer") else "https"


def path_of(config: ConnectionConfig, table: str) -> str:
    """The path of a table's export: ``database`` is the folder."""
    folder = "/".join(urllib.parse.quote(part) for part in (config.database or "").split("/") if part)
    suffix = str(config.options.get("suffix", ".ndjson"))
    return f"/{folder}{'/' if folder else ''}{urllib.parse.quote(table, safe='')}{suffix}"


def download(config: ConnectionConfig, table: str, target: IO[bytes], *, timeout_seconds: float | None = None) -> None:
    """Write a table's export to a file.

    Raises:
        HostRefusedError, ConnectionFailedError: The server must not or cannot be reached.
        RetryableError: It was busy, or ended in the middle.
        DatabaseError: It refused the request.
    """
    seconds = timeout_seconds or float(config.options.get("timeout_seconds", DEFAULT_TIMEOUT_SECONDS))
    place = f"{config.host}{path_of(config, table)}"
    connection = _connect(config, seconds, place)
    try:
        connection.request("GET", path_of(config, table), headers=_headers(config))
        # Where the server is to close, the connection lets go of the socket and only the response can close it.
        with connection.getresponse() as response:
            _check_status(response.status, place)
            _copy(response, target, int(config.options.get("max_bytes", DEFAULT_MAX_BYTES)), place)
    except (OSError, http.client.HTTPException) as exc:
        raise RetryableError(f"{place}: the transfer broke off ({type(exc).__name__})") from exc
    finally:
        connection.close()


def _connect(config: ConnectionConfig, timeout_seconds: float, place: str) -> http.client.HTTPConnection:
    secure = scheme_of(config) == "https"
    endpoint = locate(config, 443 if secure else 80, timeout_seconds=timeout_seconds)
    try:
        stream = open_socket(endpoint, timeout_seconds=timeout_seconds)
        stream.settimeout(timeout_seconds)
        if secure:
            stream = make_context(choose_tls(config), config.name).wrap_socket(stream, server_hostname=endpoint.host)
    except OSError as exc:
        reason = {"TimeoutError": "timeout", "ConnectionRefusedError": "refused"}.get(type(exc).__name__, "tls")
        raise ConnectionFailedError(f"{place} cannot be reached ({type(exc).__name__})", reason=reason) from exc
    connection = http.client.HTTPConnection(endpoint.host, endpoint.port)
    # The socket goes to an address that the host policy let through; http.client would resolve the name again.
    connection.sock = stream
    return connection


def _headers(config: ConnectionConfig) -> dict[str, str]:
    headers = {"Accept": "application/x-ndjson", "Accept-Encoding": "identity", "User-Agent": "synqx"}
    if config.password is not None:
        if config.username is not None:
            pair = f"{config.username}:{config.password}".encode()
            headers["Authorization"] = f"Basic {base64.b64encode(pair).decode()}"
        else:
            headers["Authorization"] = f"Bearer {config.password}"
    return headers


def _check_status(status: int, place: str) -> None:
    error: SynqxError
    if status == http.HTTPStatus.OK:
        return
    if status in (401, 403):
        error = ConnectionFailedError(f"{place} refused the credentials ({status})", reason="authentication")
    elif status == http.HTTPStatus.NOT_FOUND:
        error = DatabaseError(f"{place} does not exist", hint="check database, the folder of the exports")
    elif status == http.HTTPStatus.TOO_MANY_REQUESTS or status >= 500:
        error = RetryableError(f"{place} is busy or broken ({status})")
    else:
        error = DatabaseError(f"{place} answered {status}")
    raise error


def _copy(response: http.client.HTTPResponse, target: IO[bytes], max_bytes: int, place: str) -> None:
    size = 0
    # A read of a known amount raises IncompleteRead when the body ends too early; an unbounded one does as well.
    while chunk := response.read(CHUNK_BYTES):
        size += len(chunk)
        if size > max_bytes:
            raise DatabaseError(f"{place} is larger than {max_bytes:,} bytes", hint="raise options.max_bytes")
        target.write(chunk)
    if response.length:
        raise RetryableError(f"{place} ended {response.length:,} bytes too early")
