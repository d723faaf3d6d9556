"""A real MariaDB for the tests, as a process of its own: one server per test process, one database per test.

Without the server's programs the tests that need it are skipped with the way to get them; in CI they fail.
"""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import tempfile
import time
import uuid
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from synqx_dagster.connectors.protocol import ConnectionConfig
from synqx_dagster.model.connection import OptionValue
from synqx_dagster_tests.certificates import Authority

USERNAME, PASSWORD = "synqx", "s3cret-ü"

#: The last one is of the client's package, and `mariadb-install-db` calls it.
PROGRAMS = ("mariadbd", "mariadb-install-db", "my_print_defaults")

#: Durability is not under test, speed is wanted. A small packet, so that tests can exceed it.
SERVER_OPTIONS = {
    "innodb_buffer_pool_size": "64M",
    "innodb_flush_log_at_trx_commit": "0",
    "innodb_doublewrite": "0",
    "innodb_log_file_size": "48M",
    "performance_schema": "OFF",
    "max_allowed_packet": "8M",
    "max_connections": "100",
    "bind_address": "127.0.0.1",
    # Loads must not depend on the server's time zone.
    "default_time_zone": "+03:00",
}

START_TIMEOUT_SECONDS = 60.0


@dataclass
class MysqlServer:
    """A running server on a Unix socket and on ``127.0.0.1:port``, with TLS by an authority of its own."""

    directory: Path
    port: int
    process: subprocess.Popen[bytes] | None = None
    host: str = "127.0.0.1"
    username: str = USERNAME
    password: str = PASSWORD

    @property
    def unix_socket(self) -> str:
        return str(self.directory / "mysqld.sock")

    @property
    def authority_file(self) -> Path:
        """The certificate of the authority that signed the server's."""
        return self.directory / "server-ca.pem"

    def start(self) -> None:
        """Start the server and wait until it answers."""
        options = {
            **SERVER_OPTIONS,
            "datadir": self.directory / "data",
            "socket": self.unix_socket,
            "port": self.port,
            "pid_file": self.directory / "mysqld.pid",
            "tmpdir": self.directory,
            "ssl_ca": self.authority_file,
            "ssl_cert": self.directory / "server.pem",
            "ssl_key": self.directory / "server-key.pem",
        }
        command = [_find_program("mariadbd"), "--no-defaults", *_user_arguments()]
        command += [f"--{name.replace('_', '-')}={value}" for name, value in options.items()]
        with (self.directory / "server.log").open("ab") as log:
            self.process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        deadline = time.monotonic() + START_TIMEOUT_SECONDS
        while not self._listens():
            if self.process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(f"mariadbd did not start:\n{(self.directory / 'server.log').read_text()[-3000:]}")
            time.sleep(0.05)

    def _listens(self) -> bool:
        # Its socket is there a moment before anybody listens at it.
        with socket.socket(socket.AF_UNIX) as probe:
            return probe.connect_ex(self.unix_socket) == 0

    def stop(self, *, crash: bool = False) -> None:
        """Stop the server; a crash is what a power cut would be."""
        if self.process is not None:
            if crash:
                self.process.kill()
            else:
                self.process.terminate()
            self.process.wait(timeout=60)
            self.process = None
            if crash:
                Path(self.unix_socket).unlink(missing_ok=True)

    def connect(self, database: str | None = None, *, as_root: bool = False) -> Any:
        """A pymysql connection in autocommit mode, with the driver's own conversions."""
        import pymysql

        return pymysql.connect(
            unix_socket=self.unix_socket,
            user="root" if as_root else self.username,
            password=b"" if as_root else self.password.encode(),
            database=database,
            charset="utf8mb4",
            autocommit=True,
            ssl_disabled=True,
        )

    def execute(
        self, sql: str, parameters: Sequence[object] = (), *, database: str | None = None, as_root: bool = False
    ) -> list[Any]:
        """Run one statement on a connection of its own; gives its rows."""
        with closing(self.connect(database, as_root=as_root)) as connection, connection.cursor() as cursor:
            cursor.execute(sql, parameters or None)
            return list(cursor.fetchall())

    def create_database(self) -> MysqlDatabase:
        """A new database."""
        name = f"test_{uuid.uuid4().hex[:12]}"
        self.execute(f"CREATE DATABASE `{name}` CHARACTER SET utf8mb4")
        return MysqlDatabase(self, name)


