"""Runs a compiled mapping in both of its renderings over the same rows of a real PostgreSQL."""

from __future__ import annotations

import math
import struct
from collections.abc import Sequence
from typing import Any

from synqx_dagster.connectors import postgresql_types
from synqx_dagster.connectors.protocol import carrier_type
from synqx_dagster.mapping.compile import CompiledMapping, compile_mapping
from synqx_dagster.mapping.pushdown import Pushdown
from synqx_dagster.mapping.quoting import source_column
from synqx_dagster.model import Column, DataType, Mapping, Schema

#: One row: target values by field, and the sorted (field, reason) pairs that make it bad.
Outcome = tuple[dict[str, object], tuple[tuple[str, str], ...]]


def make_mapping(column_mappings: Sequence[dict[str, Any]] | None, **fields: Any) -> Mapping:
    return Mapping.model_validate(
        {
            "name": "m",
            "source_connection": "a",
            "source_table": "t",
            "target_connection": "b",
            "target_table": "x",
            "column_mappings": column_mappings,
            **fields,
        }
    )


def make_schema(columns: dict[str, str], **fields: Any) -> Schema:
    declared = [{"name": name, "data_type": data_type} for name, data_type in columns.items()]
    return Schema.model_validate({"name": "s", "columns": declared, **fields})


class TwoRenderings:
    """A table of typed columns in PostgreSQL, and both ways to run a mapping over its rows."""

    def __init__(self, connection: Any, columns: dict[str, str]) -> None:
        """`columns` has a native type by name; a column ``n`` that numbers the rows is added."""
        self.cursor = connection.cursor()
        self.cursor.execute("SET TIME ZONE 'UTC'")
        self.cursor.execute("DROP TABLE IF EXISTS t")
        names = ", ".join(f"{_quote(name)} {native}" for name, native in columns.items())
        self.cursor.execute(f"CREATE TABLE t (n integer PRIMARY KEY, {names})")
        self.cursor.execute("SELECT * FROM t LIMIT 0")
        from synqx_dagster.connectors.postgresql_columns import describe_cursor

        self.columns = describe_cursor(self.cursor, self.cursor.description)
        self._casts = list(columns.values())

    def describe(self, items: str) -> Sequence[Column]:
        from synqx_dagster.connectors.postgresql_columns import describe_cursor

        self.cursor.execute(f"SELECT {items} FROM t AS source LIMIT 0")
        return describe_cursor(self.cursor, self.cursor.description)

    def compile(self, mapping: Mapping, schema: Schema | None) -> CompiledMapping:
        return compile_mapping(mapping, schema, self.columns, source_dialect="postgres", describe=self.describe)

    def fill(self, rows: Sequence[Sequence[str | None]]) -> None:
        """Replace the rows; values are PostgreSQL's text of their type."""
        self.cursor.execute("TRUNCATE t")
        if not rows:
            return
        items = ", ".join(f"CAST(%s AS {cast})" for cast in self._casts)
        values = ", ".join(f"({number}, {items})" for number in range(len(rows)))
        self.cursor.execute(f"INSERT INTO t VALUES {values}", [value for row in rows for value in row])

    def in_postgresql(self, compiled: CompiledMapping) -> list[Outcome]:
        pushed = compiled.pushdown("postgres")
        assert pushed is not None, compiled.why_not_pushdown("postgres")
        items = [_encoded(field.sql, field.data_type, field.native_type) for field in pushed.fields]
        items += [violation.sql for violation in pushed.violations]
        found = self._fetch(items)
        outcomes = []
        for row in found:
            values = [
                _as_real(value) if field.data_type.kind == "real" else value
                for field, value in zip(pushed.fields, row, strict=False)
            ]
            flags = row[len(pushed.fields) :]
            assert all(flag is not None for flag in flags), "a violation is never NULL"
            bad = sorted(
                (violation.field, violation.reason)
                for violation, flag in zip(pushed.violations, flags, strict=True)
                if flag
            )
            outcomes.append(_outcome([field.name for field in pushed.fields], values, bad))
        self._check_good_rows(pushed)
        return outcomes

    def _check_good_rows(self, pushed: Pushdown) -> None:
        """Where rows with a violation are left out, the cheaper SQL gives the same values."""
        where = " OR ".join(violation.sql for violation in pushed.violations) or "false"
        items = [
            ", ".join(
                _encoded(sql, field.data_type, field.native_type)
                for field, sql in zip(pushed.fields, sqls, strict=True)
            )
            for sqls in ([field.sql for field in pushed.fields], [field.sql_of_good for field in pushed.fields])
        ]
        guarded, cheaper = (
            self._fetch_text(f"SELECT {item} FROM t AS source WHERE NOT ({where}) ORDER BY source.n") for item in items
        )
        assert guarded == cheaper

    def _fetch_text(self, sql: str) -> list[tuple[object, ...]]:
        # The two sides as one text each: NaN is not equal to itself.
        self.cursor.execute(f"SELECT r::text FROM ({sql}) AS r")
        rows: list[tuple[object, ...]] = self.cursor.fetchall()
        return rows

    def in_duckdb(self, compiled: CompiledMapping, *, holds: dict[str, str] | None = None) -> list[Outcome]:
        import duckdb
        import pyarrow as pa

        types = {column.name: column for column in self.columns}
        items, fields = [], []
        for name in compiled.used_columns:
            column = types[name]
            items.append(_encoded(source_column(name, "postgres"), column.data_type, column.native_type))
            fields.append(pa.field(name, carrier_type(column.data_type)))
        for computed in compiled.source_expressions:
            items.append(_encoded(computed.sql, computed.data_type, computed.native_type))
            fields.append(pa.field(computed.alias, carrier_type(computed.data_type)))
        rows = self._fetch(items)
        arrays = [pa.array([_plain(row[position]) for row in rows], item.type) for position, item in enumerate(fields)]
        source = pa.Table.from_arrays(arrays, schema=pa.schema(fields))
        sql = compiled.duckdb({item.name: item.type for item in fields}, holds=holds or {})
        with duckdb.connect() as connection:
            connection.register("source", source)
            result = connection.sql(sql).to_arrow_table()
        names = [field.column.name for field in compiled.fields]
        expected = [carrier_type(field.column.data_type) for field in compiled.fields]
        assert result.schema.types[: len(names)] == expected
        return [_outcome_of_duckdb(names, row) for row in _rows(result)]

    def _fetch(self, items: Sequence[str]) -> list[tuple[object, ...]]:
        self.cursor.execute(f"SELECT {', '.join(items)} FROM t AS source ORDER BY source.n")
        rows: list[tuple[object, ...]] = self.cursor.fetchall()
        return rows


