"""PostgreSQL sessions: queries that cannot write, limits, faults, and errors that keep values to themselves."""

from __future__ import annotations

import contextlib
import io
import threading
import time
from collections.abc import Iterator
from contextlib import closing
from typing import Any

import pyarrow as pa
import pytest

from synqx_dagster.connectors.postgresql import PostgresqlConnector
from synqx_dagster.connectors.protocol import ConnectionConfig, CopyReadSession, CopyWriteSession, ReadLimits
from synqx_dagster.errors import (
    BadRowsError,
    CommitUnknownError,
    DatabaseError,
    FatalError,
    QueryRefusedError,
    RetryableError,
    SourceChangedError,
    StatementTimeoutError,
    SynqxError,
)
from synqx_dagster.model.connection import PoolSettings
from synqx_dagster.model.table import Column, TableName
from synqx_dagster.model.types import DataType
from synqx_dagster_tests.fix_postgresql import PostgresqlDatabase

TABLE = TableName("t")
ID = Column("id", DataType("integer"), False, "integer", "postgres")
NAME = Column("name", DataType("string"), True, "text", "postgres")
NUMBERS = pa.schema([pa.field("i", pa.int32())])

#: Text that must not get out of an error.
CANARY = "canary-4711"


@pytest.fixture
def connector(postgresql: PostgresqlDatabase) -> Iterator[PostgresqlConnector]:
    postgresql.execute("create table t (id integer primary key, name text)")
    with closing(PostgresqlConnector(postgresql.config())) as made:
        yield made


def altered(config: ConnectionConfig, **changes: Any) -> ConnectionConfig:
    return ConnectionConfig(**{**vars(config), **changes})


def terminate_others(postgresql: PostgresqlDatabase) -> None:
    postgresql.execute(
        "select pg_terminate_backend(pid) from pg_stat_activity"
        " where datname = current_database() and pid <> pg_backend_pid()"
    )


def rows_of(*rows: tuple[int | None, str | None]) -> Iterator[pa.RecordBatch]:
    ids, names = zip(*rows, strict=True)
    yield pa.RecordBatch.from_arrays([pa.array(ids, pa.int32()), pa.array(names, pa.string())], names=["id", "name"])


# --- queries that are not one SELECT --------------------------------------------------------------------------

NOT_ONE_QUERY = [
    "select 1 as i; commit; insert into t values (1)",
    "select 1 as i; drop table t",
    "select 1 as i) as q; commit; drop table t; select * from (select 1 as i",
    "insert into t values (1) returning id as i",
    "with w as (insert into t values (1) returning id) select id as i from w",
    "select id as i from t for update",
    "copy t to program 'touch /tmp/synqx-was-here'",
    "commit",
    "create table u as select 1 as i",
    "do $$ begin execute 'drop table t'; end $$",
    "vacuum t",
    "set transaction read write",
]


@pytest.mark.parametrize("sql", NOT_ONE_QUERY)
def test_the_server_itself_refuses_what_is_not_one_query(
    postgresql: PostgresqlDatabase, connector: PostgresqlConnector, sql: str
) -> None:
    postgresql.execute("insert into t values (7)")
    for way in ("describe_query", "fetch_value", "iter_batches", "copy_out"):
        with connector.read() as session, contextlib.suppress(SynqxError):
            if way == "iter_batches":
                list(session.iter_batches(sql, NUMBERS, batch_rows=10))
            elif way == "copy_out":
                session.copy_out(sql, io.BytesIO())
            else:
                getattr(session, way)(sql)
            pytest.fail(f"the server took it by {way}")
        assert postgresql.execute("select id, to_regclass('u') from t") == [(7, None)]


@pytest.mark.parametrize("sql", ["select 1; select 2", "create table u ()", "insert into t values (1) returning id"])
def test_a_refusal_says_what_is_allowed(connector: PostgresqlConnector, sql: str) -> None:
    with connector.read() as session, pytest.raises(QueryRefusedError, match="exactly one SELECT"):
        session.describe_query(sql)


