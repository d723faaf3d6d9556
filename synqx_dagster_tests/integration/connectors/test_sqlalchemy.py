"""Loads by way of SQLAlchemy, on real servers: exact types, kills, time limits, broken connections, odd tables."""

from __future__ import annotations

import datetime
import decimal
import re
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

import pyarrow as pa
import pytest

from synqx_dagster.connectors.protocol import ConnectionConfig, Connector, ReadLimits
from synqx_dagster.errors import (
    BadRowsError,
    PlanError,
    RetryableError,
    StatementTimeoutError,
    SynqxError,
    TargetMismatchError,
)
from synqx_dagster.model.table import TableName
from synqx_dagster.model.types import DataType
from synqx_dagster.transfer.preview import preview_mapping
from synqx_dagster.transfer.result import PartitionSlice
from synqx_dagster_tests.contract.loading import ID, NAME, TABLE, Rows, names_in
from synqx_dagster_tests.contract.loading import load as load_rows
from synqx_dagster_tests.fix_mysql import MysqlDatabase
from synqx_dagster_tests.fix_postgresql import PostgresqlDatabase
from synqx_dagster_tests.integration.transfer.loading import ChildLoad, connect, load, make_mapping, make_schema

SLOW = {"postgres": "SELECT pg_sleep(30)", "mysql": "SELECT sleep(30)"}


def through(config: ConnectionConfig, drivername: str) -> ConnectionConfig:
    """The same database by way of a dialect of SQLAlchemy."""
    return replace(config, db_type="sqlalchemy", options={"drivername": drivername})


@dataclass
class Server:
    """A database by way of SQLAlchemy, and how it is asked without the connector."""

    config: ConnectionConfig
    execute: Callable[[str], list[tuple[object, ...]]]


@pytest.fixture(params=["postgresql", pytest.param("mysql", marks=pytest.mark.mysql)])
def server(request: pytest.FixtureRequest) -> Server:
    if request.param == "mysql":
        mysql: MysqlDatabase = request.getfixturevalue("mysql")
        return Server(through(mysql.config("erp"), "mysql+pymysql"), mysql.execute)
    postgresql: PostgresqlDatabase = request.getfixturevalue("postgresql")
    return Server(through(postgresql.config("erp"), "postgresql+psycopg2"), postgresql.execute)


@pytest.fixture
def connector(server: Server) -> Iterator[Connector]:
    made = connect(server.config)
    yield made
    made.close()


# --- whole loads ----------------------------------------------------------------------------------------------------


PEOPLE = """
create table people (id integer primary key, name text, age text, born date, paid numeric(12,2), seen timestamptz);
insert into people select i, 'Zoë ' || i, case when i % 50 = 0 then 'old' else (i % 90)::text end,
    date '2020-01-01' + i, i / 7.0, timestamptz '2024-03-31 01:30:00.123456+02' from generate_series(1, 500) i;
"""
SCHEMA = make_schema(id="integer", name="string", age="integer", born="date", paid="decimal(12,2)", seen="timestamptz")
MAPPING = make_mapping(source_table="people", target_table="people", on_bad_row="quarantine")


@pytest.fixture
def people(postgresql: PostgresqlDatabase) -> ConnectionConfig:
    source = postgresql.create_database()
    source.execute(PEOPLE)
    return source.config("source")


def test_a_load_arrives_quarantines_and_says_so_when_it_is_repeated(server: Server, people: ConnectionConfig) -> None:
    first = load(connect(people), connect(server.config), MAPPING, SCHEMA)
    assert (first.rows_in, first.rows_out, first.rows_quarantined) == (500, 490, 10)
    again = load(connect(people), connect(server.config), MAPPING, SCHEMA)
    assert again.already_committed
    other = load(connect(people), connect(server.config), MAPPING, SCHEMA, load_id="load-2")
    assert (other.rows_out, other.target_row_count) == (490, 490)
    assert server.execute("select name, age, paid from people where id = 7") == [("Zoë 7", 7, decimal.Decimal("1.00"))]
    assert server.execute("select count(*) from _synqx_ledger") == [(2,)]


