"""Reads PostgreSQL's catalog: the columns of one table, of every table, and of a query's result."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby
from typing import Any

from synqx_dagster.connectors.postgresql_types import DIALECT, NUMERIC_OID, logical_type
from synqx_dagster.connectors.protocol import TableDescription
from synqx_dagster.connectors.queries import load_query
from synqx_dagster.model.table import Column, TableName

DEFAULT_SCHEMA = "public"

#: Types whose modifier psycopg2's cursor description still tells, as a length: bpchar and varchar.
_LENGTH_OIDS = (1042, 1043)


def fetch_tables(cursor: Any, schema: str | None, table: str | None) -> list[TableDescription]:
    """Tables and views with their columns, by schema and name.

    Args:
        schema: Only this schema; None: all but the system's.
        table: Only this table, readable or not; None: all that the user may read, partitions left out.
    """
    cursor.execute(load_query("postgresql_columns"), {"schema": schema, "table": table})
    tables = []
    for (schema_name, table_name, is_view, rows), columns in groupby(cursor.fetchall(), key=lambda row: row[:4]):
        found = tuple(_column(row[4:]) for row in columns if row[4] is not None)
        tables.append(TableDescription(TableName(table_name, schema_name), found, is_view, rows))
    return tables


def find_columns(cursor: Any, table: TableName) -> tuple[Column, ...] | None:
    """Columns of a table or view in order; None if there is none."""
    tables = fetch_tables(cursor, table.schema or DEFAULT_SCHEMA, table.name)
    return tables[0].columns if tables else None


def _column(row: Sequence[Any]) -> Column:
    name, oid, type_modifier, native_type, not_null, is_generated, has_default, key_position = row
    return Column(
        name,
        logical_type(oid, type_modifier),
        not not_null,
        native_type,
        DIALECT,
        key_position,
        generated=is_generated,
        has_default=has_default,
    )


def describe_cursor(cursor: Any, description: Sequence[Any]) -> tuple[Column, ...]:
    """Columns of a result from psycopg2's description of it; asks the server how the types are spelt.

    psycopg2 tells the modifiers of numeric, varchar and char only. The rest is spelt without one: a type that holds
    every value of the narrower one.
    """
    oids = [item.type_code for item in description]
    modifiers = [_type_modifier(item) for item in description]
    if not oids:
        return ()
    cursor.execute(
        "select pg_catalog.format_type(t.oid::oid, t.modifier)"
        " from unnest(%s::bigint[], %s::int[]) with ordinality as t (oid, modifier, position) order by t.position",
        (oids, modifiers),
    )
    return tuple(
        Column(item.name, logical_type(oid, modifier), True, native, DIALECT)
        for item, oid, modifier, (native,) in zip(description, oids, modifiers, cursor.fetchall(), strict=True)
    )


def _type_modifier(item: Any) -> int:
    if item.type_code == NUMERIC_OID and item.precision is not None and 0 < item.precision <= 1000:
        return int((item.precision << 16) | (item.scale & 0x7FF)) + 4
    if item.type_code in _LENGTH_OIDS and item.internal_size is not None and item.internal_size > 0:
        return int(item.internal_size) + 4
    return -1
