"""Components in a Dagster project of its own, through Dagster's own commands, as a user runs them."""

from __future__ import annotations

import json
import os
import re
import shutil
import sqlite3
import subprocess
import sys
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import duckdb
import pytest

from synqx_dagster_tests.fix_redis import RedisServer
from synqx_dagster_tests.processes import reaped
from synqx_dagster_tests.unit.defs.dev_server import wait_for
from synqx_dagster_tests.unit.defs.projects import REPOSITORY, describe

CANARY = "kanarienvogel-51d0"

PYPROJECT = """\
[tool.dg]
directory_type = "project"

[tool.dg.project]
root_module = "shop_etl"
"""

DEFINITIONS = """\
from pathlib import Path

from dagster import definitions, load_from_defs_folder


@definitions
def defs():
    return load_from_defs_folder(path_within_project=Path(__file__).parent)
"""

CONNECTIONS = """\
type: synqx_dagster.ConnectionComponent
attributes:
  name: shop
  db_type: sqlite
  database: "{{ context.project_root }}/shop.db"
---
type: synqx_dagster.ConnectionComponent
attributes:
  name: warehouse
  db_type: duckdb
  database: "{{ env.WAREHOUSE }}"
"""

ORDERS = """\
type: synqx_dagster.MappingComponent
attributes:
  name: orders
  source_connection: shop
  source_query: select id, name from orders
  target_connection: warehouse
  target_table: orders
  target_schema: order
  on_bad_row: quarantine
  column_mappings:
    - {type: direct, source_columns: [id], target_fields: [id]}
    - {type: expression, expression: upper(name), target_fields: [name]}
  owners: [data@shop.example]
"""

SCHEMA = """\
type: synqx_dagster.SchemaComponent
attributes:
  name: order
  columns:
    - {name: id, data_type: bigint, nullable: false}
    - {name: name, data_type: string, nullable: false}
  primary_key: [id]
"""

PIPELINE = """\
type: synqx_dagster.PipelineComponent
attributes:
  name: load_all
  executor: in_process
  nodes:
    - {node_id: orders, config: {mapping: orders}}
    - {node_id: read, operator_type: extract, operator_class: table, config: {connection: shop, table: orders}}
    - {node_id: few, operator_type: transform, operator_class: filter, config: {condition: "id < 2"}}
    - {node_id: load, operator_type: load, operator_class: table, config: {connection: warehouse, table: few}}
  edges:
    - {from_node_id: orders, to_node_id: read}
    - {from_node_id: read, to_node_id: few}
    - {from_node_id: few, to_node_id: load}
"""

SCHEDULE = """\
type: synqx_dagster.ScheduleComponent
attributes:
  name: nightly
  mapping: orders
  cron_expression: "0 2 * * *"
  timezone: Europe/Berlin
"""

SENSOR = """\
type: synqx_dagster.SensorComponent
attributes:
  name: changed
  type: source_changed
  connection: shop
  table: orders
  column: id
  pipeline: load_all
"""

#: What the project had before: an asset of its own, one that reads what SynqX loads, and one that it reads.
PYTHON = """\
import dagster as dg


@dg.asset(key=["shop", "orders"])
def shop_orders() -> None: ...


@dg.asset(deps=[dg.AssetKey(["warehouse", "main", "orders"])])
def report() -> None: ...
"""


