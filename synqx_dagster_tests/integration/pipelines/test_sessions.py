"""How many sessions a step holds of a PostgreSQL connection: as many as the check counts, and no more."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from synqx_dagster.connectors.postgresql import PostgresqlConnector
from synqx_dagster.errors import RetryableError
from synqx_dagster.model import PoolSettings
from synqx_dagster.pipelines.graph import sessions_of
from synqx_dagster_tests.fix_postgresql import PostgresqlDatabase
from synqx_dagster_tests.unit.pipelines.graphs import graph, node
from synqx_dagster_tests.unit.pipelines.steps import NUMBERS, Bench


@contextmanager
def bench_with(directory: Path, database: PostgresqlDatabase, sessions: int) -> Iterator[Bench]:
    """A bench whose connection ``target`` is a PostgreSQL with so many sessions."""
    bench = Bench(directory, *NUMBERS)
    pool = PoolSettings(size=sessions, max_overflow=0, timeout_seconds=1)
    with closing(PostgresqlConnector(replace(database.config(), pool=pool))) as target:
        bench.connectors["target"] = target
        yield bench


def test_an_incremental_load_asks_for_its_watermark_over_the_session_that_it_has(
    tmp_path: Path, postgresql: PostgresqlDatabase
) -> None:
    read = node("numbers", "extract.incremental", cursor={"column": "n"})
    made = graph([read, node("loaded", "load", mode="merge", key=["n"])], "numbers>loaded")
    assert sessions_of(made.steps[0], made.nodes) == {"source": 1, "target": 1}
    with bench_with(tmp_path, postgresql, 1) as bench:
        assert bench.run(made, "one")["loaded"].load.rows_in == 1000
        with closing(sqlite3.connect(tmp_path / "source.db")) as source, source:
            source.execute("insert into numbers values (1000, 'new', '1.00', '2024-01-01', 'canary')")
        result = bench.run(made, "two")["loaded"].load
        # The row at the watermark is read again.
        assert (result.rows_in, result.rows_inserted, result.watermark_after) == (2, 1, "1000")
        # A target that is gone is loaded from the beginning, whatever its ledger says.
        postgresql.execute("drop table loaded")
        assert bench.run(made, "three")["loaded"].load.rows_in == 1001


def test_a_step_takes_a_session_for_each_extract_and_one_for_its_load(
    tmp_path: Path, postgresql: PostgresqlDatabase
) -> None:
    for name in ("a", "b", "c"):
        postgresql.execute(f"create table {name} (n integer)")
        postgresql.execute(f"insert into {name} values (1), (2)")
    extracts = [node(name, "extract", connection="target") for name in ("a", "b", "c")]
    nodes = [*extracts, node("u", "transform.union"), node("loaded", "load")]
    made = graph(nodes, "a>u>loaded", "b>u", "c>u")
    assert sessions_of(made.steps[0], made.nodes) == {"target": 4}
    with bench_with(tmp_path, postgresql, 4) as bench:
        assert bench.run(made)["loaded"].load.rows_out == 6
    stored = graph([{**extract, "stored": True} for extract in extracts] + nodes[3:], "a>u>loaded", "b>u", "c>u")
    assert [sessions_of(step, stored.nodes)["target"] for step in stored.steps] == [1, 1, 1, 1]
    (tmp_path / "one").mkdir()
    with bench_with(tmp_path / "one", postgresql, 1) as bench:
        assert bench.run(stored, "stored")["loaded"].load.rows_out == 6
    (tmp_path / "three").mkdir()
    with bench_with(tmp_path / "three", postgresql, 3) as bench, pytest.raises(RetryableError, match="no session"):
        bench.run(made, "again")
