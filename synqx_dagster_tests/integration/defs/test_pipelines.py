"""Pipelines through Dagster: their assets, what their nodes did, runs that go on where they failed, and versions."""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import dagster as dg
import pytest
import sqlalchemy as sa

from synqx_dagster.catalog import tables
from synqx_dagster.catalog.store import Catalog
from synqx_dagster.defs import pipeline_translator
from synqx_dagster.defs.execution import run_targets
from synqx_dagster.defs.instance import open_instance
from synqx_dagster.defs.repository import CatalogRepository, CatalogRepositoryData
from synqx_dagster.pipelines.lineage import known_columns
from synqx_dagster_tests.unit.defs.projects import Project, describe

DIAMOND = """
kind: asset
name: customers
connection: shop
table: customer
---
kind: pipeline
name: diamond
nodes:
  - {{node_id: customers, operator_type: extract, operator_class: sqlite, source_asset: customers}}
  - {{node_id: orders, operator_type: extract, operator_class: table, config: {{connection: shop, table: orders}}}}
  - {{node_id: both, operator_type: transform, operator_class: join, config: {{"on": [id], suffix: _of_order}}}}
  - node_id: named
    operator_type: transform
    operator_class: pandas
    config: {{function: "naming:shout", columns: {{id: bigint, name: string, name_of_order: string, loud: string}}}}
  - node_id: checked
    operator_type: validate
    operator_class: rules
    config: {{rules: [{{check: range, column: id, minimum: 1}}], on_bad_row: quarantine, quarantine: loud, key: [id]}}
  - {{node_id: loud, operator_type: load, operator_class: table,
     config: {{connection: warehouse, table: loud, on_bad_row: quarantine}}}}
  - {{node_id: quiet, operator_type: transform, operator_class: select, config: {{columns: [id, name]}}}}
  - {{node_id: names, operator_type: load, operator_class: table, config: {{connection: warehouse, table: names}}}}
edges:
  - {{from_node_id: customers, to_node_id: both}}
  - {{from_node_id: orders, to_node_id: both}}
  - {{from_node_id: both, to_node_id: named}}
  - {{from_node_id: named, to_node_id: checked}}
  - {{from_node_id: checked, to_node_id: loud}}
  - {{from_node_id: checked, to_node_id: quiet}}
  - {{from_node_id: quiet, to_node_id: names}}
"""

FUNCTION = """
def shout(frame):
    frame["loud"] = frame["name"].str.upper()
    return frame
"""

LOUD, NAMES = dg.AssetKey(["warehouse", "loud"]), dg.AssetKey(["warehouse", "names"])
STORED = dg.AssetKey(["pipelines", "diamond", "checked"])


@pytest.fixture
def project(tmp_path: Path) -> Project:
    project = Project(tmp_path)
    project.fill(10)
    project.fill(8, "orders")
    (tmp_path / "naming.py").write_text(FUNCTION)
    project.apply(DIAMOND)
    return project


@pytest.fixture
def catalog(project: Project) -> Iterator[Catalog]:
    with Catalog.open(project.settings) as catalog:
        yield catalog


def metadata_of(project: Project, key: dg.AssetKey) -> dict[str, Any]:
    with open_instance(project.settings) as instance:
        event = instance.get_latest_materialization_event(key)
    assert event is not None
    assert event.asset_materialization is not None
    return {name: value.value for name, value in event.asset_materialization.metadata.items()}


def test_a_diamond_loads_both_tables_and_its_nodes_add_up(project: Project, catalog: Catalog) -> None:
    report = run_targets(catalog, ["diamond"])
    assert report.succeeded, report
    assert {asset.asset_key: (asset.rows_in, asset.rows_out, asset.rows_quarantined) for asset in report.assets} == {
        "warehouse/loud": (8, 7, 1),
        "warehouse/names": (7, 7, 0),
    }
    assert project.rows("loud")[0] == (1, "name 1", "name 1", "NAME 1")
    assert project.rows("names")[-1] == (7, "name 7")
    nodes = [node for key in (STORED, LOUD, NAMES) for node in metadata_of(project, key)["synqx/nodes"]]
    assert {node["node_id"]: (node["rows_in"], node["rows_out"], node["rows_quarantined"]) for node in nodes} == {
        "customers": (10, 10, 0),
        "orders": (8, 8, 0),
        "both": (18, 8, 0),
        "named": (8, 8, 0),
        "checked": (8, 7, 1),
        "loud": (8, 7, 1),
        "quiet": (7, 7, 0),
        "names": (7, 7, 0),
    }
    (kept,) = project.rows("_synqx_quarantine")
    assert json.loads(str(kept[-1])) == {"id": 0, "name": "name 0", "name_of_order": "name 0", "loud": "NAME 0"}


