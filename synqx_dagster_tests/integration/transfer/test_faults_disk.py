"""Disks that are full: a load ends with the reason, changes nothing, and is exact once there is room."""

from __future__ import annotations

import sqlite3
import tempfile
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import pytest

from synqx_dagster.connectors.protocol import ConnectionConfig
from synqx_dagster.errors import RetryableError, SynqxError
from synqx_dagster.transfer import quarantine
from synqx_dagster_tests.fix_mysql import MysqlServer, start_mysql, stop_mysql
from synqx_dagster_tests.fix_postgresql import PostgresqlDatabase, PostgresqlServer
from synqx_dagster_tests.integration.transfer.faults import (
    End,
    assert_books,
    assert_exact,
    connected,
    end_of,
    fill,
    orders,
)
from synqx_dagster_tests.integration.transfer.loading import load, make_schema
from synqx_dagster_tests.integration.transfer.servers import filled_up, small_disk

FEW, MANY = 1_000, 20_000

#: Room for all that a load needs, and what is left of it when it is full: too little for `MANY` rows.
DISK_MEGABYTES, LEFT_BYTES = 80, 4 << 20


@pytest.fixture
def source(postgresql: PostgresqlDatabase) -> End:
    end = end_of(postgresql, "source")
    fill(end, FEW)
    return end


@contextmanager
def postgresql_on(disk: Path, server: PostgresqlServer) -> Iterator[End]:
    """A database whose tables lie in a tablespace on the disk."""
    place = disk / "space"
    place.mkdir()
    if server.system_user is not None:
        import shutil

        disk.chmod(0o755)
        shutil.chown(place, server.system_user)
    database = server.create_database()
    space = f"space_{database.name}"
    server.execute(f"create tablespace {space} location '{place}'")
    try:
        server.execute(f'alter database "{database.name}" set default_tablespace = {space}')
        yield end_of(database, "target")
    finally:
        database.drop()
        server.execute(f"drop tablespace {space}")


def test_a_full_disk_at_postgresql(source: End, postgresql: PostgresqlDatabase) -> None:
    with small_disk(DISK_MEGABYTES) as disk, postgresql_on(disk, postgresql.server) as target:
        run_out_of_room(source, target, disk)


def test_a_full_disk_at_postgresql_in_mid_of_ranges(source: End, postgresql: PostgresqlDatabase) -> None:
    with small_disk(DISK_MEGABYTES) as disk, postgresql_on(disk, postgresql.server) as target:
        run_out_of_room(source, target, disk, range_rows=2_000)
        runs = target.fetch("select count(distinct run_id) from _synqx_ledger where load_id = 'load-2' and batch > 0")
        assert [int(str(count)) for (count,) in runs] == [2]


@pytest.mark.slow
@pytest.mark.mysql
def test_a_full_disk_at_mysql(source: End, mysql_server: MysqlServer) -> None:
    """MariaDB may end itself when InnoDB's writes fail; then the connection is lost, and the server cannot say why."""
    server = start_mysql()
    try:
        mysql = server.create_database()
        # The server keeps the tables of a database in a directory of its name.
        with small_disk(DISK_MEGABYTES, at=server.directory / "data" / mysql.name) as disk:
            target = end_of(mysql, "target")
            with connected(source.config, target.config) as ends:
                load(*ends, orders())
            fill(source, MANY, first=FEW + 1)
            with filled_up(disk, leaving_bytes=LEFT_BYTES):
                with connected(source.config, target.config) as ends, pytest.raises(RetryableError, match=r"full|lost"):
                    load(*ends, orders(), load_id="load-2")
                assert server.process is not None
                has_ended = server.process.poll() is not None
            if has_ended:
                server.stop(crash=True)
                server.start()
            assert_one_load(target)
            assert target.fetch("select count(*) from orders") == [(FEW,)]
            with connected(source.config, target.config) as ends:
                assert load(*ends, orders(), load_id="load-2", run_id="run-2").rows_out == FEW + MANY
            assert_exact(source, target, entries=2)
            server.stop(crash=True)
    finally:
        stop_mysql(server)


@pytest.mark.parametrize("kind", ["sqlite", "duckdb"])
def test_a_full_disk_under_a_file(kind: str, source: End) -> None:
    with small_disk(DISK_MEGABYTES) as disk:
        path = str(disk / "target.db")

        def fetch(sql: str) -> list[tuple[object, ...]]:
            if kind == "sqlite":
                with closing(sqlite3.connect(path)) as database:
                    return database.execute(sql).fetchall()
            import duckdb

            with duckdb.connect(path) as connection:
                rows: list[tuple[object, ...]] = connection.execute(sql).fetchall()
                return rows

        run_out_of_room(source, End(kind, ConnectionConfig(name="target", db_type=kind, database=path), fetch), disk)


def run_out_of_room(source: End, target: End, disk: Path, **fields: object) -> None:
    """Load a little, then more than there is room for, then make room."""
    with connected(source.config, target.config) as ends:
        load(*ends, orders(**fields))
    held = sorted(target.fetch("select id, checksum from orders"))
    assert len(held) == FEW
    fill(source, MANY, first=FEW + 1)
    source.fetch("analyze")
    with filled_up(disk, leaving_bytes=LEFT_BYTES):
        with connected(source.config, target.config) as ends, pytest.raises(SynqxError) as caught:
            load(*ends, orders(**fields), load_id="load-2")
        assert isinstance(caught.value, RetryableError), caught.value
        said = f"{caught.value} {caught.value.hint}".lower()
        assert "full" in said or "no space" in said, said
        assert sorted(target.fetch("select id, checksum from orders")) == held
        assert_one_load(target)
    with connected(source.config, target.config) as ends:
        assert load(*ends, orders(**fields), load_id="load-2", run_id="run-2").rows_out == FEW + MANY
    assert_exact(source, target, entries=2)


def assert_one_load(target: End) -> None:
    (count,) = target.fetch("select count(*) from _synqx_ledger where batch = 0")
    assert int(str(count[0])) == 1


def test_a_full_local_disk_moves_no_watermark(
    source: End, postgresql: PostgresqlDatabase, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """More bad rows than memory holds wait in a temporary file, for which there is no room."""
    target = end_of(postgresql.create_database(), "target")
    schema = make_schema(id="bigint", body={"data_type": "integer"}, checksum="string")
    mapping = orders(mode="append", cursor={"column": "id"}, on_bad_row="quarantine")
    source.fetch("update orders set body = '7'")
    with connected(source.config, target.config) as ends:
        load(*ends, mapping, schema)
    before = target.fetch("select watermark from _synqx_ledger")
    fill(source, MANY, first=FEW + 1)
    monkeypatch.setattr(quarantine, "SPOOL_MEMORY_BYTES", 1 << 20)
    with small_disk(2) as disk, monkeypatch.context() as patch:
        patch.setattr(tempfile, "tempdir", str(disk))
        with connected(source.config, target.config) as ends, pytest.raises(RetryableError, match="temporary"):
            load(*ends, mapping, schema, load_id="load-2")
        assert target.fetch("select watermark from _synqx_ledger") == before
        assert list(disk.iterdir()) == []
    with connected(source.config, target.config) as ends:
        result = load(*ends, mapping, schema, load_id="load-2", run_id="run-2")
    assert (result.rows_out, result.rows_quarantined) == (0, MANY)
    assert target.fetch("select count(*), count(distinct source_key) from _synqx_quarantine") == [(MANY, MANY)]
    assert_books(target, entries=2)
