"""Read and write sessions of MySQL and MariaDB.

Guarantee: a read session sees one snapshot (of InnoDB tables) in a read-only transaction; a write session publishes by
rows, not by renaming, because DDL would commit: views, grants, indexes and keys of the target stay as they are.
"""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from synqx_dagster.connectors.merge_sql import MergeDialect, MergesBySql
from synqx_dagster.connectors.mysql_catalog import column_of_field, read_columns
from synqx_dagster.connectors.mysql_changes import MysqlChanges
from synqx_dagster.connectors.mysql_checksum import MysqlChecksums
from synqx_dagster.connectors.mysql_connect import Server
from synqx_dagster.connectors.mysql_errors import LOST_CONNECTION, code_of, wrap_error
from synqx_dagster.connectors.mysql_merge import find_unique_keys, spell_merge
from synqx_dagster.connectors.mysql_names import qualify, quote
from synqx_dagster.connectors.mysql_privileges import find_missing
from synqx_dagster.connectors.mysql_staging import StagingTables
from synqx_dagster.connectors.mysql_types import GEOMETRIES, NativeType, key_type, native_type
from synqx_dagster.connectors.mysql_values import fill_parameters, to_literals
from synqx_dagster.connectors.protocol import (
    Encoded,
    MissingPrivilege,
    ReadLimits,
    RowChanges,
    TableNeed,
    carrier_type,
    untrusted_text,
)
from synqx_dagster.connectors.query_guard import limit_batches
from synqx_dagster.errors import (
    BadRowsError,
    CommitUnknownError,
)
from synqx_dagster.model.table import Column, TableName
from synqx_dagster.model.types import DataType

if TYPE_CHECKING:
    import pyarrow as pa
    import pymysql

#: One INSERT: many rows for one round trip, and far below any usual max_allowed_packet.
STATEMENT_BYTES = 1024 * 1024

#: Codes of the protocol whose text is a number (for queries of the engine's own).
_INTEGERS = (1, 2, 3, 8, 9, 13)
_TYPED: dict[int, Callable[[str], object]] = {**dict.fromkeys(_INTEGERS, int), 4: float, 5: float}

#: Warnings that speak of a value which is not stored as it was given.
_LOSSY_WARNINGS = frozenset({1048, 1264, 1265, 1292, 1366, 1406})


class _Session:
    """What reading and writing share: statements on one connection, with errors wrapped once."""

    def __init__(self, connection: pymysql.Connection[Any], server: Server, database: str, place: str) -> None:
        # Some of what is used of the driver is not in its stubs.
        self._connection: Any = connection
        self._server = server
        self._database = database
        self._place = place

    @contextmanager
    def _errors(self, doing: str, columns: Sequence[str] = ()) -> Iterator[None]:
        import pymysql

        try:
            yield
        except pymysql.err.Error as exc:
            raise wrap_error(exc, f"{doing} {self._place}", columns) from exc

    def _run(self, sql: str) -> int:
        affected_rows: int = self._connection.query(sql)
        return affected_rows

    def fetch_all(self, sql: str, parameters: Sequence[object] = ()) -> list[tuple[object, ...]]:
        """Run one query."""
        statement = fill_parameters(sql, parameters)
        with self._errors("reading"), self._decoding(_TYPED), self._connection.cursor() as cursor:
            cursor.execute(statement)
            return list(cursor.fetchall())

    @contextmanager
    def _decoding(self, decoders: dict[int, Callable[[str], object]]) -> Iterator[None]:
        # The driver binds its decoders when a result's header arrives.
        self._connection.decoders = decoders
        try:
            yield
        finally:
            self._connection.decoders = {}

    def find_columns(self, table: TableName) -> tuple[Column, ...] | None:
        """Columns of a table or view; None if there is none."""
        found = read_columns(self.fetch_all, self._server, table.schema or self._database, table.name)
        if table.name in found:
            return found[table.name]
        # Where names fold (lower_case_table_names) the server answers with its own spelling.
        folds = bool(found) and self.fetch_all("SELECT @@lower_case_table_names") != [(0,)]
        return next(iter(found.values())) if folds else None

    def find_missing(
        self, needs: Sequence[TableNeed], *, creates_beside: TableName | None = None
    ) -> list[MissingPrivilege]:
        """The privileges that the account lacks."""
        return find_missing(self.fetch_all, self._database, quote, needs, creates_beside)


