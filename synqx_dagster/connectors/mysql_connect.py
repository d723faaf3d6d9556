"""Connections to MySQL and MariaDB servers: options, TLS, and the settings every session relies on.

Guarantee: a connection that is handed out speaks utf8mb4 in UTC under a strict SQL mode, and to another machine it
is encrypted to a verified server unless the options say otherwise.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from synqx_dagster.connectors.driver_options import unknown_option
from synqx_dagster.connectors.mysql_errors import wrap_connect_error
from synqx_dagster.connectors.mysql_tls import SSL_MODES, TLS_OPTIONS, choose, tls_arguments
from synqx_dagster.connectors.network import Endpoint, check_addresses, locate, open_socket, policy_of
from synqx_dagster.connectors.protocol import ConnectionConfig
from synqx_dagster.connectors.silence import DEFAULT_SILENCE_SECONDS
from synqx_dagster.connectors.ssh_tunnel import check_tunnel, why_unreachable
from synqx_dagster.connectors.tls import check_tls
from synqx_dagster.errors import ConfigurationError

if TYPE_CHECKING:
    import pymysql

DEFAULT_PORT = 3306

#: Options of a connection, with the type of each.
OPTIONS: dict[str, type] = {
    "connect_timeout_seconds": float,
    "silence_timeout_seconds": float,
    "read_timeout_seconds": float,
    "write_timeout_seconds": float,
    "ssl_ca": str,
    "ssl_cert": str,
    "ssl_key": str,
    "ssl_mode": str,
    "unix_socket": str,
}

_LIMITS = ("silence_timeout_seconds", "read_timeout_seconds", "write_timeout_seconds")

DEFAULT_CONNECT_TIMEOUT_SECONDS = 10.0

#: A query for a discovery or a preview's columns. Loads have no limit: a server may work for long.
METADATA_TIMEOUT_SECONDS = 60.0

#: Strict: a value that does not fit is an error. Zero dates may pass, because copies between two servers hold them;
#: zero in an AUTO_INCREMENT column is a value like any other.
SQL_MODE = "STRICT_ALL_TABLES,NO_ENGINE_SUBSTITUTION,NO_AUTO_VALUE_ON_ZERO"

#: A reader that is held up by its target must not be cut off; a DROP must not wait a day for an orphan's lock.
_SESSION_SETTINGS = (
    f"SET SESSION sql_mode = '{SQL_MODE}', time_zone = '+00:00', sql_notes = 1, net_write_timeout = 3600,"
    " net_read_timeout = 3600, lock_wait_timeout = 60",
    "SET SESSION TRANSACTION ISOLATION LEVEL REPEATABLE READ",
)


@dataclass(frozen=True)
class Server:
    """What a server says of itself."""

    version: str
    is_mariadb: bool
    number: tuple[int, ...]
    max_allowed_packet_bytes: int

    @property
    def display_version(self) -> str:
        """Product and version."""
        return f"{'MariaDB' if self.is_mariadb else 'MySQL'} {'.'.join(map(str, self.number))}"

    @property
    def binary_collation(self) -> str:
        """A collation of utf8mb4 under which only equal texts are equal, trailing blanks included."""
        return "utf8mb4_nopad_bin" if self.is_mariadb else "utf8mb4_0900_bin"


def place_of(config: ConnectionConfig) -> str:
    """Where a connection goes, for messages."""
    unix_socket = config.options.get("unix_socket")
    return str(unix_socket) if unix_socket else f"{config.host or 'localhost'}:{config.port or DEFAULT_PORT}"


def check_options(config: ConnectionConfig) -> list[str]:
    """What is wrong with a connection's options."""
    problems = []
    for name, value in config.options.items():
        if name not in OPTIONS:
            problems.append(unknown_option(name, "mysql", OPTIONS))
        elif OPTIONS[name] is float:
            least_of_all = "0 for no limit" if name in _LIMITS else "above 0"
            if isinstance(value, (bool, str)) or not 0 <= value <= 10**6 or (value == 0 and name not in _LIMITS):
                problems.append(f"options.{name}: write a number of seconds, {least_of_all}")
        elif not isinstance(value, str) or not value:
            problems.append(f"options.{name}: write a text")
    if config.options.get("ssl_mode", "preferred") not in SSL_MODES:
        problems.append(f"options.ssl_mode: one of {', '.join(SSL_MODES)}")
    if "ssl_key" in config.options and "ssl_cert" not in config.options:
        problems.append("options.ssl_key: needs options.ssl_cert")
    if "unix_socket" in config.options and config.host is not None:
        problems.append("options.unix_socket: give either it or host")
    problems += check_tls(config, TLS_OPTIONS)
    if config.ssh_tunnel is not None:
        problems += check_tunnel(config.ssh_tunnel)
        if "unix_socket" in config.options:
            problems.append("options.unix_socket: behind an SSH tunnel give host, as the SSH server sees it")
    return problems


