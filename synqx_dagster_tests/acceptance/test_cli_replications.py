"""A replication as a user has it: YAML, commands, Dagster's own, the sensor; against real servers."""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import dagster as dg
import pytest

from synqx_dagster.catalog.apply import apply_changes
from synqx_dagster.catalog.changes import ChangePlan, compare_records
from synqx_dagster.catalog.store import Catalog
from synqx_dagster.defs.instance import open_instance
from synqx_dagster.defs.replication_guard import GuardState, guard_slots
from synqx_dagster.defs.replication_sensors import build_replication_sensor, find_run
from synqx_dagster.settings import load_settings
from synqx_dagster_tests.fix_cli import PACKAGE_ROOT, Project
from synqx_dagster_tests.fix_postgresql import PostgresqlDatabase
from synqx_dagster_tests.processes import reaped
from synqx_dagster_tests.unit.defs.dev_server import wait_for

DEFINITIONS = """\
kind: connection
name: shop
db_type: postgresql
host: {host}
port: {port}
database: {source}
username: {username}
---
kind: connection
name: warehouse
db_type: postgresql
host: {host}
port: {port}
database: {target}
username: {username}
---
kind: replication
name: shop-mirror
source_connection: shop
target_connection: warehouse
tables: [public.*, {{name: sales.orders, target: public.sales_orders}}]
slot: {slot}
publication: {slot}
idle_seconds: 1
batch_seconds: 0.2
interval_seconds: 5
"""

TABLES = """
create schema sales;
create table customer (id int primary key, name text);
create table sales.orders (id int primary key, customer_id int, total numeric);
insert into customer select n, 'name ' || n from generate_series(1, 100) n;
insert into sales.orders select n, n, n * 2 from generate_series(1, 50) n;
"""


