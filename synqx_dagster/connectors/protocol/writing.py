"""Write sessions: one connection each, on which the transfer engine runs its transactions."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, BinaryIO, Protocol, runtime_checkable

from synqx_dagster.model.table import Column, TableName

if TYPE_CHECKING:
    import pyarrow as pa


@dataclass(frozen=True)
class RowChanges:
    """What a publication did to the target's rows; equal rows that a merge left alone are in none of the counts.

    ``total`` is how many rows the target has afterwards, where the publication knows it: they were counted, or were
    counted before, with others kept from the table, and the statement says how many it has inserted.
    """

    inserted: int = 0
    updated: int = 0
    deleted: int = 0
    total: int | None = None


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
        rows_before: How many rows the target has, counted while other writers are kept from it.
    """

    key: tuple[str, ...]
    delete_missing: bool = False
    deleted_flag: str | None = None
    rows_before: int | None = None


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


@runtime_checkable
class InPlaceWriteSession(Protocol):
    """A write session that can give a table its key after its rows, both within the open transaction.

    The rows of a load that creates its target then go straight into it: nobody sees the table before the commit.
    """

    def add_primary_key(self, table: TableName, key: Sequence[str]) -> None:
        """Give a table that the open transaction has created its primary key.

        Raises:
            BadRowsError: Rows share a key.
        """
        ...


@runtime_checkable
class RoomKeepingWriteSession(Protocol):
    """A write session whose tables can be laid out for updates."""

    def keep_room(self, table: TableName) -> None:
        """Have a table that is empty keep room beside its rows, so that changing one moves little else."""
        ...


@runtime_checkable
class PartitionWriteSession(Protocol):
    """A write session that can replace some rows of a table."""

    def publish_partition(
        self, staging: TableName, target: TableName, columns: Sequence[Column], inside: str
    ) -> RowChanges:
        """Make the staged rows the only ones of the target that hold a condition, within the open transaction.

        The target is locked already (`lock_table`), and every staged row holds the condition. What is true of
        `publish_replace` is true of this.

        Args:
            inside: A condition over the target's columns, in its own SQL.

        Raises:
            BadRowsError: A staged row has the key of a row that stays.
            TargetMismatchError: Rows of another table would be deleted or changed with the target's.
        """
        ...


@runtime_checkable
class PublishedWriteSession(Protocol):
    """A write session of a database that lets nobody change rows of a published table unless they can be told apart."""

    def identify_rows(self, table: TableName) -> None:
        """Let the rows of a table without a key be changed and deleted, published or not; the table is this user's."""
        ...

    def is_unidentified(self, table: TableName) -> bool:
        """Whether a table is published, and its rows can be neither changed nor deleted."""
        ...


@runtime_checkable
class SharedWriteSession(Protocol):
    """A write session that can make staging tables which outlive its transaction, for other sessions to fill.

    Several at a time, where a connector's ``concurrent_writers`` says so; else one after another.
    """

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

    def join_writers(self, staging: TableName) -> None:
        """Let `evict_writers` of other sessions find this one, as long as it lasts.

        Must be called outside a transaction, and before the session writes to the table. May be called again.
        """
        ...

    def evict_writers(self, staging: TableName) -> None:
        """End other sessions of this user that hold a shared staging table: those of attempts that were overtaken.

        Nothing happens if the table is gone. Must be called before this attempt's own sessions use it.

        Raises:
            RetryableError: The server takes long to end them.
        """
        ...

    def become_table(self, staging: TableName, target: TableName) -> bool:
        """Make a shared staging table the target that the load creates, without its key, within the open transaction.

        False, and nothing has happened, where the publication brings the rows into a table that is there.
        """
        ...

    def adopt_staging(self, staging: TableName) -> None:
        """Take over a shared staging table for its publication, once all of its rows are committed.

        Other sessions' `evict_writers` finds this one from then on. Must be called outside a transaction.
        """
        ...
