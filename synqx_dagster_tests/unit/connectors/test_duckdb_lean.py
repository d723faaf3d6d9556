"""DuckDB's bounds while it writes a stream: lower for that long, and as they were afterwards."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa
import pytest

from synqx_dagster.connectors.duckdb_lean import lean
from synqx_dagster.connectors.protocol import ConnectionConfig
from synqx_dagster.connectors.registry import connector_class
from synqx_dagster.model.table import Column, TableName
from synqx_dagster.model.types import DataType

COLUMN = Column("n", DataType("bigint"))
TABLE = TableName("t", "main")


@pytest.fixture
def connection() -> Iterator[Any]:
    with duckdb.connect(":memory:", config={"memory_limit": "1GB", "threads": "3"}) as opened:
        yield opened


def bounds(connection: Any) -> tuple[str, int]:
    sql = "SELECT current_setting('memory_limit'), current_setting('threads')"
    memory_limit, threads = connection.execute(sql).fetchone()
    return memory_limit, threads


def test_a_write_is_bounded_by_its_columns(connection: Any) -> None:
    before = bounds(connection)
    with lean(connection, 16, "1GB", 3):
        narrow = bounds(connection)
    with lean(connection, 116, "1GB", 3):
        wide = bounds(connection)
    assert narrow == ("64.0 MiB", 1)
    assert wide == ("164.0 MiB", 1)
    assert bounds(connection) == before


@pytest.mark.parametrize("limit", ["32MB", "0.05 GB"])
def test_a_smaller_limit_of_the_connection_stays(connection: Any, limit: str) -> None:
    connection.execute(f"SET memory_limit = '{limit}'")
    before = bounds(connection)
    with lean(connection, 16, limit, 3):
        assert bounds(connection)[0] == before[0]
    assert bounds(connection) == before


def test_bounds_come_back_after_a_transaction_that_failed(connection: Any) -> None:
    before = bounds(connection)
    connection.execute("BEGIN")
    with pytest.raises(duckdb.Error), lean(connection, 1, "1GB", 3):
        connection.execute("SELECT CAST('x' AS INTEGER)")
    connection.execute("ROLLBACK")
    assert bounds(connection) == before


def test_what_ends_the_database_is_what_is_told(tmp_path: Path) -> None:
    with duckdb.connect(str(tmp_path / "lake.duckdb")) as connection:
        connection.execute("CREATE TABLE t (n INTEGER)")
        connection.execute("PRAGMA debug_checkpoint_abort = 'before_truncate'")
        with pytest.raises(duckdb.FatalException) as caught, lean(connection, 1, "1GB", 3):
            connection.execute("CHECKPOINT")
    assert caught.value.__context__ is None
    assert "has been invalidated" not in str(caught.value)


def test_threads_without_a_number_are_all_cores_again(connection: Any) -> None:
    with lean(connection, 1, "1GB"):
        assert bounds(connection)[1] == 1
    assert bounds(connection)[1] == bounds(duckdb.connect(":memory:"))[1]


@pytest.mark.parametrize("reads", [False, True])
def test_a_query_of_the_same_file_keeps_what_its_connection_promises(tmp_path: Path, reads: bool) -> None:
    """The rows may come from the very file that is written to."""
    path = tmp_path / "lake.duckdb"
    duckdb.connect(str(path)).close()
    config = ConnectionConfig("lake", "duckdb", database=str(path), options={"threads": 3})
    connector = connector_class("duckdb")(config)  # type: ignore[call-arg]  # every connector takes it
    schema = pa.schema([("n", pa.int64())])
    seen: list[int] = []
    with connector.write() as writer, connector.read() if reads else nullcontext() as reader:
        writer.create_table(TABLE, [COLUMN], ())
        query = "SELECT range AS n FROM range(10000)"
        rows = reader.iter_batches(query, schema, batch_rows=5_000) if reader else None

        def arriving() -> Iterator[pa.RecordBatch]:
            for number in range(2):
                yield next(rows) if rows else pa.record_batch([pa.array([number])], schema=schema)
                seen.append(bounds(writer._connection.cursor())[1])

        assert writer.write_batches(TABLE, [COLUMN], arriving())[0] > 0
    assert set(seen) == {3 if reads else 1}
