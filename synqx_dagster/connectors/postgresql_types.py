"""PostgreSQL's types: what they mean, how they are spelt, and how a value of each gets out exactly.

Types are known by OID, which no rename, domain or search path can change. A type without a logical counterpart is a
string that carries what ``::text`` prints, with its native spelling beside it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from synqx_dagster.connectors.protocol import Encoded, carrier_type
from synqx_dagster.errors import PlanError
from synqx_dagster.model.table import Column
from synqx_dagster.model.types import DataType, TypeKind

if TYPE_CHECKING:
    import pyarrow as pa

DIALECT = "postgres"

NUMERIC_OID = 1700

#: Source: src/include/catalog/pg_type.dat; these OIDs are the same in every version.
KINDS_BY_OID: dict[int, TypeKind] = {
    16: "boolean",
    17: "binary",
    20: "bigint",
    21: "smallint",
    23: "integer",
    114: "json",
    700: "real",
    701: "float",
    1082: "date",
    1083: "time",
    1114: "timestamp",
    1184: "timestamptz",
    2950: "uuid",
    3802: "json",
}

_SPELLINGS: dict[TypeKind, str] = {
    "string": "text",
    "smallint": "smallint",
    "integer": "integer",
    "bigint": "bigint",
    "decimal": "numeric",
    "real": "real",
    "float": "double precision",
    "boolean": "boolean",
    "date": "date",
    "time": "time without time zone",
    "timestamp": "timestamp without time zone",
    "timestamptz": "timestamp with time zone",
    # jsonb would reorder keys and drop doubles; json keeps the text.
    "json": "json",
    "uuid": "uuid",
    "binary": "bytea",
}

#: What a value is cast to before it leaves, so that what arrives has the carrier's type whatever the expression had.
_CASTS: dict[TypeKind, str] = {
    "smallint": "int2",
    "integer": "int4",
    "bigint": "int8",
    "real": "float4",
    "float": "float8",
    "boolean": "bool",
    "binary": "bytea",
}

#: numeric(precision, scale) with a negative scale came with version 15.
MAX_PRECISION = 1000
MAX_SCALE = 1000


def numeric_modifier(type_modifier: int) -> tuple[int, int] | None:
    """Precision and scale of a numeric's modifier; None without one.

    The scale is an 11-bit two's complement number (version 15 and later). Source: src/backend/utils/adt/numeric.c.
    """
    if type_modifier < 4:
        return None
    packed = type_modifier - 4
    scale = ((packed & 0x7FF) ^ 1024) - 1024
    return (packed >> 16) & 0xFFFF, scale


def logical_type(oid: int, type_modifier: int) -> DataType:
    """What the values of a type mean."""
    if oid == NUMERIC_OID:
        modifier = numeric_modifier(type_modifier)
        if modifier is None:
            return DataType("decimal")
        precision, scale = modifier
        if scale < 0:
            # numeric(3,-2) holds 12300: five digits before the point, none after.
            return DataType("decimal", min(precision - scale, MAX_PRECISION), 0)
        # numeric(2,5) holds 0.00012: five digits, all after the point.
        return DataType("decimal", max(precision, scale), scale)
    return DataType(KINDS_BY_OID.get(oid, "string"))


def native_type(column: Column) -> str:
    """How PostgreSQL spells a column's type in DDL.

    Raises:
        PlanError: A decimal is wider than numeric allows.
    """
    if column.native_dialect == DIALECT and column.native_type is not None:
        return column.native_type
    data_type = column.data_type
    if data_type.kind == "decimal" and data_type.precision is not None:
        if data_type.precision > MAX_PRECISION or (data_type.scale or 0) > MAX_SCALE:
            raise PlanError(
                f"column {column.name!r}: PostgreSQL's numeric has at most {MAX_PRECISION} digits, not {data_type}",
                hint="declare decimal(p,s) with fewer digits, or string",
            )
        return f"numeric({data_type.precision},{data_type.scale or 0})"
    return _SPELLINGS[data_type.kind]


def encode(expression: str, data_type: DataType, native_type: str | None) -> Encoded:
    """Wrap an expression so that its value arrives exactly, in its carrier.

    ADBC's own conversions are never relied on for what Arrow cannot hold: it wraps ``infinity`` round to a date in
    silence, so every such type leaves the server as text.
    """
    cast = _CASTS.get(data_type.kind, "text")
    sql = f"CAST(({expression}) AS {cast})"
    if data_type.kind == "string" and native_type is not None and _is_blank_padded(native_type):
        # A cast from char(n) to text drops the trailing blanks; the type's output function keeps them.
        sql = f"CAST(bpcharout({expression}) AS text)"
    return Encoded(sql, _arrow_type(data_type))


def encode_direct(expression: str, data_type: DataType, native_type: str | None) -> Encoded | None:
    """The protocol's `DirectReadSession.encode_direct`.

    A date as text costs the server, ADBC and DuckDB more than the four bytes that it is; a char(n) passes all of them
    as it is, blanks included. A numeric is best as text: ADBC takes 0.6 microseconds to make it from the binary form.
    """
    import pyarrow as pa

    if data_type.kind == "date":
        return Encoded(f"CAST(({expression}) AS date)", pa.date32())
    if data_type.kind == "string" and native_type is not None and _is_blank_padded(native_type):
        return Encoded(f"CAST(({expression}) AS bpchar)", _arrow_type(data_type))
    return None


def _is_blank_padded(native_type: str) -> bool:
    base = native_type.partition("(")[0]
    return base in ("character", "bpchar", "char") and not native_type.endswith("]")


def _arrow_type(data_type: DataType) -> pa.DataType:
    return carrier_type(data_type)


#: Years that PostgreSQL's calendar types hold; inclusive. Source: PostgreSQL manual, Date/Time Types.
_YEARS = {"date": (-4713, 5874897), "timestamp": (-4713, 294276), "timestamptz": (-4713, 294276)}


def holds(data_type: DataType) -> str | None:
    """A DuckDB predicate over ``{value}``, the carrier: whether PostgreSQL can store it exactly."""
    if data_type.kind in ("string", "json"):
        # PostgreSQL's text ends at no NUL because it has none.
        return "instr({value}, chr(0)) = 0"
    if data_type.kind == "decimal" and data_type.precision is not None:
        return "{value} NOT IN ('Infinity', '-Infinity')"
    years = _YEARS.get(data_type.kind)
    if years is not None:
        first, last = years
        year = "TRY_CAST(split_part({value}, '-', 1) AS BIGINT)"
        # A year of four digits always fits, but for those long before ours.
        return (
            "CASE WHEN ends_with({value}, 'BC') THEN " + f"{year} <= {-first}"
            " WHEN substr({value}, 5, 1) = '-' OR {value} IN ('infinity', '-infinity') THEN true"
            f" ELSE {year} <= {last} END"
        )
    return None
