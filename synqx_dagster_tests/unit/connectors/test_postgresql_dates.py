"""Dates as ADBC reads them: the endless ones are told apart, and nothing else is taken for a date."""

from __future__ import annotations

import pyarrow as pa
import pytest

from synqx_dagster.connectors.postgresql_dates import exact_dates
from synqx_dagster.connectors.protocol import ENDLESS_DAYS
from synqx_dagster.errors import FatalError

#: What ADBC makes of infinity, -infinity, 4713-01-01 BC, 5874897-12-31; see the integration tests for its own word.
READ = [-2_147_472_692, -2_147_472_691, -2_440_550, 2_145_042_905, None, 0]


def dates(days: list[int | None]) -> pa.Array:
    return pa.array(days, pa.int32()).view(pa.date32())


def test_endless_dates_get_the_days_of_the_direct_form() -> None:
    exact = exact_dates(dates(READ))
    assert exact.type == pa.date32()
    assert exact.view(pa.int32()).to_pylist() == [ENDLESS_DAYS, -ENDLESS_DAYS, *READ[2:]]


def test_a_slice_is_read_from_where_it_begins() -> None:
    exact = exact_dates(dates([5, *READ])[1:3])
    assert exact.view(pa.int32()).to_pylist() == [ENDLESS_DAYS, -ENDLESS_DAYS]


def test_dates_without_endless_ones_are_the_same_object() -> None:
    column = dates([None, 0, 19_000])
    assert exact_dates(column) is column
    assert exact_dates(dates([None])).to_pylist() == [None]


@pytest.mark.parametrize("day", [2**31 - 1, -(2**31), -2_440_589, 2_145_042_906])
def test_a_day_that_postgresql_does_not_have_is_refused(day: int) -> None:
    with pytest.raises(FatalError, match="driver"):
        exact_dates(dates([0, day, READ[0]]))
