"""What is collected for a monitoring system, from real runs, ticks and a catalog."""

import sqlite3
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import dagster as dg
import pytest
from dagster._core.definitions.run_request import InstigatorType
from dagster._core.remote_origin import RegisteredCodeLocationOrigin, RemoteInstigatorOrigin, RemoteRepositoryOrigin
from dagster._core.scheduler.instigation import (
    InstigatorState,
    InstigatorStatus,
    ScheduleInstigatorData,
    SensorInstigatorData,
    TickData,
    TickStatus,
)

from synqx_dagster.defs.exposition import Metric
from synqx_dagster.defs.metrics import collect_metrics
from synqx_dagster.defs.sensors import SENSOR_NAME
from synqx_dagster.model import Schedule
from synqx_dagster_tests.unit.defs.fakes import (
    FakeCatalog,
    FakeVault,
    job_origin,
    mapping,
    repository_origin,
    snapshot_of,
)

#: 1 July 2026, 00:00 UTC.
NOW = 1_782_864_000.0

SCHEDULES = [
    Schedule(name="nightly", mapping="orders", cron_expression="0 2 * * *", timezone="Europe/Berlin"),
    Schedule(name="off", mapping="orders", cron_expression="0 2 * * *", enabled=False),
    Schedule(name="never", mapping="orders", cron_expression="0 0 30 2 *"),
]


@dg.asset
def numbers() -> dg.MaterializeResult:
    metadata: dict[str, Any] = {
        "synqx/mapping": "orders",
        "synqx/rows_in": 10,
        "synqx/rows_out": 9,
        "synqx/rows_quarantined": 1,
        "synqx/bytes": 400,
        "synqx/seconds": 0.5,
        "dagster/row_count": 90,
    }
    return dg.MaterializeResult(metadata=metadata)


@dg.asset
def foreign() -> None:
    """An asset of somebody else, of which nothing is to be said."""


@dg.op
def breaks() -> None:
    raise dg.Failure("no")


@dg.job
def broken() -> None:
    breaks()


@pytest.fixture
def instance(tmp_path: Path) -> Iterator[dg.DagsterInstance]:
    with dg.DagsterInstance.local_temp(str(tmp_path)) as opened:
        yield opened


def catalog_of(vault: FakeVault | None = None) -> Any:
    return FakeCatalog({1: snapshot_of(mapping("orders"), *SCHEDULES, revision=1)}, vault=vault or FakeVault())


def values(metrics: list[Metric], name: str) -> dict[tuple[str, ...], float]:
    (metric,) = [metric for metric in metrics if metric.name == name]
    return {tuple(sample.labels.values()): sample.value for sample in metric.samples}


def test_runs_are_counted_and_the_last_of_each_job_is_told(instance: dg.DagsterInstance) -> None:
    for _ in range(2):
        dg.materialize([numbers, foreign], instance=instance)
    broken.execute_in_process(instance=instance, raise_on_error=False)
    waiting = dg.DagsterRun(job_name="broken", remote_job_origin=job_origin("broken"))
    instance.add_run(waiting)
    instance.report_dagster_event(dg.DagsterEvent("PIPELINE_ENQUEUED", "broken", message=""), waiting.run_id)

    metrics = collect_metrics(instance, catalog_of())

    job = "__ephemeral_asset_job__"
    assert values(metrics, "synqx_runs") == {
        (job, "SUCCESS"): 2,
        ("broken", "FAILURE"): 1,
        ("broken", "QUEUED"): 1,
    }
    assert values(metrics, "synqx_queued_runs") == {(): 1}
    assert values(metrics, "synqx_job_last_run_status") == {(job, "SUCCESS"): 1, ("broken", "QUEUED"): 1}
    assert set(values(metrics, "synqx_job_last_run_duration_seconds")) == {(job,)}
    assert set(values(metrics, "synqx_job_last_success_timestamp_seconds")) == {(job,)}
    ended = values(metrics, "synqx_job_last_run_end_timestamp_seconds")[(job,)]
    assert abs(time.time() - ended) < 600


def test_the_last_load_of_each_asset_is_told(instance: dg.DagsterInstance) -> None:
    dg.materialize([numbers, foreign], instance=instance)

    metrics = collect_metrics(instance, catalog_of())

    figures = {name: values(metrics, f"synqx_asset_last_load_{name}") for name in ("rows_in", "rows_out", "bytes")}
    assert figures == {
        "rows_in": {("numbers", "orders"): 10},
        "rows_out": {("numbers", "orders"): 9},
        "bytes": {("numbers", "orders"): 400},
    }
    assert values(metrics, "synqx_asset_last_load_rows_quarantined") == {("numbers", "orders"): 1}
    assert values(metrics, "synqx_asset_rows") == {("numbers", "orders"): 90}


