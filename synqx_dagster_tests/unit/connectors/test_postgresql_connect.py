"""What is sent to a PostgreSQL server, and what its refusals mean."""

from __future__ import annotations

import pytest

from synqx_dagster.connectors.network import Endpoint
from synqx_dagster.connectors.postgresql_connect import (
    check_options,
    connection_parameters,
    settings_sql,
)
from synqx_dagster.connectors.postgresql_errors import classify_failure
from synqx_dagster.connectors.protocol import ConnectionConfig


@pytest.mark.parametrize(
    ("host", "mode"),
    [
        (None, "prefer"),
        ("localhost", "prefer"),
        ("127.0.0.1", "prefer"),
        ("::1", "prefer"),
        ("/var/run/postgresql", "prefer"),
        ("db.example.org", "verify-full"),
        ("10.0.0.1", "verify-full"),
        ("localhost.example.org", "verify-full"),
    ],
)
def test_remote_servers_are_verified_unless_told_otherwise(host: str | None, mode: str) -> None:
    config = ConnectionConfig("c", "postgresql", host=host, database="d")
    endpoint = Endpoint(host or "localhost", 5432, ("192.0.2.1", "192.0.2.2"))
    parameters = connection_parameters(config, endpoint)
    assert parameters["sslmode"] == mode
    # The addresses are what is connected to; the name is for the certificate.
    assert parameters["hostaddr"] == "192.0.2.1,192.0.2.2"
    assert parameters["host"] == ",".join([host or "localhost"] * 2)
    assert ("sslrootcert" in parameters) <= (mode == "verify-full")
    relaxed = ConnectionConfig("c", "postgresql", host=host, database="d", options={"sslmode": "require"})
    assert connection_parameters(relaxed, endpoint)["sslmode"] == "require"


def test_only_known_options_pass() -> None:
    assert check_options({"sslmode": "require", "connect_timeout": 3, "lock_timeout_seconds": 0.5}) == []
    for options in (
        {"options": "-c datestyle=SQL"},
        {"service": "x"},
        {"sslmode": "sometimes"},
        {"connect_timeout": "soon"},
        {"connect_timeout": True},
        {"lock_timeout_seconds": -1},
        {"lock_timeout_seconds": float("nan")},
        {"application_name": ""},
    ):
        assert len(check_options(options)) == 1, options


def test_time_outs_are_in_milliseconds_and_a_preview_overrides_them() -> None:
    config = ConnectionConfig("c", "postgresql", options={"statement_timeout_seconds": 1.5})
    assert "set_config('statement_timeout', '1500ms', true)" in settings_sql(config, local=True)
    assert "set_config('statement_timeout', '60000ms', false)" in settings_sql(config, local=False)
    limited = settings_sql(config, local=False, statement_timeout_seconds=30)
    assert "set_config('statement_timeout', '30000ms', false)" in limited


@pytest.mark.parametrize(
    ("message", "reason"),
    [
        ('could not translate host name "x" to address: Name or service not known', "name_resolution"),
        (
            'connection to server at "h" (10.0.0.1), port 5432 failed: Connection refused\n\tIs the server running?',
            "refused",
        ),
        ('connection to server on socket "/x/.s.PGSQL.1" failed: No such file or directory', "refused"),
        ('connection to server at "h", port 1 failed: timeout expired', "timeout"),
        ('connection to server at "h", port 1 failed: server does not support SSL, but SSL was required', "tls"),
        ('connection to server at "h" failed: SSL error: certificate verify failed', "tls"),
        ('root certificate file "/x" does not exist', "tls"),
        ('connection to server failed: FATAL:  password authentication failed for user "u"', "authentication"),
        ("connection to server failed: fe_sendauth: no password supplied", "authentication"),
        ('FATAL:  no pg_hba.conf entry for host "1", user "u", database "d", no encryption', "authentication"),
        ('connection to server failed: FATAL:  role "u" does not exist', "authentication"),
        ('connection to server failed: FATAL:  database "d" does not exist', "database_missing"),
        ('connection to server failed: FATAL:  permission denied for database "d"', "permission"),
        ("Verbindung fehlgeschlagen: FATAL:  Datenbank »the_db« existiert nicht", "database_missing"),
        (
            "Verbindung fehlgeschlagen: FATAL:  Passwort-Authentifizierung für Benutzer »the_user« fehlgeschlagen",
            "authentication",
        ),
        ("FATAL:  the database system is starting up", "unknown"),
    ],
)
def test_a_failed_connection_has_a_reason(message: str, reason: str) -> None:
    assert classify_failure(message, database="the_db", username="the_user") == reason
