"""What a column does to values in silence, beyond what its logical type tells; pure.

Servers refuse most of what a column cannot hold. The exceptions are here: types that round, cut or reorder a text
which they accept, and the blanks that a text type with a length cuts off without a word.
"""

from __future__ import annotations

import re

from synqx_dagster.model.table import Column

_MODIFIERS = re.compile(r"\(.*?\)")
_SECONDS = re.compile(r"interval|time with time zone")
_TEXTS = re.compile(r"(text|character varying)\[\]")

#: Types of PostgreSQL that take a text and keep another one: shortened, rounded, or put into an order of their own.
_POSTGRESQL = re.compile(r'name|"char"|money|tsvector|tsquery|interval.*|time(\(\d\))? with time zone|.*\[\]')
_DUCKDB = re.compile(r".*[\[(].*|INTERVAL|TIME_NS|TIMESTAMP_NS|TIME WITH TIME ZONE", re.DOTALL)
_MYSQL_ROUNDED = re.compile(r"(float|double)\s*\(\d+,\s*\d+\).*", re.IGNORECASE)

#: A declaration without these has numeric affinity in SQLite, which makes numbers of texts that look like one.
_SQLITE_OTHERS = re.compile(r"INT|CHAR|CLOB|TEXT|BLOB|REAL|FLOA|DOUB")
#: A number with more digits than this is rounded when SQLite makes it a REAL.
_SQLITE_DIGITS = 15

_WITH_LENGTH = re.compile(r"(?P<name>character varying|varchar|character|bpchar|char)\((?P<length>\d+)\)")
_PADDED = ("character", "bpchar", "char")


def rewrites(field: Column, column: Column) -> bool:
    """Whether a table's column, whose type is not the field's own, changes values of the field that it accepts."""
    native = column.native_type or ""
    kind = field.data_type.kind
    match column.native_dialect:
        case "postgres":
            return kind == "string" and _POSTGRESQL.fullmatch(native) is not None and not _keeps_all(field, native)
        case "duckdb":
            # ENUM(...) refuses what is no member; nested types cast what is in them.
            return kind == "string" and not native.startswith("ENUM(") and _DUCKDB.fullmatch(native) is not None
        case "mysql":
            return kind in ("real", "float") and _MYSQL_ROUNDED.fullmatch(native) is not None
        case "sqlite" if native.strip() and not _SQLITE_OTHERS.search(native.upper()):
            precision = field.data_type.precision
            return kind in ("string", "json") or (kind == "decimal" and (precision or 1000) > _SQLITE_DIGITS)
        case _:
            return False


def _keeps_all(field: Column, native: str) -> bool:
    """Whether a PostgreSQL type without modifiers takes the values of the same type with some."""
    if field.native_dialect != "postgres" or field.native_type is None:
        return False
    bare = _MODIFIERS.sub("", field.native_type)
    if _TEXTS.fullmatch(native):
        return _TEXTS.fullmatch(bare) is not None
    return bare == native and _SECONDS.fullmatch(native) is not None


def most_characters(field: Column, column: Column) -> int | None:
    """How many characters a column holds of a text that may be longer; None where no text of the field is."""
    limit = _length(column)
    if field.data_type.kind != "string" or limit is None:
        return None
    longest = _length(field)
    name, most = limit
    if longest is not None and longest[1] <= most and (longest[0] == name or name not in _PADDED):
        return None
    return most


def length_predicate(field: Column, column: Column) -> str | None:
    """A DuckDB predicate over ``{value}``: whether a text fits a column's length as it is; None if it always does.

    PostgreSQL and MySQL cut trailing blanks to fit a length, and a blank-padded type forgets those that it is given.
    """
    most = most_characters(field, column)
    if most is None:
        return None
    limit, longest = _length(column), _length(field)
    if limit is None or limit[0] not in _PADDED:
        return f"length({{value}}) <= {most}"
    if longest is not None and longest[0] in _PADDED:
        # Blanks at the end mean nothing on either side.
        return f"length(rtrim({{value}}, ' ')) <= {most}"
    return f"length({{value}}) <= {most} AND NOT ends_with({{value}}, ' ')"


def _length(column: Column) -> tuple[str, int] | None:
    match = _WITH_LENGTH.fullmatch(column.native_type or "")
    if match is None or column.native_dialect not in ("postgres", "mysql"):
        return None
    return match["name"].lower(), int(match["length"])
