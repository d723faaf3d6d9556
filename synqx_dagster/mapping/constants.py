"""Constants of mappings, turned into their field's type when the plan is made, by the casts that rows go through."""

from __future__ import annotations

import math
from functools import cache, lru_cache
from typing import Any

from synqx_dagster.errors import PlanError
from synqx_dagster.mapping.casts import check_cast
from synqx_dagster.mapping.contract import cast_reason
from synqx_dagster.mapping.duckdb_casts import CARRIER_NAMES, make_cast
from synqx_dagster.mapping.operations import Constant
from synqx_dagster.mapping.quoting import quote_text
from synqx_dagster.model.types import INTEGER_BOUNDS, DataType

Value = str | int | float | bool | None


def type_of_constant(value: Value) -> DataType:
    """The type that a constant has by itself; NULL is a string."""
    if isinstance(value, bool):
        return DataType("boolean")
    if isinstance(value, int):
        for kind in ("integer", "bigint"):
            low, high = INTEGER_BOUNDS[kind]
            if low <= value <= high:
                return DataType(kind)
        return DataType("decimal")
    return DataType("float") if isinstance(value, float) else DataType("string")


def make_constant(value: Value, target: DataType, *, field: str) -> Constant:
    """A constant as a value of the field's type.

    Raises:
        PlanError: It is no value of that type; names the field, not the value.
    """
    if value is None:
        return Constant(None, target)
    source = type_of_constant(value)
    check_cast(source, target, field=field, what="the constant")
    text = _text_of(value)
    if any("\ud800" <= character <= "\udfff" for character in text):
        raise PlanError(f"field {field!r}: the constant is not valid Unicode", column=field)
    cast_text = _cast_text(text, source, target)
    if cast_text is None:
        reason = cast_reason(source, target)
        raise PlanError(f"field {field!r}: the constant {reason}", hint=f"the field is {target}", column=field)
    return Constant(cast_text, target)


@lru_cache(maxsize=4096)
def _cast_text(text: str, source: DataType, target: DataType) -> str | None:
    """What a text of one type is as another; None where it cannot be."""
    if source == target == DataType("string"):
        return text
    cast = make_cast(source, target)
    literal = _literal(text, source)
    prepared = cast.prepare(literal) if cast.prepare else literal
    check = cast.check(prepared) if cast.check else "true"
    with _database().cursor() as cursor:
        row = cursor.execute(f"SELECT CASE WHEN {check} THEN CAST({cast.value(prepared)} AS VARCHAR) END").fetchone()
    return None if row is None or row[0] is None else str(row[0])


@cache
def _database() -> Any:
    """An empty database in memory; opening one takes a hundred times as long as a cast in it."""
    import duckdb

    return duckdb.connect(config={"threads": 1})


def constant_sql(constant: Constant) -> str:
    """A constant as DuckDB SQL of its carrier."""
    if constant.text is None:
        return f"CAST(NULL AS {CARRIER_NAMES.get(constant.data_type.kind, 'VARCHAR')})"
    return _literal(constant.text, constant.data_type)


def _literal(text: str, data_type: DataType) -> str:
    return f"CAST({quote_text(text, 'duckdb')} AS {CARRIER_NAMES.get(data_type.kind, 'VARCHAR')})"


def _text_of(value: str | int | float | bool) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, float) and not math.isfinite(value):
        return "nan" if math.isnan(value) else ("inf" if value > 0 else "-inf")
    return value if isinstance(value, str) else repr(value)
