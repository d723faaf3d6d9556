"""Loads of partitions: exactly their rows are replaced, on every kind of target, whatever happens on the way."""

from __future__ import annotations

import json
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import pytest

from synqx_dagster.connectors.protocol import ConnectionConfig, Connector
from synqx_dagster.errors import BadRowsError, DataError, PlanError, RequestError, TargetMismatchError
from synqx_dagster.model import Mapping
from synqx_dagster.transfer.content import verify_content
from synqx_dagster.transfer.content_plan import ContentRequest
from synqx_dagster.transfer.prepare import plan_load
from synqx_dagster.transfer.result import PartitionSlice
from synqx_dagster_tests.fix_mysql import MysqlDatabase
from synqx_dagster_tests.fix_postgresql import PostgresqlDatabase
from synqx_dagster_tests.integration.transfer.loading import ChildLoad, connect, load, make_mapping, make_schema
from synqx_dagster_tests.integration.transfer.modes import KINDS, Target, make_target

Pair = tuple[Connector, Connector]

SOURCE = """
create table sale (
    id integer primary key, day date not null, at timestamp not null, moment timestamptz not null,
    country varchar(20) not null, store integer not null, amount numeric(10, 2)
);
insert into sale
select i, date '2024-01-01' + i / 10, timestamp '2024-01-01' + interval '1 minute' * (i * 144),
    timestamptz '2024-01-01 00:00+00' + interval '1 minute' * (i * 144),
    (array['de', 'DE', 'fr'])[1 + i % 3], i % 4, i
from generate_series(0, 99) as i;
"""
DAILY = {"type": "daily", "start": "2024-01-01"}

#: For what is the same on every kind of target but for how values are written.
on_two_kinds = pytest.mark.parametrize("target", ["postgresql", "duckdb"], indirect=True)


@pytest.fixture(params=KINDS)
def target(request: pytest.FixtureRequest, tmp_path: Path) -> Target:
    return make_target(request.param, request, tmp_path)


@pytest.fixture
def source(postgresql: PostgresqlDatabase) -> PostgresqlDatabase:
    postgresql.execute(SOURCE)
    return postgresql


@pytest.fixture
def pair(source: PostgresqlDatabase, target: Target) -> Iterator[Pair]:
    connectors = connect(source.config("source")), connect(target.config)
    yield connectors
    for connector in connectors:
        connector.close()


def sale(column: str = "day", partitions: dict[str, Any] | None = None, **fields: Any) -> Mapping:
    given = {"partitions": partitions or DAILY, "partition_column": column, "target_table": "sale"}
    if "source_query" not in fields:
        given["source_table"] = "sale"
    return make_mapping(**{**given, **fields})


def days(first: int, last: int | None = None, zone: str = "UTC") -> PartitionSlice:
    """Days of January 2024."""
    last = last or first
    start = datetime(2024, 1, first, tzinfo=ZoneInfo(zone))
    end = datetime(2024, 1, last, tzinfo=ZoneInfo(zone)) + timedelta(days=1)
    return PartitionSlice(f"2024-01-{first:02}", f"2024-01-{last:02}", last - first + 1, start, end)


def named(*values: str) -> PartitionSlice:
    return PartitionSlice(values[0], values[-1], len(values), values=values)


def ids(target: Target, pair: Pair, where: str = "1 = 1") -> set[int]:
    pair[1].close()
    found = [int(str(number)) for (number,) in target.fetch(f"select id from sale where {where}")]
    assert len(found) == len(set(found)), "rows are there twice"
    return set(found)


# --- what is replaced ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("column", ["day", "at", "moment"])
def test_one_day_is_replaced_and_no_other(column: str, source: PostgresqlDatabase, target: Target, pair: Pair) -> None:
    mapping = sale(column)
    assert load(*pair, mapping, partition=days(1, 10)).rows_out == 100
    assert ids(target, pair) == set(range(100))
    source.execute("delete from sale where id in (10, 25); update sale set amount = -1 where id in (11, 26)")
    source.execute("insert into sale select 1000, day, at, moment, country, store, -2 from sale where id = 12")
    result = load(*pair, mapping, partition=days(2), load_id="load-2")
    assert (result.rows_out, result.rows_deleted) == (10, 10)
    assert ids(target, pair) == set(range(100)) - {10} | {1000}
    assert ids(target, pair, "amount < 0") == {11, 1000}


@on_two_kinds
def test_days_begin_where_the_time_zone_has_midnight(source: PostgresqlDatabase, target: Target, pair: Pair) -> None:
    mapping = sale("moment", {**DAILY, "timezone": "America/New_York"})
    assert load(*pair, mapping, partition=days(3, zone="America/New_York")).rows_out == 10
    expected = "select id from sale where (moment at time zone 'America/New_York')::date = '2024-01-03'"
    assert ids(target, pair) == {number for (number,) in source.execute(expected)}