def test_a_limited_read_is_ended_by_time_rows_and_bytes(connector: PostgresqlConnector) -> None:
    start = time.monotonic()
    with connector.read(ReadLimits(timeout_seconds=0.2)) as session, pytest.raises(StatementTimeoutError):
        session.fetch_value("select pg_sleep(20)")
    with connector.read(ReadLimits(timeout_seconds=0.2)) as session, pytest.raises(StatementTimeoutError):
        list(session.iter_batches("select 1 as i from pg_sleep(20)", NUMBERS, batch_rows=10))
    assert time.monotonic() - start < 10
    endless = "select generate_series(1, 100000000) as i"
    with connector.read(ReadLimits(max_rows=10)) as session:
        assert sum(batch.num_rows for batch in session.iter_batches(endless, NUMBERS, batch_rows=7)) == 10
    with connector.read(ReadLimits(max_bytes=1000)) as session:
        assert sum(batch.nbytes for batch in session.iter_batches(endless, NUMBERS, batch_rows=100)) <= 1004
    wide = pa.schema([pa.field("x", pa.string())])
    with connector.read(ReadLimits(max_bytes=1000)) as session:
        read = list(
            session.iter_batches("select repeat('x', 100000) from generate_series(1, 1000)", wide, batch_rows=9)
        )
        assert [batch.num_rows for batch in read] == [1]
    assert time.monotonic() - start < 20


def test_a_read_that_is_left_early_ends_on_the_server(
    postgresql: PostgresqlDatabase, connector: PostgresqlConnector
) -> None:
    running = "select count(*) from pg_stat_activity where datname = current_database() and query like 'COPY%'"
    with connector.read() as session:
        batches = session.iter_batches("select generate_series(1, 1000000000) as i", NUMBERS, batch_rows=10)
        assert next(batches).num_rows == 10
        assert postgresql.execute(running) == [(1,)]
        start = time.monotonic()
        batches.close()  # type: ignore[attr-defined]  # a generator
        while postgresql.execute(running) != [(0,)]:
            assert time.monotonic() - start < 10
        assert session.fetch_value("select 1") == 1


def test_memory_is_bounded_by_the_batch_not_by_the_result(connector: PostgresqlConnector) -> None:
    schema = pa.schema([pa.field("x", pa.string())])
    largest = 0
    before = pa.total_allocated_bytes()
    with connector.read() as session:
        for batch in session.iter_batches(
            "select repeat('x', 1000) from generate_series(1, 200000)", schema, batch_rows=32768
        ):
            largest = max(largest, pa.total_allocated_bytes() - before)
            assert batch.num_rows
    assert largest < 40_000_000


def test_all_reads_of_a_session_see_one_snapshot(
    postgresql: PostgresqlDatabase, connector: PostgresqlConnector
) -> None:
    with connector.read() as session:
        assert isinstance(session, CopyReadSession)
        assert session.fetch_value("select count(*) from t") == 0
        postgresql.execute("insert into t select generate_series(1, 10)")
        assert list(session.iter_batches("select id as i from t", NUMBERS, batch_rows=10)) == []
        sink = io.BytesIO()
        session.copy_out("select id from t", sink)
        assert len(sink.getvalue()) == 21
        assert session.fetch_value("select count(*) from t") == 0
    with connector.read() as session:
        assert session.fetch_value("select count(*) from t") == 10


# --- writing --------------------------------------------------------------------------------------------------


def binary_copy(postgresql: PostgresqlDatabase, sql: str) -> bytes:
    with closing(postgresql.connect()) as connection, connection.cursor() as cursor:
        sink = io.BytesIO()
        cursor.copy_expert(f"copy ({sql}) to stdout (format binary)", sink)
        return sink.getvalue()


#: The second one's last row ends as a trailer does: smallint -1.
@pytest.mark.parametrize("last", ["1::smallint", "-1::smallint"])
def test_a_copy_stream_cut_anywhere_is_refused(
    postgresql: PostgresqlDatabase, connector: PostgresqlConnector, last: str
) -> None:
    postgresql.execute("create table s (id integer, n smallint)")
    data = binary_copy(postgresql, f"select i, {last} from generate_series(1, 3) i")
    columns = (ID, Column("n", DataType("smallint"), True, "smallint", "postgres"))
    with connector.write() as session:
        assert isinstance(session, CopyWriteSession)
        for length in range(len(data)):
            with pytest.raises(SynqxError):
                session.copy_in(TableName("s"), columns, io.BytesIO(data[:length]))
        assert session.copy_in(TableName("s"), columns, io.BytesIO(data)) == 3
    assert postgresql.execute("select count(*), count(distinct id) from s") == [(3, 3)]