@dataclass
class MysqlDatabase:
    """One test's own database."""

    server: MysqlServer
    name: str
    _siblings: list[MysqlDatabase] = field(default_factory=list, repr=False)

    def connect(self) -> Any:
        """A pymysql connection in autocommit mode."""
        return self.server.connect(self.name)

    def execute(self, sql: str, parameters: Sequence[object] = ()) -> list[Any]:
        """Run one statement outside a transaction; gives its rows."""
        return self.server.execute(sql, parameters, database=self.name)

    def create_database(self) -> MysqlDatabase:
        """Another database on the same server, dropped with this one."""
        sibling = self.server.create_database()
        self._siblings.append(sibling)
        return sibling

    def config(self, name: str = "shop", *, options: Mapping[str, OptionValue] | None = None) -> ConnectionConfig:
        """How a connector reaches this database over TCP."""
        return ConnectionConfig(
            name=name,
            db_type="mysql",
            host=self.server.host,
            port=self.server.port,
            database=self.name,
            username=self.server.username,
            password=self.server.password,
            options=options or {},
        )

    def drop(self) -> None:
        """Drop the database and its siblings."""
        for database in (*self._siblings, self):
            self.server.execute(f"DROP DATABASE IF EXISTS `{database.name}`")


def start_mysql() -> MysqlServer:
    """Initialise and start a server in a temporary directory of its own; `stop_mysql` undoes both."""
    # A Unix socket's path is limited to about 100 bytes, so the directory does not follow $TMPDIR.
    directory = Path(tempfile.mkdtemp(prefix="synqx-mysql-", dir="/tmp"))
    server = MysqlServer(directory, _find_free_port())
    try:
        Authority(directory, "server").issue("Test server", names=("127.0.0.1",), file_name="server")
        made = subprocess.run(
            [
                _find_program("mariadb-install-db"),
                "--no-defaults",
                *_user_arguments(),
                f"--datadir={directory / 'data'}",
                "--auth-root-authentication-method=normal",
                "--skip-test-db",
                "--innodb-log-file-size=48M",
            ],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=120,
        )
        if made.returncode:
            raise RuntimeError(f"mariadb-install-db made no data directory:\n{made.stdout}")
        server.start()
        server.execute(f"CREATE USER '{USERNAME}'@'%' IDENTIFIED BY '{PASSWORD}'", as_root=True)
        server.execute(f"GRANT ALL PRIVILEGES ON *.* TO '{USERNAME}'@'%' WITH GRANT OPTION", as_root=True)
    except BaseException:
        stop_mysql(server)
        raise
    return server


def stop_mysql(server: MysqlServer) -> None:
    """Stop the server and remove what it wrote."""
    server.stop(crash=True)
    shutil.rmtree(server.directory, ignore_errors=True)


def _user_arguments() -> list[str]:
    # The server refuses to run as root unless it is told to.
    return ["--user=root"] if os.geteuid() == 0 else []


def _find_program(name: str) -> str:
    # Debian keeps servers outside of a user's PATH.
    found = shutil.which(name, path=f"{os.environ.get('PATH', '')}:/usr/sbin:/usr/local/sbin")
    if found is None:
        raise FileNotFoundError(name)
    return found


def _find_free_port() -> int:
    with closing(socket.socket()) as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


@pytest.fixture(scope="session")
def mysql_server() -> Iterator[MysqlServer]:
    """The server of this test process; started on first use."""
    try:
        for program in PROGRAMS:
            _find_program(program)
    except FileNotFoundError as exc:
        message = f"{exc} is not installed, so nothing of MySQL is tested: run scripts/install-system-packages"
        if os.environ.get("CI", "").lower() == "true":
            pytest.fail(message)
        pytest.skip(message)
    server = start_mysql()
    try:
        yield server
    finally:
        stop_mysql(server)


@pytest.fixture
def mysql(mysql_server: MysqlServer) -> Iterator[MysqlDatabase]:
    """A database of the test's own."""
    database = mysql_server.create_database()
    try:
        yield database
    finally:
        database.drop()


@pytest.fixture
def mysql_connection_config(mysql: MysqlDatabase) -> ConnectionConfig:
    """How a connector reaches the test's database."""
    return mysql.config()
