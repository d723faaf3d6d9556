"""Which connectors exist, found by entry point; nothing is imported before a connection of that kind is used.

A connector is a class that keeps `synqx_dagster.connectors.protocol.Connector`, listed under the entry point
group ``synqx_dagster.connectors``. The built-in ones are found without the package being installed too.
"""

from __future__ import annotations

import difflib
import importlib
from collections.abc import Callable, Mapping
from functools import lru_cache
from importlib.metadata import entry_points
from typing import Any

from synqx_dagster.connectors.key_files import check_private_file
from synqx_dagster.connectors.protocol import Capabilities, ConnectionConfig, Connector, SshTunnelConfig, TlsConfig
from synqx_dagster.errors import ConfigurationError, DriverMissingError
from synqx_dagster.model.connection import Connection, OptionValue
from synqx_dagster.model.host_policy import HostPolicy
from synqx_dagster.model.secret import FileSecret

ENTRY_POINT_GROUP = "synqx_dagster.connectors"

_BUILT_IN = {
    "postgresql": "synqx_dagster.connectors.postgresql:PostgresqlConnector",
    "mysql": "synqx_dagster.connectors.mysql:MysqlConnector",
    "sqlite": "synqx_dagster.connectors.sqlite:SqliteConnector",
    "duckdb": "synqx_dagster.connectors.duckdb:DuckdbConnector",
    "files": "synqx_dagster.connectors.files:FilesConnector",
    "sqlalchemy": "synqx_dagster.connectors.sqlalchemy:SqlalchemyConnector",
}

#: A connector whose dialect of sqlglot has another name than its ``db_type`` is listed here, so that checking
#: a query imports no driver.
_DIALECTS = {"postgresql": "postgres", "mysql": "mysql", "sqlite": "sqlite", "duckdb": "duckdb", "files": "duckdb"}

#: The extra that installs a driver which the package does not depend on.
_EXTRAS = {"mysql": "mysql", "files": "s3"}


@lru_cache(maxsize=1)
def _connector_types() -> dict[str, str]:
    found = {entry.name: entry.value for entry in entry_points(group=ENTRY_POINT_GROUP)}
    # A plugin cannot replace a built-in connector: a catalog must mean the same everywhere.
    return dict(sorted({**found, **_BUILT_IN}.items()))


def connector_types() -> dict[str, str]:
    """Every ``db_type`` with its class as ``module:Class``; imports none of them."""
    return dict(_connector_types())


def connector_class(db_type: str) -> type[Connector]:
    """The class behind a ``db_type``.

    Raises:
        ConfigurationError: No connector has this name; the hint names the nearest.
        DriverMissingError: The connector or its driver is not installed.
    """
    types = _connector_types()
    if db_type not in types:
        near = difflib.get_close_matches(db_type, types, n=1)
        raise ConfigurationError(
            f"{db_type!r} is not a kind of connection",
            hint=f"did you mean {near[0]!r}?" if near else f"there are: {', '.join(types)}",
        )
    module_name, _, class_name = types[db_type].partition(":")
    try:
        found: type[Connector] = getattr(importlib.import_module(module_name), class_name)
    except ImportError as exc:
        extra = _EXTRAS.get(db_type)
        raise DriverMissingError(
            f"the connector for {db_type} cannot be loaded: {exc}",
            hint=f"pip install 'synqx-dagster[{extra}]'" if extra else "is its package installed?",
        ) from exc
    except AttributeError as exc:
        raise ConfigurationError(f"the entry point of {db_type} names no class: {types[db_type]}") from exc
    return found


def dialect_of(db_type: str, options: Mapping[str, OptionValue] | None = None) -> str:
    """The sqlglot dialect of a connection; no driver is imported for a built-in connector.

    Args:
        options: The connection's options: one connector may serve several dialects.
    """
    return _DIALECTS.get(db_type) or _without_secrets(db_type, options).dialect


