"""Values on their way from and to a MySQL server: text of the protocol to Arrow, Arrow to literals.

Guarantee: what a server would change in silence even under a strict SQL mode (trailing blanks, padding, fractions
of a second, the number of an enum's member for its text) is refused here, naming the column.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Sequence
from decimal import Decimal
from typing import TYPE_CHECKING

from synqx_dagster.connectors.mysql_types import GEOMETRIES, NativeType
from synqx_dagster.errors import BadRowsError, DatabaseError
from synqx_dagster.model.table import Column

if TYPE_CHECKING:
    import pyarrow as pa

#: Where a parameter stands, and what may hold a question mark that is none.
_TOKEN = re.compile(
    r"""'(?:[^'\\]|\\.|'')*' | "(?:[^"\\]|\\.|"")*" | `(?:[^`]|``)*` | /\*.*?\*/ | (?:--\s|\#)[^\n]* | (\?)""",
    re.VERBOSE | re.DOTALL,
)
_SRID = re.compile(r"SRID=(\d+);(.*)", re.DOTALL)


# --- reading ----------------------------------------------------------------------------------------------------


def to_array(values: pa.LargeBinaryArray, field: pa.Field) -> pa.Array:
    """One column's values as the text protocol brings them, as the field's Arrow type.

    Raises:
        BadRowsError: A value is not of that type.
    """
    import pyarrow as pa

    kind = field.type
    if pa.types.is_binary(kind) or pa.types.is_large_binary(kind):
        return values.cast(kind)
    try:
        texts = values.cast(pa.large_string())
    except pa.ArrowInvalid:
        raise BadRowsError(
            f"column {field.name!r} holds bytes where text is declared",
            hint="select HEX(column), or CONVERT(column USING ...), in a source_query",
            column=field.name,
        ) from None
    try:
        if pa.types.is_float32(kind):
            # By way of a double, which the server printed in full.
            return texts.cast(pa.float64()).cast(pa.float32())
        return texts.cast(kind)
    except pa.ArrowInvalid:
        # Arrow quotes the value.
        raise BadRowsError(f"column {field.name!r} holds a value that is not {kind}", column=field.name) from None


# --- parameters ---------------------------------------------------------------------------------------------------


def fill_parameters(sql: str, parameters: Sequence[object]) -> str:
    """A statement with its ``?`` outside texts, names and comments replaced by literals.

    Raises:
        DatabaseError: Their numbers differ.
    """
    pieces: list[str] = []
    left = list(parameters)
    position = 0
    for match in _TOKEN.finditer(sql):
        if match[1]:
            if not left:
                raise DatabaseError("a statement has more parameters than it was given")
            pieces.append(sql[position : match.start()])
            pieces.append(to_literal(left.pop(0)))
            position = match.end()
    if left:
        raise DatabaseError("a statement has fewer parameters than it was given")
    return "".join(pieces) + sql[position:]


def to_literal(value: object) -> str:
    """A plain value as a literal."""
    match value:
        case None:
            return "NULL"
        case bool():
            return str(int(value))
        case int() | Decimal():
            return str(value)
        case float():
            return _float(value)
        case bytes():
            return f"x'{value.hex()}'"
        case _:
            return _text(str(value))


def _text(value: str) -> str:
    from pymysql.converters import escape_string

    return f"'{escape_string(value)}'"


def _float(value: float) -> str:
    # With an exponent the literal is a double; without, it is a decimal of up to 65 digits.
    text = repr(value)
    return text if "e" in text else f"{text}e0"


# --- writing ------------------------------------------------------------------------------------------------------


