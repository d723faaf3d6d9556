"""PostgreSQL's dates as ADBC reads them.

ADBC adds the days between PostgreSQL's epoch and Unix's without looking, so that ``infinity`` and ``-infinity``, the
ends of 32 bits, become two days that no date has. Guarantee: they leave here as `ENDLESS_DAYS`, and any other day that
PostgreSQL does not have is an error.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from synqx_dagster.connectors.protocol import ENDLESS_DAYS
from synqx_dagster.errors import FatalError

if TYPE_CHECKING:
    import pyarrow as pa

#: 4713-01-01 BC in the Julian calendar and 5874897-12-31. Source: PostgreSQL manual, Date/Time Types.
_FIRST_DAY, _LAST_DAY = -2_440_588, 2_145_042_905

#: What 2147483647 and -2147483648 wrap round to when 10,957 is added.
_WRAPPED_INFINITY, _WRAPPED_MINUS_INFINITY = -2_147_472_692, -2_147_472_691


def exact_dates(dates: pa.Array) -> pa.Array:
    """The same dates, the endless ones in their direct form.

    Raises:
        FatalError: A day is none of PostgreSQL's: the driver reads dates in another way.
    """
    import pyarrow as pa
    import pyarrow.compute as pc

    days = dates.view(pa.int32())
    if _are_within(days):
        return dates
    is_infinity = pc.equal(days, _WRAPPED_INFINITY)
    is_minus_infinity = pc.equal(days, _WRAPPED_MINUS_INFINITY)
    if not _are_within(days.filter(pc.invert(pc.or_(is_infinity, is_minus_infinity)))):
        raise FatalError(
            "the PostgreSQL driver delivered a date that PostgreSQL does not have",
            hint="this version of adbc-driver-postgresql reads dates in another way; install another one",
        )
    bounded = pc.if_else(is_infinity, pa.scalar(ENDLESS_DAYS, pa.int32()), days)
    return pc.if_else(is_minus_infinity, pa.scalar(-ENDLESS_DAYS, pa.int32()), bounded).view(pa.date32())


def _are_within(days: pa.Array) -> bool:
    import pyarrow.compute as pc

    bounds = pc.min_max(days).as_py()
    return bounds["min"] is None or bool(bounds["min"] >= _FIRST_DAY and bounds["max"] <= _LAST_DAY)
