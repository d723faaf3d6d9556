"""A PostgreSQL connection on which every step, connecting included, ends at one deadline.

libpq's own time-out counts for each address and ends with the handshake. Here the connection is asynchronous.
"""

from __future__ import annotations

import select
import time
from collections.abc import Mapping, Sequence
from typing import Any


class TimedConnection:
    """One connection for a few short queries.

    Raises:
        TimeoutError: The deadline has come, in any of the calls.
        psycopg2.Error: The server cannot be reached or refused.
    """

    def __init__(self, parameters: Mapping[str, Any], deadline: float) -> None:
        import psycopg2

        self._deadline = deadline
        # Ours, not libpq's, which counts anew for each address.
        self._connection: Any = psycopg2.connect(**{**parameters, "connect_timeout": 0}, async_=True)
        try:
            self._wait()
        except BaseException:
            self._connection.close()
            raise

    def fetch(self, sql: str, values: Sequence[object] | None = None) -> tuple[Any, ...]:
        """The first row of a query."""
        cursor = self._connection.cursor()
        cursor.execute(sql, values)
        self._wait()
        row: tuple[Any, ...] = cursor.fetchone()
        return row

    def fetch_rows(self, sql: str) -> list[dict[str, Any]]:
        """All rows of a query (of several: of the last), each by the names of its columns."""
        cursor = self._connection.cursor()
        cursor.execute(sql)
        self._wait()
        names = [column.name for column in cursor.description]
        return [dict(zip(names, row, strict=True)) for row in cursor.fetchall()]

    @property
    def server_version(self) -> int:
        """As libpq counts: 150004 is 15.4."""
        version: int = self._connection.server_version
        return version

    @property
    def remaining_seconds(self) -> float:
        """Time until the deadline; none when it is below zero."""
        return self._deadline - time.monotonic()

    def close(self) -> None:
        """Close the connection."""
        self._connection.close()

    def _wait(self) -> None:
        from psycopg2.extensions import POLL_OK, POLL_READ

        while (state := self._connection.poll()) != POLL_OK:
            remaining = self.remaining_seconds
            poller = select.poll()
            poller.register(self._connection.fileno(), select.POLLIN if state == POLL_READ else select.POLLOUT)
            if remaining <= 0 or not poller.poll(remaining * 1000):
                raise TimeoutError
