"""What SQLAlchemy's types mean: of a table's columns by reflection, of a query's by what its cursor says.

Guarantee: a type of which nothing is known to be exact is refused by its name when it is to be read, never guessed.
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import sqlalchemy as sa
from sqlalchemy.dialects import mssql, mysql
from sqlalchemy.engine import Dialect
from sqlalchemy.types import TypeEngine

from synqx_dagster.connectors.postgresql_types import KINDS_BY_OID, NUMERIC_OID
from synqx_dagster.connectors.sqlalchemy_dialects import Facts
from synqx_dagster.errors import PlanError
from synqx_dagster.model.table import Column
from synqx_dagster.model.types import DataType, TypeKind

_QUOTED = re.compile(r"""('(?:[^']|'')*'|"(?:[^"]|"")*")""")
_COLLATION = re.compile(r"\s+(?:character set \S+|collate (?:\"[^\"]*\"|\S+))")
_FRACTION = re.compile(r"\b(?:time|timestamp|timestamp_\w+|datetime\w*)\s*\((\d+)\)")

#: By dialect: names of types, without arguments, that SQLAlchemy's classes do not tell apart.
_BY_NAME: dict[str, dict[str, DataType]] = {
    "postgres": {"real": DataType("real")},
    "redshift": {"real": DataType("real"), "super": DataType("json")},
    "mysql": {
        "tinyint": DataType("smallint"),
        "mediumint": DataType("integer"),
        "year": DataType("smallint"),
        "tinyint unsigned": DataType("smallint"),
        "smallint unsigned": DataType("integer"),
        "mediumint unsigned": DataType("integer"),
        "integer unsigned": DataType("bigint"),
        "bigint unsigned": DataType("decimal", 20, 0),
    },
    "tsql": {
        "tinyint": DataType("smallint"),
        "real": DataType("real"),
        "money": DataType("decimal", 19, 4),
        "smallmoney": DataType("decimal", 10, 4),
        "datetimeoffset": DataType("timestamptz"),
    },
    "oracle": {
        # It has a time of day.
        "date": DataType("timestamp"),
        "timestamp with time zone": DataType("timestamptz"),
        "timestamp with local time zone": DataType("timestamptz"),
        "binary_float": DataType("real"),
        "binary_double": DataType("float"),
        # Their precision is counted in bits, their values are decimals.
        "float": DataType("decimal"),
        "double precision": DataType("decimal"),
        "real": DataType("decimal"),
        "integer": DataType("decimal", 38, 0),
        "smallint": DataType("decimal", 38, 0),
    },
    "snowflake": {
        "float": DataType("float"),
        "double": DataType("float"),
        "real": DataType("float"),
        "timestamp_ntz": DataType("timestamp"),
        "timestamp_ltz": DataType("timestamptz"),
        "timestamp_tz": DataType("timestamptz"),
        "variant": DataType("json"),
        "object": DataType("json"),
        "array": DataType("json"),
    },
}


#: How a type is called that the dialect does not know; it matches no type that is known to be exact.
UNKNOWN_TYPE = "of a type unknown to SQLAlchemy"


def stored_name(reflected: str, facts: Facts) -> str:
    """A column's name as the server has it; SQLAlchemy leaves MySQL's backticks doubled."""
    return reflected.replace("``", "`") if facts.sqlglot == "mysql" else reflected