def test_more_assets_than_are_read_at_once(instance: dg.DagsterInstance, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("synqx_dagster.defs.metrics._ASSET_PAGE", 2)
    for number in range(5):
        metadata = {"synqx/rows_out": number}
        instance.report_runless_asset_event(dg.AssetMaterialization(f"asset_{number}", metadata=metadata))

    metrics = collect_metrics(instance, catalog_of())

    assert values(metrics, "synqx_asset_last_load_rows_out") == {(f"asset_{n}", ""): n for n in range(5)}


def test_schedules_have_their_ticks_and_their_state(instance: dg.DagsterInstance) -> None:
    metrics = collect_metrics(instance, catalog_of(), now=NOW)

    assert values(metrics, "synqx_schedule_running") == {("nightly",): 1, ("off",): 0, ("never",): 1}
    # Two o'clock in Berlin's summer is midnight: that tick is now, so the next is tomorrow's.
    assert values(metrics, "synqx_schedule_next_tick_timestamp_seconds") == {("nightly",): NOW + 86_400}
    assert values(metrics, "synqx_schedule_last_tick_timestamp_seconds") == {}


@pytest.mark.parametrize(
    ("status", "runs"),
    [(InstigatorStatus.STOPPED, 0), (InstigatorStatus.DECLARED_IN_CODE, 1), (InstigatorStatus.RUNNING, 1)],
)
def test_what_was_chosen_in_the_web_ui_counts(
    instance: dg.DagsterInstance, status: InstigatorStatus, runs: int
) -> None:
    state = stored_schedule(instance, "nightly", status)
    for number, outcome in enumerate((TickStatus.SUCCESS, TickStatus.SKIPPED)):
        instance.create_tick(
            TickData(
                instigator_origin_id=state.instigator_origin_id,
                instigator_name="nightly",
                instigator_type=InstigatorType.SCHEDULE,
                status=outcome,
                timestamp=NOW - 86_400 * (2 - number),
                selector_id=state.selector_id,
                run_ids=[],
            )
        )

    metrics = collect_metrics(instance, catalog_of(), now=NOW)

    assert values(metrics, "synqx_schedule_running")[("nightly",)] == runs
    assert values(metrics, "synqx_schedule_last_tick_timestamp_seconds") == {("nightly",): NOW - 86_400}
    assert values(metrics, "synqx_schedule_last_tick_status") == {("nightly", "SKIPPED"): 1}
    assert (("nightly",) in values(metrics, "synqx_schedule_next_tick_timestamp_seconds")) == bool(runs)


def test_a_schedule_of_somebody_else_with_the_same_name_does_not_count(instance: dg.DagsterInstance) -> None:
    own = RemoteInstigatorOrigin(repository_origin(), SENSOR_NAME)
    instance.add_instigator_state(
        InstigatorState(own, InstigatorType.SENSOR, InstigatorStatus.RUNNING, SensorInstigatorData())
    )
    stored_schedule(instance, "nightly", InstigatorStatus.RUNNING)
    elsewhere = RemoteRepositoryOrigin(RegisteredCodeLocationOrigin("elsewhere"), "__repository__")
    stored_schedule(instance, "nightly", InstigatorStatus.STOPPED, elsewhere)

    assert values(collect_metrics(instance, catalog_of(), now=NOW), "synqx_schedule_running")[("nightly",)] == 1


def stored_schedule(
    instance: dg.DagsterInstance, name: str, status: InstigatorStatus, place: RemoteRepositoryOrigin | None = None
) -> InstigatorState:
    data = ScheduleInstigatorData("0 2 * * *", start_timestamp=None)
    origin = RemoteInstigatorOrigin(place or repository_origin(), name)
    return instance.add_instigator_state(InstigatorState(origin, InstigatorType.SCHEDULE, status, data))


@pytest.mark.parametrize(
    ("vault", "sealed"),
    [
        (FakeVault(opens=True), 0),
        (FakeVault(opens=False), 1),
        (FakeVault(opens=True, sealed_by_operator=True), 1),
        (FakeVault(is_initialised=False), 0),
    ],
)
def test_revision_and_seal_are_told(instance: dg.DagsterInstance, vault: FakeVault, sealed: int) -> None:
    metrics = collect_metrics(instance, catalog_of(vault))

    assert values(metrics, "synqx_catalog_revision") == {(): 1}
    assert values(metrics, "synqx_vault_sealed") == {(): sealed}


def test_the_number_of_runs_does_not_change_what_is_read(
    instance: dg.DagsterInstance, monkeypatch: pytest.MonkeyPatch
) -> None:
    broken.execute_in_process(instance=instance, raise_on_error=False)
    few = statements_of(instance, monkeypatch)
    for number in range(200):
        instance.add_run(dg.DagsterRun(job_name="broken", run_id=f"run-{number}"))
    many = statements_of(instance, monkeypatch)

    assert many == few
    assert few > 0


def statements_of(instance: dg.DagsterInstance, monkeypatch: pytest.MonkeyPatch) -> int:
    """How many statements and how many files of runs a collection needs."""
    connected: list[str] = []
    connect = sqlite3.dbapi2.connect

    def counted(database: Any, *arguments: Any, **options: Any) -> sqlite3.Connection:
        connection = connect(database, *arguments, **options)
        connection.set_trace_callback(connected.append)
        return connection

    with monkeypatch.context() as patch:
        patch.setattr(sqlite3.dbapi2, "connect", counted)
        patch.setattr(sqlite3, "connect", counted)
        metrics = collect_metrics(instance, catalog_of())
    assert sum(values(metrics, "synqx_runs").values()) > 0
    assert not any("event_logs" in statement and "run_id =" in statement for statement in connected)
    return len(connected)
