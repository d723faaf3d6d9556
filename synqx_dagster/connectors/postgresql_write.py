"""Writes to PostgreSQL: one connection, explicit transactions, COPY for rows, one publication for a whole load.

Guarantee: until `commit` nobody else sees anything; after it readers see the new rows, never an empty or half-loaded
table, and what belongs to the target or depends on it is still there.
"""

from __future__ import annotations

import contextlib
import uuid
from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, BinaryIO

from synqx_dagster.connectors.postgresql_changes import PostgresqlChanges
from synqx_dagster.connectors.postgresql_columns import DEFAULT_SCHEMA, find_columns
from synqx_dagster.connectors.postgresql_connect import settings_sql
from synqx_dagster.connectors.postgresql_csv import stream_batches
from synqx_dagster.connectors.postgresql_errors import sqlstate_of, translate_refused_commit, wrap_errors
from synqx_dagster.connectors.postgresql_identity import lacks_identity, set_full_identity
from synqx_dagster.connectors.postgresql_merge import (
    create_current_index,
    find_unique_keys,
    keep_history,
    keep_room,
    lock_table,
    merge_rows,
)
from synqx_dagster.connectors.postgresql_names import qualify, quote, quote_names, to_pyformat
from synqx_dagster.connectors.postgresql_privileges import find_missing
from synqx_dagster.connectors.postgresql_replace import find_obstacles, find_oid, swap
from synqx_dagster.connectors.postgresql_rows import advance_sequences, append_rows, replace_rows
from synqx_dagster.connectors.postgresql_shared import current_transaction, evict_writers, may_take_place
from synqx_dagster.connectors.postgresql_trailer import WithoutTrailer
from synqx_dagster.connectors.postgresql_types import native_type
from synqx_dagster.connectors.protocol import (
    ConnectionConfig,
    HistorySpec,
    MergeSpec,
    MissingPrivilege,
    RowChanges,
    TableNeed,
)
from synqx_dagster.errors import BadRowsError, CommitUnknownError, FatalError, PlanError, SynqxError
from synqx_dagster.model.table import Column, TableName

if TYPE_CHECKING:
    import pyarrow as pa

#: How much of a binary COPY stream is sent at a time; psycopg2's own 8 KiB costs a third of the speed.
COPY_BYTES = 1024 * 1024

#: LIKE copies these onto a staging table that can take its target's place. NOT NULL comes without being named.
_LIKE = "INCLUDING DEFAULTS INCLUDING CONSTRAINTS INCLUDING GENERATED INCLUDING STORAGE INCLUDING COMMENTS"

#: The states after which a transaction is certainly rolled back, although COMMIT failed.
_ROLLED_BACK_CLASSES = ("23", "40")


