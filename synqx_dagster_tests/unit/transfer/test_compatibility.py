"""What fits a table that exists, and what does not."""

from __future__ import annotations

import decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from synqx_dagster.model.types import INTEGER_BOUNDS, DataType
from synqx_dagster.transfer.compatibility import widens


@pytest.mark.parametrize(
    ("source", "target", "expected"),
    [
        ("integer", "bigint", True),
        ("bigint", "integer", False),
        ("integer", "decimal(10,0)", True),
        ("integer", "decimal(9,0)", False),
        ("bigint", "decimal(20,2)", False),
        ("bigint", "decimal(21,2)", True),
        ("decimal(10,2)", "decimal(12,2)", True),
        ("decimal(10,2)", "decimal(12,4)", True),
        ("decimal(10,2)", "decimal(11,4)", False),
        ("decimal(10,2)", "decimal(12,1)", False),
        ("decimal(10,2)", "decimal", True),
        ("decimal", "decimal(38,10)", False),
        ("real", "float", True),
        ("float", "real", False),
        ("integer", "float", False),
        ("date", "timestamp", False),
        ("timestamp", "timestamptz", False),
        ("integer", "string", False),
        ("string", "string", True),
    ],
)
def test_widening(source: str, target: str, expected: bool) -> None:
    assert widens(DataType.parse(source), DataType.parse(target)) is expected


@given(
    st.sampled_from(["smallint", "integer", "bigint"]),
    st.integers(1, 25),
    st.integers(0, 6),
)
def test_an_integer_widens_to_a_decimal_just_when_its_bounds_fit(kind: str, precision: int, scale: int) -> None:
    scale = min(scale, precision)
    largest = decimal.Decimal(10) ** (precision - scale)
    fits = all(abs(bound) < largest for bound in INTEGER_BOUNDS[kind])  # type: ignore[index]
    assert widens(DataType(kind), DataType("decimal", precision, scale)) is fits  # type: ignore[arg-type]
