"""How old the last loads of tables are: real loads, real storage, the sensor as a code server evaluates it."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import closing
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import dagster as dg
import pytest
from dagster._core.definitions.sensor_definition import SensorExecutionData
from dagster._core.storage.asset_check_execution_record import AssetCheckExecutionRecord

from synqx_dagster.catalog.store import Catalog
from synqx_dagster.defs import freshness_sensor
from synqx_dagster.defs.alert_sensor import tell_alerts
from synqx_dagster.defs.execution import run_targets
from synqx_dagster.defs.freshness import FRESHNESS_CHECK, Watched, find_watched
from synqx_dagster.defs.freshness_sensor import FRESHNESS_SENSOR_NAME, look_at_ages
from synqx_dagster.defs.instance import open_instance
from synqx_dagster.defs.jobs import ASSET_JOB
from synqx_dagster.defs.repository import CatalogRepository, CatalogRepositoryData
from synqx_dagster.monitor.freshness import Rota
from synqx_dagster_tests.fix_receivers import WebReceiver
from synqx_dagster_tests.unit.defs.projects import Project

RECORDS = """
kind: mapping
name: customers
source_connection: shop
source_table: customer
target_connection: warehouse
target_table: customer
freshness: {{maximum_age_seconds: 3600}}
---
kind: mapping
name: by_country
source_connection: shop
source_table: countries
target_connection: warehouse
target_table: countries
partitions: {{type: static, values: ["1", "2"]}}
partition_column: name
freshness: {{maximum_age_seconds: 3600}}
---
kind: mapping
name: unwatched
source_connection: shop
source_table: customer
target_connection: warehouse
target_table: unwatched
---
kind: pipeline
name: copies
freshness: {{maximum_age_seconds: 7200}}
nodes:
  - {{node_id: all, operator_type: extract, operator_class: table, config: {{connection: shop, table: customer}}}}
  - {{node_id: slow, operator_type: load, operator_class: table, config: {{connection: warehouse, table: slow}}}}
  - {{node_id: fast, operator_type: load, operator_class: table,
     config: {{connection: warehouse, table: fast, freshness: {{maximum_age_seconds: 60}}}}}}
  - {{node_id: customers, config: {{mapping: customers}}}}
edges:
  - {{from_node_id: all, to_node_id: slow}}
  - {{from_node_id: all, to_node_id: fast}}
