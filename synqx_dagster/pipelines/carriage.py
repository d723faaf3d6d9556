"""How rows travel between the stages of a step: as Arrow batches whose types bring every value back to DuckDB.

Most of DuckDB's types survive as they are. The others leave as what stands for them exactly (a UUID as its text, a
HUGEINT as a decimal of 38 digits, which a larger one is refused for), and are cast back where they arrive.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from synqx_dagster.connectors.duckdb_types import DIALECT, has_way_back, native_type, parse_native
from synqx_dagster.errors import PlanError
from synqx_dagster.model.table import Column
from synqx_dagster.model.types import DataType
from synqx_dagster.pipelines.operators.checks import quoted

if TYPE_CHECKING:
    import pyarrow as pa

#: Types whose values Arrow has, and from which DuckDB makes the same type again.
_SAFE = re.compile(
    r"(BOOLEAN|U?TINYINT|U?SMALLINT|U?INTEGER|U?BIGINT|FLOAT|DOUBLE|VARCHAR|BLOB|DATE|TIME|TIMESTAMP(_S|_MS|_NS)?"
    r"|TIMESTAMP WITH TIME ZONE|DECIMAL\(\d+,\s*\d+\))(\[\])*"
)

_WIDE = {"HUGEINT": "DECIMAL(38,0)", "UHUGEINT": "DECIMAL(38,0)"}


def make_column(name: str, native: str) -> Column:
    """A column as DuckDB describes it.

    Raises:
        PlanError: Its values have no form in which they can travel.
    """
    if not has_way_back(native):
        raise PlanError(
            f"column {name!r} is of DuckDB's type {native}, whose values cannot leave it exactly",
            hint="cast it to another type in the node before",
            column=name,
        )
    return Column(name, parse_native(native), native_type=native, native_dialect=DIALECT)


def column_of(name: str, data_type: DataType) -> Column:
    """A column of a logical type; a decimal that DuckDB cannot hold is text, which keeps every digit."""
    try:
        native = native_type(Column(name, data_type))
    except PlanError:
        return Column(name, DataType("string"), native_type="VARCHAR", native_dialect=DIALECT)
    return Column(name, data_type, native_type=native, native_dialect=DIALECT)


def native_of(column: Column) -> str:
    """How DuckDB spells the column's type."""
    return column.native_type if column.native_type and column.native_dialect == DIALECT else native_type(column)


def _travels_as(native: str) -> str:
    if _SAFE.fullmatch(native):
        return native
    return _WIDE.get(native, "VARCHAR")


def leaving_sql(columns: Sequence[Column], relation: str, *, also: Sequence[str] = ()) -> str:
    """A SELECT of a relation's columns as they travel, and of others (`also`) as they are."""
    items = []
    for column in columns:
        native, name = native_of(column), quoted(column.name)
        travels = _travels_as(native)
        items.append(name if travels == native else f"CAST({name} AS {travels}) AS {name}")
    items.extend(map(quoted, also))
    return f"SELECT {', '.join(items)} FROM {relation}"


def arriving_sql(columns: Sequence[Column], relation: str) -> str:
    """A SELECT that gives travelled columns their types again."""
    items = []
    for column in columns:
        native, name = native_of(column), quoted(column.name)
        # Where Arrow has several types for one of DuckDB's, this is no work.
        items.append(f"CAST({name} AS {native}) AS {name}")
    return f"SELECT {', '.join(items)} FROM {relation}"


#: The Arrow type of each type that has travelled in this process: to ask for it a DuckDB has to be opened.
_arrow_types: dict[str, pa.DataType] = {}


def arrow_schema(columns: Sequence[Column]) -> pa.Schema:
    """The Arrow schema of travelling columns, as DuckDB makes it."""
    import pyarrow as pa

    types = [_travels_as(native_of(column)) for column in columns]
    if missing := [native for native in dict.fromkeys(types) if native not in _arrow_types]:
        _arrow_types.update(zip(missing, _ask_arrow_types(missing), strict=True))
    return pa.schema(
        [pa.field(column.name, _arrow_types[native]) for column, native in zip(columns, types, strict=True)]
    )


def _ask_arrow_types(natives: Sequence[str]) -> list[pa.DataType]:
    import duckdb

    database: Any = duckdb.connect(":memory:", config={"threads": "1"})
    try:
        database.execute("SET TimeZone = 'UTC'")
        items = ", ".join(f"CAST(NULL AS {native}) AS c{number}" for number, native in enumerate(natives))
        return list(database.sql(f"SELECT {items} LIMIT 0").to_arrow_table().schema.types)
    finally:
        database.close()
