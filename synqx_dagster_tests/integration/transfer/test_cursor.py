"""Loads that read only what is new: nothing is lost, nothing is doubled, whatever the source does meanwhile."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from synqx_dagster.connectors.protocol import ConnectionConfig, Connector
from synqx_dagster.errors import DataError, PlanError, SourceChangedError
from synqx_dagster.model import Mapping
from synqx_dagster.transfer.load import LoadResult, run_load
from synqx_dagster.transfer.prepare import plan_load
from synqx_dagster.transfer.result import LoadRequest, ReadWindow
from synqx_dagster_tests.fix_mysql import MysqlDatabase
from synqx_dagster_tests.fix_postgresql import PostgresqlDatabase
from synqx_dagster_tests.integration.transfer.loading import connect, make_mapping

EVENTS = "create table events (id integer not null, at timestamptz not null, body text)"


class Loads:
    """Loads of one mapping after another, each a new one."""

    def __init__(self, source: Connector, target: Connector, mapping: Mapping) -> None:
        self.source, self.target, self.mapping = source, target, mapping
        self.number = 0

    def run(self, **window: object) -> LoadResult:
        self.number += 1
        name = f"load-{self.number}"
        asked = ReadWindow(**window)  # type: ignore[arg-type]
        return run_load(LoadRequest(self.mapping, None, self.source, self.target, name, name, window=asked))


@pytest.fixture
def target_config(tmp_path: Path) -> ConnectionConfig:
    return ConnectionConfig(name="target", db_type="sqlite", database=str(tmp_path / "target.sqlite"))


@pytest.fixture
def connectors(
    postgresql: PostgresqlDatabase, target_config: ConnectionConfig
) -> Iterator[tuple[Connector, Connector]]:
    postgresql.execute(EVENTS)
    pair = connect(postgresql.config("source")), connect(target_config)
    yield pair
    for connector in pair:
        connector.close()


def events(**fields: object) -> Mapping:
    return make_mapping(**{"source_table": "events", "target_table": "events", "mode": "append", **fields})


def ids(config: ConnectionConfig) -> list[int]:
    with closing(sqlite3.connect(str(config.database))) as connection:
        return [number for (number,) in connection.execute("select id from events order by id")]


def add(database: PostgresqlDatabase, *rows: tuple[int, str]) -> None:
    for number, at in rows:
        database.execute(f"insert into events values ({number}, '{at}', 'row {number}')")


def test_append_holds_the_newest_value_back_until_a_newer_one_comes(
    postgresql: PostgresqlDatabase, connectors: tuple[Connector, Connector], target_config: ConnectionConfig
) -> None:
    loads = Loads(*connectors, events(cursor={"column": "at"}))
    add(postgresql, (1, "2024-01-01 10:00+00"), (2, "2024-01-01 11:00+00"))
    first = loads.run()
    assert (first.rows_out, first.watermark_before, first.watermark_after) == (1, None, "2024-01-01 11:00:00+00")
    # A row at the watermark itself, which a bound of "after" would lose and one of "from" double.
    add(postgresql, (3, "2024-01-01 11:00+00"), (4, "2024-01-01 12:00:00.000001+00"))
    second = loads.run()
    assert (second.rows_out, second.watermark_before) == (2, "2024-01-01 11:00:00+00")
    assert ids(target_config) == [1, 2, 3]
    assert loads.run().rows_out == 0
    add(postgresql, (5, "2024-01-01 12:00:00.000002+00"))
    assert loads.run().rows_out == 1
    assert ids(target_config) == [1, 2, 3, 4]


def test_append_with_a_lag_waits_for_late_rows(
    postgresql: PostgresqlDatabase, connectors: tuple[Connector, Connector], target_config: ConnectionConfig
) -> None:
    mapping = events(cursor={"column": "at", "lag_seconds": 3600})
    loads = Loads(*connectors, mapping)
    add(postgresql, (1, "2024-01-01 10:00+00"), (2, "2024-01-01 12:00+00"))
    assert loads.run().rows_out == 1
    add(postgresql, (3, "2024-01-01 11:00+00"), (4, "2024-01-01 14:00+00"))
    # A changed lag must not change which rows the last load had left.
    loads.mapping = mapping.model_copy(update={"cursor": mapping.cursor.model_copy(update={"lag_seconds": 60})})  # type: ignore[union-attr]
    assert loads.run().rows_out == 2
    assert ids(target_config) == [1, 2, 3]


@pytest.mark.parametrize(
    ("kind", "values"),
    [
        ("integer", ["1", "2", "10"]),
        ("bigint", ["-5", "0", "9223372036854775806", "9223372036854775807"]),
        (
            "numeric",
            ["0.000000000000000000001", "0.000000000000000000002", "12345678901234567890123456789012345678901"],
        ),
        ('text collate "C"', ["", "a", "a'b\\", "aé", "😀%s{}?"]),
        ("date", ["0044-03-15 BC", "2024-02-29", "2024-03-01"]),
        ("timestamp", ["2024-02-29 12:00:00", "2024-02-29 12:00:00.000001", "2024-02-29 12:00:00.1"]),
        ("timestamptz", ["2024-10-27 00:30+00", "2024-10-27 01:30+00", "2024-10-27 01:30:00.5+00"]),
        ("uuid", ["00000000-0000-0000-0000-000000000001", "ffffffff-0000-0000-0000-000000000001"]),
        ("double precision", ["-1e300", "0.1", "0.30000000000000004", "1e300"]),
        ("interval", ["1 second", "1 day", "1 month"]),
        ("char(5)", ["a", "b"]),
    ],
)
def test_values_of_every_ordered_type_go_on_exactly_where_they_were(
    postgresql: PostgresqlDatabase, target_config: ConnectionConfig, kind: str, values: list[str]
) -> None:
    postgresql.execute(f"create table typed (id integer, c {kind} primary key)")
    source, target = connect(postgresql.config("source")), connect(target_config)
    loads = Loads(source, target, events(source_table="typed", cursor={"column": "c"}))
    for number, value in enumerate(values, start=1):
        postgresql.execute(f"insert into typed values ({number}, '{value.replace(chr(39), chr(39) * 2)}')")
        assert loads.run().rows_out == 1, value
        assert loads.run().rows_out == 0, value
    assert ids(target_config) == list(range(1, len(values) + 1))
    source.close()
    target.close()


def test_rows_that_commit_late_are_found_by_their_transaction(
    postgresql: PostgresqlDatabase, connectors: tuple[Connector, Connector], target_config: ConnectionConfig
) -> None:
    loads = Loads(*connectors, events(cursor={"column": "at", "late_commits": "by_snapshot"}))
    add(postgresql, (1, "2024-01-01 10:00+00"))
    with closing(postgresql.connect()) as slow:
        slow.autocommit = False
        with slow.cursor() as cursor:
            cursor.execute("insert into events values (2, '2024-01-01 09:00+00', 'late')")
            # Its own number is newer than that of the transaction around it.
            cursor.execute("savepoint inner_one; insert into events values (3, '2024-01-01 08:00+00', 'later')")
        add(postgresql, (4, "2024-01-02 10:00+00"))
        assert loads.run().rows_out == 1
        assert loads.run().rows_out == 0
        slow.commit()
    assert loads.run().rows_out == 3
    assert loads.run().rows_out == 0
    assert ids(target_config) == [1, 2, 3, 4]


def test_a_source_that_was_restored_is_noticed(
    postgresql: PostgresqlDatabase, connectors: tuple[Connector, Connector], target_config: ConnectionConfig
) -> None:
    loads = Loads(*connectors, events(cursor={"column": "at", "late_commits": "by_snapshot"}))
    add(postgresql, (1, "2024-01-01 10:00+00"))
    loads.run()
    connectors[1].close()
    with closing(sqlite3.connect(str(target_config.database))) as connection:
        connection.execute(
            "update _synqx_ledger set watermark = json_set(watermark, '$.transaction', 9000000000000000000)"
        )
        connection.commit()
    with pytest.raises(PlanError, match="fewer transactions"):
        loads.run()


def test_what_is_not_a_usable_cursor_is_refused_before_the_target_changes(
    postgresql: PostgresqlDatabase, connectors: tuple[Connector, Connector], target_config: ConnectionConfig
) -> None:
    postgresql.execute("alter table events add optional integer, add flag boolean, add facts jsonb")
    postgresql.execute("create view seen as select * from events")
    postgresql.execute("insert into events values (1, '2024-01-01 10:00+00', 'x', null, true, '{}')")
    for cursor, error, words in (
        ({"column": "att"}, SourceChangedError, "did you mean 'at'"),
        ({"column": "optional"}, DataError, "the cursor column 'optional' is NULL in 1 row, which"),
        ({"column": "flag"}, PlanError, "no order"),
        ({"column": "facts"}, PlanError, "no order"),
        ({"column": "id", "lag_seconds": 5}, PlanError, "not times"),
    ):
        with pytest.raises(error, match=words):
            Loads(*connectors, events(cursor=cursor)).run()
    with pytest.raises(PlanError, match="needs a source_table that is a table"):
        Loads(*connectors, events(source_table="seen", cursor={"column": "id", "late_commits": "by_snapshot"})).run()
    postgresql.execute("update events set at = 'infinity'")
    with pytest.raises(DataError, match="nothing could ever come after"):
        Loads(*connectors, events(cursor={"column": "at"})).run()
    connectors[1].close()
    with closing(sqlite3.connect(str(target_config.database))) as connection:
        tables = connection.execute("select name from sqlite_master where name = 'events'").fetchall()
    assert tables == []


def test_another_cursor_column_needs_a_full_load(
    postgresql: PostgresqlDatabase, connectors: tuple[Connector, Connector]
) -> None:
    add(postgresql, (1, "2024-01-01 10:00+00"))
    Loads(*connectors, events(cursor={"column": "at"})).run()
    other = Loads(*connectors, events(cursor={"column": "id"}))
    other.number = 1
    with pytest.raises(PlanError, match=r"'at'.*'id'"):
        other.run()


def test_append_does_not_read_again_what_it_has(
    postgresql: PostgresqlDatabase, connectors: tuple[Connector, Connector]
) -> None:
    add(postgresql, (1, "2024-01-01 10:00+00"), (2, "2024-01-01 11:00+00"))
    loads = Loads(*connectors, events(cursor={"column": "at"}))
    loads.run()
    for window in ({"full": True}, {"start": "2023-01-01"}, {"end": "2025-01-01"}):
        with pytest.raises(PlanError, match="append"):
            loads.run(**window)


def test_a_new_table_starts_from_the_beginning(
    postgresql: PostgresqlDatabase, connectors: tuple[Connector, Connector], target_config: ConnectionConfig
) -> None:
    add(postgresql, (1, "2024-01-01 10:00+00"), (2, "2024-01-01 11:00+00"))
    loads = Loads(*connectors, events(cursor={"column": "at"}))
    loads.run()
    connectors[1].close()
    with closing(sqlite3.connect(str(target_config.database))) as connection:
        connection.execute("drop table events")
    assert loads.run().rows_out == 1
    assert ids(target_config) == [1]


def test_the_plan_says_what_will_be_read(
    postgresql: PostgresqlDatabase, connectors: tuple[Connector, Connector]
) -> None:
    add(postgresql, (1, "2024-01-01 10:00+00"), (2, "2024-01-01 11:00+00"))
    mapping = events(cursor={"column": "at"})
    loads = Loads(*connectors, mapping)
    assert plan_load(mapping, None, *connectors).window == "\"at\" < '2024-01-01 11:00:00+00'"
    loads.run()
    window = plan_load(mapping, None, *connectors).window
    assert window == "\"at\" >= '2024-01-01 11:00:00+00' and \"at\" < '2024-01-01 11:00:00+00'"


@pytest.mark.mysql
def test_mysql_goes_on_exactly_where_it_was(mysql: MysqlDatabase, target_config: ConnectionConfig) -> None:
    mysql.execute("create table events (id integer, at timestamp(6) not null, name varchar(50) not null)")
    source, target = connect(mysql.config("source")), connect(target_config)
    by_time = Loads(source, target, events(cursor={"column": "at", "lag_seconds": 2}))
    for number, second in enumerate(("10.000001", "10.000002", "12.000002", "12.000003", "20.5"), start=1):
        mysql.execute(f"insert into events values ({number}, '2024-01-01 10:00:{second}', 'a')")
        by_time.run()
    assert ids(target_config) == [1, 2, 3, 4]
    mysql.execute("create table names (id integer, name varchar(50) primary key)")
    by_text = Loads(source, target, events(source_table="names", target_table="names", cursor={"column": "name"}))
    for number, name in enumerate(('a\\"b', "a\\'c", "b😀"), start=1):
        mysql.execute("insert into names values (%s, %s)", (number, name))
        assert by_text.run().rows_out == 1
    assert by_text.run().rows_out == 0
    source.close()
    target.close()


@pytest.mark.parametrize("db_type", ["sqlite", "duckdb"])
def test_file_databases_go_on_exactly_where_they_were(
    db_type: str, tmp_path: Path, target_config: ConnectionConfig
) -> None:
    path = tmp_path / f"source.{db_type}"
    kind = "datetime" if db_type == "sqlite" else "timestamp_ns"
    values = {
        "sqlite": ["2024-01-01 10:00:00", "2024-01-01 10:00:00.5", "2024-01-01 12:00:00"],
        "duckdb": ["2024-01-01 10:00:00.123456788", "2024-01-01 10:00:00.123456789", "2024-01-01 12:00:00"],
    }[db_type]
    config = ConnectionConfig(name="source", db_type=db_type, database=str(path))

    def execute(sql: str) -> None:
        if db_type == "sqlite":
            with closing(sqlite3.connect(path)) as connection:
                connection.execute(sql)
                connection.commit()
        else:
            import duckdb

            with duckdb.connect(str(path)) as database:
                database.execute(sql)

    execute(f'create table events (id integer, "at" {kind} not null)')
    target = connect(target_config)
    for number, value in enumerate(values, start=1):
        execute(f"insert into events values ({number}, '{value}')")
        source = connect(config)
        loads = Loads(source, target, events(cursor={"column": "at"}))
        loads.number = number
        assert loads.run().rows_out == min(number - 1, 1)
        source.close()
    assert ids(target_config) == [1, 2]
    target.close()
