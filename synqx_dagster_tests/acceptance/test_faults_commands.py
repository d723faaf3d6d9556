"""Faults around whole runs: workers that die and leave their step behind, and a vault that changes in mid run."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import psutil
import pytest

from synqx_dagster_tests.fix_cli import Project as CliProject
from synqx_dagster_tests.fix_postgresql import PostgresqlDatabase
from synqx_dagster_tests.processes import reaped
from synqx_dagster_tests.unit.defs.dev_server import wait_for

ROWS = 2_000

DOCUMENTS = """
kind: connection
name: source
db_type: postgresql
host: {host}
port: {port}
database: {source}
username: {username}
password: {password}
---
kind: connection
name: target
db_type: postgresql
host: {host}
port: {port}
database: {target}
username: {username}
password: {password}
---
kind: mapping
name: orders
source_connection: source
source_table: orders
target_connection: target
target_table: orders
mode: append
---
kind: pipeline
name: load_orders
nodes: [{{node_id: orders, config: {{mapping: orders}}}}]
"""

CHECKSUM = "select count(*), count(distinct id), md5(string_agg(body, '|' order by id)) from orders"


@pytest.fixture
def databases(postgresql: PostgresqlDatabase) -> tuple[PostgresqlDatabase, PostgresqlDatabase]:
    """A source with rows, and a target with the empty table, so that two appends meet only at the fence."""
    target = postgresql.create_database()
    for database in (postgresql, target):
        database.execute("create table orders (id integer primary key, body text)")
    target.execute("alter table orders drop constraint orders_pkey")
    postgresql.execute(f"insert into orders select i, md5(i::text) from generate_series(1, {ROWS}) as i")
    return postgresql, target


def documents(databases: tuple[PostgresqlDatabase, PostgresqlDatabase]) -> dict[str, object]:
    source, target = databases
    return {
        "host": "127.0.0.1",
        "port": source.port,
        "source": source.name,
        "target": target.name,
        "username": source.username,
        "password": "not-asked-for",
    }


@pytest.fixture
def shop(project: CliProject, databases: tuple[PostgresqlDatabase, PostgresqlDatabase]) -> CliProject:
    """A project with an unsealed vault, in which the two databases are declared."""
    # The key file is where `synqx init` made it, beside the catalog that the fixture has copied.
    project.write("synqx.yaml", DOCUMENTS.format(**documents(databases)))
    outcome = project("apply", "synqx.yaml", "--yes")
    assert outcome.exit_code == 0, outcome.output
    return project


@contextmanager
def started(shop: CliProject, *command: str, **environ: str) -> Iterator[subprocess.Popen[bytes]]:
    process = subprocess.Popen(
        [sys.executable, "-m", *command],
        cwd=shop.directory,
        env=shop.process_environment({"PYTHONWARNINGS": "ignore", **environ}),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    with reaped(process):
        yield process


def stopped_in(process: subprocess.Popen[bytes]) -> psutil.Process:
    """The process that a failpoint has stopped: the given one, or one that it started."""
    found: list[psutil.Process] = []

    def look() -> bool:
        assert process.poll() is None, process.returncode
        parent = psutil.Process(process.pid)
        for candidate in (parent, *parent.children(recursive=True)):
            try:
                if candidate.status() == psutil.STATUS_STOPPED:
                    found.append(candidate)
            except psutil.NoSuchProcess:
                continue
        return bool(found)

    wait_for(look, seconds=120, what="process that stopped itself")
    return found[0]


@pytest.mark.slow
def test_a_step_that_outlives_its_run_worker_commits_nothing(
    shop: CliProject, databases: tuple[PostgresqlDatabase, PostgresqlDatabase]
) -> None:
    source, target = databases
    job = ("dagster", "job", "execute", "-m", "synqx_dagster.definitions", "-j", "load_orders")
    home = {"DAGSTER_HOME": str(shop.home), "SYNQX_HOME": str(shop.home)}
    with started(shop, *job, SYNQX_EXECUTOR="multiprocess", SYNQX_FAILPOINTS="before_commit=stop", **home) as worker:
        orphan = stopped_in(worker)
        assert orphan.pid != worker.pid
        worker.kill()
        worker.wait()
        try:
            assert orphan.is_running()
            done = shop.process("run", "orders")
            assert done.exit_code == 0, done.output
            assert target.execute(CHECKSUM) == source.execute(CHECKSUM)
            orphan.resume()
            psutil.wait_procs([orphan], timeout=120)
            assert not orphan.is_running() or orphan.status() == psutil.STATUS_ZOMBIE
        finally:
            if orphan.is_running():
                orphan.kill()
    assert target.execute(CHECKSUM) == source.execute(CHECKSUM)
    assert target.execute("select epoch from _synqx_ledger") == [(2,)]


@pytest.mark.parametrize("act", ["seal", pytest.param("rotate", marks=pytest.mark.slow)])
def test_a_vault_that_changes_in_mid_run_does_not_change_the_run(
    act: str, shop: CliProject, databases: tuple[PostgresqlDatabase, PostgresqlDatabase]
) -> None:
    """The run has its passwords; the next one is told, or finds the new key."""
    source, target = databases
    command = ("synqx_dagster.cli.main", "run", "orders")
    with started(shop, *command, SYNQX_FAILPOINTS="after_copy=stop") as run:
        stopped = stopped_in(run)
        outcome = shop("seal") if act == "seal" else shop("vault", "rotate")
        assert outcome.exit_code == 0, outcome.output
        stopped.resume()
        assert run.wait(timeout=120) == 0
    assert target.execute(CHECKSUM) == source.execute(CHECKSUM)
    target.execute("truncate orders")
    again = shop.process("run", "orders")
    if act == "seal":
        assert again.exit_code == 3, again.output
        assert "sealed" in again.output
        assert target.execute("select count(*) from orders") == [(0,)]
        assert target.execute("select count(*) from _synqx_ledger") == [(1,)]
        assert shop("unlock").exit_code == 0
        again = shop.process("run", "orders")
    assert again.exit_code == 0, again.output
    assert target.execute(CHECKSUM) == source.execute(CHECKSUM)
    assert target.execute("select count(*) from _synqx_ledger") == [(2,)]