@contextmanager
def quiet_reflection() -> Iterator[None]:
    """Reflect without SQLAlchemy's warnings of types that it does not know: those columns are told apart anyway."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", sa.exc.SAWarning)
        yield


def spelling_of(found: TypeEngine[Any], dialect: Dialect) -> str:
    """A type as the dialect spells it, in lower case outside of quotes and without its collation."""
    if isinstance(found, sa.types.NullType):
        return UNKNOWN_TYPE
    try:
        text = found.compile(dialect=dialect)
    except sa.exc.CompileError:
        # A type that the dialect reflects and cannot spell, such as Oracle's BFILE.
        return type(found).__name__.lower()
    pieces = _QUOTED.split(text)
    lowered = "".join(piece if number % 2 else piece.lower() for number, piece in enumerate(pieces))
    return _COLLATION.sub("", lowered)


def base_name(native_type: str) -> str:
    """A spelling without its arguments: ``timestamp with time zone`` of ``timestamp(6) with time zone``."""
    return " ".join(re.sub(r"\(.*?\)", " ", native_type, flags=re.DOTALL).split())


def logical_type(found: TypeEngine[Any], native: str, facts: Facts) -> DataType:
    """What the values of a reflected type mean; ``string`` for what has no kind of its own."""
    name = base_name(native).removesuffix(" zerofill")
    known = _BY_NAME.get(facts.sqlglot, {}).get(name)
    return _by_class(found, facts) if known is None else known


def _by_class(found: TypeEngine[Any], facts: Facts) -> DataType:
    kind: TypeKind
    match found:
        case sa.Boolean() | mssql.BIT():
            kind = "boolean"
        case sa.Double():
            kind = "float"
        case sa.Float():
            return DataType(_kind_of_float(found, facts))
        case sa.Numeric():
            # Before the integers: Oracle's NUMBER is both to SQLAlchemy.
            return _decimal(found.precision, found.scale)
        case sa.SmallInteger():
            kind = "smallint"
        case sa.BigInteger():
            kind = "bigint"
        case sa.Integer():
            kind = "integer"
        # SQL Server's TIMESTAMP is a version of the row, eight bytes.
        case sa.LargeBinary() | sa.types._Binary():
            kind = "binary"
        case mysql.TIMESTAMP():
            kind = "timestamptz"
        case sa.DateTime():
            kind = "timestamptz" if found.timezone else "timestamp"
        case sa.Date():
            kind = "date"
        case sa.Time() if not found.timezone:
            kind = "time"
        case sa.JSON():
            kind = "json"
        case sa.Uuid():
            kind = "uuid"
        case _:
            kind = "string"
    return DataType(kind)


def _kind_of_float(found: sa.Float[Any], facts: Facts) -> TypeKind:
    if facts.sqlglot == "mysql" and found.precision is None:
        return "real"
    return "real" if found.precision is not None and found.precision <= 24 else "float"


def _decimal(precision: int | None, scale: int | None) -> DataType:
    if precision is None:
        return DataType("decimal")
    scale = scale or 0
    if scale < 0:
        return DataType("decimal", min(precision - scale, 1000), 0)
    return DataType("decimal", max(precision, scale), scale)


def column_of(reflected: Mapping[str, Any], key: Sequence[str], dialect: Dialect, facts: Facts) -> Column:
    """A column as the Inspector describes it."""
    found: TypeEngine[Any] = reflected["type"]
    native = spelling_of(found, dialect)
    name = str(reflected["name"])
    is_known = native != UNKNOWN_TYPE
    counts = reflected.get("identity") is not None or reflected.get("autoincrement") is True
    generated = reflected.get("computed") is not None
    return Column(
        stored_name(name, facts),
        logical_type(found, native, facts),
        nullable=bool(reflected.get("nullable", True)),
        native_type=native,
        native_dialect=facts.sqlglot if is_known else None,
        key_position=key.index(name) + 1 if name in key else None,
        generated=generated,
        has_default=not generated and (counts or reflected.get("default") is not None),
    )


def refuse_inexact(expression: str, data_type: DataType, native_type: str | None, facts: Facts) -> None:
    """Refuse a type of which this connector does not know that it arrives exactly.

    Raises:
        PlanError: Names the expression and its type.
    """
    native = native_type or ""
    name = base_name(native)
    reason = None
    if data_type.kind == "string" and native and facts.text_types is not None:
        if name not in facts.text_types and name not in facts.other_texts:
            reason = "whose text is not known to be exact"
    elif not facts.texts and (found := _FRACTION.search(native)) and int(found[1]) > 6:
        reason = "whose fraction of a second the driver would cut"
    if reason is not None:
        raise PlanError(
            f"{expression} is {native}" + ("" if native == UNKNOWN_TYPE else f", {reason}"),
            hint="leave the column out, or make it text by a cast in a source_query",
        )


# --- the columns of a query -------------------------------------------------------------------------------------

#: PostgreSQL's OIDs, which psycopg2, psycopg, pg8000 and redshift_connector give.
_POSTGRESQL_CODES: dict[int, TypeKind] = {**KINDS_BY_OID, NUMERIC_OID: "decimal"}

#: Field types of MySQL's protocol. Texts and blobs share theirs: they are texts here.
_MYSQL_CODES: dict[int, TypeKind] = {
    0: "decimal",
    1: "smallint",
    2: "integer",
    3: "bigint",
    4: "real",
    5: "float",
    7: "timestamptz",
    8: "decimal",
    9: "integer",
    10: "date",
    11: "time",
    12: "timestamp",
    13: "smallint",
    245: "json",
    246: "decimal",
}

#: Column types of Snowflake's connector (constants.FIELD_TYPES).
_SNOWFLAKE_CODES: dict[int, TypeKind] = {
    0: "decimal",
    1: "float",
    3: "date",
    4: "timestamp",
    5: "json",
    6: "timestamptz",
    7: "timestamptz",
    8: "timestamp",
    9: "json",
    10: "json",
    11: "binary",
    12: "time",
    13: "boolean",
}

#: Names of oracledb's DbType constants.
_ORACLE_CODES: dict[str, TypeKind] = {
    "DB_TYPE_NUMBER": "decimal",
    "DB_TYPE_BINARY_FLOAT": "real",
    "DB_TYPE_BINARY_DOUBLE": "float",
    "DB_TYPE_DATE": "timestamp",
    "DB_TYPE_TIMESTAMP": "timestamp",
    "DB_TYPE_TIMESTAMP_TZ": "timestamptz",
    "DB_TYPE_TIMESTAMP_LTZ": "timestamptz",
    "DB_TYPE_RAW": "binary",
    "DB_TYPE_BLOB": "binary",
    "DB_TYPE_JSON": "json",
}

#: pyodbc gives the Python type of the values.
_ODBC_CODES: dict[str, TypeKind] = {
    "int": "bigint",
    "float": "float",
    "bool": "boolean",
    "Decimal": "decimal",
    "date": "date",
    "time": "time",
    "datetime": "timestamp",
    "bytes": "binary",
    "bytearray": "binary",
    "UUID": "uuid",
}

_CODES: dict[str, dict[int, TypeKind]] = {
    "postgres": _POSTGRESQL_CODES,
    "redshift": _POSTGRESQL_CODES,
    "mysql": _MYSQL_CODES,
    "snowflake": _SNOWFLAKE_CODES,
}


def column_of_result(description: Sequence[Any], facts: Facts) -> Column:
    """A column of a query's result, from DB-API's description of it; ``string`` where that says nothing certain."""
    name, code = str(description[0]), description[1]
    kind: TypeKind | None = None
    if facts.sqlglot == "oracle":
        kind = _ORACLE_CODES.get(getattr(code, "name", ""))
    elif facts.sqlglot == "tsql" and isinstance(code, type):
        kind = _ODBC_CODES.get(code.__name__)
    elif isinstance(code, int):
        kind = _CODES.get(facts.sqlglot, {}).get(code)
    return Column(name, DataType(kind or "string"))