def test_partitions_are_replaced_by_themselves(server: Server, people: ConnectionConfig) -> None:
    mapping = make_mapping(
        source_table="people",
        target_table="people",
        on_bad_row="quarantine",
        partitions={"type": "monthly", "start": "2020-01-01"},
        partition_column="born",
    )
    months = [datetime.datetime(2020, month, 1, tzinfo=datetime.UTC) for month in range(1, 6)]
    ends = connect(people), connect(server.config)
    whole = PartitionSlice("2020-01-01", "2020-04-01", 4, months[0], months[4])
    assert load(*ends, mapping, SCHEMA, partition=whole).rows_out == 118
    server.execute("update people set name = 'x'")
    february = PartitionSlice("2020-02-01", "2020-02-01", 1, months[1], months[2])
    result = load(*ends, mapping, SCHEMA, load_id="load-2", partition=february)
    assert (result.rows_out, result.rows_deleted, result.target_row_count) == (28, 28, 118)
    assert server.execute("select min(born), max(born) from people where name <> 'x'") == [
        (datetime.date(2020, 2, 1), datetime.date(2020, 2, 29))
    ]


@pytest.mark.parametrize("point", ["mid_copy", "before_commit", "after_commit"])
def test_a_killed_load_is_finished_by_its_retry(server: Server, people: ConnectionConfig, point: str) -> None:
    killed = ChildLoad(people, server.config, MAPPING, SCHEMA, failpoints=f"{point}=kill")
    assert killed.wait() is None
    result = load(connect(people), connect(server.config), MAPPING, SCHEMA, run_id="run-2")
    assert result.already_committed is (point == "after_commit")
    assert server.execute("select count(*), count(distinct id) from people") == [(490, 490)]
    assert server.execute("select count(*) from _synqx_ledger") == [(1,)]


def test_a_table_is_mirrored_out_of_sqlalchemy_as_by_its_own_connector(
    postgresql: PostgresqlDatabase,
) -> None:
    source, target = postgresql, postgresql.create_database()
    types = {
        "n": ("numeric", "'NaN'"),
        "big": ("numeric(40,20)", "12345678901234567890.12345678901234567890"),
        "d": ("date", "'0044-03-15 BC'"),
        "t": ("timestamp", "'infinity'"),
        "z": ("timestamptz", "'2024-03-31 01:30:00.123456+02'"),
        "c": ("char(5)", "'ab'"),
        "f": ("double precision", "'-0.0'"),
        "r": ("real", "1e-45"),
        "j": ("json", """'{"b": 1.00, "b": 2}'"""),
        "a": ("integer[]", "'{{1,2},{3,NULL}}'"),
        "i": ("interval", "'1 mon -2 days 03:00:00.5'"),
        "e": ("inet", "'::1/64'"),
        "b": ("bytea", r"'\x0001ff'"),
        "u": ("uuid", "'A0EEBC99-9C0B-4EF8-BB6D-6BB9BD380A11'"),
        "s": ('"char"', "'x'"),
    }
    columns = ", ".join(f'"{name}" {kind}' for name, (kind, _) in types.items())
    values = ", ".join(value for _, value in types.values())
    source.execute(f"create table odd (id integer primary key, {columns})")
    source.execute(f"insert into odd values (1, {values}), (2{', null' * len(types)})")
    texts = ", ".join(f'"{name}"::text' for name in types)
    for attempt, config in enumerate(
        (through(source.config("source"), "postgresql+psycopg2"), source.config("source"))
    ):
        made = connect(through(target.config("target"), "postgresql+psycopg2") if attempt else target.config("target"))
        mapping = make_mapping(source_table="odd", target_table=f"odd{attempt}")
        result = load(connect(config), made, mapping, load_id=f"load-{attempt}")
        assert result.rows_out == 2
        got = target.execute(f"select {texts} from odd{attempt} order by id")
        assert got == source.execute(f"select {texts} from odd order by id")


