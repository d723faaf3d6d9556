"""How the rows of a relation become those of a target table; pure, decided anew whenever either has changed."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass, field

from synqx_dagster.connectors.protocol import ChangedTable, Connector
from synqx_dagster.errors import PlanError, TargetMismatchError
from synqx_dagster.mapping.compile import CompiledMapping, compile_mapping
from synqx_dagster.model.mapping import ColumnMapping
from synqx_dagster.model.mapping import Mapping as MappingRecord
from synqx_dagster.model.replication import Replication
from synqx_dagster.model.table import Column, TableName
from synqx_dagster.model.types import DataType, TypeKind
from synqx_dagster.replication.changes import Relation
from synqx_dagster.replication.fold import FoldShape
from synqx_dagster.replication.tables import FollowedTable, choose_key
from synqx_dagster.transfer.alter import ColumnChange
from synqx_dagster.transfer.compatibility import check_names, fit_columns
from synqx_dagster.transfer.evolve import apply_to, plan_changes
from synqx_dagster.transfer.limits import length_predicate
from synqx_dagster.transfer.target import spell

SOURCE_DIALECT = "postgres"

#: Kinds whose values may be long; all others print a few characters.
_LONG_KINDS: frozenset[TypeKind] = frozenset({"string", "json", "binary", "decimal"})


@dataclass(frozen=True)
class TargetPlan:
    """How a relation's rows reach a target table.

    Attributes:
        changed: The table with the columns that are filled: the log's (in a history), `compiled`'s fields, the marks.
        log_columns, mark_columns: How many columns stand before and after the fields.
        created_key: The primary key of a table that is created; None: the table is there.
        schema_changes: What happens to its columns first.
        holds: DuckDB predicates over ``{value}`` by field: what the target can store of it.
        shape: What a fold must know of the relation's rows; its key is empty in a history without one.
    """

    table: FollowedTable
    relation: Relation
    compiled: CompiledMapping = field(repr=False)
    changed: ChangedTable
    log_columns: int
    mark_columns: int
    created_key: tuple[str, ...] | None
    schema_changes: tuple[ColumnChange, ...]
    holds: dict[str, str]
    shape: FoldShape

    @property
    def used_positions(self) -> tuple[int, ...]:
        """Where in a relation's row the values of `compiled.used_columns` are."""
        positions = {column.name: at for at, column in enumerate(self.relation.columns)}
        return tuple(positions[name] for name in self.compiled.used_columns)


def compile_table(
    replication: Replication,
    table: FollowedTable,
    relation: Relation,
    column_mappings: tuple[ColumnMapping, ...] | None,
) -> CompiledMapping:
    """The spine's compiler over the columns of the log.

    Raises:
        PlanError, SourceChangedError: A field cannot be filled; names it.
    """
    mapping = MappingRecord(
        name=replication.name,
        source_connection=replication.source_connection,
        source_table=str(table.source),
        target_connection=replication.target_connection,
        target_table=str(table.target),
        mode="append",
        column_mappings=column_mappings,
    )

    def refuse(items: str) -> Sequence[Column]:
        raise PlanError(
            f"{table.source}: only the source could compute an expression of column_mappings ({items}), and its log"
            " brings columns alone",
            hint="use an expression that SynqX computes itself (docs/mappings.md), or a generated column",
            table=str(table.source),
        )

    columns = _wanted_columns(table, relation)
    return compile_mapping(mapping, None, columns, source_dialect=SOURCE_DIALECT, describe=refuse)


def _wanted_columns(table: FollowedTable, relation: Relation) -> tuple[Column, ...]:
    wanted = table.definition.columns
    if wanted is None:
        return relation.columns
    return tuple(column for column in relation.columns if column.name in wanted)


def plan_target(
    replication: Replication,
    table: FollowedTable,
    relation: Relation,
    existing: Sequence[Column] | None,
    target: Connector,
) -> TargetPlan:
    """Decide how a relation's rows reach their table; `existing` are its columns, None where it is missing.

    Raises:
        PlanError: A field cannot be filled, a name does not fit, or there is no key; says what to do.
        SourceChangedError: The relation lacks a column that is mapped.
        TargetMismatchError: The table's columns do not fit, and the policy does not let them be changed.
    """
    compiled = compile_table(replication, table, relation, table.definition.column_mappings)
    keeps_history = replication.mode == "history"
    key = _find_key(table, relation, is_needed=not keeps_history)
    target_key = _target_key(table, compiled, key)
    fields = [one.column for one in compiled.fields]
    if keeps_history:
        fields = [dataclasses.replace(column, nullable=True, key_position=None) for column in fields]
    else:
        fields = [dataclasses.replace(one, nullable=one.nullable and one.name not in target_key) for one in fields]
    log, marks = _own_columns(replication, existing, target)
    wanted = [*log, *fields, *marks]
    _refuse_clashes(table, [column.name for column in fields], [column.name for column in (*log, *marks)])
    check_names(table.target.name, [column.name for column in wanted], target)
    columns, changes, created_key = _place(replication, table, wanted, existing, target, target_key)
    by_name = {column.name: column for column in columns}
    holds = {one.name: predicate for one in fields if (predicate := _holds(one, by_name[one.name], target))}
    positions = {column.name: at for at, column in enumerate(relation.columns)}
    shape = FoldShape(
        key=tuple(positions[name] for name in key),
        identity=tuple(positions[name] for name in relation.key),
        width=len(relation.columns),
        long=tuple(at for at, column in enumerate(relation.columns) if column.data_type.kind in _LONG_KINDS),
        marks_deleted=replication.mode == "soft_delete",
    )
    return TargetPlan(
        table=table,
        relation=relation,
        compiled=compiled,
        changed=ChangedTable(table.target, columns, target_key),
        log_columns=len(log),
        mark_columns=len(marks),
        created_key=created_key,
        schema_changes=changes,
        holds=holds,
        shape=shape,
    )


