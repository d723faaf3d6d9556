"""The stream at real servers: nothing is lost or confirmed too early, whoever is slow, dies or falls silent."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from contextlib import closing
from dataclasses import replace

import pytest

from synqx_dagster.connectors.postgresql import PostgresqlConnector
from synqx_dagster.errors import FatalError, RetryableError, SlotInUseError, SlotLostError
from synqx_dagster.replication.changes import Insert, parse_lsn
from synqx_dagster.replication.publication import drop_publication
from synqx_dagster.replication.slot import drop_slot, heartbeat
from synqx_dagster.replication.stream import ChangeStream, StreamLag
from synqx_dagster_tests.fix_postgresql import PostgresqlDatabase, PostgresqlServer
from synqx_dagster_tests.integration.replication.following import Followed, follow, take, wait_until
from synqx_dagster_tests.proxies import StallingProxy


def numbers(followed: Followed, stream: ChangeStream, count: int) -> list[int]:
    """The numbers that the next transactions have inserted."""
    found: list[int] = []
    while len(found) < count:
        for change in followed.changes(stream):
            assert isinstance(change, Insert)
            found.append(int(str(change.new[0])))
    return found


def read_to_the_end(stream: ChangeStream, between: Callable[[], object] = lambda: None) -> RetryableError:
    """Take transactions until the connection is lost; gives what is said of it."""
    deadline = time.monotonic() + 60
    try:
        while time.monotonic() < deadline:
            between()
            stream.next_transaction(0.1)
    except RetryableError as error:
        return error
    raise AssertionError("the connection was not lost")


def test_a_consumer_may_take_longer_than_the_server_waits(source: PostgresqlDatabase) -> None:
    source.execute(f"alter database \"{source.name}\" set wal_sender_timeout = '2s'")
    source.execute("create table t (id int primary key, x text)")
    with follow(source) as followed, followed.stream(memory_bytes=300_000) as stream:
        source.execute("insert into t values (1)")
        transaction = take(stream)
        pid = followed.slot().active_pid
        # More than the socket, the stream and the server hold together: nobody reads on meanwhile.
        with closing(source.connect()) as connection, connection.cursor() as cursor:
            for number in range(2, 402):
                cursor.execute("insert into t values (%s, repeat('x', 20000))", (number,))
        time.sleep(5)
        slot = followed.slot()
        assert slot.active_pid == pid
        assert slot.confirmed_lsn <= transaction.commit_lsn, "more was confirmed than was stored"
        assert list(transaction.iter_changes())
        followed.store(stream, transaction)
        assert numbers(followed, stream, 400) == list(range(2, 402))
        wait_until(lambda: followed.slot().confirmed_lsn >= followed.position, "the last one is confirmed")


def test_nothing_is_confirmed_but_what_was_stored(source: PostgresqlDatabase) -> None:
    """A transaction that began early and commits late, tables that are described: psycopg2's reader confirms then."""
    source.execute(f"alter database \"{source.name}\" set wal_sender_timeout = '1s'")
    source.execute("create table t (id int primary key, x text); create table u (id int primary key, x text)")
    with follow(source) as followed:
        with closing(source.connect()) as connection, connection.cursor() as early:
            early.execute("begin; insert into u select g, repeat('x', 5000) from generate_series(1, 2000) g")
            source.execute("insert into t values (1)")
            with followed.stream(memory_bytes=200_000, streams_open_transactions=False) as stream:
                first = take(stream)
                assert list(first.iter_changes())
                followed.store(stream, first)
                source.execute("insert into t values (2)")
                early.execute("commit")
                second = take(stream)
                deadline = time.monotonic() + 4
                while time.monotonic() < deadline:
                    confirmed = followed.slot().confirmed_lsn
                    assert confirmed <= second.commit_lsn, "a transaction is confirmed that nobody has stored"
                    assert stream.idle_lsn is None
                    time.sleep(0.05)
        with followed.stream() as stream:
            assert take(stream).commit_lsn == second.commit_lsn


def test_a_stream_goes_on_where_the_last_one_was_stored(source: PostgresqlDatabase) -> None:
    source.execute("create table t (id int primary key)")
    with follow(source) as followed:
        seen: list[int] = []
        number = 0
        for _ in range(4):
            with followed.stream() as stream:
                for _ in range(5):
                    source.execute("insert into t values (%s), (%s)", [number, number + 1])
                    number += 2
                seen += numbers(followed, stream, 6)
                pid = followed.slot().active_pid
                source.execute("select pg_terminate_backend(%s)", [pid])
                # Read, and not stored: it comes again.
                read_to_the_end(stream)
        with followed.stream() as stream:
            seen += numbers(followed, stream, number - len(seen))
        assert seen == list(range(number))


def test_the_servers_restart_breaks_the_stream_and_the_next_one_goes_on(
    postgresql_15_server: PostgresqlServer,
) -> None:
    database = postgresql_15_server.create_database()
    database.execute("create table t (id int primary key)")
    with follow(database) as followed:
        with followed.stream() as stream:
            database.execute("insert into t values (1)")
            assert numbers(followed, stream, 1) == [1]
            database.execute("set synchronous_commit = on; insert into t values (2)")
            postgresql_15_server.stop("immediate")
            postgresql_15_server.start()
            read_to_the_end(stream)
        with followed.stream() as stream:
            assert numbers(followed, stream, 1) == [2]
    database.drop()


