"""Schedules and the catalog's sensor, evaluated."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import dagster as dg
import pytest
from dagster._core.definitions.run_request import InstigatorType
from dagster._core.remote_origin import (
    ManagedGrpcPythonEnvCodeLocationOrigin,
    RemoteInstigatorOrigin,
    RemoteJobOrigin,
    RemoteRepositoryOrigin,
)
from dagster._core.scheduler.instigation import (
    InstigatorState,
    InstigatorStatus,
    ScheduleInstigatorData,
    TickData,
    TickStatus,
)
from dagster._core.types.loadable_target_origin import LoadableTargetOrigin
from dagster._utils.error import SerializableErrorInfo

from synqx_dagster import model
from synqx_dagster.defs import schedules, sensors
from synqx_dagster.defs.jobs import plan_schedule
from synqx_dagster.defs.schedules import build_schedule
from synqx_dagster.defs.sensors import build_catalog_sensor
from synqx_dagster.defs.ticks import find_next
from synqx_dagster.errors import ConfigurationError, NotInitialisedError
from synqx_dagster_tests.unit.defs.fakes import FakeCatalog, FakeVault, connection, job_origin, mapping, snapshot_of


def schedule_of(catalog: FakeCatalog, **fields: Any) -> dg.ScheduleDefinition:
    record = model.Schedule(name="nightly", **{"mapping": "orders", "cron_expression": "0 2 * * *", **fields})
    snapshot = catalog.snapshot()
    anything: Any = catalog
    return build_schedule(record, plan_schedule(record, snapshot), snapshot, lambda: anything)


def catalog_of(*, sealed_secret: bool, vault: FakeVault) -> FakeCatalog:
    records = [mapping("orders")]
    if sealed_secret:
        shop = connection("shop", password={"sealed": True, "version": 1})
        return FakeCatalog({1: snapshot_of(*records, shop)}, vault=vault)
    return FakeCatalog({1: snapshot_of(*records)}, vault=vault)


def tick(schedule: dg.ScheduleDefinition) -> Any:
    context = dg.build_schedule_context(scheduled_execution_time=datetime(2026, 1, 1, 2, tzinfo=UTC))
    return schedule.evaluate_tick(context)


@pytest.mark.parametrize("enabled", [True, False])
def test_a_schedule_has_its_cron_time_zone_and_state(enabled):
    schedule = schedule_of(
        catalog_of(sealed_secret=False, vault=FakeVault()), timezone="Europe/Berlin", enabled=enabled
    )
    assert schedule.cron_schedule == "0 2 * * *"
    assert schedule.execution_timezone == "Europe/Berlin"
    assert schedule.job_name == "nightly"
    assert schedule.default_status.value == ("RUNNING" if enabled else "STOPPED")


@pytest.mark.parametrize(
    ("sealed_secret", "vault", "runs"),
    [
        (True, FakeVault(opens=True), True),
        (True, FakeVault(opens=False), False),
        (False, FakeVault(opens=False), True),
        (True, FakeVault(opens=True, sealed_by_operator=True), False),
        (False, FakeVault(opens=True, sealed_by_operator=True), False),
        (False, FakeVault(is_initialised=False, opens=False), True),
    ],
)
def test_a_sealed_vault_skips_the_tick_and_says_why(sealed_secret, vault, runs):
    data = tick(schedule_of(catalog_of(sealed_secret=sealed_secret, vault=vault)))
    if runs:
        (request,) = data.run_requests
        assert request.tags["synqx/schedule"] == "nightly"
    else:
        assert not data.run_requests
        assert "sealed" in data.skip_message


def test_a_key_file_that_is_not_there_skips_the_tick_and_says_so():
    class Misplaced(FakeVault):
        def unseal_from_settings(self, settings: Any) -> None:
            raise ConfigurationError("the key file /etc/key cannot be read")

    data = tick(schedule_of(catalog_of(sealed_secret=True, vault=Misplaced())))
    assert not data.run_requests
    assert "the key file /etc/key cannot be read" in data.skip_message


def test_an_unsealed_vault_is_not_opened_again():
    catalog = catalog_of(sealed_secret=True, vault=FakeVault())
    schedule = schedule_of(catalog)
    tick(schedule)
    tick(schedule)
    assert catalog.vault.attempts == 1


# --- the sensor -------------------------------------------------------------------------------------------------


@pytest.fixture
def reloads(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    asked: list[str] = []
    monkeypatch.setattr(sensors, "request_own_reload", lambda: asked.append("reload"))
    return asked


def look(catalog: Any, revision: int | None, problems: tuple[str, ...] = ()) -> Any:
    sensor = build_catalog_sensor(revision, problems, lambda: catalog)
    assert sensor.default_status == dg.DefaultSensorStatus.RUNNING
    with dg.DagsterInstance.local_temp() as instance:
        return sensor.evaluate_tick(dg.build_sensor_context(instance=instance))


def test_a_catalog_that_stands_still_asks_for_nothing(reloads):
    data = look(FakeCatalog({4: snapshot_of(revision=4)}), 4, ("mapping bad could not be loaded: why",))
    assert "revision 4" in data.skip_message
    assert "mapping bad could not be loaded: why" in data.skip_message
    assert reloads == []


@pytest.mark.parametrize("loaded", [3, None])
def test_a_catalog_that_moved_asks_for_a_reload(loaded, reloads, monkeypatch):
    monkeypatch.setattr(sensors, "find_own_server", lambda: object())
    data = look(FakeCatalog({4: snapshot_of(revision=4)}), loaded)
    assert "to 4" in data.skip_message
    assert reloads == ["reload"]
    assert data.cursor is None


def test_a_server_that_cannot_reload_says_so(reloads):
    data = look(FakeCatalog({4: snapshot_of(revision=4)}), 3)
    assert "cannot reload" in data.skip_message
    assert reloads == []


def test_without_a_catalog_it_waits(reloads):
    class NoCatalog:
        def latest_revision(self) -> int:
            raise NotInitialisedError

    assert "synqx init" in look(NoCatalog(), None).skip_message
    assert reloads == []


# --- late and paused --------------------------------------------------------------------------------------------


def late_tick(schedule: dg.ScheduleDefinition, due: datetime) -> Any:
    return schedule.evaluate_tick(dg.build_schedule_context(scheduled_execution_time=due))


def test_a_late_tick_runs_unless_nothing_is_to_be_made_up_for():
    catalog = catalog_of(sealed_secret=False, vault=FakeVault())
    due = datetime.now(UTC) - timedelta(seconds=400)
    assert late_tick(schedule_of(catalog), due).run_requests
    data = late_tick(schedule_of(catalog, catch_up="none"), due)
    assert not data.run_requests
    assert "catch_up is none" in data.skip_message
    assert late_tick(schedule_of(catalog, catch_up="none", grace_seconds=900), due).run_requests


def test_a_paused_schedule_skips_its_ticks_and_says_until_when():
    schedule = schedule_of(catalog_of(sealed_secret=False, vault=FakeVault()), paused_until="2026-01-01T02:00:01Z")
    assert "paused until 2026-01-01T02:00:01Z" in tick(schedule).skip_message
    assert late_tick(schedule, datetime(2026, 1, 1, 2, 1, tzinfo=UTC)).run_requests


def repository_of(location: str) -> RemoteRepositoryOrigin:
    place = ManagedGrpcPythonEnvCodeLocationOrigin(
        LoadableTargetOrigin(module_name="synqx_dagster.definitions"), location
    )
    return RemoteRepositoryOrigin(place, "__repository__")


def scheduler_state(name: str, since: datetime, location: str = "synqx") -> InstigatorState:
    """What Dagster stores of a schedule that its daemon runs."""
    origin = RemoteInstigatorOrigin(repository_of(location), name)
    data = ScheduleInstigatorData("0 * * * *", since.timestamp())
    return InstigatorState(origin, InstigatorType.SCHEDULE, InstigatorStatus.DECLARED_IN_CODE, data)


@pytest.mark.parametrize(
    ("limit", "hours"), [(10, [8, 9, 10, 11, 12]), (3, [10, 11, 12]), (1, [12])], ids=["all", "bound", "last only"]
)
def test_each_missed_tick_is_made_up_for_within_the_bound(limit, hours):
    catalog = catalog_of(sealed_secret=False, vault=FakeVault())
    schedule = schedule_of(catalog, cron_expression="0 * * * *", catch_up="all", catch_up_limit=limit)
    with dg.DagsterInstance.local_temp() as instance:
        state = instance.add_instigator_state(scheduler_state("nightly", datetime(2026, 1, 1, 5, 30, tzinfo=UTC)))
        for hour, status in ((6, TickStatus.SUCCESS), (7, TickStatus.SKIPPED), (8, TickStatus.FAILURE)):
            made = datetime(2026, 1, 1, hour, tzinfo=UTC).timestamp()
            instance.create_tick(
                TickData(
                    instigator_origin_id=state.instigator_origin_id,
                    instigator_name="nightly",
                    instigator_type=InstigatorType.SCHEDULE,
                    status=status,
                    timestamp=made,
                    selector_id=state.selector_id,
                    run_ids=["run"] if status == TickStatus.SUCCESS else None,
                    skip_reason="sealed" if status == TickStatus.SKIPPED else None,
                    error=SerializableErrorInfo("why", [], None) if status == TickStatus.FAILURE else None,
                )
            )
        due = datetime(2026, 1, 1, 12, tzinfo=UTC)
        data = schedule.evaluate_tick(dg.build_schedule_context(instance, due))
    times = [datetime.fromisoformat(request.tags["synqx/scheduled_at"]).hour for request in data.run_requests]
    assert times == hours
    assert len({request.run_key for request in data.run_requests}) == len(hours)


@pytest.mark.parametrize(
    ("status", "hours"),
    [
        ("QUEUED", [12]),
        ("FAILURE", [12]),
        # Created, and never handed over.
        ("NOT_STARTED", [11, 12]),
    ],
)
def test_a_tick_whose_run_a_killed_daemon_had_launched_is_not_made_up_for(status, hours):
    catalog = catalog_of(sealed_secret=False, vault=FakeVault())
    schedule = schedule_of(catalog, cron_expression="0 * * * *", catch_up="all")
    with dg.DagsterInstance.local_temp() as instance:
        state = instance.add_instigator_state(scheduler_state("nightly", datetime(2026, 1, 1, 10, 30, tzinfo=UTC)))
        struck = datetime(2026, 1, 1, 11, tzinfo=UTC)
        instance.create_tick(
            TickData(
                instigator_origin_id=state.instigator_origin_id,
                instigator_name="nightly",
                instigator_type=InstigatorType.SCHEDULE,
                status=TickStatus.STARTED,
                timestamp=struck.timestamp(),
                selector_id=state.selector_id,
            )
        )
        tags = {"synqx/schedule": "nightly", "synqx/scheduled_at": struck.isoformat()}
        instance.add_run(
            dg.DagsterRun(
                job_name="nightly",
                status=dg.DagsterRunStatus[status],
                tags=tags,
                remote_job_origin=job_origin("nightly"),
            )
        )
        data = schedule.evaluate_tick(dg.build_schedule_context(instance, datetime(2026, 1, 1, 12, tzinfo=UTC)))
    times = [datetime.fromisoformat(request.tags["synqx/scheduled_at"]).hour for request in data.run_requests]
    assert times == hours


def test_ticks_and_runs_of_another_code_locations_schedule_are_nobodys_business():
    """Two locations over two catalogs, each with its own ``nightly``: one ran at eleven, the other has to make up."""
    catalog = catalog_of(sealed_secret=False, vault=FakeVault())
    schedule = schedule_of(catalog, cron_expression="0 * * * *", catch_up="all")
    eleven, due = (datetime(2026, 1, 1, hour, tzinfo=UTC) for hour in (11, 12))
    with dg.DagsterInstance.local_temp() as instance:
        ids = {}
        for location in ("late", "on-time"):
            since = datetime(2026, 1, 1, 10, 30, tzinfo=UTC)
            state = instance.add_instigator_state(scheduler_state("nightly", since, location))
            values = {
                "instigator_origin_id": state.instigator_origin_id,
                "instigator_name": "nightly",
                "instigator_type": InstigatorType.SCHEDULE,
                "selector_id": state.selector_id,
            }
            if location == "on-time":
                done = TickData(status=TickStatus.SUCCESS, timestamp=eleven.timestamp(), run_ids=["run"], **values)
                instance.create_tick(done)
                tags = {"synqx/schedule": "nightly", "synqx/scheduled_at": eleven.isoformat()}
                origin = RemoteJobOrigin(repository_of(location), "nightly")
                run = dg.DagsterRun(
                    job_name="nightly", status=dg.DagsterRunStatus.STARTED, tags=tags, remote_job_origin=origin
                )
                instance.add_run(run)
            tick = instance.create_tick(TickData(status=TickStatus.STARTED, timestamp=due.timestamp(), **values))
            ids[location] = str(tick.tick_id)

        def made_up_for(location: str) -> list[str]:
            log_key = ["__repository__", "nightly", ids[location]]
            context = dg.ScheduleEvaluationContext(instance.get_ref(), due, log_key, "__repository__", "nightly")
            with context:
                data = schedule.evaluate_tick(context)
            return [request.tags["synqx/scheduled_at"][11:13] for request in data.run_requests or ()]

        assert made_up_for("late") == ["11", "12"]
        assert made_up_for("on-time") == ["12"]


def test_what_a_schedule_was_not_enabled_for_it_has_not_missed():
    catalog = catalog_of(sealed_secret=False, vault=FakeVault())
    schedule = schedule_of(catalog, cron_expression="0 * * * *", catch_up="all")
    due = datetime(2026, 1, 1, 12, tzinfo=UTC)
    with dg.DagsterInstance.local_temp() as instance:
        instance.add_instigator_state(scheduler_state("nightly", datetime(2026, 1, 1, 10, 30, tzinfo=UTC)))
        data = schedule.evaluate_tick(dg.build_schedule_context(instance, due))
    assert [request.tags["synqx/scheduled_at"][11:13] for request in data.run_requests] == ["11", "12"]


@pytest.mark.parametrize(
    ("fields", "now", "expected"),
    [
        ({}, "2026-03-28T12:00:00+00:00", "2026-03-29T00:30:00+00:00"),
        # The night in which Berlin's clocks go from two to three.
        ({"cron_expression": "30 2 * * *"}, "2026-03-29T03:30:00+00:00", "2026-03-30T00:30:00+00:00"),
        ({"paused_until": "2026-04-05T00:00:00Z"}, "2026-03-28T12:00:00+00:00", "2026-04-05T00:30:00+00:00"),
        ({"enabled": False}, "2026-03-28T12:00:00+00:00", None),
    ],
)
def test_the_next_run_is_known_in_the_schedules_own_time_zone(fields, now, expected):
    defaults = {"mapping": "orders", "cron_expression": "30 1,2 * * *", "timezone": "Europe/Berlin"}
    record = model.Schedule(name="nightly", **{**defaults, **fields})
    found = find_next(record, datetime.fromisoformat(now))
    if expected is None:
        assert found is None
    else:
        assert found == datetime.fromisoformat(expected)


# --- partitions -------------------------------------------------------------------------------------------------


def partitioned(start: str) -> FakeCatalog:
    record = mapping("orders", partitions={"type": "daily", "start": start}, partition_column="day")
    return FakeCatalog({1: snapshot_of(record)}, vault=FakeVault())


def test_a_tick_asks_for_the_last_partition_that_had_ended():
    data = tick(schedule_of(partitioned("2025-12-01")))
    assert [request.tags["dagster/partition"] for request in data.run_requests] == ["2025-12-31"]


def test_a_tick_before_the_first_partition_has_ended_is_skipped():
    data = tick(schedule_of(partitioned("2026-01-01")))
    assert not data.run_requests
    assert "no partition has ended yet" in data.skip_message


def test_ticks_that_are_made_up_for_have_each_their_own_partition(monkeypatch):
    days = [datetime(2025, 12, day, 2, tzinfo=UTC) for day in (29, 30, 31)]
    monkeypatch.setattr(schedules, "find_missed", lambda *_: days)
    data = tick(schedule_of(partitioned("2025-12-29"), catch_up="all"))
    # Of the first tick no partition had ended.
    assert [one.tags["dagster/partition"] for one in data.run_requests] == ["2025-12-29", "2025-12-30", "2025-12-31"]
