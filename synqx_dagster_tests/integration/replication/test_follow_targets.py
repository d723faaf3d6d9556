"""Whole runs into each kind of target, and runs that are killed: what arrives is what the source has, once."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import duckdb
import pytest

from synqx_dagster.connectors.duckdb import DuckdbConnector
from synqx_dagster.connectors.mysql import MysqlConnector
from synqx_dagster.connectors.protocol import ConnectionConfig
from synqx_dagster.errors import PlanError
from synqx_dagster.replication import operations
from synqx_dagster_tests.fix_mysql import MysqlDatabase
from synqx_dagster_tests.fix_postgresql import PostgresqlDatabase
from synqx_dagster_tests.integration.replication.replicating import Pair, open_pair

SCHEMA = """
create table orders (id int primary key, customer text not null, total numeric(12,2), at timestamptz);
insert into orders select n, 'Kunde ä' || n, n * 1.5, timestamptz '2026-01-01 00:00+00' + n * interval '1 hour'
    from generate_series(1, 200) n;
"""
CHANGES = """
insert into orders values (1000, 'new', 1, null);
update orders set total = total + 1 where id <= 10;
update orders set id = 2000 where id = 20;
delete from orders where id = 30;
"""
#: The same text at both ends.
TEXTS = "select id, customer, cast(total as varchar(20)) from orders order by id"


@pytest.fixture
def lake(tmp_path: Path) -> Path:
    return tmp_path / "lake.duckdb"


def duckdb_rows(path: Path, sql: str) -> list[tuple[Any, ...]]:
    with duckdb.connect(str(path), read_only=True) as database:
        return database.execute(sql).fetchall()


def test_into_duckdb(postgresql: PostgresqlDatabase, lake: Path, tmp_path: Path) -> None:
    postgresql.execute(SCHEMA)
    connector = DuckdbConnector(ConnectionConfig("warehouse", "duckdb", database=str(lake)))
    for mode in ("mirror", "soft_delete", "history"):
        values = {"mode": mode, "target_naming": {"table": f"{{table}}_{mode}"}, "slot": f"s_{postgresql.name}_{mode}"}
        with open_pair(postgresql, lake, tmp_path, mode, connector=connector, publication=mode, **values) as pair:
            pair.follow()
            postgresql.execute("insert into orders values (5000, 'x', 1, null); delete from orders where id = 5000")
            pair.follow()
    assert duckdb_rows(lake, TEXTS.replace("orders", "orders_mirror")) == postgresql.execute(TEXTS)
    assert duckdb_rows(lake, "select count(*), sum(cast(is_deleted as int)) from orders_soft_delete") == [(201, 1)]
    counts = "select change_operation, count(*) from orders_history group by 1 order by 1"
    assert duckdb_rows(lake, counts) == [("copy", 200), ("delete", 1), ("insert", 1)]


def test_into_mysql(postgresql: PostgresqlDatabase, mysql: MysqlDatabase, tmp_path: Path) -> None:
    postgresql.execute(SCHEMA)
    connector = MysqlConnector(mysql.config())
    for mode in ("mirror", "soft_delete", "history"):
        values = {"mode": mode, "target_naming": {"table": f"{{table}}_{mode}"}, "slot": f"s_{postgresql.name}_{mode}"}
        with open_pair(postgresql, mysql, tmp_path, mode, connector=connector, publication=mode, **values) as pair:
            pair.follow()
            postgresql.execute("insert into orders values (5000, 'x', 1, null); delete from orders where id = 5000")
            pair.follow()
            if mode == "soft_delete":
                operations.resync(pair.replication, pair.source_connector, pair.target_connector)
                pair.follow()
    shown = [(number, text, str(total)) for number, text, total in postgresql.execute(TEXTS)]
    found = mysql.execute("select id, customer, cast(total as char) from orders_mirror order by id")
    assert [(number, text, str(total)) for number, text, total in found] == shown
    (count, deleted), *_ = mysql.execute("select count(*), sum(is_deleted) from orders_soft_delete")
    assert (int(count), int(deleted)) == (201, 1)
    counts = mysql.execute("select change_operation, count(*) from orders_history group by 1 order by 1")
    assert [(str(word), int(number)) for word, number in counts] == [("copy", 200), ("delete", 1), ("insert", 1)]


def test_columns_filters_and_column_mappings_hold_for_copy_and_stream(
    postgresql: PostgresqlDatabase, tmp_path: Path
) -> None:
    postgresql.execute(SCHEMA)
    tables = [
        {"name": "orders", "columns": ["id", "customer"], "where": "id < 100", "target": "few"},
    ]
    target = postgresql.create_database()
    with open_pair(postgresql, target, tmp_path, tables=tables) as pair:
        pair.follow()
        assert target.execute("select count(*), max(id) from few") == [(99, 99)]
        # Into the filter, out of it, and beside it.
        postgresql.execute("update orders set id = 50000 where id = 1; update orders set id = 0 where id = 150")
        postgresql.execute("insert into orders values (700, 'far', 1, null)")
        pair.follow()
        pair.assert_equal("(select id, customer from orders where id < 100) o", "few")
    tables = [
        {
            "name": "orders",
            "target": "mapped",
            "column_mappings": [
                {"type": "direct", "source_columns": ["id"], "target_fields": ["number"]},
                {"type": "expression", "expression": "id + 1", "target_fields": ["next"]},
                {"type": "constant", "value": "shop", "target_fields": ["origin"]},
            ],
        }
    ]
    values = {"tables": tables, "slot": f"s2_{postgresql.name}", "publication": "p2"}
    with open_pair(postgresql, target, tmp_path, "second", **values) as pair:
        pair.follow()
        postgresql.execute(CHANGES)
        pair.follow()
        wanted = "(select id as number, id + 1 as next, 'shop' as origin from orders) o"
        pair.assert_equal(wanted, "mapped")


def test_an_expression_that_only_the_source_computes_is_refused_before_a_row_is_copied(
    postgresql: PostgresqlDatabase, tmp_path: Path
) -> None:
    postgresql.execute(SCHEMA)
    mappings = [
        {"type": "direct", "source_columns": ["id"], "target_fields": ["id"]},
        {"type": "expression", "expression": "upper(customer)", "target_fields": ["name"]},
    ]
    target = postgresql.create_database()
    with open_pair(postgresql, target, tmp_path, tables=[{"name": "orders", "column_mappings": mappings}]) as pair:
        with pytest.raises(PlanError, match="only the source could compute"):
            pair.follow()
        made = operations.create(pair.replication, pair.source_connector, pair.target_connector)
        assert [str(problem.table) for problem in made.source.problems] == ["public.orders"]
        assert (pair.slots(), pair.publications()) == ([], [])
        assert target.execute("select count(*) from pg_tables where tablename = 'orders'") == [(0,)]


# --- killed ---------------------------------------------------------------------------------------------------------

CHILD = """
import pickle, sys
from synqx_dagster.replication.follow import follow
from synqx_dagster.replication.progress import FollowRequest
from synqx_dagster.connectors.postgresql import PostgresqlConnector
source, target, replication, spill = pickle.loads(bytes.fromhex(sys.argv[1]))
follow(FollowRequest(replication, PostgresqlConnector(source), PostgresqlConnector(target), "child", spill))
"""


@pytest.fixture
def pair(postgresql: PostgresqlDatabase, tmp_path: Path) -> Iterator[Pair]:
    postgresql.execute(
        "create table t (id int primary key, v int); insert into t select n, 0 from generate_series(1, 500) n"
    )
    with open_pair(postgresql, postgresql.create_database(), tmp_path, mode="history") as found:
        yield found


def start_child(pair: Pair, **environ: str) -> subprocess.Popen[bytes]:
    import pickle

    values = (pair.source.config("origin"), pair.target.config("warehouse"), pair.replication, pair.spill)
    return subprocess.Popen(
        [sys.executable, "-W", "ignore", "-c", textwrap.dedent(CHILD), pickle.dumps(values).hex()],
        env={**os.environ, **environ},
    )


#: Each change of `t` adds one to `v` of its row, so what a history must hold can be counted.
_WRITTEN = "select coalesce(sum(v), 0) from t"
_RECORDED = "select count(*), count(distinct (change_lsn, change_ordinal)) from t where change_operation = 'update'"


@pytest.mark.parametrize(
    "place",
    [
        "replication_before_slot",
        "replication_slot_made",
        "after_publish",
        "after_commit",
        "after_table_copy",
        "replication_read",
        "replication_before_commit",
        "replication_after_commit",
        "replication_before_confirm",
    ],
)
def test_killed_anywhere_each_change_is_there_once(pair: Pair, place: str) -> None:
    if place.startswith("replication_") and "slot" not in place:
        pair.follow()
    pair.source.execute("update t set v = v + 1 where id <= 50")
    process = start_child(pair, SYNQX_FAILPOINTS=f"{place}=kill")
    assert process.wait(timeout=120) == -signal.SIGKILL
    pair.source.execute("update t set v = v + 1 where id <= 20")
    pair.follow()
    written = pair.source.execute(_WRITTEN)[0][0]
    newest = pair.target.execute(
        "select id, v from (select distinct on (id) * from t order by id, change_lsn desc,"
        " change_ordinal desc) n order by id"
    )
    assert newest == pair.source.execute("select id, v from t order by id")
    copied = pair.target.execute("select coalesce(sum(v), 0) from t where change_operation = 'copy'")[0][0]
    count, distinct = pair.target.execute(_RECORDED)[0]
    assert (count, distinct) == (written - copied, written - copied)
    assert pair.slots() == [pair.replication.slot_name]


@pytest.mark.slow
def test_killed_at_random_moments_each_change_is_there_once(pair: Pair) -> None:
    chance = random.Random(6)
    for _ in range(12):
        process = start_child(pair)
        for _ in range(chance.randrange(1, 6)):
            pair.source.execute("update t set v = v + 1 where id <= %s", (chance.randrange(1, 200),))
        try:
            process.wait(timeout=chance.uniform(0.5, 4.0))
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait(timeout=30)
    pair.follow()
    written = pair.source.execute(_WRITTEN)[0][0]
    copied = pair.target.execute("select coalesce(sum(v), 0) from t where change_operation = 'copy'")[0][0]
    count, distinct = pair.target.execute(_RECORDED)[0]
    assert (count, distinct) == (written - copied, written - copied)
    assert pair.slots() == [pair.replication.slot_name]
