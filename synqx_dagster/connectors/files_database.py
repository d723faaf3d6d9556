"""A session's private DuckDB, in which the tables of files are views that appear when a statement names them.

Guarantee: DuckDB sees no files but those of the connection's root and of this session, and no network; a file that
is not what it was when its table was first named ends the session's work with a retryable error.
"""

from __future__ import annotations

import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal

from synqx_dagster.connectors.duckdb_errors import was_interrupted
from synqx_dagster.connectors.duckdb_types import DIALECT
from synqx_dagster.connectors.duckdb_types import native_type as duckdb_type
from synqx_dagster.connectors.file_database import quote
from synqx_dagster.connectors.files_errors import wrap_error
from synqx_dagster.connectors.files_layout import Snapshot, TableFiles, find_table, look, retry_gone
from synqx_dagster.connectors.files_options import FilesOptions
from synqx_dagster.connectors.files_relation import PinnedData, Reading, relate
from synqx_dagster.connectors.files_scratch import Scratch
from synqx_dagster.connectors.files_state import OwnTable
from synqx_dagster.connectors.files_store import FileGoneError, Store
from synqx_dagster.connectors.files_types import literal
from synqx_dagster.errors import DatabaseError, DataError, SynqxError
from synqx_dagster.model.table import Column, TableName

#: The root's schema in DuckDB; no directory has this name.
ROOT_SCHEMA = "."

#: Names of SynqX's own tables begin so.
OWN_PREFIX = "_synqx_"

StatementKind = Literal["query", "change", "temporary", "drop", "alter", "other"]


def qualify(table: TableName) -> str:
    """A table's quoted name with its schema."""
    return f"{quote(table.schema or ROOT_SCHEMA)}.{quote(table.name)}"


@dataclass(frozen=True)
class Statement:
    """What a statement is, as far as it matters which tables must be there.

    Attributes:
        target: The table that it changes; None for a query.
        tables: All tables that it names, the target among them.
    """

    kind: StatementKind
    target: TableName | None
    tables: tuple[TableName, ...]


@dataclass
class KnownTable:
    """A table that the session has named. ``files`` is None for SynqX's own, and for one that has no files yet."""

    name: TableName
    columns: tuple[Column, ...]
    files: TableFiles | None = None
    own: OwnTable | None = None
    #: What its view selects; empty for a table that the session holds itself.
    sql: str = ""


@lru_cache(maxsize=512)
def read_statement(sql: str) -> Statement:
    """Which tables a statement names.

    Raises:
        DatabaseError: It is not one statement of DuckDB's SQL.
    """
    import sqlglot
    import sqlglot.expressions as exp
    from sqlglot.errors import SqlglotError

    try:
        tree = sqlglot.parse_one(sql, dialect=DIALECT)
    except (SqlglotError, RecursionError) as exc:
        raise DatabaseError(f"the statement is not understood: {type(exc).__name__}") from exc

    def name_of(node: Any) -> TableName | None:
        if isinstance(node, exp.Schema):
            node = node.this
        if not isinstance(node, exp.Table) or not isinstance(node.this, exp.Identifier):
            return None
        return TableName(node.name, None if node.db in ("", ROOT_SCHEMA) else node.db)

    tables = tuple(dict.fromkeys(name for node in tree.find_all(exp.Table) if (name := name_of(node)) is not None))
    target = name_of(tree.this)
    match tree:
        case exp.Insert() | exp.Update() | exp.Delete() | exp.Merge():
            return Statement("change", target, tables)
        case exp.Create() if any(isinstance(item, exp.TemporaryProperty) for item in tree.find_all(exp.Property)):
            return Statement("temporary", None, tuple(table for table in tables if table != target))
        case exp.Alter():
            return Statement("alter", target, tables)
        case exp.Drop():
            return Statement("drop", target, ())
        case exp.Query():
            return Statement("query", None, tables)
        case _:
            return Statement("other", target, tables)


