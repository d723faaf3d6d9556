"""A cursor's value becomes SQL that means the same value, whatever it holds."""

from __future__ import annotations

import math

import pytest
import sqlglot
from hypothesis import given
from hypothesis import strategies as st

from synqx_dagster.errors import FatalError, PlanError
from synqx_dagster.model import Column, DataType
from synqx_dagster.transfer.cursor_values import check_bounds, check_value, is_endless, literal
from synqx_dagster.transfer.watermark import Watermark

TEXT = Column("c", DataType("string"))


def column(kind: str) -> Column:
    return Column("c", DataType.parse(kind))


@given(st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"])))
@pytest.mark.parametrize("dialect", ["postgres", "duckdb", "sqlite", "mysql", "oracle", "tsql", "snowflake"])
def test_a_hostile_text_stays_one_literal(dialect: str, value: str) -> None:
    sql = literal(value, TEXT, dialect)
    if dialect == "mysql" and sql.startswith("_utf8mb4"):
        assert bytes.fromhex(sql.removeprefix("_utf8mb4 X'").removesuffix("'")).decode() == value
        return
    if "\\" in value and dialect == "snowflake":
        return  # sqlglot's own escapes; covered by its suite
    parsed = sqlglot.parse_one(f"SELECT {sql}", dialect=dialect)
    assert [text.this for text in parsed.find_all(sqlglot.exp.Literal)] == [value]


@pytest.mark.parametrize(
    ("kind", "dialect", "value", "seconds", "expected"),
    [
        ("integer", "postgres", 5, 0, "5"),
        ("decimal(20,3)", "mysql", "12.500", 0, "12.500"),
        ("float", "postgres", 0.1, 0, "CAST('0.1' AS double precision)"),
        ("timestamptz", "postgres", "2024-02-29 12:00:00+00", 60,
         "(CAST('2024-02-29 12:00:00+00' AS timestamptz) - INTERVAL '60 seconds')"),
        ("date", "postgres", "2024-02-29", 1, "(CAST('2024-02-29' AS date) - 1)"),
        ("date", "mysql", "2024-02-29", 86401, "(CAST('2024-02-29' AS DATE) - INTERVAL 2 DAY)"),
        ("timestamptz", "mysql", "2024-02-29 12:00:00+00", 0, "'2024-02-29 12:00:00'"),
        ("timestamp", "oracle", "2024-03-01 00:00:00", 60,
         "(CAST('2024-03-01 00:00:00' AS TIMESTAMP) - INTERVAL '60' SECOND)"),
    ],
)  # fmt: skip
def test_spelling(kind: str, dialect: str, value: str | int | float, seconds: int, expected: str) -> None:
    assert literal(value, column(kind), dialect, minus_seconds=seconds) == expected


@pytest.mark.parametrize(
    ("kind", "value"),
    [
        ("integer", "1.5"),
        ("decimal(5,2)", "1; drop table t"),
        ("date", "soon"),
        ("timestamptz", "2024-13-01"),
        ("float", "x"),
        ("float", "nan"),
        ("bigint", "1_0"),
        ("bigint", "9" * 5000),
        ("string", "a\x00"),
    ],
)
def test_what_is_no_value_is_refused(kind: str, value: str) -> None:
    with pytest.raises(PlanError, match=r"is not a value of the cursor column 'c' \(.*\): it (is not a|holds a) "):
        check_value(value, column(kind), what="--from")


@pytest.mark.parametrize(
    ("kind", "start", "end", "is_refused"),
    [
        ("bigint", "9", "10", False),
        ("bigint", "10", "9", True),
        ("float", "1e1", "9.5", True),
        ("decimal(20,3)", "1.0", "1.00", True),
        ("decimal(20,3)", "9.0", "10", False),
        ("date", "2026-11-22", "2026-11-21", True),
        ("date", "2026-11-21", "2026-11-22", False),
        ("timestamp", "2026-11-22", "2026-11-21 23:00", True),
        ("timestamp", "2026-11-22 00:00:00.000000001", "2026-11-22 00:00:00.000000002", False),
        ("timestamptz", "2026-11-22 01:00+02:00", "2026-11-21 23:30+00:00", False),
        ("timestamptz", "2026-11-22 01:00+02:00", "2026-11-21 22:30+00:00", True),
        ("timestamptz", "2026-11-22 01:00+02:00", "2026-11-21 22:30", False),
        ("timestamp", "2026-11-22 01:00+02:00", "2026-11-21 22:30+00:00", False),
        ("string", "same", "same", True),
        ("string", "b", "a", False),
        ("string", "10", "9", False),
        ("string", "2026-11-22", "2026-11-21", True),
        ("string", "2026-11-22T00:00", "2026-11-21 00:00", False),
    ],
)
def test_bounds_are_refused_only_where_nothing_can_lie_between_them(
    kind: str, start: str, end: str, is_refused: bool
) -> None:
    wanted = column(kind)
    values = check_value(start, wanted, what="--from"), check_value(end, wanted, what="--to")
    if not is_refused:
        check_bounds(*values, wanted)
        return
    with pytest.raises(PlanError, match="is not above --from"):
        check_bounds(*values, wanted)


def test_a_watermark_that_is_no_number_is_refused() -> None:
    with pytest.raises(PlanError, match="not a number"):
        literal("0 or 1=1", column("bigint"), "postgres")


@pytest.mark.parametrize("value", ["infinity", "NaN", math.inf, math.nan])
def test_endless(value: str | float) -> None:
    assert is_endless(value)


@given(
    st.builds(
        Watermark,
        column=st.text(min_size=1),
        value=st.none() | st.text() | st.integers() | st.floats(allow_nan=False, allow_infinity=False),
        is_loaded=st.booleans(),
        lag_seconds=st.integers(0, 10**6),
        transaction=st.none() | st.integers(0, 2**63),
    )
)
def test_a_watermark_survives_the_ledger(watermark: Watermark) -> None:
    assert Watermark.from_json(watermark.to_json()) == watermark


@pytest.mark.parametrize(
    "text", ["", "5", "null", "{}", '{"column": "c"}', '{"column":"c","value":1,"transaction":"x"}']
)
def test_a_watermark_of_somebody_else_is_refused(text: str) -> None:
    with pytest.raises(FatalError, match="cannot be read"):
        Watermark.from_json(text)
