"""Opens PostgreSQL connections: what is sent to the server, which TLS is asked for, what every session is set to.

Guarantee: a session prints values in one canonical form whatever the server's, the database's or the role's settings
are, and a remote server is talked to over verified TLS unless the user says otherwise.
"""

from __future__ import annotations

import ipaddress
import os
import ssl
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from synqx_dagster.connectors.postgresql_errors import connection_failed
from synqx_dagster.connectors.protocol import ConnectionConfig
from synqx_dagster.model.connection import OptionValue

DEFAULT_PORT = 5432
CONNECT_TIMEOUT_SECONDS = 10

#: How long a statement waits for a lock. Others queue behind a waiting writer, so it must not be long.
LOCK_TIMEOUT_SECONDS = 30

#: When the server ends a transaction in which nothing happens: the client is stopped or gone, its locks are not.
IDLE_TIMEOUT_SECONDS = 3600

SSL_MODES = ("disable", "allow", "prefer", "require", "verify-ca", "verify-full")

#: What a user may set. Everything else that libpq knows (``options``, ``service``, ``passfile``, ...) could change
#: what a session prints or which secrets it reads.
_TEXT_OPTIONS = ("sslmode", "sslrootcert", "sslcert", "sslkey", "application_name")
_SECONDS_OPTIONS = (
    "connect_timeout",
    "statement_timeout_seconds",
    "lock_timeout_seconds",
    "idle_timeout_seconds",
)

#: Where systems keep the certificates that they trust. psycopg2's wheel carries an OpenSSL that looks elsewhere.
_CERTIFICATE_BUNDLES = (
    "/etc/ssl/certs/ca-certificates.crt",
    "/etc/pki/tls/certs/ca-bundle.crt",
    "/etc/ssl/cert.pem",
)

#: What decides how a value is printed and read. ``lc_monetary`` because money's text depends on it.
_CANONICAL_SETTINGS = {
    "client_encoding": "UTF8",
    "DateStyle": "ISO",
    "TimeZone": "UTC",
    "IntervalStyle": "postgres",
    "extra_float_digits": "1",
    "bytea_output": "hex",
    "lc_monetary": "C",
    "xmlbinary": "base64",
    "standard_conforming_strings": "on",
}


def check_options(options: Mapping[str, OptionValue]) -> list[str]:
    """What is wrong with a connection's options."""
    problems = []
    for name, value in options.items():
        if name in _TEXT_OPTIONS:
            if not isinstance(value, str) or not value or "\x00" in value:
                problems.append(f"options.{name}: give a text")
            elif name == "sslmode" and value not in SSL_MODES:
                problems.append(f"options.sslmode: {value!r} is not one of {', '.join(SSL_MODES)}")
        elif name in _SECONDS_OPTIONS:
            if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 <= value <= 10**6:
                problems.append(f"options.{name}: give a number of seconds, 0 for no limit")
        else:
            allowed = ", ".join((*_TEXT_OPTIONS, *_SECONDS_OPTIONS))
            problems.append(f"options.{name}: postgresql has no such option (there are: {allowed})")
    return problems


def is_local(host: str) -> bool:
    """Whether traffic to a host stays on this machine."""
    if host.startswith("/") or host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def connection_parameters(config: ConnectionConfig) -> dict[str, Any]:
    """libpq's parameters for a connection."""
    host = config.host or "localhost"
    options = config.options
    sslmode = str(options.get("sslmode") or ("prefer" if is_local(host) else "verify-full"))
    parameters: dict[str, Any] = {
        "host": host,
        "port": config.port or DEFAULT_PORT,
        "dbname": config.database or "",
        "sslmode": sslmode,
        "application_name": str(options.get("application_name", "synqx")),
        "client_encoding": "UTF8",
        "connect_timeout": max(2, int(options.get("connect_timeout", CONNECT_TIMEOUT_SECONDS))),
        "keepalives": 1,
        "keepalives_idle": 30,
        "keepalives_interval": 10,
        "keepalives_count": 3,
        # Milliseconds that sent data may stay unacknowledged; Linux only, ignored elsewhere.
        "tcp_user_timeout": 60_000,
    }
    if config.username is not None:
        parameters["user"] = config.username
    if config.password is not None:
        parameters["password"] = config.password
    for name in ("sslrootcert", "sslcert", "sslkey"):
        if name in options:
            parameters[name] = os.path.expanduser(str(options[name])) if options[name] != "system" else "system"
    if sslmode.startswith("verify-") and "sslrootcert" not in parameters:
        bundle = _find_certificates()
        if bundle is not None:
            parameters["sslrootcert"] = bundle
    return parameters


