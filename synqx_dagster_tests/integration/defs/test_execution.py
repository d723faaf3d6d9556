"""Runs in this process: one Dagster run on the persistent instance, reported and kept."""

from __future__ import annotations

from collections.abc import Iterator

import dagster as dg
import pytest
from pydantic import SecretStr

from synqx_dagster.catalog.store import Catalog
from synqx_dagster.defs.execution import run_targets
from synqx_dagster.defs.instance import PROCESS_TAG, open_instance
from synqx_dagster.defs.run_logs import iter_logs
from synqx_dagster.defs.runs import get_run, list_runs, read_report
from synqx_dagster.errors import ConfigurationError, NotFoundError, SealedError
from synqx_dagster.transfer.result import Progress
from synqx_dagster_tests.unit.defs.projects import Project

DOCUMENTS = """
kind: mapping
name: customers
source_connection: shop
source_table: customer
target_connection: warehouse
target_table: customer
---
kind: mapping
name: orders
source_connection: shop
source_table: orders
target_connection: warehouse
target_table: orders
---
kind: pipeline
name: both
nodes: [{{node_id: c, config: {{mapping: customers}}}}, {{node_id: o, config: {{mapping: orders}}}}]
edges: [{{from_node_id: o, to_node_id: c}}]
---
kind: schedule
name: customers
mapping: customers
cron_expression: "0 2 * * *"
"""


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Project:
    project = Project(tmp_path_factory.mktemp("execution"))
    project.fill(3)
    project.fill(5, "orders")
    project.apply(DOCUMENTS)
    return project


@pytest.fixture
def catalog(project: Project) -> Iterator[Catalog]:
    with Catalog.open(project.settings) as catalog:
        yield catalog


def test_a_mapping_is_run_reported_and_kept(project, catalog):
    seen: list[tuple[str, Progress]] = []
    report = run_targets(catalog, ["mapping:customers"], progress=lambda name, how_far: seen.append((name, how_far)))
    assert report.succeeded
    (asset,) = report.assets
    assert (asset.name, asset.asset_key, asset.lane) == ("customers", "warehouse/customer", "arrow")
    assert (asset.rows_in, asset.rows_out, asset.rows_quarantined) == (3, 3, 0)
    assert asset.checks == {"contract": True, "row_count": True, "not_null_keys": True, "unique_keys": True}
    assert asset.seconds > 0
    assert set(asset.phase_seconds) == {"plan", "stage", "read", "transform", "write", "check", "publish", "commit"}
    assert (asset.mode, asset.parallelism, asset.rows_inserted, asset.schema_changes) == ("replace", 1, 3, ())
    assert asset.lane_reason
    assert asset.peak_memory_bytes > 10_000_000
    assert {name for name, _ in seen} == {"customers"}
    assert {"plan", "copy", "commit"} <= {how_far.phase for _, how_far in seen}
    assert len(project.rows()) == 3
    with open_instance(project.settings) as instance:
        assert read_report(instance, report.run_id) == report
        info = get_run(instance, report.run_id[:8])
        assert info == list_runs(instance, 1)[0]
        assert (info.status, info.revision) == ("SUCCESS", 1)
        lines = list(iter_logs(instance, report.run_id))
    assert any("3 rows by the arrow lane" in line.message for line in lines)
    assert lines == sorted(lines, key=lambda line: line.time)
    assert report.to_dict()["assets"][0]["rows_in"] == 3
    assert info.to_dict()["started_at"].endswith("+00:00")


def test_how_many_loads_there_will_be_is_told_before_the_first(project, catalog):
    told: list[object] = []
    run_targets(catalog, ["both"], progress=lambda name, _: told.append(name), on_planned=told.append)
    assert told[0] == 2
    assert list(dict.fromkeys(told[1:])) == ["orders", "customers"]


def test_a_pipeline_keeps_its_name_and_its_order(project, catalog):
    report = run_targets(catalog, ["both"])
    assert [asset.name for asset in report.assets] == ["orders", "customers"]
    with open_instance(project.settings) as instance:
        assert get_run(instance, report.run_id).job_name == "both"


def test_what_an_edge_puts_after_a_failed_load_is_not_loaded(tmp_path):
    project = Project(tmp_path)
    project.fill(3)
    project.apply(DOCUMENTS)
    with Catalog.open(project.settings) as catalog:
        report = run_targets(catalog, ["both"])
    assert report.status == "FAILURE"
    assert [failure.name for failure in report.failures] == ["orders"]
    assert report.assets == ()


