"""The connector ``ndjson``: tables that a service exports over HTTP as newline-delimited JSON, read only."""

from __future__ import annotations

import io
import threading
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import ClassVar

from synqx_connector_ndjson.download import download, path_of, scheme_of
from synqx_connector_ndjson.session import DIALECT, NdjsonReadSession, qualify, quote
from synqx_dagster.connectors.protocol import (
    Capabilities,
    ConnectionConfig,
    ConnectionReport,
    ReadLimits,
    TableDescription,
    WriteSession,
)
from synqx_dagster.errors import ConnectionFailedError, PlanError, SynqxError
from synqx_dagster.model.table import Column, TableName
from synqx_dagster.model.types import DataType

_OPTIONS = {"tables": str, "suffix": str, "timeout_seconds": float, "max_bytes": int}


class NdjsonConnector:
    """A service's exports; see `synqx_dagster.connectors.protocol.Connector`."""

    db_type: ClassVar[str] = "ndjson"
    dialect: ClassVar[str] = DIALECT
    capabilities: ClassVar[Capabilities] = Capabilities(writes=False, folds_case=True, secures_network=True)

    def __init__(self, config: ConnectionConfig) -> None:
        self.config = config

    @property
    def tables(self) -> list[str]:
        """The tables that the connection names: HTTP has no way to ask for them."""
        return [name.strip() for name in str(self.config.options.get("tables", "")).split(",") if name.strip()]

    @classmethod
    def check_config(cls, config: ConnectionConfig) -> list[str]:
        """What is wrong with a configuration; called before the password is known."""
        problems = []
        if not config.host:
            problems.append("host: give the server of the exports")
        if not config.options.get("tables"):
            problems.append("options.tables: name the exports, such as orders,customers")
        for name, value in config.options.items():
            if name not in _OPTIONS:
                problems.append(f"options.{name}: ndjson has the options {', '.join(_OPTIONS)}")
            elif _OPTIONS[name] is str and not isinstance(value, str):
                problems.append(f"options.{name}: write a text")
            elif _OPTIONS[name] is not str and (isinstance(value, (str, bool)) or value <= 0):
                problems.append(f"options.{name}: write a number above 0")
        return problems

    def test(self, *, timeout_seconds: float = 5.0) -> ConnectionReport:
        """Fetch the first table within the limit; whatever the network does becomes a report."""
        reports: list[ConnectionReport] = []
        worker = threading.Thread(target=lambda: reports.append(self._look(timeout_seconds)), daemon=True)
        worker.start()
        worker.join(timeout_seconds)
        late = ConnectionReport(False, f"{self.config.host} did not answer in time", reason="timeout")
        return reports[0] if reports else late

    def _look(self, timeout_seconds: float) -> ConnectionReport:
        start = time.monotonic()
        try:
            download(self.config, self.tables[0], io.BytesIO(), timeout_seconds=timeout_seconds)
        except ConnectionFailedError as exc:
            return ConnectionReport(False, exc.message, reason=exc.reason, hint=exc.hint)
        except SynqxError as exc:
            return ConnectionReport(False, exc.message, reason="unknown", hint=exc.hint)
        return ConnectionReport(
            True,
            f"{self.config.host}{path_of(self.config, self.tables[0])} is there",
            server_version=scheme_of(self.config).upper(),
            latency_seconds=time.monotonic() - start,
            can_read=True,
            can_write=False,
            tls="on" if scheme_of(self.config) == "https" else "off",
        )

    def discover(self, schema: str | None = None) -> list[TableDescription]:
        """The tables with their columns; reads all of them, because only their lines know their types."""
        if schema not in (None, "main"):
            return []
        with self.read() as session:
            found = [(TableName(name), session.find_columns(TableName(name))) for name in sorted(self.tables)]
        return [TableDescription(table, columns) for table, columns in found if columns is not None]

    def quote(self, identifier: str) -> str:
        """An identifier in double quotes."""
        return quote(identifier)

    def qualify(self, table: TableName) -> str:
        """A table's quoted name."""
        return qualify(table)

    def native_type(self, column: Column) -> str:
        """No column is ever created here.

        Raises:
            PlanError: Always.
        """
        raise PlanError("ndjson is read only")

    def holds(self, data_type: DataType) -> str | None:
        """What could be stored; nothing is, so nothing is ruled out."""
        return None

    @contextmanager
    def read(self, limits: ReadLimits | None = None) -> Iterator[NdjsonReadSession]:
        """Open a read session."""
        session = NdjsonReadSession(self.config, self.tables, limits or ReadLimits())
        try:
            yield session
        finally:
            session.close()

    def write(self) -> AbstractContextManager[WriteSession]:
        """Not here.

        Raises:
            PlanError: Always.
        """
        raise PlanError("ndjson is read only", hint="`capabilities.writes` says so to whoever asks first")

    def close(self) -> None:
        """Nothing is kept between sessions."""
