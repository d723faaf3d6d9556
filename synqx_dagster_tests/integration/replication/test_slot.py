"""Slots at real servers: made, kept or dropped whatever fails, and refused with what must be changed."""

from __future__ import annotations

import contextlib
import subprocess
import sys
import threading
import time
from contextlib import closing
from dataclasses import replace

import pytest

from synqx_dagster.connectors import postgresql_replication
from synqx_dagster.connectors.postgresql import PostgresqlConnector
from synqx_dagster.connectors.protocol import SshTunnelConfig
from synqx_dagster.errors import (
    ConfigurationError,
    ConnectionFailedError,
    HostRefusedError,
    NotPermittedError,
    RetryableError,
)
from synqx_dagster.model.host_policy import HostPolicy
from synqx_dagster.replication.slot import create_slot, drop_slot, find_slot, heartbeat
from synqx_dagster.replication.stream import open_stream
from synqx_dagster_tests.fix_postgresql import PostgresqlDatabase, PostgresqlServer
from synqx_dagster_tests.fix_ssh import SshServer
from synqx_dagster_tests.fix_tls import TlsPostgresql
from synqx_dagster_tests.integration.replication.following import follow, take, wait_until

NAME = "synqx_test_slot"


def connector_of(source: PostgresqlDatabase) -> PostgresqlConnector:
    return PostgresqlConnector(source.config("source"))


def slots(source: PostgresqlDatabase) -> list[str]:
    query = "select slot_name from pg_replication_slots where database = current_database() order by 1"
    return [name for (name,) in source.execute(query)]


def test_a_slot_that_is_not_kept_is_dropped(source: PostgresqlDatabase) -> None:
    connector = connector_of(source)
    with create_slot(connector, NAME) as slot:
        assert slots(source) == [NAME]
        with connector.read_at(slot.snapshot) as session:
            assert session.fetch_value("select 1") == 1
    assert slots(source) == []
    with pytest.raises(ZeroDivisionError), create_slot(connector, NAME):
        _ = 1 // 0
    assert slots(source) == []
    with create_slot(connector, NAME) as slot:
        slot.keep()
    assert slots(source) == [NAME]
    with contextlib.suppress(KeyboardInterrupt), create_slot(connector, NAME, replaces=True) as slot:
        slot.keep()
        raise KeyboardInterrupt
    assert slots(source) == [NAME]
    with connector.write() as session:
        assert drop_slot(session, NAME)
        assert not drop_slot(session, NAME)
        assert find_slot(session, NAME) is None
    connector.close()


def test_an_error_says_which_slot_it_left_behind(
    postgresql: PostgresqlDatabase, postgresql_server: PostgresqlServer
) -> None:
    connector = connector_of(postgresql)
    role = f'"reader_{postgresql.name}"'
    postgresql.execute(f"create role {role} login replication")
    connector = PostgresqlConnector(replace(postgresql.config("source"), username=role.strip('"')))

    def fail() -> None:
        with create_slot(connector, NAME):
            postgresql.execute(f"alter role {role} noreplication")
            _ = 1 // 0

    with pytest.raises(ZeroDivisionError) as caught:
        fail()
    assert any(NAME in note for note in caught.value.__notes__)
    assert slots(postgresql) == [NAME]
    with connector_of(postgresql).write() as session:
        drop_slot(session, NAME)
    connector.close()
    postgresql.execute(f"drop role {role}")


def test_temporary_slots_go_with_their_block(source: PostgresqlDatabase) -> None:
    connector = connector_of(source)
    with create_slot(connector, NAME, temporary=True):
        with connector.write() as session:
            state = find_slot(session, NAME)
        assert state is not None
        assert state.is_temporary
    wait_until(lambda: slots(source) == [], "the temporary slot is gone")
    connector.close()


KILLED = """
import os, signal, sys
from synqx_dagster.connectors.postgresql import PostgresqlConnector
from synqx_dagster.connectors.protocol import ConnectionConfig
from synqx_dagster.replication.slot import create_slot
host, port, database, name = sys.argv[1:]
config = ConnectionConfig("source", "postgresql", host=host, port=int(port), database=database, username="postgres")
with create_slot(PostgresqlConnector(config), name):
    os.kill(os.getpid(), signal.SIGKILL)
"""


