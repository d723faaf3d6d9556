"""What a connector is: the seam between one kind of database and the rest of SynqX.

A connector knows its database's mechanics and nothing of mappings, ledgers or Dagster. It opens *read sessions*
(one consistent, read-only view each) and *write sessions* (one connection on which the transfer engine runs its
transactions).

**Carriers.** Between two databases rows travel as Arrow record batches under one rule: what Arrow represents
exactly (`smallint integer bigint real float boolean string binary`) travels as that Arrow type; every other value
travels as canonical text (`CARRIER_TYPES`). Canonical text is what PostgreSQL prints with ``DateStyle=ISO``,
``TimeZone=UTC``: ``2024-02-29``, ``0044-03-15 BC``, ``infinity``, ``12:00:00.5``, ``2024-02-29 12:00:00+00``,
plain decimal digits, ``NaN``, lower-case UUIDs, and JSON as it was stored. A connector may deliver any column as
text all the same (`Encoded.arrow_type`); the transform then casts it, and a value that does not cast is a bad row.
Text of which the source cannot promise that it is a value of the column's type (SQLite's dates, MySQL's zero dates)
arrives as `untrusted_text`, never as the carrier, so that even an unchanged field is cast and not passed through.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, BinaryIO, Literal, Protocol, runtime_checkable

from synqx_dagster.model.connection import OptionValue, PoolSettings, TlsMode
from synqx_dagster.model.host_policy import HostPolicy
from synqx_dagster.model.table import Column, TableName
from synqx_dagster.model.types import DataType, TypeKind

if TYPE_CHECKING:
    import pyarrow as pa

#: Arrow type of each kind of value in flight, by the name that pyarrow's factory function has.
CARRIER_TYPES: dict[TypeKind, Literal["string", "int16", "int32", "int64", "float32", "float64", "bool_", "binary"]] = {
    "string": "string",
    "smallint": "int16",
    "integer": "int32",
    "bigint": "int64",
    "decimal": "string",
    "real": "float32",
    "float": "float64",
    "boolean": "bool_",
    "date": "string",
    "time": "string",
    "timestamp": "string",
    "timestamptz": "string",
    "json": "string",
    "uuid": "string",
    "binary": "binary",
}


def carrier_type(data_type: DataType) -> pa.DataType:
    """The Arrow type in which values of a logical type travel."""
    import pyarrow as pa

    factory: Callable[[], pa.DataType] = getattr(pa, CARRIER_TYPES[data_type.kind])
    return factory()


def untrusted_text() -> pa.DataType:
    """The Arrow type of text that must be cast before it counts as a value of its column's type.

    It is unlike every carrier, so ``arrow_type != carrier_type(data_type)`` always means: cast.
    """
    import pyarrow as pa

    return pa.large_string()


# --- configuration ------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class TlsConfig:
    """`synqx_dagster.model.TlsSettings` with its secret resolved."""

    mode: TlsMode | None = None
    ca_file: str | None = None
    cert_file: str | None = None
    key_file: str | None = None
    key_password: str | None = field(default=None, repr=False)


@dataclass(frozen=True)
class SshTunnelConfig:
    """`synqx_dagster.model.SshTunnel` with its secrets resolved: the text of the private key, not its file."""

    host: str
    username: str
    host_key: str
    port: int = 22
    private_key: str | None = field(default=None, repr=False)
    passphrase: str | None = field(default=None, repr=False)
    password: str | None = field(default=None, repr=False)


@dataclass(frozen=True)
class ConnectionConfig:
    """A connection with its secrets resolved; exists only in the process that connects, and never prints them."""

    name: str
    db_type: str
    host: str | None = None
    port: int | None = None
    database: str | None = None
    username: str | None = None
    password: str | None = field(default=None, repr=False)
    options: Mapping[str, OptionValue] = field(default_factory=dict)
    pool: PoolSettings = field(default_factory=PoolSettings)
    tls: TlsConfig | None = None
    ssh_tunnel: SshTunnelConfig | None = None
    #: Which hosts may be reached; None: what the environment says when the connection is made.
    host_policy: HostPolicy | None = None


@dataclass(frozen=True)
class Capabilities:
    """What an engine can do; constants of a connector class.

    Attributes:
        reads: May be a source.
        writes: May be a target.
        copy_binary: Speaks PostgreSQL's binary COPY on both ends; two such connections use the passthrough lane.
        transactional_ddl: CREATE, DROP and RENAME roll back with the transaction.
        concurrent_writers: More than one process may write at once (False: DuckDB, SQLite files).
        default_schema: Where an unqualified table lies; None where the database has no schemas.
        schema_is_database: A table's schema is a database of the server (MySQL); unqualified is the connection's own.
        folds_case: Names of tables that differ only in case are one table.
        max_identifier_bytes: Longer names are refused when planning; None where there is no limit.
        moment_kind: Type of the moments that SynqX keeps itself; ``timestamp`` where a ``timestamptz`` ends too soon.
        secures_network: Understands a connection's ``tls`` and ``ssh_tunnel``; elsewhere they are refused.
        snapshot_reads: All statements of a read session see the same rows; elsewhere each sees its own.
        limit_clause: A query may end with ``LIMIT n``.
        merges: Takes the load modes that match rows by a key (`WriteSession.publish_merge` and `publish_history`).
        has_objects: Tables may have views, indexes and defaults; elsewhere a table is its rows alone.
        alters: Changes of a column that a table with rows may undergo; see `transfer.alter`.
    """

    reads: bool = True
    writes: bool = True
    copy_binary: bool = False
    transactional_ddl: bool = True
    concurrent_writers: bool = True
    default_schema: str | None = None
    schema_is_database: bool = False
    folds_case: bool = False
    max_identifier_bytes: int | None = None
    moment_kind: Literal["timestamp", "timestamptz"] = "timestamptz"
    secures_network: bool = False
    snapshot_reads: bool = True
    limit_clause: bool = True
    merges: bool = True
    has_objects: bool = True
    alters: frozenset[Literal["add", "retype", "allow_null"]] = frozenset()


# --- reports ------------------------------------------------------------------------------------------------


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


# --- reading ------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class ReadLimits:
    """Bounds of a read of a user's query for a preview; 0 means none."""

    timeout_seconds: float = 0
    max_rows: int = 0
    max_bytes: int = 0