def test_a_query_is_described_and_previewed(server: Server, connector: Connector) -> None:
    load_rows(connector, Rows((ID, NAME), [(number, f"n{number}") for number in range(50)]))
    mapping = make_mapping(source_query="select id, name as label from customer where id < 40", target_table="x")
    preview = preview_mapping(mapping, None, connector, limit_rows=3)
    assert [column.name for column in preview.columns] == ["id", "label"]
    assert len(preview.rows) == 3
    # The connection that a preview left early is as good as another.
    assert len(names_in(connector)) == 50


# --- limits and broken connections ----------------------------------------------------------------------------------


def test_a_query_that_takes_too_long_is_stopped(connector: Connector) -> None:
    start = time.monotonic()
    with pytest.raises(StatementTimeoutError), connector.read(ReadLimits(timeout_seconds=0.5)) as session:
        session.fetch_value(SLOW[connector.dialect])
    assert time.monotonic() - start < 10
    with connector.read() as session:
        assert session.fetch_value("SELECT 1") == 1


def test_a_read_is_cancelled_from_another_thread(connector: Connector) -> None:
    with connector.read() as session:
        timer = threading.Timer(0.5, session.cancel)
        timer.start()
        with pytest.raises(SynqxError):
            session.fetch_value(SLOW[connector.dialect])
        timer.join()


def test_a_stream_that_is_left_early_does_not_read_on(server: Server, connector: Connector) -> None:
    load_rows(connector, Rows((ID, NAME), [(number, "x" * 1000) for number in range(5_000)]))
    schema = pa.schema([pa.field("name", pa.string())])
    for _ in range(3):
        with connector.read() as session:
            batches = session.iter_batches("SELECT name FROM customer", schema, batch_rows=100)
            assert next(batches).num_rows > 0
            batches.close()
    assert len(names_in(connector)) == 5_000


def test_a_connection_that_the_server_ended_is_replaced(server: Server, connector: Connector) -> None:
    with connector.read() as session:
        session.fetch_value("SELECT 1")
    if connector.dialect == "postgres":
        server.execute(
            "select pg_terminate_backend(pid) from pg_stat_activity where pid <> pg_backend_pid()"
            " and datname = current_database()"
        )
    else:
        for (number,) in server.execute(
            "select id from information_schema.processlist where db = database() and id <> connection_id()"
        ):
            server.execute(f"kill {number}")
    with connector.read() as session:
        assert session.fetch_value("SELECT 1") == 1


def test_a_connection_lost_in_a_transaction_is_retryable(server: Server, connector: Connector) -> None:
    load_rows(connector, Rows((ID, NAME), [(1, "one")]))
    with connector.write() as session:
        session.begin()
        if connector.dialect == "postgres":
            pid = session.fetch_all("SELECT pg_backend_pid()")[0][0]
            server.execute(f"select pg_terminate_backend({pid})")
        else:
            server.execute(f"kill {session.fetch_all('SELECT connection_id()')[0][0]}")
        time.sleep(0.2)
        with pytest.raises(RetryableError):
            session.execute("DELETE FROM customer")
    assert names_in(connector) == ["one"]


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"password": "wrong", "username": "nobody_here"}, "authentication"),
        ({"database": "no_such_database"}, "database_missing"),
        ({"port": 1}, "refused"),
        ({"host": "no-such-host.invalid"}, "name_resolution"),
    ],
)
def test_a_connection_that_fails_says_why(server: Server, change: dict[str, object], reason: str) -> None:
    if reason == "authentication" and server.config.options["drivername"] == "postgresql+psycopg2":
        pytest.skip("the test's server trusts everybody")
    config = replace(server.config, **change)  # type: ignore[arg-type]  # of one type each
    report = connect(config).test()
    assert (report.ok, report.reason) == (False, reason), report.message
    assert str(config.password) not in report.message


# --- targets --------------------------------------------------------------------------------------------------------


