"""Connecting to a real MariaDB: what a test of a connection reports, and why one cannot be made."""

from __future__ import annotations

import socket
import threading
from contextlib import closing
from dataclasses import replace

import pytest

from synqx_dagster.connectors.mysql import MysqlConnector
from synqx_dagster.connectors.protocol import ConnectionConfig, Connector
from synqx_dagster.errors import ConnectionFailedError
from synqx_dagster_tests.fix_mysql import MysqlDatabase, MysqlServer

pytestmark = pytest.mark.mysql


def test_reports_what_it_found(mysql: MysqlDatabase, mysql_server: MysqlServer) -> None:
    connector: Connector = MysqlConnector(mysql.config())
    assert isinstance(connector, Connector)
    report = connector.test()
    assert report.ok, report.message
    assert report.server_version is not None
    assert report.server_version.startswith("MariaDB 1")
    assert (report.can_read, report.can_write) == (True, True)
    assert report.tls is not None
    assert report.tls.startswith("TLS")
    assert report.latency_seconds is not None
    assert report.latency_seconds < 5


def test_connects_over_a_socket_and_with_a_verified_server(mysql: MysqlDatabase, mysql_server: MysqlServer) -> None:
    over_socket = replace(mysql.config(options={"unix_socket": mysql_server.unix_socket}), host=None, port=None)
    assert MysqlConnector(over_socket).test().tls == "off"
    verified = mysql.config(options={"ssl_ca": str(mysql_server.authority_file)})
    assert (MysqlConnector(verified).test().tls or "").startswith("TLS")


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"password": "wrong-hush"}, "authentication"),
        ({"username": "nobody"}, "authentication"),
        ({"database": "nowhere"}, "database_missing"),
        ({"port": 1}, "refused"),
        ({"host": "host.invalid"}, "name_resolution"),
        ({"options": {"ssl_mode": "verify_identity"}}, "tls"),
        ({"host": None, "options": {"unix_socket": "/nowhere.sock"}}, "refused"),
    ],
    ids=["password", "user", "database", "port", "host", "certificate", "socket"],
)
def test_reports_why_it_cannot_connect(change: dict[str, object], reason: str, mysql: MysqlDatabase) -> None:
    config: ConnectionConfig = replace(mysql.config(), **change)  # type: ignore[arg-type]  # fields by name
    report = MysqlConnector(config).test()
    assert (report.ok, report.reason) == (False, reason), report.message
    assert "hush" not in f"{report}"
    with pytest.raises(ConnectionFailedError) as caught, MysqlConnector(config).read():
        pass
    assert caught.value.reason == reason


def test_a_silent_server_ends_the_test_in_time(mysql_server: MysqlServer) -> None:
    with closing(socket.create_server(("127.0.0.1", 0))) as silent:
        config = ConnectionConfig(
            "c", "mysql", host="127.0.0.1", port=silent.getsockname()[1], database="d", username="u"
        )
        report = MysqlConnector(config).test(timeout_seconds=0.3)
    assert (report.ok, report.reason) == (False, "timeout")
    for thread in threading.enumerate():
        if thread.name == "synqx-test":
            thread.join(5)
