"""`synqx backfill`, and partitions through Dagster's own commands, on real files."""

from __future__ import annotations

import json
import sqlite3
import subprocess
import sys
from contextlib import ExitStack, closing
from datetime import UTC, datetime, timedelta

import dagster as dg
import duckdb
import pytest

from synqx_dagster_tests.fix_cli import Project
from synqx_dagster_tests.processes import reaped

#: The first of 40 days; the last of them is over.
FIRST = datetime.now(UTC).date() - timedelta(days=40)
DEFINITIONS = f"""
kind: connection
name: shop
db_type: sqlite
database: shop.db
---
kind: connection
name: dwh
db_type: duckdb
database: dwh.duckdb
---
kind: mapping
name: sales
source_connection: shop
source_table: sale
target_connection: dwh
target_table: sale
partitions: {{type: daily, start: {FIRST}, partitions_per_run: 30}}
partition_column: day
---
kind: mapping
name: lands
source_connection: shop
source_table: sale
target_connection: dwh
target_table: land
partitions: {{type: static, values: [de, fr, at]}}
partition_column: land
---
kind: pipeline
name: summary
partitions: {{type: daily, start: {FIRST}}}
nodes:
  - {{node_id: sale, operator_type: extract, operator_class: table,
     config: {{connection: shop, table: sale, partition_column: day}}}}
  - {{node_id: per_land, operator_type: transform, operator_class: sql,
     config: {{query: "select day, land, sum(amount)::bigint as amount from sale group by day, land"}}}}
  - {{node_id: loaded, operator_type: load, operator_class: table,
     config: {{connection: dwh, table: summary, partition_column: day}}}}
edges:
  - {{from_node_id: sale, to_node_id: per_land}}
  - {{from_node_id: per_land, to_node_id: loaded}}
---
kind: schedule
name: nightly
mapping: sales
cron_expression: "0 3 * * *"
"""


def day(number: int) -> str:
    return str(FIRST + timedelta(days=number))