@dataclass
class DagsterProject:
    """A project as ``create-dagster`` lays it out, with a source of three rows, of which one is bad."""

    directory: Path
    environ: dict[str, str] = field(default_factory=dict)

    @property
    def defs(self) -> Path:
        return self.directory / "shop_etl" / "defs"

    @property
    def warehouse(self) -> Path:
        return self.directory / "warehouse.duckdb"

    def write(self, name: str, text: str) -> Path:
        path = self.defs / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
        return path

    @property
    def process_environment(self) -> dict[str, str]:
        """The variables of its processes."""
        inherited = {name: value for name, value in os.environ.items() if not name.startswith(("SYNQX_", "DAGSTER_"))}
        return {
            **inherited,
            "DAGSTER_HOME": str(self.directory / "home"),
            "PYTHONPATH": f"{REPOSITORY}{os.pathsep}{self.directory}",
            "PYTHONWARNINGS": "ignore",
            "NO_COLOR": "1",
            # Of all commands alike, so that snippets of files are not wrapped.
            "COLUMNS": "200",
            "WAREHOUSE": str(self.warehouse),
            "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
            **self.environ,
        }

    def run(self, *command: str) -> subprocess.CompletedProcess[str]:
        """Run a command of Dagster in the project."""
        program = shutil.which(command[0], path=str(Path(sys.executable).parent))
        assert program is not None
        return subprocess.run(
            [program, *command[1:]],
            cwd=self.directory,
            env=self.process_environment,
            capture_output=True,
            text=True,
            timeout=180,
            check=False,
        )

    def succeed(self, *command: str) -> str:
        """Run a command that must succeed; what it prints."""
        result = self.run(*command)
        assert result.returncode == 0, describe(result)
        return result.stdout

    def fail(self, *command: str) -> str:
        """Run a command that must fail; what it prints and complains."""
        result = self.run(*command)
        assert result.returncode != 0, describe(result)
        return re.sub(r"\x1b\[[0-9;]*m", "", result.stdout + result.stderr)

    def list_defs(self, *options: str) -> dict[str, Any]:
        """What the project defines."""
        text = self.succeed("dg", "list", "defs", "--json", *options)
        listed: dict[str, Any] = json.loads(text[text.index("{") :])
        return listed

    def rows(self, table: str) -> list[tuple[Any, ...]]:
        """What the warehouse holds."""
        with duckdb.connect(str(self.warehouse), read_only=True) as database:
            return database.execute(f"select * from {table} order by 1").fetchall()


@pytest.fixture
def empty(tmp_path: Path) -> DagsterProject:
    project = DagsterProject(tmp_path)
    project.defs.mkdir(parents=True)
    (tmp_path / "home").mkdir()
    (tmp_path / "home" / "dagster.yaml").write_text("telemetry: {enabled: false}\n")
    (tmp_path / "pyproject.toml").write_text(PYPROJECT)
    (tmp_path / "shop_etl" / "__init__.py").touch()
    (tmp_path / "shop_etl" / "definitions.py").write_text(DEFINITIONS)
    (project.defs / "__init__.py").touch()
    with closing(sqlite3.connect(tmp_path / "shop.db")) as database, database:
        database.execute("create table orders (id integer primary key, name text)")
        database.executemany("insert into orders values (?, ?)", [(1, "one"), (2, "two"), (3, None)])
    return project


@pytest.fixture
def project(empty: DagsterProject) -> DagsterProject:
    empty.write("connections/defs.yaml", CONNECTIONS)
    empty.write("sales/orders/defs.yaml", f"{ORDERS}---\n{SCHEMA}")
    return empty


@pytest.mark.slow
def test_dagster_checks_lists_and_runs_components(project: DagsterProject) -> None:
    project.write("sales/load_all/defs.yaml", PIPELINE)
    project.write("nightly/defs.yaml", f"{SCHEDULE}---\n{SENSOR}")
    project.write("own.py", PYTHON)
    assert "validated successfully" in project.succeed("dg", "check", "yaml")
    project.succeed("dg", "check", "defs")
    listed = project.list_defs()
    assert {asset["asset_key"]: asset["dependency_keys"] for asset in listed["assets"]} == {
        "report": ["warehouse/main/orders"],
        "shop/orders": [],
        "warehouse/main/few": ["shop/orders"],
        "warehouse/main/orders": ["shop/orders"],
    }
    assert {job["name"] for job in listed["jobs"]} == {"load_all", "nightly"}
    assert [schedule["name"] for schedule in listed["schedules"]] == ["nightly"]
    assert [sensor["name"] for sensor in listed["sensors"]] == ["changed"]
    sources = {asset["asset_key"]: asset.get("source") for asset in listed["assets"]}
    assert sources["warehouse/main/orders"] == "shop_etl/defs/sales/orders/defs.yaml:1"
    assert {resource["name"] for resource in listed["resources"]} >= {"conn_shop", "conn_warehouse"}

    project.succeed("dagster", "job", "execute", "-m", "shop_etl.definitions", "-j", "load_all")
    assert project.rows("orders") == [(1, "ONE"), (2, "TWO")]
    assert project.rows("few") == [(1, "one")]
    assert [row[0] for row in project.rows("(select column_name from _synqx_quarantine)")] == ["name"]
    assert not (project.directory / "home" / "catalog.db").exists()