class Shop:
    """A user's project, its source and its target."""

    def __init__(self, project: Project, source: PostgresqlDatabase, target: PostgresqlDatabase) -> None:
        self.run = project
        self.source, self.target = source, target
        self.slot = f"synqx_{source.name}"

    @property
    def settings(self) -> Any:
        return load_settings({"SYNQX_HOME": str(self.run.home)}, self.run.directory)

    def rows(self, table: str = "customer") -> list[tuple[Any, ...]]:
        return self.target.execute(f"select * from {table} order by 1")

    def left_behind(self) -> tuple[list[Any], list[Any]]:
        """Slots and publications at the source."""
        return (
            self.source.execute("select slot_name from pg_replication_slots where database = current_database()"),
            self.source.execute("select pubname from pg_publication"),
        )

    def dagster(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """One of Dagster's own commands, in the user's directory."""
        return subprocess.run(
            [sys.executable, "-m", "dagster", *arguments],
            cwd=self.run.directory,
            env=self.run.process_environment(
                {"SYNQX_HOME": str(self.run.home), "DAGSTER_HOME": str(self.run.home), "PYTHONWARNINGS": "ignore"}
            ),
            capture_output=True,
            text=True,
            timeout=180,
            check=False,
        )

    def look(self, catalog: Catalog) -> Any:
        """One evaluation of the sensor of the latest revision."""
        snapshot = catalog.latest_snapshot()
        definition = build_replication_sensor(snapshot.get_replication("shop-mirror"), snapshot, lambda: catalog)
        with open_instance(catalog.settings) as instance:
            return definition.evaluate_tick(dg.build_sensor_context(instance=instance))


@pytest.fixture
def shop(project: Project, postgresql: PostgresqlDatabase) -> Iterator[Shop]:
    postgresql.execute(TABLES)
    found = Shop(project, postgresql, postgresql.create_database())
    project.write(
        "synqx.yaml",
        DEFINITIONS.format(
            host=postgresql.host,
            port=postgresql.port,
            username=postgresql.username,
            source=postgresql.name,
            target=found.target.name,
            slot=found.slot,
        ),
    )
    outcome = project("apply", "synqx.yaml", "--yes")
    assert outcome.exit_code == 0, outcome.output
    yield found
    postgresql.server.execute(
        "select pg_drop_replication_slot(slot_name) from pg_replication_slots where database = %s and not active",
        (postgresql.name,),
    )


@pytest.fixture
def catalog(shop: Shop) -> Iterator[Catalog]:
    with Catalog.open(shop.settings) as opened:
        yield opened


def test_the_life_of_a_replication(shop: Shop, catalog: Catalog) -> None:
    (listed,) = shop.run("replications", "list", "--json").document
    assert (listed["name"], listed["enabled"], listed["last_run_at"]) == ("shop-mirror", False, None)
    created = shop.run("replications", "create", "shop-mirror")
    assert created.exit_code == 0, created.output
    assert "public.customer" in created.stdout
    assert f"slot {shop.slot}: made" in created.stdout
    assert shop.left_behind() == ([(shop.slot,)], [(shop.slot,)])
    started = shop.run("replications", "start", "shop-mirror", "--reason", "go")
    assert started.exit_code == 0, started.output
    assert "shop-mirror is started." in started.stdout
    assert shop.run("history", "--json").document[0]["reason"] == "go"

    # Its sensor asks for the first run; Dagster's own command does what the daemon would.
    (request,) = shop.look(catalog).run_requests
    assert request.tags["synqx/replication"] == "shop-mirror"
    result = shop.dagster("job", "execute", "-m", "synqx_dagster.definitions", "-j", "shop_mirror")
    assert result.returncode == 0, result.stdout + result.stderr
    assert len(shop.rows()) == 100
    assert len(shop.rows("sales_orders")) == 50
    assert "nothing to do" in str(shop.look(catalog).skip_message)

    shop.source.execute("update customer set name = 'changed' where id = 7; delete from customer where id > 90")
    # The server flushes a little later, and its slot sees only what is flushed.
    wait_for(lambda: len(shop.look(catalog).run_requests) == 1, seconds=30, what="request for a run")
    ran = shop.run("replications", "run", "shop-mirror", "--json")
    assert ran.exit_code == 0, ran.output
    (changed,) = [table for table in ran.document["tables"] if table["source"] == "public.customer"]
    assert (changed["rows_updated"], changed["rows_deleted"]) == (1, 10)
    assert (7, "changed") in shop.rows()
    assert len(shop.rows()) == 90

    status = shop.run("replications", "status", "shop-mirror", "--json").document
    assert (status["state"], status["enabled"], status["slot"]["active"]) == ("following", True, False)
    assert {table["source"]: table["status"] for table in status["tables"]} == {
        "public.customer": "following",
        "sales.orders": "following",
    }
    assert "customer" in shop.run("replications", "status", "shop-mirror").stdout

    paused = shop.run("replications", "pause", "shop-mirror")
    assert "shop-mirror is paused." in paused.stdout
    shop.source.execute("insert into customer select n, repeat('x', 1000) from generate_series(1000, 3000) n")
    cost = shop.run("replications", "status", "shop-mirror", "--json").document["cost"]
    assert "until the replication is started or dropped" in cost

    shop.target.execute("delete from customer")
    assert shop.run("replications", "resync", "shop-mirror", "--table", "customer", "--yes").exit_code == 0
    assert shop.run("replications", "run", "shop-mirror").exit_code == 0
    assert len(shop.rows()) == 90 + 2001

    dropped = shop.run("replications", "drop", "shop-mirror", "--yes")
    assert dropped.exit_code == 0, dropped.output
    assert shop.left_behind() == ([], [])
    assert len(shop.rows()) == 90 + 2001


def test_a_run_tells_dagster_of_its_tables(shop: Shop, catalog: Catalog) -> None:
    assert shop.run("replications", "run", "shop-mirror").exit_code == 0
    with open_instance(shop.settings) as instance:
        event = instance.get_latest_materialization_event(dg.AssetKey(["warehouse", "public", "sales_orders"]))
        assert event is not None
        materialization = event.asset_materialization
        assert materialization is not None
        metadata = {name: item.value for name, item in materialization.metadata.items()}
        assert metadata["synqx/rows_copied"] == 50
        assert metadata["synqx/lag_seconds"] == 0
        assert metadata["synqx/lag_bytes"] >= 0
        assert metadata["synqx/replication"] == "shop-mirror"
        assert [column.name for column in metadata["dagster/column_schema"].columns] == ["id", "customer_id", "total"]
        (run,) = instance.get_runs()
        assert run.tags["synqx/revision"] == "1"
        assert find_run(instance, catalog.latest_snapshot().get_replication("shop-mirror")) is None


def test_what_is_missing_at_the_source_is_said_with_its_remedy(shop: Shop) -> None:
    shop.source.execute("create table no_key (v text)")
    created = shop.run("replications", "create", "shop-mirror")
    assert created.exit_code == 1
    assert "ALTER TABLE" in created.stderr
    assert "Nothing was made." in created.stdout
    started = shop.run("replications", "start", "shop-mirror")
    assert started.exit_code == 1
    assert shop.left_behind() == ([], [])
    ran = shop.run("replications", "run", "shop-mirror")
    assert ran.exit_code == 1
    assert "no_key" in ran.stderr
    assert shop.left_behind() == ([], [])


def test_a_table_that_a_mapping_loads_is_refused(shop: Shop) -> None:
    shop.run.write(
        "more.yaml",
        "kind: mapping\nname: m\nsource_connection: shop\nsource_table: customer\n"
        "target_connection: warehouse\ntarget_table: customer\n",
    )
    assert shop.run("apply", "more.yaml", "--yes").exit_code == 0
    created = shop.run("replications", "create", "shop-mirror")
    assert created.exit_code == 1
    assert "the mapping 'm' loads its target" in created.stderr


def test_a_lost_slot_is_said_and_starts_no_run(shop: Shop, catalog: Catalog) -> None:
    assert shop.run("replications", "run", "shop-mirror").exit_code == 0
    shop.source.execute(f"select pg_drop_replication_slot('{shop.slot}')")
    assert "resync shop-mirror" in str(shop.look(catalog).skip_message)
    ran = shop.run("replications", "run", "shop-mirror")
    assert ran.exit_code == 1
    assert "is gone" in ran.stderr
    assert shop.run("replications", "status", "shop-mirror", "--json").document["state"] == "lost"
    assert shop.run("replications", "resync", "shop-mirror", "--yes").exit_code == 0
    assert len(shop.look(catalog).run_requests) == 1
    assert shop.run("replications", "run", "shop-mirror").exit_code == 0
    assert shop.run("replications", "status", "shop-mirror", "--json").document["state"] == "following"


def test_failed_runs_are_not_started_one_after_the_other(shop: Shop, catalog: Catalog) -> None:
    shop.target.execute("create table customer (id int primary key, other int not null)")
    assert shop.run("replications", "run", "shop-mirror").exit_code == 1
    assert "another one follows in" in str(shop.look(catalog).skip_message)


def test_ctrl_c_ends_a_run_in_an_orderly_way(shop: Shop) -> None:
    text = (shop.run.directory / "synqx.yaml").read_text().replace("idle_seconds: 1", "continuous: true")
    shop.run.write("synqx.yaml", text)
    assert shop.run("apply", "synqx.yaml", "--yes").exit_code == 0
    command = [sys.executable, "-m", "synqx_dagster.cli.main", "replications", "run", "shop-mirror", "--json"]
    process = subprocess.Popen(
        command,
        cwd=shop.run.directory,
        env=shop.run.process_environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    with reaped(process):
        active = "select count(*) from pg_replication_slots where slot_name = %s and active"
        wait_for(lambda: shop.source.execute(active, (shop.slot,)) == [(1,)], seconds=60, what="stream")
        shop.source.execute("insert into customer values (1000, 'late')")
        wait_for(lambda: (1000, "late") in shop.rows(), seconds=30, what="row in the target")
        process.send_signal(signal.SIGINT)
        stdout, stderr = process.communicate(timeout=60)
    assert process.returncode == 0, stderr
    document = json.loads(stdout)
    assert document["ended"] == "interrupted"
    assert shop.source.execute(active, (shop.slot,)) == [(0,)]


def test_a_started_run_ends_when_the_replication_is_paused(shop: Shop) -> None:
    text = (shop.run.directory / "synqx.yaml").read_text().replace("idle_seconds: 1", "continuous: true")
    shop.run.write("synqx.yaml", text + "enabled: true\n")
    assert shop.run("apply", "synqx.yaml", "--yes").exit_code == 0
    command = [sys.executable, "-m", "synqx_dagster.cli.main", "replications", "run", "shop-mirror", "--json"]
    process = subprocess.Popen(
        command, cwd=shop.run.directory, env=shop.run.process_environment(), stdout=subprocess.PIPE, text=True
    )
    with reaped(process):
        active = "select count(*) from pg_replication_slots where slot_name = %s and active"
        wait_for(lambda: shop.source.execute(active, (shop.slot,)) == [(1,)], seconds=60, what="stream")
        assert shop.run("replications", "pause", "shop-mirror").exit_code == 0
        stdout, _ = process.communicate(timeout=60)
    assert json.loads(stdout)["ended"] == "paused"


# --- the guard --------------------------------------------------------------------------------------------------


def guarded(shop: Shop, catalog: Catalog, action: str) -> None:
    """Let the replication be within no limit any more, with this action."""
    assert shop.run("replications", "run", "shop-mirror").exit_code == 0
    snapshot = catalog.latest_snapshot()
    replication = snapshot.get_replication("shop-mirror")
    guard = replication.wal_guard.model_copy(update={"max_lag_bytes": 1024**2, "action": action})
    change = compare_records(replication, replication.model_copy(update={"wal_guard": guard}), frozenset())
    assert change is not None
    apply_changes(catalog, ChangePlan(snapshot.revision, (change,)), author="tester", reason=None)
    shop.source.execute("create table neighbour as select repeat('y', 1000) as v from generate_series(1, 3000)")


def look_at_all(catalog: Catalog, states: dict[str, GuardState]) -> list[str]:
    with open_instance(catalog.settings) as instance:
        return guard_slots(instance, catalog, catalog.latest_snapshot(), states)


def test_the_guard_warns_of_a_paused_replication(shop: Shop, catalog: Catalog) -> None:
    guarded(shop, catalog, "warn")
    (line,) = look_at_all(catalog, {})
    assert "more than max_lag_bytes (1.0 MB)" in line
    assert shop.run("replications", "status", "shop-mirror", "--json").document["guard"]["level"] == "warn"
    assert shop.left_behind()[0] == [(shop.slot,)]


def test_the_guard_drops_a_slot_and_asks_for_a_resync(shop: Shop, catalog: Catalog) -> None:
    guarded(shop, catalog, "drop_slot")
    lines = look_at_all(catalog, {})
    assert "the slot was dropped" in lines[-1]
    assert shop.left_behind()[0] == []
    assert shop.run("replications", "status", "shop-mirror", "--json").document["state"] == "lost"
    assert look_at_all(catalog, {}) == []


def test_the_guard_pauses_other_work_until_it_is_over(shop: Shop, catalog: Catalog) -> None:
    shop.run.write(
        "more.yaml",
        "kind: mapping\nname: m\nsource_connection: shop\nsource_table: sales.orders\n"
        "target_connection: warehouse\ntarget_table: x\n---\n"
        'kind: schedule\nname: nightly\nmapping: m\ncron_expression: "0 2 * * *"\n---\n'
        'kind: schedule\nname: off\nmapping: m\ncron_expression: "0 2 * * *"\nenabled: false\n',
    )
    assert shop.run("apply", "more.yaml", "--yes").exit_code == 0
    guarded(shop, catalog, "pause")
    states: dict[str, GuardState] = {}
    lines = look_at_all(catalog, states)
    assert "paused until it is over: schedule:nightly" in lines[-1]
    assert catalog.latest_snapshot().get_schedule("nightly").enabled is False
    assert catalog.history(1)[0].author == "the WAL guard"
    shop.source.execute("drop table neighbour")
    for _ in range(2):
        # A slot lets go of log when it has passed a mark of the server's own, such as a checkpoint's.
        shop.source.execute("checkpoint")
        assert shop.run("replications", "run", "shop-mirror").exit_code == 0
    lines = look_at_all(catalog, states)
    assert "started again: schedule:nightly" in lines[-1]
    snapshot = catalog.latest_snapshot()
    assert (snapshot.get_schedule("nightly").enabled, snapshot.get_schedule("off").enabled) == (True, False)


def test_a_replication_that_was_removed_leaves_no_slot(shop: Shop, catalog: Catalog) -> None:
    assert shop.run("replications", "run", "shop-mirror").exit_code == 0
    text = (shop.run.directory / "synqx.yaml").read_text()
    shop.run.write("synqx.yaml", text[: text.rindex("---")])
    assert shop.run("apply", "synqx.yaml", "--yes", "--prune").exit_code == 0
    assert len(shop.left_behind()[0]) == 1
    states: dict[str, GuardState] = {}
    lines = look_at_all(catalog, states)
    assert f"shop-mirror was removed from the catalog: slot {shop.slot}: dropped" in lines
    assert shop.left_behind() == ([], [])
    assert look_at_all(catalog, states) == []
    assert states["shop-mirror"].settled_at == 2
    assert len(shop.rows()) == 100


@pytest.mark.slow
def test_dagster_lists_its_job_and_sensors(shop: Shop) -> None:
    shutil.copy(Path(PACKAGE_ROOT) / "workspace.yaml", shop.run.directory)
    jobs = shop.dagster("job", "list", "-m", "synqx_dagster.definitions")
    assert "shop_mirror" in jobs.stdout
    sensors = shop.dagster("sensor", "list", "-m", "synqx_dagster.definitions")
    assert "shop_mirror" in sensors.stdout
    assert "synqx_wal_guard" in sensors.stdout
