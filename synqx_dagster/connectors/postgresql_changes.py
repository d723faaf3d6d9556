"""Changes of single rows into PostgreSQL, by a temporary table that lasts as long as the transaction.

Temporary, so that nothing is left behind and nothing of it goes into the log; and not for longer than the transaction,
because a pooler may give the next one to another backend.
"""

from __future__ import annotations

import uuid
from abc import abstractmethod
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from synqx_dagster.connectors.change_sql import ChangeDialect, ChangesBySql
from synqx_dagster.connectors.postgresql_errors import wrap_errors
from synqx_dagster.connectors.postgresql_names import qualify, quote, quote_names
from synqx_dagster.connectors.protocol import OLD_KEY_PREFIX, PART_COLUMN, ChangedTable, StagedParts
from synqx_dagster.errors import FatalError, SynqxError
from synqx_dagster.model.table import TableName

_TEMPORARY_SCHEMA = "pg_temp"

#: How much is sent at a time.
_COPY_BYTES = 1024 * 1024

#: Staged rows are looked up one by one or hashed; the server's default of 4 MB sends hash tables to disk.
_WORK_MEMORY_KIB = 32 * 1024

#: Which of the table's columns an UPDATE cannot set, and whether an INSERT may be decided by an index over the key.
_TABLE_SQL = """
select
    array(
        select a.attname::text from pg_catalog.pg_attribute a
        where a.attrelid = c.oid and a.attnum > 0 and not a.attisdropped and a.attidentity = 'a'
    ),
    c.relkind in ('r', 'p') and not c.relhasrules and exists (
        select from pg_catalog.pg_index i
        where i.indrelid = c.oid and i.indisunique and i.indisvalid and i.indimmediate
            and i.indpred is null and i.indexprs is null
            and (
                select array_agg(a.attname::text order by a.attname::text)
                from unnest(i.indkey::smallint[]) with ordinality as k (attnum, position)
                join pg_catalog.pg_attribute a on a.attrelid = i.indrelid and a.attnum = k.attnum
                where k.position <= i.indnkeyatts
            ) = (select array_agg(name order by name) from unnest(%s::text[]) as name)
    )
from pg_catalog.pg_class c where c.oid = %s::pg_catalog.regclass
"""


class _Lines:
    """What psycopg2 reads from: the next item whole, whatever its size."""

    def __init__(self, lines: Iterable[bytes]) -> None:
        self._lines = iter(lines)
        self.failure: BaseException | None = None

    def read(self, _size: int = -1) -> bytes:
        """The next item; empty at the end."""
        try:
            return next(self._lines, b"")
        except BaseException as error:
            self.failure = error
            raise


class PostgresqlChanges(ChangesBySql):
    """The part of a write session that brings changes into tables."""

    _cursor: Any
    _action: str
    #: The table whose rows a statement writes; what it refuses then is a row, and no fault of the statement.
    _rows_at: str | None = None

    @property
    @abstractmethod
    def in_transaction(self) -> bool:
        """Whether a transaction is open."""

    def begin_changes(self) -> None:
        """Let deferrable constraints wait for the commit."""
        self.execute("SET CONSTRAINTS ALL DEFERRED")
        # Compiling takes longer than it saves.
        self.execute("SET LOCAL jit = off")
        self.execute(
            f"SELECT pg_catalog.set_config('work_mem', '{_WORK_MEMORY_KIB}', true) FROM pg_catalog.pg_settings"
            f" WHERE name = 'work_mem' AND setting::bigint < {_WORK_MEMORY_KIB}"
        )

    def create_change_staging(self, changed: ChangedTable) -> TableName:
        """Create a temporary table of the target's types and collations."""
        staging = TableName(f"_synqx_changes_{uuid.uuid4().hex[:12]}", _TEMPORARY_SCHEMA)
        olds = "".join(
            f", {quote(name)} AS {quote(f'{OLD_KEY_PREFIX}{position}')}" for position, name in enumerate(changed.key)
        )
        names = quote_names([column.name for column in changed.columns])
        self.execute(
            f"CREATE TEMPORARY TABLE {quote(staging.name)} ON COMMIT DROP AS"
            f" SELECT {names}, 0::smallint AS {quote(PART_COLUMN)}{olds}"
            f" FROM {qualify(changed.table)} WITH NO DATA"
        )
        return staging

    def clear_change_staging(self, staging: TableName) -> None:
        """Empty the table; quick in the transaction that has made it."""
        self.execute(f"TRUNCATE {qualify(staging)}")

    def copy_lines(self, table: TableName, names: Sequence[str], lines: Iterable[bytes]) -> int:
        """Load lines of COPY's text format."""
        source = _Lines(lines)
        try:
            with wrap_errors(self._action, rows_at=str(table), columns=list(names)):
                self._cursor.copy_expert(
                    f"COPY {qualify(table)} ({quote_names(names)}) FROM STDIN", source, _COPY_BYTES
                )
        except SynqxError:
            # The driver puts an error of its own in place of what stopped the lines.
            if source.failure is not None:
                raise source.failure from None
            raise
        rows: int = self._cursor.rowcount
        return rows

    def apply_changes(self, staging: TableName, changed: ChangedTable, parts: StagedParts) -> None:
        """Bring the staged changes into the table."""
        with self._writing_rows(changed.table):
            super().apply_changes(staging, changed, parts)

    def append_changes(
        self, staging: TableName, changed: ChangedTable, parts: StagedParts, log: tuple[str, str]
    ) -> int:
        """Add all staged rows to a table that keeps every change."""
        with self._writing_rows(changed.table):
            return super().append_changes(staging, changed, parts, log)

    @contextmanager
    def _writing_rows(self, table: TableName) -> Iterator[None]:
        self._rows_at = str(table)
        try:
            yield
        finally:
            self._rows_at = None

    def _qualify(self, table: TableName) -> str:
        return qualify(table)

    def _change_dialect(self, changed: ChangedTable) -> ChangeDialect:
        with wrap_errors(self._action):
            self._cursor.execute(_TABLE_SQL, (list(changed.key), qualify(changed.table)))
            row: Sequence[Any] | None = self._cursor.fetchone()
        if row is None:
            raise FatalError(f"{changed.table} vanished while it was being changed", table=str(changed.table))
        fixed, upserts = row
        return ChangeDialect(
            quote=quote,
            insert=(
                "INSERT INTO {target} ({names}) OVERRIDING SYSTEM VALUE SELECT {values} FROM {staging} AS s {rest}"
            ),
            fixed=frozenset(fixed),
            upserts=upserts,
            orders=True,
            counts_found=True,
            lsn_parts=("pg_catalog.split_part({lsn}, '/', 1)", "pg_catalog.split_part({lsn}, '/', 2)"),
        )
