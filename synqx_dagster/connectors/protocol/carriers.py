"""How values travel between two databases.

Rows travel as Arrow record batches under one rule: what Arrow represents
exactly (`smallint integer bigint real float boolean string binary`) travels as that Arrow type; every other value
travels as canonical text (`CARRIER_TYPES`). Canonical text is what PostgreSQL prints with ``DateStyle=ISO``,
``TimeZone=UTC``: ``2024-02-29``, ``0044-03-15 BC``, ``infinity``, ``12:00:00.5``, ``2024-02-29 12:00:00+00``,
plain decimal digits, ``NaN``, lower-case UUIDs, and JSON as it was stored. A connector may deliver any column as
text all the same (`Encoded.arrow_type`); the transform then casts it, and a value that does not cast is a bad row.
Text of which the source cannot promise that it is a value of the column's type (SQLite's dates, MySQL's zero dates)
arrives as `untrusted_text`, never as the carrier, so that even an unchanged field is cast and not passed through.

A value that nobody looks at on its way may travel in its *direct* form (`direct_type`) instead, where the source can
send it (`DirectReadSession`) and the target takes it (`Capabilities.direct_kinds`): a date as Arrow's days, of which
`ENDLESS_DAYS` stands for ``infinity`` and its negative for ``-infinity``, as in DuckDB.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Literal

from synqx_dagster.model.types import DataType, TypeKind

if TYPE_CHECKING:
    import pyarrow as pa

#: Arrow type of each kind of value in flight, by the name that pyarrow's factory function has.
CARRIER_TYPES: dict[TypeKind, Literal["string", "int16", "int32", "int64", "float32", "float64", "bool_", "binary"]] = {
    "string": "string",
    "smallint": "int16",
    "integer": "int32",
    "bigint": "int64",
    "decimal": "string",
    "real": "float32",
    "float": "float64",
    "boolean": "bool_",
    "date": "string",
    "time": "string",
    "timestamp": "string",
    "timestamptz": "string",
    "json": "string",
    "uuid": "string",
    "binary": "binary",
}


#: PostgreSQL's ``infinity`` as a date in its direct form; ``-infinity`` is its negative.
ENDLESS_DAYS = 2**31 - 1


def carrier_type(data_type: DataType) -> pa.DataType:
    """The Arrow type in which values of a logical type travel."""
    import pyarrow as pa

    factory: Callable[[], pa.DataType] = getattr(pa, CARRIER_TYPES[data_type.kind])
    return factory()


def untrusted_text() -> pa.DataType:
    """The Arrow type of text that must be cast before it counts as a value of its column's type.

    It is unlike every carrier, so ``arrow_type != carrier_type(data_type)`` always means: cast.
    """
    import pyarrow as pa

    return pa.large_string()


def direct_type(data_type: DataType) -> pa.DataType | None:
    """The Arrow type of a logical type's direct form; None if it has none beside its carrier."""
    import pyarrow as pa

    return pa.date32() if data_type.kind == "date" else None
