"""Engines of SQLAlchemy for connections: what options are allowed, how TLS is asked for, how long is waited.

Guarantee: only options from the list below reach a driver, and no error, log or `repr` of SQLAlchemy shows a bound
value; to another machine a driver that we know verifies the server's certificate unless the options say otherwise.
"""

from __future__ import annotations

import re
import socket
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from synqx_dagster.connectors.network import Endpoint, locate, open_socket
from synqx_dagster.connectors.protocol import ConnectionConfig
from synqx_dagster.connectors.sqlalchemy_dialects import Facts, dialect_name, facts_of
from synqx_dagster.connectors.sqlalchemy_errors import wrap_socket_error
from synqx_dagster.connectors.tls import check_files, choose_tls, find_system_certificates, make_context
from synqx_dagster.errors import ConfigurationError, DriverMissingError

if TYPE_CHECKING:
    from sqlalchemy.engine import Engine

CONNECT_TIMEOUT_SECONDS = 10

_DRIVERNAME = re.compile(r"[a-z][a-z0-9_]*(\+[a-z][a-z0-9_]*)?")
_ISOLATION_LEVELS = ("READ COMMITTED", "REPEATABLE READ", "SERIALIZABLE", "SNAPSHOT")

#: What SynqX reads by a connector of its own, which is faster and knows more.
_OWN = ("sqlite", "duckdb")
#: Drivers for asyncio; sessions are threads here.
_ASYNC = frozenset({"aiomysql", "aiosqlite", "asyncmy", "asyncpg", "aioodbc", "psycopg_async", "oracledb_async"})

#: Options of every connection, with the type of each.
_OPTIONS: dict[str, type] = {
    "drivername": str,
    "connect_timeout_seconds": float,
    "isolation_level": str,
}

#: Options that become a part of the URL's query, by dialect. What is not here could name files to read, other hosts or
#: users to act for, or change how values are printed.
_QUERY: dict[str, frozenset[str]] = {
    "mssql": frozenset({"driver", "Encrypt", "TrustServerCertificate", "ApplicationIntent", "MultiSubnetFailover"}),
    "mysql": frozenset({"unix_socket"}),
    "mariadb": frozenset({"unix_socket"}),
    "oracle": frozenset({"service_name"}),
    "snowflake": frozenset({"warehouse", "role"}),
    "trino": frozenset({"http_scheme"}),
}

#: The argument of each driver that limits how long connecting takes, in seconds.
_TIMEOUTS: dict[str, str] = {
    "psycopg2": "connect_timeout",
    "psycopg": "connect_timeout",
    "pg8000": "timeout",
    "redshift_connector": "timeout",
    "pymysql": "connect_timeout",
    "mysqldb": "connect_timeout",
    "mysqlconnector": "connection_timeout",
    "mariadbconnector": "connect_timeout",
    "pyodbc": "timeout",
    "pymssql": "login_timeout",
    "oracledb": "tcp_connect_timeout",
    "snowflake": "login_timeout",
}
#: The driver that a dialect uses when the name says none.
_DEFAULT_DRIVERS = {
    "postgresql": "psycopg2",
    "mysql": "mysqldb",
    "mariadb": "mysqldb",
    "mssql": "pyodbc",
    "oracle": "oracledb",
    "redshift": "psycopg2",
    "snowflake": "snowflake",
}
_LIBPQ = frozenset({"psycopg2", "psycopg"})
#: Drivers that take an SSL context, by the name of the argument.
_SSL_CONTEXT = {"pg8000": "ssl_context", "pymysql": "ssl"}


def drivername_of(config: ConnectionConfig) -> str:
    """The connection's ``dialect+driver``; empty where it is missing."""
    return str(config.options.get("drivername", ""))


def driver_of(config: ConnectionConfig) -> str:
    """The driver that serves the connection."""
    dialect, _, driver = drivername_of(config).partition("+")
    return driver or _DEFAULT_DRIVERS.get(dialect, dialect)


