"""Connections as Dagster resources: nothing is resolved, imported or opened before an op uses one.

They take no run config: whoever could point a connection at another host would be sent its password.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import dagster as dg

from synqx_dagster.defs.access import CatalogAccess, needs_vault, require_unsealed
from synqx_dagster.model import Connection

if TYPE_CHECKING:
    from synqx_dagster.connectors.protocol import Connector


class ConnectionResource:
    """One connection in one process. `connector` resolves the secret when it is first read."""

    def __init__(self, connection: Connection, get_catalog: Callable[[], CatalogAccess]) -> None:
        self.connection = connection
        self._get_catalog = get_catalog
        self._lock = threading.Lock()
        self._connector: Connector | None = None

    def __repr__(self) -> str:
        return f"ConnectionResource({self.connection.name!r})"

    @property
    def connector(self) -> Connector:
        """The connector; the same one until `close`.

        Raises:
            SealedError: Its secret cannot be opened in this process.
            ConfigurationError: A referenced variable or file is missing, or the kind is unknown.
            DriverMissingError: Its driver is not installed.
        """
        from synqx_dagster.connectors.registry import make_connector

        with self._lock:
            if self._connector is None:
                catalog = self._get_catalog()
                require_unsealed(catalog, secrets_needed=needs_vault(self.connection))
                policy = catalog.settings.host_policy
                self._connector = make_connector(self.connection, catalog.resolve_secret, host_policy=policy)
            return self._connector

    def close(self) -> None:
        """Close what `connector` opened; silent when it was never used."""
        with self._lock:
            connector, self._connector = self._connector, None
        if connector is not None:
            connector.close()


def build_resource(connection: Connection, get_catalog: Callable[[], CatalogAccess]) -> dg.ResourceDefinition:
    """The resource of a connection; its value is a `ConnectionResource`."""

    @contextmanager
    def open_resource(_context: dg.InitResourceContext) -> Iterator[ConnectionResource]:
        resource = ConnectionResource(connection, get_catalog)
        try:
            yield resource
        finally:
            resource.close()

    return dg.ResourceDefinition(
        resource_fn=open_resource,
        config_schema={},
        description=connection.description or f"The {connection.db_type} connection {connection.name}",
    )