def test_lineage_goes_through_the_pipeline(project: Project, catalog: Catalog) -> None:
    run_targets(catalog, ["diamond"])
    customer, orders = dg.AssetKey(["shop", "customer"]), dg.AssetKey(["shop", "orders"])
    # Nobody can tell what a function in Python makes of its input.
    assert "dagster/column_lineage" not in metadata_of(project, STORED)
    names = metadata_of(project, NAMES)["dagster/column_lineage"].deps_by_column
    assert names == {
        "id": [dg.TableColumnDep(asset_key=STORED, column_name="id")],
        "name": [dg.TableColumnDep(asset_key=STORED, column_name="name")],
    }
    data = CatalogRepositoryData(project.settings, 1, lambda: catalog)
    assets = CatalogRepository("test", repository_data=data).asset_graph
    assert assets.get(STORED).parent_keys == {customer, orders}
    assert assets.get(NAMES).parent_keys == {STORED}
    assert assets.get(LOUD).group_name == "diamond"


def test_one_job_is_built_without_the_others(project: Project, catalog: Catalog) -> None:
    job = CatalogRepositoryData(project.settings, 1, lambda: catalog).get_job("diamond")
    assert {node.name for node in job.nodes} == {"pipelines__diamond__checked", "warehouse__loud", "warehouse__names"}
    assert job.run_tags["synqx/at_most_1"] == "diamond"
    ad_hoc = CatalogRepositoryData(project.settings, 1, lambda: catalog).get_ad_hoc_job([NAMES])
    assert "warehouse__names" in {node.name for node in ad_hoc.nodes}


def chain(name: str, steps: int) -> str:
    """A pipeline of which each node stores its row for the next one."""
    ends = {"connection": "shop", "table": "customer"}, {"connection": "warehouse", "table": name}
    extract = {"node_id": "n0", "operator_type": "extract", "operator_class": "table", "config": ends[0]}
    load = {"node_id": "end", "operator_type": "load", "operator_class": "table", "config": ends[1]}
    select = {"operator_type": "transform", "operator_class": "select", "config": {"columns": ["id", "name"]}}
    nodes = [{**extract, "stored": True}]
    nodes += [{"node_id": f"n{number}", **select, "stored": True} for number in range(1, steps)]
    names = [*(f"n{number}" for number in range(steps)), "end"]
    edges = [{"from_node_id": first, "to_node_id": second} for first, second in itertools.pairwise(names)]
    made = json.dumps({"kind": "pipeline", "name": name, "nodes": [*nodes, load], "edges": edges})
    return made.replace("{", "{{").replace("}", "}}")


def test_what_a_step_costs_does_not_depend_on_how_many_there_are(
    project: Project, catalog: Catalog, monkeypatch: pytest.MonkeyPatch
) -> None:
    project.apply(DIAMOND + "---\n" + chain("short", 2) + "\n---\n" + chain("long", 12))
    looked_at: list[int] = []

    def counted(nodes: Any, *rest: Any) -> Any:
        looked_at.append(len(nodes))
        return known_columns(nodes, *rest)

    monkeypatch.setattr(pipeline_translator, "known_columns", counted)
    statements: list[str] = []
    sa.event.listen(catalog._engine, "before_cursor_execute", lambda *of: statements.append(of[2]))
    found = {}
    for name in ("short", "long"):
        statements.clear()
        assert run_targets(catalog, [name]).succeeded
        found[name] = len([text for text in statements if "FROM" in text])
    # Whether an operator has sealed the vault.
    assert found["long"] - found["short"] == 10
    assert [count for count in looked_at if count > 2] == [3, 13]