def test_what_a_killed_process_left_is_replaced(source: PostgresqlDatabase) -> None:
    arguments = [source.host, str(source.port), source.name, NAME]
    subprocess.run([sys.executable, "-c", KILLED, *arguments], check=False, timeout=60)
    assert slots(source) == [NAME]
    connector = connector_of(source)
    with pytest.raises(ConfigurationError, match="already exists") as caught, create_slot(connector, NAME):
        pass
    assert "pg_drop_replication_slot" in (caught.value.hint or "")
    assert slots(source) == [NAME]
    with create_slot(connector, NAME, replaces=True):
        assert slots(source) == [NAME]
    assert slots(source) == []
    connector.close()


def test_a_slot_of_another_database_or_plugin_is_left_alone(
    source: PostgresqlDatabase, source_server: PostgresqlServer
) -> None:
    other = source_server.create_database()
    other.execute("select pg_create_logical_replication_slot(%s, 'pgoutput')", [NAME])
    source.execute("select pg_create_physical_replication_slot('synqx_physical')")
    connector = connector_of(source)
    with connector.write() as session:
        for name in (NAME, "synqx_physical"):
            state = find_slot(session, name)
            assert state is not None
            assert not state.is_here
            with pytest.raises(ConfigurationError, match="not to us"):
                drop_slot(session, name)
    source.execute("select pg_drop_replication_slot('synqx_physical')")
    other.execute("select pg_drop_replication_slot(%s)", [NAME])
    connector.close()
    other.drop()


def test_a_consumer_is_ended_when_that_is_asked_for(source: PostgresqlDatabase) -> None:
    source.execute("create table t (id int primary key)")
    with follow(source) as followed, followed.stream() as stream:
        with followed.connector.write() as session:
            assert drop_slot(session, followed.replication.slot_name, ends_consumer=True)
        with pytest.raises(RetryableError):
            stream.next_transaction(10)


