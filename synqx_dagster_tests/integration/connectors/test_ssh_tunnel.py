"""Tunnels through a real SSH server: its key is pinned, its death is noticed, and nobody else gets through."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from synqx_dagster.connectors.mysql import MysqlConnector
from synqx_dagster.connectors.postgresql import PostgresqlConnector
from synqx_dagster.connectors.protocol import ConnectionConfig, SshTunnelConfig
from synqx_dagster.connectors.ssh_tunnel import find_tunnel
from synqx_dagster.errors import (
    ConfigurationError,
    ConnectionFailedError,
    HostRefusedError,
    RetryableError,
    SynqxError,
)
from synqx_dagster.model.host_policy import HostPolicy
from synqx_dagster_tests.fix_mysql import MysqlDatabase
from synqx_dagster_tests.fix_postgresql import PostgresqlDatabase
from synqx_dagster_tests.fix_ssh import SshServer
from synqx_dagster_tests.fix_tls import TlsPostgresql
from synqx_dagster_tests.integration.transfer.loading import load, make_mapping


def through(config: ConnectionConfig, tunnel: SshTunnelConfig, **changes: Any) -> ConnectionConfig:
    return replace(config, host="127.0.0.1", ssh_tunnel=tunnel, **changes)


@pytest.fixture(autouse=True)
def no_thread_is_left() -> Iterator[None]:
    yield
    deadline = time.monotonic() + 5
    while any(thread.name == "synqx-ssh-tunnel" for thread in threading.enumerate()):
        assert time.monotonic() < deadline, "a tunnel's thread lives on"
        time.sleep(0.01)


def rows_of(connector: PostgresqlConnector, sql: str) -> list[int]:
    """Rows of one bigint, by ADBC."""
    with connector.read() as session:
        schema = pa.schema([pa.field("n", pa.int64())])
        return [n for batch in session.iter_batches(sql, schema, batch_rows=1000) for n in batch.column(0).to_pylist()]


def test_both_drivers_of_postgresql_go_through(postgresql: PostgresqlDatabase, ssh_server: SshServer) -> None:
    connector = PostgresqlConnector(through(postgresql.config(), ssh_server.tunnel()))
    report = connector.test()
    assert report.ok, report
    assert "through the SSH server 127.0.0.1" in report.message
    assert report.tls == "off, inside SSH as far as 127.0.0.1"
    with connector.write() as session:
        assert session.fetch_all("select inet_client_addr()::text") == [("127.0.0.1/32",)]
    assert rows_of(connector, "select generate_series(1, 50000)::bigint") == list(range(1, 50001))
    connector.close()


def test_a_load_goes_through_two_tunnels(postgresql: PostgresqlDatabase, ssh_server: SshServer) -> None:
    postgresql.execute("create table orders as select i as id, md5(i::text) as body from generate_series(1, 3000) i")
    target = postgresql.create_database()
    ends = [
        PostgresqlConnector(through(database.config(name), ssh_server.tunnel()))
        for database, name in ((postgresql, "source"), (target, "target"))
    ]
    result = load(ends[0], ends[1], make_mapping(source_table="orders", target_table="orders"))
    assert result.rows_out == 3000
    for end in ends:
        end.close()
    assert target.execute("select count(*), count(distinct body) from orders") == [(3000, 3000)]


@pytest.mark.mysql
def test_mysql_goes_through(mysql: MysqlDatabase, ssh_server: SshServer) -> None:
    connector = MysqlConnector(through(mysql.config(), ssh_server.tunnel()))
    report = connector.test()
    assert report.ok, report
    assert "inside SSH" in (report.tls or "")
    with connector.read() as session:
        assert session.fetch_value("select 42") == 42
    connector.close()


def test_the_databases_certificate_is_for_the_database(tls_postgresql: TlsPostgresql, ssh_server: SshServer) -> None:
    """Not for the tunnel's local end, which is 127.0.0.1 whatever the database is called."""
    connector = PostgresqlConnector(replace(tls_postgresql.config(), ssh_tunnel=ssh_server.tunnel()))
    assert (connector.test().tls or "").startswith("TLSv1.3, server verified (verify-full), inside SSH")
    assert rows_of(connector, "select 1::bigint") == [1]
    connector.close()
    wrong = PostgresqlConnector(replace(tls_postgresql.config(host="127.0.0.1"), ssh_tunnel=ssh_server.tunnel()))
    assert "another name than '127.0.0.1'" in wrong.test().message
    wrong.close()


