"""Values on their way from and to a DB-API driver: Python's to Arrow, Arrow's to Python.

Guarantee: a value is converted exactly or refused by its column's name; no decimal becomes a float, no time loses its
zone, and a type that nobody thought of is an error.
"""

from __future__ import annotations

import datetime
import decimal
import re
import uuid
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from synqx_dagster.connectors.sqlalchemy_dialects import Facts
from synqx_dagster.errors import BadRowsError, DatabaseError
from synqx_dagster.model.table import Column

if TYPE_CHECKING:
    import pyarrow as pa

#: Where a parameter stands, and what may hold a question mark that is none.
_TOKEN = re.compile(r"""'(?:[^']|'')*'|"(?:[^"]|"")*"|`(?:[^`]|``)*`|/\*.*?\*/|--[^\n]*|(\?)""", re.DOTALL)
_BRACKETS = re.compile(r"""'(?:[^']|'')*'|"(?:[^"]|"")*"|\[(?:[^\]]|\]\])*\]|/\*.*?\*/|--[^\n]*|(\?)""", re.DOTALL)

#: How servers print times, beyond what is canonical: idle zeros, an era, a blank before the offset.
_INSTANT = re.compile(
    r"(?P<day>-?\d{4,}-\d\d-\d\d )?(?P<time>\d\d:\d\d:\d\d)(?:\.(?P<fraction>\d+))?"
    r"(?P<zone> ?\+00(?::00)?)?(?P<era> AD| BC)?"
)
_BARE_FRACTION = re.compile(r"(-?)(\.\d+)")
_FINE = re.compile(r"\.\d*[1-9]")


class _UnknownValueError(Exception):
    """A value that has no exact form; the message says of what type, never what."""


# --- reading ----------------------------------------------------------------------------------------------------


def to_array(values: Sequence[object], field: pa.Field) -> pa.Array:
    """One column's values as a driver gives them, as the field's Arrow type.

    Raises:
        BadRowsError: A value that the Arrow type cannot carry unchanged; names the column.
    """
    import pyarrow as pa

    try:
        if pa.types.is_binary(field.type):
            return pa.array([_to_bytes(value) for value in values], field.type)
        if pa.types.is_string(field.type):
            return pa.array([_to_text(value) for value in values], field.type)
        if pa.types.is_large_string(field.type):
            return pa.array([_tidy(_to_text(value)) for value in values], field.type)
        if pa.types.is_boolean(field.type):
            return pa.array([_to_boolean(value) for value in values], field.type)
        if pa.types.is_floating(field.type):
            # A real comes as the double that its shortest text stands for.
            return pa.array([_to_float(value) for value in values], pa.float64()).cast(field.type)
        return pa.array([_to_integer(value) for value in values], field.type)
    except _UnknownValueError as exc:
        raise BadRowsError(
            f"column {field.name!r} holds {exc}",
            hint="make it text by a cast in a source_query",
            column=field.name,
        ) from None
    except (pa.ArrowInvalid, OverflowError, UnicodeEncodeError):
        # Arrow quotes the value.
        raise BadRowsError(f"column {field.name!r} holds a value that is not {field.type}", column=field.name) from None


def _to_text(value: object) -> str | None:
    match value:
        case None | str():
            return value
        case bool():
            return "true" if value else "false"
        case int() | uuid.UUID():
            return str(value)
        case decimal.Decimal():
            return _plain(value)
        case float():
            return {"inf": "Infinity", "-inf": "-Infinity", "nan": "NaN"}.get(repr(value), repr(value))
        case datetime.datetime():
            if value.tzinfo is None:
                return value.isoformat(" ")
            return value.astimezone(datetime.UTC).replace(tzinfo=None).isoformat(" ") + "+00"
        case datetime.date():
            return value.isoformat()
        case datetime.time() if value.tzinfo is None:
            return value.isoformat()
        case _:
            return _to_text(_read_lob(value, "where text or a number is declared"))


def _plain(value: decimal.Decimal) -> str:
    if value.is_finite():
        return format(value, "f")
    if value.is_nan():
        return "NaN"
    return "-Infinity" if value < 0 else "Infinity"


def _to_bytes(value: object) -> bytes | None:
    match value:
        case None | bytes():
            return value
        case bytearray() | memoryview():
            return bytes(value)
        case str():
            raise _UnknownValueError("text where bytes are declared")
        case _:
            return _to_bytes(_read_lob(value, "where bytes are declared"))


def _read_lob(value: object, where: str) -> object:
    """The content of a driver's handle of a large object."""
    read = getattr(value, "read", None)
    if not callable(read):
        raise _UnknownValueError(f"a {type(value).__name__} {where}")
    content: object = read()
    if not isinstance(content, (str, bytes)):
        raise _UnknownValueError(f"a {type(value).__name__} {where}")
    return content


