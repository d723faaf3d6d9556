"""A network that falls silent ends a call within its limit; a server that works for long does not."""

from __future__ import annotations

import io
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import pyarrow as pa
import pytest

from synqx_dagster.connectors.mysql import MysqlConnector
from synqx_dagster.connectors.postgresql import PostgresqlConnector
from synqx_dagster.connectors.protocol import ConnectionConfig, ReadSession
from synqx_dagster.errors import CommitUnknownError, RetryableError, SynqxError
from synqx_dagster.model.table import Column, TableName
from synqx_dagster.model.types import DataType
from synqx_dagster_tests.fix_mysql import MysqlDatabase
from synqx_dagster_tests.fix_postgresql import PostgresqlDatabase
from synqx_dagster_tests.integration.transfer.loading import load, make_mapping
from synqx_dagster_tests.proxies import StallingProxy, stalling_proxy

#: Nothing moves for so long before the server is asked.
SILENCE_SECONDS = 0.5

#: A session is given up within three seconds, and a load has two; a call that hangs hangs for ever. The rest is for a
#: machine that has other work.
LIMIT_SECONDS = 40.0

BIG = "select i::bigint as n, repeat(md5(i::text), 20) as body from generate_series(1, 100000) as i"
COLUMNS = [Column("n", DataType.parse("bigint")), Column("body", DataType.parse("string"))]

#: Whether new connections hang as well: a dead network, or one that has forgotten ours.
BOTH = pytest.mark.parametrize("new_connections_too", [True, False], ids=["nothing gets through", "ours is forgotten"])


@contextmanager
def ends_in_time(*kinds: type[SynqxError]) -> Iterator[None]:
    start = time.monotonic()
    with pytest.raises(kinds or RetryableError):
        yield
    assert time.monotonic() - start < LIMIT_SECONDS


def through(config: ConnectionConfig, proxy: StallingProxy, **options: Any) -> ConnectionConfig:
    given = {"silence_timeout_seconds": SILENCE_SECONDS, **options}
    return replace(config, host="127.0.0.1", port=proxy.port, options=given)


@pytest.fixture
def postgresql_proxy(postgresql: PostgresqlDatabase) -> Iterator[StallingProxy]:
    with stalling_proxy(postgresql.port) as proxy:
        yield proxy


@pytest.fixture
def connector(postgresql: PostgresqlDatabase, postgresql_proxy: StallingProxy) -> Iterator[PostgresqlConnector]:
    made = PostgresqlConnector(through(postgresql.config(), postgresql_proxy))
    yield made
    made.close()


class StallsAfter(io.RawIOBase):
    """Takes bytes, and has the proxy stall after the first megabyte."""

    def __init__(self, stall: Callable[[], None]) -> None:
        super().__init__()
        self._stall = stall
        self.taken_bytes = 0

    def writable(self) -> bool:
        return True

    def write(self, data: Any) -> int:
        self.taken_bytes += len(data)
        if 0 <= self.taken_bytes - (1 << 20) < len(data):
            self._stall()
        return len(data)


# --- PostgreSQL --------------------------------------------------------------------------------------------------


@BOTH
def test_a_silent_copy_out_ends(
    connector: PostgresqlConnector, postgresql_proxy: StallingProxy, new_connections_too: bool
) -> None:
    sink = StallsAfter(lambda: postgresql_proxy.stall(new_connections_too=new_connections_too))
    with connector.read() as session, ends_in_time():
        session.copy_out(BIG, io.BufferedWriter(sink, 1 << 16))
    assert sink.taken_bytes > 1 << 20


@BOTH
def test_a_silent_copy_in_ends(
    connector: PostgresqlConnector, postgresql_proxy: StallingProxy, new_connections_too: bool
) -> None:
    text = pa.array(["x" * 1000] * 5000)
    batch = pa.RecordBatch.from_arrays([pa.array(range(5000)), text], names=["n", "body"])

    def batches() -> Iterator[pa.RecordBatch]:
        for number in range(40):
            if number == 4:
                postgresql_proxy.stall(new_connections_too=new_connections_too)
            yield batch

    with connector.write() as session:
        session.begin()
        session.create_table(TableName("t"), COLUMNS, ())
        with ends_in_time():
            session.write_batches(TableName("t"), COLUMNS, batches())


@BOTH
def test_a_copy_in_whose_reply_is_lost_ends(
    connector: PostgresqlConnector, postgresql_proxy: StallingProxy, new_connections_too: bool
) -> None:
    """All was sent, and went no further: only the server can tell that it still waits for the end."""

    def batches() -> Iterator[pa.RecordBatch]:
        yield pa.RecordBatch.from_arrays([pa.array([1]), pa.array(["x"])], names=["n", "body"])
        postgresql_proxy.stall(new_connections_too=new_connections_too)

    with connector.write() as session:
        session.begin()
        session.create_table(TableName("t"), COLUMNS, ())
        with ends_in_time():
            session.write_batches(TableName("t"), COLUMNS, batches())


