"""The DuckDB rendering on its own: text that must be read, limits, rows for the quarantine, and names."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import duckdb
import pyarrow as pa
import pytest

from synqx_dagster.connectors.protocol import carrier_type, untrusted_text
from synqx_dagster.mapping.compile import CompiledMapping, compile_mapping
from synqx_dagster.model import Column, DataType, Schema
from synqx_dagster_tests.unit.mapping.test_compile import column, direct, expression, record, schema


def run(compiled: CompiledMapping, source: pa.Table, **holds: str) -> list[dict[str, Any]]:
    types = {field.name: field.type for field in source.schema}
    with duckdb.connect() as connection:
        connection.register("source", source)
        rows: list[dict[str, Any]] = connection.sql(compiled.duckdb(types, holds=holds)).to_arrow_table().to_pylist()
    return rows


def mirror(columns: Sequence[Column], target: Schema | None = None, **fields: Any) -> CompiledMapping:
    return compile_mapping(record(**fields), target, columns, source_dialect="mysql")


def reasons(row: dict[str, Any]) -> list[tuple[str, str]]:
    return [(error["column"], error["reason"]) for error in row["_synqx_errors"] or []]


def test_untrusted_text_is_read_even_where_a_field_is_unchanged() -> None:
    columns = [column("d", "date"), column("t", "time"), column("n", "integer"), column("j", "json")]
    source = pa.table(
        {
            "d": ["2024-02-29", "0000-00-00", "2024-00-00", None],
            "t": ["12:00:00.500", "838:59:59", "-01:00:00", None],
            "n": ["7", "7.0", "seven", None],
            "j": ['{"a": 1}', "{", "[1,]", None],
        },
        schema=pa.schema([(name, untrusted_text()) for name in "dtnj"]),
    )
    rows = run(mirror(columns), source)
    assert [rows[0][name] for name in "dtnj"] == ["2024-02-29", "12:00:00.5", 7, '{"a": 1}']
    every = [("d", "is not a date"), ("t", "is not a time"), ("n", "is not an integer"), ("j", "is not a json")]
    assert [reasons(row) for row in rows] == [[], every, every, []]
    assert json.loads(rows[1]["_synqx_row"]) == {"d": "0000-00-00", "t": "838:59:59", "n": "7.0", "j": "{"}


def test_carriers_pass_untouched() -> None:
    columns = [column("d", "date"), column("n", "decimal"), column("b", "binary"), column("f", "float")]
    values = {"d": ["infinity", "0044-03-15 BC"], "n": ["NaN", "1" * 60], "b": [b"\x00\xff", b""], "f": [-0.0, 1e-320]}
    source = pa.table(values, schema=pa.schema([(c.name, carrier_type(c.data_type)) for c in columns]))
    rows = run(mirror(columns), source)
    assert [{name: row[name] for name in values} for row in rows] == source.to_pylist()
    assert [row["_synqx_errors"] for row in rows] == [None, None]


def test_needs_transform_only_where_a_row_could_change_or_be_bad() -> None:
    columns = [column("d", "date"), column("n", "integer", nullable=False)]
    compiled = mirror(columns)
    carriers = {"d": pa.string(), "n": pa.int32()}
    assert not compiled.needs_transform(carriers, holds={})
    assert compiled.needs_transform({**carriers, "d": untrusted_text()}, holds={})
    assert compiled.needs_transform(carriers, holds={"d": "{value} > ''"})
    required = mirror(columns, schema({"d": "date", "n": "integer"}, required=("d",)))
    assert required.needs_transform(carriers, holds={})
    assert mirror(columns, schema({"d": "date", "n": "bigint"})).needs_transform(carriers, holds={})


def test_limits_of_the_target_make_bad_rows_and_null_is_no_value() -> None:
    compiled = mirror([column("s")])
    source = pa.table({"s": ["ok", "far too long", None, "{value}"]})
    rows = run(compiled, source, s="length({value}) <= 7 AND {value} <> 'x{1}'")
    assert [reasons(row) for row in rows] == [[], [("s", "does not fit the target")], [], []]
    unknown = run(compiled, source, s="CASE WHEN {value} = 'ok' THEN NULL ELSE true END")
    assert all(row["_synqx_errors"] is None for row in unknown)


def test_every_error_of_a_row_is_told_once() -> None:
    columns = [column("a"), column("n", "integer")]
    compiled = compile_mapping(
        record([direct("a", "x"), direct("a", "y"), expression("n * 3", "z")]),
        schema({"x": "integer", "y": "date", "z": "smallint"}, required=("x", "z")),
        columns,
        source_dialect="postgres",
    )
    source = pa.table({"a": ["1", "q", None], "n": pa.array([1, 2**30, None], pa.int32())})
    assert [reasons(row) for row in run(compiled, source)] == [
        [("y", "is not a date")],
        [("x", "is not an integer"), ("y", "is not a date"), ("z", "does not fit smallint unchanged")],
        [("x", "is null"), ("z", "is null")],
    ]


def test_the_row_of_the_quarantine_is_json_whatever_it_holds() -> None:
    columns = [
        column("id", "bigint", key_position=1),
        column('na"me\\'),
        column("b", "binary"),
        column("f", "float"),
        column("x"),
    ]
    target = schema({"x": "integer", 'na"me\\': "string", "b": "binary", "f": "float"})
    compiled = mirror(columns, target, on_bad_row="quarantine")
    source = pa.table(
        {
            "id": [2**63 - 1, 1],
            'na"me\\': ['é😀\n"', None],
            "b": [b"\x00\xff", None],
            "f": [float("inf"), 0.5],
            "x": ["bad", "worse"],
        }
    )
    rows = [json.loads(row["_synqx_row"]) for row in run(compiled, source)]
    assert rows == [
        {"id": 2**63 - 1, 'na"me\\': 'é😀\n"', "b": "\\x00ff", "f": "inf", "x": "bad"},
        {"id": 1, 'na"me\\': None, "b": None, "f": 0.5, "x": "worse"},
    ]


def test_names_that_differ_only_in_case_are_different_columns() -> None:
    """DuckDB takes them for one; the rendering reads the relation by position."""
    columns = [column("Name"), column("name"), column("NAME", "integer")]
    compiled = mirror(columns, schema({"name": "string", "Name": "string", "NAME": "bigint"}))
    types = {"Name": pa.string(), "name": pa.string(), "NAME": pa.int32()}
    source = pa.Table.from_arrays([pa.array(["A"]), pa.array(["a"]), pa.array([7], pa.int32())], names=list(types))
    with duckdb.connect() as connection:
        connection.register("source", source)
        result = connection.sql(compiled.duckdb(types, holds={})).to_arrow_table()
    assert result.column_names[:3] == ["name", "Name", "NAME"]
    assert [result.column(number)[0].as_py() for number in range(3)] == ["a", "A", 7]


def test_computed_columns_arrive_after_the_others_and_are_labelled_by_their_words() -> None:
    compiled = compile_mapping(
        record([expression("lower(s)", "n"), direct("s", "s")]),
        schema({"n": "integer", "s": "string"}),
        [column("s")],
        source_dialect="postgres",
        describe=lambda _: [column("whatever")],
    )
    source = pa.table({"s": ["X", "1"], "_synqx_expression_1": ["x", "1"]})
    rows = run(compiled, source)
    assert [row["n"] for row in rows] == [None, 1]
    assert json.loads(rows[0]["_synqx_row"]) == {"s": "X", "lower(s)": "x"}


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (1e15, "1e+15"),
        (123456789012345.6, "123456789012345.6"),
        (1e14, "100000000000000"),
        (0.0001, "0.0001"),
        (0.00001, "1e-05"),
        (-1.5e-7, "-1.5e-07"),
        (1e22, "1e+22"),
        (1.7976931348623157e308, "1.7976931348623157e+308"),
        (5e-324, "5e-324"),
        (-0.0, "-0"),
        (100.0, "100"),
        (float("nan"), "NaN"),
        (float("-inf"), "-Infinity"),
    ],
)
def test_floats_are_written_as_postgresql_writes_them(value: float, text: str) -> None:
    compiled = mirror([column("f", "float")], schema({"f": "string"}))
    assert run(compiled, pa.table({"f": [value]}))[0]["f"] == text


def test_a_thousand_columns_are_one_statement() -> None:
    names = [f"c{number}" for number in range(1000)]
    compiled = mirror([column(name) for name in names], schema(dict.fromkeys(names, "integer"), required=tuple(names)))
    source = pa.table({name: ["1", "x", None] for name in names})
    rows = run(compiled, source)
    assert [len(reasons(row)) for row in rows] == [0, 1000, 1000]
    assert DataType.parse("integer") == compiled.fields[0].column.data_type