@dataclass(frozen=True)
class Encoded:
    """An SQL expression that yields a value in its carrier, and the Arrow type that arrives for it."""

    sql: str
    arrow_type: pa.DataType


class ReadSession(Protocol):
    """One read-only, consistent view of a source: every statement of a session sees the same rows."""

    def describe_query(self, sql: str) -> tuple[Column, ...]:
        """Columns of a query's result, in order, without running it to the end."""
        ...

    def find_columns(self, table: TableName) -> tuple[Column, ...] | None:
        """Columns of a table or view in order; None if there is none. Same as on a write session."""
        ...

    def encode(self, expression: str, data_type: DataType, native_type: str | None = None) -> Encoded:
        """Wrap an SQL expression of a logical type so that its value arrives exactly, in its carrier."""
        ...

    def fetch_value(self, sql: str) -> object:
        """The first column of the first row of a query."""
        ...

    def cancel(self) -> None:
        """Have the server end what another thread waits for in this session; that call then raises.

        Safe from any thread; does nothing when nothing runs. Afterwards the session is good for nothing but its end.
        """
        ...

    def iter_batches(self, sql: str, schema: pa.Schema, *, batch_rows: int) -> Iterator[pa.RecordBatch]:
        """Rows of a query as record batches of exactly `schema`; at most `batch_rows` rows each, in query order.

        Memory is bounded by a few batches. The query's columns are expressions made by `encode`.

        Raises:
            DatabaseError, RetryableError: The server refused or ended the read; batches seen so far are void.
        """
        ...


@runtime_checkable
class CopyReadSession(Protocol):
    """A read session that can also stream PostgreSQL's binary COPY format."""

    def cancel(self) -> None:
        """As `ReadSession.cancel`."""
        ...

    def copy_out(self, sql: str, sink: BinaryIO) -> None:
        """Write a query's rows in binary COPY format; returns when the server is done. Does not close `sink`."""
        ...


# --- writing ------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class RowChanges:
    """What a publication did to the target's rows; equal rows that a merge left alone are in none of the counts."""

    inserted: int = 0
    updated: int = 0
    deleted: int = 0


#: The staging table's extra column that says which rows the source has marked as deleted.
DELETED_FLAG = "_synqx_deleted"


@dataclass(frozen=True)
class MergeSpec:
    """How staged rows are merged into a target.

    Attributes:
        key: Columns that match a staged row with a row of the target; never NULL and unique in the staging table.
        delete_missing: Rows of the target without a staged row are deleted.
        deleted_flag: A boolean column of the staging table that the target does not have; where it is true, the
            target's row is deleted and the staged one not inserted. Never NULL.
    """

    key: tuple[str, ...]
    delete_missing: bool = False
    deleted_flag: str | None = None


@dataclass(frozen=True)
class HistorySpec:
    """How staged rows become versions in a target that keeps history (slowly changing dimension of type 2).

    A row that is new or differs from the key's current version closes that version (``valid_to = loaded_at``,
    ``is_current = false``) and opens one (``valid_from = loaded_at``, ``valid_to`` NULL, ``is_current = true``). Equal
    rows change nothing, so a second load of the same rows is without effect.

    Attributes:
        merge: As for a merge; a deletion closes the current version.
        valid_from, valid_to, is_current: Columns of the target that the staging table does not have.
        loaded_at: The moment of the load as canonical text of a ``timestamptz``; the same in all of its rows.
    """

    merge: MergeSpec
    valid_from: str
    valid_to: str
    is_current: str
    loaded_at: str


