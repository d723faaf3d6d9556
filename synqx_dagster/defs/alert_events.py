"""What happened since the last look that an alert may be about, read from Dagster's storage.

Guarantee: each event is found once; what it says are names, counts, and messages of SynqX's own errors. The message
of an error from elsewhere may hold data: its kind is named, and the run's log has the rest.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

import dagster as dg
from dagster._core.storage.tags import AUTO_RETRY_RUN_ID_TAG, WILL_RETRY_TAG

from synqx_dagster import errors
from synqx_dagster.alerts.messages import AlertEvent, Trouble
from synqx_dagster.catalog.snapshot import CatalogSnapshot
from synqx_dagster.defs.ended_runs import RunCursor, take_ended_runs
from synqx_dagster.defs.jobs import ASSET_JOB
from synqx_dagster.defs.load_names import LoadNames
from synqx_dagster.defs.missed_ticks import TickMemory, take_missed
from synqx_dagster.defs.names import METADATA_PREFIX, REVISION_TAG
from synqx_dagster.defs.ticks import SCHEDULE_TAG
from synqx_dagster.model import dagster_name

#: What ended longer ago than this is not told any more.
_STALE = timedelta(days=1)

#: A failed run that Dagster means to run again is told when that has not happened after this time.
_RETRY_SECONDS = 600.0

_MAX_FAILING = 1000
_SHOWN_NAMES = 5


@dataclass
class AlertMemory:
    """What was seen, over restarts.

    Attributes:
        failing: Jobs (or sets of assets) whose last run failed, with the mappings that did.
        retrying: Failed runs that Dagster means to run again, and since when (a Unix time) that is waited for.
        looked_at: The last look.
        changes: The number of the last change of a connection or its log; None: of none, and none is told that was
            before.
    """

    runs: RunCursor
    ticks: TickMemory = field(default_factory=TickMemory)
    failing: dict[str, list[str]] = field(default_factory=dict)
    retrying: dict[str, float] = field(default_factory=dict)
    looked_at: float = 0.0
    changes: int | None = None

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return {
            "runs": self.runs.to_dict(),
            "ticks": self.ticks.to_dict(),
            "failing": self.failing,
            "retrying": self.retrying,
            "looked_at": self.looked_at,
            "changes": self.changes,
        }

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> AlertMemory:
        """Read what `to_dict` gave."""
        return cls(
            runs=RunCursor.from_dict(values["runs"]),
            ticks=TickMemory.from_dict(values["ticks"]),
            failing={str(key): list(names) for key, names in values["failing"].items()},
            retrying={str(run_id): float(since) for run_id, since in values["retrying"].items()},
            looked_at=float(values["looked_at"]),
            changes=values.get("changes"),
        )


def begin_memory(now: datetime, changes: int = 0) -> AlertMemory:
    """A memory that has seen everything up to now.

    Args:
        changes: The number of the last change of a connection or its log.
    """
    return AlertMemory(RunCursor.begin(now), looked_at=now.timestamp(), changes=changes)


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
        memory.retrying = {}
    names = LoadNames(snapshot)
    events = list(_not_retried(instance, names, memory, now))
    statuses = [dg.DagsterRunStatus.SUCCESS, dg.DagsterRunStatus.FAILURE]
    for record in take_ended_runs(instance, memory.runs, statuses, location=location):
        events.extend(_events_of_run(instance, names, memory, record, now))
    events.extend(
        take_missed(
            instance,
            snapshot,
            memory.ticks,
            now,
            last_look=memory.looked_at,
            oldest=(now - _STALE).timestamp(),
            location=location,
        )
    )
    memory.looked_at = now.timestamp()
    return events


# --- runs -----------------------------------------------------------------------------------------------------------

_READ = {
    dg.DagsterEventType.ASSET_MATERIALIZATION,
    dg.DagsterEventType.STEP_FAILURE,
}


def _events_of_run(
    instance: dg.DagsterInstance, names: LoadNames, memory: AlertMemory, record: dg.RunRecord, now: datetime
) -> Iterator[AlertEvent]:
    run = record.dagster_run
    subject = _subject_of(run)
    troubles, quarantine = _read_log(instance, names, run)
    if run.status == dg.DagsterRunStatus.FAILURE:
        if _will_be_retried(instance, run):
            memory.retrying[run.run_id] = now.timestamp()
        elif AUTO_RETRY_RUN_ID_TAG not in run.tags:
            yield _failure_of(instance, names, memory, record, troubles)
    elif subject in memory.failing:
        yield AlertEvent(
            f"recovery:{run.run_id}",
            "recovery",
            subject=subject,
            summary=f"{subject} works again",
            mappings=tuple(memory.failing.pop(subject)),
            **_facts_of(record, names.snapshot),
        )
    if quarantine:
        rows_total = sum(quarantine.values())
        yield AlertEvent(
            f"quarantine:{run.run_id}",
            "quarantine_threshold",
            subject=subject,
            summary=f"{subject} set {rows_total} {'row' if rows_total == 1 else 'rows'} aside",
            mappings=tuple(name for name in quarantine if name in names.snapshot.mappings),
            quarantine=quarantine,
            **_facts_of(record, names.snapshot),
        )


def _not_retried(
    instance: dg.DagsterInstance, names: LoadNames, memory: AlertMemory, now: datetime
) -> Iterator[AlertEvent]:
    """Failures that a retry was waited for in vain; a retry that there is tells of itself."""
    waiting = memory.retrying
    if not waiting:
        return
    memory.retrying = {}
    for record in instance.get_run_records(filters=dg.RunsFilter(run_ids=list(waiting)), ascending=True):
        run = record.dagster_run
        since = waiting[run.run_id]
        if AUTO_RETRY_RUN_ID_TAG in run.tags:
            continue
        if _will_be_retried(instance, run) and now.timestamp() - since < _RETRY_SECONDS:
            memory.retrying[run.run_id] = since
        else:
            yield _failure_of(instance, names, memory, record, _read_log(instance, names, run)[0])


def _will_be_retried(instance: dg.DagsterInstance, run: dg.DagsterRun) -> bool:
    """Whether Dagster means to run a failed run again, and has not; it says so a moment after the failure."""
    if AUTO_RETRY_RUN_ID_TAG in run.tags:
        return False
    decision = run.tags.get(WILL_RETRY_TAG)
    return instance.run_retries_enabled if decision is None else decision.lower() == "true"


def _failure_of(
    instance: dg.DagsterInstance,
    names: LoadNames,
    memory: AlertMemory,
    record: dg.RunRecord,
    troubles: list[tuple[Trouble, str | None]],
) -> AlertEvent:
    run = record.dagster_run
    subject = _subject_of(run)
    if troubles:
        mappings = tuple(dict.fromkeys(mapping for _, mapping in troubles if mapping is not None))
    else:
        mappings = _mappings_of(instance, run, names)
    memory.failing.pop(subject, None)
    memory.failing[subject] = list(mappings)
    while len(memory.failing) > _MAX_FAILING:
        del memory.failing[next(iter(memory.failing))]
    failed = [trouble.name for trouble, _ in troubles]
    return AlertEvent(
        f"run_failure:{run.run_id}",
        "run_failure",
        subject=subject,
        summary=f"{subject} failed" + (f" in {', '.join(failed[:_SHOWN_NAMES])}" if failed else ""),
        mappings=mappings,
        troubles=tuple(trouble for trouble, _ in troubles)
        or (Trouble(subject, "the run ended outside of its steps; see its log"),),
        **_facts_of(record, names.snapshot),
    )


def _figure(metadata: Mapping[str, dg.MetadataValue[Any]], name: str) -> int:
    entry = metadata.get(f"{METADATA_PREFIX}{name}")
    return entry.value if entry is not None and isinstance(entry.value, int) else 0


def _read_log(
    instance: dg.DagsterInstance, names: LoadNames, run: dg.DagsterRun
) -> tuple[list[tuple[Trouble, str | None]], dict[str, int]]:
    """What went wrong in a run, each with its mapping if it is one's; and newly bad rows, by mapping."""
    troubles: list[tuple[Trouble, str | None]] = []
    quarantine: dict[str, int] = {}
    for entry in instance.all_logs(run.run_id, of_type=_READ):
        event = entry.dagster_event
        if event is None:
            continue
        if event.event_type == dg.DagsterEventType.STEP_FAILURE:
            troubles.append(_trouble_of(event, names))
        else:
            metadata = event.step_materialization_data.materialization.metadata
            name = metadata.get(f"{METADATA_PREFIX}mapping")
            # Rows that an earlier load had set aside were told then.
            rows = _figure(metadata, "rows_quarantined") - _figure(metadata, "rows_quarantined_before")
            if name is not None and rows > 0:
                quarantine[str(name.value)] = rows
    return troubles, quarantine


