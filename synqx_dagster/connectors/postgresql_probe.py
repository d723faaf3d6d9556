"""Tests a PostgreSQL connection within a limit that holds whatever the network does."""

from __future__ import annotations

import contextlib
import time

from synqx_dagster.connectors.postgresql_connect import DEFAULT_PORT, prepare, wrap_connect_errors
from synqx_dagster.connectors.postgresql_errors import wrap_errors
from synqx_dagster.connectors.postgresql_timed import TimedConnection
from synqx_dagster.connectors.postgresql_tls import choose
from synqx_dagster.connectors.protocol import ConnectionConfig, ConnectionReport
from synqx_dagster.connectors.queries import load_query
from synqx_dagster.connectors.tls import describe_tls
from synqx_dagster.errors import ConnectionFailedError, HostRefusedError, SynqxError


def probe(config: ConnectionConfig, timeout_seconds: float) -> ConnectionReport:
    """Connect, look and disconnect; never raises for what the server or the network does."""
    deadline = time.monotonic() + timeout_seconds
    try:
        return _probe(config, deadline)
    except ConnectionFailedError as error:
        return ConnectionReport(False, error.message, reason=error.reason, hint=error.hint)
    except HostRefusedError as error:
        return ConnectionReport(False, error.message, reason="host_refused", hint=error.hint)
    except TimeoutError:
        where = f"{config.host or 'localhost'}:{config.port or DEFAULT_PORT}"
        return ConnectionReport(
            False,
            f"connection {config.name!r}: {where} did not answer within {timeout_seconds:g} s",
            reason="timeout",
            hint="a firewall may drop the packets; are host and port right?",
        )
    except SynqxError as error:
        return ConnectionReport(False, error.message, reason="unknown", hint=error.hint)


def _probe(config: ConnectionConfig, deadline: float) -> ConnectionReport:
    endpoint, parameters = prepare(config, timeout_seconds=deadline - time.monotonic())
    with wrap_connect_errors(config, endpoint, timeout_seconds=deadline - time.monotonic()):
        connection = TimedConnection(parameters, deadline)
    with contextlib.closing(connection), wrap_errors(f"testing {config.name!r}"):
        start = time.monotonic()
        connection.fetch("SELECT 1")
        latency_seconds = time.monotonic() - start
        version, can_read, can_write, tls = connection.fetch(load_query("postgresql_rights"))
        by = f" through the SSH server {endpoint.tunnel_host}" if endpoint.tunnel_host is not None else ""
        return ConnectionReport(
            True,
            f"{config.database} on {endpoint.host} answers{by}",
            server_version=f"PostgreSQL {version}",
            latency_seconds=latency_seconds,
            can_read=can_read,
            can_write=can_write,
            # A Unix socket never leaves the machine.
            tls=describe_tls(tls, choose(config), tunnel_host=endpoint.tunnel_host) if endpoint.addresses else None,
        )
