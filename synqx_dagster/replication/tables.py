"""Which tables a replication follows, where their rows go, and by which key they are matched; pure."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass

from synqx_dagster.errors import PlanError
from synqx_dagster.model.replication import ReplicatedTable, Replication
from synqx_dagster.model.table import TableName
from synqx_dagster.replication.changes import Relation

#: Where an unqualified source table lies.
SOURCE_SCHEMA = "public"


@dataclass(frozen=True)
class FollowedTable:
    """A source table that a replication follows.

    Attributes:
        source: Always with its schema.
        definition: What the record says of it; a pattern's stands for every table that it found.
        primary_key: The source table's primary key, as its catalog says; empty without one. What rows are matched by
            where the replica identity is ``full`` and no key is declared.
    """

    source: TableName
    target: TableName
    definition: ReplicatedTable
    primary_key: tuple[str, ...] = ()


def follow_table(
    replication: Replication, source: TableName, definition: ReplicatedTable, primary_key: Sequence[str] = ()
) -> FollowedTable:
    """A source table with its place in the target."""
    source = TableName(source.name, source.schema or SOURCE_SCHEMA)
    if definition.target is not None:
        target = TableName.parse(definition.target)
    else:
        target = replication.target_naming.apply(source)
    return FollowedTable(source, target, definition, tuple(primary_key))


def digest_definition(replication: Replication, table: FollowedTable) -> str:
    """What the record says of a table's rows, in short: another digest, and the rows that are there are not these."""
    definition = table.definition
    said = {
        "target": [table.target.schema, table.target.name],
        "columns": None if definition.columns is None else sorted(definition.columns),
        "where": definition.where,
        "key": definition.key,
        "column_mappings": [one.model_dump(mode="json") for one in definition.column_mappings or ()],
        "mode": [replication.mode, *replication.kept_columns],
    }
    return hashlib.sha256(json.dumps(said, sort_keys=True).encode()).hexdigest()[:16]


def refuse_shared_targets(tables: Sequence[FollowedTable], *, folds_case: bool) -> None:
    """Refuse two source tables that would write into one target table.

    Raises:
        PlanError: Names both, and the target.
    """
    seen: dict[tuple[str, str], FollowedTable] = {}
    for table in tables:
        place = (table.target.schema or "", table.target.name)
        if folds_case:
            place = (place[0].casefold(), place[1].casefold())
        other = seen.setdefault(place, table)
        if other is not table:
            raise PlanError(
                f"{other.source} and {table.source} would both be written into {table.target}",
                hint="put {schema} into target_naming, or give one of them a target of its own",
                table=str(table.target),
            )


def state_schema(replication: Replication) -> str | None:
    """The target's schema that holds the replication's state; None: the connector's default one."""
    schema = replication.target_naming.target_schema
    return None if schema is None or "{" in schema else schema


def choose_key(table: FollowedTable, relation: Relation) -> tuple[str, ...]:
    """The source columns by which a row of the target is found.

    Raises:
        PlanError: There is none, or the log does not tell its old values; says what to do.
    """
    names = {column.name for column in relation.columns}
    declared = table.definition.key
    identity = relation.replica_identity
    if declared:
        for name in declared:
            if name not in names:
                raise PlanError(
                    f"{table.source}: the key names {name!r}, which the source table does not have, or the publication"
                    " leaves out",
                    table=str(table.source),
                    column=name,
                )
        if identity in ("default", "index") and not set(declared) <= set(relation.key):
            raise PlanError(
                f"{table.source}: rows are to be matched by ({', '.join(declared)}), of which the log does not tell the"
                f" old values: the table's replica identity is ({', '.join(relation.key) or 'empty'})",
                hint=f"at the source: ALTER TABLE {_quoted(table.source)} REPLICA IDENTITY FULL; or leave key out",
                table=str(table.source),
            )
        return declared
    if identity in ("default", "index") and relation.key:
        return relation.key
    if identity == "full" and table.primary_key and set(table.primary_key) <= names:
        return table.primary_key
    raise PlanError(
        f"{table.source}: no key tells its rows apart (replica identity {identity}, no primary key), so they can be"
        " neither updated nor deleted in the target",
        hint="give the source table a primary key; or name columns that are unique by key: [...]; or use mode: history",
        table=str(table.source),
    )


def _quoted(table: TableName) -> str:
    parts = [part for part in (table.schema, table.name) if part is not None]
    return ".".join('"' + part.replace('"', '""') + '"' for part in parts)
