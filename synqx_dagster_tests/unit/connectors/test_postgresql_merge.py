"""What a merge into PostgreSQL asks the server, by the server's version."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from synqx_dagster.connectors.postgresql_merge import merge_rows, spell_merge
from synqx_dagster.connectors.protocol import MergeSpec, RowChanges
from synqx_dagster.model.table import Column, TableName
from synqx_dagster.model.types import DataType

STAGING, TARGET = TableName("staged", "x"), TableName("t", "x")
COLUMNS = [
    Column("id", DataType("integer")),
    Column("name", DataType("string")),
    Column("n", DataType("integer")),
    Column("at", DataType("timestamp")),
]


class Cursor:
    """A server of some version whose table takes MERGE, has 10 rows, gets 3 and changes 2."""

    def __init__(self, version: int) -> None:
        self.connection = SimpleNamespace(server_version=version)
        self.asked: list[str] = []
        self.rowcount = 5

    def execute(self, sql: str, parameters: object = ()) -> None:
        self.asked.append(sql)

    def fetchone(self) -> tuple[Any, ...]:
        last = self.asked[-1]
        if last.startswith("WITH merged"):
            return 5, 3
        return (13,) if "count(*)" in last else (True,)

    def fetchall(self) -> list[tuple[Any, ...]]:
        return []


@pytest.mark.parametrize(
    ("version", "counts_again"), [(150000, True), (160009, True), (170000, False), (180001, False)]
)
def test_a_server_that_tells_what_it_merged_does_not_count_the_target_again(version: int, counts_again: bool) -> None:
    cursor = Cursor(version)
    changes = merge_rows(cursor, STAGING, TARGET, 1, COLUMNS, MergeSpec(("id",), rows_before=10))
    assert changes == RowChanges(inserted=3, updated=2, total=13)
    assert ('SELECT count(*) FROM "x"."t"' in cursor.asked) == counts_again
    assert sum("MERGE INTO" in sql for sql in cursor.asked) == 1


def test_types_that_are_equal_only_if_they_are_the_same_are_compared_before_whole_rows() -> None:
    differs = spell_merge(frozenset()).differs
    assert differs is not None
    sides = [(f"t.{column.name}", f"s.{column.name}", column) for column in COLUMNS]
    assert differs(sides) == (
        "(t.at IS DISTINCT FROM s.at OR t.id IS DISTINCT FROM s.id OR t.n IS DISTINCT FROM s.n"
        " OR ROW(t.name)::record OPERATOR(pg_catalog.*<>) ROW(s.name)::record)"
    )
    assert differs(sides[2:]) == "(t.at IS DISTINCT FROM s.at OR t.n IS DISTINCT FROM s.n)"
