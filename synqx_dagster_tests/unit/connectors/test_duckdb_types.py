"""DuckDB's types: meaning, spelling, and the two texts of a date."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import duckdb
import pytest

from synqx_dagster.connectors.duckdb_types import from_canonical, holds, native_type, parse_native, to_canonical
from synqx_dagster.errors import PlanError
from synqx_dagster.model.table import Column
from synqx_dagster.model.types import TYPE_KINDS, DataType


@pytest.fixture(scope="module")
def connection() -> Iterator[Any]:
    with duckdb.connect(":memory:") as opened:
        opened.execute("SET TimeZone = 'UTC'")
        yield opened


@pytest.mark.parametrize("kind", [kind for kind in TYPE_KINDS if kind != "decimal"])
def test_native_type_reads_back_as_itself(kind: str, connection: Any) -> None:
    data_type = DataType.parse(kind)
    connection.execute(f"CREATE OR REPLACE TABLE t (v {native_type(Column('v', data_type))})")
    (printed,) = connection.execute("SELECT data_type FROM duckdb_columns() WHERE table_name = 't'").fetchone()
    assert parse_native(printed) == data_type


@pytest.mark.parametrize(
    ("precision", "scale", "native"),
    [(10, 2, "DECIMAL(10,2)"), (38, 38, "DECIMAL(38,38)"), (5, -3, "DECIMAL(8,0)"), (3, 5, "DECIMAL(5,5)")],
)
def test_decimal(precision: int, scale: int, native: str) -> None:
    assert native_type(Column("v", DataType("decimal", precision, scale))) == native


@pytest.mark.parametrize("data_type", [DataType("decimal"), DataType("decimal", 39, 2), DataType("decimal", 38, -1)])
def test_decimal_that_does_not_fit_is_refused_by_name(data_type: DataType) -> None:
    with pytest.raises(PlanError, match="'amount'"):
        native_type(Column("amount", data_type))


def test_own_types_keep_their_spelling() -> None:
    assert native_type(Column("v", DataType("string"), native_type="INTEGER[]", native_dialect="duckdb")) == "INTEGER[]"


CANONICAL = [
    ("date", "0044-03-15 BC"),
    ("date", "0001-01-01"),
    ("date", "5874897-12-31"),
    ("date", "infinity"),
    ("date", "-infinity"),
    ("timestamp", "0044-03-15 12:00:00.5 BC"),
    ("timestamp", "2024-02-29 12:00:00.000001"),
    ("timestamp", "infinity"),
    ("timestamptz", "0044-03-15 12:00:00+00 BC"),
    ("timestamptz", "2024-02-29 12:00:00+00"),
    ("timestamptz", "-infinity"),
    ("time", "24:00:00"),
    ("time", "12:00:00.5"),
    ("uuid", "9f1c7d3e-0000-4000-8000-0123456789ab"),
    ("json", '{"a": 1,  "a":2e999}'),
    ("decimal(38,10)", "1234567890123456789012345678.0123456789"),
]


@pytest.mark.parametrize(("type_name", "text"), CANONICAL)
def test_canonical_text_survives_both_ways(type_name: str, text: str, connection: Any) -> None:
    data_type = DataType.parse(type_name)
    native = native_type(Column("v", data_type))
    sql = to_canonical(f"CAST({from_canonical('$1', data_type)} AS {native})", data_type)
    assert connection.execute(f"SELECT {sql}", [text]).fetchone() == (text,)


@pytest.mark.parametrize(
    ("type_name", "value", "fits"),
    [
        *((type_name, text, True) for type_name, text in CANONICAL),
        ("timestamp", "294276-12-31 23:59:59", False),
        ("timestamptz", "294276-12-31 23:59:59+00", False),
        ("decimal(10,2)", "NaN", False),
        ("decimal", "Infinity", False),
        ("json", '"\\ud800"', False),
    ],
)
def test_holds(type_name: str, value: str, fits: bool, connection: Any) -> None:
    predicate = holds(DataType.parse(type_name))
    if predicate is None:
        assert fits
        return
    sql = predicate.replace("{value}", "CAST($1 AS VARCHAR)")
    assert connection.execute(f"SELECT {sql}", [value]).fetchone() == (fits,)


@pytest.mark.parametrize("value", ["0.00012", "-0.50000", "0.00000", "0.99999"])
def test_a_decimal_without_whole_digits_has_a_zero_before_its_point(value: str, connection: Any) -> None:
    text = to_canonical(f"CAST('{value}' AS DECIMAL(5,5))", DataType("decimal", 5, 5))
    assert connection.execute(f"SELECT {text}").fetchall() == [(value,)]
