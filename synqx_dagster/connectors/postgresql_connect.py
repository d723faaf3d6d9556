"""Opens PostgreSQL connections: what is sent to the server, which TLS is asked for, what every session is set to.

Guarantee: a session prints values in one canonical form whatever the server's, the database's or the role's settings
are, and a remote server is talked to over verified TLS unless the user says otherwise.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from synqx_dagster.connectors.driver_options import unknown_option
from synqx_dagster.connectors.network import (
    KEEPALIVE_COUNT,
    KEEPALIVE_IDLE_SECONDS,
    KEEPALIVE_INTERVAL_SECONDS,
    USER_TIMEOUT_MILLISECONDS,
    Endpoint,
    locate,
)
from synqx_dagster.connectors.postgresql_errors import connection_failed, is_driver_error
from synqx_dagster.connectors.postgresql_timed import TimedConnection
from synqx_dagster.connectors.postgresql_tls import SSL_MODES, TLS_OPTIONS, choose, explain_failure, tls_parameters
from synqx_dagster.connectors.protocol import ConnectionConfig
from synqx_dagster.connectors.silence import DEFAULT_SILENCE_SECONDS
from synqx_dagster.connectors.ssh_tunnel import check_tunnel
from synqx_dagster.connectors.tls import check_files, check_tls
from synqx_dagster.errors import SynqxError
from synqx_dagster.model.connection import OptionValue

if TYPE_CHECKING:
    from synqx_dagster.connectors.postgresql_adbc import AdbcConnection
    from synqx_dagster.connectors.postgresql_watch import AdbcWatch, Sideline

DEFAULT_PORT = 5432
CONNECT_TIMEOUT_SECONDS = 10

#: How long a statement waits for a lock. Others queue behind a waiting writer, so it must not be long.
LOCK_TIMEOUT_SECONDS = 30

#: When the server ends a transaction in which nothing happens: the client is stopped or gone, its locks are not.
IDLE_TIMEOUT_SECONDS = 3600

#: How long a statement outside of a load's transactions may take: they look at tables, and take locks for no data.
METADATA_TIMEOUT_SECONDS = 60

#: What a user may set. Everything else that libpq knows (``options``, ``service``, ``passfile``, ...) could change
#: what a session prints or which secrets it reads.
_TEXT_OPTIONS = (*TLS_OPTIONS, "application_name", "target_session_attrs", "channel_binding")
_SECONDS_OPTIONS = (
    "connect_timeout",
    "statement_timeout_seconds",
    "metadata_timeout_seconds",
    "lock_timeout_seconds",
    "idle_timeout_seconds",
    "silence_timeout_seconds",
)
_CHOICES = {
    "sslmode": SSL_MODES,
    "channel_binding": ("disable", "prefer", "require"),
    "target_session_attrs": ("any", "read-write", "read-only", "primary", "standby", "prefer-standby"),
}

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


#: So that the server, too, ends the sessions of a client that is gone; nothing on a Unix socket.
_SERVER_KEEPALIVES = {
    "tcp_keepalives_idle": str(KEEPALIVE_IDLE_SECONDS),
    "tcp_keepalives_interval": str(KEEPALIVE_INTERVAL_SECONDS),
    "tcp_keepalives_count": str(KEEPALIVE_COUNT),
}


def check_options(options: Mapping[str, OptionValue]) -> list[str]:
    """What is wrong with a connection's options."""
    problems = []
    for name, value in options.items():
        if name in _TEXT_OPTIONS:
            if not isinstance(value, str) or not value or "\x00" in value:
                problems.append(f"options.{name}: give a text")
            elif name in _CHOICES and value not in _CHOICES[name]:
                problems.append(f"options.{name}: {value!r} is not one of {', '.join(_CHOICES[name])}")
        elif name in _SECONDS_OPTIONS:
            if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 <= value <= 10**6:
                problems.append(f"options.{name}: give a number of seconds, 0 for no limit")
        else:
            problems.append(unknown_option(name, "postgresql", (*_TEXT_OPTIONS, *_SECONDS_OPTIONS)))
    return problems