@pytest.mark.slow
def test_a_mapping_is_materialized_by_its_key_in_processes_of_its_own(project: DagsterProject) -> None:
    # Without an executor of its own the project's holds, which starts a process for each step.
    command = ("dagster", "asset", "materialize", "-m", "shop_etl.definitions", "--select")
    project.succeed(*command, "key:warehouse/main/orders")
    assert project.rows("orders") == [(1, "ONE"), (2, "TWO")]


@pytest.mark.slow
def test_steps_of_components_go_to_celery_workers(project: DagsterProject, redis_server: RedisServer) -> None:
    project.environ["SYNQX_CELERY_BROKER"] = redis_server.url
    project.write("sales/load_all/defs.yaml", PIPELINE.replace("in_process", "celery"))
    log = project.directory / "worker.log"
    with log.open("wb") as output:
        worker = subprocess.Popen(
            [sys.executable, "-m", "synqx_dagster.cli.main", "worker", "--without-catalog", "--concurrency", "1"],
            cwd=project.directory,
            env=project.process_environment,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            start_new_session=True,
        )
    with reaped(worker):

        def is_ready() -> bool:
            assert worker.poll() is None, log.read_text()
            return "ready." in log.read_text()

        wait_for(is_ready, seconds=120, what="worker")
        done = project.run("dagster", "job", "execute", "-m", "shop_etl.definitions", "-j", "load_all")
        assert done.returncode == 0, describe(done)
    assert "execute_plan" in log.read_text(), "the worker executed the steps"
    assert project.rows("orders") == [(1, "ONE"), (2, "TWO")]
    assert project.rows("few") == [(1, "one")]


def test_a_folder_is_listed_by_itself(project: DagsterProject) -> None:
    listed = project.list_defs("--path", str(project.defs / "sales"))
    made = [asset["asset_key"] for asset in listed["assets"] if asset["is_executable"]]
    assert made == ["warehouse/main/orders"]
    assert {resource["name"] for resource in listed["resources"]} >= {"conn_shop", "conn_warehouse"}


@pytest.mark.slow
def test_components_are_listed_and_scaffolded(empty: DagsterProject) -> None:
    kinds = ["Catalog", "Connection", "Dataset", "Mapping", "Pipeline", "Replication", "Schedule", "Schema", "Sensor"]
    names = {f"synqx_dagster.{kind}Component" for kind in kinds}
    listed = empty.succeed("dg", "list", "components", "--package", "synqx_dagster", "--json")
    assert {item["key"] for item in json.loads(listed[listed.index("{") :])["items"]} == names

    scaffold = ("dg", "scaffold", "defs")
    empty.succeed(*scaffold, "synqx_dagster.ConnectionComponent", "shop", "--db-type", "sqlite")
    empty.succeed(*scaffold, "synqx_dagster.ConnectionComponent", "warehouse", "--db-type", "duckdb")
    empty.succeed(*scaffold, "synqx_dagster.SchemaComponent", "customer")
    empty.succeed(*scaffold, "synqx_dagster.MappingComponent", "sales/customers", "--source-table", "orders")
    empty.succeed(*scaffold, "synqx_dagster.DatasetComponent", "customer_table")
    empty.succeed(*scaffold, "synqx_dagster.PipelineComponent", "load_customers")
    empty.succeed(*scaffold, "synqx_dagster.ScheduleComponent", "nightly")
    empty.succeed(*scaffold, "synqx_dagster.CatalogComponent", "more")
    empty.succeed(*scaffold, "synqx_dagster.ConnectionComponent", "live")
    empty.succeed(*scaffold, "synqx_dagster.ReplicationComponent", "mirror", "--source-connection", "live")
    text = (empty.defs / "sales" / "customers" / "defs.yaml").read_text()
    assert "type: synqx_dagster.MappingComponent" in text
    assert "name: customers" in text
    assert "source_table: orders" in text
    empty.succeed("dg", "check", "defs")
    listed_defs = empty.list_defs()
    assert [asset["asset_key"] for asset in listed_defs["assets"]] == ["shop/orders", "warehouse/main/customer"]
    assert {job["name"] for job in listed_defs["jobs"]} == {
        "load_customers",
        "nightly",
        "mirror",
        "mirror_resync",
        "mirror_drop",
    }