def test_a_refused_row_names_no_value(connector: Connector) -> None:
    load_rows(connector, Rows((ID, NAME), [(1, "one")]))
    with pytest.raises(BadRowsError) as caught:
        load_rows(connector, Rows((ID, NAME), [(7, "secret"), (7, "secret")]))
    assert "secret" not in repr(caught.value) + str(caught.value.__cause__)
    assert names_in(connector) == ["one"]


def test_rows_that_follow_the_targets_are_not_lost_with_them(server: Server, connector: Connector) -> None:
    load_rows(connector, Rows((ID, NAME), [(1, "one")]))
    server.execute(
        "create table orders (id integer primary key, customer_id integer,"
        " foreign key (customer_id) references customer (id) on delete cascade)"
    )
    server.execute("insert into orders values (1, 1)")
    with pytest.raises(TargetMismatchError, match="orders refers to customer with ON DELETE CASCADE"):
        load_rows(connector, Rows((ID, NAME), [(2, "two")]))
    assert server.execute("select count(*) from orders") == [(1,)]
    assert names_in(connector) == ["one"]


def test_a_column_that_changes_values_in_silence_is_refused(mysql: MysqlDatabase) -> None:
    connector = connect(through(mysql.config(), "mysql+pymysql"))
    mysql.execute("create table customer (id integer primary key, name enum('one', '2'))")
    with connector.write() as session:
        columns = session.find_columns(TABLE) or ()
        with pytest.raises(TargetMismatchError, match="may change values in silence"):
            session.create_staging(TABLE, columns, epoch=1)
    connector.close()


def test_a_merge_changes_what_differs(server: Server, people: ConnectionConfig) -> None:
    mapping = make_mapping(source_table="people", target_table="people", on_bad_row="quarantine", mode="merge")
    target = connect(server.config)
    load(connect(people), target, mapping, SCHEMA)
    server.execute("update people set name = 'changed' where id = 7")
    server.execute("delete from people where id = 8")
    result = load(connect(people), target, mapping, SCHEMA, load_id="load-2")
    assert result.target_row_count == 490
    assert server.execute("select count(*) from people where name like 'Zo%'") == [(490,)]
    target.close()


def test_unique_keys_are_found(server: Server, connector: Connector) -> None:
    server.execute("create table keyed (a integer primary key, b integer not null, c integer)")
    server.execute("create unique index by_b on keyed (b, c)")
    server.execute("create index by_c on keyed (c)")
    with connector.write() as session:
        assert session.find_unique_keys(TableName("keyed")) == (("a",), ("b", "c"))
        assert session.find_unique_keys(TableName("missing")) == ()


def test_the_servers_clock_is_canonical(connector: Connector) -> None:
    with connector.write() as session:
        assert re.fullmatch(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d\.\d{6}\+00", session.current_moment())


def test_what_sqlalchemy_does_not_know_is_refused_by_name(mysql: MysqlDatabase) -> None:
    mysql.execute("create table odd (id integer primary key, place geometry, flags bit(3), kind enum('a', 'b'))")
    mysql.execute("insert into odd values (1, null, b'101', 'b')")
    connector = connect(through(mysql.config(), "mysql+pymysql"))
    with connector.read() as session:
        columns = {column.name: column for column in session.find_columns(TableName("odd")) or ()}
        with pytest.raises(PlanError, match="place is of a type unknown"):
            session.encode("source.place", columns["place"].data_type, columns["place"].native_type)
        flags = session.encode("flags", DataType("string"), columns["flags"].native_type)
        assert session.fetch_value(f"SELECT {flags.sql} FROM odd") == "101"
    connector.close()


def test_tables_of_other_schemas_are_discovered_and_loaded(postgresql: PostgresqlDatabase) -> None:
    connector = connect(through(postgresql.config(), "postgresql+psycopg2"))
    load_rows(connector, Rows((ID, NAME), [(1, "one")]), table=TableName("customer", "Sales Data"))
    load_rows(connector, Rows((ID, NAME), [(1, "one")]))
    found = [str(item.table) for item in connector.discover()]
    assert found == ["Sales Data.customer", "public.customer"]
    assert [str(item.table) for item in connector.discover("Sales Data")] == ["Sales Data.customer"]
    connector.close()
