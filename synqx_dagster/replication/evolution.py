"""What a table whose columns have changed at the source asks of its target; pure.

The log tells that the columns are others from some change on, and nothing of what the server did to the rows that were
there. Where these may hold what the target does not know, the table stops, and is copied again.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from synqx_dagster.model.schema import Evolution
from synqx_dagster.model.table import Column
from synqx_dagster.replication.changes import Relation
from synqx_dagster.replication.source_columns import KnownRelation, SourceColumn
from synqx_dagster.transfer.compatibility import widens
from synqx_dagster.transfer.limits import most_characters


@dataclass(frozen=True)
class Evolved:
    """What follows from a change of columns.

    Attributes:
        renamed: Old and new names.
        added: New columns, with what the earlier rows hold in them.
        dropped: Columns that the source has no more.
        stopped: Why the table cannot go on; None where it can.
    """

    renamed: tuple[tuple[str, str], ...] = ()
    added: Mapping[str, str | None] | None = None
    dropped: tuple[str, ...] = ()
    stopped: str | None = None


def compare(
    before: KnownRelation,
    relation: Relation,
    now: Mapping[str, SourceColumn] | None,
    policy: Evolution,
) -> Evolved:
    """Compare a relation with what was known of it.

    Args:
        now: What the source's catalog says; None where it was not asked.
    """
    if before.oid != relation.oid:
        return Evolved(stopped="the source table was dropped and made again; what the new one holds is not known")
    was = {column.name: column for column in before.columns}
    names = [column.name for column in relation.columns]
    vanished = [name for name in was if name not in names]
    appeared = [name for name in names if name not in was]
    retyped = [column.name for column in relation.columns if column.name in was and _differ(was[column.name], column)]
    if not (vanished or appeared or retyped):
        return Evolved()
    if policy == "freeze":
        changed = ", ".join(map(repr, [*vanished, *appeared, *retyped]))
        return Evolved(
            stopped=f"the source's columns have changed ({changed}), and evolution: freeze lets nothing follow"
        )
    renamed, problem = _find_renamed(before, vanished, appeared, now)
    if problem is not None:
        return Evolved(stopped=problem)
    new_names = {new for _, new in renamed}
    old_names = {old for old, _ in renamed}
    added: dict[str, str | None] = {}
    for name in appeared:
        if name in new_names:
            continue
        column = None if now is None else now.get(name)
        if column is not None and column.is_filled:
            return Evolved(
                stopped=f"the new column {name!r} was filled by a default that may differ from row to row, which the"
                " log does not tell"
            )
        added[name] = None if column is None else column.missing
    problem = _find_rewritten(was, relation, {new: old for old, new in renamed})
    if problem is not None:
        return Evolved(stopped=problem)
    return Evolved(renamed, added, tuple(name for name in vanished if name not in old_names))


def _find_renamed(
    before: KnownRelation,
    vanished: Sequence[str],
    appeared: Sequence[str],
    now: Mapping[str, SourceColumn] | None,
) -> tuple[tuple[tuple[str, str], ...], str | None]:
    if not vanished or not appeared:
        return (), None
    by_number = {before.numbers[name]: name for name in vanished if name in before.numbers}
    renamed = []
    for name in appeared:
        column = None if now is None else now.get(name)
        if column is None or len(by_number) < len(vanished):
            gone, new = ", ".join(map(repr, vanished)), ", ".join(map(repr, appeared))
            return (
                (),
                f"columns are gone ({gone}) and others are new ({new}), and the log does not tell which was renamed",
            )
        if column.number in by_number:
            renamed.append((by_number[column.number], name))
    return tuple(renamed), None


def _find_rewritten(was: Mapping[str, Column], relation: Relation, renamed_from: Mapping[str, str]) -> str | None:
    """Why a column's new type may have changed the values that were there; None where it has not."""
    for column in relation.columns:
        earlier = was.get(renamed_from.get(column.name, column.name))
        if earlier is not None and _differ(earlier, column) and not _keeps_values(earlier, column):
            return (
                f"column {column.name!r} was {_spelling(earlier)} and is {_spelling(column)}; the server has rewritten"
                " its values, which the log does not tell"
            )
    return None


def _differ(was: Column, column: Column) -> bool:
    return _spelling(was) != _spelling(column)


def _spelling(column: Column) -> str:
    return column.native_type or str(column.data_type)


def _keeps_values(was: Column, column: Column) -> bool:
    """Whether a change of type alone keeps every value, and the text of it."""
    before, after = was.data_type, column.data_type
    if before.kind == after.kind == "string":
        return most_characters(_of_source(was), _of_source(column)) is None and not _spelling(column).endswith("]")
    if before == after:
        # A time may have lost digits of its fraction, a json become a jsonb.
        return False
    if after.kind == "decimal" and after.precision is not None and before.kind != after.kind:
        # Whole numbers get digits after the point.
        return not after.scale and widens(before, after)
    if before.kind == after.kind == "decimal" and after.precision is not None:
        return before.scale == after.scale and widens(before, after)
    return widens(before, after)


def _of_source(column: Column) -> Column:
    return dataclasses.replace(column, native_dialect="postgres")