@BOTH
def test_a_silent_read_by_batches_ends(
    connector: PostgresqlConnector, postgresql_proxy: StallingProxy, new_connections_too: bool
) -> None:
    schema = pa.schema([pa.field("n", pa.int64()), pa.field("body", pa.string())])
    with connector.read() as session:
        batches = session.iter_batches(BIG, schema, batch_rows=1000)
        next(batches)
        postgresql_proxy.stall(new_connections_too=new_connections_too)
        with ends_in_time():
            for _ in batches:
                pass


@BOTH
def test_a_silent_statement_ends_and_a_silent_commit_is_left_to_the_ledger(
    connector: PostgresqlConnector, postgresql_proxy: StallingProxy, new_connections_too: bool
) -> None:
    with connector.write() as session:
        session.begin()
        session.execute("create table t (a integer)")
        postgresql_proxy.stall(new_connections_too=new_connections_too)
        with ends_in_time(CommitUnknownError):
            session.commit()
    postgresql_proxy.recover()
    with connector.write() as session:
        postgresql_proxy.stall(new_connections_too=new_connections_too)
        with ends_in_time():
            session.fetch_all("select 1")


def test_a_load_through_a_silent_network_can_be_run_again(postgresql: PostgresqlDatabase) -> None:
    """The session that was given up holds locks at the target until it is ended, which the next attempt does."""
    postgresql.execute(
        "create table orders as select i as id, repeat('x', 500) as body from generate_series(1, 60000) i"
    )
    target = postgresql.create_database()
    with stalling_proxy(postgresql.port) as proxy:
        source = PostgresqlConnector(through(postgresql.config("source"), proxy))
        end = PostgresqlConnector(through(target.config("target"), proxy))

        def stall_soon() -> None:
            while proxy.forwarded_bytes < 4 << 20:
                time.sleep(0.001)
            proxy.stall(new_connections_too=True)

        staller = threading.Thread(target=stall_soon)
        staller.start()
        mapping = make_mapping(source_table="orders", target_table="orders")
        with ends_in_time():
            load(source, end, mapping)
        staller.join()
        proxy.recover()
        assert load(source, end, mapping, run_id="run-2").rows_out == 60000
        source.close()
        end.close()
    assert target.execute("select count(*), count(distinct id) from orders") == [(60000, 60000)]


def test_a_server_that_works_for_long_is_left_alone(connector: PostgresqlConnector) -> None:
    seconds = SILENCE_SECONDS * 4
    schema = pa.schema([pa.field("n", pa.int64())])
    with connector.read() as session:
        assert session.fetch_value(f"select 1 from pg_sleep({seconds})") == 1
        slow = f"select 7::bigint as n from pg_sleep({seconds})"
        assert [batch.num_rows for batch in session.iter_batches(slow, schema, batch_rows=10)] == [1]
        sink = io.BytesIO()
        session.copy_out(slow, sink)
        assert len(sink.getvalue()) > 20


# Its limit of half a second is too short for a machine that has other work.
@pytest.mark.slow
def test_a_client_that_is_slow_is_not_taken_for_a_silent_server(connector: PostgresqlConnector) -> None:
    pause = SILENCE_SECONDS * 3

    def batches() -> Iterator[pa.RecordBatch]:
        for number in range(2):
            time.sleep(pause)
            yield pa.RecordBatch.from_arrays([pa.array([number]), pa.array(["x"])], names=["n", "body"])

    with connector.write() as session:
        session.create_table(TableName("t"), COLUMNS, ())
        assert session.write_batches(TableName("t"), COLUMNS, batches())[0] == 2
    schema = pa.schema([pa.field("n", pa.int64()), pa.field("body", pa.string())])
    with connector.read() as session:
        rows = 0
        for number, batch in enumerate(session.iter_batches(BIG, schema, batch_rows=20_000)):
            rows += batch.num_rows
            if number < 2:
                time.sleep(pause)
        assert rows == 100_000


