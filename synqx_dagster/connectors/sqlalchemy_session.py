"""What reading and writing over any dialect of SQLAlchemy share: statements on one connection.

Guarantee: errors are wrapped once, without what SQLAlchemy and the driver say beyond codes and names; a statement that
another thread waits for can be ended.
"""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection, CursorResult

from synqx_dagster.connectors.sqlalchemy_dialects import Facts
from synqx_dagster.connectors.sqlalchemy_errors import wrap_error
from synqx_dagster.connectors.sqlalchemy_names import Names
from synqx_dagster.connectors.sqlalchemy_types import column_of, quiet_reflection
from synqx_dagster.connectors.sqlalchemy_values import mark_parameters
from synqx_dagster.errors import SynqxError
from synqx_dagster.model.table import Column, TableName


class SqlalchemySession:
    """What reading and writing share: statements on one connection, with errors wrapped once."""

    def __init__(self, connection: Connection, facts: Facts, names: Names, place: str) -> None:
        self._connection = connection
        self._facts = facts
        self._names = names
        self._place = place
        self._dialect = connection.dialect
        self._stopped = threading.Event()
        self._cursor: Any = None
        #: The connection is of no use to anybody else.
        self.is_broken = False

    @contextmanager
    def _errors(self, doing: str, columns: Sequence[str] = ()) -> Iterator[None]:
        try:
            yield
        except sa.exc.SQLAlchemyError as exc:
            self.is_broken |= self._connection.invalidated
            raise self._wrap(exc, doing, columns) from None

    def _wrap(self, exc: sa.exc.SQLAlchemyError, doing: str, columns: Sequence[str] = ()) -> SynqxError:
        # Not "from exc": SQLAlchemy's error and the driver's below it may hold values.
        return wrap_error(
            exc, f"{doing} {self._place}", self._facts.sqlglot, columns=columns, stopped=self._stopped.is_set()
        )

    def _run(self, sql: str, parameters: Sequence[object] = (), **options: Any) -> CursorResult[Any]:
        marked = mark_parameters(sql, len(parameters), self._dialect.paramstyle, brackets=self._facts.sqlglot == "tsql")
        if parameters:
            return self._connection.exec_driver_sql(marked, tuple(parameters), execution_options=options)
        # Without parameters a driver must not look for marks in the text.
        return self._connection.exec_driver_sql(marked, execution_options={"no_parameters": True, **options})

    def prepare(self) -> None:
        """Make the settings without which values would depend on the server's."""
        with self._errors("setting up"):
            for statement in self._facts.session_statements:
                self._run(statement)
            # What a session sets in a transaction is undone by its rollback.
            self._connection.commit()

    def find_columns(self, table: TableName) -> tuple[Column, ...] | None:
        """Columns of a table or view; None if there is none."""
        with self._errors("reading the columns of"), quiet_reflection():
            inspector = sa.inspect(self._connection)
            try:
                reflected = inspector.get_columns(table.name, table.schema)
                key = inspector.get_pk_constraint(table.name, table.schema)["constrained_columns"]
            except sa.exc.NoSuchTableError:
                return None
        return tuple(column_of(item, key, self._dialect, self._facts) for item in reflected) or None

    def cancel(self) -> None:
        """End the statement that another thread waits for: by the driver's own call, or by breaking its connection."""
        self._stopped.set()
        proxy = self._connection.connection if not self._connection.closed else None
        raw: Any = proxy.driver_connection if proxy is not None else None
        for holder in (raw, self._cursor):
            cancel = getattr(holder, "cancel", None)
            if callable(cancel):
                # A driver whose statement has just ended may have nothing to cancel.
                with contextlib.suppress(self._dialect.loaded_dbapi.Error):
                    cancel()
                return
        stream = getattr(raw, "_sock", None) or getattr(raw, "_usock", None)
        if isinstance(stream, socket.socket):
            with contextlib.suppress(OSError):
                stream.shutdown(socket.SHUT_RDWR)
