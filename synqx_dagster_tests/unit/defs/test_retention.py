"""Which runs go, which stay, and what is left of one that went."""

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import dagster as dg
import pytest
from dagster._core.execution.backfill import BulkActionStatus, PartitionBackfill

from synqx_dagster.defs import retention
from synqx_dagster.defs.attempts import find_load_id
from synqx_dagster.defs.purging import build_purge_sensor
from synqx_dagster.defs.retention import Retention, purge_runs
from synqx_dagster.settings import load_settings
from synqx_dagster_tests.unit.defs.fakes import job_origin

DAY = timedelta(days=1)
#: Every run of a test is ninety days old by then.
LATER = datetime.now(UTC) + 90 * DAY
EVERYTHING = Retention(30 * DAY, keep_last=0)
KEY = dg.AssetKey(["db", "orders"])


@dg.op
def talk(context: dg.OpExecutionContext) -> None:
    context.log.info("said")
    print("printed")


@dg.job
def talking() -> None:
    talk()


@dg.op
def load(context: dg.OpExecutionContext) -> None:
    partition = context.run.tags.get("dagster/partition")
    context.log_event(dg.AssetMaterialization(KEY, partition=partition))


@dg.job
def loading() -> None:
    load()


@pytest.fixture
def instance() -> Iterator[dg.DagsterInstance]:
    with dg.DagsterInstance.ephemeral() as opened:
        yield opened


@pytest.fixture
def stored(tmp_path: Path) -> Iterator[dg.DagsterInstance]:
    """An instance with a file for each run."""
    with dg.DagsterInstance.local_temp(str(tmp_path)) as opened:
        yield opened


def add(instance: dg.DagsterInstance, status: str = "SUCCESS", job: str = "work", **tags: str) -> str:
    """A run that ended now, without events."""
    names = {name.replace("__", "/"): value for name, value in tags.items()}
    run = dg.DagsterRun(job_name=job, tags=names)
    instance.add_run(run)
    kind = {"SUCCESS": "PIPELINE_SUCCESS", "FAILURE": "PIPELINE_FAILURE", "CANCELED": "PIPELINE_CANCELED"}
    for event in ("PIPELINE_START", *([kind[status]] if status in kind else [])):
        instance.run_storage.handle_run_event(run.run_id, dg.DagsterEvent(event, job, message=""), datetime.now(UTC))
    return run.run_id


def retry_of(instance: dg.DagsterInstance, parent: str, root: str, status: str = "SUCCESS") -> str:
    return add(instance, status, dagster__parent_run_id=parent, dagster__root_run_id=root)


def purge(instance: dg.DagsterInstance, rule: Retention = EVERYTHING, **options: Any) -> set[str]:
    options = {"now": LATER, **options}
    planned = purge_runs(instance, rule, **{**options, "dry_run": True})
    before = set(instance.get_run_ids())
    report = purge_runs(instance, rule, **options)
    assert report == planned
    assert set(instance.get_run_ids()) == before - (set() if options.get("dry_run") else set(report.deleted))
    return set(report.deleted)


def test_a_run_goes_with_its_events_its_file_and_what_it_printed(stored: dg.DagsterInstance, tmp_path: Path) -> None:
    gone, stays = (talking.execute_in_process(instance=stored).run_id for _ in range(2))
    assert files_of(tmp_path, gone)
    assert any("printed" in path.read_text(errors="replace") for path in files_of(tmp_path, gone) if path.is_file())

    assert purge(stored, Retention(30 * DAY, keep_last=1)) == {gone}

    assert files_of(tmp_path, gone) == []
    assert stored.get_run_by_id(gone) is None
    assert list(stored.all_logs(gone)) == []
    assert len(list(stored.all_logs(stays))) > 5


def files_of(directory: Path, run_id: str) -> list[Path]:
    """Files in whose path a run is named."""
    return [path for path in directory.rglob("*") if run_id in str(path) and path.is_file()]


