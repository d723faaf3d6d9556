"""Merge and history in plain SQL: three statements each, in a dialect that says how it spells what differs.

Guarantee: a row of the target changes only if it differs from the staged one by the bytes that are stored, never by
what the database takes for equal; rows that are equal are not touched and not counted.

A connector gives a `MergeDialect` and inherits `MergesBySql`, or uses the statements in a way of its own. In all of
them the target is called ``t`` and the staging table ``s``.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from synqx_dagster.connectors.protocol import HistorySpec, MergeSpec, RowChanges
from synqx_dagster.errors import FatalError
from synqx_dagster.model.table import Column, TableName
from synqx_dagster.model.types import TypeKind

#: Two expressions of one column, the target's and the staged one, and a predicate over them.
Compare = Callable[[str, str, Column], str]

#: Types of which two values that are equal are the same. Others may differ and be equal: -0.0 and 0.0, 1.0 and 1.00,
#: ``a`` and ``A`` where a collation says so.
EXACT_KINDS: frozenset[TypeKind] = frozenset(
    {"smallint", "integer", "bigint", "boolean", "date", "time", "timestamp", "timestamptz", "uuid", "binary"}
)


def equal(left: str, right: str, column: Column) -> str:
    """What SQL calls equal; NULL where one side is."""
    return f"{left} = {right}"


@dataclass(frozen=True)
class MergeDialect:
    """How a database spells what a merge needs.

    Attributes:
        quote: Quotes an identifier.
        same: True where two values are both NULL or the same by what is stored (case, trailing blanks, signs of
            zero, digits), else false; never NULL.
        moment: A literal of a moment, given as canonical text of a ``timestamptz``, for a column of the target.
        same_key: True where the target's unique index takes two values for one key.
        differs: True where two rows differ, given expressions of both sides for each column; None: by `same`.
        delete: Deletes rows of ``{target}`` that hold ``{where}``.
        update: Updates rows of ``{target}`` that hold ``{where}`` by ``{assignments}``.
        update_from: The same, joined with ``{staging}`` on ``{match}``.
        assignment: One of the assignments: ``{name}`` gets ``{value}``.
        insert: Inserts ``{values}`` of ``{staging}`` whose row holds ``{where}`` when joined with ``{target}``.
        fixed: Columns that an UPDATE cannot set.
        update_correlates: ``{value}`` is a scalar subquery, for databases whose UPDATE joins nothing.
    """

    quote: Callable[[str], str]
    same: Compare
    moment: Callable[[str, Column], str]
    same_key: Compare = equal
    differs: Callable[[Sequence[tuple[str, str, Column]]], str] | None = None
    true: str = "TRUE"
    false: str = "FALSE"
    delete: str = "DELETE FROM {target} AS t WHERE {where}"
    update: str = "UPDATE {target} AS t SET {assignments} WHERE {where}"
    update_from: str = "UPDATE {target} AS t SET {assignments} FROM {staging} AS s WHERE {match} AND {where}"
    assignment: str = "{name} = {value}"
    insert: str = (
        "INSERT INTO {target} ({names}) SELECT {values} FROM {staging} s LEFT JOIN {target} t ON {match} WHERE {where}"
    )
    fixed: frozenset[str] = frozenset()
    update_correlates: bool = False


@dataclass(frozen=True)
class MergeSql:
    """Statements of a merge, to be run in this order; each affects as many rows as it changes. None: nothing to do."""

    delete: str | None
    update: str | None
    insert: str


@dataclass(frozen=True)
class HistorySql:
    """Statements that keep history, to be run in this order; `open` sees what the others closed."""

    close_gone: str | None
    close_changed: str | None
    open: str


def render_merge(
    dialect: MergeDialect, staging: str, target: str, columns: Sequence[Column], merge: MergeSpec
) -> MergeSql:
    """The statements of a merge; ``staging`` and ``target`` are qualified and quoted."""
    rendering = _Rendering(dialect, staging, target, columns, merge)
    gone = rendering.gone()
    delete = None if gone is None else dialect.delete.format(target=target, where=gone)
    update = None
    assigned = rendering.assigned()
    if assigned:
        update = rendering.update_from(
            [(column.name, rendering.staged_value(column)) for column in assigned],
            [rendering.differs(assigned), *rendering.alive()],
        )
    names = [column.name for column in columns]
    insert = rendering.insert(names, [f"s.{dialect.quote(name)}" for name in names], rendering.match)
    return MergeSql(delete, update, insert)


def render_single_merge(
    dialect: MergeDialect, staging: str, target: str, columns: Sequence[Column], merge: MergeSpec
) -> str:
    """SQL's own MERGE, for a merge that deletes nothing; reads the target once. `MergeDialect.insert` is not used.

    It changes row by row: a value of a second unique index that one row gives up is not certain to be free for another.
    """
    rendering = _Rendering(dialect, staging, target, columns, merge)
    assigned = rendering.assigned()
    update = ""
    if assigned:
        values = rendering.assignments([(column.name, rendering.staged_value(column)) for column in assigned])
        update = f" WHEN MATCHED AND {rendering.differs(assigned)} THEN UPDATE SET {values}"
    names = [dialect.quote(column.name) for column in columns]
    staged = ", ".join(f"s.{name}" for name in names)
    return (
        f"MERGE INTO {target} AS t USING {staging} AS s ON {rendering.match}{update}"
        f" WHEN NOT MATCHED THEN INSERT ({', '.join(names)}) OVERRIDING SYSTEM VALUE VALUES ({staged})"
    )


def render_history(
    dialect: MergeDialect,
    staging: str,
    target: str,
    columns: Sequence[Column],
    history: HistorySpec,
    kept: Sequence[Column],
) -> HistorySql:
    """The statements that keep history.

    Args:
        columns: What is staged and loaded.
        kept: All columns of the target; those that `history` names say how a moment is spelt.
    """
    rendering = _Rendering(dialect, staging, target, columns, history.merge)
    by_name = {column.name: column for column in kept}
    quote = dialect.quote
    starts = dialect.moment(history.loaded_at, by_name[history.valid_from])
    ends = dialect.moment(history.loaded_at, by_name[history.valid_to])
    is_current = f"t.{quote(history.is_current)} = {dialect.true}"
    closing = [(history.valid_to, ends), (history.is_current, dialect.false)]
    gone = rendering.gone()
    close_gone = None
    if gone is not None:
        close_gone = dialect.update.format(
            target=target, assignments=rendering.assignments(closing), where=f"{is_current} AND {gone}"
        )
    close_changed = None
    compared = rendering.compared()
    if compared:
        conditions = [is_current, rendering.differs(compared), *rendering.alive()]
        close_changed = rendering.update_from(closing, conditions)
    names = [column.name for column in columns]
    opened = rendering.insert(
        [*names, history.valid_from, history.valid_to, history.is_current],
        [*(f"s.{quote(name)}" for name in names), starts, "NULL", dialect.true],
        f"{rendering.match} AND {is_current}",
    )
    return HistorySql(close_gone, close_changed, opened)


class _Rendering:
    """The pieces that the statements of one merge share."""

    def __init__(
        self, dialect: MergeDialect, staging: str, target: str, columns: Sequence[Column], merge: MergeSpec
    ) -> None:
        self._dialect = dialect
        self._staging = staging
        self._target = target
        self._columns = columns
        self._merge = merge
        by_name = {column.name: column for column in columns}
        self.match = " AND ".join(dialect.same_key(*self._sides(by_name[name]), by_name[name]) for name in merge.key)

    def _sides(self, column: Column) -> tuple[str, str]:
        name = self._dialect.quote(column.name)
        return f"t.{name}", f"s.{name}"

    def compared(self) -> list[Column]:
        """Columns in which a row of the target may differ from the staged one of the same key."""
        return [
            column
            for column in self._columns
            if column.name not in self._merge.key or column.data_type.kind not in EXACT_KINDS
        ]

    def assigned(self) -> list[Column]:
        """Those that an update can make the same again."""
        return [column for column in self.compared() if column.name not in self._dialect.fixed]

    def differs(self, columns: Sequence[Column]) -> str:
        sides = [(*self._sides(column), column) for column in columns]
        if self._dialect.differs is not None:
            return self._dialect.differs(sides)
        return "NOT (" + " AND ".join(self._dialect.same(*side) for side in sides) + ")"

    def alive(self) -> list[str]:
        """The condition that a staged row is not one that says: deleted; empty without a flag."""
        flag = self._merge.deleted_flag
        return [] if flag is None else [f"s.{self._dialect.quote(flag)} = {self._dialect.false}"]

    def gone(self) -> str | None:
        """The condition that a row of the target has to go; None if none ever has."""
        flag = self._merge.deleted_flag
        if self._merge.delete_missing:
            conditions, word = [self.match, *self.alive()], "NOT EXISTS"
        elif flag is not None:
            conditions, word = [self.match, f"s.{self._dialect.quote(flag)} = {self._dialect.true}"], "EXISTS"
        else:
            return None
        return f"{word} (SELECT 1 FROM {self._staging} s WHERE {' AND '.join(conditions)})"

    def staged_value(self, column: Column) -> str:
        name = f"s.{self._dialect.quote(column.name)}"
        if self._dialect.update_correlates:
            return f"(SELECT {name} FROM {self._staging} s WHERE {self.match})"
        return name

    def assignments(self, values: Sequence[tuple[str, str]]) -> str:
        return ", ".join(
            self._dialect.assignment.format(name=self._dialect.quote(name), value=value) for name, value in values
        )

    def update_from(self, values: Sequence[tuple[str, str]], conditions: Sequence[str]) -> str:
        return self._dialect.update_from.format(
            target=self._target,
            staging=self._staging,
            assignments=self.assignments(values),
            match=self.match,
            where=" AND ".join(conditions),
        )

    def insert(self, names: Sequence[str], values: Sequence[str], match: str) -> str:
        # An outer join, because the databases that know no hash join run it by an index that they make for it.
        unmatched = f"t.{self._dialect.quote(self._merge.key[0])} IS NULL"
        return self._dialect.insert.format(
            target=self._target,
            staging=self._staging,
            names=", ".join(map(self._dialect.quote, names)),
            values=", ".join(values),
            match=match,
            where=" AND ".join([unmatched, *self.alive()]),
        )


class MergesBySql(ABC):
    """The part of a write session that publishes merges and history by the statements of this module."""

    @abstractmethod
    def execute(self, sql: str, parameters: Sequence[object] = ()) -> int:
        """Run one statement; returns the affected rows."""

    @abstractmethod
    def find_columns(self, table: TableName) -> tuple[Column, ...] | None:
        """Columns of a table in order; None if there is none."""

    @abstractmethod
    def drop_staging(self, staging: TableName) -> None:
        """Drop a staging table if it is still there."""

    @abstractmethod
    def _qualify(self, table: TableName) -> str:
        """A table's quoted name."""

    @abstractmethod
    def _merge_dialect(self, target: TableName) -> MergeDialect:
        """How the statements are spelt for this target."""

    def _prepare_merge(self, staging: TableName, key: Sequence[str]) -> None:  # noqa: B027  # not all need it
        """Do what makes the statements fast, such as an index on the staging table."""

    def _change_rows(self, sql: str, columns: Sequence[Column]) -> int:
        """Run one of the statements; returns the rows that it changed."""
        return self.execute(sql)

    def _end_staging(self, staging: TableName) -> None:
        """Do away with the staging table, or leave it to the end of the load where that would commit."""
        self.drop_staging(staging)

    def publish_merge(
        self, staging: TableName, target: TableName, columns: Sequence[Column], merge: MergeSpec
    ) -> RowChanges:
        """Merge the staged rows into the target."""
        self._prepare_merge(staging, merge.key)
        sql = render_merge(self._merge_dialect(target), self._qualify(staging), self._qualify(target), columns, merge)
        deleted = self._count_changes(sql.delete, columns, target)
        updated = self._count_changes(sql.update, columns, target)
        inserted = self._count_changes(sql.insert, columns, target)
        self._end_staging(staging)
        return RowChanges(inserted, updated, deleted)

    def publish_history(
        self, staging: TableName, target: TableName, columns: Sequence[Column], history: HistorySpec
    ) -> RowChanges:
        """Close and open versions in the target."""
        self._prepare_merge(staging, history.merge.key)
        kept = self.find_columns(target)
        if kept is None:
            raise FatalError(f"{target} vanished while it was being loaded", table=str(target))
        sql = render_history(
            self._merge_dialect(target), self._qualify(staging), self._qualify(target), columns, history, kept
        )
        deleted = self._count_changes(sql.close_gone, columns, target)
        updated = self._count_changes(sql.close_changed, columns, target)
        inserted = self._count_changes(sql.open, columns, target)
        self._end_staging(staging)
        return RowChanges(inserted, updated, deleted)

    def _count_changes(self, sql: str | None, columns: Sequence[Column], target: TableName) -> int:
        if sql is None:
            return 0
        rows = self._change_rows(sql, columns)
        if rows < 0:
            raise FatalError(f"{target}: the driver does not tell how many rows a statement changed", table=str(target))
        return rows
