"""How SQLite declares types, what a declaration means, and what SQLite can hold.

SQLite does not enforce a declared type: it derives an *affinity* from it and stores any value anywhere (SQLite
manual, Datatypes In SQLite, section 3.1). A declaration is therefore a hope about the values, and all of them but
text and blobs are read as text which the transform casts.
"""

from __future__ import annotations

import re
from typing import Literal

from synqx_dagster.model.table import Column
from synqx_dagster.model.types import DataType, TypeKind

DIALECT = "sqlite"

Affinity = Literal["integer", "text", "blob", "real", "numeric"]

#: A REAL keeps any decimal of so many digits: it prints as the same digits again (SQLite manual, section 3).
REAL_DIGITS = 15

_DECLARATION = re.compile(r"\s*(?P<words>[^()]*?)\s*(?:\(\s*(?P<arguments>[^()]*?)\s*\).*)?", re.DOTALL)
_ARGUMENTS = re.compile(r"\+?(\d{1,4})(?:\s*,\s*(\d{1,4}))?")

#: Meaning of the first word, for declarations of numeric or text affinity. ``DECIMAL TEXT(30,10)`` and ``JSON TEXT``
#: have text affinity, so that SQLite leaves the digits and the document as they are.
_FIRST_WORDS: dict[str, TypeKind] = {
    "BOOL": "boolean",
    "BOOLEAN": "boolean",
    "DATE": "date",
    "DATETIME": "timestamp",
    "TIMESTAMP": "timestamp",
    "TIMESTAMPTZ": "timestamptz",
    "TIME": "time",
    "DEC": "decimal",
    "DECIMAL": "decimal",
    "NUMBER": "decimal",
    "NUMERIC": "decimal",
    "JSON": "json",
    "UUID": "uuid",
}

#: How SQLite spells each logical type that has one spelling.
_NATIVE: dict[TypeKind, str] = {
    "string": "TEXT",
    "smallint": "INTEGER",
    "integer": "INTEGER",
    "bigint": "INTEGER",
    "real": "REAL",
    "float": "REAL",
    "boolean": "BOOLEAN",
    "date": "DATE",
    "time": "TIME",
    "timestamp": "TIMESTAMP",
    "timestamptz": "TIMESTAMPTZ",
    # Numeric affinity would store the document 1.0 as the number 1.
    "json": "JSON TEXT",
    "uuid": "UUID",
    "binary": "BLOB",
}


def affinity_of(declaration: str) -> Affinity:
    """The affinity that SQLite gives a declared type, by its own rules in their order."""
    upper = declaration.upper()
    if "INT" in upper:
        return "integer"
    if any(word in upper for word in ("CHAR", "CLOB", "TEXT")):
        return "text"
    if "BLOB" in upper or not upper.strip():
        return "blob"
    if any(word in upper for word in ("REAL", "FLOA", "DOUB")):
        return "real"
    return "numeric"


def parse_declaration(declaration: str) -> DataType:
    """What a declared type says of its values; text where it says nothing (``""``, an unknown name)."""
    affinity = affinity_of(declaration)
    if affinity == "integer":
        return DataType("bigint")
    if affinity == "real":
        return DataType("float")
    if affinity == "blob":
        # An undeclared column, or one that a query computes, may hold anything; only BLOB says binary.
        return DataType("binary") if declaration.strip() else DataType("string")
    match = _DECLARATION.fullmatch(declaration)
    words = match["words"].upper().split() if match else []
    kind = _FIRST_WORDS.get(words[0]) if words else None
    if kind == "timestamp" and words[1:] == ["WITH", "TIME", "ZONE"]:
        kind = "timestamptz"
    if kind is None:
        return DataType("string")
    if kind != "decimal":
        return DataType(kind)
    arguments = _ARGUMENTS.fullmatch((match["arguments"] if match else None) or "")
    if not arguments:
        return DataType("decimal")
    precision, scale = int(arguments[1]), int(arguments[2] or 0)
    if not (1 <= precision <= 1000 and scale <= precision):
        return DataType("decimal")
    return DataType("decimal", precision, scale)


def native_type(data_type: DataType) -> str:
    """How SQLite spells a logical type so that it keeps every value of it.

    A decimal of up to 15 digits is a number; a longer one is text, because SQLite would make it a REAL and round it.
    """
    if data_type.kind != "decimal":
        return _NATIVE[data_type.kind]
    if data_type.precision is None:
        return "DECIMAL TEXT"
    scale = data_type.scale or 0
    fits_real = data_type.precision <= REAL_DIGITS and 0 <= scale <= data_type.precision
    return f"{'DECIMAL' if fits_real else 'DECIMAL TEXT'}({data_type.precision},{scale})"


def spell(column: Column) -> str:
    """How SQLite spells a column's type: as it was declared where it comes from SQLite."""
    if column.native_dialect == DIALECT and column.native_type is not None:
        return column.native_type
    return native_type(column.data_type)


def holds(data_type: DataType) -> str | None:
    """The protocol's `holds`: SQLite stores NaN as NULL, and -0.0 in a REAL column as 0.0."""
    if data_type.kind in ("real", "float"):
        return "NOT (isnan({value}) OR ({value} = 0 AND signbit({value})))"
    return None
