"""The connector itself: opens sessions, and spells names and types."""

from __future__ import annotations

from contextlib import AbstractContextManager
from typing import Protocol, runtime_checkable

from synqx_dagster.connectors.protocol.config import Capabilities, ConnectionConfig
from synqx_dagster.connectors.protocol.reading import ReadLimits, ReadSession
from synqx_dagster.connectors.protocol.reports import ConnectionReport, TableDescription
from synqx_dagster.connectors.protocol.writing import WriteSession
from synqx_dagster.model.table import Column, TableName
from synqx_dagster.model.types import DataType


@runtime_checkable
class Connector(Protocol):
    """One connection of one kind of database. Cheap to make: nothing is opened before a session is."""

    #: The ``db_type`` that users write.
    db_type: str
    #: The sqlglot dialect of its SQL, empty for one that sqlglot does not know. It and `capabilities` may differ from
    #: connection to connection; they are known as soon as the connector is made, without its secrets too.
    dialect: str
    capabilities: Capabilities
    config: ConnectionConfig

    @classmethod
    def check_config(cls, config: ConnectionConfig) -> list[str]:
        """What is wrong with a configuration, field by field, found without connecting; the password may be None."""
        ...

    def test(self, *, timeout_seconds: float = 5.0) -> ConnectionReport:
        """Connect, look and disconnect within the limit; never raises for what the server or network does."""
        ...

    def discover(self, schema: str | None = None) -> list[TableDescription]:
        """Tables and views with their columns, by schema and name; system schemas are left out."""
        ...

    def quote(self, identifier: str) -> str:
        """An identifier quoted for this database, whatever it holds."""
        ...

    def qualify(self, table: TableName) -> str:
        """A quoted, schema-qualified table name."""
        ...

    def native_type(self, column: Column) -> str:
        """How this database spells a column's type in DDL.

        A column whose ``native_dialect`` is this one keeps its exact spelling.

        Raises:
            PlanError: No type here holds every value of the column's type exactly.
        """
        ...

    def holds(self, data_type: DataType) -> str | None:
        """A DuckDB predicate over ``{value}`` (the carrier) that is true when this database can store it exactly.

        None when every value of the type fits.
        """
        ...

    def read(self, limits: ReadLimits | None = None) -> AbstractContextManager[ReadSession]:
        """Open a read session; rolled back and closed at the end."""
        ...

    def write(self) -> AbstractContextManager[WriteSession]:
        """Open a write session."""
        ...

    def close(self) -> None:
        """Close pooled connections. The connector may be used again."""
        ...


@runtime_checkable
class LockingConnector(Protocol):
    """A connector to a target that a read session of another connector may lock."""

    def why_locked_by(self, source: Connector) -> tuple[str, str] | None:
        """Why nothing can be committed here while `source` is read, and what to do about it; None where it can."""
        ...


@runtime_checkable
class SnapshotConnector(Protocol):
    """A connector that can open sessions on a snapshot which another session has exported."""

    def read_at(self, snapshot: str) -> AbstractContextManager[ReadSession]:
        """Open a read session that sees exactly the rows of the session that exported `snapshot`."""
        ...
