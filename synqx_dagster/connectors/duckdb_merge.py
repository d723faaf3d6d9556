"""How DuckDB spells merges: comparisons by text and bytes where its equality is wider than what is stored."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence

from synqx_dagster.connectors.file_database import quote
from synqx_dagster.connectors.merge_sql import EXACT_KINDS, MergeDialect
from synqx_dagster.model.table import Column, TableName

#: Runs a query with ``?`` parameters.
FetchAll = Callable[[str, Sequence[object]], list[tuple[object, ...]]]

_KEYS_SQL = """
SELECT constraint_column_names FROM duckdb_constraints()
WHERE database_name = current_database() AND schema_name = ? AND table_name = ?
    AND constraint_type IN ('PRIMARY KEY', 'UNIQUE')
ORDER BY constraint_type
"""
_INDEXES_SQL = """
SELECT expressions FROM duckdb_indexes()
WHERE database_name = current_database() AND schema_name = ? AND table_name = ? AND is_unique
"""
#: DuckDB gives an index's expressions as one text, ``['"name"', id]``; only columns in it are understood.
_NAME = r"""(?:'"[^"']+"'|[A-Za-z_]\w*)"""
_NAMES = re.compile(rf"\[({_NAME}(?:, {_NAME})*)\]")


def find_unique_keys(fetch_all: FetchAll, table: TableName, schema: str) -> tuple[tuple[str, ...], ...]:
    """Columns of each unique index; the primary key first."""
    keys = [tuple(map(str, names)) for (names,) in fetch_all(_KEYS_SQL, (schema, table.name))]  # type: ignore[call-overload]  # a list of names
    for (expressions,) in fetch_all(_INDEXES_SQL, (schema, table.name)):
        if match := _NAMES.fullmatch(str(expressions)):
            keys.append(tuple(name.strip("'\"") for name in re.findall(_NAME, match[1])))
    return tuple(keys)


def spell_merge() -> MergeDialect:
    """DuckDB's dialect."""
    return MergeDialect(quote=quote, same=_same, same_key=_same_key, moment=_moment)


def _same(left: str, right: str, column: Column) -> str:
    kind = column.data_type.kind
    if kind in EXACT_KINDS or (kind == "decimal" and (column.native_type or "").startswith("DECIMAL")):
        return f"{left} IS NOT DISTINCT FROM {right}"
    if kind in ("real", "float"):
        # Of NaN there is one; of zero there are two.
        signs = f"signbit({left}) IS NOT DISTINCT FROM signbit({right})"
        return f"({left} IS NOT DISTINCT FROM {right} AND {signs})"
    return f"{_bytes(left)} IS NOT DISTINCT FROM {_bytes(right)}"


def _same_key(left: str, right: str, column: Column) -> str:
    # A collation bears on comparisons, and not on unique indexes.
    return f"{_bytes(left)} = {_bytes(right)}" if column.native_type == "VARCHAR" else f"{left} = {right}"


def _bytes(value: str) -> str:
    return f"encode(CAST({value} AS VARCHAR))"


def _moment(text: str, column: Column) -> str:
    moment = text if column.data_type.kind == "timestamptz" else text.removesuffix("+00")
    return f"CAST('{moment}' AS {column.native_type or 'TIMESTAMP WITH TIME ZONE'})"
