"""The demo's server: shared while it is used, gone when it is not, and closed to everybody else."""

from __future__ import annotations

import shutil
import stat
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import psycopg2
import pytest

from synqx_dagster.demo.server import PORT, ROLES, DemoServer, running_server, stop_server
from synqx_dagster.errors import ConfigurationError
from synqx_dagster_tests.processes import reaped


@pytest.fixture
def home() -> Iterator[Path]:
    """A demo home with a path that is short enough for a socket in it."""
    directory = Path(tempfile.mkdtemp(prefix="synqx-demo-test-", dir="/tmp"))
    try:
        yield directory / "home"
    finally:
        stop_server(directory / "home")
        shutil.rmtree(directory)


def connect_as(server: DemoServer, role: str, database: str, password: str) -> None:
    with closing(
        psycopg2.connect(host=str(server.socket_directory), port=PORT, user=role, dbname=database, password=password)
    ):
        pass


def test_roles_need_their_password_and_reach_their_database_alone(home: Path) -> None:
    with running_server(home) as server:
        for database, role in ROLES.items():
            path = server.password_file(role)
            assert stat.S_IMODE(path.stat().st_mode) == 0o600
            password = path.read_text(encoding="utf-8").strip()
            connect_as(server, role, database, password)
            with pytest.raises(psycopg2.OperationalError, match="password authentication failed"):
                connect_as(server, role, database, password + "x")
            for other in (*(ROLES.keys() - {database}),):
                with pytest.raises(psycopg2.OperationalError, match="permission denied for database"):
                    connect_as(server, role, other, password)
        with closing(server.connect("postgres")) as connection, connection.cursor() as cursor:
            cursor.execute("show listen_addresses")
            assert cursor.fetchone() == ("",)
    assert stat.S_IMODE(server.socket_directory.stat().st_mode) == 0o700


def test_the_last_user_stops_the_server_and_nothing_is_lost(home: Path) -> None:
    with running_server(home) as server:
        with running_server(home) as same:
            assert same == server
            with closing(same.connect("shop")) as connection, connection, connection.cursor() as cursor:
                cursor.execute("create table kept (n integer)")
        assert server.is_running()
        assert stop_server(home) is False
        assert server.is_running()
    assert not server.is_running()
    with running_server(home) as again, closing(again.connect("shop")) as connection, connection.cursor() as cursor:
        cursor.execute("select count(*) from kept")
        assert cursor.fetchone() == (0,)


def test_a_server_that_a_killed_process_left_is_joined_and_stopped(home: Path) -> None:
    program = (
        "import sys, time; from pathlib import Path; from synqx_dagster.demo.server import running_server\n"
        "with running_server(Path(sys.argv[1])):\n    print('up', flush=True); time.sleep(600)"
    )
    with reaped(subprocess.Popen([sys.executable, "-c", program, str(home)], stdout=subprocess.PIPE)) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"up\n"
    pid_file = home / "postgresql" / "postmaster.pid"
    left = pid_file.read_text()
    with running_server(home) as server:
        assert server.is_running()
        assert pid_file.read_text() == left
    assert not server.is_running()
    assert not pid_file.exists()


def test_a_half_made_data_directory_is_made_again(home: Path) -> None:
    (home / "postgresql").mkdir(parents=True)
    (home / "postgresql" / "PG_VERSION").write_text("18\n")
    with running_server(home) as server:
        assert server.is_running()


def test_another_versions_data_is_refused(home: Path) -> None:
    (home / "postgresql").mkdir(parents=True)
    (home / "postgresql" / "PG_VERSION").write_text("9.6\n")
    with pytest.raises(ConfigurationError, match=r"PostgreSQL 9\.6's") as caught, running_server(home):
        raise AssertionError
    assert "make clean" in (caught.value.hint or "")


def test_a_long_path_has_its_socket_elsewhere_and_nobody_else_can_take_it(home: Path) -> None:
    long = home.parent / ("x" * 90) / "home"
    with running_server(long) as server:
        assert server.socket_directory.parent == Path("/tmp")
        assert stat.S_IMODE(server.socket_directory.stat().st_mode) == 0o700
    shutil.rmtree(server.socket_directory)
    server.socket_directory.symlink_to(home.parent)
    try:
        with pytest.raises(ConfigurationError, match="somebody else's"), running_server(long):
            raise AssertionError
    finally:
        server.socket_directory.unlink()
