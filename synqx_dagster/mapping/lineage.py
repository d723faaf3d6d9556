"""Lineage: which source tables and columns a target field comes from, read off the mapping and the source query.

It is best effort: what cannot be traced is left out or carries no table, and odd SQL never raises.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache

from synqx_dagster.errors import ConfigurationError
from synqx_dagster.mapping.names import find_name, fold
from synqx_dagster.model.mapping import ColumnMapping, ConstantMapping, ExpressionMapping
from synqx_dagster.model.mapping import Mapping as MappingRecord
from synqx_dagster.model.schema import Schema
from synqx_dagster.model.table import Column, TableName

#: A column of a table; of no table where that cannot be told.
Origin = tuple[TableName | None, str]


@dataclass(frozen=True)
class Lineage:
    """Where a target comes from.

    Attributes:
        tables: Every source table, each once, in order of appearance.
        columns: Source columns by target field, each once; a constant has none.
    """

    tables: tuple[TableName, ...]
    columns: dict[str, tuple[Origin, ...]]


def lineage_digest(mapping: MappingRecord, schema: Schema | None, dialect: str) -> str:
    """A digest of all that `trace_lineage` reads without a connection: equal digests mean equal lineage.

    It says nothing of the code that traces, which may change, too.
    """
    schema = mapping.filled_part(schema)
    read = [
        dialect,
        mapping.source_table,
        mapping.source_query,
        # Without column mappings the columns are the schema's; with them the schema is not looked at.
        [column.name for column in schema.columns] if schema is not None and mapping.column_mappings is None else None,
        None
        if mapping.column_mappings is None
        else [[type(item).__name__, *_read_by_trace(item)] for item in mapping.column_mappings],
    ]
    return hashlib.sha256(json.dumps(read).encode()).hexdigest()


def trace_lineage(
    mapping: MappingRecord,
    schema: Schema | None,
    source_columns: Sequence[Column] | None,
    *,
    dialect: str,
    tables: Mapping[TableName, Sequence[str]] | None = None,
) -> Lineage:
    """Trace every target field to the columns of source tables.

    Args:
        mapping: The mapping record.
        schema: The target's schema, if it has one.
        source_columns: The columns of the source table or query; None when nobody has connected.
        dialect: The sqlglot dialect of the source.
        tables: Columns of source tables as far as they are known; they resolve names that no table qualifies.
    """
    schema = mapping.filled_part(schema)
    source: Source = _TableSource(mapping.source) if mapping.source is not None else Source()
    if mapping.source_query is not None:
        source = _query_source(mapping.source_query, dialect, tables or {})
    known = [column.name for column in source_columns] if source_columns is not None else source.outputs()
    columns = {
        field: tuple(dict.fromkeys(origin for name in names for origin in source.trace(name)))
        for field, names in _source_names(mapping, schema, known, dialect).items()
    }
    return Lineage(source.tables, columns)


def trace_query(
    sql: str, dialect: str, known: Mapping[str, Sequence[str]] | None = None
) -> dict[str, tuple[Origin, ...]]:
    """The columns of tables that each column of a query is made of; empty where the query does not tell its columns.

    Args:
        known: Columns of tables by the table's name; they resolve names that no table qualifies.
    """
    source = _query_source(sql, dialect, {TableName(name): columns for name, columns in (known or {}).items()})
    return {name: tuple(dict.fromkeys(source.trace(name))) for name in source.outputs() or ()}


def tables_of(sql: str, dialect: str) -> tuple[TableName, ...]:
    """The tables that a query reads, each once; empty for a query that cannot be read."""
    return _query_source(sql, dialect, {}).tables


def _read_by_trace(column_mapping: ColumnMapping) -> tuple[object, ...]:
    """What `_source_names` looks at; a salt, a constant or a delimiter is not among it."""
    if isinstance(column_mapping, ExpressionMapping):
        return column_mapping.expression, column_mapping.target_fields
    if isinstance(column_mapping, ConstantMapping):
        return (column_mapping.target_fields,)
    return column_mapping.source_columns, column_mapping.target_fields


def _source_names(
    mapping: MappingRecord, schema: Schema | None, known: Sequence[str] | None, dialect: str
) -> dict[str, tuple[str, ...]]:
    """The columns of the source relation that each target field is made of."""
    if mapping.column_mappings is None:
        direct = [column.name for column in schema.columns] if schema is not None else (known or ())
        return {name: (name,) for name in direct}
    names: dict[str, tuple[str, ...]] = {}
    for column_mapping in mapping.column_mappings:
        if isinstance(column_mapping, ExpressionMapping):
            found = _names_in(column_mapping.expression, known, dialect)
        elif isinstance(column_mapping, ConstantMapping):
            found = ()
        else:
            found = tuple(column_mapping.source_columns)
        names.update(dict.fromkeys(column_mapping.target_fields, found))
    return names


def _names_in(expression: str, known: Sequence[str] | None, dialect: str) -> tuple[str, ...]:
    found = (
        find_name(name, known, dialect, quoted=quoted) if known is not None else fold(name, dialect, quoted=quoted)
        for name, quoted in _written_names(expression, dialect)
    )
    return tuple(dict.fromkeys(name for name in found if name is not None))


# Definitions of a thousand mappings trace a thousand expressions, of which many are written alike.
@lru_cache(maxsize=4096)
def _written_names(expression: str, dialect: str) -> tuple[tuple[str, bool], ...]:
    """The names of columns as an expression writes them, and whether in quotes; none where it is not one."""
    from synqx_dagster.mapping.expressions import parse_expression

    try:
        return tuple(parse_expression(expression, dialect).names)
    except ConfigurationError:
        return ()


# --- sources ------------------------------------------------------------------------------------------------


class Source:
    """A relation that a mapping reads; as it stands, a query that cannot be read."""

    tables: tuple[TableName, ...] = ()

    def outputs(self) -> list[str] | None:
        """The names of the relation's columns; None where they cannot be told."""
        return None

    def trace(self, name: str) -> Iterable[Origin]:
        """The columns of tables that a column of the relation is made of."""
        return [(None, name)]


class _TableSource(Source):
    def __init__(self, table: TableName) -> None:
        self.table = table
        self.tables = (table,)

    def trace(self, name: str) -> Iterable[Origin]:
        return [(self.table, name)]


def _query_source(sql: str, dialect: str, known: Mapping[TableName, Sequence[str]]) -> Source:
    # The parser takes more memory than a load of a table, which does not need it.
    from synqx_dagster.mapping.query_lineage import read_query

    return read_query(sql, dialect, known) or Source()