def _trouble_of(event: dg.DagsterEvent, names: LoadNames) -> tuple[Trouble, str | None]:
    """What went wrong in a step, and its mapping: a step of a pipeline has none, nor has one that is not known."""
    step = event.step_key or ""
    failure = event.step_failure_data.user_failure_data
    told = failure.metadata.get(f"{METADATA_PREFIX}mapping") if failure is not None else None
    where = str(told.value) if told is not None else names.by_step.get(step, step)
    mapping = where if where in names.snapshot.mappings else None
    if failure is not None:
        error = failure.metadata.get(f"{METADATA_PREFIX}error")
        if error is not None and _is_ours(str(error.value)):
            message = failure.description or failure.label or "the step failed"
            return Trouble(where, message, str(error.value)), mapping
        return Trouble(where, "the step failed; see the run's log"), mapping
    error_info = event.step_failure_data.error
    while error_info is not None and error_info.cause is not None:
        error_info = error_info.cause
    kind = error_info.cls_name if error_info is not None else None
    return Trouble(where, f"{kind or 'an error'} that SynqX did not expect; see the run's log"), mapping


def _is_ours(name: str) -> bool:
    found = getattr(errors, name, None)
    return isinstance(found, type) and issubclass(found, errors.SynqxError)


# --- what a run is about --------------------------------------------------------------------------------------------


