"""Values of cursor columns as SQL: what a source printed goes back into its queries as the same value."""

from __future__ import annotations

import math
import re
from datetime import datetime
from decimal import Decimal

from synqx_dagster.errors import PlanError, RequestError
from synqx_dagster.model.table import Column
from synqx_dagster.model.types import TypeKind
from synqx_dagster.transfer.watermark import CursorValue

_WHOLE_NUMBERS: frozenset[TypeKind] = frozenset({"smallint", "integer", "bigint"})
_FLOATS: frozenset[TypeKind] = frozenset({"real", "float"})
_TIMES: frozenset[TypeKind] = frozenset({"date", "timestamp", "timestamptz"})

#: Kinds without an order that a watermark could follow.
UNORDERED: frozenset[TypeKind] = frozenset({"boolean", "json", "binary"})

#: Every value is at or before these, so nothing would ever be newer.
_ENDLESS = frozenset({"infinity", "nan", "inf"})

_WHOLE = re.compile(r"[+-]?\d{1,1000}", re.ASCII)
_DECIMAL = re.compile(r"-?\d+(\.\d+)?")
_DIGIT = re.compile(r"\d")
_PLAIN = re.compile(r"[\w :.,+/-]*", re.ASCII)
_DAY_SECONDS = 86_400

#: How sqlglot's generic dialect calls a kind; for dialects that are not spelt out below.
_GENERIC: dict[TypeKind, str] = {"date": "DATE", "timestamp": "TIMESTAMP", "timestamptz": "TIMESTAMPTZ", "time": "TIME"}


def is_endless(value: CursorValue) -> bool:
    """Whether no later value can exist, as with ``infinity``."""
    if isinstance(value, float):
        return math.isinf(value) or math.isnan(value)
    return isinstance(value, str) and value.lower() in _ENDLESS


def check_value(value: str, column: Column, *, what: str) -> CursorValue:
    """A value that a user gave for a cursor column.

    Raises:
        RequestError: It is no value of the column's type.
    """
    kind = column.data_type.kind
    problem: str | None = None
    if kind in _WHOLE_NUMBERS:
        if _WHOLE.fullmatch(value):
            return int(value)
        problem = "it is not a whole number"
    elif kind in _FLOATS:
        if (number := _parse_float(value)) is not None:
            return number
        problem = "it is not a finite number"
    elif kind == "decimal" and not _DECIMAL.fullmatch(value):
        problem = "it is not a number"
    elif kind in _TIMES and _parse_time(value) is None:
        problem = "it is not a date or time"
    elif "\x00" in value:
        problem = "it holds a NUL character"
    if problem is not None:
        raise RequestError(
            f"{what}: {value!r} is not a value of the cursor column {column.name!r} ({column.data_type}): {problem}",
            hint="write times as 2024-02-29 or '2024-02-29 12:00:00+00:00', and numbers as digits",
        )
    return value


def check_bounds(start: CursorValue, end: CursorValue, column: Column) -> None:
    """Refuse two bounds between which no value can lie; what only the database can compare is left to it.

    Args:
        start: The first value that is read, as `check_value` gave it.
        end: The first value that is not read.

    Raises:
        RequestError: The upper bound is not above the lower one.
    """
    if _is_empty(start, end, column.data_type.kind):
        raise RequestError(
            f"--to {str(end)!r} is not above --from {str(start)!r}, so no row could be read",
            hint="--from is the first value that is read, --to the first that is not",
            column=column.name,
        )


def _is_empty(start: CursorValue, end: CursorValue, kind: TypeKind) -> bool:
    if start == end:
        return True
    if isinstance(start, str) and isinstance(end, str):
        if kind == "decimal":
            return Decimal(end) <= Decimal(start)
        first, last = _parse_time(start), _parse_time(end)
        if first is None or last is None:
            return False  # texts: their order is the collation's
        if kind == "timestamptz" and first.tzinfo is not None and last.tzinfo is not None:
            # Not where they are equal: Python drops nanoseconds.
            return last < first
        if first.tzinfo is not None or last.tzinfo is not None:
            return False  # databases differ in what they make of an offset
        # In a column of texts only what is written alike has the order of the times.
        return last < first and (kind in _TIMES or _DIGIT.sub("0", start) == _DIGIT.sub("0", end))
    return isinstance(start, (int, float)) and isinstance(end, (int, float)) and end < start


