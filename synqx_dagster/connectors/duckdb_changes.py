"""Changes of single rows into DuckDB, by a temporary table."""

from __future__ import annotations

import uuid

from synqx_dagster.connectors.change_sql import ChangeDialect, ChangesBySql
from synqx_dagster.connectors.file_database import quote
from synqx_dagster.connectors.protocol import OLD_KEY_PREFIX, PART_COLUMN, ChangedTable
from synqx_dagster.model.table import TableName

#: The catalog in which DuckDB keeps temporary tables.
_TEMPORARY = "temp"


class DuckdbChanges(ChangesBySql):
    """The part of a write session that brings changes into tables."""

    def create_change_staging(self, changed: ChangedTable) -> TableName:
        """Create a temporary table of the target's types."""
        staging = TableName(f"_synqx_changes_{uuid.uuid4().hex[:12]}", _TEMPORARY)
        names = ", ".join(quote(column.name) for column in changed.columns)
        olds = "".join(
            f", {quote(name)} AS {quote(f'{OLD_KEY_PREFIX}{position}')}" for position, name in enumerate(changed.key)
        )
        self.execute(
            f"CREATE TEMPORARY TABLE {quote(staging.name)} AS SELECT {names}, 0::SMALLINT AS {quote(PART_COLUMN)}{olds}"
            f" FROM {self._qualify(changed.table)} WITH NO DATA"
        )
        return staging

    def _change_dialect(self, changed: ChangedTable) -> ChangeDialect:
        return ChangeDialect(quote=quote, lsn_parts=("split_part({lsn}, '/', 1)", "split_part({lsn}, '/', 2)"))