# --- who is refused ----------------------------------------------------------------------------------------------


def fail(config: ConnectionConfig) -> ConnectionFailedError:
    connector = PostgresqlConnector(config)
    report = connector.test()
    with pytest.raises(ConnectionFailedError) as caught, connector.read():
        pass
    connector.close()
    assert (report.ok, report.message, report.reason) == (False, caught.value.message, caught.value.reason)
    return caught.value


def test_another_host_key_is_refused_with_both_fingerprints(
    postgresql: PostgresqlDatabase, ssh_server: SshServer
) -> None:
    import asyncssh

    other = asyncssh.generate_private_key("ssh-ed25519")
    pinned = other.export_public_key().decode().strip()
    error = fail(through(postgresql.config(), ssh_server.tunnel(host_key=pinned)))
    assert error.reason == "host_key"
    assert other.get_fingerprint() in error.message
    assert asyncssh.import_public_key(ssh_server.host_key).get_fingerprint() in error.message
    # A pinned key of a kind that the server has not: it shows what it has.
    rsa = asyncssh.generate_private_key("ssh-rsa").export_public_key().decode()
    assert fail(through(postgresql.config(), ssh_server.tunnel(host_key=rsa))).reason == "host_key"
    # Any of the server's own keys may be pinned.
    second = (ssh_server.directory / "host_ecdsa.pub").read_text()
    connector = PostgresqlConnector(through(postgresql.config(), ssh_server.tunnel(host_key=second)))
    assert connector.test().ok
    connector.close()


def test_wrong_credentials_are_told_from_wrong_settings(postgresql: PostgresqlDatabase, ssh_server: SshServer) -> None:
    import asyncssh

    stranger = asyncssh.generate_private_key("ssh-ed25519").export_private_key().decode()
    config = postgresql.config()
    unknown = fail(through(config, ssh_server.tunnel(private_key=stranger, passphrase=None)))
    assert unknown.reason == "authentication"
    with_password = ssh_server.tunnel(private_key=None, passphrase=None, password="hush-canary")
    refused = fail(through(config, with_password))
    assert refused.reason == "authentication"
    assert "canary" not in f"{refused} {refused.context} {with_password}"
    for changes, says in (
        ({"passphrase": None}, "give its passphrase"),
        ({"passphrase": "wrong-canary"}, "its passphrase right"),
        ({"private_key": "no key, canary"}, "private_key cannot be read"),
        ({"host_key": "ssh-ed25519 AAAAnonsense"}, "host_key is not a public key"),
    ):
        connector = PostgresqlConnector(through(config, ssh_server.tunnel(**changes)))
        with pytest.raises(ConfigurationError, match=says) as caught, connector.read():
            pass
        assert "canary" not in str(caught.value)


def test_a_database_that_the_ssh_server_cannot_reach(ssh_server: SshServer) -> None:
    with closing(socket.socket()) as unused:
        unused.bind(("127.0.0.1", 0))
        config = ConnectionConfig("c", "postgresql", port=unused.getsockname()[1], database="d", username="u")
        error = fail(through(config, ssh_server.tunnel()))
    assert error.reason == "tunnel"
    assert f"cannot reach 127.0.0.1:{config.port}" in error.message


def test_a_server_that_does_not_forward(postgresql: PostgresqlDatabase, ssh_files: SshServer) -> None:
    ssh_files.start("AllowTcpForwarding=no")
    try:
        error = fail(through(postgresql.config(), ssh_files.tunnel()))
    finally:
        ssh_files.stop()
    assert error.reason == "tunnel"
    assert "does not forward" in error.message


def test_no_ssh_server_and_one_that_is_silent(postgresql: PostgresqlDatabase, ssh_files: SshServer) -> None:
    assert fail(through(postgresql.config(), ssh_files.tunnel())).reason == "refused"
    with closing(socket.create_server(("127.0.0.1", 0))) as silent:
        tunnel = ssh_files.tunnel(port=silent.getsockname()[1])
        connector = PostgresqlConnector(through(postgresql.config(), tunnel))
        report = connector.test(timeout_seconds=0.5)
    assert (report.ok, report.reason) == (False, "timeout")


