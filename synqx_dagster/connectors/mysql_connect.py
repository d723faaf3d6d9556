"""Connections to MySQL and MariaDB servers: options, TLS, and the settings every session relies on.

Guarantee: a connection that is handed out speaks utf8mb4 in UTC under a strict SQL mode, and to another machine it
is encrypted to a verified server unless the options say otherwise.
"""

from __future__ import annotations

import ipaddress
import ssl
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from synqx_dagster.connectors.mysql_errors import wrap_connect_error
from synqx_dagster.connectors.protocol import ConnectionConfig
from synqx_dagster.errors import ConfigurationError

if TYPE_CHECKING:
    import pymysql

DEFAULT_PORT = 3306
SSL_MODES = ("disabled", "preferred", "required", "verify_ca", "verify_identity")

#: Options of a connection, with the type of each.
OPTIONS: dict[str, type] = {
    "connect_timeout_seconds": float,
    "read_timeout_seconds": float,
    "write_timeout_seconds": float,
    "ssl_ca": str,
    "ssl_cert": str,
    "ssl_key": str,
    "ssl_mode": str,
    "unix_socket": str,
}

DEFAULT_CONNECT_TIMEOUT_SECONDS = 10.0

#: A server may be silent for long while it sorts or publishes; a dead one must not be waited for forever.
DEFAULT_READ_TIMEOUT_SECONDS = 600.0

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
            problems.append(f"options.{name}: mysql has the options {', '.join(OPTIONS)}")
        elif OPTIONS[name] is float:
            if isinstance(value, (bool, str)) or value <= 0:
                problems.append(f"options.{name}: write a number of seconds above 0")
        elif not isinstance(value, str) or not value:
            problems.append(f"options.{name}: write a text")
    if config.options.get("ssl_mode", "preferred") not in SSL_MODES:
        problems.append(f"options.ssl_mode: one of {', '.join(SSL_MODES)}")
    if "ssl_key" in config.options and "ssl_cert" not in config.options:
        problems.append("options.ssl_key: needs options.ssl_cert")
    if "unix_socket" in config.options and config.host is not None:
        problems.append("options.unix_socket: give either it or host")
    return problems


def connect(config: ConnectionConfig, *, timeout_seconds: float | None = None) -> pymysql.Connection[Any]:
    """Open a connection in autocommit mode.

    Args:
        timeout_seconds: Limit of connecting and of each answer; left out, the connection's options.

    Raises:
        ConnectionFailedError, RetryableError: No connection; says why.
    """
    import pymysql

    options = config.options
    read_timeout = timeout_seconds or float(options.get("read_timeout_seconds", DEFAULT_READ_TIMEOUT_SECONDS))
    write_timeout = timeout_seconds or float(options.get("write_timeout_seconds", DEFAULT_READ_TIMEOUT_SECONDS))
    connect_timeout = timeout_seconds or float(options.get("connect_timeout_seconds", DEFAULT_CONNECT_TIMEOUT_SECONDS))
    try:
        if "unix_socket" in options and not Path(str(options["unix_socket"])).is_socket():
            # The driver leaves its own socket open when there is nothing to connect to.
            raise FileNotFoundError
        connection = pymysql.connect(
            host=config.host or "localhost",
            port=config.port or DEFAULT_PORT,
            unix_socket=str(options["unix_socket"]) if "unix_socket" in options else None,
            user=config.username,
            # The driver would encode text as latin1; servers compare bytes of UTF-8.
            password=(config.password or "").encode(),
            database=config.database,
            charset="utf8mb4",
            autocommit=True,
            conv={},
            connect_timeout=connect_timeout,
            read_timeout=read_timeout,
            write_timeout=write_timeout,
            program_name="synqx",
            **_tls_arguments(config),
        )
        try:
            with connection.cursor() as cursor:
                for statement in _SESSION_SETTINGS:
                    cursor.execute(statement)
        except pymysql.err.Error:
            connection.close()
            raise
    except (pymysql.err.Error, OSError) as exc:
        raise wrap_connect_error(exc, place_of(config), config.database) from exc
    return connection


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


def tls_mode(config: ConnectionConfig) -> str:
    """The TLS mode in force: verified to another machine, without ceremony on this one."""
    if "ssl_mode" in config.options:
        return str(config.options["ssl_mode"])
    if "ssl_ca" in config.options:
        return "verify_identity"
    if "unix_socket" in config.options:
        return "disabled"
    return "preferred" if _is_loopback(config.host or "localhost") else "verify_identity"


def _is_loopback(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _tls_arguments(config: ConnectionConfig) -> dict[str, Any]:
    mode = tls_mode(config)
    if mode == "disabled":
        return {"ssl_disabled": True}
    options = config.options
    if mode == "preferred" and "ssl_cert" not in options:
        return {}
    ca = options.get("ssl_ca")
    try:
        context = ssl.create_default_context(cafile=str(ca) if ca else None)
        context.check_hostname = mode == "verify_identity"
        context.verify_mode = ssl.CERT_REQUIRED if mode.startswith("verify") else ssl.CERT_NONE
        if "ssl_cert" in options:
            key = options.get("ssl_key")
            context.load_cert_chain(str(options["ssl_cert"]), str(key) if key else None)
    except OSError as exc:
        raise ConfigurationError(
            f"connection {config.name!r}: a file of options.ssl_ca, ssl_cert or ssl_key cannot be used:"
            f" {type(exc).__name__}",
            hint="the files are PEM, and readable by this user",
        ) from exc
    return {"ssl": context}
