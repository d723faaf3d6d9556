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

    def close(self) -> None:
        """Close the connection."""
        self._connection.close()

    def _wait(self) -> None:
        from psycopg2.extensions import POLL_OK, POLL_READ

        while (state := self._connection.poll()) != POLL_OK:
            remaining = self._deadline - time.monotonic()
            poller = select.poll()
            poller.register(self._connection.fileno(), select.POLLIN if state == POLL_READ else select.POLLOUT)
            if remaining <= 0 or not poller.poll(remaining * 1000):
                raise TimeoutError
