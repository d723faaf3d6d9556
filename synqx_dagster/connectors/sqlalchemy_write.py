"""Write sessions over any dialect of SQLAlchemy.

Guarantee: rows are published by DELETE and INSERT in one transaction, so what hangs on a table stays; what a dialect is
known to change in silence is refused as a target, and so is a table whose rows others follow.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection
from sqlalchemy.types import TypeEngine

from synqx_dagster.connectors import mysql_merge, postgresql_merge
from synqx_dagster.connectors.merge_sql import MergeDialect, MergesBySql
from synqx_dagster.connectors.protocol import DELETED_FLAG, RowChanges
from synqx_dagster.connectors.sqlalchemy_dialects import Facts, spell_key_type, spell_type
from synqx_dagster.connectors.sqlalchemy_names import Names
from synqx_dagster.connectors.sqlalchemy_session import SqlalchemySession
from synqx_dagster.connectors.sqlalchemy_types import base_name, quiet_reflection, stored_name
from synqx_dagster.connectors.sqlalchemy_values import to_parameters
from synqx_dagster.errors import CommitUnknownError, PlanError, RetryableError, SynqxError, TargetMismatchError
from synqx_dagster.model.table import Column, TableName

if TYPE_CHECKING:
    import pyarrow as pa

#: Rows of one executemany; SQLAlchemy makes statements of many rows of it where the driver would send them one by one.
INSERT_ROWS = 1_000

#: What a foreign key of another table does to its rows when the row that it refers to is deleted.
_FOLLOWING = ("CASCADE", "SET NULL", "SET DEFAULT")


class SqlalchemyWriteSession(SqlalchemySession, MergesBySql):
    """A write session; see `synqx_dagster.connectors.protocol.WriteSession`."""

    def __init__(self, connection: Connection, facts: Facts, names: Names, place: str) -> None:
        super().__init__(connection, facts, names, place)
        self._in_transaction = False

    def begin(self) -> None:
        """Start a transaction; the driver begins it with the next statement."""
        self._in_transaction = True

    def commit(self) -> None:
        """Make the transaction durable."""
        self._in_transaction = False
        try:
            self._connection.commit()
        except sa.exc.DBAPIError as exc:
            self.is_broken = True
            if exc.connection_invalidated:
                raise CommitUnknownError(
                    f"writing to {self._place}: the connection broke during COMMIT, which may have happened"
                ) from None
            raise self._wrap(exc, "writing to") from None

    def rollback(self) -> None:
        """Undo the transaction; silent when none is open or the connection is gone."""
        self._in_transaction = False
        try:
            self._connection.rollback()
        except sa.exc.SQLAlchemyError:
            # A connection that is gone has rolled back.
            self.is_broken = True

    @contextmanager
    def _statement(self, doing: str, columns: Sequence[str] = ()) -> Iterator[None]:
        """Outside of a transaction each statement commits by itself."""
        try:
            with self._errors(doing, columns):
                yield
        except SynqxError:
            if not self._in_transaction:
                self.rollback()
            raise
        if not self._in_transaction:
            self.commit()

    def execute(self, sql: str, parameters: Sequence[object] = ()) -> int:
        """Run one statement."""
        with self._statement("writing to"):
            return self._run(sql, parameters).rowcount

    def fetch_all(self, sql: str, parameters: Sequence[object] = ()) -> list[tuple[object, ...]]:
        """Run one query."""
        with self._statement("reading"):
            return [tuple(row) for row in self._run(sql, parameters)]

    def lock_row_suffix(self) -> str:
        """Locks the rows that a SELECT reads; empty where only a change does."""
        return self._facts.lock_row_suffix

    def find_columns(self, table: TableName) -> tuple[Column, ...] | None:
        """Columns of a table; None if there is none."""
        with self._statement("reading the columns of"):
            return super().find_columns(table)

    def ensure_schema(self, table: TableName) -> None:
        """Create the table's schema if it is missing; where a schema is a user (Oracle), it must be there."""
        if table.schema is None or self._facts.sqlglot == "oracle":
            return
        with self._statement("looking at the schemas of"):
            known = {name.lower() for name in sa.inspect(self._connection).get_schema_names()}
        if table.schema.lower() not in known:
            self.execute(f"CREATE SCHEMA {self._names.quote(table.schema)}")

    def create_table(self, table: TableName, columns: Sequence[Column], primary_key: Sequence[str]) -> None:
        """Create an empty table."""
        lines = []
        for column in columns:
            spell = spell_key_type if column.name in primary_key else spell_type
            nulls = self._facts.nulls if column.nullable else " NOT NULL"
            lines.append(f"{self._names.quote(column.name)} {spell(self._facts, column)}{nulls}")
        if primary_key:
            lines.append(f"PRIMARY KEY ({', '.join(map(self._names.quote, primary_key))})")
        self.execute(f"CREATE TABLE {self._names.qualify(table)} ({', '.join(lines)}){self._facts.table_suffix}")

    def create_current_index(self, table: TableName, key: Sequence[str], is_current: str) -> None:
        """Nothing: the primary key finds a key's versions."""

    def find_unique_keys(self, table: TableName) -> tuple[tuple[str, ...], ...]:
        """Columns of the primary key and of each unique index that covers all rows."""
        with self._statement("reading the keys of"):
            inspector = sa.inspect(self._connection)
            if not inspector.has_table(table.name, table.schema):
                return ()
            key = inspector.get_pk_constraint(table.name, table.schema)["constrained_columns"]
            indexes = inspector.get_indexes(table.name, table.schema)
        whole = [
            tuple(stored_name(str(name), self._facts) for name in index["column_names"])
            for index in indexes
            if index["unique"] and None not in index["column_names"] and not _is_partial(index)
        ]
        primary = tuple(stored_name(name, self._facts) for name in key)
        return tuple(dict.fromkeys([*([primary] if primary else []), *whole]))

    def lock_table(self, table: TableName) -> None:
        """Keep other writers from the table, where the dialect has a lock that readers do not notice."""
        if self._facts.lock_table is not None:
            self.execute(self._facts.lock_table.format(self._names.qualify(table)))

    def current_moment(self) -> str:
        """The database's clock."""
        return str(self.fetch_all(self._facts.moment_sql)[0][0])

    def create_staging(
        self,
        target: TableName,
        columns: Sequence[Column],
        *,
        epoch: int,
        replaces: bool = True,
        key: Sequence[str] = (),
    ) -> TableName:
        """Create an empty table for this epoch, and drop those of earlier ones.

        Raises:
            TargetMismatchError: A column has a type that changes in silence what it is given.
            PlanError: The rows are going to be merged, and the dialect's way to do so is not known.
        """
        flag = [column for column in columns if column.name == DELETED_FLAG]
        if (key or flag) and _spell_merge(self._facts, frozenset()) is None:
            raise _no_merge(target)
        self._refuse_lossy(target, columns)
        prefix = _staging_prefix(target)
        self._drop_earlier(target, prefix, epoch)
        staging = TableName(f"{prefix}{epoch}", target.schema)
        if not self._facts.copies_empty_table:
            self.create_table(staging, columns, ())
            return staging
        # Made of the target's own columns, it has their collations too: what is equal there is equal here.
        names = ", ".join(self._names.quote(column.name) for column in columns if column not in flag)
        self.execute(
            f"CREATE TABLE {self._names.qualify(staging)}{self._facts.table_suffix}"
            f" AS SELECT {names} FROM {self._names.qualify(target)} WHERE 1 = 0"
        )
        for column in flag:
            spelt = spell_type(self._facts, column)
            self.execute(
                f"ALTER TABLE {self._names.qualify(staging)} ADD {self._names.quote(column.name)} {spelt} NOT NULL"
            )
        return staging

    def _refuse_lossy(self, target: TableName, columns: Sequence[Column]) -> None:
        for column in columns:
            native = column.native_type if column.native_dialect == self._facts.sqlglot else None
            if native is not None and base_name(native) in self._facts.lossy_targets:
                raise TargetMismatchError(
                    f"the column {column.name!r} of {target} is {native}, which may change values in silence",
                    hint="give it another type, or load into another table",
                    table=str(target),
                    column=column.name,
                )

    def _drop_earlier(self, target: TableName, prefix: str, epoch: int) -> None:
        with self._statement("looking at the tables of"):
            found = sa.inspect(self._connection).get_table_names(target.schema)
        for name in found:
            number = name.removeprefix(prefix)
            if name.startswith(prefix) and number.isdigit() and int(number) <= epoch:
                try:
                    self.drop_staging(TableName(name, target.schema))
                except RetryableError:
                    # Its attempt is paused in mid statement. That attempt is fenced off; a later load drops its table.
                    if self._facts.capabilities.transactional_ddl or int(number) == epoch:
                        raise

    def drop_staging(self, staging: TableName) -> None:
        """Drop a staging table if it is there."""
        with self._statement("looking at the tables of"):
            exists = sa.inspect(self._connection).has_table(staging.name, staging.schema)
        if exists:
            self.execute(f"DROP TABLE {self._names.qualify(staging)}")

    def write_batches(
        self, table: TableName, columns: Sequence[Column], batches: Iterable[pa.RecordBatch]
    ) -> tuple[int, int]:
        """Insert record batches, many rows for one round trip."""
        names = [column.name for column in columns]
        insert = self._insert(table, columns)
        rows = bytes_written = 0
        for batch in batches:
            for start in range(0, batch.num_rows, INSERT_ROWS):
                piece = batch.slice(start, INSERT_ROWS)
                values = zip(
                    *(
                        to_parameters(array, column, self._facts)
                        for array, column in zip(piece.columns, columns, strict=True)
                    ),
                    strict=True,
                )
                parameters = [{f"c{number}": value for number, value in enumerate(row)} for row in values]
                with self._statement("writing to", names):
                    self._connection.execute(insert, parameters)
            rows += batch.num_rows
            bytes_written += batch.nbytes
        return rows, bytes_written

    def _insert(self, table: TableName, columns: Sequence[Column]) -> sa.Insert:
        """An INSERT whose parameters have the types of the table's columns and names that no driver trips over."""
        with self._statement("reading the columns of"), quiet_reflection():
            reflected = sa.inspect(self._connection).get_columns(table.name, table.schema)
        types = {stored_name(item["name"], self._facts): item["type"] for item in reflected}
        bound = [
            sa.Column(column.name, _bound_type(types.get(column.name), column, self._facts), key=f"c{number}")
            for number, column in enumerate(columns)
        ]
        return sa.Table(table.name, sa.MetaData(), *bound, schema=table.schema).insert()

    def publish_replace(
        self, staging: TableName, target: TableName, columns: Sequence[Column], primary_key: Sequence[str]
    ) -> RowChanges:
        """Replace the target's rows within the open transaction, keeping the table and so all that hangs on it.

        Raises:
            TargetMismatchError: Rows of another table would be deleted or changed with the target's.
        """
        return self._replace(staging, target, columns, "")

    def publish_partition(
        self, staging: TableName, target: TableName, columns: Sequence[Column], inside: str
    ) -> RowChanges:
        """Replace the target's rows that hold a condition within the open transaction.

        Raises:
            TargetMismatchError: Rows of another table would be deleted or changed with the target's.
        """
        return self._replace(staging, target, columns, f" WHERE {inside}")

    def _replace(self, staging: TableName, target: TableName, columns: Sequence[Column], where: str) -> RowChanges:
        self._refuse_followers(target)
        deleted = self.execute(f"DELETE FROM {self._names.qualify(target)}{where}")
        added = self.publish_append(staging, target, columns)
        return RowChanges(added.inserted, deleted=max(0, deleted))

    def publish_append(self, staging: TableName, target: TableName, columns: Sequence[Column]) -> RowChanges:
        """Add the staged rows to the target within the open transaction."""
        names = ", ".join(self._names.quote(column.name) for column in columns)
        with self._statement("writing to", [column.name for column in columns]):
            inserted = self._run(
                f"INSERT INTO {self._names.qualify(target)} ({names})"
                f" SELECT {names} FROM {self._names.qualify(staging)}"
            ).rowcount
        self._end_staging(staging)
        return RowChanges(max(0, inserted))

    def _qualify(self, table: TableName) -> str:
        return self._names.qualify(table)

    def _merge_dialect(self, target: TableName) -> MergeDialect:
        with self._statement("reading the columns of"), quiet_reflection():
            reflected = sa.inspect(self._connection).get_columns(target.name, target.schema)
        # An UPDATE cannot set what the database alone numbers.
        always = [item["name"] for item in reflected if (identity := item.get("identity")) and identity.get("always")]
        spelt = _spell_merge(self._facts, frozenset(always))
        if spelt is None:
            raise _no_merge(target)
        return replace(spelt, quote=self._names.quote)

    def _prepare_merge(self, staging: TableName, key: Sequence[str]) -> None:
        if self._facts.sqlglot == "postgres":
            # Nobody else will: autovacuum does not see a table of an open transaction.
            self.execute(f"ANALYZE {self._qualify(staging)}")

    def _change_rows(self, sql: str, columns: Sequence[Column]) -> int:
        with self._statement("writing to", [column.name for column in columns]):
            return self._run(sql).rowcount

    def _end_staging(self, staging: TableName) -> None:
        if self._facts.capabilities.transactional_ddl:
            self.drop_staging(staging)

    def _refuse_followers(self, target: TableName) -> None:
        with self._statement("looking at the foreign keys of"):
            keys = sa.inspect(self._connection).get_multi_foreign_keys(target.schema)
        for (_, name), found in keys.items():
            for key in found:
                action = str(key.get("options", {}).get("ondelete") or "").upper()
                refers = key["referred_table"] == target.name and key["referred_schema"] in (None, target.schema)
                if refers and action in _FOLLOWING and name != target.name:
                    raise TargetMismatchError(
                        f"the table {name} refers to {target} with ON DELETE {action}: replacing the rows would change"
                        " its own",
                        hint="drop the foreign key's action, or load by append",
                        table=str(target),
                    )