def test_open_transactions_do_not_hold_up_a_slot_for_ever(
    source: PostgresqlDatabase, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(postgresql_replication, "SLOT_WAIT_SECONDS", 1)
    connector = connector_of(source)
    source.execute("create table t (id int)")
    with closing(source.connect()) as connection, connection.cursor() as cursor:
        cursor.execute("begin; insert into t values (1)")
        with pytest.raises(RetryableError, match="have not ended in time") as caught, create_slot(connector, NAME):
            pass
        assert "pg_stat_activity" in (caught.value.hint or "")
    assert slots(source) == []
    connector.close()


def test_the_snapshot_outlives_every_time_out_of_the_server(source: PostgresqlDatabase) -> None:
    version = int(source.execute("show server_version_num")[0][0])
    limits = ["idle_in_transaction_session_timeout", "statement_timeout", "idle_session_timeout"]
    for limit in [*limits, *(["transaction_timeout"] if version >= 170_000 else [])]:
        source.execute(f"alter database \"{source.name}\" set {limit} = '500ms'")
    connector = PostgresqlConnector(source.config("source"))
    with create_slot(connector, NAME) as slot:
        time.sleep(1.5)
        with connector.read_at(slot.snapshot) as session:
            assert session.fetch_value("select 1") == 1
    connector.close()


def test_heartbeats_need_no_table(source: PostgresqlDatabase) -> None:
    connector = connector_of(source)
    with connector.write() as session:
        before = source.execute("select pg_current_wal_insert_lsn()")
        heartbeat(session)
        assert source.execute("select pg_current_wal_insert_lsn()") != before
    connector.close()


# --- connections --------------------------------------------------------------------------------------------------


def test_without_the_right_to_replicate(source: PostgresqlDatabase) -> None:
    role = f"plain_{source.name}"
    source.execute(f'create role "{role}" login')
    connector = PostgresqlConnector(replace(source.config("source"), username=role))
    with pytest.raises(NotPermittedError, match="lacks the right to replicate") as caught, connector.replicate():
        pass
    assert "ALTER ROLE" in (caught.value.hint or "")
    source.execute(f'drop role "{role}"')


def test_without_free_wal_senders_or_slots(postgresql_15_server: PostgresqlServer) -> None:
    server = postgresql_15_server
    source = server.create_database()
    connector = connector_of(source)
    server.execute("alter system set max_wal_senders = 1")
    server.execute("alter system set max_replication_slots = 1")
    server.stop()
    server.start()
    try:
        with connector.replicate():
            with pytest.raises(RetryableError, match="max_wal_senders") as caught, connector.replicate():
                pass
            assert "raise max_wal_senders" in (caught.value.hint or "")
        source.execute("select pg_create_logical_replication_slot('synqx_taken', 'pgoutput')")
        refused = pytest.raises(RetryableError, match="all replication slots are in use")
        with refused as caught, create_slot(connector, NAME):
            pass
        assert "max_replication_slots" in (caught.value.hint or "")
        source.execute("select pg_drop_replication_slot('synqx_taken')")
    finally:
        connector.close()
        server.execute("alter system reset all")
        server.stop()
        server.start()
    source.drop()


def test_replication_goes_through_an_ssh_tunnel(postgresql: PostgresqlDatabase, ssh_server: SshServer) -> None:
    postgresql.execute("create table t (id int primary key)")
    tunnel: SshTunnelConfig = ssh_server.tunnel()
    with follow(postgresql) as followed:
        direct, followed.connector = (
            followed.connector,
            PostgresqlConnector(replace(postgresql.config("source"), host="127.0.0.1", ssh_tunnel=tunnel)),
        )
        with followed.stream() as stream:
            postgresql.execute("insert into t values (1)")
            assert take(stream).change_count == 1
        followed.connector.close()
        followed.connector = direct


def test_replication_is_encrypted_and_verified(tls_postgresql: TlsPostgresql) -> None:
    connector = PostgresqlConnector(tls_postgresql.config())
    tls_postgresql.execute(
        "create table large (id int primary key, x text)", "create publication synqx_tls for table large"
    )
    with create_slot(connector, NAME) as slot:
        tls_postgresql.execute(
            "insert into large select g, repeat('x', 1000) from generate_series(1, 20000) g",
            "insert into large select -g, repeat('y', 3000000) from generate_series(1, 10) g",
        )
        began = time.monotonic()
        with open_stream(connector, NAME, "synqx_tls", after_lsn=slot.consistent_lsn) as stream:
            query = "select ssl from pg_stat_ssl join pg_stat_activity using (pid) where backend_type = 'walsender'"
            assert (True,) in tls_postgresql.execute(query)
            counts = [sum(1 for _ in take(stream).iter_changes()) for _ in range(2)]
        assert counts == [20_000, 10]
        # What TLS has decrypted and nobody has read yet does not show on the socket.
        assert time.monotonic() - began < 20
    connector.close()
    tls_postgresql.execute("drop publication synqx_tls", "drop table large")
    wrong = PostgresqlConnector(tls_postgresql.config(host="127.0.0.1"))
    with pytest.raises(ConnectionFailedError) as caught, wrong.replicate():
        pass
    assert caught.value.reason == "tls"


def test_replication_keeps_to_the_operators_list_of_hosts(postgresql: PostgresqlDatabase) -> None:
    policy = HostPolicy.from_environment({"SYNQX_DENIED_HOSTS": "127.0.0.1"})
    connector = PostgresqlConnector(replace(postgresql.config("source"), host="127.0.0.1", host_policy=policy))
    with pytest.raises(HostRefusedError), connector.replicate():
        pass


def test_closing_from_another_thread_ends_a_read(source: PostgresqlDatabase) -> None:
    source.execute("create table t (id int primary key)")
    with follow(source) as followed, followed.connector.replicate() as session:
        names = (followed.replication.slot_name, followed.replication.publication_name)
        session.start(*names, after_lsn=0, streams_open_transactions=True)
        failures: list[Exception] = []

        def read() -> None:
            try:
                while True:
                    session.read(60)
            except RetryableError as error:
                failures.append(error)

        thread = threading.Thread(target=read)
        thread.start()
        time.sleep(0.3)
        began = time.monotonic()
        session.close()
        session.close()
        thread.join(10)
        assert not thread.is_alive()
        assert time.monotonic() - began < 3
        assert len(failures) == 1
