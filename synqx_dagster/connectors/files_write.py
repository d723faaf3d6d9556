"""Write sessions over files: rows are staged in Parquet files that nobody sees, and published by the commit.

Guarantee: readers see the old files until the commit and the new ones after it, and the ledger, the fence and the
rows change together; see `synqx_dagster.connectors.files_transaction`.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from synqx_dagster.connectors.duckdb_incoming import Incoming
from synqx_dagster.connectors.duckdb_lean import lean
from synqx_dagster.connectors.duckdb_merge import spell_merge
from synqx_dagster.connectors.file_database import quote
from synqx_dagster.connectors.files_database import OWN_PREFIX, KnownTable, qualify
from synqx_dagster.connectors.files_render import write_file, write_parquet
from synqx_dagster.connectors.files_statements import FilesStatements, Staging
from synqx_dagster.connectors.files_transaction import Output, Transaction
from synqx_dagster.connectors.files_types import from_carrier, literal
from synqx_dagster.connectors.merge_sql import MergeDialect, MergesBySql
from synqx_dagster.connectors.protocol import MergeSpec, RowChanges
from synqx_dagster.errors import DatabaseError, SynqxError
from synqx_dagster.model.table import Column, TableName, primary_key_of

if TYPE_CHECKING:
    import pyarrow as pa

_INCOMING = "_synqx_incoming"


class FilesWriteSession(FilesStatements, MergesBySql):
    """A write session; see `synqx_dagster.connectors.protocol.WriteSession`."""

    # --- staging ----------------------------------------------------------------------------------------------------

    def create_staging(
        self,
        target: TableName,
        columns: Sequence[Column],
        *,
        epoch: int,
        replaces: bool = True,
        key: Sequence[str] = (),
    ) -> TableName:
        """Create a staging table; where its rows become files it has all of the target's columns."""
        self._current().enter(target.schema or "")
        staging = TableName(f"{OWN_PREFIX}staging_{target.name}", target.schema)
        self.drop_staging(staging)
        known = self._database.find(target)
        shape = tuple(map(self._spell, columns))
        if known is not None:
            there = {column.name for column in known.columns}
            shape = (*known.columns, *(column for column in shape if column.name not in there))
        self._make_empty(staging, shape)
        self._stagings[staging] = Staging(target, epoch, shape)
        self._database.enter(KnownTable(staging, shape))
        return staging

    def drop_staging(self, staging: TableName) -> None:
        """Drop a staging table if it is there."""
        if self._stagings.pop(staging, None) is not None:
            self._database.forget(staging)

    def write_batches(
        self, table: TableName, columns: Sequence[Column], batches: Iterable[pa.RecordBatch]
    ) -> tuple[int, int]:
        """Write record batches straight into a Parquet file; its staging table is a view over it."""
        transaction = self._current()
        stream = Incoming(batches)
        if stream.schema is None:
            return 0, 0
        connection = self._database.connection
        connection.register(_INCOMING, stream.reader())
        try:
            names = {f"c{position}": column.name for position, column in enumerate(columns)}
            with (
                self._database.errors("writing to", names),
                lean(connection, len(columns), self._options.memory_limit, self._options.threads),
            ):
                staging = self._stagings.get(table)
                if staging is not None:
                    self._write_staging(transaction, table, staging, columns, stream.schema)
                else:
                    self._insert(transaction, table, columns, stream.schema)
        except SynqxError:
            transaction.has_failed = True
            if stream.failure is not None:
                # DuckDB wraps what the source of the batches raised; the source's own error says more.
                raise stream.failure from None
            raise
        finally:
            connection.unregister(_INCOMING)
        return stream.rows, stream.bytes

    def _write_staging(
        self,
        transaction: Transaction,
        table: TableName,
        staging: Staging,
        columns: Sequence[Column],
        arriving: pa.Schema,
    ) -> None:
        position = {column.name: at for at, column in enumerate(columns)}
        items = []
        for column in staging.columns:
            if column.name in position:
                value = from_carrier(arriving.field(position[column.name]), column)
                if not column.nullable:
                    alias = f"c{position[column.name]}"
                    value = f"CASE WHEN {alias} IS NULL THEN error('synqx null {alias}') ELSE {value} END"
            else:
                value = f"CAST(NULL AS {column.native_type})"
            items.append(f"{value} AS {quote(column.name)}")
        path = transaction.make_path(staging.table.schema or "", "parquet")
        compression = self._options.compression if self._options.file_format == "parquet" else "snappy"
        connection = self._database.connection
        write_parquet(connection, f"SELECT {', '.join(items)} FROM {_INCOMING}", path, compression)
        known = self._database.find(table)
        assert known is not None
        if not staging.paths:
            known.sql = f"SELECT * FROM read_parquet([{literal(str(path))}])"
            connection.execute(f"DROP TABLE {qualify(table)}")
        elif known.sql:
            listing = ", ".join(literal(str(written)) for written in (*staging.paths, path))
            known.sql = f"SELECT * FROM read_parquet([{listing}])"
        else:
            connection.execute(f"INSERT INTO {qualify(table)} SELECT * FROM read_parquet({literal(str(path))})")
        staging.paths.append(path)
        if known.sql:
            connection.execute(f"CREATE OR REPLACE VIEW {qualify(table)} AS {known.sql}")

    def _insert(
        self, transaction: Transaction, table: TableName, columns: Sequence[Column], arriving: pa.Schema
    ) -> None:
        """Insert batches into a table that is not a staging table."""
        transaction.enter(table.schema or "")
        known = self._database.find(table)
        if known is None:
            raise DatabaseError(f"there is no table {table}")
        by_name = {column.name: column for column in known.columns}
        values = ", ".join(
            from_carrier(field, by_name[column.name]) for field, column in zip(arriving, columns, strict=True)
        )
        # A table of its own, so that the statement may run again.
        rows = f"{OWN_PREFIX}rows_{transaction.count_rows_table()}"
        self._database.connection.execute(f"CREATE TEMP TABLE {rows} AS SELECT {values} FROM {_INCOMING}")
        names = ", ".join(quote(column.name) for column in columns)
        self._run(f"INSERT INTO {qualify(table)} ({names}) SELECT * FROM temp.{rows}", ())

    # --- publishing -------------------------------------------------------------------------------------------------

    def publish_replace(
        self, staging: TableName, target: TableName, columns: Sequence[Column], primary_key: Sequence[str]
    ) -> RowChanges:
        """Have the staged rows take the place of the target's files at the commit."""
        deleted = self._count(target) if self._database.find(target) is not None else 0
        return RowChanges(self._publish(staging, target, primary_key, adds=False), deleted=deleted)

    def publish_append(self, staging: TableName, target: TableName, columns: Sequence[Column]) -> RowChanges:
        """Have the staged rows added to the target, as a file of their own, at the commit."""
        return RowChanges(self._publish(staging, target, (), adds=True))

    def publish_merge(
        self, staging: TableName, target: TableName, columns: Sequence[Column], merge: MergeSpec
    ) -> RowChanges:
        """Merge the staged rows into the target, which is written as a whole at the commit."""
        held = self._held.get(target)
        if held is not None and held.files is None and merge.deleted_flag is None and not self._count(target):
            # A new table: its rows need no detour.
            return RowChanges(self._publish(staging, target, (), adds=False))
        return super().publish_merge(staging, target, columns, merge)

    def _qualify(self, table: TableName) -> str:
        return qualify(table)

    def _merge_dialect(self, target: TableName) -> MergeDialect:
        return spell_merge()

    def _publish(self, staging: TableName, target: TableName, primary_key: Sequence[str], *, adds: bool) -> int:
        transaction = self._current()
        staged = self._stagings[staging]
        known = self._database.find(target)
        held = self._held.get(target)
        keyed = known.columns if known is not None else staged.columns
        key = primary_key_of(keyed) or tuple(primary_key)
        if known is None:
            keyed = tuple(
                dataclasses.replace(column, key_position=key.index(column.name) + 1 if column.name in key else None)
                for column in keyed
            )
        if held is not None and adds and held.files is not None:
            # Statements have changed the target's rows; all of them are written at the commit.
            rows = self._count(staging)
            self._run(f"INSERT INTO {qualify(target)} SELECT * FROM {qualify(staging)}", ())
            self.drop_staging(staging)
            return rows
        old = known if known is not None and known.sql else None
        self._check_key(transaction, staging, key, old.name if adds and old is not None else None)
        rows = self._count(staging)
        if rows or not adds or old is None:
            before = known.files if known is not None else None
            path = self._render(transaction, staging, staged)
            part = f"part-{staged.epoch:010d}"
            is_part = adds and not (held is not None and before is not None)
            transaction.outputs.append(Output(target, keyed, path, part, before, adds=is_part))
        self._held.pop(target, None)
        self._show(staging, target, keyed, old if adds else None, known)
        self._stagings.pop(staging)
        return rows

    def _render(self, transaction: Transaction, staging: TableName, staged: Staging) -> Path:
        """The staged rows as one file of the connection's format."""
        known = self._database.find(staging)
        is_whole = known is not None and known.sql and len(staged.paths) == 1
        if is_whole and self._options.file_format == "parquet":
            return staged.paths[0]
        path = transaction.make_path(staged.table.schema or "", self._options.extension)
        with self._database.errors("writing to"):
            write_file(self._database.connection, qualify(staging), staged.columns, path, self._options)
        return path

    def _show(
        self,
        staging: TableName,
        target: TableName,
        columns: tuple[Column, ...],
        old: KnownTable | None,
        known: KnownTable | None,
    ) -> None:
        """Have the session see the target as it will be after the commit."""
        connection = self._database.connection
        rows = self._database.find(staging)
        assert rows is not None
        with self._database.errors("writing to"):
            source = rows.sql
            if not source:
                hidden = TableName(f"{OWN_PREFIX}published_{len(self._current().outputs)}", target.schema)
                connection.execute(f"ALTER TABLE {qualify(staging)} RENAME TO {quote(hidden.name)}")
                source = f"SELECT * FROM {qualify(hidden)}"
            else:
                connection.execute(f"DROP VIEW {qualify(staging)}")
            self._database.forget(target)
            names = ", ".join(quote(column.name) for column in columns)
            sql = f"SELECT {names} FROM ({source})"
            if old is not None:
                sql = f"SELECT {names} FROM ({old.sql}) UNION ALL {sql}"
            connection.execute(f"CREATE VIEW {qualify(target)} AS {sql}")
        self._database.enter(KnownTable(target, columns, known.files if known is not None else None, sql=sql))
