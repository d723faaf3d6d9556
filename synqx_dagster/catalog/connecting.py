"""From records to databases: connectors with their secrets resolved, tests of connections, and tables."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from synqx_dagster.catalog.snapshot import CatalogSnapshot
from synqx_dagster.catalog.store import Catalog
from synqx_dagster.connectors.protocol import ConnectionReport, Connector, TableDescription
from synqx_dagster.errors import ConfigurationError
from synqx_dagster.model import Connection

#: How long a test of a connection may take.
TEST_SECONDS = 5.0


def make_connector_of(catalog: Catalog, connection: Connection) -> Connector:
    """A connector with its secrets resolved; nothing is opened yet.

    Raises:
        SealedError: A secret lies in the vault, which is sealed.
        ConfigurationError: A secret's environment variable or file is missing.
    """
    from synqx_dagster.connectors.registry import make_connector

    return make_connector(connection, catalog.resolve_secret, host_policy=catalog.settings.host_policy)


@contextmanager
def connected(catalog: Catalog, snapshot: CatalogSnapshot, names: Sequence[str]) -> Iterator[list[Connector]]:
    """Connectors of some connections, closed afterwards; nothing is opened before a session is."""
    connectors: list[Connector] = []
    try:
        for name in names:
            connectors.append(make_connector_of(catalog, snapshot.get_connection(name)))
        yield connectors
    finally:
        for connector in connectors:
            connector.close()


def try_connection(catalog: Catalog, connection: Connection) -> ConnectionReport:
    """Connect and look, within `TEST_SECONDS`; a missing secret is an outcome, too.

    Args:
        connection: A record of the catalog, or one that is not saved.

    Raises:
        SealedError: A secret lies in the vault, which is sealed.
    """
    try:
        connector = make_connector_of(catalog, connection)
    except ConfigurationError as exc:
        return ConnectionReport(ok=False, message=exc.message, reason="configuration", hint=exc.hint)
    try:
        return connector.test(timeout_seconds=TEST_SECONDS)
    finally:
        connector.close()


def describe_table(description: TableDescription) -> dict[str, Any]:
    """A table or view as plain values for JSON."""
    return {
        "table": str(description.table),
        "schema": description.table.schema,
        "name": description.table.name,
        "is_view": description.is_view,
        "estimated_rows": description.estimated_rows,
        "columns": [
            {
                "name": column.name,
                "data_type": str(column.data_type),
                "native_type": column.native_type,
                "nullable": column.nullable,
                "key_position": column.key_position,
                "generated": column.generated,
            }
            for column in description.columns
        ],
    }