def test_runs_that_are_not_old_enough_stay(instance: dg.DagsterInstance) -> None:
    add(instance)
    assert purge(instance, Retention(91 * DAY, keep_last=0)) == set()


def test_what_a_dry_run_names_stays(instance: dg.DagsterInstance) -> None:
    run_id = add(instance)
    assert purge(instance, dry_run=True) == {run_id}


@pytest.mark.parametrize("status", ["SUCCESS", "FAILURE", "CANCELED"])
def test_ended_runs_go(instance: dg.DagsterInstance, status: str) -> None:
    run_id = add(instance, status)
    assert purge(instance) == {run_id}


@pytest.mark.parametrize("event", ["PIPELINE_ENQUEUED", "PIPELINE_STARTING", "PIPELINE_START", "PIPELINE_CANCELING"])
def test_runs_that_have_not_ended_stay(instance: dg.DagsterInstance, event: str) -> None:
    run = dg.DagsterRun(job_name="work", remote_job_origin=job_origin("work"))
    instance.add_run(run)
    instance.report_dagster_event(dg.DagsterEvent(event, "work", message=""), run.run_id)
    assert purge(instance) == set()


def test_the_last_runs_of_each_job_stay(instance: dg.DagsterInstance) -> None:
    runs = [add(instance, job=job) for job in ("one", "two", "one", "one", "two")]
    assert purge(instance, Retention(30 * DAY, keep_last=2)) == {runs[0]}


def test_a_family_of_retries_goes_or_stays_as_a_whole(instance: dg.DagsterInstance) -> None:
    first = add(instance, "FAILURE")
    second = retry_of(instance, first, first, "FAILURE")
    third = retry_of(instance, second, first, "STARTED")
    other = add(instance, "FAILURE")
    other_retry = retry_of(instance, other, other)

    assert purge(instance) == {other, other_retry}

    instance.report_dagster_event(dg.DagsterEvent("PIPELINE_SUCCESS", "work", message=""), third)
    assert purge(instance) == {first, second, third}


def test_a_retry_finds_the_load_of_a_run_that_was_old_enough(instance: dg.DagsterInstance) -> None:
    first = add(instance, "FAILURE")
    second = retry_of(instance, first, first, "FAILURE")
    third = retry_of(instance, second, first, "STARTED")
    purge(instance)

    run = instance.get_run_by_id(third)

    assert run is not None
    assert find_load_id(instance, run, KEY) == first


def test_a_run_that_will_be_retried_stays_until_it_was(instance: dg.DagsterInstance) -> None:
    run_id = add(instance, "FAILURE", dagster__will_retry="true")
    assert purge(instance) == set()
    instance.add_run_tags(run_id, {"dagster/auto_retry_run_id": "another"})
    assert purge(instance) == {run_id}


def test_runs_of_a_backfill_stay_while_it_goes_on(instance: dg.DagsterInstance) -> None:
    run_id = add(instance, dagster__backfill="fill")
    backfill = PartitionBackfill(
        backfill_id="fill",
        partition_names=[],
        from_failure=False,
        tags={},
        backfill_timestamp=0.0,
        reexecution_steps=[],
        partition_set_origin=None,
        status=BulkActionStatus.REQUESTED,
    )
    instance.add_backfill(backfill)
    assert purge(instance) == set()
    instance.update_backfill(backfill.with_status(BulkActionStatus.COMPLETED_SUCCESS))
    assert purge(instance) == {run_id}


def test_the_last_load_of_an_asset_stays(instance: dg.DagsterInstance) -> None:
    earlier, last = (loading.execute_in_process(instance=instance).run_id for _ in range(2))

    assert purge(instance) == {earlier}

    found = instance.get_latest_materialization_event(KEY)
    assert found is not None
    assert found.run_id == last


def test_the_last_load_of_each_partition_stays(stored: dg.DagsterInstance) -> None:
    runs = [
        loading.execute_in_process(instance=stored, tags={"dagster/partition": name}).run_id
        for name in ("a", "b", "a", "c")
    ]

    assert purge(stored) == {runs[0]}

    assert stored.get_materialized_partitions(KEY) == {"a", "b", "c"}