class PostgresqlWriteSession(PostgresqlChanges):
    """One connection to a target; see `synqx_dagster.connectors.protocol.WriteSession`."""

    def __init__(self, connection: Any, config: ConnectionConfig) -> None:
        self._connection = connection
        self._config = config
        self._action = f"writing to {config.name!r}"
        self._cursor = connection.cursor()
        #: Staging tables made in this transaction: to be copied into with FREEZE; the value says if they may swap.
        self._staged: dict[TableName, bool] = {}
        #: Tables made in this transaction for good.
        self._created: set[TableName] = set()
        #: Staging tables that other sessions have filled, and a transaction number after all of theirs.
        self._adopted: dict[TableName, int] = {}

    # --- transactions ---------------------------------------------------------------------------------------

    def begin(self) -> None:
        """Start a read committed transaction, so that a row lock is followed by a look at what it waited for."""
        with wrap_errors(self._action):
            self._staged.clear()
            self._created.clear()
            # A policy would hide rows from a DELETE in silence; with row_security off the server refuses instead.
            self._cursor.execute(
                "BEGIN ISOLATION LEVEL READ COMMITTED READ WRITE; SET LOCAL row_security = off; "
                + settings_sql(self._config, local=True)
            )

    def commit(self) -> None:
        """Make the transaction durable."""
        import psycopg2

        try:
            self._cursor.execute("COMMIT")
        except psycopg2.Error as error:
            state = sqlstate_of(error)
            if state is not None and state[:2] in _ROLLED_BACK_CLASSES:
                # A deferred constraint, or a conflict with another transaction.
                raise translate_refused_commit(error, self._action, self._config.name) from None
            raise CommitUnknownError(
                f"{self._action}: the reply to COMMIT was lost",
                hint="the next attempt finds out from the ledger",
                sqlstate=state,
            ) from None
        if self._cursor.statusmessage != "COMMIT":
            # The server answers COMMIT of a failed transaction with ROLLBACK and no error.
            raise FatalError(f"{self._action}: the transaction had failed and was rolled back")

    def rollback(self) -> None:
        """Undo the transaction; silent when none is open or the connection is gone."""
        import psycopg2

        with contextlib.suppress(psycopg2.Error):
            if not self._connection.closed and self.in_transaction:
                self._cursor.execute("ROLLBACK")

    @property
    def in_transaction(self) -> bool:
        """Whether a transaction is open, failed or not."""
        from psycopg2.extensions import TRANSACTION_STATUS_IDLE

        return bool(self._connection.info.transaction_status != TRANSACTION_STATUS_IDLE)

    # --- statements -----------------------------------------------------------------------------------------

    def execute(self, sql: str, parameters: Sequence[object] = ()) -> int:
        """Run one statement; returns the affected rows, -1 if unknown."""
        self._run(sql, parameters)
        affected: int = self._cursor.rowcount
        return affected

    def fetch_all(self, sql: str, parameters: Sequence[object] = ()) -> list[tuple[object, ...]]:
        """Run one query."""
        self._run(sql, parameters)
        with wrap_errors(self._action):
            return [
                tuple(bytes(value) if isinstance(value, memoryview) else value for value in row)
                for row in self._cursor.fetchall()
            ]

    def _run(self, sql: str, parameters: Sequence[object]) -> None:
        if any(isinstance(value, str) and "\x00" in value for value in parameters):
            raise BadRowsError(f"{self._action}: text holds a NUL character, which PostgreSQL cannot store")
        with wrap_errors(self._action, rows_at=self._rows_at):
            if parameters:
                self._cursor.execute(to_pyformat(sql), tuple(parameters))
            else:
                self._cursor.execute(sql)

    def lock_row_suffix(self) -> str:
        """FOR UPDATE."""
        return "for update"

    def find_columns(self, table: TableName) -> tuple[Column, ...] | None:
        """Columns of a table in order; None if there is none."""
        with wrap_errors(self._action):
            return find_columns(self._cursor, table)

    def find_missing(
        self, needs: Sequence[TableNeed], *, creates_beside: TableName | None = None
    ) -> list[MissingPrivilege]:
        """The privileges that the user lacks."""
        with wrap_errors(self._action):
            return find_missing(self._cursor, needs, creates_beside)

    # --- tables ---------------------------------------------------------------------------------------------

    def ensure_schema(self, table: TableName) -> None:
        """Create the table's schema if it is missing; needs no privilege when it is there."""
        schema = table.schema or DEFAULT_SCHEMA
        with wrap_errors(self._action):
            self._cursor.execute("SELECT 1 FROM pg_catalog.pg_namespace WHERE nspname = %s", (schema,))
            if not self._cursor.rowcount:
                self._cursor.execute(f"CREATE SCHEMA IF NOT EXISTS {quote(schema)}")

    def create_table(self, table: TableName, columns: Sequence[Column], primary_key: Sequence[str]) -> None:
        """Create an empty table.

        Raises:
            PlanError: A column's type (an enum, a domain, an extension's) is not there.
        """
        definitions = self._define(table, columns)
        if primary_key:
            definitions.append(f"PRIMARY KEY ({quote_names(primary_key)})")
        with wrap_errors(self._action):
            self._cursor.execute(f"CREATE TABLE {qualify(table)} ({', '.join(definitions)})")
        if self.in_transaction:
            self._created.add(table)

    def keep_room(self, table: TableName) -> None:
        """Have the pages of an empty table keep room for rows that will be updated."""
        with wrap_errors(self._action):
            keep_room(self._cursor, table)

    def add_primary_key(self, table: TableName, key: Sequence[str]) -> None:
        """Give a table its primary key."""
        with wrap_errors(self._action, rows_at=str(table), columns=key):
            self._cursor.execute(f"ALTER TABLE {qualify(table)} ADD PRIMARY KEY ({quote_names(key)})")

    def identify_rows(self, table: TableName) -> None:
        """Have the whole row be the replica identity of a table without a key."""
        with wrap_errors(self._action):
            set_full_identity(self._cursor, table)

    def is_unidentified(self, table: TableName) -> bool:
        """Whether a table is published without a replica identity."""
        with wrap_errors(self._action):
            return lacks_identity(self._cursor, table)

    def _define(self, table: TableName, columns: Sequence[Column]) -> list[str]:
        spellings = [native_type(column) for column in columns]
        with wrap_errors(self._action):
            self._cursor.execute(
                "SELECT t.position::int FROM unnest(%s::text[]) WITH ORDINALITY AS t (spelling, position)"
                " WHERE pg_catalog.to_regtype(t.spelling) IS NULL ORDER BY 1",
                (spellings,),
            )
            missing = [position - 1 for (position,) in self._cursor.fetchall()]
        if missing:
            names = ", ".join(f"{columns[at].name!r} ({spellings[at]})" for at in missing)
            raise PlanError(
                f"{table}: the target database has no type for {names}",
                hint="create the type there, or give the column another type by target_schema",
                table=str(table),
            )
        return [
            f"{quote(column.name)} {spelling}{'' if column.nullable else ' NOT NULL'}"
            for column, spelling in zip(columns, spellings, strict=True)
        ]

    def create_current_index(self, table: TableName, key: Sequence[str], is_current: str) -> None:
        """Create an index over the current versions, which also keeps a key from having two."""
        with wrap_errors(self._action):
            create_current_index(self._cursor, table, key, is_current)

    def find_unique_keys(self, table: TableName) -> tuple[tuple[str, ...], ...]:
        """Columns of each unique index that covers all rows; the primary key first."""
        with wrap_errors(self._action):
            oid = find_oid(self._cursor, table)
            return () if oid is None else find_unique_keys(self._cursor, oid)

    def lock_table(self, table: TableName) -> None:
        """Have other writers wait until the transaction ends; readers go on."""
        with wrap_errors(self._action):
            lock_table(self._cursor, table, self._get_oid(table))

    def current_moment(self) -> str:
        """When the transaction began, by the server's clock."""
        rows = self.fetch_all(
            "SELECT pg_catalog.to_char(transaction_timestamp() AT TIME ZONE 'UTC', 'YYYY-MM-DD HH24:MI:SS.US') || '+00'"
        )
        return str(rows[0][0])

    def _get_oid(self, table: TableName) -> int:
        oid = find_oid(self._cursor, table)
        if oid is None:
            raise FatalError(f"{table} vanished while it was being loaded", table=str(table))
        return oid

    def create_staging(
        self,
        target: TableName,
        columns: Sequence[Column],
        *,
        epoch: int,
        replaces: bool = True,
        key: Sequence[str] = (),
    ) -> TableName:
        """Create an empty table beside the target, within the transaction.

        A target that is going to be replaced and can be swapped gets a full copy of its own columns. Else the staged
        rows are going to be inserted, and an unlogged table spares writing them to the log twice; nor can logical
        replication see it.
        """
        staging = TableName(f"_synqx_staging_{epoch}_{uuid.uuid4().hex[:12]}", target.schema or DEFAULT_SCHEMA)
        with wrap_errors(self._action):
            oid = find_oid(self._cursor, target)
            may_swap = replaces and oid is not None and not find_obstacles(self._cursor, oid)
            if may_swap:
                compression = " INCLUDING COMPRESSION" if self._connection.server_version >= 140000 else ""
                source = f"(LIKE {qualify(target)} {_LIKE}{compression})"
                self._cursor.execute(f"CREATE TABLE {qualify(staging)} {source}")
            elif oid is not None:
                self._create_unlogged(staging, target, columns)
            else:
                definitions = ", ".join(self._define(staging, columns))
                self._cursor.execute(f"CREATE UNLOGGED TABLE {qualify(staging)} ({definitions})")
        if self.in_transaction:
            self._staged[staging] = may_swap
        return staging

    def _create_unlogged(self, staging: TableName, target: TableName, columns: Sequence[Column]) -> None:
        """A bare table of the target's types and collations; what the target does not have is added."""
        there = {column.name for column in find_columns(self._cursor, target) or ()}
        kept = quote_names([column.name for column in columns if column.name in there])
        self._cursor.execute(
            f"CREATE UNLOGGED TABLE {qualify(staging)} AS SELECT {kept} FROM {qualify(target)} WITH NO DATA"
        )
        added = [column for column in columns if column.name not in there]
        for definition in self._define(staging, added) if added else ():
            self._cursor.execute(f"ALTER TABLE {qualify(staging)} ADD COLUMN {definition}")

    def create_shared_staging(
        self,
        target: TableName,
        columns: Sequence[Column],
        *,
        epoch: int,
        replaces: bool = True,
        key: Sequence[str] = (),
    ) -> TableName:
        """As `create_staging`, for other sessions to fill once the transaction has committed."""
        staging = self.create_staging(target, columns, epoch=epoch, replaces=replaces, key=key)
        with wrap_errors(self._action):
            # Copied into by other transactions than this one, so without FREEZE.
            may_swap = self._staged.pop(staging, False)
            if replaces and not may_swap and find_oid(self._cursor, target) is None:
                # It may become the table that the load creates.
                self._cursor.execute(f"ALTER TABLE {qualify(staging)} SET LOGGED")
                if lacks_identity(self._cursor, staging):
                    # Published as soon as it is there, as the target is: it cannot take its place, and rows that share
                    # a key could not be deleted from it.
                    self._cursor.execute(f"ALTER TABLE {qualify(staging)} SET UNLOGGED")
        return staging

    def join_writers(self, staging: TableName) -> None:
        """Nothing: the server's locks say which sessions use the table."""

    def evict_writers(self, staging: TableName) -> None:
        """End other sessions that hold a shared staging table."""
        with wrap_errors(self._action):
            evict_writers(self._cursor, staging)

    def become_table(self, staging: TableName, target: TableName) -> bool:
        """No: `publish_replace` lets it take the target's place, where no reader would find it empty."""
        return False

    def adopt_staging(self, staging: TableName) -> None:
        """Take over a shared staging table once all of its rows are committed."""
        with wrap_errors(self._action):
            self._adopted[staging] = current_transaction(self._cursor)

    def _may_swap_shared(self, staging: TableName, target: TableName) -> bool:
        adopted = self._adopted.get(staging)
        return adopted is not None and may_take_place(self._cursor, staging, target, adopted)

    def drop_staging(self, staging: TableName) -> None:
        """Drop a staging table if it is still there."""
        with wrap_errors(self._action):
            self._cursor.execute(f"DROP TABLE IF EXISTS {qualify(staging)}")

    # --- rows -----------------------------------------------------------------------------------------------

    def write_batches(
        self, table: TableName, columns: Sequence[Column], batches: Iterable[pa.RecordBatch]
    ) -> tuple[int, int]:
        """Insert record batches of carriers by COPY; returns rows and bytes sent."""
        sql = self._copy_sql(table, columns, "csv")
        names = [column.name for column in columns]

        def copy(source: Any) -> None:
            with wrap_errors(self._action, rows_at=str(table), columns=names):
                self._cursor.copy_expert(sql, source, COPY_BYTES)

        rows, size_bytes = stream_batches(batches, columns, str(table), copy, self._connection.cancel)
        if self._cursor.rowcount != rows:
            raise FatalError(f"{table}: {rows:,} rows were sent, the server took {self._cursor.rowcount:,}")
        return rows, size_bytes

    def copy_in(self, table: TableName, columns: Sequence[Column], source: BinaryIO) -> int:
        """Load binary COPY data until its end; returns the rows. A cut stream raises."""
        stream = WithoutTrailer(source)
        try:
            with wrap_errors(self._action, rows_at=str(table), columns=[column.name for column in columns]):
                self._cursor.copy_expert(self._copy_sql(table, columns, "binary"), stream, COPY_BYTES)
        except SynqxError:
            # The driver puts an error of its own in place of what stopped the stream, a Ctrl-C included.
            if stream.failure is not None:
                raise stream.failure from None
            raise
        rows: int = self._cursor.rowcount
        return rows

    def _copy_sql(self, table: TableName, columns: Sequence[Column], file_format: str) -> str:
        # Allowed for a table made in this transaction only. See postgresql_replace for what it is needed for.
        freeze = ", FREEZE true" if table in self._staged or table in self._created else ""
        names = quote_names([column.name for column in columns])
        return f"COPY {qualify(table)} ({names}) FROM STDIN (FORMAT {file_format}{freeze})"

    # --- publishing -----------------------------------------------------------------------------------------

    def publish_replace(
        self, staging: TableName, target: TableName, columns: Sequence[Column], primary_key: Sequence[str]
    ) -> RowChanges:
        """Make the staged rows the target's only rows.

        The staging table takes the target's place when nothing depends on the target and nobody reads it for long;
        else the target's rows are deleted and the staged ones inserted, which keeps the table itself.
        """
        with self._publishing(staging, target, columns) as (oid, names):
            if self._staged.get(staging) or self._may_swap_shared(staging, target):
                rows = self._count(staging)
                changes = RowChanges(inserted=rows, deleted=self._count(target), total=rows)
                if swap(self._cursor, staging, target, oid):
                    return changes
            changes = replace_rows(self._cursor, staging, target, oid, names)
            self.drop_staging(staging)
            return changes

    def publish_partition(
        self, staging: TableName, target: TableName, columns: Sequence[Column], inside: str
    ) -> RowChanges:
        """Make the staged rows the only ones of the target that hold a condition."""
        with self._publishing(staging, target, columns) as (oid, names):
            changes = replace_rows(self._cursor, staging, target, oid, names, inside)
            self.drop_staging(staging)
            return changes

    def publish_append(self, staging: TableName, target: TableName, columns: Sequence[Column]) -> RowChanges:
        """Add the staged rows to the target."""
        with self._publishing(staging, target, columns) as (_, names):
            inserted = append_rows(self._cursor, staging, target, names)
            self.drop_staging(staging)
            return RowChanges(inserted)

    @contextlib.contextmanager
    def _publishing(
        self, staging: TableName, target: TableName, columns: Sequence[Column]
    ) -> Iterator[tuple[int, list[str]]]:
        """The target's OID and the names of its columns, once its sequences are past the staged rows."""
        names = [column.name for column in columns]
        with wrap_errors(self._action, rows_at=str(target), columns=names):
            oid = self._get_oid(target)
            advance_sequences(self._cursor, staging, oid, names)
            yield oid, names

    def publish_merge(
        self, staging: TableName, target: TableName, columns: Sequence[Column], merge: MergeSpec
    ) -> RowChanges:
        """Merge the staged rows into the target."""
        with self._publishing(staging, target, columns) as (oid, _):
            changes = merge_rows(self._cursor, staging, target, oid, columns, merge)
            self.drop_staging(staging)
            return changes

    def publish_history(
        self, staging: TableName, target: TableName, columns: Sequence[Column], history: HistorySpec
    ) -> RowChanges:
        """Close and open versions in the target."""
        with wrap_errors(self._action, rows_at=str(target), columns=[column.name for column in columns]):
            kept = find_columns(self._cursor, target) or ()
            changes = keep_history(self._cursor, staging, target, columns, history, kept)
            self.drop_staging(staging)
            return changes

    def _count(self, table: TableName) -> int:
        self._cursor.execute(f"SELECT count(*) FROM {qualify(table)}")
        rows: int = self._cursor.fetchone()[0]
        return rows

    def close(self) -> None:
        """Roll back what is open; the connection itself belongs to the pool."""
        self.rollback()
        if not self._connection.closed:
            self._cursor.close()