def test_several_targets_are_one_run(catalog):
    report = run_targets(catalog, ["schedule:customers", "both", "orders"])
    assert sorted(asset.name for asset in report.assets) == ["customers", "orders"]


def test_a_run_reads_the_records_that_it_needs_and_no_others(project, catalog, monkeypatch):
    monkeypatch.setattr(Catalog, "snapshot", lambda *_: pytest.fail("the whole catalog was read"))
    assert run_targets(catalog, ["orders", "mapping:customers"]).succeeded
    assert run_targets(catalog, ["both"]).succeeded
    assert run_targets(catalog, ["schedule:customers"]).succeeded


@pytest.mark.parametrize(
    ("names", "error", "says"),
    [
        (["customer"], NotFoundError, "customers"),
        (["pipeline:customers"], NotFoundError, "customers"),
        (["customers"], ConfigurationError, "mapping:customers"),
        ([], ConfigurationError, "nothing to run"),
    ],
)
def test_names_that_mean_nothing_or_two_things_start_no_run(names, error, says, project, catalog):
    with open_instance(project.settings) as instance:
        before = instance.get_runs_count()
    with pytest.raises(error) as caught:
        run_targets(catalog, names)
    assert says in str(caught.value)
    with open_instance(project.settings) as instance:
        assert instance.get_runs_count() == before


def test_one_failing_load_is_told_and_the_others_are_made(project, catalog):
    broken = DOCUMENTS.replace("source_table: orders", "source_table: vanished")
    project.apply(broken)
    report = run_targets(catalog, ["mapping:customers", "orders"])
    assert report.status == "FAILURE"
    assert [asset.name for asset in report.assets] == ["customers"]
    (failure,) = report.failures
    assert (failure.name, failure.error) == ("orders", "SourceChangedError")
    assert "vanished" in failure.message
    with open_instance(project.settings) as instance:
        text = "\n".join(line.message for line in iter_logs(instance, report.run_id))
    assert "vanished" in text
    project.apply(DOCUMENTS)


def test_a_run_that_was_killed_does_not_stand_in_the_way(project, catalog):
    first = run_targets(catalog, ["orders"])
    with open_instance(project.settings) as instance:
        tag = get_run(instance, first.run_id).tags[PROCESS_TAG]
        machine = tag.partition(":")[0]

        @dg.job
        def nothing() -> None:
            pass

        run = instance.create_run_for_job(
            nothing, tags={PROCESS_TAG: f"{machine}:1:1"}, status=dg.DagsterRunStatus.STARTED
        )
        instance.event_log_storage.set_concurrency_slots("conn_warehouse", 1)
        instance.event_log_storage.claim_concurrency_slot("conn_warehouse", run.run_id, "step")
    assert run_targets(catalog, ["orders"]).succeeded
    with open_instance(project.settings) as instance:
        assert get_run(instance, run.run_id).status == "FAILURE"
        with pytest.raises(NotFoundError, match="synqx runs"):
            get_run(instance, "0000000000")


def test_a_sealed_vault_starts_no_run(project, catalog):
    password = SecretStr("a long enough password")
    catalog.vault.initialise(password=password)
    catalog.vault.unseal(password=password)
    catalog.vault.seal()
    with open_instance(project.settings) as instance:
        before = instance.get_runs_count()
    with pytest.raises(SealedError, match="operator"):
        run_targets(catalog, ["orders"])
    with open_instance(project.settings) as instance:
        assert instance.get_runs_count() == before


def test_an_error_that_nobody_foresaw_is_told_by_its_own_message(project, monkeypatch):
    def fail(request: object) -> None:
        raise ZeroDivisionError("nobody foresaw this")

    monkeypatch.setattr("synqx_dagster.transfer.load.run_load", fail)
    fresh = Project(project.directory / "fresh")
    fresh.directory.mkdir()
    fresh.fill()
    fresh.apply(DOCUMENTS)
    with Catalog.open(fresh.settings) as catalog:
        report = run_targets(catalog, ["orders"])
    (failure,) = report.failures
    assert failure.message == "ZeroDivisionError: nobody foresaw this"
    assert failure.error is None