class WriteSession(Protocol):
    """One connection to a target. Statements run in the transaction between `begin` and `commit` or `rollback`.

    Outside of one each statement commits by itself.
    The transfer engine orders the calls; a session only knows how its engine spells them. Leaving the context
    without a commit rolls back.
    """

    def begin(self) -> None:
        """Start a transaction."""
        ...

    def commit(self) -> None:
        """Make the transaction durable.

        Raises:
            CommitUnknownError: The connection broke before the reply; it may or may not have happened.
        """
        ...

    def rollback(self) -> None:
        """Undo the transaction; silent when none is open or the connection is gone."""
        ...

    def execute(self, sql: str, parameters: Sequence[object] = ()) -> int:
        """Run one statement; parameters are ``?`` in the text. Returns the affected rows, -1 if unknown."""
        ...

    def fetch_all(self, sql: str, parameters: Sequence[object] = ()) -> list[tuple[object, ...]]:
        """Run one query; parameters are ``?`` in the text."""
        ...

    def lock_row_suffix(self) -> str:
        """What a SELECT ends with to lock the rows it reads (``for update``); empty where writers are serial."""
        ...

    def find_columns(self, table: TableName) -> tuple[Column, ...] | None:
        """Columns of a table in order; None if there is none."""
        ...

    def ensure_schema(self, table: TableName) -> None:
        """Create the table's schema if it is missing and the database has schemas."""
        ...

    def create_table(self, table: TableName, columns: Sequence[Column], primary_key: Sequence[str]) -> None:
        """Create an empty table."""
        ...

    def create_current_index(self, table: TableName, key: Sequence[str], is_current: str) -> None:
        """Create an index that finds the current version of a key, where it is cheap; else do nothing.

        Called for an empty table that keeps history, whose primary key is `key` and the column that a version begins.
        """
        ...

    def find_unique_keys(self, table: TableName) -> tuple[tuple[str, ...], ...]:
        """Columns of each unique index (the primary key's too) that covers all rows; empty without a table or index."""
        ...

    def lock_table(self, table: TableName) -> None:
        """Keep other writers from the table until the open transaction ends; readers go on.

        Does nothing where the transaction's own snapshot, or a lock on all of the database, does the same.
        """
        ...

    def current_moment(self) -> str:
        """The database's clock as canonical text of a ``timestamptz`` with six digits of a fraction, ending in ``+00``.

        The time at which the open transaction began, where the database tells.
        """
        ...

    def create_staging(
        self,
        target: TableName,
        columns: Sequence[Column],
        *,
        epoch: int,
        replaces: bool = True,
        key: Sequence[str] = (),
    ) -> TableName:
        """Create an empty table beside `target` to load into, without key and unique indexes.

        Where DDL is transactional it vanishes with a rollback. Elsewhere its name tells target and epoch, and the
        staging tables that earlier epochs left are dropped first: an orphaned attempt then writes into nothing,
        never into this attempt's rows.

        Two staged values are equal there if the target's unique index takes them for equal: its columns have the
        target's collations.

        Args:
            columns: All of them are the target's, but for one called `DELETED_FLAG`.
            replaces: The rows are going to be published by `publish_replace`; else the table never becomes the target.
            key: Columns by which the rows are going to be matched with the target's; may get an index.
        """
        ...

    def drop_staging(self, staging: TableName) -> None:
        """Drop a staging table if it is still there."""
        ...

    def write_batches(
        self, table: TableName, columns: Sequence[Column], batches: Iterable[pa.RecordBatch]
    ) -> tuple[int, int]:
        """Insert record batches of carriers; returns rows and bytes written.

        Raises:
            BadRowsError: The database refused a value; names the column where the server tells.
        """
        ...

    def publish_replace(
        self, staging: TableName, target: TableName, columns: Sequence[Column], primary_key: Sequence[str]
    ) -> RowChanges:
        """Make the staged rows the target's only rows, within the open transaction.

        Readers see the old rows until the commit and the new ones after it. Views, grants, indexes, foreign keys,
        defaults and comments on the target survive. The staging table is gone afterwards. All earlier rows count as
        deleted and all staged ones as inserted, but where the database keeps the rows that stay.
        """
        ...

    def publish_append(self, staging: TableName, target: TableName, columns: Sequence[Column]) -> RowChanges:
        """Add the staged rows to the target, within the open transaction. The staging table is gone afterwards."""
        ...

    def publish_merge(
        self, staging: TableName, target: TableName, columns: Sequence[Column], merge: MergeSpec
    ) -> RowChanges:
        """Merge the staged rows into the target, within the open transaction. The staging table is gone afterwards.

        A staged row whose key the target has replaces that row's `columns` if any of them differs, compared by what is
        stored and not by what the database calls equal; other columns keep their values. A staged row whose key is
        new is inserted; columns that are not in `columns` get their defaults. Rows are deleted as `merge` says.
        Triggers and foreign keys of the target act as on any other statement. `merge_sql` renders the statements.

        Raises:
            BadRowsError: A constraint of the target, or a foreign key of another table, refuses a row; names it.
        """
        ...

    def publish_history(
        self, staging: TableName, target: TableName, columns: Sequence[Column], history: HistorySpec
    ) -> RowChanges:
        """Close and open versions in the target as `history` says, within the open transaction.

        Rows are compared as by `publish_merge`, with the current versions only. Returns as ``inserted`` the versions
        that were opened, as ``updated`` those closed because their key has another one now, and as ``deleted`` those
        closed because their key is gone. The staging table is gone afterwards.
        """
        ...


