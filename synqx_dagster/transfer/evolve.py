"""How a target that exists follows a mapping whose columns have changed; pure.

The policy (`evolution` of the schema or the mapping) says what may happen by itself:

* ``freeze``: nothing; what does not fit ends the load.
* ``add_columns``: new columns are added to the table, and are NULL in the rows that are there.
* ``widen``: that, and a column's type grows to one that holds all values of the old one and of the new, and a column
  may become NULL where its source may.

Nothing is ever dropped, narrowed or reinterpreted: those differences stay, and end the load.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

from synqx_dagster.connectors.protocol import Connector
from synqx_dagster.errors import PlanError
from synqx_dagster.model.mapping import Mapping
from synqx_dagster.model.schema import Evolution, Schema
from synqx_dagster.model.table import Column
from synqx_dagster.transfer.alter import ColumnChange
from synqx_dagster.transfer.compatibility import find_misfit, widens
from synqx_dagster.transfer.limits import most_characters, rewrites


def policy_of(mapping: Mapping, schema: Schema | None) -> Evolution:
    """What may happen to a mapping's target by itself."""
    if mapping.evolution is not None:
        return mapping.evolution
    return schema.evolution if schema is not None else "freeze"


def plan_changes(
    wanted: Sequence[Column],
    existing: Sequence[Column],
    policy: Evolution,
    target: Connector,
    *,
    knows_nulls: bool,
) -> tuple[ColumnChange, ...]:
    """The changes that the policy allows and the target can make, in the order of `wanted`.

    Args:
        wanted: The mapping's fields.
        existing: The table's columns.
        knows_nulls: Whether `wanted` says which fields may be NULL; a query's result says so of all of them.
    """
    by_name = {column.name: column for column in existing}
    folded = {column.name.casefold() for column in existing}
    changes: list[ColumnChange] = []
    for field in wanted:
        column = by_name.get(field.name)
        if column is None:
            # A name that differs in case alone is a mistake more often than a new column.
            if policy != "freeze" and field.name.casefold() not in folded:
                changes.append(ColumnChange("add", _as_nullable(_spelt(field, target))))
            continue
        if policy != "widen" or column.generated:
            continue
        grown = _grown(field, column, target)
        if grown is not None:
            changes.append(ColumnChange("retype", grown, column.native_type))
        if knows_nulls and field.nullable and not column.nullable and column.key_position is None:
            changes.append(ColumnChange("allow_null", _as_nullable(grown or column)))
    return tuple(change for change in changes if change.kind in target.capabilities.alters)


def apply_to(existing: Sequence[Column], changes: Sequence[ColumnChange]) -> tuple[Column, ...]:
    """The table's columns after the changes."""
    columns = {column.name: column for column in existing}
    for change in changes:
        columns[change.column.name] = change.column
    return tuple(columns.values())


def _grown(field: Column, column: Column, target: Connector) -> Column | None:
    """The column with a type that holds its values and the field's; None if it need not grow, or cannot."""
    try:
        spelt = _spelt(field, target)
    except PlanError:
        return None
    if spelt.native_type == column.native_type:
        return None
    if field.data_type.kind == column.data_type.kind == "string":
        # Only a length may grow: text types differ in more than their values.
        is_too_short = most_characters(field, column) is not None
        if not is_too_short or most_characters(column, spelt) is not None or rewrites(column, spelt):
            return None
        return dataclasses.replace(column, native_type=spelt.native_type)
    if find_misfit(field, column, target) is None or find_misfit(column, spelt, target) is not None:
        return None
    if not widens(column.data_type, spelt.data_type):
        return None
    return dataclasses.replace(column, data_type=spelt.data_type, native_type=spelt.native_type)


def _spelt(column: Column, target: Connector) -> Column:
    return Column(column.name, column.data_type, column.nullable, target.native_type(column), target.dialect)


def _as_nullable(column: Column) -> Column:
    return dataclasses.replace(column, nullable=True)
