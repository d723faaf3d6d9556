"""Two backfills of one table at the same time; Dagster's storage, the catalog and both ends are on PostgreSQL."""

from __future__ import annotations

import shutil
import subprocess
import sys
from contextlib import ExitStack

import pytest

from synqx_dagster_tests.fix_cli import PACKAGE_ROOT, Project
from synqx_dagster_tests.fix_postgresql import PostgresqlDatabase
from synqx_dagster_tests.processes import reaped

DEFINITIONS = """
kind: connection
name: shop
db_type: postgresql
host: {host}
port: {port}
database: {source}
username: {username}
---
kind: connection
name: dwh
db_type: postgresql
host: {host}
port: {port}
database: {target}
username: {username}
---
kind: mapping
name: sales
source_connection: shop
source_table: public.sale
target_connection: dwh
target_table: public.sale
partitions: {{type: daily, start: 2026-01-01, end: 2026-01-31, partitions_per_run: 10}}
partition_column: day
"""


@pytest.fixture
def shop(empty_project: Project, postgresql: PostgresqlDatabase) -> tuple[Project, PostgresqlDatabase]:
    """A project on PostgreSQL alone; its target is empty."""
    target, storage, catalog = (postgresql.create_database() for _ in range(3))
    postgresql.execute("create table sale (id integer primary key, day date not null, amount integer not null)")
    postgresql.execute("insert into sale select i, date '2026-01-01' + i % 30, 1 from generate_series(1, 3000) as i")
    empty_project.environment = {
        "SYNQX_CATALOG_URL": f"postgresql://{postgresql.username}@127.0.0.1:{postgresql.port}/{catalog.name}",
        "DAGSTER_PG_HOST": "127.0.0.1",
        "DAGSTER_PG_PORT": str(postgresql.port),
        "DAGSTER_PG_DATABASE": storage.name,
        "DAGSTER_PG_USERNAME": postgresql.username,
        "DAGSTER_PG_PASSWORD": "unused",
    }
    empty_project.home.mkdir()
    shutil.copy(PACKAGE_ROOT / "deploy" / "dagster.yaml", empty_project.home / "dagster.yaml")
    empty_project.write(
        "defs.yaml",
        DEFINITIONS.format(
            host=postgresql.host,
            port=postgresql.port,
            source=postgresql.name,
            target=target.name,
            username=postgresql.username,
        ),
    )
    for command in (("init", "--generate-key-file"), ("apply", "defs.yaml")):
        outcome = empty_project.process(*command)
        assert outcome.exit_code == 0, outcome.output
    return empty_project, target


@pytest.mark.slow
def test_backfills_that_overlap_leave_each_partition_once(shop: tuple[Project, PostgresqlDatabase]) -> None:
    project, target = shop
    ranges = (("2026-01-01", "2026-01-20"), ("2026-01-11", "2026-01-30"))
    with ExitStack() as stack:
        processes = [
            stack.enter_context(
                reaped(
                    subprocess.Popen(
                        [
                            *(sys.executable, "-m", "synqx_dagster.cli.main", "backfill", "sales"),
                            *("--from", first, "--to", last, "--json"),
                        ],
                        cwd=project.directory,
                        env=project.process_environment(),
                        stdout=subprocess.PIPE,
                        stderr=subprocess.PIPE,
                        text=True,
                    )
                )
            )
            for first, last in ranges
        ]
        for process in processes:
            _, errors = process.communicate(timeout=240)
            assert process.returncode == 0, errors
    assert target.execute("select count(*), count(distinct id), sum(amount) from sale") == [(3000, 3000, 3000)]
    assert target.execute("select day, count(*) from sale group by day having count(*) <> 100") == []
    # The source did not move, so each day is what one whole load of it left; none of the others' rows stayed beside.
    # Each backfill of n days makes runs of ten, and each of these published once.
    assert target.execute("select count(*) from _synqx_ledger where batch = 0") == [(2 + 2,)]