class MysqlReadSession(_Session, MysqlChecksums):
    """A read session; see `synqx_dagster.connectors.protocol.ReadSession`."""

    def __init__(
        self, connection: pymysql.Connection[Any], server: Server, database: str, place: str, limits: ReadLimits
    ) -> None:
        super().__init__(connection, server, database, place)
        self._limits = limits
        #: Rows of a result are still on their way: the connection is of no use to anybody else.
        self.is_streaming = False
        with self._errors("reading"):
            if server.is_mariadb:
                self._run(f"SET SESSION max_statement_time = {limits.timeout_seconds}")
            else:
                self._run(f"SET SESSION max_execution_time = {int(limits.timeout_seconds * 1000)}")
            self._run("START TRANSACTION WITH CONSISTENT SNAPSHOT, READ ONLY")

    def describe_query(self, sql: str) -> tuple[Column, ...]:
        """Columns of a query's result, from a run that gives no row."""
        statement = sql.strip().rstrip(";")
        with self._errors("describing a query at"), self._connection.cursor() as cursor:
            cursor.execute(f"SELECT * FROM (\n{statement}\n) AS described LIMIT 0")
            # DB-API's description lacks the sign and the character set.
            fields = cursor._result.fields
        return tuple(column_of_field(field) for field in fields)

    def encode(self, expression: str, data_type: DataType, native_type: str | None = None) -> Encoded:
        """An expression in its carrier, by the server's own text of it."""
        import pyarrow as pa

        native = NativeType.parse(native_type or "")
        carrier = carrier_type(data_type)
        match data_type.kind:
            case "real" | "float":
                # Of a FLOAT the server prints six digits; as a double it prints them all.
                return Encoded(f"({expression} * 1e0)", carrier)
            case "date":
                return Encoded(expression, untrusted_text())
            case "time" | "timestamp":
                return Encoded(_without_idle_zeros(expression, native), untrusted_text())
            case "timestamptz":
                sql = f"CONCAT({_without_idle_zeros(expression, native)}, '+00')"
                return Encoded(sql, untrusted_text())
            case "boolean":
                # MySQL has no boolean; an expression may give any number.
                sql = f"CASE {expression} WHEN 0 THEN 'false' WHEN 1 THEN 'true' ELSE {expression} END"
                return Encoded(sql, untrusted_text())
            case "decimal" if native.is_zerofill:
                return Encoded(f"({expression} + 0)", carrier)
            case "string" if native.name == "bit":
                width = native.numbers[0] if native.numbers else 1
                return Encoded(f"LPAD(BIN({expression} + 0), {width}, '0')", pa.string())
            case "string" if native.name in GEOMETRIES:
                prefix = f"IF(ST_SRID({expression}) = 0, '', CONCAT('SRID=', ST_SRID({expression}), ';'))"
                return Encoded(f"CONCAT({prefix}, ST_AsText({expression}))", pa.string())
            case _:
                return Encoded(expression, carrier)

    def fetch_value(self, sql: str) -> object:
        """The first column of the first row; None without a row."""
        rows = self.fetch_all(sql)
        return rows[0][0] if rows else None

    def cancel(self) -> None:
        """Break the connection: the waiting thread fails, and the server ends the query when it next sends rows."""
        # A KILL QUERY would need a second connection, which a full server may not give. pymysql has no other way.
        stream = self._connection._sock
        if stream is not None:
            with contextlib.suppress(OSError):
                stream.shutdown(socket.SHUT_RDWR)

    def iter_batches(self, sql: str, schema: pa.Schema, *, batch_rows: int) -> Iterator[pa.RecordBatch]:
        """Rows of a query as record batches; the server sends them as they are taken."""
        from pymysql.cursors import SSCursor

        from synqx_dagster.connectors.mysql_rows import TextRows

        cursor: Any = SSCursor(self._connection)
        self.is_streaming = True
        try:
            with self._errors("reading"):
                cursor.execute(sql)
                rows = TextRows(self._connection, cursor._result)
                yield from limit_batches(rows.iter_batches(schema, batch_rows), self._limits)
                self.is_streaming = not rows.is_over
        finally:
            if self.is_streaming:
                _break_off(cursor)
            cursor.close()

    def read_tables(self, database: str) -> dict[str, tuple[Column, ...]]:
        """Columns of all tables and views of a database."""
        return read_columns(self.fetch_all, self._server, database)


def _without_idle_zeros(expression: str, native: NativeType) -> str:
    """The text of a time without the zeros that fill up its fraction of a second."""
    trimmed = f"TRIM(TRAILING '.' FROM TRIM(TRAILING '0' FROM {expression}))"
    if native.numbers:
        return trimmed
    if native.name:
        return expression
    # Of an expression the digits are not known; without a point the zeros are seconds.
    return f"IF(LOCATE('.', {expression}), {trimmed}, {expression})"


