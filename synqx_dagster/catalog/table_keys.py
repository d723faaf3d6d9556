"""Tables as the checks compare them: two names of one table have one key."""

from __future__ import annotations

from synqx_dagster.catalog.snapshot import CatalogSnapshot
from synqx_dagster.connectors.protocol import Capabilities
from synqx_dagster.errors import ConfigurationError, DriverMissingError
from synqx_dagster.model import Connection, TableName

#: Connection, schema (the connector's own where none is written), name.
TableKey = tuple[str, str | None, str]


class TableKeys:
    """The keys of tables at the connections of one snapshot."""

    def __init__(self, records: CatalogSnapshot) -> None:
        self._records = records
        #: None where the kind of the connection is unknown.
        self._capabilities: dict[str, Capabilities | None] = {}

    def key_of(self, connection_name: str, table: TableName) -> TableKey:
        """The key of a table. The connection may be missing, and its kind unknown."""
        connection = self._records.connections.get(connection_name)
        capabilities = None if connection is None else self._capabilities_of(connection)
        if connection is None or capabilities is None:
            return connection_name, table.schema, table.name
        schema = table.schema or capabilities.default_schema
        if capabilities.schema_is_database:
            schema = schema or connection.database
        if capabilities.folds_case:
            return connection.name, schema.casefold() if schema else None, table.name.casefold()
        return connection.name, schema, table.name

    def _capabilities_of(self, connection: Connection) -> Capabilities | None:
        from synqx_dagster.connectors.registry import capabilities_of

        if connection.name not in self._capabilities:
            try:
                self._capabilities[connection.name] = capabilities_of(connection.db_type, connection.options)
            except (ConfigurationError, DriverMissingError):
                self._capabilities[connection.name] = None  # The problem stands at the connection.
        return self._capabilities[connection.name]
