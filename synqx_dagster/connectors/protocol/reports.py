"""What a connector says of a server and of its tables."""

from __future__ import annotations

from dataclasses import dataclass

from synqx_dagster.model.table import Column, TableName


@dataclass(frozen=True)
class ConnectionReport:
    """What `Connector.test` found. On failure ``reason`` is as in `ConnectionFailedError`."""

    ok: bool
    message: str
    reason: str | None = None
    hint: str | None = None
    server_version: str | None = None
    latency_seconds: float | None = None
    can_read: bool | None = None
    can_write: bool | None = None
    #: TLS version in use; "off" without TLS, None where the question makes no sense (a local file).
    tls: str | None = None


@dataclass(frozen=True)
class TableDescription:
    """A table or view found by `Connector.discover`. ``estimated_rows`` is the server's guess, None if it has none."""

    table: TableName
    columns: tuple[Column, ...]
    is_view: bool = False
    estimated_rows: int | None = None
