"""The project through Dagster's own commands, as a user runs them."""

from __future__ import annotations

import json
import shutil
import signal
import sys
from contextlib import ExitStack
from pathlib import Path

import dagster as dg
import pytest
from pydantic import SecretStr

from synqx_dagster.catalog.store import Catalog
from synqx_dagster.defs.instance import open_instance, prepare_instance
from synqx_dagster.defs.run_logs import iter_logs
from synqx_dagster.defs.runs import RunReport, list_runs, read_report
from synqx_dagster_tests.processes import reaped
from synqx_dagster_tests.unit.defs.dev_server import wait_for
from synqx_dagster_tests.unit.defs.projects import REPOSITORY, Project, describe, locked_target

CANARY = "kanarienvogel-7f3a"

TABLES = """
kind: mapping
name: customers
source_connection: shop
source_table: customer
target_connection: warehouse
target_table: customer
max_retries: 3
---
kind: mapping
name: names
source_connection: warehouse
source_query: select id, upper(name) as name from customer
target_connection: warehouse
target_table: customer_name
---
kind: pipeline
name: load_all
nodes:
  - {{node_id: names, config: {{mapping: names}}}}
  - {{node_id: customers, config: {{mapping: customers}}}}
---
kind: schedule
name: nightly
pipeline: load_all
cron_expression: "0 2 * * *"
"""

UNREACHABLE = f"""
kind: connection
name: gone
db_type: postgresql
host: 127.0.0.1
port: 1
database: gone
username: somebody
password: {CANARY}
---
kind: mapping
name: copies
source_connection: shop
source_table: customer
target_connection: gone
target_table: customer
---
kind: pipeline
name: load_copies
nodes: [{{{{node_id: copies, config: {{{{mapping: copies}}}}}}}}]
"""


@pytest.fixture
def project(tmp_path: Path) -> Project:
    project = Project(tmp_path)
    project.fill()
    prepare_instance(project.settings)
    project.apply(TABLES)
    return project


def last_run(project: Project) -> RunReport:
    with open_instance(project.settings) as instance:
        return read_report(instance, list_runs(instance, 1)[0].run_id)


@pytest.mark.slow
def test_a_schedules_job_loads_its_pipeline(project):
    result = project.execute_job("nightly")
    assert result.returncode == 0, describe(result)
    assert project.rows("customer_name") == [(0, "NAME 0"), (1, "NAME 1"), (2, "NAME 2")]
    report = last_run(project)
    assert [asset.name for asset in report.assets] == ["customers", "names"]
    assert report.revision == 1
    key = dg.AssetKey(["warehouse", "customer_name"])
    with open_instance(project.settings) as instance:
        event = instance.get_latest_materialization_event(key)
    assert event is not None
    assert event.asset_materialization is not None
    metadata = event.asset_materialization.metadata
    deps = metadata["dagster/column_lineage"].value.deps_by_column
    source = dg.AssetKey(["warehouse", "customer"])
    assert deps["name"] == [dg.TableColumnDep(asset_key=source, column_name="name")]
    assert metadata["dagster/row_count"].value == 3
    assert metadata["synqx/rows_in"].value == 3


@pytest.mark.slow
def test_every_step_process_keeps_the_revision_of_its_run(project):
    with ExitStack() as stack:
        with locked_target(project):
            process = stack.enter_context(reaped(project.start_job("load_all", SYNQX_EXECUTOR="multiprocess")))

            def step_has_started() -> bool:
                with open_instance(project.settings) as instance:
                    runs = list_runs(instance, 1)
                    lines = [line.message for line in iter_logs(instance, runs[0].run_id)] if runs else []
                assert process.poll() is None, lines
                return any(line.startswith("Started execution of step") for line in lines)

            wait_for(step_has_started, seconds=90, what="started step")
            # The second step's process starts after this, and must not see it.
            project.apply(TABLES.replace("upper(name)", "lower(name)"))
        assert process.wait(timeout=90) == 0
    assert project.rows("customer_name") == [(0, "NAME 0"), (1, "NAME 1"), (2, "NAME 2")]
    report = last_run(project)
    assert report.revision == 1
    assert [asset.name for asset in report.assets] == ["customers", "names"]