def _rows(table: Any) -> list[list[object]]:
    columns = [column.to_pylist() for column in table.columns]
    return [list(row) for row in zip(*columns, strict=True)]


def _outcome_of_duckdb(names: Sequence[str], row: list[object]) -> Outcome:
    errors, source_row = row[-2], row[-1]
    assert (errors is None) == (source_row is None)
    bad = sorted((error["column"], error["reason"]) for error in errors) if isinstance(errors, list) else []
    return _outcome(names, row[:-2], bad)


def _outcome(names: Sequence[str], values: Sequence[object], bad: list[tuple[str, str]]) -> Outcome:
    return {name: _comparable(value) for name, value in zip(names, values, strict=True)}, tuple(bad)


def _comparable(value: object) -> object:
    """Equal exactly where the bits are: NaN equals itself, and -0.0 is not 0.0."""
    if isinstance(value, float):
        return "nan" if math.isnan(value) else repr(value)
    return bytes(value) if isinstance(value, memoryview) else value


def _as_real(value: object) -> object:
    """psycopg2 reads the digits of a real as a double; the real itself is nearest to them."""
    return struct.unpack("f", struct.pack("f", value))[0] if isinstance(value, float) else value


def _plain(value: object) -> object:
    return bytes(value) if isinstance(value, memoryview) else value


def _encoded(sql: str, data_type: DataType, native_type: str | None) -> str:
    return postgresql_types.encode(sql, data_type, native_type).sql


def _quote(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'