def connect(config: ConnectionConfig, *, timeout_seconds: float | None = None) -> pymysql.Connection[Any]:
    """Open a connection in autocommit mode, whose calls are watched for a silent server.

    Args:
        timeout_seconds: Limit of connecting and of each answer; left out, the connection's options.

    Raises:
        ConnectionFailedError, RetryableError: No connection; says why.
        HostRefusedError: The operator's lists forbid its host.
        ConfigurationError: A file for TLS cannot be used.
    """
    from synqx_dagster.connectors.mysql_watch import TimeLimits, ask, identify, terminate

    options = config.options
    connect_timeout = timeout_seconds or float(options.get("connect_timeout_seconds", DEFAULT_CONNECT_TIMEOUT_SECONDS))
    connection: Any = _open(config, connect_timeout)
    if timeout_seconds is not None:
        return connection  # type: ignore[no-any-return]  # of a test, every answer of which has the same limit
    silence = float(options.get("silence_timeout_seconds", DEFAULT_SILENCE_SECONDS))
    limits = TimeLimits(
        silence, float(options.get("read_timeout_seconds", 0)), float(options.get("write_timeout_seconds", 0))
    )
    thread = identify(connection)
    ask_timeout = max(1.0, min(connect_timeout, silence))

    def open_another() -> Any:
        return _open(config, ask_timeout)

    connection.start_watch(limits, lambda: ask(open_another, thread), lambda: terminate(open_another, thread))
    return connection  # type: ignore[no-any-return]  # what is used of the driver is not in its stubs


def _open(config: ConnectionConfig, timeout_seconds: float) -> pymysql.Connection[Any]:
    """A connection on which connecting and every answer have one limit."""
    import pymysql

    from synqx_dagster.connectors.mysql_watch import WatchedMysqlConnection

    choice = choose(config)
    endpoint = _locate(config, timeout_seconds)
    try:
        connection = WatchedMysqlConnection(
            # For TLS: the certificate must be for the name that the user wrote, whatever is connected to.
            host=endpoint.host.rstrip(".") or None,
            port=endpoint.port,
            unix_socket=None if endpoint.addresses else endpoint.host,
            user=config.username,
            # The driver would encode text as latin1; servers compare bytes of UTF-8.
            password=(config.password or "").encode(),
            database=config.database,
            charset="utf8mb4",
            autocommit=True,
            conv={},
            connect_timeout=timeout_seconds,
            read_timeout=timeout_seconds,
            write_timeout=timeout_seconds,
            program_name="synqx",
            defer_connect=True,
            **tls_arguments(choice, config.name),
        )
        if endpoint.addresses:
            connection.connect(open_socket(endpoint, timeout_seconds=timeout_seconds))
        else:
            connection.connect()
        try:
            with connection.cursor() as cursor:
                for statement in _SESSION_SETTINGS:
                    cursor.execute(statement)
        except pymysql.err.Error:
            connection.close()
            raise
    except (pymysql.err.Error, OSError) as exc:
        if config.ssh_tunnel is not None and (unreachable := why_unreachable(config)) is not None:
            raise unreachable from exc
        has_certificate = choice.settings.cert_file is not None
        host = config.host or "localhost"
        raise wrap_connect_error(exc, place_of(config), config.database, host, has_certificate=has_certificate) from exc
    return connection


def _locate(config: ConnectionConfig, timeout_seconds: float) -> Endpoint:
    path = config.options.get("unix_socket")
    if path is None:
        return locate(config, DEFAULT_PORT, timeout_seconds=timeout_seconds)
    check_addresses(config.name, "localhost", ("127.0.0.1",), policy_of(config))
    if not Path(str(path)).is_socket():
        # The driver leaves its own socket open when there is nothing to connect to.
        raise wrap_connect_error(FileNotFoundError(), str(path), config.database, "localhost", has_certificate=False)
    return Endpoint(str(path), 0, ())


def describe_server(connection: pymysql.Connection[Any]) -> Server:
    """Ask the server for its version and limits.

    Raises:
        ConfigurationError: The server is older than what SynqX supports.
    """
    with connection.cursor() as cursor:
        cursor.execute("SELECT VERSION(), @@max_allowed_packet")
        row = cursor.fetchone()
    assert row is not None
    version, packet = str(row[0]), int(row[1])
    is_mariadb = "mariadb" in version.lower()
    number = tuple(int(part) for part in version.partition("-")[0].split(".")[:3] if part.isdigit())
    minimum = (10, 5) if is_mariadb else (8, 0, 17)
    if number < minimum:
        raise ConfigurationError(
            f"the server is version {version}", hint="SynqX needs MySQL 8.0.17 or MariaDB 10.5, or newer"
        )
    return Server(version, is_mariadb, number, packet)