@pytest.mark.slow
def test_dg_checks_lists_and_launches(project):
    text = (REPOSITORY / "pyproject.toml").read_text()
    start = text.index("[tool.dg]")
    section = text[start : text.index("[tool.ruff]")]
    (project.directory / "pyproject.toml").write_text(section)
    (project.directory / "synqx_dagster").symlink_to(REPOSITORY / "synqx_dagster")
    dg_command = shutil.which("dg", path=str(Path(sys.executable).parent))
    assert dg_command is not None
    for command in (["check", "defs"], ["launch", "--job", "load_all"]):
        result = project.run(dg_command, *command)
        assert result.returncode == 0, describe(result)
    result = project.run(dg_command, "list", "defs", "--json")
    assert result.returncode == 0, describe(result)
    listed = json.loads(result.stdout[result.stdout.index("{") :])
    assert any("warehouse/customer_name" in asset.values() for asset in listed["assets"])
    assert {job["name"] for job in listed["jobs"]} >= {"load_all", "nightly"}
    assert {schedule["name"] for schedule in listed["schedules"]} == {"nightly"}
    assert len(project.rows()) == 3


@pytest.mark.slow
def test_a_mistake_of_the_user_is_told_without_a_trace_of_our_frames(project):
    (project.directory / "shop.db").unlink()
    project.fill(table="other")
    result = project.execute_job("load_all")
    assert result.returncode != 0
    assert "the source has no table customer" in result.stderr
    assert "synqx_dagster/transfer" not in result.stderr
    (failure,) = last_run(project).failures
    assert failure.error == "SourceChangedError"


@pytest.mark.slow
def test_a_vault_that_an_operator_sealed_ends_a_run_at_once(project):
    with Catalog.open(project.settings) as catalog:
        catalog.vault.initialise(password=SecretStr("a long enough password"))
        catalog.vault.unseal(password=SecretStr("a long enough password"))
        catalog.vault.seal()
    result = project.execute_job("load_all", SYNQX_MASTER_PASSWORD="a long enough password")
    assert result.returncode != 0
    failures = last_run(project).failures
    assert [(failure.name, failure.error) for failure in failures] == [("customers", "SealedError")]
    assert "RETRY" not in result.stderr


def test_no_secret_reaches_dagsters_storage(project):
    password = SecretStr("a long enough password")
    with Catalog.open(project.settings) as catalog:
        catalog.vault.initialise(password=password)
    environ = {"SYNQX_MASTER_PASSWORD": password.get_secret_value()}
    (project.directory / ".env").write_text(f"SYNQX_MASTER_PASSWORD={password.get_secret_value()}\n")
    project.apply(UNREACHABLE)
    result = project.execute_job("load_copies", **environ)
    assert result.returncode != 0
    (failure,) = last_run(project).failures
    assert failure.error == "ConnectionFailedError"
    written = [path for path in project.home.rglob("*") if path.is_file()]
    assert any("runs.db" in path.name for path in written)
    for path in written:
        content = path.read_bytes()
        assert CANARY.encode() not in content, path
        assert password.get_secret_value().encode() not in content, path
    assert CANARY not in result.stdout + result.stderr


def test_a_retry_of_a_run_that_was_killed_after_its_commit_loads_nothing_twice(project):
    killed = project.execute_job("load_all", SYNQX_FAILPOINTS="after_commit=kill")
    assert killed.returncode == -signal.SIGKILL, describe(killed)
    assert len(project.rows()) == 3
    with open_instance(project.settings) as instance:
        parent = list_runs(instance, 1)[0].run_id
    tags = json.dumps({"dagster/parent_run_id": parent, "dagster/root_run_id": parent})
    result = project.run(
        *(sys.executable, "-m", "dagster", "job", "execute", "-m", "synqx_dagster.definitions"),
        *("-j", "load_all", "--tags", tags),
    )
    assert result.returncode == 0, describe(result)
    assert {asset.name: asset.already_committed for asset in last_run(project).assets} == {
        "customers": True,
        "names": False,
    }
    assert len(project.rows()) == 3
