"""Makes staged rows visible by the mode of the load: replaced, appended, merged, or kept as versions.

Guarantee: before a row of the target is touched it is certain that no key occurs twice, neither among the staged rows
nor in the target; what was changed is counted by the database that changed it.
"""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta

from synqx_dagster.connectors.protocol import (
    Connector,
    HistorySpec,
    InPlaceWriteSession,
    MergeSpec,
    PartitionWriteSession,
    RoomKeepingWriteSession,
    RowChanges,
    SharedWriteSession,
    WriteSession,
)
from synqx_dagster.errors import DataError, FatalError, TargetMismatchError
from synqx_dagster.model.mapping import KEYED_MODES, Mapping
from synqx_dagster.model.table import Column, TableName
from synqx_dagster.transfer.duplicates import count_repeated
from synqx_dagster.transfer.plan import LoadPlan
from synqx_dagster.transfer.verify import count_rows

_MICROSECOND = timedelta(microseconds=1)


def fills_in_place(plan: LoadPlan, mapping: Mapping, write: WriteSession, target: Connector) -> bool:
    """Whether the rows go straight into a target that the load creates; its key is then added at the publication.

    Not where creating a table commits: others would see it half filled, and a load that fails would leave it there.
    Nor where rows that share a key may have to be deleted from it again: a table that is published as soon as it is
    there lets nobody delete as long as it has no key.
    """
    if plan.created_key and mapping.on_bad_row == "quarantine":
        return False
    has_its_rows = plan.mode in ("replace", "append") or (plan.mode == "merge" and plan.deleted_flag is None)
    can_fill = isinstance(write, InPlaceWriteSession) and target.capabilities.transactional_ddl
    return plan.target_action == "create" and has_its_rows and can_fill


def create_in_place(plan: LoadPlan, write: WriteSession) -> TableName:
    """Create the target without its key, to be filled itself."""
    columns = [
        replace(column, nullable=False) if column.name in plan.created_key else column for column in plan.columns
    ]
    write.ensure_schema(plan.target)
    write.create_table(plan.target, columns, ())
    _keep_room(plan, write)
    return plan.target


def become_target(plan: LoadPlan, staging: TableName, write: WriteSession) -> bool:
    """Let a filled staging table be the target that the load creates; its key is added at the publication."""
    return isinstance(write, SharedWriteSession) and write.become_table(staging, plan.target)


def create_target(plan: LoadPlan, mapping: Mapping, write: WriteSession) -> None:
    """Create the target if it is missing, with the index that its mode needs."""
    if plan.target_action == "create":
        write.ensure_schema(plan.target)
        write.create_table(plan.target, (*plan.columns, *plan.history_columns), plan.created_key)
        _keep_room(plan, write)
        if plan.mode == "scd2":
            write.create_current_index(plan.target, plan.primary_key, mapping.history.is_current)


def _keep_room(plan: LoadPlan, write: WriteSession) -> None:
    # Not of a history: closing a version changes its index of current versions in any case.
    if plan.mode == "merge" and isinstance(write, RoomKeepingWriteSession):
        write.keep_room(plan.target)


def create_staging(plan: LoadPlan, write: WriteSession, epoch: int) -> TableName:
    """Create the staging table that the mode's publication needs."""
    return write.create_staging(
        plan.target,
        plan.staged_columns,
        epoch=epoch,
        replaces=plan.replaces_all,
        key=plan.primary_key if plan.mode in KEYED_MODES else (),
    )


def refuse_misplaced(plan: LoadPlan, staging: TableName, write: WriteSession, target: Connector) -> None:
    """Refuse rows that the source counts among the partitions of this load, and the target does not.

    Raises:
        DataError: The nodes of a pipeline have made them; says how many.
        FatalError: The two databases compare differently.
    """
    if plan.partition is None:
        return
    rows = count_rows(write, target, staging, plan.partition.outside)
    if rows:
        count = f"{rows:,} row{'' if rows == 1 else 's'}"
        if plan.partition.made_by_nodes:
            raise DataError(
                f"{plan.target}: {count} that the nodes have made do not belong to {plan.partition.description};"
                " nothing was committed",
                hint="give each extract that reads more than the partition a partition_column, or filter its rows",
                table=str(plan.target),
                rows=rows,
            )
        raise FatalError(
            f"{plan.target}: {count} of {plan.partition.description} would lie elsewhere in the target, because the"
            " two databases compare differently; nothing was committed",
            table=str(plan.target),
        )