def test_a_run_that_failed_goes_on_from_its_failed_step(project: Project, catalog: Catalog) -> None:
    run_targets(catalog, ["diamond"])
    with closing(project.target()) as target, target:
        target.execute("drop table names")
        target.execute("create table names (id integer, other text)")
    failed = run_targets(catalog, ["diamond"])
    assert [failure.error for failure in failed.failures] == ["TargetMismatchError"]
    with closing(project.target()) as target, target:
        target.execute("drop table names")
    # What a step has stored is read again, and not made again: its source may have gone on.
    project.fill(100, "orders")
    result = project.run(*("python", "-c", REEXECUTE, failed.run_id), PYTHONPATH=project.environment["PYTHONPATH"])
    assert result.returncode == 0, describe(result)
    assert len(project.rows("names")) == 7
    assert metadata_of(project, STORED)["synqx/stored_by_run"] == failed.run_id


REEXECUTE = """
import sys
import dagster as dg
from dagster._core.definitions.reconstruct import ReconstructableRepository
import synqx_dagster.definitions

instance = dg.DagsterInstance.get()
job = ReconstructableRepository.for_module("synqx_dagster.definitions", "defs").get_reconstructable_job("diamond")
with dg.execute_job(
    job, instance=instance, reexecution_options=dg.ReexecutionOptions.from_failure(sys.argv[1], instance)
) as result:
    assert result.success
    assert {event.step_key for event in result.get_step_success_events()} == {"warehouse__names"}
"""


#: Where its step stores rows it once leaves what the store takes for a fault.
STUMBLING = """
from pathlib import Path

def shout(frame):
    tried = Path(__file__).with_name("tried")
    if not tried.exists():
        tried.touch()
        for attempt in (tried.parent / "home" / "exchange" / "diamond").glob("*/checked/*/"):
            (attempt / "dataset.json").mkdir()
    frame["loud"] = frame["name"].str.upper()
    return frame
"""


@pytest.mark.parametrize("retries", [0, 1])
def test_a_node_with_retries_succeeds_at_its_second_attempt(project: Project, catalog: Catalog, retries: int) -> None:
    # A module of its own: Python has what another test's project calls `naming`.
    module = f"stumbling_{retries}"
    (project.directory / f"{module}.py").write_text(STUMBLING)
    stumbling = DIAMOND.replace("naming:shout", f"{module}:shout")
    project.apply(stumbling.replace("operator_class: pandas", f"operator_class: pandas\n    retries: {retries}"))
    report = run_targets(catalog, ["diamond"])
    with open_instance(project.settings) as instance:
        events = [entry.dagster_event_type for entry in instance.all_logs(report.run_id)]
    assert events.count(dg.DagsterEventType.STEP_UP_FOR_RETRY) == retries, events
    assert report.succeeded == (retries == 1)
    if retries:
        assert (len(project.rows("loud")), len(project.rows("names"))) == (7, 7)
    else:
        assert report.failures[0].error == "RetryableError"


def test_stored_rows_of_older_runs_are_removed(project: Project, catalog: Catalog) -> None:
    first = run_targets(catalog, ["diamond"]).run_id
    second = run_targets(catalog, ["diamond"]).run_id
    folder = project.home / "exchange" / "diamond"
    assert {entry.name for entry in folder.iterdir()} == {second}
    assert first != second


def test_a_run_that_is_purged_takes_along_what_it_stored(project: Project, catalog: Catalog) -> None:
    with closing(project.target()) as target, target:
        target.execute("create table names (id integer, other text)")
    failed = run_targets(catalog, ["diamond"])
    with closing(project.target()) as target, target:
        target.execute("drop table names")
    succeeded = run_targets(catalog, ["diamond"])
    assert (failed.succeeded, succeeded.succeeded) == (False, True)
    folder = project.home / "exchange" / "diamond"
    purge = ("synqx", "runs", "purge", "--older-than", "0d", "--keep-last", "0", "--json")
    for options in (["--dry-run"], []):
        assert {entry.name for entry in folder.iterdir()} == {failed.run_id, succeeded.run_id}
        # The pipeline that stored them may be gone by then.
        project.apply("")
        purged = project.run(*purge, *options)
        assert purged.returncode == 0, describe(purged)
        assert json.loads(purged.stdout)["deleted"] == [failed.run_id]
    assert {entry.name for entry in folder.iterdir()} == {succeeded.run_id}


