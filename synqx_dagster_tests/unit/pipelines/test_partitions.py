"""Pipelines with partitions: what is wrong with them, and what a run of some reads and replaces."""

from __future__ import annotations

import dataclasses
import sqlite3
from contextlib import closing
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from synqx_dagster.errors import DataError
from synqx_dagster.pipelines.graph import Graph
from synqx_dagster.transfer.result import PartitionSlice, ReadWindow
from synqx_dagster_tests.unit.pipelines.graphs import check, graph, node, pipeline
from synqx_dagster_tests.unit.pipelines.steps import NUMBERS, Bench

DAILY = {"type": "daily", "start": "2024-01-01"}
READ = node("numbers", "extract", partition_column="day")
LOAD = node("loaded", "load", partition_column="day")


def days(first: int, last: int | None = None) -> ReadWindow:
    last = last or first
    start, end = (datetime(2024, 1, number, tzinfo=UTC) for number in (first, last))
    part = PartitionSlice(f"2024-01-{first:02}", f"2024-01-{last:02}", last - first + 1, start, end + timedelta(days=1))
    return ReadWindow(partition=part)


def chain(*nodes: dict[str, Any]) -> Graph:
    return graph(list(nodes), ">".join(item["node_id"] for item in nodes), partitions=DAILY)


@pytest.fixture
def numbers(tmp_path: Any) -> Bench:
    return Bench(tmp_path, *NUMBERS)


def change(bench: Bench, statement: str) -> None:
    with closing(sqlite3.connect(bench.directory / "source.db")) as database:
        database.execute(statement)
        database.commit()


def test_a_run_of_days_reads_and_replaces_them(numbers: Bench) -> None:
    made = chain(READ, {**node("doubled", "transform.derive"), "config": {"columns": {"twice": "n * 2"}}}, LOAD)
    numbers.run(made, "one", window=days(1, 5))
    assert numbers.fetch("select count(*), count(distinct day) from loaded") == [(170, 5)]
    change(numbers, "delete from numbers where day = '2024-01-02' and n > 31")
    change(numbers, "update numbers set word = 'other' where day in ('2024-01-02', '2024-01-03')")
    result = numbers.run(made, "two", window=days(2))["loaded"].load
    assert (result.rows_out, result.rows_deleted) == (2, 34)
    assert numbers.fetch("select day::text, count(*) from loaded where word = 'other' group by day") == [
        ("2024-01-02", 2)
    ]
    assert numbers.fetch("select count(*) from loaded") == [(138,)]


def test_rows_that_belong_to_another_day_are_refused(numbers: Bench) -> None:
    everything = node("numbers", "extract")
    filtered = node("numbers", "extract", partition_column="day")
    # Another extract reads a day, so that the pipeline itself is right.
    made = graph(
        [everything, {**filtered, "node_id": "other"}, node("both", "transform.union"), LOAD],
        "numbers>both>loaded",
        "other>both",
        partitions=DAILY,
    )
    with pytest.raises(DataError, match="966 rows that the nodes have made do not belong to the partition 2024-01-01"):
        numbers.run(_read_twice(made), "one", window=days(1))


def _read_twice(made: Graph) -> Graph:
    """Both extracts read the one table that there is."""
    record = made.nodes["other"].record
    config = {**record.config, "table": "numbers"}
    other = dataclasses.replace(
        made.nodes["other"],
        record=record.model_copy(update={"config": config}),
        config=made.nodes["other"].config.model_copy(update={"table": "numbers"}),
    )
    return dataclasses.replace(made, nodes={**made.nodes, "other": other})


def problems(*nodes: dict[str, Any], **values: Any) -> list[tuple[str, str]]:
    made, found = check(pipeline(list(nodes), ">".join(item["node_id"] for item in nodes), **values))
    assert made is None
    return [(".".join(map(str, problem.path)), problem.message) for problem in found]


def test_what_does_not_fit_partitions_is_refused() -> None:
    plain, load = node("numbers", "extract"), node("loaded", "load")
    assert problems(READ, load) == [
        ("nodes.0.config.partition_column", "'numbers' has a partition_column, and the pipeline has no partitions")
    ]
    assert problems(READ, load, partitions=DAILY) == [
        (
            "nodes.1.config.partition_column",
            "the load 'loaded' would replace its whole table by the rows of some partitions",
        )
    ]
    assert problems(plain, LOAD, partitions=DAILY) == [
        ("partitions", "no extract has a partition_column, so every partition would have the same rows")
    ]
    appended = node("loaded", "load", mode="append")
    assert "would be there twice" in problems(READ, appended, partitions=DAILY)[0][1]
    merged = node("loaded", "load", mode="merge", key=["n"], partition_column="day")
    assert (
        "partition_column, whose partitions are replaced, and mode merge"
        in (problems(READ, merged, partitions=DAILY)[0][1])
    )
    missing = node("loaded", "load", mode="merge", key=["n"], delete_missing=True)
    assert "would delete the rows of all other partitions" in problems(READ, missing, partitions=DAILY)[0][1]
    new = node("numbers", "extract.incremental", cursor={"column": "n"})
    assert "the incremental extract 'numbers' reads what is new" in problems(new, LOAD, partitions=DAILY)[0][1]


def test_a_merge_of_some_days_is_right() -> None:
    made = chain(READ, node("loaded", "load", mode="merge", key=["n"]))
    assert made.pipeline.partitions is not None
