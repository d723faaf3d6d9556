"""How MySQL and MariaDB spell merges: comparisons by bytes, whatever collation, and keys by the target's own.

Guarantee: a staged row counts as changed only where a stored byte differs; two keys are one where the target's unique
index says so.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from synqx_dagster.connectors.merge_sql import MergeDialect
from synqx_dagster.connectors.mysql_types import GEOMETRIES, NativeType
from synqx_dagster.model.table import Column

#: Runs a query with ``?`` parameters.
FetchAll = Callable[[str, Sequence[object]], list[tuple[object, ...]]]

_UNIQUE_KEYS_SQL = """
SELECT index_name, column_name, sub_part FROM information_schema.statistics
WHERE table_schema = ? AND table_name = ? AND non_unique = 0
ORDER BY index_name <> 'PRIMARY', index_name, seq_in_index
"""
_COLLATIONS_SQL = """
SELECT column_name, character_set_name, collation_name FROM information_schema.columns
WHERE table_schema = ? AND table_name = ? AND collation_name IS NOT NULL
"""

#: Types whose values are compared as texts: those with a collation, and those whose equality is wider than their text.
_TEXTS = frozenset(
    {"char", "varchar", "tinytext", "text", "mediumtext", "longtext", "enum", "set", "json", "uuid", "inet4", "inet6"}
)
#: Types that cannot be in an index without a length.
_UNBOUNDED = frozenset(
    {"tinytext", "text", "mediumtext", "longtext", "json", "tinyblob", "blob", "mediumblob", "longblob"}
)
#: Bytes or characters of such a column that the staging table's index holds; four of them fit into InnoDB's key.
_INDEXED_LENGTH = 190


def find_unique_keys(fetch_all: FetchAll, schema: str, table: str) -> tuple[tuple[str, ...], ...]:
    """Columns of each unique index over whole columns; the primary key first."""
    indexes: dict[str, list[object]] = {}
    partial: set[str] = set()
    for index, column, sub_part in fetch_all(_UNIQUE_KEYS_SQL, (schema, table)):
        indexes.setdefault(str(index), []).append(column)
        if sub_part is not None or column is None:
            # A prefix, or an expression.
            partial.add(str(index))
    return tuple(tuple(map(str, columns)) for index, columns in indexes.items() if index not in partial)


def find_collations(fetch_all: FetchAll, schema: str, table: str) -> dict[str, str]:
    """What a column's definition ends with to have the character set and collation that the table's column has."""
    return {
        str(name): f" CHARACTER SET {character_set} COLLATE {collation}"
        for name, character_set, collation in fetch_all(_COLLATIONS_SQL, (schema, table))
    }


def index_parts(columns: Sequence[Column], key: Sequence[str], quote: Callable[[str], str]) -> list[str]:
    """The key's columns as an index of the staging table has them."""
    by_name = {column.name: NativeType.parse(column.native_type or "") for column in columns}
    return [f"{quote(name)}({_INDEXED_LENGTH})" if by_name[name].name in _UNBOUNDED else quote(name) for name in key]


def spell_merge(quote: Callable[[str], str]) -> MergeDialect:
    """The dialect of both servers."""
    return MergeDialect(
        quote=quote,
        same=_same,
        moment=_moment,
        # Older servers take an alias only in the form for several tables.
        delete="DELETE t FROM {target} AS t WHERE {where}",
        update_from="UPDATE {target} AS t JOIN {staging} AS s ON {match} SET {assignments} WHERE {where}",
        assignment="t.{name} = {value}",
    )


def _same(left: str, right: str, column: Column) -> str:
    name = NativeType.parse(column.native_type or "").name
    if name in _TEXTS or (column.data_type.kind == "string" and name not in ("bit", *GEOMETRIES)):
        return f"{_bytes(left)} <=> {_bytes(right)}"
    return f"{left} <=> {right}"


def _bytes(value: str) -> str:
    return f"CAST(CONVERT({value} USING utf8mb4) AS BINARY)"


def _moment(text: str, column: Column) -> str:
    # The session's time zone is UTC.
    return f"'{text.removesuffix('+00')}'"