@on_two_kinds
def test_hours_are_replaced(source: PostgresqlDatabase, target: Target, pair: Pair) -> None:
    mapping = sale("at", {"type": "hourly", "start": "2024-01-01"})
    start = datetime(2024, 1, 1, 2, tzinfo=UTC)
    hours = PartitionSlice("2024-01-01-02:00", "2024-01-01-04:00", 3, start, start + timedelta(hours=3))
    assert load(*pair, mapping, partition=hours).rows_out == 2
    assert ids(target, pair) == {1, 2}


def test_a_text_is_the_partition_of_its_own_characters(source: PostgresqlDatabase, target: Target, pair: Pair) -> None:
    mapping = sale("country", {"type": "static", "values": ["de", "DE", "fr"]})
    load(*pair, mapping, partition=named("de", "DE"))
    assert ids(target, pair) == {number for number in range(100) if number % 3 != 2}
    source.execute("delete from sale where id < 10")
    load(*pair, mapping, partition=named("de"), load_id="load-2")
    assert ids(target, pair) == {number for number in range(100) if number % 3 == 1 or (number % 3 == 0 and number > 9)}


HOSTILE = [
    "what?",
    "100%",
    "it's",
    "a:b",
    'say "x"',
    "back\\slash",
    "ß",
    "ẞ",
    "ss",
    "café",
    "cafe\u0301",
    "日本",
    "-- x",
]


def test_hostile_texts_name_partitions(source: PostgresqlDatabase, target: Target, pair: Pair) -> None:
    for number, text in enumerate(HOSTILE):
        source.execute(
            "update sale set country = '" + text.replace("'", "''") + f"' where id % {len(HOSTILE)} = {number}"
        )
    mapping = sale("country", {"type": "static", "values": HOSTILE})
    load(*pair, mapping, partition=named(*HOSTILE))
    source.execute("update sale set amount = -1")
    for number, text in enumerate(HOSTILE):
        load(*pair, mapping, partition=named(text), load_id=f"load-of-{number}")
        assert ids(target, pair, "amount < 0") == {one for one in range(100) if one % len(HOSTILE) <= number}
    assert ids(target, pair) == set(range(100))


@on_two_kinds
def test_whole_numbers_name_partitions(source: PostgresqlDatabase, target: Target, pair: Pair) -> None:
    mapping = sale("store", {"type": "static", "values": [0, 1, 2, 3]})
    load(*pair, mapping, partition=named("1", "2"))
    assert ids(target, pair) == {number for number in range(100) if number % 4 in (1, 2)}


@on_two_kinds
def test_a_partition_that_the_source_has_emptied_becomes_empty(
    source: PostgresqlDatabase, target: Target, pair: Pair
) -> None:
    load(*pair, sale(), partition=days(1, 3))
    source.execute("delete from sale where day = '2024-01-02'")
    assert load(*pair, sale(), partition=days(2), load_id="load-2").rows_deleted == 10
    assert ids(target, pair) == {*range(10), *range(20, 30)}


@on_two_kinds
def test_what_others_keep_in_the_table_stays(source: PostgresqlDatabase, target: Target, pair: Pair) -> None:
    load(*pair, sale(), partition=days(1))
    pair[1].close()
    target.fetch("create table kept as select * from sale")
    target.fetch("update kept set id = 500 + id, day = '2023-12-31'")
    target.fetch("insert into sale select * from kept")
    load(*pair, sale(), partition=days(1), load_id="load-2")
    assert ids(target, pair) == {*range(10), *range(500, 510)}


def test_an_attempt_that_was_killed_leaves_the_old_rows_and_the_next_one_is_exact(
    source: PostgresqlDatabase, target: Target, pair: Pair
) -> None:
    load(*pair, sale(), partition=days(1, 5))
    source.execute("update sale set amount = -1 where id < 20; delete from sale where id = 15")
    pair[1].close()
    for number, place in enumerate(["after_copy", "after_publish", "before_commit"]):
        child = ChildLoad(
            source.config("source"),
            target.config,
            sale(),
            failpoints=f"{place}=kill",
            load_id="load-2",
            run_id=f"run-{number}",
            partition=days(2),
        )
        assert child.wait() is None
        assert ids(target, pair) == set(range(50))
        assert ids(target, pair, "amount < 0") == set()
    load(*pair, sale(), load_id="load-2", run_id="run-9", partition=days(2))
    assert ids(target, pair) == set(range(50)) - {15}
    assert ids(target, pair, "amount < 0") == set(range(10, 20)) - {15}
    assert load(*pair, sale(), load_id="load-2", run_id="run-10", partition=days(2)).already_committed


