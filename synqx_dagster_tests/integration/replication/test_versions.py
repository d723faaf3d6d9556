"""Whole lives of a replication between servers of both versions that are tested with."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from synqx_dagster.replication import operations
from synqx_dagster_tests.fix_postgresql import PostgresqlDatabase, PostgresqlServer
from synqx_dagster_tests.integration.replication.replicating import Pair, open_pair
from synqx_dagster_tests.integration.replication.test_follow_targets import start_child

SCHEMA = """
create table orders (id int primary key, customer varchar(20) not null, total numeric(12,2), note text, spare int);
create table lines (order_id int, position int, article text, primary key (order_id, position));
create table parts (id int, y int, v text, primary key (id, y)) partition by range (y);
create table parts_1 partition of parts for values from (0) to (10);
create table whole (id int, v text);
alter table whole replica identity full;
insert into orders select n, 'customer ' || n, n * 1.5, repeat(md5(n::text), 200), n from generate_series(1, 300) n;
insert into lines select n % 300 + 1, n, 'article ' || n from generate_series(1, 600) n;
insert into parts select n, n % 10, 'part ' || n from generate_series(1, 50) n;
insert into whole select n, 'row ' || n from generate_series(1, 50) n;
"""
CHANGES = """
begin;
insert into orders values (1000, 'new', 1, null, 1);
update orders set total = total + 1 where id <= 20;
update orders set id = 2000 where id = 20;
delete from orders where id = 30;
savepoint s; delete from lines; rollback to s;
truncate lines;
insert into lines values (1, 1, 'after');
create table parts_2 partition of parts for values from (10) to (20);
insert into parts values (500, 15, 'in a new one');
update parts set y = 12 where id = 5;
delete from whole where id < 10;
update whole set v = 'changed' where id = 20;
commit;
"""
COLUMNS = """
alter table orders add column since date default '2026-01-01';
alter table orders rename column note to remark;
alter table orders alter column customer type varchar(200);
alter table orders drop column spare;
insert into orders (id, customer, remark) values (5000, repeat('long', 40), 'with all that');
update orders set remark = 'y' where id = 7;
"""
TABLES = ["orders", "lines", "parts", {"name": "whole", "key": ["id"]}]


@pytest.fixture(
    params=[
        pytest.param("15 into 15", marks=pytest.mark.slow),
        "15 into 18",
        pytest.param("18 into 15", marks=pytest.mark.slow),
    ]
)
def pair(
    request: pytest.FixtureRequest,
    postgresql_server: PostgresqlServer,
    postgresql_15_server: PostgresqlServer,
    tmp_path: Path,
) -> Iterator[Pair]:
    servers = {"15": postgresql_15_server, "18": postgresql_server}
    source, target = (servers[version].create_database() for version in request.param.split(" into "))
    source.execute(SCHEMA)
    try:
        with open_pair(source, target, tmp_path / "spill", tables=TABLES, evolution="widen") as found:
            yield found
    finally:
        for database in (source, target):
            database.drop()


def killed_at(pair: Pair, place: str) -> None:
    process = start_child(pair, SYNQX_FAILPOINTS=f"{place}=kill")
    assert process.wait(timeout=120) == -signal.SIGKILL


def assert_equal(pair: Pair) -> None:
    pair.assert_equal("lines")
    pair.assert_equal("parts")
    pair.assert_equal("whole")
    # What was dropped stays in the target.
    columns = [row[0] for row in pair.source.execute(COLUMNS_OF)]
    names = ", ".join(columns)
    assert pair.content("orders", columns=names) == pair.content("orders", where=pair.source, columns=names)


COLUMNS_OF = """
select quote_ident(attname) from pg_attribute
where attrelid = 'orders'::regclass and attnum > 0 and not attisdropped order by attname
"""


def test_a_whole_life(pair: Pair) -> None:
    ends: tuple[PostgresqlDatabase, ...] = (pair.source, pair.target)
    assert operations.create(pair.replication, pair.source_connector, pair.target_connector).made_slot
    killed_at(pair, "after_table_copy")
    pair.source.execute("insert into lines values (0, 0, 'while nobody copied')")
    assert pair.follow().ending == "idle"
    assert_equal(pair)

    pair.source.execute(CHANGES)
    killed_at(pair, "replication_before_commit")
    pair.source.execute(COLUMNS)
    killed_at(pair, "replication_after_commit")
    report = pair.follow()
    assert (report.warnings, pair.status().state) == ((), "following")
    assert_equal(pair)
    assert pair.target.execute("select count(*) from orders where since = '2026-01-01'") == [(301,)]

    operations.drop(pair.replication, pair.source_connector, pair.target_connector)
    assert (pair.slots(), pair.publications()) == ([], [])
    assert ends[1].execute("select count(*) from orders") == [(301,)]