def _parse_time(text: str) -> datetime | None:
    try:
        return datetime.fromisoformat(text)
    except ValueError:
        return None


def _parse_float(text: str) -> float | None:
    try:
        number = float(text)
    except ValueError:
        return None
    return number if math.isfinite(number) and "_" not in text else None


def literal(value: CursorValue, column: Column, dialect: str, *, minus_seconds: int = 0) -> str:
    """A cursor column's value in a source's SQL, to stand beside the column in a comparison.

    Args:
        minus_seconds: How much earlier; for dates it is rounded up to whole days.

    Raises:
        PlanError: `minus_seconds` is given, and the values are not times.
    """
    if minus_seconds:
        return _earlier(value, column, dialect, minus_seconds)
    if isinstance(value, int):
        return str(value)
    kind = column.data_type.kind
    if isinstance(value, float):
        return f"CAST('{value!r}' AS double precision)" if dialect == "postgres" else repr(value)
    if kind in _WHOLE_NUMBERS or kind == "decimal":
        if not _DECIMAL.fullmatch(value):
            raise PlanError(f"the watermark of the cursor column {column.name!r} is not a number")
        return value
    if dialect in ("postgres", "duckdb", "sqlite"):
        # Left untyped, the server reads it as a value of the column's own type; a cast to varchar(3) would cut it.
        return quoted(_local(value, kind) if dialect == "sqlite" else value)
    if dialect == "mysql":
        return _mysql_text(_local(value, kind))
    return _generic(value, kind, dialect)


def _earlier(value: CursorValue, column: Column, dialect: str, seconds: int) -> str:
    kind = column.data_type.kind
    if kind not in _TIMES or not isinstance(value, str):
        raise PlanError(
            f"the cursor column {column.name!r} holds {column.data_type} and not times, which lag_seconds needs",
            hint="leave lag_seconds out; late_commits: by_snapshot finds late rows of PostgreSQL without one",
            column=column.name,
        )
    days = math.ceil(seconds / _DAY_SECONDS)
    match dialect:
        case "postgres" | "duckdb":
            native = column.native_type if dialect == "duckdb" and column.native_dialect == "duckdb" else kind
            moment = f"CAST({quoted(value)} AS {native})"
            return f"({moment} - {days})" if kind == "date" else f"({moment} - INTERVAL '{seconds} seconds')"
        case "mysql":
            moment = f"CAST({_mysql_text(_local(value, kind))} AS {'DATE' if kind == 'date' else 'DATETIME(6)'})"
            return (
                f"({moment} - INTERVAL {days if kind == 'date' else seconds} {'DAY' if kind == 'date' else 'SECOND'})"
            )
        case _:
            unit, count = ("DAY", days) if kind == "date" else ("SECOND", seconds)
            return _generic_earlier(value, kind, dialect, unit, count)


def _local(value: str, kind: TypeKind) -> str:
    """Canonical text without its offset, for databases whose sessions run in UTC and whose literals have none."""
    return value.removesuffix("+00") if kind == "timestamptz" else value


def quoted(value: str) -> str:
    """A text as a literal, for databases to which a backslash is a character as others are."""
    return "'" + value.replace("'", "''") + "'"


def _mysql_text(value: str) -> str:
    # Hexadecimal digits mean the same whatever sql_mode says of backslashes.
    if _PLAIN.fullmatch(value):
        return f"'{value}'"
    return f"_utf8mb4 X'{value.encode().hex()}'"


def _generic(value: str, kind: TypeKind, dialect: str) -> str:
    from sqlglot import exp

    text = exp.Literal.string(value)
    name = _GENERIC.get(kind)
    return (text if name is None else exp.cast(text, name)).sql(dialect)


def _generic_earlier(value: str, kind: TypeKind, dialect: str, unit: str, count: int) -> str:
    from sqlglot import exp

    moment = exp.cast(exp.Literal.string(value), _GENERIC[kind])
    interval = exp.Interval(this=exp.Literal.string(str(count)), unit=exp.var(unit))
    return exp.paren(exp.Sub(this=moment, expression=interval)).sql(dialect)
