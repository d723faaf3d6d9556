"""Tests a PostgreSQL connection within a limit that holds whatever the network does.

libpq's own time-out counts for each address, does not cover name resolution and ends with the handshake. Here the
name is resolved in a thread, and connecting and asking are polled against one deadline.
"""

from __future__ import annotations

import contextlib
import queue
import select
import socket
import threading
import time
from collections.abc import Iterator
from typing import Any

from synqx_dagster.connectors.postgresql_connect import DEFAULT_PORT, connection_parameters
from synqx_dagster.connectors.postgresql_errors import connection_failed, wrap_errors
from synqx_dagster.connectors.protocol import ConnectionConfig, ConnectionReport
from synqx_dagster.connectors.queries import load_query
from synqx_dagster.errors import ConnectionFailedError, SynqxError


def probe(config: ConnectionConfig, timeout_seconds: float) -> ConnectionReport:
    """Connect, look and disconnect; never raises for what the server or the network does."""
    deadline = time.monotonic() + timeout_seconds
    try:
        return _probe(config, deadline)
    except ConnectionFailedError as error:
        return ConnectionReport(False, error.message, reason=error.reason, hint=error.hint)
    except _DeadlineError:
        where = f"{config.host or 'localhost'}:{config.port or DEFAULT_PORT}"
        return ConnectionReport(
            False,
            f"connection {config.name!r}: {where} did not answer within {timeout_seconds:g} s",
            reason="timeout",
            hint="a firewall may drop the packets; are host and port right?",
        )
    except SynqxError as error:
        return ConnectionReport(False, error.message, reason="unknown", hint=error.hint)


class _DeadlineError(Exception):
    """The test's time is up."""


def _probe(config: ConnectionConfig, deadline: float) -> ConnectionReport:
    import psycopg2

    parameters = connection_parameters(config)
    # Ours, not libpq's, which counts anew for each address.
    parameters["connect_timeout"] = 0
    host = str(parameters["host"])
    if not host.startswith("/"):
        addresses = _resolve(config, host, int(parameters["port"]), deadline)
        parameters["hostaddr"] = ",".join(addresses)
        parameters["host"] = ",".join([host] * len(addresses))
    with _report_failure(config):
        connection = psycopg2.connect(**parameters, async_=True)
    with contextlib.closing(connection), wrap_errors(f"testing {config.name!r}"):
        with _report_failure(config):
            _wait(connection, deadline)
        cursor = connection.cursor()
        start = time.monotonic()
        cursor.execute("SELECT 1")
        _wait(connection, deadline)
        latency_seconds = time.monotonic() - start
        cursor.execute(load_query("postgresql_rights"))
        _wait(connection, deadline)
        version, can_read, can_write, tls = cursor.fetchone()
        return ConnectionReport(
            True,
            f"{config.database} on {host} answers",
            server_version=f"PostgreSQL {version}",
            latency_seconds=latency_seconds,
            can_read=can_read,
            can_write=can_write,
            # A Unix socket never leaves the machine.
            tls=None if host.startswith("/") else tls,
        )


@contextlib.contextmanager
def _report_failure(config: ConnectionConfig) -> Iterator[None]:
    import psycopg2

    try:
        yield
    except psycopg2.Error as error:
        raise connection_failed(config.name, str(error), database=config.database, username=config.username) from None


def _wait(connection: Any, deadline: float) -> None:
    """Let an asynchronous connection do its work until it is done or the deadline has come."""
    from psycopg2.extensions import POLL_OK, POLL_READ

    while (state := connection.poll()) != POLL_OK:
        remaining = deadline - time.monotonic()
        poller = select.poll()
        poller.register(connection.fileno(), select.POLLIN if state == POLL_READ else select.POLLOUT)
        if remaining <= 0 or not poller.poll(remaining * 1000):
            raise _DeadlineError


def _resolve(config: ConnectionConfig, host: str, port: int, deadline: float) -> list[str]:
    """A host's addresses; getaddrinfo cannot be interrupted, so a thread does it that may outlive the test."""
    answers: queue.Queue[list[str] | OSError] = queue.Queue()

    def look_up() -> None:
        try:
            found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
            answers.put(list(dict.fromkeys(str(address[0]) for *_, address in found)))
        except (OSError, UnicodeError) as error:
            answers.put(error if isinstance(error, OSError) else OSError(str(error)))

    threading.Thread(target=look_up, name="synqx-resolve", daemon=True).start()
    try:
        answer = answers.get(timeout=max(0.0, deadline - time.monotonic()))
    except queue.Empty:
        raise ConnectionFailedError(
            f"connection {config.name!r}: the name {host!r} was not resolved in time",
            reason="name_resolution",
            hint="check host and the machine's name server",
        ) from None
    if isinstance(answer, OSError):
        raise ConnectionFailedError(
            f"connection {config.name!r}: the name {host!r} cannot be resolved",
            reason="name_resolution",
            hint="check host",
        )
    return answer