def begin_publication(plan: LoadPlan, mapping: Mapping, write: WriteSession, target: Connector) -> int:
    """Make sure that the target is fit for it; returns how many rows it has that the load does not replace.

    Raises:
        TargetMismatchError: Rows of the target share a key; says how many keys.
    """
    if plan.replaces_all:
        return 0
    if plan.partition is not None:
        # Rows that another load adds to these partitions after the DELETE has begun would stay beside the new ones.
        write.lock_table(plan.target)
        return count_rows(write, target, plan.target, plan.partition.outside)
    if plan.mode in KEYED_MODES:
        # What is counted before and after must not be changed by others in between.
        write.lock_table(plan.target)
        if plan.target_action == "use" and not plan.unique_key:
            _refuse_repeated(plan, mapping, write, target)
    return count_rows(write, target, plan.target)


def publish(
    plan: LoadPlan, mapping: Mapping, staging: TableName, rows_before: int, write: WriteSession, target: Connector
) -> RowChanges:
    """Publish the staged rows within the open transaction; `rows_before` is what `begin_publication` said."""
    if staging == plan.target:
        if plan.created_key and isinstance(write, InPlaceWriteSession):
            write.add_primary_key(plan.target, plan.created_key)
        rows = count_rows(write, target, plan.target)
        return RowChanges(inserted=rows, total=rows)
    if plan.partition is not None:
        assert isinstance(write, PartitionWriteSession)
        return write.publish_partition(staging, plan.target, plan.columns, plan.partition.inside)
    if plan.mode == "replace":
        return write.publish_replace(staging, plan.target, plan.columns, plan.primary_key)
    if plan.mode == "append":
        return write.publish_append(staging, plan.target, plan.columns)
    merge = MergeSpec(
        plan.primary_key,
        delete_missing=mapping.delete_missing,
        deleted_flag=None if plan.deleted_flag is None else plan.deleted_flag.name,
        rows_before=rows_before,
    )
    if plan.mode == "merge":
        return write.publish_merge(staging, plan.target, plan.columns, merge)
    history = HistorySpec(merge, *mapping.history.names, loaded_at=find_moment(plan, write, target))
    return write.publish_history(staging, plan.target, plan.columns, history)


def find_moment(plan: LoadPlan, write: WriteSession, target: Connector) -> str:
    """The moment at which the versions of this load begin: the target's time, and later than all that it keeps.

    A clock that was set back neither orders versions wrongly nor gives one an end before its beginning: a load's
    moment is then a microsecond after the last one.

    Raises:
        TargetMismatchError: The target holds moments that no load made: infinity, or years beyond 9999.
    """
    now = _parse(write.current_moment())
    starts, ends = (_latest_sql(target, column) for column in plan.history_columns[:2])
    row = write.fetch_all(f"SELECT {starts}, {ends} FROM {target.qualify(plan.target)}")[0]
    try:
        latest = max((_parse(str(text)) for text in row if text is not None), default=None)
        if latest is not None and latest >= now:
            now = latest + _MICROSECOND
    except (ValueError, OverflowError):
        names = " or ".join(column.name for column in plan.history_columns[:2])
        raise TargetMismatchError(
            f"{plan.target}: {names} holds a moment after which no version can begin",
            hint="the end of a current version is NULL, not a day far away",
            table=str(plan.target),
        ) from None
    return f"{now:%Y-%m-%d %H:%M:%S.%f}+00"


def _latest_sql(target: Connector, column: Column) -> str:
    import sqlglot.expressions as exp

    reference = exp.column(exp.to_identifier(column.name, quoted=True))
    return exp.cast(exp.Max(this=reference), exp.DataType.Type.TEXT).sql(target.dialect)


def _parse(text: str) -> datetime:
    moment = datetime.fromisoformat(text)
    return moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment.astimezone(UTC)


def _refuse_repeated(plan: LoadPlan, mapping: Mapping, write: WriteSession, target: Connector) -> None:
    only, what = "", "keys occur more than once"
    if plan.mode == "scd2":
        only, what = f"{target.quote(mapping.history.is_current)} = TRUE", "keys have more than one current version"
    repeated = count_repeated(write, target, plan.target, plan.primary_key, only)
    if repeated:
        raise TargetMismatchError(
            f"{plan.target}: by ({', '.join(plan.primary_key)}) {repeated:,} {what}",
            hint="nothing was changed; delete the rows that are too many, or name other columns by key: [...]",
            table=str(plan.target),
            keys=repeated,
        )