def _no_merge(target: TableName) -> PlanError:
    return PlanError(
        f"{target}: how this dialect merges rows exactly is not known",
        hint="mode: replace and mode: append work",
        table=str(target),
    )


def _spell_merge(facts: Facts, fixed: frozenset[str]) -> MergeDialect | None:
    if facts.sqlglot == "postgres":
        return postgresql_merge.spell_merge(fixed)
    if facts.sqlglot == "mysql":
        return mysql_merge.spell_merge(str)
    return None


def _is_partial(index: Any) -> bool:
    """Whether a unique index leaves rows out, or is over expressions or the beginnings of texts."""
    options = (index.get("dialect_options") or {}).items()
    return bool(index.get("expressions")) or any(
        name.endswith(("_where", "_length")) and value for name, value in options
    )


def _bound_type(found: TypeEngine[Any] | None, column: Column, facts: Facts) -> TypeEngine[Any]:
    """The type by which a parameter is bound: the column's own, where it takes the values that we have."""
    kind = column.data_type.kind
    if found is None or kind == "json":
        # SQLAlchemy would make a JSON text of the JSON text.
        return sa.types.NullType()
    if facts.sqlglot == "postgres" and kind in ("real", "float"):
        return sa.types.NullType()
    if facts.binds_text and kind in ("decimal", "date", "time", "timestamp", "timestamptz", "uuid"):
        return sa.types.NullType()
    if kind == "string" and (not isinstance(found, sa.String) or isinstance(found, sa.Enum)):
        return sa.types.NullType()
    return found


def _staging_prefix(target: TableName) -> str:
    """What the names of a target's staging tables begin with; short enough for any server, whatever the epoch."""
    digest = hashlib.sha256(target.name.encode()).hexdigest()[:8]
    return f"synqx_staging_{digest}_"
