"""Folding changes, and collecting them: what is folded does what the changes do one by one."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from synqx_dagster.errors import SourceChangedError
from synqx_dagster.replication.changes import UNCHANGED, Change, Delete, Insert, Row, Truncate, Update
from synqx_dagster.replication.fold import Budget, Fold, Folded, FoldShape, Key
from synqx_dagster.replication.history import History
from synqx_dagster_tests.unit.replication.rows import Source, sources

Table = dict[Key, Row]


def shape_of(source: Source, *, marks_deleted: bool = False) -> FoldShape:
    names = [column.name for column in source.relation.columns]
    identity = tuple(names.index(name) for name in source.relation.key)
    return FoldShape(tuple(range(source.key)), identity, len(names), (2, 3, 4), marks_deleted)


def key_of(shape: FoldShape, row: Row) -> Key:
    return row[0] if len(shape.key) == 1 else row[: len(shape.key)]


def feed(fold: Fold, change: Change, at: str) -> None:
    match change:
        case Insert():
            fold.insert(change.new)
        case Update():
            fold.update(change.new, change.old, old_is_key=change.old_is_key, at=at)
        case Delete():
            fold.delete(change.old, at=at)
        case Truncate():
            fold.truncate(at=at)


def apply_folded(table: Table, folded: Folded, shape: FoldShape) -> None:
    """What `apply_changes` does to a table, in its order."""
    if folded.truncated_at is not None:
        if not shape.marks_deleted:
            table.clear()
        for key, row in table.items():
            if row[-2] == "f":
                table[key] = (*row[:-2], "t", folded.truncated_at)
    completed = []
    for known, moved in folded.moved.items():
        for row, origin in moved:
            there = table[origin]
            completed.append(tuple(value if at in known else there[at] for at, value in enumerate(row)))
    for key in folded.deleted:
        table.pop(key, None)
    assert all(key_of(shape, row) in table for row in folded.updated)
    for row in [*folded.updated, *folded.whole, *completed]:
        assert UNCHANGED not in row
        table[key_of(shape, row)] = row
    for known, rows in folded.partial.items():
        for row in rows:
            there = table[key_of(shape, row)]
            table[key_of(shape, row)] = tuple(value if at in known else there[at] for at, value in enumerate(row))
    for known, rows in folded.marked.items():
        for row in rows:
            found = table.get(key_of(shape, row))
            if found is not None:
                marked = tuple(value if at in known else found[at] for at, value in enumerate(row))
                table[key_of(shape, row)] = marked


def apply_one(table: Table, change: Change, shape: FoldShape, at: str) -> None:
    """What one change does to a table."""
    mark = ("f", None) if shape.marks_deleted else ()

    def remove(key: Key) -> None:
        if not shape.marks_deleted:
            table.pop(key, None)
        elif key in table and table[key][-2] == "f":
            table[key] = (*table[key][:-2], "t", at)

    match change:
        case Insert():
            table[key_of(shape, change.new)] = (*change.new, *mark)
        case Update():
            old_key = key_of(shape, change.new if change.old is None else change.old)
            there = table[old_key]
            new = tuple(there[at] if value is UNCHANGED else value for at, value in enumerate(change.new))
            if key_of(shape, new) != old_key:
                remove(old_key)
            table[key_of(shape, new)] = (*new, *mark)
        case Delete():
            remove(key_of(shape, change.old))
        case Truncate():
            for key in list(table):
                remove(key)


def cut(log: Sequence[Change], cuts: Sequence[int]) -> list[list[tuple[int, Change]]]:
    numbered = list(enumerate(log))
    bounds = [0, *sorted(at % (len(log) + 1) for at in cuts), len(log)]
    return [numbered[start:end] for start, end in itertools.pairwise(bounds)]


@pytest.mark.parametrize("marks_deleted", [False, True], ids=["mirror", "soft_delete"])
@given(made=sources(), cuts=st.lists(st.integers(0, 30), max_size=4))
def test_folding_does_what_the_changes_do_one_by_one_however_they_are_cut(
    marks_deleted: bool, made: tuple[Source, dict[Row, Row]], cuts: list[int]
) -> None:
    source, before = made
    shape = shape_of(source, marks_deleted=marks_deleted)
    mark = ("f", None) if marks_deleted else ()
    folded_table = {key_of(shape, row): (*row, *mark) for row in before.values()}
    table = dict(folded_table)
    for number, change in enumerate(source.log):
        apply_one(table, change, shape, str(number))

    fold = Fold(shape, Budget())
    for piece in cut(source.log, cuts):
        for number, change in piece:
            feed(fold, change, str(number))
        apply_folded(folded_table, fold.take(), shape)

    assert folded_table == table
    living = {key: row[: shape.width] for key, row in table.items() if not marks_deleted or row[-2] == "f"}
    assert living == {key_of(shape, row): row for row in source.rows.values()}


@given(made=sources(), cuts=st.lists(st.integers(0, 30), max_size=4))
def test_a_history_has_each_change_once_with_the_row_as_it_was_after_it(
    made: tuple[Source, dict[Row, Row]], cuts: list[int]
) -> None:
    source, before = made
    shape = shape_of(source)
    state: Table = {key_of(shape, row): row for row in before.values()}
    #: The target's changes: of each key the newest is looked for.
    target: list[tuple[str, Row]] = [("copy", row) for row in before.values()]
    expected = list(target)
    for change in source.log:
        match change:
            case Insert():
                expected.append(("insert", change.new))
            case Update():
                there = state[key_of(shape, change.new if change.old is None else change.old)]
                new = tuple(there[at] if value is UNCHANGED else value for at, value in enumerate(change.new))
                expected.append(("update", new))
            case Delete():
                expected.append(("delete", change.old))
            case Truncate():
                expected.append(("truncate", (None,) * shape.width))
        apply_one(state, change, shape, "")

    history = History(shape, Budget())
    for piece in cut(source.log, cuts):
        for number, change in piece:
            log = (str(number), "", "", "")
            match change:
                case Insert():
                    history.insert(log, change.new)
                case Update():
                    history.update(log, change.new, change.old, old_is_key=change.old_is_key)
                case Delete():
                    history.delete(log, change.old, old_is_key=change.old_is_key)
                case Truncate():
                    history.truncate(log)
        folded = history.take()
        staged = list(folded.whole)
        for known, moved in folded.moved.items():
            for row, origin in moved:
                newest = next(old for _, old in reversed(target) if key_of(shape, old) == origin)
                staged.append(
                    tuple(value if at in known else newest[at - 4] for at, value in enumerate(row)),
                )
        for row in sorted(staged, key=lambda row: int(str(row[0]))):
            change = source.log[int(str(row[0]))]
            target.append((type(change).__name__.lower(), row[4:]))

    assert target == expected


def test_a_moved_row_takes_its_large_value_along_over_several_moves_and_back() -> None:
    fold = Fold(FoldShape((0,), (0,), 2, (1,)), Budget())
    fold.update(("2", UNCHANGED), ("1", None), old_is_key=True)
    fold.update(("3", UNCHANGED), ("2", None), old_is_key=True)
    fold.update(("1", UNCHANGED), ("3", None), old_is_key=True)
    folded = fold.take()
    # Not a partial update of row 1: what deletes 2 or 3 may match it, where the target calls them equal.
    assert folded.moved == {(0,): [(("1", UNCHANGED), "1")]}
    assert sorted(folded.deleted) == ["2", "3"]
    assert folded.partial == {}


def test_a_later_full_value_completes_what_was_not_sent() -> None:
    fold = Fold(FoldShape((0,), (0,), 3, (1, 2)), Budget())
    fold.update(("1", UNCHANGED, "a"), None, old_is_key=False)
    fold.update(("1", "big", UNCHANGED), None, old_is_key=False)
    assert fold.take() == Folded(updated=[("1", "big", "a")])


def test_of_two_truncations_the_first_marks_what_was_there() -> None:
    fold = Fold(FoldShape((0,), (0,), 2, (1,), marks_deleted=True), Budget())
    fold.truncate(at="first")
    fold.insert(("1", "a"))
    fold.truncate(at="second")
    folded = fold.take()
    assert folded.truncated_at == "first"
    assert folded.whole == [("1", "a", "t", "second")]


def test_a_row_that_a_filter_lets_in_without_its_large_values_is_refused() -> None:
    fold = Fold(FoldShape((0,), (0,), 2, (1,)), Budget())
    with pytest.raises(SourceChangedError, match="row filter"):
        fold.insert(("1", UNCHANGED))


def test_a_change_of_a_row_that_was_deleted_is_refused() -> None:
    fold = Fold(FoldShape((0,), (0,), 2, (1,)), Budget())
    fold.delete(("1", None))
    with pytest.raises(SourceChangedError, match="deleted before"):
        fold.update(("1", UNCHANGED), None, old_is_key=False)


def test_a_history_without_a_key_refuses_what_it_cannot_complete() -> None:
    history = History(FoldShape((), (), 2, (1,)), Budget())
    with pytest.raises(SourceChangedError, match="no key"):
        history.update(("update", "0/1", "1", ""), ("1", UNCHANGED), None, old_is_key=False)


def test_long_values_count_into_the_budget() -> None:
    budget = Budget()
    fold = Fold(FoldShape((0,), (0,), 2, (1,)), budget)
    fold.insert(("1", "x" * 1_000_000))
    fold.update(("1", "y" * 1_000_000), None, old_is_key=False)
    assert budget.bytes > 2_000_000
