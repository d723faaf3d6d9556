"""What changed of partitions between two looks, and which of it the log does not tell."""

from __future__ import annotations

from dataclasses import replace

import pytest

from synqx_dagster.errors import FatalError
from synqx_dagster.replication.partitions import (
    Partition,
    PartitionSet,
    add_doubts,
    compare,
    describe,
    reason_of,
)

ROOT = 1


def partition(oid: int, *, parent: int = ROOT, by: str = "700", born: bool = True, parted: bool = False) -> Partition:
    return Partition(oid, parent, f"public.p{oid}", parted, 0 if parted else oid * 10, by, born)


def look(*partitions: Partition, columns: str = "[]") -> PartitionSet:
    return PartitionSet(100, columns, {one.oid: one for one in partitions})


KNOWN = look(partition(2), partition(3))


def names(partitions: tuple[Partition, ...]) -> list[int]:
    return [one.oid for one in partitions]


def test_nothing_has_changed() -> None:
    difference = compare(KNOWN, KNOWN)
    assert (difference.has_news, difference.is_suspicious) == (False, False)


def test_one_that_is_made_is_news_and_no_trouble() -> None:
    difference = compare(KNOWN, look(*KNOWN.partitions.values(), partition(4, by="800")))
    assert (difference.has_news, difference.is_suspicious) == (True, False)


def test_one_that_is_attached_may_hold_rows() -> None:
    difference = compare(KNOWN, look(*KNOWN.partitions.values(), partition(4, born=False)))
    assert names(difference.attached) == [4]
    assert describe(difference, {4}, was_truncated=False) == ()
    assert describe(difference, (), was_truncated=False) == ("public.p4: attached with rows",)


def test_what_lies_below_one_that_is_attached_is_attached() -> None:
    # The partition was made as one, of a table that became a part of the whole with its rows.
    whole = partition(4, born=False, parted=True)
    difference = compare(KNOWN, look(*KNOWN.partitions.values(), whole, partition(5, parent=4)))
    assert names(difference.attached) == [5]


def test_one_that_left_and_came_back() -> None:
    difference = compare(KNOWN, look(partition(2), replace(partition(3), attached_by="801", is_born=False)))
    assert names(difference.returned) == [3]
    before = look(partition(2), partition(4, parted=True), partition(5, parent=4))
    after = look(partition(2), replace(partition(4, parted=True), attached_by="801"), partition(5, parent=4))
    assert names(compare(before, after).returned) == [5]


def test_one_that_is_gone() -> None:
    difference = compare(look(partition(2), partition(4, parted=True)), look())
    # What holds no rows itself has taken none away.
    assert names(difference.gone) == [2]


def test_one_that_is_written_anew() -> None:
    difference = compare(KNOWN, look(partition(2), replace(partition(3), filenode=99)))
    assert (names(difference.rewritten), difference.all_rewritten) == ([3], False)
    # That the whole was truncated would have changed the other one, too.
    assert describe(difference, (), was_truncated=True)


def test_all_of_them_written_anew() -> None:
    after = look(replace(partition(2), filenode=98), replace(partition(3), filenode=99), partition(4))
    difference = compare(KNOWN, after)
    assert difference.all_rewritten
    assert describe(difference, (), was_truncated=True) == ()
    assert describe(difference, (), was_truncated=False)
    # A column of another type has its rows written anew, and what becomes of that is decided elsewhere.
    changed = compare(KNOWN, replace(after, columns="[1]"))
    assert (changed.has_news, changed.is_suspicious) == (True, False)


def test_what_is_kept() -> None:
    kept = replace(KNOWN, was_truncated=True, doubts=("public.p9: detached or dropped",))
    read = PartitionSet.from_json(kept.to_json())
    # How a partition came about counts once.
    assert read == replace(kept, partitions={oid: replace(one, is_born=False) for oid, one in kept.partitions.items()})
    assert not compare(read, KNOWN).has_news
    with pytest.raises(FatalError):
        PartitionSet.from_json('{"lsn": "0/1"}')


def test_doubts_add_up_to_a_bound() -> None:
    doubts = [f"public.p{number}: detached or dropped" for number in range(100)]
    kept = add_doubts(add_doubts(KNOWN, (), doubts[:1]), doubts[:1], doubts)
    assert kept.doubts == tuple(doubts[:10])
    assert "public.p0: detached or dropped; public.p1" in str(reason_of(kept.doubts))
    assert reason_of(()) is None
    many = look(*(partition(number) for number in range(2, 20)))
    [text] = describe(compare(many, look()), (), was_truncated=False)
    assert text == "public.p2, public.p3, public.p4, public.p5, public.p6, 13 more: detached or dropped"
