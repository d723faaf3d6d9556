"""By which key a load matches rows, and which columns of a history are SynqX's own; pure, decided when planning."""

from __future__ import annotations

from collections.abc import Sequence

from synqx_dagster.connectors.protocol import Connector
from synqx_dagster.errors import PlanError, TargetMismatchError
from synqx_dagster.mapping.compile import CompiledMapping
from synqx_dagster.model.mapping import Mapping
from synqx_dagster.model.schema import Schema
from synqx_dagster.model.table import Column, primary_key_of
from synqx_dagster.model.types import DataType
from synqx_dagster.transfer.compatibility import fit_columns
from synqx_dagster.transfer.facts import Facts


def choose_key(
    mapping: Mapping, schema: Schema | None, compiled: CompiledMapping, facts: Facts, target: Connector
) -> tuple[str, ...]:
    """The key of a merge or a history: the mapping's, else the schema's, the target's or the source's primary key.

    Raises:
        PlanError: There is none, the mapping does not fill it, values of its type cannot be compared, or the target
            does not merge.
    """
    if not target.capabilities.merges:
        raise PlanError(
            f"mapping {mapping.name!r}: the connection {mapping.target_connection!r} ({target.db_type}) does not take"
            f" the mode {mapping.mode}",
            hint="load by replace or append, or through a connector of the database's own",
        )
    schema = mapping.filled_part(schema)
    kept = mapping.history.names if mapping.mode == "scd2" else ()
    target_key = tuple(name for name in primary_key_of(facts.target_columns or ()) if name not in kept)
    key = mapping.key or (schema.primary_key if schema else ()) or target_key or compiled.primary_key
    if not key:
        raise PlanError(
            f"mapping {mapping.name!r}: {mapping.mode} needs a key, and neither schema, target nor source has one",
            hint="name the columns that tell its rows apart by key: [...]",
        )
    fields = {compiled_field.column.name: compiled_field.column for compiled_field in compiled.target_fields}
    for name in key:
        if name not in fields:
            raise PlanError(
                f"mapping {mapping.name!r}: nothing fills the field {name!r}, which is in the key",
                hint="add a column mapping for it, or name other columns by key: [...]",
                column=name,
            )
        if fields[name].data_type.kind == "json":
            raise PlanError(
                f"mapping {mapping.name!r}: the field {name!r} is json, which cannot be a key",
                hint="make a text of one of its parts by an expression",
                column=name,
            )
    return key


#: Types whose values a database cannot compare for equality, or cannot keep in an index: none can be in a key.
_INCOMPARABLE = {
    "postgres": frozenset(
        {"json", "xml", "point", "line", "lseg", "box", "path", "polygon", "circle", "pg_snapshot", "txid_snapshot"}
    ),
    "mysql": frozenset({"json"}),
}


def refuse_incomparable(
    mapping: Mapping, columns: Sequence[Column], key: Sequence[str], target: Connector, *, creates: bool
) -> None:
    """Refuse a key that the target could not enforce or look up, before rows are read for it.

    Args:
        columns: As the target has them, or will have.
        creates: The target is made by the load, with this key.

    Raises:
        PlanError: Names the column and its type.
    """
    incomparable = _INCOMPARABLE.get(target.dialect, frozenset())
    for column in columns:
        native = (column.native_type or "").partition("(")[0].removesuffix("[]").strip().lower()
        if column.name in key and native in incomparable:
            raise PlanError(
                f"mapping {mapping.name!r}: the field {column.name!r} is {column.native_type}, which {target.db_type}"
                f" cannot compare, so it cannot be {'part of the key' if creates else 'looked up by'}",
                hint="name other columns as the key, or make a text of it by an expression",
                column=column.name,
            )


def is_unique(key: Sequence[str], facts: Facts, *, creates: bool) -> bool:
    """Whether the target's own indexes keep it from having two rows of a key."""
    return creates or any(set(columns) <= set(key) for columns in facts.target_keys)


def describe_indexes(mapping: Mapping, key: Sequence[str], facts: Facts) -> tuple[str, ...]:
    """What a missing index costs, as a difference of the plan; for a table that exists.

    Raises:
        TargetMismatchError: A unique index allows one version of each key only.
    """
    names = ", ".join(key)
    if mapping.mode == "scd2":
        for columns in facts.target_keys:
            if set(columns) <= set(key):
                raise TargetMismatchError(
                    f"mapping {mapping.name!r}: a unique index of {mapping.target} on ({', '.join(columns)}) allows one"
                    " version of each key",
                    hint=f"make it one on ({names}, {mapping.history.valid_from})",
                    table=str(mapping.target),
                )
        found = any(set(columns[: len(key)]) == set(key) for columns in facts.target_keys)
        wanted = f"{names}, {mapping.history.valid_from}"
    else:
        found = any(set(columns) <= set(key) for columns in facts.target_keys)
        wanted = names
    return () if found else (f"slower: no unique index on ({wanted})",)


def history_columns(mapping: Mapping, facts: Facts, target: Connector) -> tuple[Column, ...]:
    """The three columns that ``scd2`` keeps: as they will be made, or as the target has them.

    Raises:
        TargetMismatchError: The table exists and lacks one of them, or it cannot hold what belongs there.
    """
    if mapping.mode != "scd2":
        return ()
    history, kind = mapping.history, target.capabilities.moment_kind
    wanted = _wanted(mapping, DataType(kind))
    if facts.target_columns is None:
        return tuple(
            Column(column.name, column.data_type, column.nullable, target.native_type(column), target.dialect)
            for column in wanted
        )
    existing = [column for column in facts.target_columns if column.name in history.names]
    columns, differences = fit_columns(wanted, existing, target)
    if differences:
        # A moment may also be kept without its time zone, in UTC.
        columns, others = fit_columns(_wanted(mapping, DataType("timestamp")), existing, target)
        differences = others and differences
    if not any(column.name == history.valid_to and not column.nullable for column in existing) and not differences:
        return columns
    listing = "\n".join(f"  {line}" for line in differences) or f"  {history.valid_to}: it is not null"
    raise TargetMismatchError(
        f"mapping {mapping.name!r}: the table {mapping.target} exists, and does not keep history:\n{listing}",
        hint="add the columns, name others by history, or load into another table",
        table=str(mapping.target),
    )


def _wanted(mapping: Mapping, moment: DataType) -> tuple[Column, ...]:
    history = mapping.history
    return (
        Column(history.valid_from, moment, False),
        Column(history.valid_to, moment),
        Column(history.is_current, DataType("boolean"), False),
    )