---
kind: schedule
name: nightly
pipeline: copies
cron_expression: "0 2 * * *"
---
kind: alert
name: on_call
events: [freshness_overdue, freshness_recovery]
webhook: {{url: {{env: FRESHNESS_ALERT_URL}}}}
"""

CUSTOMERS = dg.AssetKey(["warehouse", "customer"])
COUNTRIES = dg.AssetKey(["warehouse", "countries"])
SLOW, FAST = dg.AssetKey(["warehouse", "slow"]), dg.AssetKey(["warehouse", "fast"])


class Desk:
    """A project with a catalog, its Dagster instance, and somebody who is told."""

    def __init__(self, project: Project, catalog: Catalog, instance: dg.DagsterInstance, receiver: WebReceiver) -> None:
        self.project, self.catalog, self.instance, self.receiver = project, catalog, instance, receiver
        self.restart()

    def restart(self) -> None:
        """Load the definitions anew, as a code server does."""
        data = CatalogRepositoryData(self.project.settings, self.catalog.latest_revision(), lambda: self.catalog)
        self.repository = CatalogRepository("__repository__", repository_data=data)
        self.repository.load_all_definitions()
        specs = [spec for asset in data.get_assets_defs_by_key().values() for spec in asset.specs]
        self.watched = find_watched(specs)
        self.rota = Rota()

    def look(self, hours: float = 0.0) -> dict[str, bool]:
        """One evaluation so many hours from now; what is shown of each table, by its name."""
        moment = datetime.now(UTC) + timedelta(hours=hours)
        snapshot = self.catalog.snapshot()
        found = look_at_ages(self.instance, self.catalog, snapshot, self.watched, self.rota, moment)
        for evaluation in found.evaluations:
            self.instance.report_runless_asset_event(evaluation)
        tell_alerts(self.instance, self.catalog, snapshot, moment)
        return {item.asset_key.path[-1]: item.passed for item in found.evaluations}

    def evaluate(self) -> SensorExecutionData:
        """As the daemon does."""
        sensor = self.repository.get_sensor_def(FRESHNESS_SENSOR_NAME)
        data = sensor.evaluate_tick(dg.build_sensor_context(instance=self.instance))
        for event in data.asset_events:
            self.instance.report_runless_asset_event(event)
        return data

    def shown(self, key: dg.AssetKey) -> list[AssetCheckExecutionRecord]:
        """The history of a check, the latest first."""
        storage = self.instance.event_log_storage
        return list(storage.get_asset_check_execution_history(dg.AssetCheckKey(key, FRESHNESS_CHECK), limit=10))

    def statuses(self, key: dg.AssetKey) -> list[str]:
        return [record.status.value for record in self.shown(key)]

    def told(self) -> list[dict[str, Any]]:
        found = [json.loads(call.body) for call in self.receiver.received]
        self.receiver.received.clear()
        return found

    def run(self, name: str) -> bool:
        return run_targets(self.catalog, [name]).succeeded


@pytest.fixture
def desk(tmp_path: Path, web_receiver: WebReceiver, monkeypatch: pytest.MonkeyPatch) -> Iterator[Desk]:
    monkeypatch.setenv("FRESHNESS_ALERT_URL", web_receiver.url())
    project = Project(tmp_path)
    project.fill()
    project.fill(2, "countries")
    project.apply(RECORDS)
    with Catalog.open(project.settings) as catalog, open_instance(project.settings, executes=True) as instance:
        yield Desk(project, catalog, instance, web_receiver)


def test_what_declares_it_is_watched_and_nothing_else(desk: Desk) -> None:
    assert set(desk.watched) == {
        Watched(CUSTOMERS, 3600, "customers", mapping="customers"),
        Watched(COUNTRIES, 3600, "by_country", mapping="by_country"),
        Watched(SLOW, 7200, "copies slow", pipeline="copies"),
        Watched(FAST, 60, "copies fast", pipeline="copies"),
    }
    checks = {key for key in desk.repository.asset_graph.asset_check_keys if key.name == FRESHNESS_CHECK}
    assert {key.asset_key for key in checks} == {CUSTOMERS, COUNTRIES, SLOW, FAST}
    policy = desk.repository.assets_defs_by_key[SLOW].get_asset_spec(SLOW).freshness_policy
    assert policy == dg.FreshnessPolicy.time_window(timedelta(hours=2))


def test_a_load_passes_the_check_and_its_age_fails_it(desk: Desk) -> None:
    assert desk.run("copies")
    assert desk.statuses(CUSTOMERS) == desk.statuses(SLOW) == desk.statuses(FAST) == ["SUCCEEDED"]
    assert desk.look() == {"countries": True}
    assert desk.look(0.9) == {"fast": False}
    # After an hour what has not changed is shown again.
    assert desk.look(1.1) == {"customer": False, "countries": False, "fast": False, "slow": True}
    assert desk.statuses(CUSTOMERS) == ["FAILED", "SUCCEEDED"]
    event = desk.shown(CUSTOMERS)[0].event
    assert event is not None
    assert event.dagster_event is not None
    evaluation = event.dagster_event.asset_check_evaluation_data
    last = desk.instance.get_latest_materialization_event(CUSTOMERS)
    assert last is not None
    assert evaluation.severity == dg.AssetCheckSeverity.ERROR
    assert evaluation.metadata["synqx/age_seconds"].value == pytest.approx(1.1 * 3600, abs=60)
    assert evaluation.metadata["synqx/maximum_age_seconds"].value == 3600
    assert evaluation.metadata["synqx/last_load_at"].value == pytest.approx(last.timestamp)
    assert evaluation.target_materialization_data is not None
    assert evaluation.target_materialization_data.run_id == last.run_id
    assert "longer ago than the 60 min that are allowed" in (evaluation.description or "")
    # The load itself says so, without the sensor.
    assert desk.run("customers")
    assert desk.statuses(CUSTOMERS)[0] == "SUCCEEDED"


def test_the_sensor_shows_what_it_sees_and_repeats_itself_rarely(desk: Desk) -> None:
    data = desk.evaluate()
    assert data.skip_message == "none of 4 is overdue; looked at 4"
    assert len(data.asset_events) == 4
    assert desk.evaluate().asset_events == []
    desk.restart()
    data = desk.evaluate()
    assert (data.skip_message, data.asset_events) == ("none of 4 is overdue; looked at 4", [])
    assert desk.look(0.9) == {"fast": False}
    assert desk.look(0.95) == {}
    assert set(desk.look(1.95)) == {"customer", "countries", "slow", "fast"}


def test_a_change_is_told_once_also_after_a_restart(desk: Desk) -> None:
    assert desk.run("customers")
    desk.look()
    for hours in (1.01, 1.02, 1.03):
        desk.look(hours)
        desk.restart()
    (message,) = [item for item in desk.told() if item["subject"] == "customers"]
    assert (message["event"], message["subject"]) == ("freshness_overdue", "customers")
    assert message["summary"].startswith("customers: last loaded 20")
    assert message["summary"].endswith(" UTC, longer ago than the 60 min that are allowed")
    assert message["connections"] == ["warehouse"]
    assert desk.run("customers")
    desk.look()
    desk.look()
    assert [item["event"] for item in desk.told() if item["subject"] == "customers"] == ["freshness_recovery"]


def test_tables_that_never_were_loaded_are_told_when_they_were_watched_for_so_long(desk: Desk) -> None:
    desk.look()
    desk.look(0.01)
    assert desk.told() == []
    desk.look(2.1)
    told = {message["subject"]: message for message in desk.told()}
    assert {name: (item["mappings"], item["pipelines"], item["schedules"]) for name, item in told.items()} == {
        "by_country": (["by_country"], [], []),
        "copies fast": ([], ["copies"], ["nightly"]),
        "copies slow": ([], ["copies"], ["nightly"]),
        "customers": (["customers"], ["copies"], ["nightly"]),
    }
    assert told["copies slow"]["summary"].startswith("copies slow: never loaded; first looked at 20")


def test_a_load_that_failed_does_not_count_and_leaves_no_check_undecided(desk: Desk) -> None:
    assert desk.run("customers")
    with closing(desk.project.target()) as target, target:
        target.execute("drop table customer")
        target.execute("create table customer (id integer, other text)")
    assert not desk.run("customers")
    assert desk.statuses(CUSTOMERS) == ["PLANNED", "SUCCEEDED"]
    assert desk.look()["customer"] is True
    assert not desk.run("customers")
    desk.restart()
    assert desk.look(1.1)["customer"] is False
    assert desk.statuses(CUSTOMERS)[0] == "FAILED"
    assert [item["event"] for item in desk.told() if item["subject"] == "customers"] == ["freshness_overdue"]


def test_a_check_that_a_run_is_about_to_evaluate_is_left_to_it(desk: Desk) -> None:
    desk.look()
    job = desk.repository.get_job("nightly")
    run = desk.instance.create_run_for_job(job)
    assert desk.statuses(CUSTOMERS)[0] == "PLANNED"
    assert "customer" not in desk.look(1.1)
    # That the table is overdue is told all the same.
    assert "customers" in {message["subject"] for message in desk.told()}
    desk.instance.report_run_canceled(run)
    assert desk.look(1.1)["customer"] is False


def test_any_partition_counts(desk: Desk) -> None:
    desk.look()
    assert desk.look(1.1)["countries"] is False
    job = desk.repository.get_maybe_subset_job_def(ASSET_JOB, asset_selection={COUNTRIES})
    assert job.execute_in_process(instance=desk.instance, partition_key="2").success
    assert desk.statuses(COUNTRIES)[0] == "SUCCEEDED"
    assert "countries" not in desk.look(0.5)
    assert desk.look(1.1)["countries"] is False


def test_a_look_is_bounded_and_goes_on_with_the_next(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(freshness_sensor, "_MOST_LOOKS", 3)
    monkeypatch.setattr(freshness_sensor, "_MOST_KEYS", 2)
    assert [len(desk.evaluate().asset_events) for _ in range(3)] == [3, 1, 0]
