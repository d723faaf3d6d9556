"""How SQLite spells merges: comparisons by storage class and bytes, keys under the collations of the target's index.

Guarantee: a merge leaves no row of another table without the row that it refers to, although foreign keys are not
enforced while it runs.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from synqx_dagster.connectors.file_database import quote
from synqx_dagster.connectors.merge_sql import MergeDialect
from synqx_dagster.errors import BadRowsError
from synqx_dagster.model.table import Column, TableName

#: Runs a query with ``?`` parameters.
FetchAll = Callable[[str, Sequence[object]], list[tuple[object, ...]]]

_UNIQUE_INDEXES_SQL = """
SELECT list.seq, info.name, info.coll
FROM pragma_index_list(?, ?) AS list JOIN pragma_index_xinfo(list.name, ?) AS info
WHERE list."unique" AND NOT list.partial AND info.key
ORDER BY list.origin <> 'pk', list.seq, info.seqno
"""

#: Foreign keys of other tables, and how many of their rows refer to nothing.
_ORPHANS_SQL = """
SELECT tables.name, count(*)
FROM sqlite_schema AS tables JOIN pragma_foreign_key_check(tables.name) AS broken
WHERE tables.type = 'table' AND broken.parent = ? COLLATE NOCASE
    AND EXISTS (SELECT 1 FROM pragma_foreign_key_list(tables.name) AS keys WHERE keys."table" = ? COLLATE NOCASE)
GROUP BY tables.name
"""


def find_unique_keys(fetch_all: FetchAll, table: TableName) -> tuple[tuple[str, ...], ...]:
    """Columns of each unique index over columns of all rows; a row id that is the primary key has none."""
    indexes = _unique_indexes(fetch_all, table)
    return tuple(tuple(str(name) for name in index) for index in indexes if None not in index)


def find_collations(fetch_all: FetchAll, table: TableName) -> dict[str, str]:
    """Under which collation a unique index compares a column; the primary key's where two differ."""
    found: dict[str, str] = {}
    for index in _unique_indexes(fetch_all, table):
        for name, collation in index.items():
            if name is not None:
                found.setdefault(name, collation)
    return found


def _unique_indexes(fetch_all: FetchAll, table: TableName) -> list[dict[str | None, str]]:
    schema = table.schema or "main"
    indexes: dict[object, dict[str | None, str]] = {}
    for number, name, collation in fetch_all(_UNIQUE_INDEXES_SQL, (table.name, schema, schema)):
        # An expression has no name.
        indexes.setdefault(number, {})[None if name is None else str(name)] = str(collation)
    return list(indexes.values())


def spell_merge(collations: Mapping[str, str]) -> MergeDialect:
    """SQLite's dialect for a target whose unique indexes have these collations."""

    def same_key(left: str, right: str, column: Column) -> str:
        if column.data_type.kind != "string" and column.name not in collations:
            return f"{left} = {right}"
        return f"{left} = {right} COLLATE {quote(collations.get(column.name, 'BINARY'))}"

    return MergeDialect(quote=quote, same=_same, same_key=same_key, moment=_moment, assignment="{name} = {value}")


def _same(left: str, right: str, column: Column) -> str:
    return f"(typeof({left}) = typeof({right}) AND {left} IS {right} COLLATE BINARY)"


def _moment(text: str, column: Column) -> str:
    # As rows of such a column are written: canonical text.
    moment = text if column.data_type.kind == "timestamptz" else text.removesuffix("+00")
    return f"'{moment}'"


def find_orphans(fetch_all: FetchAll, target: TableName) -> dict[str, int]:
    """Rows of other tables that refer to no row of the target, by table."""
    return {str(name): int(str(rows)) for name, rows in fetch_all(_ORPHANS_SQL, (target.name, target.name))}


def refuse_orphans(before: Mapping[str, int], after: Mapping[str, int], target: TableName) -> None:
    """Refuse a merge that took rows away to which others refer.

    Raises:
        BadRowsError: Names the first table that has more such rows than before.
    """
    for table, rows in after.items():
        if rows > before.get(table, 0):
            raise BadRowsError(
                f"{target}: a row is to be deleted to which {rows - before.get(table, 0):,} rows of {table} refer by a"
                " foreign key",
                hint=f"delete those rows of {table} first, or drop the foreign key",
                table=str(target),
            )
