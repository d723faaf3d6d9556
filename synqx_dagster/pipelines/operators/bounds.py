"""Values of rules beside values of columns: compared in the column's own type, and never as binary floats by accident.

A number of a rule means the decimal that is written: ``0.1`` is a tenth. Beside a column of integers or decimals it is
compared exactly; beside one of floats, as the float that a row with this number would hold.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from decimal import ROUND_CEILING, ROUND_FLOOR, Decimal, InvalidOperation, localcontext
from typing import Literal

from synqx_dagster.connectors.duckdb_types import MAXIMUM_DIGITS, native_type
from synqx_dagster.mapping.casts import INTEGER_KINDS, NUMBER_KINDS
from synqx_dagster.mapping.quoting import quote_text
from synqx_dagster.model.table import Column
from synqx_dagster.model.types import DataType, TypeKind
from synqx_dagster.pipelines.operators.checks import DIALECT, quoted
from synqx_dagster.pipelines.operators.trying import is_larger, is_value_of

#: A value as a rule has it.
RuleValue = str | int | float | bool

#: Numbers with more digits than this before the point are beyond every type.
_MOST_EXPONENT = 300
#: DuckDB's largest integer type of both signs.
_HUGEINT = 2**127 - 1


def number_of(value: RuleValue) -> Decimal | None:
    """The number that a value is, exactly as written; None if it is none, or beyond every column's."""
    if isinstance(value, bool):
        return None
    try:
        number = Decimal(value if isinstance(value, int) else str(value))
    except InvalidOperation:
        return None
    return number if number.is_finite() and number.adjusted() <= _MOST_EXPONENT else None


def literal(value: RuleValue) -> str:
    """A value as SQL beside a column that holds no numbers."""
    if isinstance(value, bool):
        return "true" if value else "false"
    return str(value) if isinstance(value, int | float) else quote_text(value, DIALECT)


def within(column: Column, sign: Literal["<=", ">="], value: RuleValue) -> str:
    """True for a row whose value lies on this side of a bound; NULL for NULL."""
    name = quoted(column.name)
    number = number_of(value) if column.data_type.kind in NUMBER_KINDS else None
    scale = _scale_of(column)
    if number is None:
        return f"{name} {sign} {literal(value)}"
    if scale is None:
        return f"{name} {sign} {_approximate(column, number)}"
    # Between two neighbours of the column's type the bound is the one on its own side.
    exact = _exact(column, _at_scale(number, scale, ROUND_FLOOR if sign == "<=" else ROUND_CEILING), scale)
    if exact is None:
        # Beyond all of the column's values, at one end or the other.
        holds = "true" if (number > 0) == (sign == "<=") else "false"
        return f"CASE WHEN {name} IS NOT NULL THEN {holds} END"
    return f"{name} {sign} {exact}"


def among(column: Column, values: Sequence[RuleValue]) -> str:
    """True for a row whose value is one of these; NULL for NULL, or false."""
    scale = _scale_of(column)
    items = []
    for value in values:
        number = number_of(value) if column.data_type.kind in NUMBER_KINDS else None
        if number is None:
            items.append(literal(value))
        elif scale is None:
            items.append(_approximate(column, number))
        elif (nearest := _at_scale(number, scale, ROUND_FLOOR)) == number:
            exact = _exact(column, nearest, scale)
            items += [] if exact is None else [exact]
    return f"{quoted(column.name)} IN ({', '.join(items)})" if items else f"{quoted(column.name)} IS NULL"


def _scale_of(column: Column) -> int | None:
    """Digits behind the point of a column whose numbers are exact; None for others."""
    kind = column.data_type.kind
    if kind in INTEGER_KINDS:
        return 0
    return column.data_type.scale if kind == "decimal" else None


def _at_scale(number: Decimal, scale: int, rounding: str) -> Decimal:
    with localcontext(prec=_MOST_EXPONENT + scale + 10):
        return number.quantize(Decimal(1).scaleb(-scale), rounding)


def _exact(column: Column, number: Decimal, scale: int) -> str | None:
    """A number as DuckDB compares it with the column without turning either into a float; None if it has no such."""
    with localcontext(prec=_MOST_EXPONENT + scale + 10):
        unscaled = int(number.scaleb(scale))
    native = column.native_type or ""
    if not native.startswith("DECIMAL") and scale == 0:
        return str(unscaled) if abs(unscaled) <= _HUGEINT else None
    if len(str(abs(unscaled))) > MAXIMUM_DIGITS:
        return None
    return f"CAST('{number:f}' AS DECIMAL({MAXIMUM_DIGITS},{scale}))"


def _approximate(column: Column, number: Decimal) -> str:
    """A number beside floats. A `real` with a fraction is rounded as the rows' own are; whole numbers need not be."""
    is_rounded = column.data_type.kind == "real" and number != number.to_integral_value()
    return f"CAST('{number}' AS {'FLOAT' if is_rounded else 'DOUBLE'})"


# --- before any row comes -----------------------------------------------------------------------------------------

#: Types whose values are written as texts that not every text is.
_WRITTEN: tuple[TypeKind, ...] = ("date", "time", "timestamp", "timestamptz", "uuid")


def value_problem(value: RuleValue, data_type: DataType | None) -> tuple[str, str | None] | None:
    """Why a value cannot be one of a column of this type (None: not known), and what to do; None if it can."""
    if isinstance(value, float) and not math.isfinite(value):
        return f"{value} is no number that rows can be compared with", "leave it out, or write a number"
    if data_type is None:
        return None
    kind = data_type.kind
    if kind in NUMBER_KINDS and number_of(value) is None:
        return f"{_shown(value)} is no number, and the column is {data_type}", "write a number"
    if kind == "string" and not isinstance(value, str):
        return f"{value} is no text, and the column holds texts", "write it in quotes, or cast the column before"
    if kind in _WRITTEN and not (isinstance(value, str) and is_value_of(value, native_type(Column("x", data_type)))):
        return f"{_shown(value)} is no {data_type}, which the column is", None
    return None


def is_empty_range(minimum: RuleValue, maximum: RuleValue, data_type: DataType | None) -> bool:
    """Whether no value lies between two bounds, as far as it can be told; both are values of the column's type."""
    one, other = number_of(minimum), number_of(maximum)
    if isinstance(minimum, str) and isinstance(maximum, str):
        if data_type is None:
            return False
        if data_type.kind == "string":
            return minimum > maximum
        if data_type.kind in _WRITTEN:
            return is_larger(minimum, maximum, native_type(Column("x", data_type)))
    return one is not None and other is not None and one > other


def _shown(value: RuleValue) -> str:
    return repr(value) if isinstance(value, str) else str(value).lower() if isinstance(value, bool) else str(value)