def test_a_stream_of_few_bytes_at_a_time_arrives(
    postgresql: PostgresqlDatabase, connector: PostgresqlConnector
) -> None:
    data = binary_copy(postgresql, "select i, 'n' || i from generate_series(1, 100) i")

    class Trickle(io.BytesIO):
        def read(self, size: int | None = -1) -> bytes:
            return super().read(1)

    with connector.write() as session:
        assert session.copy_in(TABLE, (ID, NAME), Trickle(data)) == 100
    assert postgresql.execute("select sum(id) from t") == [(5050,)]


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([(1, f"{CANARY}\0")], "column 'name': text holds a NUL"),
        ([(None, CANARY)], "column 'id': NULL"),
        ([(1, CANARY), (1, CANARY)], "t_pkey"),
    ],
)
def test_a_refused_row_names_its_column_and_not_its_value(
    connector: PostgresqlConnector, rows: list[tuple[int | None, str]], message: str
) -> None:
    with connector.write() as session:
        session.begin()
        with pytest.raises(BadRowsError, match=message) as caught:
            session.write_batches(TABLE, (ID, NAME), rows_of(*rows))
    _assert_no_canary(caught.value)


def test_a_text_that_is_no_value_of_the_type_names_its_column(
    postgresql: PostgresqlDatabase, connector: PostgresqlConnector
) -> None:
    postgresql.execute('create table u (id integer, "odd: name" date)')
    columns = (ID, Column("odd: name", DataType("date"), True, "date", "postgres"))
    with connector.write() as session, pytest.raises(BadRowsError, match="column 'odd: name': a date") as caught:
        session.write_batches(TableName("u"), columns, rows_of((1, CANARY)))
    _assert_no_canary(caught.value)


def _assert_no_canary(error: BaseException) -> None:
    seen: BaseException | None = error
    while seen is not None:
        assert CANARY not in str(seen)
        assert CANARY not in repr(vars(seen))
        # What Dagster would follow: an explicit cause, or a context that is not suppressed.
        seen = seen.__cause__ or (None if seen.__suppress_context__ else seen.__context__)


@pytest.mark.parametrize(
    "sql",
    [
        f"select '{CANARY}'::int as i",
        f"select ('{{\"a\": {CANARY}}}')::json",
        f"select cast(x as date) from (values ('{CANARY}')) v (x)",
    ],
)
def test_an_error_of_a_read_keeps_the_value_to_itself(connector: PostgresqlConnector, sql: str) -> None:
    for way in ("fetch_value", "iter_batches", "copy_out"):
        with connector.read() as session, pytest.raises(DatabaseError) as caught:  # noqa: PT012  # three ways
            if way == "iter_batches":
                list(session.iter_batches(sql, NUMBERS, batch_rows=10))
            elif way == "copy_out":
                session.copy_out(sql, io.BytesIO())
            else:
                session.fetch_value(sql)
        _assert_no_canary(caught.value)


def test_what_vanished_is_named(connector: PostgresqlConnector) -> None:
    for sql, name in (("select gone from t", "gone"), ("select * from lost", "lost")):
        with connector.read() as session, pytest.raises(SourceChangedError, match=name):
            session.describe_query(sql)


def test_a_failed_transaction_is_never_taken_for_a_commit(connector: PostgresqlConnector) -> None:
    with connector.write() as session:
        session.begin()
        with pytest.raises(SourceChangedError):
            session.execute("select * from lost")
        with pytest.raises(FatalError, match="rolled back"):
            session.commit()


