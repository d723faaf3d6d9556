"""Write sessions that bring changes of single rows into a table, many of them by a few statements."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol, runtime_checkable

from synqx_dagster.connectors.protocol.writing import WriteSession
from synqx_dagster.model.table import Column, TableName

#: The staging table's column that says what is done with a row.
PART_COLUMN = "_synqx_part"

#: What the staging table's columns of a row's earlier key begin with; a number follows, from 0, in key order.
OLD_KEY_PREFIX = "_synqx_old_key_"

#: Parts: rows whose key is to go, and whole rows, of which those of `UPDATED_PART` replace a row that should be there.
DELETED_PART = -1
UPDATED_PART = -2
WHOLE_PART = 0


@dataclass(frozen=True)
class ChangedTable:
    """A table that changes are brought into.

    Attributes:
        columns: Those that are filled, as the table has them.
        key: Of `columns`, by which rows are found; never NULL in a staged row.
    """

    table: TableName
    columns: tuple[Column, ...]
    key: tuple[str, ...]


@dataclass(frozen=True)
class StagedParts:
    """What the parts of a staging table mean; no two rows share a key within one part.

    Attributes:
        deleted, updated, whole: How many rows there are of `DELETED_PART`, `UPDATED_PART` and `WHOLE_PART`.
        moved: By part, the columns that a row takes from the table's row of its earlier key before anything changes; it
            is then a whole one.
        partial: By part, the columns of the table's row of this key that are set; a row that is not there stays so.
    """

    deleted: int = 0
    updated: int = 0
    whole: int = 0
    moved: Mapping[int, tuple[str, ...]] = field(default_factory=dict)
    partial: Mapping[int, tuple[str, ...]] = field(default_factory=dict)


@runtime_checkable
class ChangingWriteSession(WriteSession, Protocol):
    """A write session that brings staged changes into a table, within the open transaction.

    All of these are called between `begin` and `commit`; none of them commits, in any database.
    """

    def begin_changes(self) -> None:
        """Have constraints that may wait be checked at the commit; tables then need not come in their order."""
        ...

    def create_change_staging(self, changed: ChangedTable) -> TableName:
        """Create an empty table that only this session sees, and only until the transaction ends.

        Its columns are those of `changed`, all of which may be NULL, then `PART_COLUMN`, then one `OLD_KEY_PREFIX` for
        each column of the key.
        """
        ...

    def clear_change_staging(self, staging: TableName) -> None:
        """Remove all rows of such a table."""
        ...

    def drop_change_staging(self, staging: TableName) -> None:
        """Drop such a table."""
        ...

    def count_missing(self, staging: TableName, changed: ChangedTable, parts: StagedParts) -> int:
        """How many rows of the moved and partial parts find no row of their earlier or their own key in the table."""
        ...

    def apply_changes(self, staging: TableName, changed: ChangedTable, parts: StagedParts) -> None:
        """Complete what has moved, then delete, then put whole rows in place of those of their key, then set columns.

        Rows are not compared: what is staged is written.
        """
        ...

    def append_changes(
        self, staging: TableName, changed: ChangedTable, parts: StagedParts, log: tuple[str, str]
    ) -> int:
        """Add all staged rows to a table that keeps every change; returns how many.

        What has moved first takes its columns from the newest of the table's rows that have its earlier key.

        Args:
            changed: Its key finds the changes of one row of the source.
            log: The columns that say where in the log a change stood: an LSN as text, and a number within it.
        """
        ...


@runtime_checkable
class LinesWriteSession(Protocol):
    """A write session that takes rows in PostgreSQL's text format of COPY."""

    def copy_lines(self, table: TableName, names: Sequence[str], lines: Iterable[bytes]) -> int:
        """Load lines into these columns; each item holds whole lines. Returns the rows.

        Raises:
            BadRowsError: The database refused a value.
        """
        ...
