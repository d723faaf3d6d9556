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
    WHOLE_PART,
    ChangedTable,
    StagedParts,
)
from synqx_dagster.errors import FatalError
from synqx_dagster.model.table import TableName


@dataclass(frozen=True)
class ChangeDialect:
    """How a database spells changes.

    Attributes:
        quote: Quotes an identifier.
        update: Sets ``{assignments}`` in rows of ``{target}`` that ``{match}`` a row of ``{staging}`` which holds
            ``{where}``.
        complete: The same the other way round: sets them in the rows of ``{staging}``.
        delete: Deletes rows of ``{target}`` that ``{match}`` a row of ``{staging}`` which holds ``{where}``.
        insert: Inserts ``{values}`` of staged rows; ``{rest}`` says which, and what becomes of those that are there.
        assignment, completion: One assignment of an update, and of a completion.
        fixed: Columns that an UPDATE cannot set.
        upserts: A unique index over exactly the key lets an INSERT take the place of what is there.
        lsn_parts: Two texts of one LSN, which compare by their length and then by their characters.
    """

    quote: Callable[[str], str]
    lsn_parts: tuple[str, str]
    update: str = "UPDATE {target} AS t SET {assignments} FROM {staging} AS s WHERE {match} AND {where}"
    complete: str = "UPDATE {staging} AS s SET {assignments} FROM {target} AS t WHERE {match} AND {where}"
    delete: str = "DELETE FROM {target} AS t USING {staging} AS s WHERE {match} AND {where}"
    insert: str = "INSERT INTO {target} ({names}) SELECT {values} FROM {staging} AS s {rest}"
    assignment: str = "{name} = s.{name}"
    completion: str = "{name} = t.{name}"
    fixed: frozenset[str] = frozenset()
    upserts: bool = False


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

    def missing(self, parts: StagedParts) -> str:
        """Counts the staged rows that find no row."""
        conditions = []
        for found, match in ((parts.moved, self._same_old_key), (parts.partial, self._same_key)):
            if found:
                is_there = f"EXISTS (SELECT 1 FROM {self._target} t WHERE {match})"
                conditions.append(f"{self._is_one_of(found)} AND NOT {is_there}")
        return f"SELECT count(*) FROM {self._staging} s WHERE " + " OR ".join(f"({one})" for one in conditions)

    def statements(self, parts: StagedParts) -> list[str]:
        """What brings the changes into the table, in this order."""
        found = [self._complete(part, names) for part, names in parts.moved.items()]
        if parts.has_deleted:
            found.append(self._format(self._dialect.delete, self._same_key, f"{self._part} = {DELETED_PART}"))
        if parts.has_whole or parts.moved:
            found.extend(self._put([WHOLE_PART, *parts.moved]))
        for part, names in parts.partial.items():
            found.extend(self._update(names, f"{self._part} = {part}"))
        return found

    def completions_of_history(self, parts: StagedParts, log: tuple[str, str]) -> list[str]:
        """What completes changes from the newest earlier ones."""
        found = []
        quote = self._dialect.quote
        for part, names in parts.moved.items():
            assignments = ", ".join(f"{quote(name)} = (SELECT t.{quote(name)} {self._newest(log)})" for name in names)
            found.append(f"UPDATE {self._staging} AS s SET {assignments} WHERE {self._part} = {part}")
        return found

    def appended(self, values: Sequence[str]) -> str:
        """Adds all staged rows."""
        quoted = [self._dialect.quote(name) for name in values]
        return self._dialect.insert.format(
            target=self._target,
            staging=self._staging,
            names=", ".join(quoted),
            values=", ".join(f"s.{name}" for name in quoted),
            rest="",
        )

    def _newest(self, log: tuple[str, str]) -> str:
        lsn, ordinal = (f"t.{self._dialect.quote(name)}" for name in log)
        parts = [part.format(lsn=lsn) for part in self._dialect.lsn_parts]
        order = ", ".join(f"length({part}) DESC, {part} DESC" for part in parts)
        return f"FROM {self._target} t WHERE {self._same_old_key} ORDER BY {order}, {ordinal} DESC LIMIT 1"

    def _complete(self, part: int, names: Sequence[str]) -> str:
        assignments = ", ".join(self._dialect.completion.format(name=self._dialect.quote(name)) for name in names)
        return self._format(self._dialect.complete, self._same_old_key, f"{self._part} = {part}", assignments)

    def _put(self, parts: Sequence[int]) -> list[str]:
        """Whole rows in place of those of their key."""
        names = [column.name for column in self._changed.columns]
        set_names = [name for name in names if name not in self._changed.key]
        where = self._is_one_of(parts)
        if self._dialect.upserts:
            settable = [self._dialect.quote(name) for name in set_names if name not in self._dialect.fixed]
            action = f"UPDATE SET {', '.join(f'{name} = excluded.{name}' for name in settable)}"
            rest = f"WHERE {where} ON CONFLICT ({', '.join(self._key)}) DO {action if settable else 'NOTHING'}"
            return [self._insert(names, rest)]
        unmatched = f"LEFT JOIN {self._target} t ON {self._same_key} WHERE t.{self._key[0]} IS NULL AND {where}"
        return [*self._update(set_names, where), self._insert(names, unmatched)]

    def _update(self, names: Sequence[str], where: str) -> list[str]:
        settable = [name for name in names if name not in self._changed.key and name not in self._dialect.fixed]
        if not settable:
            return []
        assignments = ", ".join(self._dialect.assignment.format(name=self._dialect.quote(name)) for name in settable)
        return [self._format(self._dialect.update, self._same_key, where, assignments)]

    def _format(self, statement: str, match: str, where: str, assignments: str = "") -> str:
        return statement.format(
            target=self._target, staging=self._staging, assignments=assignments, match=match, where=where
        )

    def _insert(self, names: Sequence[str], rest: str) -> str:
        quoted = [self._dialect.quote(name) for name in names]
        return self._dialect.insert.format(
            target=self._target,
            staging=self._staging,
            names=", ".join(quoted),
            values=", ".join(f"s.{name}" for name in quoted),
            rest=rest,
        )

    def _is_one_of(self, parts: Iterable[int]) -> str:
        return f"{self._part} IN ({', '.join(map(str, parts))})"


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
        return int(str(self.fetch_all(self._sql(staging, changed).missing(parts))[0][0]))

    def apply_changes(self, staging: TableName, changed: ChangedTable, parts: StagedParts) -> None:
        """Bring the staged changes into the table."""
        for statement in self._sql(staging, changed).statements(parts):
            self.execute(statement)

    def append_changes(
        self, staging: TableName, changed: ChangedTable, parts: StagedParts, log: tuple[str, str]
    ) -> int:
        """Add all staged rows to a table that keeps every change."""
        sql = self._sql(staging, changed)
        for statement in sql.completions_of_history(parts, log):
            self.execute(statement)
        inserted = self.execute(sql.appended([column.name for column in changed.columns]))
        if inserted < 0:
            raise FatalError(f"{changed.table}: the driver does not tell how many rows a statement changed")
        return inserted

    def _sql(self, staging: TableName, changed: ChangedTable) -> ChangeSql:
        return ChangeSql(self._change_dialect(changed), self._qualify(staging), self._qualify(changed.table), changed)