def _find_key(table: FollowedTable, relation: Relation, *, is_needed: bool) -> tuple[str, ...]:
    try:
        return choose_key(table, relation)
    except PlanError:
        # A history needs none, but to find a large value that has not changed.
        if is_needed or table.definition.key:
            raise
        return ()


def _target_key(table: FollowedTable, compiled: CompiledMapping, key: Sequence[str]) -> tuple[str, ...]:
    found = []
    for name in key:
        fields = [one.column.name for one in compiled.fields if one.is_identity and one.source_columns == (name,)]
        if not fields:
            raise PlanError(
                f"{table.source}: rows are matched by {name!r}, which no field takes unchanged",
                hint="add a direct column mapping for it",
                table=str(table.source),
                column=name,
            )
        found.append(fields[0])
    return tuple(found)


def _own_columns(
    replication: Replication, existing: Sequence[Column] | None, target: Connector
) -> tuple[list[Column], list[Column]]:
    """The columns that a replication fills beside the source's: those of the log, and the marks of deleted rows."""

    def moment(name: str) -> DataType:
        for column in existing or ():
            if column.name == name and column.data_type.kind in ("timestamp", "timestamptz"):
                # Without its time zone it is in UTC.
                return column.data_type
        return DataType(target.capabilities.moment_kind)

    if replication.mode == "history":
        names = replication.change_columns
        return [
            Column(names.operation, DataType("string"), False),
            Column(names.commit_lsn, DataType("string"), False),
            Column(names.ordinal, DataType("bigint"), False),
            Column(names.committed_at, moment(names.committed_at), False),
        ], []
    if replication.mode == "soft_delete":
        marks = replication.soft_delete
        return [], [
            Column(marks.is_deleted, DataType("boolean"), False),
            Column(marks.deleted_at, moment(marks.deleted_at)),
        ]
    return [], []


def _refuse_clashes(table: FollowedTable, fields: Sequence[str], own: Sequence[str]) -> None:
    for name in own:
        if name in fields:
            raise PlanError(
                f"{table.source}: the source has a column {name!r}, and the replication fills one of this name itself",
                hint="give its own column another name by soft_delete or change_columns",
                table=str(table.source),
                column=name,
            )


def _place(
    replication: Replication,
    table: FollowedTable,
    wanted: Sequence[Column],
    existing: Sequence[Column] | None,
    target: Connector,
    target_key: tuple[str, ...],
) -> tuple[tuple[Column, ...], tuple[ColumnChange, ...], tuple[str, ...] | None]:
    """The table's columns, what happens to them first, and the key of a table that is created."""
    if existing is None:
        key = target_key
        if replication.mode == "history":
            key = (replication.change_columns.commit_lsn, replication.change_columns.ordinal)
        return tuple(dataclasses.replace(spell(one, target), key_position=None) for one in wanted), (), key
    changes = plan_changes(wanted, existing, replication.evolution, target, knows_nulls=False)
    after = apply_to(existing, changes)
    columns, differences = fit_columns(wanted, after, target)
    if differences:
        listing = "\n".join(f"  {difference}" for difference in differences)
        raise TargetMismatchError(
            f"{table.target} does not fit what {table.source} brings:\n{listing}",
            hint=_remedy(replication, wanted, existing, target, table.target),
            table=str(table.target),
        )
    return columns, changes, None


def _remedy(
    replication: Replication, wanted: Sequence[Column], existing: Sequence[Column], target: Connector, table: TableName
) -> str:
    for policy in ("add_columns", "widen"):
        changes = plan_changes(wanted, existing, policy, target, knows_nulls=False)
        if not fit_columns(wanted, apply_to(existing, changes), target)[1]:
            return f"set evolution: {policy}; or alter or rename {table}"
    return f"alter or rename {table}, or give the table another target"


def _holds(wanted: Column, column: Column, target: Connector) -> str | None:
    """What a value must be to be stored exactly; of PostgreSQL's own values PostgreSQL stores all."""
    own = None if target.dialect == SOURCE_DIALECT else target.holds(wanted.data_type)
    predicates = [own, length_predicate(wanted, column)]
    return " AND ".join(f"({predicate})" for predicate in predicates if predicate is not None) or None