def test_the_host_policy_holds_for_both_hosts(postgresql: PostgresqlDatabase, ssh_server: SshServer) -> None:
    config = postgresql.config()
    for tunnel, denied in (({"host": "169.254.169.254"}, None), ({}, "127.0.0.0/8")):
        policy = HostPolicy.parse(None, denied)
        asked = PostgresqlConnector(through(config, ssh_server.tunnel(**tunnel), host_policy=policy))
        assert asked.test().reason == "host_refused"
        with pytest.raises(HostRefusedError), asked.read():
            pass
    far = replace(config, host="169.254.169.254", ssh_tunnel=ssh_server.tunnel())
    with pytest.raises(HostRefusedError), PostgresqlConnector(far).read():
        pass


# --- what happens to a tunnel --------------------------------------------------------------------------------------


def test_a_tunnel_that_dies_is_a_passing_fault_and_the_next_session_opens_another(
    postgresql: PostgresqlDatabase, ssh_server: SshServer
) -> None:
    connector = PostgresqlConnector(through(postgresql.config(), ssh_server.tunnel()))
    with connector.read() as session:
        killer = threading.Timer(0.3, ssh_server.kill_sessions)
        killer.start()
        with pytest.raises(RetryableError):
            session.fetch_value("select pg_sleep(20)")
    killer.join()
    assert rows_of(connector, "select 7::bigint") == [7]
    connector.close()


def test_a_connector_has_one_tunnel_and_closes_it(postgresql: PostgresqlDatabase, ssh_server: SshServer) -> None:
    connector = PostgresqlConnector(through(postgresql.config(), ssh_server.tunnel()))
    with connector.read(), connector.read(), connector.write():
        tunnel = find_tunnel(connector.config)
        assert tunnel is not None
    connector.close()
    assert not tunnel.is_open
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", tunnel.port), 1)


def test_a_connector_that_is_forgotten_takes_its_tunnel_along(
    postgresql: PostgresqlDatabase, ssh_server: SshServer
) -> None:
    connector = PostgresqlConnector(through(postgresql.config(), ssh_server.tunnel()))
    assert connector.test().ok
    del connector  # `no_thread_is_left` looks.


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells who is at the other end")
def test_another_process_does_not_get_through(postgresql: PostgresqlDatabase, ssh_server: SshServer) -> None:
    connector = PostgresqlConnector(through(postgresql.config(), ssh_server.tunnel()))
    with connector.read():
        tunnel = find_tunnel(connector.config)
        assert tunnel is not None
        script = (
            "import socket, sys\n"
            f"stream = socket.create_connection(('127.0.0.1', {tunnel.port}), 5)\n"
            "stream.sendall(bytes([0, 0, 0, 8, 4, 210, 22, 47]))\n"
            "sys.stdout.write(repr(stream.recv(1)))\n"
        )
        done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=20)
        # Whoever gets through is answered N to its request for TLS.
        assert done.stdout in ("", "b''"), done.stdout
    connector.close()


def test_a_forked_child_opens_its_own(postgresql: PostgresqlDatabase, ssh_server: SshServer) -> None:
    connector = PostgresqlConnector(through(postgresql.config(), ssh_server.tunnel()))
    with connector.read() as session:
        assert session.fetch_value("select 1") == 1
        child = os.fork()
        if child == 0:
            status = 1
            try:
                own = PostgresqlConnector(connector.config)
                with own.read() as other:
                    status = 0 if other.fetch_value("select 2") == 2 else 2
                own.close()
            except SynqxError:
                status = 3
            finally:
                os._exit(status)
        _, status = os.waitpid(child, 0)
        assert os.waitstatus_to_exitcode(status) == 0
        # The parent's own is still there.
        assert session.fetch_value("select 3") == 3
    connector.close()


def test_a_private_key_file_that_others_may_read_is_refused(tmp_path: Path, ssh_files: SshServer) -> None:
    from synqx_dagster.connectors.registry import make_connector
    from synqx_dagster.model import Connection

    key = tmp_path / "key"
    key.write_text(ssh_files.private_key)
    record = Connection.model_validate(
        {
            "name": "far",
            "db_type": "postgresql",
            "database": "d",
            "ssh_tunnel": {
                "host": "127.0.0.1",
                "username": "u",
                "host_key": ssh_files.host_key,
                "private_key": {"file": str(key)},
                "passphrase": {"env": "X"},
            },
        }
    )
    key.chmod(0o644)
    with pytest.raises(ConfigurationError, match="may be read by others"):
        make_connector(record, lambda _record, field: field)
    key.chmod(0o600)
    tunnel = make_connector(record, lambda _record, field: field).config.ssh_tunnel
    assert tunnel is not None
    assert (tunnel.private_key, tunnel.passphrase) == ("ssh_tunnel.private_key", "ssh_tunnel.passphrase")