def place_of(config: ConnectionConfig) -> str:
    """Where a connection goes, for messages."""
    place = str(config.options.get("unix_socket") or config.host or "localhost")
    return f"{place}:{config.port}" if config.port is not None else place


def check_options(config: ConnectionConfig) -> list[str]:
    """What is wrong with a connection's options."""
    options, name = config.options, drivername_of(config)
    if not _DRIVERNAME.fullmatch(name):
        return [
            "options.drivername: give SQLAlchemy's name of dialect and driver, such as oracle+oracledb",
            *(f"options.{option}: comes after options.drivername" for option in options if option not in _OPTIONS),
        ]
    dialect = dialect_name(name)
    problems = []
    if dialect in _OWN:
        problems.append(f"options.drivername: {dialect} has a connector of its own: write db_type: {dialect}")
    if driver_of(config) in _ASYNC:
        problems.append(f"options.drivername: {driver_of(config)} is a driver for asyncio; give one that is not")
    allowed = _QUERY.get(dialect, frozenset())
    for option, value in options.items():
        if option in _OPTIONS:
            problems.extend(_check_value(option, value))
        elif option not in allowed:
            names = ", ".join([*_OPTIONS, *sorted(allowed)])
            problems.append(f"options.{option}: sqlalchemy has for {dialect} the options {names}")
        elif not isinstance(value, str) or not value:
            problems.append(f"options.{option}: write a text")
    return problems


def _check_value(option: str, value: object) -> list[str]:
    if _OPTIONS[option] is float:
        if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 < value <= 3600:
            return [f"options.{option}: write a number of seconds above 0, up to 3600"]
    elif not isinstance(value, str) or not value:
        return [f"options.{option}: write a text"]
    if option == "isolation_level" and value not in _ISOLATION_LEVELS:
        return [f"options.isolation_level: one of {', '.join(_ISOLATION_LEVELS)}"]
    return []


def make_engine(config: ConnectionConfig, *, timeout_seconds: float | None = None) -> Engine:
    """An engine with a pool of the connection's size; opens nothing.

    Args:
        timeout_seconds: Limit of connecting; left out, the connection's option.

    Raises:
        DriverMissingError: The dialect or its driver is not installed.
        ConfigurationError: The driver does not take the connection's fields.
    """
    import sqlalchemy as sa

    name = drivername_of(config)
    url = sa.URL.create(
        name,
        username=config.username,
        password=config.password,
        host=config.host,
        port=config.port,
        database=config.database,
        query={option: str(config.options[option]) for option in config.options if option not in _OPTIONS},
    )
    facts = facts_of(name)
    try:
        engine = sa.create_engine(
            url,
            hide_parameters=True,
            pool_size=config.pool.size,
            max_overflow=config.pool.max_overflow,
            pool_timeout=config.pool.timeout_seconds,
            pool_recycle=config.pool.recycle_seconds,
            pool_pre_ping=True,
            connect_args=_connect_arguments(config, timeout_seconds),
        )
    except (sa.exc.NoSuchModuleError, ImportError) as exc:
        raise DriverMissingError(
            f"connection {config.name!r}: the driver for {name} is not installed",
            hint="pip install the dialect's package and its driver into SynqX's environment; see SQLAlchemy's list of"
            " dialects",
        ) from exc
    except (sa.exc.ArgumentError, TypeError) as exc:
        raise ConfigurationError(
            f"connection {config.name!r}: {name} does not take these fields and options ({type(exc).__name__})",
            hint="see the dialect's documentation for what its URL holds",
        ) from None

    @sa.event.listens_for(engine, "do_connect")
    def connect(dialect: Any, record: object, arguments: list[Any], options: dict[str, Any]) -> Any:
        return _open_at_allowed_address(config, facts, dialect, arguments, options)

    return engine


def secures_network(drivername: str) -> bool:
    """Whether the driver takes TLS settings and a socket, or an address, from us."""
    config = ConnectionConfig("", "sqlalchemy", options={"drivername": drivername})
    return driver_of(config) in _LIBPQ | _SSL_CONTEXT.keys()


