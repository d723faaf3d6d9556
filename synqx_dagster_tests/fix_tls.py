"""A PostgreSQL with TLS from the system's packages, for the tests of TLS: the one from the wheel has none.

Without it these tests are skipped with the way to get it; in CI they fail.
"""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from synqx_dagster.connectors.protocol import ConnectionConfig, TlsConfig
from synqx_dagster_tests.certificates import Authority, CertificateFiles
from synqx_dagster_tests.processes import start_watchdog

_START_TIMEOUT_SECONDS = 30.0

#: `certified` needs a client certificate of its own name; `anybody` needs nothing.
_HBA = """
local all all trust
hostssl all certified 127.0.0.1/32 cert
hostnossl all certified 127.0.0.1/32 reject
host all all 127.0.0.1/32 trust
"""


@dataclass
class TlsPostgresql:
    """A running server on ``127.0.0.1:port``, and the authority that its certificate is from."""

    directory: Path
    programs: Path
    port: int
    user: str | None
    authority: Authority
    good: CertificateFiles
    process: subprocess.Popen[bytes] | None = None
    watchdog: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Initialise and start the server."""
        import psycopg2

        data = self.directory / "data"
        self._run("initdb", "-D", str(data), "-U", "anybody", "--auth=trust", "--no-sync", "--locale=C", "-E", "UTF8")
        (data / "pg_hba.conf").write_text(_HBA)
        options = {
            "port": self.port,
            "listen_addresses": "127.0.0.1",
            "unix_socket_directories": self.directory,
            "fsync": "off",
            "shared_buffers": "16MB",
            # Replication is encrypted too.
            "wal_level": "logical",
            "ssl_ca_file": self.authority.file,
        }
        (data / "postgresql.auto.conf").write_text(
            f"ssl = on\nssl_cert_file = '{self.good.certificate}'\nssl_key_file = '{self.good.key}'\n"
        )
        arguments = [f"--{name.replace('_', '-')}={value}" for name, value in options.items()]
        with (self.directory / "server.log").open("ab") as log:
            self.process = subprocess.Popen(
                [self.programs / "postgres", "-D", data, *arguments],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                user=self.user,
            )
        self.watchdog = start_watchdog(self.process, self.directory)
        deadline = time.monotonic() + _START_TIMEOUT_SECONDS
        while True:
            try:
                self.execute("create role certified login")
                return
            except psycopg2.OperationalError:
                if self.process.poll() is not None or time.monotonic() > deadline:
                    raise RuntimeError((self.directory / "server.log").read_text()[-3000:]) from None
                time.sleep(0.05)

    def _run(self, program: str, *arguments: str) -> None:
        subprocess.run([self.programs / program, *arguments], check=True, capture_output=True, user=self.user)

    def stop(self) -> None:
        """Stop the server and remove what it wrote."""
        if self.process is not None:
            self.process.terminate()
            if self.watchdog is not None:
                self.watchdog.communicate(timeout=60)
            self.process.wait(timeout=60)
        shutil.rmtree(self.directory, ignore_errors=True)

    def execute(self, *statements: str) -> list[Any]:
        """Run statements, each by itself; gives the last one's rows."""
        import psycopg2

        with closing(
            psycopg2.connect(host=str(self.directory), port=self.port, user="anybody", dbname="postgres")
        ) as connection:
            connection.autocommit = True
            with connection.cursor() as cursor:
                for statement in statements:
                    cursor.execute(statement)
                return cursor.fetchall() if cursor.description else []

    def show(self, files: CertificateFiles | None) -> None:
        """From now on show this certificate; None turns TLS off."""
        if files is None:
            self.execute("alter system set ssl = off", "select pg_reload_conf()")
            expected = [("off", str(self.good.certificate))]
        else:
            self.execute(
                "alter system set ssl = on",
                f"alter system set ssl_cert_file = '{files.certificate}'",
                f"alter system set ssl_key_file = '{files.key}'",
                "select pg_reload_conf()",
            )
            expected = [("on", str(files.certificate))]
        deadline = time.monotonic() + 10
        while self.execute("select current_setting('ssl'), current_setting('ssl_cert_file')") != expected:
            assert time.monotonic() < deadline, "the server does not show its new certificate"
            time.sleep(0.02)

    def config(self, *, host: str = "localhost", username: str = "anybody", **tls: Any) -> ConnectionConfig:
        """How a connector reaches the server, verified unless `tls` says otherwise."""
        settings = TlsConfig(**{"mode": "verify-full", "ca_file": str(self.authority.file), **tls})
        return ConnectionConfig(
            "secure", "postgresql", host=host, port=self.port, database="postgres", username=username, tls=settings
        )


def find_programs() -> Path:
    """Where a PostgreSQL with TLS is installed.

    Raises:
        FileNotFoundError: It is not.
    """
    candidates = sorted(Path("/usr/lib/postgresql").glob("*/bin/postgres"), reverse=True)
    if not candidates:
        raise FileNotFoundError("postgres")
    return candidates[0].parent


@pytest.fixture(scope="session")
def tls_postgresql() -> Iterator[TlsPostgresql]:
    """The server of this test process; started on first use."""
    try:
        programs = find_programs()
    except FileNotFoundError:
        message = "no PostgreSQL with TLS is installed, so TLS is not tested: scripts/install-system-packages"
        if os.environ.get("CI", "").lower() == "true":
            pytest.fail(message)
        pytest.skip(message)
    user = "postgres" if os.geteuid() == 0 else None
    directory = Path(tempfile.mkdtemp(prefix="synqx-tls-", dir="/tmp"))
    directory.chmod(0o755)
    if user is not None:
        shutil.chown(directory, user)
    with closing(socket.socket()) as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    authority = Authority(directory, "right", owner=user)
    good = authority.issue("localhost", names=("localhost",), file_name="good")
    server = TlsPostgresql(directory, programs, port, user, authority, good)
    try:
        server.start()
        yield server
    finally:
        server.stop()