def test_an_orderly_stop_of_the_server_does_not_wait_for_us(postgresql_15_server: PostgresqlServer) -> None:
    database = postgresql_15_server.create_database()
    database.execute("create table t (id int primary key)")
    with follow(database) as followed, followed.stream() as stream:
        database.execute("insert into t values (1)")
        assert numbers(followed, stream, 1) == [1]
        stopper = threading.Thread(target=postgresql_15_server.stop, args=("fast",))
        stopper.start()
        # As a run does between batches.
        read_to_the_end(stream, between=lambda: stream.confirm(stream.idle_lsn or 0))
        stopper.join(30)
        assert not stopper.is_alive()
        postgresql_15_server.start()
    database.drop()


def test_an_idle_databases_slot_moves_while_its_neighbour_is_busy(
    source: PostgresqlDatabase, source_server: PostgresqlServer
) -> None:
    source.execute("create table t (id int primary key); create table unpublished (id int)")
    neighbour = source_server.create_database()
    neighbour.execute("create table n (x text)")
    with follow(source, "t") as followed, followed.stream() as stream:
        source.execute("insert into t values (1)")
        assert numbers(followed, stream, 1) == [1]

        def let_it_move() -> None:
            before = followed.slot()
            neighbour.execute("insert into n select repeat('x', 1000) from generate_series(1, 5000)")
            source.execute("insert into unpublished values (1)")
            with followed.connector.write() as session:
                heartbeat(session)
            wal_end = parse_lsn(source.execute("select pg_current_wal_insert_lsn()::text")[0][0])
            assert wal_end - before.confirmed_lsn > 4_000_000
            wait_until(lambda: (stream.idle_lsn or 0) >= wal_end - 100_000, "the server has read the neighbour's log")
            stream.confirm(stream.idle_lsn or 0)
            wait_until(lambda: followed.slot().confirmed_lsn >= wal_end - 100_000, "the slot has moved")
            assert stream.lag() == StreamLag(0, 0.0)

            def is_given_free() -> bool:
                # The log is kept from the last point at which the server wrote down which transactions are open, as
                # soon as what comes after is confirmed.
                source.execute("checkpoint")
                stream.confirm(stream.idle_lsn or 0)
                return bool(followed.slot().restart_lsn > wal_end - 100_000)

            wait_until(is_given_free, "the log before is given free")

        for _ in range(3):
            let_it_move()
    neighbour.drop()


def test_lag_in_bytes_and_seconds(source: PostgresqlDatabase) -> None:
    source.execute("create table t (id int primary key, x text)")
    with follow(source) as followed, followed.stream() as stream:
        assert stream.lag() == StreamLag(0, 0.0)
        source.execute("insert into t select g, repeat('x', 1000) from generate_series(1, 1000) g")
        transaction = take(stream)
        time.sleep(1.0)
        lag = stream.lag()
        assert 1_000_000 < lag.bytes < 10_000_000
        assert 1.0 <= lag.seconds < 20
        assert followed.slot().confirmed_lag_bytes >= lag.bytes - 1000
        transaction.close()
        followed.store(stream, transaction)
        assert stream.lag() == StreamLag(0, 0.0)


def test_one_consumer_reads_a_slot(source: PostgresqlDatabase) -> None:
    source.execute("create table t (id int primary key)")
    with follow(source) as followed, followed.stream():
        with pytest.raises(SlotInUseError, match="is active for PID"), followed.stream():
            pass
        with followed.connector.write() as session, pytest.raises(SlotInUseError, match="is being read"):
            drop_slot(session, followed.replication.slot_name)
        assert followed.slot() is not None


def test_a_slot_that_is_not_there(source: PostgresqlDatabase) -> None:
    source.execute("create table t (id int primary key)")
    with follow(source) as followed:
        with followed.connector.write() as session:
            drop_slot(session, followed.replication.slot_name)
        with pytest.raises(SlotLostError, match="no such slot"), followed.stream():
            pass


def test_a_source_that_has_gone_back_is_not_taken_for_one_without_news(source: PostgresqlDatabase) -> None:
    source.execute("create table t (id int primary key)")
    with follow(source) as followed:
        followed.position += 1024**3
        with pytest.raises(SlotLostError, match="restored from a backup"), followed.stream():
            pass


def test_a_publication_that_was_dropped_ends_the_stream_or_is_found_missing(source: PostgresqlDatabase) -> None:
    source.execute("create table t (id int primary key)")
    with follow(source) as followed:
        with followed.connector.write() as session:
            drop_publication(session, followed.replication.publication_name)
            drop_publication(session, followed.replication.publication_name)
        source.execute("insert into t values (1)")
        with followed.stream() as stream:
            if int(source.execute("show server_version_num")[0][0]) >= 180_000:
                # It warns in its own log, and passes over what is not published.
                assert stream.next_transaction(2) is None
            else:
                with pytest.raises(FatalError, match="publication") as caught:
                    stream.next_transaction(10)
                assert not isinstance(caught.value, SlotLostError)


