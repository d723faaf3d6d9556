"""The target's side of a plan: which of its columns are filled, and what happens to them first; pure."""

from __future__ import annotations

from collections.abc import Collection, Sequence

from synqx_dagster.connectors.protocol import Connector
from synqx_dagster.errors import SourceChangedError, TargetMismatchError
from synqx_dagster.mapping.compile import CompiledMapping
from synqx_dagster.model.mapping import KEYED_MODES, Mapping
from synqx_dagster.model.schema import Evolution, Schema
from synqx_dagster.model.table import Column, primary_key_of
from synqx_dagster.transfer.alter import ColumnChange
from synqx_dagster.transfer.compatibility import check_names, fit_columns
from synqx_dagster.transfer.evolve import apply_to, plan_changes, policy_of
from synqx_dagster.transfer.facts import Facts
from synqx_dagster.transfer.keys import describe_indexes


def plan_schema_changes(
    mapping: Mapping, schema: Schema | None, compiled: CompiledMapping, facts: Facts, target: Connector
) -> tuple[ColumnChange, ...]:
    """What happens to the target's columns before rows come."""
    if facts.target_columns is None:
        return ()
    wanted = [compiled_field.column for compiled_field in compiled.target_fields]
    check_names(mapping.target.name, [column.name for column in wanted], target)
    kept = mapping.history.names if mapping.mode == "scd2" else ()
    existing = [column for column in facts.target_columns if column.name not in kept]
    policy = policy_of(mapping, schema)
    knows_nulls = mapping.target_schema is not None or mapping.source is not None
    return plan_changes(wanted, existing, policy, target, knows_nulls=knows_nulls)


def fit_target(
    mapping: Mapping, compiled: CompiledMapping, facts: Facts, target: Connector, changes: Sequence[ColumnChange]
) -> tuple[tuple[Column, ...], tuple[str, ...]]:
    """The columns to fill, in the order of the mapping, and the differences that a load can live with.

    Args:
        facts: With the target's columns as they are after `changes`.

    Raises:
        TargetMismatchError: The table exists, and its columns do not fit; lists them all.
        SourceChangedError: A mirror's source has lost a column.
    """
    wanted = [compiled_field.column for compiled_field in compiled.target_fields]
    kept = mapping.history.names if mapping.mode == "scd2" else ()
    check_names(mapping.target.name, [*(column.name for column in wanted), *kept], target)
    if facts.target_columns is None:
        return tuple(spell(column, target) for column in wanted), ()
    existing = tuple(column for column in facts.target_columns if column.name not in kept)
    columns, differences = fit_columns(wanted, existing, target)
    if differences:
        listing = "\n".join(f"  {difference}" for difference in differences)
        raise TargetMismatchError(
            f"mapping {mapping.name!r}: the table {mapping.target} exists, and its columns do not fit:\n{listing}",
            hint=_remedy(wanted, existing, target),
            table=str(mapping.target),
        )
    filled = {column.name for column in columns}
    if mapping.column_mappings is None and mapping.target_schema is None:
        _check_vanished(mapping, existing, filled, [change.column.name for change in changes if change.kind == "add"])
    left = tuple(f"{column.name}: in the table only; not filled" for column in existing if column.name not in filled)
    if mapping.mode in KEYED_MODES:
        return columns, (*left, *describe_indexes(mapping, compiled.primary_key, facts))
    if compiled.primary_key and primary_key_of(facts.target_columns) != compiled.primary_key:
        left = (
            *left,
            f"primary key: the mapping says ({', '.join(compiled.primary_key)}); checked, not enforced",
        )
    return columns, left


def _remedy(wanted: Sequence[Column], existing: Sequence[Column], target: Connector) -> str:
    """What to do about columns that do not fit; names the mildest policy under which a load would see to it."""
    policies: tuple[Evolution, ...] = ("add_columns", "widen")
    for policy in policies:
        # Whether NULL may be stored is no misfit, so nothing need be known of it.
        changes = plan_changes(wanted, existing, policy, target, knows_nulls=False)
        if not fit_columns(wanted, apply_to(existing, changes), target)[1]:
            return f"set evolution: {policy}; or change the mapping or its schema, or alter or rename the table"
    return "change the mapping or its schema, or alter or rename the table"


def _check_vanished(
    mapping: Mapping, existing: Sequence[Column], filled: Collection[str], added: Sequence[str]
) -> None:
    """A mirror fills all of its table; what it no longer finds at the source would become NULL in every row.

    Raises:
        SourceChangedError: Names the columns, and the new one if there is one that each may have become.
    """
    vanished = [
        column.name for column in existing if column.name not in filled and not (column.generated or column.has_default)
    ]
    if vanished:
        names = ", ".join(repr(name) for name in vanished)
        if len(vanished) == len(added) == 1:
            raise SourceChangedError(
                f"mapping {mapping.name!r}: the source has no column {names}, which the table {mapping.target} has, but"
                f" a new one, {added[0]!r}",
                hint=f"if it was renamed, rename the table's column too; if not, drop {names} from the table",
                table=str(mapping.target),
            )
        raise SourceChangedError(
            f"mapping {mapping.name!r}: the source has no column {names}, which the table {mapping.target} has",
            hint="drop the column from the table or give it a default; or list the columns to load by column_mappings",
            table=str(mapping.target),
        )


def spell(column: Column, target: Connector) -> Column:
    """A column in the target's own spelling."""
    return Column(
        column.name,
        column.data_type,
        column.nullable,
        target.native_type(column),
        target.dialect,
        column.key_position,
    )
