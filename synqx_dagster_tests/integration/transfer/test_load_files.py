"""Loads into files by every mode: the engine's SQL runs on them as on a database."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa
import pytest

from synqx_dagster.connectors.protocol import ConnectionConfig, Connector
from synqx_dagster.model import Schema
from synqx_dagster.model.table import TableName
from synqx_dagster_tests.integration.transfer.loading import connect, load, make_mapping


class Source:
    """A DuckDB file as a source."""

    def __init__(self, path: Path) -> None:
        self._path = str(path)
        self.connector: Connector = connect(ConnectionConfig("source", "duckdb", database=self._path))

    def execute(self, sql: str) -> None:
        with duckdb.connect(self._path) as connection:
            connection.execute(sql)


@pytest.fixture
def source(tmp_path: Path) -> Source:
    found = Source(tmp_path / "source.duckdb")
    found.execute(
        "create table customer as select i::integer as id, 'name ' || i as name, i::decimal(9,2) as balance"
        " from range(5) r(i)"
    )
    return found


@pytest.fixture(params=["parquet", "csv", "jsonl"])
def target(request: pytest.FixtureRequest, tmp_path: Path) -> Connector:
    config = ConnectionConfig(
        "target", "files", database=str(tmp_path / "out"), options={"format": request.param, "threads": 1}
    )
    return connect(config)


def rows_of(target: Connector, columns: str, table: str = "customer") -> list[tuple[Any, ...]]:
    with target.write() as session:
        return session.fetch_all(f"SELECT {columns} FROM {target.qualify(TableName(table))} ORDER BY ALL")


def test_merge_changes_adds_and_deletes(source: Source, target: Connector) -> None:
    mapping = make_mapping(
        source_table="customer", target_table="customer", mode="merge", key=["id"], delete_missing=True
    )
    assert load(source.connector, target, mapping, load_id="a").rows_inserted == 5
    source.execute("update customer set name = 'other', balance = 7.5 where id = 1")
    source.execute("delete from customer where id = 2; insert into customer values (9, 'new', 0)")
    result = load(source.connector, target, mapping, load_id="b")
    assert (result.rows_inserted, result.rows_updated, result.rows_deleted) == (1, 1, 1)
    assert rows_of(target, "id, name, balance::varchar") == [
        (0, "name 0", "0.00"),
        (1, "other", "7.50"),
        (3, "name 3", "3.00"),
        (4, "name 4", "4.00"),
        (9, "new", "0.00"),
    ]
    result = load(source.connector, target, mapping, load_id="c")
    assert (result.rows_inserted, result.rows_updated, result.rows_deleted) == (0, 0, 0)


def test_history_keeps_the_versions(source: Source, target: Connector) -> None:
    mapping = make_mapping(source_table="customer", target_table="customer", mode="scd2", key=["id"])
    load(source.connector, target, mapping, load_id="a")
    source.execute("update customer set name = 'other' where id = 1")
    load(source.connector, target, mapping, load_id="b")
    load(source.connector, target, mapping, load_id="c")
    assert rows_of(target, "id, name, is_current, valid_to IS NULL")[1:3] == [
        (1, "name 1", False, False),
        (1, "other", True, True),
    ]
    assert len(rows_of(target, "id")) == 6


def test_many_bad_rows_lie_in_a_file_beside_the_document(source: Source, target: Connector, tmp_path: Path) -> None:
    source.execute("create table noisy as select i::integer as id, repeat('x', 200) as amount from range(3000) r(i)")
    schema = Schema.model_validate(
        {
            "name": "noisy",
            "columns": [{"name": "id", "data_type": "integer"}, {"name": "amount", "data_type": "integer"}],
        }
    )
    mapping = make_mapping(
        source_table="noisy", target_table="noisy", target_schema="noisy", on_bad_row="quarantine", mode="append"
    )
    for number in range(2):
        result = load(source.connector, target, mapping, schema, load_id=f"load-{number}")
        assert (result.rows_out, result.rows_quarantined) == (0, 3000)
    assert rows_of(target, "count(*), count(DISTINCT load_id)", "_synqx_quarantine") == [(6000, 2)]
    own = [path.name for path in (tmp_path / "out" / "_synqx").glob("*.parquet")]
    assert len(own) == 1, "the file of the first load is gone"
    document = json.loads((tmp_path / "out" / "_synqx" / "state.json").read_text())
    assert document["own_tables"]["_synqx_quarantine"]["rows"] == []
    assert document["journal"] is None


def test_files_are_a_source_like_any_other(source: Source, target: Connector, tmp_path: Path) -> None:
    load(source.connector, target, make_mapping(source_table="customer", target_table="customer"))
    warehouse = connect(ConnectionConfig("w", "duckdb", database=str(tmp_path / "warehouse.duckdb")))
    query = "select id, upper(name) as name, balance from customer where id > 2"
    result = load(target, warehouse, make_mapping(source_query=query, target_table="copies"))
    assert result.rows_out == 2
    with warehouse.read() as session:
        columns = session.find_columns(TableName("copies"))
        assert columns is not None
        assert [str(column.data_type) for column in columns] == ["integer", "string", "decimal(9,2)"]
        schema = pa.schema([("name", pa.string())])
        batches = list(session.iter_batches("SELECT name FROM copies ORDER BY id", schema, batch_rows=10))
    assert [row for batch in batches for row in batch.column(0).to_pylist()] == ["NAME 3", "NAME 4"]
