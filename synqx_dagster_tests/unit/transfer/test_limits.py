"""Columns that change what they accept, and texts that are longer than their column."""

from __future__ import annotations

import pytest

from synqx_dagster.model.table import Column
from synqx_dagster.model.types import DataType
from synqx_dagster.transfer.limits import length_predicate, most_characters, rewrites


def column(dialect: str, native: str | None, kind: str = "string") -> Column:
    return Column("c", DataType.parse(kind), native_type=native, native_dialect=dialect if native else None)


TEXT = column("postgres", "text")


@pytest.mark.parametrize(
    ("field", "target", "expected"),
    [
        (TEXT, column("postgres", "name"), True),
        (TEXT, column("postgres", '"char"'), True),
        (TEXT, column("postgres", "money"), True),
        (TEXT, column("postgres", "tsvector"), True),
        (TEXT, column("postgres", "interval"), True),
        (column("postgres", "interval(3)"), column("postgres", "interval"), False),
        (column("postgres", "interval"), column("postgres", "interval(3)"), True),
        (column("postgres", "interval"), column("postgres", "interval day"), True),
        (column("postgres", "time(3) with time zone"), column("postgres", "time with time zone"), False),
        (column("postgres", "time with time zone"), column("postgres", "time(3) with time zone"), True),
        (column("postgres", "numeric[]"), column("postgres", "numeric(5,1)[]"), True),
        (column("postgres", "character varying(3)[]"), column("postgres", "text[]"), False),
        (column("postgres", "text[]"), column("postgres", "character varying(3)[]"), True),
        (TEXT, column("postgres", "character varying(3)"), False),
        (TEXT, column("postgres", "some_enum"), False),
        (TEXT, column("postgres", "inet"), False),
        (TEXT, column("duckdb", "VARCHAR"), False),
        (TEXT, column("duckdb", "ENUM('a', 'b')"), False),
        (TEXT, column("duckdb", "INTERVAL"), True),
        (TEXT, column("duckdb", "INTEGER[]"), True),
        (TEXT, column("duckdb", "STRUCT(a INTEGER)"), True),
        (TEXT, column("duckdb", "TIMESTAMP_NS"), True),
        (TEXT, column("sqlite", "STRING"), True),
        (TEXT, column("sqlite", "VARCHAR(3)"), False),
        (TEXT, column("sqlite", None), False),
        (column("postgres", "json", "json"), column("sqlite", "JSON", "json"), True),
        (column("postgres", "json", "json"), column("sqlite", "JSON TEXT", "json"), False),
        (
            column("postgres", "numeric(30,10)", "decimal(30,10)"),
            column("sqlite", "NUMERIC(30,10)", "decimal(30,10)"),
            True,
        ),
        (column("postgres", "numeric", "decimal"), column("sqlite", "NUMERIC", "decimal"), True),
        (
            column("postgres", "numeric(15,2)", "decimal(15,2)"),
            column("sqlite", "NUMERIC", "decimal"),
            False,
        ),
        (column("postgres", "double precision", "float"), column("mysql", "double(10,2)", "float"), True),
        (column("postgres", "double precision", "float"), column("mysql", "double", "float"), False),
    ],
)
def test_types_that_change_what_they_accept(field: Column, target: Column, expected: bool) -> None:
    assert rewrites(field, target) is expected


@pytest.mark.parametrize(
    ("field", "target", "expected"),
    [
        (TEXT, column("postgres", "text"), None),
        (TEXT, column("postgres", "character varying"), None),
        (TEXT, column("postgres", "character varying(3)"), "length({value}) <= 3"),
        (TEXT, column("postgres", "character varying(3)[]"), None),
        (column("mysql", "varchar(4)"), column("mysql", "varchar(3)"), "length({value}) <= 3"),
        (column("mysql", "varchar(3)"), column("mysql", "varchar(4)"), None),
        (TEXT, column("postgres", "character(3)"), "length({value}) <= 3 AND NOT ends_with({value}, ' ')"),
        (column("postgres", "character(3)"), column("postgres", "character(5)"), None),
        (column("postgres", "character(5)"), column("postgres", "character(3)"), "length(rtrim({value}, ' ')) <= 3"),
        (column("postgres", "character(3)"), column("postgres", "character varying(3)"), None),
        (
            column("postgres", "character varying(3)"),
            column("postgres", "character(3)"),
            "length({value}) <= 3 AND NOT ends_with({value}, ' ')",
        ),
        (TEXT, column("sqlite", "VARCHAR(3)"), None),
    ],
)
def test_texts_that_may_be_too_long(field: Column, target: Column, expected: str | None) -> None:
    assert length_predicate(field, target) == expected
    assert (most_characters(field, target) is None) is (expected is None)
