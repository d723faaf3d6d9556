"""Statements and transactions over files: SQL on a private DuckDB, made durable by one replaced document.

Guarantee: a statement that changes a table's rows works on a copy of them, and the commit writes that as a whole, if
the files are still those that were copied; a statement that failed makes the commit fail.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from synqx_dagster.connectors.file_database import process_moment, quote
from synqx_dagster.connectors.files_database import (
    OWN_PREFIX,
    FilesDatabase,
    KnownTable,
    Statement,
    qualify,
    read_statement,
)
from synqx_dagster.connectors.files_options import FilesOptions
from synqx_dagster.connectors.files_render import write_file
from synqx_dagster.connectors.files_store import Store, check_relative
from synqx_dagster.connectors.files_transaction import Output, Transaction
from synqx_dagster.connectors.files_types import make_column, native_type
from synqx_dagster.errors import BadRowsError, DatabaseError, SynqxError, TargetMismatchError
from synqx_dagster.model.table import Column, TableName, primary_key_of

#: DuckDB holds the rows without their constraints: what becomes nullable is known here alone.
_NULL_ALLOWED = re.compile(r'ALTER COLUMN ("(?:[^"]|"")+") DROP NOT NULL\s*$', re.IGNORECASE)

#: What a SELECT ends with to see, and keep, what other commits have made of SynqX's own tables.
LOCK_SUFFIX = "/* locked */"


@dataclass
class Staging:
    """A staging table: rows in Parquet files that nobody sees, under a view. ``table`` is where they belong."""

    table: TableName
    epoch: int
    columns: tuple[Column, ...]
    paths: list[Path] = field(default_factory=list)


class FilesStatements:
    """The part of a write session that runs statements and transactions; see `protocol.WriteSession`."""

    def __init__(self, store: Store, options: FilesOptions) -> None:
        self._store = store
        self._options = options
        self._database = FilesDatabase(store, options)
        self._transaction: Transaction | None = None
        self._stagings: dict[TableName, Staging] = {}
        #: Tables of files that the session holds itself, because statements have changed their rows.
        self._held: dict[TableName, KnownTable] = {}

    def close(self) -> None:
        """Roll back what is open and remove the session's files."""
        self.rollback()
        self._database.close()

    # --- transactions -----------------------------------------------------------------------------------------------

    def begin(self) -> None:
        """Start a transaction."""
        self.rollback()
        self._reset()
        self._transaction = Transaction(self._database, self._options)

    def commit(self) -> None:
        """Make the transaction durable; refuses one in which a statement failed."""
        transaction = self._transaction
        if transaction is None:
            raise DatabaseError("there is no transaction to commit")
        try:
            if transaction.has_failed:
                raise DatabaseError("a statement failed, so the transaction cannot commit")
            for table, known in self._held.items():
                self._write_held(table, known)
            transaction.commit()
        finally:
            self.rollback()

    def rollback(self) -> None:
        """Undo the transaction, if one is open."""
        transaction, self._transaction = self._transaction, None
        if transaction is not None:
            transaction.end()
            self._reset()

    def _reset(self) -> None:
        self._stagings = {}
        self._held = {}
        self._database.reset()

    def _current(self) -> Transaction:
        if self._transaction is None:
            raise DatabaseError("this happens in a transaction, and none is open")
        return self._transaction

    # --- statements -------------------------------------------------------------------------------------------------

    def execute(self, sql: str, parameters: Sequence[object] = ()) -> int:
        """Run one statement; outside of a transaction in one of its own."""
        if self._transaction is None:
            self.begin()
            try:
                affected = self.execute(sql, parameters)
                self.commit()
            finally:
                self.rollback()
            return affected
        rows = self._run(sql, parameters)
        # INSERT, UPDATE and DELETE answer with their count.
        return int(rows[0][0]) if len(rows) == 1 and isinstance(rows[0][0], int) else -1

    def fetch_all(self, sql: str, parameters: Sequence[object] = ()) -> list[tuple[object, ...]]:
        """Run one query; outside of a transaction on the files as they are now."""
        if self._transaction is not None:
            return self._run(sql, parameters)
        self._reset()
        self._database.prepare(read_statement(sql))
        with self._database.errors("reading"):
            rows: list[tuple[object, ...]] = self._database.connection.execute(sql, list(parameters)).fetchall()
        self._database.check_pins()
        return rows

    def lock_row_suffix(self) -> str:
        """A comment that makes this session look again, and where there are locks keep others out until its end."""
        return LOCK_SUFFIX

    def _run(self, sql: str, parameters: Sequence[object]) -> list[tuple[object, ...]]:
        transaction = self._current()
        try:
            statement = read_statement(sql)
            if statement.kind == "alter" and statement.target is not None and self._is_own(statement.target):
                return transaction.alter_own(sql, statement.target)
            is_refused_drop = statement.kind == "drop" and statement.target not in self._stagings
            if is_refused_drop or statement.kind == "other":
                raise DatabaseError(
                    "a files connection holds tables of rows alone: no views, indexes or other objects",
                    hint="make them in a database",
                )
            for directory in dict.fromkeys(table.schema or "" for table in statement.tables):
                transaction.enter(directory)
            self._database.prepare(statement)
            if sql.rstrip().endswith(LOCK_SUFFIX):
                for directory in dict.fromkeys(table.schema or "" for table in statement.tables):
                    transaction.lock(directory)
            self._hold(statement)
            own = [table for table in statement.tables if self._is_own(table)]
            rows = transaction.run(sql, parameters, own, statement.target)
            if statement.kind == "alter" and statement.target is not None:
                self._describe_held(statement.target, _NULL_ALLOWED.search(sql))
            return rows
        except SynqxError:
            transaction.has_failed = True
            raise

    def _is_own(self, table: TableName) -> bool:
        return table not in self._stagings and table.name.casefold().startswith(OWN_PREFIX)

    def _hold(self, statement: Statement) -> None:
        """Have the rows that a statement changes in DuckDB itself: it cannot change a view over files."""
        table = statement.target
        if statement.kind not in ("change", "alter") or table is None or self._is_own(table):
            return
        known = self._database.find(table)
        if known is None or not known.sql:
            return
        with self._database.errors("reading"):
            connection = self._database.connection
            held = TableName(f"{OWN_PREFIX}held_{len(self._held)}_{len(self._stagings)}", table.schema)
            connection.execute(f"CREATE TABLE {qualify(held)} AS SELECT * FROM {qualify(table)}")
            connection.execute(f"DROP VIEW {qualify(table)}")
            connection.execute(f"ALTER TABLE {qualify(held)} RENAME TO {quote(table.name)}")
        known.sql = ""
        if table not in self._stagings:
            self._held[table] = known

    def _describe_held(self, table: TableName, allowed: re.Match[str] | None) -> None:
        """Learn the columns that a table has after a statement has changed them, or allowed one to be NULL."""
        known = self._database.find(table)
        if known is None:
            return
        with self._database.errors("reading"):
            described = self._database.connection.execute(f"DESCRIBE {qualify(table)}").fetchall()
        before = {(column.name, column.native_type): column for column in known.columns}
        known.columns = tuple(
            dataclasses.replace(column, nullable=True) if allowed and quote(column.name) == allowed[1] else column
            for column in (before.get((row[0], row[1])) or make_column(row[0], row[1]) for row in described)
        )

    # --- tables -----------------------------------------------------------------------------------------------------

    def find_columns(self, table: TableName) -> tuple[Column, ...] | None:
        """Columns of a table; None if there is none.

        Raises:
            TargetMismatchError: Its files have another format than the connection writes.
        """
        if self._transaction is None:
            self._reset()
        known = self._database.find(table)
        if known is None:
            return None
        if known.files is not None and known.files.file_format != self._options.file_format:
            raise TargetMismatchError(
                f"{table} is {known.files.file_format}, and the connection writes {self._options.file_format}",
                hint="set options.format to what the table is, or load into another table",
                table=str(table),
            )
        return known.columns

    def ensure_schema(self, table: TableName) -> None:
        """Nothing: a directory is made when something is written into it."""
        check_relative(table.schema or "", "the schema")

    def create_table(self, table: TableName, columns: Sequence[Column], primary_key: Sequence[str]) -> None:
        """Create an empty table."""
        if self._transaction is None:
            self.begin()
            try:
                self.create_table(table, columns, primary_key)
                self.commit()
            finally:
                self.rollback()
            return
        if self._is_own(table):
            self._transaction.create_own(table, columns, primary_key)
            return
        check_relative(table.schema or "", "the schema")
        check_relative(table.name, "the table")
        if self._options.why_read_only is not None:
            raise DatabaseError(self._options.why_read_only)
        if self._database.find(table) is not None:
            raise DatabaseError(f"the table {table} is there already")
        shape = tuple(
            dataclasses.replace(
                self._spell(column),
                nullable=column.nullable and column.name not in primary_key,
                key_position=primary_key.index(column.name) + 1 if column.name in primary_key else None,
            )
            for column in columns
        )
        self._make_empty(table, shape)
        known = KnownTable(table, shape)
        self._database.enter(known)
        self._held[table] = known

    def _spell(self, column: Column) -> Column:
        return dataclasses.replace(
            column, native_type=native_type(column, self._options.file_format), native_dialect="duckdb"
        )

    def _make_empty(self, table: TableName, columns: Sequence[Column]) -> None:
        lines = ", ".join(f"{quote(column.name)} {column.native_type}" for column in columns)
        with self._database.errors("writing to"):
            self._database.ensure_schema(table.schema or "")
            self._database.connection.execute(f"CREATE TABLE {qualify(table)} ({lines})")

    def create_current_index(self, table: TableName, key: Sequence[str], is_current: str) -> None:
        """Nothing: files have no indexes."""

    def find_unique_keys(self, table: TableName) -> tuple[tuple[str, ...], ...]:
        """None: a key is checked when SynqX writes, and anybody may write files."""
        return ()

    def lock_table(self, table: TableName) -> None:
        """Nothing: at the commit the files must be those that were read."""

    def current_moment(self) -> str:
        """This process's clock."""
        return process_moment()

    # --- rows -------------------------------------------------------------------------------------------------------

    def _count(self, table: TableName) -> int:
        with self._database.errors("reading"):
            return int(self._database.connection.execute(f"SELECT count(*) FROM {qualify(table)}").fetchall()[0][0])

    def _check_key(
        self, transaction: Transaction, staging: TableName, key: Sequence[str], present_in: TableName | None
    ) -> None:
        """Refuse rows whose key is NULL or not unique; files cannot enforce it."""
        if not key:
            return
        names = ", ".join(map(quote, key))
        is_null = " OR ".join(f"{quote(name)} IS NULL" for name in key)
        staged = qualify(staging)
        queries = [
            f"SELECT 1 FROM {staged} WHERE {is_null} LIMIT 1",
            f"SELECT 1 FROM {staged} GROUP BY {names} HAVING count(*) > 1 LIMIT 1",
        ]
        if present_in is not None:
            queries.append(f"SELECT 1 FROM {staged} SEMI JOIN {qualify(present_in)} USING ({names}) LIMIT 1")
        for query in queries:
            with self._database.errors("writing to"):
                found = self._database.connection.execute(query).fetchall()
            if found:
                transaction.has_failed = True
                raise BadRowsError(
                    f"writing to {self._store.describe('')}: a row's key ({', '.join(key)}) is NULL or not unique",
                    hint="on_bad_row: quarantine sets such rows aside",
                    column=", ".join(key),
                )

    def _write_held(self, table: TableName, known: KnownTable) -> None:
        """Write a table that statements have changed as a whole."""
        transaction = self._current()
        for column in known.columns:
            if not column.nullable:
                with self._database.errors("writing to"):
                    found = self._database.connection.execute(
                        f"SELECT 1 FROM {qualify(table)} WHERE {quote(column.name)} IS NULL LIMIT 1"
                    ).fetchall()
                if found:
                    raise BadRowsError(f"column {column.name!r} of {table} holds NULL", column=column.name)
        self._check_key(transaction, table, primary_key_of(known.columns), None)
        path = transaction.make_path(table.schema or "", self._options.extension)
        with self._database.errors("writing to"):
            write_file(self._database.connection, qualify(table), known.columns, path, self._options)
        transaction.outputs.append(
            Output(table, known.columns, path, "", known.files, adds=False, checks_before=known.files is not None)
        )