def _break_off(cursor: Any) -> None:
    """Let go of a result that is still arriving; the driver would read it to its end, by way of a finaliser at last."""
    result = cursor._result
    if result is not None:
        result.unbuffered_active = False
        result.connection = None
    cursor._result = None
    cursor.connection = None


class MysqlWriteSession(_Session, StagingTables, MergesBySql, MysqlChanges):
    """A write session; see `synqx_dagster.connectors.protocol.WriteSession`.

    DDL commits here. A staging table that is made in a transaction has therefore ended it, and each INSERT commits by
    itself; the ranges of a table that was there before are transactions, and so is publishing.
    """

    def __init__(self, connection: pymysql.Connection[Any], server: Server, database: str, place: str) -> None:
        super().__init__(connection, server, database, place)
        #: The connection broke; it is of no use to anybody else.
        self.is_broken = False
        self._held = {}

    def close(self) -> None:
        """Let go of what would outlive the session on its connection."""
        import pymysql

        try:
            self.leave_writers()
        except pymysql.err.Error:
            self.is_broken = True

    def begin(self) -> None:
        """Start a transaction."""
        self.execute("START TRANSACTION")

    def commit(self) -> None:
        """Make the transaction durable."""
        import pymysql

        try:
            self._run("COMMIT")
        except pymysql.err.Error as exc:
            if code_of(exc) in LOST_CONNECTION:
                self.is_broken = True
                raise CommitUnknownError(
                    f"writing to {self._place}: the connection broke during COMMIT, which may have happened"
                ) from exc
            raise wrap_error(exc, f"writing to {self._place}") from exc

    def rollback(self) -> None:
        """Undo the transaction; silent when none is open or the connection is gone."""
        import pymysql

        try:
            self._run("ROLLBACK")
        except pymysql.err.Error:
            # A connection that is gone has rolled back.
            self.is_broken = True

    def execute(self, sql: str, parameters: Sequence[object] = ()) -> int:
        """Run one statement."""
        with self._errors("writing to"):
            return self._run(fill_parameters(sql, parameters))

    def lock_row_suffix(self) -> str:
        """Locks the rows that a SELECT reads."""
        return "FOR UPDATE"

    def ensure_schema(self, table: TableName) -> None:
        """Create the table's database if it is missing."""
        if table.schema is not None:
            self.execute(f"CREATE DATABASE IF NOT EXISTS {quote(table.schema)}")

    def create_table(self, table: TableName, columns: Sequence[Column], primary_key: Sequence[str]) -> None:
        """Create an empty InnoDB table whose texts are equal only if they are the same."""
        lines = []
        for column in columns:
            spelt = key_type(column) if column.name in primary_key else native_type(column)
            # Said both ways: a TIMESTAMP that says neither is not null on some servers.
            lines.append(f"{quote(column.name)} {spelt} {'NULL' if column.nullable else 'NOT NULL'}")
        if primary_key:
            lines.append(f"PRIMARY KEY ({', '.join(map(quote, primary_key))})")
        self.execute(f"CREATE TABLE {qualify(table)} ({', '.join(lines)}) {self._table_options()}")

    def create_current_index(self, table: TableName, key: Sequence[str], is_current: str) -> None:
        """Nothing: the primary key finds a key's versions, and an index over some of the rows is not known."""

    def find_unique_keys(self, table: TableName) -> tuple[tuple[str, ...], ...]:
        """Columns of each unique index; the primary key first."""
        return find_unique_keys(self.fetch_all, table.schema or self._database, table.name)

    def lock_table(self, table: TableName) -> None:
        """Nothing: LOCK TABLES would commit, and the transaction's snapshot keeps the counts of one moment."""

    def current_moment(self) -> str:
        """The server's clock."""
        return f"{self.fetch_all('SELECT CAST(UTC_TIMESTAMP(6) AS CHAR)')[0][0]}+00"

    def _table_options(self) -> str:
        return f"ENGINE=InnoDB DEFAULT CHARACTER SET utf8mb4 COLLATE {self._server.binary_collation}"

    def write_batches(
        self, table: TableName, columns: Sequence[Column], batches: Iterable[pa.RecordBatch]
    ) -> tuple[int, int]:
        """Insert record batches by statements of about a megabyte each."""
        names = [column.name for column in columns]
        head = f"INSERT INTO {qualify(table)} ({', '.join(map(quote, names))}) VALUES ".encode()
        rows = bytes_written = 0
        for batch in batches:
            literals = [to_literals(array, column) for array, column in zip(batch.columns, columns, strict=True)]
            tuples = ("(" + ",".join(values) + ")" for values in zip(*literals, strict=True))
            for statement in self._statements(head, tuples):
                self._insert(statement, names)
            rows += batch.num_rows
            bytes_written += batch.nbytes
        return rows, bytes_written

    def _statements(self, head: bytes, tuples: Iterable[str]) -> Iterator[bytes]:
        """Statements that hold the rows, none larger than what the server takes."""
        # The packet also holds a byte for the command.
        most = self._server.max_allowed_packet_bytes - 1
        wanted = min(STATEMENT_BYTES, most)
        pieces: list[bytes] = []
        size = len(head)
        for row in tuples:
            piece = row.encode()
            if len(head) + len(piece) > most:
                raise BadRowsError(
                    f"writing to {self._place}: a row of {len(piece):,} bytes is larger than the server takes",
                    hint=f"raise max_allowed_packet there; it is {most + 1:,}",
                )
            if pieces and size + len(piece) + 1 > wanted:
                yield head + b",".join(pieces)
                pieces, size = [], len(head)
            pieces.append(piece)
            size += len(piece) + 1
        if pieces:
            yield head + b",".join(pieces)

    def _insert(self, statement: bytes, names: Sequence[str]) -> None:
        with self._errors("writing to", names):
            self._connection.query(statement)
        # Every answer says how many warnings there are; asking for them costs a round trip.
        if self._connection._result.warning_count:
            self._refuse_lossy(self.fetch_all("SHOW WARNINGS"), names)

    def _refuse_lossy(self, warnings: Iterable[Sequence[object]], names: Sequence[str]) -> None:
        """Even a strict server rounds a decimal and cuts blanks with no more than a note."""
        import pymysql

        for _, code, message in warnings:
            if int(str(code)) in _LOSSY_WARNINGS:
                raise wrap_error(pymysql.err.DataError(int(str(code)), message), f"writing to {self._place}", names)

    def publish_replace(
        self, staging: TableName, target: TableName, columns: Sequence[Column], primary_key: Sequence[str]
    ) -> RowChanges:
        """Replace the target's rows within the open transaction; the staging table is dropped later."""
        return self._publish(staging, target, columns, f"DELETE FROM {qualify(target)}")

    def publish_partition(
        self, staging: TableName, target: TableName, columns: Sequence[Column], inside: str
    ) -> RowChanges:
        """Replace the target's rows that hold a condition; the staging table is dropped later."""
        return self._publish(staging, target, columns, f"DELETE FROM {qualify(target)} WHERE {inside}")

    def publish_append(self, staging: TableName, target: TableName, columns: Sequence[Column]) -> RowChanges:
        """Add the staged rows within the open transaction; the staging table is dropped later."""
        return self._publish(staging, target, columns, None)

    def _publish(
        self, staging: TableName, target: TableName, columns: Sequence[Column], before: str | None
    ) -> RowChanges:
        self._refuse_unsafe_engine(target)
        names = ", ".join(quote(column.name) for column in columns)
        insert = f"INSERT INTO {qualify(target)} ({names}) SELECT {names} FROM {qualify(staging)}"
        # InnoDB checks foreign keys row by row: the rows of other tables that refer to this one would forbid the
        # DELETE, or be deleted with it.
        self.execute("SET SESSION foreign_key_checks = 0")
        try:
            deleted = 0 if before is None else self._change_rows(before, columns)
            return RowChanges(self._change_rows(insert, columns), deleted=deleted)
        finally:
            self._restore_foreign_keys()

    def _change_rows(self, sql: str, columns: Sequence[Column]) -> int:
        names = [column.name for column in columns]
        with self._errors("writing to", names):
            rows = self._run(sql)
        if self._connection._result.warning_count:
            self._refuse_lossy(self.fetch_all("SHOW WARNINGS"), names)
        return rows

    def _end_staging(self, staging: TableName) -> None:
        """Nothing: a DROP would commit."""

    def _qualify(self, table: TableName) -> str:
        return qualify(table)

    def _merge_dialect(self, target: TableName) -> MergeDialect:
        self._refuse_unsafe_engine(target)
        return spell_merge(quote)

    def _restore_foreign_keys(self) -> None:
        import pymysql

        try:
            self._run("SET SESSION foreign_key_checks = 1")
        except pymysql.err.Error:
            # The connection is gone, and its settings with it.
            self.is_broken = True
