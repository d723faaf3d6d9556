"""Whether a mapping's output fits a table that is already there; pure, and shown column by column.

A column fits when every value of the one type is a value of the other, so that nothing is rounded, cut or
reinterpreted; text fits text of any length, because a text that is too long is a bad row.
"""

from __future__ import annotations

import dataclasses
import difflib
import re
from collections.abc import Sequence

from synqx_dagster.connectors.protocol import Connector
from synqx_dagster.errors import PlanError
from synqx_dagster.model.table import Column
from synqx_dagster.model.types import DataType
from synqx_dagster.transfer.limits import rewrites

#: Decimal digits that hold every value of an integer type.
_INTEGER_DIGITS = {"smallint": 5, "integer": 10, "bigint": 19}
_INTEGER_ORDER = ("smallint", "integer", "bigint")

_PRECISION = re.compile(r"\((\d)\)")

#: Dialects in which the names of two columns must not differ in case alone, quoted or not.
_FOLDS_COLUMNS = frozenset({"mysql", "sqlite", "duckdb"})

#: Types of PostgreSQL whose binary form is the bare text, so that one's bytes are the other's.
_POSTGRESQL_TEXT = ("text", "character varying", "varchar")


def widens(source: DataType, target: DataType) -> bool:
    """Whether every value of `source` is a value of `target`, unchanged in meaning."""
    if source == target:
        return True
    if source.kind in _INTEGER_ORDER and target.kind in _INTEGER_ORDER:
        return _INTEGER_ORDER.index(source.kind) <= _INTEGER_ORDER.index(target.kind)
    if target.kind == "decimal" and target.precision is None:
        return source.kind == "decimal" or source.kind in _INTEGER_ORDER
    if target.kind == "decimal" and target.precision is not None:
        whole = target.precision - (target.scale or 0)
        if source.kind in _INTEGER_DIGITS:
            return whole >= _INTEGER_DIGITS[source.kind]
        if source.kind == "decimal" and source.precision is not None:
            return (source.scale or 0) <= (target.scale or 0) and source.precision - (source.scale or 0) <= whole
    return source.kind == "real" and target.kind == "float"


def same_bytes(source: Column, target: Column) -> bool:
    """Whether PostgreSQL's binary form of one column is that of the other, without a cast."""
    if source.native_type is None or target.native_type is None:
        return False
    if source.native_type == target.native_type:
        return True
    # The receiving side enforces its own length and refuses longer text.
    return all(_base(column.native_type or "") in _POSTGRESQL_TEXT for column in (source, target))


def _base(native_type: str) -> str:
    return native_type.partition("(")[0].strip().lower()


def is_plain_text(column: Column) -> bool:
    """Whether PostgreSQL stores the column as text with or without a length."""
    return column.native_type is not None and _base(column.native_type) in _POSTGRESQL_TEXT


def check_names(table: str, columns: Sequence[str], target: Connector) -> None:
    """Refuse names that the target does not take, or takes for one.

    Raises:
        PlanError: Names the first of them.
    """
    limit = target.capabilities.max_identifier_bytes
    for name in (table, *columns):
        if limit is not None and len(name.encode()) > limit:
            raise PlanError(
                f"the name {name!r} is {len(name.encode())} bytes long; {target.db_type} allows {limit}",
                hint="give it a shorter target field by column_mappings",
            )
    seen: dict[str, str] = {}
    for name in columns if target.dialect in _FOLDS_COLUMNS else ():
        other = seen.setdefault(name.casefold(), name)
        if other != name:
            raise PlanError(
                f"the columns {other!r} and {name!r} differ only in case; {target.db_type} takes them for one",
                hint="give one of them another target field by column_mappings",
                column=name,
            )


def fit_columns(
    wanted: Sequence[Column], existing: Sequence[Column], target: Connector
) -> tuple[tuple[Column, ...], tuple[str, ...]]:
    """Match a mapping's fields to the columns of a table that exists.

    Returns:
        The table's columns to fill, in the order of `wanted`, and the differences that keep the load from
        running, one line each; no differences, and every field has its column.
    """
    by_name = {column.name: column for column in existing}
    columns: list[Column] = []
    differences: list[str] = []
    for field in wanted:
        column = by_name.get(field.name)
        if column is None:
            near = difflib.get_close_matches(field.name, by_name, n=1)
            did_you_mean = f"; the nearest is {near[0]!r}" if near else ""
            differences.append(f"{field.name}: the mapping fills it, the table does not have it{did_you_mean}")
        elif column.generated:
            differences.append(f"{field.name}: the table computes it, so it cannot be filled")
        elif reason := find_misfit(field, column, target):
            differences.append(f"{field.name}: {reason}")
        else:
            columns.append(dataclasses.replace(column, key_position=None))
    names = {field.name for field in wanted}
    differences.extend(
        f"{column.name}: the table requires it (not null, no default), the mapping does not fill it"
        for column in existing
        if column.name not in names and not (column.nullable or column.generated or column.has_default)
    )
    return tuple(columns), tuple(differences)


def find_misfit(field: Column, column: Column, target: Connector) -> str | None:
    """Why a field's values do not fit a column; None when they do."""
    wanted_type = _spelling(field, target)
    if wanted_type is not None and wanted_type == column.native_type:
        return None
    have = column.native_type or str(column.data_type)
    difference = f"the mapping gives {wanted_type or field.data_type}, the table has {have}"
    if rewrites(field, column):
        return f"{difference}, which would change values in silence"
    if field.data_type.kind == column.data_type.kind == "string":
        return None
    if not widens(field.data_type, column.data_type):
        return difference
    if field.data_type.kind in ("time", "timestamp", "timestamptz"):
        # A server rounds a fraction that is too long, in silence.
        return None if _fraction_digits(column) >= _fraction_digits(field) else difference
    if field.data_type.kind == "json" and field.native_dialect == column.native_dialect:
        # PostgreSQL's json keeps the text, its jsonb does not.
        return difference
    return None


def _fraction_digits(column: Column) -> int:
    """How many digits of a second a column keeps."""
    native = (column.native_type or "").lower()
    if match := _PRECISION.search(native):
        return int(match[1])
    return 0 if column.native_dialect == "mysql" and native else 6


def _spelling(field: Column, target: Connector) -> str | None:
    try:
        return target.native_type(field)
    except PlanError:
        return None
