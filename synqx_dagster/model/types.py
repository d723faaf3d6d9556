"""The logical types of columns: what a schema may say, and what travels between two databases.

A `DataType` is the meaning; how each database spells it is the connector's business. A mirrored column also
keeps the source's own spelling (`Column.native_type`), so that a table copied within one kind of database
keeps its exact types.
"""

from __future__ import annotations

import difflib
import re
from dataclasses import dataclass
from typing import Any, Literal, get_args

from pydantic import GetCoreSchemaHandler
from pydantic_core import CoreSchema, core_schema

TypeKind = Literal[
    "string",
    "smallint",
    "integer",
    "bigint",
    "decimal",
    "real",
    "float",
    "boolean",
    "date",
    "time",
    "timestamp",
    "timestamptz",
    "json",
    "uuid",
    "binary",
]
TYPE_KINDS: tuple[TypeKind, ...] = get_args(TypeKind)

#: Values outside these bounds do not fit; inclusive.
INTEGER_BOUNDS: dict[TypeKind, tuple[int, int]] = {
    "smallint": (-(2**15), 2**15 - 1),
    "integer": (-(2**31), 2**31 - 1),
    "bigint": (-(2**63), 2**63 - 1),
}

_DECIMAL = re.compile(r"decimal\(\s*(\d{1,4})\s*(?:,\s*(\d{1,4})\s*)?\)")


@dataclass(frozen=True)
class DataType:
    """A logical column type.

    ``precision`` and ``scale`` are set for decimals only; a decimal without them is unbounded
    (PostgreSQL's plain ``numeric``).
    """

    kind: TypeKind
    precision: int | None = None
    scale: int | None = None

    @classmethod
    def parse(cls, text: str) -> DataType:
        """Read a type as users write it, such as ``bigint`` or ``decimal(12,2)``.

        Raises:
            ValueError: The name is unknown or the precision makes no sense; says which name is nearest.
        """
        name = text.strip().lower()
        if name in TYPE_KINDS:
            return cls(name)
        if match := _DECIMAL.fullmatch(name):
            precision, scale = int(match[1]), int(match[2] or 0)
            if not 1 <= precision <= 1000:
                raise ValueError(f"decimal precision must be 1 to 1000, not {precision}")
            if scale > precision:
                raise ValueError(f"decimal scale {scale} is larger than its precision {precision}")
            return cls("decimal", precision, scale)
        if name.startswith("decimal"):
            raise ValueError(f"{text!r} is not a type: write decimal(precision,scale), such as decimal(12,2)")
        near = difflib.get_close_matches(name, TYPE_KINDS, n=1)
        did_you_mean = f"; did you mean {near[0]!r}?" if near else ""
        raise ValueError(f"{text!r} is not a type{did_you_mean} (types: {', '.join(TYPE_KINDS)})")

    def __str__(self) -> str:
        if self.kind == "decimal" and self.precision is not None:
            return f"decimal({self.precision},{self.scale or 0})"
        return self.kind

    @classmethod
    def __get_pydantic_core_schema__(cls, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        """Let records hold a `DataType` and YAML and JSON hold its text."""

        def validate(value: Any) -> DataType:
            if isinstance(value, DataType):
                return value
            if not isinstance(value, str):
                raise ValueError("a type is written as text, such as string or decimal(12,2)")
            return cls.parse(value)

        return core_schema.no_info_plain_validator_function(
            validate,
            json_schema_input_schema=core_schema.str_schema(),
            serialization=core_schema.plain_serializer_function_ser_schema(str, return_schema=core_schema.str_schema()),
        )