def test_a_step_says_which_version_it_ran(project: Project, catalog: Catalog) -> None:
    run_targets(catalog, ["diamond"])
    assert metadata_of(project, NAMES)["synqx/pipeline_version"] == 1
    project.apply(DIAMOND.replace("minimum: 1", "minimum: 2"))
    run_targets(catalog, ["diamond"])
    assert metadata_of(project, NAMES)["synqx/pipeline_version"] == 2
    assert [version.number for version in catalog.versions("pipeline", "diamond")] == [1, 2]
    assert catalog.find_version("pipeline", "diamond", 1) == 1


def test_versions_are_listed_compared_and_restored(project: Project) -> None:
    project.apply(DIAMOND.replace("minimum: 1", "minimum: 5"))
    listed = project.run("synqx", "pipelines", "versions", "diamond", "--json")
    assert listed.returncode == 0, describe(listed)
    assert [(item["version"], item["is_current"]) for item in json.loads(listed.stdout)] == [(2, True), (1, False)]
    compared = project.run("synqx", "pipelines", "diff", "diamond")
    assert "nodes[checked].config.rules" in compared.stdout, describe(compared)
    restored = project.run("synqx", "pipelines", "restore", "diamond", "1", "--reason", "back")
    assert restored.returncode == 0, describe(restored)
    assert "version 3, revision 3" in restored.stdout
    missing = project.run("synqx", "pipelines", "restore", "diamond", "9")
    assert missing.returncode == 2
    assert "has no version 9" in missing.stderr


def test_a_version_that_cannot_be_read_is_listed(project: Project, catalog: Catalog) -> None:
    project.apply(DIAMOND.replace("minimum: 1", "minimum: 5"))
    with catalog.write() as database:
        old = tables.record_version.c.valid_to == 2
        database.execute(sa.update(tables.record_version).where(old).values(body="{}", digest="another"))
    listed = project.run("synqx", "pipelines", "versions", "diamond", "--json")
    assert listed.returncode == 0, describe(listed)
    assert [(item["version"], item["is_readable"]) for item in json.loads(listed.stdout)] == [(2, True), (1, False)]
    assert "1 (cannot be read)" in project.run("synqx", "pipelines", "versions", "diamond").stdout
    refused = project.run("synqx", "pipelines", "restore", "diamond", "1")
    assert "is not what was written" in refused.stderr, describe(refused)
    run_targets(catalog, ["diamond"])
    assert metadata_of(project, NAMES)["synqx/pipeline_version"] == 2


def test_nodes_that_fail_are_named_in_the_run(project: Project, catalog: Catalog) -> None:
    (project.directory / "naming.py").write_text("def shout(frame):\n    raise ValueError(frame['name'].iloc[0])\n")
    result = project.run("synqx", "run", "diamond", "--json")
    assert result.returncode == 1, describe(result)
    (failure,) = json.loads(result.stdout)["failures"]
    assert "node 'named': the function naming:shout raised ValueError at naming.py:2" in failure["message"]
    assert "name 0" not in result.stdout + result.stderr


def test_a_pipeline_that_is_wrong_is_refused_with_file_and_line(project: Project) -> None:
    text = (project.directory / "synqx.yaml").read_text()
    (project.directory / "synqx.yaml").write_text(text.replace("columns: [id, name]", "colums: [id, name]"))
    result = project.run("synqx", "check", "synqx.yaml")
    assert result.returncode == 2, describe(result)
    assert "unknown key 'colums' (did you mean 'columns'?)" in result.stderr
    line = next(number for number, one in enumerate(text.splitlines(), 1) if "columns: [id, name]" in one)
    assert f"synqx.yaml:{line}" in result.stderr