def _find_certificates() -> str | None:
    """The certificates to trust; None where libpq's own default (``~/.postgresql/root.crt``) is there."""
    if (Path.home() / ".postgresql" / "root.crt").exists():
        return None
    candidates = (ssl.get_default_verify_paths().cafile, *_CERTIFICATE_BUNDLES)
    return next((path for path in candidates if path and Path(path).is_file()), "system")


def settings_sql(config: ConnectionConfig, *, local: bool, statement_timeout_seconds: float | None = None) -> str:
    """One SELECT that sets everything a session relies on; at the start of each transaction too.

    A pooler between us and the server may hand each transaction to another backend, so what was set on connecting
    may be gone.

    Args:
        local: For this transaction only.
        statement_timeout_seconds: In place of the option's; 0 is none.
    """
    options = config.options
    if statement_timeout_seconds is None:
        statement_timeout_seconds = float(options.get("statement_timeout_seconds", 0))
    seconds = {
        "statement_timeout": statement_timeout_seconds,
        "lock_timeout": float(options.get("lock_timeout_seconds", LOCK_TIMEOUT_SECONDS)),
        "idle_in_transaction_session_timeout": float(options.get("idle_timeout_seconds", IDLE_TIMEOUT_SECONDS)),
    }
    values = {**_CANONICAL_SETTINGS, **{name: f"{int(value * 1000)}ms" for name, value in seconds.items()}}
    calls = (f"pg_catalog.set_config('{name}', '{value}', {str(local).lower()})" for name, value in values.items())
    return "SELECT " + ", ".join(calls)


def connect(config: ConnectionConfig) -> Any:
    """A psycopg2 connection in autocommit mode, with its settings made.

    Raises:
        ConnectionFailedError: The server cannot be reached or refused.
    """
    import psycopg2

    parameters = connection_parameters(config)
    try:
        connection = psycopg2.connect(**parameters)
        if connection.info.parameter_status("standard_conforming_strings") == "off":
            # psycopg2 decides on connecting how it quotes, and would go on so after the setting is changed below.
            connection.close()
            connection = psycopg2.connect(**parameters, options="-c standard_conforming_strings=on")
        # Transactions are begun by statements of our own, which set isolation and settings in one round trip.
        connection.autocommit = True
        with connection.cursor() as cursor:
            cursor.execute(settings_sql(config, local=False))
    except psycopg2.Error as error:
        raise connection_failed(config.name, str(error), database=config.database, username=config.username) from None
    return connection


def connect_adbc(config: ConnectionConfig) -> Any:
    """An ADBC connection that is about to begin its transaction with its first statement.

    Raises:
        ConnectionFailedError: The server cannot be reached or refused.
    """
    import adbc_driver_manager
    import adbc_driver_postgresql.dbapi
    from psycopg2.extensions import make_dsn

    try:
        return adbc_driver_postgresql.dbapi.connect(make_dsn(**connection_parameters(config)))
    except adbc_driver_manager.Error as error:
        message = str(error).partition("Failed to connect: ")[2]
        raise connection_failed(config.name, message, database=config.database, username=config.username) from None


def make_pool(config: ConnectionConfig) -> Any:
    """A pool of psycopg2 connections, as the connection's settings size it."""
    import psycopg2
    from sqlalchemy.dialects.postgresql.psycopg2 import PGDialect_psycopg2
    from sqlalchemy.pool import QueuePool

    make_dialect: Any = PGDialect_psycopg2
    return QueuePool(
        lambda: connect(config),
        pool_size=config.pool.size,
        max_overflow=config.pool.max_overflow,
        timeout=config.pool.timeout_seconds,
        recycle=config.pool.recycle_seconds,
        # Without it the first statement after a server's restart fails; with it the pool replaces the connection.
        pre_ping=True,
        dialect=make_dialect(dbapi=psycopg2),
        reset_on_return=None,
    )