def test_a_pipe_that_nobody_empties_is_not_taken_for_a_silent_server(connector: PostgresqlConnector) -> None:
    """The source has sent all it has; what holds things up is the target."""
    import os

    read_end, write_end = os.pipe()
    received = 0

    def drain_late() -> None:
        nonlocal received
        time.sleep(SILENCE_SECONDS * 4)
        while chunk := os.read(read_end, 1 << 16):
            received += len(chunk)

    reader = threading.Thread(target=drain_late)
    reader.start()
    with connector.read() as session, os.fdopen(write_end, "wb", buffering=1024) as sink:
        # More than a pipe takes, and little enough that libpq holds the rest.
        session.copy_out("select repeat('x', 1000) from generate_series(1, 75)", sink)
    reader.join()
    os.close(read_end)
    assert received > 75_000


def test_cancelling_ends_in_time_when_nothing_gets_through(
    connector: PostgresqlConnector, postgresql_proxy: StallingProxy
) -> None:
    with connector.read() as session:
        failed: list[BaseException] = []

        def wait() -> None:
            try:
                session.fetch_value("select pg_sleep(30)")
            except SynqxError as error:
                failed.append(error)

        waiter = threading.Thread(target=wait)
        waiter.start()
        time.sleep(0.2)
        postgresql_proxy.stall(new_connections_too=True)
        start = time.monotonic()
        session.cancel()
        waiter.join(LIMIT_SECONDS)
        assert failed
        assert time.monotonic() - start < LIMIT_SECONDS


# --- MySQL -----------------------------------------------------------------------------------------------------------


@pytest.fixture
def mysql_proxy(mysql: MysqlDatabase) -> Iterator[StallingProxy]:
    with stalling_proxy(mysql.server.port) as proxy:
        yield proxy


@pytest.fixture(params=["TLS", "plain"])
def mysql_connector(
    mysql: MysqlDatabase, mysql_proxy: StallingProxy, request: pytest.FixtureRequest
) -> Iterator[MysqlConnector]:
    mode = "required" if request.param == "TLS" else "disabled"
    made = MysqlConnector(through(mysql.config(), mysql_proxy, ssl_mode=mode))
    yield made
    made.close()


MANY = "SELECT seq AS n, REPEAT(MD5(seq), 20) AS body FROM seq_1_to_100000"


def read_all(session: ReadSession) -> Iterator[pa.RecordBatch]:
    schema = pa.schema([pa.field("n", pa.int64()), pa.field("body", pa.string())])
    return session.iter_batches(MANY, schema, batch_rows=1000)


@pytest.mark.mysql
@BOTH
def test_a_silent_mysql_read_ends(
    mysql_connector: MysqlConnector, mysql_proxy: StallingProxy, new_connections_too: bool
) -> None:
    with mysql_connector.read() as session:
        batches = read_all(session)
        next(batches)
        mysql_proxy.stall(new_connections_too=new_connections_too)
        with ends_in_time():
            for _ in batches:
                pass


@pytest.mark.mysql
@BOTH
def test_a_silent_mysql_write_ends(
    mysql_connector: MysqlConnector, mysql_proxy: StallingProxy, new_connections_too: bool
) -> None:
    batch = pa.RecordBatch.from_arrays([pa.array(range(2000)), pa.array(["x" * 1000] * 2000)], names=["n", "body"])

    def batches() -> Iterator[pa.RecordBatch]:
        for number in range(20):
            if number == 2:
                mysql_proxy.stall(new_connections_too=new_connections_too)
            yield batch

    with mysql_connector.write() as session:
        session.create_table(TableName("t"), COLUMNS, ())
        with ends_in_time():
            session.write_batches(TableName("t"), COLUMNS, batches())


@pytest.mark.mysql
@BOTH
def test_a_silent_mysql_commit_is_left_to_the_ledger(
    mysql_connector: MysqlConnector, mysql_proxy: StallingProxy, new_connections_too: bool
) -> None:
    with mysql_connector.write() as session:
        session.begin()
        mysql_proxy.stall(new_connections_too=new_connections_too)
        with ends_in_time(CommitUnknownError):
            session.commit()


@pytest.mark.mysql
def test_a_mysql_server_that_works_for_long_is_left_alone(mysql_connector: MysqlConnector) -> None:
    with mysql_connector.read() as session:
        assert session.fetch_value(f"SELECT SLEEP({SILENCE_SECONDS * 4}) + 1") == 1
        rows = 0
        for number, batch in enumerate(read_all(session)):
            rows += batch.num_rows
            if number == 3:
                time.sleep(SILENCE_SECONDS * 3)
        assert rows == 100_000


@pytest.mark.mysql
def test_a_hard_limit_of_an_answer_can_be_set(mysql: MysqlDatabase, mysql_proxy: StallingProxy) -> None:
    made = MysqlConnector(through(mysql.config(), mysql_proxy, read_timeout_seconds=1.0))
    with made.read() as session, ends_in_time():
        session.fetch_value("SELECT SLEEP(20)")
    made.close()
