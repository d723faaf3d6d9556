"""Lines of JSON objects as columns: what types they have, and their values without the loss of a digit.

Guarantee: numbers keep all their digits and nested values the text in which they arrived; a line that is no JSON object
is an error that names the line and quotes nothing of it.
"""

from __future__ import annotations

import json
import json.scanner
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from decimal import Decimal, InvalidOperation
from typing import Literal, NoReturn

from synqx_dagster.errors import BadRowsError
from synqx_dagster.model.types import DataType

#: What a value looks like. ``nested`` is an object or an array.
Shape = Literal["null", "boolean", "integer", "decimal", "string", "nested"]

#: A decimal of more digits has no type in DuckDB.
MAXIMUM_DIGITS = 38

_BLANKS = " \t\r\n"


@dataclass(frozen=True)
class Cell:
    """A value of one line: its shape, its raw text, and for a string its content."""

    shape: Shape
    raw: str
    content: str | None = None


def parse_line(line: str, number: int) -> dict[str, Cell]:
    """The top level of one line's object.

    Raises:
        BadRowsError: It is not one JSON object, or has a key twice; names the line.
    """
    try:
        return dict(_iter_cells(line))
    except _NotAnObjectError as exc:
        raise BadRowsError(f"line {number:,} {exc}", line=number) from None
    except (ValueError, RecursionError):
        raise BadRowsError(f"line {number:,} is not JSON", line=number) from None


class _NotAnObjectError(Exception):
    pass


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(name)


_DECODER = json.JSONDecoder(parse_constant=_refuse_constant, parse_float=Decimal)


def _iter_cells(line: str) -> Iterator[tuple[str, Cell]]:
    seen: set[str] = set()
    position = _skip(line, 0)
    if line[position : position + 1] != "{":
        raise _NotAnObjectError("is not a JSON object")
    position = _skip(line, position + 1)
    while line[position : position + 1] != "}":
        if seen:
            position = _expect(line, position, ",")
        key, end = _DECODER.raw_decode(line, position)
        if not isinstance(key, str):
            raise _NotAnObjectError("is not a JSON object")
        if key in seen:
            raise _NotAnObjectError("has a key twice")
        seen.add(key)
        start = _expect(line, _skip(line, end), ":")
        value, end = _DECODER.raw_decode(line, start)
        yield key, Cell(_shape_of(value), line[start:end], value if isinstance(value, str) else None)
        position = _skip(line, end)
    if line[position + 1 :].strip(_BLANKS):
        raise _NotAnObjectError("goes on after its object")


def _skip(line: str, position: int) -> int:
    while position < len(line) and line[position] in _BLANKS:
        position += 1
    return position


def _expect(line: str, position: int, character: str) -> int:
    if line[position : position + 1] != character:
        raise ValueError(character)
    return _skip(line, position + 1)


def _shape_of(value: object) -> Shape:
    match value:
        case None:
            return "null"
        case bool():
            return "boolean"
        case int():
            return "integer"
        case Decimal():
            return "decimal"
        case str():
            return "string"
        case _:
            return "nested"


@dataclass
class ColumnFacts:
    """What is known of a column after all lines were seen."""

    shapes: set[Shape] = field(default_factory=set)
    whole_digits: int = 1
    places: int = 0
    fits_bigint: bool = True
    is_missing: bool = False

    def add(self, cell: Cell) -> None:
        """Take one value into account."""
        self.shapes.add(cell.shape)
        if cell.shape in ("integer", "decimal"):
            digits = plain_digits(cell.raw).lstrip("-")
            whole, _, places = digits.partition(".")
            self.whole_digits = max(self.whole_digits, len(whole))
            self.places = max(self.places, len(places))
            if cell.shape == "integer":
                self.fits_bigint &= -(2**63) <= int(cell.raw) < 2**63

    @property
    def data_type(self) -> DataType:
        """One type for all values; values of several shapes are JSON."""
        shapes = self.shapes - {"null"}
        if shapes == {"integer"} and self.fits_bigint:
            return DataType("bigint")
        if shapes and shapes <= {"integer", "decimal"}:
            digits = self.whole_digits + self.places
            return DataType("decimal", digits, self.places) if digits <= MAXIMUM_DIGITS else DataType("decimal")
        if shapes == {"boolean"}:
            return DataType("boolean")
        return DataType("string") if shapes <= {"string"} else DataType("json")

    @property
    def nullable(self) -> bool:
        """Whether a line has null there, or nothing."""
        return self.is_missing or "null" in self.shapes


def infer_columns(lines: Iterable[Mapping[str, Cell]]) -> dict[str, ColumnFacts]:
    """Columns in the order in which they first appear; all lines are looked at, a sample would only guess."""
    columns: dict[str, ColumnFacts] = {}
    for count, cells in enumerate(lines):
        for name, cell in cells.items():
            if name not in columns:
                # The lines before this one had no such key.
                columns[name] = ColumnFacts(is_missing=count > 0)
            columns[name].add(cell)
        for name in columns.keys() - cells.keys():
            columns[name].is_missing = True
    return columns


def plain_digits(raw: str) -> str:
    """A JSON number without an exponent, digit by digit as it was written.

    Raises:
        BadRowsError: Its exponent would write more digits than anybody could have meant.
    """
    if "e" not in raw and "E" not in raw:
        return raw
    try:
        value = Decimal(raw)
    except InvalidOperation:
        raise BadRowsError("a number's exponent is out of all proportion") from None
    if abs(int(value.adjusted())) > 1_000:
        raise BadRowsError("a number's exponent is out of all proportion", hint="export such numbers as text")
    return format(value, "f")


def to_carrier(cell: Cell | None, data_type: DataType) -> object:
    """A value as SynqX's carrier of the column's type."""
    if cell is None or cell.shape == "null":
        return None
    match data_type.kind:
        case "boolean":
            return cell.raw == "true"
        case "bigint":
            return int(cell.raw)
        case "decimal":
            return plain_digits(cell.raw)
        case "string":
            return cell.content
        case _:
            return cell.raw