def to_literals(array: pa.Array, column: Column) -> list[str]:
    """One column's values as literals for an INSERT.

    Raises:
        BadRowsError: A value that the column would change in silence.
    """
    import pyarrow as pa
    import pyarrow.compute as pc

    native = NativeType.parse(column.native_type or "")
    if pa.types.is_boolean(array.type):
        array = array.cast(pa.int8())
    if pa.types.is_integer(array.type):
        _check_year(array, column, native)
        texts: list[str] = pc.fill_null(array.cast(pa.string()), "NULL").to_pylist()
        return texts
    if pa.types.is_floating(array.type):
        values = array.to_pylist()
        if any(value is not None and not math.isfinite(value) for value in values):
            raise _refused(column, "NaN or infinity, which MySQL does not have")
        if any(value == 0 and math.copysign(1, value) < 0 for value in values):
            raise _refused(column, "a negative zero, which MariaDB keeps as zero")
        return ["NULL" if value is None else _float(value) for value in values]
    if pa.types.is_binary(array.type):
        if native.name == "binary":
            _check(pc.not_equal(pc.binary_length(array), _length(native)), column, "bytes that would be padded")
        return ["NULL" if value is None else f"x'{value.hex()}'" for value in array.to_pylist()]
    _check_text(array, column, native)
    spell = _speller(column, native)
    return ["NULL" if value is None else spell(value) for value in array.to_pylist()]


def _speller(column: Column, native: NativeType) -> Callable[[str], str]:
    if column.data_type.kind == "timestamptz":
        # The session's time zone is UTC; MariaDB takes no offset.
        return lambda value: _text(value.removesuffix("+00"))
    if native.name == "bit":
        return lambda value: f"b'{value}'" if not value.strip("01") else _text(value)
    if native.name in GEOMETRIES:
        return _geometry
    return _text


def _geometry(value: str) -> str:
    match = _SRID.fullmatch(value)
    made = f"ST_GeomFromText({_text(match[2])}, {match[1]})" if match else f"ST_GeomFromText({_text(value)})"
    # Of a text that is no geometry MariaDB makes NULL; the empty text it refuses.
    return f"IFNULL({made}, '')"


def _check_year(array: pa.Array, column: Column, native: NativeType) -> None:
    import pyarrow.compute as pc

    if native.name == "year":
        # The server takes 1 to 99 for years of this or the last century.
        in_range = pc.or_(pc.equal(array, 0), pc.and_(pc.greater(array, 1900), pc.less(array, 2156)))
        _check(pc.invert(in_range), column, "a number that is not a year from 1901 to 2155")


def _check_text(array: pa.Array, column: Column, native: NativeType) -> None:
    import pyarrow as pa
    import pyarrow.compute as pc

    match native.name:
        case "varchar" | "char":
            _check(pc.greater(pc.utf8_length(array), _length(native)), column, "text that is too long")
            if native.name == "char":
                _check(pc.ends_with(array, " "), column, "trailing blanks, which a char column drops")
        case "datetime" | "timestamp" | "time":
            digits = native.numbers[0] if native.numbers else 0
            finer = pc.match_substring_regex(array, rf"\.\d{{{digits}}}\d*[1-9]")
            _check(finer, column, f"a fraction of a second finer than {digits} digits")
        case "decimal" | "numeric":
            scale = native.data_type.scale or 0
            _check(pc.match_substring_regex(array, rf"\.\d{{{scale}}}\d*[1-9]"), column, "digits beyond its scale")
        case "enum":
            known = pa.array(native.members, array.type)
            _check(pc.invert(pc.is_in(array, known)), column, "a text that is not a member", nulls=array)
        case "set":
            members = set(native.members)
            unknown = [
                value is not None and value != "" and not members.issuperset(value.split(","))
                for value in array.to_pylist()
            ]
            _check(pa.array(unknown), column, "a text that is not made of its members")
        case _:
            return


def _length(native: NativeType) -> int:
    return native.numbers[0] if native.numbers else 1


def _check(is_bad: pa.BooleanArray, column: Column, what: str, nulls: pa.Array | None = None) -> None:
    import pyarrow.compute as pc

    if nulls is not None:
        is_bad = pc.and_(is_bad, pc.is_valid(nulls))
    if pc.any(is_bad).as_py():
        raise _refused(column, what)


def _refused(column: Column, what: str) -> BadRowsError:
    return BadRowsError(
        f"column {column.name!r} ({column.native_type or column.data_type}) was given {what}", column=column.name
    )
