"""What a run has to do, decided from what the source and the target say; pure."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from synqx_dagster.errors import PlanError, SourceChangedError
from synqx_dagster.model.replication import Replication
from synqx_dagster.model.table import TableName, primary_key_of
from synqx_dagster.replication.changes import Relation, format_lsn
from synqx_dagster.replication.identity import SourceProblem
from synqx_dagster.replication.position import ReplicationState, TableState
from synqx_dagster.replication.publication import PublicationState
from synqx_dagster.replication.slot import SlotState
from synqx_dagster.replication.source import SourceReport, SourceTable
from synqx_dagster.replication.tables import FollowedTable, follow_table
from synqx_dagster.replication.target_plan import compile_table

#: What else loads a table of the target, in words; None where nothing does.
FindLoad = Callable[[TableName], str | None]


def find_loss(state: ReplicationState, slot: SlotState | None, slot_name: str) -> str | None:
    """Why the slot does not go on where the target is; None where it does, or where there is no target position yet.

    A slot that is gone, given up, or was read by somebody else has lost changes: going on would leave them out.
    """
    if state.position is None:
        return None
    if slot is None:
        return f"the slot {slot_name!r} is gone, and with it the changes since {format_lsn(state.position)}"
    if slot.is_lost:
        why = f" ({slot.invalidation_reason})" if slot.invalidation_reason else ""
        return (
            f"the server has given up the slot {slot_name!r}{why}: changes since {format_lsn(state.position)} are gone"
        )
    if slot.confirmed_lsn is not None and slot.confirmed_lsn > state.position:
        return (
            f"the slot {slot_name!r} was read up to {format_lsn(slot.confirmed_lsn)} by somebody else, or made anew;"
            f" the target has the changes before {format_lsn(state.position)}"
        )
    if slot.wal_end < state.position:
        return (
            f"the source's log ends at {format_lsn(slot.wal_end)}, and the target has it up to"
            f" {format_lsn(state.position)}: the source was restored, or is another one"
        )
    if state.status == "lost":
        # Such as with its publication: what the slot would bring from here on does not make up for it.
        return f"changes since {format_lsn(state.position)} were lost"
    return None


def find_publication_loss(
    state: ReplicationState, tables: Iterable[TableState], publication: PublicationState, name: str
) -> str | None:
    """Why a publication that is gone stops a replication that had begun; None where it has not, or it is there.

    The log is read with the publications that were there when it was written: one that is made now says nothing of
    what came before it, and some versions refuse to read on at all.
    """
    found = publication.found
    if state.position is None:
        return None
    since = f"and with it changes since {format_lsn(state.position)}"
    if found is None:
        return f"the publication {name!r} is gone, {since}"
    if any(table.published is not None and not found.is_same(table.published) for table in tables):
        return f"the publication {name!r} was dropped and made again, as an upgrade of the server does, {since}"
    return None


@dataclass(frozen=True)
class Selection:
    """Which tables a run follows.

    Attributes:
        tables: To be followed, by what the source says of them.
        refused: By source table, why one of them cannot be; its changes are left out.
        gone: Tables by name in the definition of which the source has none (any more).
    """

    tables: tuple[SourceTable, ...]
    refused: Mapping[TableName, str]
    gone: tuple[str, ...] = ()

    @property
    def followed(self) -> tuple[SourceTable, ...]:
        """Those without what is refused."""
        return tuple(table for table in self.tables if table.table not in self.refused)

    @property
    def partitioned(self) -> tuple[TableName, ...]:
        """Those of them that have partitions."""
        return tuple(table.table for table in self.followed if table.is_partitioned)


def select_tables(replication: Replication, report: SourceReport, find_load: FindLoad, *, is_new: bool) -> Selection:
    """Which tables are followed.

    What is wrong with the source refuses a replication that begins. One that goes on loses a table that can be
    followed no more, and keeps the others.

    Raises:
        PlanError: Something is in the way of all of it; says what to grant or change.
    """
    problems = [problem for problem in report.problems if not _is_of_slot(problem, report)]
    problems += judge_mappings(replication, report.tables)
    problems += judge_loads(followed_of(replication, report.tables), find_load)
    names = {entry.name for entry in replication.tables}
    of_all, gone = [], []
    refused: dict[TableName, str] = {}
    for problem in problems:
        missing = next((name for name in names if problem.message.startswith(f"{name}: the source has no such")), None)
        if problem.table is not None and not is_new:
            refused.setdefault(problem.table, f"{problem.message}; {problem.remedy}")
        elif missing is not None and not is_new:
            gone.append(missing)
        elif missing is not None and _is_pattern(replication, missing):
            # A pattern may stand for nothing yet.
            gone.append(missing)
        else:
            of_all.append(problem)
    if of_all:
        raise refuse_source(replication, of_all)
    if not report.tables and is_new:
        raise PlanError(
            f"replication {replication.name!r}: the source has none of its tables yet",
            hint="correct the names, or grant USAGE on their schemas",
        )
    return Selection(report.tables, refused, tuple(gone))


def _is_pattern(replication: Replication, name: str) -> bool:
    return any(entry.name == name and entry.is_pattern for entry in replication.tables)


def _is_of_slot(problem: SourceProblem, report: SourceReport) -> bool:
    """Whether a problem is only that the slot is lost, of which the target's position decides."""
    return report.slot is not None and report.slot.is_lost and "given up the slot" in problem.message