def check_security(config: ConnectionConfig) -> list[str]:
    """What is wrong with a connection's TLS and tunnel."""
    problems = check_tls(config, TLS_OPTIONS)
    if config.ssh_tunnel is not None:
        problems += check_tunnel(config.ssh_tunnel)
        if (config.host or "").startswith(("/", "@")):
            problems.append("host: behind an SSH tunnel it must be a name or an address, as the SSH server sees it")
    return problems


def connection_parameters(config: ConnectionConfig, endpoint: Endpoint) -> dict[str, Any]:
    """libpq's parameters for a connection to what was checked: the name is for the certificate alone."""
    options = config.options
    parameters: dict[str, Any] = {
        "host": endpoint.host,
        "port": endpoint.port,
        "dbname": config.database or "",
        "application_name": str(options.get("application_name", "synqx")),
        "client_encoding": "UTF8",
        "connect_timeout": max(2, int(connect_timeout_of(config))),
        "keepalives": 1,
        "keepalives_idle": KEEPALIVE_IDLE_SECONDS,
        "keepalives_interval": KEEPALIVE_INTERVAL_SECONDS,
        "keepalives_count": KEEPALIVE_COUNT,
        # Linux only, ignored elsewhere.
        "tcp_user_timeout": USER_TIMEOUT_MILLISECONDS,
        **tls_parameters(choose(config)),
    }
    if endpoint.addresses:
        parameters["host"] = ",".join([endpoint.host] * len(endpoint.addresses))
        parameters["hostaddr"] = ",".join(endpoint.addresses)
    if config.username is not None:
        parameters["user"] = config.username
    if config.password is not None:
        parameters["password"] = config.password
    for name in ("target_session_attrs", "channel_binding"):
        if name in options:
            parameters[name] = str(options[name])
    return parameters


def prepare(config: ConnectionConfig, *, timeout_seconds: float) -> tuple[Endpoint, dict[str, Any]]:
    """Where to connect to, and libpq's parameters for it; nothing has been sent to the database yet.

    Raises:
        ConfigurationError: A file for TLS cannot be used.
        HostRefusedError, ConnectionFailedError: As `locate`.
    """
    check_files(choose(config), config.name)
    endpoint = locate(config, DEFAULT_PORT, timeout_seconds=timeout_seconds)
    return endpoint, connection_parameters(config, endpoint)


def connect_timeout_of(config: ConnectionConfig) -> float:
    """Seconds that connecting may take, the name's resolution and a tunnel apart."""
    return float(config.options.get("connect_timeout", CONNECT_TIMEOUT_SECONDS)) or float(CONNECT_TIMEOUT_SECONDS)


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
        # What a session does outside of transactions is looking at tables.
        name, default = (
            ("statement_timeout_seconds", 0) if local else ("metadata_timeout_seconds", METADATA_TIMEOUT_SECONDS)
        )
        statement_timeout_seconds = float(options.get(name, default))
    seconds = {
        "statement_timeout": statement_timeout_seconds,
        "lock_timeout": float(options.get("lock_timeout_seconds", LOCK_TIMEOUT_SECONDS)),
        "idle_in_transaction_session_timeout": float(options.get("idle_timeout_seconds", IDLE_TIMEOUT_SECONDS)),
    }
    values = {
        **_CANONICAL_SETTINGS,
        **({} if local else _SERVER_KEEPALIVES),
        **{name: f"{int(value * 1000)}ms" for name, value in seconds.items()},
    }
    calls = (f"pg_catalog.set_config('{name}', '{value}', {str(local).lower()})" for name, value in values.items())
    return "SELECT " + ", ".join(calls)


@contextlib.contextmanager
def wrap_connect_errors(config: ConnectionConfig, endpoint: Endpoint, *, timeout_seconds: float) -> Iterator[None]:
    """Raise SynqX's errors in place of psycopg2's and ADBC's when a connection does not come about.

    Args:
        timeout_seconds: Limit of finding out more than libpq says.
    """
    try:
        yield
    except Exception as error:
        if not is_driver_error(error):
            raise
        message = str(error).partition("Failed to connect: ")[2] or str(error)
        raise _explain(config, endpoint, message, timeout_seconds) from None