def test_bad_rows_of_a_partition_are_forgotten_with_it(source: PostgresqlDatabase, target: Target, pair: Pair) -> None:
    source.execute("update sale set amount = null where id in (5, 15, 25)")
    mapping = sale(on_bad_row="quarantine")
    schema = make_schema(
        id="integer",
        day="date",
        at="timestamp",
        moment="timestamptz",
        country="string",
        store="integer",
        amount={"data_type": "decimal(10, 2)", "nullable": False},
    )
    assert load(*pair, mapping, schema, partition=days(1, 3)).rows_quarantined == 3
    source.execute("update sale set amount = 1 where id in (5, 15)")
    load(*pair, mapping, schema, partition=days(2), load_id="load-2")
    pair[1].close()
    left = [json.loads(str(row))["id"] for (row,) in target.fetch("select source_row from _synqx_quarantine")]
    assert sorted(left) == [5, 25]
    assert ids(target, pair) == set(range(30)) - {5, 25}


@pytest.mark.mysql
@pytest.mark.parametrize("charset", ["latin1", "utf16"])
@pytest.mark.parametrize("kind", ["sqlite", "mysql"])
def test_a_text_is_itself_in_every_character_set(
    kind: str, charset: str, mysql: MysqlDatabase, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    declared = f"(id int primary key, country varchar(20) character set {charset} not null)"
    mysql.execute(f"create table there {declared}")
    mysql.execute("insert into there values (1, 'ä'), (2, 'a'), (3, 'Ä'), (4, 'ä')")
    target = make_target(kind, request, tmp_path)
    if kind == "mysql":
        mysql.execute(f"create table sale {declared}")
    ends = connect(mysql.config("source")), connect(target.config)
    mapping = sale("country", {"type": "static", "values": ["ä", "a", "Ä"]}, source_table="there")
    assert load(*ends, mapping, partition=named("ä", "a", "Ä")).rows_out == 4
    mysql.execute("update there set id = 5 where id = 4")
    again = load(*ends, mapping, partition=named("ä"), load_id="load-2")
    assert (again.rows_out, again.rows_deleted) == (2, 2)
    ends[0].close()
    assert ids(target, ends) == {1, 2, 3, 5}


@pytest.mark.parametrize("kind", ["postgresql", pytest.param("mysql", marks=pytest.mark.mysql), "duckdb"])
def test_ranges_of_a_partition_survive_a_crash(
    kind: str, source: PostgresqlDatabase, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    source.execute(
        "insert into sale select i, '2024-02-01', timestamp '2024-02-01', now(), 'fr', 0, i"
        " from generate_series(1001, 6000) as i; analyze sale"
    )
    target = make_target(kind, request, tmp_path)
    mapping = sale(range_rows=1_000)
    start = datetime(2024, 2, 1, tzinfo=UTC)
    day = PartitionSlice("2024-02-01", "2024-02-01", 1, start, start + timedelta(days=1))
    child = ChildLoad(source.config("source"), target.config, mapping, failpoints="after_range=kill", partition=day)
    assert child.wait() is None
    ends = connect(source.config("source")), connect(target.config)
    try:
        assert load(*ends, mapping, run_id="run-2", partition=day).rows_out == 5_000
        assert ids(target, ends) == set(range(1001, 6001))
    finally:
        for connector in ends:
            connector.close()


def test_the_content_of_partitions_is_compared_by_itself(
    source: PostgresqlDatabase, target: Target, pair: Pair
) -> None:
    load(*pair, sale(), partition=days(1, 3))

    def compare(part: PartitionSlice) -> bool:
        return verify_content(ContentRequest(sale(), None, *pair, partition=part)).passed

    assert compare(days(1, 3))
    assert not compare(days(3, 4))
    pair[1].close()
    target.fetch("update sale set amount = 77 where id = 5")
    assert not compare(days(1))
    assert compare(days(2, 3))


# --- what is refused ------------------------------------------------------------------------------------------------


def refused(pair: Pair, mapping: Mapping, part: PartitionSlice | None, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        load(*pair, mapping, partition=part)


@pytest.fixture
def to_postgresql(source: PostgresqlDatabase) -> Iterator[Pair]:
    connectors = connect(source.config("source")), connect(source.create_database().config("target"))
    yield connectors
    for connector in connectors:
        connector.close()


def test_a_load_must_say_which_partitions(to_postgresql: Pair) -> None:
    refused(to_postgresql, sale(), None, RequestError, "loaded by partitions.*synqx backfill|which")
    plain = make_mapping(source_table="sale", target_table="sale")
    refused(to_postgresql, plain, days(1), RequestError, "has no partitions")


def test_rows_of_no_partition_are_refused(source: PostgresqlDatabase, to_postgresql: Pair) -> None:
    source.execute("alter table sale alter day drop not null; update sale set day = null where id = 3")
    refused(to_postgresql, sale(), days(1), DataError, "'day' has no value in 1 row of the source")


@pytest.mark.parametrize(
    ("column", "partitions", "part", "message"),
    [
        ("amount", DAILY, days(1), r"holds decimal\(10,2\); daily partitions need a date"),
        ("country", DAILY, days(1), "daily partitions need a date"),
        ("day", {"type": "hourly", "start": "2024-01-01"}, days(1), "holds days, and hourly partitions are parts"),
        ("at", {"type": "hourly", "start": "2024-01-01", "timezone": "Europe/Berlin"}, days(1), "shows an hour twice"),
        ("day", {"type": "static", "values": ["a"]}, named("a"), "static partitions need a text"),
        ("store", {"type": "static", "values": ["a"]}, named("a"), "partition 'a' is no value of the column 'store'"),
    ],
)
def test_columns_that_do_not_fit_are_refused_before_anything_is_touched(
    column: str, partitions: dict[str, Any], part: PartitionSlice, message: str, to_postgresql: Pair
) -> None:
    refused(to_postgresql, sale(column, partitions), part, PlanError, message)
    with to_postgresql[1].write() as session:
        assert session.find_columns(sale().target) is None


def test_another_type_in_the_target_is_refused(source: PostgresqlDatabase, to_postgresql: Pair) -> None:
    mapping = sale(
        column_mappings=[
            {"type": "direct", "source_columns": ["id"], "target_fields": ["id"]},
            {"type": "direct", "source_columns": ["at"], "target_fields": ["day"]},
        ]
    )
    with pytest.raises(PlanError, match="is timestamp in the source and date in the target"):
        load(*to_postgresql, mapping, make_schema(id="integer", day="date"), partition=days(1))


def test_a_row_that_has_moved_to_another_partition_is_refused_by_its_key(
    source: PostgresqlDatabase, target: Target, pair: Pair
) -> None:
    load(*pair, sale(), partition=days(1, 3))
    source.execute("update sale set day = '2024-01-03' where id = 5")
    with pytest.raises((BadRowsError, DataError)):
        load(*pair, sale(), partition=days(3), load_id="load-2")
    assert ids(target, pair) == set(range(30))
    # Both together are what the source has.
    load(*pair, sale(), partition=days(1, 3), load_id="load-3")
    assert ids(target, pair) == set(range(30))


def test_files_cannot_be_replaced_in_part(source: PostgresqlDatabase, tmp_path: Path) -> None:
    files = ConnectionConfig(name="lake", db_type="files", database=str(tmp_path), options={"format": "parquet"})
    ends = connect(source.config("source")), connect(files)
    refused(ends, sale(), days(1), PlanError, "a files target cannot replace some of its rows")
    for connector in ends:
        connector.close()


# --- rows of other tables ------------------------------------------------------------------------------------------


def test_rows_to_which_others_refer_are_kept_where_they_stay(source: PostgresqlDatabase) -> None:
    target = source.create_database()
    ends = connect(source.config("source")), connect(target.config("target"))
    load(*ends, sale(), partition=days(1, 3))
    target.execute(
        "create table refund (sale integer references sale on delete cascade); insert into refund values (11), (12)"
    )
    source.execute("delete from sale where id = 12; update sale set amount = -1 where id in (11, 21)")
    load(*ends, sale(), load_id="load-2", partition=days(2))
    assert target.execute("select sale from refund") == [(11,)]
    assert target.execute("select id from sale where amount < 0") == [(11,)]
    assert target.execute("select count(*) from sale") == [(29,)]
    source.execute("update sale set day = '2024-01-02' where id = 21")
    with pytest.raises(BadRowsError):
        load(*ends, sale(), load_id="load-3", partition=days(2))
    assert target.execute("select day::text from sale where id = 21") == [("2024-01-03",)]
    target.execute("alter table sale drop constraint sale_pkey cascade; alter table sale add unique (id)")
    target.execute("alter table refund add foreign key (sale) references sale (id) on delete cascade")
    source.execute("update sale set day = '2024-01-03' where id = 21")
    with pytest.raises(TargetMismatchError, match="would change refund through foreign keys"):
        load(*ends, sale(), load_id="load-4", partition=days(2))
    for connector in ends:
        connector.close()


def test_a_plan_says_what_is_replaced(to_postgresql: Pair) -> None:
    plan = plan_load(sale(), None, *to_postgresql)
    assert plan.strategy == "stage, then replace the partitions' rows in one postgresql transaction with the ledger"