def _connect_arguments(config: ConnectionConfig, timeout_seconds: float | None) -> dict[str, Any]:
    driver = driver_of(config)
    arguments = _tls_arguments(config, driver)
    seconds = timeout_seconds or float(config.options.get("connect_timeout_seconds", CONNECT_TIMEOUT_SECONDS))
    if driver in _TIMEOUTS:
        # libpq and the ODBC drivers count in whole seconds; 1 is as good as 2 to libpq.
        arguments[_TIMEOUTS[driver]] = max(2, int(seconds))
    if driver in _LIBPQ:
        # The driver decides on connecting how it quotes.
        arguments["options"] = "-c standard_conforming_strings=on"
        arguments["application_name"] = "synqx"
        arguments["client_encoding"] = "UTF8"
    if driver == "pymysql":
        arguments["charset"] = "utf8mb4"
        # The driver would encode text as latin1; servers compare bytes of UTF-8.
        arguments["password"] = (config.password or "").encode()
    return arguments


def _tls_arguments(config: ConnectionConfig, driver: str) -> dict[str, Any]:
    choice = choose_tls(config)
    if driver in _LIBPQ:
        check_files(choice, config.name)
        arguments: dict[str, Any] = {"sslmode": choice.mode}
        if choice.verifies:
            arguments["sslrootcert"] = choice.ca_file or find_system_certificates() or "system"
        if choice.settings.cert_file is not None and choice.settings.key_file is not None:
            arguments["sslcert"] = str(Path(choice.settings.cert_file).expanduser())
            arguments["sslkey"] = str(Path(choice.settings.key_file).expanduser())
        if choice.settings.key_password is not None:
            arguments["sslpassword"] = choice.settings.key_password
        return arguments
    if driver not in _SSL_CONTEXT or choice.mode in ("disable", "prefer"):
        return {}
    return {_SSL_CONTEXT[driver]: make_context(choice, config.name)}


def _open_at_allowed_address(
    config: ConnectionConfig, facts: Facts, dialect: Any, arguments: list[Any], options: dict[str, Any]
) -> Any:
    """Open a driver's connection to an address that the host policy has let through.

    Called by SQLAlchemy in place of its own call. Drivers whose sockets we cannot give resolve the name once more.
    """
    driver = driver_of(config)
    seconds = float(config.options.get("connect_timeout_seconds", CONNECT_TIMEOUT_SECONDS))
    if "unix_socket" in config.options:
        return dialect.connect(*arguments, **options)
    endpoint = locate(_with_real_host(config, facts), facts.default_port, timeout_seconds=seconds)
    if driver in _LIBPQ and endpoint.addresses:
        names = ",".join([endpoint.host] * len(endpoint.addresses))
        options = {**options, "host": names, "hostaddr": ",".join(endpoint.addresses), "port": endpoint.port}
    elif driver == "pymysql":
        stream = _open_socket(endpoint, config, seconds)
        connection = dialect.connect(*arguments, **{**options, "host": endpoint.host, "defer_connect": True})
        connection.connect(stream)
        return connection
    elif driver == "pg8000" and endpoint.addresses:
        options = {**options, "host": endpoint.host, "sock": _open_socket(endpoint, config, seconds)}
    return dialect.connect(*arguments, **options)


def _open_socket(endpoint: Endpoint, config: ConnectionConfig, timeout_seconds: float) -> socket.socket:
    try:
        stream = open_socket(endpoint, timeout_seconds=timeout_seconds)
    except OSError as exc:
        # SQLAlchemy wraps the driver's errors, not these.
        raise wrap_socket_error(exc, place_of(config)) from exc
    # The driver sets time limits of its own.
    stream.settimeout(None)
    return stream


def _with_real_host(config: ConnectionConfig, facts: Facts) -> ConnectionConfig:
    """The config with the host that a driver makes of a Snowflake account."""
    if facts.sqlglot != "snowflake" or config.host is None or config.host.endswith(".snowflakecomputing.com"):
        return config
    return replace(config, host=f"{config.host}.snowflakecomputing.com")
