"""How MySQL and MariaDB spell types, and which of their values are in doubt.

Where the logical type is narrower than the server's, the values arrive as text which the transform casts: zero dates
(``0000-00-00``, ``2024-00-00``) and times beyond a day are bad rows for a date or a time, never NULL.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from synqx_dagster.errors import PlanError
from synqx_dagster.model.table import Column
from synqx_dagster.model.types import DataType, TypeKind

DIALECT = "mysql"

MAXIMUM_DIGITS = 65
MAXIMUM_SCALE = 30

#: Characters of a text in a primary key. Three such columns fit into InnoDB's 3,072 bytes of a key.
KEY_CHARACTERS = 255

GEOMETRIES = frozenset(
    {
        "geometry",
        "point",
        "linestring",
        "polygon",
        "multipoint",
        "multilinestring",
        "multipolygon",
        "geometrycollection",
        "geomcollection",
    }
)
_BINARIES = frozenset({"binary", "varbinary", "tinyblob", "blob", "mediumblob", "longblob"})

_SIGNED: dict[str, TypeKind] = {
    "tinyint": "smallint",
    "smallint": "smallint",
    "mediumint": "integer",
    "int": "integer",
    "integer": "integer",
    "bigint": "bigint",
}
_UNSIGNED: dict[str, DataType] = {
    "tinyint": DataType("smallint"),
    "smallint": DataType("integer"),
    "mediumint": DataType("integer"),
    "int": DataType("bigint"),
    "integer": DataType("bigint"),
    "bigint": DataType("decimal", 20, 0),
}
_OTHERS: dict[str, TypeKind] = {
    "float": "real",
    "double": "float",
    "date": "date",
    "time": "time",
    "datetime": "timestamp",
    "timestamp": "timestamptz",
    "year": "smallint",
    "json": "json",
    "uuid": "uuid",
}
_NATIVE: dict[TypeKind, str] = {
    "string": "longtext",
    "smallint": "smallint",
    "integer": "int",
    "bigint": "bigint",
    "real": "float",
    "float": "double",
    "boolean": "tinyint(1)",
    "date": "date",
    "time": "time(6)",
    "timestamp": "datetime(6)",
    "timestamptz": "timestamp(6)",
    # The server's own JSON type sorts keys and rounds numbers; text keeps the document as it is.
    "json": "longtext",
    "uuid": "char(36)",
    "binary": "longblob",
}

_TYPE = re.compile(r"(?P<name>\w+)\s*(?:\((?P<arguments>.*)\))?\s*(?P<rest>[^()]*)", re.DOTALL)
_COMMENT = re.compile(r"/\*.*?\*/", re.DOTALL)
_MEMBER = re.compile(r"'((?:[^']|'')*)'")
_LENGTH = re.compile(r"\b(?:char|character|varchar|bpchar)\b[^(]*\((\d+)\)", re.IGNORECASE)


@dataclass(frozen=True)
class NativeType:
    """A column type as a server prints it, taken apart.

    Attributes:
        name: Lower case, without arguments (``varchar``).
        numbers: Numeric arguments (length; precision and scale; digits of a fraction).
        members: Members of an ``enum`` or a ``set``.
    """

    name: str
    numbers: tuple[int, ...] = ()
    members: tuple[str, ...] = ()
    is_unsigned: bool = False
    is_zerofill: bool = False

    @classmethod
    def parse(cls, text: str) -> NativeType:
        """Take ``int(10) unsigned zerofill`` or ``enum('a','b')`` apart."""
        match = _TYPE.fullmatch(_COMMENT.sub("", text).strip())
        if match is None:
            return cls(text.strip().lower())
        name, arguments, rest = match["name"].lower(), match["arguments"] or "", match["rest"].lower()
        if name in ("enum", "set"):
            return cls(name, members=tuple(member.replace("''", "'") for member in _MEMBER.findall(arguments)))
        numbers = tuple(int(part) for part in arguments.split(",") if part.strip().isdigit())
        zerofill = "zerofill" in rest
        return cls(name, numbers, is_unsigned="unsigned" in rest or zerofill, is_zerofill=zerofill)

    @property
    def data_type(self) -> DataType:
        """The logical type; text for what has none (bit, enum, set, geometry, inet6)."""
        if self.name in _SIGNED:
            return _UNSIGNED[self.name] if self.is_unsigned else DataType(_SIGNED[self.name])
        if self.name in ("decimal", "numeric"):
            precision, scale = (*self.numbers, 10, 0)[:2] if len(self.numbers) != 1 else (self.numbers[0], 0)
            return DataType("decimal", precision, scale)
        if self.name in _BINARIES:
            return DataType("binary")
        return DataType(_OTHERS[self.name]) if self.name in _OTHERS else DataType("string")


def native_type(column: Column) -> str:
    """How a column's type is spelt here.

    Raises:
        PlanError: A decimal that 65 digits do not hold; a name that the server does not take.
    """
    check_name(column.name, "column")
    if column.native_dialect == DIALECT and column.native_type is not None:
        return column.native_type
    data_type = column.data_type
    if data_type.kind == "decimal":
        return _decimal(column)
    if column.key_position is not None:
        return key_type(column)
    return _NATIVE[data_type.kind]


def check_name(name: str, what: str) -> None:
    """Refuse a name that no MySQL server takes, quoted or not.

    Raises:
        PlanError: It has a letter beyond the basic plane, or ends with a blank (MySQL manual, Schema Object Names).
    """
    if max(map(ord, name), default=0) > 0xFFFF:
        reason = "holds an emoji or another character beyond U+FFFF, which MySQL's names do not have"
    elif name.endswith(" "):
        reason = "ends with a blank, which MySQL's names do not"
    else:
        return
    raise PlanError(f"the name {name!r} {reason}", hint=f"give the {what} another name by the mapping", column=name)


def key_type(column: Column) -> str:
    """The spelling of a column in a primary key, which must have a length; a longer value is refused, not cut."""
    spelt = native_type(
        Column(column.name, column.data_type, native_type=column.native_type, native_dialect=column.native_dialect)
    )
    if spelt == "longblob":
        return f"varbinary({KEY_CHARACTERS})"
    if spelt != "longtext":
        return spelt
    length = _LENGTH.search(column.native_type or "")
    return f"varchar({min(int(length[1]), 768) if length else KEY_CHARACTERS})"


def _decimal(column: Column) -> str:
    data_type = column.data_type
    if data_type.precision is None:
        raise PlanError(
            f"column {column.name!r} is a decimal without a precision, which MySQL does not have",
            hint="declare it as decimal(precision,scale), up to decimal(65,30), or as string, in the target's schema",
            column=column.name,
        )
    # PostgreSQL allows a negative scale (whole tens) and a scale above the precision (0.00xx).
    scale = data_type.scale or 0
    precision = max(data_type.precision - min(scale, 0), scale)
    if precision > MAXIMUM_DIGITS or scale > MAXIMUM_SCALE:
        raise PlanError(
            f"column {column.name!r} is {data_type}; MySQL holds decimals of up to {MAXIMUM_DIGITS} digits,"
            f" {MAXIMUM_SCALE} of them after the point",
            hint="declare a smaller decimal, or string, in the target's schema",
            column=column.name,
        )
    return f"decimal({precision},{max(scale, 0)})"


def holds(data_type: DataType) -> str | None:
    """The protocol's `holds`; years before 1 and after 9999, infinity, NaN and instants after 2038 have no place."""
    # Canonical text of the years 1 to 9999 has its first dash there, and infinity has none.
    in_range = "(substr({value}, 5, 1) = '-' AND NOT ends_with({value}, ' BC'))"
    match data_type.kind:
        case "real" | "float":
            # MariaDB prints, and sorts, -0.0 as 0.
            return "(isfinite({value}) AND NOT ({value} = 0 AND signbit({value})))"
        case "decimal":
            return "{value} NOT IN ('NaN', 'Infinity', '-Infinity')"
        case "date" | "timestamp":
            return in_range
        case "timestamptz":
            lowest, highest = "'1970-01-01 00:00:01'", "'2038-01-19 03:14:08'"
            return f"({in_range} AND {{value}} >= {lowest} AND {{value}} < {highest})"
        case _:
            return None
