"""What a connector offers so that its server can be watched."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Any, Protocol, runtime_checkable


class MonitorSession(Protocol):
    """A session for a few short queries of a server's own views, all of which end at one deadline.

    Each query is a transaction of its own that only reads, so that one that is refused leaves the others alone.
    """

    #: As the server counts: 150004 is 15.4.
    server_version: int

    def fetch_rows(self, sql: str) -> Sequence[Mapping[str, Any]]:
        """The rows of a query, each by the names of its columns.

        Raises:
            NotPermittedError: The user lacks a privilege; the session can be used on.
            SourceChangedError, DatabaseError: The server refused the query otherwise; the session can be used on.
            RetryableError: The deadline has come, or the session is lost; it is good for nothing but its end.
        """
        ...


@runtime_checkable
class MonitorConnector(Protocol):
    """A connector whose server can be watched."""

    def monitor(self, *, timeout_seconds: float) -> AbstractContextManager[MonitorSession]:
        """Open a session outside the pool that ends, connecting included, after so long.

        Raises:
            ConnectionFailedError: The server cannot be reached or refused.
            HostRefusedError: The operator's lists forbid its host.
            ConfigurationError: A file for TLS cannot be used.
        """
        ...
