"""Watches a PostgreSQL server: a few queries of its own views, on a connection of their own with one deadline.

Guarantee: whatever the server and the network do, a session ends at its deadline, here and at the server; behind a
pooler it leaves no setting with the next client.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from typing import Any

from synqx_dagster.connectors.postgresql_connect import prepare, wrap_connect_errors
from synqx_dagster.connectors.postgresql_errors import wrap_errors
from synqx_dagster.connectors.postgresql_timed import TimedConnection
from synqx_dagster.connectors.protocol import ConnectionConfig
from synqx_dagster.errors import ConnectionFailedError, RetryableError

#: What a query relies on. `search_path`, so that no function of a user stands in for the server's own.
_SETTINGS = {
    "search_path": "pg_catalog",
    "transaction_read_only": "on",
    "TimeZone": "UTC",
    "DateStyle": "ISO",
    "extra_float_digits": "1",
}

#: The server gives up a little before us, so that it is the server who says so.
_SERVER_SHARE = 0.9


class PostgresqlMonitorSession:
    """See `synqx_dagster.connectors.protocol.MonitorSession`."""

    def __init__(self, connection: TimedConnection, config: ConnectionConfig, timeout_seconds: float) -> None:
        self._connection = connection
        self._name = config.name
        self._timeout_seconds = timeout_seconds
        self.server_version = connection.server_version

    def fetch_rows(self, sql: str) -> list[dict[str, Any]]:
        """The rows of a query, each by the names of its columns."""
        milliseconds = max(1, int(self._connection.remaining_seconds * _SERVER_SHARE * 1000))
        settings = {**_SETTINGS, "statement_timeout": f"{milliseconds}ms", "lock_timeout": f"{milliseconds}ms"}
        calls = ", ".join(f"pg_catalog.set_config('{name}', '{value}', true)" for name, value in settings.items())
        try:
            with wrap_errors(f"watching {self._name!r}"):
                # One message is one transaction: settings and query come to the same server, and go with it.
                return self._connection.fetch_rows(f"SELECT {calls};\n{sql}")
        except TimeoutError:
            raise RetryableError(
                f"watching {self._name!r}: no answer within {self._timeout_seconds:g} s",
                hint="raise monitor.timeout_seconds, if the server is merely slow",
                reason="timeout",
            ) from None


@contextlib.contextmanager
def open_monitor(config: ConnectionConfig, timeout_seconds: float) -> Iterator[PostgresqlMonitorSession]:
    """Connect outside the pool; see `synqx_dagster.connectors.protocol.MonitorConnector`."""
    deadline = time.monotonic() + timeout_seconds
    try:
        endpoint, parameters = prepare(config, timeout_seconds=timeout_seconds)
        with wrap_connect_errors(config, endpoint, timeout_seconds=deadline - time.monotonic()):
            connection = TimedConnection(parameters, deadline)
    except TimeoutError:
        raise ConnectionFailedError(
            f"connection {config.name!r}: no answer within {timeout_seconds:g} s",
            reason="timeout",
            hint="a firewall may drop the packets, or the server hangs",
        ) from None
    with contextlib.closing(connection):
        yield PostgresqlMonitorSession(connection, config, timeout_seconds)