def test_a_slot_that_the_server_has_given_up(source_server: PostgresqlServer) -> None:
    source = source_server.create_database()
    source.execute("create table t (id int primary key, x text)")
    with follow(source) as followed:
        source_server.execute("alter system set max_slot_wal_keep_size = '1MB'")
        source_server.reload()
        try:
            for _ in range(4):
                source.execute(
                    "insert into t select -g, repeat('x', 500) from generate_series(1, 20000) g; delete from t"
                )
                source.execute("select pg_switch_wal()")
                source.execute("checkpoint")
            wait_until(lambda: followed.slot().is_lost, "the slot is lost")
            slot = followed.slot()
            assert slot.wal_status == "lost"
            with pytest.raises(SlotLostError, match="thrown away what the slot needs") as caught, followed.stream():
                pass
            assert "resync" in (caught.value.hint or "")
        finally:
            source_server.execute("alter system reset max_slot_wal_keep_size")
            source_server.reload()
    source.drop()


def test_a_silent_network_is_noticed(source: PostgresqlDatabase) -> None:
    source.execute("create table t (id int primary key)")
    proxy = StallingProxy(source.port)
    try:
        with follow(source) as followed:
            config = replace(
                source.config("source", options={"silence_timeout_seconds": 1}), host="127.0.0.1", port=proxy.port
            )
            followed.connector, direct = PostgresqlConnector(config), followed.connector
            try:
                with followed.stream() as stream:
                    source.execute("insert into t values (1)")
                    assert numbers(followed, stream, 1) == [1]
                    # Nothing to say is no silence.
                    assert stream.next_transaction(4) is None
                    proxy.stall(new_connections_too=False)
                    assert "silent" in read_to_the_end(stream).message
            finally:
                followed.connector.close()
                followed.connector = direct
    finally:
        proxy.close()


MEASURE = """
import re, sys
from pathlib import Path
from synqx_dagster.connectors.postgresql import PostgresqlConnector
from synqx_dagster.connectors.protocol import ConnectionConfig
from synqx_dagster.replication.stream import open_stream
host, port, database, slot, publication, after_lsn, streams = sys.argv[1:]
config = ConnectionConfig("source", "postgresql", host=host, port=int(port), database=database, username="postgres")
connector = PostgresqlConnector(config)
options = {"after_lsn": int(after_lsn), "streams_open_transactions": streams == "1"}
with open_stream(connector, slot, publication, **options) as stream:
    transaction = stream.next_transaction(600)
    count = sum(1 for _ in transaction.iter_changes())
    # Not getrusage(), which goes on from what the process had that started this one.
    print(count, int(re.search(r"VmHWM:\\s+(\\d+)", Path("/proc/self/status").read_text())[1]) // 1024)
connector.close()
"""


@pytest.mark.slow
@pytest.mark.parametrize("streams", ["1", "0"], ids=["in pieces", "whole"])
def test_two_million_rows_in_one_transaction_take_little_memory(source: PostgresqlDatabase, streams: str) -> None:
    source.execute("create table t (id int primary key, n int, filler char(84))")
    with follow(source) as followed:
        source.execute("insert into t select g, 0, '' from generate_series(1, 2000000) g")
        names = (followed.replication.slot_name, followed.replication.publication_name)
        arguments = [source.host, str(source.port), source.name, *names, str(followed.position), streams]
        result = subprocess.run(
            [sys.executable, "-c", MEASURE, *arguments], capture_output=True, text=True, check=False, env=os.environ
        )
        assert result.returncode == 0, result.stderr
        count, megabytes = map(int, result.stdout.split())
    assert count == 2_000_000
    assert megabytes < 150


def test_a_batch_that_holds_much_memory_is_to_be_stored_before_more_is_given(source: PostgresqlDatabase) -> None:
    source.execute("create table t (id int primary key, x text)")
    with follow(source) as followed, followed.stream(memory_bytes=1_000_000) as stream:
        for number in range(20):
            source.execute("insert into t values (%s, repeat('x', 100000))", [number])
        batch = []
        while (transaction := stream.next_transaction(10)) is not None:
            batch.append(transaction)
        assert 5 <= len(batch) < 12
        for transaction in batch:
            transaction.close()
        followed.store(stream, batch[-1])
        assert numbers(followed, stream, 20 - len(batch)) == list(range(len(batch), 20))


def test_threads_and_connections_end_with_the_stream(source: PostgresqlDatabase) -> None:
    source.execute("create table t (id int primary key)")
    with follow(source) as followed:
        for _ in range(5):
            with followed.stream() as stream:
                source.execute("insert into t values ((select coalesce(max(id), 0) + 1 from t))")
                take(stream).close()
        assert not [thread for thread in threading.enumerate() if thread.name == "synqx-replication"]
        wait_until(lambda: followed.slot().active_pid is None, "the server has ended its part")
