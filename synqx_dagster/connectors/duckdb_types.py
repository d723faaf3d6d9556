"""How DuckDB spells types, and how its text of a value and the canonical text are turned into each other.

The two texts differ in one place: DuckDB marks years before Christ inside the date (``0044-03-15 (BC) 12:00:00``),
canonical text at its end (``0044-03-15 12:00:00 BC``).
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from synqx_dagster.connectors.protocol import direct_type
from synqx_dagster.errors import PlanError
from synqx_dagster.model.table import Column
from synqx_dagster.model.types import DataType, TypeKind

if TYPE_CHECKING:
    import pyarrow as pa

DIALECT = "duckdb"

#: DuckDB's largest decimal.
MAXIMUM_DIGITS = 38

_LOGICAL: dict[str, DataType] = {
    "BOOLEAN": DataType("boolean"),
    "TINYINT": DataType("smallint"),
    "SMALLINT": DataType("smallint"),
    "INTEGER": DataType("integer"),
    "BIGINT": DataType("bigint"),
    "UTINYINT": DataType("smallint"),
    "USMALLINT": DataType("integer"),
    "UINTEGER": DataType("bigint"),
    "UBIGINT": DataType("decimal", 20, 0),
    "HUGEINT": DataType("decimal", 39, 0),
    "UHUGEINT": DataType("decimal", 39, 0),
    "BIGNUM": DataType("decimal"),
    "FLOAT": DataType("real"),
    "DOUBLE": DataType("float"),
    "DATE": DataType("date"),
    "TIME": DataType("time"),
    "TIMESTAMP_S": DataType("timestamp"),
    "TIMESTAMP_MS": DataType("timestamp"),
    "TIMESTAMP": DataType("timestamp"),
    "TIMESTAMP WITH TIME ZONE": DataType("timestamptz"),
    "UUID": DataType("uuid"),
    "JSON": DataType("json"),
    "BLOB": DataType("binary"),
}

_NATIVE: dict[TypeKind, str] = {
    "string": "VARCHAR",
    "smallint": "SMALLINT",
    "integer": "INTEGER",
    "bigint": "BIGINT",
    "real": "FLOAT",
    "float": "DOUBLE",
    "boolean": "BOOLEAN",
    "date": "DATE",
    "time": "TIME",
    "timestamp": "TIMESTAMP",
    "timestamptz": "TIMESTAMP WITH TIME ZONE",
    "json": "JSON",
    "uuid": "UUID",
    "binary": "BLOB",
}

_DECIMAL = re.compile(r"DECIMAL\((\d+),\s*(\d+)\)")

#: Types whose text does not say everything: a union's loses the member, a variant's the inner types.
_NO_WAY_BACK = re.compile(r"\b(UNION|VARIANT)\b")


def parse_native(native_type: str) -> DataType:
    """What a type as DuckDB prints it means; text for what has no logical type (lists, structs, enums, intervals).

    ``TIMESTAMP_NS``, ``TIME_NS`` and ``TIME WITH TIME ZONE`` are text too: their values are finer, or more, than the
    logical types hold.
    """
    if match := _DECIMAL.fullmatch(native_type):
        return DataType("decimal", int(match[1]), int(match[2]))
    return _LOGICAL.get(native_type, DataType("string"))


def has_way_back(native_type: str) -> bool:
    """Whether a value can be made again from its text."""
    return not _NO_WAY_BACK.search(native_type)


def native_type(column: Column) -> str:
    """How DuckDB spells a column's type.

    Raises:
        PlanError: A decimal that DuckDB's 38 digits do not hold.
    """
    if column.native_dialect == DIALECT and column.native_type is not None:
        return column.native_type
    data_type = column.data_type
    if data_type.kind != "decimal":
        return _NATIVE[data_type.kind]
    if data_type.precision is None:
        raise PlanError(
            f"column {column.name!r} is a decimal without a precision, which DuckDB does not have",
            hint="declare it as decimal(precision,scale), up to decimal(38,s), or as string, in the target's schema",
            column=column.name,
        )
    precision = _digits(data_type)
    if precision > MAXIMUM_DIGITS:
        raise PlanError(
            f"column {column.name!r} is {data_type}, DuckDB holds decimals of up to {MAXIMUM_DIGITS} digits",
            hint="declare a smaller decimal, or string, in the target's schema",
            column=column.name,
        )
    return f"DECIMAL({precision},{max(data_type.scale or 0, 0)})"


def holds(data_type: DataType) -> str | None:
    """The protocol's `holds`."""
    match data_type.kind:
        case "decimal":
            if data_type.precision is None or _digits(data_type) > MAXIMUM_DIGITS:
                # Only a column of DuckDB's own, HUGEINT or BIGNUM, is one of these.
                return "{value} NOT IN ('NaN', 'Infinity', '-Infinity')"
            if 0 <= (data_type.scale or 0) <= data_type.precision:
                # Of the type's values only one is no number that the column has.
                return "{value} <> 'NaN'"
            # Cannot round: a value of the type has no more digits than the column.
            return f"TRY_CAST({{value}} AS {native_type(Column('', data_type))}) IS NOT NULL"
        case "timestamp" | "timestamptz":
            # PostgreSQL's calendar goes on for thirty years after DuckDB's ends in 294247.
            fits = f"TRY_CAST({from_canonical('{value}', data_type)} AS {_NATIVE[data_type.kind]}) IS NOT NULL"
            # A year of four digits always fits.
            return f"CASE WHEN substr({{value}}, 5, 1) = '-' THEN true ELSE {fits} END"
        case "json":
            return "json_valid({value})"
        case _:
            return None


def _digits(data_type: DataType) -> int:
    """Digits that a bounded decimal needs.

    PostgreSQL allows a negative scale (whole tens) and a scale above the precision (0.00xx).
    """
    precision, scale = data_type.precision or 0, data_type.scale or 0
    return max(precision - min(scale, 0), scale)


def to_canonical(expression: str, data_type: DataType) -> str:
    """An SQL expression of a logical type as its canonical text."""
    text = f"CAST({expression} AS VARCHAR)"
    if data_type.kind in ("date", "timestamp", "timestamptz"):
        turned = f"regexp_replace({text}, '^(\\S+) \\(BC\\)(.*)$', '\\1\\2 BC')"
        return f"CASE WHEN contains({text}, '(BC)') THEN {turned} ELSE {text} END"
    if data_type.kind == "decimal" and data_type.precision is not None and data_type.precision == data_type.scale:
        # Without a digit before the point DuckDB prints .5, and not 0.5.
        return f"regexp_replace({text}, '^(-?)\\.', '\\10.')"
    return text


def from_arriving(field: pa.Field, data_type: DataType) -> str:
    """A column of arriving batches, whose name needs no quoting, as what DuckDB casts to its type."""
    # In its direct form it is DuckDB's already.
    return field.name if field.type == direct_type(data_type) else from_canonical(field.name, data_type)


def from_canonical(expression: str, data_type: DataType) -> str:
    """An SQL expression that is canonical text as the text which DuckDB casts to the type."""
    if data_type.kind in ("date", "timestamp", "timestamptz"):
        turned = f"regexp_replace({expression}, '^(\\S+)(.*) BC$', '\\1 (BC)\\2')"
        return f"CASE WHEN ends_with({expression}, ' BC') THEN {turned} ELSE {expression} END"
    return expression
