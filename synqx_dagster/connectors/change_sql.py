"""Staged changes in plain SQL, in a dialect that says how it spells what differs.

A connector gives a `ChangeDialect` and inherits `ChangesBySql`. In all of the statements the target is called ``t`` and
the staging table ``s``.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from synqx_dagster.connectors.protocol import (
    DELETED_PART,
    OLD_KEY_PREFIX,
    PART_COLUMN,
    UPDATED_PART,
    WHOLE_PART,
    ChangedTable,
    StagedParts,
)
from synqx_dagster.errors import FatalError
from synqx_dagster.model.table import TableName
from synqx_dagster.model.types import TypeKind

#: Kinds of keys of which neighbours mostly lie together in the table.
_ORDERED_KINDS: frozenset[TypeKind] = frozenset(
    {"smallint", "integer", "bigint", "decimal", "date", "timestamp", "timestamptz"}
)


@dataclass(frozen=True)
class ChangeDialect:
    """How a database spells changes.

    Attributes:
        quote: Quotes an identifier.
        lsn_parts: Two texts of one LSN, which compare by their length and then by their characters.
        update: Sets ``{assignments}`` in rows of ``{target}`` that ``{match}`` a row of ``{staged}`` which holds
            ``{where}``.
        complete: The same the other way round: sets them in the rows of ``{staging}``.
        delete: Deletes rows of ``{target}`` that ``{match}`` a row of ``{staged}`` which holds ``{where}``.
        insert: Inserts ``{values}`` of staged rows; ``{rest}`` says which, and what becomes of those that are there.
        assignment, completion: One assignment of an update, and of a completion.
        fixed: Columns that an UPDATE cannot set.
        upserts: A unique index over exactly the key lets an INSERT take the place of what is there.
        orders: Rows are looked up in the order of the staged ones. Measured on PostgreSQL, 66,000 rows of 1,000,000
            that do not fit into its buffers: half of the time.
        counts_found: An UPDATE tells how many rows it found, not how many have become others.
    """

    quote: Callable[[str], str]
    lsn_parts: tuple[str, str]
    update: str = "UPDATE {target} AS t SET {assignments} FROM {staged} WHERE {match} AND {where}"
    complete: str = "UPDATE {staging} AS s SET {assignments} FROM {target} AS t WHERE {match} AND {where}"
    delete: str = "DELETE FROM {target} AS t USING {staged} WHERE {match} AND {where}"
    insert: str = "INSERT INTO {target} ({names}) SELECT {values} FROM {staging} AS s {rest}"
    assignment: str = "{name} = s.{name}"
    completion: str = "{name} = t.{name}"
    fixed: frozenset[str] = frozenset()
    upserts: bool = False
    orders: bool = False
    counts_found: bool = False


class ChangeSql:
    """The statements for one table; `staging` and `target` are qualified and quoted."""

    def __init__(self, dialect: ChangeDialect, staging: str, target: str, changed: ChangedTable) -> None:
        self._dialect = dialect
        self._staging = staging
        self._target = target
        self._changed = changed
        quote = dialect.quote
        self._part = f"s.{quote(PART_COLUMN)}"
        self._key = [quote(name) for name in changed.key]
        self._same_key = " AND ".join(f"t.{name} = s.{name}" for name in self._key)
        olds = [quote(f"{OLD_KEY_PREFIX}{position}") for position in range(len(changed.key))]
        self._same_old_key = " AND ".join(f"t.{name} = s.{old}" for name, old in zip(self._key, olds, strict=True))
        self._names = [column.name for column in changed.columns]
        kinds = {column.name: column.data_type.kind for column in changed.columns}
        self._orders = dialect.orders and bool(changed.key) and kinds[changed.key[0]] in _ORDERED_KINDS

    def missing(self, parts: StagedParts) -> str:
        """Counts the staged rows that find no row."""
        conditions = []
        for found, match in ((parts.moved, self._same_old_key), (parts.partial, self._same_key)):
            if found:
                is_there = f"EXISTS (SELECT 1 FROM {self._target} t WHERE {match})"
                conditions.append(f"{self._is_one_of(found)} AND NOT {is_there}")
        return f"SELECT count(*) FROM {self._staging} s WHERE " + " OR ".join(f"({one})" for one in conditions)

    def complete(self, part: int, names: Sequence[str]) -> str:
        """Completes what has moved from the rows of its earlier key."""
        assignments = ", ".join(self._dialect.completion.format(name=self._dialect.quote(name)) for name in names)
        return self._dialect.complete.format(
            target=self._target,
            staging=self._staging,
            assignments=assignments,
            match=self._same_old_key,
            where=self._is_one_of([part]),
        )

    def delete(self) -> str:
        """Deletes the rows of the keys that are to go."""
        return self._dialect.delete.format(target=self._target, match=self._same_key, **self._staged([DELETED_PART]))

    def update(self, parts: Iterable[int], names: Sequence[str] | None = None) -> str | None:
        """Sets columns, all of them if they are not named; None where there is none that can be set."""
        names = self._names if names is None else names
        settable = [name for name in names if name not in self._changed.key and name not in self._dialect.fixed]
        if not settable:
            return None
        assignments = ", ".join(self._dialect.assignment.format(name=self._dialect.quote(name)) for name in settable)
        return self._dialect.update.format(
            target=self._target, assignments=assignments, match=self._same_key, **self._staged(parts)
        )

    def insert_missing(self, parts: Iterable[int]) -> str:
        """Inserts whole rows whose key is not there."""
        joined = f"LEFT JOIN {self._target} t ON {self._same_key} WHERE t.{self._key[0]} IS NULL"
        return self._insert(f"{joined} AND {self._is_one_of(parts)}")

    def upsert(self, parts: Iterable[int]) -> str:
        """Puts whole rows in place of those of their key, or beside the others."""
        names = [name for name in self._names if name not in self._changed.key and name not in self._dialect.fixed]
        settable = [self._dialect.quote(name) for name in names]
        action = f"UPDATE SET {', '.join(f'{name} = excluded.{name}' for name in settable)}" if names else "NOTHING"
        conflict = f"ON CONFLICT ({', '.join(self._key)}) DO {action}"
        return self._insert(f"WHERE {self._is_one_of(parts)} {conflict}")

    def complete_history(self, part: int, names: Sequence[str], log: tuple[str, str]) -> str:
        """Completes changes from the newest earlier ones."""
        quote = self._dialect.quote
        lsn, ordinal = (f"t.{quote(name)}" for name in log)
        lsns = [one.format(lsn=lsn) for one in self._dialect.lsn_parts]
        order = ", ".join(f"length({one}) DESC, {one} DESC" for one in lsns)
        newest = f"FROM {self._target} t WHERE {self._same_old_key} ORDER BY {order}, {ordinal} DESC LIMIT 1"
        assignments = ", ".join(f"{quote(name)} = (SELECT t.{quote(name)} {newest})" for name in names)
        return f"UPDATE {self._staging} AS s SET {assignments} WHERE {self._is_one_of([part])}"

    def append(self) -> str:
        """Adds all staged rows."""
        return self._insert("")

    def _insert(self, rest: str) -> str:
        quoted = [self._dialect.quote(name) for name in self._names]
        return self._dialect.insert.format(
            target=self._target,
            staging=self._staging,
            names=", ".join(quoted),
            values=", ".join(f"s.{name}" for name in quoted),
            rest=rest,
        )

    def _staged(self, parts: Iterable[int]) -> dict[str, str]:
        where = self._is_one_of(parts)
        if not self._orders:
            return {"staged": f"{self._staging} AS s", "where": where}
        order = ", ".join(f"s.{name}" for name in self._key)
        return {"staged": f"(SELECT * FROM {self._staging} AS s WHERE {where} ORDER BY {order}) AS s", "where": "TRUE"}

    def _is_one_of(self, parts: Iterable[int]) -> str:
        numbers = list(parts)
        if len(numbers) == 1:
            return f"{self._part} = {numbers[0]}"
        return f"{self._part} IN ({', '.join(map(str, numbers))})"


class ChangesBySql(ABC):
    """The part of a write session that brings changes into tables by the statements of this module.

    See `synqx_dagster.connectors.protocol.ChangingWriteSession`.
    """

    @abstractmethod
    def execute(self, sql: str, parameters: Sequence[object] = ()) -> int:
        """Run one statement; returns the affected rows."""

    @abstractmethod
    def fetch_all(self, sql: str, parameters: Sequence[object] = ()) -> list[tuple[object, ...]]:
        """Run one query."""

    @abstractmethod
    def _qualify(self, table: TableName) -> str:
        """A table's quoted name."""

    @abstractmethod
    def _change_dialect(self, changed: ChangedTable) -> ChangeDialect:
        """How the statements are spelt for this table."""

    def begin_changes(self) -> None:  # noqa: B027  # not all need it
        """Nothing."""

    def clear_change_staging(self, staging: TableName) -> None:
        """Remove all rows of a staging table."""
        self.execute(f"DELETE FROM {self._qualify(staging)}")

    def drop_change_staging(self, staging: TableName) -> None:
        """Drop a staging table."""
        self.execute(f"DROP TABLE IF EXISTS {self._qualify(staging)}")

    def count_missing(self, staging: TableName, changed: ChangedTable, parts: StagedParts) -> int:
        """How many rows of the moved and partial parts find no row in the table."""
        if not parts.moved and not parts.partial:
            return 0
        return int(str(self.fetch_all(self._sql(staging, changed, self._change_dialect(changed)).missing(parts))[0][0]))

    def apply_changes(self, staging: TableName, changed: ChangedTable, parts: StagedParts) -> None:
        """Bring the staged changes into the table."""
        dialect = self._change_dialect(changed)
        sql = self._sql(staging, changed, dialect)
        for part, names in parts.moved.items():
            self.execute(sql.complete(part, names))
        if parts.deleted:
            self.execute(sql.delete())
        self._put(sql, dialect, parts)
        for part, names in parts.partial.items():
            self._execute_if(sql.update([part], names))

    def _put(self, sql: ChangeSql, dialect: ChangeDialect, parts: StagedParts) -> None:
        """Whole rows in place of those of their key."""
        new = [*([WHOLE_PART] if parts.whole else []), *parts.moved]
        if not dialect.upserts:
            whole = [*([UPDATED_PART] if parts.updated else []), *new]
            if whole:
                self._execute_if(sql.update(whole))
                self.execute(sql.insert_missing(whole))
            return
        if parts.updated:
            found = self._execute_if(sql.update([UPDATED_PART]))
            if found != parts.updated or not dialect.counts_found:
                # Somebody else has deleted rows of the target: they are made good.
                new.append(UPDATED_PART)
        if new:
            self.execute(sql.upsert(new))

    def _execute_if(self, statement: str | None) -> int:
        return -1 if statement is None else self.execute(statement)

    def append_changes(
        self, staging: TableName, changed: ChangedTable, parts: StagedParts, log: tuple[str, str]
    ) -> int:
        """Add all staged rows to a table that keeps every change."""
        sql = self._sql(staging, changed, self._change_dialect(changed))
        for part, names in parts.moved.items():
            self.execute(sql.complete_history(part, names, log))
        inserted = self.execute(sql.append())
        if inserted < 0:
            raise FatalError(f"{changed.table}: the driver does not tell how many rows a statement changed")
        return inserted

    def _sql(self, staging: TableName, changed: ChangedTable, dialect: ChangeDialect) -> ChangeSql:
        return ChangeSql(dialect, self._qualify(staging), self._qualify(changed.table), changed)