def _facts_of(record: dg.RunRecord, snapshot: CatalogSnapshot) -> dict[str, Any]:
    """What every event of a run says."""
    run = record.dagster_run
    ended = record.end_time or record.update_timestamp.timestamp()
    return {
        "occurred_at": datetime.fromtimestamp(ended, UTC).isoformat(),
        "run_id": run.run_id,
        "job_name": run.job_name,
        "revision": _revision_of(run),
        "pipelines": _pipelines_of(run, snapshot),
        "schedules": _schedules_of(run, snapshot),
    }


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
    tagged = run.tags.get(SCHEDULE_TAG)
    return tuple(
        name for name in snapshot.schedules if name == tagged or (not tagged and dagster_name(name) == run.job_name)
    )


def _mappings_of(instance: dg.DagsterInstance, run: dg.DagsterRun, names: LoadNames) -> tuple[str, ...]:
    """What a run that failed as a whole was to load: the assets that were selected, or all that its job is of."""
    if run.asset_selection:
        return tuple(sorted(names.by_key[key] for key in run.asset_selection if key in names.by_key))
    snapshot = names.snapshot
    found: list[str] = []
    for schedule in _schedules_of(run, snapshot):
        found.extend(snapshot.schedules[schedule].mapping_names)
    for pipeline in _pipelines_of(run, snapshot):
        found.extend(snapshot.pipelines[pipeline].mapping_names)
    for sensor in snapshot.sensors.values():
        if dagster_name(sensor.name) == run.job_name:
            found.extend(sensor.mapping_names)
    if not found and run.execution_plan_snapshot_id is not None:
        # A run of several records at once has no record's name.
        steps = instance.get_execution_plan_snapshot(run.execution_plan_snapshot_id).step_keys_to_execute
        found = [names.by_step[step] for step in steps if step in names.by_step]
    return tuple(dict.fromkeys(found))
