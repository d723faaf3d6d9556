"""SQLite's declarations: meaning, and spellings that keep every value."""

from __future__ import annotations

import sqlite3
from decimal import Decimal

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from synqx_dagster.connectors.sqlite_session import to_plain_digits
from synqx_dagster.connectors.sqlite_types import affinity_of, native_type, parse_declaration
from synqx_dagster.model.types import TYPE_KINDS, DataType


@pytest.mark.parametrize(
    ("declaration", "meaning"),
    [
        ("INTEGER", "bigint"),
        ("int", "bigint"),
        ("UNSIGNED BIG INT", "bigint"),
        ("TINYINT(1)", "bigint"),
        ("NVARCHAR(160)", "string"),
        ("character varying (20)", "string"),
        ("CLOB", "string"),
        ("NUMERIC(10,2)", "decimal(10,2)"),
        ("decimal ( 10 , 5 )", "decimal(10,5)"),
        ("NUMERIC(5)", "decimal(5,0)"),
        ("NUMERIC", "decimal"),
        ("NUMERIC(2,5)", "decimal"),
        ("DECIMAL TEXT(30,10)", "decimal(30,10)"),
        ("DATETIME", "timestamp"),
        ("TIMESTAMP(6)", "timestamp"),
        ("timestamp with time zone", "timestamptz"),
        ("DATE", "date"),
        ("TIME", "time"),
        ("BOOLEAN", "boolean"),
        ("JSON", "json"),
        ("JSON TEXT", "json"),
        ("UUID", "uuid"),
        ("BLOB", "binary"),
        ("", "string"),
        ("STRING", "string"),
        ("DOUBLE PRECISION", "float"),
        ("FLOAT", "float"),
        # By SQLite's own rules: it contains INT.
        ("FLOATING POINT", "bigint"),
        ("(", "string"),
    ],
)
def test_declaration_means(declaration: str, meaning: str) -> None:
    assert str(parse_declaration(declaration)) == meaning


@pytest.mark.parametrize("kind", [kind for kind in TYPE_KINDS if kind != "decimal"])
def test_native_type_reads_back_as_a_type_that_holds_it(kind: str) -> None:
    data_type = DataType.parse(kind)
    wider = {"smallint": "bigint", "integer": "bigint", "real": "float"}.get(kind, kind)
    assert str(parse_declaration(native_type(data_type))) == wider


@given(st.integers(1, 60), st.data())
def test_native_decimal_reads_back_as_itself(precision: int, data: st.DataObject) -> None:
    data_type = DataType("decimal", precision, data.draw(st.integers(0, precision)))
    assert parse_declaration(native_type(data_type)) == data_type


@settings(max_examples=60)
@given(st.integers(1, 40), st.data())
def test_native_decimal_keeps_every_value(precision: int, data: st.DataObject) -> None:
    """SQLite turns digits into a REAL where the affinity says so; no value of the type may change by it."""
    scale = data.draw(st.integers(0, precision))
    value = Decimal(data.draw(st.integers(-(10**precision) + 1, 10**precision - 1))).scaleb(-scale)
    connection = sqlite3.connect(":memory:")
    connection.execute(f"CREATE TABLE t (v {native_type(DataType('decimal', precision, scale))})")
    connection.execute("INSERT INTO t VALUES (?)", (format(value, "f"),))
    (stored,) = connection.execute("SELECT v FROM t").fetchone()
    connection.close()
    assert Decimal(str(to_plain_digits(stored))) == value


@pytest.mark.parametrize(
    "declaration", ["INT", "CHARINT", "FLOATING POINT", "TEXT", "BLOB", "", "REAL", "DATE", "STRING"]
)
def test_affinity_is_the_one_sqlite_uses(declaration: str) -> None:
    """Told apart by what SQLite makes of the texts ``5`` and ``5.5`` and of the number 5."""
    connection = sqlite3.connect(":memory:")
    connection.execute(f"CREATE TABLE t (v {declaration})")
    connection.executemany("INSERT INTO t VALUES (?)", [("5",), ("5.5",), (5,)])
    found = [row[0] for row in connection.execute("SELECT typeof(v) FROM t ORDER BY rowid")]
    connection.close()
    expected = {
        "integer": ["integer", "real", "integer"],
        "numeric": ["integer", "real", "integer"],
        "real": ["real", "real", "real"],
        "text": ["text", "text", "text"],
        "blob": ["text", "text", "integer"],
    }
    assert found == expected[affinity_of(declaration)]


@pytest.mark.parametrize(
    ("value", "text"),
    [(0.99, "0.99"), (1e16, "10000000000000000"), (1e-7, "0.0000001"), (5, 5), ("x", "x"), (None, None)],
)
def test_reals_as_plain_digits(value: float | str | None, text: object) -> None:
    assert to_plain_digits(value) == text