def _to_boolean(value: object) -> bool | None:
    if value is None or isinstance(value, bool):
        return value
    if value in (0, 1):
        return bool(value)
    raise _UnknownValueError("a number that is neither 0 nor 1 where a boolean is declared")


def _to_integer(value: object) -> int | None:
    if value is None or isinstance(value, int):
        return value
    if isinstance(value, decimal.Decimal) and value.is_finite() and value == value.to_integral_value():
        return int(value)
    raise _UnknownValueError(f"a {type(value).__name__} where a whole number is declared")


def _to_float(value: object) -> float | None:
    if value is None or isinstance(value, float):
        return value
    if isinstance(value, (int, decimal.Decimal)) and not isinstance(value, bool) and float(value) == value:
        return float(value)
    raise _UnknownValueError(f"a {type(value).__name__} that is no binary float where one is declared")


def _tidy(text: str | None) -> str | None:
    """What a server prints as canonical text, as far as that changes no digit; other text unchanged."""
    if text is None:
        return None
    if match := _INSTANT.fullmatch(text):
        fraction = (match["fraction"] or "").rstrip("0")
        era = " BC" if match["era"] == " BC" else ""
        zone = "+00" if match["zone"] else ""
        return f"{match['day'] or ''}{match['time']}{'.' if fraction else ''}{fraction}{zone}{era}"
    if match := _BARE_FRACTION.fullmatch(text):
        return f"{match[1]}0{match[2]}"
    return text


# --- parameters ---------------------------------------------------------------------------------------------------


def mark_parameters(sql: str, count: int, paramstyle: str, *, brackets: bool = False) -> str:
    """A statement with its ``?`` outside of texts, names and comments in the driver's style.

    Args:
        count: How many there are; without one the statement is sent as it is.
        brackets: Names may stand in square brackets.

    Raises:
        DatabaseError: Their numbers differ.
    """
    marked = 0
    doubles_percent = paramstyle in ("format", "pyformat")
    pieces: list[str] = []
    position = 0

    def keep(text: str) -> None:
        pieces.append(text.replace("%", "%%") if doubles_percent and count else text)

    for match in (_BRACKETS if brackets else _TOKEN).finditer(sql):
        if match[1]:
            keep(sql[position : match.start()])
            marked += 1
            pieces.append(_mark(marked, paramstyle))
            position = match.end()
    keep(sql[position:])
    if marked != count:
        raise DatabaseError(f"a statement has {marked} parameters and was given {count}")
    return "".join(pieces)


def _mark(number: int, paramstyle: str) -> str:
    match paramstyle:
        case "qmark":
            return "?"
        case "format" | "pyformat":
            return "%s"
        case "numeric_dollar":
            return f"${number}"
        case _:
            return f":{number}"


# --- writing ------------------------------------------------------------------------------------------------------


def to_parameters(array: pa.Array, column: Column, facts: Facts) -> list[object]:
    """One column's carriers as the values that the driver takes for the column.

    Raises:
        BadRowsError: A value that the column would change in silence.
    """
    import pyarrow as pa

    values: list[object] = array.to_pylist()
    if pa.types.is_boolean(array.type) and column.data_type.kind != "boolean":
        return [None if value is None else int(bool(value)) for value in values]
    if pa.types.is_floating(array.type) and facts.sqlglot == "postgres":
        # As a number, -0.0 would be a decimal, which has no sign of zero.
        return [None if value is None else repr(value) for value in values]
    convert = _converter(column, facts) if pa.types.is_string(array.type) else None
    if convert is None:
        return values
    return [value if value is None else convert(str(value)) for value in values]


def _converter(column: Column, facts: Facts) -> Callable[[str], object] | None:
    kind = column.data_type.kind
    if facts.binds_text:
        if facts.sqlglot == "mysql" and kind == "timestamptz":
            # The session's time zone is UTC; MariaDB takes no offset.
            return lambda text: text.removesuffix("+00")
        return None
    match kind:
        case "decimal":
            return decimal.Decimal
        case "time":
            return datetime.time.fromisoformat
        case "date":
            return datetime.date.fromisoformat
        case "timestamp" if facts.sqlglot == "oracle" and column.native_type == "date":
            return lambda text: _without_fraction(text, column)
        case "timestamp" | "timestamptz":
            return datetime.datetime.fromisoformat
        case "uuid":
            return uuid.UUID
        case _:
            return None


def _without_fraction(text: str, column: Column) -> datetime.datetime:
    if _FINE.search(text):
        raise BadRowsError(
            f"column {column.name!r} (date) was given a fraction of a second, which it does not keep",
            column=column.name,
        )
    return datetime.datetime.fromisoformat(text)