class FilesDatabase:
    """One session's DuckDB over one store.

    Args:
        sample: Only the first rows of a table are wanted (a preview).
    """

    def __init__(self, store: Store, options: FilesOptions, *, sample: bool = False) -> None:
        self.store = store
        self._options = options
        self._sample = sample
        self._connection: Any = None
        self._scratch: Scratch | None = None
        self._snapshots: dict[str, Snapshot] = {}
        self._schemas: dict[str, str] = {}
        self._tables: dict[tuple[str, str], KnownTable] = {}
        self._pins: list[PinnedData] = []
        #: Names of files by the paths that DuckDB was given.
        self._shown: dict[str, str] = {}
        self._is_cancelled = False

    # --- the connection ---------------------------------------------------------------------------------------------

    @property
    def connection(self) -> Any:
        """The DuckDB connection; opened by its first use."""
        if self._connection is None:
            self._connection = self._open()
        return self._connection

    def _open(self) -> Any:
        import duckdb

        self._scratch = Scratch()
        config: dict[str, Any] = {
            "autoinstall_known_extensions": "false",
            "autoload_known_extensions": "false",
            "memory_limit": self._options.memory_limit,
            "temp_directory": str(self._scratch.path / "spill"),
        }
        if self._options.threads is not None:
            config["threads"] = str(self._options.threads)
        connection = duckdb.connect(":memory:", config=config)
        connection.execute("SET TimeZone = 'UTC'")
        visible = [*self.store.attach(connection), f"{self._scratch.path}/"]
        connection.execute(f"SET allowed_directories = [{', '.join(map(literal, visible))}]")
        connection.execute("SET enable_external_access = false")
        connection.execute(f"CREATE SCHEMA {quote(ROOT_SCHEMA)}")
        connection.execute("SET schema = " + literal(quote(ROOT_SCHEMA)))
        return connection

    def make_path(self, extension: str) -> Path:
        """A new name for a file of this session's own."""
        assert self.connection is not None
        assert self._scratch is not None
        return self._scratch.path / f"{uuid.uuid4().hex}.{extension}"

    def cancel(self) -> None:
        """Interrupt what runs; from any thread."""
        self._is_cancelled = True
        if self._connection is not None:
            self._connection.interrupt()

    @contextmanager
    def errors(self, doing: str, columns: Mapping[str, str] | None = None) -> Iterator[None]:
        """Turn DuckDB's errors, and Arrow's that carry them, into ours."""
        import duckdb
        import pyarrow as pa

        try:
            yield
        except (duckdb.Error, pa.ArrowException, OSError) as exc:
            failure = self.store.failure()
            if failure is not None:
                raise failure from exc
            raise wrap_error(exc, self.store.describe(""), doing, self._shown, columns) from exc
        except RuntimeError as exc:
            if was_interrupted(exc):
                raise KeyboardInterrupt from None
            raise

    def check_pins(self) -> None:
        """Raise if a file that was read has changed in the meantime.

        Raises:
            RetryableError: One has.
        """
        for pin in self._pins:
            pin.pinned.check()

    def reset(self) -> None:
        """Forget all tables and what was seen of the store."""
        if self._connection is not None:
            for schema in {ROOT_SCHEMA, *self._schemas.values()}:
                self._connection.execute(f"DROP SCHEMA IF EXISTS {quote(schema)} CASCADE")
            self._connection.execute(f"CREATE SCHEMA {quote(ROOT_SCHEMA)}")
            self._connection.execute("SET schema = " + literal(quote(ROOT_SCHEMA)))
        for pin in self._pins:
            pin.pinned.close()
        self._pins = []
        self._shown = {}
        self._snapshots = {}
        self._schemas = {}
        self._tables = {}

    def close(self) -> None:
        """End the session's DuckDB and remove its files."""
        for pin in self._pins:
            pin.pinned.close()
        self._pins = []
        if self._connection is not None:
            self._connection.close()
            self._connection = None
        if self._scratch is not None:
            self._scratch.close()
            self._scratch = None

    # --- tables -----------------------------------------------------------------------------------------------------

    def look(self, directory: str) -> Snapshot:
        """A directory's state as this session sees it."""
        found = self._snapshots.get(directory)
        if found is None:
            found = self._snapshots[directory] = look(self.store, directory)
        return found

    def look_again(self, directory: str) -> Snapshot:
        """A directory's state as it is now; from now on this session sees that."""
        self._snapshots.pop(directory, None)
        return self.look(directory)

    def known_tables(self) -> list[KnownTable]:
        """The tables that were named so far."""
        return list(self._tables.values())

    def find(self, table: TableName) -> KnownTable | None:
        """A table, which is in DuckDB afterwards; None if there is none."""
        key = (table.schema or "", table.name.casefold())
        found = self._tables.get(key)
        if found is None:
            found = retry_gone(lambda: self._load(table))
            if found is not None:
                self._tables[key] = found
        return found

    def prepare(self, statement: Statement) -> None:
        """Have all tables of a statement in DuckDB; those that are not there DuckDB will miss."""
        for table in statement.tables:
            self.find(table)

    def forget(self, table: TableName) -> None:
        """Drop a table from this session's DuckDB, if it is there; named again, it is read anew."""
        known = self._tables.pop((table.schema or "", table.name.casefold()), None)
        if known is not None:
            with self.errors("writing to"):
                self.connection.execute(f"DROP {'VIEW' if known.sql else 'TABLE'} IF EXISTS {qualify(table)}")

    def enter(self, known: KnownTable) -> None:
        """Have the session know a table that it has made itself."""
        self._tables[(known.name.schema or "", known.name.name.casefold())] = known

    def ensure_schema(self, directory: str) -> None:
        """Have a directory's schema in DuckDB."""
        if not directory:
            return
        other = self._schemas.setdefault(directory.casefold(), directory)
        if other != directory:
            raise DataError(
                f"the directories {other} and {directory} differ in case alone", hint="use one of them at a time"
            )
        self.connection.execute(f"CREATE SCHEMA IF NOT EXISTS {quote(directory)}")

    def _load(self, table: TableName) -> KnownTable | None:
        directory = table.schema or ""
        snapshot = self.look(directory)
        if table.name.casefold().startswith(OWN_PREFIX):
            return self._load_own(table, snapshot)
        files = find_table(self.store, snapshot, table.name, self._options.file_format)
        if files is None:
            return None
        pins: list[PinnedData] = []
        try:
            for data in files.files:
                pins.append(PinnedData(data, self.store.pin(data.file), self.store.describe(data.file.path)))
            if look(self.store, directory).version != snapshot.version:
                raise FileGoneError(f"{self.store.describe(directory)} was changed just now")
            known = self._make_view(table, files, pins, snapshot)
        except (SynqxError, OSError) as exc:
            for pin in pins:
                pin.pinned.close()
            if isinstance(exc, FileGoneError):
                self._snapshots.pop(directory, None)
            raise
        self._pins.extend(pins)
        return known

    def _make_view(self, table: TableName, files: TableFiles, pins: list[PinnedData], snapshot: Snapshot) -> KnownTable:
        shape = snapshot.state.shapes.get(files.name, ())
        connection = self.connection
        self._shown.update({pin.pinned.duckdb_path: pin.shown for pin in pins})
        reading = Reading(
            connection, self.store, self._options, self.make_path, lambda: self._is_cancelled, sample=self._sample
        )
        with self.errors("reading"):
            relation = relate(files, pins, shape, reading)
            self.ensure_schema(table.schema or "")
            connection.execute(f"CREATE VIEW {qualify(table)} AS {relation.sql}")
        return KnownTable(table, relation.columns, files, sql=relation.sql)

    def _load_own(self, table: TableName, snapshot: Snapshot) -> KnownTable | None:
        own = snapshot.state.own_tables.get(table.name)
        if own is None:
            return None
        with self.errors("reading"):
            self.create_own(table, own)
            names = ", ".join(quote(column.name) for column in own.columns)
            if own.file is not None:
                pinned = self.store.pin(own.file)
                try:
                    self.connection.execute(
                        f"INSERT INTO {qualify(table)} ({names}) SELECT {names}"
                        f" FROM read_parquet({literal(pinned.duckdb_path)})"
                    )
                finally:
                    pinned.close()
            elif own.rows:
                marks = ", ".join("?" for _ in own.columns)
                self.connection.executemany(
                    f"INSERT INTO {qualify(table)} ({names}) VALUES ({marks})", [list(row) for row in own.rows]
                )
        return KnownTable(table, own.columns, own=own)

    def create_own(self, table: TableName, own: OwnTable) -> None:
        """Make one of SynqX's own tables, without its rows."""
        self.ensure_schema(table.schema or "")
        lines = [
            f"{quote(column.name)} {duckdb_type(column)}{'' if column.nullable else ' NOT NULL'}"
            for column in own.columns
        ]
        if own.primary_key:
            lines.append(f"PRIMARY KEY ({', '.join(map(quote, own.primary_key))})")
        self.connection.execute(f"CREATE TABLE {qualify(table)} ({', '.join(lines)})")
