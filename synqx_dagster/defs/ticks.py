"""When a schedule was and will be due, and what Dagster's storage says of it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import dagster as dg
from dagster._core.definitions.run_request import InstigatorType
from dagster._core.scheduler.instigation import InstigatorState, InstigatorTick, TickStatus
from dagster._core.storage.tags import SCHEDULE_NAME_TAG, SENSOR_NAME_TAG
from dagster._utils.schedules import cron_string_iterator

from synqx_dagster.defs.ended_runs import belongs_to
from synqx_dagster.defs.names import METADATA_PREFIX
from synqx_dagster.defs.sensors import SENSOR_NAME
from synqx_dagster.defs.switches import find_states
from synqx_dagster.model import Replication, Schedule, Sensor, dagster_name
from synqx_dagster.model.schedule import parse_moment

#: The schedule that asked for a run.
SCHEDULE_TAG = f"{METADATA_PREFIX}schedule"
#: The tick that a run belongs to, in a schedule that makes up for missed ticks one by one.
TICK_TAG = f"{METADATA_PREFIX}scheduled_at"

#: How a tick's reason begins that was skipped by a pause.
PAUSED = "the schedule is paused"

#: A run that was created and never handed over is none: a daemon that dies in between leaves one.
_LAUNCHED = [status for status in dg.DagsterRunStatus if status != dg.DagsterRunStatus.NOT_STARTED]


def iter_due(schedule: Schedule, after: float, until: float) -> Iterator[datetime]:
    """Times at which a schedule is due, after one timestamp and up to another, in order."""
    for moment in cron_string_iterator(after, schedule.cron_expression, schedule.timezone):
        if moment.timestamp() > until:
            return
        if moment.timestamp() > after:
            yield moment


def find_next(schedule: Schedule, now: datetime) -> datetime | None:
    """When a schedule will run next, in UTC; None when it is disabled."""
    if not schedule.enabled:
        return None
    start = now
    if schedule.is_paused(now) and schedule.paused_until is not None:
        start = parse_moment(schedule.paused_until)
    moment = next(cron_string_iterator(start.timestamp(), schedule.cron_expression, schedule.timezone))
    return moment.astimezone(UTC)


def read_ticks(
    instance: dg.DagsterInstance,
    state: InstigatorState,
    *,
    before: float | None = None,
    after: float | None = None,
    limit: int | None = None,
) -> list[InstigatorTick]:
    """Ticks of a schedule or sensor, the newest first."""
    return list(
        instance.get_ticks(state.instigator_origin_id, state.selector_id, before=before, after=after, limit=limit)
    )


def tick_tags(schedule: Schedule, moment: datetime) -> dict[str, str]:
    """The tags of the run of one tick."""
    return {SCHEDULE_TAG: schedule.name, TICK_TAG: moment.astimezone(UTC).isoformat()}


def has_run(instance: dg.DagsterInstance, schedule: Schedule, moment: datetime, location: str | None) -> bool:
    """Whether a run of a tick was launched, whatever became of the tick and of the run.

    Args:
        location: The code location of the schedule: another one may have a schedule of this name.
    """
    filters = dg.RunsFilter(tags=tick_tags(schedule, moment), statuses=_LAUNCHED)
    return any(belongs_to(run, location) for run in instance.get_runs(filters))


def find_missed(context: dg.ScheduleEvaluationContext, schedule: Schedule, due: datetime) -> list[datetime]:
    """Times before `due` that have no run, since the last tick that ended; of the latest `catch_up_limit`, in order."""
    instance, state = context.instance, _state_of(context, schedule, due)
    if state is None:
        return []
    location = state.origin.repository_origin.code_location_origin.location_name
    made = [
        tick.timestamp
        for tick in read_ticks(instance, state, before=due.timestamp(), limit=20)
        if tick.status in (TickStatus.SUCCESS, TickStatus.SKIPPED) and tick.timestamp < due.timestamp()
    ]
    data: Any = state.instigator_data
    # What a schedule was not yet enabled for, it has not missed.
    begin = max([*made, data.start_timestamp or 0.0])
    if not begin:
        return []
    missed = [moment for moment in iter_due(schedule, begin, due.timestamp()) if moment.timestamp() < due.timestamp()]
    latest = missed[-(schedule.catch_up_limit - 1) :] if schedule.catch_up_limit > 1 else []
    # A daemon that dies within a tick leaves it unended, with its run on its way. Dagster knows runs by the tick that
    # asks for them, which is another one now.
    return [moment for moment in latest if not has_run(instance, schedule, moment, location)]


def _state_of(context: dg.ScheduleEvaluationContext, schedule: Schedule, due: datetime) -> InstigatorState | None:
    """What Dagster stores of the schedule that is evaluated; other code locations may have one of this name.

    The context does not say which location it is in. Its log is that of the tick, and a tick is of one.
    """
    instance, name = context.instance, dagster_name(schedule.name)
    tick_id = context.log_key[-1] if context.log_key else None
    for state in instance.all_instigator_state(instigator_type=InstigatorType.SCHEDULE):
        if state.instigator_name == name:
            tick = instance.get_tick(state.instigator_origin_id, state.selector_id, due.timestamp())
            if tick is not None and str(tick.tick_id) == tick_id:
                return state
    return find_states(instance, marker=SENSOR_NAME).get((InstigatorType.SCHEDULE, name))


# --- what users see ---------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class ScheduleReport:
    """A schedule and how it does. Times are UTC.

    Attributes:
        last_run_at: When its last run began, or was queued if it has not begun; None when it never ran.
        next_run_at: When it is due next; None when it is disabled.
        last_tick_status: ``STARTED``, ``SKIPPED``, ``SUCCESS`` or ``FAILURE``; None when it was never due.
        last_tick_reason: Why the last tick was skipped or failed.
    """

    name: str
    last_run_at: datetime | None
    last_run_id: str | None
    last_run_status: str | None
    next_run_at: datetime | None
    last_tick_at: datetime | None = None
    last_tick_status: str | None = None
    last_tick_reason: str | None = None


def report_schedules(
    instance: dg.DagsterInstance, schedules: list[Schedule], now: datetime | None = None
) -> list[ScheduleReport]:
    """How schedules do, from Dagster's storage, in the given order."""
    now = now or datetime.now(UTC)
    states = find_states(instance, marker=SENSOR_NAME)
    reports = []
    for schedule in schedules:
        name = dagster_name(schedule.name)
        records = instance.get_run_records(filters=dg.RunsFilter(tags={SCHEDULE_NAME_TAG: name}), limit=1)
        run = records[0] if records else None
        state = states.get((InstigatorType.SCHEDULE, name))
        ticks = read_ticks(instance, state, limit=1) if state is not None else []
        tick = ticks[0] if ticks else None
        reports.append(
            ScheduleReport(
                name=schedule.name,
                last_run_at=_start_of(run) if run is not None else None,
                last_run_id=run.dagster_run.run_id if run is not None else None,
                last_run_status=run.dagster_run.status.value if run is not None else None,
                next_run_at=find_next(schedule, now),
                last_tick_at=datetime.fromtimestamp(tick.timestamp, UTC) if tick is not None else None,
                last_tick_status=tick.status.value if tick is not None else None,
                last_tick_reason=_reason_of(tick) if tick is not None else None,
            )
        )
    return reports


