"""How values of each logical type lie in files, and which of them do.

Parquet keeps types; a CSV field and a JSON value of ours are canonical text, whose type the state document tells.
Guarantee: such a text is read as a value of its type or refused, and never rounded or guessed at; text of which nobody
tells the type stays text.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from synqx_dagster.connectors.duckdb_types import (
    DIALECT,
    MAXIMUM_DIGITS,
    from_arriving,
    from_canonical,
    has_way_back,
    parse_native,
    to_canonical,
)
from synqx_dagster.connectors.duckdb_types import holds as duckdb_holds
from synqx_dagster.connectors.duckdb_types import native_type as duckdb_type
from synqx_dagster.connectors.files_options import FileFormat
from synqx_dagster.connectors.protocol import Encoded, carrier_type, untrusted_text
from synqx_dagster.errors import PlanError
from synqx_dagster.model.table import Column
from synqx_dagster.model.types import DataType, TypeKind

if TYPE_CHECKING:
    import pyarrow as pa

#: What a value is cast to so that Arrow has exactly the carrier.
_CARRIER_CASTS: dict[TypeKind, str] = {
    "smallint": "SMALLINT",
    "integer": "INTEGER",
    "bigint": "BIGINT",
    "real": "FLOAT",
    "float": "DOUBLE",
    "boolean": "BOOLEAN",
    "binary": "BLOB",
}

#: DuckDB's types beside those of the logical types that Parquet keeps as they are.
_KEPT = ("TINYINT", "UTINYINT", "USMALLINT", "UINTEGER", "UBIGINT", "TIMESTAMP_S", "TIMESTAMP_MS", "TIMESTAMP_NS")

#: What a text must look like for a cast to take all of it, and nothing else.
_INTEGER = "[+-]?[0-9]+"
_FLOAT = r"[+-]?(([0-9]+(\.[0-9]*)?|\.[0-9]+)([eE][+-]?[0-9]+)?|Infinity)|NaN"
_DAY = "[0-9]{4,7}-[0-9]{2}-[0-9]{2}"
_CLOCK = r"[0-9]{2}:[0-9]{2}:[0-9]{2}(\.[0-9]{1,6})?"
_FORMS: dict[TypeKind, str] = {
    "smallint": _INTEGER,
    "integer": _INTEGER,
    "bigint": _INTEGER,
    "real": _FLOAT,
    "float": _FLOAT,
    "boolean": "true|false",
    "date": f"{_DAY}( BC)?|-?infinity",
    "time": _CLOCK,
    "timestamp": f"{_DAY} {_CLOCK}( BC)?|-?infinity",
    "timestamptz": f"{_DAY} {_CLOCK}[+-][0-9]{{2}}(:[0-9]{{2}}){{0,2}}( BC)?|-?infinity",
    "uuid": "[0-9a-fA-F]{8}(-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}",
    "binary": r"\\x([0-9a-fA-F][0-9a-fA-F])*",
}

_JSON_NUMBER = r"-?(0|[1-9][0-9]*)(\.[0-9]+)?([eE][+-]?[0-9]+)?"


def native_type(column: Column, file_format: FileFormat) -> str:
    """How a column's type is spelt in files of a format.

    Raises:
        PlanError: Parquet has no type that holds every value of the column's type.
    """
    data_type = column.data_type
    if file_format != "parquet" and data_type.kind == "decimal" and not _is_small(data_type):
        # As text it has no limit.
        return "VARCHAR"
    if file_format != "parquet":
        return duckdb_type(Column(column.name, data_type))
    if column.native_dialect == DIALECT and column.native_type in _KEPT:
        return column.native_type
    try:
        return duckdb_type(Column(column.name, data_type))
    except PlanError:
        raise PlanError(
            f"column {column.name!r} is {data_type}; a decimal in Parquet has a precision of up to"
            f" {MAXIMUM_DIGITS} digits",
            hint=f"declare it as decimal(precision,scale), up to decimal({MAXIMUM_DIGITS},s), or as string, in the"
            " target's schema",
            column=column.name,
        ) from None


def _is_small(data_type: DataType) -> bool:
    precision, scale = data_type.precision, data_type.scale or 0
    return precision is not None and max(precision - min(scale, 0), scale) <= MAXIMUM_DIGITS


def holds(data_type: DataType, file_format: FileFormat) -> str | None:
    """The protocol's `holds`."""
    kind = data_type.kind
    if file_format != "parquet":
        if kind == "decimal" and not _is_small(data_type):
            return None
        fits = duckdb_holds(data_type)
        if file_format == "csv" and kind in ("string", "json"):
            whole = "NOT contains({value}, chr(0))"
            return whole if fits is None else f"CASE WHEN {whole} THEN {fits} ELSE false END"
        return fits
    if kind in ("date", "timestamp", "timestamptz"):
        # Other readers of Parquet know no infinity: for them it is a day some million years away.
        fits = f"TRY_CAST({from_canonical('{value}', data_type)} AS {_spell(data_type)}) IS NOT NULL"
        # A year of four digits always fits.
        return (
            "CASE WHEN substr({value}, 5, 1) = '-' THEN true WHEN {value} IN ('infinity', '-infinity') THEN false"
            f" ELSE {fits} END"
        )
    if kind == "time":
        # A time of Parquet ends before midnight.
        return "{value} NOT LIKE '24:%'"
    return duckdb_holds(data_type)