def test_a_deferred_constraint_refuses_at_the_commit(
    postgresql: PostgresqlDatabase, connector: PostgresqlConnector
) -> None:
    postgresql.execute(
        "alter table t add foreign key (id) references t (id), add unique (name) deferrable initially deferred"
    )
    with connector.write() as session:
        session.begin()
        session.execute("insert into t values (1, ?), (2, ?)", (CANARY, CANARY))
        with pytest.raises(BadRowsError, match="t_name_key") as caught:
            session.commit()
    _assert_no_canary(caught.value)
    assert postgresql.execute("select count(*) from t") == [(0,)]


# --- faults -----------------------------------------------------------------------------------------------------


def test_a_connection_that_dies_is_retryable_and_replaced(
    postgresql: PostgresqlDatabase, connector: PostgresqlConnector
) -> None:
    with connector.write() as session:
        session.begin()
        terminate_others(postgresql)
        with pytest.raises(RetryableError):
            session.execute("select 1")
        session.rollback()
    with connector.read() as reader:
        assert reader.fetch_value("select 1") == 1
    # An idle pooled connection that died meanwhile is found out before it is used.
    terminate_others(postgresql)
    with connector.write() as session:
        assert session.fetch_all("select 1") == [(1,)]


def test_a_commit_without_an_answer_is_unknown(postgresql: PostgresqlDatabase, connector: PostgresqlConnector) -> None:
    with connector.write() as session:
        session.begin()
        session.execute("insert into t values (1)")
        terminate_others(postgresql)
        with pytest.raises(CommitUnknownError):
            session.commit()


def test_a_read_that_loses_its_server_is_retryable(
    postgresql: PostgresqlDatabase, connector: PostgresqlConnector
) -> None:
    def read() -> None:
        with connector.read() as session:
            for _ in session.iter_batches("select generate_series(1, 50000000) as i", NUMBERS, batch_rows=1000):
                if not terminated.is_set():
                    terminate_others(postgresql)
                    terminated.set()

    terminated = threading.Event()
    with pytest.raises(RetryableError):
        read()


def test_a_lock_is_waited_for_within_its_limit(postgresql: PostgresqlDatabase) -> None:
    postgresql.execute("create table t (id integer)")
    config = postgresql.config(options={"lock_timeout_seconds": 0.2})
    with closing(PostgresqlConnector(config)) as connector, closing(postgresql.connect()) as other:
        other.cursor().execute("begin; lock table t")
        with connector.write() as session, pytest.raises(RetryableError, match="lock"):
            session.execute("delete from t")


def test_an_idle_limit_of_the_server_does_not_end_a_load(
    postgresql: PostgresqlDatabase, connector: PostgresqlConnector
) -> None:
    postgresql.execute(f'alter database "{postgresql.name}" set idle_in_transaction_session_timeout = 100')
    with connector.write() as session:
        session.begin()
        time.sleep(0.4)
        session.execute("insert into t values (1)")
        session.commit()
    assert postgresql.execute("select count(*) from t") == [(1,)]


def test_a_pool_that_is_used_up_says_what_to_raise(postgresql: PostgresqlDatabase) -> None:
    config = altered(postgresql.config(), pool=PoolSettings(size=1, max_overflow=1, timeout_seconds=0.2))
    with (
        closing(PostgresqlConnector(config)) as connector,
        connector.read(),
        connector.read(),
        pytest.raises(RetryableError, match=r"pool\.size"),
        connector.read(),
    ):
        pytest.fail("a third session")


def test_a_session_leaves_a_clean_connection(postgresql: PostgresqlDatabase) -> None:
    config = altered(postgresql.config(), pool=PoolSettings(size=1, max_overflow=0, timeout_seconds=1))
    with closing(PostgresqlConnector(config)) as connector:
        with connector.write() as session:
            session.begin()
            session.execute("create table left_behind ()")
            [(first,)] = session.fetch_all("select pg_backend_pid()")
        with contextlib.suppress(ZeroDivisionError), connector.write() as session:
            session.begin()
            raise ZeroDivisionError
        with connector.read() as reader:
            assert reader.fetch_value("select pg_backend_pid()") == first
        with connector.write() as session:
            assert session.fetch_all("select to_regclass('left_behind'), pg_backend_pid()") == [(None, first)]
            assert session.fetch_all(
                "select count(*) from pg_locks where pid = pg_backend_pid() and mode like '%Excl%'"
            )
