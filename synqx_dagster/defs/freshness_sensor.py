"""The sensor that tells when tables have not been loaded for too long: as a check of their assets, and to alerts.

Guarantee: that a table has become overdue, and that it is not any more, is stored once each, whoever looks and however
often; and a check shows what was seen last, also after a run that was to load the table has failed. No run is started.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import dagster as dg
from dagster._core.storage.asset_check_execution_record import (
    AssetCheckExecutionRecord,
    AssetCheckExecutionRecordStatus,
)
from dagster._core.storage.dagster_run import FINISHED_STATUSES

from synqx_dagster.catalog.metrics import FRESHNESS_SUBJECT, Advance, MetricsHistory, MonitorEvent
from synqx_dagster.catalog.snapshot import CatalogSnapshot
from synqx_dagster.defs.freshness import FRESHNESS_CHECK, Watched, evaluation_of
from synqx_dagster.defs.names import op_name
from synqx_dagster.monitor.freshness import FreshnessRound, FreshnessState, Rota, judge_ages

if TYPE_CHECKING:
    from synqx_dagster.catalog.store import Catalog

FRESHNESS_SENSOR_NAME = "synqx_freshness"
INTERVAL_SECONDS = 60
#: Dagster's storage keeps evaluations for ever: a check that stays as it is is shown again after so long.
REPEAT_SECONDS = 3600.0
#: An asset that is fresh is looked at so often, for a run that failed leaves its check undecided.
_REST_SECONDS = 600.0
#: Assets of one look, which takes some seconds then; the others are due with the next.
_MOST_LOOKS = 2000
#: Assets of one query: a database takes no more than some thousand parameters.
_MOST_KEYS = 1000
_SHOWN_NAMES = 5

#: Has a look judged from the state of the one before, and keeps its own for the next.
Keep = Callable[[Callable[[FreshnessState], FreshnessRound]], FreshnessRound]


@dataclass(frozen=True)
class FreshnessLooks:
    """What a look has to show."""

    evaluations: Sequence[dg.AssetCheckEvaluation]
    summary: str


def build_freshness_sensor(
    watched: Sequence[Watched], snapshot: CatalogSnapshot, get_catalog: Callable[[], Catalog]
) -> dg.SensorDefinition:
    """The sensor over all assets of a catalog that declare how old their last load may be."""

    rota = Rota()

    def evaluate(context: dg.SensorEvaluationContext) -> dg.SensorResult:
        found = look_at_ages(context.instance, get_catalog(), snapshot, watched, rota)
        return dg.SensorResult(skip_reason=found.summary, asset_events=found.evaluations)

    return _sensor(FRESHNESS_SENSOR_NAME, evaluate)


def build_project_sensor(watched: Sequence[Watched]) -> dg.SensorDefinition:
    """The same where definitions are files and there is no catalog: what it goes on from is its cursor."""

    rota = Rota()

    def evaluate(context: dg.SensorEvaluationContext) -> dg.SensorResult:
        kept: list[FreshnessRound] = []

        def keep(judge: Callable[[FreshnessState], FreshnessRound]) -> FreshnessRound:
            kept.append(judge(_read_cursor(context.cursor)))
            return kept[-1]

        found = _look(context.instance, watched, rota, datetime.now(UTC), keep)
        cursor = json.dumps(kept[-1].state.to_dict())
        return dg.SensorResult(skip_reason=found.summary, asset_events=found.evaluations, cursor=cursor)

    # A project has a sensor for each of its components, each with a name of its own.
    first = min(op_name(item.key.path) for item in watched)
    return _sensor(f"{FRESHNESS_SENSOR_NAME}_{first}", evaluate)


def _sensor(name: str, evaluate: Callable[[dg.SensorEvaluationContext], dg.SensorResult]) -> dg.SensorDefinition:
    return dg.SensorDefinition(
        name=name,
        evaluation_fn=evaluate,
        minimum_interval_seconds=INTERVAL_SECONDS,
        default_status=dg.DefaultSensorStatus.RUNNING,
        description="Tells when a table has not been loaded for longer than its freshness allows; starts no run.",
    )


def _read_cursor(text: str | None) -> FreshnessState:
    try:
        return FreshnessState.from_dict(json.loads(text or "{}"))
    except ValueError:
        return FreshnessState()


def look_at_ages(
    instance: dg.DagsterInstance,
    catalog: Catalog,
    snapshot: CatalogSnapshot,
    watched: Sequence[Watched],
    rota: Rota,
    now: datetime | None = None,
) -> FreshnessLooks:
    """Look at those whose turn it is, and store in the catalog what has changed; gives what is to be shown."""
    moment = now or datetime.now(UTC)
    history = MetricsHistory(catalog)
    by_key = {item.key.to_string(): item for item in watched}

    def keep(judge: Callable[[FreshnessState], FreshnessRound]) -> FreshnessRound:
        found: list[FreshnessRound] = []

        def advance(before: Mapping[str, Any] | None) -> Advance:
            found.append(judge(FreshnessState.from_dict(before)))
            return Advance(found[-1].state.to_dict(), events=list(_events(found[-1], by_key, snapshot, moment)))

        known = next((item.state for item in history.read_states([FRESHNESS_SUBJECT])), None)
        # Decided again under the lock; a look that finds everything as it was writes nothing.
        if advance(known).state != known:
            history.advance({FRESHNESS_SUBJECT: advance})
        return found[-1]

    return _look(instance, watched, rota, moment, keep)


def _look(
    instance: dg.DagsterInstance, watched: Sequence[Watched], rota: Rota, moment: datetime, keep: Keep
) -> FreshnessLooks:
    now = moment.timestamp()
    by_key = {item.key.to_string(): item for item in watched}
    due = [by_key[key] for key in rota.take(by_key, now, most=_MOST_LOOKS)]
    last = {key: record for part in _parts(due) for key, record in _read_last_loads(instance, part)}
    maximums = {key: item.maximum_age_seconds for key, item in by_key.items()}
    judged = keep(
        lambda before: judge_ages(
            maximums, {key: None if record is None else record.timestamp for key, record in last.items()}, before, now
        )
    )
    evaluations = []
    for part in _parts(due):
        shown = _read_shown(instance, part)
        for item in part:
            key = item.key.to_string()
            look = judged.looks[key]
            if shown.is_due(item, passed=look.is_fresh, now=now):
                evaluations.append(evaluation_of(item, look, last[key]))
            rota.rest(look, key, most_seconds=0.0 if shown.is_planned(item) else _REST_SECONDS)
    return FreshnessLooks(evaluations, _describe(judged, by_key))


def _describe(judged: FreshnessRound, by_key: Mapping[str, Watched]) -> str:
    names = sorted(by_key[key].name for key in judged.state.overdue)
    if not names:
        return f"none of {len(by_key)} is overdue; looked at {len(judged.looks)}"
    more = f", and {len(names) - _SHOWN_NAMES} more" if len(names) > _SHOWN_NAMES else ""
    return f"overdue: {len(names)} of {len(by_key)}: {', '.join(names[:_SHOWN_NAMES])}{more}"


# --- what Dagster knows -----------------------------------------------------------------------------------------------


def _parts(watched: Sequence[Watched]) -> Iterator[Sequence[Watched]]:
    for start in range(0, len(watched), _MOST_KEYS):
        yield watched[start : start + _MOST_KEYS]


def _read_last_loads(
    instance: dg.DagsterInstance, watched: Sequence[Watched]
) -> Iterator[tuple[str, dg.EventLogRecord | None]]:
    """The last materialization of each, of whatever partition; a load that failed has made none."""
    entries = [record.asset_entry for record in instance.get_asset_records([item.key for item in watched])]
    found = {entry.asset_key: entry.last_materialization_record for entry in entries}
    for item in watched:
        yield item.key.to_string(), found.get(item.key)


@dataclass(frozen=True)
class _Shown:
    """What Dagster shows of the checks of some assets.

    Attributes:
        ended: Runs that were to evaluate a check, and have ended without it: they failed before.
    """

    records: Mapping[dg.AssetCheckKey, AssetCheckExecutionRecord]
    ended: frozenset[str]

    def is_planned(self, watched: Watched) -> bool:
        """Whether a run is about to evaluate the check."""
        record = self.records.get(_check_key(watched))
        return record is not None and record.status == AssetCheckExecutionRecordStatus.PLANNED

    def is_due(self, watched: Watched, *, passed: bool, now: float) -> bool:
        """Whether the check is to be shown anew."""
        record = self.records.get(_check_key(watched))
        if record is None:
            return True
        if record.status == AssetCheckExecutionRecordStatus.PLANNED:
            # A run that goes on evaluates it at its end.
            return record.run_id in self.ended
        is_same = (record.status == AssetCheckExecutionRecordStatus.SUCCEEDED) == passed
        shown_at = record.event.timestamp if record.event is not None else record.create_timestamp
        return not is_same or not 0 <= now - shown_at < REPEAT_SECONDS


def _read_shown(instance: dg.DagsterInstance, watched: Sequence[Watched]) -> _Shown:
    records = instance.event_log_storage.get_latest_asset_check_execution_by_key([_check_key(item) for item in watched])
    planned = {item.run_id for item in records.values() if item.status == AssetCheckExecutionRecordStatus.PLANNED}
    if not planned:
        return _Shown(records, frozenset())
    runs = instance.get_runs(dg.RunsFilter(run_ids=list(planned)))
    under_way = {run.run_id for run in runs if run.status not in FINISHED_STATUSES}
    return _Shown(records, frozenset(planned - under_way))


def _check_key(watched: Watched) -> dg.AssetCheckKey:
    return dg.AssetCheckKey(watched.key, FRESHNESS_CHECK)


# --- what changed -----------------------------------------------------------------------------------------------------


def _events(
    judged: FreshnessRound, by_key: Mapping[str, Watched], snapshot: CatalogSnapshot, moment: datetime
) -> Iterator[MonitorEvent]:
    for event_type, keys in (("freshness_overdue", judged.overdue), ("freshness_recovery", judged.recovered)):
        for key in keys:
            item, look = by_key[key], judged.looks[key]
            said = f"{item.name}: {look.describe()}"
            body = {"subject": item.name, "summary": said, **_concerned(item, snapshot)}
            yield MonitorEvent(event_type, item.connection, moment, body)


def _concerned(watched: Watched, snapshot: CatalogSnapshot) -> dict[str, list[str]]:
    """The mapping, and the pipelines and schedules that were to run it, or the pipeline."""
    pipelines = [
        name
        for name, pipeline in snapshot.pipelines.items()
        if name == watched.pipeline or (watched.mapping is not None and watched.mapping in pipeline.mapping_names)
    ]
    schedules = [
        name
        for name, schedule in snapshot.schedules.items()
        if watched.mapping in schedule.mapping_names or not set(pipelines).isdisjoint(schedule.pipeline_names)
    ]
    mappings = [] if watched.mapping is None else [watched.mapping]
    return {"mappings": mappings, "pipelines": pipelines, "schedules": schedules}
