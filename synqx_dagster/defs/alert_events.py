"""What happened since the last look that an alert may be about, read from Dagster's storage.

Guarantee: each event is found once; what it says are names, counts, and messages of SynqX's own errors. The message
of an error from elsewhere may hold data: its kind is named, and the run's log has the rest.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

import dagster as dg
from dagster._core.definitions.run_request import InstigatorType
from dagster._core.scheduler.instigation import TickStatus
from dagster._core.storage.tags import WILL_RETRY_TAG

from synqx_dagster import errors
from synqx_dagster.alerts.messages import AlertEvent, Trouble
from synqx_dagster.catalog.snapshot import CatalogSnapshot
from synqx_dagster.defs.ended_runs import RunCursor, take_ended_runs
from synqx_dagster.defs.jobs import ASSET_JOB
from synqx_dagster.defs.names import METADATA_PREFIX, REVISION_TAG
from synqx_dagster.defs.sensors import SENSOR_NAME
from synqx_dagster.defs.switches import find_states
from synqx_dagster.defs.ticks import TICK_TAG, iter_due, read_ticks
from synqx_dagster.model import Schedule, dagster_name

_SCHEDULE_TAG = f"{METADATA_PREFIX}schedule"

#: After a pause of this instance, schedules first get the time to make up for what they missed.
_AWAY_SECONDS = 300.0
_SETTLE_SECONDS = 120.0

#: What ended longer ago than this is not told any more.
_STALE = timedelta(days=1)

_MAX_FAILING = 1000
_MAX_TICKS = 100
_SHOWN_TIMES = 5


@dataclass
class AlertMemory:
    """What was seen, over restarts.

    Attributes:
        failing: Jobs (or sets of assets) whose last run failed, with the mappings that did.
        checked: By schedule: until when (a Unix time) its ticks were looked at.
        looked_at: The last look.
        settle_until: Ticks are not judged before.
    """

    runs: RunCursor
    failing: dict[str, list[str]] = field(default_factory=dict)
    checked: dict[str, float] = field(default_factory=dict)
    looked_at: float = 0.0
    settle_until: float = 0.0

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return {
            "runs": self.runs.to_dict(),
            "failing": self.failing,
            "checked": self.checked,
            "looked_at": self.looked_at,
            "settle_until": self.settle_until,
        }

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> AlertMemory:
        """Read what `to_dict` gave."""
        return cls(
            runs=RunCursor.from_dict(values["runs"]),
            failing={str(key): list(names) for key, names in values["failing"].items()},
            checked={str(key): float(moment) for key, moment in values["checked"].items()},
            looked_at=float(values["looked_at"]),
            settle_until=float(values["settle_until"]),
        )


def take_events(
    instance: dg.DagsterInstance,
    snapshot: CatalogSnapshot,
    memory: AlertMemory,
    now: datetime,
    location: str | None = None,
) -> list[AlertEvent]:
    """Events since `memory` was moved; moves it.

    Args:
        location: The code location of this catalog: runs of others on the same instance are nobody's business here.
    """
    if now - _STALE > datetime.fromtimestamp(memory.looked_at, UTC):
        # For a day nobody looked (there may have been no alert): what is older is no news.
        memory.runs = RunCursor.begin(now - _STALE)
    ended = take_ended_runs(instance, memory.runs, [dg.DagsterRunStatus.SUCCESS, dg.DagsterRunStatus.FAILURE])
    events: list[AlertEvent] = []
    for record in ended:
        if not _belongs(record.dagster_run, location):
            continue
        events.extend(_events_of_run(instance, snapshot, memory, record))
    events.extend(_missed_ticks(instance, snapshot, memory, now))
    memory.looked_at = now.timestamp()
    return events


# --- runs -----------------------------------------------------------------------------------------------------------

_READ = {
    dg.DagsterEventType.ASSET_MATERIALIZATION,
    dg.DagsterEventType.STEP_FAILURE,
}


def _events_of_run(
    instance: dg.DagsterInstance, snapshot: CatalogSnapshot, memory: AlertMemory, record: dg.RunRecord
) -> Iterable[AlertEvent]:
    run = record.dagster_run
    subject = _subject_of(run)
    quarantine: dict[str, int] = {}
    troubles: list[Trouble] = []
    for entry in instance.all_logs(run.run_id, of_type=_READ):
        event = entry.dagster_event
        if event is None:
            continue
        if event.event_type == dg.DagsterEventType.STEP_FAILURE:
            troubles.append(_trouble_of(event))
        else:
            metadata = event.step_materialization_data.materialization.metadata
            rows = metadata.get(f"{METADATA_PREFIX}rows_quarantined")
            name = metadata.get(f"{METADATA_PREFIX}mapping")
            number = rows.value if rows is not None else 0
            if name is not None and isinstance(number, int) and number > 0:
                quarantine[str(name.value)] = number
    common: dict[str, Any] = {
        "occurred_at": _moment(record.end_time or record.update_timestamp.timestamp()),
        "run_id": run.run_id,
        "job_name": run.job_name,
        "revision": _revision_of(run),
        "pipelines": _pipelines_of(run, snapshot),
        "schedules": _schedules_of(run, snapshot),
    }
    if run.status == dg.DagsterRunStatus.FAILURE:
        if run.tags.get(WILL_RETRY_TAG, "").lower() != "true":
            mappings = tuple(trouble.name for trouble in troubles) or _mappings_of(run, snapshot)
            memory.failing[subject] = list(mappings)
            while len(memory.failing) > _MAX_FAILING:
                del memory.failing[next(iter(memory.failing))]
            yield AlertEvent(
                f"run_failure:{run.run_id}",
                "run_failure",
                subject=subject,
                summary=f"{subject} failed" + (f" in {', '.join(mappings[:_SHOWN_TIMES])}" if troubles else ""),
                mappings=mappings,
                troubles=tuple(troubles) or (Trouble(subject, "the run ended outside of its steps; see its log"),),
                **common,
            )
    elif subject in memory.failing:
        mappings = tuple(memory.failing.pop(subject))
        yield AlertEvent(
            f"recovery:{run.run_id}",
            "recovery",
            subject=subject,
            summary=f"{subject} works again",
            mappings=mappings,
            **common,
        )
    if quarantine:
        rows_total = sum(quarantine.values())
        yield AlertEvent(
            f"quarantine:{run.run_id}",
            "quarantine_threshold",
            subject=subject,
            summary=f"{subject} set {rows_total} {'row' if rows_total == 1 else 'rows'} aside",
            mappings=tuple(quarantine),
            quarantine=quarantine,
            **common,
        )


def _belongs(run: dg.DagsterRun, location: str | None) -> bool:
    origin = run.remote_job_origin
    if location is None or origin is None or REVISION_TAG in run.tags:
        return True
    return origin.repository_origin.code_location_origin.location_name == location


def _subject_of(run: dg.DagsterRun) -> str:
    if run.job_name != ASSET_JOB:
        return run.job_name
    return ", ".join(sorted(key.to_user_string() for key in run.asset_selection or ())) or run.job_name


def _revision_of(run: dg.DagsterRun) -> int | None:
    text = run.tags.get(REVISION_TAG, "")
    return int(text) if text.isdigit() else None


def _pipelines_of(run: dg.DagsterRun, snapshot: CatalogSnapshot) -> tuple[str, ...]:
    names = [name for name in snapshot.pipelines if dagster_name(name) == run.job_name]
    for name in _schedules_of(run, snapshot):
        names.extend(snapshot.schedules[name].pipeline_names)
    return tuple(dict.fromkeys(names))


def _schedules_of(run: dg.DagsterRun, snapshot: CatalogSnapshot) -> tuple[str, ...]:
    tagged = run.tags.get(_SCHEDULE_TAG)
    return tuple(
        name for name in snapshot.schedules if name == tagged or (not tagged and dagster_name(name) == run.job_name)
    )


def _mappings_of(run: dg.DagsterRun, snapshot: CatalogSnapshot) -> tuple[str, ...]:
    """What a run that failed as a whole was to load, as far as its name tells."""
    names: list[str] = []
    for schedule in _schedules_of(run, snapshot):
        names.extend(snapshot.schedules[schedule].mapping_names)
    for pipeline in _pipelines_of(run, snapshot):
        names.extend(snapshot.pipelines[pipeline].mapping_names)
    for sensor in snapshot.sensors.values():
        if dagster_name(sensor.name) == run.job_name:
            names.extend(sensor.mapping_names)
    return tuple(dict.fromkeys(names))


def _trouble_of(event: dg.DagsterEvent) -> Trouble:
    step = event.step_key or ""
    failure = event.step_failure_data.user_failure_data
    if failure is not None:
        name = failure.metadata.get(f"{METADATA_PREFIX}mapping")
        error = failure.metadata.get(f"{METADATA_PREFIX}error")
        where = step if name is None else str(name.value)
        if error is not None and _is_ours(str(error.value)):
            return Trouble(where, failure.description or failure.label or "the step failed", str(error.value))
        return Trouble(where, "the step failed; see the run's log")
    error_info = event.step_failure_data.error
    while error_info is not None and error_info.cause is not None:
        error_info = error_info.cause
    kind = error_info.cls_name if error_info is not None else None
    return Trouble(step, f"{kind or 'an error'} that SynqX did not expect; see the run's log")


def _is_ours(name: str) -> bool:
    found = getattr(errors, name, None)
    return isinstance(found, type) and issubclass(found, errors.SynqxError)


# --- ticks ----------------------------------------------------------------------------------------------------------


def _missed_ticks(
    instance: dg.DagsterInstance, snapshot: CatalogSnapshot, memory: AlertMemory, now: datetime
) -> Iterable[AlertEvent]:
    """Schedules that were due and not run, one event for each and look."""
    if memory.looked_at and now.timestamp() - memory.looked_at > _AWAY_SECONDS:
        memory.settle_until = now.timestamp() + _SETTLE_SECONDS
    if now.timestamp() < memory.settle_until:
        return
    states = find_states(instance, marker=SENSOR_NAME)
    for schedule in snapshot.schedules.values():
        end = now.timestamp() - schedule.grace_seconds
        state = states.get((InstigatorType.SCHEDULE, dagster_name(schedule.name)))
        if not schedule.enabled or state is None:
            memory.checked[schedule.name] = now.timestamp()
            continue
        data: Any = state.instigator_data
        begin = max(memory.checked.get(schedule.name, end), data.start_timestamp or 0.0)
        due = [moment for moment in iter_due(schedule, begin, end) if not schedule.is_paused(moment)]
        memory.checked[schedule.name] = max(begin, end)
        if not due:
            continue
        ticks = {tick.timestamp: tick for tick in read_ticks(instance, state, limit=10 * _MAX_TICKS)}
        missed = []
        reasons = []
        for moment in due[-_MAX_TICKS:]:
            tick = ticks.get(moment.timestamp())
            if tick is not None and tick.status in (TickStatus.SUCCESS, TickStatus.STARTED):
                continue
            if schedule.catch_up == "all" and _was_made_up_for(instance, schedule, moment):
                continue
            missed.append(_moment(moment.timestamp()))
            if tick is not None:
                reasons.append(tick.skip_reason or "the tick failed; see the schedule's page")
        if missed:
            yield AlertEvent(
                f"missed_schedule:{schedule.name}:{missed[0]}",
                "missed_schedule",
                _moment(now.timestamp()),
                subject=schedule.name,
                summary=f"the schedule {schedule.name} did not run {len(missed)} "
                f"{'time' if len(missed) == 1 else 'times'} that it was due",
                pipelines=schedule.pipeline_names,
                mappings=schedule.mapping_names,
                schedules=(schedule.name,),
                troubles=tuple(Trouble(schedule.name, reason) for reason in dict.fromkeys(reasons)),
                due_at=tuple(missed[:_SHOWN_TIMES]),
            )
    for name in memory.checked.keys() - snapshot.schedules.keys():
        del memory.checked[name]


def _was_made_up_for(instance: dg.DagsterInstance, schedule: Schedule, moment: datetime) -> bool:
    tags = {_SCHEDULE_TAG: schedule.name, TICK_TAG: moment.astimezone(UTC).isoformat()}
    return bool(instance.get_run_records(filters=dg.RunsFilter(tags=tags), limit=1))


def _moment(timestamp: float) -> str:
    return datetime.fromtimestamp(timestamp, UTC).isoformat()


def begin_memory(now: datetime) -> AlertMemory:
    """A memory that has seen everything up to now."""
    return AlertMemory(RunCursor.begin(now), looked_at=now.timestamp())