def _explain(config: ConnectionConfig, endpoint: Endpoint, message: str, timeout_seconds: float) -> SynqxError:
    if config.ssh_tunnel is not None:
        from synqx_dagster.connectors.ssh_tunnel import why_unreachable

        if "FATAL" not in message and (unreachable := why_unreachable(config)) is not None:
            return unreachable
    tls = explain_failure(config, endpoint, choose(config), message, timeout_seconds=max(1.0, timeout_seconds))
    if tls is not None:
        return tls
    return connection_failed(config.name, message, database=config.database, username=config.username)


def connect(config: ConnectionConfig) -> Any:
    """A psycopg2 connection in autocommit mode, with its settings made, whose calls are watched for a silent server.

    Raises:
        ConnectionFailedError: The server cannot be reached or refused.
        HostRefusedError: The operator's lists forbid its host.
        ConfigurationError: A file for TLS cannot be used.
    """
    import psycopg2

    from synqx_dagster.connectors.postgresql_watch import (
        BACKEND_COLUMN_COUNT,
        BACKEND_COLUMNS,
        WatchedConnection,
        end_orphans,
        identify,
    )

    timeout_seconds = connect_timeout_of(config)
    endpoint, parameters = prepare(config, timeout_seconds=timeout_seconds)
    with wrap_connect_errors(config, endpoint, timeout_seconds=timeout_seconds):
        connection = psycopg2.connect(**parameters, connection_factory=WatchedConnection)
        if connection.info.parameter_status("standard_conforming_strings") == "off":
            # psycopg2 decides on connecting how it quotes, and would go on so after the setting is changed below.
            connection.close()
            connection = psycopg2.connect(
                **parameters, options="-c standard_conforming_strings=on", connection_factory=WatchedConnection
            )
        # Transactions are begun by statements of our own, which set isolation and settings in one round trip.
        connection.autocommit = True
        with connection.cursor() as cursor:
            cursor.execute(f"{settings_sql(config, local=False)}, {BACKEND_COLUMNS}")
            backend = identify(cursor.fetchone()[-BACKEND_COLUMN_COUNT:], connection.info.backend_pid)
            end_orphans(cursor, backend)
    connection.start_watch(silence_timeout_of(config), backend, _make_sideline(config))
    return connection


def silence_timeout_of(config: ConnectionConfig) -> float:
    """Seconds in which nothing may move before the server is asked whether it still works; 0 for never."""
    return float(config.options.get("silence_timeout_seconds", DEFAULT_SILENCE_SECONDS))


def _make_sideline(config: ConnectionConfig) -> Sideline:
    from synqx_dagster.connectors.postgresql_watch import Sideline

    timeout_seconds = connect_timeout_of(config)
    if silence := silence_timeout_of(config):
        timeout_seconds = max(1.0, min(timeout_seconds, silence))

    def open_connection() -> TimedConnection:
        deadline = time.monotonic() + timeout_seconds
        return TimedConnection(prepare(config, timeout_seconds=timeout_seconds)[1], deadline)

    return Sideline(open_connection)


def connect_adbc(config: ConnectionConfig) -> AdbcConnection:
    """An ADBC connection that is about to begin its transaction with its first statement.

    Raises:
        ConnectionFailedError: The server cannot be reached or refused.
        HostRefusedError: The operator's lists forbid its host.
    """
    return open_adbc(config)[0]


def open_adbc(config: ConnectionConfig) -> tuple[AdbcConnection, AdbcWatch]:
    """As `connect_adbc`, and with it what watches the connection; close both."""
    from psycopg2.extensions import make_dsn

    from synqx_dagster.connectors.postgresql_adbc import AdbcConnection
    from synqx_dagster.connectors.postgresql_watch import AdbcWatch, next_tag

    timeout_seconds = connect_timeout_of(config)
    endpoint, parameters = prepare(config, timeout_seconds=timeout_seconds)
    parameters["tcp_user_timeout"] = tag = next_tag()
    with wrap_connect_errors(config, endpoint, timeout_seconds=timeout_seconds):
        connection = AdbcConnection(make_dsn(**parameters))
    return connection, AdbcWatch(tag, silence_timeout_of(config), _make_sideline(config))


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