@pytest.fixture
def shop(project: Project) -> Project:
    with closing(sqlite3.connect(project.directory / "shop.db")) as database:
        database.execute(
            "create table sale (id integer primary key, day date not null, land text not null, amount int)"
        )
        database.executemany(
            "insert into sale values (?, ?, ?, 1)",
            [(number, day(number // 10), ("de", "fr", "at")[number % 3]) for number in range(400)],
        )
        database.commit()
    project.write("defs.yaml", DEFINITIONS)
    outcome = project("apply", "defs.yaml")
    assert outcome.exit_code == 0, outcome.output
    return project


def change(project: Project, *statements: str) -> None:
    with closing(sqlite3.connect(project.directory / "shop.db")) as database:
        for statement in statements:
            database.execute(statement)
        database.commit()


def fetch(project: Project, sql: str) -> list[tuple[object, ...]]:
    with closing(duckdb.connect(str(project.directory / "dwh.duckdb"), read_only=True)) as database:
        rows: list[tuple[object, ...]] = database.execute(sql).fetchall()
    return rows


def materialized(project: Project, *path: str) -> set[str]:
    with dg.DagsterInstance.from_config(str(project.home)) as instance:
        return set(instance.get_materialized_partitions(dg.AssetKey(path)))


def test_partitions_are_loaded_and_loaded_again(shop: Project) -> None:
    outcome = shop("backfill", "sales", "--from", day(0), "--to", day(9), "--json")
    assert outcome.exit_code == 0, outcome.output
    (run,) = outcome.document["runs"]
    assert (run["first"], run["last"], run["partitions"]) == (day(0), day(9), 10)
    (asset,) = run["assets"]
    assert (asset["rows_out"], asset["name"]) == (100, "sales")
    assert materialized(shop, "dwh", "main", "sale") == {day(number) for number in range(10)}
    change(shop, f"update sale set amount = 5 where day in ('{day(3)}', '{day(4)}')", "delete from sale where id = 35")
    assert shop("backfill", "sales", "--from", day(3), "--to", day(3)).exit_code == 0
    assert fetch(shop, "select count(*), count(*) filter (amount = 5) from sale") == [(99, 9)]


def test_a_long_backfill_is_cut_into_runs(shop: Project) -> None:
    outcome = shop("backfill", "sales", "--all", "--json")
    assert outcome.exit_code == 0, outcome.output
    assert [run["partitions"] for run in outcome.document["runs"]] == [30, 10]
    assert fetch(shop, "select count(*), count(distinct id) from sale") == [(400, 400)]
    shown = shop("backfill", "lands", "--all")
    assert "lands: 3 partitions, de to at, in 1 run" in shown.stderr
    assert shop("verify", "lands").exit_code == 0


def test_a_run_that_fails_says_how_to_go_on(shop: Project) -> None:
    change(shop, f"update sale set amount = 'many' where day = '{day(33)}' and id = 335")
    outcome = shop("backfill", "sales", "--all")
    assert outcome.exit_code == 1
    assert f"go on with: synqx backfill sales --from {day(30)} --to {day(39)}" in outcome.stderr
    assert fetch(shop, "select count(*) from sale") == [(300,)]


def test_a_pipeline_and_a_schedule_have_partitions(shop: Project) -> None:
    assert shop("backfill", "summary", "--from", day(0), "--to", day(4)).exit_code == 0
    assert fetch(shop, "select count(*), sum(amount) from summary") == [(15, 50)]
    change(shop, f"delete from sale where day = '{day(1)}' and land = 'at'")
    assert shop("backfill", "summary", "--from", day(1), "--to", day(1)).exit_code == 0
    assert fetch(shop, f"select count(*) from summary where day = '{day(1)}'") == [(2,)]
    assert fetch(shop, "select count(*) from summary") == [(14,)]
    assert shop("backfill", "nightly", "--from", day(38)).exit_code == 0
    assert fetch(shop, "select count(*) from sale") == [(20,)]


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (("run", "sales"), 2, "'sales' is loaded by partitions, and this run does not say which"),
        (("run", "summary"), 2, "'summary' is loaded by partitions"),
        (("backfill", "sales"), 2, "say which partitions: --from KEY [--to KEY], or --all"),
        (("backfill", "sales", "--from", "2020-01-01"), 2, "there is no partition '2020-01-01'"),
        (("backfill", "sales", "--from", "yesterday"), 2, f"the daily partitions go from {FIRST} to"),
        (("backfill", "lands", "--from", "es"), 2, "the partitions are 3: de, fr, at"),
        (("backfill", "lands", "--from", "at", "--to", "de"), 2, "the partition 'de' comes before 'at'"),
        (("backfill", "lands", "--all", "--from", "at"), 2, "--from and --to cannot stand beside it"),
        (("backfill", "nothing", "--all"), 2, "there is no mapping, pipeline or schedule 'nothing'"),
    ],
)
def test_what_cannot_be_loaded_is_said_before_a_run(
    arguments: tuple[str, ...], code: int, message: str, shop: Project
) -> None:
    outcome = shop(*arguments)
    assert (outcome.exit_code, message in outcome.output) == (code, True), outcome.output
    assert shop("runs", "--json").document == []


def test_records_with_different_partitions_do_not_run_together(shop: Project) -> None:
    shop.write("more.yaml", "kind: schedule\nname: both\nmapping: [sales, lands]\ncron_expression: '0 3 * * *'\n")
    outcome = shop("check", ".")
    assert outcome.exit_code == 2
    assert "mapping 'sales' and mapping 'lands' have different partitions" in outcome.output
    assert "more.yaml:3" in outcome.output


def test_a_plan_names_the_partitions(shop: Project) -> None:
    outcome = shop("plan", "sales")
    assert f"partitions  daily from {FIRST} (UTC), by day" in outcome.output


@pytest.mark.slow
def test_dagster_loads_partitions_and_knows_the_pool(shop: Project) -> None:
    def dagster(*arguments: str) -> None:
        subprocess.run(
            [sys.executable, "-m", "dagster", *arguments],
            cwd=shop.directory,
            env=shop.process_environment({"DAGSTER_HOME": str(shop.home)}),
            check=True,
            capture_output=True,
            timeout=120,
        )

    tags = json.dumps({"dagster/asset_partition_range_start": day(2), "dagster/asset_partition_range_end": day(3)})
    dagster("job", "execute", "-m", "synqx_dagster.definitions", "-j", "nightly", "--tags", tags)
    assert fetch(shop, "select count(*), min(day)::varchar, max(day)::varchar from sale") == [(20, day(2), day(3))]
    assert materialized(shop, "dwh", "main", "sale") == {day(2), day(3)}
    assert shop("backfill", "sales", "--from", day(2), "--to", day(2)).exit_code == 0
    with dg.DagsterInstance.from_config(str(shop.home)) as instance:
        limits = {pool.name: pool.limit for pool in instance.event_log_storage.get_pool_limits()}
    # A command knows of what it runs; the daemon gives all the others their limits.
    assert {name: limit for name, limit in limits.items() if name.startswith("table_")} == {"table_dwh__main__sale": 1}


@pytest.mark.slow
def test_two_backfills_at_once_wait_for_each_other(shop: Project) -> None:
    command = [sys.executable, "-m", "synqx_dagster.cli.main", "backfill", "sales"]
    processes = [
        subprocess.Popen(
            [*command, "--from", day(first), "--to", day(first + 4)],
            cwd=shop.directory,
            env=shop.process_environment(),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for first in (0, 5, 10)
    ]
    with ExitStack() as stack:
        for process in processes:
            stack.enter_context(reaped(process))
        outputs = [process.communicate(timeout=180)[0] for process in processes]
    assert [process.returncode for process in processes] == [0, 0, 0], outputs
    assert fetch(shop, "select count(*), count(distinct id) from sale") == [(150, 150)]
