"""How one table of a replication is copied: as what load of the transfer engine; pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

from synqx_dagster.connectors.protocol import Connector
from synqx_dagster.model.mapping import ColumnMapping, ConstantMapping, DirectMapping, ExpressionMapping, LoadMode
from synqx_dagster.model.mapping import Mapping as MappingRecord
from synqx_dagster.model.replication import Replication
from synqx_dagster.model.table import Column, primary_key_of
from synqx_dagster.replication.changes import format_lsn
from synqx_dagster.replication.tables import FollowedTable

#: What mode ``history`` calls a row of the copy.
COPY_OPERATION = "copy"


@dataclass(frozen=True)
class CopyPlan:
    """How one table is copied.

    Attributes:
        mapping: What the transfer engine loads.
        condition: Only rows for which this holds.
        sweeps: Rows of the target that the snapshot does not have are marked as deleted afterwards.
        key: Source and target columns by which rows are found; empty without a key.
    """

    mapping: MappingRecord
    condition: str | None
    sweeps: bool = False
    key: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True)
class CopyMoment:
    """What a copy shows: the transactions before an LSN, and when that was by this machine's clock."""

    lsn: int
    at: datetime


def plan_copy(
    replication: Replication,
    table: FollowedTable,
    columns: Sequence[Column],
    names: Sequence[str],
    key: Sequence[str],
    moment: CopyMoment,
    ends: tuple[Connector, Connector],
    *,
    exists: bool,
) -> CopyPlan:
    """Decide how a table is copied.

    Args:
        columns: The source table's, as the snapshot has them.
        names: Those of them that come through the log, too.
        key: The source columns by which rows are matched; empty where there are none.
        ends: The source and the target.
        exists: The target table is there.
    """
    source, target = ends
    definition = table.definition
    mapped = definition.column_mappings or tuple(map(_direct, names))
    if replication.mode == "history":
        return CopyPlan(_copy_changes(replication, table, mapped, moment, source, target), None)
    is_plain = len(names) == len(columns) and definition.column_mappings is None and replication.mode == "mirror"
    fields = None if is_plain else (*mapped, *_marks(replication, target))
    key_fields = tuple((name, _field_of(name, mapped)) for name in key)
    mode, sweeps = _choose_mode(replication, columns, key, exists=exists)
    mapping = MappingRecord(
        name=replication.name,
        source_connection=replication.source_connection,
        source_table=str(table.source),
        target_connection=replication.target_connection,
        target_table=str(table.target),
        mode=mode,
        key=tuple(field for _, field in key_fields) if mode == "merge" else (),
        column_mappings=fields,
        evolution=replication.evolution,
    )
    return CopyPlan(mapping, definition.where, sweeps, key_fields)


def _choose_mode(
    replication: Replication, columns: Sequence[Column], key: Sequence[str], *, exists: bool
) -> tuple[LoadMode, bool]:
    """The load's mode, and whether rows are swept after it."""
    if replication.mode == "soft_delete" and exists and key:
        # Rows that were marked as deleted stay.
        return "merge", True
    if not exists and key and tuple(key) != primary_key_of(tuple(columns)):
        # A target that is made gets the key that rows are matched by; a replacement would give it the source's.
        return "merge", False
    return "replace", False


def _direct(name: str) -> DirectMapping:
    return DirectMapping(type="direct", source_columns=(name,), target_fields=(name,))


def _field_of(name: str, fields: Sequence[ColumnMapping]) -> str:
    for field in fields:
        if isinstance(field, DirectMapping) and field.source_columns == (name,):
            return field.target_fields[0]
    return name


def _marks(replication: Replication, target: Connector) -> tuple[ColumnMapping, ...]:
    """What says of a copied row that it is not deleted."""
    if replication.mode != "soft_delete":
        return ()
    names = replication.soft_delete
    absent = ExpressionMapping(
        type="expression", expression=f"cast(null as {_moment_type(target)})", target_fields=(names.deleted_at,)
    )
    return ConstantMapping(type="constant", value=False, target_fields=(names.is_deleted,)), absent


def _moment_type(target: Connector) -> str:
    return "timestamp" if target.capabilities.moment_kind == "timestamp" else "timestamp with time zone"


def _copy_changes(
    replication: Replication,
    table: FollowedTable,
    mapped: Sequence[ColumnMapping],
    moment: CopyMoment,
    source: Connector,
    target: Connector,
) -> MappingRecord:
    """The rows as changes of their own, added to what has been recorded: from here a new account begins.

    A query, because a history has no key of the source's, and because each row gets a number.
    """
    columns = replication.change_columns
    at = moment.at.astimezone(UTC).strftime("%Y-%m-%d %H:%M:%S.%f")
    kind = _moment_type(target)
    kept = {
        columns.operation: f"cast('{COPY_OPERATION}' as text)",
        columns.commit_lsn: f"cast('{format_lsn(moment.lsn)}' as text)",
        columns.ordinal: "row_number() over ()",
        columns.committed_at: f"cast('{at}{'' if kind == 'timestamp' else '+00'}' as {kind})",
    }
    items = [*(f"{sql} AS {source.quote(name)}" for name, sql in kept.items()), "source.*"]
    where = f" WHERE ({table.definition.where})" if table.definition.where is not None else ""
    return MappingRecord(
        name=replication.name,
        source_connection=replication.source_connection,
        source_query=f"SELECT {', '.join(items)} FROM {source.qualify(table.source)} AS source{where}",
        target_connection=replication.target_connection,
        target_table=str(table.target),
        mode="append",
        column_mappings=(*map(_direct, kept), *mapped),
        evolution=replication.evolution,
    )