def _spell(data_type: DataType) -> str:
    return duckdb_type(Column("", data_type))


def make_column(name: str, native: str) -> Column:
    """A column as DuckDB describes it."""
    keeps_type = has_way_back(native)
    return Column(
        name,
        parse_native(native),
        native_type=native if keeps_type else None,
        native_dialect=DIALECT if keeps_type else None,
    )


def encode(expression: str, data_type: DataType, native: str | None) -> Encoded:
    """The protocol's `ReadSession.encode`."""
    if data_type.kind == "json" or (data_type.kind == "decimal" and native == "VARCHAR"):
        # Whoever wrote the file may have called anything JSON, or a number.
        return Encoded(f"CAST({expression} AS VARCHAR)", untrusted_text())
    cast = _CARRIER_CASTS.get(data_type.kind)
    sql = f"CAST({expression} AS {cast})" if cast else to_canonical(expression, data_type)
    return Encoded(sql, carrier_type(data_type))


def from_carrier(field: pa.Field, column: Column) -> str:
    """A column of arriving batches as its column's type in DuckDB; a cast that fails tells the field's name."""
    native = column.native_type or "VARCHAR"
    return str(field.name) if native == "VARCHAR" else f"CAST({from_arriving(field, column.data_type)} AS {native})"


def from_text(value: str, column: Column) -> str:
    """Canonical text as a value of its column's type; other text fails with our message, which names no value."""
    native = column.native_type or "VARCHAR"
    data_type = column.data_type
    if native == "VARCHAR":
        return value
    if data_type.kind == "json":
        fits, made = f"json_valid({value})", f"CAST({value} AS JSON)"
    elif data_type.kind == "decimal":
        form = f"[+-]?[0-9]+(\\.[0-9]{{0,{data_type.scale or 0}}}0*)?"
        fits, made = _matches(value, form), f"CAST({value} AS {native})"
    elif data_type.kind == "binary":
        fits, made = _matches(value, _FORMS["binary"]), f"unhex(substr({value}, 3))"
    else:
        fits = _matches(value, _FORMS[data_type.kind])
        made = f"CAST({from_canonical(value, data_type)} AS {native})"
    broken = f"error({literal('synqx text ' + column.name)})"
    return f"CASE WHEN {value} IS NULL THEN NULL WHEN {fits} THEN {made} ELSE {broken} END"


def _matches(value: str, form: str) -> str:
    return f"regexp_full_match({value}, {literal(form)})"


def to_text(value: str, column: Column) -> str:
    """A value of its column's type as canonical text."""
    kind = column.data_type.kind
    if column.native_type == "VARCHAR":
        return value
    if kind == "binary":
        return f"('\\x' || lower(hex({value})))"
    if kind in ("real", "float"):
        infinite = f"CASE WHEN {value} > 0 THEN 'Infinity' ELSE '-Infinity' END"
        return (
            f"CASE WHEN isnan({value}) THEN 'NaN' WHEN isinf({value}) THEN {infinite} ELSE CAST({value} AS VARCHAR) END"
        )
    return to_canonical(value, column.data_type)


def json_member(value: str, column: Column) -> str:
    """A value as the text of a JSON value: numbers and booleans as such, all others as a string; NULL is ``null``."""
    text = to_text(value, column)
    quoted = f"CAST(to_json({text}) AS VARCHAR)"
    match column.data_type.kind:
        case "smallint" | "integer" | "bigint" | "boolean":
            member = text
        case "real" | "float" | "decimal":
            member = f"CASE WHEN {_matches(text, _JSON_NUMBER)} THEN {text} ELSE {quoted} END"
        case _:
            member = quoted
    return f"coalesce({member}, 'null')"


def literal(text: str) -> str:
    """A text as DuckDB's literal."""
    return "'" + text.replace("'", "''") + "'"