def report_sensors(instance: dg.DagsterInstance, sensors: Sequence[Sensor | Replication]) -> list[dict[str, Any]]:
    """How sensors, and those of replications, do, from Dagster's storage, as plain values in the given order."""
    states = find_states(instance, marker=SENSOR_NAME)
    reports = []
    for sensor in sensors:
        name = dagster_name(sensor.name)
        records = instance.get_run_records(filters=dg.RunsFilter(tags={SENSOR_NAME_TAG: name}), limit=1)
        state = states.get((InstigatorType.SENSOR, name))
        ticks = read_ticks(instance, state, limit=1) if state is not None else []
        tick = ticks[0] if ticks else None
        reports.append(
            {
                "last_run_at": _start_of(records[0]) if records else None,
                "last_run_id": records[0].dagster_run.run_id if records else None,
                "last_run_status": records[0].dagster_run.status.value if records else None,
                "last_tick_at": datetime.fromtimestamp(tick.timestamp, UTC) if tick is not None else None,
                "last_tick_status": tick.status.value if tick is not None else None,
                "last_tick_reason": _reason_of(tick) if tick is not None else None,
            }
        )
    return reports


def _start_of(record: dg.RunRecord) -> datetime:
    if record.start_time is not None:
        return datetime.fromtimestamp(record.start_time, UTC)
    return record.create_timestamp.astimezone(UTC)


def _reason_of(tick: InstigatorTick) -> str | None:
    if tick.status == TickStatus.FAILURE and tick.error is not None:
        return tick.error.message.strip()
    return tick.skip_reason


def is_daemon_running(instance: dg.DagsterInstance) -> bool:
    """Whether a daemon that starts schedules has been heard of lately."""
    from dagster._daemon.daemon import SchedulerDaemon

    status = instance.get_daemon_statuses([SchedulerDaemon.daemon_type()]).get(SchedulerDaemon.daemon_type())
    return bool(status is not None and status.healthy)
