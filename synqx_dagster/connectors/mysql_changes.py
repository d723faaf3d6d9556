"""Changes of single rows into MySQL and MariaDB, by a temporary table: making and dropping one does not commit."""

from __future__ import annotations

import uuid
from abc import abstractmethod

from synqx_dagster.connectors.change_sql import ChangeDialect, ChangesBySql
from synqx_dagster.connectors.mysql_merge import find_collations
from synqx_dagster.connectors.mysql_names import qualify, quote
from synqx_dagster.connectors.mysql_types import native_type
from synqx_dagster.connectors.protocol import OLD_KEY_PREFIX, PART_COLUMN, ChangedTable
from synqx_dagster.model.table import TableName


class MysqlChanges(ChangesBySql):
    """The part of a write session that brings changes into tables."""

    _database: str

    @abstractmethod
    def _refuse_unsafe_engine(self, target: TableName) -> None:
        """Refuse a table without transactions."""

    @abstractmethod
    def _table_options(self) -> str:
        """Engine, character set and collation of a new table."""

    def create_change_staging(self, changed: ChangedTable) -> TableName:
        """Create a temporary table of the target's types and collations."""
        target = changed.table
        self._refuse_unsafe_engine(target)
        staging = TableName(f"_synqx_changes_{uuid.uuid4().hex[:12]}", target.schema)
        collations = find_collations(self.fetch_all, target.schema or self._database, target.name)
        by_name = {column.name: column for column in changed.columns}
        named = [(column.name, column) for column in changed.columns]
        named += [(f"{OLD_KEY_PREFIX}{at}", by_name[name]) for at, name in enumerate(changed.key)]
        lines = []
        for name, column in named:
            spelt = native_type(column)
            collation = "" if spelt == "json" else collations.get(column.name, "")
            # Said explicitly: a TIMESTAMP that says nothing is not null on some servers.
            lines.append(f"{quote(name)} {spelt}{collation} NULL")
        lines.append(f"{quote(PART_COLUMN)} smallint NOT NULL")
        self.execute(f"CREATE TEMPORARY TABLE {qualify(staging)} ({', '.join(lines)}) {self._table_options()}")
        return staging

    def drop_change_staging(self, staging: TableName) -> None:
        """Drop a temporary table, and no other; without TEMPORARY it would commit."""
        self.execute(f"DROP TEMPORARY TABLE IF EXISTS {qualify(staging)}")

    def _change_dialect(self, changed: ChangedTable) -> ChangeDialect:
        return ChangeDialect(
            quote=quote,
            update="UPDATE {target} AS t JOIN {staged} ON {match} SET {assignments} WHERE {where}",
            complete="UPDATE {staging} AS s JOIN {target} AS t ON {match} SET {assignments} WHERE {where}",
            # Older servers take an alias only in the form for several tables.
            delete="DELETE t FROM {target} AS t JOIN {staged} ON {match} WHERE {where}",
            assignment="t.{name} = s.{name}",
            completion="s.{name} = t.{name}",
            lsn_parts=("SUBSTRING_INDEX({lsn}, '/', 1)", "SUBSTRING_INDEX({lsn}, '/', -1)"),
        )
