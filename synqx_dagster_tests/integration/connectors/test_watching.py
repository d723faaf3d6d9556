"""What connectors tell sensors, at real servers: PostgreSQL's counts, greatest values, and files in a bucket."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from synqx_dagster.connectors.files import FilesConnector
from synqx_dagster.connectors.postgresql import PostgresqlConnector
from synqx_dagster.connectors.protocol import ChangeCounter, ConnectionConfig, FileListing
from synqx_dagster.defs.watching import probe_table
from synqx_dagster.errors import DatabaseError, SourceChangedError
from synqx_dagster.model import Sensor
from synqx_dagster.model.table import TableName

ORDERS = TableName("orders")


def counter_of(connector: PostgresqlConnector, table: TableName = ORDERS) -> str | None:
    return connector.read_change_counter(table, timeout_seconds=30)


def wait_for_another(look: Callable[[], str | None], before: str | None) -> str | None:
    """The server's statistics lag: by a second, and by more on a machine that has much to do."""
    deadline = time.monotonic() + 60
    while (after := look()) == before:
        assert time.monotonic() < deadline, "the count did not move"
        time.sleep(0.2)
    return after


@pytest.mark.parametrize("partitioned", [False, True])
def test_postgresql_counts_every_kind_of_change(postgresql, partitioned):
    if partitioned:
        postgresql.execute("create table orders (id integer, note text) partition by range (id)")
        postgresql.execute("create table orders_1 partition of orders for values from (0) to (100)")
        postgresql.execute("create table orders_2 partition of orders for values from (100) to (200)")
    else:
        postgresql.execute("create table orders (id integer, note text)")
    connector = PostgresqlConnector(postgresql.config())
    try:
        assert isinstance(connector, ChangeCounter)
        seen = counter_of(connector)
        assert seen is not None
        assert counter_of(connector) == seen
        for change in (
            "insert into orders values (1, 'a'), (101, 'b')" if partitioned else "insert into orders values (1, 'a')",
            "update orders set note = 'c'",
            "delete from orders",
            "truncate orders",
        ):
            postgresql.execute(change)
            seen = wait_for_another(lambda: counter_of(connector), seen)
        postgresql.execute("create view seen as select * from orders")
        assert counter_of(connector, TableName("seen")) is None
        assert counter_of(connector, TableName("nothing")) is None
        assert counter_of(connector, TableName("orders", "elsewhere")) is None
    finally:
        connector.close()


def sensor(**fields: Any) -> Sensor:
    defaults = {"type": "source_changed", "connection": "shop", "table": "public.orders", "mapping": "orders"}
    return Sensor(name="changed", **{**defaults, **fields})


def test_the_greatest_value_of_any_type_tells_a_change(postgresql):
    postgresql.execute(
        'create table orders ("Id" numeric(30,10), at timestamptz, tag text, day date, note text default null)'
    )
    connector = PostgresqlConnector(postgresql.config())
    try:
        for column in ("Id", "at", "tag", "day"):
            empty = probe_table(connector, sensor(column=column))
            postgresql.execute("insert into orders values (1.5, now(), 'a', current_date)")
            filled = probe_table(connector, sensor(column=column))
            assert probe_table(connector, sensor(column=column)) == filled != empty
            postgresql.execute("truncate orders")
        with pytest.raises(SourceChangedError, match="has no column 'ID'"):
            probe_table(connector, sensor(column="ID"))
        with pytest.raises(SourceChangedError, match="there is no table"):
            probe_table(connector, sensor(table="nothing"))
    finally:
        connector.close()


def test_files_of_a_bucket_are_listed_with_what_tells_their_content(s3):
    s3.put("in/a.csv", b"id\n1\n")
    s3.put("in/b.txt", b"no")
    s3.put("in/deeper/c.csv", b"id\n")
    connector = FilesConnector(s3.config())
    try:
        assert isinstance(connector, FileListing)
        (first,) = connector.list_source_files("in", "*.csv")
        assert (first.path, first.size) == ("in/a.csv", 5)
        assert connector.list_source_files("in", "*.csv") == [first]
        s3.put("in/a.csv", b"id\n2\n")
        (second,) = connector.list_source_files("in", "*.csv")
        assert second.mark != first.mark
        assert connector.list_source_files("nowhere", "*") == []
    finally:
        connector.close()


def test_files_outside_of_the_root_are_not_listed(tmp_path: Path):
    root = tmp_path / "root"
    root.mkdir()
    (tmp_path / "secret.csv").write_text("x")
    (root / ".hidden.csv").write_text("x")
    (root / "link.csv").symlink_to(tmp_path / "secret.csv")
    connector = FilesConnector(ConnectionConfig("inbox", "files", database=str(root)))
    assert connector.list_source_files("", "*") == []
    for directory in ("..", "a/../..", ".git"):
        with pytest.raises(DatabaseError):
            connector.list_source_files(directory, "*")