def test_mistakes_are_told_together_each_with_file_and_line(project: DagsterProject) -> None:
    path = project.write("sales/orders/defs.yaml", ORDERS.replace("on_bad_row: quarantine", "on_bad_rows: quarantine"))
    other = project.write("twice/defs.yaml", CONNECTIONS.partition("---")[0])
    output = project.fail("dg", "check", "defs", "--no-check-yaml")
    assert f"{path}:9 on_bad_rows: unknown key 'on_bad_rows' (did you mean 'on_bad_row'?)" in output
    assert f"{other}:3 name: there are two connections 'shop'" in output
    # What only a broken record lacks is no problem of its own.
    assert "2 problems in the SynqX components of this project" in output

    output = project.fail("dg", "check", "yaml", str(project.defs / "sales"))
    assert f"{path}:9" in output
    assert "'on_bad_rows' was unexpected" in output


def test_a_password_in_the_clear_is_refused_and_printed_by_nobody(project: DagsterProject) -> None:
    text = "type: synqx_dagster.ConnectionComponent\nattributes:\n  name: lake\n  db_type: postgresql\n"
    path = project.write("lake/defs.yaml", f"{text}  password: {CANARY}\n")
    output = project.fail("dg", "check", "defs")
    assert f"{path}:5 password: a secret cannot stand in the files of a project" in output
    assert CANARY not in output


def test_files_of_a_catalog_are_components(project: DagsterProject) -> None:
    text = "kind: mapping\nname: {name}\nsource_connection: shop\nsource_table: orders\ntarget_connection: warehouse\n"
    project.write(
        "more/defs.yaml", "type: synqx_dagster.CatalogComponent\nattributes:\n  files: [records, ../one.yaml]\n"
    )
    project.write("more/records/a.yaml", text.format(name="copies") + "target_table: copies\n")
    project.write("one.yaml", text.format(name="singles") + "target_table: singles\n")
    keys = {asset["asset_key"] for asset in project.list_defs()["assets"]}
    assert keys >= {"warehouse/main/copies", "warehouse/main/singles", "warehouse/main/orders"}

    path = project.write("one.yaml", text.format(name="singles") + "target: singles\n")
    output = project.fail("dagster", "job", "list", "-m", "shop_etl.definitions")
    assert f"{path}:6 target: unknown key 'target' (did you mean 'target_table'?)" in output


def test_a_failed_load_says_why_and_hides_the_secret(project: DagsterProject) -> None:
    project.write(
        "gone/defs.yaml",
        "type: synqx_dagster.MappingComponent\nattributes:\n  name: copies\n  source_connection: shop\n"
        "  source_table: orders\n  target_connection: gone\n  target_table: copies\n  connections:\n"
        "    - {name: gone, db_type: postgresql, host: 127.0.0.1, port: 1, database: gone, username: a,"
        " password: {env: GONE_PASSWORD}}\n",
    )
    command = ("dagster", "asset", "materialize", "-m", "shop_etl.definitions", "--select", "key:gone/public/copies")
    assert "the environment variable GONE_PASSWORD is not set" in project.fail(*command)
    project.environ["GONE_PASSWORD"] = CANARY
    output = project.fail(*command)
    assert "gone" in output
    assert CANARY not in output
    assert not any(CANARY.encode() in file.read_bytes() for file in (project.directory / "home").rglob("*.db"))