def capabilities_of(db_type: str, options: Mapping[str, OptionValue] | None = None) -> Capabilities:
    """What a connection's engine can do.

    Args:
        options: The connection's options: one connector may serve several engines.
    """
    return _without_secrets(db_type, options).capabilities


def _without_secrets(db_type: str, options: Mapping[str, OptionValue] | None) -> Connector:
    """A connector that can be asked what it is, and not connect."""
    make: Callable[[ConnectionConfig], Connector] = connector_class(db_type)
    return make(ConnectionConfig(db_type, db_type, options=dict(options or {})))


def make_config(
    connection: Connection, get_secret: Callable[[str], str | None], *, host_policy: HostPolicy | None = None
) -> ConnectionConfig:
    """What a connector is made of, from a record.

    Args:
        get_secret: The text of a secret field by its path; None where it is not set.
        host_policy: Which hosts may be reached; left out, what the environment says.
    """
    tls, tunnel = connection.tls, connection.ssh_tunnel
    return ConnectionConfig(
        name=connection.name,
        db_type=connection.db_type,
        host=connection.host,
        port=connection.port,
        database=connection.database,
        username=connection.username,
        password=get_secret("password"),
        options=dict(connection.options),
        pool=connection.pool,
        tls=TlsConfig(
            mode=tls.mode,
            ca_file=tls.ca_file,
            cert_file=tls.cert_file,
            key_file=tls.key_file,
            key_password=get_secret("tls.key_password"),
        )
        if tls is not None
        else None,
        ssh_tunnel=SshTunnelConfig(
            host=tunnel.host,
            port=tunnel.port,
            username=tunnel.username,
            host_key=tunnel.host_key,
            private_key=get_secret("ssh_tunnel.private_key"),
            passphrase=get_secret("ssh_tunnel.passphrase"),
            password=get_secret("ssh_tunnel.password"),
        )
        if tunnel is not None
        else None,
        host_policy=host_policy,
    )


def check_config(config: ConnectionConfig) -> list[str]:
    """What is wrong with a configuration, field by field: what its connector says, and what no connector may ignore.

    Raises:
        ConfigurationError, DriverMissingError: There is no such connector.
    """
    problems = connector_class(config.db_type).check_config(config)
    if config.tls is None and config.ssh_tunnel is None:
        return problems
    if not capabilities_of(config.db_type, config.options).secures_network:
        blocks = (("tls", config.tls), ("ssh_tunnel", config.ssh_tunnel))
        problems += [f"{name}: {config.db_type} does not take it" for name, block in blocks if block is not None]
    return problems


def make_connector(
    connection: Connection,
    resolve_secret: Callable[[Connection, str], str | None],
    *,
    host_policy: HostPolicy | None = None,
) -> Connector:
    """A connector for a record, with its secrets resolved; opens nothing.

    Args:
        connection: The record.
        resolve_secret: Called with the record and the path of each secret field that it fills.
        host_policy: Which hosts may be reached; left out, what the environment says.

    Raises:
        ConfigurationError: The configuration is wrong.
        DriverMissingError: The connector's driver is not installed.
        SealedError: A secret is in a sealed vault.
    """
    found = connector_class(connection.db_type)
    private_key = connection.ssh_tunnel.private_key if connection.ssh_tunnel is not None else None
    if isinstance(private_key, FileSecret):
        check_private_file(private_key.file, f"connection {connection.name!r}, ssh_tunnel.private_key")

    def get_secret(path: str) -> str | None:
        value: Any = connection
        for name in path.split("."):
            value = getattr(value, name)
        return resolve_secret(connection, path) if value is not None else None

    config = make_config(connection, get_secret, host_policy=host_policy)
    problems = check_config(config)
    if problems:
        raise ConfigurationError(f"connection {connection.name!r}: " + "; ".join(problems))
    make: Callable[[ConnectionConfig], Connector] = found
    return make(config)
