"""Ticks that did not come: told once, and never what was paused, off, or not yet a rule."""

from __future__ import annotations

from datetime import UTC, datetime

import dagster as dg
import pytest
from dagster._core.definitions.run_request import InstigatorType
from dagster._core.remote_origin import (
    ManagedGrpcPythonEnvCodeLocationOrigin,
    RemoteJobOrigin,
    RemoteRepositoryOrigin,
)
from dagster._core.scheduler.instigation import (
    InstigatorState,
    TickData,
    TickStatus,
)
from dagster._core.types.loadable_target_origin import LoadableTargetOrigin

from synqx_dagster.catalog.apply import apply_changes, plan_changes
from synqx_dagster.defs.ticks import PAUSED
from synqx_dagster_tests.integration.alerts.desk import Desk, state_of
from synqx_dagster_tests.unit.catalog.records import definitions


def make_tick(
    instance: dg.DagsterInstance,
    state: InstigatorState,
    due: datetime,
    status: TickStatus,
    reason: str = "the vault is sealed",
) -> None:
    instance.create_tick(
        TickData(
            instigator_origin_id=state.instigator_origin_id,
            instigator_name="hourly",
            instigator_type=InstigatorType.SCHEDULE,
            status=status,
            timestamp=due.timestamp(),
            selector_id=state.selector_id,
            run_ids=["run"] if status == TickStatus.SUCCESS else None,
            skip_reason=reason if status == TickStatus.SKIPPED else None,
        )
    )


def test_a_tick_that_nobody_was_there_for_is_told_once(desk):
    desk.declare(events=["missed_schedule"])
    desk.now = datetime(2026, 1, 1, 10, 30, tzinfo=UTC)
    state = state_of(desk.instance, desk.now)
    desk.look()
    desk.look(15)
    make_tick(desk.instance, state, datetime(2026, 1, 1, 11, tzinfo=UTC), TickStatus.SUCCESS)
    make_tick(desk.instance, state, datetime(2026, 1, 1, 12, tzinfo=UTC), TickStatus.SKIPPED)
    # Away for four hours: schedules first get the time to make up for what they missed.
    assert desk.look(4 * 3600) == ["nothing to tell"]
    make_tick(desk.instance, state, datetime(2026, 1, 1, 14, tzinfo=UTC), TickStatus.SUCCESS)
    desk.look(130)
    (message,) = desk.told()
    assert message["schedules"] == ["hourly"]
    assert message["due_at"] == ["2026-01-01T12:00:00+00:00", "2026-01-01T13:00:00+00:00"]
    assert message["troubles"] == [{"name": "hourly", "message": "the vault is sealed", "error": None}]
    assert desk.look(30) == ["nothing to tell"]


def test_a_disabled_schedule_misses_nothing(desk):
    desk.declare(events=["missed_schedule"])
    snapshot = desk.catalog.snapshot()
    off = snapshot.get_schedule("hourly").model_copy(update={"enabled": False})
    apply_changes(desk.catalog, plan_changes(desk.catalog, definitions(off)), author="t", reason=None)
    state_of(desk.instance, datetime(2026, 1, 1, 1, tzinfo=UTC))
    desk.now = datetime(2026, 1, 1, 10, 30, tzinfo=UTC)
    desk.look()
    for _ in range(6):
        assert desk.look(1800) == ["nothing to tell"]


def follow(desk: Desk, hours: float) -> None:
    """Look as often as the sensor does, or nearly, for some hours of the desk's clock."""
    for _ in range(round(hours * 30)):
        desk.look(120)


@pytest.mark.parametrize("has_run", [True, False])
def test_a_tick_in_which_the_daemon_died_was_missed_unless_its_run_is_there(desk, has_run):
    desk.declare(events=["missed_schedule"])
    desk.now = datetime(2026, 1, 1, 10, 30, tzinfo=UTC)
    state = state_of(desk.instance, desk.now)
    desk.look()
    due = datetime(2026, 1, 1, 11, tzinfo=UTC)
    make_tick(desk.instance, state, due, TickStatus.STARTED)
    if has_run:
        tags = {"synqx/schedule": "hourly", "synqx/scheduled_at": due.isoformat()}
        desk.instance.add_run(dg.DagsterRun(job_name="hourly", status=dg.DagsterRunStatus.STARTED, tags=tags))
    follow(desk, 1)
    told = desk.told()
    assert bool(told) is not has_run
    assert all(message["troubles"][0]["message"] == "the tick did not come to an end" for message in told)


@pytest.mark.parametrize(("location", "is_told"), [("somebody-elses", True), ("synqx", False)])
def test_a_run_of_another_code_location_makes_up_for_nothing(desk, location, is_told):
    desk.declare(events=["missed_schedule"])
    desk.now = datetime(2026, 1, 1, 10, 30, tzinfo=UTC)
    desk.location = "synqx"
    state = state_of(desk.instance, desk.now)
    desk.look()
    due = datetime(2026, 1, 1, 11, tzinfo=UTC)
    make_tick(desk.instance, state, due, TickStatus.STARTED)
    place = ManagedGrpcPythonEnvCodeLocationOrigin(LoadableTargetOrigin(module_name="m"), location)
    desk.instance.add_run(
        dg.DagsterRun(
            job_name="hourly",
            status=dg.DagsterRunStatus.STARTED,
            tags={"synqx/schedule": "hourly", "synqx/scheduled_at": due.isoformat()},
            remote_job_origin=RemoteJobOrigin(RemoteRepositoryOrigin(place, "__repository__"), "hourly"),
        )
    )
    follow(desk, 1)
    assert bool(desk.told()) is is_told


def test_a_pause_that_was_ended_before_its_tick_was_judged_is_no_miss(desk):
    desk.declare(events=["missed_schedule"])
    desk.now = datetime(2026, 1, 1, 10, 30, tzinfo=UTC)
    state = state_of(desk.instance, desk.now)
    desk.look()
    reason = f"{PAUSED} until 2026-01-01T15:00:00Z"
    make_tick(desk.instance, state, datetime(2026, 1, 1, 11, tzinfo=UTC), TickStatus.SKIPPED, reason)
    follow(desk, 1)
    assert desk.told() == []


@pytest.mark.parametrize("change", [{"cron_expression": "30 * * * *"}, {"timezone": "Asia/Kolkata"}])
def test_a_new_rule_has_missed_nothing_before_it_was_one(desk, change):
    desk.declare(events=["missed_schedule"])
    desk.now = datetime(2026, 1, 1, 10, 25, tzinfo=UTC)
    state_of(desk.instance, desk.now)
    follow(desk, 0.1)
    # Six minutes later: by the new rule it was due a minute ago.
    edited = desk.catalog.snapshot().get_schedule("hourly").model_copy(update=change)
    apply_changes(desk.catalog, plan_changes(desk.catalog, definitions(edited)), author="t", reason=None)
    follow(desk, 0.3)
    assert desk.told() == []


def test_what_was_due_while_nobody_asked_for_alerts_is_no_news(desk):
    desk.declare(events=["missed_schedule"])
    desk.now = datetime(2026, 1, 1, 10, 30, tzinfo=UTC)
    state_of(desk.instance, desk.now)
    desk.look()
    desk.look(15)
    desk.look(30 * 86_400)
    desk.look(130)
    (message,) = desk.told()
    assert message["due_at"][0] == "2026-01-30T11:00:00+00:00"
