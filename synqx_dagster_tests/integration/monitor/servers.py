"""Servers of the monitoring tests' own: slots belong to a whole server, and some of these tests restart it."""

from __future__ import annotations

import shutil
import socket
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import TypeVar

import psycopg2
from psycopg2.extras import LogicalReplicationConnection

from synqx_dagster.connectors.postgresql import PostgresqlConnector
from synqx_dagster.connectors.protocol import ConnectionConfig
from synqx_dagster.monitor.wal import WalLook, WalSlot, watch_wal
from synqx_dagster_tests.fix_postgresql import PostgresqlServer

_T = TypeVar("_T")


def config_of(server: PostgresqlServer, database: str = "postgres", **values: object) -> ConnectionConfig:
    """How a connector reaches a server over TCP."""
    fields: dict[str, object] = {
        "name": "shop",
        "db_type": "postgresql",
        "host": "127.0.0.1",
        "port": server.port,
        "database": database,
        "username": server.username,
    }
    return ConnectionConfig(**{**fields, **values})  # type: ignore[arg-type] # as they are named


def look_at(server: PostgresqlServer, **values: object) -> WalLook:
    """One look."""
    connector = PostgresqlConnector(config_of(server, **values))  # type: ignore[arg-type] # as they are named
    return watch_wal(connector, timeout_seconds=10)


def slot_of(look: WalLook, name: str) -> WalSlot:
    """A slot that must be there."""
    assert look.slots is not None
    return next(slot for slot in look.slots if slot.name == name)


def write_log(server: PostgresqlServer, segments: int) -> None:
    """Have the server fill so many files of its log."""
    for _ in range(segments):
        server.execute("create table if not exists filler (i int)")
        server.execute("insert into filler values (1)")
        server.execute("select pg_switch_wal()")


def wait_until(find: Callable[[], _T | None], seconds: float = 30) -> _T:
    """What `find` gives once it gives something."""
    deadline = time.monotonic() + seconds
    while True:
        found = find()
        if found:
            return found
        assert time.monotonic() < deadline, "it did not come about in time"
        time.sleep(0.05)


@contextmanager
def reading(server: PostgresqlServer, slot: str) -> Iterator[None]:
    """Somebody reads a slot meanwhile."""
    connection = psycopg2.connect(server.uri(), connection_factory=LogicalReplicationConnection)
    with closing(connection), connection.cursor() as cursor:
        cursor.start_replication(
            slot_name=slot, decode=False, options={"proto_version": "1", "publication_names": "everything"}
        )
        yield


@contextmanager
def standby_of(server: PostgresqlServer) -> Iterator[PostgresqlServer]:
    """A standby that follows a server."""
    directory = Path(tempfile.mkdtemp(prefix="synqx-pg-", dir="/tmp"))
    if server.system_user is not None:
        shutil.chown(directory, server.system_user)
    directory.chmod(0o755)
    standby = PostgresqlServer(directory, server.bin_directory, server.system_user, _find_free_port())
    try:
        arguments = ("-D", str(standby.data_directory), "-R", "-X", "stream", "-c", "fast")
        server.run("pg_basebackup", *arguments, "-h", server.host, "-p", str(server.port), "-U", server.username)
        standby.start()
        try:
            yield standby
        finally:
            standby.stop("immediate")
    finally:
        shutil.rmtree(directory, ignore_errors=True)


def _find_free_port() -> int:
    with closing(socket.socket()) as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
