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
    numbers = numbers_of(relation, now)
    before_numbers = before.numbers if numbers and before.numbers.keys() == was.keys() else {}
    earlier_name = _name_matches(was, relation, before_numbers, numbers)
    kept = {old: new for new, old in earlier_name.items()}
    renamed = tuple((old, new) for old, new in kept.items() if old != new)
    vanished = [name for name in was if name not in kept]
    appeared = [column.name for column in relation.columns if column.name not in earlier_name]
    retyped = [
        one.name for one in relation.columns if one.name in earlier_name and _differ(was[earlier_name[one.name]], one)
    ]
    if not (renamed or vanished or appeared or retyped):
        return Evolved()
    if policy == "freeze":
        changed = ", ".join(map(repr, dict.fromkeys([*vanished, *appeared, *retyped, *(new for _, new in renamed)])))
        return Evolved(
            stopped=f"the source's columns have changed ({changed}), and evolution: freeze lets nothing follow"
        )
    if vanished and appeared and not before_numbers:
        gone, new = ", ".join(map(repr, vanished)), ", ".join(map(repr, appeared))
        return Evolved(
            stopped=f"columns are gone ({gone}) and others are new ({new}), and the log does not tell which was renamed"
        )
    if [column.name for column in relation.columns] == list(was) and (vanished or renamed):
        # The log looks the same before and after; since when it is another column is not known.
        names = ", ".join(map(repr, dict.fromkeys([*vanished, *(new for _, new in renamed)])))
        return Evolved(stopped=f"columns were dropped or renamed, and others took their names ({names})")
    return _follow(was, relation, earlier_name, vanished, appeared, now)


def _follow(
    was: Mapping[str, Column],
    relation: Relation,
    earlier_name: Mapping[str, str],
    vanished: Sequence[str],
    appeared: Sequence[str],
    now: Mapping[str, SourceColumn] | None,
) -> Evolved:
    added: dict[str, str | None] = {}
    for name in appeared:
        column = None if now is None else now.get(name)
        if column is not None and column.is_filled:
            return Evolved(
                stopped=f"the new column {name!r} was filled by a default that may differ from row to row, which the"
                " log does not tell"
            )
        added[name] = None if column is None else column.missing
    problem = _find_rewritten(was, relation, earlier_name)
    if problem is not None:
        return Evolved(stopped=problem)
    renamed = tuple((old, new) for new, old in earlier_name.items() if old != new)
    return Evolved(renamed, added, tuple(vanished))


def numbers_of(relation: Relation, now: Mapping[str, SourceColumn] | None) -> dict[str, int]:
    """The numbers of a relation's columns; empty unless the catalog speaks of the same columns as the log.

    The catalog is of now and the log of then: a column may have gone since, or names changed places. The log's columns
    are in the order of their numbers.
    """
    if now is None or any(column.name not in now for column in relation.columns):
        return {}
    numbers = {column.name: now[column.name].number for column in relation.columns}
    return numbers if list(numbers.values()) == sorted(numbers.values()) else {}


def _name_matches(
    was: Mapping[str, Column], relation: Relation, before_numbers: Mapping[str, int], numbers: Mapping[str, int]
) -> dict[str, str]:
    """The earlier name of each column that was there before."""
    if not before_numbers:
        return {column.name: column.name for column in relation.columns if column.name in was}
    by_number = {number: name for name, number in before_numbers.items()}
    return {name: by_number[number] for name, number in numbers.items() if number in by_number}


def _find_rewritten(was: Mapping[str, Column], relation: Relation, earlier_name: Mapping[str, str]) -> str | None:
    """Why a column's new type may have changed the values that were there; None where it has not."""
    for column in relation.columns:
        earlier = was[earlier_name[column.name]] if column.name in earlier_name else None
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
