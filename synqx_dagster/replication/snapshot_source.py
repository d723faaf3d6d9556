"""A source of which every session sees the rows of one snapshot, so that the transfer engine can copy them."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager

from synqx_dagster.connectors.protocol import (
    ConnectionReport,
    Connector,
    ReadLimits,
    ReadSession,
    SnapshotConnector,
    TableDescription,
    WriteSession,
)
from synqx_dagster.errors import FatalError, PlanError, RetryableError
from synqx_dagster.model.table import Column, TableName
from synqx_dagster.model.types import DataType


class SnapshotSource:
    """A source of which every read session sees the rows of one snapshot; see `Connector`."""

    def __init__(self, connector: Connector, snapshot: str) -> None:
        if not isinstance(connector, SnapshotConnector):
            raise PlanError(f"sessions of {connector.db_type} cannot share a snapshot")
        self._connector = connector
        self._at: SnapshotConnector = connector
        self._snapshot = snapshot
        self._lock = threading.Lock()
        self._open: set[ReadSession] = set()
        self._cancelled = False
        self.db_type = connector.db_type
        self.dialect = connector.dialect
        self.capabilities = connector.capabilities
        self.config = connector.config

    def cancel(self) -> None:
        """End what every open session waits for, and what is opened from here on. Safe from any thread."""
        with self._lock:
            self._cancelled = True
            for session in self._open:
                session.cancel()

    @contextmanager
    def read(self, limits: ReadLimits | None = None) -> Iterator[ReadSession]:
        """Open a read session on the snapshot."""
        with self.read_at(self._snapshot) as session:
            yield session

    @contextmanager
    def read_at(self, snapshot: str) -> Iterator[ReadSession]:
        """Open a read session on a snapshot that another one has exported."""
        with self._at.read_at(snapshot) as session:
            with self._lock:
                if self._cancelled:
                    raise RetryableError("the copy was interrupted")
                self._open.add(session)
            try:
                yield session
            finally:
                with self._lock:
                    self._open.discard(session)

    @classmethod
    def check_config(cls, config: object) -> list[str]:
        """Nothing to check."""
        return []

    def test(self, *, timeout_seconds: float = 5.0) -> ConnectionReport:
        """As the connector."""
        return self._connector.test(timeout_seconds=timeout_seconds)

    def discover(self, schema: str | None = None) -> list[TableDescription]:
        """As the connector; not of the snapshot."""
        return self._connector.discover(schema)

    def quote(self, identifier: str) -> str:
        """As the connector."""
        return self._connector.quote(identifier)

    def qualify(self, table: TableName) -> str:
        """As the connector."""
        return self._connector.qualify(table)

    def native_type(self, column: Column) -> str:
        """As the connector."""
        return self._connector.native_type(column)

    def holds(self, data_type: DataType) -> str | None:
        """As the connector."""
        return self._connector.holds(data_type)

    def write(self) -> AbstractContextManager[WriteSession]:
        """Refused."""
        raise FatalError("a snapshot cannot be written to")

    def close(self) -> None:
        """Somebody else closes the connector."""