def refuse_source(replication: Replication, problems: Sequence[SourceProblem]) -> PlanError:
    """The error that says everything that is in the way, each with its remedy."""
    listing = "\n".join(f"  {problem.message}\n    {problem.remedy}" for problem in problems)
    return PlanError(
        f"replication {replication.name!r} cannot follow its source:\n{listing}",
        hint=f"`synqx replications create {replication.name}` shows the same as a table",
    )


def judge_mappings(replication: Replication, tables: Iterable[SourceTable]) -> Iterator[SourceProblem]:
    """Tables whose rows cannot be made of what the log brings; found before a row is copied."""
    for table in tables:
        if table.entry.column_mappings is None:
            continue
        key = table.key if table.identity is None else table.identity
        relation = Relation(0, table.table, table.replica_identity, table.columns, key)
        [followed] = followed_of(replication, [table])
        try:
            compile_table(replication, followed, relation, table.entry.column_mappings)
        except (PlanError, SourceChangedError) as error:
            yield SourceProblem(error.message, error.hint or "correct column_mappings", table.table)


def judge_loads(tables: Iterable[FollowedTable], find_load: FindLoad) -> Iterator[SourceProblem]:
    """Tables whose targets a mapping or a pipeline loads: the two would undo what the other does."""
    for table in tables:
        load = find_load(table.target)
        if load is not None:
            yield SourceProblem(
                f"{table.source}: {load} loads its target {table.target}, too",
                "give the table another target, or leave it out",
                table.source,
            )


def followed_of(replication: Replication, tables: Iterable[SourceTable]) -> list[FollowedTable]:
    """Tables with their places in the target."""
    return [follow_table(replication, table.table, table.entry, primary_key_of(table.columns)) for table in tables]


# --- copies -----------------------------------------------------------------------------------------------------------


def waits_for_copy(state: TableState | None) -> bool:
    """Whether a table has no rows yet, or none that count."""
    return state is None or state.status in ("pending", "copying")


def make_load_id(run_id: str, lsn: int) -> str:
    """A name for one copy of one table: no other copy, under another snapshot, must be taken for it.

    It says which snapshot it is of, so that who finds it committed knows which changes come after it.
    """
    return f"{run_id}/{lsn:X}/{uuid.uuid4().hex[:8]}"


def lsn_of_load(load_id: str) -> int | None:
    """The LSN of a copy's snapshot; None where the text is no such name."""
    parts = load_id.split("/")
    try:
        return int(parts[-2], 16)
    except (IndexError, ValueError):
        return None


def temporary_slot_name(slot_name: str) -> str:
    """A name for the slot of a later copy; no two copies have one."""
    return f"{slot_name[:45]}_copy_{uuid.uuid4().hex[:8]}"
