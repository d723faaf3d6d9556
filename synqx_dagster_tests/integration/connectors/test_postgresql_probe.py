"""The connection test says exactly what is wrong, within its limit, whatever the network does."""

from __future__ import annotations

import socket
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from typing import Any

import pytest

from synqx_dagster.connectors.postgresql import PostgresqlConnector
from synqx_dagster.connectors.protocol import ConnectionConfig, ConnectionReport
from synqx_dagster.errors import ConnectionFailedError
from synqx_dagster_tests.fix_postgresql import PostgresqlDatabase, PostgresqlServer

PASSWORD = "hunter2-canary"


def probe(reached: PostgresqlDatabase, /, *, timeout_seconds: float = 5.0, **changes: Any) -> ConnectionReport:
    config = ConnectionConfig(**{**vars(reached.config()), **changes})
    start = time.monotonic()
    report = PostgresqlConnector(config).test(timeout_seconds=timeout_seconds)
    # A busy machine is late; what hangs is later than that.
    assert time.monotonic() - start < timeout_seconds + 30
    assert PASSWORD not in repr(report)
    return report


@contextmanager
def listener(*, answers: bool) -> Iterator[int]:
    """A TCP port that takes connections; without answers its queue is full, so even the handshake hangs."""
    with closing(socket.socket()) as server:
        server.bind(("127.0.0.1", 0))
        server.listen(5 if answers else 0)
        port = server.getsockname()[1]
        fillers = []
        if not answers:
            for _ in range(3):
                filler = socket.socket()
                filler.setblocking(False)
                filler.connect_ex(("127.0.0.1", port))
                fillers.append(filler)
        try:
            yield port
        finally:
            for filler in fillers:
                filler.close()


@pytest.fixture
def passwords(postgresql_server: PostgresqlServer) -> Iterator[None]:
    """A role that needs its password, on the socket and by TCP."""
    hba = postgresql_server.data_directory / "pg_hba.conf"
    original = hba.read_text()
    postgresql_server.execute(f"create role locked login password '{PASSWORD}'")
    hba.write_text(
        "local all locked scram-sha-256\nhost all locked 127.0.0.1/32 scram-sha-256\n"
        "host all shut_out 127.0.0.1/32 reject\n" + original
    )
    postgresql_server.reload()
    yield
    hba.write_text(original)
    postgresql_server.reload()
    postgresql_server.execute("drop owned by locked; drop role locked")


def test_a_server_that_answers_is_described(postgresql: PostgresqlDatabase) -> None:
    by_socket = probe(postgresql)
    assert by_socket.ok
    assert by_socket.server_version is not None
    assert by_socket.server_version.startswith("PostgreSQL ")
    assert (by_socket.can_read, by_socket.can_write, by_socket.tls) == (True, True, None)
    by_tcp = probe(postgresql, host="localhost")
    assert (by_tcp.ok, by_tcp.tls) == (True, "off")


def test_a_closed_port_is_refused(postgresql: PostgresqlDatabase) -> None:
    with closing(socket.socket()) as unused:
        unused.bind(("127.0.0.1", 0))
        report = probe(postgresql, host="127.0.0.1", port=unused.getsockname()[1])
    assert (report.ok, report.reason) == (False, "refused")
    assert probe(postgresql, port=1).reason == "refused"


@pytest.mark.parametrize("answers", [True, False], ids=["accepts and is silent", "drops packets"])
def test_a_port_that_never_answers_times_out(postgresql: PostgresqlDatabase, answers: bool) -> None:
    with listener(answers=answers) as port:
        report = probe(postgresql, host="127.0.0.1", port=port, timeout_seconds=0.7)
    assert (report.ok, report.reason) == (False, "timeout")
    assert "0.7 s" in report.message


def test_a_name_without_an_address(postgresql: PostgresqlDatabase) -> None:
    assert probe(postgresql, host="no-such-host.invalid").reason == "name_resolution"
    # Too long a label: refused before any name server is asked.
    assert probe(postgresql, host="a" * 70 + ".invalid").reason == "name_resolution"


def test_a_database_that_is_not_there(postgresql: PostgresqlDatabase) -> None:
    report = probe(postgresql, database="no such database")
    assert (report.reason, report.hint) == ("database_missing", "check database")


@pytest.mark.usefixtures("passwords")
def test_a_wrong_password_is_told_from_a_right_one(postgresql: PostgresqlDatabase) -> None:
    for host in (postgresql.host, "127.0.0.1"):
        assert probe(postgresql, host=host, username="locked", password=PASSWORD).ok
        assert probe(postgresql, host=host, username="locked", password="wrong").reason == "authentication"
        assert probe(postgresql, host=host, username="locked").reason == "authentication"
    assert probe(postgresql, username="nobody at all").reason == "authentication"
    assert probe(postgresql, host="127.0.0.1", username="shut_out").reason == "authentication"


def test_tls_that_the_server_does_not_speak(postgresql: PostgresqlDatabase) -> None:
    for mode in ("require", "verify-full"):
        report = probe(postgresql, host="127.0.0.1", options={"sslmode": mode})
        assert (report.ok, report.reason) == (False, "tls")
    assert probe(postgresql, host="127.0.0.1", options={"sslmode": "disable"}).tls == "off"


@pytest.mark.usefixtures("passwords")
def test_rights_are_those_of_the_user(postgresql: PostgresqlDatabase) -> None:
    postgresql.execute("create table t (); revoke all on schema public from public")
    report = probe(postgresql, username="locked", password=PASSWORD)
    assert (report.ok, report.can_read, report.can_write) == (True, False, False)
    postgresql.execute("grant usage on schema public to locked; grant select on t to locked")
    assert probe(postgresql, username="locked", password=PASSWORD).can_read
    postgresql.execute("grant create on schema public to locked")
    assert probe(postgresql, username="locked", password=PASSWORD).can_write


@pytest.mark.usefixtures("passwords")
def test_a_session_fails_for_the_same_reason_and_keeps_the_password(postgresql: PostgresqlDatabase) -> None:
    config = ConnectionConfig(
        **{**vars(postgresql.config()), "username": "locked", "password": f"{PASSWORD} wrong ' \\ part"}
    )
    connector = PostgresqlConnector(config)
    with pytest.raises(ConnectionFailedError) as caught, connector.read():
        pytest.fail("connected")
    assert caught.value.reason == "authentication"
    assert PASSWORD not in f"{caught.value!r}{vars(caught.value)}{caught.value.__cause__}{config!r}"