@runtime_checkable
class CopyWriteSession(Protocol):
    """A write session that can also take PostgreSQL's binary COPY format."""

    def copy_in(self, table: TableName, columns: Sequence[Column], source: BinaryIO) -> int:
        """Load binary COPY data until its end; returns the rows. A cut stream (no trailer) raises."""
        ...


# --- several sessions for one load ----------------------------------------------------------------------------


@runtime_checkable
class SnapshotReadSession(Protocol):
    """A read session whose snapshot other sessions can share."""

    def export_snapshot(self) -> str:
        """A name under which sessions of the same database see the same rows, as long as this one is open."""
        ...


@runtime_checkable
class SnapshotConnector(Protocol):
    """A connector that can open sessions on a snapshot which another session has exported."""

    def read_at(self, snapshot: str) -> AbstractContextManager[ReadSession]:
        """Open a read session that sees exactly the rows of the session that exported `snapshot`."""
        ...


@runtime_checkable
class SharedWriteSession(Protocol):
    """A write session that can make staging tables which outlive its transaction, for several sessions to fill."""

    def create_shared_staging(
        self,
        target: TableName,
        columns: Sequence[Column],
        *,
        epoch: int,
        replaces: bool = True,
        key: Sequence[str] = (),
    ) -> TableName:
        """As `WriteSession.create_staging`, within the open transaction; it stays when that commits."""
        ...

    def evict_writers(self, staging: TableName) -> None:
        """End other sessions of this user that hold a shared staging table: those of attempts that were overtaken.

        Nothing happens if the table is gone. Must be called before this attempt's own sessions use it.
        """
        ...

    def adopt_staging(self, staging: TableName) -> None:
        """Take over a shared staging table for its publication, once all of its rows are committed.

        Must be called outside a transaction.
        """
        ...


# --- the connector ------------------------------------------------------------------------------------------


@runtime_checkable
class Connector(Protocol):
    """One connection of one kind of database. Cheap to make: nothing is opened before a session is."""

    #: The ``db_type`` that users write.
    db_type: str
    #: The sqlglot dialect of its SQL, empty for one that sqlglot does not know. It and `capabilities` may differ from
    #: connection to connection; they are known as soon as the connector is made, without its secrets too.
    dialect: str
    capabilities: Capabilities
    config: ConnectionConfig

    @classmethod
    def check_config(cls, config: ConnectionConfig) -> list[str]:
        """What is wrong with a configuration, field by field, found without connecting; the password may be None."""
        ...

    def test(self, *, timeout_seconds: float = 5.0) -> ConnectionReport:
        """Connect, look and disconnect within the limit; never raises for what the server or network does."""
        ...

    def discover(self, schema: str | None = None) -> list[TableDescription]:
        """Tables and views with their columns, by schema and name; system schemas are left out."""
        ...

    def quote(self, identifier: str) -> str:
        """An identifier quoted for this database, whatever it holds."""
        ...

    def qualify(self, table: TableName) -> str:
        """A quoted, schema-qualified table name."""
        ...

    def native_type(self, column: Column) -> str:
        """How this database spells a column's type in DDL.

        A column whose ``native_dialect`` is this one keeps its exact spelling.

        Raises:
            PlanError: No type here holds every value of the column's type exactly.
        """
        ...

    def holds(self, data_type: DataType) -> str | None:
        """A DuckDB predicate over ``{value}`` (the carrier) that is true when this database can store it exactly.

        None when every value of the type fits.
        """
        ...

    def read(self, limits: ReadLimits | None = None) -> AbstractContextManager[ReadSession]:
        """Open a read session; rolled back and closed at the end."""
        ...

    def write(self) -> AbstractContextManager[WriteSession]:
        """Open a write session."""
        ...

    def close(self) -> None:
        """Close pooled connections. The connector may be used again."""
        ...