def test_more_runs_than_are_read_at_once(instance: dg.DagsterInstance, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(retention, "_PAGE_RUNS", 2)
    runs = [add(instance) for _ in range(7)]
    report = purge_runs(instance, EVERYTHING, now=LATER)
    assert report.deleted == runs


def test_an_evaluation_stops_in_time_and_goes_on_with_the_next(instance: dg.DagsterInstance) -> None:
    runs = [add(instance) for _ in range(3)]
    report = purge_runs(instance, EVERYTHING, now=LATER, limit_seconds=0)
    assert (report.deleted, report.unfinished) == ([], True)
    assert purge(instance) == set(runs)


def test_judging_what_is_kept_stops_in_time_too(stored: dg.DagsterInstance) -> None:
    for name in ("a", "b"):
        loading.execute_in_process(instance=stored, tags={"dagster/partition": name})
    loading.execute_in_process(instance=stored)
    report = purge_runs(stored, EVERYTHING, now=LATER, limit_seconds=0)
    assert report.unfinished


def test_a_run_that_is_known_to_be_kept_is_not_read_again(
    instance: dg.DagsterInstance, monkeypatch: pytest.MonkeyPatch
) -> None:
    for _ in range(3):
        add(instance)
    read: list[dg.RunsFilter] = []
    get_run_records = instance.get_run_records

    def counted(filters: dg.RunsFilter, **options: Any) -> Any:
        read.append(filters)
        return get_run_records(filters, **options)

    monkeypatch.setattr(instance, "get_run_records", counted)
    report = purge_runs(instance, Retention(30 * DAY, keep_last=3), now=LATER)
    assert report.kept == {"it is one of its job's last runs": 3}
    assert len(read) == 1


def test_an_interrupted_deletion_is_finished_by_the_next(
    stored: dg.DagsterInstance, monkeypatch: pytest.MonkeyPatch
) -> None:
    run_id = talking.execute_in_process(instance=stored).run_id

    def die(run_id: str) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(stored, "delete_run", die)
        with pytest.raises(KeyboardInterrupt):
            purge_runs(stored, EVERYTHING, now=LATER)
    assert purge(stored) == {run_id}


# --- the sensor ---------------------------------------------------------------------------------------------------


def test_without_the_setting_nothing_is_deleted() -> None:
    assert build_purge_sensor(load_settings({})) is None


def test_the_sensor_deletes_and_says_so(
    instance: dg.DagsterInstance, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    environ = {"SYNQX_RUN_RETENTION_DAYS": "30", "SYNQX_RUN_KEEP_LAST": "1", "SYNQX_EXCHANGE": str(tmp_path)}
    sensor = build_purge_sensor(load_settings(environ))
    assert sensor is not None
    gone, stays = add(instance), add(instance)
    for run_id in (gone, stays):
        (tmp_path / "pipeline" / run_id).mkdir(parents=True)
    monkeypatch.setattr(retention, "datetime", Clock)

    with dg.build_sensor_context(instance=instance) as context:
        result = sensor.evaluate_tick(context)

    assert result.run_requests == []
    assert result.skip_message == "deleted 1 runs that are older than 30 days; kept 1: it is one of its job's last runs"
    assert instance.get_run_ids() == [stays]
    assert [folder.name for folder in (tmp_path / "pipeline").iterdir()] == [stays]


@pytest.mark.parametrize("exchange", ["gopher://bucket/rows", __file__])
def test_runs_go_although_what_they_stored_is_not_to_be_reached(
    instance: dg.DagsterInstance, exchange: str, caplog: pytest.LogCaptureFixture
) -> None:
    add(instance)
    assert len(purge_runs(instance, EVERYTHING, now=LATER, exchange=exchange).deleted) == 1
    assert "left where it is" in caplog.text


class Clock(datetime):
    @classmethod
    def now(cls, tz: Any = None) -> datetime:
        return LATER
